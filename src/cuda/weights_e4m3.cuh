// SPDX-License-Identifier: MIT
// E4M3 without scales, and with scales apart that hold for 128 columns or more (fp8: blocks of 128 x 128, channels,
// whole matrices).
//
// Row: 8 bytes are the 8 columns of a lane in two steps, in their order. Two codes become two f16 in one instruction,
// these two f32, and these two bf16, all exactly; NaN stays NaN. (To put bits into place and multiply takes 4.5
// instructions in place of these 4, and 1.4 more to find NaN.)
// Pitch: a load is 8 bytes by 4 lanes of 4 rows at a time; 32 modulo 128 bytes puts these on different banks.
//
// Bytes: 4096 of a unit. Thread instructions for 16 weights: 2 loads, 4 shifts, 32 to convert, 2 products: 2.5 a
// weight.
#ifndef MOE_CUDA_WEIGHTS_E4M3_CUH
#define MOE_CUDA_WEIGHTS_E4M3_CUH

#include "cuda/planes.cuh"
#include "cuda/weights_f16.cuh"

struct moe_e4m3_codes {
    static constexpr uint32_t segment_bytes = 256, pitch = 288;
    static constexpr bool aligned = true, offset = false;
    static constexpr int order = MOE_ORDER_PLAIN;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        const uint2 l = *(const uint2 *)(low + 32 * q + 8 * t), h = *(const uint2 *)(high + 32 * q + 8 * t);
        a[0] = unpack(l.x), a[1] = unpack(h.x), a[2] = unpack(l.x >> 16), a[3] = unpack(h.x >> 16);
        a[4] = unpack(l.y), a[5] = unpack(h.y), a[6] = unpack(l.y >> 16), a[7] = unpack(h.y >> 16);
    }

    static __device__ __forceinline__ uint32_t unpack(uint32_t codes)
    {
        return moe_f16_round(moe_e4m3_pair(codes));
    }
};

struct moe_weights_e4m3 : moe_e4m3_codes, moe_no_planes {
    static constexpr int group = MOE_SEGMENT;
};

struct moe_weights_e4m3_128 : moe_e4m3_codes, moe_planes<128, false, 0> {
    static constexpr int group = 128;
};

#endif
