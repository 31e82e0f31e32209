// SPDX-License-Identifier: MIT
// What quantising loses: bounds for each value and each block, errors on random data against those of the quantisers
// that ggml has, a second round, and blocks at the ends of the range.
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "support.h"

enum { NUM_VALUES = 1 << 18 };

static void round_trip(float *out, enum moe_format format, const float *in, size_t n)
{
    uint8_t *bytes = test_alloc(moe_format_row_bytes(format, n));
    test_assert_ok(moe_format_quantise(format, bytes, in, 1, n));
    test_assert_ok(moe_format_dequantise(format, out, bytes, 1, n));
    test_release(bytes);
}

static double relative_error(const float *out, const float *in, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = (double)out[i] - (double)in[i];
        error += difference * difference;
        norm += (double)in[i] * (double)in[i];
    }
    return sqrt(error / norm);
}

/* Student's t with 4 degrees of freedom: tails heavier than those of trained weights. */
static double student(struct test_rng *rng)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        double g = test_gaussian(rng);
        sum += g * g;
    }
    return test_gaussian(rng) / sqrt(sum / 4);
}

/* ||out - in|| / ||in||. limits: plain formats: half a last place, 2^-11 and 2^-9, relative to each value. Q8_0 and
 * Q4_0 follow ggml's quantisers bit by bit: the errors of those on 2^20 such values, with 0.4 % for other samples of
 * 2^18, 2 % with tails. Those of Q4_K, Q6_K and MXFP4 search for longer than ggml's, which reach 0.07139 and 0.08673,
 * 0.01771 and 0.02290, 0.1150 and 0.1317: what ours reach, and 0.3 to 0.6 %. */
static void errors_are_below_reference(void **state)
{
    static const struct {
        enum moe_format format;
        double gaussian, student;
    } limits[] = {{MOE_FORMAT_F32, 0, 0},
                  {MOE_FORMAT_F16, 0x1p-11, 0x1p-11},
                  {MOE_FORMAT_BF16, 0x1p-9 * 1.001, 0x1p-9 * 1.001},
                  {MOE_FORMAT_Q8_0, 0.005348 * 1.004, 0.007319 * 1.02},
                  {MOE_FORMAT_Q4_0, 0.08597 * 1.004, 0.1161 * 1.02},
                  {MOE_FORMAT_Q4_K, 0.0700, 0.0846},
                  {MOE_FORMAT_Q6_K, 0.0171, 0.0220},
                  {MOE_FORMAT_MXFP4, 0.1121, 0.1276}};
    struct test_rng rng = {1};
    float *gaussian = test_alloc(NUM_VALUES * sizeof(float)), *heavy = test_alloc(NUM_VALUES * sizeof(float));
    float *out = test_alloc(NUM_VALUES * sizeof(float));
    (void)state;
    for (size_t i = 0; i < NUM_VALUES; i++) {
        gaussian[i] = (float)(0.02 * test_gaussian(&rng));
        heavy[i] = (float)(0.02 * student(&rng));
    }
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        const char *name = moe_format_info(limits[i].format)->name;
        double error;
        round_trip(out, limits[i].format, gaussian, NUM_VALUES);
        error = relative_error(out, gaussian, NUM_VALUES);
        print_message("%-6s error %.6f on Gaussian values (limit %.6f), ", name, error, limits[i].gaussian);
        test_assert_most(error, limits[i].gaussian, name);
        round_trip(out, limits[i].format, heavy, NUM_VALUES);
        error = relative_error(out, heavy, NUM_VALUES);
        print_message("%.6f with heavy tails (limit %.6f)\n", error, limits[i].student);
        test_assert_most(error, limits[i].student, name);
    }
    test_release(out);
    test_release(heavy);
    test_release(gaussian);
}

