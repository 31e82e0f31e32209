// SPDX-License-Identifier: MIT
// linear of f32 weights on AVX-512, activations in f32.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    for (int i = 0; i < 2; i++)
        out[i] = _mm512_loadu_ps(in + i * 64);
}

#define LINEAR_FN moe_linear_f32_avx512
#define GROUP 32
#define GROUP_BYTES 128
#define BLOCK_VALUES 1
#include "cpu/x86/linear_tmpl_avx512.h"
