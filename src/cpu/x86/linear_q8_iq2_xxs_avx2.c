// SPDX-License-Identifier: MIT
// linear_q8 of iq2_xxs weights on AVX2: a super-block, an f16 factor; for 32 columns 4 rows of a code book, their
// signs and a scale in 8 bytes.
#include "cpu/x86/unpack_iq_avx2.h"

static const int8_t magnitudes[16] = {8, 25, 43, 0, 25, 0, 0, 0, 43};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    __m256i first = load32(in + 2), second = load32(in + 34);    /* 4 rows, a word, 4 rows, ... */
    __m256 odd = _mm256_shuffle_ps(_mm256_castsi256_ps(first), _mm256_castsi256_ps(second), 0xdd);
    __m256i words = _mm256_permute4x64_epi64(_mm256_castps_si256(odd), 0xd8);
    unsigned char signs[32];
    _mm256_storeu_si256((void *)signs, signs_of_words(words));
    for (size_t u = 0; u < 8; u++) {
        uint64_t rows = 0;
        for (size_t k = 0; k < 4; k++)
            rows |= (uint64_t)moe_iq_grids_iq2_xxs[in[2 + 8 * u + k]] << 16 * k;
        out.q[u] = signed_codes(spread_pairs(rows, magnitudes), signs + 4 * u, 43);
    }
    out.scale[0] = scales_of_iq(load_scale(in), _mm256_srli_epi32(words, 28), 0.25f);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq2_xxs_avx2
#define GROUP_BYTES 66
#define UNIT_BYTES 66
#define KIND u7
#define OFFSET 43
#include "cpu/x86/linear_q8_tmpl_avx2.h"
