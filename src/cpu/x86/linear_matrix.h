// SPDX-License-Identifier: MIT
// linear of a matrix in any format, through a function that unpacks its blocks to f32: the parts of a level that do not
// depend on the format.
#ifndef MOE_LINEAR_MATRIX_H
#define MOE_LINEAR_MATRIX_H

#include "cpu/kernels.h"

struct moe_linear_matrix {
    const struct moe_linear_args *args;
    const struct moe_slice_scales *scales;      /* NULL: none, the values are the blocks' */
    size_t first_row;                           /* of the scales' matrix */
    void (*dequantise)(float *out, const void *in, size_t num_blocks);
    size_t block_values, block_bytes;
};
typedef void moe_linear_run_fn(const struct moe_linear_matrix *m);

moe_linear_run_fn moe_linear_run_avx2;
moe_linear_run_fn moe_linear_run_avx512;

#endif
