// SPDX-License-Identifier: MIT
// IQ4_NL: 18 bytes for 32 columns, layout in format/iq4_nl.c. Codes are values of the book.
//
// Bytes: 2304 of a unit. Thread instructions for 16 weights: 6 to load, 38 to unpack, 2 products, 2 loads and 4 to
// scale; with the scales of the unit 3.6 a weight, in SASS.
#ifndef MOE_CUDA_WEIGHTS_IQ4_NL_CUH
#define MOE_CUDA_WEIGHTS_IQ4_NL_CUH

#include "cuda/blocks.cuh"
#include "cuda/iq4.cuh"

/* The lanes of a warp read 16 bytes of eight rows at a time: a pitch of 16 modulo 32 bytes keeps these on different
 * banks. */
struct moe_weights_iq4_nl : moe_no_planes {
    static constexpr uint32_t segment_bytes = 144, pitch = 144;
    static constexpr bool aligned = true, offset = false;
    static constexpr int order = MOE_ORDER_HALVES, group = 32;

    /* Two lanes a row, four blocks each. */
    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        moe_blocks_scales<moe_weights_iq4_nl, tiles, 18>(table, unit, rows, segment, lane);
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        moe_iq4_codes(a, moe_blocks_word_swapped(low + 4 * t, 18 * q + 2));
        moe_iq4_codes(a + 1, moe_blocks_word_swapped(high + 4 * t, 18 * q + 2));
    }
};

#endif
