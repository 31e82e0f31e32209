// SPDX-License-Identifier: MIT
// linear_q8 of q8_0 weights on AVX-512 with VNNI: an f16 scale, 32 int8.
#include "cpu/x86/unpack_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t i = 0; i < 4; i++) {
        const unsigned char *pair = in + i * 68 + 2;
        __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(load32(pair)), load32(pair + 34), 1);
        out.q[i] = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
    }
    out.scale[0] = block_scales(in, 34);
    return out;
}

#define FORMAT_NAME q8_0
#define GROUP_BYTES 272
#define UNIT_BYTES 34
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
