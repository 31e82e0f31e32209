// SPDX-License-Identifier: MIT
// linear of q5_1 weights on AVX-512, activations in f32: an f16 scale and an f16 offset, the fifth bits,
// 32 nibbles.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    uint32_t fifth;
    memcpy(&fifth, in + 4, sizeof fifth);
    __m512 scale = load_scale(in), offset = load_scale(in + 2);
    __m512 low = _mm512_fmadd_ps(scale, count_from(0), offset), high = _mm512_fmadd_ps(scale, count_from(16), offset);
    look_up32_5(out, low, high, in + 8, fifth);
}

#define LINEAR_FN moe_linear_q5_1_avx512
#define GROUP 32
#define GROUP_BYTES 24
#define BLOCK_VALUES 32
#include "cpu/x86/linear_tmpl_avx512.h"
