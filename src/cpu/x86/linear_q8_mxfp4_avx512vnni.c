// SPDX-License-Identifier: MIT
// linear_q8 of mxfp4 weights on AVX-512 with VNNI: a scale of E8M0, 32 nibbles of E2M1.
#include "cpu/x86/unpack_fields_avx512vnni.h"

/* 2^(e - 128) for each block's e, at 0, 17, 34, 51 and, from 64 on, 4, 21, 38, 55: the bits of e - 1 as an exponent; 0
 * and 1 are denormals, 255 is NaN. */
static inline __m256 half_scales(const unsigned char *in)
{
    const __m512i places = _mm512_castsi256_si512(_mm256_setr_epi32(0, 17, 34, 51, 4, 21, 38, 55));
    __m512i all = _mm512_maskz_permutexvar_epi8(0x1111, places, _mm512_loadu_si512(in));
    all = _mm512_mask_permutexvar_epi8(all, 0x11110000, places, _mm512_loadu_si512(in + 64));
    __m256i e = _mm512_castsi512_si256(all);
    __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(-1)), 23);
    __mmask8 denormal = _mm256_cmplt_epi32_mask(e, _mm256_set1_epi32(2));
    bits = _mm256_mask_sllv_epi32(bits, denormal, _mm256_set1_epi32(0x00200000), e);
    __mmask8 nan = _mm256_cmpeq_epi32_mask(e, _mm256_set1_epi32(255));
    return _mm256_castsi256_ps(_mm256_mask_mov_epi32(bits, nan, _mm256_set1_epi32(0x7fc00000)));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t i = 0; i < 4; i++)
        out.q[i] = look_up_low4(fp4_table(), low4_of_units(in + 1 + 34 * i, in + 18 + 34 * i));
    out.scale[0] = half_scales(in);
    return out;
}

#define FORMAT_NAME mxfp4
#define GROUP_BYTES 136
#define UNIT_BYTES 17
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
