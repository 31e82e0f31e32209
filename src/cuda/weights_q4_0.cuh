// SPDX-License-Identifier: MIT
// Q4_0: 18 bytes for 32 columns, layout in format/q4_0.c. Codes are 128 + q, the centre takes 136 off.
//
// Bytes: 2304 of a unit. Thread instructions for 16 weights: 4 to load (blocks begin at even addresses: 2 or 6, by
// turns), 14 to unpack, 2 products, 2 for the centre (of all tiles), 2 loads and 4 to scale; with the scales of the
// unit 2.2 a weight, in SASS.
#ifndef MOE_CUDA_WEIGHTS_Q4_0_CUH
#define MOE_CUDA_WEIGHTS_Q4_0_CUH

#include "cuda/blocks.cuh"

/* The lanes of a warp read 16 bytes of eight rows at a time: a pitch of 16 modulo 32 bytes keeps these on different
 * banks. */
struct moe_weights_q4_0 : moe_no_planes {
    static constexpr uint32_t segment_bytes = 144, pitch = 144;
    static constexpr bool aligned = true, offset = false;
    static constexpr uint32_t centre = 0xc308c308u;
    static constexpr int order = MOE_ORDER_HALVES, group = 32;

    /* Two lanes a row, four blocks each. */
    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        moe_blocks_scales<moe_weights_q4_0, tiles, 18>(table, unit, rows, segment, lane);
    }

    static __device__ __forceinline__ void row(uint32_t *a, const unsigned char *from, uint32_t q, int t)
    {
        uint32_t w = moe_blocks_word(from + 4 * t, 18 * q + 2);
        a[0] = moe_codes_even(w, 0x000f000fu), a[2] = moe_codes_even(w >> 8, 0x000f000fu);
        a[4] = moe_codes_even(w >> 4, 0x000f000fu), a[6] = moe_codes_even(w >> 12, 0x000f000fu);
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        row(a, low, q, t);
        row(a + 1, high, q, t);
    }
};

#endif
