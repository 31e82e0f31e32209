// SPDX-License-Identifier: MIT
// linear_bf16 of bf16 weights on AVX-512 BF16: dot products along a row, lanes are columns.
//
// vdpbf16ps reads both operands as they stand, so nothing is packed: a tile of 4 rows and 6 tokens takes 10 loads for
// 24 products. Rows along lanes would need no sum over lanes, but a transposition of the weights, which costs more than
// it saves where an expert has few tokens.
//
// Lane l sums columns 32 i + 2 l and 32 i + 2 l + 1, i ascending, as vdpbf16ps does: two roundings, denormals are zero.
// Then, for the quarters q of the lanes: p[q] = (lane 0 + lane 2) + (lane 1 + lane 3), and the row's sum is
// (p[0] + p[2]) + (p[1] + p[3]).
#include <immintrin.h>
#include <stdbool.h>

#include "cpu/kernels.h"

enum {
    MOST_TOKENS = 6,
    MOST_SUMS = 24,          /* rows times tokens; with a row of operands they fit into 32 registers */
    STEP = 32,               /* columns of a register */
    LINE = 64,
    HEAD_LINES = 8,          /* fetched of a long row; the hardware then knows what follows, and is better at it */
    SHORT_LINES = 32,        /* up to here a row is fetched as a whole: the hardware learns too late */
    MANY_GROUPS = 3          /* of tokens; from here on too, for weights are read while only the first is multiplied */
};

struct tile {
    const unsigned char *w, *x[MOST_TOKENS];
    size_t w_stride, cols;
    const unsigned char *fetch;      /* meanwhile, fetch_lines of each of as many rows */
    size_t fetch_lines;
};

#define INLINE static inline __attribute__((always_inline))
/* Sums are in registers only where all their indices are constants; gcc has to be told, and clang must not be. */
#if defined(__clang__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE __m512bh load(const unsigned char *at, __mmask32 lanes)
{
    return (__m512bh)_mm512_maskz_loadu_epi16(lanes, at);
}

/* sums[r * tokens + t]. What there is less of stays in registers, the rest is loaded as it is used. */
INLINE void step(__m512 *sums, const struct tile *tile, size_t at, __mmask32 lanes, size_t rows, size_t tokens)
{
    if (tokens > rows) {
        __m512bh w[MOST_TOKENS];
        UNROLL
        for (size_t r = 0; r < rows; r++)
            w[r] = load(tile->w + r * tile->w_stride + at, lanes);
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            __m512bh x = load(tile->x[t] + at, lanes);
            UNROLL
            for (size_t r = 0; r < rows; r++)
                sums[r * tokens + t] = _mm512_dpbf16_ps(sums[r * tokens + t], w[r], x);
        }
    } else {
        __m512bh x[MOST_TOKENS];
        UNROLL
        for (size_t t = 0; t < tokens; t++)
            x[t] = load(tile->x[t] + at, lanes);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            __m512bh w = load(tile->w + r * tile->w_stride + at, lanes);
            UNROLL
            for (size_t t = 0; t < tokens; t++)
                sums[r * tokens + t] = _mm512_dpbf16_ps(sums[r * tokens + t], w, x[t]);
        }
    }
}

