// SPDX-License-Identifier: MIT
// F32: IEEE 754 single precision, little-endian; a block is one value.
#include "format/block.h"

struct block {
    uint8_t value[4];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_F32, "the row of F32");

static void quantise(void *out, const float *in, size_t num_blocks)
{
    memcpy(out, in, num_blocks * sizeof(struct block));
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    memcpy(out, in, num_blocks * sizeof(struct block));
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if ((blocks[i].value[3] & 0x7f) == 0x7f && (blocks[i].value[2] & 0x80))
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_F32 = {quantise, dequantise, find_nonfinite};
