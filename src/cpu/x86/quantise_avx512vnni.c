// SPDX-License-Identifier: MIT
// Activations to int8 on AVX-512 with VNNI (q8.h).
#include <immintrin.h>

#include "cpu/q8.h"

/* Below this 127 / largest could be infinite, so a unit is scaled up first, which is exact. */
#define TINY 0x1p-64f

static inline __m256i to_bytes(__m512 low, __m512 high, __m512 factor)
{
    __m128i a = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, factor)));
    __m128i b = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, factor)));
    return _mm256_set_m128i(b, a);
}

/* The sums of a unit's first 16 values and of its others. */
static inline void sum_bytes(int32_t sums[2], __m256i q)
{
    __m256i quads = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    __m256i pairs = _mm256_add_epi32(quads, _mm256_shuffle_epi32(quads, 0x4e));
    pairs = _mm256_add_epi32(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
    sums[0] = _mm256_extract_epi32(pairs, 0);
    sums[1] = _mm256_extract_epi32(pairs, 4);
}

moe_quantise_fn moe_quantise_avx512vnni;
void moe_quantise_avx512vnni(unsigned char *row, size_t cols, size_t first, const float *x, size_t n)
{
    float *scales = (float *)(void *)(row + moe_q8_scale_at(cols));
    float *sums = (float *)(void *)(row + moe_q8_sum_at(cols));
    int32_t *starts = (int32_t *)(void *)(row + moe_q8_start_at(cols));
    int32_t *half_starts = (int32_t *)(void *)(row + moe_q8_half_start_at(cols));
    for (size_t c = 0; c < n; c += MOE_Q8_UNIT) {
        size_t unit = (first + c) / MOE_Q8_UNIT, half = unit / MOE_Q8_LANES * 16 + unit % MOE_Q8_LANES;
        __m512 low = _mm512_loadu_ps(x + c), high = _mm512_loadu_ps(x + c + 16);
        __m512 larger = _mm512_range_ps(low, high, 0x0b);    /* by magnitude; of a NaN and a number, the number */
        float largest = _mm512_reduce_max_ps(larger), scale = largest / 127;
        if (largest < TINY) {
            low = _mm512_mul_ps(low, _mm512_set1_ps(0x1p64f));
            high = _mm512_mul_ps(high, _mm512_set1_ps(0x1p64f));
            largest *= 0x1p64f;
        }
        float factor = largest > 0 ? 127 / largest : 0;
        __mmask16 odd = _mm512_fpclass_ps_mask(low, 0x99) | _mm512_fpclass_ps_mask(high, 0x99);    /* NaN, infinite */
        if (odd != 0) {
            scale = __builtin_nanf("");
            low = high = _mm512_setzero_ps();
            factor = 0;
        }
        __m256i q = to_bytes(low, high, _mm512_set1_ps(factor));
        int32_t sum[2];
        sum_bytes(sum, q);
        _mm256_storeu_si256((__m256i *)(void *)(row + first + c), q);
        scales[unit] = scale;
        sums[unit] = scale * (float)(sum[0] + sum[1]);
        starts[unit] = -128 * (sum[0] + sum[1]);
        half_starts[half] = -128 * sum[0];
        half_starts[half + MOE_Q8_LANES] = -128 * sum[1];
    }
}
