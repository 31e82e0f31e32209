// SPDX-License-Identifier: MIT
// Panels of linear_q8 on AVX2 (q8_avx2.h): a group of 8 rows, which lie along lanes then. Bits of 8 rows are brought
// together 4 bytes at a time, so whatever is done to each byte alike can be done before or after it.
#ifndef MOE_COLUMNS_AVX2_H
#define MOE_COLUMNS_AVX2_H

#include "cpu/x86/unpack_q8_avx2.h"

/* Where a group goes: unit u of num_units to places[u] of a panel. rows: where it begins in each row. */
struct q8_columns {
    struct q8_work *work;
    size_t panel, places[MOE_Q8_LANES], num_units;
    const unsigned char *rows[Q8_ROWS];
};

/* 16 bytes of 8 rows to 4 columns of 4 bytes. */
static inline void load_columns(__m256i out[4], const unsigned char *const rows[Q8_ROWS], size_t offset)
{
    __m256i both[4];
    for (size_t i = 0; i < 4; i++)
        both[i] = _mm256_set_m128i(load16(rows[i + 4] + offset), load16(rows[i] + offset));
    __m256i a = _mm256_unpacklo_epi32(both[0], both[1]), b = _mm256_unpacklo_epi32(both[2], both[3]);
    __m256i c = _mm256_unpackhi_epi32(both[0], both[1]), d = _mm256_unpackhi_epi32(both[2], both[3]);
    out[0] = _mm256_unpacklo_epi64(a, b);
    out[1] = _mm256_unpackhi_epi64(a, b);
    out[2] = _mm256_unpacklo_epi64(c, d);
    out[3] = _mm256_unpackhi_epi64(c, d);
}

/* f16 of 8 rows. */
static inline __m256 load_halves(const unsigned char *const rows[Q8_ROWS], size_t offset)
{
    return _mm256_cvtph_ps(_mm_setr_epi16(load_head(rows[0] + offset), load_head(rows[1] + offset),
                                          load_head(rows[2] + offset), load_head(rows[3] + offset),
                                          load_head(rows[4] + offset), load_head(rows[5] + offset),
                                          load_head(rows[6] + offset), load_head(rows[7] + offset)));
}

/* f16 in the lower halves of 8 numbers, and in the upper ones. */
static inline void split_floats(__m256 out[2], __m256i pairs)
{
    __m256i low = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)), high = _mm256_srli_epi32(pairs, 16);
    __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    out[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(both));
    out[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
}

static inline void put_quad(const struct q8_columns *out, size_t unit, size_t i, __m256i quad)
{
    _mm256_storeu_si256((void *)out->work->q[out->panel][out->places[unit]][i], quad);
}

static inline void put_quads(const struct q8_columns *out, size_t unit, const __m256i quads[Q8_QUADS])
{
    for (size_t i = 0; i < Q8_QUADS; i++)
        put_quad(out, unit, i, quads[i]);
}

static inline void put_scale(const struct q8_columns *out, size_t unit, size_t half, __m256 scale)
{
    _mm256_storeu_ps(out->work->scale[out->panel][out->places[unit]][half], scale);
}

static inline void put_minimum(const struct q8_columns *out, size_t unit, size_t half, __m256 minimum)
{
    _mm256_storeu_ps(out->work->minimum[out->panel][out->places[unit]][half], minimum);
}

/* A unit of 16 bytes: low nibbles are its first 16 columns, high ones the others. */
static inline void load_nibbles_of_unit(__m256i quads[Q8_QUADS], const struct q8_columns *in, size_t offset)
{
    load_columns(quads, in->rows, offset);
    for (size_t i = 0; i < 4; i++) {
        quads[i + 4] = high_nibbles(quads[i]);
        quads[i] = low_nibbles(quads[i]);
    }
}

/* Scales and minima of Q4_K and Q5_K (unpack_q8_avx2.h), a dword of all rows at a time. */
static inline void put_scales_of_k(const struct q8_columns *out)
{
    const __m256i six = _mm256_set1_epi8(0x3f), four = _mm256_set1_epi8(0x0f), two = _mm256_set1_epi8(0x30);
    __m256i head[4], scales[2], minima[2];
    __m256 d[2];
    load_columns(head, out->rows, 0);
    split_floats(d, head[0]);
    d[1] = _mm256_xor_ps(d[1], _mm256_set1_ps(-0.0f));
    scales[0] = _mm256_and_si256(head[1], six);
    minima[0] = _mm256_and_si256(head[2], six);
    scales[1] = _mm256_or_si256(_mm256_and_si256(head[3], four), _mm256_and_si256(_mm256_srli_epi16(head[1], 2), two));
    minima[1] = _mm256_or_si256(high_nibbles(head[3]), _mm256_and_si256(_mm256_srli_epi16(head[2], 2), two));
    for (size_t u = 0; u < 8; u++) {
        const __m256i byte = _mm256_set1_epi32(0xff);
        __m256i scale = _mm256_and_si256(_mm256_srli_epi32(scales[u / 4], u % 4 * 8), byte);
        __m256i minimum = _mm256_and_si256(_mm256_srli_epi32(minima[u / 4], u % 4 * 8), byte);
        put_scale(out, u, 0, _mm256_mul_ps(d[0], _mm256_cvtepi32_ps(scale)));
        put_minimum(out, u, 0, _mm256_mul_ps(d[1], _mm256_cvtepi32_ps(minimum)));
    }
}

#endif
