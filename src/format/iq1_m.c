// SPDX-License-Identifier: MIT
// IQ1_M: 256 values in 16 groups of 16; each 8 values are a row of a code book of 2048, with values -1, 0 and 1.
// value = d * (2 scale + 1) * (c - 1 + delta), where delta is 1/8 or -1/8 for each row.
#include "format/block.h"
#include "format/iq_grids.h"

/* byte  0 .. 31  the lower 8 bits of 32 rows of the code book
 *      32 .. 47  row k is in byte k / 2, even k in the low nibble, odd k in the high one: bits 0 .. 2 the upper bits of
 *                the row, bit 3 is 1 where delta is negative
 *      48 .. 55  4 numbers of 16 bits, lowest byte first: bits 3 k .. 3 k + 2 of number n the scale of group 4 n + k,
 *                bits 12 .. 15 the bits 4 n .. 4 n + 3 of d, f16 */
struct block {
    uint8_t low[32];
    uint8_t high[16];
    uint8_t scales[4][2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ1_M, "the row of IQ1_M");

static uint16_t gather_d(const struct block *block)
{
    return (uint16_t)(block->scales[0][1] >> 4 | (block->scales[1][1] & 0xf0) | (block->scales[2][1] & 0xf0) << 4 |
                      (block->scales[3][1] & 0xf0) << 8);
}

static inline void unpack_8(uint8_t *q, const struct block *block, int k)
{
    unsigned high = block->high[k / 2] >> 4 * (k % 2) & 15;
    iq_store(q, iq_eighths(moe_iq_grids_iq1[block->low[k] | (high & 7) << 8], high >> 3));
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = moe_f16_to_f32(gather_d(&blocks[i]));
        for (int g = 0; g < 16; g++) {
            int scale = load_u16(blocks[i].scales[g / 4]) >> 3 * (g % 4) & 7;
            uint8_t q[16];
            unpack_8(q, &blocks[i], 2 * g);
            unpack_8(q + 8, &blocks[i], 2 * g + 1);
            iq_scale_eighths(out + 256 * i + 16 * g, q, 16, d * (float)(2 * scale + 1));
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if ((gather_d(&blocks[i]) & 0x7c00) == 0x7c00)
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_IQ1_M = {NULL, dequantise, find_nonfinite};
