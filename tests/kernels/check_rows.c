// SPDX-License-Identifier: MIT
// moe-check of load, store and scaled_add: rows of plain values, where each value stands alone. Conversions are exact
// or correctly rounded; a scaled sum adds the roundings of one product and one sum in f32.
#include "check.h"

#include <math.h>
#include <string.h>

enum { MAX_ROW = 300 };

static size_t value_bytes(const struct check *check)
{
    return moe_format_info(check->format)->block_bytes;
}

/* Values of all sizes: normal, denormal in each format, near the largest, halfway between two, no numbers. */
static void fill_any(struct check *check, float *out, size_t n)
{
    static const float special[] = {0.0f, -0.0f, 65504.0f, 65519.996f, 65520.0f, 0x1p-24f, 0x1.8p-24f, 0x1p-25f,
                                    0x1p-149f, 0x1.fffffep127f, 0x1.fep127f, 1.00390625f, 1.01171875f, 1.00048828125f,
                                    1.00146484375f, INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < n; i++) {
        size_t kind = test_below(&check->rng, 4);
        if (kind == 0)
            out[i] = special[test_below(&check->rng, sizeof special / sizeof *special)];
        else if (kind == 1)
            out[i] = (float)ldexp(test_gaussian(&check->rng), (int)test_below(&check->rng, 270) - 140);
        else
            out[i] = (float)test_gaussian(&check->rng);
    }
}

static void check_exact(struct check *check, double value, double ref)
{
    bool same = isnan(ref) ? isnan(value) : value == ref && signbit(value) == signbit(ref);
    check_value(check, same ? ref : value, ref, 0);
    if (!same)
        check_fail(check, "%.9g where %.9g is right", value, ref);
}

static void test_load(struct check *check)
{
    size_t bytes = value_bytes(check);
    for (size_t n = 0; n < MAX_ROW; n += 1 + n / 40) {
        unsigned char *x = test_alloc(n * bytes);
        float *y = test_alloc(n * sizeof *y);
        for (size_t i = 0; i < n * bytes; i++)
            x[i] = (unsigned char)test_random(&check->rng);
        unsigned char *before = test_copy(x, n * bytes);
        ((moe_load_fn *)check->row->fn)(y, x, n);
        for (size_t i = 0; i < n; i++)
            check_exact(check, y[i], moe_ref_value(check->format, x + i * bytes));
        check_same(check, x, before, n * bytes, "changes x");
        test_release(before);
        test_release(x);
        test_release(y);
    }
}

static void test_store(struct check *check)
{
    size_t bytes = value_bytes(check);
    for (size_t n = 0; n < MAX_ROW; n += 1 + n / 40) {
        float *x = test_alloc(n * sizeof *x);
        unsigned char *y = test_alloc(n * bytes);
        fill_any(check, x, n);
        float *before = test_copy(x, n * sizeof *x);
        ((moe_store_fn *)check->row->fn)(y, x, n);
        for (size_t i = 0; i < n; i++)
            check_exact(check, moe_ref_value(check->format, y + i * bytes), moe_ref_round(check->format, x[i]));
        check_same(check, x, before, n * sizeof *x, "changes x");
        test_release(before);
        test_release(x);
        test_release(y);
    }
}

/* Half a unit in the last place of the format, and half its smallest denormal. */
static double half_unit(enum moe_format format, double value)
{
    if (format == MOE_FORMAT_F16)
        return 0x1p-11 * fabs(value) + 0x1p-25;
    return format == MOE_FORMAT_BF16 ? 0x1p-8 * fabs(value) + 0x1p-134 : 0x1p-150;
}

static void compare_scaled(struct check *check, const unsigned char *y, const unsigned char *start, const float *x,
                           float a, size_t n, bool accumulate)
{
    size_t bytes = value_bytes(check);
    for (size_t i = 0; i < n; i++) {
        double old = accumulate ? moe_ref_value(check->format, start + i * bytes) : 0, product = (double)a * x[i];
        double ref = old + product, bound = moe_ref_gamma(2) * (fabs(old) + fabs(product)) + 0x1p-149;
        check_value(check, moe_ref_value(check->format, y + i * bytes), ref,
                    bound + half_unit(check->format, fabs(ref) + bound));
    }
}

static void scaled_add_row(struct check *check, size_t n, bool accumulate)
{
    size_t bytes = value_bytes(check), split = test_below(&check->rng, n + 1);
    moe_scaled_add_fn *fn = (moe_scaled_add_fn *)check->row->fn;
    float *x = test_alloc(n * sizeof *x), a = (float)test_gaussian(&check->rng), values[MAX_ROW];
    unsigned char *y = test_alloc(n * bytes);
    test_fill_heavy(&check->rng, x, 1, n, 1);
    test_fill_heavy(&check->rng, values, 1, n, 1);
    for (size_t i = 0; accumulate && i < n; i++)
        moe_format_quantise(check->format, y + i * bytes, &values[i], 1, 1);
    unsigned char *start = test_copy(y, n * bytes), *parts = test_copy(y, n * bytes);
    fn(y, x, a, n, accumulate);
    compare_scaled(check, y, start, x, a, n, accumulate);
    fn(parts, x, a, split, accumulate);
    fn(parts + split * bytes, x + split, a, n - split, accumulate);
    check_same(check, y, parts, n * bytes, "a row in parts gives other bits");
    test_release(x);
    test_release(y);
    test_release(start);
    test_release(parts);
}

static void test_scaled_add(struct check *check)
{
    for (size_t n = 0; n < MAX_ROW; n += 1 + n / 40) {
        scaled_add_row(check, n, false);
        scaled_add_row(check, n, true);
    }
}

enum { BENCH_ROW = 4096 };
struct row {
    float *floats;
    void *values;
};

static void run_bench(const struct check *check, void *data)
{
    const struct row *row = data;
    if (check->row->op == MOE_OP_load)
        ((moe_load_fn *)check->row->fn)(row->floats, row->values, BENCH_ROW);
    else if (check->row->op == MOE_OP_store)
        ((moe_store_fn *)check->row->fn)(row->values, row->floats, BENCH_ROW);
    else
        ((moe_scaled_add_fn *)check->row->fn)(row->values, row->floats, 0.5f, BENCH_ROW, true);
}

static void bench_row(struct check *check)
{
    size_t bytes = value_bytes(check);
    struct row row = {test_alloc(BENCH_ROW * sizeof(float)), test_alloc(BENCH_ROW * bytes)};
    test_fill(&check->rng, row.floats, BENCH_ROW, 1);
    memset(row.values, 0, BENCH_ROW * bytes);
    double moved = BENCH_ROW * (double)(sizeof(float) + bytes);
    bench_report(check, &(struct bench){"4096 values", moved, 0, run_bench, &row});
    test_release(row.floats);
    test_release(row.values);
}

const struct check_op check_load = {test_load, bench_row};
const struct check_op check_store = {test_store, bench_row};
const struct check_op check_scaled_add = {test_scaled_add, bench_row};
