// SPDX-License-Identifier: MIT
// What a call may bring: formats, strides, empty slots, maps, padding tokens, accumulation, counts, top_k of its own;
// fused and composed, against the definition.
#include "layer_fixture.h"

enum { NUM_TOKENS = 11 };

/* A small layer whose values stay within f16. */
static const struct test_layer_spec plain_spec = {
    .experts = {.num_experts = 6, .hidden_size = 40, .intermediate_size = 24, .gate = MOE_FORMAT_BF16,
                .up = MOE_FORMAT_BF16, .down = MOE_FORMAT_F16},
    .top_k = 3, .shared_size = 24, .shared_gate = true, .router = true, .router_format = MOE_FORMAT_BF16,
    .routing = {.renorm = MOE_RENORM_ADD_EPS}};

static struct test_layer_spec spec_without_shared(void)
{
    struct test_layer_spec spec = plain_spec;
    spec.shared_size = 0;
    return spec;
}

static void compare_both(struct fixture *f, const struct test_call *call, const char *what)
{
    test_assert_most(fixture_compare(f, f->fused.layer, call), 1, what);
    test_assert_most(fixture_compare(f, f->composed.layer, call), 1, what);
}

static struct moe_stats take_stats(struct fixture *f)
{
    struct moe_stats stats;
    MOE_INIT(&stats);
    test_assert_ok(moe_context_stats(f->ctx, &stats, true));
    return stats;
}

static void test_formats_and_strides(void **state)
{
    (void)state;
    const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16};
    struct fixture f;
    fixture_open(&f, &plain_spec, 1, NUM_TOKENS);
    float *start = moe_ref_alloc(NUM_TOKENS * f.top_k * f.hidden_size, sizeof *start);
    for (size_t i = 0; i < 108; i++) {
        struct test_call call = i % 2 ? fixture_call(&f) : fixture_call_ids(&f);
        call.x_format = formats[i / 2 % 3];
        call.out_format = formats[i / 6 % 3];
        call.logits_format = call.weights_format = formats[i / 18 % 3];
        call.ids_format = i / 2 % 2 ? MOE_FORMAT_I64 : MOE_FORMAT_I32;
        call.padding = i % 3 * 2;
        test_fill(&f.rng, f.x, NUM_TOKENS * f.hidden_size, 1);
        test_fill(&f.rng, start, NUM_TOKENS * f.hidden_size, 1);
        test_fill(&f.rng, f.logits, NUM_TOKENS * f.num_experts, 1);
        test_fill(&f.rng, f.weights, NUM_TOKENS * f.num_experts, 1);
        test_round(f.x, NUM_TOKENS * f.hidden_size, call.x_format);
        test_round(f.logits, NUM_TOKENS * f.num_experts, call.logits_format);
        test_round(f.weights, NUM_TOKENS * f.num_experts, call.weights_format);
        test_round(start, NUM_TOKENS * f.hidden_size, call.out_format);
        call.flags = i / 54 ? MOE_ACCUMULATE : 0;
        call.start = start;
        compare_both(&f, &call, "formats");
        call.flags = MOE_OUT_PAIRS;
        call.start = NULL;
        compare_both(&f, &call, "formats of pairs");
    }
    free(start);
    fixture_close(&f);
}

