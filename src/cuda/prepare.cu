// SPDX-License-Identifier: MIT
#include "cuda/prepare.cuh"

#include "cuda/launch.cuh"

enum { THREADS = 128 };

static __global__ void __launch_bounds__(THREADS) prepare_kernel(const __grid_constant__ struct moe_cuda_prepare params)
{
    moe_let_next_start();
    moe_wait_for_previous();
    moe_prepare_run(params, (uint64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32,
                    (uint64_t)gridDim.x * (THREADS / 32), threadIdx.x % 32);
}

cudaError_t moe_cuda_prepare(const struct moe_cuda_prepare *prepare, cudaStream_t stream, bool overlap)
{
    if (!moe_rows_good(prepare->x))
        return cudaErrorInvalidValue;
    uint64_t pieces = moe_prepare_pieces(*prepare), blocks = (pieces + THREADS / 32 - 1) / (THREADS / 32);
    if (blocks == 0)
        return cudaSuccess;
    if (blocks > INT32_MAX)    /* more than 10^12 values */
        return cudaErrorInvalidValue;
    return moe_launch(prepare_kernel, (unsigned)blocks, THREADS, 0, stream, overlap, *prepare);
}

cudaError_t moe_cuda_prepare_load(void)
{
    return moe_allow_shared(prepare_kernel, 0);
}
