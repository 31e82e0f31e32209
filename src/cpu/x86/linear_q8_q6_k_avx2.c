// SPDX-License-Identifier: MIT
// linear_q8 of q6_k weights on AVX2: a super-block, 256 nibbles, 256 times 2 upper bits, 16 int8 scales, an
// f16 factor.
#include "cpu/x86/unpack_q8_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m256i two = _mm256_set1_epi8(0x30);
    for (size_t n = 0; n < 2; n++) {
        __m256i first = load32(in + 64 * n), second = load32(in + 64 * n + 32), upper = load32(in + 128 + 32 * n);
        __m256i *q = out.q + 4 * n;
        q[0] = _mm256_or_si256(low_nibbles(first), _mm256_and_si256(_mm256_slli_epi16(upper, 4), two));
        q[1] = _mm256_or_si256(low_nibbles(second), _mm256_and_si256(_mm256_slli_epi16(upper, 2), two));
        q[2] = _mm256_or_si256(high_nibbles(first), _mm256_and_si256(upper, two));
        q[3] = _mm256_or_si256(high_nibbles(second), _mm256_and_si256(_mm256_srli_epi16(upper, 2), two));
    }
    scales_of_halves(&out, in + 208, split_halves(load16(in + 192)));
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_q6_k_avx2
#define GROUP_BYTES 210
#define UNIT_BYTES 210
#define KIND u6_halves
#define OFFSET 32
#include "cpu/x86/linear_q8_tmpl_avx2.h"
