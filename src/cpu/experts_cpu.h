// SPDX-License-Identifier: MIT
// Rows of one expert's matrix for a run of tokens, as both halves of an expert need it.
#ifndef MOE_CPU_EXPERTS_CPU_H
#define MOE_CPU_EXPERTS_CPU_H

#include "cpu/cpu.h"

/* Tokens that one call of linear gets: their x stays in the second cache while the rows go by. */
enum { MOE_LINEAR_TOKENS = 128 };

/* Rows of activations, in order or chosen by rows. */
struct moe_cpu_input {
    enum moe_cpu_kind kind;
    const unsigned char *x;
    size_t stride;             /* bytes */
    const int32_t *rows;       /* NULL: in order */
};

static inline struct moe_cpu_input moe_experts_cpu_rows_input(const struct moe_cpu_rows *rows)
{
    return (struct moe_cpu_input){MOE_CPU_F32, (const unsigned char *)rows->data, rows->stride * sizeof(float), NULL};
}

static inline struct moe_cpu_input moe_experts_cpu_acts_input(const struct moe_cpu_acts *acts)
{
    return (struct moe_cpu_input){acts->kind, acts->data, acts->stride, NULL};
}

/* Rows of a matrix, and what the lane will read after them: a hint, NULL if nothing is known. */
struct moe_cpu_slab {
    const struct moe_stack *stack;
    size_t e, first, rows;
    const unsigned char *next;
};

const unsigned char *moe_experts_cpu_address(const struct moe_stack *stack, size_t e, size_t row);

/* y[t * y_stride + i] = row first + i of matrix e times the input's row t, plus bias; i < rows, t < num_tokens.
 * panels: a lane's moe_cpu_panels; not used for f32. */
void moe_experts_cpu_linear(const struct moe_kernels *kernels, float *y, size_t y_stride,
                            const struct moe_cpu_slab *slab, const struct moe_cpu_input *input, size_t num_tokens,
                            void *panels);

/* round_cpu.c. The kind that matrices of both stacks take (second may be NULL); many: where there is a choice, for many
 * tokens of each matrix. */
enum moe_cpu_kind moe_round_cpu_kind(const struct moe_kernels *kernels, const struct moe_stack *first,
                                     const struct moe_stack *second, bool many);
/* Bytes of a row; 0: they overflow. */
size_t moe_round_cpu_row_bytes(enum moe_cpu_kind kind, size_t cols);
/* Values first.. first + n of a row of cols values; for int8 whole units (q8.h). */
void moe_round_cpu_put(const struct moe_kernels *kernels, enum moe_cpu_kind kind, unsigned char *row, size_t cols,
                       size_t first, const float *x, size_t n);

#endif
