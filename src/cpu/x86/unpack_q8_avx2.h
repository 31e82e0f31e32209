// SPDX-License-Identifier: MIT
// What the unpack_group of several formats share on AVX2: nibbles and scales of a group of 256 columns.
#ifndef MOE_UNPACK_Q8_AVX2_H
#define MOE_UNPACK_Q8_AVX2_H

#include <string.h>

#include "cpu/x86/q8_avx2.h"
#include "cpu/x86/unpack_avx2.h"

static inline __m128i load16(const unsigned char *in)
{
    return _mm_loadu_si128((const __m128i *)(const void *)in);
}

static inline __m256i load32(const unsigned char *in)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)in);
}

static inline __m256i low_nibbles(__m256i bytes)
{
    return _mm256_and_si256(bytes, _mm256_set1_epi8(0x0f));
}

static inline __m256i high_nibbles(__m256i bytes)
{
    return low_nibbles(_mm256_srli_epi16(bytes, 4));
}

/* 16 bytes with 32 nibbles: the low ones are a unit's first 16 columns, the high ones its others. */
static inline __m256i nibbles_of_unit(const unsigned char *in)
{
    __m256i both = _mm256_broadcastsi128_si256(load16(in));
    return low_nibbles(_mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4)));
}

static inline short load_head(const unsigned char *in)
{
    int16_t head;
    memcpy(&head, in, sizeof head);
    return head;
}

/* f16 at the same place of 8 blocks. */
static inline __m256 block_scales(const unsigned char *in, size_t block_bytes)
{
    return _mm256_cvtph_ps(_mm_setr_epi16(load_head(in), load_head(in + block_bytes), load_head(in + 2 * block_bytes),
                                          load_head(in + 3 * block_bytes), load_head(in + 4 * block_bytes),
                                          load_head(in + 5 * block_bytes), load_head(in + 6 * block_bytes),
                                          load_head(in + 7 * block_bytes)));
}

/* 8 bytes, unsigned or signed, as f32. */
static inline __m256 floats_of_u8(uint64_t bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes)));
}

static inline __m256 floats_of_i8(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

/* 16 bytes, for the two halves of each unit in turn: those of first halves, then the others. */
static inline __m128i split_halves(__m128i bytes)
{
    return _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}

/* f16 factor times 16 int8 scales in the order of split_halves. */
static inline void scales_of_halves(struct q8_group *out, const unsigned char *factor, __m128i scales)
{
    __m256 d = load_scale(factor);
    out->scale[0] = _mm256_mul_ps(d, floats_of_i8(scales));
    out->scale[1] = _mm256_mul_ps(d, floats_of_i8(_mm_srli_si128(scales, 8)));
}

/* The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes, times d and dmin, which lie before them. */
static inline void scales_of_k(struct q8_group *out, const unsigned char *in)
{
    uint32_t d, low, mid, high;
    memcpy(&d, in, 4);
    memcpy(&low, in + 4, 4);
    memcpy(&mid, in + 8, 4);
    memcpy(&high, in + 12, 4);
    uint32_t top_scales = (high & 0x0f0f0f0fu) | (low >> 2 & 0x30303030u);
    uint32_t top_minima = (high >> 4 & 0x0f0f0f0fu) | (mid >> 2 & 0x30303030u);
    __m128 factors = _mm_cvtph_ps(_mm_cvtsi32_si128((int)d));
    __m256 scale = floats_of_u8((low & 0x3f3f3f3fu) | (uint64_t)top_scales << 32);
    __m256 minimum = floats_of_u8((mid & 0x3f3f3f3fu) | (uint64_t)top_minima << 32);
    out->scale[0] = _mm256_mul_ps(_mm256_broadcastss_ps(factors), scale);
    out->minimum[0] = _mm256_mul_ps(_mm256_broadcastss_ps(_mm_movehdup_ps(factors)), minimum);
    out->minimum[0] = _mm256_xor_ps(out->minimum[0], _mm256_set1_ps(-0.0f));
}

#endif
