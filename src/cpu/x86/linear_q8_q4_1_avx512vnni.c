// SPDX-License-Identifier: MIT
// linear_q8 of q4_1 weights on AVX-512 with VNNI: an f16 scale and minimum, 32 nibbles.
#include "cpu/x86/unpack_fields_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t i = 0; i < 4; i++)
        out.q[i] = nibbles_of_units(load16(in + 4 + 40 * i), load16(in + 24 + 40 * i));
    static const uint8_t places[32] = {0, 1, 20, 21, 40, 41, 60, 61, 16, 17, 36, 37, 56, 57, 44, 45,
                                       2, 3, 22, 23, 42, 43, 62, 63, 18, 19, 38, 39, 58, 59, 46, 47};
    block_pairs(&out, in, places, 0x3f003f00, 96, 0xc000c000);
    return out;
}

#define FORMAT_NAME q4_1
#define GROUP_BYTES 160
#define UNIT_BYTES 20
#define KIND 4
#define VALUES 16
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
