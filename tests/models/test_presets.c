// SPDX-License-Identifier: MIT
// moe_preset: routing and activation of every family, against expectations written out here once more, and the rules
// that the tables themselves keep.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "moe/moe.h"
#include "presets.h"

struct expectation {
    const char *name, *gguf;   /* gguf: an architecture of one row that means the same; NULL: none, or several */
    enum moe_score select, weight;
    enum moe_renorm renorm;
    float eps, scale;
    size_t groups, top_groups;
    const char *act;           /* NULL: SiLU */
};

#define SOFTMAX MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX
#define SIGMOID MOE_SCORE_DEFAULT, MOE_SCORE_SIGMOID
#define CHOSEN MOE_SCORE_LOGIT, MOE_SCORE_SOFTMAX_TOPK
#define ADD MOE_RENORM_ADD_EPS
#define NONE MOE_RENORM_NONE
static const char OPENAI[] = "swish 1.702, up + 1, clamped to 7 before", CLAMPED[] = "clamped to 10 before",
                  GELU_TANH[] = "gelu tanh", RELU2[] = "relu2";

/* Where config.json decides on renormalisation: what published models of the family do. A scale that multiplies the
 * experts' sum is not the routing's: 0. */
static const struct expectation families[] = {
    {"afmoe", "afmoe", SIGMOID, ADD, 1e-20f, 1, 0, 0, NULL},
    {"aria_text", NULL, CHOSEN, NONE, 0, 0, 0, 0, NULL},
    {"axk1", NULL, SIGMOID, ADD, 1e-20f, 2.5f, 8, 4, NULL},
    {"axk2", NULL, SIGMOID, ADD, 1e-20f, 2.5f, 0, 0, NULL},
    {"cohere2_moe", "cohere2moe", CHOSEN, NONE, 0, 0, 0, 0, NULL},
    {"dbrx", "dbrx", SOFTMAX, MOE_RENORM_P_NORM, 0, 0, 0, 0, NULL},
    {"deepseek_ocr2_text", NULL, SOFTMAX, NONE, 0, 1, 0, 0, NULL},
    {"deepseek_v2", NULL, SOFTMAX, NONE, 0, 1, 0, 0, NULL},
    {"deepseek_v3", NULL, SIGMOID, ADD, 1e-20f, 2.5f, 8, 4, NULL},
    {"deepseek_v32", "deepseek32", SIGMOID, ADD, 1e-20f, 2.5f, 8, 4, NULL},
    {"deepseek_v4", "deepseek4", MOE_SCORE_DEFAULT, MOE_SCORE_SQRT_SOFTPLUS, ADD, 1e-20f, 1.5f, 0, 0, CLAMPED},
    {"diffusion_gemma_text", NULL, SOFTMAX, ADD, 0, 0, 0, 0, GELU_TANH},
    {"dots1", "dots1", SIGMOID, ADD, 1e-20f, 1, 1, 1, NULL},
    {"ernie4_5_moe", "ernie4_5-moe", SOFTMAX, MOE_RENORM_CLAMP_EPS, 1e-12f, 0, 0, 0, NULL},
    {"ernie4_5_vl_moe_text", NULL, SOFTMAX, MOE_RENORM_CLAMP_EPS, 1e-12f, 0, 0, 0, NULL},
    {"exaone_moe", "exaone-moe", SIGMOID, ADD, 1e-20f, 2.5f, 1, 1, NULL},
    {"flex_olmo", NULL, SOFTMAX, NONE, 0, 0, 0, 0, NULL},
    {"gemma4_text", "gemma4", SOFTMAX, ADD, 0, 0, 0, 0, GELU_TANH},
    {"glm4_moe", "glm4moe", SIGMOID, ADD, 1e-20f, 1, 0, 0, NULL},
    {"glm4_moe_lite", NULL, SIGMOID, ADD, 1e-20f, 1.8f, 0, 0, NULL},
    {"glm4v_moe_text", NULL, SIGMOID, ADD, 1e-20f, 1, 0, 0, NULL},
    {"glm5_next_text", "glm5-next", SIGMOID, ADD, 1e-20f, 2.5f, 0, 0, CLAMPED},
    {"glm_moe_dsa", "glm-dsa", SIGMOID, ADD, 1e-20f, 2.5f, 0, 0, NULL},
    {"gpt_oss", "gpt-oss", CHOSEN, NONE, 0, 0, 0, 0, OPENAI},
    {"granitemoe", "granitemoe", CHOSEN, NONE, 0, 0, 0, 0, NULL},
    {"granitemoe_swa", NULL, CHOSEN, NONE, 0, 0, 0, 0, NULL},
    {"granitemoehybrid", "granitehybrid", CHOSEN, NONE, 0, 0, 0, 0, NULL},
    {"granitemoeshared", NULL, CHOSEN, NONE, 0, 0, 0, 0, NULL},
    {"hunyuan_v1_moe", "hunyuan-moe", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"hy_v3", "hy_v3", SIGMOID, ADD, 1e-20f, 2.826f, 0, 0, NULL},
    {"hy_v4", "hy_v4", SIGMOID, ADD, 1e-20f, 2.827f, 0, 0, CLAMPED},
    {"inkling_text", NULL, SIGMOID, ADD, 0, 8, 0, 0, NULL},
    {"jamba", "jamba", SOFTMAX, NONE, 0, 0, 0, 0, NULL},
    {"jetmoe", NULL, CHOSEN, NONE, 0, 0, 0, 0, NULL},
    {"kimi_k2", NULL, SIGMOID, ADD, 1e-20f, 2.5f, 8, 4, NULL},
    {"kimi_linear", "kimi-linear", SIGMOID, ADD, 1e-20f, 2.446f, 0, 0, NULL},
    {"laguna", "laguna", SIGMOID, ADD, 0, 0, 0, 0, NULL},
    {"lfm2_moe", "lfm2moe", SIGMOID, ADD, 1e-6f, 1, 0, 0, NULL},
    {"llama4_text", "llama4", MOE_SCORE_LOGIT, MOE_SCORE_SIGMOID, NONE, 0, 0, 0, 0, NULL},
    {"longcat_flash", NULL, SOFTMAX, NONE, 0, 6, 0, 0, NULL},
    {"mellum", "mellum", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"mimo_v2_flash", "mimo2", SIGMOID, ADD, 1e-20f, 1, 0, 0, NULL},
    {"minimax", "minimax-01", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"minimax_m2", "minimax-m2", SIGMOID, ADD, 0, 0, 0, 0, NULL},
    {"minimax_m3_vl_text", "minimax-m3", SIGMOID, ADD, 0, 0, 0, 0, OPENAI},
    {"mistral4", "mistral4", SOFTMAX, ADD, 1e-20f, 1, 0, 0, NULL},
    {"mixtral", "llama", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"nemotron_h", "nemotron_h_moe", SIGMOID, ADD, 1e-20f, 1, 0, 0, RELU2},
    {"olmoe", "olmoe", SOFTMAX, NONE, 0, 0, 0, 0, NULL},
    {"openai_privacy_filter", NULL, CHOSEN, NONE, 0, 0, 0, 0, OPENAI},
    {"phimoe", "phimoe", MOE_SCORE_LOGIT, MOE_SCORE_SPARSEMIXER, NONE, 0, 0, 0, 0, NULL},
    {"qwen2_moe", "qwen2moe", SOFTMAX, NONE, 0, 0, 0, 0, NULL},
    {"qwen3_5_moe_text", "qwen35moe", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"qwen3_moe", "qwen3moe", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"qwen3_next", "qwen3next", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"qwen3_omni_moe_text", NULL, SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"qwen3_vl_moe_text", "qwen3vlmoe", SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"qwen4_exp_text", NULL, SOFTMAX, ADD, 0, 0, 0, 0, NULL},
    {"solar_open", NULL, SIGMOID, ADD, 1e-20f, 1, 0, 0, NULL},
    {"step3p5", "step35", SIGMOID, ADD, 0, 0, 0, 0, NULL},   /* its clamps come with a limit, from a key */
};
static const char *const refused[] = {"doge", "nllb-moe", "switch_transformers", "vitpose", "vitpose_backbone", "zaya"};
enum { NUM_FAMILIES = sizeof families / sizeof *families, NUM_REFUSED = sizeof refused / sizeof *refused };

