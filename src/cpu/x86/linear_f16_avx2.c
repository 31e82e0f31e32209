// SPDX-License-Identifier: MIT
// linear of f16 weights on AVX2, through F16C.
#include "cpu/x86/unpack_avx2.h"

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    for (int i = 0; i < 4; i++)
        out[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + i * 16)));
}

#define LINEAR_FN moe_linear_f16_avx2
#define UNPACK_BYTES 64
#include "cpu/x86/linear_tmpl_avx2.h"
