// SPDX-License-Identifier: MIT
// linear_q8 of iq4_xs weights on AVX-512 with VNNI: a super-block, an f16 factor, 8 scales of 6 bits, 256 nibbles of a
// code book.
#include "cpu/x86/unpack_fields_avx512vnni.h"
#include "format/iq4.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m128i table = _mm_xor_si128(load16((const unsigned char *)iq4_values), _mm_set1_epi8(-128));
    for (size_t i = 0; i < 4; i++)
        out.q[i] = look_up_low4(table, low4_of_units(in + 8 + 32 * i, in + 24 + 32 * i));
    __m256i high = _mm256_srlv_epi32(broadcast4(in), _mm256_setr_epi32(12, 14, 16, 18, 20, 22, 24, 26));
    __m256i low = _mm256_srlv_epi32(broadcast4(in + 4), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    __m256i both = _mm256_ternarylogic_epi32(low, high, _mm256_set1_epi32(15), 0xe4);
    __m256 scale = fields_to_f32_8(both, _mm256_set1_epi32(63), 0x1p23f, 0x1p23f + 32);
    out.scale[0] = _mm256_mul_ps(scale, _mm256_broadcastss_ps(load_factors(in)));
    return out;
}

#define FORMAT_NAME iq4_xs
#define GROUP_BYTES 136
#define UNIT_BYTES 136
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
