// SPDX-License-Identifier: MIT
// E2M1 with scales apart: of 32 columns (MXFP4 as safetensors have it) and of 16 (NVFP4 likewise).
//
// Row: byte b has column 2 b in its low nibble, 2 b + 1 in the high one. A code is s ee m; ee m as the bits 8 .. 6 of a
// bf16 are the value by 2^126 too small, denormal where the code is; one multiplication makes that up, exactly. Two
// nibbles that are apart by 16 bits are unpacked together: alone, times 2^a + 2^b they are twice in the word without
// overlap, s in bit 15 and ee m in place.
// Groups of 32: lane t takes the 4 bytes of columns 8 t .. 8 t + 7 of 32, pairs are nibbles i and i + 4. Groups of 16:
// a step of 16 columns has to be one group, lane t takes the 2 bytes of columns 4 t .. 4 t + 3 of each; it loads all 16
// bytes, as its neighbours do, and takes what it needs.
// Pitch: a load is 16 bytes of each of 8 rows; 16 modulo 128 bytes puts the rows into 8 different groups of 4 banks.
//
// Bytes: 2048 of a unit, and its scales: 128 (groups of 32) or 256 (16). Thread instructions for 16 weights: 2 loads,
// 34 to unpack (36 for groups of 16), 2 products, 6 to scale (12): 2.8 a weight (3.3).
#ifndef MOE_CUDA_WEIGHTS_E2M1_CUH
#define MOE_CUDA_WEIGHTS_E2M1_CUH

#include "cuda/planes.cuh"

/* Nibble i of each half of w; i is 0 or 1. */
template <int i> MOE_DEVICE uint32_t moe_e2m1_unpack(uint32_t w)
{
    constexpr uint32_t scale = 0x7e807e80u;    /* 2^126 */
    uint32_t twice = (w & (0x000f000fu << 4 * i)) * ((1u << 12 | 1u << 6) >> 4 * i);
    return moe_bf16x2_mul(twice & 0x81c081c0u, scale);
}

struct moe_e2m1_codes {
    static constexpr uint32_t segment_bytes = 128, pitch = 144;
    static constexpr bool aligned = true, offset = false;
};

struct moe_weights_e2m1_32 : moe_e2m1_codes, moe_planes<32, false, 0> {
    static constexpr int order = MOE_ORDER_NIBBLES, group = 32;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        const uint32_t l = *(const uint32_t *)(low + 16 * q + 4 * t), h = *(const uint32_t *)(high + 16 * q + 4 * t);
        a[0] = moe_e2m1_unpack<0>(l), a[1] = moe_e2m1_unpack<0>(h);
        a[2] = moe_e2m1_unpack<1>(l), a[3] = moe_e2m1_unpack<1>(h);
        a[4] = moe_e2m1_unpack<0>(l >> 8), a[5] = moe_e2m1_unpack<0>(h >> 8);
        a[6] = moe_e2m1_unpack<1>(l >> 8), a[7] = moe_e2m1_unpack<1>(h >> 8);
    }
};

struct moe_weights_e2m1_16 : moe_e2m1_codes, moe_planes<16, false, 0> {
    static constexpr int order = MOE_ORDER_HALVES, group = 16;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        const uint4 l = *(const uint4 *)(low + 16 * q), h = *(const uint4 *)(high + 16 * q);
        const uint32_t apart = 0x0100u + 0x0202u * (uint32_t)t;    /* bytes 2 t and 2 t + 1, each first of a half */
        const uint32_t l0 = __byte_perm(l.x, l.y, apart), l1 = __byte_perm(l.z, l.w, apart);
        const uint32_t h0 = __byte_perm(h.x, h.y, apart), h1 = __byte_perm(h.z, h.w, apart);
        a[0] = moe_e2m1_unpack<0>(l0), a[1] = moe_e2m1_unpack<0>(h0);
        a[2] = moe_e2m1_unpack<1>(l0), a[3] = moe_e2m1_unpack<1>(h0);
        a[4] = moe_e2m1_unpack<0>(l1), a[5] = moe_e2m1_unpack<0>(h1);
        a[6] = moe_e2m1_unpack<1>(l1), a[7] = moe_e2m1_unpack<1>(h1);
    }
};

#endif
