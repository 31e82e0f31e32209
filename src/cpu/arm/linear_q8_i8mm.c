// SPDX-License-Identifier: MIT
// linear_q8 on i8mm. One token gains nothing from products of matrices, and goes through dotprod. More: panels of 8
// rows, whose bytes stand by 8 columns, 8 rows, the 8 columns of a row (q8_panel_i8mm.c).
#include "cpu/arm/formats.h"
#include "cpu/arm/q8_i8mm.h"
#include "cpu/arm/unpack_iq_neon.h"

Q8_INLINE void put(int8_t out[Q8_ROWS * MOE_Q8_UNIT], const struct q8_unit rows[Q8_ROWS])
{
    for (size_t h = 0; h < 2; h++)
        for (size_t i = 0; i < Q8_ROWS; i += 2) {
            int64x2_t a = vreinterpretq_s64_s8(rows[i].q[h]), b = vreinterpretq_s64_s8(rows[i + 1].q[h]);
            vst1q_s8(out + 128 * h + 8 * i, vreinterpretq_s8_s64(vtrn1q_s64(a, b)));
            vst1q_s8(out + 128 * h + 64 + 8 * i, vreinterpretq_s8_s64(vtrn2q_s64(a, b)));
        }
}

#define LINEAR_Q8(NAME, name, kind, unit_bytes, group_bytes)                                                          \
    moe_linear_q8_fn moe_linear_q8_##name##_dotprod, moe_linear_q8_##name##_i8mm;                                     \
    void moe_linear_q8_##name##_i8mm(const struct moe_linear_rounded_args *args)                                      \
    {                                                                                                                 \
        struct q8_format format = {q8_scales_##name, q8_quants_##name, unit_bytes, group_bytes, kind};                \
        if (args->num_tokens == 1)                                                                                    \
            moe_linear_q8_##name##_dotprod(args);                                                                     \
        else                                                                                                          \
            q8_linear_many(args, format, put, moe_q8_multiply_i8mm[kind]);                                            \
    }
MOE_ARM_FORMAT_MAP(LINEAR_Q8)
