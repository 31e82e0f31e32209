// SPDX-License-Identifier: MIT
// The formats of blocks that have kernels on Arm. A row makes three: linear on neon, linear_q8 on dotprod and on i8mm.
#ifndef MOE_ARM_FORMATS_H
#define MOE_ARM_FORMATS_H

/* X(NAME, name, kind, bytes of 32 columns, bytes of 256 columns). kind: Q8_*, q8_neon.h. Where a block has 256 columns
 * rows are whole groups, and the bytes of 32 are not used. */
#define MOE_ARM_FORMAT_MAP(X)                                \
    X(Q4_0, q4_0, Q8_WHOLE, 18, 144)                         \
    X(Q4_1, q4_1, Q8_MINIMA, 20, 160)                        \
    X(Q5_0, q5_0, Q8_WHOLE, 22, 176)                         \
    X(Q5_1, q5_1, Q8_MINIMA, 24, 192)                        \
    X(Q8_0, q8_0, Q8_WHOLE, 34, 272)                         \
    X(IQ4_NL, iq4_nl, Q8_WHOLE, 18, 144)                     \
    X(MXFP4, mxfp4, Q8_WHOLE, 17, 136)                       \
    X(NVFP4, nvfp4, Q8_HALVES, 18, 144)                      \
    X(Q2_K, q2_k, Q8_HALVES | Q8_MINIMA, 84, 84)             \
    X(Q3_K, q3_k, Q8_HALVES, 110, 110)                       \
    X(Q4_K, q4_k, Q8_MINIMA, 144, 144)                       \
    X(Q5_K, q5_k, Q8_MINIMA, 176, 176)                       \
    X(Q6_K, q6_k, Q8_HALVES, 210, 210)                       \
    X(IQ4_XS, iq4_xs, Q8_WHOLE, 136, 136)                    \
    X(TQ1_0, tq1_0, Q8_WHOLE, 54, 54)                        \
    X(TQ2_0, tq2_0, Q8_WHOLE, 66, 66)                        \
    X(IQ1_S, iq1_s, Q8_WHOLE, 50, 50)                        \
    X(IQ1_M, iq1_m, Q8_HALVES, 56, 56)                       \
    X(IQ2_XXS, iq2_xxs, Q8_WHOLE, 66, 66)                    \
    X(IQ2_XS, iq2_xs, Q8_HALVES, 74, 74)                     \
    X(IQ2_S, iq2_s, Q8_HALVES, 82, 82)                       \
    X(IQ3_XXS, iq3_xxs, Q8_WHOLE, 98, 98)                    \
    X(IQ3_S, iq3_s, Q8_WHOLE, 110, 110)

#endif
