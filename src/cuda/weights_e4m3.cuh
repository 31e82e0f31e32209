// SPDX-License-Identifier: MIT
// E4M3 without scales, and with scales apart that hold for 128 columns or more (fp8: blocks of 128 x 128, channels,
// whole matrices).
//
// A code is s eeee mmm. Its lower 7 bits, shifted by 4, are exponent and significand of a bf16 that is by 2^120 too
// small, denormal where the code is; one multiplication makes that up, exactly. Of 4 bytes of a row, 0 and 2 are one pair
// and 1 and 3 the other. 0x7f and 0xff are NaN, but would be 480: a load that meets one of these, which no sane file
// has, mends its operands.
// Pitch: a load is 8 bytes by 4 lanes of 4 rows at a time; 32 modulo 128 bytes puts these on different banks.
//
// Bytes: 4096 of a unit. Thread instructions for 16 weights: 2 loads, 28 to place bits, 8 to multiply, 11 to look for
// NaN, 2 products: 3.2 a weight.
#ifndef MOE_CUDA_WEIGHTS_E4M3_CUH
#define MOE_CUDA_WEIGHTS_E4M3_CUH

#include "cuda/planes.cuh"

/* Bytes 0, 2 and 1, 3 of four codes as pairs of bf16. */
MOE_DEVICE void moe_e4m3_unpack(uint32_t *even, uint32_t *odd, uint32_t w)
{
    constexpr uint32_t sign = 0x80008000u, magnitude = 0x07f007f0u, scale = 0x7b807b80u;    /* 2^120 */
    *even = moe_bf16x2_mul(moe_mask_or(w << 8, sign, w << 4 & magnitude), scale);
    *odd = moe_bf16x2_mul(moe_mask_or(w, sign, w >> 4 & magnitude), scale);
}

/* Not 0: there is a NaN among the four codes. */
MOE_DEVICE uint32_t moe_e4m3_find_nan(uint32_t w)
{
    return (w & 0x7f7f7f7fu) + 0x01010101u;
}

MOE_DEVICE uint32_t moe_e4m3_mend(uint32_t pair)
{
    uint32_t low = (pair & 0x7fffu) == 0x43f0u ? 0x7fffu : 0, high = (pair >> 16 & 0x7fffu) == 0x43f0u ? 0x7fffu : 0;
    return pair | high << 16 | low;
}

struct moe_e4m3_codes {
    static constexpr uint32_t segment_bytes = 256, pitch = 288;
    static constexpr bool aligned = true, offset = false;
    static constexpr int order = MOE_ORDER_BYTES;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        const uint2 l = *(const uint2 *)(low + 32 * q + 8 * t), h = *(const uint2 *)(high + 32 * q + 8 * t);
        moe_e4m3_unpack(&a[0], &a[2], l.x);
        moe_e4m3_unpack(&a[4], &a[6], l.y);
        moe_e4m3_unpack(&a[1], &a[3], h.x);
        moe_e4m3_unpack(&a[5], &a[7], h.y);
        if ((moe_e4m3_find_nan(l.x) | moe_e4m3_find_nan(l.y) | moe_e4m3_find_nan(h.x) | moe_e4m3_find_nan(h.y)) &
            0x80808080u)
#pragma unroll
            for (int i = 0; i < 8; i++)
                a[i] = moe_e4m3_mend(a[i]);
    }
};

struct moe_weights_e4m3 : moe_e4m3_codes, moe_no_planes {
    static constexpr int group = MOE_SEGMENT;
};

struct moe_weights_e4m3_128 : moe_e4m3_codes, moe_planes<128, false, 0> {
    static constexpr int group = 128;
};

#endif