static float largest_of(const float *x, size_t n)
{
    float largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

/* Rounding d to f16 moves it by 2^-11 of itself, or by 2^-25 where it is denormal; the quants scale that, by 127 or 8.
 * Q8_0: half a step more. Q4_0: half a step, but a whole one at the end of the range that has no q = 16. 1.0001 is for
 * the roundings of f32. */
static void errors_of_each_value(void **state)
{
    struct test_rng rng = {2};
    float *in = test_alloc(NUM_VALUES * sizeof(float)), *out = test_alloc(NUM_VALUES * sizeof(float));
    (void)state;
    test_fill_heavy(&rng, in, NUM_VALUES / 256, 256, 0.001);
    for (int format = 0; format < 2; format++) {
        float steps = format ? 8 : 127;
        round_trip(out, format ? MOE_FORMAT_Q4_0 : MOE_FORMAT_Q8_0, in, NUM_VALUES);
        for (size_t i = 0; i < NUM_VALUES; i++) {
            float d = largest_of(in + i / 32 * 32, 32) / steps;
            float rounding = steps * fmaxf(d * 0x1p-11f, 0x1p-25f);
            float bound = 1.0001f * (rounding + d * (format && fabsf(in[i]) > 7.4f * d ? 1.0f : 0.5f));
            if (!(fabsf(out[i] - in[i]) <= bound))
                fail_msg("value %zu, %a, is off by %g of %g", i, (double)in[i], (double)fabsf(out[i] - in[i]),
                         (double)bound);
        }
    }
    test_release(out);
    test_release(in);
}

/* MXFP4: the sum of squared errors of a block is at most that of rounding at the natural exponent, where the largest
 * value has the exponent of 4 .. 7.99. */
static void mxfp4_beats_natural_exponent(void **state)
{
    static const double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    struct test_rng rng = {3};
    size_t better = 0;
    (void)state;
    for (int block = 0; block < 10000; block++) {
        float in[32], out[32];
        double error = 0, natural = 0;
        test_fill_heavy(&rng, in, 1, 32, ldexp(1.0, (int)test_below(&rng, 200) - 100));
        round_trip(out, MOE_FORMAT_MXFP4, in, 32);
        double scale = ldexp(1.0, (int)floor(log2((double)largest_of(in, 32))) - 2);
        for (int i = 0; i < 32; i++) {
            double nearest = INFINITY;
            for (int j = 0; j < 8; j++)
                nearest = fmin(nearest, fabs(fabs((double)in[i]) - scale * e2m1[j]));
            natural += nearest * nearest;
            error += ((double)out[i] - (double)in[i]) * ((double)out[i] - (double)in[i]);
        }
        assert_true(error <= natural * (1 + 1e-12));
        better += error < natural * 0.999;
    }
    assert_true(better > 1000);
}

/* Blocks that are best off at a neighbour of the natural exponent, 127: one large value that is cut so that 31 small
 * ones become exact; all just below 8, nearer to 8 than to 6. */
static void mxfp4_tries_both_neighbours(void **state)
{
    float in[32];
    uint8_t bytes[17];
    (void)state;
    for (int i = 0; i < 32; i++)
        in[i] = i ? 0.25f : 4.0f;
    test_assert_ok(moe_format_quantise(MOE_FORMAT_MXFP4, bytes, in, 1, 32));
    assert_int_equal(bytes[0], 126);
    assert_int_equal(bytes[1], 0x17);   /* 3 = 6 / 2, and 0.25 = 0.5 / 2 */
    for (int i = 0; i < 32; i++)
        in[i] = 7.5f;
    test_assert_ok(moe_format_quantise(MOE_FORMAT_MXFP4, bytes, in, 1, 32));
    assert_int_equal(bytes[0], 128);
    assert_int_equal(bytes[1], 0x66);   /* 8 = 4 * 2 */
}

/* Values that a format can hold come back as they are. Formats with two levels of scales (Q4_K, Q6_K, those to come)
 * search, and may choose another grid, which loses at most a tenth of what the first round lost. */
static void second_round(void **state)
{
    struct test_rng rng = {4};
    float *in = test_alloc(NUM_VALUES * sizeof(float)), *once = test_alloc(NUM_VALUES * sizeof(float));
    float *twice = test_alloc(NUM_VALUES * sizeof(float));
    (void)state;
    test_fill_heavy(&rng, in, NUM_VALUES / 256, 256, 0.02);
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        round_trip(once, info->format, in, NUM_VALUES);
        round_trip(twice, info->format, once, NUM_VALUES);
        if (info->block_values > 32)
            test_assert_most(relative_error(twice, once, NUM_VALUES), 0.1 * relative_error(once, in, NUM_VALUES),
                             info->name);
        else
            test_assert_same(twice, once, NUM_VALUES, info->name);
    }
    test_release(twice);
    test_release(once);
    test_release(in);
}

/* ---- ends of the range -------------------------------------------------------------------------------------- */

/* Every format, the same 256 values made by make(i): what comes back is finite and within the error bound, relative to
 * the largest value, or, below the smallest scale, absolute. */
static void check_values(float (*make)(struct test_rng *, size_t), float bound, float absolute)
{
    struct test_rng rng = {5};
    float in[256], out[256];
    for (size_t i = 0; i < 256; i++)
        in[i] = make(&rng, i);
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        round_trip(out, info->format, in, 256);
        for (size_t i = 0; i < 256; i++) {
            float limit = bound * largest_of(in, 256) + absolute;
            if (!(fabsf(out[i] - in[i]) <= limit))
                fail_msg("%s: %a became %a", info->name, (double)in[i], (double)out[i]);
        }
    }
}

