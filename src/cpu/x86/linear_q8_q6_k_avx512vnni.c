// SPDX-License-Identifier: MIT
// linear_q8 of q6_k weights on AVX-512 with VNNI: a super-block, 256 nibbles, 256 times 2 upper bits, 16 int8 scales,
// an f16 factor.
#include "cpu/x86/unpack_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m512i two = _mm512_set1_epi8(0x30);
    __m512i a = _mm512_loadu_si512(in), b = _mm512_loadu_si512(in + 64), upper = _mm512_loadu_si512(in + 128);
    for (size_t h = 0; h < 2; h++) {    /* first halves of units, then second */
        __m512i both = h == 0 ? _mm512_shuffle_i64x2(a, b, 0x88) : _mm512_shuffle_i64x2(a, b, 0xdd);
        __m512i bits = h == 0 ? _mm512_shuffle_i64x2(upper, upper, 0xa0) : _mm512_shuffle_i64x2(upper, upper, 0xf5);
        __m512i low = _mm512_sllv_epi64(bits, _mm512_setr_epi64(4, 4, 2, 2, 4, 4, 2, 2));
        __m512i high = _mm512_srlv_epi64(bits, _mm512_setr_epi64(0, 0, 2, 2, 0, 0, 2, 2));
        out.q[h] = _mm512_or_si512(low_nibbles(both), _mm512_and_si512(low, two));
        out.q[2 + h] = _mm512_or_si512(high_nibbles(both), _mm512_and_si512(high, two));
    }
    uint16_t half;
    memcpy(&half, in + 208, sizeof half);
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m512i scales = _mm512_cvtepi8_epi32(_mm_shuffle_epi8(load16(in + 192), order));
    __m512 scale = _mm512_mul_ps(_mm512_cvtepi32_ps(scales), _mm512_set1_ps(_cvtsh_ss(half)));
    out.scale[0] = _mm512_castps512_ps256(scale);
    out.scale[1] = _mm512_extractf32x8_ps(scale, 1);
    return out;
}

#define FORMAT_NAME q6_k
#define GROUP_BYTES 210
#define UNIT_BYTES 210
#define KIND 3
#define OFFSET 32
#define SLOTS 0, 1, 4, 5, 2, 3, 6, 7
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
