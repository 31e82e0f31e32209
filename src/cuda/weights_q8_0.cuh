// SPDX-License-Identifier: MIT
// Q8_0: 34 bytes for 32 columns, layout in format/q8_0.c. Codes are q.
//
// Bytes: 4352 of a unit. Thread instructions for 16 weights: 8 to load (blocks begin at even addresses: 4 or 12, by
// turns), 28 to unpack, 2 products, 2 loads and 4 to scale; with the scales of the unit 3.5 a weight, in SASS.
#ifndef MOE_CUDA_WEIGHTS_Q8_0_CUH
#define MOE_CUDA_WEIGHTS_Q8_0_CUH

#include "cuda/blocks.cuh"

/* The lanes of a warp read 16 bytes of eight rows at a time: a pitch of 16 modulo 32 bytes keeps these on different
 * banks. */
struct moe_weights_q8_0 : moe_no_planes {
    static constexpr uint32_t segment_bytes = 272, pitch = 272;
    static constexpr bool aligned = true, offset = false;
    static constexpr int order = MOE_ORDER_HALVES, group = 32;

    /* Two lanes a row, four blocks each. */
    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        moe_blocks_scales<moe_weights_q8_0, tiles, 34>(table, unit, rows, segment, lane);
    }

    /* Bytes 0 and 2, signed: 128 + the lower 7 bits, less 128 or, for negative ones, 256. */
    static __device__ __forceinline__ uint32_t pair(uint32_t w)
    {
        return moe_bf16x2_fma(moe_mask_or(w, 0x00800080u, 0x43004300u), 0xbf80bf80u, moe_codes_even(w, 0x007f007fu));
    }

    static __device__ __forceinline__ void row(uint32_t *a, const unsigned char *from, uint32_t q, int t)
    {
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t w = moe_blocks_word(from + 4 * t, 34 * q + 2 + 16 * h);
            a[4 * h] = pair(w), a[4 * h + 2] = pair(w >> 8);
        }
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        row(a, low, q, t);
        row(a + 1, high, q, t);
    }
};

#endif
