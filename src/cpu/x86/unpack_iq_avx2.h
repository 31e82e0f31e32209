// SPDX-License-Identifier: MIT
// What the unpack_group of the IQ formats with code books share on AVX2: rows to bytes, signs.
#ifndef MOE_UNPACK_IQ_AVX2_H
#define MOE_UNPACK_IQ_AVX2_H

#include "cpu/x86/columns_avx2.h"
#include "format/iq_grids.h"

/* 4 rows of 8 values of 2 bits, the first row lowest, to a byte each, looked up: table has what a value c stands for at
 * c and at 4 c. */
static inline __m256i spread_pairs(uint64_t rows, const int8_t table[16])
{
    const __m256i fours = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3,
                                           4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    __m256i low = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)rows), fours);
    __m256i nibbles = _mm256_blend_epi16(low, _mm256_srli_epi16(low, 4), 0xaa);
    return look_up(table, _mm256_and_si256(nibbles, _mm256_set1_epi16(0x0c03)));
}

/* 8 rows of 4 values of 4 bits to a byte each, looked up. */
static inline __m256i spread_nibbles(__m128i rows, const int8_t table[16])
{
    const __m128i nibble = _mm_set1_epi8(0x0f);
    __m128i low = _mm_and_si128(rows, nibble), high = _mm_and_si128(_mm_srli_epi16(rows, 4), nibble);
    return look_up(table, _mm256_set_m128i(_mm_unpackhi_epi8(low, high), _mm_unpacklo_epi8(low, high)));
}

/* offset + magnitude, or offset - magnitude where the bit of 4 bytes of signs is 1. */
static inline __m256i signed_codes(__m256i magnitudes, const unsigned char *signs, char offset)
{
    __m256i minus = load_bits(signs, -1);
    return _mm256_add_epi8(_mm256_sub_epi8(_mm256_xor_si256(magnitudes, minus), minus), _mm256_set1_epi8(offset));
}

/* To 7 bits of signs in each byte an eighth that makes the number of negative values even. */
static inline __m256i even_signs(__m256i seven)
{
    static const int8_t odd[16] = {0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0};
    __m256i parity = _mm256_xor_si256(look_up(odd, low_nibbles(seven)), look_up(odd, high_nibbles(seven)));
    return _mm256_or_si256(seven, parity);
}

/* The signs of 8 words with 4 times 7 bits each. */
static inline __m256i signs_of_words(__m256i words)
{
    __m256i first = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    __m256i second = _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7f00));
    __m256i third = _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7f0000));
    __m256i fourth = _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7f000000));
    return even_signs(_mm256_or_si256(_mm256_or_si256(first, second), _mm256_or_si256(third, fourth)));
}

/* (scale + 1/2) * factor * d of 8 units. */
static inline __m256 scales_of_iq(__m256 d, __m256i scales, float factor)
{
    __m256 plus_half = _mm256_add_ps(_mm256_cvtepi32_ps(scales), _mm256_set1_ps(0.5f));
    return _mm256_mul_ps(_mm256_mul_ps(d, plus_half), _mm256_set1_ps(factor));
}

/* 16 scales of 4 bits, even ones in low nibbles: those of first halves, then the others. */
static inline void scales_of_iq_halves(struct q8_group *out, const unsigned char *d, const unsigned char *in)
{
    __m128i both = _mm_loadl_epi64((const __m128i *)(const void *)in), nibble = _mm_set1_epi8(0x0f);
    __m256i even = _mm256_cvtepi8_epi32(_mm_and_si128(both, nibble));
    __m256i odd = _mm256_cvtepi8_epi32(_mm_and_si128(_mm_srli_epi16(both, 4), nibble));
    out->scale[0] = scales_of_iq(load_scale(d), even, 0.25f);
    out->scale[1] = scales_of_iq(load_scale(d), odd, 0.25f);
}

#endif
