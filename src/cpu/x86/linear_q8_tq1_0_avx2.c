// SPDX-License-Identifier: MIT
// linear_q8 of tq1_0 weights on AVX2: 256 ternary digits less 1, five or four to a byte, an f16 scale.
#include "cpu/x86/columns_avx2.h"

/* The next digit of each byte, a fraction of 256: the whole part of 3 times it, which is left with the rest. */
static inline __m256i next_digit(__m256i *fractions)
{
    const __m256i third = _mm256_set1_epi8(86), two_thirds = _mm256_set1_epi8((char)171);
    __m256i f = *fractions;
    __m256i one = _mm256_cmpeq_epi8(_mm256_max_epu8(f, third), f);
    __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(f, two_thirds), f);
    *fractions = _mm256_add_epi8(f, _mm256_add_epi8(f, f));
    return _mm256_abs_epi8(_mm256_add_epi8(one, two));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    int32_t high;
    memcpy(&high, in + 48, sizeof high);
    __m256i first = load32(in), second = _mm256_set_m128i(_mm_cvtsi32_si128(high), load16(in + 32)), digits[5];
    for (size_t u = 0; u < 5; u++)
        out.q[u] = next_digit(&first);
    for (size_t i = 0; i < 5; i++)
        digits[i] = next_digit(&second);
    out.q[5] = _mm256_permute2x128_si256(digits[0], digits[1], 0x20);
    out.q[6] = _mm256_permute2x128_si256(digits[2], digits[3], 0x20);
    /* the fifth digits of 16 bytes, then 4 digits of 4 bytes */
    __m128i a = _mm256_extracti128_si256(_mm256_unpacklo_epi32(digits[0], digits[1]), 1);
    __m128i b = _mm256_extracti128_si256(_mm256_unpacklo_epi32(digits[2], digits[3]), 1);
    out.q[7] = _mm256_set_m128i(_mm_unpacklo_epi64(a, b), _mm256_castsi256_si128(digits[4]));
    out.scale[0] = load_scale(in + 52);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_tq1_0_avx2
#define GROUP_BYTES 54
#define UNIT_BYTES 54
#define KIND u4
#define OFFSET 1
#include "cpu/x86/linear_q8_tmpl_avx2.h"
