// SPDX-License-Identifier: MIT
// What the unpack of several formats share on AVX-512: codes of 4 or 5 bits are looked up in registers that hold what
// they stand for, scaled.
#ifndef MOE_UNPACK_AVX512_H
#define MOE_UNPACK_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

static inline __m128i load16(const unsigned char *in)
{
    return _mm_loadu_si128((const __m128i *)(const void *)in);
}

static inline __m512 load_scale(const unsigned char *in)
{
    uint16_t half;
    memcpy(&half, in, sizeof half);
    return _mm512_set1_ps(_cvtsh_ss(half));
}

/* first, first + 1, ... first + 15 */
static inline __m512 count_from(float first)
{
    const __m512 numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_ps(numbers, _mm512_set1_ps(first));
}

static inline __m512 count_to_f32(const int8_t table[16])
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)table)));
}

/* 32 values of the nibbles of 16 bytes: the low ones, then the high ones. A look-up takes 4 bits of each code. */
static inline void look_up32(__m512 out[2], __m512 table, const unsigned char *in)
{
    __m512i codes = _mm512_cvtepu8_epi32(load16(in));
    out[0] = _mm512_permutexvar_ps(codes, table);
    out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), table);
}

/* The same with a fifth bit each: where it is set, the value is in high. */
static inline void look_up32_5(__m512 out[2], __m512 low, __m512 high, const unsigned char *in, uint32_t fifth)
{
    const __m512i nibble = _mm512_set1_epi32(15), bit = _mm512_set1_epi32(16);
    __m512i codes = _mm512_cvtepu8_epi32(load16(in));
    __m512i first = _mm512_and_si512(codes, nibble), second = _mm512_srli_epi32(codes, 4);
    first = _mm512_mask_or_epi32(first, (__mmask16)fifth, first, bit);
    second = _mm512_mask_or_epi32(second, (__mmask16)(fifth >> 16), second, bit);
    out[0] = _mm512_permutex2var_ps(low, first, high);
    out[1] = _mm512_permutex2var_ps(low, second, high);
}

/* 16 int8 as f32. */
static inline __m512 widen(__m128i bytes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

/* Products d * scale and dmin * minimum of the 8 groups of Q4_K and Q5_K: 6 bits each in 12 bytes, after d and dmin.
 * Exact: 17 bits. */
static inline void scales_of_k(float scales[8], float minima[8], const unsigned char *in)
{
    uint32_t d, low, mid, high;
    memcpy(&d, in, 4);
    memcpy(&low, in + 4, 4);
    memcpy(&mid, in + 8, 4);
    memcpy(&high, in + 12, 4);
    uint32_t top_scales = (high & 0x0f0f0f0fu) | (low >> 2 & 0x30303030u);
    uint32_t top_minima = (high >> 4 & 0x0f0f0f0fu) | (mid >> 2 & 0x30303030u);
    uint64_t scale = (low & 0x3f3f3f3fu) | (uint64_t)top_scales << 32;
    uint64_t minimum = (mid & 0x3f3f3f3fu) | (uint64_t)top_minima << 32;
    __m128 factors = _mm_cvtph_ps(_mm_cvtsi32_si128((int)d));
    __m256 s = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)scale)));
    __m256 m = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)minimum)));
    _mm256_storeu_ps(scales, _mm256_mul_ps(s, _mm256_broadcastss_ps(factors)));
    _mm256_storeu_ps(minima, _mm256_mul_ps(m, _mm256_broadcastss_ps(_mm_movehdup_ps(factors))));
}

#endif
