// SPDX-License-Identifier: MIT
// linear of q4_0 weights on AVX2, activations in f32: an f16 scale, 32 nibbles less 8.
#include "cpu/x86/unpack_avx2.h"

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    widen(out, _mm256_sub_epi8(load_nibbles(in + 2), _mm256_set1_epi8(8)));
    scale32(out, load_scale(in));
}

#define LINEAR_FN moe_linear_q4_0_avx2
#define UNPACK_BYTES 18
#include "cpu/x86/linear_tmpl_avx2.h"
