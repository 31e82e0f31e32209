// SPDX-License-Identifier: MIT
// linear of q5_0 weights on AVX-512, activations in f32: an f16 scale, the fifth bits, 32 nibbles.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    uint32_t fifth;
    memcpy(&fifth, in + 2, sizeof fifth);
    __m512 scale = load_scale(in);
    look_up32_5(out, _mm512_mul_ps(scale, count_from(-16)), _mm512_mul_ps(scale, count_from(0)), in + 6, fifth);
}

#define LINEAR_FN moe_linear_q5_0_avx512
#define GROUP 32
#define GROUP_BYTES 22
#define BLOCK_VALUES 32
#include "cpu/x86/linear_tmpl_avx512.h"