static float make_zero(struct test_rng *rng, size_t i)
{
    (void)rng;
    return i % 2 ? 0.0f : -0.0f;
}

static float make_denormal(struct test_rng *rng, size_t i)
{
    (void)i;
    return moe_f32_from_bits((uint32_t)(test_random(rng) & 0x807fffff));
}

static float make_tiny(struct test_rng *rng, size_t i)
{
    (void)i;
    return (float)ldexp(test_gaussian(rng), -24);
}

static float make_large(struct test_rng *rng, size_t i)
{
    (void)i;
    return (float)(60000 * (2 * test_uniform(rng) - 1));
}

static float make_equal_negative(struct test_rng *rng, size_t i)
{
    (void)rng;
    (void)i;
    return -0.75f;
}

static float make_equal_positive(struct test_rng *rng, size_t i)
{
    (void)rng;
    (void)i;
    return 0.75f;
}

static float make_one_spike(struct test_rng *rng, size_t i)
{
    (void)rng;
    return i == 77 ? 1000.0f : 0.0f;
}

static float make_mixed_scales(struct test_rng *rng, size_t i)
{
    return (float)ldexp(test_gaussian(rng), -(int)(i % 8) * 18);
}

/* The bound: half a step of 4 bits, and what 6-bit scales and MXFP4's gap from 4 to 6 add: 0.25. In f16, 2^-24 is the
 * smallest scale: values below half of 8 of them become 0. */
static void ends_of_the_range(void **state)
{
    (void)state;
    check_values(make_zero, 0, 0);
    check_values(make_denormal, 0, 0x1p-125f);
    check_values(make_tiny, 0.25f, 8 * 0x1p-24f);
    check_values(make_large, 0.25f, 0);
    check_values(make_equal_negative, 0.25f, 0);
    check_values(make_equal_positive, 0.25f, 0);
    check_values(make_one_spike, 0.25f, 0);
    check_values(make_mixed_scales, 0.25f, 8 * 0x1p-24f);
}

/* Finite values beyond the format: the block is finite and near, or validate finds it; never silently wrong. */
static void values_beyond_the_range(void **state)
{
    struct test_rng rng = {6};
    (void)state;
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        for (int exponent = 10; exponent <= 128; exponent++) {
            float in[256], out[256];
            uint8_t bytes[1024];
            size_t rows = 256 / info->block_values, bad;
            for (size_t i = 0; i < 256; i++)
                in[i] = (float)fmin(ldexp(2 * test_uniform(&rng) - 1, exponent), (double)FLT_MAX);
            in[0] = exponent == 128 ? FLT_MAX : in[0];
            in[1] = exponent == 128 ? -FLT_MAX : in[1];
            test_assert_ok(moe_format_quantise(info->format, bytes, in, rows, info->block_values));
            if (moe_format_validate(info->format, bytes, rows, info->block_values, &bad) != MOE_OK)
                continue;
            test_assert_ok(moe_format_dequantise(info->format, out, bytes, rows, info->block_values));
            for (size_t i = 0; i < 256; i++)
                assert_true(fabsf(out[i] - in[i]) <= 0.25f * largest_of(in, 256));
        }
    }
}

/* Any bits at all as input: no undefined behaviour (the sanitizers look), and the same result twice. */
static void random_bits(void **state)
{
    struct test_rng rng = {7};
    (void)state;
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        for (int round = 0; round < 2000; round++) {
            float in[256];
            uint8_t once[1024], twice[1024];
            uint32_t mask = round % 4 ? 0xffffffffu : 0xbfffffffu;   /* one in 4 without exponents above 127 */
            size_t rows = 256 / info->block_values, size = rows * info->block_bytes;
            for (size_t i = 0; i < 256; i++)
                in[i] = moe_f32_from_bits((uint32_t)test_random(&rng) & mask);
            test_assert_ok(moe_format_quantise(info->format, once, in, rows, info->block_values));
            test_assert_ok(moe_format_quantise(info->format, twice, in, rows, info->block_values));
            assert_memory_equal(once, twice, size);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_below_reference),
        cmocka_unit_test(errors_of_each_value),
        cmocka_unit_test(mxfp4_beats_natural_exponent),
        cmocka_unit_test(mxfp4_tries_both_neighbours),
        cmocka_unit_test(second_round),
        cmocka_unit_test(ends_of_the_range),
        cmocka_unit_test(values_beyond_the_range),
        cmocka_unit_test(random_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
