// SPDX-License-Identifier: MIT
// IQ4_XS: 256 values of a code book of 16 in 8 groups of 32, each with a scale of 6 bits.
// value = (d * (scale - 32)) * book[q].
#include "format/block.h"
#include "format/iq4.h"
#include "format/scales.h"

/* byte  0 .. 1    d, f16
 *       2 .. 3    high: the upper 2 bits of scale g are bits 2 g and 2 g + 1 of the two bytes, little-endian
 *       4 .. 7    low: the lower 4 bits of scale g are in byte g / 2, the low nibble for even g
 *       8 .. 135  q: 16 bytes for each group; low nibbles value 0 .. 15, high nibbles value 16 .. 31 */
struct block {
    uint8_t d[2];
    uint8_t high[2];
    uint8_t low[4];
    uint8_t q[128];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_IQ4_XS, "the row of IQ4_XS");

enum { GROUPS = 8, GROUP_VALUES = 32 };

static void pack(void *block, const struct moe_scales_solution *solution)
{
    struct block *out = block;
    int high = 0;
    store_u16(out->d, solution->d);
    for (int g = 0; g < GROUPS; g++) {
        int scale = solution->scales[g] + 32;
        out->low[g / 2] |= (uint8_t)((scale & 15) << g % 2 * 4);
        high |= (scale >> 4) << 2 * g;
    }
    store_u16(out->high, (uint16_t)high);
    for (int i = 0; i < 256; i++)
        out->q[i / 32 * 16 + i % 16] |= (uint8_t)(iq4_code(solution->q[i]) << i / 16 % 2 * 4);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    static const struct moe_scales_shape shape = {
        .grid = {iq4_round, -127, 2.0f, 8, iq4_values, 16}, .num_groups = GROUPS, .most_scale = 31, .reach = 1,
        .block_bytes = sizeof(struct block), .d_offset = offsetof(struct block, d), .pack = pack};
    moe_scales_quantise(out, in, num_blocks, &shape);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d);
        int high = load_u16(blocks[i].high);
        for (int g = 0; g < GROUPS; g++) {
            int scale = (blocks[i].low[g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4;
            iq4_dequantise(out + 256 * i + GROUP_VALUES * g, blocks[i].q + 16 * g, d * (float)(scale - 32));
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_IQ4_XS = {quantise, dequantise, find_nonfinite};
