// SPDX-License-Identifier: MIT
// linear_q8 of q5_1 weights on AVX2: an f16 scale and an f16 offset, the fifth bits, 32 nibbles.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = _mm256_or_si256(nibbles_of_unit(in + u * 24 + 8), load_bits(in + u * 24 + 4, 16));
    out.scale[0] = block_scales(in, 24);
    out.minimum[0] = block_scales(in + 2, 24);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_q5_1_avx2
#define GROUP_BYTES 192
#define UNIT_BYTES 24
#define KIND u5_minima
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
