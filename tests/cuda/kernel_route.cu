// SPDX-License-Identifier: MIT
// Routing and plan of src/cuda against src/ref: every axis on numbers, ties and values that are no numbers, all sources
// of routing, all sizes; bits and launches that depend on nothing that they must not depend on.
#include "route_call.h"

static const double endless = (double)INFINITY, no_number = (double)NAN;

static route_case plain_case(void)
{
    route_case c;
    MOE_INIT(&c.routing);
    return c;
}

static int set_up(void **)
{
    moe_emulate_reset();
    OK(moe_cuda_route_load());
    return 0;
}

static int tear_down(void **)
{
    return moe_emulate_reset() != 0;
}

/* ---- every combination of axes ---- */

static void fill_ties(struct test_rng *rng, double *logits, size_t num_experts)
{
    for (size_t e = 0; e < num_experts; e++)
        logits[e] = 0.5 * (double)test_below(rng, 5) - 1;
}

static void fill_special(struct test_rng *rng, double *logits, size_t num_experts)
{
    const double values[] = {no_number, -endless, endless, -0.0, 1, -2, 700, -800};
    const size_t first = test_below(rng, 3), count = 1 + test_below(rng, 8 - first);
    for (size_t e = 0; e < num_experts; e++)
        logits[e] = test_below(rng, 3) == 0 ? test_gaussian(rng) : values[first + test_below(rng, count)];
    if (test_below(rng, 4) == 0)
        for (size_t e = 0; e < num_experts; e++)
            logits[e] = values[test_below(rng, 3)];
}

/* What the axes leave open. */
static void run_random(struct test_rng *rng, route_case c)
{
    const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16};
    const size_t sizes[] = {1, 1, 2, 3, 5};
    c.num_tokens = sizes[test_below(rng, 5)];
    c.top_k = test_below(rng, 8) == 0 ? c.num_experts : 1 + test_below(rng, c.num_experts < 10 ? c.num_experts : 10);
    c.routing.num_always = test_below(rng, 3) == 0 ? test_below(rng, c.top_k) : 0;
    if (c.routing.num_groups > 1 && (c.num_experts - c.routing.num_always) % c.routing.num_groups != 0)
        c.routing.num_always = 0;
    /* So far from 0 tanh is 1 up to less than a double can tell, and two that differ in a last place break ties. */
    c.routing.softcap = c.fill == NULL && test_below(rng, 3) == 0 ? 30 : 0;
    c.format = c.fill == NULL ? MOE_FORMAT_F32 : formats[test_below(rng, 3)];
    c.padding = 4 * test_below(rng, 3);
    c.scale = test_below(rng, 3) == 0;
    c.hash = c.routing.num_always == 0 && c.routing.weight != MOE_SCORE_SPARSEMIXER && test_below(rng, 5) == 0;
    c.integers = test_below(rng, 2) ? MOE_FORMAT_I32 : MOE_FORMAT_I64;
    c.num_zero = test_below(rng, 3) == 0 ? test_below(rng, c.num_experts) : 0;
    c.map = test_below(rng, 2);
    c.num_matrices = c.map && test_below(rng, 2) ? 1 + test_below(rng, c.num_experts) : 0;
    c.has_live = test_below(rng, 3) == 0;
    c.live = (int32_t)test_below(rng, c.num_tokens + 2);
    c.sorts = test_below(rng, 4) != 0;
    c.outs = test_below(rng, 2);
    c.counts = test_below(rng, 2);
    route_run(c, test_random(rng));
}

static void over_groups(struct test_rng *rng, route_case c)
{
    const size_t grouped[][3] = {{8, 2, 1}, {16, 4, 2}, {24, 8, 3}, {6, 6, 2}, {60, 4, 4}, {256, 8, 4}};
    const size_t plain[] = {1, 2, 7, 16, 60, 128, 257};
    const size_t way = test_below(rng, 4), *groups = grouped[test_below(rng, 6)];
    c.routing.num_groups = 0;
    c.num_experts = plain[test_below(rng, 7)];
    run_random(rng, c);
    c.num_experts = groups[0];
    c.routing.num_groups = groups[1];
    c.routing.top_groups = groups[2];
    c.routing.group_score = way & 1 ? MOE_GROUP_MAX : MOE_GROUP_TOP2_SUM;
    c.routing.group_mask_zero = way & 2;
    run_random(rng, c);
}

