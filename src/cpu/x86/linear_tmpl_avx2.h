// SPDX-License-Identifier: MIT
// Body of linear on AVX2 for one format. One token streams the weights through registers; several share strips of rows
// that are unpacked to f32 in the first cache.
// Parameters: LINEAR_FN the kernel's name; UNPACK_BYTES bytes of 32 columns; static inline void
// unpack32(__m256 out[4], const unsigned char *in) makes f32 of them. cols is a whole number of blocks; where the
// format's block is one value, the last columns come zero-padded to 32.
#include "cpu/x86/linear_tile_avx2.h"

#if !defined(LINEAR_FN) || !defined(UNPACK_BYTES)
#error "linear_tmpl_avx2.h needs LINEAR_FN and UNPACK_BYTES"
#endif

enum { GROUP = 32 };    /* columns that unpack32 makes */

static inline void unpack_some(__m256 out[4], const unsigned char *in, size_t cols)
{
    unsigned char padded[UNPACK_BYTES] = {0};
    memcpy(padded, in, cols * UNPACK_BYTES / GROUP);
    unpack32(out, padded);
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
