// SPDX-License-Identifier: MIT
// Mistakes in the axes around the experts: each gives its status and a sentence that names the axis and what was found,
// and no layer; calls whose views do not fit the widths of latent experts are refused before anything is written.
#include "layer_fixture.h"

enum { HIDDEN = 48, WIDTH = 20, EXPERTS = 4 };

static const struct test_layer_spec latent_spec = {
    .experts = {.num_experts = EXPERTS, .hidden_size = WIDTH, .intermediate_size = 24, .gate = MOE_FORMAT_BF16,
                .up = MOE_FORMAT_BF16, .down = MOE_FORMAT_BF16},
    .top_k = 2, .hidden_size = HIDDEN, .latent_bias = true, .latent_norm = true, .out_norm = true, .out_bias = true,
    .norm_eps = 1e-6f, .shared_size = 16};

/* A layer that can be made, to spoil one thing at a time. */
struct mistakes {
    struct test_layer layer;
    struct moe_backend *backend, *other_backend;
    struct moe_experts *experts, *shared, *latent;
    struct moe_layer_params params;
    struct moe_shared with_experts;
    struct moe_norm norm;
};

static struct moe_experts *make(struct moe_backend *backend, const struct moe_experts_params *params)
{
    struct moe_experts *experts = NULL;
    test_assert_ok(moe_experts_create(backend, params, &experts, NULL));
    return experts;
}

static void restore(struct mistakes *m)
{
    m->params = m->layer.params;
    m->with_experts = m->layer.shared;
    m->with_experts.experts = m->shared;
    m->params.shared = &m->with_experts;
    m->params.experts = m->experts;
    m->params.latent = m->latent;
    m->norm = m->layer.out_norm;
}

static void open_mistakes(struct mistakes *m)
{
    struct test_rng rng = {1};
    memset(m, 0, sizeof *m);
    m->backend = test_backend("cpu");
    m->other_backend = test_backend("cpu");
    test_layer_init(&m->layer, &rng, &latent_spec);
    m->experts = make(m->backend, m->layer.block.experts);
    m->shared = make(m->backend, m->layer.block.shared);
    m->latent = make(m->backend, m->layer.block.latent);
    restore(m);
}

static void close_mistakes(struct mistakes *m)
{
    moe_experts_destroy(m->experts);
    moe_experts_destroy(m->shared);
    moe_experts_destroy(m->latent);
    test_layer_free(&m->layer);
    moe_backend_close(m->backend);
    moe_backend_close(m->other_backend);
}

/* Refused, fused and composed, with words that the sentence must have; then the params are good again. */
static void expect(struct mistakes *m, enum moe_status status, const char *words, const char *more)
{
    for (uint32_t flags = 0; flags <= MOE_LAYER_FORCE_COMPOSED; flags += MOE_LAYER_FORCE_COMPOSED) {
        struct moe_error error = {0};
        int mark;
        struct moe_layer *layer = (struct moe_layer *)(void *)&mark;
        m->params.flags = flags;
        enum moe_status found = moe_layer_create(m->backend, &m->params, &layer, &error);
        if (found == MOE_OK)
            fail_msg("created in spite of a mistake in '%s'", words);
        test_assert_status(found, status);
        test_assert_status(error.status, status);
        assert_null(layer);
        if (strstr(error.text, words) == NULL || strstr(error.text, more) == NULL)
            fail_msg("'%s' has not '%s' and '%s'", error.text, words, more);
        test_assert_status(moe_layer_create(m->backend, &m->params, &layer, NULL), status);
    }
    restore(m);
}

static void test_good(void **state)
{
    (void)state;
    struct mistakes m;
    struct moe_layer *layer = NULL;
    open_mistakes(&m);
    test_assert_ok(moe_layer_create(m.backend, &m.params, &layer, NULL));
    moe_layer_destroy(layer);
    close_mistakes(&m);
}

static void test_scalars(void **state)
{
    (void)state;
    struct mistakes m;
    open_mistakes(&m);
    m.params.routed_scale = NAN;
    expect(&m, MOE_ERR_ARGUMENT, "routed_scale", "nan");
    m.params.out_scale = INFINITY;
    expect(&m, MOE_ERR_ARGUMENT, "out_scale", "inf");
    m.params.num_zero_experts = 1;
    expect(&m, MOE_ERR_UNSUPPORTED, "num_zero_experts", "latent");
    m.params.num_zero_experts = MOE_MAX_EXPERTS;
    expect(&m, MOE_ERR_UNSUPPORTED, "4100 experts", "4096");
    m.params.num_zero_experts = SIZE_MAX;
    expect(&m, MOE_ERR_UNSUPPORTED, "num_zero_experts", "4096");
    m.params.num_zero_experts = 3;
    m.params.num_experts = 3;
    expect(&m, MOE_ERR_ARGUMENT, "num_zero_experts is 3", "of 3 experts");
    close_mistakes(&m);
}

