// SPDX-License-Identifier: MIT
// Routing of one row: src/route.c against src/ref on every combination of axes, on ties and on values that are no
// numbers; and both against results worked out by hand on rows where each wrong reading of an axis shows.
#include "route_fixture.h"

/* ---- every combination of axes ---- */

typedef void fill_fn(struct test_rng *rng, double *logits, size_t num_experts);

static void fill_numbers(struct test_rng *rng, double *logits, size_t num_experts)
{
    float row[MAX_EXPERTS];
    test_fill_heavy(rng, row, 1, num_experts, 1.5);
    for (size_t e = 0; e < num_experts; e++)
        logits[e] = row[e];
}

static void fill_ties(struct test_rng *rng, double *logits, size_t num_experts)
{
    for (size_t e = 0; e < num_experts; e++)
        logits[e] = 0.5 * (double)test_below(rng, 5) - 1;
}

static void fill_special(struct test_rng *rng, double *logits, size_t num_experts)
{
    const double values[] = {NO_NUMBER, -ENDLESS, ENDLESS, -0.0, 1, -2, 700, -800};
    size_t first = test_below(rng, 3), count = 1 + test_below(rng, 8 - first);
    for (size_t e = 0; e < num_experts; e++)
        logits[e] = test_below(rng, 3) == 0 ? test_gaussian(rng) : values[first + test_below(rng, count)];
    if (test_below(rng, 4) == 0)
        for (size_t e = 0; e < num_experts; e++)
            logits[e] = values[test_below(rng, 3)];
}

static void random_row(struct test_rng *rng, const struct moe_routing *routing, bool bias, fill_fn *fill,
                       size_t num_experts)
{
    double logits[MAX_EXPERTS];
    float biases[MAX_EXPERTS], scales[MAX_EXPERTS];
    struct result result;
    struct moe_routing own = *routing;
    size_t top_k = test_below(rng, 8) == 0 ? num_experts : 1 + test_below(rng, num_experts < 10 ? num_experts : 10);
    own.num_always = test_below(rng, 3) == 0 ? test_below(rng, top_k) : 0;
    if (own.num_groups > 1 && (num_experts - own.num_always) % own.num_groups != 0)
        own.num_always = 0;
    /* Two tanh that differ in a last place break ties of sums of keys. */
    own.softcap = fill != fill_ties && test_below(rng, 3) == 0 ? 30 : 0;
    fill(rng, logits, num_experts);
    for (size_t e = 0; e < num_experts; e++) {
        biases[e] = 0.25f * (float)((int)test_below(rng, 9) - 4);
        scales[e] = 0.5f + (float)test_below(rng, 7);
        /* So far from 0 tanh is 1 up to less than a double can tell, and a tie or not. */
        if (own.softcap != 0 && fabs(logits[e]) > 300 && fabs(logits[e]) < 650)
            logits[e] = 300;
    }
    if (test_below(rng, 3) == 0)
        own.expert_scale = test_view(scales, num_experts * sizeof *scales, 0, MOE_FORMAT_F32);
    route_both(&result, &own, bias ? biases : NULL, logits, num_experts, top_k);
}

static void over_groups(struct test_rng *rng, struct moe_routing routing, bool bias, fill_fn *fill)
{
    const size_t grouped[][3] = {{8, 2, 1}, {16, 4, 2}, {24, 8, 3}, {6, 6, 2}, {60, 4, 4}, {256, 8, 4}};
    const size_t plain[] = {1, 2, 7, 16, 60};
    routing.num_groups = 0;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        random_row(rng, &routing, bias, fill, plain[i]);
    for (size_t i = 0; i < sizeof grouped / sizeof *grouped; i++) {
        routing.num_groups = grouped[i][1];
        routing.top_groups = grouped[i][2];
        for (int way = 0; way < 4; way++) {
            routing.group_score = way & 1 ? MOE_GROUP_MAX : MOE_GROUP_TOP2_SUM;
            routing.group_mask_zero = way & 2;
            random_row(rng, &routing, bias, fill, grouped[i][0]);
        }
    }
}

