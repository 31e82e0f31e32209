// SPDX-License-Identifier: MIT
// linear_q8 of q4_0 weights on AVX-512 with VNNI: an f16 scale, 32 nibbles less 8.
#include "cpu/x86/unpack_avx512vnni.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t i = 0; i < 4; i += 2) {
        __m512i both = load_quarters(in + i * 36 + 2, 18);
        out.q[i] = low_nibbles(both);
        out.q[i + 1] = high_nibbles(both);
    }
    out.scale[0] = block_scales(in, 18);
    return out;
}

#define FORMAT_NAME q4_0
#define GROUP_BYTES 144
#define UNIT_BYTES 18
#define KIND 1
#define VALUES 16
#define OFFSET 8
#define SLOTS 0, 1, 2, 3, 4, 5, 6, 7
#include "cpu/x86/linear_q8_tmpl_avx512vnni.h"
