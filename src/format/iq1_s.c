// SPDX-License-Identifier: MIT
// IQ1_S: 256 values in 8 groups of 32; each 8 values are a row of a code book of 2048, with values -1, 0 and 1.
// value = d * (2 scale + 1) * (c - 1 + delta), where delta is 1/8 or -1/8 for a whole group.
#include "format/block.h"
#include "format/iq_grids.h"

/* byte  0 ..  1  d, f16
 *       2 .. 33  the lower 8 bits of 32 rows of the code book
 *      34 .. 49  a number of 16 bits for each group, lowest byte first: bits 3 k .. 3 k + 2 the upper bits of its
 *                row k, bits 12 .. 14 the scale, bit 15 is 1 where delta is negative */
struct block {
    uint8_t d[2];
    uint8_t low[32];
    uint8_t high[8][2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ1_S, "the row of IQ1_S");

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        for (int g = 0; g < 8; g++) {
            unsigned high = load_u16(blocks[i].high[g]);
            uint8_t q[32];
            for (int k = 0; k < 4; k++) {
                unsigned row = blocks[i].low[4 * g + k] | (high >> 3 * k & 7) << 8;
                iq_store(q + 8 * k, iq_eighths(moe_iq_grids_iq1[row], high >> 15));
            }
            iq_scale_eighths(out + 256 * i + 32 * g, q, 32, d * (float)(2 * (high >> 12 & 7) + 1));
        }
    }
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

const struct moe_format_def moe_format_def_IQ1_S = {NULL, dequantise, find_nonfinite};
