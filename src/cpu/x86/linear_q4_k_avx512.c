// SPDX-License-Identifier: MIT
// linear of q4_k weights on AVX-512, activations in f32: 8 groups of 32 nibbles, each with a scale and a
// minimum; two groups share their bytes.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[16], const unsigned char *in)
{
    float scales[8], minima[8];
    scales_of_k(scales, minima, in);
    for (int g = 0; g < 8; g += 2, in += 32) {
        __m512 first = _mm512_fmsub_ps(_mm512_set1_ps(scales[g]), count_from(0), _mm512_set1_ps(minima[g]));
        __m512 second = _mm512_fmsub_ps(_mm512_set1_ps(scales[g + 1]), count_from(0), _mm512_set1_ps(minima[g + 1]));
        for (int i = 0; i < 2; i++) {
            __m512i codes = _mm512_cvtepu8_epi32(load16(in + 16 + i * 16));
            out[2 * g + i] = _mm512_permutexvar_ps(codes, first);
            out[2 * g + 2 + i] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), second);
        }
    }
}

#define LINEAR_FN moe_linear_q4_k_avx512
#define GROUP 256
#define GROUP_BYTES 144
#define BLOCK_VALUES 256
#include "cpu/x86/linear_tmpl_avx512.h"
