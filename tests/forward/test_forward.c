// SPDX-License-Identifier: MIT
// moe_forward against the definition on random layers, and its contract: dispatches, dirty memory, accumulation, rows
// that are no numbers, strictness.
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "forward_fixture.h"

/* Half a unit in the last place of the format, or of its denormals. */
static double rounding(enum moe_format format, double value)
{
    if (format == MOE_FORMAT_F16)
        return 0x1p-11 * value + 0x1p-25;
    return format == MOE_FORMAT_BF16 ? 0x1p-8 * value : 0;
}

/* Run, and compare with the definition: every value within its bound, and f32 within 1e-5 overall. */
static void run_and_compare(const struct forward_case *given)
{
    struct fixture f;
    fixture_open(&f, given);
    size_t n = given->batch * given->hidden_size;
    double *ref = moe_ref_alloc(2 * n, sizeof *ref), *bound = ref + n;
    float *out = moe_ref_alloc(n, sizeof *out), *before = moe_ref_alloc(n, sizeof *before);
    fixture_read(&f, before);
    test_assert_ok(moe_forward(&f.params));
    fixture_check(&f);
    fixture_read(&f, out);
    fixture_ref(&f, ref, bound);
    for (size_t i = 0; i < n; i++) {
        before[i] = given->flags & MOE_ACCUMULATE ? before[i] : 0;
        ref[i] += before[i];
        bound[i] += 2 * MOE_REF_UNIT * fabs(ref[i]) + MOE_REF_UNIT * fabs(before[i]);
        bound[i] += rounding(given->out_format, fabs(ref[i]) + bound[i]);
    }
    test_assert_most(test_worst(out, ref, bound, n), 1, "error over its bound");
    if (given->out_format == MOE_FORMAT_F32)
        test_assert_most(test_relative_error(out, ref, n), 1e-5, "relative error");
    free(ref);
    free(out);
    free(before);
    fixture_close(&f);
}

static const struct forward_case base_case = {
    .seed = 1, .batch = 5, .hidden_size = 64, .intermediate_size = 96, .num_experts = 8, .top_k = 2, .norm = true};

static void test_formats(void **state)
{
    (void)state;
    const struct moe_format_info *info;
    for (size_t i = 0; (info = moe_format_at(i)) != NULL; i++) {
        struct forward_case c = base_case;
        c.seed = i;
        c.weights = info->format;
        c.norm = i % 2;
        c.hidden_size = info->block_values > 1 ? 2 * info->block_values : 67;
        c.intermediate_size = info->block_values > 1 ? info->block_values : 41;
        run_and_compare(&c);
    }
}

static void test_formats_of_values(void **state)
{
    (void)state;
    const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16};
    for (size_t i = 0; i < 27; i++) {
        struct forward_case c = base_case;
        c.x_format = formats[i % 3];
        c.logits_format = formats[i / 3 % 3];
        c.out_format = formats[i / 9];
        c.padding = i % 4;
        run_and_compare(&c);
        c.flags = MOE_ACCUMULATE;
        run_and_compare(&c);
    }
}

static void test_shapes(void **state)
{
    (void)state;
    const size_t shapes[][5] = {   /* batch, hidden_size, intermediate_size, num_experts, top_k */
        {1, 1, 1, 1, 1},    {1, 3, 2, 4, 4},      {2, 5, 7, 3, 3},
        {9, 17, 33, 16, 1}, {3, 100, 31, 60, 9}, {2, 300, 260, 5, 5}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (size_t norm = 0; norm < 2; norm++) {
            struct forward_case c = {.seed = i, .batch = shapes[i][0], .hidden_size = shapes[i][1],
                                     .intermediate_size = shapes[i][2], .num_experts = shapes[i][3],
                                     .top_k = shapes[i][4], .norm = norm};
            run_and_compare(&c);
        }
    }
}

static uint64_t count_dispatches(struct fixture *f, uint64_t *calls)
{
    struct moe_stats stats;
    MOE_INIT(&stats);
    test_assert_ok(moe_context_stats(f->ctx, &stats, true));
    *calls = stats.calls;
    return stats.dispatches;
}

static void test_dispatches(void **state)
{
    (void)state;
    for (size_t top_k = 1; top_k <= 8; top_k++) {
        for (size_t batch = 0; batch < 4; batch++) {
            struct fixture f;
            struct forward_case c = base_case;
            uint64_t calls;
            c.batch = batch;
            c.top_k = top_k;
            fixture_open(&f, &c);
            count_dispatches(&f, &calls);
            test_assert_ok(moe_forward(&f.params));
            assert_int_equal(count_dispatches(&f, &calls), 5 * batch * top_k + 2 * batch);
            assert_int_equal(calls, 1);
            f.params.top_k = 0;
            test_assert_status(moe_forward(&f.params), MOE_ERR_ARGUMENT);
            assert_int_equal(count_dispatches(&f, &calls), 0);
            assert_int_equal(calls, 0);
            fixture_close(&f);
        }
    }
}

/* The same call over memory full of NaN, zeros, and the last call's values gives the same bits. */
static void test_dirty_memory(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    size_t n = base_case.batch * base_case.hidden_size;
    float *first = moe_ref_alloc(n, sizeof *first), *out = moe_ref_alloc(n, sizeof *out);
    test_assert_ok(moe_forward(&f.params));
    fixture_read(&f, first);
    for (int fill = 0; fill < 3; fill++) {
        const enum fixture_buffer dirty[] = {OUT, X_SINGLE, ACC, GATE_UP, SILU, DOWN};
        for (size_t i = 0; fill < 2 && i < 6; i++)
            memset(f.data[dirty[i]], fill == 0 ? 0 : 0x7f, f.size[dirty[i]]);
        test_assert_ok(moe_forward(&f.params));
        fixture_read(&f, out);
        test_assert_same(first, out, n, "a second call");
    }
    free(first);
    free(out);
    fixture_close(&f);
}

