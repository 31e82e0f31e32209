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

double moe_ref_value(enum moe_format format, const void *at)
{
    switch ((int)format) {
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

/* Stored [cols, rows]: row c of the file is column c of the matrix. */
static void read_transposed(double *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    enum moe_format format = matrix->data.format;
    size_t step = matrix->element_stride != 0 ? matrix->element_stride : value_bytes(format);
    size_t stride = matrix->data.stride != 0 ? matrix->data.stride : rows * step;
    const char *start = expert_start(matrix, cols * stride, e);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            out[r * cols + c] = moe_ref_value(format, start + c * stride + r * step);
}

void moe_ref_matrix(double *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    if (matrix->transposed) {
        read_transposed(out, matrix, rows, cols, e);
        return;
    }
    enum moe_format format = matrix->data.format;
    size_t stride = matrix->data.stride != 0 ? matrix->data.stride : moe_format_row_bytes(format, cols);
    const char *start = expert_start(matrix, rows * stride, e);
    float *row = moe_ref_alloc(cols, sizeof *row);
    for (size_t r = 0; r < rows; r++) {
        if (moe_format_dequantise(format, row, start + r * stride, 1, cols) != MOE_OK)
            abort();
        for (size_t c = 0; c < cols; c++)
            out[r * cols + c] = row[c];
    }
    free(row);
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
