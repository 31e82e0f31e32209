// SPDX-License-Identifier: MIT
// A kernel around moe_cuda_dequantise, for comparing its bits with those of src/format.
#include "dequantise_probe.h"

#include "cuda/dequantise.cuh"
#include "cuda/launch.cuh"

enum { THREADS = 64 };

/* Thread i takes columns 32 i and up. */
static __global__ void probe_kernel(const struct dequantise_probe p)
{
    for (size_t c = 32 * (size_t)threadIdx.x; c < p.cols; c += 32 * THREADS) {
        float values[32];
        int n = p.cols - c < 32 ? (int)(p.cols - c) : 32;
        if (n == 32)
            moe_cuda_dequantise(p.format, values, p.row, c);
        else
            moe_cuda_dequantise_rest(p.format, values, p.row, c, n);
        for (int i = 0; i < n; i++)
            p.out[c + (size_t)i] = values[i];
    }
}

cudaError_t dequantise_probe_launch(const struct dequantise_probe *probe)
{
    return moe_launch(probe_kernel, 1, THREADS, 0, (cudaStream_t)0, false, *probe);
}
