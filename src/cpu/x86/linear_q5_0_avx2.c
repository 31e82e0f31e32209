// SPDX-License-Identifier: MIT
// linear of q5_0 weights on AVX2, activations in f32: an f16 scale, the fifth bits, 32 nibbles; less 16.
#include "cpu/x86/unpack_avx2.h"

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    __m256i values = _mm256_or_si256(load_nibbles(in + 6), load_bits(in + 2, 16));
    widen(out, _mm256_sub_epi8(values, _mm256_set1_epi8(16)));
    scale32(out, load_scale(in));
}

#define LINEAR_FN moe_linear_q5_0_avx2
#define UNPACK_BYTES 22
#include "cpu/x86/linear_tmpl_avx2.h"
