// SPDX-License-Identifier: MIT
// BF16: the upper half of an F32, little-endian; a block is one value: s eeeeeeee mmmmmmm.
#include "format/block.h"

struct block {
    uint8_t value[2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_BF16, "the row of BF16");

static void quantise(void *out, const float *in, size_t num_blocks)
{
    uint8_t *bytes = out;
    for (size_t i = 0; i < num_blocks; i++) {
        uint16_t half = moe_f32_to_bf16(in[i]);
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
        values[i] = moe_bf16_to_f32(half);
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if ((blocks[i].value[1] & 0x7f) == 0x7f && (blocks[i].value[0] & 0x80))
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_BF16 = {quantise, dequantise, find_nonfinite};
