// SPDX-License-Identifier: MIT
// Kernels that only read, or only multiply: what the machine can do.
#ifndef BENCH_CUDA_KERNELS_H
#define BENCH_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BENCH_THREADS = 512, BENCH_CHAINS = 8 };
/* Operations of one iteration of a block: as many warps as it has, chains of m16n8k16. */
#define BENCH_MMA_FLOPS (BENCH_THREADS / 32.0 * BENCH_CHAINS * 2 * 16 * 8 * 16)

/* Reads bytes, a multiple of 16; *sink is written, or not, so that it is not left out. */
cudaError_t bench_read(cudaStream_t stream, const void *data, size_t bytes, unsigned *sink, int blocks);
cudaError_t bench_mma(cudaStream_t stream, unsigned *sink, int iterations, int blocks);

#ifdef __cplusplus
}
#endif
#endif
