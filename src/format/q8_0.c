// SPDX-License-Identifier: MIT
// Q8_0: 32 values of 8 bits and one scale. value = q * d.
#include "format/block.h"

/* byte  0 .. 1   d, f16
 *       2 .. 33  q of value 0 .. 31, signed */
struct block {
    uint8_t d[2];
    int8_t q[32];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q8_0, "the row of Q8_0");

/* The quants are rounded with the f32 scale, before it is rounded to f16: so the files of other programs are. NaN and
 * infinities make d infinite. Where inverse is, d is 0 in f16, and the quants do not matter. */
static void quantise_block(struct block *block, const float *in)
{
    float d = max_magnitude(in, 32) / 127.0f;
    float inverse = d != 0 ? 1.0f / d : 0;
    store_u16(block->d, moe_f32_to_f16(d));
    for (int i = 0; i < 32; i++)
        block->q[i] = (int8_t)round_clamped(in[i] * inverse, -127, 127);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++)
        quantise_block(&blocks[i], in + 32 * i);
}

static void dequantise_block(float *restrict out, const int8_t *restrict q, float d)
{
    for (int i = 0; i < 32; i++)
        out[i] = (float)q[i] * d;
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++)
        dequantise_block(out + 32 * i, blocks[i].q, load_f16(blocks[i].d));
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_Q8_0 = {quantise, dequantise, find_nonfinite};
