// SPDX-License-Identifier: MIT
// Axes that only some of llama.cpp's architectures have, in files written here from nothing: old tensor names, scales
// beside tensors, lists with a value for each block, clamps, latent experts, hash tables, what is refused.
#include "model_files.h"

enum { EXPERTS = 8, HIDDEN = 12, ROWS = 20, LATENT = 16 };

/* Keys that all architectures have; blocks 0 and 1. */
static struct gguf begin(const char *architecture)
{
    struct gguf g = gguf_begin(architecture);
    gguf_u32(&g, "block_count", 2);
    gguf_u32(&g, "embedding_length", HIDDEN);
    gguf_u32(&g, "feed_forward_length", ROWS);
    gguf_u32(&g, "expert_count", EXPERTS);
    return g;
}

/* The same with sizes of all blocks. */
static struct gguf begin_even(const char *architecture)
{
    struct gguf g = begin(architecture);
    gguf_u32(&g, "expert_feed_forward_length", ROWS);
    gguf_u32(&g, "expert_used_count", 2);
    return g;
}

static void gguf_f32_list(struct gguf *g, const char *key, size_t count, const float *values)
{
    gguf_key(g, key, GGUF_ARRAY);
    append_u32(&g->metadata, GGUF_F32);
    append_u64(&g->metadata, count);
    append(&g->metadata, values, count * sizeof *values);
}

static const char *name_of(size_t block, const char *name)
{
    static char full[128];
    snprintf(full, sizeof full, "blk.%zu.%s", block, name);
    return full;
}

static void add_experts(struct gguf *g, size_t block)
{
    gguf_tensor2(g, name_of(block, "ffn_gate_inp.weight"), EXPERTS, HIDDEN);
    gguf_tensor3(g, name_of(block, "ffn_gate_exps.weight"), EXPERTS, ROWS, HIDDEN);
    gguf_tensor3(g, name_of(block, "ffn_up_exps.weight"), EXPERTS, ROWS, HIDDEN);
    gguf_tensor3(g, name_of(block, "ffn_down_exps.weight"), EXPERTS, HIDDEN, ROWS);
}

static void add_shared(struct gguf *g, size_t block, size_t rows)
{
    gguf_tensor2(g, name_of(block, "ffn_gate_shexp.weight"), rows, HIDDEN);
    gguf_tensor2(g, name_of(block, "ffn_up_shexp.weight"), rows, HIDDEN);
    gguf_tensor2(g, name_of(block, "ffn_down_shexp.weight"), HIDDEN, rows);
}

static void add_biased(struct gguf *g, size_t block)
{
    add_experts(g, block);
    gguf_tensor1(g, name_of(block, "exp_probs_b.bias"), EXPERTS);
}

static struct moe_model *save_and_open(struct gguf *g, const char *family)
{
    gguf_save(g);
    struct moe_model *model = open_model_at(temp_path("model.gguf"), 0);
    struct moe_model_info info;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_string_equal(info.family, family);
    return model;
}

