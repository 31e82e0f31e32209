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

/* The i-th format that can be made; NULL past the last. */
static const struct moe_format_info *made_at(size_t i)
{
    const struct moe_format_info *info;
    for (size_t f = 0; (info = moe_format_at(f)) != NULL; f++) {
        if (moe_format_can_quantise(info->format) && i-- == 0)
            return info;
    }
    return NULL;
}

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

/* ||out - in|| / ||in||. limits: plain formats: half a last place, 2^-11 and 2^-9, relative to each value. Those of
 * 32 values, but for IQ4_NL and MXFP4, and the ternary ones follow ggml's quantisers bit by bit: the errors of those on
 * 2^20 such values, with 0.4 % for other samples of 2^18, 2 % with tails. The others search for longer than ggml's,
 * which reach 0.2965 and 0.3424 (Q2_K), 0.1510 and 0.1836, 0.07139 and 0.08673, 0.03612 and 0.04392, 0.01771 and
 * 0.02290 (Q6_K), 0.07620 and 0.09364, 0.07678 and 0.09461 (IQ4_XS), 0.1150 and 0.1317, 0.1031 and 0.0960 (NVFP4): what
 * ours reach, and 0.3 to 0.6 %, 1.5 % with the tails of NVFP4. */
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
                  {MOE_FORMAT_Q4_1, 0.07825 * 1.004, 0.09368 * 1.02},
                  {MOE_FORMAT_Q5_0, 0.04265 * 1.004, 0.05816 * 1.02},
                  {MOE_FORMAT_Q5_1, 0.03786 * 1.004, 0.04538 * 1.02},
                  {MOE_FORMAT_TQ1_0, 0.8070 * 1.004, 0.8435 * 1.02},
                  {MOE_FORMAT_TQ2_0, 0.8070 * 1.004, 0.8435 * 1.02},
                  {MOE_FORMAT_Q2_K, 0.2621, 0.2900},
                  {MOE_FORMAT_Q3_K, 0.1438, 0.1756},
                  {MOE_FORMAT_Q4_K, 0.0698, 0.0845},
                  {MOE_FORMAT_Q5_K, 0.0341, 0.0413},
                  {MOE_FORMAT_Q6_K, 0.0170, 0.0219},
                  {MOE_FORMAT_IQ4_NL, 0.0736, 0.0901},
                  {MOE_FORMAT_IQ4_XS, 0.0741, 0.0908},
                  {MOE_FORMAT_MXFP4, 0.1121, 0.1276},
                  {MOE_FORMAT_NVFP4, 0.0894, 0.0879}};
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

/* What rounding to f16 moves a number by. */
static float f16_rounding(float f)
{
    return fmaxf(fabsf(f) * 0x1p-11f, 0x1p-25f);
}

/* Rounding d to f16 moves a value by as much as steps of d. Q8_0: half a step more. Q4_0 and Q5_0: half a step, but a
 * whole one at the end of the range that has no q. With a minimum: half a step, and the rounding of the minimum. 1.0001
 * is for the roundings of f32. */
