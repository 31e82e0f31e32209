// SPDX-License-Identifier: MIT
// finish.h's work for one token, by a block of 256 threads, whatever kernel it is in. Thread i takes columns i, i +
// 256, ... in ascending order, so column modulo 8 is thread modulo 8: 32 parts of a lane, 4 in each warp. A row is read
// once for the sum and again, from a cache, for the result.
#ifndef MOE_CUDA_FINISH_CUH
#define MOE_CUDA_FINISH_CUH

#include "cuda/finish.h"
#include "cuda/order.cuh"
#include "cuda/prepare.cuh"
#include "cuda/rows.cuh"

enum { MOE_FINISH_THREADS = 256, MOE_FINISH_WARPS = MOE_FINISH_THREADS / 32, MOE_FINISH_LANES = 8 };

struct moe_finish_parts {
    double sums[MOE_FINISH_WARPS][MOE_FINISH_LANES];
};

/* lanes[i]: the sum of what threads i, i + 8, ... bring; each thread gets all of them. Within a warp pairs are added,
 * and pairs of these; warps are added ascending. All threads of the block, with a barrier between two calls. */
MOE_DEVICE void moe_finish_lanes(double lanes[MOE_FINISH_LANES], double sum, struct moe_finish_parts *parts)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    sum = __dadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 8));
    sum = __dadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 16));
    if (lane < MOE_FINISH_LANES)
        parts->sums[warp][lane] = sum;
    __syncthreads();
    double whole = parts->sums[0][lane % MOE_FINISH_LANES];
    for (int i = 1; i < MOE_FINISH_WARPS; i++)
        whole = __dadd_rn(whole, parts->sums[i][lane % MOE_FINISH_LANES]);
#pragma unroll
    for (int i = 0; i < MOE_FINISH_LANES; i++)
        lanes[i] = __shfl_sync(0xffffffffu, whole, i);
}

/* What a row is multiplied by, as src/norm.h has it. */
MOE_DEVICE double moe_finish_factor(const struct moe_cuda_norm &norm, const double lanes[MOE_FINISH_LANES])
{
    double sum = lanes[0], size = (double)norm.cols;
#pragma unroll
    for (int i = 1; i < MOE_FINISH_LANES; i++)
        sum = __dadd_rn(sum, lanes[i]);
    double divisor = sqrt(__dadd_rn(sum / size, (double)norm.eps));
    if (norm.unit)
        divisor = __dmul_rn(divisor, sqrt(size));
    return divisor > 0.0 || divisor != divisor ? 1.0 / divisor : 0.0;
}

/* Token t's row of norm.out or norm.rows. */
MOE_DEVICE void moe_finish_norm_row(const struct moe_cuda_norm &norm, uint32_t t, bool live,
                                    struct moe_finish_parts *parts)
{
    const float *x = norm.x + t * norm.x_stride;
    double factor = 0.0;
    if (live) {
        double sum = 0.0, lanes[MOE_FINISH_LANES];
#pragma unroll 4
        for (uint32_t c = threadIdx.x; c < norm.cols; c += MOE_FINISH_THREADS)
            sum = __fma_rn((double)x[c], (double)x[c], sum);    /* the product is exact */
        moe_finish_lanes(lanes, sum, parts);
        factor = moe_finish_factor(norm, lanes);
    }
    if (!live && norm.accumulate)
        return;
    uint32_t end = norm.rows != NULL ? (uint32_t)norm.rows_stride : norm.cols;
#pragma unroll 4
    for (uint32_t c = threadIdx.x; c < end; c += MOE_FINISH_THREADS) {
        float value = 0.0f;
        if (live && c < norm.cols) {
            double product = __dmul_rn((double)x[c], factor);
            value = (float)(norm.scale != NULL ? __dmul_rn(product, (double)norm.scale[c]) : product);
        }
        if (norm.rows != NULL)
            moe_order_store(norm.rows + t * norm.rows_stride, c, norm.order, value);
        else
            moe_rows_put<1>(norm.out, t, c, norm.cols, &value, norm.accumulate);
    }
}

/* The gate of token t. */
MOE_DEVICE void moe_finish_shared_weight(const struct moe_cuda_shared_gate &shared, uint32_t t, bool live,
                                         struct moe_finish_parts *parts)
{
    double sum = 0.0, lanes[MOE_FINISH_LANES];
    if (!live) {
        if (threadIdx.x == 0)
            shared.weights[t] = 0.0f;
        return;
    }
    const unsigned char *x = shared.x.data + t * shared.x.stride;
#pragma unroll 4
    for (uint32_t c = threadIdx.x; c < shared.cols; c += MOE_FINISH_THREADS)
        sum = __fma_rn((double)shared.gate[c], (double)moe_value_float(x, c, shared.x.format), sum);
    moe_finish_lanes(lanes, sum, parts);
#pragma unroll
    for (int half = MOE_FINISH_LANES / 2; half > 0; half /= 2)
#pragma unroll
        for (int i = 0; i < half; i++)
            lanes[i] = __dadd_rn(lanes[i], lanes[i + half]);
    double z = __dadd_rn(lanes[0], (double)shared.bias);
    if (threadIdx.x == 0)
        shared.weights[t] = (float)(1.0 / __dadd_rn(1.0, exp(-z)));
}

#endif