/* ids out of range are empty slots, however large; the same id twice counts twice. */
static void test_empty_and_double_slots(void **state)
{
    (void)state;
    const int64_t narrow[] = {-1, 6, INT32_MAX, INT32_MIN, 7}, wide[] = {INT64_MAX, INT64_MIN, (int64_t)1 << 32,
                                                                        ((int64_t)1 << 32) + 2, -((int64_t)1 << 33)};
    for (size_t i = 0; i < 8; i++) {
        struct test_layer_spec spec = i & 1 ? plain_spec : spec_without_shared();
        struct fixture f;
        spec.weight_on_input = i & 2;
        fixture_open(&f, &spec, i, NUM_TOKENS);
        struct test_call call = fixture_call_ids(&f);
        call.ids_format = i & 4 ? MOE_FORMAT_I64 : MOE_FORMAT_I32;
        uint64_t skipped = 0;
        int64_t expected[6] = {0}, counts[6];
        for (size_t p = 0; p < NUM_TOKENS * f.top_k; p++) {
            if (p % 3 == 1 || p / 3 == 4)   /* token 4 has no expert at all */
                f.ids[p] = i & 4 ? wide[p % 5] : narrow[p % 5];
            if (p % 3 == 2 && p / 3 != 4)
                f.ids[p] = f.ids[p - 2];
            if (f.ids[p] < 0 || f.ids[p] >= 6)
                skipped++;
            else
                expected[f.ids[p]]++;
        }
        const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
        for (size_t j = 0; j < 2; j++) {
            call.counts = counts;
            for (size_t e = 0; e < 6; e++)
                counts[e] = 1000 + (int64_t)e;
            take_stats(&f);
            test_assert_most(fixture_compare(&f, layers[j], &call), 1, "empty slots");
            struct moe_stats stats = take_stats(&f);
            assert_int_equal(stats.skipped_pairs, skipped);
            assert_int_equal(stats.calls, 1);
            for (size_t e = 0; e < 6; e++)
                assert_int_equal(counts[e], 1000 + (int64_t)e + expected[e]);
            for (size_t c = 0; !(i & 1) && c < f.hidden_size; c++)
                assert_true(f.out[4 * f.hidden_size + c] == 0);
        }
        call.counts = NULL;
        call.flags = MOE_OUT_PAIRS;
        compare_both(&f, &call, "empty pairs");
        fixture_close(&f);
    }
}

/* NaN weights of empty slots, and whatever an expert that nobody chose would give, reach nothing. */
static void test_weights_of_empty_slots(void **state)
{
    (void)state;
    struct test_layer_spec spec = spec_without_shared();
    struct fixture f;
    fixture_open(&f, &spec, 3, NUM_TOKENS);
    struct test_call call = fixture_call_ids(&f);
    for (size_t p = 0; p < NUM_TOKENS * f.top_k; p += 2) {
        f.ids[p] = -1;
        f.weights[p] = NAN;
    }
    compare_both(&f, &call, "NaN weights");
    fixture_close(&f);
}

static void test_expert_map(void **state)
{
    (void)state;
    struct test_layer_spec spec = plain_spec;
    const int32_t more[] = {3, -1, 0, 5, 6, 2, 2, INT32_MAX, INT32_MIN, 1}, fewer[] = {5, 0};
    struct fixture f;
    spec.num_experts = 10;
    fixture_open(&f, &spec, 4, NUM_TOKENS);
    struct test_call call = fixture_call(&f);
    int64_t counts[10] = {0};
    call.expert_map = more;
    call.counts = counts;
    call.out_ids = f.out_ids;
    take_stats(&f);
    compare_both(&f, &call, "a map of more ids");
    uint64_t skipped = 0;
    int64_t total = 0;
    for (size_t p = 0; p < NUM_TOKENS * f.top_k; p++)
        skipped += more[f.out_ids[p]] < 0 || more[f.out_ids[p]] >= 6;
    for (size_t e = 0; e < 10; e++)
        total += counts[e];
    assert_true(skipped > 0);
    assert_int_equal(take_stats(&f).skipped_pairs, 2 * skipped);
    assert_int_equal(total, 2 * NUM_TOKENS * f.top_k);   /* counted by id, also where the map skips it */
    call.counts = NULL;
    call.flags = MOE_OUT_PAIRS;
    compare_both(&f, &call, "pairs of a map");
    fixture_close(&f);
    spec.num_experts = 2;
    spec.top_k = 2;
    fixture_open(&f, &spec, 5, NUM_TOKENS);
    call = fixture_call(&f);
    call.expert_map = fewer;
    compare_both(&f, &call, "a map of fewer ids");
    fixture_close(&f);
}

