// SPDX-License-Identifier: MIT
// IQ3_XXS: 256 values in 8 groups of 32; each 4 values are a row of a code book of 256, each 8 have 7 signs.
// value = d * (scale + 1/2) / 2 * magnitude.
#include "format/block.h"
#include "format/iq_grids.h"

/* byte  0 ..  1  d, f16
 *       2 .. 65  64 rows of the code book
 *      66 .. 97  a word of 32 bits for each group, lowest byte first: bits 7 k .. 7 k + 6 the signs of its values
 *                8 k .. 8 k + 7, bits 28 .. 31 the scale of the group */
struct block {
    uint8_t d[2];
    uint8_t rows[64];
    uint8_t words[8][4];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ3_XXS, "the row of IQ3_XXS");

/* 4 + 8 c in each byte, and 2 more for c = 7. */
static inline uint64_t magnitudes(const uint8_t rows[2])
{
    uint64_t c = iq_spread_4(moe_iq_grids_iq3_xxs[rows[0]], moe_iq_grids_iq3_xxs[rows[1]]);
    uint64_t is_7 = c & c >> 1 & c >> 2 & IQ_EACH_BYTE;
    return 4 * IQ_EACH_BYTE + 8 * c + 2 * is_7;
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        for (int g = 0; g < 8; g++) {
            const uint8_t *bytes = blocks[i].words[g], *rows = blocks[i].rows + 8 * g;
            uint32_t word = load_u16(bytes) | (uint32_t)load_u16(bytes + 2) << 16;
            uint8_t q[32];
            for (int k = 0; k < 4; k++)
                iq_store(q + 8 * k, iq_negate(magnitudes(rows + 2 * k), iq_even_signs(word >> 7 * k & 127)));
            iq_scale(out + 256 * i + 32 * g, q, 32, d * (0.5f + (float)(word >> 28)) * 0.5f);
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

const struct moe_format_def moe_format_def_IQ3_XXS = {NULL, dequantise, find_nonfinite};
