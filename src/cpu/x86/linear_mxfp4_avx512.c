// SPDX-License-Identifier: MIT
// linear of mxfp4 weights on AVX-512, activations in f32: an E8M0 scale, 32 values of E2M1.
#include "cpu/x86/unpack_avx512.h"

/* E2M1 in units of a half, times 2^(e - 128), which is a denormal number for e = 0 and 1. */
static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    uint32_t e = in[0], bits = e < 2 ? (uint32_t)0x00200000u << e : (e - 1) << 23;
    __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32((int)(e == 255 ? 0x7fc00000u : bits)));
    look_up32(out, _mm512_mul_ps(scale, count_to_f32(doubled)), in + 1);
}

#define LINEAR_FN moe_linear_mxfp4_avx512
#define GROUP 32
#define GROUP_BYTES 17
#define BLOCK_VALUES 32
#include "cpu/x86/linear_tmpl_avx512.h"
