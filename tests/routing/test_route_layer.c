// SPDX-License-Identifier: MIT
// Routing of whole layers: the fused layer, the composed one and moe_layer_route have the bits of moe_route_row; hash
// tables, and the norm of the router's input.
#include "route_fixture.h"

enum { TOKENS = 11 };

static struct moe_stats take_stats(struct moe_context *ctx)
{
    struct moe_stats stats;
    stats.struct_size = sizeof stats;
    test_assert_ok(moe_context_stats(ctx, &stats, true));
    return stats;
}

/* Forward and route, fused and composed: all give these ids, and weights within ulps. */
static void expect_routing(struct pair *pair, struct test_call call, const int64_t *ids, const double *weights,
                           double ulps)
{
    size_t top_k = call.top_k != 0 ? call.top_k : pair->layer.top_k, num_pairs = call.num_tokens * top_k;
    float *out = moe_ref_alloc(call.num_tokens * pair->layer.hidden_size, sizeof *out);
    float *out_weights = moe_ref_alloc(num_pairs, sizeof *out_weights);
    int32_t *out_ids = moe_ref_alloc(num_pairs, sizeof *out_ids);
    for (int way = 0; way < 4; way++) {
        call.entry = way & 1 ? TEST_ROUTE : TEST_FORWARD;
        call.out = way & 1 ? NULL : out;
        call.out_ids = out_ids;
        call.out_weights = out_weights;
        test_assert_ok(test_call_run(pair->ctx, pair->handles[way / 2].layer, &call));
        for (size_t i = 0; i < num_pairs; i++) {
            assert_int_equal(out_ids[i], ids[i]);
            test_assert_most(test_ulps(out_weights[i], weights[i]), ulps, "weight");
        }
    }
    free(out_ids);
    free(out_weights);
    free(out);
}

/* ---- the bits of moe_route_row ---- */

static void random_routing(struct moe_routing *routing, struct test_rng *rng, size_t num_experts, size_t top_k)
{
    const enum moe_score selects[] = {MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_SCORE_SIGMOID, MOE_SCORE_LOGIT,
                                      MOE_SCORE_SQRT_SOFTPLUS};
    routing->weight = (enum moe_score)test_below(rng, MOE_SCORE_SPARSEMIXER + 1);
    routing->select = routing->weight == MOE_SCORE_SPARSEMIXER ? MOE_SCORE_DEFAULT : selects[test_below(rng, 5)];
    routing->renorm = (enum moe_renorm)test_below(rng, MOE_RENORM_P_NORM + 1);
    routing->renorm_eps = test_below(rng, 2) ? 1e-6f : 0;
    routing->renorm_p = 1 + (float)test_below(rng, 3);
    routing->sparsemixer_eps = 0.1f;
    routing->scale = test_below(rng, 2) ? 2.5f : 0;
    routing->softcap = test_below(rng, 2) ? 20 : 0;
    routing->num_always = test_below(rng, 2) && top_k > 2 ? 2 : 0;
    if (test_below(rng, 2) && (num_experts - routing->num_always) % 4 == 0 && top_k <= 6) {
        routing->num_groups = 4;
        routing->top_groups = 3;
        routing->group_mask_zero = test_below(rng, 2);
    }
}

