// SPDX-License-Identifier: MIT
// linear_q8 of iq2_xs weights on AVX2: a super-block, an f16 factor, 32 rows of a code book and their signs in 16
// bits, 16 scales of 4 bits.
#include "cpu/x86/unpack_iq_avx2.h"

static const int8_t magnitudes[16] = {8, 25, 43, 0, 25, 0, 0, 0, 43};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    __m256i first = _mm256_srli_epi16(load32(in + 2), 9), second = _mm256_srli_epi16(load32(in + 34), 9);
    __m256i seven = _mm256_permute4x64_epi64(_mm256_packus_epi16(first, second), 0xd8);
    unsigned char signs[32];
    _mm256_storeu_si256((void *)signs, even_signs(seven));
    for (size_t u = 0; u < 8; u++) {
        uint64_t codes, rows = 0;
        memcpy(&codes, in + 2 + 8 * u, sizeof codes);
        for (size_t k = 0; k < 4; k++)
            rows |= (uint64_t)moe_iq_grids_iq2_xs[codes >> 16 * k & 511] << 16 * k;
        out.q[u] = signed_codes(spread_pairs(rows, magnitudes), signs + 4 * u, 43);
    }
    scales_of_iq_halves(&out, in, in + 66);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq2_xs_avx2
#define GROUP_BYTES 74
#define UNIT_BYTES 74
#define KIND u7_halves
#define OFFSET 43
#include "cpu/x86/linear_q8_tmpl_avx2.h"
