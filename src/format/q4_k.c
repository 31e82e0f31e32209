// SPDX-License-Identifier: MIT
// Q4_K: 256 values of 4 bits in 8 groups of 32, each with a scale and a minimum of 6 bits.
// value = (d * scale) * q - (dmin * minimum).
#include "format/block.h"
#include "format/lines.h"

/* byte   0 .. 1    d, f16
 *        2 .. 3    dmin, f16
 *        4 .. 15   scales and minima of groups 0 .. 7, as lines.h has them
 *       16 .. 143  q: 32 bytes for groups 0 (low nibbles) and 1 (high nibbles), 32 bytes for groups 2 and 3, ... */
struct block {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[MOE_LINES_SIX_BITS];
    uint8_t q[128];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q4_K, "the row of Q4_K");

enum { GROUPS = 8, GROUP_VALUES = 32 };

static void pack(void *block, const struct moe_lines_solution *solution)
{
    struct block *out = block;
    store_u16(out->d, solution->d);
    store_u16(out->dmin, solution->dmin);
    moe_lines_pack(out->scales, solution->scales, solution->minima);
    for (int i = 0; i < 256; i++)
        out->q[i / 64 * 32 + i % 32] |= (uint8_t)(solution->q[i] << i / 32 % 2 * 4);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    static const struct moe_lines_shape shape = {
        .num_groups = GROUPS, .most_q = 15, .most_scale = 63, .reach = 1,
        .block_bytes = sizeof(struct block), .d_offset = offsetof(struct block, d), .pack = pack};
    moe_lines_quantise(out, in, num_blocks, &shape);
}

/* Groups g and g + 1, which share their bytes. */
static void dequantise_groups(float *restrict out, const uint8_t *restrict q, const float scales[2],
                              const float minima[2])
{
    float scale = scales[0], minimum = minima[0], next_scale = scales[1], next_minimum = minima[1];
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i] = scale * (float)(q[i] & 15) - minimum;
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i + GROUP_VALUES] = next_scale * (float)(q[i] >> 4) - next_minimum;
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d), dmin = load_f16(blocks[i].dmin);
        uint8_t scales[GROUPS], minima[GROUPS];
        moe_lines_unpack(scales, minima, blocks[i].scales);
        for (int g = 0; g < GROUPS; g += 2) {
            const float products[2] = {d * (float)scales[g], d * (float)scales[g + 1]};
            const float offsets[2] = {dmin * (float)minima[g], dmin * (float)minima[g + 1]};
            dequantise_groups(out + 256 * i + GROUP_VALUES * g, blocks[i].q + 16 * g, products, offsets);
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    size_t before = find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
    return find_nonfinite_f16(in, before, sizeof(struct block), offsetof(struct block, dmin));
}

const struct moe_format_def moe_format_def_Q4_K = {quantise, dequantise, find_nonfinite};