static void over_axes(uint64_t seed, fill_fn *fill)
{
    const struct {
        enum moe_renorm renorm;
        float eps, p;
    } renorms[] = {{MOE_RENORM_NONE, 0, 0},          {MOE_RENORM_ADD_EPS, 0, 0},   {MOE_RENORM_ADD_EPS, 1e-20f, 0},
                   {MOE_RENORM_ADD_EPS, 0.125f, 0},  {MOE_RENORM_CLAMP_EPS, 0, 0}, {MOE_RENORM_CLAMP_EPS, 6.1e-5f, 0},
                   {MOE_RENORM_CLAMP_EPS, 0.75f, 0}, {MOE_RENORM_P_NORM, 0, 1},    {MOE_RENORM_P_NORM, 0, 2},
                   {MOE_RENORM_P_NORM, 0, 3.5f}};
    const enum moe_score selects[] = {MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_SCORE_SIGMOID, MOE_SCORE_LOGIT,
                                      MOE_SCORE_SQRT_SOFTPLUS};
    struct test_rng rng = {seed};
    for (size_t select = 0; select < sizeof selects / sizeof *selects; select++)
        for (int weight = MOE_SCORE_DEFAULT; weight <= MOE_SCORE_SPARSEMIXER; weight++)
            for (size_t i = 0; i < sizeof renorms / sizeof *renorms; i++)
                for (int way = 0; way < 4; way++) {
                    struct moe_routing routing;
                    MOE_INIT(&routing);
                    routing.select = weight == MOE_SCORE_SPARSEMIXER ? MOE_SCORE_LOGIT : selects[select];
                    routing.weight = (enum moe_score)weight;
                    routing.renorm = renorms[i].renorm;
                    routing.renorm_eps = renorms[i].eps;
                    routing.renorm_p = renorms[i].p;
                    routing.sparsemixer_eps = way & 1 ? 0.01f : 0.2f;
                    routing.scale = way & 1 ? 2.5f : 0;
                    over_groups(&rng, routing, way & 2, fill);
                }
}

static void test_axes_on_numbers(void **state)
{
    (void)state;
    over_axes(1, fill_numbers);
}

static void test_axes_on_ties(void **state)
{
    (void)state;
    over_axes(2, fill_ties);
}

static void test_axes_on_special_values(void **state)
{
    (void)state;
    over_axes(3, fill_special);
}

static void test_many_experts(void **state)
{
    (void)state;
    struct test_rng rng = {4};
    struct moe_routing routing;
    MOE_INIT(&routing);
    for (size_t i = 0; i < 300; i++) {
        routing.weight = (enum moe_score)(i % 7);
        routing.renorm = (enum moe_renorm)(i % 4);
        routing.renorm_p = 2;
        routing.num_groups = i % 2 ? 28 : 0;
        routing.top_groups = 5;
        random_row(&rng, &routing, i % 7 < 3, i % 11 < 8 ? fill_numbers : fill_ties, MAX_EXPERTS);
    }
}

/* ---- by hand ---- */

static void test_bias_selects_only(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_SIGMOID;
    const double logits[] = {0, log(3), -log(3)};   /* sigmoids 1/2, 3/4, 1/4 */
    const float bias[] = {0, 0, 0.625f};            /* keys 1/2, 3/4, 7/8 */
    EXPECT(&routing, bias, logits, ((int64_t[]){2, 1}), ((double[]){0.25, 0.75}));
    routing.renorm = MOE_RENORM_ADD_EPS;
    EXPECT(&routing, bias, logits, ((int64_t[]){2, 1}), ((double[]){0.25, 0.75}));
    routing.scale = 3;   /* after the division */
    EXPECT(&routing, bias, logits, ((int64_t[]){2, 1}), ((double[]){0.75, 2.25}));
    /* The bias is added to the score: added to the logit it would leave 1 before 2 (log 3 > 0.625 - log 3). */
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 0}), ((double[]){3 * 0.6, 3 * 0.4}));
}

static void test_softmax_of_all_or_of_chosen(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    const double logits[] = {log(1), log(4), log(3), log(2)};
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){0.4, 0.3}));
    routing.weight = MOE_SCORE_SOFTMAX_TOPK;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){4.0 / 7, 3.0 / 7}));
    routing.weight = MOE_SCORE_LOGIT;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){log(4), log(3)}));
    routing.weight = MOE_SCORE_SIGMOID;
    EXPECT(&routing, NULL, logits, ((int64_t[]){1, 2}), ((double[]){0.8, 0.75}));
    /* Selected by softmax plus bias, weighed by sigmoid: keys 0.1 + 0.35, 0.4, 0.3, 0.2. */
    const float bias[] = {0.35f, 0, 0, 0};
    routing.select = MOE_SCORE_SOFTMAX;
    EXPECT(&routing, bias, logits, ((int64_t[]){0, 1}), ((double[]){0.5, 0.8}));
}

static void test_eps_rules(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_LOGIT;
    const double logits[] = {0.5, 0.25, 0.125};
    routing.renorm_eps = 0.25f;
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1}), ((double[]){0.5, 0.25}));
    routing.renorm = MOE_RENORM_ADD_EPS;
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1}), ((double[]){0.5, 0.25}));
    routing.renorm = MOE_RENORM_CLAMP_EPS;   /* the sum is above */
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1}), ((double[]){2.0 / 3, 1.0 / 3}));
    routing.renorm_eps = 2;                  /* the sum is below */
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1}), ((double[]){0.25, 0.125}));
    routing.renorm = MOE_RENORM_ADD_EPS;
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1}), ((double[]){0.5 / 2.75, 0.25 / 2.75}));
}

