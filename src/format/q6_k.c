// SPDX-License-Identifier: MIT
// Q6_K: 256 values of 6 bits in 16 groups of 16, each with a scale of 8 bits. value = d * scale * (q - 32).
#include <math.h>

#include "format/block.h"

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

/* The range of d, that of f16, and the largest value that a block can hold. */
#define MIN_D 0x1p-24f
#define MAX_D 65504.0f
#define MAX_MAGNITUDE (MAX_D * 128 * 32)

/* q - 32 of the values of a group at 1 / scale. */
static void round_group(int8_t *q, const float *x, float inverse)
{
    for (int i = 0; i < GROUP_VALUES; i++) {
        float scaled = x[i] * inverse;
        scaled = scaled < -32 ? -32 : scaled;
        scaled = scaled > 31 ? 31 : scaled;
        q[i] = (int8_t)((int)(scaled + 32.5f) - 32);
    }
}

/* The scale that fits best to given quants by least squares; *gain is how much of the sum of squares it explains. */
static float fit_scale(float *gain, const float *x, const int8_t *q)
{
    int qq = 0;
    float xq = 0;
    for (int i = 0; i < GROUP_VALUES; i++) {
        qq += q[i] * q[i];
        xq += x[i] * (float)q[i];
    }
    *gain = qq > 0 ? xq * xq / (float)qq : 0;
    return qq > 0 ? xq / (float)qq : 0;
}

/* The best scale of a group alone: from a grid about the one that brings the extreme value to -32, each refitted, the
 * best of them refined by rounding and fitting in turn. 0 for values that are too small for a scale. */
static float search_scale(const float *x)
{
    float extreme = 0, best = 0, best_gain = 0;
    int8_t q[GROUP_VALUES];
    for (int i = 0; i < GROUP_VALUES; i++)
        extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
    if (fabsf(extreme) < MIN_D)
        return 0;
    for (int i = -12; i <= 12; i++) {
        float gain, scale;
        round_group(q, x, -(32.0f + 0.125f * (float)i) / extreme);
        scale = fit_scale(&gain, x, q);
        if (gain > best_gain) {
            best_gain = gain;
            best = scale;
        }
    }
    for (int i = 0; i < 4 && best != 0; i++) {
        float gain, scale;
        round_group(q, x, 1.0f / best);
        scale = fit_scale(&gain, x, q);
        if (!(gain > best_gain))
            break;
        best_gain = gain;
        best = scale;
    }
    return best;
}

struct solution {
    float error;
    uint16_t d;
    int8_t scales[GROUPS];
    int8_t q[GROUPS][GROUP_VALUES];
};

/* All groups at one d, which is rounded to f16. The scale of a group becomes the nearest integer (to try its neighbours
 * gains a 500th of the error). */
static void solve(struct solution *out, const float *in, const float *scales, float d)
{
    d = fabsf(d) < MAX_D ? d : copysignf(MAX_D, d);
    out->d = moe_f32_to_f16(fabsf(d) > MIN_D ? d : MIN_D);
    out->error = 0;
    d = moe_f16_to_f32(out->d);
    for (int g = 0; g < GROUPS; g++) {
        const float *x = in + GROUP_VALUES * g;
        float scale;
        out->scales[g] = (int8_t)round_clamped(scales[g] / d, -128, 127);
        scale = d * (float)out->scales[g];
        round_group(out->q[g], x, scale != 0 ? 1.0f / scale : 0);
        for (int i = 0; i < GROUP_VALUES; i++) {
            float difference = x[i] - scale * (float)out->q[g][i];
            out->error += difference * difference;
        }
    }
}

/* The d that fits best to given scales and quants. */
static float refit_d(const struct solution *solution, const float *in)
{
    double xq = 0, qq = 0;
    for (int i = 0; i < GROUPS * GROUP_VALUES; i++) {
        int q = solution->scales[i / GROUP_VALUES] * solution->q[i / GROUP_VALUES][i % GROUP_VALUES];
        xq += (double)in[i] * q;
        qq += (double)q * q;
    }
    return qq > 0 ? (float)(xq / qq) : 0;
}

static void pack(struct block *out, const struct solution *solution)
{
    memset(out, 0, sizeof *out);
    memcpy(out->scales, solution->scales, sizeof out->scales);
    store_u16(out->d, solution->d);
    for (int i = 0; i < 256; i++) {
        int q = solution->q[i / GROUP_VALUES][i % GROUP_VALUES] + 32;
        int half = i / 128, k = i / 32 % 4, l = i % 32;
        out->low[64 * half + 32 * (k & 1) + l] |= (uint8_t)((q & 15) << 4 * (k >> 1));
        out->high[32 * half + l] |= (uint8_t)((q >> 4) << 2 * k);
    }
}

/* The group with the largest scale gets -128, the end of the range that is longer. */
static void quantise_block(struct block *block, const float *in)
{
    struct solution best, next;
    float scales[GROUPS], extreme = 0;
    if (max_magnitude(in, 256) > MAX_MAGNITUDE) {
        memset(block, 0, sizeof *block);
        store_u16(block->d, MOE_F16_NAN);
        return;
    }
    for (int g = 0; g < GROUPS; g++) {
        scales[g] = search_scale(in + GROUP_VALUES * g);
        extreme = fabsf(scales[g]) > fabsf(extreme) ? scales[g] : extreme;
    }
    solve(&best, in, scales, extreme / -128.0f);
    for (int i = 0; i < 2; i++) {
        solve(&next, in, scales, refit_d(&best, in));
        if (!(next.error < best.error))
            break;
        best = next;
    }
    pack(block, &best);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++)
        quantise_block(&blocks[i], in + 256 * i);
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
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if (!f16_is_finite(blocks[i].d))
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_Q6_K = {quantise, dequantise, find_nonfinite};
