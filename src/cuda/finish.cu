// SPDX-License-Identifier: MIT
#include "cuda/finish.cuh"

#include "cuda/launch.cuh"

static const uint32_t most_blocks = 0x7fffffff;

static __global__ void __launch_bounds__(MOE_FINISH_THREADS) norm_kernel(const __grid_constant__ moe_cuda_norm params)
{
    __shared__ struct moe_finish_parts parts;
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_live_tokens(params.live_tokens, params.num_tokens);
    for (uint32_t t = blockIdx.x; t < params.num_tokens; t += gridDim.x)
        moe_finish_norm_row(params, t, t < live, &parts);
}

static __global__ void __launch_bounds__(MOE_FINISH_THREADS)
    shared_kernel(const __grid_constant__ moe_cuda_shared_gate params)
{
    __shared__ struct moe_finish_parts parts;
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_live_tokens(params.live_tokens, params.num_tokens);
    for (uint32_t t = blockIdx.x; t < params.num_tokens; t += gridDim.x)
        moe_finish_shared_weight(params, t, t < live, &parts);
}

static unsigned blocks_of(uint32_t num_tokens)
{
    return num_tokens < most_blocks ? num_tokens : most_blocks;
}

cudaError_t moe_cuda_finish_norm(const struct moe_cuda_norm *norm, cudaStream_t stream, bool overlap)
{
    if (!moe_rows_good(norm->out))
        return cudaErrorInvalidValue;
    if (norm->num_tokens == 0)
        return cudaSuccess;
    return moe_launch(norm_kernel, blocks_of(norm->num_tokens), MOE_FINISH_THREADS, 0, stream, overlap, *norm);
}

cudaError_t moe_cuda_shared_weights(const struct moe_cuda_shared_gate *shared, cudaStream_t stream, bool overlap)
{
    if (!moe_rows_good(shared->x))
        return cudaErrorInvalidValue;
    if (shared->num_tokens == 0)
        return cudaSuccess;
    return moe_launch(shared_kernel, blocks_of(shared->num_tokens), MOE_FINISH_THREADS, 0, stream, overlap, *shared);
}

cudaError_t moe_cuda_finish_load(void)
{
    cudaError_t error = moe_allow_shared(norm_kernel, 0);
    return error == cudaSuccess ? moe_allow_shared(shared_kernel, 0) : error;
}
