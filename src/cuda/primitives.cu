// SPDX-License-Identifier: MIT
// The primitives' kernels: any format, any size, in exact f32, one row or run of values after the other. What is to be
// fast is a fused layer; these are what it is compared with.
//
// linear: a warp takes a row. Each lane takes 32 neighbouring columns, then those 1024 further on, ...: it sums their
// products in 8 partial sums of 4, adds these in a tree, the results ascending, and the lanes are added in a tree. A
// product so passes through at most 1 + 3 + 3 + cols / 1024 + 5 roundings; no order depends on anything but cols.
#include "cuda/primitives.h"

#include "act.h"
#include "cuda/dequantise.cuh"
#include "cuda/launch.cuh"
#include "scales_row.h"

enum { THREADS = 256, WARP = 32, WARPS = THREADS / WARP, PARTS = 8, BLOCKS_PER_SM = 32 };

/* Blocks for n values or rows; those that a grid this large leaves come in its second turn. */
static unsigned blocks_for(const struct moe_cuda_context *ctx, size_t n, size_t per_block)
{
    size_t most = BLOCKS_PER_SM * (size_t)ctx->device->num_sms;
    size_t blocks = n / per_block + (n % per_block != 0);
    return (unsigned)(blocks < most ? blocks : most);
}

MOE_DEVICE size_t first_index(void)
{
    return (size_t)blockIdx.x * THREADS + threadIdx.x;
}

MOE_DEVICE size_t index_step(void)
{
    return (size_t)gridDim.x * THREADS;
}

/* f32, f16 or bf16 */
MOE_DEVICE float load_value(enum moe_format format, const void *base, size_t i)
{
    if (format == MOE_FORMAT_F32)
        return ((const float *)base)[i];
    uint16_t half = ((const uint16_t *)base)[i];
    return format == MOE_FORMAT_F16 ? moe_f16_to_f32(half) : moe_bf16_to_f32(half);
}

MOE_DEVICE void store_value(enum moe_format format, void *base, size_t i, float value)
{
    if (format == MOE_FORMAT_F32)
        ((float *)base)[i] = value;
    else
        ((uint16_t *)base)[i] = format == MOE_FORMAT_F16 ? moe_f32_to_f16(value) : moe_f32_to_bf16(value);
}

static __global__ void copy_kernel(const struct moe_cuda_copy_params p)
{
    for (size_t i = first_index(); i < p.n; i += index_step())
        store_value(p.dst_format, p.dst, i, load_value(p.src_format, p.src, i));
}

static __global__ void glu_kernel(const struct moe_cuda_glu_params p)
{
    for (size_t i = first_index(); i < p.n; i += index_step()) {
        float value = moe_act_gate(&p.act, p.g[i]);
        p.y[i] = p.gated ? value * moe_act_up(&p.act, p.g[p.n + i]) : value;
    }
}

static __global__ void scaled_add_kernel(const struct moe_cuda_scaled_add_params p)
{
    for (size_t i = first_index(); i < p.n; i += index_step()) {
        float value = p.a * p.x[i];
        if (p.accumulate)
            value = load_value(p.format, p.y, i) + value;
        store_value(p.format, p.y, i, value);
    }
}

/* The sum over n columns from c on, n <= 32; w holds zeros beyond. */
MOE_DEVICE float dot(const float *w, const float *x, int n)
{
    float sums[PARTS];
    for (int j = 0; j < PARTS; j++)
        sums[j] = 0.0f;
    for (int i = 0; i < WARP; i += PARTS)
        for (int j = 0; j < PARTS; j++)
            if (i + j < n)
                sums[j] += w[i + j] * x[i + j];
    for (int half = PARTS / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            sums[j] += sums[j + half];
    return sums[0];
}

static __global__ void linear_kernel(const struct moe_cuda_linear_params p)
{
    size_t step = (size_t)gridDim.x * WARPS;
    int lane = (int)(threadIdx.x % WARP);
    for (size_t r = (size_t)blockIdx.x * WARPS + threadIdx.x / WARP; r < p.rows; r += step) {
        const unsigned char *row = p.w + r * p.stride;
        float sum = 0.0f;
        for (size_t c = (size_t)lane * 32; c < p.cols; c += WARP * 32) {
            float w[32];
            int n = p.cols - c < 32 ? (int)(p.cols - c) : 32;
            if (n == 32)
                moe_cuda_dequantise(p.format, w, row, c);
            else
                moe_cuda_dequantise_rest(p.format, w, row, c, n);
            if (p.scaled)
                moe_scales_apply(w, &p.scales, r, c, (size_t)n);
            sum += dot(w, p.x + c, n);
        }
        for (int half = WARP / 2; half > 0; half /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, half);
        if (lane == 0)
            p.y[r] = sum;
    }
}

cudaError_t moe_cuda_launch_copy(const struct moe_cuda_context *ctx, const struct moe_cuda_copy_params *params)
{
    return moe_launch(copy_kernel, blocks_for(ctx, params->n, THREADS), THREADS, 0, ctx->stream, false, *params);
}

cudaError_t moe_cuda_launch_linear(const struct moe_cuda_context *ctx, const struct moe_cuda_linear_params *params)
{
    return moe_launch(linear_kernel, blocks_for(ctx, params->rows, WARPS), THREADS, 0, ctx->stream, false, *params);
}

cudaError_t moe_cuda_launch_glu(const struct moe_cuda_context *ctx, const struct moe_cuda_glu_params *params)
{
    return moe_launch(glu_kernel, blocks_for(ctx, params->n, THREADS), THREADS, 0, ctx->stream, false, *params);
}

cudaError_t moe_cuda_launch_scaled_add(const struct moe_cuda_context *ctx,
                                       const struct moe_cuda_scaled_add_params *params)
{
    return moe_launch(scaled_add_kernel, blocks_for(ctx, params->n, THREADS), THREADS, 0, ctx->stream, false, *params);
}

cudaError_t moe_cuda_primitives_load(int *code_version)
{
    struct cudaFuncAttributes attributes;
    cudaError_t error = moe_allow_shared(copy_kernel, 0);
    if (error == cudaSuccess)
        error = moe_allow_shared(linear_kernel, 0);
    if (error == cudaSuccess)
        error = moe_allow_shared(glu_kernel, 0);
    if (error == cudaSuccess)
        error = moe_allow_shared(scaled_add_kernel, 0);
    if (error == cudaSuccess)
        error = cudaFuncGetAttributes(&attributes, (const void *)linear_kernel);
    if (error == cudaSuccess)
        *code_version = attributes.binaryVersion;
    return error;
}
