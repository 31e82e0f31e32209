// SPDX-License-Identifier: MIT
// Creation of experts and layers: every mistake in the params gives its status and a sentence, and no object; copies,
// home memory and updates of weights; what a layer says of itself.
#include "layer_fixture.h"

static const struct test_experts_spec base_experts = {
    .num_experts = 4, .hidden_size = 32, .intermediate_size = 64, .gate = MOE_FORMAT_Q8_0, .up = MOE_FORMAT_Q8_0,
    .down = MOE_FORMAT_BF16, .bias = true};

static void check_sentence(const struct moe_error *error, enum moe_status status)
{
    size_t length = strnlen(error->text, sizeof error->text);
    assert_in_range(length, 8, sizeof error->text - 1);
    test_assert_status(error->status, status);
}

static void expect_experts(struct moe_backend *backend, const struct moe_experts_params *params,
                           enum moe_status expected)
{
    struct moe_error error = {0};
    int mark;
    struct moe_experts *experts = (struct moe_experts *)(void *)&mark;
    test_assert_status(moe_experts_create(backend, params, &experts, &error), expected);
    assert_null(experts);
    check_sentence(&error, expected);
    test_assert_status(moe_experts_create(backend, params, &experts, NULL), expected);
    size_t bytes;
    test_assert_status(moe_experts_packed_size(backend, params, &bytes, &error), expected);
}

/* One matrix wrong in every way; up and down likewise. */
static void check_matrix(struct moe_backend *backend, const struct moe_experts_params *params, struct moe_matrix *m)
{
    const struct moe_matrix good = *m;
    m->struct_size = 0;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->data.base = NULL;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->data.size--;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->data.stride = 16;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    m->data.stride = SIZE_MAX / 2;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->expert_stride = good.data.size;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    m->expert_stride = SIZE_MAX;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->data.offset = SIZE_MAX;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->data.format = MOE_FORMAT_I32;
    expect_experts(backend, params, MOE_ERR_UNSUPPORTED);
    m->data.format = (enum moe_format)999;
    expect_experts(backend, params, MOE_ERR_UNSUPPORTED);
    m->data.format = MOE_FORMAT_Q4_K;   /* no row here is 256 long */
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->data.format = MOE_FORMAT_Q8_0;
    m->transposed = true;
    expect_experts(backend, params, MOE_ERR_UNSUPPORTED);
    *m = good;
    m->bias.size--;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->bias.format = MOE_FORMAT_Q8_0;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    m->bias_element_stride = 5;   /* then the last one lies outside */
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
    void *bases[4] = {m->data.base, m->data.base, NULL, m->data.base};
    m->bases = bases;
    expect_experts(backend, params, MOE_ERR_ARGUMENT);
    *m = good;
}

static void test_experts(void **state)
{
    (void)state;
    struct moe_backend *backend = test_backend("cpu");
    struct test_rng rng = {1};
    struct test_experts experts;
    test_experts_init(&experts, &rng, &base_experts);
    check_matrix(backend, &experts.params, &experts.gate);
    check_matrix(backend, &experts.params, &experts.up);
    check_matrix(backend, &experts.params, &experts.down);
    const size_t wrong[] = {0, SIZE_MAX, (size_t)1 << 40, SIZE_MAX / 32 * 32, 96};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct moe_experts_params params = experts.params;
        params.num_experts = wrong[i];
        expect_experts(backend, &params, MOE_ERR_ARGUMENT);
        params = experts.params;
        params.hidden_size = wrong[i];
        expect_experts(backend, &params, MOE_ERR_ARGUMENT);
        params = experts.params;
        params.intermediate_size = wrong[i];
        expect_experts(backend, &params, MOE_ERR_ARGUMENT);
    }
    struct moe_experts_params params = experts.params;
    params.up = NULL;
    expect_experts(backend, &params, MOE_ERR_ARGUMENT);
    params = experts.params;
    params.down = NULL;
    expect_experts(backend, &params, MOE_ERR_ARGUMENT);
    params = experts.params;
    params.struct_size = 3;
    expect_experts(backend, &params, MOE_ERR_ARGUMENT);
    params = experts.params;
    params.location = (enum moe_location)7;
    expect_experts(backend, &params, MOE_ERR_ARGUMENT);
    expect_experts(backend, NULL, MOE_ERR_ARGUMENT);
    test_experts_free(&experts);
    moe_backend_close(backend);
}

static void test_activations(void **state)
{
    (void)state;
    struct moe_backend *backend = test_backend("cpu");
    struct test_rng rng = {1};
    struct test_experts experts;
    test_experts_init(&experts, &rng, &base_experts);
    struct moe_act act;
    MOE_INIT(&act);
    experts.params.act = &act;
    act.kind = (enum moe_act_kind)6;
    expect_experts(backend, &experts.params, MOE_ERR_UNSUPPORTED);
    act.kind = MOE_ACT_SWISH;
    act.clamp = (enum moe_clamp)3;
    expect_experts(backend, &experts.params, MOE_ERR_UNSUPPORTED);
    act.clamp = MOE_CLAMP_BEFORE;
    const float limits[] = {0, -1, NAN};
    for (size_t i = 0; i < 3; i++) {
        act.limit = limits[i];
        expect_experts(backend, &experts.params, MOE_ERR_ARGUMENT);
    }
    act.limit = 7;
    act.alpha = INFINITY;
    expect_experts(backend, &experts.params, MOE_ERR_ARGUMENT);
    test_experts_free(&experts);
    moe_backend_close(backend);
}

