// SPDX-License-Identifier: MIT
// linear_q8 of tq1_0 weights on AVX-512 with VNNI: a super-block, 52 bytes of 5 or 4 ternary digits less 1, an f16
// scale.
#include "cpu/x86/unpack_fields_avx512vnni.h"

/* Two columns, times powers of 3; 8 columns. */
#define TWICE(power) (power) * 0x00010001
#define EIGHT(power) (power) * 0x0001000100010001

/* The first ternary digits of bytes times powers, modulo 256, as fractions of 256: less 1, plus 128. A power stands for
 * two bytes; odd ones are multiplied as the upper halves of 16 bits. */
static inline __m512i digits(__m512i bytes, __m512i powers)
{
    const __m512i odd = _mm512_set1_epi16((short)0xff00);
    __m512i even_product = _mm512_mullo_epi16(bytes, powers);
    __m512i odd_product = _mm512_mullo_epi16(_mm512_and_si512(bytes, odd), powers);
    __m512i fractions = select_bits(odd, odd_product, even_product);
    __mmask64 some = _mm512_cmpge_epu8_mask(fractions, _mm512_set1_epi8(86));
    __mmask64 two = _mm512_cmpge_epu8_mask(fractions, _mm512_set1_epi8((char)171));
    __m512i values = _mm512_mask_blend_epi8(some, _mm512_set1_epi8(127), _mm512_set1_epi8(-128));
    return _mm512_mask_mov_epi8(values, two, _mm512_set1_epi8(-127));
}

/* Digit n is the first one of the byte times 3^n. Byte l of 32 has values 32 n + l, of the next 16 values
 * 160 + 16 n + l, of the next 4 values 240 + 4 n + l. */
static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m512i by_1_3 = _mm512_setr_epi64(EIGHT(1), EIGHT(1), EIGHT(1), EIGHT(1),
                                             EIGHT(3), EIGHT(3), EIGHT(3), EIGHT(3));
    const __m512i by_9_27 = _mm512_setr_epi64(EIGHT(9), EIGHT(9), EIGHT(9), EIGHT(9),
                                              EIGHT(27), EIGHT(27), EIGHT(27), EIGHT(27));
    const __m512i by_81_1_3 = _mm512_setr_epi64(EIGHT(81), EIGHT(81), EIGHT(81), EIGHT(81),
                                                EIGHT(1), EIGHT(1), EIGHT(3), EIGHT(3));
    const __m512i by_9_to_27 = _mm512_setr_epi32(TWICE(9), TWICE(9), TWICE(9), TWICE(9), TWICE(27), TWICE(27),
                                                 TWICE(27), TWICE(27), TWICE(81), TWICE(81), TWICE(81), TWICE(81),
                                                 TWICE(1), TWICE(3), TWICE(9), TWICE(27));
    int last;
    memcpy(&last, in + 48, sizeof last);
    __m512i first = _mm512_broadcast_i64x4(load32(in)), middle = _mm512_broadcast_i32x4(load16(in + 32));
    out.q[0] = digits(first, by_1_3);
    out.q[1] = digits(first, by_9_27);
    out.q[2] = digits(_mm512_mask_mov_epi64(first, 0xf0, middle), by_81_1_3);
    out.q[3] = digits(_mm512_mask_set1_epi32(middle, 0xf000, last), by_9_to_27);
    __m256 d = _mm256_castps128_ps256(load_factors(in + 46));
    out.scale[0] = _mm256_permutevar8x32_ps(d, _mm256_set1_epi32(3));
    return out;
}

#define FORMAT_NAME tq1_0
#define GROUP_BYTES 54
#define UNIT_BYTES 54
#define KIND 1
#define VALUES 16
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
