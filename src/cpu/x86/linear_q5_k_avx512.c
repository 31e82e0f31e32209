// SPDX-License-Identifier: MIT
// linear of q5_k weights on AVX-512, activations in f32: 8 groups of 32 values of 5 bits, each with a scale
// and a minimum; two groups share the bytes of their lower bits, all those of their fifth bits.
#include "cpu/x86/unpack_avx512.h"

/* 32 values: nibbles of codes in the low bits, the fifth bit where high has it. */
static inline void look_up_group(__m512 out[2], const __m512i codes[2], const __m512i high[2], int g, float scale,
                                 float minimum)
{
    const __m512i nibble = _mm512_set1_epi32(15), sixteen = _mm512_set1_epi32(16), bit = _mm512_set1_epi32(1 << g);
    __m512 s = _mm512_set1_ps(scale), m = _mm512_set1_ps(minimum);
    __m512 lower = _mm512_fmsub_ps(s, count_from(0), m), upper = _mm512_fmsub_ps(s, count_from(16), m);
    for (int i = 0; i < 2; i++) {
        __m512i code = _mm512_and_si512(codes[i], nibble);
        code = _mm512_mask_or_epi32(code, _mm512_test_epi32_mask(high[i], bit), code, sixteen);
        out[i] = _mm512_permutex2var_ps(lower, code, upper);
    }
}

static inline void unpack(__m512 out[16], const unsigned char *in)
{
    float scales[8], minima[8];
    scales_of_k(scales, minima, in);
    const __m512i high[2] = {_mm512_cvtepu8_epi32(load16(in + 16)), _mm512_cvtepu8_epi32(load16(in + 32))};
    for (int g = 0; g < 8; g += 2, in += 32) {
        const __m512i low[2] = {_mm512_cvtepu8_epi32(load16(in + 48)), _mm512_cvtepu8_epi32(load16(in + 64))};
        const __m512i next[2] = {_mm512_srli_epi32(low[0], 4), _mm512_srli_epi32(low[1], 4)};
        look_up_group(out + 2 * g, low, high, g, scales[g], minima[g]);
        look_up_group(out + 2 * g + 2, next, high, g + 1, scales[g + 1], minima[g + 1]);
    }
}

#define LINEAR_FN moe_linear_q5_k_avx512
#define GROUP 256
#define GROUP_BYTES 176
#define BLOCK_VALUES 256
#include "cpu/x86/linear_tmpl_avx512.h"
