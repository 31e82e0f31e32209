// SPDX-License-Identifier: MIT
// Definition of a matrix in memory, and of its product with a vector.
#include "ref/ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double moe_ref_gamma(size_t n)
{
    return (double)n * MOE_REF_UNIT / (1 - (double)n * MOE_REF_UNIT);
}

void *moe_ref_alloc(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL)
        abort();
    return memory;
}

/* 1 sign, 5 exponent (bias 15), 10 mantissa bits. */
static double read_f16(const void *at)
{
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double value = exponent == 0    ? ldexp(mantissa, -24)
                   : exponent == 31 ? (mantissa == 0 ? (double)INFINITY : (double)NAN)
                                    : ldexp(mantissa + 1024, exponent - 25);
    return bits & 0x8000 ? -value : value;
}

/* 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity, one NaN. */
static double read_e4m3(uint8_t bits)
{
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    double value = exponent == 0 ? ldexp(mantissa, -9) : ldexp(mantissa + 8, exponent - 10);
    if ((bits & 127) == 127)
        value = (double)NAN;
    return bits & 0x80 ? -value : value;
}

double moe_ref_value(enum moe_format format, const void *at)
{
    const uint8_t byte = *(const uint8_t *)at;
    switch ((int)format) {
    case MOE_FORMAT_I8:
        return byte < 128 ? byte : byte - 256;
    case MOE_FORMAT_U8:
        return byte;
    case MOE_FORMAT_E4M3:
        return read_e4m3(byte);
    case MOE_FORMAT_E8M0:
        return byte == 255 ? (double)NAN : ldexp(1, byte - 127);
    case MOE_FORMAT_F16:
        return read_f16(at);
    case MOE_FORMAT_BF16: {
        uint16_t bits;
        memcpy(&bits, at, sizeof bits);
        uint32_t wide = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
    case MOE_FORMAT_I32: {
        int32_t value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    case MOE_FORMAT_I64: {
        int64_t value;
        memcpy(&value, at, sizeof value);
        return (double)value;
    }
    default: {
        float value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    }
}

double moe_ref_round(enum moe_format format, double value)
{
    bool half = format == MOE_FORMAT_F16, brain = format == MOE_FORMAT_BF16;
    int digits = half ? 11 : brain ? 8 : 24, lowest = half ? -14 : -126, exponent;
    if (value == 0 || !isfinite(value))
        return value;
    frexp(value, &exponent);   /* |value| is in [2^(exponent - 1), 2^exponent) */
    exponent = exponent - 1 < lowest ? lowest : exponent - 1;
    double quantum = ldexp(1, exponent - digits + 1), rounded = nearbyint(value / quantum) * quantum;
    return fabs(rounded) < ldexp(1, half ? 16 : 128) ? rounded : copysign((double)INFINITY, value);
}

static size_t value_bytes(enum moe_format format)
{
    return moe_format_info(format)->block_bytes;
}

void moe_ref_read(double *out, const struct moe_view *view, size_t i, size_t cols)
{
    size_t bytes = value_bytes(view->format), stride = view->stride != 0 ? view->stride : cols * bytes;
    const char *row = (const char *)view->base + view->offset + i * stride;
    for (size_t c = 0; c < cols; c++)
        out[c] = moe_ref_value(view->format, row + c * bytes);
}

/* First byte of expert e, whose stored rows take up size bytes when the stack is dense. */
static const char *expert_start(const struct moe_matrix *matrix, size_t size, size_t e)
{
    if (matrix->bases != NULL)
        return (const char *)matrix->bases[e] + matrix->data.offset;
    size_t stride = matrix->expert_stride != 0 ? matrix->expert_stride : size;
    return (const char *)matrix->data.base + matrix->data.offset + e * stride;
}

/* Stored [cols, rows]: row c of the file is column c of the matrix, or its columns 2 c and 2 c + 1 of 4 bits. */
static void read_transposed(double *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    enum moe_format format = matrix->data.format;
    size_t step = matrix->element_stride != 0 ? matrix->element_stride : value_bytes(format);
    size_t stride = matrix->data.stride != 0 ? matrix->data.stride : rows * step;
    size_t n = moe_format_info(format)->block_values;
    const char *start = expert_start(matrix, cols / n * stride, e);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c += n) {
            float both[2] = {0};
            if (n == 2 && moe_format_dequantise(format, both, start + c / n * stride + r * step, 1, n) != MOE_OK)
                abort();
            for (size_t k = 0; k < n; k++)
                out[r * cols + c + k] = n == 2 ? both[k] : moe_ref_value(format, start + c * stride + r * step);
        }
}

/* Words of 8 values of 4 bits, or 4 of 8: word (i, j) of a matrix that may be stored transposed. */
static void read_packed(double *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    static const unsigned awq_order[8] = {0, 2, 4, 6, 1, 3, 5, 7};   /* from the lowest bits up */
    size_t n = matrix->data.format == MOE_FORMAT_U4 ? 8 : 4;
    bool of_rows = matrix->packing == MOE_PACKING_COLS;
    size_t word_rows = of_rows ? rows : (rows + n - 1) / n, word_cols = of_rows ? (cols + n - 1) / n : cols;
    size_t step = matrix->transposed && matrix->element_stride != 0 ? matrix->element_stride : 4;
    size_t lines = matrix->transposed ? word_cols : word_rows;
    size_t stride = matrix->data.stride != 0 ? matrix->data.stride : word_rows * word_cols / lines * step;
    const char *start = expert_start(matrix, lines * stride, e);
    for (size_t i = 0; i < word_rows; i++)
        for (size_t j = 0; j < word_cols; j++) {
            uint8_t bytes[4];
            memcpy(bytes, start + (matrix->transposed ? j * stride + i * step : i * stride + j * step), 4);
            for (unsigned place = 0; place < n; place++) {
                size_t k = matrix->packing == MOE_PACKING_ROWS_AWQ ? awq_order[place] : place;
                size_t r = of_rows ? i : i * n + k, c = of_rows ? j * n + k : j;
                if (r < rows && c < cols)
                    out[r * cols + c] = n == 4 ? bytes[place] : bytes[place / 2] >> (place % 2 * 4) & 15;
            }
        }
}

/* Rows of blocks, without what may lie apart from them. */
static void read_codes(double *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    enum moe_format format = matrix->data.format;
    if (matrix->packing != MOE_PACKING_NONE) {
        read_packed(out, matrix, rows, cols, e);
        return;
    }
    if (matrix->transposed) {
        read_transposed(out, matrix, rows, cols, e);
        return;
    }
    size_t stride = matrix->data.stride != 0 ? matrix->data.stride : moe_format_row_bytes(format, cols);
    const char *start = expert_start(matrix, rows * stride, e);
    float *row = moe_ref_alloc(cols, sizeof *row);
    for (size_t r = 0; r < rows; r++) {
        bool index = format == MOE_FORMAT_I32;
        if (!index && moe_format_dequantise(format, row, start + r * stride, 1, cols) != MOE_OK)
            abort();
        for (size_t c = 0; c < cols; c++)
            out[r * cols + c] = index ? moe_ref_value(format, start + r * stride + c * 4) : row[c];
    }
    free(row);
}

/* One matrix of the scales as doubles, or value everywhere; free() it. */
static double *read_plane(const struct moe_matrix *plane, size_t rows, size_t cols, size_t e, double value)
{
    double *out = moe_ref_alloc(rows * cols, sizeof *out);
    for (size_t i = 0; i < rows * cols; i++)
        out[i] = value;
    if (plane != NULL)
        read_codes(out, plane, rows, cols, e);
    return out;
}

static void apply_scales(double *out, const struct moe_scales *scales, size_t rows, size_t cols, size_t e)
{
    size_t block_rows = scales->block_rows != 0 ? scales->block_rows : rows;
    size_t block_cols = scales->block_cols != 0 ? scales->block_cols : cols;
    size_t num_rows = (scales->first_row + rows + block_rows - 1) / block_rows;
    size_t num_cols = (cols + block_cols - 1) / block_cols;
    double *scale = read_plane(scales->scale, num_rows, num_cols, e, 1);
    double *zero = read_plane(scales->zero, num_rows, num_cols, e, 0);
    double *factor = read_plane(scales->factor, 1, 1, e, 1);
    double *column_block = read_plane(scales->column_block, 1, cols, e, 0);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            size_t j = scales->column_block != NULL ? (size_t)column_block[c] : c / block_cols;
            size_t block = (scales->first_row + r) / block_rows * num_cols + j;
            double value = (out[r * cols + c] - zero[block] - (double)scales->zero_offset) * scale[block];
            out[r * cols + c] = scales->factor_divides ? value / *factor : value * *factor;
        }
    free(scale);
    free(zero);
    free(factor);
    free(column_block);
}

void moe_ref_matrix(double *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    read_codes(out, matrix, rows, cols, e);
    if (matrix->scales != NULL)
        apply_scales(out, matrix->scales, rows, cols, e);
}

void moe_ref_bias(double *out, const struct moe_matrix *matrix, size_t rows, size_t e)
{
    const struct moe_view *bias = &matrix->bias;
    if (bias->base == NULL) {
        for (size_t r = 0; r < rows; r++)
            out[r] = 0;
        return;
    }
    size_t step = matrix->bias_element_stride != 0 ? matrix->bias_element_stride : value_bytes(bias->format);
    size_t stride = bias->stride != 0 ? bias->stride : rows * step;
    const char *start = (const char *)bias->base + bias->offset + e * stride;
    for (size_t r = 0; r < rows; r++)
        out[r] = moe_ref_value(bias->format, start + r * step);
}

void moe_ref_linear(double *y, double *magnitude, const double *w, const double *bias, const double *x, size_t rows,
                    size_t cols)
{
    for (size_t r = 0; r < rows; r++) {
        double sum = bias != NULL ? bias[r] : 0, absolute = fabs(sum);
        for (size_t c = 0; c < cols; c++) {
            sum += w[r * cols + c] * x[c];
            absolute += fabs(w[r * cols + c] * x[c]);
        }
        y[r] = sum;
        if (magnitude != NULL)
            magnitude[r] = absolute;
    }
}
