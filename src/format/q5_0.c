// SPDX-License-Identifier: MIT
// Q5_0: 32 values of 5 bits and one scale. value = d * (q - 16).
#include "format/block.h"
#include "format/legacy.h"

/* byte  0 .. 1   d, f16
 *       2 .. 5   high: bit 4 of q of value i is bit i % 8 of byte i / 8
 *       6 .. 21  low, the lower 4 bits: low nibbles value 0 .. 15, high nibbles value 16 .. 31 */
struct block {
    uint8_t d[2];
    uint8_t high[4];
    uint8_t low[16];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q5_0, "the row of Q5_0");

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++) {
        uint8_t q[32];
        legacy_symmetric(q, blocks[i].d, in + 32 * i, 16);
        legacy_pack_nibbles(blocks[i].low, q);
        legacy_pack_fifth(blocks[i].high, q);
    }
}

static void dequantise_block(float *restrict out, const struct block *restrict block)
{
    float d = load_f16(block->d);
    uint8_t q[32];
    legacy_unpack_five(q, block->low, block->high);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(q[i] - 16);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++)
        dequantise_block(out + 32 * i, &blocks[i]);
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_Q5_0 = {quantise, dequantise, find_nonfinite};
