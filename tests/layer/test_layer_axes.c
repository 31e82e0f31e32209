// SPDX-License-Identifier: MIT
// Random mixes of the axes around the experts (latent and zero experts, scales, bias and norm of the sum, a shared
// expert with its own activation): within the bounds of the definition, whatever a call brings; the same bits for any
// threads and batch; halves; padding; workspace.
#include "layer_fixture.h"

enum { NUM_LAYERS = 60, NUM_TOKENS = 9 };

static void open_axes(struct fixture *f, uint64_t seed, size_t num_tokens)
{
    struct test_rng rng = {seed};
    struct test_layer_spec spec;
    test_spec_random(&spec, &rng);
    spec.hidden_size = spec.num_zero_experts = 0;
    test_spec_axes(&spec, &rng);
    fixture_open(f, &spec, seed + 1, num_tokens);
}

/* All within their bounds; f->other has the default layer's values, f->out the composed one's. */
static void compare_all(struct fixture *f, struct test_call call, uint64_t seed, const char *what)
{
    static const char *const ways[] = {"exact", "by default", "composed"};
    const struct moe_layer *layers[] = {f->exact.layer, f->fused.layer, f->composed.layer};
    for (size_t i = 0; i < 3; i++) {
        call.out = i < 2 ? f->other : f->out;
        double found = fixture_compare(f, layers[i], &call);
        if (!(found <= 1))
            fail_msg("seed %llu, %s, %s: error is %g times its bound", (unsigned long long)seed, what, ways[i], found);
    }
}

static int32_t *random_map(struct fixture *f)
{
    int32_t *map = moe_ref_alloc(f->num_experts, sizeof *map);
    for (size_t e = 0; e < f->num_experts; e++)
        map[e] = (int32_t)test_below(&f->rng, f->layer.experts.params.num_experts + 2) - 1;
    return map;
}

static void test_calls(void **state)
{
    (void)state;
    size_t latent = 0, zero = 0, normed = 0;
    for (uint64_t seed = 0; seed < 2 * NUM_LAYERS; seed++) {
        struct fixture f;
        open_axes(&f, 7919 * seed, NUM_TOKENS);
        size_t n = NUM_TOKENS * f.hidden_size;
        int32_t *map = random_map(&f);
        float *start = moe_ref_alloc(n, sizeof *start);
        test_fill(&f.rng, start, n, 1);
        latent += f.layer.params.latent_norm != NULL;
        zero += f.layer.params.num_zero_experts > 0;
        normed += f.layer.params.out_norm != NULL;
        struct test_call call = fixture_call(&f);
        if (f.layer.routing.router != NULL && seed % 2 == 0)
            call.logits = NULL;
        compare_all(&f, call, seed, "routed");
        for (size_t i = 0; i < NUM_TOKENS * f.top_k; i += 4)
            f.ids[i] = -1;
        call = fixture_call_ids(&f);
        compare_all(&f, call, seed, "by ids");
        call.expert_map = map;
        compare_all(&f, call, seed, "with a map");
        call.flags = MOE_ACCUMULATE;
        call.start = start;
        compare_all(&f, call, seed, "added");
        call.expert_map = seed % 2 ? map : NULL;
        call.flags = MOE_OUT_PAIRS;
        call.start = NULL;
        compare_all(&f, call, seed, "pairs");
        call = fixture_call_ids(&f);
        call.top_k = 1 + test_below(&f.rng, f.num_experts);
        call.x_format = call.out_format = MOE_FORMAT_BF16;
        test_round(f.x, NUM_TOKENS * f.hidden_size, MOE_FORMAT_BF16);
        compare_all(&f, call, seed, "another top_k");
        free(start);
        free(map);
        fixture_close(&f);
    }
    print_message("%zu with a latent norm, %zu with zero experts, %zu with a norm of out\n", latent, zero, normed);
    assert_true(latent >= 10 && zero >= 10 && normed >= 10);
}

/* Combine of the pairs that a forward gave: the forward without its shared expert. */
static void test_halves(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NUM_LAYERS; seed++) {
        struct fixture f;
        open_axes(&f, 104729 * seed + 1, NUM_TOKENS);
        size_t num_pairs = NUM_TOKENS * f.top_k, n = NUM_TOKENS * f.hidden_size;
        float *pairs = moe_ref_alloc(num_pairs * f.expert_width, sizeof *pairs);
        float *start = moe_ref_alloc(n, sizeof *start);
        test_fill(&f.rng, start, n, 1);
        f.ids[0] = -1;
        struct test_call call = fixture_call_ids(&f);
        call.flags = MOE_OUT_PAIRS;
        call.out = pairs;
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        struct test_call combine = {.entry = TEST_COMBINE, .num_tokens = NUM_TOKENS, .x = pairs, .ids = f.ids,
                                    .weights = f.weights, .out = f.out};
        compare_all(&f, combine, seed, "combine");
        if (f.layer.params.shared == NULL) {
            call.flags = 0;
            call.out = f.out;
            test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
            test_assert_same(f.out, f.other, n, "forward and its halves");
        }
        combine.flags = MOE_ACCUMULATE;
        combine.start = start;
        compare_all(&f, combine, seed, "combine that adds");
        free(start);
        free(pairs);
        fixture_close(&f);
    }
}