/* Tokens from *live_tokens on: zeros, or left alone; their ids -1, their weights 0; x and logits are not looked at. */
static void check_live(struct fixture *f, const struct moe_layer *layer, int32_t live, uint32_t flags)
{
    size_t rows = flags & MOE_OUT_PAIRS ? f->top_k : 1, n = NUM_TOKENS * rows * f->hidden_size;
    size_t first = live < 0 ? 0 : live > NUM_TOKENS ? NUM_TOKENS : (size_t)live;
    int64_t counts[6] = {0}, total = 0;
    float *start = moe_ref_alloc(n, sizeof *start);
    struct test_call call = fixture_call(f);
    test_fill(&f->rng, start, n, 1);
    call.flags = flags;
    call.start = start;
    call.out = f->other;
    test_assert_ok(test_call_run(f->ctx, layer, &call));   /* all tokens */
    call.live_tokens = &live;
    call.out = f->out;
    call.out_ids = f->out_ids;
    call.out_weights = f->out_weights;
    call.counts = counts;
    take_stats(f);
    test_assert_ok(test_call_run(f->ctx, layer, &call));
    assert_int_equal(take_stats(f).skipped_pairs, 0);
    test_assert_same(f->out, f->other, first * rows * f->hidden_size, "live tokens");
    for (size_t i = first * rows * f->hidden_size; i < n; i++)
        assert_true(flags & MOE_ACCUMULATE ? f->out[i] == start[i] : f->out[i] == 0);
    for (size_t i = 0; i < NUM_TOKENS * f->top_k; i++)
        assert_true((f->out_ids[i] == -1) == (i >= first * f->top_k));
    for (size_t i = first * f->top_k; i < NUM_TOKENS * f->top_k; i++)
        assert_true(f->out_weights[i] == 0);
    for (size_t e = 0; e < 6; e++)
        total += counts[e];
    assert_int_equal(total, first * f->top_k);
    free(start);
}

static void test_live_tokens(void **state)
{
    (void)state;
    const int32_t live[] = {0, 1, 5, NUM_TOKENS, NUM_TOKENS + 3, -2, INT32_MAX, INT32_MIN};
    const uint32_t flags[] = {0, MOE_ACCUMULATE, MOE_OUT_PAIRS};
    struct fixture f;
    fixture_open(&f, &plain_spec, 6, NUM_TOKENS);
    for (size_t i = 0; i < sizeof live / sizeof *live; i++) {
        for (size_t j = 0; j < 3; j++) {
            check_live(&f, f.fused.layer, live[i], flags[j]);
            check_live(&f, f.composed.layer, live[i], flags[j]);
        }
    }
    /* Padding may be NaN, and strictness does not care for it. */
    int32_t first = 5;
    struct test_call call = fixture_call(&f);
    for (size_t i = 5 * f.num_experts; i < NUM_TOKENS * f.num_experts; i++)
        f.logits[i] = NAN;
    call.flags = MOE_STRICT;
    call.live_tokens = &first;
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
    test_assert_ok(test_call_run(f.ctx, f.composed.layer, &call));
    assert_int_equal(take_stats(&f).nonfinite_rows, 0);
    fixture_close(&f);
}

static void test_strict(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &plain_spec, 7, NUM_TOKENS);
    const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
    const int64_t bad[] = {-1, 6, INT32_MAX};
    for (size_t i = 0; i < 2; i++) {
        struct test_call call = fixture_call_ids(&f);
        int64_t counts[6] = {0};
        call.flags = MOE_STRICT;
        call.out_ids = f.out_ids;
        call.counts = counts;
        compare_both(&f, &call, "strict");
        for (size_t j = 0; j < 3; j++) {
            int64_t good = f.ids[NUM_TOKENS * f.top_k - 1];
            f.ids[NUM_TOKENS * f.top_k - 1] = bad[j];
            take_stats(&f);
            test_assert_status(test_call_run(f.ctx, layers[i], &call), MOE_ERR_RANGE);
            assert_int_equal(take_stats(&f).calls, 0);
            f.ids[NUM_TOKENS * f.top_k - 1] = good;
        }
        call = fixture_call(&f);
        call.flags = MOE_STRICT;
        call.out_weights = f.out_weights;
        float saved[6];
        float *last = f.logits + (NUM_TOKENS - 1) * f.num_experts;
        memcpy(saved, last, sizeof saved);
        for (size_t e = 0; e < 6; e++)
            last[e] = e % 2 ? NAN : -INFINITY;
        test_assert_status(test_call_run(f.ctx, layers[i], &call), MOE_ERR_NONFINITE);
        call.entry = TEST_ROUTE;
        call.out = NULL;
        call.out_ids = f.out_ids;
        test_assert_status(test_call_run(f.ctx, layers[i], &call), MOE_ERR_NONFINITE);
        last[3] = -4;   /* one number is enough */
        test_assert_ok(test_call_run(f.ctx, layers[i], &call));
        memcpy(last, saved, sizeof saved);
    }
    fixture_close(&f);
}

