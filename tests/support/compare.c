// SPDX-License-Identifier: MIT
// How far apart results are, and asserts that say so.
#include "support.h"

#include <math.h>
#include <string.h>

double test_nmse(const float *out, const double *ref, size_t n)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        error += (out[i] - ref[i]) * (out[i] - ref[i]);
        size += ref[i] * ref[i];
    }
    return size > 0 ? error / size : error > 0 || isnan(error) ? (double)INFINITY : 0;
}

double test_relative_error(const float *out, const double *ref, size_t n)
{
    return sqrt(test_nmse(out, ref, n));
}

double test_worst(const float *out, const double *ref, const double *bound, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double error = fabs(out[i] - ref[i]);
        if (error == 0 || (isnan(out[i]) && isnan(ref[i])) || (isinf(ref[i]) && (double)out[i] == ref[i]))
            continue;
        double ratio = error / bound[i];
        if (isnan(ratio))
            ratio = (double)INFINITY;
        worst = ratio > worst ? ratio : worst;
    }
    return worst;
}

double test_ulps(float value, double ref)
{
    if (isnan(ref) || isinf(ref) || isnan(value) || isinf(value))
        return (isnan(ref) && isnan(value)) || (double)value == ref ? 0 : (double)INFINITY;
    int exponent;
    frexp(ref, &exponent);
    double ulp = ldexp(1, exponent - 24);
    return fabs(value - ref) / fmax(ulp, 0x1p-149);
}

bool test_same_set(const int64_t *a, const int64_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t in_a = 0, in_b = 0;
        for (size_t j = 0; j < n; j++) {
            in_a += a[j] == a[i];
            in_b += b[j] == a[i];
        }
        if (in_a != in_b)
            return false;
    }
    return true;
}

void test_assert_same_(const void *a, const void *b, size_t n, size_t size, const char *what, const char *file,
                       int line)
{
    const unsigned char *left = a, *right = b;
    for (size_t i = 0; i < n * size; i++) {
        if (left[i] == right[i])
            continue;
        float x = 0, y = 0;
        size_t at = i / size;
        if (size == sizeof x) {
            memcpy(&x, left + at * size, sizeof x);
            memcpy(&y, right + at * size, sizeof y);
        }
        print_error("%s:%d: %s: value %zu of %zu differs (as f32: %a and %a)\n", file, line, what, at, n, (double)x,
                    (double)y);
        _fail(file, line);
    }
}

void test_assert_status_(enum moe_status status, enum moe_status expected, const char *file, int line)
{
    if (status == expected)
        return;
    print_error("%s:%d: status %d (%s), expected %d (%s)\n", file, line, (int)status, moe_status_text(status),
                (int)expected, moe_status_text(expected));
    _fail(file, line);
}

void test_assert_most_(double value, double limit, const char *what, const char *file, int line)
{
    if (value <= limit)
        return;
    print_error("%s:%d: %s: %g is above %g\n", file, line, what, value, limit);
    _fail(file, line);
}