static void test_vectors(void **state)
{
    (void)state;
    struct mistakes m;
    open_mistakes(&m);
    m.params.out_bias.size--;
    expect(&m, MOE_ERR_ARGUMENT, "out_bias", "48");
    m.params.out_bias.format = MOE_FORMAT_I32;
    expect(&m, MOE_ERR_UNSUPPORTED, "out_bias", "f32");
    m.params.out_bias.offset = SIZE_MAX;
    expect(&m, MOE_ERR_ARGUMENT, "out_bias", "48");
    for (size_t way = 0; way < 2; way++) {
        const struct moe_norm **norm = way == 0 ? &m.params.out_norm : &m.params.latent_norm;
        const char *name = way == 0 ? "out_norm" : "latent_norm";
        *norm = &m.norm;
        m.norm.struct_size = 0;
        expect(&m, MOE_ERR_ARGUMENT, name, "struct_size");
        *norm = &m.norm;
        m.norm.eps = -1;
        expect(&m, MOE_ERR_ARGUMENT, name, "-1");
        *norm = &m.norm;
        m.norm.eps = NAN;
        expect(&m, MOE_ERR_ARGUMENT, name, "nan");
        *norm = &m.norm;
        m.norm.scale.size = WIDTH * sizeof(float) - 1;
        expect(&m, MOE_ERR_ARGUMENT, name, way == 0 ? "48" : "20");
        *norm = &m.norm;
        m.norm.scale.format = MOE_FORMAT_Q8_0;
        expect(&m, MOE_ERR_UNSUPPORTED, name, "f32");
    }
    close_mistakes(&m);
}

static void test_latent(void **state)
{
    (void)state;
    struct mistakes m;
    struct test_rng rng = {2};
    open_mistakes(&m);
    m.params.latent = NULL;     /* then the layer is as wide as its experts */
    expect(&m, MOE_ERR_ARGUMENT, "shared expert", "20");
    m.params.latent = NULL;
    m.params.shared = NULL;
    m.params.out_norm = NULL;
    expect(&m, MOE_ERR_ARGUMENT, "latent_norm", "without latent");
    struct moe_experts *foreign = make(m.other_backend, m.layer.block.latent);
    m.params.latent = foreign;
    expect(&m, MOE_ERR_ARGUMENT, "latent", "another backend");
    moe_experts_destroy(foreign);
    const struct test_experts_spec wrong[] = {
        {.num_experts = 2, .hidden_size = HIDDEN, .intermediate_size = WIDTH, .no_gate = true},
        {.num_experts = 1, .hidden_size = HIDDEN, .intermediate_size = WIDTH},
        {.num_experts = 1, .hidden_size = HIDDEN, .intermediate_size = WIDTH + 1, .no_gate = true},
        {.num_experts = 1, .hidden_size = WIDTH, .intermediate_size = HIDDEN, .no_gate = true},
        {.num_experts = 1, .hidden_size = HIDDEN + 1, .intermediate_size = WIDTH, .no_gate = true}};
    const char *words[] = {"1 expert without a gate", "with a gate", "21 rows", "48 rows", "the shared expert must be"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct test_experts experts;
        test_experts_init(&experts, &rng, &wrong[i]);
        struct moe_experts *latent = make(m.backend, &experts.params);
        m.params.latent = latent;
        expect(&m, MOE_ERR_ARGUMENT, words[i], i < 2 ? "gate" : i < 4 ? "20" : "49");
        moe_experts_destroy(latent);
        test_experts_free(&experts);
    }
    close_mistakes(&m);
}

static void test_activation(void **state)
{
    (void)state;
    const float wrong[] = {0, -1, NAN, INFINITY};
    struct mistakes m;
    open_mistakes(&m);
    for (size_t i = 0; i < 7; i++) {
        struct moe_experts_params params = m.layer.experts.params;
        struct moe_act act = {.struct_size = sizeof act, .kind = MOE_ACT_SITU, .beta = 4};
        struct moe_error error = {0};
        struct moe_experts *experts = NULL;
        if (i < 4)
            act.beta = wrong[i];
        else
            act.beta_up = wrong[i - 3];
        params.act = &act;
        test_assert_status(moe_experts_create(m.backend, &params, &experts, &error), MOE_ERR_ARGUMENT);
        assert_non_null(strstr(error.text, "beta"));
        assert_null(experts);
    }
    close_mistakes(&m);
}

