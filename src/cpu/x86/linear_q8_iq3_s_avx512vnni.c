// SPDX-License-Identifier: MIT
// linear_q8 of iq3_s weights on AVX-512 with VNNI: an f16 factor, 64 rows of a code book of 512, the rows' upper bits,
// 256 signs, 8 scales of 4 bits.
#include "cpu/x86/unpack_iq_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    __m512i at = _mm512_loadu_si512(in + 2);
    uint64_t upper;
    struct signs signs;
    memcpy(&upper, in + 66, sizeof upper);
    memcpy(&signs, in + 74, sizeof signs);
    __m512i rows[2];
    for (size_t i = 0; i < 2; i++) {
        __m512i first = look_up256(iq3_s_book[i], at), second = look_up256(iq3_s_book[i] + 256, at);
        rows[i] = transpose_fours(_mm512_mask_mov_epi8(first, upper, second));
    }
    spread_rows_4(out.q, rows[0], rows[1]);
    for (size_t i = 0; i < 4; i++) {
        __m512i q = _mm512_ternarylogic_epi32(out.q[i], _mm512_set1_epi8(15), _mm512_set1_epi8(-128), 0xea);
        out.q[i] = negate(q, signs.of[i]);
    }
    __m256i scales = _mm256_srlv_epi32(broadcast4(in + 106), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    __m256 scale = fields_to_f32_8(scales, _mm256_set1_epi32(15), 0x1p24f, 0x1p24f - 1);
    out.scale[0] = _mm256_mul_ps(scale, _mm256_broadcastss_ps(load_factors(in)));
    return out;
}

#define FORMAT_NAME iq3_s
#define GROUP_BYTES 110
#define UNIT_BYTES 110
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