/* Tokens stand alone: the batch in two calls, rows swapped, gives the same bits. */
static void test_tokens_stand_alone(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    size_t hidden_size = base_case.hidden_size, n = base_case.batch * hidden_size;
    float *first = moe_ref_alloc(n, sizeof *first), *out = moe_ref_alloc(n, sizeof *out);
    test_assert_ok(moe_forward(&f.params));
    fixture_read(&f, first);
    struct moe_forward_params one = f.params;
    one.batch = 1;
    for (size_t t = base_case.batch; t-- > 0;) {
        one.x.offset = t * f.row_bytes[X];
        one.x.size = f.size[X] - one.x.offset;
        one.router_logits.offset = t * f.row_bytes[LOGITS];
        one.router_logits.size = f.size[LOGITS] - one.router_logits.offset;
        one.out.offset = t * f.row_bytes[OUT];
        one.out.size = f.size[OUT] - one.out.offset;
        test_assert_ok(moe_forward(&one));
    }
    fixture_read(&f, out);
    test_assert_same(first, out, n, "tokens one at a time");
    free(first);
    free(out);
    fixture_close(&f);
}

static void set_logits(struct fixture *f, size_t t, const float *row)
{
    memcpy((char *)f->data[LOGITS] + t * f->row_bytes[LOGITS], row, f->given.num_experts * sizeof *row);
    memcpy(f->logits + t * f->given.num_experts, row, f->given.num_experts * sizeof *row);
}

/* Rows without a finite logit give zeros, are counted, and are an error with MOE_STRICT; rows with one are routed. */
static void test_no_numbers(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    size_t hidden_size = base_case.hidden_size, n = base_case.batch * hidden_size;
    const float nan_row[] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    const float low_row[] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    const float mixed[] = {NAN, -1, NAN, INFINITY, NAN, 2, -INFINITY, NAN};
    set_logits(&f, 0, nan_row);
    set_logits(&f, 2, low_row);
    set_logits(&f, 3, mixed);
    double *ref = moe_ref_alloc(2 * n, sizeof *ref);
    float *out = moe_ref_alloc(n, sizeof *out);
    fixture_remember(&f);
    f.params.flags = MOE_STRICT;
    test_assert_status(moe_forward(&f.params), MOE_ERR_NONFINITE);
    fixture_unchanged(&f);
    f.params.flags = 0;
    test_assert_ok(moe_forward(&f.params));
    struct moe_stats stats;
    MOE_INIT(&stats);
    test_assert_ok(moe_context_stats(f.ctx, &stats, true));
    assert_int_equal(stats.nonfinite_rows, 2);
    assert_int_equal(stats.calls, 1);
    fixture_read(&f, out);
    fixture_ref(&f, ref, ref + n);
    for (size_t c = 0; c < hidden_size; c++) {
        assert_true(out[c] == 0);
        assert_true(out[2 * hidden_size + c] == 0);
    }
    test_assert_most(test_worst(out, ref, ref + n, n), 1, "error over its bound");
    free(ref);
    free(out);
    fixture_close(&f);
}

/* NaN and infinities in one token's x stay there. */
static void test_bad_token_stays_alone(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    size_t hidden_size = base_case.hidden_size, n = base_case.batch * hidden_size;
    float *first = moe_ref_alloc(n, sizeof *first), *out = moe_ref_alloc(n, sizeof *out);
    test_assert_ok(moe_forward(&f.params));
    fixture_read(&f, first);
    float *x = (float *)f.data[X];
    x[hidden_size + 3] = NAN;
    x[hidden_size + 4] = INFINITY;
    test_assert_ok(moe_forward(&f.params));
    fixture_read(&f, out);
    assert_true(isnan(out[hidden_size]));
    test_assert_same(first, out, hidden_size, "the token before");
    test_assert_same(first + 2 * hidden_size, out + 2 * hidden_size, n - 2 * hidden_size, "the tokens after");
    free(first);
    free(out);
    fixture_close(&f);
}

/* All tokens to one expert; equal logits, where the lower ids win. */
static void test_skew_and_ties(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    size_t n = base_case.batch * base_case.hidden_size;
    double *ref = moe_ref_alloc(2 * n, sizeof *ref);
    float *out = moe_ref_alloc(n, sizeof *out);
    const float one[] = {0, 0, 0, 0, 0, 50, 0, 0}, equal[] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (size_t t = 0; t < base_case.batch; t++)
        set_logits(&f, t, t < 3 ? one : equal);
    test_assert_ok(moe_forward(&f.params));
    fixture_read(&f, out);
    fixture_ref(&f, ref, ref + n);
    test_assert_most(test_worst(out, ref, ref + n, n), 1, "error over its bound");
    free(ref);
    free(out);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),         cmocka_unit_test(test_formats_of_values),
        cmocka_unit_test(test_shapes),          cmocka_unit_test(test_dispatches),
        cmocka_unit_test(test_dirty_memory),    cmocka_unit_test(test_tokens_stand_alone),
        cmocka_unit_test(test_no_numbers),      cmocka_unit_test(test_bad_token_stays_alone),
        cmocka_unit_test(test_skew_and_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
