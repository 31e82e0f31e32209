// SPDX-License-Identifier: MIT
// linear and linear_scaled on AVX-512 for any format, through a function that unpacks blocks to f32.
#ifndef MOE_LINEAR_AVX512_H
#define MOE_LINEAR_AVX512_H

#include "cpu/kernels.h"

struct moe_linear_matrix {
    const struct moe_linear_args *args;
    const struct moe_slice_scales *scales;      /* NULL: none, the values are the blocks' */
    size_t first_row;                           /* of the scales' matrix */
    void (*dequantise)(float *out, const void *in, size_t num_blocks);
    size_t block_values, block_bytes;
};

void moe_linear_run_avx512(const struct moe_linear_matrix *m);

#endif
