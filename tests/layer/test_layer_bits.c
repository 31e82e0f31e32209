// SPDX-License-Identifier: MIT
// What is promised bit for bit: a token's result does not depend on the number of threads, on who drives them, on the
// other tokens of the batch, on their order, or on what was in memory before.
#include "layer_drivers.h"
#include "layer_fixture.h"

enum { NUM_LAYERS = 24, NUM_TOKENS = 64 };

/* ---- drivers ---- */

static void compare_threads(struct fixture *f, const struct test_call *call, size_t n)
{
    const size_t threads[] = {1, 2, 3, 4, 7, 8, 16};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        struct moe_context *ctx = test_context(f->backend, threads[i]);
        test_assert_ok(test_call_run(ctx, f->fused.layer, call));
        test_assert_same(f->out, f->other, n, "another number of threads");
        test_assert_ok(test_call_run(ctx, f->fused.layer, call));
        test_assert_same(f->out, f->other, n, "a second call");
        moe_context_destroy(ctx);
    }
}

static void test_threads_and_drivers(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NUM_LAYERS; seed++) {
        struct fixture f;
        fixture_open_random(&f, 77 * seed, 1 + seed * 5 % 40);
        struct test_call call = fixture_call(&f);
        size_t n = f.num_tokens * f.hidden_size;
        call.out = f.other;
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        call.out = f.out;
        compare_threads(&f, &call, n);
        drivers_compare(&f, f.fused.layer, &call, n);
        drivers_compare_teams(&f, f.fused.layer, &call, n);
        fixture_close(&f);
    }
}

/* Matrices large enough that every lane gets work, and experts split over lanes. */
static void test_threads_of_large_layer(void **state)
{
    (void)state;
    struct test_layer_spec spec = {.top_k = 4, .shared_size = 256};
    spec.experts = (struct test_experts_spec){.num_experts = 8, .hidden_size = 512, .intermediate_size = 256,
                                              .gate = MOE_FORMAT_BF16, .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_Q4_K};
    struct fixture f;
    fixture_open(&f, &spec, 5, 33);
    struct test_call call = fixture_call(&f);
    size_t n = f.num_tokens * f.hidden_size;
    call.out = f.other;
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
    call.out = f.out;
    compare_threads(&f, &call, n);
    drivers_compare(&f, f.fused.layer, &call, n);
    drivers_compare_teams(&f, f.fused.layer, &call, n);
    fixture_close(&f);
}

/* ---- batches ---- */

static void compare_chunks(struct fixture *f, const struct moe_layer *layer, struct test_call call, size_t n)
{
    const size_t chunks[] = {1, 2, 7, 33};
    struct moe_layer_info info = {.struct_size = sizeof info};
    test_assert_ok(moe_layer_info(layer, &info));
    assert_true(info.batch_invariant);
    call.out = f->other;
    test_assert_ok(test_call_run(f->ctx, layer, &call));
    call.out = f->out;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        memset(f->out, 0, n * sizeof *f->out);
        for (size_t first = 0; first < NUM_TOKENS; first += chunks[i]) {
            size_t count = NUM_TOKENS - first < chunks[i] ? NUM_TOKENS - first : chunks[i];
            struct test_call part = fixture_part(f, &call, first, count);
            test_assert_ok(test_call_run(f->ctx, layer, &part));
        }
        test_assert_same(f->out, f->other, n, "the batch in parts");
    }
}

static void test_batch_is_single_calls(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NUM_LAYERS; seed++) {
        struct fixture f;
        fixture_open_random(&f, 99 * seed + 1, NUM_TOKENS);
        size_t n = NUM_TOKENS * f.hidden_size;
        struct test_call call = seed % 2 ? fixture_call(&f) : fixture_call_ids(&f);
        if (f.layer.routing.router != NULL && seed % 4 == 1)
            call.logits = NULL;
        compare_chunks(&f, f.invariant.layer, call, n);
        if (seed % 4 == 0)
            compare_chunks(&f, f.composed.layer, call, n);
        if (seed % 4 == 2)
            compare_chunks(&f, f.exact.layer, call, n);
        fixture_close(&f);
    }
}

/* The tokens of call in a random order: out[i] is that of token order[i]. */
static void run_shuffled(struct fixture *f, const struct test_call *call, const size_t *order)
{
    size_t hidden_size = f->hidden_size, num_experts = f->num_experts;
    struct test_call shuffled = *call;
    float *x = moe_ref_alloc(NUM_TOKENS * hidden_size, sizeof *x);
    float *logits = moe_ref_alloc(NUM_TOKENS * num_experts, sizeof *logits);
    for (size_t t = 0; t < NUM_TOKENS; t++) {
        memcpy(x + t * hidden_size, call->x + order[t] * hidden_size, hidden_size * sizeof *x);
        memcpy(logits + t * num_experts, call->logits + order[t] * num_experts, num_experts * sizeof *logits);
    }
    shuffled.x = x;
    shuffled.logits = logits;
    test_assert_ok(test_call_run(f->ctx, f->fused.layer, &shuffled));
    free(x);
    free(logits);
}

