// SPDX-License-Identifier: MIT
// linear_q8 of iq3_xxs weights on AVX-512 with VNNI: an f16 factor, 64 rows of a code book of 256, and for 32 columns
// 28 signs and a scale of 4 bits.
#include "cpu/x86/unpack_iq_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m512i signs_at = _mm512_set1_epi64(0x352e2720150e0700);    /* 7 bits from bits 0, 7, 14 and 21 of 32 on */
    const __m128i magnitudes = _mm_setr_epi8((char)132, (char)140, (char)148, (char)156, (char)164, (char)172,
                                             (char)180, (char)190, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i at = transpose_fours(_mm512_loadu_si512(in + 2));
    __m256i words = load32(in + 66);
    struct signs signs;
    put_even_signs(&signs, _mm512_multishift_epi64_epi8(signs_at, _mm512_castsi256_si512(words)));
    spread_rows_4(out.q, look_up256(iq3_xxs_book[0], at), look_up256(iq3_xxs_book[1], at));
    for (size_t i = 0; i < 4; i++)
        out.q[i] = negate(look_up_low4(magnitudes, out.q[i]), signs.of[i]);
    __m256 scale = fields_to_f32_8(_mm256_srli_epi32(words, 28), _mm256_set1_epi32(15), 0x1p22f, 0x1p22f - 0.25f);
    out.scale[0] = _mm256_mul_ps(scale, _mm256_broadcastss_ps(load_factors(in)));
    return out;
}

#define FORMAT_NAME iq3_xxs
#define GROUP_BYTES 98
#define UNIT_BYTES 98
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
