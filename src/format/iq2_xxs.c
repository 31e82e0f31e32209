// SPDX-License-Identifier: MIT
// IQ2_XXS: 256 values in 8 groups of 32; each 8 values are a row of a code book of 256 and 7 signs.
// value = d * (scale + 1/2) / 4 * magnitude.
#include "format/block.h"
#include "format/iq_grids.h"

/* byte  0 ..  1  d, f16
 *       2 .. 65  8 bytes for each group: 4 rows of the code book, then a word of 32 bits, lowest byte first:
 *                bits 7 k .. 7 k + 6 the signs of row k, bits 28 .. 31 the scale of the group */
struct block {
    uint8_t d[2];
    uint8_t groups[8][8];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ2_XXS, "the row of IQ2_XXS");

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        for (int g = 0; g < 8; g++) {
            const uint8_t *group = blocks[i].groups[g];
            uint32_t word = load_u16(group + 4) | (uint32_t)load_u16(group + 6) << 16;
            uint8_t q[32];
            for (int k = 0; k < 4; k++) {
                unsigned signs = iq_even_signs(word >> 7 * k & 127);
                iq_store(q + 8 * k, iq_negate(iq_magnitudes_2(moe_iq_grids_iq2_xxs[group[k]]), signs));
            }
            iq_scale(out + 256 * i + 32 * g, q, 32, d * (0.5f + (float)(word >> 28)) * 0.25f);
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

const struct moe_format_def moe_format_def_IQ2_XXS = {NULL, dequantise, find_nonfinite};