static void over_axes(uint64_t seed, void (*fill)(struct test_rng *, double *, size_t))
{
    const struct {
        enum moe_renorm renorm;
        float eps, p;
    } renorms[] = {{MOE_RENORM_NONE, 0, 0},           {MOE_RENORM_ADD_EPS, 0, 0},      {MOE_RENORM_ADD_EPS, 0.125f, 0},
                   {MOE_RENORM_CLAMP_EPS, 0.75f, 0},  {MOE_RENORM_CLAMP_EPS, 0, 0},    {MOE_RENORM_P_NORM, 0, 1},
                   {MOE_RENORM_P_NORM, 0, 2},         {MOE_RENORM_P_NORM, 0, 3.5f}};
    const enum moe_score selects[] = {MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_SCORE_SIGMOID, MOE_SCORE_LOGIT,
                                      MOE_SCORE_SQRT_SOFTPLUS};
    struct test_rng rng = {seed};
    for (enum moe_score select : selects)
        for (int weight = MOE_SCORE_DEFAULT; weight <= MOE_SCORE_SPARSEMIXER; weight++)
            for (const auto &renorm : renorms)
                for (int way = 0; way < 2; way++) {
                    route_case c = plain_case();
                    c.routing.select = weight == MOE_SCORE_SPARSEMIXER ? MOE_SCORE_LOGIT : select;
                    c.routing.weight = (enum moe_score)weight;
                    c.routing.renorm = renorm.renorm;
                    c.routing.renorm_eps = renorm.eps;
                    c.routing.renorm_p = renorm.p;
                    c.routing.sparsemixer_eps = test_below(&rng, 2) ? 0.01f : 0.2f;
                    c.routing.scale = test_below(&rng, 2) ? 2.5f : 0;
                    c.bias = way == 1;
                    c.fill = fill;
                    over_groups(&rng, c);
                }
}

static void test_axes_on_numbers(void **)
{
    over_axes(1, NULL);
}

static void test_axes_on_ties(void **)
{
    over_axes(2, fill_ties);
}

static void test_axes_on_special_values(void **)
{
    over_axes(3, fill_special);
}

/* ---- sizes and sources ---- */

static void test_sizes(void **)
{
    const size_t tokens[] = {1, 2, 3, 7, 8, 9, 16, 17, 33, 100, 300}, experts[] = {1, 3, 8, 60, 128, 256, 384, 700};
    uint64_t seed = 10;
    for (size_t num_tokens : tokens)
        for (size_t num_experts : experts) {
            route_case c = plain_case();
            c.num_tokens = num_tokens;
            c.num_experts = num_experts;
            c.top_k = num_experts < 8 ? num_experts : 8;
            c.format = MOE_FORMAT_BF16;
            c.routing.renorm = MOE_RENORM_ADD_EPS;
            c.fill = seed % 2 ? fill_ties : NULL;
            c.has_live = seed % 3;
            c.live = (int32_t)num_tokens - 1;
            route_run(c, seed++);
        }
}

static void test_4096_experts(void **)
{
    uint64_t seed = 200;
    for (size_t num_tokens : {1, 2, 20})
        for (size_t top_k : {8, 33}) {
            route_case c = plain_case();
            c.num_tokens = num_tokens;
            c.num_experts = 4096;
            c.top_k = top_k;
            c.routing.num_groups = 64;
            c.routing.top_groups = 5;
            c.bias = true;
            c.routing.weight = MOE_SCORE_SIGMOID;
            route_run(c, seed++);
        }
    route_case c = plain_case();
    c.num_experts = c.top_k = c.routing.num_groups = c.routing.top_groups = 4096;
    c.fill = fill_ties;
    route_run(c, seed);
}