/* ---- calls ---- */

/* A view a value shorter than a latent layer needs. */
static void test_views(void **state)
{
    (void)state;
    enum { TOKENS = 3, PAIRS = TOKENS * 2 };
    struct fixture f;
    fixture_open(&f, &latent_spec, 3, TOKENS);
    const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
    float *x = moe_ref_alloc(PAIRS * HIDDEN, sizeof *x), *out = moe_ref_alloc(PAIRS * HIDDEN, sizeof *out);
    for (size_t i = 0; i < 2; i++) {
        for (size_t way = 0; way < 6; way++) {   /* forward, pairs, combine; short x, short out */
            bool pairs = way / 2 == 1, combine = way / 2 == 2;
            size_t in = combine ? PAIRS * WIDTH : TOKENS * HIDDEN, gives = pairs ? PAIRS * WIDTH : TOKENS * HIDDEN;
            size_t bytes;
            struct moe_layer_io io;
            MOE_INIT(&io);
            io.num_tokens = TOKENS;
            io.flags = pairs ? MOE_OUT_PAIRS : 0;
            io.ids = test_view(f.ids, PAIRS * sizeof *f.ids, 0, MOE_FORMAT_I64);
            io.weights = test_view(f.weights, PAIRS * sizeof *f.weights, 0, MOE_FORMAT_F32);
            io.x = test_view(x, in * sizeof *x, 0, MOE_FORMAT_F32);
            io.out = test_view(out, gives * sizeof *out, 0, MOE_FORMAT_F32);
            test_assert_ok(moe_layer_workspace_size(f.ctx, layers[i], &io, &bytes));
            void *workspace = test_alloc(bytes);
            io.workspace = test_view(workspace, bytes, 0, MOE_FORMAT_F32);
            test_assert_ok(combine ? moe_layer_combine(f.ctx, layers[i], &io)
                                   : moe_layer_forward(f.ctx, layers[i], &io));
            struct moe_view *spoiled = way % 2 ? &io.out : &io.x;
            spoiled->size--;
            memset(out, 0xff, PAIRS * HIDDEN * sizeof *out);
            test_assert_status(combine ? moe_layer_combine(f.ctx, layers[i], &io)
                                       : moe_layer_forward(f.ctx, layers[i], &io), MOE_ERR_ARGUMENT);
            for (size_t v = 0; v < PAIRS * HIDDEN; v++)
                assert_true(isnan(out[v]));
            test_release(workspace);
        }
    }
    free(x);
    free(out);
    fixture_close(&f);
}

/* Ids of zero experts are in range under MOE_STRICT, count as experts, and are skipped only where a map says so. */
static void test_counts_of_zero_experts(void **state)
{
    (void)state;
    struct test_layer_spec spec = {.top_k = 2, .num_zero_experts = 2, .experts = latent_spec.experts};
    const int64_t ids[] = {0, 4, 5, 5, 6, 1};
    const int32_t map[] = {0, 1, 2, 3, -1, 9};
    struct fixture f;
    fixture_open(&f, &spec, 4, 3);
    const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
    memcpy(f.ids, ids, sizeof ids);
    for (size_t way = 0; way < 4; way++) {
        const struct moe_layer *layer = layers[way % 2];
        int64_t counts[6] = {0};
        struct moe_stats stats;
        struct test_call call = fixture_call_ids(&f);
        call.counts = counts;
        call.expert_map = way / 2 ? map : NULL;
        test_assert_ok(test_call_run(f.ctx, layer, &call));
        MOE_INIT(&stats);
        test_assert_ok(moe_context_stats(f.ctx, &stats, true));
        assert_int_equal(stats.skipped_pairs, way / 2 ? 2 : 1);
        const int64_t expected[] = {1, 1, 0, 0, 1, 2};
        test_assert_same(counts, expected, 6, "counts");
        call.counts = NULL;
        call.flags = MOE_STRICT;
        test_assert_status(test_call_run(f.ctx, layer, &call), MOE_ERR_RANGE);
        call.num_tokens = 2;
        test_assert_ok(test_call_run(f.ctx, layer, &call));
        test_assert_ok(moe_context_stats(f.ctx, &stats, true));
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),       cmocka_unit_test(test_scalars), cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_latent),     cmocka_unit_test(test_activation), cmocka_unit_test(test_views),
        cmocka_unit_test(test_counts_of_zero_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
