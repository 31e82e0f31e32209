// SPDX-License-Identifier: MIT
// How kernels are started: each takes one struct by value, and may start while the one before it still runs.
#ifndef MOE_CUDA_LAUNCH_CUH
#define MOE_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>
#include <stddef.h>

/* The block's dynamic shared memory, aligned to 128. */
static __device__ __forceinline__ unsigned char *moe_dynamic_shared(void)
{
    extern __shared__ __align__(128) unsigned char moe_shared_memory[];
    return moe_shared_memory;
}

/* overlap: the kernel calls moe_wait_for_previous before it touches what kernels before it write, and it overwrites
 * nothing before that. But a product lets the next kernel start only after its own wait: so what has been written
 * before a product can be read from the start by what comes behind it (call.h: planned), and copies of weights need not
 * wait for activations. Read it with __ldcg: the first cache may have what a call before has left there.
 * shared_bytes beyond 48 KB: moe_allow_shared has been called for the kernel. */
template <class Params>
static inline cudaError_t moe_launch(void (*kernel)(Params), unsigned blocks, unsigned threads, size_t shared_bytes,
                                     cudaStream_t stream, bool overlap, const Params &params)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = overlap ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, params);
}

/* Loads the kernel too, so that no launch has to. Not under capture. */
template <class Params> static inline cudaError_t moe_allow_shared(void (*kernel)(Params), size_t shared_bytes)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
}

#endif
