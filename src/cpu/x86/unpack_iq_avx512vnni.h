// SPDX-License-Identifier: MIT
// What the unpack_group of the IQ formats share on AVX-512 with VBMI: rows of code books and signs. iq1 and iq2 have 32
// rows in 256 columns, which are gathered; iq3 has 64, and its code books are looked up as bytes in vectors.
#ifndef MOE_UNPACK_IQ_AVX512VNNI_H
#define MOE_UNPACK_IQ_AVX512VNNI_H

#include "cpu/x86/iq_books.h"
#include "cpu/x86/unpack_fields_avx512vnni.h"
#include "format/iq_grids.h"

/* What a vector stored is fetched in parts from memory: cheaper than moves from lanes, which a compiler would make of
 * it. */
struct signs {
    _Alignas(32) uint64_t of[4];    /* a bit for each of 64 columns */
};

#define KEEP_IN_MEMORY(object) __asm__("" : "+m"(object))

/* ---- signs ---- */

/* The value below 128 at [i] and the bit that makes its ones even. */
#define EVEN(i) ((i) | ((0x6996 >> ((i) & 15) ^ 0x6996 >> ((i) >> 4)) & 1) << 7)
#define EVEN_4(i) EVEN(i), EVEN((i) + 1), EVEN((i) + 2), EVEN((i) + 3)
#define EVEN_16(i) EVEN_4(i), EVEN_4((i) + 4), EVEN_4((i) + 8), EVEN_4((i) + 12)
static const uint8_t even_signs[128] = {EVEN_16(0), EVEN_16(16), EVEN_16(32), EVEN_16(48),
                                        EVEN_16(64), EVEN_16(80), EVEN_16(96), EVEN_16(112)};
#undef EVEN
#undef EVEN_4
#undef EVEN_16

/* A bit of sign for 256 columns, of which 7 in 8 are given: the last 7 bits of 32 bytes. */
static inline void put_even_signs(struct signs *signs, __m512i sevens)
{
    __m512i all = _mm512_permutex2var_epi8(_mm512_loadu_si512(even_signs), sevens, _mm512_loadu_si512(even_signs + 64));
    _mm256_storeu_si256((__m256i *)(void *)signs->of, _mm512_castsi512_si256(all));
    KEEP_IN_MEMORY(*signs);
}

/* 128 + q to 128 - q where there is a sign. */
static inline __m512i negate(__m512i q, uint64_t signs)
{
    return _mm512_mask_sub_epi8(q, signs, _mm512_setzero_si512(), q);
}

/* ---- iq2: rows of 8 values, a byte each ---- */

/* Rows at 8 places of 32 bits. Into zeros, because a gather waits for what it overwrites. */
static inline __m512i fetch_rows8(const uint64_t *book, __m256i places)
{
    return _mm512_mask_i32gather_epi64(_mm512_setzero_si512(), 0xff, places, book, 8);
}

/* Rows 8 i .. 8 i + 7 of those at 32 places of 16 bits. */
static inline __m512i fetch_rows_of(const uint64_t *book, __m512i places, int i)
{
    const __m256i order = _mm256_setr_epi32(0x0100, 0x0302, 0x0504, 0x0706, 0x0908, 0x0b0a, 0x0d0c, 0x0f0e);
    __m512i from = _mm512_castsi256_si512(_mm256_add_epi8(order, _mm256_set1_epi8((char)(16 * i))));
    return fetch_rows8(book, _mm512_castsi512_si256(_mm512_maskz_permutexvar_epi8(0x33333333, from, places)));
}

/* Scales of halves, d (1/2 + s) / 4: 8 bytes, s of a unit's first half in the last 4 bits, of its other half in the
 * others. */
static inline void put_iq2_scales(struct q8_group *out, const unsigned char *scales, const unsigned char *d)
{
    const __m512i at = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 4, 12, 20, 28, 36, 44, 52, 60);
    __m512i fields = _mm512_multishift_epi64_epi8(at, broadcast8(scales));
    __m512 scale = fields_to_f32(fields, _mm512_set1_epi32(15), 0x1p21f, 0x1p21f - 0.125f);
    put_halves(out->scale, _mm512_mul_ps(scale, _mm512_broadcastss_ps(load_factors(d))));
}

/* ---- iq1: rows of 8 values of 2 bits ---- */

/* 16 rows of a code book, in the lower halves of 32 bits. */
static inline __m512i gather_rows(const uint16_t *book, __m512i places)
{
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, places, book, 2);
}

/* 32 rows, 16 bits each: those of the even places, those of the odd ones. */
static inline __m512i fetch_rows(const uint16_t *book, __m512i even, __m512i odd)
{
    __m512i second = _mm512_slli_epi32(gather_rows(book, odd), 16);
    return select_bits(_mm512_set1_epi32(0xffff), gather_rows(book, even), second);
}

/* Places of 16 bits each. */
static inline __m512i fetch_rows_at(const uint16_t *book, __m512i places)
{
    return fetch_rows(book, _mm512_and_si512(places, _mm512_set1_epi32(0xffff)), _mm512_srli_epi32(places, 16));
}

/* Rows 8 i .. 8 i + 7 of 32, a byte for each value; the upper 6 bits are anything. */
static inline __m512i spread_rows(__m512i rows, int i)
{
    const __m512i four = _mm512_setr_epi64(2 * i, 2 * i, 2 * i, 2 * i, 2 * i + 1, 2 * i + 1, 2 * i + 1, 2 * i + 1);
    const __m512i at = _mm512_setr_epi64(0x0e0c0a0806040200, 0x1e1c1a1816141210, 0x2e2c2a2826242220,
                                         0x3e3c3a3836343230, 0x0e0c0a0806040200, 0x1e1c1a1816141210,
                                         0x2e2c2a2826242220, 0x3e3c3a3836343230);
    return _mm512_multishift_epi64_epi8(at, _mm512_permutexvar_epi64(four, rows));
}

/* ---- iq3: rows of 4 values of 4 bits ---- */

/* Bytes of a table of 256 at 64 places. */
static inline __m512i look_up256(const uint8_t table[256], __m512i at)
{
    __mmask64 bit_6 = _mm512_movepi8_mask(_mm512_add_epi8(at, at)), bit_7 = _mm512_movepi8_mask(at);
    __m512i first = _mm512_permutexvar_epi8(at, _mm512_load_si512(table));
    __m512i second = _mm512_permutexvar_epi8(at, _mm512_load_si512(table + 128));
    first = _mm512_mask_permutexvar_epi8(first, bit_6, at, _mm512_load_si512(table + 64));
    second = _mm512_mask_permutexvar_epi8(second, bit_6, at, _mm512_load_si512(table + 192));
    return _mm512_mask_mov_epi8(first, bit_7, second);
}

/* 64 rows or their places, a byte each, as spread_rows_4 takes them: its steps leave the 4 rows of a quarter of q[i] in
 * quarter i. */
static inline __m512i transpose_fours(__m512i rows)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, rows);
}

/* 64 rows, their lower and their upper bytes, to 4 values each: codes in the last 4 bits of a byte. */
static inline void spread_rows_4(__m512i q[4], __m512i low, __m512i high)
{
    __m512i words[2] = {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
    for (size_t i = 0; i < 2; i++) {
        __m512i shifted = _mm512_srli_epi16(words[i], 4);
        q[2 * i] = _mm512_unpacklo_epi8(words[i], shifted);
        q[2 * i + 1] = _mm512_unpackhi_epi8(words[i], shifted);
    }
}

#endif