/* ---- layers ---- */

struct layer_case {
    struct moe_backend *backend;
    struct test_layer layer;
    struct test_handle handle;
    struct moe_layer_params params;
    struct moe_routing routing;
    struct moe_shared shared;
};

static void open_case(struct layer_case *c)
{
    struct test_rng rng = {2};
    struct test_layer_spec spec = {.experts = base_experts, .top_k = 2, .router = true, .router_bias = true,
                                   .selection_bias = true, .shared_size = 32, .shared_gate = true};
    c->backend = test_backend("cpu");
    test_layer_init(&c->layer, &rng, &spec);
    test_handle_open(&c->handle, c->backend, &c->layer, 0);
}

/* Back to params that are right. */
static void reset_case(struct layer_case *c)
{
    c->params = c->layer.params;
    c->routing = c->layer.routing;
    c->shared = c->layer.shared;
    c->params.experts = c->handle.experts;
    c->params.routing = &c->routing;
    c->params.shared = &c->shared;
    c->shared.experts = c->handle.shared;
}

static void close_case(struct layer_case *c)
{
    test_handle_close(&c->handle);
    test_layer_free(&c->layer);
    moe_backend_close(c->backend);
}

static void expect_layer(struct layer_case *c, enum moe_status expected)
{
    struct moe_error error = {0};
    int mark;
    struct moe_layer *layer = (struct moe_layer *)(void *)&mark;
    test_assert_status(moe_layer_create(c->backend, &c->params, &layer, &error), expected);
    assert_null(layer);
    check_sentence(&error, expected);
    test_assert_status(moe_layer_create(c->backend, &c->params, &layer, NULL), expected);
    reset_case(c);
}

static void test_routing_params(void **state)
{
    (void)state;
    struct layer_case c;
    open_case(&c);
    reset_case(&c);
    c.params.top_k = 0;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.params.top_k = 5;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.num_groups = 3;
    c.routing.top_groups = 2;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.num_groups = 2;
    c.routing.top_groups = 0;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.num_groups = 2;
    c.routing.top_groups = 3;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.num_groups = SIZE_MAX;
    c.routing.top_groups = 1;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.weight = (enum moe_score)99;
    expect_layer(&c, MOE_ERR_UNSUPPORTED);
    c.routing.select = MOE_SCORE_SOFTMAX_TOPK;
    expect_layer(&c, MOE_ERR_UNSUPPORTED);
    c.routing.renorm = (enum moe_renorm)99;
    expect_layer(&c, MOE_ERR_UNSUPPORTED);
    c.routing.num_groups = 2;
    c.routing.top_groups = 1;
    c.routing.group_score = (enum moe_group_score)2;
    expect_layer(&c, MOE_ERR_UNSUPPORTED);
    const float eps[] = {-1, NAN, INFINITY};
    for (size_t i = 0; i < 3; i++) {
        c.routing.renorm_eps = eps[i];
        expect_layer(&c, MOE_ERR_ARGUMENT);
    }
    c.routing.scale = NAN;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.struct_size = 0;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.selection_bias.size--;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.routing.selection_bias.format = MOE_FORMAT_Q8_0;
    expect_layer(&c, MOE_ERR_UNSUPPORTED);
    struct moe_matrix router = c.layer.router;
    router.data.size--;
    c.routing.router = &router;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    router = c.layer.router;
    router.data.format = MOE_FORMAT_Q8_0;
    c.routing.router = &router;
    expect_layer(&c, MOE_ERR_UNSUPPORTED);
    router = c.layer.router;
    router.bias.size--;
    c.routing.router = &router;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    close_case(&c);
}

static void test_objects(void **state)
{
    (void)state;
    struct layer_case c;
    open_case(&c);
    struct moe_backend *other = test_backend("cpu");
    struct test_handle foreign;
    test_handle_open(&foreign, other, &c.layer, 0);
    reset_case(&c);
    c.params.experts = NULL;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.params.experts = foreign.experts;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.params.struct_size = 1;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.shared.experts = NULL;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.shared.experts = c.handle.experts;   /* four of them */
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.shared.experts = foreign.shared;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.shared.gate = NULL;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.shared.gate_kind = (enum moe_shared_gate)2;
    expect_layer(&c, MOE_ERR_UNSUPPORTED);
    struct moe_matrix gate = c.layer.shared_gate;
    gate.data.size--;
    c.shared.gate = &gate;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.shared.struct_size = 2;
    expect_layer(&c, MOE_ERR_ARGUMENT);
    c.params.num_experts = SIZE_MAX;
    struct moe_layer *layer = NULL;
    assert_int_not_equal(moe_layer_create(c.backend, &c.params, &layer, NULL), MOE_OK);
    assert_null(layer);
    test_assert_status(moe_layer_create(NULL, &c.params, &layer, NULL), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_create(c.backend, NULL, &layer, NULL), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_create(c.backend, &c.params, NULL, NULL), MOE_ERR_ARGUMENT);
    test_handle_close(&foreign);
    moe_backend_close(other);
    close_case(&c);
}