static void test_all_paths_have_the_bits_of_a_row(void **state)
{
    (void)state;
    struct test_rng rng = {11};
    for (size_t round = 0; round < 60; round++) {
        const size_t sizes[] = {12, 14, 64, 130};
        size_t num_experts = sizes[test_below(&rng, 4)], top_k = 1 + test_below(&rng, 6);
        struct pair pair;
        float bias[130], scales[130], logits[TOKENS * 130], weights[TOKENS * 6];
        double exact[TOKENS * 6];
        int64_t ids[TOKENS * 6];
        make_layer(&pair.layer, &rng, num_experts, top_k, HIDDEN_SIZE, false, false);
        struct moe_routing *routing = &pair.layer.routing;
        random_routing(routing, &rng, num_experts, top_k);
        test_fill(&rng, bias, num_experts, 0.3);
        test_fill(&rng, scales, num_experts, 1);
        test_fill(&rng, logits, TOKENS * num_experts, 2);
        size_t competing = num_experts - routing->num_always;
        bool biased = test_below(&rng, 2);
        if (biased)
            routing->selection_bias = test_view(bias, competing * sizeof *bias, 0, MOE_FORMAT_F32);
        if (test_below(&rng, 2))
            routing->expert_scale = test_view(scales, num_experts * sizeof *scales, 0, MOE_FORMAT_F32);
        logits[3 * num_experts + 1] = (float)NAN;
        for (size_t e = 0; e < num_experts; e++)
            logits[5 * num_experts + e] = -INFINITY;
        struct moe_router router = router_of(routing, biased ? bias : NULL, num_experts);
        double row[130], *scratch = moe_ref_alloc(moe_route_scratch(num_experts), sizeof *scratch);
        for (size_t t = 0; t < TOKENS; t++) {
            int32_t row_ids[6];
            for (size_t e = 0; e < num_experts; e++)
                row[e] = (double)logits[t * num_experts + e];
            assert_int_equal(moe_route_row(&router, row, NULL, top_k, row_ids, weights + t * top_k, scratch), t != 5);
            for (size_t k = 0; k < top_k; k++) {
                ids[t * top_k + k] = row_ids[k];
                exact[t * top_k + k] = (double)weights[t * top_k + k];
            }
        }
        float x[TOKENS * HIDDEN_SIZE] = {0};
        open_pair(&pair);
        expect_routing(&pair, (struct test_call){.num_tokens = TOKENS, .x = x, .logits = logits}, ids, exact, 0);
        assert_int_equal(take_stats(pair.ctx).nonfinite_rows, 4);
        close_pair(&pair);
        free(scratch);
    }
}

/* ---- the norm of the router's input ---- */

/* logits = router (x / sqrt(mean of x^2 + eps) * scale [/ sqrt(hidden_size)]) + bias, in the test's own words. */
static void own_logits(double *logits, const struct test_layer *layer, const float *x, const float *scale)
{
    const struct moe_norm *norm = layer->routing.norm;
    const struct moe_matrix *router = layer->routing.router;
    size_t hidden_size = layer->hidden_size;
    double mean = 0;
    for (size_t c = 0; c < hidden_size; c++)
        mean += (double)x[c] * (double)x[c] / (double)hidden_size;
    double root = sqrt(mean + (double)norm->eps) * (norm->unit ? sqrt((double)hidden_size) : 1);
    for (size_t e = 0; e < layer->num_experts; e++) {
        const unsigned char *row = (const unsigned char *)router->data.base + e * hidden_size * 2;
        logits[e] = 0;
        for (size_t c = 0; c < hidden_size; c++)
            logits[e] += moe_ref_value(MOE_FORMAT_BF16, row + 2 * c) * ((double)x[c] / root * (double)scale[c]);
        if (router->bias.base != NULL)
            logits[e] += (double)((const float *)router->bias.base)[e];
    }
}

/* All logits as weights, best first. */
static void sort_logits(int64_t *ids, double *weights, const double *logits, size_t num_experts)
{
    for (size_t e = 0; e < num_experts; e++) {
        size_t k = 0;
        for (size_t other = 0; other < num_experts; other++)
            k += logits[other] > logits[e];
        ids[k] = (int64_t)e;
        weights[k] = logits[e];
    }
}

