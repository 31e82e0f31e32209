// SPDX-License-Identifier: MIT
// linear_q8 of iq1_m weights on AVX2: a super-block, 32 rows of a code book in 11 bits and for each a delta of an
// eighth or minus an eighth, 16 scales of 3 bits among which an f16 factor is spread.
#include "cpu/x86/unpack_iq_avx2.h"

/* In eighths. */
static const int8_t eighths[16] = {0, 8, 16, 0, 8, 0, 0, 0, 16};

/* 0 where the bit of a row is 1, otherwise 2. */
static inline __m256i deltas(uint32_t is_negative)
{
    const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8), all = _mm256_set1_epi64x((int)is_negative);
    __m256i positive = _mm256_cmpeq_epi64(_mm256_and_si256(all, bit), _mm256_setzero_si256());
    return _mm256_and_si256(positive, _mm256_set1_epi8(2));
}

/* 3 bits of each of 8 numbers, which are 16 bits apart or shifted by 6. */
static inline __m256 odd_scales(__m256i numbers)
{
    __m256i twice = _mm256_slli_epi32(_mm256_and_si256(numbers, _mm256_set1_epi32(7)), 1);
    return _mm256_cvtepi32_ps(_mm256_add_epi32(twice, _mm256_set1_epi32(1)));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++) {
        uint64_t rows = 0;
        uint16_t high;
        memcpy(&high, in + 32 + 2 * u, sizeof high);
        for (size_t k = 0; k < 4; k++)
            rows |= (uint64_t)moe_iq_grids_iq1[in[4 * u + k] | (high >> 4 * k & 7u) << 8] << 16 * k;
        uint32_t signs = (high >> 3 & 1u) | (high >> 6 & 2u) | (high >> 9 & 4u) | (high >> 12 & 8u);
        out.q[u] = _mm256_add_epi8(spread_pairs(rows, eighths), deltas(signs));
    }
    uint16_t s[4];
    memcpy(s, in + 48, sizeof s);
    uint16_t d = (uint16_t)(s[0] >> 12 | (s[1] >> 12) << 4 | (s[2] >> 12) << 8 | (s[3] >> 12) << 12);
    __m256 eighth = _mm256_mul_ps(_mm256_set1_ps(_cvtsh_ss(d)), _mm256_set1_ps(0.125f));
    __m256i numbers = _mm256_setr_epi32(s[0], s[0] >> 6, s[1], s[1] >> 6, s[2], s[2] >> 6, s[3], s[3] >> 6);
    out.scale[0] = _mm256_mul_ps(eighth, odd_scales(numbers));
    out.scale[1] = _mm256_mul_ps(eighth, odd_scales(_mm256_srli_epi32(numbers, 3)));
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq1_m_avx2
#define GROUP_BYTES 56
#define UNIT_BYTES 56
#define KIND u5_halves
#define OFFSET 9
#include "cpu/x86/linear_q8_tmpl_avx2.h"