static void test_group_scores(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_LOGIT;
    routing.num_groups = 2;
    routing.top_groups = 1;
    /* Best single key in group 0, best two in group 1, best three in group 0. */
    const double logits[] = {5, 1, 1, 4, 3, -9};
    EXPECT(&routing, NULL, logits, ((int64_t[]){3, 4}), ((double[]){4, 3}));
    routing.group_score = MOE_GROUP_MAX;
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1}), ((double[]){5, 1}));
    /* Groups of one expert have no second key. */
    routing.group_score = MOE_GROUP_TOP2_SUM;
    routing.num_groups = 3;
    routing.top_groups = 2;
    const double singles[] = {1, 3, 2};
    EXPECT(&routing, NULL, singles, ((int64_t[]){1, 2}), ((double[]){3, 2}));
    /* A group's score counts the bias too. */
    routing.num_groups = 2;
    routing.top_groups = 1;
    const double even[] = {1, 1, 2, 2};
    EXPECT(&routing, ((float[]){0, 3, 0, 0}), even, ((int64_t[]){1, 0}), ((double[]){1, 1}));
}

static void test_mask_of_dropped_groups(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_LOGIT;
    routing.num_groups = 2;
    routing.top_groups = 1;
    const double logits[] = {-5, -6, -1, -2};
    EXPECT(&routing, NULL, logits, ((int64_t[]){2, 3}), ((double[]){-1, -2}));
    routing.group_mask_zero = true;   /* a key of 0 beats the negative keys of the group that was kept */
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1}), ((double[]){-5, -6}));
    const double mixed[] = {-5, 3, -1, 2};   /* the dropped have key 0, and weigh what they are */
    EXPECT(&routing, NULL, mixed, ((int64_t[]){3, 0, 1, 2}), ((double[]){2, -5, 3, -1}));
    /* More slots than the kept groups have experts: the rest come in the order of ids. */
    routing.group_mask_zero = false;
    EXPECT(&routing, NULL, logits, ((int64_t[]){2, 3, 0, 1}), ((double[]){-1, -2, -5, -6}));
}

static void test_ties(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    const double logits[] = {0, 0, 0, 0};
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1, 2}), ((double[]){0.25, 0.25, 0.25}));
    const double zeros[] = {-0.0, 0.0};   /* equal, too */
    EXPECT(&routing, NULL, zeros, ((int64_t[]){0, 1}), ((double[]){0.5, 0.5}));
    routing.num_groups = 2;
    routing.top_groups = 1;
    EXPECT(&routing, NULL, logits, ((int64_t[]){0, 1, 2}), ((double[]){0.25, 0.25, 0.25}));
}

static void test_no_numbers(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    struct result result;
    const double nan_row[] = {NO_NUMBER, NO_NUMBER, NO_NUMBER}, low_row[] = {-ENDLESS, -ENDLESS, -ENDLESS};
    const double mixed[] = {-ENDLESS, NO_NUMBER, ENDLESS};
    const double *rows[] = {nan_row, low_row, mixed};
    for (size_t i = 0; i < 3; i++) {
        expect(&routing, NULL, rows[i], 3, 2, (int64_t[]){0, 1}, (double[]){0, 0});
        route_both(&result, &routing, NULL, rows[i], 3, 2);
        assert_false(result.finite);
    }
    const double one_nan[] = {NO_NUMBER, log(1), log(3)};
    EXPECT(&routing, NULL, one_nan, ((int64_t[]){2, 1, 0}), ((double[]){0.75, 0.25, 0}));
    const double below[] = {NO_NUMBER, -ENDLESS, 2};
    EXPECT(&routing, NULL, below, ((int64_t[]){2, 1, 0}), ((double[]){1, 0, 0}));
    const double above[] = {1, ENDLESS, 2, ENDLESS};
    EXPECT(&routing, NULL, above, ((int64_t[]){1, 3, 0}), ((double[]){0.5, 0.5, 0}));
}

static void test_one_expert(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    const double logits[] = {-3};
    EXPECT(&routing, NULL, logits, ((int64_t[]){0}), ((double[]){1}));
    routing.weight = MOE_SCORE_SIGMOID;
    routing.renorm = MOE_RENORM_ADD_EPS;
    routing.renorm_eps = 1e-20f;
    EXPECT(&routing, NULL, logits, ((int64_t[]){0}), ((double[]){1}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bias_selects_only),   cmocka_unit_test(test_softmax_of_all_or_of_chosen),
        cmocka_unit_test(test_eps_rules),           cmocka_unit_test(test_group_scores),
        cmocka_unit_test(test_mask_of_dropped_groups), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_no_numbers),          cmocka_unit_test(test_one_expert),
        cmocka_unit_test(test_axes_on_numbers),     cmocka_unit_test(test_axes_on_ties),
        cmocka_unit_test(test_axes_on_special_values), cmocka_unit_test(test_many_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
