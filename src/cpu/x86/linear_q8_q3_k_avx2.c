// SPDX-License-Identifier: MIT
// linear_q8 of q3_k weights on AVX2: a super-block, 256 third bits, 256 times 2 bits, 16 scales of 6 bits, an
// f16 factor; less 4.
#include "cpu/x86/columns_avx2.h"

/* 6 bits less 32: the lower 4 of 16 scales in nibbles of 8 bytes, the upper 2 in 4 bytes. */
static inline __m128i scales_of_q3(const unsigned char *in)
{
    uint64_t low;
    uint32_t high;
    memcpy(&low, in, 8);
    memcpy(&high, in + 8, 4);
    __m128i lower = _mm_set_epi64x((long long)(low >> 4), (long long)low);
    __m128i upper = _mm_srlv_epi32(_mm_set1_epi32((int)high), _mm_setr_epi32(0, 2, 4, 6));
    lower = _mm_and_si128(lower, _mm_set1_epi8(0x0f));
    upper = _mm_slli_epi16(_mm_and_si128(upper, _mm_set1_epi8(3)), 4);
    return _mm_sub_epi8(_mm_or_si128(lower, upper), _mm_set1_epi8(32));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m256i two = _mm256_set1_epi8(3), third = _mm256_set1_epi8(4);
    __m256i high = load32(in);
    for (size_t u = 0; u < 8; u++) {
        __m256i low = _mm256_and_si256(_mm256_srli_epi16(load32(in + 32 + u / 4 * 32), u % 4 * 2), two);
        __m256i top = u < 2 ? _mm256_slli_epi16(high, 2 - (int)u) : _mm256_srli_epi16(high, (int)u - 2);
        out.q[u] = _mm256_or_si256(low, _mm256_and_si256(top, third));
    }
    scales_of_halves(&out, in + 108, split_halves(scales_of_q3(in + 96)));
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_q3_k_avx2
#define GROUP_BYTES 110
#define UNIT_BYTES 110
#define KIND u5_halves
#define OFFSET 4
#include "cpu/x86/linear_q8_tmpl_avx2.h"