/* Rows of logits with ties, NaN and infinities: ids, weights and output as defined, and counted. */
static void test_logits_that_are_no_numbers(void **state)
{
    (void)state;
    const float values[] = {NAN, INFINITY, -INFINITY, 1, 1, -0.0f, 0};
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct test_layer_spec spec = plain_spec;
        struct fixture f;
        spec.routing.weight = (enum moe_score)(seed % 5);
        if (spec.routing.weight == MOE_SCORE_LOGIT)   /* an infinite weight */
            continue;
        fixture_open(&f, &spec, seed, NUM_TOKENS);
        uint64_t nonfinite = 0;
        for (size_t t = 0; t < NUM_TOKENS; t++) {
            bool any = false;
            size_t kinds = 1 + test_below(&f.rng, 7);
            for (size_t e = 0; e < 6; e++) {
                f.logits[t * 6 + e] = values[test_below(&f.rng, kinds)];
                any = any || isfinite(f.logits[t * 6 + e]);
            }
            nonfinite += !any;
        }
        const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
        double *ref = moe_ref_alloc(NUM_TOKENS * f.hidden_size, sizeof *ref), weights[NUM_TOKENS * 3];
        int64_t ids[NUM_TOKENS * 3];
        struct test_call call = fixture_call(&f);
        call.out_ids = f.out_ids;
        call.out_weights = f.out_weights;
        test_call_ref(&f.layer.block, &call, ref, NULL, ids, weights);
        for (size_t i = 0; i < 2; i++) {
            take_stats(&f);
            test_assert_most(fixture_compare(&f, layers[i], &call), 1, "error over its bound");
            assert_int_equal(take_stats(&f).nonfinite_rows, nonfinite);
            for (size_t p = 0; p < NUM_TOKENS * f.top_k; p++) {
                assert_int_equal(f.out_ids[p], ids[p]);
                test_assert_most(test_ulps(f.out_weights[p], weights[p]), 1, "weight");
            }
        }
        free(ref);
        fixture_close(&f);
    }
}

static void test_top_k_of_a_call(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &plain_spec, 8, NUM_TOKENS);
    for (size_t top_k = 1; top_k <= 6; top_k++) {
        struct test_call call = fixture_call(&f);
        call.top_k = top_k;
        compare_both(&f, &call, "top_k of a call, by logits");
        call.logits = NULL;
        compare_both(&f, &call, "top_k of a call, by the router");
        call = fixture_call_ids(&f);
        call.top_k = top_k;
        compare_both(&f, &call, "top_k of a call, by ids");
    }
    fixture_close(&f);
}

static void test_router_input(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &plain_spec, 9, NUM_TOKENS);
    float *router_x = moe_ref_alloc(NUM_TOKENS * f.hidden_size, sizeof *router_x);
    test_fill_heavy(&f.rng, router_x, NUM_TOKENS, f.hidden_size, 1);
    struct test_call call = fixture_call(&f);
    call.logits = NULL;
    call.router_x = router_x;
    compare_both(&f, &call, "an input for the router");
    call.out = f.other;
    call.router_x = NULL;
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
    assert_memory_not_equal(f.out, f.other, NUM_TOKENS * f.hidden_size * sizeof *f.out);
    /* Logits and ids come before it. */
    call = fixture_call(&f);
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
    call.router_x = router_x;
    call.out = f.other;
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
    test_assert_same(f.out, f.other, NUM_TOKENS * f.hidden_size, "logits beside router_x");
    call = fixture_call_ids(&f);
    call.out = f.other;
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
    call.out = f.out;
    call.logits = f.logits;
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
    test_assert_same(f.out, f.other, NUM_TOKENS * f.hidden_size, "ids beside logits");
    free(router_x);
    fixture_close(&f);
}