static void check_act(const struct expectation *e, const struct moe_act *act)
{
    bool clamped = e->act == OPENAI || e->act == CLAMPED;
    assert_int_equal(act->kind, e->act == GELU_TANH ? MOE_ACT_GELU_TANH
                                : e->act == RELU2   ? MOE_ACT_RELU2
                                                    : MOE_ACT_SWISH);
    assert_int_equal(act->clamp, clamped ? MOE_CLAMP_BEFORE : MOE_CLAMP_NONE);
    assert_true(act->limit == (e->act == OPENAI ? 7.0f : e->act == CLAMPED ? 10.0f : 0.0f));
    assert_true(act->alpha == (e->act == OPENAI ? 1.702f : 0.0f));
    assert_true(act->up_offset == (e->act == OPENAI ? 1.0f : 0.0f));
}

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
    bool best = strcmp(e->name, "deepseek_v2") == 0 || strcmp(e->name, "deepseek_ocr2_text") == 0;
    assert_int_equal(routing.group_score, best ? MOE_GROUP_MAX : MOE_GROUP_TOP2_SUM);
    bool zero = best || strcmp(e->name, "axk2") == 0 ||
                strcmp(e->name, "mistral4") == 0;
    assert_int_equal(routing.group_mask_zero, zero);
    assert_true(routing.renorm_p == (e->renorm == MOE_RENORM_P_NORM ? 1.0f : 0.0f));
    assert_true(routing.sparsemixer_eps == (e->weight == MOE_SCORE_SPARSEMIXER ? 0.01f : 0.0f));
    assert_true(routing.softcap == 0.0f);
    assert_null(routing.router);
    assert_null(routing.selection_bias.base);
    check_act(e, &act);
}

