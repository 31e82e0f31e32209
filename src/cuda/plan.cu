// SPDX-License-Identifier: MIT
// The plan for any number of pairs: one block up to MOE_PLAN_BLOCK_PAIRS, else chunks of pairs, each with a block that
// counts them by matrix and, in a second launch, one that adds up the counts before its own and gives places.
#include "cuda/launch.cuh"
#include "cuda/plan.cuh"
#include "cuda/prepare.cuh"
#include "moe/moe.h"

/* Counts that every block of the second launch reads all of: 128 KB. */
enum { HISTOGRAM_VALUES = 32768 };

struct moe_plan_params {
    struct moe_cuda_routing r;
    uint32_t num_pairs;
    uint32_t num_chunks, chunk;    /* pairs of a chunk, a multiple of the threads of a block */
    bool placed;
};

/* ---- one block ---- */

static __device__ struct moe_plan_out moe_plan_results(const struct moe_cuda_routing &r)
{
    struct moe_plan_out out = {r.num_active, r.active, r.starts, r.sorted, r.places};
    return out;
}

/* Publish pair p as given; returns its matrix. All lanes of a warp; p may lie beyond the last pair. */
static __device__ int32_t moe_plan_take(const struct moe_plan_params &params, uint64_t p, uint32_t live)
{
    const struct moe_cuda_routing &r = params.r;
    int32_t matrix = MOE_CUDA_SKIPPED;
    bool skipped = false;
    if (p < params.num_pairs) {
        const struct moe_plan_pair pair = moe_plan_given(r, (uint32_t)p, live);
        moe_plan_publish(r, (uint32_t)p, pair.id, pair.weight);
        matrix = pair.matrix;
        skipped = matrix == MOE_CUDA_SKIPPED && p < (uint64_t)live * r.top_k;
    }
    moe_plan_count_skipped(r, skipped);
    return matrix;
}

/* Up to MOE_PLAN_PAIRS pairs, a thread each. */
static __global__ void __launch_bounds__(MOE_PLAN_PAIRS)
    moe_plan_few_kernel(const __grid_constant__ struct moe_plan_params params)
{
    const struct moe_cuda_routing &r = params.r;
    moe_let_next_start();
    moe_wait_for_previous();
    if (blockIdx.x > 0) {
        moe_prepare_beside(r.beside);
        return;
    }
    int32_t matrix = MOE_CUDA_SKIPPED;
    if (params.placed) {
        matrix = threadIdx.x < params.num_pairs ? r.places[threadIdx.x] : MOE_CUDA_SKIPPED;
    } else {
        const uint32_t live = moe_plan_live(r);
        matrix = moe_plan_take(params, threadIdx.x, live);
    }
    if (r.sorts)
        moe_plan_pairs(moe_plan_results(r), (struct moe_plan_shared *)moe_dynamic_shared(), params.num_pairs,
                       threadIdx.x, matrix);
    else if (threadIdx.x < params.num_pairs)
        r.places[threadIdx.x] = matrix;
}

static __global__ void __launch_bounds__(MOE_PLAN_THREADS)
    moe_plan_one_kernel(const __grid_constant__ struct moe_plan_params params)
{
    const struct moe_cuda_routing &r = params.r;
    const struct moe_plan_block block = moe_plan_block_begin(moe_dynamic_shared(), r.num_matrices);
    __syncthreads();
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_plan_live(r);
    for (uint32_t first = 0; first < params.num_pairs; first += MOE_PLAN_THREADS) {
        const uint32_t p = first + threadIdx.x;
        int32_t matrix = MOE_CUDA_SKIPPED;
        if (!params.placed) {
            matrix = moe_plan_take(params, p, live);
            if (p < params.num_pairs)
                r.places[p] = matrix;
        } else if (p < params.num_pairs) {
            matrix = r.places[p];
        }
        if (matrix >= 0)
            atomicAdd(&block.next[matrix], 1u);
    }
    moe_plan_block_scan(block, moe_plan_results(r), r.num_matrices, true);
    moe_plan_block_place(block, r.sorted, r.places, r.num_matrices, 0, params.num_pairs);
}

/* ---- chunks ---- */

/* histogram[chunk][matrix], for those that sort; pairs as given are published. */
static __global__ void __launch_bounds__(MOE_PLAN_THREADS)
    moe_plan_count_kernel(const __grid_constant__ struct moe_plan_params params)
{
    const struct moe_cuda_routing &r = params.r;
    uint32_t *counts = (uint32_t *)moe_dynamic_shared();
    const uint64_t begin = (uint64_t)blockIdx.x * params.chunk;
    const uint64_t end = begin + params.chunk < params.num_pairs ? begin + params.chunk : params.num_pairs;
    for (uint32_t m = threadIdx.x; r.sorts && m < r.num_matrices; m += MOE_PLAN_THREADS)
        counts[m] = 0;
    __syncthreads();
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_plan_live(r);
    for (uint64_t first = begin; first < end; first += MOE_PLAN_THREADS) {
        const uint64_t p = first + threadIdx.x;
        int32_t matrix = MOE_CUDA_SKIPPED;
        if (!params.placed) {
            matrix = moe_plan_take(params, p, live);
            if (p < end)
                r.places[p] = matrix;
        } else if (p < end) {
            matrix = r.places[p];
        }
        if (matrix >= 0 && r.sorts)
            atomicAdd(&counts[matrix], 1u);
    }
    __syncthreads();
    for (uint32_t m = threadIdx.x; r.sorts && m < r.num_matrices; m += MOE_PLAN_THREADS)
        r.histogram[(size_t)blockIdx.x * r.num_matrices + m] = counts[m];
}

