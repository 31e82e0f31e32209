// SPDX-License-Identifier: MIT
// Weights of every format, with or without scales of any shape, rows at any address and of any length: correct, not
// fast. Units are not copied but made: each lane dequantises runs of 32 columns into bf16, rounded to nearest once (an
// error of at most 2^-8 of a weight), with zeros behind the last column. From there on they are as those of BF16.
//
// gate and up may be of different formats. Nothing is under way while a unit is made, and a run is read byte by byte.
#ifndef MOE_CUDA_WEIGHTS_ANY_CUH
#define MOE_CUDA_WEIGHTS_ANY_CUH

#include "cuda/dequantise.cuh"
#include "cuda/weights_bf16.cuh"
#include "scales_row.h"

struct moe_weights_any : moe_weights_bf16 {
};

MOE_DEVICE struct moe_view moe_any_plane(const struct moe_cuda_plane &plane, uint32_t expert)
{
    struct moe_view view = {};
    if (plane.data == NULL && plane.bases == NULL)
        return view;
    view.base = (void *)moe_plane_row(plane, expert, 0);
    view.stride = plane.stride;
    view.format = (enum moe_format)plane.format;
    return view;
}

/* w[i], i < n: codes of row r from column c on, which become values. */
MOE_DEVICE void moe_any_scale(float *w, const struct moe_cuda_stack &stack, uint32_t expert, uint32_t r, uint32_t c,
                              uint32_t n)
{
    struct moe_slice_scales scales = {};
    scales.first_row = stack.first_row;
    scales.block_rows = stack.block_rows;
    scales.block_cols = stack.block_cols;
    scales.scale = moe_any_plane(stack.scale, expert);
    scales.zero = moe_any_plane(stack.zero, expert);
    scales.column_block = moe_any_plane(stack.column_block, expert);
    scales.zero_offset = stack.zero_offset;
    scales.factor = stack.factors != NULL ? stack.factors[expert] : 1.0f;
    moe_scales_apply(w, &scales, r, c, n);
}

/* Columns c .. c + 31 of row r, which is at `row`, as pairs of bf16; zeros from the last column on, or if row is NULL.
 * Once in the code, for all that call it. */
static __device__ __noinline__ void moe_any_make(uint32_t *out, const unsigned char *row,
                                                 const struct moe_cuda_stack *stack, uint32_t expert, uint32_t r,
                                                 uint32_t c)
{
    float w[MOE_STEP_COLS] = {};
    const int format = moe_cuda_format_index((enum moe_format)stack->values.format);
    if (row != NULL && c < stack->cols) {
        const uint32_t left = stack->cols - c, n = left < MOE_STEP_COLS ? left : (uint32_t)MOE_STEP_COLS;
        if (n == MOE_STEP_COLS)
            moe_cuda_dequantise(format, w, row, c);
        else
            moe_cuda_dequantise_rest(format, w, row, c, (int)n);
        if (stack->scaled)
            moe_any_scale(w, *stack, expert, r, c, n);
    }
    for (int i = 0; i < MOE_STEP_COLS / 2; i++)
        out[i] = moe_bf16x2(w[2 * i], w[2 * i + 1]);
}

template <> struct moe_unit_source<struct moe_weights_any> {
    static constexpr bool copies = false;

    template <int tiles>
    static __device__ __forceinline__ void copy(unsigned char *unit, const struct moe_unit_rows &rows,
                                                uint32_t segment, uint32_t, int lane)
    {
#pragma unroll 1
        for (uint32_t i = lane; i < tiles * MOE_TILE_ROWS * MOE_SEGMENT_STEPS; i += 32) {
            const uint32_t in_unit = i / MOE_SEGMENT_STEPS, q = i % MOE_SEGMENT_STEPS;
            const uint32_t r = in_unit / 16 * 8 + in_unit % 8;
            const bool is_low = in_unit % 16 < 8;
            moe_any_make((uint32_t *)(unit + in_unit * moe_weights_any::pitch + 64 * q),
                         moe_unit_row<tiles>(rows, in_unit),
                         is_low && rows.product->gated ? &rows.product->gate : &rows.product->up, rows.expert,
                         (is_low ? rows.low_row : rows.high_row) + r, segment * MOE_SEGMENT + MOE_STEP_COLS * q);
        }
    }
};

#endif
