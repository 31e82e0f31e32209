// SPDX-License-Identifier: MIT
// The axes of routing that few families have, one row each, worked out by hand: on these rows every wrong reading of an
// axis gives other ids or weights.
#include "route_fixture.h"

static double sigma(double z)
{
    return 1 / (1 + exp(-z));
}

static struct moe_routing routing_of(enum moe_score select, enum moe_score weight)
{
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.select = select;
    routing.weight = weight;
    return routing;
}

/* ---- soft-cap ---- */

static void test_softcap_comes_before_the_score(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX);
    const double logits[] = {-4, 8, 4};
    const double capped[] = {4 * tanh(-1), 4 * tanh(2), 4 * tanh(1)};
    double sum = exp(capped[0]) + exp(capped[1]) + exp(capped[2]);
    routing.softcap = 4;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){exp(capped[1]) / sum, exp(capped[2]) / sum}));
    routing.weight = MOE_SCORE_SIGMOID;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){sigma(capped[1]), sigma(capped[2])}));
    routing.weight = MOE_SCORE_LOGIT;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2, 0}), ((double[]){capped[1], capped[2], capped[0]}));
    routing.weight = MOE_SCORE_SOFTMAX_TOPK;
    sum = exp(capped[1]) + exp(capped[2]);
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){exp(capped[1]) / sum, exp(capped[2]) / sum}));
    /* The bias is added to the capped logits: 3.05 + 1.5 is above 3.86 + 0.5, where 4 + 1.5 is below 8 + 0.5. */
    routing = routing_of(MOE_SCORE_LOGIT, MOE_SCORE_LOGIT);
    routing.softcap = 4;
    EXPECT(&routing, ((float[]){0, 0.5f, 1.5f}), logits, ((int64_t[]){2, 1}), ((double[]){capped[2], capped[1]}));
}

static void test_softcap_of_small_and_endless_logits(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_LOGIT);
    routing.softcap = 30;
    const double small[] = {1e-9, 3e-5, 0.25, 0.75};
    EXPECT(&routing, NULL, small, ((int64_t[]){3, 2, 1, 0}),
           ((double[]){30 * tanh(0.025), 30 * tanh(0.25 / 30), 3e-5, 1e-9}));
    const double endless[] = {-ENDLESS, 0, ENDLESS, NO_NUMBER, 1e300};
    EXPECT(&routing, NULL, endless, ((int64_t[]){2, 4, 1, 0, 3}), ((double[]){30, 30, 0, -30, 0}));
    const double even[] = {5, 7, 5, 7};
    EXPECT(&routing, NULL, even, ((int64_t[]){1, 3, 0, 2}),
           ((double[]){30 * tanh(7.0 / 30), 30 * tanh(7.0 / 30), 30 * tanh(5.0 / 30), 30 * tanh(5.0 / 30)}));
    /* A row without a finite logit is one also where the cap would make numbers of it. */
    struct result result;
    const double none[] = {ENDLESS, -ENDLESS, ENDLESS};
    route_both(&result, &routing, NULL, none, 3, 2);
    assert_false(result.finite);
}

/* ---- sqrt(softplus) ---- */

static void test_sqrt_softplus(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SQRT_SOFTPLUS);
    const double logits[] = {0, 1, -3};
    const double scores[] = {sqrt(log(2)), sqrt(log(1 + exp(1))), sqrt(log(1 + exp(-3)))};
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 0, 2}), ((double[]){scores[1], scores[0], scores[2]}));
    /* Keys 0.833 + 0.5, 1.146. The logits, 0 + 0.5 and 1, have the other order; so has softplus, 0.693 + 0.5, 1.313. */
    const float bias[] = {0.5f, 0, 0};
    EXPECT(&routing, bias, logits, ((int64_t[]){0, 1}), ((double[]){scores[0], scores[1]}));
    routing.renorm = MOE_RENORM_ADD_EPS;
    routing.renorm_eps = 1e-20f;
    routing.scale = 1.5f;
    double sum = scores[0] + scores[1];
    EXPECT(&routing, bias, logits, ((int64_t[]){0, 1}), ((double[]){1.5 * scores[0] / sum, 1.5 * scores[1] / sum}));
}

