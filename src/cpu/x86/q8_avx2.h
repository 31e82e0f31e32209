// SPDX-License-Identifier: MIT
// linear_q8 on AVX2: what all formats share. vpmaddubsw adds two products of an unsigned and a signed byte to 16 bits
// and saturates, so what matters of a format is how large its codes are: as many products as fit are summed in 16 bits.
//
// Few tokens: the dot products of a row at a time, units along lanes (linear_q8_tmpl_avx2.h). More: two panels of 8
// rows, rows along lanes, which all tokens share (q8_panel_avx2.c).
#ifndef MOE_Q8_AVX2_H
#define MOE_Q8_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/q8.h"

enum {
    Q8_ROWS = 8,                                     /* of a panel */
    Q8_PANELS = 2,                                   /* that a tile multiplies at once */
    Q8_SEGMENT_UNITS = MOE_Q8_SEGMENT / MOE_Q8_UNIT,
    Q8_QUADS = MOE_Q8_UNIT / 4,                      /* of columns in a unit */
    Q8_TOKENS = 128                                  /* that share what is packed */
};

/* How values of a format are made up: a scale for 16 columns; a minimum is added; bytes with signs; sums in 16 bits may
 * wrap around, since what they are once the offset is taken off fits: 127 * (largest |code - offset|) * (half the
 * columns of a scale) < 2^15. The rest of the number is the chain, how many products of a pair of columns fit in
 * 16 bits: 2 * 127 * (largest code) * chain < 2^15. */
enum { Q8_HALVES = 1, Q8_MINIMA = 2, Q8_SIGNED = 4, Q8_WRAPS = 8, Q8_CHAIN = 16 };

/* X(name, kind). Codes of u<n> are below 2^n; those without minima are less an offset, those of u5 at most 16. */
#define Q8_KIND_MAP(X)                                        \
    X(u4, 8 * Q8_CHAIN)                                       \
    X(u4_minima, 8 * Q8_CHAIN + Q8_MINIMA)                    \
    X(u5, 4 * Q8_CHAIN + Q8_WRAPS)                            \
    X(u5_minima, 4 * Q8_CHAIN + Q8_MINIMA)                    \
    X(u5_halves, 4 * Q8_CHAIN + Q8_HALVES)                    \
    X(u5_halves_minima, 4 * Q8_CHAIN + Q8_HALVES + Q8_MINIMA) \
    X(u6_halves, 2 * Q8_CHAIN + Q8_HALVES + Q8_WRAPS)         \
    X(u7, Q8_CHAIN)                                           \
    X(u7_halves, Q8_CHAIN + Q8_HALVES)                        \
    X(s8, Q8_CHAIN + Q8_SIGNED)

enum {
#define Q8_KIND_ENUM(name, kind) Q8_KIND_##name = kind,
    Q8_KIND_MAP(Q8_KIND_ENUM)
#undef Q8_KIND_ENUM
};

/* 256 columns of a row; q[u] is unit u of 8. A value is scale * (q - offset), or scale * q + minimum. [0] is for the
 * unit, or its first 16 columns, [1] for its other 16; lanes are units. */
struct q8_group {
    __m256i q[8];
    __m256 scale[2], minimum[2];
};

/* A lane's units of bytes with signs as magnitudes and flips, 0 or -1: x ^ -1 is -x - 1, and start has what that takes
 * from the sum. */
struct q8_signs {
    uint8_t sizes[Q8_SEGMENT_UNITS / MOE_Q8_LANES][Q8_QUADS][Q8_ROWS][4];
    uint8_t flips[Q8_SEGMENT_UNITS / MOE_Q8_LANES][Q8_QUADS][Q8_ROWS][4];
    int32_t start[Q8_SEGMENT_UNITS / MOE_Q8_LANES][Q8_ROWS];
};

/* A segment of 16 rows, rows along lanes, and what its tokens need. Units stand in the order in which they are summed:
 * lane by lane (kernels.h). */
struct q8_work {
    _Alignas(64) uint8_t q[Q8_PANELS][Q8_SEGMENT_UNITS][Q8_QUADS][Q8_ROWS][4];
    union {
        struct q8_signs signs[Q8_PANELS];
        int32_t starts[Q8_TOKENS][2 * Q8_SEGMENT_UNITS];    /* of a token, laid out as in its row: -offset * sum of q;
                                                             * with Q8_WRAPS of its columns 0 and 1 mod 4 in the lower
                                                             * 16 bits, of the others in the upper */
        float sums[Q8_TOKENS][2 * Q8_SEGMENT_UNITS];        /* of its halves, scaled */
    } x;
    float scale[Q8_PANELS][Q8_SEGMENT_UNITS][2][Q8_ROWS];   /* without halves, [i][0] only */
    float minimum[Q8_PANELS][Q8_SEGMENT_UNITS][2][Q8_ROWS];
    float y[Q8_TOKENS][Q8_PANELS * Q8_ROWS];
};
_Static_assert(sizeof(struct q8_work) <= MOE_ROUNDED_SCRATCH, "the panels are more than the scratch");

/* A part of a product: tokens first_token.. of args, which stand in work from 0 on, and units first_unit.. . The
 * weights that are packed next, some rows of ahead_bytes, are fetched meanwhile, spread over the products: all at once
 * they would be waited for. */
struct q8_part {
    const struct moe_linear_rounded_args *args;
    struct q8_work *work;
    size_t first_token, num_tokens, first_unit, num_units, num_panels;
    const unsigned char *ahead;
    size_t ahead_rows, ahead_bytes, ahead_stride;
};

/* Units u of the segment with u mod 8 = lane. */
static inline size_t q8_lane_units(size_t num_units, size_t lane)
{
    return (num_units + MOE_Q8_LANES - 1 - lane) / MOE_Q8_LANES;
}

/* Where the first unit of a lane stands in a panel; its others follow. */
static inline size_t q8_place(size_t num_units, size_t lane)
{
    size_t full = num_units / MOE_Q8_LANES, rest = num_units % MOE_Q8_LANES;
    return lane * full + (lane < rest ? lane : rest);
}

static inline size_t q8_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline const unsigned char *q8_x_row(const struct moe_linear_rounded_args *a, size_t t)
{
    return a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t] : t) * a->x_stride;
}

static inline const float *q8_floats(const unsigned char *row, size_t at)
{
    return (const float *)(const void *)(row + at);
}

static inline const int32_t *q8_ints(const unsigned char *row, size_t at)
{
    return (const int32_t *)(const void *)(row + at);
}

static inline __m256i q8_load(const void *in)
{
    return _mm256_loadu_si256((const __m256i *)in);
}

/* 16 sums of 16 bits to 8 of 32. */
static inline __m256i q8_widen(__m256i sums)
{
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

/* work->x of the part's tokens for codes that are less an offset, or for minima of halves. */
void moe_q8_prepare_avx2(const struct q8_part *part, int kind, int offset);

/* work->y += panels * x. */
typedef void q8_multiply_fn(const struct q8_part *part);
#define Q8_KIND_DECLARE(name, kind) q8_multiply_fn moe_q8_multiply_##name##_avx2;
Q8_KIND_MAP(Q8_KIND_DECLARE)
#undef Q8_KIND_DECLARE

#endif
