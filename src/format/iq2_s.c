// SPDX-License-Identifier: MIT
// IQ2_S: 256 values in 16 groups of 16; each 8 values are a row of a code book of 1024 and 8 signs.
// value = d * (scale + 1/2) / 4 * magnitude.
#include "format/block.h"
#include "format/iq_grids.h"

/* byte  0 ..  1  d, f16
 *       2 .. 33  the lower 8 bits of 32 rows of the code book
 *      34 .. 65  signs: bit i of byte k is 1 where value 8 k + i is negative
 *      66 .. 73  the upper 2 bits of the rows: row k is in byte k / 4, bits 2 (k % 4) and above
 *      74 .. 81  scales of 4 bits: even groups in low nibbles, odd ones in high nibbles */
struct block {
    uint8_t d[2];
    uint8_t low[32];
    uint8_t signs[32];
    uint8_t high[8];
    uint8_t scales[8];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ2_S, "the row of IQ2_S");

static inline void unpack_8(uint8_t *q, const struct block *block, int k)
{
    int row = block->low[k] | (block->high[k / 4] >> 2 * (k % 4) & 3) << 8;
    iq_store(q, iq_negate(iq_magnitudes_2(moe_iq_grids_iq2_s[row]), block->signs[k]));
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        for (int g = 0; g < 16; g++) {
            int scale = blocks[i].scales[g / 2] >> 4 * (g % 2) & 15;
            uint8_t q[16];
            unpack_8(q, &blocks[i], 2 * g);
            unpack_8(q + 8, &blocks[i], 2 * g + 1);
            iq_scale(out + 256 * i + 16 * g, q, 16, d * (0.5f + (float)scale) * 0.25f);
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

const struct moe_format_def moe_format_def_IQ2_S = {NULL, dequantise, find_nonfinite};