/* ---- bits ---- */

static void expect_same(struct fixture *f, struct moe_context *ctx, const struct moe_layer *layer,
                        const struct test_call *call, size_t n, const char *what)
{
    test_assert_ok(test_call_run(ctx, layer, call));
    test_assert_same(f->out, f->other, n, what);
}

static void compare_threads(struct fixture *f, struct test_call call, size_t n)
{
    call.out = f->other;
    test_assert_ok(test_call_run(f->ctx, f->fused.layer, &call));
    call.out = f->out;
    for (size_t threads = 1; threads <= 8; threads++) {
        struct moe_context *ctx = test_context(f->backend, threads);
        expect_same(f, ctx, f->fused.layer, &call, n, "another number of threads");
        if (call.entry == TEST_FORWARD) {
            struct test_call team = call;
            team.entry = TEST_TEAM;
            team.team = threads;
            expect_same(f, ctx, f->fused.layer, &team, n, "a team");
        }
        moe_context_destroy(ctx);
    }
}

/* Token by token, against the whole batch that is in f->other. */
static void compare_tokens(struct fixture *f, const struct moe_layer *layer, struct test_call call)
{
    for (size_t t = 0; t < f->num_tokens; t++) {
        struct test_call one = call;
        one.num_tokens = 1;
        one.x += t * (call.entry == TEST_COMBINE ? f->top_k * f->expert_width : f->hidden_size);
        one.ids += t * f->top_k;
        one.weights += t * f->top_k;
        one.out = f->out + t * f->hidden_size;
        test_assert_ok(test_call_run(f->ctx, layer, &one));
    }
    test_assert_same(f->out, f->other, f->num_tokens * f->hidden_size, "token by token");
}

/* Tokens from live on are padding: zeros, or left as they are; the others have the bits of a call without padding. */
static void compare_padding(struct fixture *f, const struct moe_layer *layer, struct test_call call)
{
    int32_t live = (int32_t)test_below(&f->rng, f->num_tokens + 1);
    size_t n = f->num_tokens * f->hidden_size, first = (size_t)live * f->hidden_size;
    call.live_tokens = &live;
    call.out = f->out;
    test_assert_ok(test_call_run(f->ctx, layer, &call));
    if (live > 0)
        test_assert_same(f->out, f->other, first, "live tokens");
    for (size_t i = first; i < n; i++)
        assert_true(f->out[i] == (call.flags & MOE_ACCUMULATE ? call.start[i] : 0));
}

static void compare_bits(struct fixture *f, struct test_call call)
{
    size_t n = f->num_tokens * f->hidden_size;
    float *start = moe_ref_alloc(n, sizeof *start);
    test_fill(&f->rng, start, n, 1);
    compare_threads(f, call, n);
    compare_padding(f, f->fused.layer, call);
    call.out = f->other;
    test_assert_ok(test_call_run(f->ctx, f->invariant.layer, &call));
    compare_tokens(f, f->invariant.layer, call);
    call.flags = MOE_ACCUMULATE;
    call.start = start;
    call.out = f->other;
    test_assert_ok(test_call_run(f->ctx, f->fused.layer, &call));
    compare_padding(f, f->fused.layer, call);
    call.flags = 0;
    call.start = NULL;
    call.out = f->other;
    test_assert_ok(test_call_run(f->ctx, f->composed.layer, &call));
    compare_tokens(f, f->composed.layer, call);
    compare_padding(f, f->composed.layer, call);
    free(start);
}

static void test_bits(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NUM_LAYERS / 3; seed++) {
        struct fixture f;
        open_axes(&f, 1299709 * seed + 2, 5 + seed);
        for (size_t i = 0; i < f.num_tokens * f.top_k; i += 5)
            f.ids[i] = -1;
        compare_bits(&f, fixture_call_ids(&f));
        fixture_close(&f);
    }
}

/* Projections wide enough for many items, and more tokens than a kernel takes at once. */
static void test_bits_of_large_layers(void **state)
{
    (void)state;
    for (size_t way = 0; way < 3; way++) {
        struct test_layer_spec spec = {.top_k = 3, .shared_size = 96, .latent_norm = true, .routed_scale = 2.5f,
                                       .out_scale = 0.5f, .out_bias = way != 1, .out_norm = way != 2,
                                       .norm_eps = 1e-6f};
        spec.experts = (struct test_experts_spec){.num_experts = 8, .hidden_size = 160, .intermediate_size = 64,
                                                  .gate = MOE_FORMAT_BF16, .up = MOE_FORMAT_Q8_0,
                                                  .down = MOE_FORMAT_BF16};
        spec.hidden_size = way == 0 ? 0 : 352;
        spec.num_zero_experts = way == 0 ? 3 : 0;
        spec.latent_format = way == 1 ? MOE_FORMAT_Q8_0 : MOE_FORMAT_BF16;
        struct fixture f;
        fixture_open(&f, &spec, 5 + way, 150);
        compare_all(&f, fixture_call(&f), way, "a large layer");
        compare_bits(&f, fixture_call_ids(&f));
        struct test_call combine = fixture_call_ids(&f);
        float *pairs = moe_ref_alloc(150 * f.top_k * f.expert_width, sizeof *pairs);
        test_fill(&f.rng, pairs, 150 * f.top_k * f.expert_width, 1);
        combine.entry = TEST_COMBINE;
        combine.x = pairs;
        compare_bits(&f, combine);
        free(pairs);
        fixture_close(&f);
    }
}

