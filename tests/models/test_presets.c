// SPDX-License-Identifier: MIT
// moe_preset: routing and activation of every family under both of its names, against expectations written out here.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "moe/moe.h"
#include "presets.h"

struct expectation {
    const char *name, *gguf;
    enum moe_score select, weight;
    enum moe_renorm renorm;
    float eps, scale;
    size_t groups, top_groups;
};

/* Where config.json decides on renormalisation: what published models of the family do. */
static const struct expectation families[] = {
    {"qwen3_moe", "qwen3moe", MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_RENORM_ADD_EPS, 0, 0, 0, 0},
    {"mixtral", "llama", MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_RENORM_ADD_EPS, 0, 0, 0, 0},
    {"olmoe", "olmoe", MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_RENORM_NONE, 0, 0, 0, 0},
    {"qwen2_moe", "qwen2moe", MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_RENORM_NONE, 0, 0, 0, 0},
    {"glm4_moe", "glm4moe", MOE_SCORE_DEFAULT, MOE_SCORE_SIGMOID, MOE_RENORM_ADD_EPS, 1e-20f, 1.0f, 0, 0},
    {"deepseek_v3", "deepseek2", MOE_SCORE_DEFAULT, MOE_SCORE_SIGMOID, MOE_RENORM_ADD_EPS, 1e-20f, 2.5f, 8, 4},
    {"gpt_oss", "gpt-oss", MOE_SCORE_LOGIT, MOE_SCORE_SOFTMAX_TOPK, MOE_RENORM_NONE, 0, 0, 0, 0},
    {"llama4_text", "llama4", MOE_SCORE_LOGIT, MOE_SCORE_SIGMOID, MOE_RENORM_NONE, 0, 0, 0, 0},
};
enum { NUM_FAMILIES = sizeof families / sizeof *families };

static void check_family(const struct expectation *e, const char *name)
{
    struct moe_routing routing;
    struct moe_act act;
    memset(&routing, 0x5a, sizeof routing);
    memset(&act, 0x5a, sizeof act);
    routing.struct_size = sizeof routing;
    act.struct_size = sizeof act;
    assert_int_equal(moe_preset(name, &routing, &act), MOE_OK);
    assert_int_equal(routing.struct_size, sizeof routing);
    assert_int_equal(act.struct_size, sizeof act);
    assert_int_equal(routing.select, e->select);
    assert_int_equal(routing.weight, e->weight);
    assert_int_equal(routing.renorm, e->renorm);
    assert_true(routing.renorm_eps == e->eps);
    assert_true(routing.scale == e->scale);
    assert_int_equal(routing.num_groups, e->groups);
    assert_int_equal(routing.top_groups, e->top_groups);
    assert_int_equal(routing.group_score, MOE_GROUP_TOP2_SUM);
    assert_false(routing.group_mask_zero);
    assert_null(routing.router);
    assert_null(routing.selection_bias.base);
    bool oai = strcmp(e->name, "gpt_oss") == 0;
    assert_int_equal(act.kind, MOE_ACT_SWISH);
    assert_int_equal(act.clamp, oai ? MOE_CLAMP_BEFORE : MOE_CLAMP_NONE);
    assert_true(act.limit == (oai ? 7.0f : 0.0f));
    assert_true(act.alpha == (oai ? 1.702f : 0.0f));
    assert_true(act.up_offset == (oai ? 1.0f : 0.0f));
}

static void test_families_by_both_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FAMILIES; i++) {
        check_family(&families[i], families[i].name);
        check_family(&families[i], families[i].gguf);
    }
}

static void test_either_struct_may_be_absent(void **state)
{
    (void)state;
    struct moe_routing routing;
    struct moe_act act;
    MOE_INIT(&routing);
    MOE_INIT(&act);
    assert_int_equal(moe_preset("gpt_oss", &routing, NULL), MOE_OK);
    assert_int_equal(routing.weight, MOE_SCORE_SOFTMAX_TOPK);
    assert_int_equal(moe_preset("gpt_oss", NULL, &act), MOE_OK);
    assert_int_equal(act.clamp, MOE_CLAMP_BEFORE);
}

