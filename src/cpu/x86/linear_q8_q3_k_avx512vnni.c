// SPDX-License-Identifier: MIT
// linear_q8 of q3_k weights on AVX-512 with VNNI: a super-block, 256 times one upper bit, 256 times 2 lower bits,
// together less 4, 16 scales of 6 bits, an f16 factor.
#include "cpu/x86/unpack_fields_avx512vnni.h"

/* Lane u is scale 2 u, lane 8 + u scale 2 u + 1. Scale g has its lower 4 bits at bit 8 (g % 8) + 4 (g / 8) of the 12
 * bytes, its upper 2 bits at bit 64 + 8 (g % 4) + 2 (g / 4): the last 8 bytes of the block begin with bit 48. */
static inline __m512 scales(const unsigned char *in)
{
    const __m512i low_at = _mm512_setr_epi32(0, 16, 32, 48, 4, 20, 36, 52, 8, 24, 40, 56, 12, 28, 44, 60);
    const __m512i high_at = _mm512_setr_epi32(12, 28, 14, 30, 16, 32, 18, 34, 20, 36, 22, 38, 24, 40, 26, 42);
    __m512i low = _mm512_multishift_epi64_epi8(low_at, broadcast8(in + 96));
    __m512i high = _mm512_multishift_epi64_epi8(high_at, broadcast8(in + 102));
    __m512i both = select_bits(_mm512_set1_epi32(15), low, high);
    __m512 d = _mm512_permutexvar_ps(_mm512_set1_epi32(3), _mm512_castps128_ps512(load_factors(in + 102)));
    return _mm512_mul_ps(fields_to_f32(both, _mm512_set1_epi32(63), 0x1p23f, 0x1p23f + 32), d);
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    __m512i upper = _mm512_broadcast_i64x4(load32(in));
    for (int i = 0; i < 4; i++) {
        __m512i low = low2_of_pair(_mm512_broadcast_i64x4(load32(in + 32 + i / 2 * 32)), i % 2);    /* and 128 - 4 */
        low = _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(3), _mm512_set1_epi8(124), 0xea);
        out.q[i] = _mm512_mask_add_epi8(low, bits_of_pair(upper, 2 * i), low, _mm512_set1_epi8(4));
    }
    put_halves(out.scale, scales(in));
    return out;
}

#define FORMAT_NAME q3_k
#define GROUP_BYTES 110
#define UNIT_BYTES 110
#define KIND 3
#define VALUES 16
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
