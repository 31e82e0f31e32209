// SPDX-License-Identifier: MIT
// linear_q8 of q6_k weights on AVX2: a super-block, 256 nibbles, 256 times 2 upper bits, 16 int8 scales, an
// f16 factor.
#include "cpu/x86/columns_avx2.h"

/* 4 units of two vectors of nibbles and one of upper bits. */
static inline void join_bits(__m256i q[4], __m256i first, __m256i second, __m256i upper)
{
    const __m256i two = _mm256_set1_epi8(0x30);
    q[0] = _mm256_or_si256(low_nibbles(first), _mm256_and_si256(_mm256_slli_epi16(upper, 4), two));
    q[1] = _mm256_or_si256(low_nibbles(second), _mm256_and_si256(_mm256_slli_epi16(upper, 2), two));
    q[2] = _mm256_or_si256(high_nibbles(first), _mm256_and_si256(upper, two));
    q[3] = _mm256_or_si256(high_nibbles(second), _mm256_and_si256(_mm256_srli_epi16(upper, 2), two));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t n = 0; n < 2; n++)
        join_bits(out.q + 4 * n, load32(in + 64 * n), load32(in + 64 * n + 32), load32(in + 128 + 32 * n));
    scales_of_halves(&out, in + 208, split_halves(load16(in + 192)));
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    for (size_t i = 0; i < 4; i++) {    /* half of 4 units */
        size_t n = i / 2, h = i % 2;
        __m256i first[4], second[4], upper[4], q[4];
        load_columns(first, out->rows, 64 * n + 16 * h);
        load_columns(second, out->rows, 64 * n + 32 + 16 * h);
        load_columns(upper, out->rows, 128 + 32 * n + 16 * h);
        for (size_t j = 0; j < 4; j++) {
            join_bits(q, first[j], second[j], upper[j]);
            for (size_t k = 0; k < 4; k++)
                put_quad(out, 4 * n + k, 4 * h + j, q[k]);
        }
    }
    __m256i scales[4];
    __m256 d = load_halves(out->rows, 208);
    load_columns(scales, out->rows, 192);
    for (size_t i = 0; i < 16; i++) {
        __m256i scale = _mm256_srai_epi32(_mm256_slli_epi32(scales[i / 4], 24 - 8 * (int)(i % 4)), 24);
        put_scale(out, i / 2, i % 2, _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale)));
    }
}

#define LINEAR_Q8_FN moe_linear_q8_q6_k_avx2
#define GROUP_BYTES 210
#define UNIT_BYTES 210
#define KIND u6_halves
#define PACK_GROUP pack_columns
#define OFFSET 32
#include "cpu/x86/linear_q8_tmpl_avx2.h"