static void test_router(void **)
{
    struct moe_norm norm;
    MOE_INIT(&norm);
    uint64_t seed = 300;
    for (size_t num_tokens : {1, 2, 5, 32, 33, 70})
        for (size_t hidden_size : {1, 7, 40, 128, 1030, 2304})
            for (enum moe_format format : {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16}) {
                route_case c = plain_case();
                c.source = FROM_ROUTER;
                c.num_tokens = num_tokens;
                c.hidden_size = hidden_size;
                c.num_experts = seed % 2 ? 11 : 24;
                c.top_k = 3;
                c.format = format;
                c.padding = seed % 4 * 4;
                c.matrix_format = seed % 3 ? MOE_FORMAT_F32 : MOE_FORMAT_BF16;
                c.matrix_bias = seed % 5 < 2;
                norm.eps = 1e-3f;
                norm.unit = seed % 2;
                c.routing.norm = seed % 7 < 3 ? &norm : NULL;
                c.has_live = seed % 4;
                c.live = (int32_t)num_tokens - 1;
                c.routing.softcap = seed % 6 ? 0 : 20;
                route_run(c, seed++);
            }
    /* The norm of zeros: not 0 / 0. */
    norm.eps = 0;
    for (size_t num_tokens : {1, 40}) {
        route_case c = plain_case();
        c.source = FROM_ROUTER;
        c.num_tokens = num_tokens;
        c.hidden_size = 20;
        c.num_experts = 6;
        c.top_k = 2;
        c.zeros = true;
        c.routing.norm = &norm;
        route_run(c, seed++);
    }
}

static void test_given_ids(void **)
{
    uint64_t seed = 400;
    for (size_t num_tokens : {1, 3, 4, 15, 16, 17, 64, 130, 300})
        for (size_t top_k : {1, 8, 9}) {
            route_case c = plain_case();
            c.source = FROM_IDS;
            c.num_tokens = num_tokens;
            c.top_k = top_k;
            c.num_experts = 9 + seed % 200;
            c.num_zero = seed % 3;
            c.integers = seed % 2 ? MOE_FORMAT_I32 : MOE_FORMAT_I64;
            c.weights_format = seed % 3 == 0 ? MOE_FORMAT_F32 : seed % 3 == 1 ? MOE_FORMAT_F16 : MOE_FORMAT_BF16;
            c.padding = 4 * (seed % 3);
            c.map = seed % 2;
            c.num_matrices = seed % 4 == 1 ? 5 : 0;
            c.has_live = seed % 3;
            c.live = (int32_t)num_tokens - 1;
            c.weights = seed % 5;
            c.sorts = seed % 6;
            route_run(c, seed++);
        }
}

static void test_many_pairs(void **)
{
    const struct {
        size_t tokens, top_k, experts;
        enum route_source source;
    } shapes[] = {{256, 8, 128, FROM_IDS},    {257, 8, 128, FROM_IDS},  {1500, 7, 128, FROM_IDS},
                  {700, 6, 4096, FROM_IDS},   {2049, 1, 1, FROM_IDS},   {9000, 8, 4096, FROM_IDS},
                  {600, 8, 60, FROM_LOGITS},  {100, 31, 40, FROM_LOGITS}};
    uint64_t seed = 500;
    for (const auto &shape : shapes)
        for (bool sorts : {true, false}) {
            route_case c = plain_case();
            c.source = shape.source;
            c.num_tokens = shape.tokens;
            c.top_k = shape.top_k;
            c.num_experts = shape.experts;
            c.has_live = true;
            c.live = (int32_t)shape.tokens - 5;
            c.map = seed % 4 > 1;
            c.sorts = sorts;
            route_run(c, seed++);
        }
}

static void test_live_tokens_are_clamped(void **)
{
    for (int32_t live : {INT32_MIN, -1, 0, 1, 4, 1000})
        for (enum route_source source : {FROM_LOGITS, FROM_IDS})
            for (size_t num_tokens : {4, 40}) {
                route_case c = plain_case();
                c.source = source;
                c.num_tokens = num_tokens;
                c.num_experts = 12;
                c.top_k = 4;
                c.has_live = true;
                c.live = live;
                route_run(c, 600);
            }
}

/* ---- what nothing depends on ---- */

