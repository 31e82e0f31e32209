// SPDX-License-Identifier: MIT
// Activations to int8 on dotprod (q8.h).
#include <arm_neon.h>
#include <string.h>

#include "cpu/q8.h"

/* Below this 127 / largest could be infinite, so a unit is scaled up first, which is exact. */
#define TINY 0x1p-64f
#define UP 0x1p64f

enum { VECTORS = MOE_Q8_UNIT / 4 };

/* The largest magnitude as bits, which order magnitudes as integers and put infinity and NaN above all. */
static inline uint32_t largest_bits(const float32x4_t x[VECTORS])
{
    uint32x4_t largest = vdupq_n_u32(0);
    for (size_t v = 0; v < VECTORS; v++)
        largest = vmaxq_u32(largest, vandq_u32(vreinterpretq_u32_f32(x[v]), vdupq_n_u32(0x7fffffffu)));
    return vmaxvq_u32(largest);
}

/* 16 values times the factor, to the nearest integers, halves to even ones. */
static inline int8x16_t to_bytes(const float32x4_t x[4], float factor)
{
    int32x4_t q[4];
    for (size_t v = 0; v < 4; v++)
        q[v] = vcvtnq_s32_f32(vmulq_n_f32(x[v], factor));
    int16x8_t low = vcombine_s16(vqmovn_s32(q[0]), vqmovn_s32(q[1]));
    int16x8_t high = vcombine_s16(vqmovn_s32(q[2]), vqmovn_s32(q[3]));
    return vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
}

static inline int32_t sum_bytes(int8x16_t q)
{
    return vaddvq_s32(vdotq_s32(vdupq_n_s32(0), q, vdupq_n_s8(1)));
}

/* A unit's bytes; gives back its scale. */
static inline float round_unit(int8x16_t q[2], const float *x)
{
    float32x4_t values[VECTORS];
    for (size_t v = 0; v < VECTORS; v++)
        values[v] = vld1q_f32(x + 4 * v);
    uint32_t bits = largest_bits(values);
    if (bits >= 0x7f800000u) {
        q[0] = q[1] = vdupq_n_s8(0);
        return __builtin_nanf("");
    }
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    float up = largest < TINY ? UP : 1, factor = largest > 0 ? 127 / (largest * up) : 0;
    for (size_t v = 0; v < VECTORS; v++)
        values[v] = vmulq_n_f32(values[v], up);
    q[0] = to_bytes(values, factor);
    q[1] = to_bytes(values + 4, factor);
    return largest / 127;
}

moe_quantise_fn moe_quantise_dotprod;
void moe_quantise_dotprod(unsigned char *row, size_t cols, size_t first, const float *x, size_t n)
{
    float *scales = (float *)(void *)(row + moe_q8_scale_at(cols));
    float *sums = (float *)(void *)(row + moe_q8_sum_at(cols));
    int32_t *starts = (int32_t *)(void *)(row + moe_q8_start_at(cols));
    int32_t *half_starts = (int32_t *)(void *)(row + moe_q8_half_start_at(cols));
    for (size_t c = 0; c < n; c += MOE_Q8_UNIT) {
        size_t unit = (first + c) / MOE_Q8_UNIT, half = unit / MOE_Q8_LANES * 16 + unit % MOE_Q8_LANES;
        int8x16_t q[2];
        float scale = round_unit(q, x + c);
        int32_t sum[2] = {sum_bytes(q[0]), sum_bytes(q[1])};
        vst1q_s8((int8_t *)row + first + c, q[0]);
        vst1q_s8((int8_t *)row + first + c + 16, q[1]);
        scales[unit] = scale;
        sums[unit] = scale * (float)(sum[0] + sum[1]);
        starts[unit] = -128 * (sum[0] + sum[1]);
        half_starts[half] = -128 * sum[0];
        half_starts[half + MOE_Q8_LANES] = -128 * sum[1];
    }
}
