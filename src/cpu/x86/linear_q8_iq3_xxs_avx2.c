// SPDX-License-Identifier: MIT
// linear_q8 of iq3_xxs weights on AVX2: a super-block, an f16 factor, 64 rows of a code book, for 32 columns
// signs and a scale in 4 bytes.
#include "cpu/x86/unpack_iq_avx2.h"

static const int8_t magnitudes[16] = {4, 12, 20, 28, 36, 44, 52, 62};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    __m256i words = load32(in + 66);
    unsigned char signs[32];
    _mm256_storeu_si256((void *)signs, signs_of_words(words));
    for (size_t u = 0; u < 8; u++) {
        uint64_t rows[2] = {0};
        for (size_t k = 0; k < 8; k++)
            rows[k / 4] |= (uint64_t)moe_iq_grids_iq3_xxs[in[2 + 8 * u + k]] << 16 * (k % 4);
        __m256i values = spread_nibbles(_mm_set_epi64x((long long)rows[1], (long long)rows[0]), magnitudes);
        out.q[u] = signed_codes(values, signs + 4 * u, 62);
    }
    out.scale[0] = scales_of_iq(load_scale(in), _mm256_srli_epi32(words, 28), 0.5f);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq3_xxs_avx2
#define GROUP_BYTES 98
#define UNIT_BYTES 98
#define KIND u7
#define OFFSET 62
#include "cpu/x86/linear_q8_tmpl_avx2.h"
