// SPDX-License-Identifier: MIT
// linear_q8 of q2_k weights on AVX2: a super-block, 16 scales and minima of 4 bits, 256 times 2 bits, two f16
// factors.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    const __m256i two = _mm256_set1_epi8(3);
    for (size_t n = 0; n < 2; n++) {
        __m256i bits = load32(in + 16 + 32 * n);
        for (size_t k = 0; k < 4; k++)
            out.q[4 * n + k] = _mm256_and_si256(_mm256_srli_epi16(bits, 2 * (int)k), two);
    }
    const __m128i nibble = _mm_set1_epi8(0x0f);
    __m128i both = split_halves(load16(in));
    __m128i scales = _mm_and_si128(both, nibble), minima = _mm_and_si128(_mm_srli_epi16(both, 4), nibble);
    scales_of_halves(&out, in + 80, scales);
    __m256 dmin = _mm256_xor_ps(load_scale(in + 82), _mm256_set1_ps(-0.0f));
    out.minimum[0] = _mm256_mul_ps(dmin, floats_of_i8(minima));
    out.minimum[1] = _mm256_mul_ps(dmin, floats_of_i8(_mm_srli_si128(minima, 8)));
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_q2_k_avx2
#define GROUP_BYTES 84
#define UNIT_BYTES 84
#define KIND u5_halves_minima
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