static float view_value(const struct moe_view *view, size_t i)
{
    assert_non_null(view->base);
    return load_value((const unsigned char *)view->base + view->offset + 4 * i, view->format);
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

static void test_a_tensor_for_each_expert(void **state)
{
    (void)state;
    struct gguf g = begin("llama");
    gguf_u32(&g, "expert_used_count", 2);
    for (size_t b = 0; b < 2; b++) {
        gguf_tensor2(&g, name_of(b, "ffn_gate_inp.weight"), EXPERTS, HIDDEN);
        for (size_t e = 0; e < EXPERTS; e++) {
            char name[64];
            snprintf(name, sizeof name, "ffn_gate.%zu.weight", e);
            gguf_tensor2(&g, name_of(b, name), ROWS, HIDDEN);
            snprintf(name, sizeof name, "ffn_down.%zu.weight", e);
            gguf_tensor2(&g, name_of(b, name), HIDDEN, ROWS);
            snprintf(name, sizeof name, "ffn_up.%zu.weight", e);
            gguf_tensor2(&g, name_of(b, name), ROWS, HIDDEN);
        }
    }
    struct moe_model *model = save_and_open(&g, "mixtral");
    const struct moe_experts_params *p = open_block(model, 1)->experts;
    assert_int_equal(p->num_experts, EXPERTS);
    for (size_t i = 0; i < ROWS * HIDDEN; i++) {
        assert_true(matrix_value(p->gate, 3, i / HIDDEN, i % HIDDEN) == gguf_value("blk.1.ffn_gate.3.weight", i));
        assert_true(matrix_value(p->up, 7, i / HIDDEN, i % HIDDEN) == gguf_value("blk.1.ffn_up.7.weight", i));
        assert_true(matrix_value(p->down, 0, i / ROWS, i % ROWS) == gguf_value("blk.1.ffn_down.0.weight", i));
    }
    moe_model_close(model);
}

/* Beside a matrix of experts ".scale" is a factor of each; elsewhere, and in gemma4, it is something else. */
static void test_scales_beside_tensors(void **state)
{
    (void)state;
    struct gguf g = begin_even("qwen3moe");
    add_experts(&g, 0);
    add_experts(&g, 1);
    gguf_tensor1(&g, "blk.1.ffn_up_exps.scale", EXPERTS);
    gguf_tensor1(&g, "blk.1.ffn_down_exps.scale", EXPERTS);
    struct moe_model *model = save_and_open(&g, "qwen3_moe");
    assert_null(open_block(model, 0)->experts->up->scales);
    const struct moe_model_block *block = open_block(model, 1);
    assert_null(block->experts->gate->scales);
    assert_non_null(block->experts->up->scales);
    assert_non_null(block->experts->down->scales);
    for (size_t e = 0; e < EXPERTS; e++)
        assert_true(view_value(&block->experts->down->scales->factor->data, e) ==
                    gguf_value("blk.1.ffn_down_exps.scale", e));
    assert_null(block->layer->routing->expert_scale.base);
    moe_model_close(model);

    g = begin_even("gemma4");
    gguf_f32(&g, "attention.layer_norm_rms_epsilon", 1.0f);   /* without the architecture: does not count */
    gguf_f32(&g, "gemma4.attention.layer_norm_rms_epsilon", 0.125f);
    gguf_tensor2(&g, "blk.0.ffn_up.weight", ROWS, HIDDEN);
    add_experts(&g, 1);
    gguf_tensor1(&g, "blk.1.ffn_gate_inp.scale", HIDDEN);
    gguf_tensor1(&g, "blk.1.ffn_down_exps.scale", EXPERTS);
    model = save_and_open(&g, "gemma4_text");
    assert_null(open_block(model, 0));
    block = open_block(model, 1);
    assert_null(block->experts->down->scales);
    const struct moe_routing *routing = block->layer->routing;
    assert_non_null(routing->norm);
    assert_true(routing->norm->unit && routing->norm->eps == 0.125f);
    assert_true(view_value(&routing->norm->scale, 5) == gguf_value("blk.1.ffn_gate_inp.scale", 5));
    assert_true(view_value(&routing->expert_scale, 6) == gguf_value("blk.1.ffn_down_exps.scale", 6));
    assert_int_equal(block->experts->act->kind, MOE_ACT_GELU_TANH);
    moe_model_close(model);
}

/* Dense members of an architecture are models without experts, not errors. */
static void test_dense_models(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"llama", "mixtral"}, {"gemma4", "gemma4_text"}, {"jamba", "jamba"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct gguf g = gguf_begin(names[i][0]);
        gguf_u32(&g, "block_count", 2);
        gguf_u32(&g, "embedding_length", HIDDEN);
        gguf_tensor2(&g, "blk.0.ffn_up.weight", ROWS, HIDDEN);
        struct moe_model *model = save_and_open(&g, names[i][1]);
        assert_null(open_block(model, 0));
        assert_null(open_block(model, 1));
        moe_model_close(model);
    }
}

