// SPDX-License-Identifier: MIT
// The formats of blocks that have kernels on Arm. A row makes three: linear on neon, linear_q8 on dotprod and on i8mm.
#ifndef MOE_ARM_FORMATS_H
#define MOE_ARM_FORMATS_H

/* X(NAME, name, kind, bytes of 32 columns, bytes of 256 columns). kind: Q8_*, q8_neon.h. Where a block has 256 columns a
 * row has whole groups only, and the bytes of 32 are not used. */
#define MOE_ARM_FORMAT_MAP(X)                                \
    X(Q4_0, q4_0, Q8_WHOLE, 18, 144)                         \
    X(Q4_1, q4_1, Q8_MINIMA, 20, 160)                        \
    X(Q5_0, q5_0, Q8_WHOLE, 22, 176)                         \
    X(Q5_1, q5_1, Q8_MINIMA, 24, 192)                        \
    X(Q8_0, q8_0, Q8_WHOLE, 34, 272)                         \
    X(IQ4_NL, iq4_nl, Q8_WHOLE, 18, 144)                     \
    X(MXFP4, mxfp4, Q8_WHOLE, 17, 136)                       \
    X(Q4_K, q4_k, Q8_MINIMA, 144, 144)                       \
    X(Q5_K, q5_k, Q8_MINIMA, 176, 176)                       \
    X(Q6_K, q6_k, Q8_HALVES, 210, 210)                       \
    X(IQ4_XS, iq4_xs, Q8_WHOLE, 136, 136)

#endif
