// SPDX-License-Identifier: MIT
// linear and linear_scaled on AVX-512 through the formats' dequantisers, which are compiled for this level too: every
// format with scales apart, and those without a file of their own.
#include "cpu/x86/linear_avx512.h"
#include "format/format_def.h"

#define DECLARE(id, NAME, name, values, bytes) extern const struct moe_format_def moe_format_def_##NAME##_avx512;
MOE_FORMAT_MAP(DECLARE)

#define LINEAR_SCALED(id, NAME, name, values, bytes)                                                                  \
    moe_linear_scaled_fn moe_linear_scaled_##name##_avx512;                                                           \
    void moe_linear_scaled_##name##_avx512(const struct moe_linear_scaled_args *args)                                 \
    {                                                                                                                 \
        moe_linear_run_avx512(&(struct moe_linear_matrix){&args->linear, args->scales, args->first_row,               \
                                                          moe_format_def_##NAME##_avx512.dequantise, values, bytes}); \
    }
MOE_FORMAT_MAP(LINEAR_SCALED)

#define LINEAR(NAME, name)                                                                                            \
    moe_linear_fn moe_linear_##name##_avx512;                                                                         \
    void moe_linear_##name##_avx512(const struct moe_linear_args *args)                                               \
    {                                                                                                                 \
        moe_linear_run_avx512(&(struct moe_linear_matrix){args, NULL, 0, moe_format_def_##NAME##_avx512.dequantise,   \
                                                          MOE_VALUES_##NAME, MOE_BYTES_##NAME});                      \
    }
enum {
#define SIZES(id, NAME, name, values, bytes) MOE_VALUES_##NAME = values, MOE_BYTES_##NAME = bytes,
    MOE_FORMAT_MAP(SIZES)
};
LINEAR(Q2_K, q2_k)
LINEAR(Q3_K, q3_k)
LINEAR(IQ2_XXS, iq2_xxs)
LINEAR(IQ2_XS, iq2_xs)
LINEAR(IQ2_S, iq2_s)
LINEAR(IQ3_XXS, iq3_xxs)
LINEAR(IQ3_S, iq3_s)
LINEAR(IQ1_S, iq1_s)
LINEAR(IQ1_M, iq1_m)
LINEAR(TQ1_0, tq1_0)
LINEAR(TQ2_0, tq2_0)
LINEAR(NVFP4, nvfp4)
LINEAR(I8, i8)
LINEAR(E4M3, e4m3)
LINEAR(E2M1, e2m1)
LINEAR(U4, u4)
LINEAR(U8, u8)
LINEAR(E8M0, e8m0)
