// SPDX-License-Identifier: MIT
// linear_q8 of q4_k weights on AVX-512 with VNNI: a super-block, two f16 factors, 8 scales and minima of 6 bits, 256
// nibbles.
#include "cpu/x86/unpack_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    __m512i a = _mm512_loadu_si512(in + 16), b = _mm512_loadu_si512(in + 80);
    __m512i first = _mm512_shuffle_i64x2(a, b, 0x88), second = _mm512_shuffle_i64x2(a, b, 0xdd);
    out.q[0] = low_nibbles(first);
    out.q[1] = low_nibbles(second);
    out.q[2] = high_nibbles(first);
    out.q[3] = high_nibbles(second);
    scales_of_k(&out, in);
    return out;
}

#define FORMAT_NAME q4_k
#define GROUP_BYTES 144
#define UNIT_BYTES 144
#define KIND 4
#define VALUES 16
#define SLOTS 0, 2, 4, 6, 1, 3, 5, 7
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
