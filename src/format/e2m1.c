// SPDX-License-Identifier: MIT
// E2M1 of the OCP microscaling specification, two values in a byte, without the scale that MXFP4 has among them.
#include "format/block.h"

/* value 0 in the low nibble, value 1 in the high one */
struct block {
    uint8_t q;
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_E2M1, "the row of E2M1");

/* A code is s ee m: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and their negatives, among them -0. Doubled they are integers. */
static inline float e2m1(uint32_t code)
{
    int m = (int)(code & 7);
    float magnitude = 0.5f * (float)(m + (m > 4 ? m - 4 : 0) + (m > 6 ? 2 : 0));
    return moe_f32_from_bits(moe_f32_bits(magnitude) | (code & 8u) << 28);
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    float *restrict values = out;
    const uint8_t *restrict bytes = in;
    for (size_t i = 0; i < num_blocks; i++) {
        values[2 * i] = e2m1(bytes[i] & 15u);
        values[2 * i + 1] = e2m1((uint32_t)bytes[i] >> 4);
    }
}

/* Every code is a number. */
static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    (void)in;
    return num_blocks;
}

const struct moe_format_def moe_format_def_E2M1 = {NULL, dequantise, find_nonfinite};
