// SPDX-License-Identifier: MIT
// linear_q8 of iq1_m weights on AVX-512 with VNNI: 32 rows of a code book of 2048, for each its upper bits and the sign
// of 1/8 that is added, 16 scales of 3 bits, and between them the bits of an f16 factor. q are eighths.
#include "cpu/x86/unpack_iq_avx512vnni.h"

/* Lane u is d (2 s + 1) / 8 of unit u's first half, lane 8 + u of its other half; s is at bit 16 (u / 2) + 6 (u % 2) of
 * the 8 bytes, or 3 bits on. d is in bits 12 .. 15, 28 .. 31, 44 .. 47 and 60 .. 63. */
static inline __m512 scales(const unsigned char *in)
{
    const __m512i at = _mm512_setr_epi32(0, 6, 16, 22, 32, 38, 48, 54, 3, 9, 19, 25, 35, 41, 51, 57);
    uint64_t bits;
    memcpy(&bits, in, sizeof bits);
    uint64_t d = (bits >> 12 & 0xf) | (bits >> 24 & 0xf0) | (bits >> 36 & 0xf00) | (bits >> 48 & 0xf000);
    __m512i fields = _mm512_multishift_epi64_epi8(at, _mm512_set1_epi64((long long)bits));
    __m512 scale = fields_to_f32(fields, _mm512_set1_epi32(7), 0x1p21f, 0x1p21f - 0.125f);
    return _mm512_mul_ps(scale, _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128((int)d))));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    static const uint8_t eighths[4] = {128 - 9, 128 - 1, 128 + 7, 128};    /* 8 (c - 1) - 1 */
    const __m512i upper_at = _mm512_set1_epi64(0x0c00080004000000);        /* bits 4 k on, for row k */
    __m512i upper = _mm512_multishift_epi64_epi8(upper_at, _mm512_cvtepu16_epi64(load16(in + 32)));
    __m512i lower = _mm512_cvtepu8_epi16(load32(in));
    __m512i places = _mm512_ternarylogic_epi32(upper, _mm512_set1_epi16(0x0700), lower, 0xea);
    __m512i rows = fetch_rows_at(moe_iq_grids_iq1, places);
    __mmask32 plus = _mm512_testn_epi16_mask(upper, _mm512_set1_epi16(0x0800));
    for (int i = 0; i < 4; i++) {
        __m512i q = look_up_low2(eighths, spread_rows(rows, i));
        out.q[i] = _mm512_mask_add_epi64(q, (__mmask8)(plus >> 8 * i), q, _mm512_set1_epi8(2));
    }
    put_halves(out.scale, scales(in + 48));
    return out;
}

#define FORMAT_NAME iq1_m
#define GROUP_BYTES 56
#define UNIT_BYTES 56
#define KIND 3
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
