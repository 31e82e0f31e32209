// SPDX-License-Identifier: MIT
// linear of q5_1 weights on AVX2, activations in f32: an f16 scale and an f16 offset, the fifth bits, 32 nibbles.
#include "cpu/x86/unpack_avx2.h"

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    widen(out, _mm256_or_si256(load_nibbles(in + 8), load_bits(in + 4, 16)));
    scale_add32(out, load_scale(in), load_scale(in + 2));
}

#define LINEAR_FN moe_linear_q5_1_avx2
#define UNPACK_BYTES 24
#include "cpu/x86/linear_tmpl_avx2.h"
