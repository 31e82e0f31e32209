// SPDX-License-Identifier: MIT
// linear_q8 of tq2_0 weights on AVX2: 256 times 2 bits less 1, an f16 scale.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++) {
        __m256i bits = _mm256_srli_epi16(load32(in + u / 4 * 32), u % 4 * 2);
        out.q[u] = _mm256_and_si256(bits, _mm256_set1_epi8(3));
    }
    out.scale[0] = load_scale(in + 64);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_tq2_0_avx2
#define GROUP_BYTES 66
#define UNIT_BYTES 66
#define KIND u4
#define OFFSET 1
#include "cpu/x86/linear_q8_tmpl_avx2.h"
