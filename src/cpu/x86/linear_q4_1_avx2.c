// SPDX-License-Identifier: MIT
// linear of q4_1 weights on AVX2, activations in f32: an f16 scale and an f16 offset, 32 nibbles.
#include "cpu/x86/unpack_avx2.h"

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    widen(out, load_nibbles(in + 4));
    scale_add32(out, load_scale(in), load_scale(in + 2));
}

#define LINEAR_FN moe_linear_q4_1_avx2
#define UNPACK_BYTES 20
#include "cpu/x86/linear_tmpl_avx2.h"
