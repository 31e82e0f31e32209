// SPDX-License-Identifier: MIT
// Q4_0: 32 values of 4 bits and one scale. value = d * (q - 8).
#include <float.h>

#include "format/block.h"

/* byte  0 .. 1   d, f16
 *       2 .. 17  q: low nibbles value 0 .. 15, high nibbles value 16 .. 31 */
struct block {
    uint8_t d[2];
    uint8_t q[16];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q4_0, "the row of Q4_0");

/* The first value of the largest magnitude, with its sign. */
static float find_extreme(const float *in)
{
    float extreme = 0, largest = 0;
    for (int i = 0; i < 32; i++) {
        float magnitude = in[i] < 0 ? -in[i] : in[i];
        if (magnitude > largest) {
            largest = magnitude;
            extreme = in[i];
        }
    }
    return extreme;
}

static uint8_t nearest_q(float value, float inverse)
{
    int q = (int)(value * inverse + 8.5f);
    return (uint8_t)(q < 15 ? q : 15);
}

/* The extreme value gets q = 0, -8 scales, so that the scale has its sign inverted: the range of q is not symmetric. */
static void quantise_block(struct block *block, const float *in)
{
    float d = find_extreme(in) / -8.0f;
    float inverse = d != 0 ? 1.0f / d : 0;
    if (max_magnitude(in, 32) > FLT_MAX) {
        memset(block, 0, sizeof *block);
        store_u16(block->d, MOE_F16_NAN);
        return;
    }
    if (inverse > FLT_MAX || inverse < -FLT_MAX)
        inverse = 0;
    store_u16(block->d, moe_f32_to_f16(d));
    for (int i = 0; i < 16; i++)
        block->q[i] = (uint8_t)(nearest_q(in[i], inverse) | nearest_q(in[i + 16], inverse) << 4);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++)
        quantise_block(&blocks[i], in + 32 * i);
}

static void dequantise_block(float *restrict out, const uint8_t *restrict q, float d)
{
    for (int i = 0; i < 16; i++)
        out[i] = d * (float)((q[i] & 15) - 8);
    for (int i = 0; i < 16; i++)
        out[i + 16] = d * (float)((q[i] >> 4) - 8);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++)
        dequantise_block(out + 32 * i, blocks[i].q, load_f16(blocks[i].d));
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if (!f16_is_finite(blocks[i].d))
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_Q4_0 = {quantise, dequantise, find_nonfinite};