static void test_sqrt_softplus_of_extreme_logits(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SQRT_SOFTPLUS);
    const double logits[] = {-80, 1e30, 800, -30, 90, -1e30};
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2, 4, 3, 0, 5}),
           ((double[]){1e15, sqrt(800), sqrt(90), exp(-15), exp(-40), 0}));
    /* e^-1000 is 0 in double, its root is not: the shares are those of e^-500, e^-501, e^-502. */
    routing.renorm = MOE_RENORM_ADD_EPS;
    const double low[] = {-1002, -1000, -1004};
    double sum = 1 + exp(-1) + exp(-2);
    EXPECT(&routing, NULL, low, ((int64_t[]){1, 0, 2}), ((double[]){1 / sum, exp(-1) / sum, exp(-2) / sum}));
    /* No finite divisor: weights stay. */
    const double special[] = {NO_NUMBER, ENDLESS, -ENDLESS, 0};
    EXPECT(&routing, NULL, special, ((int64_t[]){1, 3, 2, 0}), ((double[]){ENDLESS, sqrt(log(2)), 0, 0}));
}

/* ---- sparse mixer ---- */

static void test_sparsemixer(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SPARSEMIXER);
    routing.sparsemixer_eps = 0.01f;
    /* Close to 1: 0.99, 0.985. Close to 0.99: 0.985, not 0.965. Close to 0.985: nothing that is left. */
    const double logits[] = {0.5, 0.99, 1, 0.985, 0.965};
    EXPECT(&routing, NULL, logits, ((int64_t[]){2, 1, 3, 4, 0}),
           ((double[]){1 / (1 + exp(-0.01) + exp(-0.015)), 1 / (1 + exp(-0.005)), 1, 1, 1}));
    /* Distances are relative to the larger of |z| and m: 9.8 is close to 10, 0.8 not to 1. */
    const double scaled[] = {10, 9.81, 0.8};
    EXPECT(&routing, NULL, scaled, ((int64_t[]){0, 1, 2}), ((double[]){1 / (1 + exp(-0.19)), 1, 1}));
    const double even[] = {1, 0, 1};
    EXPECT(&routing, NULL, even, ((int64_t[]){0, 2, 1}), ((double[]){0.5, 1, 1}));
    routing.scale = 3;
    EXPECT(&routing, NULL, even, ((int64_t[]){0, 2}), ((double[]){1.5, 3}));
}

static void test_sparsemixer_of_negative_logits(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SPARSEMIXER);
    routing.sparsemixer_eps = 0.01f;
    /* 0.0203 / 1.0203 is below 0.02; 0.0203 / 1, relative to m, would be above. */
    const double logits[] = {-1.0203, -1, -1.5};
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 0}), ((double[]){1 / (1 + exp(-0.0203)), 1}));
    /* Signs differ: (0.01 + 5) / 5 is 1.002. */
    const double mixed[] = {0.01, -5};
    EXPECT(&routing, NULL, mixed, ((int64_t[]){0, 1}), ((double[]){1, 1}));
    routing.sparsemixer_eps = 0.6f;
    EXPECT(&routing, NULL, mixed, ((int64_t[]){0, 1}), ((double[]){1 / (1 + exp(-5.01)), 1}));
    /* 0 / 0 is close: an expert always sees itself. */
    routing.sparsemixer_eps = 0;
    const double zeros[] = {0, -1, 0};
    EXPECT(&routing, NULL, zeros, ((int64_t[]){0, 2, 1}), ((double[]){0.5, 1, 1}));
}

static void test_sparsemixer_of_special_logits(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SPARSEMIXER);
    routing.sparsemixer_eps = 0.01f;
    const double one[] = {1, ENDLESS, NO_NUMBER, -ENDLESS};
    EXPECT(&routing, NULL, one, ((int64_t[]){1, 0, 3, 2}), ((double[]){1, 1, 0, 0}));
    const double two[] = {ENDLESS, 1, ENDLESS};
    EXPECT(&routing, NULL, two, ((int64_t[]){0, 2, 1}), ((double[]){0.5, 1, 1}));
}

/* ---- renormalisation ---- */

