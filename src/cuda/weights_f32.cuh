// SPDX-License-Identifier: MIT
// F32 weights, rounded to bf16, to nearest: an error of at most 2^-8 of a weight, as x has it.
//
// Row: 32 bytes are the 8 columns of a lane in two steps, in their order. Pitch: eight lanes read 16 of every 32 bytes
// of two rows at a time; an odd multiple of 16 bytes puts the second row between those of the first.
//
// Bytes: 16384 of a unit. Thread instructions for 16 weights: 4 loads, 8 to convert, 2 products: 0.9 a weight.
#ifndef MOE_CUDA_WEIGHTS_F32_CUH
#define MOE_CUDA_WEIGHTS_F32_CUH

#include "cuda/planes.cuh"

struct moe_weights_f32 : moe_no_planes {
    static constexpr uint32_t segment_bytes = 1024, pitch = 1040;
    static constexpr bool aligned = true, offset = false;
    static constexpr int order = MOE_ORDER_PLAIN, group = MOE_SEGMENT;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        const float4 *l = (const float4 *)(low + 128 * q + 32 * t), *h = (const float4 *)(high + 128 * q + 32 * t);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a[4 * i] = moe_bf16x2(l[i].x, l[i].y), a[4 * i + 1] = moe_bf16x2(h[i].x, h[i].y);
            a[4 * i + 2] = moe_bf16x2(l[i].z, l[i].w), a[4 * i + 3] = moe_bf16x2(h[i].z, h[i].w);
        }
    }
};

#endif
