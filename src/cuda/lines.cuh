// SPDX-License-Identifier: MIT
// What Q4_K and Q5_K share: the scales and minima of 8 groups in 12 bytes.
#ifndef MOE_CUDA_LINES_CUH
#define MOE_CUDA_LINES_CUH

#include "cuda/planes.cuh"
#include "cuda/words.cuh"

/* Scales and minima of groups 0 .. 3 (half 0) or 4 .. 7 (half 1) from the first 16 bytes of a block: d, dmin, and 12
 * bytes as format/lines.h has them. The term holds the minimum, and takes off the 128 of the codes. */
MOE_DEVICE void moe_lines_scales(float2 *table, uint32_t stride, uint4 head, uint32_t half)
{
    float d = moe_f16_value(head.x), dmin = moe_f16_value(head.x >> 16);
    uint32_t scales = moe_select_bits(0x0f0f0f0fu, head.w, head.y >> 2) & 0x3f3f3f3fu;
    uint32_t minima = moe_select_bits(0x0f0f0f0fu, head.w >> 4, head.z >> 2) & 0x3f3f3f3fu;
    scales = half != 0 ? scales : head.y & 0x3f3f3f3fu;
    minima = half != 0 ? minima : head.z & 0x3f3f3f3fu;
    float d_shift = -8388608.0f * d, dmin_shift = 8388608.0f * dmin;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        float scale = moe_scaled_byte(scales, i, d, d_shift);
        float term = fmaf(-128.0f, scale, moe_scaled_byte(minima, i, -dmin, dmin_shift));
        table[(4 * half + i) * stride] = make_float2(scale, term);
    }
}

/* Two lanes a row, four groups each. */
template <class Weights, int tiles>
MOE_DEVICE void moe_lines_table(float2 *table, const unsigned char *unit, const struct moe_unit_rows &rows,
                                uint32_t segment, int lane)
{
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        uint32_t i = 16 * m + lane % 16;
        const unsigned char *row = moe_unit_begin<Weights, tiles>(unit, rows, segment, i);
        moe_lines_scales(table + i, tiles * MOE_TILE_ROWS, *(const uint4 *)row, (uint32_t)lane / 16);
    }
}

#endif
