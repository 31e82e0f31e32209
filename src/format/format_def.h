// SPDX-License-Identifier: MIT
// What one file of this folder provides: a definition of a format of weights.
#ifndef MOE_FORMAT_DEF_H
#define MOE_FORMAT_DEF_H

#include <stdbool.h>
#include <stddef.h>

#include "moe/format.h"

/* All three work on num_blocks blocks without padding, at any alignment (floats are aligned as such), and read and
 * write exactly those and num_blocks * block_values floats. A block does not depend on its neighbours. dequantise is
 * the inner loop of the portable kernels: its loops are to be ones that compilers vectorise. quantise takes any bits:
 * where the input has NaN or infinities, it makes a block that find_nonfinite finds. */
struct moe_format_def {
    /* NULL: a format that is only read. */
    void (*quantise)(void *out, const float *in, size_t num_blocks);
    void (*dequantise)(float *out, const void *in, size_t num_blocks);
    /* Index of the first block with a NaN or infinite scale or value; num_blocks if there is none. */
    size_t (*find_nonfinite)(const void *in, size_t num_blocks);
};

/* src/format/<name>.c defines moe_format_def_<NAME> */
#define MOE_FORMAT_DECLARE(id, NAME, name, values, bytes) extern const struct moe_format_def moe_format_def_##NAME;
MOE_FORMAT_MAP(MOE_FORMAT_DECLARE)
#undef MOE_FORMAT_DECLARE

#endif
