// SPDX-License-Identifier: MIT
// U4: integers of 0 to 15, two in a byte. Of weights with scales and zeros apart.
#include "format/block.h"

/* value 0 in the low nibble, value 1 in the high one */
struct block {
    uint8_t q;
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_U4, "the row of U4");

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    float *restrict values = out;
    const uint8_t *restrict bytes = in;
    for (size_t i = 0; i < num_blocks; i++) {
        values[2 * i] = (float)(bytes[i] & 15);
        values[2 * i + 1] = (float)(bytes[i] >> 4);
    }
}

/* Every code is a number. */
static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    (void)in;
    return num_blocks;
}

const struct moe_format_def moe_format_def_U4 = {NULL, dequantise, find_nonfinite};