/* ---- workspace and info ---- */

/* Never falls as tokens or top_k grow. */
static void test_workspace(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NUM_LAYERS; seed++) {
        struct fixture f;
        open_axes(&f, 15485863 * seed + 3, 1);
        const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
        for (size_t i = 0; i < 2; i++) {
            for (size_t top_k = 1; top_k <= f.num_experts; top_k++) {
                size_t before = 0;
                for (size_t num_tokens = 0; num_tokens < 200; num_tokens += 1 + num_tokens / 4) {
                    struct moe_layer_io io;
                    size_t bytes, fewer = 0;
                    MOE_INIT(&io);
                    io.num_tokens = num_tokens;
                    io.top_k = top_k;
                    io.flags = seed % 2 ? MOE_OUT_PAIRS : 0;
                    test_assert_ok(moe_layer_workspace_size(f.ctx, layers[i], &io, &bytes));
                    assert_true(bytes >= before);
                    before = bytes;
                    io.top_k = top_k > 1 ? top_k - 1 : 1;
                    test_assert_ok(moe_layer_workspace_size(f.ctx, layers[i], &io, &fewer));
                    assert_true(bytes >= fewer);
                }
            }
        }
        fixture_close(&f);
    }
}

/* What a forward of pairs asks for does for the combine of them, also where that has far wider rows to keep. */
static void test_workspace_of_pairs(void **state)
{
    (void)state;
    struct test_layer_spec spec = {.top_k = 1, .hidden_size = 640, .out_norm = true, .norm_eps = 1e-6f};
    spec.experts = (struct test_experts_spec){.num_experts = 2, .hidden_size = 8, .intermediate_size = 4};
    struct fixture f;
    fixture_open(&f, &spec, 1, NUM_TOKENS);
    const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
    for (size_t i = 0; i < 2; i++) {
        struct moe_layer_io io;
        size_t bytes, n = NUM_TOKENS * f.hidden_size;
        MOE_INIT(&io);
        io.num_tokens = NUM_TOKENS;
        io.flags = MOE_OUT_PAIRS;
        test_assert_ok(moe_layer_workspace_size(f.ctx, layers[i], &io, &bytes));
        void *workspace = test_alloc(bytes);
        io.flags = 0;
        io.ids = test_view(f.ids, NUM_TOKENS * sizeof *f.ids, 0, MOE_FORMAT_I64);
        io.weights = test_view(f.weights, NUM_TOKENS * sizeof *f.weights, 0, MOE_FORMAT_F32);
        io.x = test_view(f.x, NUM_TOKENS * f.expert_width * sizeof *f.x, 0, MOE_FORMAT_F32);
        io.out = test_view(f.out, n * sizeof *f.out, 0, MOE_FORMAT_F32);
        io.workspace = test_view(workspace, bytes, 0, MOE_FORMAT_F32);
        test_assert_ok(moe_layer_combine(f.ctx, layers[i], &io));
        test_release(workspace);
    }
    fixture_close(&f);
}

static void test_info(void **state)
{
    (void)state;
    struct test_layer_spec spec = {.top_k = 2, .hidden_size = 48};
    spec.experts = (struct test_experts_spec){.num_experts = 4, .hidden_size = 20, .intermediate_size = 24};
    for (size_t way = 0; way < 2; way++) {
        struct fixture f;
        fixture_open(&f, &spec, way, 1);
        const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
        for (size_t i = 0; i < 2; i++) {
            struct moe_layer_info info = {.struct_size = sizeof info};
            test_assert_ok(moe_layer_info(layers[i], &info));
            assert_int_equal(info.hidden_size, way == 0 ? 48 : 20);
            assert_int_equal(info.expert_width, 20);
            assert_int_equal(info.intermediate_size, 24);
            assert_int_equal(info.num_experts, way == 0 ? 4 : 7);
            assert_int_equal(info.num_zero_experts, way == 0 ? 0 : 3);
            assert_true(info.batch_invariant && info.exact && !info.needs_token_ids);    /* f32 weights */
        }
        fixture_close(&f);
        spec.hidden_size = 0;
        spec.num_zero_experts = 3;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls), cmocka_unit_test(test_halves),    cmocka_unit_test(test_bits),
        cmocka_unit_test(test_bits_of_large_layers), cmocka_unit_test(test_workspace),
        cmocka_unit_test(test_workspace_of_pairs), cmocka_unit_test(test_info),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