/* The sum of the lanes of each of 4 registers. */
INLINE __m128 sum_lanes(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512 quarters = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

/* out[t * stride + r]: 1 row, or a multiple of 4. */
INLINE void multiply(float *out, size_t stride, const struct tile *tile, size_t rows, size_t tokens)
{
    __m512 sums[MOST_SUMS];
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t t = 0; t < tokens; t++)
            sums[r * tokens + t] = _mm512_setzero_ps();
    size_t c = 0, due = 0, steps = tile->cols / STEP;
    const unsigned char *fetch = tile->fetch;
    for (; c + STEP <= tile->cols; c += STEP) {
        for (due += fetch != NULL ? rows : 0; due >= steps; due -= steps, fetch += tile->w_stride)
            for (size_t i = 0; i < tile->fetch_lines; i++)
                _mm_prefetch((const char *)fetch + i * LINE, _MM_HINT_T1);
        step(sums, tile, 2 * c, UINT32_MAX, rows, tokens);
    }
    if (c < tile->cols)
        step(sums, tile, 2 * c, (__mmask32)((UINT32_C(1) << (tile->cols - c)) - 1), rows, tokens);
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        if (rows == 1)
            out[t * stride] = _mm_cvtss_f32(sum_lanes(sums[t], sums[t], sums[t], sums[t]));
        else
            UNROLL
            for (size_t r = 0; r < rows; r += 4)
                _mm_storeu_ps(out + t * stride + r,
                              sum_lanes(sums[r * tokens + t], sums[(r + 1) * tokens + t], sums[(r + 2) * tokens + t],
                                        sums[(r + 3) * tokens + t]));
    }
}

/* The tiles that there are: many rows where there are few tokens, for many sums to be under way. */
static void multiply_some(float *out, size_t stride, const struct tile *tile, size_t rows, size_t tokens)
{
    if (rows == 16) {
        multiply(out, stride, tile, 16, 1);
    } else if (rows == 8) {
        if (tokens == 2)
            multiply(out, stride, tile, 8, 2);
        else
            multiply(out, stride, tile, 8, 3);
    } else if (rows == 1) {
        multiply(out, stride, tile, 1, 1);
    } else {
        switch (tokens) {
        case 1: multiply(out, stride, tile, 4, 1); break;
        case 2: multiply(out, stride, tile, 4, 2); break;
        case 3: multiply(out, stride, tile, 4, 3); break;
        case 4: multiply(out, stride, tile, 4, 4); break;
        case 5: multiply(out, stride, tile, 4, 5); break;
        default: multiply(out, stride, tile, 4, 6); break;
        }
    }
}

static const unsigned char *x_row(const struct moe_linear_rounded_args *a, size_t t)
{
    return a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t] : t) * a->x_stride;
}

/* Some rows from r on for all tokens, in groups as equal as can be; a single row takes tokens one by one. */
static void multiply_rows(const struct moe_linear_rounded_args *a, size_t r, size_t rows)
{
    size_t most = rows == 1 ? 1 : MOST_TOKENS, groups = (a->num_tokens + most - 1) / most;
    size_t lines = (a->cols + STEP - 1) / STEP, fetched = 0;
    bool whole = lines <= SHORT_LINES || groups >= MANY_GROUPS;
    const unsigned char *next = r + rows < a->rows ? a->w + (r + rows) * a->w_stride : a->next;
    struct tile tile = {.w = a->w + r * a->w_stride, .w_stride = a->w_stride, .cols = a->cols};
    for (size_t g = 0, t = 0; g < groups; g++) {
        size_t end = a->num_tokens * (g + 1) / groups, wanted = whole ? lines * (g + 1) / groups : HEAD_LINES;
        tile.fetch = next != NULL && wanted > fetched ? next + fetched * LINE : NULL;
        tile.fetch_lines = wanted - fetched;
        for (size_t i = 0; t + i < end; i++)
            tile.x[i] = x_row(a, t + i);
        multiply_some(a->y + t * a->y_stride + r, a->y_stride, &tile, rows, end - t);
        fetched = wanted;
        t = end;
    }
}

moe_linear_bf16_fn moe_linear_bf16_bf16_avx512bf16;
void moe_linear_bf16_bf16_avx512bf16(const struct moe_linear_rounded_args *args)
{
    static const unsigned char rows_of[] = {4, 16, 8, 8};    /* for 0.. tokens; 4 for more */
    size_t most = rows_of[args->num_tokens < sizeof rows_of ? args->num_tokens : 0], rows;
    for (size_t r = 0; r < args->rows; r += rows) {
        size_t left = args->rows - r;
        rows = left >= most ? most : left >= 4 ? 4 : 1;
        multiply_rows(args, r, rows);
    }
}
