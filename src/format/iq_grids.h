// SPDX-License-Identifier: MIT
// What the IQ formats share: code books, whose rows stand for 8 or 4 neighbouring values, and signs. Rows are unpacked
// in 64 bits, a byte for each value, which is faster than looking up unpacked rows and keeps the tables at 9 KiB.
#ifndef MOE_FORMAT_IQ_GRIDS_H
#define MOE_FORMAT_IQ_GRIDS_H

#include <stdint.h>

#include "inline.h"

/* A row of iq1 and iq2 holds 8 values of 2 bits, a row of iq3 4 values of 4 bits (3 of them used), the first value in
 * the lowest bits. A value of a row is an index c to the magnitudes of the format:
 *      iq1                       c - 1                      (the only signed one)
 *      iq2_xxs, iq2_xs, iq2_s    8, 25, 43
 *      iq3_xxs                   4, 12, 20, 28, 36, 44, 52, 62
 *      iq3_s                     2 c + 1
 * A row more, so that any row may be read as the lower half of 32 bits. Who needs tables elsewhere, as kernels of a GPU
 * do, defines MOE_IQ_GRID, how one begins, and includes iq_grids.c. */
#ifndef MOE_IQ_GRID
#define MOE_IQ_GRID const uint16_t
extern const uint16_t moe_iq_grids_iq1[2048 + 1];
extern const uint16_t moe_iq_grids_iq2_xxs[256 + 1];
extern const uint16_t moe_iq_grids_iq2_xs[512 + 1];
extern const uint16_t moe_iq_grids_iq2_s[1024 + 1];
extern const uint16_t moe_iq_grids_iq3_xxs[256 + 1];
extern const uint16_t moe_iq_grids_iq3_s[512 + 1];
#endif

#define IQ_EACH_BYTE 0x0101010101010101u

/* 8 values of 2 bits to a byte each. */
MOE_INLINE uint64_t iq_spread_2(uint16_t row)
{
    uint64_t x = row;
    x = (x | x << 24) & 0x000000ff000000ffu;
    x = (x | x << 12) & 0x000f000f000f000fu;
    return (x | x << 6) & 0x0303030303030303u;
}

/* Two rows of 4 values of 4 bits to a byte each. */
MOE_INLINE uint64_t iq_spread_4(uint16_t first, uint16_t second)
{
    uint64_t x = first | (uint64_t)second << 32;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
}

/* 8, 25 or 43 in each byte. The sums of bytes do not carry. */
MOE_INLINE uint64_t iq_magnitudes_2(uint16_t row)
{
    uint64_t c = iq_spread_2(row);
    return 8 * IQ_EACH_BYTE + 17 * c + (c >> 1 & IQ_EACH_BYTE);
}

/* The magnitudes, none of which is 0, negated where a bit of signs is 1: the complement and 1. */
MOE_INLINE uint64_t iq_negate(uint64_t magnitudes, unsigned signs)
{
    uint64_t x = signs;
    x = (x | x << 28) & 0x0000000f0000000fu;
    x = (x | x << 14) & 0x0003000300030003u;
    x = (x | x << 7) & IQ_EACH_BYTE;
    return (magnitudes ^ x * 255) + x;
}

/* 7 bits of signs and an eighth that makes the number of negative values even. */
MOE_INLINE unsigned iq_even_signs(unsigned seven)
{
    unsigned parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1) << 7;
}

MOE_INLINE void iq_store(uint8_t out[8], uint64_t bytes)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(bytes >> 8 * i & 0xff);
}

/* n times d * q, where q are bytes with signs. */
MOE_INLINE void iq_scale(float *MOE_RESTRICT out, const uint8_t *MOE_RESTRICT q, int n, float d)
{
    for (int i = 0; i < n; i++)
        out[i] = d * (float)(int8_t)q[i];
}

/* The values of a row of iq1 plus delta, in eighths and plus 9, so that no byte is negative: 8 c + 2, or 8 c where
 * delta is negative. */
MOE_INLINE uint64_t iq_eighths(uint16_t row, unsigned is_negative)
{
    return 8 * iq_spread_2(row) + (is_negative ? 0 : 2 * IQ_EACH_BYTE);
}

/* d / 8 is exact, as d is a multiple of the smallest f16. */
MOE_INLINE void iq_scale_eighths(float *MOE_RESTRICT out, const uint8_t *MOE_RESTRICT q, int n, float d)
{
    float eighth = d * 0.125f;
    for (int i = 0; i < n; i++)
        out[i] = eighth * (float)(q[i] - 9);
}

#endif