/* The shared expert is as wide as its tensors where llama.cpp's key means something else, or is missing. */
static void test_shared_by_tensor(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"hunyuan-moe", "hunyuan_v1_moe"}, {"ernie4_5-moe", "ernie4_5_moe"}};
    for (size_t i = 0; i < 2; i++) {
        struct gguf g = begin_even(names[i][0]);
        gguf_u32(&g, "expert_shared_feed_forward_length", 5);
        if (i == 1) {
            gguf_u32(&g, "leading_dense_block_count", 1);
            gguf_u32(&g, "interleave_moe_layer_step", 1);
        }
        add_biased(&g, 0);
        add_shared(&g, 0, 28);
        add_biased(&g, 1);
        add_shared(&g, 1, 28);
        struct moe_model *model = save_and_open(&g, names[i][1]);
        assert_true((open_block(model, 0) == NULL) == (i == 1));
        assert_int_equal(open_block(model, 1)->shared->intermediate_size, 28);
        moe_model_close(model);
    }
    struct gguf g = begin_even("cohere2moe");
    add_experts(&g, 0);
    add_shared(&g, 0, 28);
    add_experts(&g, 1);
    struct moe_model *model = save_and_open(&g, "cohere2_moe");
    const struct moe_layer_params *layer = open_block(model, 0)->layer;
    assert_int_equal(layer->routing->weight, MOE_SCORE_SIGMOID);
    assert_int_equal(layer->routing->select, MOE_SCORE_LOGIT);
    assert_true(layer->out_scale == 0.5f);
    assert_null(open_block(model, 1)->shared);
    assert_true(open_block(model, 1)->layer->out_scale == 0.0f);
    moe_model_close(model);
}

/* ---- routing --------------------------------------------------------------------------------------------------- */

/* deepseek2 without expert_gating_func: tensors tell sigmoid from softmax, and with it groups and epsilon. */
static void test_deepseek_generations(void **state)
{
    (void)state;
    for (int v3 = 0; v3 < 2; v3++) {
        struct gguf g = begin_even("deepseek2");
        gguf_u32(&g, "expert_group_count", 4);
        gguf_u32(&g, "expert_group_used_count", 2);
        gguf_f32(&g, "expert_weights_scale", 16.0f);
        gguf_bool(&g, "expert_weights_norm", v3 != 0);
        gguf_u32(&g, "expert_shared_count", 1);
        for (size_t b = 0; b < 2; b++) {
            if (v3)
                add_biased(&g, b);
            else
                add_experts(&g, b);
            add_shared(&g, b, ROWS);
        }
        struct moe_model *model = save_and_open(&g, v3 ? "deepseek_v3" : "deepseek_v2");
        const struct moe_routing *routing = open_block(model, 1)->layer->routing;
        assert_int_equal(routing->weight, v3 ? MOE_SCORE_SIGMOID : MOE_SCORE_SOFTMAX);
        assert_int_equal(routing->renorm, v3 ? MOE_RENORM_ADD_EPS : MOE_RENORM_NONE);
        assert_int_equal(routing->group_score, v3 ? MOE_GROUP_TOP2_SUM : MOE_GROUP_MAX);
        assert_true(routing->group_mask_zero == !v3);
        assert_int_equal(routing->num_groups, 4);
        assert_int_equal(routing->top_groups, 2);
        assert_true(routing->scale == 16.0f);
        moe_model_close(model);
    }
}

/* Keys that count whatever the architecture is. */
static void test_common_keys(void **state)
{
    (void)state;
    struct gguf g = begin_even("grok");
    gguf_f32(&g, "router_logit_softcapping", 30.0f);
    add_experts(&g, 0);
    add_experts(&g, 1);
    struct moe_model *model = save_and_open(&g, "grok");
    const struct moe_model_block *block = open_block(model, 1);
    assert_true(block->layer->routing->softcap == 30.0f);
    assert_int_equal(block->layer->routing->renorm, MOE_RENORM_ADD_EPS);
    assert_int_equal(block->experts->act->kind, MOE_ACT_GELU_TANH);
    moe_model_close(model);

    g = begin_even("smallthinker");
    gguf_u32(&g, "expert_gating_func", 1);
    gguf_f32(&g, "expert_weights_scale", 0.5f);
    add_experts(&g, 0);
    add_experts(&g, 1);
    model = save_and_open(&g, "smallthinker");
    block = open_block(model, 0);
    assert_int_equal(block->layer->routing->weight, MOE_SCORE_SOFTMAX);
    assert_true(block->layer->routing->scale == 0.5f);
    assert_int_equal(block->experts->act->kind, MOE_ACT_RELU);
    moe_model_close(model);
}