static void test_info(void **state)
{
    (void)state;
    struct layer_case c;
    struct moe_layer *layer = NULL;
    struct moe_layer_info info = {.struct_size = sizeof info};
    open_case(&c);
    reset_case(&c);
    c.params.flags = MOE_LAYER_EXACT | MOE_LAYER_BATCH_INVARIANT;
    test_assert_ok(moe_layer_create(c.backend, &c.params, &layer, NULL));
    test_assert_ok(moe_layer_info(layer, &info));
    assert_int_equal(info.hidden_size, 32);
    assert_int_equal(info.intermediate_size, 64);
    assert_int_equal(info.num_experts, 4);
    assert_int_equal(info.top_k, 2);
    assert_true(info.has_router && info.exact && info.batch_invariant);
    assert_false(info.composed);
    moe_layer_destroy(layer);
    struct moe_error error;
    c.params.flags |= 1u << 30;
    test_assert_status(moe_layer_create(c.backend, &c.params, &layer, &error), MOE_ERR_ARGUMENT);
    assert_non_null(strstr(error.text, "0x40000000"));
    c.params.flags = MOE_LAYER_EXACT | MOE_LAYER_BATCH_INVARIANT | MOE_LAYER_FORCE_COMPOSED;
    c.routing.router = NULL;
    test_assert_ok(moe_layer_create(c.backend, &c.params, &layer, NULL));
    test_assert_ok(moe_layer_info(layer, &info));
    assert_true(info.composed && !info.has_router && info.exact && info.batch_invariant);
    moe_layer_destroy(layer);
    moe_layer_destroy(NULL);
    moe_experts_destroy(NULL);
    close_case(&c);
}

/* ---- copies ---- */

/* Transposed weights live in memory that the caller gives, or the library's; update copies them again. */
static void check_packed(bool own_memory)
{
    struct test_layer_spec spec = {.top_k = 2};
    spec.experts = base_experts;
    spec.experts.gate = spec.experts.up = spec.experts.down = MOE_FORMAT_F32;
    spec.experts.layout = TEST_TRANSPOSED;
    struct fixture f;
    fixture_open(&f, &spec, 3, 4);
    struct moe_experts_params params = f.layer.experts.params;
    size_t bytes = 0;
    test_assert_ok(moe_experts_packed_size(f.backend, &params, &bytes, NULL));
    assert_true(bytes >= 3 * 4 * 32 * 64 * sizeof(float));
    unsigned char *home = test_alloc(bytes);
    if (own_memory) {
        params.packed = test_view(home, bytes - 1, 0, MOE_FORMAT_F32);
        struct moe_experts *none = NULL;
        test_assert_status(moe_experts_create(f.backend, &params, &none, NULL), MOE_ERR_ARGUMENT);
        params.packed = test_view(home, bytes, 0, MOE_FORMAT_F32);
    }
    struct moe_layer_params layer_params = f.layer.params;
    struct moe_experts *experts = NULL;
    struct moe_layer *layer = NULL;
    test_assert_ok(moe_experts_create(f.backend, &params, &experts, NULL));
    layer_params.experts = experts;
    test_assert_ok(moe_layer_create(f.backend, &layer_params, &layer, NULL));
    struct test_call call = fixture_call(&f);
    test_assert_most(fixture_compare(&f, layer, &call), 1, "error over its bound");
    float *weights = f.layer.experts.up.data.base;
    for (size_t i = 0; i < 4 * 32 * 64; i++)
        weights[i] *= -0.5f;
    test_assert_ok(moe_experts_update(f.ctx, experts));
    test_assert_most(fixture_compare(&f, layer, &call), 1, "error after an update");
    moe_layer_destroy(layer);
    moe_experts_destroy(experts);
    test_release(home);
    fixture_close(&f);
}

static void test_packed(void **state)
{
    (void)state;
    check_packed(false);
    check_packed(true);
    struct moe_backend *backend = test_backend("cpu");
    struct test_rng rng = {1};
    struct test_experts experts;
    size_t bytes = 1;
    test_experts_init(&experts, &rng, &base_experts);
    test_assert_ok(moe_experts_packed_size(backend, &experts.params, &bytes, NULL));
    assert_int_equal(bytes, 0);   /* read in place */
    test_experts_free(&experts);
    moe_backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_experts), cmocka_unit_test(test_activations), cmocka_unit_test(test_routing_params),
        cmocka_unit_test(test_objects), cmocka_unit_test(test_info),        cmocka_unit_test(test_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
