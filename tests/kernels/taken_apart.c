// SPDX-License-Identifier: MIT
// Blocks of weights taken apart into scale, integer and minimum, without a look at any format's scales: a block whose
// codes are all the same shows its scales, one without its factor of the minima what is left.
#include "rounded.h"

#include <math.h>
#include <string.h>

enum { MOST_VALUES = 256, MOST_BYTES = 256 };

/* The codes that all stand for 1 where there are such bytes; otherwise some whose product with a scale is exact. MXFP4
 * and NVFP4 have halves for values: q is twice as large, the scale half. */
static const struct weight_kind kinds[] = {
    {MOE_FORMAT_Q4_0, 2, 16, 0x99, 1, 0, false},      {MOE_FORMAT_Q4_1, 4, 16, 0x11, 1, 2, false},
    {MOE_FORMAT_Q5_0, 2, 20, 0x00, -16, 0, false},    {MOE_FORMAT_Q5_1, 4, 20, 0xff, 31, 2, false},
    {MOE_FORMAT_Q8_0, 2, 32, 0x01, 1, 0, false},      {MOE_FORMAT_Q2_K, 16, 64, 0x55, 1, 82, true},
    {MOE_FORMAT_Q3_K, 0, 96, 0x00, -4, 0, true},      {MOE_FORMAT_Q4_K, 16, 128, 0x11, 1, 2, false},
    {MOE_FORMAT_Q5_K, 16, 160, 0xff, 31, 2, false},   {MOE_FORMAT_Q6_K, 0, 192, 0x00, -32, 0, true},
    {MOE_FORMAT_IQ4_NL, 2, 16, 0x88, 1, 0, false},    {MOE_FORMAT_IQ4_XS, 8, 128, 0x88, 1, 0, false},
    {MOE_FORMAT_TQ1_0, 0, 52, 0x00, -1, 0, false},    {MOE_FORMAT_TQ2_0, 0, 64, 0x00, -1, 0, false},
    {MOE_FORMAT_MXFP4, 1, 16, 0x11, 1, 0, false},     {MOE_FORMAT_NVFP4, 4, 32, 0x11, 1, 0, true},
};

const struct weight_kind *weight_kind_of(enum moe_format format)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].format == format)
            return &kinds[i];
    return NULL;
}

static void values_of(float *values, const struct weight_kind *kind, const unsigned char *block)
{
    test_assert_ok(moe_format_dequantise(kind->format, values, block, 1, moe_format_info(kind->format)->block_values));
}

/* The values of a block whose codes are all one byte. */
static void values_filled(float *values, const struct weight_kind *kind, const unsigned char *block, size_t bytes,
                          unsigned char code)
{
    unsigned char copy[MOST_BYTES];
    memcpy(copy, block, bytes);
    memset(copy + kind->codes_at, code, kind->codes_bytes);
    values_of(values, kind, copy);
}

static void take_block(struct weight_unit *out, const struct weight_kind *kind, const unsigned char *block)
{
    const struct moe_format_info *info = moe_format_info(kind->format);
    float minima[MOST_VALUES] = {0}, scales[MOST_VALUES], products[MOST_VALUES];
    unsigned char plain[MOST_BYTES];
    assert_true(info->block_bytes <= MOST_BYTES && info->block_values <= MOST_VALUES);
    memcpy(plain, block, info->block_bytes);
    if (kind->minimum_at != 0) {
        values_filled(minima, kind, block, info->block_bytes, 0);
        memset(plain + kind->minimum_at, 0, 2);
    }
    values_of(products, kind, plain);
    values_filled(scales, kind, plain, info->block_bytes, kind->filled);
    for (size_t i = 0; i < info->block_values; i++) {
        struct weight_unit *unit = &out[i / MOE_Q8_UNIT];
        size_t half = i % MOE_Q8_UNIT / 16;
        unit->scale[half] = scales[i] / kind->filled_q;
        unit->minimum[half] = minima[i];
        unit->q[i % MOE_Q8_UNIT] = unit->scale[half] != 0 ? rintf(products[i] / unit->scale[half]) : 0;
    }
}

void weights_take_apart(struct weight_unit *out, const struct weight_kind *kind, const unsigned char *w, size_t cols)
{
    const struct moe_format_info *info = moe_format_info(kind->format);
    for (size_t i = 0; i < cols / info->block_values; i++)
        take_block(out + i * (info->block_values / MOE_Q8_UNIT), kind, w + i * info->block_bytes);
}