/* NaN and infinities in x stay in their token. */
static void test_bad_token_stays_alone(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &plain_spec, 10, NUM_TOKENS);
    const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
    for (size_t i = 0; i < 2; i++) {
        struct test_call call = fixture_call(&f);
        float saved = f.x[3 * f.hidden_size];
        test_assert_ok(test_call_run(f.ctx, layers[i], &call));
        f.x[3 * f.hidden_size] = i == 0 ? NAN : INFINITY;
        call.out = f.other;
        test_assert_ok(test_call_run(f.ctx, layers[i], &call));
        assert_true(isnan(f.other[3 * f.hidden_size]));
        test_assert_same(f.out, f.other, 3 * f.hidden_size, "tokens before");
        test_assert_same(f.out + 4 * f.hidden_size, f.other + 4 * f.hidden_size, 7 * f.hidden_size, "tokens after");
        f.x[3 * f.hidden_size] = saved;
    }
    fixture_close(&f);
}

/* combine by hand: the sum over slots in order, empty ones left out; added to out with MOE_ACCUMULATE. */
static void test_combine(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &plain_spec, 11, NUM_TOKENS);
    size_t n = NUM_TOKENS * f.hidden_size;
    float *pairs = moe_ref_alloc(n * f.top_k, sizeof *pairs), *start = moe_ref_alloc(n, sizeof *start);
    double *ref = moe_ref_alloc(2 * n, sizeof *ref), *bound = ref + n;
    test_fill_heavy(&f.rng, pairs, NUM_TOKENS * f.top_k, f.hidden_size, 1);
    test_fill(&f.rng, start, n, 1);
    f.ids[4] = -1;
    f.ids[7] = 6;
    for (uint32_t flags = 0; flags <= MOE_ACCUMULATE; flags++) {
        for (size_t i = 0; i < n; i++) {
            ref[i] = flags & MOE_ACCUMULATE ? start[i] : 0;
            bound[i] = fabs(ref[i]);
            for (size_t k = 0; k < f.top_k; k++) {
                size_t pair = i / f.hidden_size * f.top_k + k;
                double value = (double)f.weights[pair] * pairs[pair * f.hidden_size + i % f.hidden_size];
                if (f.ids[pair] < 0 || f.ids[pair] >= 6)
                    continue;
                ref[i] += value;
                bound[i] += fabs(value);
            }
            bound[i] *= moe_ref_gamma(f.top_k + 2);
        }
        struct test_call call = {.entry = TEST_COMBINE, .flags = flags, .num_tokens = NUM_TOKENS, .x = pairs,
                                 .ids = f.ids, .weights = f.weights, .start = start, .out = f.out, .padding = 1};
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        test_assert_most(test_worst(f.out, ref, bound, n), 1, "combine, fused");
        test_assert_ok(test_call_run(f.ctx, f.composed.layer, &call));
        test_assert_most(test_worst(f.out, ref, bound, n), 1, "combine, composed");
    }
    free(pairs);
    free(start);
    free(ref);
    fixture_close(&f);
}

static void test_no_tokens(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &plain_spec, 12, 1);
    const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
    for (size_t i = 0; i < 2; i++) {
        struct moe_layer_io io;
        MOE_INIT(&io);
        take_stats(&f);
        test_assert_ok(moe_layer_forward(f.ctx, layers[i], &io));
        test_assert_ok(moe_layer_route(f.ctx, layers[i], &io));
        test_assert_ok(moe_layer_combine(f.ctx, layers[i], &io));
        assert_int_equal(take_stats(&f).calls, 3);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats_and_strides),
        cmocka_unit_test(test_empty_and_double_slots),
        cmocka_unit_test(test_weights_of_empty_slots),
        cmocka_unit_test(test_expert_map),
        cmocka_unit_test(test_live_tokens),
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_logits_that_are_no_numbers),
        cmocka_unit_test(test_top_k_of_a_call),
        cmocka_unit_test(test_router_input),
        cmocka_unit_test(test_bad_token_stays_alone),
        cmocka_unit_test(test_combine),
        cmocka_unit_test(test_no_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
