// SPDX-License-Identifier: MIT
// linear_q8 of q2_k weights on AVX-512 with VNNI: a super-block, 16 scales and minima of 4 bits, 256 times 2 bits, two
// f16 factors.
#include "cpu/x86/unpack_fields_avx512vnni.h"

/* Scales are the last 4 bits of a byte each, minima the others: 16 times as much, for a 16th of the factor. */
static inline void put_scales(struct q8_group *out, const unsigned char *in)
{
    const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m512i bytes = _mm512_permutexvar_epi8(order, _mm512_castsi128_si512(load16(in)));
    __m128 both = _mm_mul_ps(load_factors(in + 76), _mm_setr_ps(0, 0, 1, -0x1p-4f));
    __m512 d = _mm512_permutexvar_ps(_mm512_set1_epi32(2), _mm512_castps128_ps512(both));
    __m512 dmin = _mm512_permutexvar_ps(_mm512_set1_epi32(3), _mm512_castps128_ps512(both));
    __m512 scales = fields_to_f32(bytes, _mm512_set1_epi32(0x0f), 0x1p23f, 0x1p23f);
    __m512 minima = fields_to_f32(bytes, _mm512_set1_epi32(0xf0), 0x1p23f, 0x1p23f);
    put_halves(out->scale, _mm512_mul_ps(scales, d));
    put_halves(out->minimum, _mm512_mul_ps(minima, dmin));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (int i = 0; i < 4; i++) {
        __m512i both = _mm512_broadcast_i64x4(load32(in + 16 + i / 2 * 32));
        out.q[i] = _mm512_and_si512(low2_of_pair(both, i % 2), _mm512_set1_epi8(3));
    }
    put_scales(&out, in);
    return out;
}

#define FORMAT_NAME q2_k
#define GROUP_BYTES 84
#define UNIT_BYTES 84
#define KIND 6
#define VALUES 16
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
