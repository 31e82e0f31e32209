// SPDX-License-Identifier: MIT
// Body of linear on AVX2: 8 lanes (column modulo 8), fused multiply-add, segments of 256 columns. One token streams the
// weights through registers; several share strips of rows that are unpacked to f32 in the first cache.
// Parameters: LINEAR_FN the kernel's name; UNPACK_BYTES bytes of 32 columns; static inline void
// unpack32(__m256 out[4], const unsigned char *in) makes f32 of them. cols is a whole number of blocks; where the
// format's block is one value, the last columns come zero-padded to 32.
#include <immintrin.h>
#include <string.h>

#include "cpu/kernels.h"

#if !defined(LINEAR_FN) || !defined(UNPACK_BYTES)
#error "linear_tmpl_avx2.h needs LINEAR_FN and UNPACK_BYTES"
#endif

enum {
    LANES = 8,
    GROUP = 32,          /* columns that unpack32 makes */
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

static inline void unpack_some(__m256 out[4], const unsigned char *in, size_t cols)
{
    unsigned char padded[UNPACK_BYTES] = {0};
    memcpy(padded, in, cols * UNPACK_BYTES / GROUP);
    unpack32(out, padded);
}

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- one token ---- */

/* acc[i] += w row i * x over cols < 32 columns. */
static void add_some(__m256 acc[TILE_ROWS], const unsigned char *const w[TILE_ROWS], size_t w_offset, const float *x,
                     size_t cols)
{
    for (size_t i = 0; i < TILE_ROWS; i++) {
        __m256 unpacked[4];
        unpack_some(unpacked, w[i] + w_offset, cols);
        for (size_t c = 0; c < cols; c += LANES) {
            __m256 vx = cols - c < LANES ? load_some(x + c, cols - c) : _mm256_loadu_ps(x + c);
            acc[i] = _mm256_fmadd_ps(unpacked[c / LANES], vx, acc[i]);
        }
    }
}

/* The dot products of four rows with x. The same columns of the rows that lie ahead bytes further on are fetched
 * meanwhile: the processor itself prefetches along a row, and would begin anew with each. */
static inline __m128 dot_rows(const unsigned char *const w[TILE_ROWS], size_t ahead, const float *x, size_t cols)
{
    __m128 sums = _mm_setzero_ps();
    size_t offset = 0;
    for (size_t start = 0; start < cols; start += MOE_LINEAR_SEGMENT) {
        size_t end = smaller(start + MOE_LINEAR_SEGMENT, cols), c = start;
        __m256 acc[TILE_ROWS];
        for (size_t i = 0; i < TILE_ROWS; i++)
            acc[i] = _mm256_setzero_ps();
        for (; c + GROUP <= end; c += GROUP, offset += UNPACK_BYTES) {
            for (size_t i = 0; i < TILE_ROWS; i++) {
                __m256 unpacked[4];
                _mm_prefetch((const char *)(w[i] + ahead + offset), _MM_HINT_T0);
                unpack32(unpacked, w[i] + offset);
                for (size_t v = 0; v < 4; v++)
                    acc[i] = _mm256_fmadd_ps(unpacked[v], _mm256_loadu_ps(x + c + v * LANES), acc[i]);
            }
        }
        if (c < end)
            add_some(acc, w, offset, x + c, end - c);
        sums = _mm_add_ps(sums, sum_lanes(acc[0], acc[1], acc[2], acc[3]));
    }
    return sums;
}

static void linear_one(const struct moe_linear_args *a)
{
    const float *x = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[0] : 0) * a->x_stride;
    for (size_t r = 0; r < a->rows; r += TILE_ROWS) {
        const unsigned char *w[TILE_ROWS];
        for (size_t i = 0; i < TILE_ROWS; i++)     /* past the last row: the last again, not stored */
            w[i] = a->w + smaller(r + i, a->rows - 1) * a->w_stride;
        size_t ahead = r + 2 * TILE_ROWS <= a->rows ? TILE_ROWS * a->w_stride : 0;
        float sums[TILE_ROWS];
        _mm_storeu_ps(sums, dot_rows(w, ahead, x, a->cols));
        memcpy(a->y + r, sums, smaller(TILE_ROWS, a->rows - r) * sizeof *sums);
    }
}

/* ---- several tokens ---- */

/* Segment of rows r.. into strip rows of 256 f32, zero-padded to whole vectors. The next segment, or that of the next
 * rows, is fetched meanwhile. */
static void unpack_strip(float *strip, const struct moe_linear_args *a, size_t r, size_t rows, size_t start,
                         size_t cols)
{
    bool last = start + cols == a->cols;
    for (size_t i = 0; i < rows; i++) {
        size_t next_row = last ? smaller(r + i + STRIP_ROWS, a->rows - 1) : r + i;
        const unsigned char *next = a->w + next_row * a->w_stride + (last ? 0 : (start + cols) / GROUP * UNPACK_BYTES);
        const unsigned char *w = a->w + (r + i) * a->w_stride + start / GROUP * UNPACK_BYTES;
        float *out = strip + i * MOE_LINEAR_SEGMENT;
        for (size_t c = 0; c < cols; c += GROUP, w += UNPACK_BYTES) {
            __m256 unpacked[4];
            _mm_prefetch((const char *)(next + c / GROUP * UNPACK_BYTES), _MM_HINT_T0);
            if (cols - c >= GROUP)
                unpack32(unpacked, w);
            else
                unpack_some(unpacked, w, cols - c);
            for (size_t v = 0; v < 4; v++)
                _mm256_storeu_ps(out + c + v * LANES, unpacked[v]);
        }
    }
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

static void linear_many(const struct moe_linear_args *a)
{
    float strip[STRIP_ROWS * MOE_LINEAR_SEGMENT];
    for (size_t r = 0; r < a->rows; r += STRIP_ROWS) {
        size_t rows = smaller(STRIP_ROWS, a->rows - r);
        for (size_t start = 0; start < a->cols; start += MOE_LINEAR_SEGMENT) {
            size_t cols = smaller(MOE_LINEAR_SEGMENT, a->cols - start);
            unpack_strip(strip, a, r, rows, start, cols);
            multiply_strip(a, strip, r, rows, start, cols);
        }
    }
}

moe_linear_fn LINEAR_FN;
void LINEAR_FN(const struct moe_linear_args *args)
{
    if (args->rows == 0)
        return;
    if (args->num_tokens == 1)
        linear_one(args);
    else
        linear_many(args);
}

#undef LINEAR_FN
#undef UNPACK_BYTES
