// SPDX-License-Identifier: MIT
// linear on AVX2 with activations in f32, for any format. Rows are unpacked to f32 in the first cache: one after the
// other for one token, in strips that several tokens share.
#include "cpu/x86/linear_tile_avx2.h"
#include "scales_row.h"

enum {
    RUN = 4 * MOE_LINEAR_SEGMENT,    /* columns unpacked at once for one token: four sums that do not wait */
    AHEAD = 4096,                    /* bytes that are fetched ahead of a row's products */
    LINE = 64
};

/* Columns start.. of row r to f32, with zeros up to whole vectors. */
static void unpack(float *out, const struct moe_linear_matrix *m, size_t r, size_t start, size_t cols)
{
    const struct moe_linear_args *a = m->args;
    m->dequantise(out, a->w + r * a->w_stride + start / m->block_values * m->block_bytes, cols / m->block_values);
    if (m->scales != NULL)
        moe_scales_apply(out, m->scales, m->first_row + r, start, cols);
    for (; cols % LANES > 0; cols++)
        out[cols] = 0.0f;
}

/* ---- one token ---- */

/* One segment, which is cols columns. */
static inline __m256 dot(const float *w, const float *x, size_t cols)
{
    __m256 acc = _mm256_setzero_ps();
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES)
        acc = _mm256_fmadd_ps(_mm256_loadu_ps(w + c), _mm256_loadu_ps(x + c), acc);
    if (c < cols)
        acc = _mm256_fmadd_ps(_mm256_loadu_ps(w + c), load_some(x + c, cols - c), acc);
    return acc;
}

/* Four whole segments at once. */
static inline void dot_run(__m256 acc[4], const float *w, const float *x)
{
    for (size_t i = 0; i < 4; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t c = 0; c < MOE_LINEAR_SEGMENT; c += LANES)
        for (size_t i = 0, at = c; i < 4; i++, at += MOE_LINEAR_SEGMENT)
            acc[i] = _mm256_fmadd_ps(_mm256_loadu_ps(w + at), _mm256_loadu_ps(x + at), acc[i]);
}

/* total and the sums of up to four segments. */
static inline float add_run(float total, const float *w, const float *x, size_t cols)
{
    __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    float sums[4];
    if (cols == RUN)
        dot_run(acc, w, x);
    for (size_t i = 0, c = 0; c < cols && cols < RUN; i++, c += MOE_LINEAR_SEGMENT)
        acc[i] = dot(w + c, x + c, smaller(MOE_LINEAR_SEGMENT, cols - c));
    _mm_storeu_ps(sums, sum_lanes(acc[0], acc[1], acc[2], acc[3]));
    for (size_t i = 0, c = 0; c < cols; i++, c += MOE_LINEAR_SEGMENT)
        total += sums[i];
    return total;
}

static void linear_one(const struct moe_linear_matrix *m)
{
    const struct moe_linear_args *a = m->args;
    const float *x = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[0] : 0) * a->x_stride;
    size_t size = a->rows * a->w_stride;
    float w[RUN];
    for (size_t r = 0; r < a->rows; r++) {
        float total = 0.0f;
        for (size_t start = 0; start < a->cols; start += RUN) {
            size_t cols = smaller(RUN, a->cols - start);
            size_t offset = r * a->w_stride + start / m->block_values * m->block_bytes + AHEAD;
            size_t end = smaller(offset + cols / m->block_values * m->block_bytes, size);
            for (; offset < end; offset += LINE)
                _mm_prefetch((const char *)(a->w + offset), _MM_HINT_T0);
            unpack(w, m, r, start, cols);
            total = add_run(total, w, x + start, cols);
        }
        a->y[r] = total;
    }
}

/* ---- several tokens ---- */

/* The next segment, or that of the next rows, is fetched meanwhile. */
static void unpack_strip(float *strip, const struct moe_linear_matrix *m, size_t r, size_t rows, size_t start,
                         size_t cols)
{
    const struct moe_linear_args *a = m->args;
    bool last = start + cols == a->cols;
    size_t bytes = cols / m->block_values * m->block_bytes;
    for (size_t i = 0; i < rows; i++) {
        const unsigned char *next = a->w + (last ? smaller(r + i + STRIP_ROWS, a->rows - 1) : r + i) * a->w_stride;
        next += last ? 0 : (start + cols) / m->block_values * m->block_bytes;
        for (size_t at = 0; at < bytes; at += LINE)
            _mm_prefetch((const char *)(next + at), _MM_HINT_T0);
        unpack(strip + i * MOE_LINEAR_SEGMENT, m, r + i, start, cols);
    }
}

static void linear_many(const struct moe_linear_matrix *m)
{
    const struct moe_linear_args *a = m->args;
    float strip[STRIP_ROWS * MOE_LINEAR_SEGMENT];
    for (size_t r = 0; r < a->rows; r += STRIP_ROWS) {
        size_t rows = smaller(STRIP_ROWS, a->rows - r);
        for (size_t start = 0; start < a->cols; start += MOE_LINEAR_SEGMENT) {
            size_t cols = smaller(MOE_LINEAR_SEGMENT, a->cols - start);
            unpack_strip(strip, m, r, rows, start, cols);
            multiply_strip(a, strip, r, rows, start, cols);
        }
    }
}

void moe_linear_run_avx2(const struct moe_linear_matrix *m)
{
    if (m->args->rows == 0)
        return;
    if (m->args->num_tokens == 1)
        linear_one(m);
    else
        linear_many(m);
}
