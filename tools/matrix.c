// SPDX-License-Identifier: MIT
// Rows of a struct moe_matrix in host memory as f32, with its scales. The model has checked sizes and strides when it
// made the matrix; column blocks are in range.
#include "matrix.h"

#include <stdlib.h>
#include <string.h>

static bool unpack(enum moe_format format, float *out, const void *in, size_t rows, size_t cols)
{
    int status = moe_format_dequantise(format, out, in, rows, cols);
    if (status == MOE_OK)
        return true;
    tool_fail_moe((enum moe_status)status, NULL, "weights cannot be converted to f32");
    return false;
}

static const unsigned char *expert_base(const struct moe_matrix *matrix, size_t e, size_t dense_stride)
{
    if (matrix->bases)
        return (const unsigned char *)matrix->bases[e] + matrix->data.offset;
    size_t stride = matrix->expert_stride ? matrix->expert_stride : dense_stride;
    return (const unsigned char *)matrix->data.base + matrix->data.offset + e * stride;
}

/* ---- codes: what is stored, without scales ---- */

/* Stored [cols, rows]: the value of (r, c) is element r of stored row c. Bytes of two values hold two columns. */
static bool transposed_rows(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row,
                            size_t num_rows, float *out)
{
    const struct moe_format_info *format = moe_format_info(matrix->data.format);
    size_t step = matrix->element_stride ? matrix->element_stride : format->block_bytes, n = format->block_values;
    size_t stride = matrix->data.stride ? matrix->data.stride : rows * step;
    const unsigned char *base = expert_base(matrix, e, cols / n * stride);
    for (size_t c = 0; c < cols; c += n)
        for (size_t r = 0; r < num_rows; r++)
            if (!unpack(format->format, &out[r * cols + c], base + c / n * stride + (row + r) * step, 1, n))
                return false;
    return true;
}

/* Words of 32 bits: value k of one is at place k, or, as AWQ has it, 0 2 4 6 1 3 5 7 are at the places 0 to 7. */
static void packed_rows(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row,
                        size_t num_rows, float *out)
{
    size_t n = matrix->data.format == MOE_FORMAT_U4 ? 8 : 4, bits = 32 / n;
    bool of_rows = matrix->packing == MOE_PACKING_COLS, awq = matrix->packing == MOE_PACKING_ROWS_AWQ;
    size_t word_rows = of_rows ? rows : (rows + n - 1) / n, word_cols = of_rows ? (cols + n - 1) / n : cols;
    size_t step = matrix->transposed && matrix->element_stride ? matrix->element_stride : 4;
    size_t stride = matrix->data.stride ? matrix->data.stride : (matrix->transposed ? word_rows : word_cols) * step;
    const unsigned char *base = expert_base(matrix, e, (matrix->transposed ? word_cols : word_rows) * stride);
    for (size_t c = 0; c < cols; c++)
        for (size_t r = row; r < row + num_rows; r++) {
            size_t i = of_rows ? r : r / n, j = of_rows ? c / n : c, k = of_rows ? c % n : r % n;
            const unsigned char *at = base + (matrix->transposed ? j * stride + i * step : i * stride + j * step);
            size_t bit = (awq ? k / 2 + k % 2 * 4 : k) * bits;
            out[(r - row) * cols + c] = (float)(at[bit / 8] >> bit % 8 & (bits == 4 ? 15 : 255));
        }
}

static bool code_rows(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row, size_t num_rows,
                      float *out)
{
    if (matrix->packing != MOE_PACKING_NONE) {
        packed_rows(matrix, rows, cols, e, row, num_rows, out);
        return true;
    }
    if (matrix->transposed)
        return transposed_rows(matrix, rows, cols, e, row, num_rows, out);
    size_t row_bytes = moe_format_row_bytes(matrix->data.format, cols);
    size_t stride = matrix->data.stride ? matrix->data.stride : row_bytes;
    const unsigned char *base = expert_base(matrix, e, rows * stride);
    if (stride == row_bytes)
        return unpack(matrix->data.format, out, base + row * stride, num_rows, cols);
    for (size_t r = 0; r < num_rows; r++)
        if (!unpack(matrix->data.format, out + r * cols, base + (row + r) * stride, 1, cols))
            return false;
    return true;
}

