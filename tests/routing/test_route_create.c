// SPDX-License-Identifier: MIT
// Creation of layers with routing: every axis out of its range gives its status and a sentence that names it; memory
// that runs out leaves nothing behind.
#include "route_fixture.h"

/* ---- what creation refuses ---- */

static void refuse(struct moe_backend *backend, const struct moe_layer_params *params, enum moe_status expected,
                   const char *word)
{
    struct moe_error error = {0};
    struct moe_layer *layer = NULL;
    test_assert_status(moe_layer_create(backend, params, &layer, &error), expected);
    assert_null(layer);
    test_assert_status(error.status, expected);
    if (strstr(error.text, word) == NULL)
        fail_msg("'%s' does not name %s", error.text, word);
}

struct refusal {
    struct moe_routing routing;
    enum moe_status status;
    const char *word;
};

static void test_scalars_out_of_range(void **state)
{
    (void)state;
    const float nan = (float)NAN, endless = INFINITY;
    const struct refusal refusals[] = {
        {{.softcap = -1}, MOE_ERR_ARGUMENT, "softcap"},
        {{.softcap = nan}, MOE_ERR_ARGUMENT, "softcap"},
        {{.softcap = endless}, MOE_ERR_ARGUMENT, "softcap"},
        {{.renorm = MOE_RENORM_P_NORM}, MOE_ERR_ARGUMENT, "renorm_p"},
        {{.renorm = MOE_RENORM_P_NORM, .renorm_p = 0.5f}, MOE_ERR_ARGUMENT, "renorm_p"},
        {{.renorm = MOE_RENORM_P_NORM, .renorm_p = nan}, MOE_ERR_ARGUMENT, "renorm_p"},
        {{.renorm = MOE_RENORM_P_NORM, .renorm_p = endless}, MOE_ERR_ARGUMENT, "renorm_p"},
        {{.renorm = (enum moe_renorm)(MOE_RENORM_P_NORM + 1)}, MOE_ERR_UNSUPPORTED, "renorm"},
        {{.renorm_eps = -1}, MOE_ERR_ARGUMENT, "renorm_eps"},
        {{.renorm_eps = nan}, MOE_ERR_ARGUMENT, "renorm_eps"},
        {{.scale = endless}, MOE_ERR_ARGUMENT, "scale"},
        {{.weight = (enum moe_score)(MOE_SCORE_SPARSEMIXER + 1)}, MOE_ERR_UNSUPPORTED, "score"},
        {{.select = (enum moe_score)(MOE_SCORE_SPARSEMIXER + 1)}, MOE_ERR_UNSUPPORTED, "score"},
        {{.select = MOE_SCORE_SPARSEMIXER}, MOE_ERR_UNSUPPORTED, "SPARSEMIXER"},
        {{.select = MOE_SCORE_SOFTMAX_TOPK}, MOE_ERR_UNSUPPORTED, "SOFTMAX_TOPK"},
        {{.weight = MOE_SCORE_SPARSEMIXER, .select = MOE_SCORE_SOFTMAX}, MOE_ERR_UNSUPPORTED, "SPARSEMIXER"},
        {{.weight = MOE_SCORE_SPARSEMIXER, .sparsemixer_eps = -1}, MOE_ERR_ARGUMENT, "sparsemixer_eps"},
        {{.weight = MOE_SCORE_SPARSEMIXER, .sparsemixer_eps = nan}, MOE_ERR_ARGUMENT, "sparsemixer_eps"},
        {{.num_always = 4}, MOE_ERR_ARGUMENT, "num_always"},
        {{.num_always = SIZE_MAX}, MOE_ERR_ARGUMENT, "num_always"},
        {{.num_always = 1, .num_groups = 3, .top_groups = 2}, MOE_ERR_ARGUMENT, "groups"},
        {{.num_groups = 5, .top_groups = 2}, MOE_ERR_ARGUMENT, "groups"},
        {{.num_groups = 3, .top_groups = 4}, MOE_ERR_ARGUMENT, "top_groups"},
        {{.num_groups = 3, .top_groups = 1}, MOE_ERR_ARGUMENT, "top_k"},
        {{.hash_rows = 3}, MOE_ERR_ARGUMENT, "hash_rows"},
    };
    struct test_rng rng = {8};
    struct pair pair;
    make_layer(&pair.layer, &rng, 9, 4, HIDDEN_SIZE, false, false);
    open_pair(&pair);
    struct moe_layer_params params = pair.layer.params;
    params.experts = pair.handles[0].experts;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct moe_routing routing = refusals[i].routing;
        routing.struct_size = sizeof routing;
        params.routing = &routing;
        refuse(pair.backend, &params, refusals[i].status, refusals[i].word);
    }
    /* At the edges: good. */
    const struct moe_routing good[] = {
        {.num_always = 3}, {.renorm = MOE_RENORM_P_NORM, .renorm_p = 1}, {.renorm_p = nan},
        {.num_always = 1, .num_groups = 4, .top_groups = 2}, {.weight = MOE_SCORE_SPARSEMIXER},
        {.num_groups = 3, .top_groups = 1, .group_mask_zero = true},
        {.weight = MOE_SCORE_SPARSEMIXER, .select = MOE_SCORE_LOGIT, .sparsemixer_eps = 0.01f},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct moe_routing routing = good[i];
        struct moe_layer *layer;
        routing.struct_size = sizeof routing;
        params.routing = &routing;
        test_assert_ok(moe_layer_create(pair.backend, &params, &layer, NULL));
        moe_layer_destroy(layer);
    }
    close_pair(&pair);
}

