// SPDX-License-Identifier: MIT
// What the formats of 32 values share that store each value in a nibble and, in Q5_0 and Q5_1, a fifth bit: how values
// become codes, by plain rounding with the f32 scale, before it is rounded to f16 (so the files of other programs are),
// and where the bits lie.
#ifndef MOE_FORMAT_LEGACY_H
#define MOE_FORMAT_LEGACY_H

#include "format/block.h"

/* value = d * (q - half), q = 0 .. 2 half - 1. The extreme value gets q = 0, -half scales, so that the scale has its
 * sign inverted: the range of q is not symmetric. */
static inline void legacy_symmetric(uint8_t q[32], uint8_t d[2], const float *in, int half)
{
    float scale = extreme_value(in, 32) / (float)-half, inverse = inverse_of(scale);
    bool finite = max_magnitude(in, 32) <= FLT_MAX;
    store_u16(d, finite ? moe_f32_to_f16(scale) : MOE_F16_NAN);
    for (int i = 0; i < 32; i++) {
        int code = finite ? (int)(in[i] * inverse + ((float)half + 0.5f)) : 0;
        q[i] = (uint8_t)(code < 2 * half ? code : 2 * half - 1);
    }
}

/* value = d * q + m, q = 0 .. most: m is the least value, d spans the range. */
static inline void legacy_affine(uint8_t q[32], uint8_t d[2], uint8_t m[2], const float *in, int most)
{
    float low = in[0], high = in[0], scale, inverse;
    bool finite;
    for (int i = 1; i < 32; i++) {
        low = in[i] < low ? in[i] : low;
        high = in[i] > high ? in[i] : high;
    }
    scale = (high - low) / (float)most;
    inverse = inverse_of(scale);
    finite = max_magnitude(in, 32) <= FLT_MAX && scale <= FLT_MAX;
    store_u16(d, finite ? moe_f32_to_f16(scale) : MOE_F16_NAN);
    store_u16(m, finite ? moe_f32_to_f16(low) : 0);
    for (int i = 0; i < 32; i++) {
        int code = finite ? (int)((in[i] - low) * inverse + 0.5f) : 0;
        q[i] = (uint8_t)(code < most ? code : most);
    }
}

/* The lower 4 bits of value i are in byte i % 16, the low nibble for i < 16. */
static inline void legacy_pack_nibbles(uint8_t out[16], const uint8_t q[32])
{
    for (int i = 0; i < 16; i++)
        out[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

/* Bit 4 of value i is bit i % 8 of byte i / 8. */
static inline void legacy_pack_fifth(uint8_t out[4], const uint8_t q[32])
{
    memset(out, 0, 4);
    for (int i = 0; i < 32; i++)
        out[i / 8] |= (uint8_t)((q[i] >> 4) << i % 8);
}

/* All five bits. Each byte of fifth ones is spread to 8 first, because few CPUs can shift the parts of a vector by
 * different numbers. */
static inline void legacy_unpack_five(uint8_t *restrict q, const uint8_t *restrict low, const uint8_t *restrict high)
{
    static const uint8_t bits[32] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128,
                                     1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8_t spread[32];
    for (int i = 0; i < 4; i++)
        memset(spread + 8 * i, high[i], 8);
    for (int i = 0; i < 16; i++)
        q[i] = (uint8_t)((low[i] & 15) | ((spread[i] & bits[i]) != 0 ? 16 : 0));
    for (int i = 16; i < 32; i++)
        q[i] = (uint8_t)(low[i - 16] >> 4 | ((spread[i] & bits[i]) != 0 ? 16 : 0));
}

#endif