static void errors_of_each_value(void **state)
{
    static const struct {
        enum moe_format format;
        float steps;
        bool one_end, minimum;
    } rows[] = {{MOE_FORMAT_Q8_0, 127, false, false}, {MOE_FORMAT_Q4_0, 8, true, false},
                {MOE_FORMAT_Q5_0, 16, true, false},   {MOE_FORMAT_Q4_1, 15, false, true},
                {MOE_FORMAT_Q5_1, 31, false, true}};
    struct test_rng rng = {2};
    float *in = test_alloc(NUM_VALUES * sizeof(float)), *out = test_alloc(NUM_VALUES * sizeof(float));
    (void)state;
    test_fill_heavy(&rng, in, NUM_VALUES / 256, 256, 0.001);
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        float steps = rows[row].steps;
        round_trip(out, rows[row].format, in, NUM_VALUES);
        for (size_t i = 0; i < NUM_VALUES; i++) {
            const float *block = in + i / 32 * 32;
            float low = block[0], high = block[0];
            for (size_t j = 1; j < 32; j++) {
                low = fminf(low, block[j]);
                high = fmaxf(high, block[j]);
            }
            float d = (rows[row].minimum ? high - low : fmaxf(-low, high)) / steps;
            float rounding = steps * f16_rounding(d) + (rows[row].minimum ? f16_rounding(low) : 0);
            bool cut = rows[row].one_end && fabsf(in[i]) > (steps - 0.6f) * d;
            float bound = 1.0001f * (rounding + d * (cut ? 1.0f : 0.5f));
            if (!(fabsf(out[i] - in[i]) <= bound))
                fail_msg("%s: value %zu, %a, is off by %g of %g", moe_format_info(rows[row].format)->name, i,
                         (double)in[i], (double)fabsf(out[i] - in[i]), (double)bound);
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

/* Ternary weights are what TQ1_0 and TQ2_0 are for: they come back as they are. NVFP4: so do values at any scale,
 * whatever the largest code among them. */
static void exact_values(void **state)
{
    static const float e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    struct test_rng rng = {8};
    float in[256], out[256];
    (void)state;
    for (int round = 0; round < 1000; round++) {
        float d = moe_f16_to_f32((uint16_t)(1 + test_below(&rng, 0x7bff)));
        for (size_t i = 0; i < 256; i++)
            in[i] = d * (float)((int)test_below(&rng, 3) - 1);
        round_trip(out, MOE_FORMAT_TQ1_0, in, 256);
        test_assert_same(out, in, 256, "tq1_0");
        round_trip(out, MOE_FORMAT_TQ2_0, in, 256);
        test_assert_same(out, in, 256, "tq2_0");
        for (size_t i = 0; i < 256; i++) {
            uint8_t code = (uint8_t)(1 + (i / 16 + 16 * (size_t)round) % 126);
            size_t largest = 1 + (size_t)round % 7;
            float scale = code < 8 ? ldexpf((float)code, -9) : ldexpf((float)(8 + code % 8), code / 8 - 10);
            in[i] = scale * e2m1[i % 16 == 0 ? largest : test_below(&rng, largest + 1)];
            in[i] = in[i] > 0 && i % 3 == 0 ? -in[i] : in[i];
        }
        round_trip(out, MOE_FORMAT_NVFP4, in, 256);
        test_assert_same(out, in, 256, "nvfp4");
    }
}

/* Values that a format can hold come back as they are. Formats with two levels of scales search, and may choose another
 * grid, which loses at most a tenth of what the first round lost; at 2 bits, where few groups show the whole of their
 * grid, at most a quarter. */
static void second_round(void **state)
{
    struct test_rng rng = {4};
    float *in = test_alloc(NUM_VALUES * sizeof(float)), *once = test_alloc(NUM_VALUES * sizeof(float));
    float *twice = test_alloc(NUM_VALUES * sizeof(float));
    (void)state;
    test_fill_heavy(&rng, in, NUM_VALUES / 256, 256, 0.02);
    for (size_t f = 0; made_at(f); f++) {
        const struct moe_format_info *info = made_at(f);
        round_trip(once, info->format, in, NUM_VALUES);
        round_trip(twice, info->format, once, NUM_VALUES);
        double share = info->format == MOE_FORMAT_Q2_K ? 0.25 : 0.1;
        if (info->block_values > 64)
            test_assert_most(relative_error(twice, once, NUM_VALUES), share * relative_error(once, in, NUM_VALUES),
                             info->name);
        else
            test_assert_same(twice, once, NUM_VALUES, info->name);
    }
    test_release(twice);
    test_release(once);
    test_release(in);
}

/* ---- ends of the range -------------------------------------------------------------------------------------- */

/* The largest loss of a value, relative to the largest one of its block. By default the quarter that
 * Q3_K lacks at one end of its range, which is more than half a step of 4 bits and what 6-bit scales and the gap of
 * E2M1 from 4 to 6 add. Q2_K has 3 steps from -1 to 1, half of which is 1/3; its scales and minima, of 4 bits, move a
 * value by 3 (2/3) / 30 and 1 / 30 more. Ternary formats have steps of 1, whose scale f16 rounds. */
static float loss_of(enum moe_format format)
{
    switch (format) {
    case MOE_FORMAT_Q2_K:
        return 0.434f;
    case MOE_FORMAT_TQ1_0:
    case MOE_FORMAT_TQ2_0:
        return 0.501f;
    default:
        return 0.25f;
    }
}

/* Every format, the same 256 values made by make(i): what comes back is finite and within a share of the bound,
 * relative to the largest value, or, below the smallest scale, absolute. */
static void check_values(float (*make)(struct test_rng *, size_t), float share, float absolute)
{
    struct test_rng rng = {5};
    float in[256], out[256];
    for (size_t i = 0; i < 256; i++)
        in[i] = make(&rng, i);
    for (size_t f = 0; made_at(f); f++) {
        const struct moe_format_info *info = made_at(f);
        if (info->format == MOE_FORMAT_NVFP4 && largest_of(in, 256) > 448 * 6)   /* beyond it: the next test */
            continue;
        round_trip(out, info->format, in, 256);
        for (size_t i = 0; i < 256; i++) {
            float limit = share * loss_of(info->format) * largest_of(in, 256) + absolute;
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

/* In f16, 2^-24 is the smallest scale: values below half of 8 of them become 0. */
static void ends_of_the_range(void **state)
{
    (void)state;
    check_values(make_zero, 0, 0);
    check_values(make_denormal, 0, 0x1p-125f);
    check_values(make_tiny, 1, 8 * 0x1p-24f);
    check_values(make_large, 1, 0);
    check_values(make_equal_negative, 1, 0);
    check_values(make_equal_positive, 1, 0);
    check_values(make_one_spike, 1, 0);
    check_values(make_mixed_scales, 1, 8 * 0x1p-24f);
}

/* Finite values beyond the format: the block is finite and near, or validate finds it; never silently wrong. */
static void values_beyond_the_range(void **state)
{
    struct test_rng rng = {6};
    (void)state;
    for (size_t f = 0; made_at(f); f++) {
        const struct moe_format_info *info = made_at(f);
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
                assert_true(fabsf(out[i] - in[i]) <= loss_of(info->format) * largest_of(in, 256));
        }
    }
}

/* Any bits at all as input: no undefined behaviour (the sanitizers look), and the same result twice. */
static void random_bits(void **state)
{
    struct test_rng rng = {7};
    (void)state;
    for (size_t f = 0; made_at(f); f++) {
        const struct moe_format_info *info = made_at(f);
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
        cmocka_unit_test(exact_values),
        cmocka_unit_test(second_round),
        cmocka_unit_test(ends_of_the_range),
        cmocka_unit_test(values_beyond_the_range),
        cmocka_unit_test(random_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
