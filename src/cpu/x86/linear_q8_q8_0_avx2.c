// SPDX-License-Identifier: MIT
// linear_q8 of q8_0 weights on AVX2: an f16 scale, 32 int8.
#include "cpu/x86/unpack_q8_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = load32(in + u * 34 + 2);
    out.scale[0] = block_scales(in, 34);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_q8_0_avx2
#define GROUP_BYTES 272
#define UNIT_BYTES 34
#define KIND s8
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