static void test_orders_of_threads(void **)
{
    for (uint64_t seed = 0; seed < 12; seed++) {
        moe_emulate_schedule(seed == 0 ? MOE_EMULATE_REVERSED : MOE_EMULATE_RANDOM, seed);
        for (size_t num_tokens : {1, 3, 20}) {
            route_case c = plain_case();
            c.num_tokens = num_tokens;
            c.num_experts = 160;
            c.top_k = seed % 2 ? 8 : 40;
            c.routing.num_groups = seed % 3 ? 8 : 0;
            c.routing.top_groups = 3;
            c.routing.group_mask_zero = true;
            c.bias = seed % 4 < 2;
            c.fill = seed % 5 ? fill_ties : fill_special;
            c.source = seed % 4 == 3 ? FROM_IDS : FROM_LOGITS;
            route_run(c, seed);
            c.source = FROM_LOGITS;
            c.hash = true;
            route_run(c, seed);
            c.hash = c.bias = false;
            c.routing.num_groups = 0;
            c.num_experts = seed % 2 ? 700 : 520;
            c.routing.num_always = seed % 2 ? 0 : 7;
            route_run(c, seed);
        }
        route_case c = plain_case();
        c.source = seed % 2 ? FROM_ROUTER : FROM_IDS;
        c.num_tokens = seed % 2 ? 33 : 400;
        c.num_experts = 20;
        c.hidden_size = 300;
        c.top_k = 6;
        route_run(c, seed);
    }
}

/* A token's bits are the same alone and among others. */
static void test_bits_of_a_token(void **)
{
    for (size_t num_experts : {60, 256}) {
        std::vector<route_result> results;
        for (size_t num_tokens : {1, 4, 16, 40}) {
            route_case c = plain_case();
            c.source = FROM_ROUTER;
            c.num_tokens = num_tokens;
            c.num_experts = num_experts;
            c.hidden_size = 1500;
            c.top_k = 6;
            c.one_token = true;
            results.push_back(route_run(c, 700));
        }
        for (const route_result &other : results)
            for (size_t t = 0; t < other.ids.size() / 6; t++) {
                assert_memory_equal(&other.logits[t * num_experts], &results[0].logits[0],
                                    num_experts * sizeof(double));
                assert_memory_equal(&other.weights[t * 6], &results[0].weights[0], 6 * sizeof(float));
                assert_memory_equal(&other.ids[t * 6], &results[0].ids[0], 6 * sizeof(int32_t));
            }
    }
}

static size_t launches_of(enum route_source source, size_t num_tokens, size_t top_k, int32_t live)
{
    size_t launches;
    route_case c = plain_case();
    c.source = source;
    c.num_tokens = num_tokens;
    c.top_k = top_k;
    c.num_experts = 16;
    c.hidden_size = 32;
    c.has_live = live >= 0;
    c.live = live;
    c.num_zero = live >= 0 ? 2 : 0;
    route_run(c, 800, &launches);
    return launches;
}

static void test_launches(void **)
{
    for (int32_t live : {-1, 0, 3}) {
        for (size_t num_tokens : {1, 2, 8}) {
            assert_int_equal(launches_of(FROM_LOGITS, num_tokens, 8, live), 1);
            assert_int_equal(launches_of(FROM_IDS, num_tokens, 8, live), 1);
            assert_int_equal(launches_of(FROM_ROUTER, num_tokens, 8, live), 2);
        }
        assert_int_equal(launches_of(FROM_LOGITS, 100, 8, live), 2);
        assert_int_equal(launches_of(FROM_LOGITS, 600, 8, live), 3);
        assert_int_equal(launches_of(FROM_ROUTER, 600, 8, live), 4);
        assert_int_equal(launches_of(FROM_IDS, 600, 8, live), 2);
    }
    /* All of them wait for the kernel before. */
    assert_int_equal(moe_emulate_count().overlapping, moe_emulate_count().launches);
    assert_int_equal(moe_emulate_count().waited, moe_emulate_count().overlapping);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_axes_on_numbers),
        TEST(test_axes_on_ties),
        TEST(test_axes_on_special_values),
        TEST(test_sizes),
        TEST(test_4096_experts),
        TEST(test_router),
        TEST(test_given_ids),
        TEST(test_many_pairs),
        TEST(test_live_tokens_are_clamped),
        TEST(test_orders_of_threads),
        TEST(test_bits_of_a_token),
        TEST(test_launches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
