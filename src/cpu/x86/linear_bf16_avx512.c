// SPDX-License-Identifier: MIT
// linear of bf16 weights on AVX-512, activations in f32: the upper half of an f32.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    for (int i = 0; i < 2; i++) {
        __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)(in + i * 32));
        out[i] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
}

#define LINEAR_FN moe_linear_bf16_avx512
#define GROUP 32
#define GROUP_BYTES 64
#define BLOCK_VALUES 1
#include "cpu/x86/linear_tmpl_avx512.h"
