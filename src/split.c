// SPDX-License-Identifier: MIT
// Blocks taken apart. Layouts of blocks are those of format/mxfp4.c, q8_0.c and q4_0.c: a scale of 1 or 2 bytes in
// front of the codes of 32 columns. Of 4-bit codes byte j has columns j and j + 16 there, 2 j and 2 j + 1 in planes.
#include "split.h"

#include <string.h>

enum { NIBBLE_BYTES = MOE_SPLIT_COLS / 2 };

static void split_nibbles(unsigned char *out, const unsigned char *in)
{
    for (size_t j = 0; j < NIBBLE_BYTES / 2; j++) {
        out[j] = (unsigned char)((in[2 * j] & 15) | (in[2 * j + 1] & 15) << 4);
        out[NIBBLE_BYTES / 2 + j] = (unsigned char)(in[2 * j] >> 4 | (in[2 * j + 1] & 0xf0));
    }
}

static void split_rows_of_nibbles(unsigned char *codes, unsigned char *scales, const unsigned char *blocks,
                                  size_t num_blocks, size_t scale_bytes)
{
    for (size_t i = 0; i < num_blocks; i++) {
        const unsigned char *block = blocks + i * (scale_bytes + NIBBLE_BYTES);
        memcpy(scales + i * scale_bytes, block, scale_bytes);
        split_nibbles(codes + i * NIBBLE_BYTES, block + scale_bytes);
    }
}

static void split_mxfp4(unsigned char *codes, unsigned char *scales, const unsigned char *blocks, size_t num_blocks)
{
    split_rows_of_nibbles(codes, scales, blocks, num_blocks, 1);
}

static void split_q4_0(unsigned char *codes, unsigned char *scales, const unsigned char *blocks, size_t num_blocks)
{
    split_rows_of_nibbles(codes, scales, blocks, num_blocks, 2);
}

static void split_q8_0(unsigned char *codes, unsigned char *scales, const unsigned char *blocks, size_t num_blocks)
{
    for (size_t i = 0; i < num_blocks; i++) {
        const unsigned char *block = blocks + i * (2 + MOE_SPLIT_COLS);
        memcpy(scales + 2 * i, block, 2);
        memcpy(codes + i * MOE_SPLIT_COLS, block + 2, MOE_SPLIT_COLS);
    }
}

const struct moe_split *moe_split_find(enum moe_format format, size_t cols)
{
    static const struct moe_split mxfp4 = {MOE_FORMAT_E2M1, MOE_FORMAT_E8M0, 0.0f, split_mxfp4};
    static const struct moe_split q4_0 = {MOE_FORMAT_U4, MOE_FORMAT_F16, 8.0f, split_q4_0};
    static const struct moe_split q8_0 = {MOE_FORMAT_I8, MOE_FORMAT_F16, 0.0f, split_q8_0};
    if (moe_format_info(format)->block_bytes % 2 == 0 && moe_format_row_bytes(format, cols) % 16 == 0)
        return NULL;
    switch (format) {
    case MOE_FORMAT_MXFP4:
        return &mxfp4;
    case MOE_FORMAT_Q4_0:
        return &q4_0;
    case MOE_FORMAT_Q8_0:
        return &q8_0;
    default:
        return NULL;
    }
}
