// SPDX-License-Identifier: MIT
// linear_q8 of q5_0 weights on AVX-512 with VNNI: an f16 scale, 32 upper bits, 32 nibbles, together less 16.
#include "cpu/x86/unpack_fields_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t i = 0; i < 4; i++) {
        const unsigned char *pair = in + 44 * i;
        __m512i low = low4_of_units(pair + 6, pair + 28);    /* and 128 - 16 */
        low = _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(0x0f), _mm512_set1_epi8(0x70), 0xea);
        out.q[i] = _mm512_mask_add_epi8(low, bits_of_units(pair + 2, pair + 24), low, _mm512_set1_epi8(16));
    }
    out.scale[0] = block_scales(in, 22);
    return out;
}

#define FORMAT_NAME q5_0
#define GROUP_BYTES 176
#define UNIT_BYTES 22
#define KIND 1
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
