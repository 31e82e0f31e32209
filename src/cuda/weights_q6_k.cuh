// SPDX-License-Identifier: MIT
// Q6_K: 210 bytes for 256 columns, layout in format/q6_k.c; rows begin at any address. Codes are 128 + q, the centre
// takes 160 off.
//
// Bytes: 3360 of a unit. Thread instructions for 16 weights: 9 to load, at any address, 21 to unpack, 2 products, 2
// for the centre (once for all units of the tokens), 4 loads and 8 to scale; with the scales of the unit 4.5 a weight,
// in SASS.
#ifndef MOE_CUDA_WEIGHTS_Q6_K_CUH
#define MOE_CUDA_WEIGHTS_Q6_K_CUH

#include "cuda/planes.cuh"
#include "cuda/words.cuh"

/* The lanes of a warp read 16 bytes of eight rows at a time: a pitch of 16 modulo 32 bytes keeps these on different
 * banks, as long as rows begin at the same place within 16 bytes; otherwise a bank may be met twice. */
struct moe_weights_q6_k : moe_no_planes {
    static constexpr uint32_t segment_bytes = 210, pitch = 240;
    static constexpr bool aligned = false, offset = false;
    static constexpr uint32_t centre = 0xc320c320u;
    static constexpr int order = MOE_ORDER_HALVES, group = 16;

    /* Two lanes a row, eight groups each. */
    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        const uint32_t half = (uint32_t)lane / 16;
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            const uint32_t row = 16 * m + lane % 16;
            const unsigned char *from = moe_unit_begin<moe_weights_q6_k, tiles>(unit, rows, segment, row);
            const struct moe_words words = moe_words_from(from);
            float d = moe_f16_value(moe_words_get(words, 208));
            float2 *to = table + 8 * half * tiles * MOE_TILE_ROWS + row;
#pragma unroll
            for (uint32_t k = 0; k < 2; k++) {
                uint32_t four = moe_words_get(words, 192 + 8 * half + 4 * k);
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    to[(4 * k + i) * tiles * MOE_TILE_ROWS] = make_float2((float)(int8_t)(four >> 8 * i) * d, 0.0f);
            }
        }
    }

    /* Four codes: the lower bits in nibbles of low, the upper in pairs of bits of high. Step q = 4 half + k. */
    static __device__ __forceinline__ void word(uint32_t *a, uint32_t low, uint32_t high, uint32_t k)
    {
        uint32_t upper = k < 2 ? high << (4 - 2 * k) : high >> (2 * k - 4);
        uint32_t w = moe_select_bits(0x0f0f0f0fu, low >> k / 2 * 4, upper);
        a[0] = moe_codes_even(w, 0x003f003fu), a[2] = moe_codes_even(w >> 8, 0x003f003fu);
    }

    static __device__ __forceinline__ void row(uint32_t *a, const unsigned char *from, uint32_t q, int t)
    {
        const struct moe_words words = moe_words_from(from + 4 * t);
        uint32_t half = q / 4, k = q % 4;
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
            word(a + 4 * h, moe_words_get(words, 64 * half + k % 2 * 32 + 16 * h),
                 moe_words_get(words, 128 + 32 * half + 16 * h), k);
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        row(a, low, q, t);
        row(a + 1, high, q, t);
    }
};

#endif
