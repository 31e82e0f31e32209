// SPDX-License-Identifier: MIT
// linear_q8 of nvfp4 weights on AVX2: 4 scales of E4M3, 64 values of E2M1.
#include "cpu/x86/columns_avx2.h"

/* E2M1 in units of a half, plus 12. */
static const int8_t doubled[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

/* 16 bytes: 8 columns in low nibbles, 8 in high ones, and the same again. */
static inline __m256i unpack_unit(const unsigned char *in)
{
    __m128i bytes = load16(in), nibble = _mm_set1_epi8(0x0f);
    __m128i low = _mm_and_si128(bytes, nibble), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
    __m256i codes = _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high));
    return look_up(doubled, codes);
}

/* Half the scale of a code of E4M3, whose bit 7 is not read; NaN is read as 0 (nvfp4.c). */
static inline __m256 half_scales(__m128i codes)
{
    __m256i all = _mm256_cvtepu8_epi32(codes), code = _mm256_and_si256(all, _mm256_set1_epi32(0x7f));
    __m256i bits = _mm256_add_epi32(_mm256_slli_epi32(code, 20), _mm256_set1_epi32(119 << 23));
    __m256 denormal = _mm256_mul_ps(_mm256_cvtepi32_ps(code), _mm256_set1_ps(0x1p-10f));
    __m256i is_normal = _mm256_cmpgt_epi32(code, _mm256_set1_epi32(7));
    __m256i is_nan = _mm256_cmpeq_epi32(all, _mm256_set1_epi32(0x7f));
    __m256 scale = _mm256_blendv_ps(denormal, _mm256_castsi256_ps(bits), _mm256_castsi256_ps(is_normal));
    return _mm256_andnot_ps(_mm256_castsi256_ps(is_nan), scale);
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    int32_t codes[4];
    for (size_t i = 0; i < 4; i++) {
        memcpy(&codes[i], in + 36 * i, sizeof codes[i]);
        out.q[2 * i] = unpack_unit(in + 36 * i + 4);
        out.q[2 * i + 1] = unpack_unit(in + 36 * i + 20);
    }
    __m128i scales = split_halves(_mm_setr_epi32(codes[0], codes[1], codes[2], codes[3]));
    out.scale[0] = half_scales(scales);
    out.scale[1] = half_scales(_mm_srli_si128(scales, 8));
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_nvfp4_avx2
#define GROUP_BYTES 144
#define UNIT_BYTES 18
#define KIND u5_halves
#define OFFSET 12
#include "cpu/x86/linear_q8_tmpl_avx2.h"
