// SPDX-License-Identifier: MIT
// linear_q8 of iq4_xs weights on AVX2: a super-block, an f16 factor, 8 scales of 6 bits, 256 codes of a book of
// 16 values.
#include "cpu/x86/columns_avx2.h"
#include "format/iq4.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = look_up(iq4_values, nibbles_of_unit(in + 8 + 16 * u));
    uint16_t high;
    uint32_t low;
    memcpy(&high, in + 2, sizeof high);
    memcpy(&low, in + 4, sizeof low);
    const __m256i by_4 = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i by_2 = _mm256_setr_epi32(4, 2, 0, 0, 0, 0, 0, 0), down = _mm256_setr_epi32(0, 0, 0, 2, 4, 6, 8, 10);
    __m256i lower = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)low), by_4), _mm256_set1_epi32(15));
    __m256i upper = _mm256_sllv_epi32(_mm256_srlv_epi32(_mm256_set1_epi32(high), down), by_2);
    upper = _mm256_and_si256(upper, _mm256_set1_epi32(0x30));
    __m256i scales = _mm256_sub_epi32(_mm256_or_si256(lower, upper), _mm256_set1_epi32(32));
    out.scale[0] = _mm256_mul_ps(load_scale(in), _mm256_cvtepi32_ps(scales));
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    __m256i head[4], quads[Q8_QUADS];
    __m256 d[2];
    load_columns(head, out->rows, 0);
    split_floats(d, head[0]);
    for (size_t u = 0; u < 8; u++) {
        load_nibbles_of_unit(quads, out, 8 + 16 * u);
        for (size_t i = 0; i < Q8_QUADS; i++)
            quads[i] = look_up(iq4_values, quads[i]);
        put_quads(out, u, quads);
        __m256i lower = _mm256_and_si256(_mm256_srli_epi32(head[1], 4 * (int)u), _mm256_set1_epi32(15));
        __m256i upper = _mm256_and_si256(_mm256_srli_epi32(head[0], 12 + 2 * (int)u), _mm256_set1_epi32(0x30));
        __m256i scale = _mm256_sub_epi32(_mm256_or_si256(lower, upper), _mm256_set1_epi32(32));
        put_scale(out, u, 0, _mm256_mul_ps(d[0], _mm256_cvtepi32_ps(scale)));
    }
}

#define LINEAR_Q8_FN moe_linear_q8_iq4_xs_avx2
#define GROUP_BYTES 136
#define UNIT_BYTES 136
#define KIND s8
#define PACK_GROUP pack_columns
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
