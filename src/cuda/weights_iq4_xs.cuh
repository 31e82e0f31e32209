// SPDX-License-Identifier: MIT
// IQ4_XS: 136 bytes for 256 columns, layout in format/iq4_xs.c; rows begin at any address. Codes are values of the
// book.
//
// Bytes: 2176 of a unit. Thread instructions for 16 weights: 6 to load, at any address, 38 to unpack, 2 products, 2
// loads and 4 to scale; with the scales of the unit 4.2 a weight, in SASS.
#ifndef MOE_CUDA_WEIGHTS_IQ4_XS_CUH
#define MOE_CUDA_WEIGHTS_IQ4_XS_CUH

#include "cuda/iq4.cuh"
#include "cuda/planes.cuh"
#include "cuda/words.cuh"

/* The lanes of a warp read 16 bytes of eight rows at a time: a pitch of 16 modulo 32 bytes keeps these on different
 * banks, as long as rows begin at the same place within 16 bytes; otherwise a bank may be met twice. */
struct moe_weights_iq4_xs : moe_no_planes {
    static constexpr uint32_t segment_bytes = 136, pitch = 176;
    static constexpr bool aligned = false, offset = false;
    static constexpr int order = MOE_ORDER_HALVES, group = 32;

    /* Two lanes a row, four groups each. */
    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        const uint32_t half = (uint32_t)lane / 16;
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            const uint32_t row = 16 * m + lane % 16;
            const unsigned char *from = moe_unit_begin<moe_weights_iq4_xs, tiles>(unit, rows, segment, row);
            const struct moe_words words = moe_words_from(from);
            uint32_t head = moe_words_get(words, 0), low = moe_words_get(words, 4) >> 16 * half;
            uint32_t high = head >> (16 + 8 * half);
            float d = moe_f16_value(head);
            float2 *to = table + 4 * half * tiles * MOE_TILE_ROWS + row;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                int32_t scale = (int32_t)((low >> 4 * i & 15) | (high >> 2 * i & 3) << 4) - 32;
                to[i * tiles * MOE_TILE_ROWS] = make_float2((float)scale * d, 0.0f);
            }
        }
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        moe_iq4_codes(a, moe_words_get_swapped(moe_words_from(low + 4 * t), 8 + 16 * q));
        moe_iq4_codes(a + 1, moe_words_get_swapped(moe_words_from(high + 4 * t), 8 + 16 * q));
    }
};

#endif
