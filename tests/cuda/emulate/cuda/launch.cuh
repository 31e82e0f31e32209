// SPDX-License-Identifier: MIT
// Stands in for src/cuda/launch.cuh: the same functions, on the CPU.
#ifndef MOE_CUDA_LAUNCH_CUH
#define MOE_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>
#include <stddef.h>

static inline unsigned char *moe_dynamic_shared(void)
{
    return moe_emulate_dynamic_shared();
}

template <class Params>
static inline cudaError_t moe_launch(void (*kernel)(Params), unsigned blocks, unsigned threads, size_t shared_bytes,
                                     cudaStream_t stream, bool overlap, const Params &params)
{
    static_assert(std::is_trivially_copyable_v<Params> && sizeof(Params) <= 4096, "what a launch can carry");
    moe_emulate_launch_config config = {(const void *)kernel, dim3(blocks), dim3(threads), shared_bytes, overlap};
    Params copy = params;
    return moe_emulate_launch(config, stream, [kernel, copy]() { kernel(copy); });
}

template <class Params> static inline cudaError_t moe_allow_shared(void (*kernel)(Params), size_t shared_bytes)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
}

#endif
