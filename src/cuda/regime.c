// SPDX-License-Identifier: MIT
// small.cuh reads the weights of a matrix once for each 16 tokens (again from the second cache, at about the same
// rate), and keeps every multiprocessor busy with the smallest matrices. large.cuh reads them once for 128 tokens, but
// in tiles that a multiprocessor has to itself. Bits do not depend on the choice (call.h), only time does. wide.cuh is
// faster than large.cuh, but taken in the same cases: where it begins to be faster than small has not been measured.
#include "cuda/regime.h"

enum {
    PASS_TOKENS = 16,       /* of small */
    TILE_ROWS = 192,        /* of large; bf16's, other formats' tiles have about as many rows times tokens */
    TILE_TOKENS = 128,
    BALANCED_TOKENS = 96    /* of a tile: with more, its products take longer than its weights are on their way */
};

/* Passes that the last tokens of a matrix cost beyond the mean, where it is one of many: each has some more or
 * fewer. */
static const double uneven = 0.4;

/* Rings fill, and tiles are stored, while nothing is multiplied. */
static const double fill = 1.15;

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

struct moe_cuda_regime moe_cuda_regime(const struct moe_cuda_product *product)
{
    const double pairs = product->pairs.num_pairs, all = product->pairs.num_matrices;
    const double matrices = pairs < all ? pairs : all, multiprocessors = product->multiprocessors;
    const double rows = (double)product->up.rows * (product->gated ? 2 : 1);
    struct moe_cuda_regime regime = {0, 0, 0};
    if (matrices == 0 || rows == 0 || multiprocessors == 0)
        return regime;
    regime.tokens_of = pairs / matrices;
    const double mean = regime.tokens_of / PASS_TOKENS;
    const double passes = matrices > 1 ? at_least(mean + uneven, 1) : round_up(mean);
    regime.small = matrices * passes * rows / multiprocessors;

    /* Blocks take tiles in turns, and the last turn takes as long as the others. */
    const double tiles = matrices * round_up(regime.tokens_of / TILE_TOKENS) * round_up(rows / TILE_ROWS);
    const double tokens = regime.tokens_of < TILE_TOKENS ? regime.tokens_of : TILE_TOKENS;
    regime.large = round_up(tiles / multiprocessors) * TILE_ROWS * at_least(tokens / BALANCED_TOKENS, 1) * fill;
    return regime;
}

bool moe_cuda_prefers_large(const struct moe_cuda_product *product)
{
    const struct moe_cuda_regime regime = moe_cuda_regime(product);
    return regime.large < regime.small;
}