static void test_hash_tables(void **state)
{
    (void)state;
    const float limits[2] = {0.0f, 10.0f};
    struct gguf g = begin_even("deepseek4");
    gguf_u32(&g, "hash_layer_count", 1);
    gguf_u32(&g, "expert_shared_count", 1);
    gguf_f32_list(&g, "swiglu_clamp_exp", 2, limits);
    add_experts(&g, 0);
    gguf_string(&g.infos, "blk.0.ffn_gate_tid2eid.weight");
    append_u32(&g.infos, 2);
    append_u64(&g.infos, 2);
    append_u64(&g.infos, 100);
    append_u32(&g.infos, MOE_FORMAT_I32);
    append_u64(&g.infos, g.data.size);
    for (uint32_t i = 0; i < 200; i++)
        append_u32(&g.data, i % EXPERTS);
    append_padding(&g.data, 32);
    g.num_tensors++;
    add_biased(&g, 1);
    add_shared(&g, 0, ROWS);
    add_shared(&g, 1, ROWS);
    struct moe_model *model = save_and_open(&g, "deepseek_v4");
    const struct moe_model_block *hashed = open_block(model, 0), *chosen = open_block(model, 1);
    assert_int_equal(hashed->layer->routing->hash_rows, 100);
    assert_non_null(hashed->layer->routing->hash_table.base);
    assert_null(hashed->layer->routing->selection_bias.base);
    assert_int_equal(hashed->layer->routing->weight, MOE_SCORE_SQRT_SOFTPLUS);
    assert_null(chosen->layer->routing->hash_table.base);
    assert_non_null(chosen->layer->routing->selection_bias.base);
    assert_int_equal(hashed->experts->act->clamp, MOE_CLAMP_NONE);   /* a limit of 0 */
    assert_int_equal(chosen->experts->act->clamp, MOE_CLAMP_BEFORE);
    assert_true(chosen->experts->act->limit == 10.0f && chosen->shared->act->limit == 10.0f);
    moe_model_close(model);
}

/* ---- experts --------------------------------------------------------------------------------------------------- */

/* Limits differ by block, and the shared expert has its own; without one it has none. */
static void test_clamps(void **state)
{
    (void)state;
    const float limits[2] = {7.0f, 0.0f}, shared[2] = {0.0f, 16.0f};
    struct gguf g = begin_even("step35");
    gguf_u32(&g, "expert_shared_feed_forward_length", ROWS);
    gguf_f32_list(&g, "swiglu_clamp_exp", 2, limits);
    gguf_f32_list(&g, "swiglu_clamp_shexp", 2, shared);
    for (size_t b = 0; b < 2; b++) {
        add_biased(&g, b);
        add_shared(&g, b, ROWS);
    }
    struct moe_model *model = save_and_open(&g, "step3p5");
    for (size_t b = 0; b < 2; b++) {
        const struct moe_act *routed = open_block(model, b)->experts->act, *own = open_block(model, b)->shared->act;
        assert_int_equal(routed->clamp, limits[b] > 0 ? MOE_CLAMP_AFTER : MOE_CLAMP_NONE);
        assert_int_equal(own->clamp, shared[b] > 0 ? MOE_CLAMP_AFTER : MOE_CLAMP_NONE);
        assert_true(routed->limit == limits[b] && own->limit == shared[b]);
    }
    moe_model_close(model);
}

/* nemotron: sizes and top-k differ by block, no gate, experts in a latent space. */
static void test_lists_and_latent_experts(void **state)
{
    (void)state;
    const uint32_t top_k[2] = {0, 3}, sizes[2] = {0, 24};
    struct gguf g = begin("nemotron_h_moe");
    gguf_u32_list(&g, "expert_used_count", 2, top_k);
    gguf_u32_list(&g, "expert_feed_forward_length", 2, sizes);
    gguf_u32(&g, "moe_latent_size", LATENT);
    gguf_u32(&g, "expert_shared_feed_forward_length", 28);
    gguf_tensor2(&g, "blk.0.attn_q.weight", HIDDEN, HIDDEN);
    gguf_tensor2(&g, "blk.1.ffn_gate_inp.weight", EXPERTS, HIDDEN);
    gguf_tensor1(&g, "blk.1.exp_probs_b.bias", EXPERTS);
    gguf_tensor3(&g, "blk.1.ffn_up_exps.weight", EXPERTS, 24, LATENT);
    gguf_tensor3(&g, "blk.1.ffn_down_exps.weight", EXPERTS, LATENT, 24);
    gguf_tensor2(&g, "blk.1.ffn_latent_down.weight", LATENT, HIDDEN);
    gguf_tensor2(&g, "blk.1.ffn_latent_up.weight", HIDDEN, LATENT);
    gguf_tensor2(&g, "blk.1.ffn_up_shexp.weight", 28, HIDDEN);
    gguf_tensor2(&g, "blk.1.ffn_down_shexp.weight", HIDDEN, 28);
    struct moe_model *model = save_and_open(&g, "nemotron_h");
    assert_null(open_block(model, 0));
    const struct moe_model_block *block = open_block(model, 1);
    assert_int_equal(block->layer->top_k, 3);
    assert_int_equal(block->experts->intermediate_size, 24);
    assert_int_equal(block->experts->hidden_size, LATENT);
    assert_null(block->experts->gate);
    assert_null(block->shared->gate);
    assert_int_equal(block->experts->act->kind, MOE_ACT_RELU2);
    assert_non_null(block->latent);
    assert_null(block->layer->latent_norm);
    assert_true(matrix_value(block->latent->up, 0, 2, 3) == gguf_value("blk.1.ffn_latent_down.weight", 2 * HIDDEN + 3));
    moe_model_close(model);
}

