// SPDX-License-Identifier: MIT
// MXFP4: 17 bytes for 32 columns, layout in format/mxfp4.c; rows begin at any address. Codes are 192 + twice the value
// of E2M1, the centre takes 192 off.
//
// Bytes: 2176 of a unit. Thread instructions for 16 weights: 6 to load, at any address, and 6 for the addresses, 26 to
// unpack, 2 products, 2 for the centre (once for all units of the tokens), 2 loads and 4 to scale; with the scales of
// the unit 4.1 a weight, in SASS.
#ifndef MOE_CUDA_WEIGHTS_MXFP4_CUH
#define MOE_CUDA_WEIGHTS_MXFP4_CUH

#include "cuda/planes.cuh"
#include "cuda/words.cuh"

/* The lanes of a warp read 16 bytes of eight rows at a time: a pitch of 16 modulo 32 bytes keeps these on different
 * banks, as long as rows begin at the same place within 16 bytes; otherwise a bank may be met twice. */
struct moe_weights_mxfp4 : moe_no_planes {
    static constexpr uint32_t segment_bytes = 136, pitch = 176;
    static constexpr bool aligned = false, offset = false;
    static constexpr uint32_t centre = 0xc340c340u;
    static constexpr int order = MOE_ORDER_HALVES, group = 32;

    /* 2^(e - 128): half of 2^(e - 127), whose exponent is e, but for e = 0, where it is a denormal. */
    static __device__ __forceinline__ float scale(uint32_t e)
    {
        uint32_t bits = e << 23 > 0x00400000u ? e << 23 : 0x00400000u;
        return e == 255 ? __uint_as_float(0x7fc00000u) : 0.5f * __uint_as_float(bits);
    }

    /* Two lanes a row, four blocks each. */
    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        const uint32_t half = (uint32_t)lane / 16;
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            const uint32_t row = 16 * m + lane % 16;
            const unsigned char *from = moe_unit_begin<moe_weights_mxfp4, tiles>(unit, rows, segment, row) + 68 * half;
            float2 *to = table + 4 * half * tiles * MOE_TILE_ROWS + row;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                to[i * tiles * MOE_TILE_ROWS] = make_float2(scale(from[17 * i]), 0.0f);
        }
    }

    /* 8 nibbles; swapped: bytes 0, 2, 1, 3 of a word, so that nibbles 0, 2 (low ones) and 1, 3 (high ones) of each half
     * are pairs. A permutation looks up 64 + twice the value of four: negative ones give 0 there, and with the sign
     * flipped the others do. */
    static __device__ __forceinline__ void codes(uint32_t *a, uint32_t swapped)
    {
        const uint32_t positive[2] = {moe_own_register(0x43424140u), moe_own_register(0x4c484644u)};
        const uint32_t negative[2] = {moe_own_register(0x3d3e3f40u), moe_own_register(0x34383a3cu)};
        const uint32_t odd = moe_own_register(MOE_CODES_ODD);
        uint32_t flipped = swapped ^ 0x88888888u;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t w = moe_permute(positive[0], positive[1], swapped >> 16 * i) |
                         moe_permute(negative[0], negative[1], flipped >> 16 * i);
            a[2 * i] = moe_codes_even(w, 0x007f007fu), a[4 + 2 * i] = moe_permute(w, 0x43434343u, odd);
        }
    }

    /* The 16 bytes of block q begin at 17 q + 1: from four places within a word, by turns. */
    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        uint32_t turn = q % 4;
        codes(a, moe_words_get_swapped(moe_words_from(low + 4 * t + 17 * turn + 1), 68 * (q / 4)));
        codes(a + 1, moe_words_get_swapped(moe_words_from(high + 4 * t + 17 * turn + 1), 68 * (q / 4)));
    }
};

#endif
