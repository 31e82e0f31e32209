// SPDX-License-Identifier: MIT
// linear_q8 of tq2_0 weights on AVX-512 with VNNI: a super-block, 256 times 2 bits less 1, an f16 scale.
#include "cpu/x86/unpack_fields_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    static const uint8_t values[4] = {127, 128, 129, 130};
    for (int i = 0; i < 4; i++) {
        __m512i both = _mm512_broadcast_i64x4(load32(in + i / 2 * 32));
        out.q[i] = look_up_low2(values, low2_of_pair(both, i % 2));
    }
    __m256 d = _mm256_castps128_ps256(load_factors(in + 58));
    out.scale[0] = _mm256_permutevar8x32_ps(d, _mm256_set1_epi32(3));
    return out;
}

#define FORMAT_NAME tq2_0
#define GROUP_BYTES 66
#define UNIT_BYTES 66
#define KIND 1
#define VALUES 16
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
