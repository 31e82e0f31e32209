// SPDX-License-Identifier: MIT
// Body of linear on AVX-512 for one format. One token streams the weights through registers; several share strips that
// linear_run_avx512.c makes with this format's unpack.
// Parameters: LINEAR_FN the kernel's name; GROUP columns, 32 or more, that unpack makes of GROUP_BYTES bytes, which are
// whole blocks of BLOCK_VALUES: static inline void unpack(__m512 out[GROUP / 16], const unsigned char *in). Where the
// columns are no whole number of groups, the last come zero-padded.
#include <string.h>

#include "cpu/x86/linear_lanes_avx512.h"

#if !defined(LINEAR_FN) || !defined(GROUP) || !defined(GROUP_BYTES) || !defined(BLOCK_VALUES)
#error "linear_tmpl_avx512.h needs LINEAR_FN, GROUP, GROUP_BYTES and BLOCK_VALUES"
#endif

enum { VECTORS = GROUP / LANES, ROWS = 4 };

static inline void unpack_some(__m512 out[VECTORS], const unsigned char *in, size_t cols)
{
    unsigned char padded[GROUP_BYTES] = {0};
    memcpy(padded, in, cols * GROUP_BYTES / GROUP);
    unpack(out, padded);
}

/* cols columns, a whole number of blocks. */
static inline void unpack_row(float *out, const unsigned char *in, size_t cols)
{
    __m512 values[VECTORS];
    for (; cols >= GROUP; cols -= GROUP, in += GROUP_BYTES, out += GROUP) {
        unpack(values, in);
        for (size_t v = 0; v < VECTORS; v++)
            _mm512_storeu_ps(out + v * LANES, values[v]);
    }
    if (cols == 0)
        return;
    unpack_some(values, in, cols);
    for (size_t c = 0; c < cols; c += LANES)
        _mm512_mask_storeu_ps(out + c, first_lanes(cols - c), values[c / LANES]);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    unpack_row(out, in, num_blocks * BLOCK_VALUES);
}

/* acc += w * x over cols < GROUP columns. */
static __m512 add_some(__m512 acc, const unsigned char *w, const float *x, size_t cols)
{
    __m512 values[VECTORS];
    unpack_some(values, w, cols);
    for (size_t c = 0; c < cols; c += LANES)
        acc = _mm512_fmadd_ps(values[c / LANES], _mm512_maskz_loadu_ps(first_lanes(cols - c), x + c), acc);
    return acc;
}

/* 4 rows of weights, and the 4 that are read next. */
struct rows {
    const unsigned char *w[ROWS], *next[ROWS];
};

static inline void add_group(__m512 acc[ROWS], const struct rows *rows, size_t offset, const float *x)
{
    for (size_t i = 0; i < ROWS; i++) {
        __m512 values[VECTORS];
        for (size_t at = 0; at < GROUP_BYTES; at += 64)
            _mm_prefetch((const char *)(rows->next[i] + offset + at), _MM_HINT_T0);
        unpack(values, rows->w[i] + offset);
        for (size_t v = 0; v < VECTORS; v++)
            acc[i] = _mm512_fmadd_ps(values[v], _mm512_loadu_ps(x + v * LANES), acc[i]);
    }
}

/* One segment of 4 rows, which is cols columns. */
static inline void dot_rows(__m512 acc[ROWS], const struct rows *rows, size_t offset, const float *x, size_t cols)
{
    size_t c = 0;
    for (size_t i = 0; i < ROWS; i++)
        acc[i] = _mm512_setzero_ps();
    for (; c + GROUP <= cols; c += GROUP, offset += GROUP_BYTES)
        add_group(acc, rows, offset, x + c);
    for (size_t i = 0; i < ROWS && c < cols; i++)
        acc[i] = add_some(acc[i], rows->w[i] + offset, x + c, cols - c);
}

static void linear_one(const struct moe_linear_args *a)
{
    const float *x = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[0] : 0) * a->x_stride;
    struct pending pending = {.count = 0};
    for (size_t r = 0; r < a->rows; r += ROWS) {
        struct rows rows;
        size_t num_rows = smaller(ROWS, a->rows - r);
        for (size_t i = 0; i < ROWS; i++) {    /* past the last row: the last again, not stored */
            rows.w[i] = a->w + smaller(r + i, a->rows - 1) * a->w_stride;
            rows.next[i] = rows.w[i];
            if (r + ROWS + i < a->rows)
                rows.next[i] += ROWS * a->w_stride;
            else if (a->next != NULL)
                rows.next[i] = a->next + i * a->w_stride;
        }
        memset(a->y + r, 0, num_rows * sizeof *a->y);
        for (size_t start = 0; start < a->cols; start += SEGMENT) {
            __m512 acc[ROWS];
            dot_rows(acc, &rows, start / GROUP * GROUP_BYTES, x + start, smaller(SEGMENT, a->cols - start));
            for (size_t i = 0; i < num_rows; i++)
                push(&pending, a->y + r + i, acc[i]);
        }
    }
    flush(&pending);
}

moe_linear_fn LINEAR_FN;
void LINEAR_FN(const struct moe_linear_args *args)
{
    if (args->rows == 0)
        return;
    if (args->num_tokens == 1) {
        linear_one(args);
        return;
    }
    moe_linear_run_avx512(&(struct moe_linear_matrix){args, NULL, 0, dequantise, BLOCK_VALUES,
                                                      GROUP_BYTES * BLOCK_VALUES / GROUP});
}

#undef LINEAR_FN
#undef GROUP
#undef GROUP_BYTES
#undef BLOCK_VALUES
