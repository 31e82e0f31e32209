// SPDX-License-Identifier: MIT
// Rows of one expert's matrix for a run of tokens, as both halves of an expert need it.
#ifndef MOE_CPU_EXPERTS_CPU_H
#define MOE_CPU_EXPERTS_CPU_H

#include "cpu/cpu.h"

/* Tokens that one call of linear gets: their x stays in the second cache while the rows go by. */
enum { MOE_LINEAR_TOKENS = 64 };

/* f32 rows, in order or chosen by x_rows. */
struct moe_cpu_input {
    const float *x;
    size_t x_stride;           /* floats */
    const int32_t *x_rows;     /* NULL: in order */
};

/* y[t * y_stride + i] = row first + i of matrix e times the input's row t, plus bias; i < rows, t < num_tokens. */
void moe_experts_cpu_linear(const struct moe_kernels *kernels, float *y, size_t y_stride,
                            const struct moe_stack *stack, size_t e, size_t first, size_t rows,
                            const struct moe_cpu_input *input, size_t num_tokens);

#endif
