// SPDX-License-Identifier: MIT
// Activations to int8 on AVX2 (q8.h).
#include <immintrin.h>
#include <string.h>

#include "cpu/q8.h"

/* Below this 127 / largest could be infinite, so a unit is scaled up first, which is exact. */
#define TINY 0x1p-64f

/* The bits of the largest magnitude, which order as integers: NaN is above all. */
static inline int32_t max_bits(const __m256 x[4])
{
    __m256i bits[4];
    for (size_t i = 0; i < 4; i++)
        bits[i] = _mm256_and_si256(_mm256_castps_si256(x[i]), _mm256_set1_epi32(0x7fffffff));
    bits[0] = _mm256_max_epi32(_mm256_max_epi32(bits[0], bits[1]), _mm256_max_epi32(bits[2], bits[3]));
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(bits[0]), _mm256_extracti128_si256(bits[0], 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1)));
}

static inline __m256i to_bytes(const __m256 x[4], float factor)
{
    __m256i q[4];
    for (size_t i = 0; i < 4; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], _mm256_set1_ps(factor)));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* The sums of a unit's first 16 values and of its others. */
static inline void sum_bytes(int32_t sums[2], __m256i q)
{
    __m256i quads = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
    __m256i pairs = _mm256_add_epi32(quads, _mm256_shuffle_epi32(quads, 0x4e));
    pairs = _mm256_add_epi32(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
    sums[0] = _mm256_extract_epi32(pairs, 0);
    sums[1] = _mm256_extract_epi32(pairs, 4);
}

moe_quantise_fn moe_quantise_avx2;
void moe_quantise_avx2(unsigned char *row, size_t cols, size_t first, const float *x, size_t n)
{
    float *scales = (float *)(void *)(row + moe_q8_scale_at(cols));
    float *sums = (float *)(void *)(row + moe_q8_sum_at(cols));
    int32_t *starts = (int32_t *)(void *)(row + moe_q8_start_at(cols));
    int32_t *half_starts = (int32_t *)(void *)(row + moe_q8_half_start_at(cols));
    for (size_t c = 0; c < n; c += MOE_Q8_UNIT) {
        size_t unit = (first + c) / MOE_Q8_UNIT, half = unit / MOE_Q8_LANES * 16 + unit % MOE_Q8_LANES;
        __m256 values[4];
        for (size_t i = 0; i < 4; i++)
            values[i] = _mm256_loadu_ps(x + c + 8 * i);
        int32_t bits = max_bits(values), sum[2];
        float largest, scale, factor;
        memcpy(&largest, &bits, sizeof largest);
        scale = largest / 127;
        if (largest < TINY) {
            for (size_t i = 0; i < 4; i++)
                values[i] = _mm256_mul_ps(values[i], _mm256_set1_ps(0x1p64f));
            largest *= 0x1p64f;
        }
        factor = largest > 0 ? 127 / largest : 0;
        if (bits >= 0x7f800000) {    /* NaN, infinite */
            scale = __builtin_nanf("");
            for (size_t i = 0; i < 4; i++)
                values[i] = _mm256_setzero_ps();
            factor = 0;
        }
        __m256i q = to_bytes(values, factor);
        sum_bytes(sum, q);
        _mm256_storeu_si256((__m256i *)(void *)(row + first + c), q);
        scales[unit] = scale;
        sums[unit] = scale * (float)(sum[0] + sum[1]);
        starts[unit] = -128 * (sum[0] + sum[1]);
        half_starts[half] = -128 * sum[0];
        half_starts[half + MOE_Q8_LANES] = -128 * sum[1];
    }
}
