// SPDX-License-Identifier: MIT
// linear_scaled of every format, and linear of some, through the formats' dequantisers, which are compiled for the
// level too.
// Parameters: LEVEL; LINEARS its formats for linear, X(NAME, name) each.
#include "cpu/x86/linear_matrix.h"
#include "format/format_def.h"

#if !defined(LEVEL) || !defined(LINEARS)
#error "linear_any_tmpl.h needs LEVEL and LINEARS"
#endif

#define PASTE(name, level) name##_##level
#define JOIN(name, level) PASTE(name, level)
#define OF_LEVEL(name) JOIN(name, LEVEL)

enum {
#define SIZES(id, NAME, name, values, bytes) VALUES_##NAME = values, BYTES_##NAME = bytes,
    MOE_FORMAT_MAP(SIZES)
#undef SIZES
};

#define DECLARE(id, NAME, name, values, bytes) extern const struct moe_format_def OF_LEVEL(moe_format_def_##NAME);
MOE_FORMAT_MAP(DECLARE)
#undef DECLARE

#define LINEAR_SCALED(id, NAME, name, values, bytes)                                                             \
    moe_linear_scaled_fn OF_LEVEL(moe_linear_scaled_##name);                                                     \
    void OF_LEVEL(moe_linear_scaled_##name)(const struct moe_linear_scaled_args *args)                           \
    {                                                                                                            \
        OF_LEVEL(moe_linear_run)(&(struct moe_linear_matrix){                                                    \
            &args->linear, args->scales, args->first_row, OF_LEVEL(moe_format_def_##NAME).dequantise, values,    \
            bytes});                                                                                             \
    }
MOE_FORMAT_MAP(LINEAR_SCALED)
#undef LINEAR_SCALED

#define LINEAR(NAME, name)                                                                                       \
    moe_linear_fn OF_LEVEL(moe_linear_##name);                                                                   \
    void OF_LEVEL(moe_linear_##name)(const struct moe_linear_args *args)                                         \
    {                                                                                                            \
        OF_LEVEL(moe_linear_run)(&(struct moe_linear_matrix){                                                    \
            args, NULL, 0, OF_LEVEL(moe_format_def_##NAME).dequantise, VALUES_##NAME, BYTES_##NAME});            \
    }
LINEARS(LINEAR)
#undef LINEAR

#undef OF_LEVEL
#undef JOIN
#undef PASTE
#undef LEVEL
#undef LINEARS
