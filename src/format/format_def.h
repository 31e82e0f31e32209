// SPDX-License-Identifier: MIT
// What one file of this folder provides: a definition of a format of weights.
#ifndef MOE_FORMAT_DEF_H
#define MOE_FORMAT_DEF_H

#include <stdbool.h>
#include <stddef.h>

#include "moe/format.h"

/* All three work on one row: num_blocks blocks without padding, at any alignment. They read and write exactly
 * num_blocks blocks and num_blocks * block_values floats. */
struct moe_format_def {
    void (*quantise)(void *out, const float *in, size_t num_blocks);
    void (*dequantise)(float *out, const void *in, size_t num_blocks);
    /* Index of the first block with a NaN or infinite scale or value; num_blocks if there is none. */
    size_t (*find_nonfinite)(const void *in, size_t num_blocks);
};

/* The definition of a format of weights, or NULL. */
const struct moe_format_def *moe_format_def(enum moe_format format);

/* src/format/<name>.c defines moe_format_def_<NAME> */
#define MOE_FORMAT_DECLARE(id, NAME, name, values, bytes) extern const struct moe_format_def moe_format_def_##NAME;
MOE_FORMAT_MAP(MOE_FORMAT_DECLARE)
#undef MOE_FORMAT_DECLARE

#endif
