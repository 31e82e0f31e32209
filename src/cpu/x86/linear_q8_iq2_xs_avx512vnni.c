// SPDX-License-Identifier: MIT
// linear_q8 of iq2_xs weights on AVX-512 with VNNI: an f16 factor, 32 times a row of a code book of 512 and 7 signs, 16
// scales of 4 bits.
#include "cpu/x86/unpack_iq_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    static const uint8_t even_bytes[32] = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                           32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    __m512i words = _mm512_loadu_si512(in + 2), order = _mm512_castsi256_si512(load32(even_bytes));
    struct signs signs;
    put_even_signs(&signs, _mm512_permutexvar_epi8(order, _mm512_srli_epi16(words, 9)));
    __m512i places = _mm512_and_si512(words, _mm512_set1_epi16(511));
    for (int i = 0; i < 4; i++)
        out.q[i] = negate(fetch_rows_of(iq2_xs_book, places, i), signs.of[i]);
    put_iq2_scales(&out, in + 66, in);
    return out;
}

#define FORMAT_NAME iq2_xs
#define GROUP_BYTES 74
#define UNIT_BYTES 74
#define KIND 3
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
