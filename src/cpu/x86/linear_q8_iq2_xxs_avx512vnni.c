// SPDX-License-Identifier: MIT
// linear_q8 of iq2_xxs weights on AVX-512 with VNNI: an f16 factor, and for 32 columns 4 rows of a code book of 256, 28
// signs and a scale of 4 bits.
#include "cpu/x86/unpack_iq_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m512i signs_at = _mm512_set1_epi64(0x352e272000000000);    /* 7 bits from bits 32, 39, 46 and 53 on */
    const __m512i fours = _mm512_setr_epi32(0x07060504, 0x0f0e0d0c, 0x17161514, 0x1f1e1d1c, 0x27262524, 0x2f2e2d2c,
                                            0x37363534, 0x3f3e3d3c, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i sevens = _mm512_setr_epi32(7, 15, 23, 31, 39, 47, 55, 63, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i groups = _mm512_loadu_si512(in + 2);
    struct signs signs;
    put_even_signs(&signs, _mm512_permutexvar_epi8(fours, _mm512_multishift_epi64_epi8(signs_at, groups)));
    const __m256i bytes = _mm256_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11);
    for (int i = 0; i < 4; i++) {
        __m512i from = _mm512_castsi256_si512(_mm256_add_epi32(bytes, _mm256_set1_epi32(16 * i)));
        __m512i places = _mm512_maskz_permutexvar_epi8(0x11111111, from, groups);
        out.q[i] = negate(fetch_rows8(iq2_xxs_book, _mm512_castsi512_si256(places)), signs.of[i]);
    }
    /* d (1/2 + s) / 4, where s is 16 times as much */
    __m256i fields = _mm512_castsi512_si256(_mm512_permutexvar_epi8(sevens, groups));
    __m256 scale = fields_to_f32_8(fields, _mm256_set1_epi32(0xf0), 0x1p17f, 0x1p17f - 0.125f);
    out.scale[0] = _mm256_mul_ps(scale, _mm256_broadcastss_ps(load_factors(in)));
    return out;
}

#define FORMAT_NAME iq2_xxs
#define GROUP_BYTES 66
#define UNIT_BYTES 66
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