static void test_p_norm(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_LOGIT);
    const double logits[] = {3, -12, 4};
    const int64_t ids[] = {2, 0, 1};
    routing.renorm = MOE_RENORM_P_NORM;
    routing.renorm_eps = 0.5f;   /* of the other rules */
    routing.renorm_p = 1;        /* of absolute values: the sum itself is -5 */
    EXPECT(&routing, NULL, logits, ids, ((double[]){4.0 / 19, 3.0 / 19, -12.0 / 19}));
    routing.renorm_p = 2;
    EXPECT(&routing, NULL, logits, ids, ((double[]){4.0 / 13, 3.0 / 13, -12.0 / 13}));
    routing.renorm_p = 3;
    double root = cbrt(64 + 27 + 1728);
    EXPECT(&routing, NULL, logits, ids, ((double[]){4 / root, 3 / root, -12 / root}));
    routing.renorm_p = 1.25f;
    root = pow(pow(4, 1.25) + pow(3, 1.25) + pow(12, 1.25), 0.8);
    EXPECT(&routing, NULL, logits, ids, ((double[]){4 / root, 3 / root, -12 / root}));
    routing.renorm_p = 2;        /* over the chosen, then the scale */
    routing.scale = 10;
    EXPECT(&routing, NULL, logits, ((int64_t[]){2, 0}), ((double[]){8, 6}));
    routing.scale = 0;
    const double negative[] = {-4, -3};
    EXPECT(&routing, NULL, negative, ((int64_t[]){1, 0}), ((double[]){-0.6, -0.8}));
    const double tiny[] = {3e-200, 4e-200}, huge[] = {3e200, 4e200}, zeros[] = {0, 0}, endless[] = {1, ENDLESS};
    EXPECT(&routing, NULL, tiny, ((int64_t[]){1, 0}), ((double[]){0.8, 0.6}));
    EXPECT(&routing, NULL, huge, ((int64_t[]){1, 0}), ((double[]){0.8, 0.6}));
    EXPECT(&routing, NULL, zeros, ((int64_t[]){0, 1}), ((double[]){0, 0}));
    EXPECT(&routing, NULL, endless, ((int64_t[]){1, 0}), ((double[]){ENDLESS, 1}));
    /* dbrx: of the softmax over all. */
    routing.weight = MOE_SCORE_SOFTMAX;
    const double softmax[] = {log(4), log(3), log(1)};
    EXPECT(&routing, NULL, softmax, ((int64_t[]){0, 1}), ((double[]){0.8, 0.6}));
    routing.renorm_p = 1;
    EXPECT(&routing, NULL, softmax, ((int64_t[]){0, 1}), ((double[]){4.0 / 7, 3.0 / 7}));
}

/* Sigmoids of about 1e-20 and 2e-20, where each rule gives weights of its own. */
static void test_eps_rules_of_small_weights(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SIGMOID);
    const double logits[] = {log(1e-20), log(2e-20), -60}, sum = 3e-20;
    const int64_t ids[] = {1, 0};
    EXPECT(&routing, NULL, logits, ids, ((double[]){2e-20, 1e-20}));
    routing.renorm = MOE_RENORM_ADD_EPS;
    EXPECT(&routing, NULL, logits, ids, ((double[]){2.0 / 3, 1.0 / 3}));
    routing.renorm_eps = 1e-20f;
    double eps = routing.renorm_eps;
    EXPECT(&routing, NULL, logits, ids, ((double[]){2e-20 / (sum + eps), 1e-20 / (sum + eps)}));
    routing.renorm_eps = 1e-6f;
    eps = routing.renorm_eps;
    EXPECT(&routing, NULL, logits, ids, ((double[]){2e-20 / (sum + eps), 1e-20 / (sum + eps)}));
    routing.renorm = MOE_RENORM_CLAMP_EPS;
    EXPECT(&routing, NULL, logits, ids, ((double[]){2e-20 / eps, 1e-20 / eps}));
    routing.renorm_eps = 1e-20f;   /* below the sum: as if there were none */
    EXPECT(&routing, NULL, logits, ids, ((double[]){2.0 / 3, 1.0 / 3}));
}

static void test_expert_scale_comes_last(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX);
    const float scales[] = {8, 0.5f, -3};
    const double logits[] = {log(1), log(3), log(2)};
    routing.expert_scale = test_view(scales, sizeof scales, 0, MOE_FORMAT_F32);
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2, 0}), ((double[]){0.25, -1, 8.0 / 6}));
    routing.renorm = MOE_RENORM_ADD_EPS;   /* 0.6 and 0.4 first: scaled before, they would be 1.5 / -4.5 */
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){0.3, -1.2}));
    routing.scale = 2;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){0.6, -2.4}));
}

/* ---- selection ---- */

static void test_bias_stays_out_of_a_softmax(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX);
    const double logits[] = {log(5), log(3), log(2)};
    const float bias[] = {-0.35f, 0, 0};   /* keys 0.15, 0.3, 0.2 */
    EXPECT(&routing, bias, logits, ((int64_t[]){1, 2}), ((double[]){0.3, 0.2}));
    routing.renorm = MOE_RENORM_ADD_EPS;
    EXPECT(&routing, bias, logits, ((int64_t[]){1, 2}), ((double[]){0.6, 0.4}));
    routing = routing_of(MOE_SCORE_SOFTMAX, MOE_SCORE_SOFTMAX_TOPK);
    EXPECT(&routing, bias, logits, ((int64_t[]){1, 2}), ((double[]){0.6, 0.4}));
}

