// SPDX-License-Identifier: MIT
// Q3_K: 256 values of 3 bits in 16 groups of 16, each with a scale of 6 bits. value = (d * (scale - 32)) * (q - 4).
#include "format/block.h"
#include "format/scales.h"

/* byte    0 .. 31   high: bit 4 half + k of byte l is bit 2 of q of value 32 k + l of a half of 128 (k = 0 .. 3,
 *                   l = 0 .. 31)
 *        32 .. 95   low: bits 2 k and 2 k + 1 of low[32 half + l] are the lower 2 bits of q of that value
 *        96 .. 107  scales: the lower 4 bits of scale g are in byte g % 8, the low nibble for g < 8; the upper 2 bits
 *                   in byte 8 + g % 4, bits 2 (g / 4) and 2 (g / 4) + 1
 *       108 .. 109  d, f16 */
struct block {
    uint8_t high[32];
    uint8_t low[64];
    uint8_t scales[12];
    uint8_t d[2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q3_K, "the row of Q3_K");

enum { GROUPS = 16, GROUP_VALUES = 16 };

static void round_q(int8_t *q, const float *x, float inverse, int n)
{
    moe_scales_round(q, x, inverse, n, 3);
}

static void pack(void *block, const struct moe_scales_solution *solution)
{
    struct block *out = block;
    store_u16(out->d, solution->d);
    for (int g = 0; g < GROUPS; g++) {
        int scale = solution->scales[g] + 32;
        out->scales[g % 8] |= (uint8_t)((scale & 15) << g / 8 * 4);
        out->scales[8 + g % 4] |= (uint8_t)(scale >> 4 << g / 4 * 2);
    }
    for (int i = 0; i < 256; i++) {
        int q = solution->q[i] + 4, half = i / 128, k = i / 32 % 4, l = i % 32;
        out->low[32 * half + l] |= (uint8_t)((q & 3) << 2 * k);
        out->high[l] |= (uint8_t)(q >> 2 << (4 * half + k));
    }
}

/* The largest of a group of values that came from the format need not be -4. */
static const int8_t q_values[] = {-3, -2, -1, 1, 2, 3};

static void quantise(void *out, const float *in, size_t num_blocks)
{
    static const struct moe_scales_shape shape = {
        .grid = {.round = round_q, .lowest = -4, .step = 0.125f, .num_steps = 12, .book = q_values, .num_book = 6},
        .num_groups = GROUPS, .most_scale = 31, .reach = 1,
        .block_bytes = sizeof(struct block), .d_offset = offsetof(struct block, d), .pack = pack};
    moe_scales_quantise(out, in, num_blocks, &shape);
}

/* 16 values; the shifts are constants where it is inlined. */
static inline void dequantise_group(float *restrict out, const uint8_t *restrict low, const uint8_t *restrict high,
                                    float scale, int low_shift, int high_shift)
{
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i] = scale * (float)(((low[i] >> low_shift & 3) | (high[i] >> high_shift & 1) << 2) - 4);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d), scales[GROUPS];
        for (int g = 0; g < GROUPS; g++) {
            int low = blocks[i].scales[g % 8] >> g / 8 * 4 & 15, high = blocks[i].scales[8 + g % 4] >> g / 4 * 2 & 3;
            scales[g] = d * (float)((low | high << 4) - 32);
        }
        for (int part = 0; part < 4; part++) {   /* the quarter of low: the half of the values, and of their 32 */
            int half = part / 2, l = part % 2 * 16, g = 8 * half + part % 2;
            const uint8_t *low = blocks[i].low + 32 * half + l, *high = blocks[i].high + l;
            float *values = out + 256 * i + 128 * half + l;
            dequantise_group(values, low, high, scales[g], 0, 4 * half);
            dequantise_group(values + 32, low, high, scales[g + 2], 2, 4 * half + 1);
            dequantise_group(values + 64, low, high, scales[g + 4], 4, 4 * half + 2);
            dequantise_group(values + 96, low, high, scales[g + 6], 6, 4 * half + 3);
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_Q3_K = {quantise, dequantise, find_nonfinite};
