// SPDX-License-Identifier: MIT
// linear and linear_scaled on AVX-512 of every format: through its dequantiser, compiled for this level, but for f16,
// which the processor converts itself.
#include <immintrin.h>

#include "cpu/x86/linear_avx512.h"
#include "format/format_def.h"

#define DECLARE(id, NAME, name, values, bytes) extern const struct moe_format_def moe_format_def_##NAME##_avx512;
MOE_FORMAT_MAP(DECLARE)

static void dequantise_f16(float *out, const void *in, size_t n)
{
    const unsigned char *half = in;
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(half + 2 * i))));
    if (i < n) {
        __mmask16 left = (__mmask16)((1u << (n - i)) - 1);
        _mm512_mask_storeu_ps(out + i, left, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(left, half + 2 * i)));
    }
}

#define DEQUANTISE(NAME) \
    (MOE_FORMAT_##NAME == MOE_FORMAT_F16 ? dequantise_f16 : moe_format_def_##NAME##_avx512.dequantise)

#define LINEAR_AVX512(id, NAME, name, values, bytes)                                                                  \
    moe_linear_fn moe_linear_##name##_avx512;                                                                         \
    void moe_linear_##name##_avx512(const struct moe_linear_args *args)                                               \
    {                                                                                                                 \
        moe_linear_run_avx512(&(struct moe_linear_matrix){args, NULL, 0, DEQUANTISE(NAME), values, bytes});           \
    }                                                                                                                 \
    moe_linear_scaled_fn moe_linear_scaled_##name##_avx512;                                                           \
    void moe_linear_scaled_##name##_avx512(const struct moe_linear_scaled_args *args)                                 \
    {                                                                                                                 \
        moe_linear_run_avx512(&(struct moe_linear_matrix){&args->linear, args->scales, args->first_row,               \
                                                          DEQUANTISE(NAME), values, bytes});                          \
    }
MOE_FORMAT_MAP(LINEAR_AVX512)
