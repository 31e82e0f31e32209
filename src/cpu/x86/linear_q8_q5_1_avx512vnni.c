// SPDX-License-Identifier: MIT
// linear_q8 of q5_1 weights on AVX-512 with VNNI: an f16 scale and minimum, 32 upper bits, 32 nibbles.
#include "cpu/x86/unpack_fields_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t i = 0; i < 4; i++) {
        const unsigned char *pair = in + 48 * i;
        __m512i low = nibbles_of_units(load16(pair + 8), load16(pair + 32));
        out.q[i] = _mm512_mask_add_epi8(low, bits_of_units(pair + 4, pair + 28), low, _mm512_set1_epi8(16));
    }
    static const uint8_t places[32] = {0, 1, 24, 25, 48, 49, 8, 9, 32, 33, 56, 57, 16, 17, 40, 41,
                                       2, 3, 26, 27, 50, 51, 10, 11, 34, 35, 58, 59, 18, 19, 42, 43};
    block_pairs(&out, in, places, 0x0fc00fc0, 128, 0xf000f000);
    return out;
}

#define FORMAT_NAME q5_1
#define GROUP_BYTES 192
#define UNIT_BYTES 24
#define KIND 4
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
