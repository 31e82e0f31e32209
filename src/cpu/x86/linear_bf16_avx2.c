// SPDX-License-Identifier: MIT
// linear of bf16 weights on AVX2: a bf16 is the upper half of an f32.
#include <immintrin.h>

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    for (int i = 0; i < 4; i++) {
        __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)(in + i * 16));
        out[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
}

#define LINEAR_FN moe_linear_bf16_avx2
#define UNPACK_BYTES 64
#include "cpu/x86/linear_tmpl_avx2.h"
