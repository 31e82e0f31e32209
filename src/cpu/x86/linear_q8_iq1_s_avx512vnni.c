// SPDX-License-Identifier: MIT
// linear_q8 of iq1_s weights on AVX-512 with VNNI: an f16 factor, 32 rows of a code book of 2048, and for 32 columns
// the rows' upper bits, a scale of 3 bits and the sign of 1/8 that is added. q are eighths.
#include "cpu/x86/unpack_iq_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    static const uint8_t eighths[4] = {128 - 9, 128 - 1, 128 + 7, 128};    /* 8 (c - 1) - 1 */
    const __m512i upper_at = _mm512_set1_epi64(0x0900060003000000);        /* bits 3 k on, for row k */
    const __m512i pair = _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1);
    __m128i words = load16(in + 34);
    __m512i upper = _mm512_multishift_epi64_epi8(upper_at, _mm512_cvtepu16_epi64(words));
    __m512i lower = _mm512_cvtepu8_epi16(load32(in + 2));
    __m512i places = _mm512_ternarylogic_epi32(upper, _mm512_set1_epi16(0x0700), lower, 0xea);
    __m512i rows = fetch_rows_at(moe_iq_grids_iq1, places);
    __mmask8 plus = (__mmask8)~_mm_movepi16_mask(words);
    __m512i quarter = _mm512_maskz_set1_epi64(plus, 0x0202020202020202);
    for (int i = 0; i < 4; i++) {
        __m512i more = _mm512_permutexvar_epi64(_mm512_add_epi64(pair, _mm512_set1_epi64(2 * i)), quarter);
        out.q[i] = _mm512_add_epi8(look_up_low2(eighths, spread_rows(rows, i)), more);
    }
    /* d (2 s + 1) / 8, where s is 4096 times as much */
    __m256i fields = _mm256_cvtepu16_epi32(words);
    __m256 scale = fields_to_f32_8(fields, _mm256_set1_epi32(0x7000), 0x1p9f, 0x1p9f - 0.125f);
    out.scale[0] = _mm256_mul_ps(scale, _mm256_broadcastss_ps(load_factors(in)));
    return out;
}

#define FORMAT_NAME iq1_s
#define GROUP_BYTES 50
#define UNIT_BYTES 50
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
