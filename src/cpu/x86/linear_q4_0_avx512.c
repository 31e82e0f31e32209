// SPDX-License-Identifier: MIT
// linear of q4_0 weights on AVX-512, activations in f32: an f16 scale, 32 nibbles that stand for -8 to 7.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    look_up32(out, _mm512_mul_ps(load_scale(in), count_from(-8)), in + 2);
}

#define LINEAR_FN moe_linear_q4_0_avx512
#define GROUP 32
#define GROUP_BYTES 18
#define BLOCK_VALUES 32
#include "cpu/x86/linear_tmpl_avx512.h"
