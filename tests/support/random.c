// SPDX-License-Identifier: MIT
// Seeded random numbers and data: splitmix64, Box-Muller.
#include "support.h"

#include <math.h>

uint64_t test_random(struct test_rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

size_t test_below(struct test_rng *rng, size_t n)
{
    return (size_t)(test_random(rng) % n);
}

double test_uniform(struct test_rng *rng)
{
    return (double)(test_random(rng) >> 11) * 0x1p-53;
}

double test_gaussian(struct test_rng *rng)
{
    double radius = sqrt(-2 * log(1 - test_uniform(rng)));
    return radius * cos(6.283185307179586 * test_uniform(rng));
}

void test_fill(struct test_rng *rng, float *out, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(scale * test_gaussian(rng));
}

void test_fill_heavy(struct test_rng *rng, float *out, size_t rows, size_t cols, double scale)
{
    for (size_t r = 0; r < rows; r++) {
        double row_scale = test_below(rng, 4) == 0 ? ldexp(scale, (int)test_below(rng, 13) - 6) : scale;
        for (size_t c = 0; c < cols; c++)
            out[r * cols + c] = (float)(row_scale * test_gaussian(rng) * (test_below(rng, 50) == 0 ? 20 : 1));
    }
}
