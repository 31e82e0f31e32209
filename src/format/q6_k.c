// SPDX-License-Identifier: MIT
// Q6_K: 256 values of 6 bits in 16 groups of 16, each with a scale of 8 bits. value = d * scale * (q - 32).
#include "format/block.h"
#include "format/scales.h"

/* byte   0 .. 127  low: the lower 4 bits of q
 *      128 .. 191  high: the upper 2 bits of q
 *      192 .. 207  scales, signed
 *      208 .. 209  d, f16
 *
 * The halves of 128 values lie one after the other; value 32 k + l of a half (k = 0 .. 3, l = 0 .. 31) is in
 *      low[64 half + 32 (k & 1) + l]   low nibble for k = 0, 1; high nibble for k = 2, 3
 *      high[32 half + l]               bits 2 k and 2 k + 1 */
struct block {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    uint8_t d[2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q6_K, "the row of Q6_K");

enum { GROUPS = 16, GROUP_VALUES = 16 };

static void round_q(int8_t *q, const float *x, float inverse, int n)
{
    moe_scales_round(q, x, inverse, n, 31);
}

static void pack(void *block, const struct moe_scales_solution *solution)
{
    struct block *out = block;
    memcpy(out->scales, solution->scales, sizeof out->scales);
    store_u16(out->d, solution->d);
    for (int i = 0; i < 256; i++) {
        int q = solution->q[i] + 32;
        int half = i / 128, k = i / 32 % 4, l = i % 32;
        out->low[64 * half + 32 * (k & 1) + l] |= (uint8_t)((q & 15) << 4 * (k >> 1));
        out->high[32 * half + l] |= (uint8_t)((q >> 4) << 2 * k);
    }
}

/* To try the neighbours of the nearest scale gains a 500th of the error. */
static void quantise(void *out, const float *in, size_t num_blocks)
{
    static const struct moe_scales_shape shape = {
        .grid = {.round = round_q, .lowest = -32, .step = 0.125f, .num_steps = 12},
        .num_groups = GROUPS, .most_scale = 127, .reach = 0,
        .block_bytes = sizeof(struct block), .d_offset = offsetof(struct block, d), .pack = pack};
    moe_scales_quantise(out, in, num_blocks, &shape);
}

/* 16 values; the shifts are constants where it is inlined. */
static inline void dequantise_group(float *restrict out, const uint8_t *restrict low, const uint8_t *restrict high,
                                    float scale, int low_shift, int high_shift)
{
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i] = scale * (float)(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        for (int part = 0; part < 4; part++) {
            int half = part / 2, l = part % 2 * 16;
            const uint8_t *low = blocks[i].low + 64 * half + l, *high = blocks[i].high + 32 * half + l;
            const int8_t *scales = blocks[i].scales + 8 * half + part % 2;
            float *values = out + 256 * i + 128 * half + l;
            dequantise_group(values, low, high, d * (float)scales[0], 0, 0);
            dequantise_group(values + 32, low + 32, high, d * (float)scales[2], 0, 2);
            dequantise_group(values + 64, low, high, d * (float)scales[4], 4, 4);
            dequantise_group(values + 96, low + 32, high, d * (float)scales[6], 4, 6);
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_Q6_K = {quantise, dequantise, find_nonfinite};
