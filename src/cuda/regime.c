// SPDX-License-Identifier: MIT
// small.cuh reads the weights of a matrix once for each 16 tokens (again from the second cache), and keeps every
// multiprocessor busy with the smallest matrices. The others read them once for 64 to 160 tokens, but in tiles that a
// multiprocessor has to itself.
//
// The figures are fits, within 25 %, to an H200 in November 2026: gate and up of 128 experts of 2048 x 768, 4 to 32
// tokens each; bf16, E4M3, 4 bits with scales of 32 and 128 columns, Q4_K; in us:
//
//     tokens         4: small wide large    8              16              32
//     bf16             193   228   272     198  230  279   300  232  288   485  244  311
//     E4M3 128         122   175   345     156  177  362   275  201  392   480  230  439
//     int4 128         101   198   200     122  202  210   221  229  248   385  269  317
//     MXFP4            116   233   279     150  236  285   234  260  315   392  300  366
//     Q4_K             112   201   256     147  205  265   255  236  309   443  292  383
#include "cuda/regime.h"

enum {
    LARGE_ROWS = 192,       /* of a tile; bf16's, other formats' tiles have about as many rows times tokens */
    LARGE_TOKENS = 128,
    LARGE_BALANCED = 96,    /* tokens of a tile: with more, its products take longer than its weights are under way */
    WIDE_ROWS = 192,        /* of codes with scales, nearly always; of others 128 */
    WIDE_TOKENS = 96
};

/* For numbers of pieces, far below 2^64. */
static double round_up(double value)
{
    const double whole = (double)(uint64_t)value;
    return whole < value ? whole + 1 : whole;
}

static double at_least(double value, double bound)
{
    return value < bound ? bound : value;
}

static double at_most(double value, double bound)
{
    return value > bound ? bound : value;
}

/* Rows that a multiprocessor has of tiles: blocks take them in turns, and the last turn takes as long as the others. */
static double rows_of_tiles(const struct moe_cuda_product *product, double matrices, double tokens, double rows,
                            double tile_tokens, double tile_rows)
{
    const double tiles = matrices * round_up(tokens / tile_tokens) * round_up(rows / tile_rows);
    return round_up(tiles / product->multiprocessors) * tile_rows;
}

static double bytes_of_weight(const struct moe_cuda_product *product)
{
    return at_least((double)product->up.values.stride / product->up.cols, 0.125);
}

struct moe_cuda_regime moe_cuda_regime(const struct moe_cuda_product *product)
{
    const double pairs = product->pairs.num_pairs, all = product->pairs.num_matrices;
    const double matrices = pairs < all ? pairs : all, multiprocessors = product->multiprocessors;
    const double rows = (double)product->up.rows * (product->gated ? 2 : 1);
    struct moe_cuda_regime regime = {0, {0}};
    if (matrices == 0 || rows == 0 || product->up.cols == 0 || multiprocessors == 0)
        return regime;
    const double tokens = regime.tokens_of = pairs / matrices;
    const double bytes = bytes_of_weight(product);

    /* Memory, or instructions: to take weights apart, more of them where there are more bytes, and for each token. */
    regime.rows[MOE_CUDA_SMALL] =
        matrices * rows / multiprocessors * at_least(bytes / 2, 0.15 + 0.13 * bytes + 0.072 * tokens);

    regime.rows[MOE_CUDA_LARGE] = rows_of_tiles(product, matrices, tokens, rows, LARGE_TOKENS, LARGE_ROWS) * 1.4 *
                                  at_least(at_most(tokens, LARGE_TOKENS) / LARGE_BALANCED, 1);

    /* The second cache for bf16; for others the time of a step, whatever its tokens, longest where codes are small. */
    regime.rows[MOE_CUDA_WIDE] =
        rows_of_tiles(product, matrices, tokens, rows, WIDE_TOKENS, bytes < 2 ? WIDE_ROWS : 128) *
        at_least(0.6 * bytes, 0.64 + 0.25 / bytes + 0.01 * at_most(tokens, WIDE_TOKENS));
    return regime;
}

enum moe_cuda_way moe_cuda_choose(const struct moe_cuda_product *product, bool has_large, bool has_wide)
{
    const struct moe_cuda_regime regime = moe_cuda_regime(product);
    const enum moe_cuda_way other = has_wide ? MOE_CUDA_WIDE : MOE_CUDA_LARGE;
    return (has_large || has_wide) && regime.rows[other] < regime.rows[MOE_CUDA_SMALL] ? other : MOE_CUDA_SMALL;
}

/* A launch less is worth more than anything where there are few pairs. Else measured (H200, 8 tokens, of the whole
 * layer): 2048 rows, which are 16 or nearly so a block, -2 to -5 % in 8 and 16 bits, 4096 -1 to -2 %; 2880 rows, 22 a
 * block in two tiles of 11, +5 to +20 %, 7168 0 to +15 %; Q6_K 0 to +6 %, 4 bits +3 to +10 %, as a unit of 16 rows
 * has too little to do. */
bool moe_cuda_prefers_sum(const struct moe_cuda_product *down)
{
    if (down->pairs.num_pairs <= MOE_FRONT_PAIRS || down->up.rows == 0 || down->up.cols == 0)
        return true;
    const double rows = (double)down->up.rows / down->multiprocessors;    /* of a block */
    return bytes_of_weight(down) >= 0.9 && rows >= 0.9 * 16 * round_up(rows / 16);
}
