// SPDX-License-Identifier: MIT
// U4 with scales apart (GPTQ, AWQ, compressed-tensors): groups of 32 columns, or of 128, which are cheaper.
//
// Row: byte b has column 2 b in its low nibble, 2 b + 1 in the high one. Of 32 columns (16 bytes) lane t takes 4 bytes
// with columns 8 t .. 8 t + 7. Nibbles i and i + 4 of that word are apart by 16 bits: after a shift by 4 i bits they
// are the last bits of two bf16 of 0x43.., that is 128 + q, exactly. The 128, and the zeros, go into the term.
// Pitch: a load is 4 bytes by 4 lanes of 8 rows; 16 modulo 128 bytes puts the rows into 8 different groups of 4 banks.
//
// Bytes: 2048 of a unit, and its scales: 256 (f16, groups of 32) or 64 (128). Thread instructions a weight: 14 to take
// apart 16 weights (0.9), and for them 2 loads, 4 products, 2 of them with ones for the term; scaling takes 10 (0.6)
// with groups of 32, a quarter of that with 128.
#ifndef MOE_CUDA_WEIGHTS_U4_CUH
#define MOE_CUDA_WEIGHTS_U4_CUH

#include "cuda/planes.cuh"

template <int group_> struct moe_weights_u4 : moe_planes<group_, true, 128> {
    static constexpr uint32_t segment_bytes = 128, pitch = 144;
    static constexpr bool aligned = true, offset = true;
    static constexpr int order = MOE_ORDER_NIBBLES, group = group_;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        constexpr uint32_t mask = 0x000f000fu, magic = 0x43004300u;
        const uint32_t l = *(const uint32_t *)(low + 16 * q + 4 * t), h = *(const uint32_t *)(high + 16 * q + 4 * t);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[2 * i] = moe_mask_or(l >> 4 * i, mask, magic);
            a[2 * i + 1] = moe_mask_or(h >> 4 * i, mask, magic);
        }
    }
};

typedef moe_weights_u4<32> moe_weights_u4_32;
typedef moe_weights_u4<128> moe_weights_u4_128;

#endif
