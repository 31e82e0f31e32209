// SPDX-License-Identifier: MIT
// Random weights in any format: quantised where the library can do that, else random blocks.
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BLOCK_VALUES = 256, MOST_TRIES = 1000, NUM_BLOCKS = 16 };

static double rms(const float *values, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)values[i] * (double)values[i];
    return sqrt(sum / (double)n);
}

/* Random bytes until the block is finite and its rms within a factor of 4 of scale: some of the many codes that its
 * scale can have. false, with a block that is just finite, where there is none in so many tries. */
static bool random_block(struct test_rng *rng, const struct moe_format_info *info, uint8_t *out, double scale,
                         int tries)
{
    float values[MOST_BLOCK_VALUES];
    assert_true(info->block_values <= MOST_BLOCK_VALUES);
    for (;;) {
        for (size_t i = 0; i < info->block_bytes; i++)
            out[i] = (uint8_t)test_random(rng);
        test_assert_ok(moe_format_dequantise(info->format, values, out, 1, info->block_values));
        double size = rms(values, info->block_values);   /* NaN if there is one */
        if (size >= 0.25 * scale && size <= 4 * scale)
            return true;
        if (isfinite(size) && --tries <= 0)
            return false;
    }
}

/* Integers that have no scale are too large for all tries: one block is enough to know. Blocks of one or two values
 * would take long: from the 17th on, they are copies of any of the first. */
void test_random_weights(struct test_rng *rng, enum moe_format format, void *out, size_t cols, double scale)
{
    const struct moe_format_info *info = moe_format_info(format);
    bool has_scale = true;
    uint8_t *blocks = out;
    for (size_t i = 0; i < cols / info->block_values; i++) {
        uint8_t *block = blocks + i * info->block_bytes;
        if (i < NUM_BLOCKS)
            has_scale = random_block(rng, info, block, scale, has_scale ? MOST_TRIES : 1);
        else
            memcpy(block, blocks + test_below(rng, NUM_BLOCKS) * info->block_bytes, info->block_bytes);
    }
}

void test_fill_weights(struct test_rng *rng, enum moe_format format, void *out, size_t cols, double scale)
{
    if (!moe_format_can_quantise(format)) {
        test_random_weights(rng, format, out, cols, scale);
        return;
    }
    float *row = moe_ref_alloc(cols, sizeof *row);
    test_fill_heavy(rng, row, 1, cols, scale);
    test_assert_ok(moe_format_quantise(format, out, row, 1, cols));
    free(row);
}
