// SPDX-License-Identifier: MIT
// linear_q8 of iq3_s weights on AVX2: a super-block, an f16 factor, 64 rows of a code book in 9 bits, 256 signs, 8
// scales of 4 bits.
#include "cpu/x86/unpack_iq_avx2.h"

static const int8_t magnitudes[16] = {1, 3, 5, 7, 9, 11, 13, 15};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++) {
        const unsigned char *bytes = in + 2 + 8 * u;
        uint64_t rows[2] = {0};
        for (size_t k = 0; k < 8; k++)
            rows[k / 4] |= (uint64_t)moe_iq_grids_iq3_s[bytes[k] | (in[66 + u] >> k & 1u) << 8] << 16 * (k % 4);
        __m256i values = spread_nibbles(_mm_set_epi64x((long long)rows[1], (long long)rows[0]), magnitudes);
        out.q[u] = signed_codes(values, in + 74 + 4 * u, 15);
    }
    uint32_t scales;
    memcpy(&scales, in + 106, sizeof scales);
    const __m256i by_4 = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    __m256i nibbles = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)scales), by_4), _mm256_set1_epi32(15));
    __m256i odd = _mm256_add_epi32(_mm256_add_epi32(nibbles, nibbles), _mm256_set1_epi32(1));
    out.scale[0] = _mm256_mul_ps(load_scale(in), _mm256_cvtepi32_ps(odd));
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq3_s_avx2
#define GROUP_BYTES 110
#define UNIT_BYTES 110
#define KIND u5
#define OFFSET 15
#include "cpu/x86/linear_q8_tmpl_avx2.h"