/* A caller built against a header with fewer fields gets those and nothing behind them. */
static void test_short_structs(void **state)
{
    (void)state;
    struct moe_act act;
    memset(&act, 0x5a, sizeof act);
    act.struct_size = offsetof(struct moe_act, limit);
    assert_int_equal(moe_preset("gpt_oss", NULL, &act), MOE_OK);
    assert_int_equal(act.clamp, MOE_CLAMP_BEFORE);
    unsigned char untouched[sizeof act.limit];
    memset(untouched, 0x5a, sizeof untouched);
    assert_memory_equal(&act.limit, untouched, sizeof untouched);
}

static void test_errors(void **state)
{
    (void)state;
    struct moe_routing routing;
    struct moe_act act;
    MOE_INIT(&routing);
    MOE_INIT(&act);
    assert_int_equal(moe_preset("no_such_family", &routing, &act), MOE_ERR_UNSUPPORTED);
    assert_int_equal(moe_preset("", &routing, &act), MOE_ERR_UNSUPPORTED);
    assert_int_equal(moe_preset(NULL, &routing, &act), MOE_ERR_ARGUMENT);
    act.struct_size = 0;
    assert_int_equal(moe_preset("gpt_oss", &routing, &act), MOE_ERR_ARGUMENT);
    assert_int_equal(routing.weight, MOE_SCORE_DEFAULT);   /* nothing was written */
}

/* The table's own rules: every name once, and tensor names complete. */
static void test_table_is_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FAMILIES; i++) {
        const struct moe_preset *preset = moe_preset_find(MOE_VOCABULARY_CONFIG, families[i].name);
        assert_non_null(preset);
        assert_ptr_equal(preset, moe_preset_find(MOE_VOCABULARY_GGUF, families[i].gguf));
        for (int v = 0; v < MOE_VOCABULARIES; v++) {
            const struct moe_names *names = moe_preset_names(preset, (enum moe_vocabulary)v);
            assert_non_null(names->router);
            assert_non_null(names->experts[0].up);
            assert_non_null(names->experts[0].down);
            assert_true((names->experts[0].layout & MOE_MLP_FUSED) != 0 || names->experts[0].gate != NULL);
            if (preset->router_bias)
                assert_non_null(names->router_bias);
            if (preset->selection_bias)
                assert_non_null(names->selection_bias);
            if (preset->shared != MOE_PRESET_SHARED_NONE)
                assert_non_null(names->shared.up);
            if (preset->shared == MOE_PRESET_SHARED_SIGMOID)
                assert_non_null(names->shared_gate);
        }
    }
    assert_null(moe_preset_find(MOE_VOCABULARY_CONFIG, "llama"));
    assert_null(moe_preset_find(MOE_VOCABULARY_GGUF, "mixtral"));
}

static void test_activation_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum moe_act_kind kind;
    } acts[] = {{"silu", MOE_ACT_SWISH},         {"swish", MOE_ACT_SWISH},
                {"gelu", MOE_ACT_GELU_ERF},      {"gelu_pytorch_tanh", MOE_ACT_GELU_TANH},
                {"gelu_new", MOE_ACT_GELU_TANH}, {"relu", MOE_ACT_RELU},
                {"relu2", MOE_ACT_RELU2}};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        enum moe_act_kind kind = (enum moe_act_kind)99;
        assert_true(moe_preset_act_kind(acts[i].name, &kind));
        assert_int_equal(kind, acts[i].kind);
    }
    enum moe_act_kind kind = MOE_ACT_SWISH;
    assert_false(moe_preset_act_kind("tanh", &kind));
    assert_false(moe_preset_act_kind("", &kind));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families_by_both_names), cmocka_unit_test(test_either_struct_may_be_absent),
        cmocka_unit_test(test_short_structs),          cmocka_unit_test(test_errors),
        cmocka_unit_test(test_table_is_sound),         cmocka_unit_test(test_activation_names),
    };
    return cmocka_run_group_tests_name("models/presets", tests, NULL, NULL);
}
