// SPDX-License-Identifier: MIT
// I8: an integer of -128 to 127; a block is one value. Of weights with scales apart, and of GGUF.
#include "format/block.h"

struct block {
    uint8_t value;
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_I8, "the row of I8");

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    float *restrict values = out;
    const uint8_t *restrict bytes = in;
    for (size_t i = 0; i < num_blocks; i++)
        values[i] = (float)(int8_t)bytes[i];
}

/* Every code is a number. */
static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    (void)in;
    return num_blocks;
}

const struct moe_format_def moe_format_def_I8 = {NULL, dequantise, find_nonfinite};
