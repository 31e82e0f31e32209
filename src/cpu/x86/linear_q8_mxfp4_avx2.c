// SPDX-License-Identifier: MIT
// linear_q8 of mxfp4 weights on AVX2: an E8M0 scale, 32 values of E2M1.
#include "cpu/x86/columns_avx2.h"

/* E2M1 in units of a half, plus 12. */
static const int8_t doubled[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

/* 2^(e - 128), which is a denormal number for e = 0 and 1; NaN for 255. */
static inline __m256 half_scales(__m256i e)
{
    __m256i bits = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i denormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    bits = _mm256_blendv_epi8(bits, denormal, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e));
    __m256i nan = _mm256_cmpeq_epi32(e, _mm256_set1_epi32(255));
    return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7fc00000), nan));
}

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = look_up(doubled, nibbles_of_unit(in + u * 17 + 1));
    out.scale[0] = half_scales(_mm256_setr_epi32(in[0], in[17], in[34], in[51], in[68], in[85], in[102], in[119]));
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    for (size_t u = 0; u < out->num_units; u++) {
        __m256i quads[Q8_QUADS];
        load_nibbles_of_unit(quads, out, u * 17 + 1);
        for (size_t i = 0; i < Q8_QUADS; i++)
            quads[i] = look_up(doubled, quads[i]);
        put_quads(out, u, quads);
        const unsigned char *const *rows = out->rows;
        size_t e = u * 17;
        put_scale(out, u, 0, half_scales(_mm256_setr_epi32(rows[0][e], rows[1][e], rows[2][e], rows[3][e], rows[4][e],
                                                           rows[5][e], rows[6][e], rows[7][e])));
    }
}

#define LINEAR_Q8_FN moe_linear_q8_mxfp4_avx2
#define GROUP_BYTES 136
#define UNIT_BYTES 17
#define KIND u5
#define PACK_GROUP pack_columns
#define OFFSET 12
#include "cpu/x86/linear_q8_tmpl_avx2.h"
