// SPDX-License-Identifier: MIT
// src/exp.h against the C library in higher precision, over dense sweeps and the ends of the range.
#include <float.h>
#include <math.h>

#include "exp.h"
#include "support.h"

/* Error in units in the last place of an f32, 2^-149 at least. */
static double float_ulps(float value, double exact)
{
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)value - exact) / ldexp(1.0, exponent - 24 > -149 ? exponent - 24 : -149);
}

static double double_ulps(double value, long double exact)
{
    int exponent;
    frexpl(exact, &exponent);
    return (double)(fabsl((long double)value - exact) / ldexpl(1.0L, exponent - 53 > -1074 ? exponent - 53 : -1074));
}

static void test_expf(void **state)
{
    (void)state;
    double worst = 0.0;
    for (double x = -105.0; x < 88.7; x += 0.9e-4) {
        float f = (float)x;
        worst = fmax(worst, float_ulps(moe_expf(f), exp((double)f)));
    }
    for (double x = 1e-30; x < 1.0; x *= 1.001) {
        float f = (float)x;
        worst = fmax(worst, float_ulps(moe_expf(f), exp((double)f)));
        worst = fmax(worst, float_ulps(moe_expf(-f), exp((double)-f)));
    }
    test_assert_most(worst, 1.0, "ulps of moe_expf");
}

static void test_exp_double(void **state)
{
    (void)state;
    double worst = 0.0;
    for (double x = -746.0; x < 709.7; x += 0.9e-3)
        worst = fmax(worst, double_ulps(moe_exp(x), expl((long double)x)));
    test_assert_most(worst, 1.0, "ulps of moe_exp");
}

static void test_ends(void **state)
{
    (void)state;
    assert_true(moe_expf(0.0f) == 1.0f && moe_expf(-0.0f) == 1.0f);
    assert_true(isnan(moe_expf(NAN)) && isnan(moe_expf(-NAN)));
    assert_true(moe_expf(INFINITY) == INFINITY && moe_expf(-INFINITY) == 0.0f);
    assert_true(moe_expf(FLT_MAX) == INFINITY && moe_expf(-FLT_MAX) == 0.0f);
    assert_true(moe_expf(88.73f) == INFINITY && isfinite(moe_expf(88.72f)));
    assert_true(moe_expf(-103.9f) > 0.0f && moe_expf(-104.0f) == 0.0f);
    assert_true(moe_exp(0.0) == 1.0 && isnan(moe_exp((double)NAN)));
    assert_true(moe_exp((double)INFINITY) == (double)INFINITY && moe_exp((double)-INFINITY) == 0.0);
    assert_true(moe_exp(DBL_MAX) == (double)INFINITY && moe_exp(-DBL_MAX) == 0.0);
    assert_true(moe_exp(709.8) == (double)INFINITY && isfinite(moe_exp(709.7)));
    assert_true(moe_exp(-745.1) > 0.0 && moe_exp(-746.0) == 0.0);
}

/* Relative 4e-13: the polynomial's 2e-13, and x^2 <= 700 rounded to 53 bits before exp. */
static void test_erfc(void **state)
{
    (void)state;
    double worst = 0.0;
    for (double x = -7.0; x < 26.0; x += 1e-5 + 1e-4 * fabs(x))
        worst = fmax(worst, fabs(moe_erfc(x) / erfc(x) - 1.0));
    test_assert_most(worst, 4e-13, "relative error of moe_erfc");
    assert_true(moe_erfc((double)INFINITY) == 0.0 && moe_erfc((double)-INFINITY) == 2.0);
    assert_true(isnan(moe_erfc((double)NAN)));
    assert_true(moe_erfc(30.0) == 0.0 && moe_erfc(-30.0) == 2.0);
}

/* Just above 0.02, where the series ends, 1 - 2 / (1 + e^2v) has 5 bits less than a double: relative 3e-14. */
static void test_tanh(void **state)
{
    (void)state;
    double worst = 0.0;
    for (double v = 1e-12; v < 25.0; v *= 1.0001) {
        worst = fmax(worst, fabs(moe_tanh(v) / tanh(v) - 1.0));
        assert_true(moe_tanh(-v) == -moe_tanh(v));
    }
    test_assert_most(worst, 3e-14, "relative error of moe_tanh");
    assert_true(moe_tanh(0.0) == 0.0 && moe_tanh((double)INFINITY) == 1.0 && moe_tanh((double)-INFINITY) == -1.0);
    assert_true(isnan(moe_tanh((double)NAN)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expf),
        cmocka_unit_test(test_exp_double),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_erfc),
        cmocka_unit_test(test_tanh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
