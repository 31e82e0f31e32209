// SPDX-License-Identifier: MIT
// linear_q8 of q5_k weights on AVX-512 with VNNI: a super-block, two f16 factors, 8 scales and minima of 6 bits, 256
// times one upper bit, 256 nibbles.
#include "cpu/x86/unpack_fields_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    __m512i upper = _mm512_broadcast_i64x4(load32(in + 16));
    for (int i = 0; i < 4; i++) {
        __m512i low = nibbles_of_pair(in + 48 + 32 * i);
        out.q[i] = _mm512_mask_add_epi8(low, bits_of_pair(upper, 2 * i), low, _mm512_set1_epi8(16));
    }
    fields_of_k(&out, in);
    return out;
}

#define FORMAT_NAME q5_k
#define GROUP_BYTES 176
#define UNIT_BYTES 176
#define KIND 4
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