static void check_norm(bool unit, bool bias, bool scaled, bool own_input, size_t hidden_size)
{
    enum { EXPERTS = 5 };
    struct test_rng rng = {hidden_size + unit};
    struct pair pair;
    struct moe_norm norm;
    float *x = moe_ref_alloc(TOKENS * hidden_size, sizeof *x), *other = moe_ref_alloc(TOKENS * hidden_size, sizeof *x);
    float *scale = moe_ref_alloc(hidden_size, sizeof *scale);
    double logits[EXPERTS], weights[TOKENS * EXPERTS];
    int64_t ids[TOKENS * EXPERTS];
    make_layer(&pair.layer, &rng, EXPERTS, EXPERTS, hidden_size, true, bias);
    MOE_INIT(&norm);
    norm.eps = 0.5f;
    norm.unit = unit;
    for (size_t c = 0; c < hidden_size; c++)
        scale[c] = scaled ? 0.25f * (float)(1 + test_below(&rng, 8)) : 1;    /* few bits: exact in the product */
    if (scaled)
        norm.scale = test_view(scale, hidden_size * sizeof *scale, 0, MOE_FORMAT_F32);
    pair.layer.routing.norm = &norm;
    pair.layer.routing.weight = MOE_SCORE_LOGIT;
    test_fill_heavy(&rng, x, TOKENS, hidden_size, 1);
    test_fill_heavy(&rng, other, TOKENS, hidden_size, 1);
    for (size_t t = 0; t < TOKENS; t++) {
        own_logits(logits, &pair.layer, (own_input ? other : x) + t * hidden_size, scale);
        sort_logits(ids + t * EXPERTS, weights + t * EXPERTS, logits, EXPERTS);
    }
    open_pair(&pair);
    expect_routing(&pair, (struct test_call){.num_tokens = TOKENS, .x = x, .router_x = own_input ? other : NULL}, ids,
                   weights, 2);
    close_pair(&pair);
    free(scale);
    free(other);
    free(x);
}

static void test_norm_of_the_input(void **state)
{
    (void)state;
    for (int way = 0; way < 16; way++)
        check_norm(way & 1, way & 2, way & 4, way & 8, HIDDEN_SIZE);
    check_norm(false, true, true, false, 1032);    /* more than the composer reads at a time */
    check_norm(true, true, true, true, 2051);
}

/* Of zeros: zeros, also with eps 0, so that logits are the biases. */
static void test_norm_of_zeros(void **state)
{
    (void)state;
    struct test_rng rng = {4};
    struct pair pair;
    struct moe_norm norm;
    MOE_INIT(&norm);
    make_layer(&pair.layer, &rng, 3, 3, HIDDEN_SIZE, true, true);
    pair.layer.routing.norm = &norm;
    pair.layer.routing.weight = MOE_SCORE_LOGIT;
    const float *bias = pair.layer.routing.router->bias.base;
    double logits[3], weights[3];
    int64_t ids[3];
    float x[HIDDEN_SIZE] = {0};
    for (size_t e = 0; e < 3; e++)
        logits[e] = (double)bias[e];
    sort_logits(ids, weights, logits, 3);
    open_pair(&pair);
    expect_routing(&pair, (struct test_call){.num_tokens = 1, .x = x}, ids, weights, 0);
    assert_int_equal(take_stats(pair.ctx).nonfinite_rows, 0);
    close_pair(&pair);
}

/* Logits that come with the call are as they are. */
static void test_norm_leaves_given_logits(void **state)
{
    (void)state;
    struct test_rng rng = {3};
    struct pair pair;
    struct moe_norm norm;
    MOE_INIT(&norm);
    make_layer(&pair.layer, &rng, 3, 3, HIDDEN_SIZE, true, true);
    pair.layer.routing.norm = &norm;
    pair.layer.routing.weight = MOE_SCORE_LOGIT;
    float x[HIDDEN_SIZE] = {5}, logits[] = {1, 3, 2};
    open_pair(&pair);
    expect_routing(&pair, (struct test_call){.num_tokens = 1, .x = x, .logits = logits}, (int64_t[]){1, 2, 0},
                   (double[]){3, 2, 1}, 0);
    close_pair(&pair);
}

/* ---- hash tables ---- */

