// SPDX-License-Identifier: MIT
// Rows of int8 activations as q8.h defines them, one value after the other.
#include "rounded.h"

#include <math.h>
#include <string.h>

/* Where the halves' starts of a unit are: a group's first halves, then its others. */
static size_t half_place(size_t unit, size_t half)
{
    return 2 * MOE_Q8_LANES * (unit / MOE_Q8_LANES) + half * MOE_Q8_LANES + unit % MOE_Q8_LANES;
}

struct q8_unit q8_unit_at(const unsigned char *row, size_t cols, size_t unit)
{
    struct q8_unit out = {.q = (const int8_t *)row + unit * MOE_Q8_UNIT};
    memcpy(&out.scale, row + moe_q8_scale_at(cols) + 4 * unit, 4);
    memcpy(&out.sum, row + moe_q8_sum_at(cols) + 4 * unit, 4);
    memcpy(&out.start, row + moe_q8_start_at(cols) + 4 * unit, 4);
    for (size_t h = 0; h < 2; h++)
        memcpy(&out.half_start[h], row + moe_q8_half_start_at(cols) + 4 * half_place(unit, h), 4);
    return out;
}

void q8_unit_put(unsigned char *row, size_t cols, size_t unit, const struct q8_unit *from)
{
    memcpy(row + unit * MOE_Q8_UNIT, from->q, MOE_Q8_UNIT);
    memcpy(row + moe_q8_scale_at(cols) + 4 * unit, &from->scale, 4);
    memcpy(row + moe_q8_sum_at(cols) + 4 * unit, &from->sum, 4);
    memcpy(row + moe_q8_start_at(cols) + 4 * unit, &from->start, 4);
    for (size_t h = 0; h < 2; h++)
        memcpy(row + moe_q8_half_start_at(cols) + 4 * half_place(unit, h), &from->half_start[h], 4);
}

float q8_largest(const float *x)
{
    float largest = 0;
    for (size_t i = 0; i < MOE_Q8_UNIT; i++) {
        if (!isfinite(x[i]))
            return NAN;
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    return largest;
}

static void fill_unit(unsigned char *row, size_t cols, size_t unit, const float *x)
{
    float largest = q8_largest(x);
    int8_t q[MOE_Q8_UNIT] = {0};
    int32_t sums[2] = {0, 0};
    for (size_t i = 0; largest > 0 && i < MOE_Q8_UNIT; i++) {
        q[i] = (int8_t)rint(127.0 * (double)x[i] / (double)largest);
        sums[i / 16] += q[i];
    }
    float scale = largest / 127;
    q8_unit_put(row, cols, unit, &(struct q8_unit){q, scale, scale * (float)(sums[0] + sums[1]),
                                                   -128 * (sums[0] + sums[1]), {-128 * sums[0], -128 * sums[1]}});
}

void q8_row_fill(unsigned char *row, size_t cols, const float *x, struct test_rng *rng)
{
    size_t num_units = cols / MOE_Q8_UNIT;
    for (size_t unit = 0; unit < num_units; unit++)
        fill_unit(row, cols, unit, x + unit * MOE_Q8_UNIT);
    for (size_t unit = num_units; unit < moe_q8_units(cols); unit++) {
        int8_t q[MOE_Q8_UNIT];
        for (size_t i = 0; i < MOE_Q8_UNIT; i++)
            q[i] = (int8_t)(uint8_t)test_random(rng);
        int32_t junk = (int32_t)test_below(rng, 1 << 30);
        q8_unit_put(row, cols, unit, &(struct q8_unit){q, NAN, NAN, junk, {-junk, junk / 3}});
    }
}
