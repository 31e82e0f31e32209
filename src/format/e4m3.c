// SPDX-License-Identifier: MIT
// E4M3 of the OCP 8-bit floats: s eeee mmm, a block is one value. No infinities; 0x7f and 0xff are NaN; the largest
// value is 448.
#include "format/block.h"

struct block {
    uint8_t value;
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_E4M3, "the row of E4M3");

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    float *restrict values = out;
    const uint8_t *restrict bytes = in;
    for (size_t i = 0; i < num_blocks; i++)
        values[i] = moe_e4m3_to_f32(bytes[i]);
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if ((blocks[i].value & 0x7f) == 0x7f)
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_E4M3 = {NULL, dequantise, find_nonfinite};
