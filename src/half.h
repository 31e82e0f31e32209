// SPDX-License-Identifier: MIT
// Exact conversions between f32 and the small float formats f16, bf16, E8M0 and E4M3. To f32 they are exact; from f32
// they round to nearest, ties to even. Without branches, so that compilers vectorise loops over them.
#ifndef MOE_HALF_H
#define MOE_HALF_H

#include <stdint.h>
#include <string.h>

#include "inline.h"

MOE_INLINE uint32_t moe_f32_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

MOE_INLINE float moe_f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* f16 is  s eeeee mmmmmmmmmm, exponent bias 15 against 127 of f32. A denormal m * 2^-24 is read as 2^-14 (1 + m /
 * 1024), which is a normal f32, and 2^-14 is taken off again: exact, and no f32 denormal is met, which a CPU may flush
 * to 0. The others take off 0, which makes a NaN quiet. */
MOE_INLINE float moe_f16_to_f32(uint16_t h)
{
    uint32_t magnitude = h & 0x7fffu;
    uint32_t rebias = magnitude >= 0x7c00u ? 224 : magnitude >= 0x0400u ? 112 : 113;
    uint32_t excess = magnitude >= 0x0400u ? 0 : 113;
    float f = moe_f32_from_bits((magnitude << 13) + (rebias << 23)) - moe_f32_from_bits(excess << 23);
    return moe_f32_from_bits(moe_f32_bits(f) | (uint32_t)(h & 0x8000u) << 16);
}

/* To f, a power of two is added whose last bit is worth as much as the last bit of the f16: the sum's last bits are
 * then the significand, correctly rounded. Below 2^-14, that is the 2^-24 of denormals. The carry of 65520 and more,
 * halfway from the largest f16 to 2^16, gives the code of infinity. */
MOE_INLINE uint16_t moe_f32_to_f16(float f)
{
    uint32_t bits = moe_f32_bits(f);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t clamped = magnitude < 0x477ff000u ? magnitude : 0x477ff000u;
    uint32_t exponent = clamped >> 23 > 113 ? clamped >> 23 : 113;
    uint32_t power = (exponent + 13) << 23;
    uint32_t half = moe_f32_bits(moe_f32_from_bits(clamped) + moe_f32_from_bits(power)) - power;
    uint32_t nan = magnitude > 0x7f800000u ? 0x0200u | (magnitude >> 13 & 0x03ffu) : 0;
    half += (exponent - 113) << 10;
    return (uint16_t)((bits >> 16 & 0x8000u) | half | nan);
}

/* bf16 is the upper half of an f32. */
MOE_INLINE float moe_bf16_to_f32(uint16_t h)
{
    return moe_f32_from_bits((uint32_t)h << 16);
}

MOE_INLINE uint16_t moe_f32_to_bf16(float f)
{
    uint32_t bits = moe_f32_bits(f);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    uint32_t quiet = bits >> 16 | 0x0040u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* E8M0 is 2^(v - 127), and 255 is NaN. The smallest, 2^-127, is an f32 denormal. */
MOE_INLINE float moe_e8m0_to_f32(uint8_t v)
{
    uint32_t bits = (uint32_t)v << 23;
    bits = v == 0 ? 0x00400000u : bits;
    bits = v == 255 ? 0x7fc00000u : bits;
    return moe_f32_from_bits(bits);
}

/* E4M3 is  s eeee mmm, exponent bias 7; all ones is NaN, there are no infinities. Denormals m * 2^-9 are read as
 * 2^-6 (1 + m / 8), as f16's above. */
MOE_INLINE float moe_e4m3_to_f32(uint8_t v)
{
    uint32_t magnitude = v & 0x7fu;
    uint32_t rebias = magnitude == 0x7fu ? 240 : magnitude >= 8 ? 120 : 121;
    uint32_t excess = magnitude >= 8 ? 0 : 121;
    float f = moe_f32_from_bits((magnitude << 20) + (rebias << 23)) - moe_f32_from_bits(excess << 23);
    return moe_f32_from_bits(moe_f32_bits(f) | (uint32_t)(v & 0x80u) << 24);
}

#endif