static void test_order_of_tokens(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NUM_LAYERS / 2; seed++) {
        struct fixture f;
        size_t order[NUM_TOKENS];
        fixture_open_random(&f, 55 * seed + 2, NUM_TOKENS);
        struct test_call call = fixture_call(&f);
        call.out = f.other;
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        call.out = f.out;
        for (size_t repeat = 0; repeat < 8; repeat++) {
            for (size_t t = 0; t < NUM_TOKENS; t++) {
                size_t j = test_below(&f.rng, t + 1);
                order[t] = order[j];
                order[j] = t;
            }
            run_shuffled(&f, &call, order);
            for (size_t t = 0; t < NUM_TOKENS; t++)
                test_assert_same(f.out + t * f.hidden_size, f.other + order[t] * f.hidden_size, f.hidden_size,
                                 "a token in another place");
        }
        fixture_close(&f);
    }
}

/* ---- memory ---- */

/* test_call_run fills out and workspace with NaN; here with zeros, large numbers and small integers. */
static void test_dirty_memory(void **state)
{
    (void)state;
    const unsigned char dirt[] = {0x01, 0x7f, 0x3f, 0x80};
    for (uint64_t seed = 0; seed < NUM_LAYERS; seed++) {
        struct fixture f;
        fixture_open_random(&f, 33 * seed + 3, 10);
        const struct moe_layer *layers[] = {f.fused.layer, f.exact.layer, f.composed.layer};
        for (size_t i = 0; i < 3; i++) {
            struct test_call call = fixture_call(&f);
            call.out = f.other;
            test_assert_ok(test_call_run(f.ctx, layers[i], &call));
            call.out = f.out;
            for (size_t j = 0; j < sizeof dirt; j++) {
                call.dirt = dirt[j];
                test_assert_ok(test_call_run(f.ctx, layers[i], &call));
                test_assert_same(f.out, f.other, f.num_tokens * f.hidden_size, "other memory");
            }
        }
        fixture_close(&f);
    }
}

/* ---- skew ---- */

/* All tokens to one expert, then some to each of few: the same bits as alone. */
static void test_all_tokens_to_one_expert(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NUM_LAYERS / 2; seed++) {
        struct fixture f;
        fixture_open_random(&f, 21 * seed + 4, NUM_TOKENS);
        struct test_call call = fixture_call_ids(&f);
        for (size_t i = 0; i < NUM_TOKENS * f.top_k; i++)
            f.ids[i] = (int64_t)(seed % f.num_experts);
        test_assert_most(fixture_compare(&f, f.exact.layer, &call), 1, "error over its bound");
        test_assert_most(fixture_compare(&f, f.fused.layer, &call), 1, "error over its bound, by default");
        compare_chunks(&f, f.invariant.layer, call, NUM_TOKENS * f.hidden_size);
        fixture_close(&f);
    }
}

/* ---- halves ---- */

/* route gives what forward uses, and combine of the pairs gives forward without the shared expert, bit for bit. */
static void compare_halves(struct fixture *f, const struct moe_layer *layer)
{
    size_t pairs = f->num_tokens * f->top_k, n = f->num_tokens * f->hidden_size;
    float *pair_out = moe_ref_alloc(pairs * f->expert_width, sizeof *pair_out);
    float *weights = moe_ref_alloc(pairs, sizeof *weights);
    int32_t *ids = moe_ref_alloc(pairs, sizeof *ids);
    int64_t *wide = moe_ref_alloc(pairs, sizeof *wide);
    struct test_call forward = fixture_call(f), route = fixture_call(f), combine = {0};
    forward.out_ids = f->out_ids;
    forward.out_weights = f->out_weights;
    test_assert_ok(test_call_run(f->ctx, layer, &forward));
    route.entry = TEST_ROUTE;
    route.out = NULL;
    route.out_ids = ids;
    route.out_weights = weights;
    test_assert_ok(test_call_run(f->ctx, layer, &route));
    test_assert_same(ids, f->out_ids, pairs, "ids of route and forward");
    test_assert_same(weights, f->out_weights, pairs, "weights of route and forward");

    forward.flags = MOE_OUT_PAIRS;
    forward.out = pair_out;
    test_assert_ok(test_call_run(f->ctx, layer, &forward));
    for (size_t i = 0; i < pairs; i++)
        wide[i] = ids[i];
    combine = (struct test_call){.entry = TEST_COMBINE, .num_tokens = f->num_tokens, .x = pair_out, .ids = wide,
                                 .weights = weights, .out = f->other};
    test_assert_ok(test_call_run(f->ctx, layer, &combine));
    if (f->layer.params.shared == NULL)
        test_assert_same(f->other, f->out, n, "forward and its halves");
    free(pair_out);
    free(weights);
    free(ids);
    free(wide);
}

static void test_halves(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 2 * NUM_LAYERS; seed++) {
        struct fixture f;
        fixture_open_random(&f, 11 * seed + 5, 13);
        compare_halves(&f, f.fused.layer);
        compare_halves(&f, f.exact.layer);
        compare_halves(&f, f.composed.layer);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_and_drivers),  cmocka_unit_test(test_threads_of_large_layer),
        cmocka_unit_test(test_batch_is_single_calls), cmocka_unit_test(test_order_of_tokens),
        cmocka_unit_test(test_dirty_memory),         cmocka_unit_test(test_all_tokens_to_one_expert),
        cmocka_unit_test(test_halves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
