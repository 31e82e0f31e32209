// SPDX-License-Identifier: MIT
// linear of mxfp4 weights on AVX2, activations in f32: an E8M0 scale, 32 values of E2M1.
#include "cpu/x86/unpack_avx2.h"

/* E2M1 in units of a half, times 2^(e - 128), which is a denormal number for e = 0 and 1. */
static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static inline void unpack32(__m256 out[4], const unsigned char *in)
{
    uint32_t e = in[0], bits = e < 2 ? (uint32_t)0x00200000u << e : (e - 1) << 23;
    widen(out, look_up(doubled, load_nibbles(in + 1)));
    scale32(out, _mm256_castsi256_ps(_mm256_set1_epi32((int)(e == 255 ? 0x7fc00000u : bits))));
}

#define LINEAR_FN moe_linear_mxfp4_avx2
#define UNPACK_BYTES 17
#include "cpu/x86/linear_tmpl_avx2.h"