static void test_families_by_both_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FAMILIES; i++) {
        check_family(&families[i], families[i].name);
        if (families[i].gguf != NULL)
            check_family(&families[i], families[i].gguf);
    }
}

/* No family is without an expectation: a new row of the table has to be written here too. */
static void test_families_are_all_there(void **state)
{
    (void)state;
    for (size_t p = 0; p < moe_num_presets; p++) {
        bool found = false;
        for (size_t i = 0; i < NUM_FAMILIES; i++)
            found = found || strcmp(families[i].name, moe_presets[p].name) == 0;
        for (size_t i = 0; i < NUM_REFUSED; i++)
            found = found || strcmp(refused[i], moe_presets[p].name) == 0;
        if (!found)
            fail_msg("%s has no expectation", moe_presets[p].name);
    }
}

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_REFUSED; i++) {
        const struct moe_preset *preset = moe_preset_find(refused[i]);
        assert_non_null(preset);
        assert_non_null(preset->refused);
        assert_int_equal(moe_preset(refused[i], NULL, NULL), MOE_ERR_UNSUPPORTED);
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

/* ---- the tables' own rules ----------------------------------------------------------------------------------- */

static void check_mlp(const struct moe_mlp_names layouts[MOE_MAX_MLP_LAYOUTS], bool gated)
{
    assert_non_null(layouts[0].up);
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && layouts[i].up != NULL; i++) {
        assert_non_null(layouts[i].down);
        assert_true((layouts[i].layout & MOE_MLP_FUSED) != 0 || !gated || layouts[i].gate != NULL);
    }
}

static void check_names(const struct moe_preset *preset, const struct moe_names *names)
{
    assert_non_null(names);
    assert_non_null(names->role[MOE_ROLE_ROUTER]);
    check_mlp(names->experts, !preset->ungated);
    for (size_t role = 0; role < MOE_ROLES; role++)
        if ((preset->needs & (UINT32_C(1) << role)) != 0 && names->role[role] == NULL)
            fail_msg("%s needs role %zu, which has no name", preset->name, role);
    if (preset->shared != MOE_PRESET_SHARED_NONE || preset->shared_routed)
        check_mlp(names->shared, !preset->ungated);
    if (preset->shared == MOE_PRESET_SHARED_SIGMOID)
        assert_non_null(names->role[MOE_ROLE_SHARED_GATE]);
    if ((preset->keys & MOE_KEY_BIT(LATENT)) != 0)
        assert_non_null(names->role[MOE_ROLE_LATENT_IN]);
    if (preset->biases)
        assert_non_null(names->experts[0].up_bias);
}

