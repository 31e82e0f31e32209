// SPDX-License-Identifier: MIT
// linear of q8_0 weights on AVX-512, activations in f32: an f16 scale, 32 int8.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    __m512 scale = load_scale(in);
    out[0] = _mm512_mul_ps(scale, widen(load16(in + 2)));
    out[1] = _mm512_mul_ps(scale, widen(load16(in + 18)));
}

#define LINEAR_FN moe_linear_q8_0_avx512
#define GROUP 32
#define GROUP_BYTES 34
#define BLOCK_VALUES 32
#include "cpu/x86/linear_tmpl_avx512.h"
