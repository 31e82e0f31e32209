// SPDX-License-Identifier: MIT
// linear_q8 of iq4_nl weights on AVX-512 with VNNI: an f16 scale, 32 nibbles of a code book.
#include "cpu/x86/unpack_fields_avx512vnni.h"
#include "format/iq4.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m128i table = _mm_xor_si128(load16((const unsigned char *)iq4_values), _mm_set1_epi8(-128));
    for (size_t i = 0; i < 4; i++)
        out.q[i] = look_up_low4(table, low4_of_units(in + 2 + 36 * i, in + 20 + 36 * i));
    out.scale[0] = block_scales(in, 18);
    return out;
}

#define FORMAT_NAME iq4_nl
#define GROUP_BYTES 144
#define UNIT_BYTES 18
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