static void test_table_is_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < moe_num_presets; i++) {
        const struct moe_preset *preset = &moe_presets[i];
        assert_ptr_equal(preset, moe_preset_find(preset->name));
        if (i > 0 && strcmp(moe_presets[i - 1].name, preset->name) >= 0)
            fail_msg("%s is not behind %s", preset->name, moe_presets[i - 1].name);
        if (preset->refused == NULL)
            check_names(preset, preset->names);
        assert_true(preset->act.clamp == MOE_CLAMP_NONE || preset->act.limit > 0.0f ||
                    (preset->keys & MOE_KEY_BIT(LIMIT)) != 0);
        assert_true(preset->renorm != MOE_RENORM_P_NORM || preset->renorm_p >= 1.0f);
    }
    assert_null(moe_preset_find("llama"));
    assert_null(moe_preset_find_gguf("mixtral"));
}

static void test_gguf_table_is_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < moe_num_presets_gguf; i++) {
        const struct moe_preset_gguf *row = &moe_presets_gguf[i];
        const struct moe_preset *preset = moe_preset_of_gguf(row);
        if (preset == NULL)
            fail_msg("%s is of a family that is not there", row->architecture);
        if (preset->refused == NULL)
            assert_non_null((row->names != NULL ? row->names : &moe_names_gguf)->experts[0].up);
    }
}

static void test_other_names(void **state)
{
    (void)state;
    static const struct {
        const char *outer, *family;
        bool sure;
    } cases[] = {{"llama4", "llama4_text", true},
                 {"gemma4", "gemma4_text", true},
                 {"qwen3_vl_moe", "qwen3_vl_moe_text", true},
                 {"qwen3_omni_moe", "qwen3_omni_moe_text", true},
                 {"qwen3_omni_moe_thinker", "qwen3_omni_moe_text", true},
                 {"step3p7", "step3p5", true},
                 {"minimax_m3_vl", "minimax_m3_vl_text", true},
                 {"inkling_mm_model", "inkling_text", true},
                 {"kimi_k25", "deepseek_v3", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct moe_preset *preset = moe_preset_find_outer(cases[i].outer, cases[i].sure);
        assert_non_null(preset);
        assert_string_equal(preset->name, cases[i].family);
        assert_null(moe_preset_find_outer(cases[i].outer, !cases[i].sure));
    }
    assert_null(moe_preset_find_outer("qwen3_omni", true));   /* no more than a beginning */
    assert_null(moe_preset_find_outer("", true));
}

static void test_activation_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum moe_act_kind kind;
        float alpha;
    } acts[] = {{"silu", MOE_ACT_SWISH, 0},          {"swish", MOE_ACT_SWISH, 0},
                {"quick_gelu", MOE_ACT_SWISH, 1.702f},
                {"gelu", MOE_ACT_GELU_ERF, 0},       {"gelu_python", MOE_ACT_GELU_ERF, 0},
                {"gelu_fast", MOE_ACT_GELU_TANH, 0}, {"gelu_pytorch_tanh", MOE_ACT_GELU_TANH, 0},
                {"gelu_new", MOE_ACT_GELU_TANH, 0},  {"relu", MOE_ACT_RELU, 0},
                {"relu2", MOE_ACT_RELU2, 0}};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        struct moe_act act = {.kind = (enum moe_act_kind)99, .alpha = 3};
        assert_true(moe_preset_find_act(acts[i].name, &act));
        assert_int_equal(act.kind, acts[i].kind);
        assert_float_equal(act.alpha, acts[i].alpha, 0);
    }
    struct moe_act act = {0};
    assert_false(moe_preset_find_act("tanh", &act));
    assert_false(moe_preset_find_act("", &act));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families_by_both_names),
        cmocka_unit_test(test_families_are_all_there),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_either_struct_may_be_absent),
        cmocka_unit_test(test_short_structs),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_table_is_sound),
        cmocka_unit_test(test_gguf_table_is_sound),
        cmocka_unit_test(test_other_names),
        cmocka_unit_test(test_activation_names),
    };
    return cmocka_run_group_tests_name("models/presets", tests, NULL, NULL);
}
