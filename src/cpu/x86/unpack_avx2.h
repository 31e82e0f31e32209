// SPDX-License-Identifier: MIT
// What the unpack32 of the 32-value formats share on AVX2: nibbles and fifth bits to bytes, bytes to f32, scales.
#ifndef MOE_UNPACK_AVX2_H
#define MOE_UNPACK_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

static inline __m256 load_scale(const unsigned char *in)
{
    uint16_t half;
    memcpy(&half, in, sizeof half);
    return _mm256_set1_ps(_cvtsh_ss(half));
}

/* 16 bytes as 32: the low nibbles, which are the first 16 values, then the high ones. */
static inline __m256i load_nibbles(const unsigned char *in)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)in);
    __m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
    return _mm256_and_si256(both, _mm256_set1_epi8(0x0f));
}

/* 32 bits as 32 bytes: value where bit i is set, otherwise 0. */
static inline __m256i load_bits(const unsigned char *in, char value)
{
    int32_t bits;
    memcpy(&bits, in, sizeof bits);
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(value));
}

/* What 32 codes below 16 stand for. */
static inline __m256i look_up(const int8_t table[16], __m256i codes)
{
    __m128i values = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), codes);
}

/* 32 int8 as f32. */
static inline void widen(__m256 out[4], __m256i bytes)
{
    __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
    out[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
    out[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(low, 8)));
    out[2] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high));
    out[3] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(high, 8)));
}

/* out = scale * out, exact: at most 19 significant bits. */
static inline void scale32(__m256 out[4], __m256 scale)
{
    for (int i = 0; i < 4; i++)
        out[i] = _mm256_mul_ps(scale, out[i]);
}

/* out = scale * out + offset, rounded once, since the product is exact. */
static inline void scale_add32(__m256 out[4], __m256 scale, __m256 offset)
{
    for (int i = 0; i < 4; i++)
        out[i] = _mm256_add_ps(_mm256_mul_ps(scale, out[i]), offset);
}

#endif