static void test_views_out_of_range(void **state)
{
    (void)state;
    struct test_rng rng = {9};
    struct pair pair;
    float scales[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    int32_t table[2][4] = {{0, 1, 2, 8}, {3, 3, 3, 3}};
    make_layer(&pair.layer, &rng, 9, 4, HIDDEN_SIZE, true, false);
    open_pair(&pair);
    struct moe_layer_params params = pair.layer.params;
    struct moe_routing routing = pair.layer.routing;
    params.experts = pair.handles[0].experts;
    params.routing = &routing;
    const struct moe_routing plain = routing;

    routing.expert_scale = test_view(scales, sizeof scales - 1, 0, MOE_FORMAT_F32);
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "expert_scale");
    routing.expert_scale = test_view(scales, sizeof scales, 0, MOE_FORMAT_Q8_0);
    refuse(pair.backend, &params, MOE_ERR_UNSUPPORTED, "expert_scale");
    routing.expert_scale = test_view(scales, sizeof scales, 0, MOE_FORMAT_F32);
    scales[8] = (float)NAN;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "expert_scale");
    routing = plain;
    routing.num_always = 1;
    routing.selection_bias = test_view(scales, 7 * sizeof *scales, 0, MOE_FORMAT_F32);
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "selection_bias");

    routing = plain;
    routing.hash_table = test_view(table, sizeof table, 0, MOE_FORMAT_I32);
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "hash_table");    /* no rows */
    routing.hash_rows = 3;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "hash_table");
    routing.hash_rows = SIZE_MAX;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "hash_table");
    routing.hash_rows = 2;
    routing.hash_table.stride = 12;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "hash_table");
    routing.hash_table.stride = 0;
    routing.hash_table.offset = SIZE_MAX;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "hash_table");
    routing.hash_table = test_view(table, sizeof table, 0, MOE_FORMAT_F32);
    refuse(pair.backend, &params, MOE_ERR_UNSUPPORTED, "hash_table");
    routing.hash_table.format = MOE_FORMAT_I32;
    routing.num_always = 1;
    refuse(pair.backend, &params, MOE_ERR_UNSUPPORTED, "num_always");
    routing.num_always = 0;
    routing.weight = MOE_SCORE_SPARSEMIXER;
    refuse(pair.backend, &params, MOE_ERR_UNSUPPORTED, "SPARSEMIXER");
    routing.weight = MOE_SCORE_DEFAULT;
    table[1][2] = 9;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "hash_table");
    table[1][2] = -1;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "hash_table");

    struct moe_norm norm;
    float wide[HIDDEN_SIZE] = {0};
    routing = plain;
    routing.norm = &norm;
    memset(&norm, 0, sizeof norm);
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "norm");
    MOE_INIT(&norm);
    norm.eps = -1;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "eps");
    norm.eps = (float)NAN;
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "eps");
    norm.eps = 0;
    norm.scale = test_view(wide, sizeof wide - 4, 0, MOE_FORMAT_F32);
    refuse(pair.backend, &params, MOE_ERR_ARGUMENT, "norm");
    norm.scale = test_view(wide, sizeof wide, 0, MOE_FORMAT_I32);
    refuse(pair.backend, &params, MOE_ERR_UNSUPPORTED, "norm");
    close_pair(&pair);
}

