// SPDX-License-Identifier: MIT
// F16 weights, rounded to bf16, to nearest: an error of at most 2^-8 of a weight, as x has it. A second term per weight
// would keep all 11 bits, for twice the products and registers, but the error that x brings would stay.
//
// Row: 16 bytes are the 8 columns of a lane in two steps, in their order. Pitch: eight lanes read 16 bytes of two rows
// at a time; 64 modulo 128 bytes keeps these on different banks.
//
// Bytes: 8192 of a unit. Thread instructions for 16 weights: 2 loads, 24 to convert, 2 products: 1.8 a weight.
#ifndef MOE_CUDA_WEIGHTS_F16_CUH
#define MOE_CUDA_WEIGHTS_F16_CUH

#include "cuda/planes.cuh"

MOE_DEVICE uint32_t moe_f16_round(uint32_t pair)
{
    return moe_bf16x2(moe_f16_value(pair), moe_f16_value(pair >> 16));
}

struct moe_weights_f16 : moe_no_planes {
    static constexpr uint32_t segment_bytes = 512, pitch = 576;
    static constexpr bool aligned = true, offset = false;
    static constexpr int order = MOE_ORDER_PLAIN, group = MOE_SEGMENT;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        const uint4 l = *(const uint4 *)(low + 64 * q + 16 * t), h = *(const uint4 *)(high + 64 * q + 16 * t);
        a[0] = moe_f16_round(l.x), a[1] = moe_f16_round(h.x), a[2] = moe_f16_round(l.y), a[3] = moe_f16_round(h.y);
        a[4] = moe_f16_round(l.z), a[5] = moe_f16_round(h.z), a[6] = moe_f16_round(l.w), a[7] = moe_f16_round(h.w);
    }
};

#endif
