// SPDX-License-Identifier: MIT
// linear_q8 of iq2_s weights on AVX-512 with VNNI: an f16 factor, 32 rows of a code book of 1024, 256 signs, the rows'
// upper 2 bits, 16 scales of 4 bits.
#include "cpu/x86/unpack_iq_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m512i upper_at = _mm512_setr_epi64(0x0600040002000000, 0x0e000c000a000800, 0x1600140012001000,
                                               0x1e001c001a001800, 0x2600240022002000, 0x2e002c002a002800,
                                               0x3600340032003000, 0x3e003c003a003800);    /* bits 2 k on, for row k */
    __m512i upper = _mm512_multishift_epi64_epi8(upper_at, broadcast8(in + 66));
    __m512i lower = _mm512_cvtepu8_epi16(load32(in + 2));
    struct signs signs;
    memcpy(&signs, in + 34, sizeof signs);
    __m512i places = _mm512_ternarylogic_epi32(upper, _mm512_set1_epi16(0x0300), lower, 0xea);
    for (int i = 0; i < 4; i++)
        out.q[i] = negate(fetch_rows_of(iq2_s_book, places, i), signs.of[i]);
    put_iq2_scales(&out, in + 74, in);
    return out;
}

#define FORMAT_NAME iq2_s
#define GROUP_BYTES 82
#define UNIT_BYTES 82
#define KIND 3
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
