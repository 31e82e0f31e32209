// SPDX-License-Identifier: MIT
// linear_q8 of q5_0 weights on AVX2: an f16 scale, the fifth bits, 32 nibbles; less 16.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = _mm256_or_si256(nibbles_of_unit(in + u * 22 + 6), load_bits(in + u * 22 + 2, 16));
    out.scale[0] = block_scales(in, 22);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_q5_0_avx2
#define GROUP_BYTES 176
#define UNIT_BYTES 22
#define KIND u5
#define OFFSET 16
#include "cpu/x86/linear_q8_tmpl_avx2.h"
