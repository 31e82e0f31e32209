// SPDX-License-Identifier: MIT
// linear on AVX-512 of the formats that have no file of their own, and of every format with scales apart.
#define LEVEL avx512
#define LINEARS(X)                                                                            \
    X(Q2_K, q2_k) X(Q3_K, q3_k) X(IQ2_XXS, iq2_xxs) X(IQ2_XS, iq2_xs) X(IQ2_S, iq2_s)         \
    X(IQ3_XXS, iq3_xxs) X(IQ3_S, iq3_s) X(IQ1_S, iq1_s) X(IQ1_M, iq1_m) X(TQ1_0, tq1_0)       \
    X(TQ2_0, tq2_0) X(NVFP4, nvfp4) X(I8, i8) X(E4M3, e4m3) X(E2M1, e2m1) X(U4, u4) X(U8, u8) \
    X(E8M0, e8m0)
#include "cpu/x86/linear_any_tmpl.h"
