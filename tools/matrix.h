// SPDX-License-Identifier: MIT
// Rows of a struct moe_matrix in host memory as f32, whatever its format, strides, or transposition.
#ifndef MATRIX_H
#define MATRIX_H

#include "tool.h"

/* out[num_rows, cols] = rows row .. row + num_rows - 1 of expert e, which has [rows, cols] in all. false: a format
 * that this library does not know; the error is printed. */
bool matrix_rows(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row, size_t num_rows,
                 float *out);

/* out[count] = the biases of expert e. */
bool matrix_bias(const struct moe_matrix *matrix, size_t e, size_t count, float *out);

/* out[count] = values of a view, dense. */
bool matrix_view(const struct moe_view *view, size_t count, float *out);

#endif
