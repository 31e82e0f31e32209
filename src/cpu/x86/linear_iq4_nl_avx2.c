// SPDX-License-Identifier: MIT
// linear of iq4_nl weights on AVX2, activations in f32: an f16 scale, 32 codes of a book of 16 values.
#include "cpu/x86/unpack_avx2.h"
#include "format/iq4.h"

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    widen(out, look_up(iq4_values, load_nibbles(in + 2)));
    scale32(out, load_scale(in));
}

#define LINEAR_FN moe_linear_iq4_nl_avx2
#define UNPACK_BYTES 18
#include "cpu/x86/linear_tmpl_avx2.h"
