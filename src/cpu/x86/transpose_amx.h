// SPDX-License-Identifier: MIT
// Rows to tiles of AMX: 16, or 4, rows of 64 bytes to 16 columns of dwords, as the second factor of a product has them.
#ifndef MOE_TRANSPOSE_AMX_H
#define MOE_TRANSPOSE_AMX_H

#include "cpu/x86/amx.h"

/* 32 bytes of two rows. */
static inline __m512i load_halves(const unsigned char *low, const unsigned char *high)
{
    __m512i out = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)low));
    return _mm512_inserti64x4(out, _mm256_loadu_si256((const void *)high), 1);
}

/* Transposes 4 by 4 dwords in each lane of 4 registers. */
static inline void transpose_lanes(__m512i r[4])
{
    __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
    __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm512_unpacklo_epi64(a, c);
    r[1] = _mm512_unpackhi_epi64(a, c);
    r[2] = _mm512_unpacklo_epi64(b, d);
    r[3] = _mm512_unpackhi_epi64(b, d);
}

/* 16 rows of 16 dwords to columns of them. All of a row's bytes are loaded at once: 16 rows that lie a multiple of 4 KB
 * apart do not stay in the first cache together. */
static inline void transpose(unsigned char *out, const unsigned char *const rows[AMX_ROWS], size_t at)
{
    __m512i r[2][2][4];              /* [half of the columns][half of the rows] */
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < 4; i++)
            for (size_t h = 0; h < 2; h++)
                r[h][k][i] = load_halves(rows[8 * k + i] + at + 32 * h, rows[8 * k + 4 + i] + at + 32 * h);
    for (size_t h = 0; h < 2; h++) {
        transpose_lanes(r[h][0]);
        transpose_lanes(r[h][1]);
        for (size_t i = 0; i < 4; i++) {
            unsigned char *column = out + (8 * h + i) * 64;
            _mm512_storeu_si512(column, _mm512_shuffle_i32x4(r[h][0][i], r[h][1][i], 0x88));
            _mm512_storeu_si512(column + 256, _mm512_shuffle_i32x4(r[h][0][i], r[h][1][i], 0xdd));
        }
    }
}

/* 4 rows of 16 dwords to columns of them. */
static inline void transpose_four(unsigned char *out, const unsigned char *const rows[AMX_ROWS], size_t at)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (size_t q = 0; q < 4; q++) {
        __m512i r = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(rows[0] + at + 16 * q)));
        r = _mm512_inserti32x4(r, _mm_loadu_si128((const void *)(rows[1] + at + 16 * q)), 1);
        r = _mm512_inserti32x4(r, _mm_loadu_si128((const void *)(rows[2] + at + 16 * q)), 2);
        r = _mm512_inserti32x4(r, _mm_loadu_si128((const void *)(rows[3] + at + 16 * q)), 3);
        _mm512_storeu_si512(out + 64 * q, _mm512_permutexvar_epi32(order, r));
    }
}

#endif
