// SPDX-License-Identifier: MIT
// IQ4_NL: 32 values of a code book of 16, and one scale. value = d * book[q].
#include "format/block.h"
#include "format/iq4.h"
#include "format/scales.h"

/* byte  0 .. 1   d, f16
 *       2 .. 17  q: low nibbles value 0 .. 15, high nibbles value 16 .. 31 */
struct block {
    uint8_t d[2];
    uint8_t q[16];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ4_NL, "the row of IQ4_NL");

/* NaN, infinite or too large: a block of zeros with d = NaN. */
static void quantise_block(struct block *block, const float *in)
{
    static const struct moe_scales_grid grid = {iq4_round, -127, 2.0f, 8, iq4_values, 16};
    float d;
    int8_t values[32];
    memset(block, 0, sizeof *block);
    if (max_magnitude(in, 32) > MOE_SCALES_MOST_D * 127) {
        store_u16(block->d, MOE_F16_NAN);
        return;
    }
    d = moe_scales_round_d(moe_scales_search(in, 32, &grid));
    store_u16(block->d, moe_f32_to_f16(d));
    iq4_round(values, in, d != 0 ? 1.0f / d : 0, 32);
    for (int i = 0; i < 16; i++)
        block->q[i] = (uint8_t)(iq4_code(values[i]) | iq4_code(values[i + 16]) << 4);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++)
        quantise_block(&blocks[i], in + 32 * i);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++)
        iq4_dequantise(out + 32 * i, blocks[i].q, load_f16(blocks[i].d));
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_IQ4_NL = {quantise, dequantise, find_nonfinite};
