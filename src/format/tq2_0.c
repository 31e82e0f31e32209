// SPDX-License-Identifier: MIT
// TQ2_0: 256 values of -1, 0 and 1 (and 2, which nothing writes) times one scale. value = d * (q - 1).
#include "format/block.h"

/* byte   0 .. 63  q: value 32 k + l of a half (k = 0 .. 3, l = 0 .. 31) is in q[32 half + l], bits 2 k and 2 k + 1
 *       64 .. 65  d, f16 */
struct block {
    uint8_t q[64];
    uint8_t d[2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_TQ2_0, "the row of TQ2_0");

/* Made for weights that are ternary: d is the largest magnitude. NaN and infinities make it infinite. */
static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++) {
        const float *x = in + 256 * i;
        float d = max_magnitude(x, 256), inverse = inverse_of(d);
        memset(&blocks[i], 0, sizeof blocks[i]);
        store_u16(blocks[i].d, moe_f32_to_f16(d));
        for (int j = 0; j < 256; j++) {
            int q = round_clamped(x[j] * inverse, -1, 1) + 1;
            blocks[i].q[j / 128 * 32 + j % 32] |= (uint8_t)(q << j / 32 % 4 * 2);
        }
    }
}

/* The shift is a constant where it is inlined. */
static inline void dequantise_part(float *restrict out, const uint8_t *restrict q, float d, int shift)
{
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)((q[i] >> shift & 3) - 1);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        for (int half = 0; half < 2; half++) {
            float *values = out + 256 * i + 128 * half;
            const uint8_t *q = blocks[i].q + 32 * half;
            dequantise_part(values, q, d, 0);
            dequantise_part(values + 32, q, d, 2);
            dequantise_part(values + 64, q, d, 4);
            dequantise_part(values + 96, q, d, 6);
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_TQ2_0 = {quantise, dequantise, find_nonfinite};
