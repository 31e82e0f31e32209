// SPDX-License-Identifier: MIT
// linear of q6_k weights on AVX-512, activations in f32: 16 groups of 16 values of 6 bits, each with a scale
// of 8 bits. Value 32 k + l of a half of 128 is in byte 32 (k & 1) + l of the lower bits, in byte l of the upper ones.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[16], const unsigned char *in)
{
    float scales[16];
    _mm512_storeu_ps(scales, _mm512_mul_ps(load_scale(in + 208), widen(load16(in + 192))));
    for (int half = 0; half < 2; half++) {
        for (int part = 0; part < 2; part++) {    /* values 0 .. 15 and 16 .. 31 of each 32 */
            const unsigned char *low = in + 64 * half + 16 * part;
            __m512i high = _mm512_cvtepu8_epi32(load16(in + 128 + 32 * half + 16 * part));
            const __m512i codes[2] = {_mm512_cvtepu8_epi32(load16(low)), _mm512_cvtepu8_epi32(load16(low + 32))};
            for (int k = 0; k < 4; k++) {
                __m512i code = k < 2 ? _mm512_and_si512(codes[k], _mm512_set1_epi32(15))
                                     : _mm512_srli_epi32(codes[k - 2], 4);
                __m512i upper = _mm512_and_si512(_mm512_slli_epi32(_mm512_srli_epi32(high, 2 * (unsigned)k), 4),
                                                 _mm512_set1_epi32(0x30));
                code = _mm512_sub_epi32(_mm512_or_si512(code, upper), _mm512_set1_epi32(32));
                int at = 8 * half + 2 * k + part;
                out[at] = _mm512_mul_ps(_mm512_cvtepi32_ps(code), _mm512_set1_ps(scales[at]));
            }
        }
    }
}

#define LINEAR_FN moe_linear_q6_k_avx512
#define GROUP 256
#define GROUP_BYTES 210
#define BLOCK_VALUES 256
#include "cpu/x86/linear_tmpl_avx512.h"
