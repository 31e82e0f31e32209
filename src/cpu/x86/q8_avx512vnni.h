// SPDX-License-Identifier: MIT
// linear_q8 on AVX-512 with VNNI: what all formats share. A format unpacks a group, 256 columns of a row, to unsigned
// bytes and f32 scales (unpack_avx512vnni.h); what is multiplied is the format's business no more.
//
// Up to six tokens: the dot products of a row at a time, units along lanes, weights in registers
// (linear_q8_tmpl_avx512vnni.h). More: panels of 16 rows, rows along lanes, which all tokens share
// (q8_panel_avx512vnni.c).
#ifndef MOE_Q8_AVX512VNNI_H
#define MOE_Q8_AVX512VNNI_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/q8.h"

enum {
    Q8_ROWS = 16,                                    /* of a panel */
    Q8_PANELS = 2,                                   /* that a tile multiplies at once */
    Q8_SEGMENT_UNITS = MOE_Q8_SEGMENT / MOE_Q8_UNIT,
    Q8_UNIT_BYTES = Q8_ROWS * MOE_Q8_UNIT
};

/* How values of a format are made up: q counts from the format's OFFSET, in panels from 128; a scale for 16 columns; a
 * minimum is added. */
enum { Q8_BIASED = 1, Q8_HALVES = 2, Q8_MINIMA = 4 };

/* 256 columns of a row, in the order of columns or of slots (linear_q8_tmpl_avx512vnni.h). A value is scale * q, or
 * with Q8_BIASED scale * (q - OFFSET), plus the minimum. [0] is for the unit, or its first 16 columns, [1] for its
 * other 16. */
struct q8_group {
    __m512i q[4];
    __m256 scale[2], minimum[2];
};

/* A segment of 16 rows, rows along lanes. Units stand in the order in which they are summed: lane by lane
 * (kernels.h). */
struct q8_panel {
    _Alignas(64) uint8_t q[Q8_SEGMENT_UNITS][MOE_Q8_UNIT / 4][Q8_ROWS][4];
    float scale[Q8_SEGMENT_UNITS][2][Q8_ROWS];       /* without halves, [i][0] only */
    float minimum[Q8_SEGMENT_UNITS][2][Q8_ROWS];
};
_Static_assert(sizeof(struct q8_panel) * Q8_PANELS <= MOE_ROUNDED_SCRATCH, "the panels are more than the scratch");

/* Units u of the segment with u mod 8 = lane. */
static inline size_t q8_lane_units(size_t num_units, size_t lane)
{
    return (num_units + MOE_Q8_LANES - 1 - lane) / MOE_Q8_LANES;
}

/* Where unit u stands in a panel. */
static inline size_t q8_place(size_t num_units, size_t u)
{
    size_t lane = u % MOE_Q8_LANES, full = num_units / MOE_Q8_LANES, rest = num_units % MOE_Q8_LANES;
    return lane * full + (lane < rest ? lane : rest) + u / MOE_Q8_LANES;
}

/* y (+)= panels * x, for the segment of num_units units from unit first_unit on, rows of y first_row.. . kind: Q8_*. */
typedef void q8_multiply_fn(const struct moe_linear_rounded_args *args, const struct q8_panel *panels, size_t first_row,
                            size_t first_unit, size_t num_units);
q8_multiply_fn moe_q8_multiply_1_avx512vnni, moe_q8_multiply_3_avx512vnni, moe_q8_multiply_4_avx512vnni,
    moe_q8_multiply_6_avx512vnni;

static inline size_t q8_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline const unsigned char *q8_x_row(const struct moe_linear_rounded_args *a, size_t t)
{
    return a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t] : t) * a->x_stride;
}

/* 16 rows of 16 dwords to 16 columns of them: 4 for each quarter of a row, at out[quarter]. */
static inline void q8_transpose(unsigned char *const out[4], const __m512i rows[16])
{
    __m512i a[16], b[16];
    for (size_t i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (size_t i = 0; i < 16; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {    /* column i of each quarter, 4 rows in each of b's */
        __m512i low = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88);
        __m512i high = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
        _mm512_store_si512(out[0] + 64 * i, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_store_si512(out[2] + 64 * i, _mm512_shuffle_i32x4(low, high, 0xdd));
        low = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
        high = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
        _mm512_store_si512(out[1] + 64 * i, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_store_si512(out[3] + 64 * i, _mm512_shuffle_i32x4(low, high, 0xdd));
    }
}

#endif
