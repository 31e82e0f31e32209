// SPDX-License-Identifier: MIT
// linear of q8_0 weights on AVX2, activations in f32. A block is an f16 scale and 32 int8; a weight, their product, has
// 19 significant bits: it is exact in f32.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    uint16_t half;
    memcpy(&half, in, sizeof half);
    __m256 scale = _mm256_set1_ps(_cvtsh_ss(half));
    for (int i = 0; i < 4; i++) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(in + 2 + i * 8));
        out[i] = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
    }
}

#define LINEAR_FN moe_linear_q8_0_avx2
#define UNPACK_BYTES 34
#include "cpu/x86/linear_tmpl_avx2.h"
