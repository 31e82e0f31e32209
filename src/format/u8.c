// SPDX-License-Identifier: MIT
// U8: an integer of 0 to 255; a block is one value. Of weights with scales and zeros apart.
#include "format/block.h"

struct block {
    uint8_t value;
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_U8, "the row of U8");

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    float *restrict values = out;
    const uint8_t *restrict bytes = in;
    for (size_t i = 0; i < num_blocks; i++)
        values[i] = (float)bytes[i];
}

/* Every code is a number. */
static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    (void)in;
    return num_blocks;
}

const struct moe_format_def moe_format_def_U8 = {NULL, dequantise, find_nonfinite};
