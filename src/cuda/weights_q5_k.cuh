// SPDX-License-Identifier: MIT
// Q5_K: 176 bytes for 256 columns, layout in format/q5_k.c. As Q4_K, with the fifth bit of a lane's columns of all
// steps in 8 bytes more. Codes are 128 + q, which the term makes up for.
//
// Bytes: 2816 of a unit. Thread instructions for 16 weights: 1 load, 22 to unpack, 2 products, 2 for the sums of x
// (once for all units of the tokens), 2 loads and 8 to scale; with the scales of the unit 3.3 a weight, in SASS.
#ifndef MOE_CUDA_WEIGHTS_Q5_K_CUH
#define MOE_CUDA_WEIGHTS_Q5_K_CUH

#include "cuda/lines.cuh"

/* Half a warp reads 8 bytes of each lane at a time, 32 of four rows: a pitch of 96 modulo 128 bytes keeps these on
 * different banks. */
struct moe_weights_q5_k : moe_no_planes {
    static constexpr uint32_t segment_bytes = 176, pitch = 224;
    static constexpr bool aligned = true, offset = true;
    static constexpr int order = MOE_ORDER_BYTES, group = 32;

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        moe_lines_table<moe_weights_q5_k, tiles>(table, unit, rows, segment, lane);
    }

    /* Four codes: low has their lower bits, high their fifth in bit q of each byte. */
    static __device__ __forceinline__ void word(uint32_t *a, uint32_t low, uint32_t high, uint32_t q)
    {
        uint32_t fifth = q < 4 ? high << (4 - q % 4) : high >> q % 4;
        uint32_t w = moe_select_bits(0x0f0f0f0fu, low >> q % 2 * 4, fifth);
        a[0] = moe_codes_even(w, 0x001f001fu), a[2] = moe_codes_even(w >> 8, 0x001f001fu);
    }

    static __device__ __forceinline__ void row(uint32_t *a, const unsigned char *from, uint32_t q, int t)
    {
        uint2 high = *(const uint2 *)(from + 16 + 8 * t), low = *(const uint2 *)(from + 48 + 32 * (q / 2) + 8 * t);
        word(a, low.x, high.x, q);
        word(a + 4, low.y, high.y, q);
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        row(a, low, q, t);
        row(a + 1, high, q, t);
    }
};

#endif
