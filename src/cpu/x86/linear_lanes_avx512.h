// SPDX-License-Identifier: MIT
// What kernels of linear on AVX-512 share, how lanes are added up:
// 16 lanes (column modulo 16), fused multiply-add, segments of 512 columns, so that a lane sums 32 products.
#ifndef MOE_LINEAR_LANES_AVX512_H
#define MOE_LINEAR_LANES_AVX512_H

#include <immintrin.h>

#include "cpu/x86/linear_matrix.h"

enum { LANES = 16, SEGMENT = 2 * MOE_LINEAR_SEGMENT };

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n < LANES ? (1u << n) - 1 : 0xffffu);
}

/* Lane i is a[i] + a[i ^ 8], or b's where i has the bit 8; the others the same with 4, 2, 1. */
static inline __m512 fold8(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
}

static inline __m512 fold4(__m512 a, __m512 b)
{
    const __m512i other = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
    return _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_permutex2var_ps(a, other, b));
}

static inline __m512 fold2(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
}

static inline __m512 fold1(__m512 a, __m512 b)
{
    const __m512i other = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
    return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, a, b), _mm512_permutex2var_ps(a, other, b));
}

/* Lane i is the sum of acc[i]'s lanes, added up with those 8, then 4, 2 and 1 further on. */
static inline __m512 sum16(const __m512 acc[16])
{
    __m512 sums[8];
    for (size_t i = 0; i < 8; i++)
        sums[i] = fold8(acc[i], acc[i + 8]);
    for (size_t i = 0; i < 4; i++)
        sums[i] = fold4(sums[i], sums[i + 4]);
    for (size_t i = 0; i < 2; i++)
        sums[i] = fold2(sums[i], sums[i + 2]);
    return fold1(sums[0], sums[1]);
}

/* The same of 8: lane 2 i, and 2 i + 1, is the sum of acc[i]'s. */
static inline __m512 sum8(const __m512 acc[8])
{
    __m512 sums[4];
    for (size_t i = 0; i < 4; i++)
        sums[i] = fold8(acc[i], acc[i + 4]);
    for (size_t i = 0; i < 2; i++)
        sums[i] = fold4(sums[i], sums[i + 2]);
    __m512 both = fold2(sums[0], sums[1]);
    return fold1(both, both);
}

/* Sums that wait for others to be added up with. */
struct pending {
    __m512 acc[LANES];
    float *y[LANES];
    size_t count;
};

static void flush(struct pending *pending)
{
    float sums[LANES];
    _mm512_storeu_ps(sums, sum16(pending->acc));
    for (size_t i = 0; i < pending->count; i++)
        *pending->y[i] += sums[i];
    pending->count = 0;
}

static inline void push(struct pending *pending, float *y, __m512 acc)
{
    pending->acc[pending->count] = acc;
    pending->y[pending->count] = y;
    if (++pending->count == LANES)
        flush(pending);
}

#endif