/* kimi-k3: other names for the same, a norm, and an activation with parameters of its own. */
static void test_routed_latent_experts(void **state)
{
    (void)state;
    struct gguf g = begin_even("kimi-k3");
    gguf_u32(&g, "leading_dense_block_count", 1);
    gguf_u32(&g, "expert_latent_length", LATENT);
    gguf_u32(&g, "expert_shared_count", 2);
    gguf_u32(&g, "expert_gating_func", 2);
    gguf_f32(&g, "kimi-k3.activation.situ_beta", 4.0f);
    gguf_f32(&g, "kimi-k3.activation.situ_linear_beta", 25.0f);
    gguf_tensor2(&g, "blk.1.ffn_gate_inp.weight", EXPERTS, HIDDEN);
    gguf_tensor1(&g, "blk.1.exp_probs_b.bias", EXPERTS);
    gguf_tensor3(&g, "blk.1.ffn_gate_exps.weight", EXPERTS, ROWS, LATENT);
    gguf_tensor3(&g, "blk.1.ffn_up_exps.weight", EXPERTS, ROWS, LATENT);
    gguf_tensor3(&g, "blk.1.ffn_down_exps.weight", EXPERTS, LATENT, ROWS);
    gguf_tensor2(&g, "blk.1.ffn_routed_down.weight", LATENT, HIDDEN);
    gguf_tensor1(&g, "blk.1.ffn_routed_norm.weight", LATENT);
    gguf_tensor2(&g, "blk.1.ffn_routed_up.weight", HIDDEN, LATENT);
    add_shared(&g, 1, 2 * ROWS);
    struct moe_model *model = save_and_open(&g, "kimi_k3");
    assert_null(open_block(model, 0));
    const struct moe_model_block *block = open_block(model, 1);
    const struct moe_act *act = block->experts->act;
    assert_true(act->kind == MOE_ACT_SITU && act->beta == 4.0f && act->beta_up == 25.0f);
    assert_true(block->shared->act->kind == MOE_ACT_SITU && block->shared->act->beta == 4.0f);
    assert_non_null(block->layer->latent_norm);
    assert_true(view_value(&block->layer->latent_norm->scale, 9) == gguf_value("blk.1.ffn_routed_norm.weight", 9));
    assert_int_equal(block->shared->hidden_size, HIDDEN);
    moe_model_close(model);
}

/* ---- refused --------------------------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"grovemoe", "second set of experts"},
                                           {"nomic-bert-moe", "leave out the bias"},
                                           {"dflash", "draft model"},
                                           {"deci", "no experts"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf g = begin_even(cases[i][0]);
        add_experts(&g, 0);
        gguf_save(&g);
        struct moe_model *model = NULL;
        struct moe_error error = {.text = ""};
        assert_int_equal(moe_model_open(temp_path("model.gguf"), NULL, &model, &error), MOE_ERR_UNSUPPORTED);
        assert_null(model);
        assert_non_null(strstr(error.text, cases[i][1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_tensor_for_each_expert),
        cmocka_unit_test(test_scales_beside_tensors),
        cmocka_unit_test(test_dense_models),
        cmocka_unit_test(test_shared_by_tensor),
        cmocka_unit_test(test_deepseek_generations),
        cmocka_unit_test(test_common_keys),
        cmocka_unit_test(test_hash_tables),
        cmocka_unit_test(test_clamps),
        cmocka_unit_test(test_lists_and_latent_experts),
        cmocka_unit_test(test_routed_latent_experts),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, temp_setup, temp_teardown);
}