static __global__ void __launch_bounds__(MOE_PLAN_THREADS)
    moe_plan_place_kernel(const __grid_constant__ struct moe_plan_params params)
{
    const struct moe_cuda_routing &r = params.r;
    const struct moe_plan_block block = moe_plan_block_begin(moe_dynamic_shared(), r.num_matrices);
    const uint32_t matrices = moe_plan_block_matrices(r.num_matrices);
    uint32_t *before = (uint32_t *)(moe_dynamic_shared() + moe_plan_block_bytes(r.num_matrices));
    __syncthreads();
    moe_let_next_start();
    moe_wait_for_previous();
    for (uint32_t m = threadIdx.x; m < matrices; m += MOE_PLAN_THREADS) {
        uint32_t sum = 0, own = 0;
#pragma unroll 8
        for (uint32_t c = 0; c < params.num_chunks; c++) {
            own = c == blockIdx.x ? sum : own;
            sum += m < r.num_matrices ? r.histogram[(size_t)c * r.num_matrices + m] : 0;
        }
        block.next[m] = sum;
        before[m] = own;
    }
    moe_plan_block_scan(block, moe_plan_results(r), r.num_matrices, blockIdx.x == 0);
    for (uint32_t m = threadIdx.x; m < r.num_matrices; m += MOE_PLAN_THREADS)
        block.next[m] += before[m];
    __syncthreads();
    const uint64_t begin = (uint64_t)blockIdx.x * params.chunk;
    const uint64_t end = begin + params.chunk < params.num_pairs ? begin + params.chunk : params.num_pairs;
    moe_plan_block_place(block, r.sorted, r.places, r.num_matrices, (uint32_t)begin, (uint32_t)end);
}

/* ---- launches ---- */

static uint32_t moe_plan_chunks(uint32_t num_pairs, uint32_t num_matrices)
{
    uint32_t wanted = (num_pairs + MOE_PLAN_BLOCK_PAIRS - 1) / (MOE_PLAN_BLOCK_PAIRS / 2);
    uint32_t most = num_matrices < HISTOGRAM_VALUES / 2 ? HISTOGRAM_VALUES / num_matrices : 2;
    return num_pairs <= MOE_PLAN_BLOCK_PAIRS ? 1 : wanted < most ? wanted : most;
}

size_t moe_plan_histogram(uint32_t num_pairs, uint32_t num_matrices)
{
    uint32_t chunks = num_matrices > 0 ? moe_plan_chunks(num_pairs, num_matrices) : 1;
    return chunks > 1 ? (size_t)chunks * num_matrices : 0;
}

static size_t moe_plan_place_bytes(uint32_t num_matrices)
{
    return moe_plan_block_bytes(num_matrices) + (size_t)moe_plan_block_matrices(num_matrices) * sizeof(uint32_t);
}

cudaError_t moe_plan_load(void)
{
    cudaError_t error = moe_allow_shared(moe_plan_few_kernel, sizeof(struct moe_plan_shared));
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_plan_one_kernel, moe_plan_block_bytes(MOE_MAX_EXPERTS));
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_plan_count_kernel, MOE_MAX_EXPERTS * sizeof(uint32_t));
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_plan_place_kernel, moe_plan_place_bytes(MOE_MAX_EXPERTS));
    return error;
}

cudaError_t moe_plan_launch(const struct moe_cuda_routing *routing, bool placed, cudaStream_t stream, bool overlap)
{
    struct moe_plan_params params = {*routing, routing->num_tokens * routing->top_k, 1, 0, placed};
    const uint32_t num_matrices = routing->num_matrices, num_pairs = params.num_pairs;
    if (num_pairs <= MOE_PLAN_PAIRS) {
        const uint32_t few = (num_pairs + 31) & ~31u, blocks = 1 + moe_prepare_blocks(routing->beside, few);
        return moe_launch(moe_plan_few_kernel, blocks, few, sizeof(struct moe_plan_shared), stream, overlap, params);
    }
    if (routing->sorts && num_pairs <= MOE_PLAN_BLOCK_PAIRS)
        return moe_launch(moe_plan_one_kernel, 1, MOE_PLAN_THREADS, moe_plan_block_bytes(num_matrices), stream, overlap,
                          params);
    const uint32_t threads = MOE_PLAN_THREADS;
    params.num_chunks = routing->sorts ? moe_plan_chunks(num_pairs, num_matrices) : (num_pairs - 1) / threads + 1;
    params.chunk = (uint32_t)((((uint64_t)num_pairs + params.num_chunks - 1) / params.num_chunks + threads - 1) /
                              threads * threads);
    params.num_chunks = (num_pairs - 1) / params.chunk + 1;
    cudaError_t error = moe_launch(moe_plan_count_kernel, params.num_chunks, threads,
                                   routing->sorts ? num_matrices * sizeof(uint32_t) : 0, stream, overlap, params);
    if (error == cudaSuccess && routing->sorts)
        error = moe_launch(moe_plan_place_kernel, params.num_chunks, threads, moe_plan_place_bytes(num_matrices),
                           stream, true, params);
    return error;
}