enum { HASH_ROWS = 4, HASH_COLS = 3, HASH_EXPERTS = 6 };
static const int32_t hash_rows[HASH_ROWS][HASH_COLS] = {{5, 0, 2}, {1, 1, 4}, {3, 2, 0}, {0, 4, 5}};

static void open_hash(struct pair *pair, struct test_rng *rng, enum moe_format format, void *table)
{
    struct moe_routing *routing = &pair->layer.routing;
    size_t bytes = format == MOE_FORMAT_I64 ? 8 : 4, stride = 4 * bytes;    /* one value more than there are columns */
    make_layer(&pair->layer, rng, HASH_EXPERTS, HASH_COLS, HIDDEN_SIZE, false, false);
    for (size_t r = 0; r < HASH_ROWS; r++)
        for (size_t k = 0; k < HASH_COLS; k++) {
            int64_t wide = hash_rows[r][k];
            memcpy((char *)table + r * stride + k * bytes, format == MOE_FORMAT_I64 ? (const void *)&wide
                                                                                   : &hash_rows[r][k], bytes);
        }
    routing->hash_table = test_view(table, HASH_ROWS * stride - bytes, stride, format);
    routing->hash_rows = HASH_ROWS;
    open_pair(pair);
    memset(table, 0xff, HASH_ROWS * stride);    /* it was copied */
}

static void test_hash_table_chooses_logits_weigh(void **state)
{
    (void)state;
    for (int way = 0; way < 2; way++) {
        enum moe_format format = way ? MOE_FORMAT_I64 : MOE_FORMAT_I32;
        struct test_rng rng = {5};
        struct pair pair;
        int64_t table[HASH_ROWS * 4];
        open_hash(&pair, &rng, format, table);
        const int64_t tokens[] = {2, 0, way ? (int64_t)1 << 32 : 4, -1, 1, way ? INT64_MIN : INT32_MIN};
        const float logits[6][6] = {{0, 3, 1, 2, -1, 4}, {9, 8, 7, 6, 5, 4}, {1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0},
                                    {0, 1, 2, 3, 4, 5},  {0, 0, 0, 0, 0, 0}};
        double sums[6] = {0}, weights[18] = {0};
        const int64_t ids[] = {3, 2, 0, 5, 0, 2, -1, -1, -1, -1, -1, -1, 1, 1, 4, -1, -1, -1};
        for (size_t t = 0; t < 6; t++)
            for (size_t e = 0; e < 6; e++)
                sums[t] += exp((double)logits[t][e]);
        for (size_t i = 0; i < 18; i++)
            weights[i] = ids[i] < 0 ? 0 : exp((double)logits[i / 3][ids[i]]) / sums[i / 3];
        float x[6 * HIDDEN_SIZE] = {0};
        struct test_call call = {.num_tokens = 6, .x = x, .logits = logits[0], .token_ids = tokens,
                                 .ids_format = format, .padding = 3};
        expect_routing(&pair, call, ids, weights, 1);
        assert_int_equal(take_stats(pair.ctx).skipped_pairs, 4 * 9);
        /* Fewer slots take the first of the row. */
        const int64_t two[] = {3, 2, 5, 0};
        const double two_weights[] = {weights[0], weights[1], weights[3], weights[4]};
        call.num_tokens = call.top_k = 2;
        expect_routing(&pair, call, two, two_weights, 1);
        assert_int_equal(take_stats(pair.ctx).skipped_pairs, 0);
        close_pair(&pair);
    }
}

/* The status of the same call through all four ways. */
static void expect_status(struct pair *pair, struct test_call call, enum moe_status expected)
{
    float out[TOKENS * HIDDEN_SIZE], weights[TOKENS * HASH_EXPERTS];
    int32_t ids[TOKENS * HASH_EXPERTS];
    for (int way = 0; way < 4; way++) {
        call.entry = way & 1 ? TEST_ROUTE : TEST_FORWARD;
        call.out = way & 1 ? NULL : out;
        call.out_ids = ids;
        call.out_weights = weights;
        test_assert_status(test_call_run(pair->ctx, pair->handles[way / 2].layer, &call), expected);
    }
}

