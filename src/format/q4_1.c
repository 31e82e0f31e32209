// SPDX-License-Identifier: MIT
// Q4_1: 32 values of 4 bits, one scale and one minimum. value = d * q + m.
#include "format/block.h"
#include "format/legacy.h"

/* byte  0 .. 1   d, f16
 *       2 .. 3   m, f16
 *       4 .. 19  q: low nibbles value 0 .. 15, high nibbles value 16 .. 31 */
struct block {
    uint8_t d[2];
    uint8_t m[2];
    uint8_t q[16];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q4_1, "the row of Q4_1");

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++) {
        uint8_t q[32];
        legacy_affine(q, blocks[i].d, blocks[i].m, in + 32 * i, 15);
        legacy_pack_nibbles(blocks[i].q, q);
    }
}

static void dequantise_block(float *restrict out, const uint8_t *restrict q, float d, float m)
{
    for (int i = 0; i < 16; i++)
        out[i] = d * (float)(q[i] & 15) + m;
    for (int i = 0; i < 16; i++)
        out[i + 16] = d * (float)(q[i] >> 4) + m;
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++)
        dequantise_block(out + 32 * i, blocks[i].q, load_f16(blocks[i].d), load_f16(blocks[i].m));
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    size_t before = find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
    return find_nonfinite_f16(in, before, sizeof(struct block), offsetof(struct block, m));
}

const struct moe_format_def moe_format_def_Q4_1 = {quantise, dequantise, find_nonfinite};
