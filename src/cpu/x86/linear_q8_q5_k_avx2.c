// SPDX-License-Identifier: MIT
// linear_q8 of q5_k weights on AVX2: a super-block, two f16 factors, 8 scales and minima of 6 bits, 256
// fifth bits, 256 nibbles.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m256i fifth = _mm256_set1_epi8(0x10), high = load32(in + 16);
    for (size_t u = 0; u < 8; u += 2) {
        __m256i bytes = load32(in + 48 + 16 * u);
        __m256i even = u < 4 ? _mm256_slli_epi16(high, 4 - (int)u) : _mm256_srli_epi16(high, (int)u - 4);
        __m256i odd = u < 4 ? _mm256_slli_epi16(high, 3 - (int)u) : _mm256_srli_epi16(high, (int)u - 3);
        out.q[u] = _mm256_or_si256(low_nibbles(bytes), _mm256_and_si256(even, fifth));
        out.q[u + 1] = _mm256_or_si256(high_nibbles(bytes), _mm256_and_si256(odd, fifth));
    }
    scales_of_k(&out, in);
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    put_scales_of_k(out);
    const __m256i fifth = _mm256_set1_epi8(0x10);
    for (size_t h = 0; h < 2; h++) {    /* half of all units */
        __m256i high[4], bytes[4];
        load_columns(high, out->rows, 16 + 16 * h);
        for (size_t u = 0; u < 8; u += 2) {
            load_columns(bytes, out->rows, 48 + 16 * u + 16 * h);
            for (size_t j = 0; j < 4; j++) {
                __m256i even = u < 4 ? _mm256_slli_epi16(high[j], 4 - (int)u) : _mm256_srli_epi16(high[j], (int)u - 4);
                __m256i odd = u < 4 ? _mm256_slli_epi16(high[j], 3 - (int)u) : _mm256_srli_epi16(high[j], (int)u - 3);
                even = _mm256_or_si256(low_nibbles(bytes[j]), _mm256_and_si256(even, fifth));
                odd = _mm256_or_si256(high_nibbles(bytes[j]), _mm256_and_si256(odd, fifth));
                put_quad(out, u, 4 * h + j, even);
                put_quad(out, u + 1, 4 * h + j, odd);
            }
        }
    }
}

#define LINEAR_Q8_FN moe_linear_q8_q5_k_avx2
#define GROUP_BYTES 176
#define UNIT_BYTES 176
#define KIND u5_minima
#define PACK_GROUP pack_columns
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
