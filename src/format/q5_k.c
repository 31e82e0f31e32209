// SPDX-License-Identifier: MIT
// Q5_K: 256 values of 5 bits in 8 groups of 32, each with a scale and a minimum of 6 bits.
// value = (d * scale) * q - (dmin * minimum).
#include "format/block.h"
#include "format/lines.h"

/* byte   0 .. 1    d, f16
 *        2 .. 3    dmin, f16
 *        4 .. 15   scales and minima of groups 0 .. 7, as lines.h has them
 *       16 .. 47   high: bit g of byte l is bit 4 of q of value l of group g
 *       48 .. 175  low, the lower 4 bits: 32 bytes for groups 0 (low nibbles) and 1 (high nibbles), 32 bytes for groups
 *                  2 and 3, ... */
struct block {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[MOE_LINES_SIX_BITS];
    uint8_t high[32];
    uint8_t low[128];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q5_K, "the row of Q5_K");

enum { GROUPS = 8, GROUP_VALUES = 32 };

static void pack(void *block, const struct moe_lines_solution *solution)
{
    struct block *out = block;
    store_u16(out->d, solution->d);
    store_u16(out->dmin, solution->dmin);
    moe_lines_pack(out->scales, solution->scales, solution->minima);
    for (int i = 0; i < 256; i++) {
        int g = i / GROUP_VALUES, l = i % GROUP_VALUES, q = solution->q[i];
        out->low[g / 2 * GROUP_VALUES + l] |= (uint8_t)((q & 15) << g % 2 * 4);
        out->high[l] |= (uint8_t)(q >> 4 << g);
    }
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    static const struct moe_lines_shape shape = {
        .num_groups = GROUPS, .most_q = 31, .most_scale = 63, .reach = 1,
        .block_bytes = sizeof(struct block), .d_offset = offsetof(struct block, d), .pack = pack};
    moe_lines_quantise(out, in, num_blocks, &shape);
}

/* One group; the shifts are constants where it is inlined. */
static inline void dequantise_group(float *restrict out, const uint8_t *restrict low, const uint8_t *restrict high,
                                    float scale, float minimum, int low_shift, int high_shift)
{
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i] = scale * (float)((low[i] >> low_shift & 15) | (high[i] >> high_shift & 1) << 4) - minimum;
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d), dmin = load_f16(blocks[i].dmin);
        uint8_t scales[GROUPS], minima[GROUPS];
        moe_lines_unpack(scales, minima, blocks[i].scales);
        for (int g = 0; g < GROUPS; g += 2) {
            const uint8_t *low = blocks[i].low + GROUP_VALUES / 2 * g;
            float *values = out + 256 * i + GROUP_VALUES * g;
            dequantise_group(values, low, blocks[i].high, d * (float)scales[g], dmin * (float)minima[g], 0, g);
            dequantise_group(values + GROUP_VALUES, low, blocks[i].high, d * (float)scales[g + 1],
                             dmin * (float)minima[g + 1], 4, g + 1);
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    size_t before = find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
    return find_nonfinite_f16(in, before, sizeof(struct block), offsetof(struct block, dmin));
}

const struct moe_format_def moe_format_def_Q5_K = {quantise, dequantise, find_nonfinite};
