// SPDX-License-Identifier: MIT
// Rows of f32, f16 and bf16 in plain C: conversions and scaled sums.
#include <string.h>

#include "cpu/kernels.h"
#include "half.h"

#define ROW_KERNELS(name, type, to_f32, from_f32)                                               \
    moe_load_fn moe_load_##name##_c;                                                            \
    void moe_load_##name##_c(float *y, const void *x, size_t n)                                 \
    {                                                                                           \
        const type *in = x;                                                                     \
        for (size_t i = 0; i < n; i++)                                                          \
            y[i] = to_f32(in[i]);                                                               \
    }                                                                                           \
    moe_store_fn moe_store_##name##_c;                                                          \
    void moe_store_##name##_c(void *y, const float *x, size_t n)                                \
    {                                                                                           \
        type *out = y;                                                                          \
        for (size_t i = 0; i < n; i++)                                                          \
            out[i] = from_f32(x[i]);                                                            \
    }                                                                                           \
    moe_scaled_add_fn moe_scaled_add_##name##_c;                                                \
    void moe_scaled_add_##name##_c(void *y, const float *x, float a, size_t n, bool accumulate) \
    {                                                                                           \
        type *out = y;                                                                          \
        if (accumulate) {                                                                       \
            for (size_t i = 0; i < n; i++)                                                      \
                out[i] = from_f32(to_f32(out[i]) + a * x[i]);                                   \
        } else {                                                                                \
            for (size_t i = 0; i < n; i++)                                                      \
                out[i] = from_f32(a * x[i]);                                                    \
        }                                                                                       \
    }

#define SAME(value) (value)
ROW_KERNELS(f32, float, SAME, SAME)
ROW_KERNELS(f16, uint16_t, moe_f16_to_f32, moe_f32_to_f16)
ROW_KERNELS(bf16, uint16_t, moe_bf16_to_f32, moe_f32_to_bf16)
