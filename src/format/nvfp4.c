// SPDX-License-Identifier: MIT
// NVFP4 as GGUF has it: 64 values of E2M1 in 4 groups of 16, each with a scale of E4M3 without a sign.
// value = scale * E2M1. What brings weights into the range of these scales is a tensor of its own.
#include "format/block.h"
#include "format/fp4.h"

/* byte  0 .. 3   scales of groups 0 .. 3: eeee mmm, exponent bias 7; bit 7 is not read
 *       4 .. 35  q: 8 bytes for each group; low nibbles value 0 .. 7, high nibbles value 8 .. 15; a nibble is s ee m */
struct block {
    uint8_t scales[4];
    uint8_t q[32];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_NVFP4, "the row of NVFP4");

/* The code of NaN, and the largest one that is a number, 448. */
enum { NAN_CODE = 0x7f, MOST_CODE = 0x7e };
#define MAX_MAGNITUDE (448.0f * 6.0f)

/* Half the scale of a code, as fp4.h has it. NaN is read as 0, as llama.cpp does: only find_nonfinite tells. */
static float half_scale(uint8_t code)
{
    uint32_t exponent = code >> 3 & 15, mantissa = code & 7;
    if (code == NAN_CODE)
        return 0;
    return exponent > 0 ? moe_f32_from_bits((exponent + 119) << 23 | mantissa << 20) : (float)mantissa * 0x1p-10f;
}

/* Tried are the scales that bring the largest value to 8 (which is cut to 6) and below, down to 1, or to 0.5 where half
 * the scale is no scale: among them is one that holds values which came from the format. */
static void quantise_group(uint8_t *scale, uint8_t *q, const float *in)
{
    float largest = max_magnitude(in, 16);
    uint8_t codes[16] = {0}, other[16];
    double least = INFINITY;
    *scale = largest <= MAX_MAGNITUDE ? 0 : NAN_CODE;
    for (int code = 1; code <= MOST_CODE && largest > 0 && largest <= MAX_MAGNITUDE; code++) {
        double half = (double)half_scale((uint8_t)code), error;
        if (16 * half < (double)largest)
            continue;
        error = fp4_encode(other, in, 16, 1 / half) * half * half;
        if (error < least) {
            least = error;
            *scale = (uint8_t)code;
            memcpy(codes, other, sizeof codes);
        }
        if ((code < 16 ? half : 2 * half) >= (double)largest)
            break;
    }
    for (int i = 0; i < 8; i++)
        q[i] = (uint8_t)(codes[i] | codes[i + 8] << 4);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++) {
        for (int g = 0; g < 4; g++)
            quantise_group(&blocks[i].scales[g], blocks[i].q + 8 * g, in + 64 * i + 16 * g);
    }
}

/* All codes of the block before the scales, because 8 of them are too few for a vector. */
static void dequantise_block(float *restrict out, const struct block *restrict block)
{
    int8_t low[32], high[32];
    for (int i = 0; i < 32; i++)
        low[i] = (int8_t)fp4_doubled(block->q[i] & 15);
    for (int i = 0; i < 32; i++)
        high[i] = (int8_t)fp4_doubled(block->q[i] >> 4);
    for (int g = 0; g < 4; g++) {
        float d = half_scale(block->scales[g]);
        for (int i = 0; i < 8; i++)
            out[16 * g + i] = d * (float)low[8 * g + i];
        for (int i = 0; i < 8; i++)
            out[16 * g + 8 + i] = d * (float)high[8 * g + i];
    }
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++)
        dequantise_block(out + 64 * i, &blocks[i]);
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        for (int g = 0; g < 4; g++) {
            if ((blocks[i].scales[g] & 0x7f) == NAN_CODE)
                return i;
        }
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_NVFP4 = {quantise, dequantise, find_nonfinite};
