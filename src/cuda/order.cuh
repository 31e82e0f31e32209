// SPDX-License-Identifier: MIT
// Positions of columns in a row of activations (enum moe_cuda_order).
#ifndef MOE_CUDA_ORDER_CUH
#define MOE_CUDA_ORDER_CUH

#include "cuda/call.h"
#include "cuda/ptx.cuh"

/* Where column c of a row is. Of the 5 bits of a position within 32 columns, t1 t0 h j1 j0, a column has PLAIN t1 t0 h
 * j1 j0, BYTES t1 t0 h j0 j1, HALVES h t1 t0 j0 j1, NIBBLES t1 t0 j0 h j1. */
MOE_DEVICE uint32_t moe_order_position_of_lanes(uint32_t c, int order)
{
    uint32_t low = c & 3, swapped = (low & 1) << 1 | low >> 1, q = c & ~31u;
    switch (order & (MOE_ORDER_STEPS - 1)) {
    case MOE_ORDER_BYTES:
        return (c & ~3u) | swapped;
    case MOE_ORDER_HALVES:
        return q | (c >> 2 & 3) << 3 | (c >> 4 & 1) << 2 | swapped;
    case MOE_ORDER_NIBBLES:
        return (c & ~7u) | (c >> 1 & 1) << 2 | (c & 1) << 1 | (c >> 2 & 1);
    default:
        return c;
    }
}

/* With MOE_ORDER_STEPS the bits of a position are h j1 t1 t0 j0. */
MOE_DEVICE uint32_t moe_order_position(uint32_t c, int order)
{
    const uint32_t p = moe_order_position_of_lanes(c, order);
    return order & MOE_ORDER_STEPS ? (p & ~31u) | (p & 6) << 2 | (p >> 2 & 6) | (p & 1) : p;
}

MOE_DEVICE void moe_order_store(uint16_t *row, uint32_t c, int order, float value)
{
    row[moe_order_position(c, order)] = (uint16_t)moe_bf16x2(value, 0.0f);
}

#endif