static void test_hash_table_needs_token_ids(void **state)
{
    (void)state;
    struct test_rng rng = {6};
    struct pair pair;
    int32_t table[HASH_ROWS * 4];
    const int64_t tokens[] = {0, 7, 3}, good[] = {0, 1, 3};
    const float logits[3 * HASH_EXPERTS] = {0};
    float x[3 * HIDDEN_SIZE] = {0}, out[3 * HIDDEN_SIZE], weights[9] = {1, 2, 3};
    open_hash(&pair, &rng, MOE_FORMAT_I32, table);
    struct moe_layer_info info;
    info.struct_size = sizeof info;
    for (size_t i = 0; i < 2; i++) {
        test_assert_ok(moe_layer_info(pair.handles[i].layer, &info));
        assert_true(info.needs_token_ids);
    }
    struct test_call call = {.num_tokens = 3, .x = x, .logits = logits, .token_ids = tokens};
    expect_status(&pair, call, MOE_OK);
    call.flags = MOE_STRICT;
    expect_status(&pair, call, MOE_ERR_RANGE);
    const int32_t live = 1;
    call.live_tokens = &live;                      /* token 1 is padding */
    expect_status(&pair, call, MOE_OK);
    call.token_ids = good;
    call.live_tokens = NULL;
    expect_status(&pair, call, MOE_OK);
    call.flags = 0;
    call.top_k = HASH_COLS + 1;
    expect_status(&pair, call, MOE_ERR_ARGUMENT);
    call.top_k = 0;
    call.token_ids = NULL;
    expect_status(&pair, call, MOE_ERR_ARGUMENT);
    /* The caller's ids need none, and may be more. */
    const int64_t ids[] = {4, 4, 4, 0, 1, 2, 3, 4, 5};
    for (size_t i = 0; i < 2; i++) {
        struct test_call given = {.num_tokens = 3, .x = x, .ids = ids, .weights = weights, .out = out};
        test_assert_ok(test_call_run(pair.ctx, pair.handles[i].layer, &given));
        given.token_ids = tokens;
        test_assert_ok(test_call_run(pair.ctx, pair.handles[i].layer, &given));
        float many[5] = {1, 1, 1, 1, 1};
        given = (struct test_call){.num_tokens = 1, .top_k = 5, .x = x, .ids = ids, .weights = many, .out = out};
        test_assert_ok(test_call_run(pair.ctx, pair.handles[i].layer, &given));
    }
    close_pair(&pair);
}

static void test_always_chosen_leave_a_slot(void **state)
{
    (void)state;
    struct test_rng rng = {7};
    struct pair pair;
    const float logits[HASH_EXPERTS] = {0, 1, 2, 3, 4, 5};
    float x[HIDDEN_SIZE] = {0};
    make_layer(&pair.layer, &rng, HASH_EXPERTS, 4, HIDDEN_SIZE, false, false);
    pair.layer.routing.num_always = 2;
    open_pair(&pair);
    struct test_call call = {.num_tokens = 1, .x = x, .logits = logits};
    expect_status(&pair, call, MOE_OK);
    call.top_k = 2;
    expect_status(&pair, call, MOE_ERR_ARGUMENT);
    call.top_k = 3;
    call.flags = MOE_STRICT;
    expect_status(&pair, call, MOE_OK);
    close_pair(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_paths_have_the_bits_of_a_row),
        cmocka_unit_test(test_norm_of_the_input),
        cmocka_unit_test(test_norm_of_zeros),
        cmocka_unit_test(test_norm_leaves_given_logits),
        cmocka_unit_test(test_hash_table_chooses_logits_weigh),
        cmocka_unit_test(test_hash_table_needs_token_ids),
        cmocka_unit_test(test_always_chosen_leave_a_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
