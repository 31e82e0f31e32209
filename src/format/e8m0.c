// SPDX-License-Identifier: MIT
// E8M0 of the OCP microscaling specification: 2^(v - 127), 255 is NaN; a block is one value. The format of scales.
#include "format/block.h"

struct block {
    uint8_t value;
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_E8M0, "the row of E8M0");

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    float *restrict values = out;
    const uint8_t *restrict bytes = in;
    for (size_t i = 0; i < num_blocks; i++)
        values[i] = moe_e8m0_to_f32(bytes[i]);
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if (blocks[i].value == 255)
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_E8M0 = {NULL, dequantise, find_nonfinite};
