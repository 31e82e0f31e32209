// SPDX-License-Identifier: MIT
// IQ3_S: 256 values in 8 groups of 32; each 4 values are a row of a code book of 512, each value has a sign.
// value = d * (2 scale + 1) * magnitude.
#include "format/block.h"
#include "format/iq_grids.h"

/* byte  0 ..   1  d, f16
 *       2 ..  65  the lower 8 bits of 64 rows of the code book
 *      66 ..  73  the highest bits of the rows: row k has bit k % 8 of byte k / 8
 *      74 .. 105  signs: bit i of byte k is 1 where value 8 k + i is negative
 *     106 .. 109  scales of 4 bits: even groups in low nibbles, odd ones in high nibbles */
struct block {
    uint8_t d[2];
    uint8_t low[64];
    uint8_t high[8];
    uint8_t signs[32];
    uint8_t scales[4];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ3_S, "the row of IQ3_S");

static inline uint16_t row_of(const struct block *block, int k)
{
    return moe_iq_grids_iq3_s[block->low[k] | (block->high[k / 8] >> k % 8 & 1) << 8];
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        for (int g = 0; g < 8; g++) {
            int scale = blocks[i].scales[g / 2] >> 4 * (g % 2) & 15;
            uint8_t q[32];
            for (int k = 4 * g; k < 4 * g + 4; k++) {
                uint64_t c = iq_spread_4(row_of(&blocks[i], 2 * k), row_of(&blocks[i], 2 * k + 1));
                iq_store(q + 8 * (k % 4), iq_negate(2 * c + IQ_EACH_BYTE, blocks[i].signs[k]));
            }
            iq_scale(out + 256 * i + 32 * g, q, 32, d * (float)(2 * scale + 1));
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

const struct moe_format_def moe_format_def_IQ3_S = {NULL, dequantise, find_nonfinite};
