// SPDX-License-Identifier: MIT
// linear_q8 of nvfp4 weights on AVX-512 with VNNI: 4 scales of E4M3 without a sign, 64 nibbles of E2M1.
#include "cpu/x86/unpack_fields_avx512vnni.h"

/* Half of 16 scales. A code's bits are those of an f16 whose exponent is 7 too small, also where it is denormal. NaN
 * is 0, but not with bit 7 set. The first scales of the units, then the second ones; codes begin at 0 and 36 and, from
 * 64 on, 8 and 44. */
static inline __m512 half_scales(const unsigned char *in)
{
    static const uint8_t places[32] = {0, 0, 0, 2, 0, 36, 0, 38, 0, 8, 0, 10, 0, 44, 0, 46,
                                       0, 1, 0, 3, 0, 37, 0, 39, 0, 9, 0, 11, 0, 45, 0, 47};
    const uint32_t first = 0x00aa00aa, second = 0xaa00aa00;
    __m512i order = _mm512_castsi256_si512(load32(places));
    __m512i codes = _mm512_maskz_permutexvar_epi8(first, order, _mm512_loadu_si512(in));
    codes = _mm512_mask_permutexvar_epi8(codes, second, order, _mm512_loadu_si512(in + 64));
    const __m256i most = _mm256_set1_epi16(0x7f00);
    __m256i bits = _mm512_castsi512_si256(codes);
    __mmask16 number = _mm256_cmpneq_epi16_mask(bits, most);
    __m512 scales = _mm512_cvtph_ps(_mm256_srli_epi16(_mm256_and_si256(bits, most), 1));
    return _mm512_maskz_mul_ps(number, scales, _mm512_set1_ps(0x1p7f));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m512i twice = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), high = _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4);
    for (size_t i = 0; i < 4; i++) {
        __m512i both = _mm512_permutexvar_epi64(twice, _mm512_castsi256_si512(load32(in + 4 + 36 * i)));
        out.q[i] = look_up_low4(fp4_table(), _mm512_srlv_epi64(both, high));
    }
    put_halves(out.scale, half_scales(in));
    return out;
}

#define FORMAT_NAME nvfp4
#define GROUP_BYTES 144
#define UNIT_BYTES 18
#define KIND 3
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
