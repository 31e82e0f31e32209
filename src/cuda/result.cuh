// SPDX-License-Identifier: MIT
// Both ends of a product, whatever its kernel: its pairs, the row of x that each reads, and where a result goes.
#ifndef MOE_CUDA_RESULT_CUH
#define MOE_CUDA_RESULT_CUH

#include "cuda/act.cuh"
#include "cuda/order.cuh"

/* The a-th matrix that has pairs: its index, and its first place; a may be one too many for the latter. From the second
 * cache, see moe_launch. */
MOE_DEVICE uint32_t moe_pairs_active(const struct moe_cuda_pairs &pairs)
{
    return pairs.num_active != NULL ? (uint32_t)__ldcg(pairs.num_active) : 1;
}

MOE_DEVICE uint32_t moe_pairs_matrix(const struct moe_cuda_pairs &pairs, uint32_t a)
{
    return pairs.num_active != NULL ? (uint32_t)__ldcg(&pairs.active[a]) : 0;
}

MOE_DEVICE uint32_t moe_pairs_start(const struct moe_cuda_pairs &pairs, uint32_t a)
{
    return pairs.num_active != NULL ? (uint32_t)__ldcg(&pairs.starts[a]) : a * pairs.num_pairs;
}

/* All places read the first row of x: there is one token. */
MOE_DEVICE bool moe_result_one_row(const struct moe_cuda_product &p)
{
    return p.x_divisor >= p.pairs.num_pairs;
}

/* The row of x that a place reads. */
MOE_DEVICE const uint16_t *moe_result_x(const struct moe_cuda_product &p, uint32_t place)
{
    if (moe_result_one_row(p))
        return p.x;
    size_t row = p.x_divisor > 0 ? (uint32_t)p.pairs.sorted[place] / p.x_divisor : place;
    return p.x + row * p.x_stride;
}

/* Row `row` of the results of an expert, not rounded to bf16: low is the sum of gate's row and high of up's, or low
 * of the only matrix. */
MOE_DEVICE float moe_result_value(const struct moe_cuda_product &p, uint32_t expert, uint32_t row, float low,
                                  float high)
{
    const size_t bias = (size_t)expert * p.up.rows + row;
    if (p.gated) {
        float gate = p.gate.bias != NULL ? low + p.gate.bias[bias] : low;
        float up = p.up.bias != NULL ? high + p.up.bias[bias] : high;
        return moe_act_glu(p.act, gate, up, true);
    }
    low = p.up.bias != NULL ? low + p.up.bias[bias] : low;
    return p.activated ? moe_act_glu(p.act, low, 0.0f, false) : low;
}

MOE_DEVICE void moe_result_store(const struct moe_cuda_product &p, uint32_t expert, size_t place, uint32_t row,
                                 float low, float high)
{
    const float value = moe_result_value(p, expert, row, low, high);
    if (p.activated)
        moe_order_store(p.h + place * p.h_stride, row, p.h_order, value);
    else
        p.y[place * p.y_stride + row] = value;
}

#endif