static void test_sigmoid_of_the_chosen(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_LOGIT, MOE_SCORE_SIGMOID);
    const double logits[] = {2, 40, 41, -1};   /* both sigmoids round to 1: only logits tell 41 from 40 */
    EXPECT(&routing, NULL, logits, ((int64_t[]){2, 1, 0}), ((double[]){1, 1, sigma(2)}));
    /* The bias is added to the logit here: 2 + 1 is below 40, where sigmoid(2) + 1 is above sigmoid(40). */
    EXPECT(&routing, ((float[]){1, 0, 0, 42.5f}), logits, ((int64_t[]){3, 2, 1}), ((double[]){sigma(-1), 1, 1}));
}

static void test_mask_where_all_keys_are_negative(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SIGMOID);
    const double logits[] = {0, log(3), -log(3), 0};   /* 1/2, 3/4, 1/4, 1/2 */
    const float bias[] = {-2, -2, -1, -1};
    routing.num_groups = 2;
    routing.top_groups = 1;                            /* the second: keys -3/4, -1/2 */
    EXPECT(&routing, bias, logits, ((int64_t[]){3, 2}), ((double[]){0.5, 0.25}));
    routing.group_mask_zero = true;
    EXPECT(&routing, bias, logits, ((int64_t[]){0, 1}), ((double[]){0.5, 0.75}));
}

/* As Inkling has it: sigmoids, a bias of the experts that compete, all that are used renormalised together. There the
 * weights are softmax(log sigmoid(z)). */
static void test_experts_that_are_always_chosen(void **state)
{
    (void)state;
    struct moe_routing routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SIGMOID);
    routing.renorm = MOE_RENORM_ADD_EPS;
    routing.scale = 2.5f;
    routing.num_always = 2;
    const double logits[] = {0.5, 2, 1, -3, -7, 9};   /* 4 and 5 always: the worst, and the best */
    double s[6], sum = 0;
    for (size_t e = 0; e < 6; e++)
        s[e] = exp(-log1p(exp(-logits[e])));
    const size_t used[] = {3, 1, 4, 5};
    for (size_t i = 0; i < 4; i++)
        sum += s[used[i]];
    const float bias[] = {0, 0, 0, 1};
    EXPECT(&routing, bias, logits, ((int64_t[]){3, 1, 4, 5}),
           ((double[]){2.5 * s[3] / sum, 2.5 * s[1] / sum, 2.5 * s[4] / sum, 2.5 * s[5] / sum}));
    /* Groups count those that compete: {0, 1} and {2, 3}. */
    routing.renorm = MOE_RENORM_NONE;
    routing.scale = 0;
    routing.num_groups = 2;
    routing.top_groups = 1;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 0, 4, 5}), ((double[]){s[1], s[0], s[4], s[5]}));
    /* A softmax over all experts sees them, too. */
    routing = routing_of(MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX);
    routing.num_always = 1;
    const double shares[] = {log(1), log(3), log(4)};
    EXPECT(&routing, NULL, shares, ((int64_t[]){1, 2}), ((double[]){3.0 / 8, 0.5}));
    const double special[] = {NO_NUMBER, -ENDLESS, NO_NUMBER};
    struct result result;
    route_both(&result, &routing, NULL, special, 3, 2);
    assert_false(result.finite);
    const double one_nan[] = {1, 1, NO_NUMBER};
    EXPECT(&routing, NULL, one_nan, ((int64_t[]){0, 2}), ((double[]){0.5, 0}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_softcap_comes_before_the_score),
        cmocka_unit_test(test_softcap_of_small_and_endless_logits),
        cmocka_unit_test(test_sqrt_softplus),
        cmocka_unit_test(test_sqrt_softplus_of_extreme_logits),
        cmocka_unit_test(test_sparsemixer),
        cmocka_unit_test(test_sparsemixer_of_negative_logits),
        cmocka_unit_test(test_sparsemixer_of_special_logits),
        cmocka_unit_test(test_p_norm),
        cmocka_unit_test(test_eps_rules_of_small_weights),
        cmocka_unit_test(test_expert_scale_comes_last),
        cmocka_unit_test(test_bias_stays_out_of_a_softmax),
        cmocka_unit_test(test_sigmoid_of_the_chosen),
        cmocka_unit_test(test_mask_where_all_keys_are_negative),
        cmocka_unit_test(test_experts_that_are_always_chosen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