/* ---- scales ---- */

/* The column blocks of expert e, i32; NULL: there are none. */
static const unsigned char *column_blocks(const struct moe_scales *scales, size_t cols, size_t e)
{
    return scales->column_block ? expert_base(scales->column_block, e, cols * sizeof(int32_t)) : NULL;
}

/* One row of codes to values; scale and zero are those of its blocks, NULL for none. */
static void scale_row(const struct moe_scales *scales, size_t cols, size_t e, const float *scale, const float *zero,
                      float factor, float *out)
{
    const unsigned char *blocks = column_blocks(scales, cols, e);
    size_t block_cols = scales->block_cols ? scales->block_cols : cols;
    for (size_t c = 0; c < cols; c++) {
        int32_t given = 0;
        if (blocks)
            memcpy(&given, blocks + c * sizeof given, sizeof given);
        size_t j = blocks ? (size_t)given : c / block_cols;
        float offset = (zero ? zero[j] : 0.0f) + scales->zero_offset;
        out[c] = (out[c] - offset) * ((scale ? scale[j] : 1.0f) * factor);
    }
}

static bool apply_scales(const struct moe_scales *scales, size_t rows, size_t cols, size_t e, size_t row,
                         size_t num_rows, float *out)
{
    size_t block_rows = scales->block_rows ? scales->block_rows : rows;
    size_t block_cols = scales->block_cols ? scales->block_cols : cols;
    size_t num_block_rows = (scales->first_row + rows - 1) / block_rows + 1;
    size_t num_block_cols = (cols - 1) / block_cols + 1;
    float factor = 1.0f, *scale = malloc(2 * num_block_cols * sizeof *scale), *zero;
    if (!scale) {
        tool_fail_moe(MOE_ERR_MEMORY, NULL, "scales cannot be unpacked");
        return false;
    }
    zero = scale + num_block_cols;
    bool ok = !scales->factor || code_rows(scales->factor, 1, 1, e, 0, 1, &factor);
    if (scales->factor_divides)
        factor = 1.0f / factor;
    size_t loaded = SIZE_MAX;
    for (size_t r = 0; ok && r < num_rows; r++) {
        size_t i = (scales->first_row + row + r) / block_rows;
        if (i != loaded && scales->scale)
            ok = code_rows(scales->scale, num_block_rows, num_block_cols, e, i, 1, scale);
        if (ok && i != loaded && scales->zero)
            ok = code_rows(scales->zero, num_block_rows, num_block_cols, e, i, 1, zero);
        loaded = i;
        if (ok)
            scale_row(scales, cols, e, scales->scale ? scale : NULL, scales->zero ? zero : NULL, factor,
                      out + r * cols);
    }
    free(scale);
    return ok;
}

bool matrix_rows(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row, size_t num_rows,
                 float *out)
{
    if (!code_rows(matrix, rows, cols, e, row, num_rows, out))
        return false;
    return !matrix->scales || apply_scales(matrix->scales, rows, cols, e, row, num_rows, out);
}

bool matrix_bias(const struct moe_matrix *matrix, size_t e, size_t count, float *out)
{
    const struct moe_view *bias = &matrix->bias;
    size_t item = moe_format_row_bytes(bias->format, 1);
    size_t step = matrix->bias_element_stride ? matrix->bias_element_stride : item;
    size_t stride = bias->stride ? bias->stride : count * step;
    const unsigned char *base = (const unsigned char *)bias->base + bias->offset + e * stride;
    for (size_t i = 0; i < count; i++)
        if (!unpack(bias->format, &out[i], base + i * step, 1, 1))
            return false;
    return true;
}

bool matrix_view(const struct moe_view *view, size_t count, float *out)
{
    return unpack(view->format, out, (const unsigned char *)view->base + view->offset, 1, count);
}
