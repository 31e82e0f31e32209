// SPDX-License-Identifier: MIT
// linear_q8 of iq1_s weights on AVX2: a super-block, an f16 factor, 32 rows of a code book in 11 bits, for 32
// columns a scale of 3 bits and a delta of an eighth or minus an eighth.
#include "cpu/x86/unpack_iq_avx2.h"

/* In eighths. */
static const int8_t eighths[16] = {0, 8, 16, 0, 8, 0, 0, 0, 16};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++) {
        uint64_t rows = 0;
        uint16_t high;
        memcpy(&high, in + 34 + 2 * u, sizeof high);
        for (size_t k = 0; k < 4; k++)
            rows |= (uint64_t)moe_iq_grids_iq1[in[2 + 4 * u + k] | (high >> 3 * k & 7u) << 8] << 16 * k;
        out.q[u] = _mm256_add_epi8(spread_pairs(rows, eighths), _mm256_set1_epi8(high >> 15 != 0 ? 0 : 2));
    }
    __m256i scales = _mm256_srli_epi32(_mm256_cvtepu16_epi32(load16(in + 34)), 12);
    scales = _mm256_slli_epi32(_mm256_and_si256(scales, _mm256_set1_epi32(7)), 1);
    __m256 odd = _mm256_cvtepi32_ps(_mm256_add_epi32(scales, _mm256_set1_epi32(1)));
    out.scale[0] = _mm256_mul_ps(_mm256_mul_ps(load_scale(in), odd), _mm256_set1_ps(0.125f));
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq1_s_avx2
#define GROUP_BYTES 50
#define UNIT_BYTES 50
#define KIND u5
#define OFFSET 9
#include "cpu/x86/linear_q8_tmpl_avx2.h"
