// SPDX-License-Identifier: MIT
// Conversions of src/half.h against their definitions: every f16, bf16 and E8M0 code, and for the way back every
// interval between neighbouring codes at its ends and middle.
#include <math.h>

#include "half.h"
#include "support.h"

/* The value of a code by the text of IEEE 754: exponent and fraction of the given widths. */
static double definition(uint16_t code, int exponent_bits, int fraction_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
    int exponent = code >> fraction_bits & top, fraction = code & ((1 << fraction_bits) - 1);
    double sign = code >> (exponent_bits + fraction_bits) & 1 ? -1.0 : 1.0;
    if (exponent == top)
        return fraction ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0)
        return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

static void assert_value(float value, double expected, uint16_t code)
{
    if (isnan(expected) ? !isnan(value) : (double)value != expected || !signbit(value) != !signbit(expected))
        fail_msg("code 0x%04x is %g, not %g", code, (double)value, expected);
}

static void assert_code(uint16_t code, uint16_t expected, float value)
{
    if (code != expected)
        fail_msg("%a gives 0x%04x, not 0x%04x", (double)value, code, expected);
}

static void f16_to_f32(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x10000; code++)
        assert_value(moe_f16_to_f32((uint16_t)code), definition((uint16_t)code, 5, 10), (uint16_t)code);
}

static void bf16_to_f32(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x10000; code++)
        assert_value(moe_bf16_to_f32((uint16_t)code), definition((uint16_t)code, 8, 7), (uint16_t)code);
}

static void e8m0_to_f32(void **state)
{
    (void)state;
    for (int code = 0; code < 255; code++)
        assert_value(moe_e8m0_to_f32((uint8_t)code), ldexp(1.0, code - 127), (uint16_t)code);
    assert_true(isnan(moe_e8m0_to_f32(255)));
}

/* A NaN stays one, quiet, of the same sign, with the upper bits of its payload. */
static void nan_stays_nan(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x10000; code++) {
        if (isnan(definition((uint16_t)code, 5, 10)))
            assert_int_equal(moe_f32_to_f16(moe_f16_to_f32((uint16_t)code)), code | 0x0200);
        if (isnan(definition((uint16_t)code, 8, 7)))
            assert_int_equal(moe_f32_to_bf16(moe_bf16_to_f32((uint16_t)code)), code | 0x0040);
    }
    /* payloads whose upper bits are 0 must not become infinities */
    assert_int_equal(moe_f32_to_f16(moe_f32_from_bits(0x7f800001)), 0x7e00);
    assert_int_equal(moe_f32_to_f16(moe_f32_from_bits(0xff801fff)), 0xfe00);
    assert_int_equal(moe_f32_to_bf16(moe_f32_from_bits(0x7f800001)), 0x7fc0);
    assert_int_equal(moe_f32_to_bf16(moe_f32_from_bits(0xff80ffff)), 0xffc0);
    assert_int_equal(moe_f32_to_f16(moe_f32_from_bits(0xffffffff)), 0xffff);
    assert_int_equal(moe_f32_to_bf16(moe_f32_from_bits(0x7fffffff)), 0x7fff);
}

/* Codes from 0 up to infinity at top are in the order of their values. Between two neighbours, rounding is monotone: so
 * it is right everywhere if it is right at both ends, at the middle (to the even code) and on both sides of it. The end
 * of the last interval is the value that the next exponent would have, which stands for infinity. */
static void check_intervals(uint16_t (*convert)(float), uint16_t top, int exponent_bits, int fraction_bits)
{
    double limit = ldexp(1.0, 1 << (exponent_bits - 1));
    for (uint32_t code = 0; code < top; code++) {
        double low = definition((uint16_t)code, exponent_bits, fraction_bits);
        double high = code + 1 < top ? definition((uint16_t)(code + 1), exponent_bits, fraction_bits) : limit;
        float middle = (float)((low + high) / 2);
        uint16_t even = (uint16_t)(code & 1 ? code + 1 : code);
        assert_true((double)middle == (low + high) / 2);
        for (uint16_t sign = 0;; sign = 0x8000) {
            float s = sign ? -1.0f : 1.0f;
            assert_code(convert(s * (float)low), (uint16_t)(code | sign), s * (float)low);
            assert_code(convert(s * nextafterf(middle, 0)), (uint16_t)(code | sign), s * nextafterf(middle, 0));
            assert_code(convert(s * middle), (uint16_t)(even | sign), s * middle);
            assert_code(convert(s * nextafterf(middle, INFINITY)), (uint16_t)((code + 1) | sign),
                        s * nextafterf(middle, INFINITY));
            if (sign)
                break;
        }
    }
    assert_code(convert(INFINITY), top, INFINITY);
    assert_code(convert(-INFINITY), (uint16_t)(top | 0x8000), -INFINITY);
}

static void f32_to_f16(void **state)
{
    (void)state;
    check_intervals(moe_f32_to_f16, 0x7c00, 5, 10);
    assert_code(moe_f32_to_f16(65519.996f), 0x7bff, 65519.996f);
    assert_code(moe_f32_to_f16(65520.0f), 0x7c00, 65520.0f);
    assert_code(moe_f32_to_f16(3.4e38f), 0x7c00, 3.4e38f);
    assert_code(moe_f32_to_f16(0x1p-149f), 0, 0x1p-149f);
}

static void f32_to_bf16(void **state)
{
    (void)state;
    check_intervals(moe_f32_to_bf16, 0x7f80, 8, 7);
    assert_code(moe_f32_to_bf16(0x1.fffffep127f), 0x7f80, 0x1.fffffep127f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_to_f32),    cmocka_unit_test(bf16_to_f32), cmocka_unit_test(e8m0_to_f32),
        cmocka_unit_test(nan_stays_nan), cmocka_unit_test(f32_to_f16),  cmocka_unit_test(f32_to_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
