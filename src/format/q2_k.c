// SPDX-License-Identifier: MIT
// Q2_K: 256 values of 2 bits in 16 groups of 16, each with a scale and a minimum of 4 bits.
// value = (d * scale) * q - (dmin * minimum).
#include "format/block.h"
#include "format/lines.h"

/* byte   0 .. 15  scale (low nibble) and minimum (high nibble) of groups 0 .. 15
 *       16 .. 79  q: value 32 k + l of a half (k = 0 .. 3, l = 0 .. 31) is in q[32 half + l], bits 2 k and 2 k + 1
 *       80 .. 81  d, f16
 *       82 .. 83  dmin, f16 */
struct block {
    uint8_t scales[16];
    uint8_t q[64];
    uint8_t d[2];
    uint8_t dmin[2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q2_K, "the row of Q2_K");

enum { GROUPS = 16, GROUP_VALUES = 16 };

static void pack(void *block, const struct moe_lines_solution *solution)
{
    struct block *out = block;
    store_u16(out->d, solution->d);
    store_u16(out->dmin, solution->dmin);
    for (int g = 0; g < GROUPS; g++)
        out->scales[g] = (uint8_t)(solution->scales[g] | solution->minima[g] << 4);
    for (int i = 0; i < 256; i++)
        out->q[i / 128 * 32 + i % 32] |= (uint8_t)(solution->q[i] << i / 32 % 4 * 2);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    static const struct moe_lines_shape shape = {
        .num_groups = GROUPS, .most_q = 3, .most_scale = 15, .reach = 2,
        .block_bytes = sizeof(struct block), .d_offset = offsetof(struct block, d), .pack = pack};
    moe_lines_quantise(out, in, num_blocks, &shape);
}

/* One group; the shift is a constant where it is inlined. */
static inline void dequantise_group(float *restrict out, const uint8_t *restrict q, float scale, float minimum,
                                    int shift)
{
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i] = scale * (float)(q[i] >> shift & 3) - minimum;
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d), dmin = load_f16(blocks[i].dmin), scales[GROUPS], minima[GROUPS];
        for (int g = 0; g < GROUPS; g++) {
            scales[g] = d * (float)(blocks[i].scales[g] & 15);
            minima[g] = dmin * (float)(blocks[i].scales[g] >> 4);
        }
        for (int part = 0; part < 4; part++) {   /* the quarter of q: the half of the values, and of their 32 */
            const uint8_t *q = blocks[i].q + 16 * part;
            float *values = out + 256 * i + part / 2 * 128 + part % 2 * 16;
            int g = part / 2 * 8 + part % 2;
            dequantise_group(values, q, scales[g], minima[g], 0);
            dequantise_group(values + 32, q, scales[g + 2], minima[g + 2], 2);
            dequantise_group(values + 64, q, scales[g + 4], minima[g + 4], 4);
            dequantise_group(values + 96, q, scales[g + 6], minima[g + 6], 6);
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    size_t before = find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
    return find_nonfinite_f16(in, before, sizeof(struct block), offsetof(struct block, dmin));
}

const struct moe_format_def moe_format_def_Q2_K = {quantise, dequantise, find_nonfinite};
