// SPDX-License-Identifier: MIT
// moe-check of quantise: every field of every unit against q8.h, values of all sizes, what is not finite, rows in
// parts, and nothing written beside the units' own fields.
#include "rounded.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* 127 / largest, its product with x and the stored scale are rounded, each by 2^-24 of a q of up to 127. */
#define Q_ERROR (0.5 + 3 * 127 * 0x1p-24)

enum data { GAUSSIAN, HEAVY, ZEROS, TINY, DENORMALS, HUGE_VALUES, EQUAL, TIES, ODD, NUM_DATA };

/* One unit. ODD: one value in it is not finite. */
static void fill_unit(struct test_rng *rng, float *x, enum data data)
{
    static const float odd[] = {NAN, -NAN, INFINITY, -INFINITY};
    test_fill_heavy(rng, x, 1, MOE_Q8_UNIT, data == HEAVY ? 40 : 1);
    float factor = ldexpf(1, data == TINY ? -60 - (int)test_below(rng, 66) : data == DENORMALS ? -149 : 0);
    for (size_t i = 0; i < MOE_Q8_UNIT; i++) {
        x[i] *= factor;
        if (data == ZEROS)
            x[i] = test_below(rng, 2) ? 0.0f : -0.0f;
        else if (data == HUGE_VALUES)
            x[i] = (float)(2 * test_uniform(rng) - 1) * FLT_MAX;
        else if (data == EQUAL)
            x[i] = test_below(rng, 2) ? 0.75f : -0.75f;
        else if (data == TIES)
            x[i] = (float)test_below(rng, 254) / 2 - 63.5f;
    }
    if (data == TIES)
        x[test_below(rng, MOE_Q8_UNIT)] = -127;
    if (data == ODD)
        x[test_below(rng, MOE_Q8_UNIT)] = odd[test_below(rng, 4)];
}

static void check_numbers(struct check *check, const struct q8_unit *unit, const float *x, float largest)
{
    double scale = (double)largest / 127;
    check_value(check, unit->scale, scale, 2 * MOE_REF_UNIT * scale + 0x1p-149);
    for (size_t i = 0; i < MOE_Q8_UNIT; i++) {
        if (unit->q[i] < -127)
            check_fail(check, "q is -128");
        check_value(check, scale * unit->q[i], (double)x[i], Q_ERROR * scale);
    }
}

static void check_unit(struct check *check, const unsigned char *row, size_t cols, size_t at, const float *x)
{
    struct q8_unit unit = q8_unit_at(row, cols, at);
    int32_t sums[2] = {0, 0};
    float largest = q8_largest(x);
    for (size_t i = 0; i < MOE_Q8_UNIT; i++)
        sums[i / 16] += unit.q[i];
    if (isnan(largest)) {
        for (size_t i = 0; i < MOE_Q8_UNIT; i++)
            if (unit.q[i] != 0)
                check_fail(check, "q of a unit that is not finite");
        if (!isnan(unit.scale) || !isnan(unit.sum))
            check_fail(check, "scale or sum of a unit that is not finite");
    } else {
        float sum = (float)((double)unit.scale * (sums[0] + sums[1]));
        check_numbers(check, &unit, x, largest);
        if (unit.sum != sum)
            check_fail(check, "sum %a, expected %a", (double)unit.sum, (double)sum);
    }
    if (unit.start != -128 * (sums[0] + sums[1]))
        check_fail(check, "start");
    if (unit.half_start[0] != -128 * sums[0] || unit.half_start[1] != -128 * sums[1])
        check_fail(check, "half_start");
}

/* Columns first.. first + n of before and after: the same but for the fields of their units. */
static void check_beside(struct check *check, const unsigned char *before, const unsigned char *after, size_t cols,
                         size_t first, size_t n)
{
    unsigned char *merged = test_copy(before, moe_q8_row_bytes(cols));
    for (size_t unit = first / MOE_Q8_UNIT; unit < (first + n) / MOE_Q8_UNIT; unit++) {
        struct q8_unit from = q8_unit_at(after, cols, unit);
        q8_unit_put(merged, cols, unit, &from);
    }
    check_same(check, merged, after, moe_q8_row_bytes(cols), "writes beside the fields of its units");
    test_release(merged);
}

/* x where it ends at the end of memory, at any multiple of 4. */
static float *shifted(const float *x, size_t n, size_t skew)
{
    float *memory = test_alloc((skew + n) * sizeof *memory);
    if (n > 0)
        memcpy(memory + skew, x, n * sizeof *memory);
    return memory;
}

static void run_part(struct check *check, unsigned char *row, size_t cols, size_t first, const float *x, size_t n)
{
    size_t skew = test_below(&check->rng, 16);
    float *part = shifted(x + first, n, skew);
    unsigned char *before = test_copy(row, moe_q8_row_bytes(cols));
    ((moe_quantise_fn *)check->row->fn)(row, cols, first, part + skew, n);
    check_beside(check, before, row, cols, first, n);
    test_guards(row);
    test_release(before);
    test_release(part);
}

static void test_row(struct check *check, size_t num_units, enum data data)
{
    size_t cols = num_units * MOE_Q8_UNIT, bytes = moe_q8_row_bytes(cols), first = 0;
    float *x = test_alloc(cols * sizeof *x);
    unsigned char *row = test_alloc(bytes), *parts = test_alloc(bytes);
    for (size_t u = 0; u < num_units; u++)
        fill_unit(&check->rng, x + u * MOE_Q8_UNIT,
                  data == NUM_DATA ? (enum data)test_below(&check->rng, NUM_DATA) : data);
    run_part(check, row, cols, 0, x, cols);
    for (size_t u = 0; u < num_units; u++)
        check_unit(check, row, cols, u, x + u * MOE_Q8_UNIT);
    while (first < cols) {
        size_t n = test_below(&check->rng, (cols - first) / MOE_Q8_UNIT + 1) * MOE_Q8_UNIT;
        run_part(check, parts, cols, first, x, n);
        first += n;
    }
    check_same(check, row, parts, bytes, "a row in parts has other bits");
    test_release(row);
    test_release(parts);
    test_release(x);
}

/* A kind of data for all units, and at last any for each. */
static void test_quantise(struct check *check)
{
    for (int data = 0; data <= NUM_DATA; data++) {
        for (size_t units = 1; units <= 25; units++)
            test_row(check, units, (enum data)data);
        test_row(check, 133, (enum data)data);
    }
}

struct row {
    float *x;
    unsigned char *q8;
    size_t cols;
};

static void run_bench(const struct check *check, void *data)
{
    const struct row *row = data;
    ((moe_quantise_fn *)check->row->fn)(row->q8, row->cols, 0, row->x, row->cols);
}

static void bench_quantise(struct check *check)
{
    struct row row = {.cols = 2048};
    row.x = test_alloc(row.cols * sizeof *row.x);
    row.q8 = test_alloc(moe_q8_row_bytes(row.cols));
    test_fill_heavy(&check->rng, row.x, 1, row.cols, 1);
    bench_report(check, &(struct bench){"2048 values", (double)(row.cols * sizeof *row.x), (double)row.cols, run_bench,
                                        &row});
    test_release(row.x);
    test_release(row.q8);
}

const struct check_op check_quantise = {test_quantise, bench_quantise};
