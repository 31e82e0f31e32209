// SPDX-License-Identifier: MIT
// Body of load, store and scaled_add, plain C for the compiler's vectoriser: each level compiles it with its own flags.
// Parameter: LEVEL. Each value stands alone and no operation is fused, so all levels have the same bits.
#include <string.h>

#include "cpu/kernels.h"
#include "half.h"

#if !defined(LEVEL)
#error "plain_tmpl.h needs LEVEL"
#endif

#define LEVEL_PASTE(op, name, level) moe_##op##_##name##_##level
#define LEVEL_NAME(op, name, level) LEVEL_PASTE(op, name, level)
#define LEVEL_FN(op, name) LEVEL_NAME(op, name, LEVEL)

#define ROW_KERNELS(name, type, to_f32, from_f32)                                                \
    moe_load_fn LEVEL_FN(load, name);                                                            \
    void LEVEL_FN(load, name)(float *y, const void *x, size_t n)                                 \
    {                                                                                            \
        const type *in = x;                                                                      \
        for (size_t i = 0; i < n; i++)                                                           \
            y[i] = to_f32(in[i]);                                                                \
    }                                                                                            \
    moe_store_fn LEVEL_FN(store, name);                                                          \
    void LEVEL_FN(store, name)(void *y, const float *x, size_t n)                                \
    {                                                                                            \
        type *out = y;                                                                           \
        for (size_t i = 0; i < n; i++)                                                           \
            out[i] = from_f32(x[i]);                                                             \
    }                                                                                            \
    moe_scaled_add_fn LEVEL_FN(scaled_add, name);                                                \
    void LEVEL_FN(scaled_add, name)(void *y, const float *x, float a, size_t n, bool accumulate) \
    {                                                                                            \
        type *out = y;                                                                           \
        if (accumulate) {                                                                        \
            for (size_t i = 0; i < n; i++)                                                       \
                out[i] = from_f32(to_f32(out[i]) + a * x[i]);                                    \
        } else {                                                                                 \
            for (size_t i = 0; i < n; i++)                                                       \
                out[i] = from_f32(a * x[i]);                                                     \
        }                                                                                        \
    }

#define SAME(value) (value)
ROW_KERNELS(f32, float, SAME, SAME)
ROW_KERNELS(f16, uint16_t, moe_f16_to_f32, moe_f32_to_f16)
ROW_KERNELS(bf16, uint16_t, moe_bf16_to_f32, moe_f32_to_bf16)

#undef ROW_KERNELS
#undef SAME
#undef LEVEL_FN
#undef LEVEL_NAME
#undef LEVEL_PASTE
#undef LEVEL
