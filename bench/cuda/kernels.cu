// SPDX-License-Identifier: MIT
// See kernels.h. Reads are 16 bytes a thread, eight of them under way; products are chains of mma.sync m16n8k16, enough
// in each warp that none waits for the one before it.
#include "kernels.h"

#include <stdint.h>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

struct read_params {
    const uint4 *data;
    size_t count;
    unsigned *sink;
};

static __global__ void __launch_bounds__(BENCH_THREADS) read_kernel(struct read_params p)
{
    constexpr int unroll = 8;
    size_t step = (size_t)gridDim.x * BENCH_THREADS, i = (size_t)blockIdx.x * BENCH_THREADS + threadIdx.x;
    unsigned sum = 0;
    for (; i + (unroll - 1) * step < p.count; i += unroll * step) {
        uint4 v[unroll];
#pragma unroll
        for (int k = 0; k < unroll; k++)
            v[k] = __ldg(p.data + i + k * step);
#pragma unroll
        for (int k = 0; k < unroll; k++)
            sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    for (; i < p.count; i += step)
        sum ^= __ldg(p.data + i).x;
    if (sum == 0x12345678u)
        *p.sink = sum;
}

struct mma_params {
    unsigned *sink;
    int iterations;
};

static __global__ void __launch_bounds__(BENCH_THREADS) mma_kernel(struct mma_params p)
{
    /* bf16 near 1 of both signs: sums stay small. */
    uint32_t lane = threadIdx.x % 32, a[4], b0 = 0x3f80bf80u ^ lane << 7, b1 = 0xbf803f80u ^ lane << 23;
    float d[BENCH_CHAINS][4] = {};
    for (int i = 0; i < 4; i++)
        a[i] = 0x3f80bf80u + lane * 257u + (uint32_t)i;
    for (int i = 0; i < p.iterations; i++)
#pragma unroll
        for (int chain = 0; chain < BENCH_CHAINS; chain++)
            moe_mma_bf16(d[chain], a, b0, b1);
    float sum = 0;
    for (int chain = 0; chain < BENCH_CHAINS; chain++)
        sum += d[chain][0] + d[chain][1] + d[chain][2] + d[chain][3];
    if (sum == 0.123f)
        *p.sink = 1;
}

cudaError_t bench_read(cudaStream_t stream, const void *data, size_t bytes, unsigned *sink, int blocks)
{
    struct read_params params = {(const uint4 *)data, bytes / 16, sink};
    return moe_launch(read_kernel, (unsigned)blocks, BENCH_THREADS, 0, stream, false, params);
}

cudaError_t bench_mma(cudaStream_t stream, unsigned *sink, int iterations, int blocks)
{
    struct mma_params params = {sink, iterations};
    return moe_launch(mma_kernel, (unsigned)blocks, BENCH_THREADS, 0, stream, false, params);
}
