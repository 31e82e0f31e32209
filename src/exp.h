// SPDX-License-Identifier: MIT
// Own exp, tanh and erfc, so that results do not depend on the C library. Without branches and tables: loops over them
// vectorise. NaN gives NaN; overflow gives infinity, underflow 0 through the subnormal numbers.
#ifndef MOE_EXP_H
#define MOE_EXP_H

#include <stdint.h>
#include <string.h>

#include "inline.h"

MOE_INLINE float moe_exp_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

MOE_INLINE double moe_exp_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* |x| > 104 becomes 104, where e^x is certain to be infinite or 0; NaN stays NaN. On the bits, since compilers turn two
 * comparisons of x into jumps: a difference's sign bit makes a mask of ones. below: |x| is under 104. nan: |x| is over
 * infinity's 0x7f800000. */
MOE_INLINE float moe_exp_clamp_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t magnitude = bits & 0x7fffffffu, excess = magnitude - 0x42d00000u;
    uint32_t below = 0u - (excess >> 31), nan = 0u - ((0x7f800000u - magnitude) >> 31);
    magnitude = 0x42d00000u + (excess & below);
    return moe_exp_float((bits & 0x80000000u) | magnitude | (nan & 0x7fffffffu));
}

/* The same with 746. */
MOE_INLINE double moe_exp_clamp_double(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint64_t magnitude = bits & 0x7fffffffffffffffu, excess = magnitude - 0x4087500000000000u;
    uint64_t below = 0u - (excess >> 63), nan = 0u - ((0x7ff0000000000000u - magnitude) >> 63);
    magnitude = 0x4087500000000000u + (excess & below);
    return moe_exp_double((bits & 0x8000000000000000u) | magnitude | (nan & 0x7fffffffffffffffu));
}

/* e^x = 2^n * e^r, n = round(x / ln 2), |r| <= ln(2)/2; e^r by its Taylor series. Adding 1.5 * 2^23 rounds to an
 * integer and leaves it in the low bits, so that no float is converted to an integer, which NaN would make undefined.
 * 2^n is multiplied in two halves: one alone would overflow, or round twice, at the ends of the range. <= 1 ulp. */
MOE_INLINE float moe_expf(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 = 0x4b400000 */
    x = moe_exp_clamp_float(x);
    float shifted = x * 1.44269504f + magic;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    float n = shifted - magic;
    float r = (x - n * 0.693145752f) - n * 1.42860677e-6f; /* ln 2: n * the first part is exact */
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = 1.0f + (r + r * r * p);
    uint32_t biased = bits - 0x4b400000u + 256; /* n + 256 > 0 */
    uint32_t half = biased >> 1;
    return p * moe_exp_float((half - 1) << 23) * moe_exp_float((biased - half - 1) << 23);
}

/* The same in double: 1 ulp. */
MOE_INLINE double moe_exp(double x)
{
    const double magic = 6755399441055744.0; /* 1.5 * 2^52 = 0x4338000000000000 */
    x = moe_exp_clamp_double(x);
    double shifted = x * 1.4426950408889634 + magic;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    double n = shifted - magic;
    double r = (x - n * 0x1.62e42fefa4p-1) + n * 0x1.8432a1b0e2634p-43;
    double p = 1.0 / 6227020800;
    p = p * r + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = 1.0 + (r + r * r * p);
    uint64_t biased = bits - 0x4338000000000000u + 2048;
    uint64_t half = biased >> 1;
    return p * moe_exp_double((half - 1) << 52) * moe_exp_double((biased - half - 1) << 52);
}

/* negative where x has its sign bit set. Not a comparison: with several of one x compilers make jumps of them. */
MOE_INLINE double moe_exp_by_sign(double x, double negative, double positive)
{
    uint64_t sign, a, b;
    memcpy(&sign, &x, sizeof sign);
    memcpy(&a, &negative, sizeof a);
    memcpy(&b, &positive, sizeof b);
    uint64_t mask = 0u - (sign >> 63);
    return moe_exp_double((a & mask) | (b & ~mask));
}

/* tanh in double. Below 0.02 1 - 2 / (1 + e^2v) would cancel; there the series is off by less than 1e-15 of itself. */
MOE_INLINE double moe_tanh(double v)
{
    double a = moe_exp_by_sign(v, -v, v), s = v * v;
    double small = v * (1.0 + s * (-1.0 / 3 + s * (2.0 / 15 - s * (17.0 / 315))));
    double large = 1.0 - 2.0 / (1.0 + moe_exp(2.0 * a));
    large = moe_exp_by_sign(v, -large, large);
    return a < 0.02 ? small : large;
}

/* erfc(x) = 2/sqrt(pi) * integral from x to infinity of e^(-u^2). For x >= 0 it is e^(-x^2) / (1 + x) times a smooth
 * function of t = (x - 3) / (x + 3) in [-1, 1], here the polynomial through its values at 19 Chebyshev nodes: the
 * relative error stays below 4e-13 up to x = 26, where erfc leaves the normal numbers. */
MOE_INLINE double moe_erfc(double x)
{
    double a = moe_exp_by_sign(x, -x, x);
    a = a > 40.0 ? 40.0 : a; /* erfc(27.3) is 0 in double */
    double t = (a - 3.0) / (a + 3.0);
    double p = -5.315773423979114e-09;
    p = p * t - 1.2836631180079034e-07;
    p = p * t - 2.532502961738641e-09;
    p = p * t + 1.3044806066256936e-06;
    p = p * t + 3.201920976069048e-07;
    p = p * t - 8.70215779090248e-06;
    p = p * t - 1.5496585323812219e-06;
    p = p * t + 5.594052991092854e-05;
    p = p * t - 2.053855708621647e-05;
    p = p * t - 0.0003672202129677146;
    p = p * t + 0.000645811308916051;
    p = p * t + 0.001618553667331915;
    p = p * t - 0.009750688940180507;
    p = p * t + 0.021957765921741614;
    p = p * t - 0.02380391312839862;
    p = p * t - 0.010235389006702308;
    p = p * t + 0.09902075367976683;
    p = p * t - 0.23092733308201965;
    p = p * t + 0.7160046047255598;
    double positive = moe_exp(-a * a) / (1.0 + a) * p;
    return moe_exp_by_sign(x, 2.0 - positive, positive);
}

#endif
