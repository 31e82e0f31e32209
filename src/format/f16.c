// SPDX-License-Identifier: MIT
// F16: IEEE 754 half precision, little-endian; a block is one value: s eeeee mmmmmmmmmm.
#include "format/block.h"

struct block {
    uint8_t value[2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_F16, "the row of F16");

static void quantise(void *out, const float *in, size_t num_blocks)
{
    uint8_t *bytes = out;
    for (size_t i = 0; i < num_blocks; i++) {
        uint16_t half = moe_f32_to_f16(in[i]);
        memcpy(bytes + 2 * i, &half, sizeof half);
    }
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    float *restrict values = out;
    const uint8_t *restrict bytes = in;
    for (size_t i = 0; i < num_blocks; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, sizeof half);
        values[i] = moe_f16_to_f32(half);
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if (!f16_is_finite(blocks[i].value))
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_F16 = {quantise, dequantise, find_nonfinite};
