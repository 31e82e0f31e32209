// SPDX-License-Identifier: MIT
// MXFP4 of the OCP microscaling specification: 32 values of E2M1 and one scale of E8M0. value = 2^(e - 127) * E2M1.
#include <float.h>
#include <math.h>

#include "format/block.h"
#include "format/fp4.h"

/* byte  0        e, E8M0; 255 is NaN
 *       1 .. 16  q: low nibbles value 0 .. 15, high nibbles value 16 .. 31; a nibble is s ee m */
struct block {
    uint8_t e;
    uint8_t q[16];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_MXFP4, "the row of MXFP4");

/* 2^(e - 128). e = 0 and 1 give f32 denormals, which halving in f32 would lose where a CPU flushes them. */
static float half_scale(uint8_t e)
{
    uint32_t bits = e < 2 ? (uint32_t)0x00200000u << e : (uint32_t)(e - 1) << 23;
    return moe_f32_from_bits(e == 255 ? 0x7fc00000u : bits);
}

/* The codes at exponent e, and the sum of their squared errors. Scaling in double is exact. */
static double encode(uint8_t codes[32], const float *in, int e)
{
    return fp4_encode(codes, in, 32, ldexp(1.0, 128 - e)) * ldexp(1.0, 2 * (e - 128));
}

/* The natural exponent brings the largest value into 4 .. 8, where all above 7 is cut to 6: so its neighbours are tried
 * too. Above 252 a code could stand for more than f32 holds. */
static void quantise_block(struct block *block, const float *in)
{
    float largest = max_magnitude(in, 32);
    uint8_t codes[32], other[32];
    double error;
    int natural, first, last;
    memset(block, 0, sizeof *block);
    if (!(largest > 0) || largest > FLT_MAX) {
        block->e = largest > 0 ? 255 : 0;
        return;
    }
    (void)frexpf(largest, &natural);
    natural = natural + 124 > 0 ? natural + 124 : 0;
    first = natural > 0 ? natural - 1 : 0;
    last = natural < 252 ? natural + 1 : 252;
    error = encode(codes, in, natural);
    block->e = (uint8_t)natural;
    for (int e = first; e <= last; e++) {
        double other_error = encode(other, in, e);
        if (other_error < error) {
            error = other_error;
            block->e = (uint8_t)e;
            memcpy(codes, other, sizeof codes);
        }
    }
    for (int i = 0; i < 16; i++)
        block->q[i] = (uint8_t)(codes[i] | codes[i + 16] << 4);
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
        out[i] = d * (float)fp4_doubled(q[i] & 15);
    for (int i = 0; i < 16; i++)
        out[i + 16] = d * (float)fp4_doubled(q[i] >> 4);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++)
        dequantise_block(out + 32 * i, blocks[i].q, half_scale(blocks[i].e));
}

/* From 2^126 on, the larger codes are beyond f32. */
static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float values[32];
        if (blocks[i].e < 253)
            continue;
        dequantise(values, &blocks[i], 1);
        if (max_magnitude(values, 32) > FLT_MAX)
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_MXFP4 = {quantise, dequantise, find_nonfinite};