/* ---- memory of a layer with every axis that has some ---- */

struct ledger {
    size_t calls, fail_at, live_bytes;    /* fail_at 0: never */
};

static void *ledger_alloc(void *user, size_t size, size_t align)
{
    struct ledger *ledger = user;
    if (++ledger->calls == ledger->fail_at)
        return NULL;
    ledger->live_bytes += size;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void ledger_free(void *user, void *ptr, size_t size)
{
    struct ledger *ledger = user;
    ledger->live_bytes -= size;
    free(ptr);
}

/* Every allocation of creation fails once; nothing stays, and what is freed has the size that it had. */
static void test_memory_runs_out(void **state)
{
    (void)state;
    struct test_rng rng = {10};
    struct ledger ledger = {0};
    struct moe_env env;
    struct test_layer layer;
    struct moe_norm norm;
    float scales[HIDDEN_SIZE] = {1};
    int32_t table[5][3] = {{0, 1, 2}};
    struct moe_backend *backend;
    struct moe_experts *experts;
    struct moe_layer *made;
    MOE_INIT(&env);
    MOE_INIT(&norm);
    env.user = &ledger;
    env.alloc = ledger_alloc;
    env.free = ledger_free;
    make_layer(&layer, &rng, 6, 3, HIDDEN_SIZE, true, true);
    norm.scale = test_view(scales, sizeof scales, 0, MOE_FORMAT_F32);
    layer.routing.norm = &norm;
    layer.routing.selection_bias = test_view(scales, 6 * sizeof *scales, 0, MOE_FORMAT_F32);
    layer.routing.expert_scale = layer.routing.selection_bias;
    layer.routing.hash_table = test_view(table, sizeof table, 0, MOE_FORMAT_I32);
    layer.routing.hash_rows = 5;
    test_assert_ok(moe_backend_open("cpu", &env, &backend, NULL));
    test_assert_ok(moe_experts_create(backend, &layer.experts.params, &experts, NULL));
    layer.params.experts = experts;
    const size_t before = ledger.live_bytes;
    enum moe_status status = MOE_ERR_MEMORY;
    for (size_t i = 1; status != MOE_OK; i++) {
        ledger.calls = 0;
        ledger.fail_at = i;
        status = moe_layer_create(backend, &layer.params, &made, NULL);
        if (status == MOE_OK)
            moe_layer_destroy(made);
        else
            test_assert_status(status, MOE_ERR_MEMORY);
        assert_int_equal(ledger.live_bytes, before);
        assert_in_range(i, 1, 20);
    }
    assert_in_range(ledger.calls, 7, 20);    /* the layer, its router's matrix and bias, norm, two vectors, the table */
    moe_experts_destroy(experts);
    moe_backend_close(backend);
    test_layer_free(&layer);
    assert_int_equal(ledger.live_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars_out_of_range),
        cmocka_unit_test(test_views_out_of_range),
        cmocka_unit_test(test_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
