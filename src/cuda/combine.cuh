// SPDX-License-Identifier: MIT
// The sum of combine.h for n neighbouring columns of a token: for the kernels of combine.cu, and for products that add
// up what they have just computed.
#ifndef MOE_CUDA_COMBINE_CUH
#define MOE_CUDA_COMBINE_CUH

#include "cuda/combine.h"
#include "cuda/rows.cuh"

template <int n> struct moe_sum {
    float values[n];
    bool any;              /* a term has come; until then values are not set */
};

/* The first term assigns. */
template <int n> MOE_DEVICE void moe_sum_term(struct moe_sum<n> &sum, const float term[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        sum.values[i] = sum.any ? __fadd_rn(sum.values[i], term[i]) : term[i];
    sum.any = true;
}

/* Product and sum are rounded apart. */
template <int n> MOE_DEVICE void moe_sum_add(struct moe_sum<n> &sum, const float y[n], float weight)
{
    float term[n];
#pragma unroll
    for (int i = 0; i < n; i++)
        term[i] = __fmul_rn(weight, y[i]);
    moe_sum_term<n>(sum, term);
}

MOE_DEVICE float moe_sum_weight(const struct moe_cuda_combine &c, size_t pair, bool zero_expert)
{
    return c.weights == NULL || (c.weight_on_input && !zero_expert) ? 1.0f : c.weights[pair];
}

/* The sum over slots is there: do the rest and write it. live: the token is no padding. */
template <int n>
MOE_DEVICE void moe_sum_finish(const struct moe_cuda_combine &c, struct moe_sum<n> &sum, uint32_t t, bool live,
                               uint32_t column)
{
    if (sum.any && c.routed_scale != 1.0f)
#pragma unroll
        for (int i = 0; i < n; i++)
            sum.values[i] = __fmul_rn(sum.values[i], c.routed_scale);
    if (live && c.shared != NULL) {
        struct moe_cuda_rows rows = {(unsigned char *)c.shared, c.shared_stride * sizeof(float), MOE_FORMAT_F32};
        float shared[n];
        moe_rows_values<n>(shared, rows, t, column, c.cols);
        moe_sum_add<n>(sum, shared, c.shared_weights != NULL ? c.shared_weights[t] : 1.0f);
    }
    if (live && sum.any && c.out_scale != 1.0f)
#pragma unroll
        for (int i = 0; i < n; i++)
            sum.values[i] = __fmul_rn(sum.values[i], c.out_scale);
    if (live && c.out_bias != NULL) {
#pragma unroll
        for (uint32_t i = 0; i < n; i++) {
            float bias = column + i < c.cols ? c.out_bias[column + i] : 0.0f;
            sum.values[i] = sum.any ? __fadd_rn(sum.values[i], bias) : bias;
        }
        sum.any = true;
    }
    if (!sum.any && c.accumulate)
        return;
    if (!sum.any)
#pragma unroll
        for (int i = 0; i < n; i++)
            sum.values[i] = 0.0f;
    moe_rows_put<n>(c.out, t, column, c.cols, sum.values, c.accumulate);
}

#endif
