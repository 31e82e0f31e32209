// SPDX-License-Identifier: MIT
// What kernels of linear on AVX2 share: 8 lanes (column modulo 8), fused multiply-add, segments of 256 columns, and the
// product of a strip of unpacked rows with several tokens.
#ifndef MOE_LINEAR_TILE_AVX2_H
#define MOE_LINEAR_TILE_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "cpu/x86/linear_matrix.h"

enum {
    LANES = 8,
    TILE_ROWS = 4,
    TILE_TOKENS = 3,     /* 4 x 3 accumulators, 3 vectors of x, 1 of w: all 16 registers */
    STRIP_ROWS = 16      /* 16 KB of f32, half of a small first cache */
};

/* Of each of four vectors ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), numbers of lanes. */
static inline __m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

/* The first n < 8 floats, 0 beyond, which are not read. */
static inline __m256 load_some(const float *x, size_t n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(x, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane));
}

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* y[t][i] (+)= strip row i * x[t] over one segment, for 4 rows, of which num_rows are stored, and num_tokens <= 3
 * tokens. Called with a constant num_tokens, so that acc stays in registers. */
static inline void tile(float *const y[TILE_TOKENS], const float *const w[TILE_ROWS], const float *const x[TILE_TOKENS],
                        size_t cols, size_t num_rows, size_t num_tokens, bool first)
{
    __m256 acc[TILE_TOKENS][TILE_ROWS], vx[TILE_TOKENS];
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t i = 0; i < TILE_ROWS; i++)
            acc[t][i] = _mm256_setzero_ps();
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES) {
        for (size_t t = 0; t < num_tokens; t++)
            vx[t] = _mm256_loadu_ps(x[t] + c);
        for (size_t i = 0; i < TILE_ROWS; i++) {
            __m256 vw = _mm256_loadu_ps(w[i] + c);
            for (size_t t = 0; t < num_tokens; t++)
                acc[t][i] = _mm256_fmadd_ps(vw, vx[t], acc[t][i]);
        }
    }
    for (size_t t = 0; t < num_tokens && c < cols; t++) {
        vx[t] = load_some(x[t] + c, cols - c);
        for (size_t i = 0; i < TILE_ROWS; i++)
            acc[t][i] = _mm256_fmadd_ps(_mm256_loadu_ps(w[i] + c), vx[t], acc[t][i]);
    }
    for (size_t t = 0; t < num_tokens; t++) {
        float sums[TILE_ROWS] = {0};
        if (!first)
            memcpy(sums, y[t], num_rows * sizeof *sums);
        __m128 total = _mm_add_ps(_mm_loadu_ps(sums), sum_lanes(acc[t][0], acc[t][1], acc[t][2], acc[t][3]));
        _mm_storeu_ps(sums, total);
        memcpy(y[t], sums, num_rows * sizeof *sums);
    }
}

/* All tokens against one strip, whose first row is r. */
static void multiply_strip(const struct moe_linear_args *a, const float *strip, size_t r, size_t rows, size_t start,
                           size_t cols)
{
    for (size_t t = 0; t < a->num_tokens; t += TILE_TOKENS) {
        size_t num_tokens = smaller(TILE_TOKENS, a->num_tokens - t);
        const float *x[TILE_TOKENS];
        for (size_t j = 0; j < num_tokens; j++)
            x[j] = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t + j] : t + j) * a->x_stride + start;
        for (size_t i = 0; i < rows; i += TILE_ROWS) {
            const float *w[TILE_ROWS];
            for (size_t j = 0; j < TILE_ROWS; j++)
                w[j] = strip + smaller(i + j, rows - 1) * MOE_LINEAR_SEGMENT;
            float *y[TILE_TOKENS];
            for (size_t j = 0; j < num_tokens; j++)
                y[j] = a->y + (t + j) * a->y_stride + r + i;
            size_t num_rows = smaller(TILE_ROWS, rows - i);
            if (num_tokens == 3)
                tile(y, w, x, cols, num_rows, 3, start == 0);
            else if (num_tokens == 2)
                tile(y, w, x, cols, num_rows, 2, start == 0);
            else
                tile(y, w, x, cols, num_rows, 1, start == 0);
        }
    }
}

#endif
