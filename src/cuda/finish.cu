// SPDX-License-Identifier: MIT
#include "cuda/finish.cuh"

#include "cuda/launch.cuh"

static __global__ void __launch_bounds__(MOE_FINISH_THREADS) norm_kernel(const __grid_constant__ moe_cuda_norm params)
{
    __shared__ struct moe_finish_parts parts;
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_live_tokens(params.live_tokens, params.num_tokens);
    moe_finish_norm_row(params, blockIdx.x, blockIdx.x < live, &parts);
}

static __global__ void __launch_bounds__(MOE_FINISH_THREADS)
    shared_kernel(const __grid_constant__ moe_cuda_shared_gate params)
{
    __shared__ struct moe_finish_parts parts;
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_live_tokens(params.live_tokens, params.num_tokens);
    moe_finish_shared_weight(params, blockIdx.x, blockIdx.x < live, &parts);
}

cudaError_t moe_cuda_finish_norm(const struct moe_cuda_norm *norm, cudaStream_t stream, bool overlap)
{
    if (!moe_rows_good(norm->out))
        return cudaErrorInvalidValue;
    if (norm->num_tokens == 0)
        return cudaSuccess;
    return moe_launch(norm_kernel, norm->num_tokens, MOE_FINISH_THREADS, 0, stream, overlap, *norm);
}

cudaError_t moe_cuda_shared_weights(const struct moe_cuda_shared_gate *shared, cudaStream_t stream, bool overlap)
{
    if (!moe_rows_good(shared->x))
        return cudaErrorInvalidValue;
    if (shared->num_tokens == 0)
        return cudaSuccess;
    return moe_launch(shared_kernel, shared->num_tokens, MOE_FINISH_THREADS, 0, stream, overlap, *shared);
}

cudaError_t moe_cuda_finish_load(void)
{
    cudaError_t error = moe_allow_shared(norm_kernel, 0);
    return error == cudaSuccess ? moe_allow_shared(shared_kernel, 0) : error;
}
