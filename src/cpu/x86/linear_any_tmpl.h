// SPDX-License-Identifier: MIT
// linear and linear_scaled of every format through the formats' dequantisers, which are compiled for the level too.
// Parameter: LEVEL.
#include "cpu/x86/linear_matrix.h"
#include "format/format_def.h"

#if !defined(LEVEL)
#error "linear_any_tmpl.h needs LEVEL"
#endif

#define PASTE(name, level) name##_##level
#define JOIN(name, level) PASTE(name, level)
#define OF_LEVEL(name) JOIN(name, LEVEL)

#define LINEAR_ANY(id, NAME, name, values, bytes)                                                             \
    extern const struct moe_format_def OF_LEVEL(moe_format_def_##NAME);                                       \
    moe_linear_fn OF_LEVEL(moe_linear_any_##name);                                                            \
    void OF_LEVEL(moe_linear_any_##name)(const struct moe_linear_args *args)                                  \
    {                                                                                                         \
        OF_LEVEL(moe_linear_run)(&(struct moe_linear_matrix){                                                 \
            args, NULL, 0, OF_LEVEL(moe_format_def_##NAME).dequantise, values, bytes});                       \
    }                                                                                                         \
    moe_linear_scaled_fn OF_LEVEL(moe_linear_scaled_##name);                                                  \
    void OF_LEVEL(moe_linear_scaled_##name)(const struct moe_linear_scaled_args *args)                        \
    {                                                                                                         \
        OF_LEVEL(moe_linear_run)(&(struct moe_linear_matrix){                                                 \
            &args->linear, args->scales, args->first_row, OF_LEVEL(moe_format_def_##NAME).dequantise, values, \
            bytes});                                                                                          \
    }
MOE_FORMAT_MAP(LINEAR_ANY)

#undef LINEAR_ANY
#undef OF_LEVEL
#undef JOIN
#undef PASTE
#undef LEVEL
