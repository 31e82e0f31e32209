// SPDX-License-Identifier: MIT
// A row of activations in int8, as linear_q8 reads it: units of 32 columns with a scale each. For a row of cols
// columns, n = cols / 32 units rounded up to whole groups of 8 (the rest may be read, but counts for nothing,
// whatever it holds):
//     int8  q[32 n]         x is about scale * q, |q| <= 127
//     f32   scale[n]        largest |x| of the unit / 127; NaN where one of them is not finite, and q is 0 then
//     f32   sum[n]          scale * (sum of q), rounded once
//     i32   start[n]        -128 * (sum of q): what a product with weights stored as q + 128 has too much
//     i32   half_start[2n]  the same for 16 columns: the first halves of a group's 8 units, then their other halves
#ifndef MOE_Q8_H
#define MOE_Q8_H

#include <stddef.h>
#include <stdint.h>

#include "cpu/kernels.h"

enum { MOE_Q8_ALIGN = 64 };

static inline size_t moe_q8_units(size_t cols)
{
    return (cols + MOE_Q8_GROUP - 1) / MOE_Q8_GROUP * MOE_Q8_LANES;
}

/* Bytes of a row, a multiple of MOE_Q8_ALIGN: 52 for each unit. */
static inline size_t moe_q8_row_bytes(size_t cols)
{
    return (moe_q8_units(cols) * (MOE_Q8_UNIT + 20) + MOE_Q8_ALIGN - 1) / MOE_Q8_ALIGN * MOE_Q8_ALIGN;
}

static inline size_t moe_q8_scale_at(size_t cols)
{
    return moe_q8_units(cols) * MOE_Q8_UNIT;
}

static inline size_t moe_q8_sum_at(size_t cols)
{
    return moe_q8_units(cols) * (MOE_Q8_UNIT + 4);
}

static inline size_t moe_q8_start_at(size_t cols)
{
    return moe_q8_units(cols) * (MOE_Q8_UNIT + 8);
}

static inline size_t moe_q8_half_start_at(size_t cols)
{
    return moe_q8_units(cols) * (MOE_Q8_UNIT + 12);
}

#endif
