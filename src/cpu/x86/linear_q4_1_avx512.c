// SPDX-License-Identifier: MIT
// linear of q4_1 weights on AVX-512, activations in f32: an f16 scale and an f16 offset, 32 nibbles.
#include "cpu/x86/unpack_avx512.h"

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    look_up32(out, _mm512_fmadd_ps(load_scale(in), count_from(0), load_scale(in + 2)), in + 4);
}

#define LINEAR_FN moe_linear_q4_1_avx512
#define GROUP 32
#define GROUP_BYTES 20
#define BLOCK_VALUES 32
#include "cpu/x86/linear_tmpl_avx512.h"
