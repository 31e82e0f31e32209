// SPDX-License-Identifier: MIT
// Rows of a struct moe_matrix in host memory as f32. The model has checked sizes and strides when it made the matrix.
#include "matrix.h"

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

/* Stored [cols, rows]: the value of (r, c) is element r of stored row c. */
static bool transposed_rows(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row,
                            size_t num_rows, float *out)
{
    size_t item = moe_format_row_bytes(matrix->data.format, 1);
    size_t step = matrix->element_stride ? matrix->element_stride : item;
    size_t stride = matrix->data.stride ? matrix->data.stride : rows * step;
    const unsigned char *base = expert_base(matrix, e, cols * stride);
    for (size_t c = 0; c < cols; c++)
        for (size_t r = 0; r < num_rows; r++)
            if (!unpack(matrix->data.format, &out[r * cols + c], base + c * stride + (row + r) * step, 1, 1))
                return false;
    return true;
}

bool matrix_rows(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row, size_t num_rows,
                 float *out)
{
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
