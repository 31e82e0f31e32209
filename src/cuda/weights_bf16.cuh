// SPDX-License-Identifier: MIT
// BF16 weights: operands as they stand.
#ifndef MOE_CUDA_WEIGHTS_BF16_CUH
#define MOE_CUDA_WEIGHTS_BF16_CUH

#include "cuda/planes.cuh"

/* Eight lanes read 16 bytes of two rows at a time: a pitch of 64 modulo 128 bytes keeps these on different banks. */
struct moe_weights_bf16 : moe_no_planes {
    static constexpr uint32_t segment_bytes = 512, pitch = 576;
    static constexpr bool aligned = true, offset = false;
    static constexpr int order = MOE_ORDER_PLAIN, group = MOE_SEGMENT;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        uint4 l = *(const uint4 *)(low + 64 * q + 16 * t), h = *(const uint4 *)(high + 64 * q + 16 * t);
        a[0] = l.x, a[1] = h.x, a[2] = l.y, a[3] = h.y;
        a[4] = l.z, a[5] = h.z, a[6] = l.w, a[7] = h.w;
    }
};

#endif
