// SPDX-License-Identifier: MIT
// GGUF files under llama.cpp's architecture, key and tensor names, written here from nothing: axes from keys, what
// holds where a key is absent, and matrices that hold the right values.
#include <math.h>

#include "model_files.h"

enum { EXPERTS = 8, HIDDEN = 12, ROWS = 20 };

/* Keys and router that all architectures have; blocks 0 and 1. */
static struct gguf begin(const char *architecture)
{
    struct gguf g = gguf_begin(architecture);
    gguf_u32(&g, "block_count", 2);
    gguf_u32(&g, "embedding_length", HIDDEN);
    gguf_u32(&g, "feed_forward_length", 77);
    gguf_u32(&g, "expert_feed_forward_length", ROWS);
    gguf_u32(&g, "expert_count", EXPERTS);
    gguf_u32(&g, "expert_used_count", 2);
    return g;
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

static struct moe_model *save_and_open(struct gguf *g, const char *family)
{
    char architecture[64];
    snprintf(architecture, sizeof architecture, "%s", g->architecture);
    gguf_save(g);
    struct moe_model *model = open_model_at(temp_path("model.gguf"), 0);
    struct moe_model_info info;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_string_equal(info.architecture, architecture);
    assert_string_equal(info.family, family);
    assert_string_equal(info.container, "gguf");
    return model;
}

/* Every value of a stack [experts, rows, cols], from place `first` of each expert's part of the tensor on. */
static void check_stack(const struct moe_matrix *m, const char *tensor, size_t experts, size_t rows, size_t cols,
                        size_t tensor_rows, size_t first)
{
    assert_non_null(m);
    assert_false(m->transposed);
    assert_int_equal(m->data.format, MOE_FORMAT_F32);
    for (size_t e = 0; e < experts; e++)
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++)
                assert_true(matrix_value(m, e, r, c) ==
                            gguf_value(tensor, (e * tensor_rows + first + r) * cols + c));
}

static void check_experts(const struct moe_model_block *block, size_t b)
{
    const struct moe_experts_params *p = block->experts;
    assert_int_equal(p->num_experts, EXPERTS);
    assert_int_equal(p->hidden_size, HIDDEN);
    assert_int_equal(p->intermediate_size, ROWS);
    assert_int_equal(block->layer->num_experts, EXPERTS);
    assert_int_equal(block->layer->top_k, 2);
    check_stack(p->gate, name_of(b, "ffn_gate_exps.weight"), EXPERTS, ROWS, HIDDEN, ROWS, 0);
    check_stack(p->up, name_of(b, "ffn_up_exps.weight"), EXPERTS, ROWS, HIDDEN, ROWS, 0);
    check_stack(p->down, name_of(b, "ffn_down_exps.weight"), EXPERTS, HIDDEN, ROWS, HIDDEN, 0);
    check_stack(block->layer->routing->router, name_of(b, "ffn_gate_inp.weight"), 1, EXPERTS, HIDDEN, EXPERTS, 0);
}

static void check_routing(const struct moe_routing *routing, enum moe_score select, enum moe_score weight,
                          enum moe_renorm renorm, float eps, float scale, size_t groups, size_t top_groups)
{
    assert_int_equal(routing->select, select);
    assert_int_equal(routing->weight, weight);
    assert_int_equal(routing->renorm, renorm);
    assert_true(routing->renorm_eps == eps);
    assert_true((routing->scale == 0.0f ? 1.0f : routing->scale) == scale);
    assert_int_equal(routing->num_groups, groups);
    assert_int_equal(routing->top_groups, top_groups);
}

/* ---- families ------------------------------------------------------------------------------------------------ */

/* Softmax families, without any routing key: what llama.cpp's architecture stands for. */
static void test_softmax_families(void **state)
{
    (void)state;
    static const struct {
        const char *architecture, *family;
        enum moe_renorm renorm;
    } cases[] = {{"qwen3moe", "qwen3_moe", MOE_RENORM_ADD_EPS},
                 {"llama", "mixtral", MOE_RENORM_ADD_EPS},
                 {"olmoe", "olmoe", MOE_RENORM_NONE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf g = begin(cases[i].architecture);
        add_experts(&g, 0);
        add_experts(&g, 1);
        struct moe_model *model = save_and_open(&g, cases[i].family);
        for (size_t b = 0; b < 2; b++) {
            const struct moe_model_block *block = open_block(model, b);
            check_experts(block, b);
            check_routing(block->layer->routing, MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, cases[i].renorm, 0, 1, 0, 0);
            assert_null(block->shared);
            assert_null(block->layer->routing->router->bias.base);
        }
        moe_model_close(model);
    }
}

/* Old Mixtral files say the experts' size in feed_forward_length. */
static void test_old_size_key(void **state)
{
    (void)state;
    struct gguf g = gguf_begin("llama");
    gguf_u32(&g, "block_count", 1);
    gguf_u32(&g, "embedding_length", HIDDEN);
    gguf_u32(&g, "feed_forward_length", ROWS);
    gguf_u32(&g, "expert_count", EXPERTS);
    gguf_u32(&g, "expert_used_count", 2);
    add_experts(&g, 0);
    struct moe_model *model = save_and_open(&g, "mixtral");
    check_experts(open_block(model, 0), 0);
    moe_model_close(model);
}

/* Sizes given as a list with a value for each block. */
static void test_lists(void **state)
{
    (void)state;
    struct gguf g = gguf_begin("qwen3moe");
    gguf_u32(&g, "block_count", 2);
    gguf_u32(&g, "embedding_length", HIDDEN);
    gguf_u32_list(&g, "expert_feed_forward_length", 2, (const uint32_t[]){ROWS, 4});
    gguf_u32(&g, "expert_count", EXPERTS);
    gguf_u32_list(&g, "expert_used_count", 2, (const uint32_t[]){2, 5});
    add_experts(&g, 0);
    gguf_tensor2(&g, "blk.1.ffn_gate_inp.weight", EXPERTS, HIDDEN);
    gguf_tensor3(&g, "blk.1.ffn_gate_exps.weight", EXPERTS, 4, HIDDEN);
    gguf_tensor3(&g, "blk.1.ffn_up_exps.weight", EXPERTS, 4, HIDDEN);
    gguf_tensor3(&g, "blk.1.ffn_down_exps.weight", EXPERTS, HIDDEN, 4);
    struct moe_model *model = save_and_open(&g, "qwen3_moe");
    check_experts(open_block(model, 0), 0);
    assert_int_equal(open_block(model, 1)->experts->intermediate_size, 4);
    assert_int_equal(open_block(model, 1)->layer->top_k, 5);
    moe_model_close(model);
}

static void test_fused_gate_up(void **state)
{
    (void)state;
    struct gguf g = begin("qwen3moe");
    for (size_t b = 0; b < 2; b++) {
        gguf_tensor2(&g, name_of(b, "ffn_gate_inp.weight"), EXPERTS, HIDDEN);
        gguf_tensor3(&g, name_of(b, "ffn_gate_up_exps.weight"), EXPERTS, 2 * ROWS, HIDDEN);
        gguf_tensor3(&g, name_of(b, "ffn_down_exps.weight"), EXPERTS, HIDDEN, ROWS);
    }
    struct moe_model *model = save_and_open(&g, "qwen3_moe");
    const struct moe_experts_params *p = open_block(model, 1)->experts;
    check_stack(p->gate, "blk.1.ffn_gate_up_exps.weight", EXPERTS, ROWS, HIDDEN, 2 * ROWS, 0);
    check_stack(p->up, "blk.1.ffn_gate_up_exps.weight", EXPERTS, ROWS, HIDDEN, 2 * ROWS, ROWS);
    check_stack(p->down, "blk.1.ffn_down_exps.weight", EXPERTS, HIDDEN, ROWS, HIDDEN, 0);
    moe_model_close(model);
}

static void add_biases(struct gguf *g, size_t b)
{
    gguf_tensor1(g, name_of(b, "ffn_gate_inp.bias"), EXPERTS);
    gguf_tensor2(g, name_of(b, "ffn_gate_exps.bias"), EXPERTS, ROWS);
    gguf_tensor2(g, name_of(b, "ffn_up_exps.bias"), EXPERTS, ROWS);
    gguf_tensor2(g, name_of(b, "ffn_down_exps.bias"), EXPERTS, HIDDEN);
}

static void check_bias(const struct moe_matrix *m, const char *tensor, size_t experts, size_t rows)
{
    for (size_t e = 0; e < experts; e++)
        for (size_t r = 0; r < rows; r++)
            assert_true(bias_value(m, e, r) == gguf_value(tensor, e * rows + r));
}

static void test_gpt_oss(void **state)
{
    (void)state;
    struct gguf g = begin("gpt-oss");
    for (size_t b = 0; b < 2; b++) {
        add_experts(&g, b);
        add_biases(&g, b);
    }
    struct moe_model *model = save_and_open(&g, "gpt_oss");
    const struct moe_model_block *block = open_block(model, 1);
    check_experts(block, 1);
    check_routing(block->layer->routing, MOE_SCORE_LOGIT, MOE_SCORE_SOFTMAX_TOPK, MOE_RENORM_NONE, 0, 1, 0, 0);
    check_bias(block->layer->routing->router, "blk.1.ffn_gate_inp.bias", 1, EXPERTS);
    check_bias(block->experts->gate, "blk.1.ffn_gate_exps.bias", EXPERTS, ROWS);
    check_bias(block->experts->up, "blk.1.ffn_up_exps.bias", EXPERTS, ROWS);
    check_bias(block->experts->down, "blk.1.ffn_down_exps.bias", EXPERTS, HIDDEN);
    const struct moe_act *act = block->experts->act;
    assert_int_equal(act->kind, MOE_ACT_SWISH);
    assert_int_equal(act->clamp, MOE_CLAMP_BEFORE);
    assert_true(act->limit == 7.0f && act->alpha == 1.702f && act->up_offset == 1.0f);
    moe_model_close(model);
}

/* Block 0 is dense, a third one predicts tokens and is not counted. */
static struct gguf begin_deepseek(const char *architecture, bool with_keys)
{
    struct gguf g = gguf_begin(architecture);
    gguf_u32(&g, "block_count", 3);
    gguf_u32(&g, "nextn_predict_layers", 1);
    gguf_u32(&g, "leading_dense_block_count", 1);
    gguf_u32(&g, "embedding_length", HIDDEN);
    gguf_u32(&g, "feed_forward_length", 77);
    gguf_u32(&g, "expert_feed_forward_length", ROWS);
    gguf_u32(&g, "expert_count", EXPERTS);
    gguf_u32(&g, "expert_used_count", 2);
    gguf_u32(&g, "expert_shared_count", 2);
    if (with_keys) {
        gguf_u32(&g, "expert_gating_func", 2);
        gguf_bool(&g, "expert_weights_norm", true);
        gguf_f32(&g, "expert_weights_scale", 2.5f);
        gguf_u32(&g, "expert_group_count", 4);
        gguf_u32(&g, "expert_group_used_count", 2);
    }
    add_experts(&g, 1);
    add_shared(&g, 1, 2 * ROWS);
    return g;
}

static void test_deepseek(void **state)
{
    (void)state;
    static const char *const families[][2] = {{"deepseek2", "deepseek_v3"}, {"glm4moe", "glm4_moe"}};
    static const char *const bias_names[] = {"blk.1.exp_probs_b.bias", "blk.1.exp_probs_b"};
    for (size_t i = 0; i < 2; i++) {
        struct gguf g = begin_deepseek(families[i][0], true);
        gguf_tensor1(&g, bias_names[i], EXPERTS);
        struct moe_model *model = save_and_open(&g, families[i][1]);
        struct moe_model_info info;
        MOE_INIT(&info);
        assert_int_equal(moe_model_info(model, &info), MOE_OK);
        assert_int_equal(info.num_blocks, 2);
        assert_null(open_block(model, 0));
        const struct moe_model_block *block = open_block(model, 1);
        check_experts(block, 1);
        check_routing(block->layer->routing, MOE_SCORE_DEFAULT, MOE_SCORE_SIGMOID, MOE_RENORM_ADD_EPS, 1e-20f, 2.5f, 4,
                      2);
        const struct moe_view *bias = &block->layer->routing->selection_bias;
        assert_int_equal(bias->size, EXPERTS * 4);
        for (size_t e = 0; e < EXPERTS; e++)
            assert_true(load_value((const unsigned char *)bias->base + bias->offset + 4 * e, bias->format) ==
                        gguf_value(bias_names[i], e));
        assert_int_equal(block->shared->num_experts, 1);
        assert_int_equal(block->shared->intermediate_size, 2 * ROWS);
        check_stack(block->shared->gate, "blk.1.ffn_gate_shexp.weight", 1, 2 * ROWS, HIDDEN, 2 * ROWS, 0);
        check_stack(block->shared->up, "blk.1.ffn_up_shexp.weight", 1, 2 * ROWS, HIDDEN, 2 * ROWS, 0);
        check_stack(block->shared->down, "blk.1.ffn_down_shexp.weight", 1, HIDDEN, 2 * ROWS, HIDDEN, 0);
        assert_int_equal(block->layer->shared->gate_kind, MOE_SHARED_PLAIN);
        moe_model_close(model);
    }
}

/* The generation before sigmoid: softmax, as it is, and no correction bias. */
static void test_deepseek_without_keys(void **state)
{
    (void)state;
    struct gguf g = begin_deepseek("deepseek2", false);
    struct moe_model *model = save_and_open(&g, "deepseek_v2");
    const struct moe_routing *routing = open_block(model, 1)->layer->routing;
    check_routing(routing, MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_RENORM_NONE, 0, 1, 0, 0);
    assert_null(routing->selection_bias.base);
    moe_model_close(model);
}

static void test_qwen2(void **state)
{
    (void)state;
    struct gguf g = begin("qwen2moe");
    gguf_u32(&g, "expert_shared_feed_forward_length", 28);
    for (size_t b = 0; b < 2; b++) {
        add_experts(&g, b);
        add_shared(&g, b, 28);
        gguf_tensor1(&g, name_of(b, "ffn_gate_inp_shexp.weight"), HIDDEN);
    }
    struct moe_model *model = save_and_open(&g, "qwen2_moe");
    const struct moe_model_block *block = open_block(model, 1);
    check_experts(block, 1);
    check_routing(block->layer->routing, MOE_SCORE_DEFAULT, MOE_SCORE_SOFTMAX, MOE_RENORM_NONE, 0, 1, 0, 0);
    assert_int_equal(block->shared->intermediate_size, 28);
    assert_int_equal(block->layer->shared->gate_kind, MOE_SHARED_SIGMOID);
    check_stack(block->layer->shared->gate, "blk.1.ffn_gate_inp_shexp.weight", 1, 1, HIDDEN, 1, 0);
    check_stack(block->shared->down, "blk.1.ffn_down_shexp.weight", 1, HIDDEN, 28, HIDDEN, 0);
    moe_model_close(model);
}

static void test_llama4(void **state)
{
    (void)state;
    struct gguf g = begin("llama4");
    gguf_u32(&g, "interleave_moe_layer_step", 2);
    add_experts(&g, 1);
    add_shared(&g, 1, ROWS);
    struct moe_model *model = save_and_open(&g, "llama4_text");
    assert_null(open_block(model, 0));
    const struct moe_model_block *block = open_block(model, 1);
    check_experts(block, 1);
    check_routing(block->layer->routing, MOE_SCORE_LOGIT, MOE_SCORE_SIGMOID, MOE_RENORM_NONE, 0, 1, 0, 0);
    assert_true(block->layer->weight_on_input);
    assert_int_equal(block->shared->intermediate_size, ROWS);
    moe_model_close(model);
}

/* One expert only: GGUF does not store the outermost dimension then. */
static void test_single_expert(void **state)
{
    (void)state;
    struct gguf g = gguf_begin("qwen3moe");
    gguf_u32(&g, "block_count", 1);
    gguf_u32(&g, "embedding_length", HIDDEN);
    gguf_u32(&g, "expert_feed_forward_length", ROWS);
    gguf_u32(&g, "expert_count", 1);
    gguf_u32(&g, "expert_used_count", 1);
    gguf_tensor1(&g, "blk.0.ffn_gate_inp.weight", HIDDEN);
    gguf_tensor2(&g, "blk.0.ffn_gate_exps.weight", ROWS, HIDDEN);
    gguf_tensor2(&g, "blk.0.ffn_up_exps.weight", ROWS, HIDDEN);
    gguf_tensor2(&g, "blk.0.ffn_down_exps.weight", HIDDEN, ROWS);
    struct moe_model *model = save_and_open(&g, "qwen3_moe");
    const struct moe_model_block *block = open_block(model, 0);
    assert_int_equal(block->experts->num_experts, 1);
    check_stack(block->experts->up, "blk.0.ffn_up_exps.weight", 1, ROWS, HIDDEN, ROWS, 0);
    check_stack(block->experts->down, "blk.0.ffn_down_exps.weight", 1, HIDDEN, ROWS, HIDDEN, 0);
    moe_model_close(model);
}

/* ---- errors -------------------------------------------------------------------------------------------------- */

static void expect(struct gguf *g, enum moe_status status, const char *word, const char *second)
{
    gguf_save(g);
    struct moe_model *model;
    struct moe_error error = {.text = ""};
    enum moe_status found = moe_model_open(temp_path("model.gguf"), NULL, &model, &error);
    for (size_t b = 0; b < 2 && found == MOE_OK; b++) {
        const struct moe_model_block *block;
        found = moe_model_block(model, b, &block, &error);
    }
    moe_model_close(model);
    if (found != status || strstr(error.text, word) == NULL || strstr(error.text, second) == NULL)
        fail_msg("expected %d with '%s' and '%s', found %d: %s", status, word, second, found, error.text);
    assert_non_null(strstr(error.text, "model.gguf"));
}

static void test_key_errors(void **state)
{
    (void)state;
    struct gguf g = begin("falcon");
    expect(&g, MOE_ERR_UNSUPPORTED, "falcon", "README");

    g = gguf_begin("llama");   /* with a router: the same architecture is that of dense models */
    gguf_u32(&g, "block_count", 2);
    add_experts(&g, 0);
    expect(&g, MOE_ERR_FORMAT, "'llama.expert_count'", "missing");

    g = begin("qwen3moe");
    gguf_u32(&g, "expert_gating_func", 9);
    expect(&g, MOE_ERR_UNSUPPORTED, "'qwen3moe.expert_gating_func'", "9");

    g = begin("glm4moe");
    gguf_f32(&g, "expert_weights_scale", NAN);
    expect(&g, MOE_ERR_FORMAT, "'glm4moe.expert_weights_scale'", "nan");

    g = begin("glm4moe");
    gguf_u32(&g, "expert_group_count", 3);
    expect(&g, MOE_ERR_FORMAT, "'glm4moe.expert_group_count'", "divisor of the 8");

    g = begin("glm4moe");
    gguf_u32(&g, "expert_weights_norm", 1);
    expect(&g, MOE_ERR_FORMAT, "'glm4moe.expert_weights_norm'", "true or false");

    g = begin("glm4moe");
    gguf_u32(&g, "expert_gating_func", 1);
    gguf_u32(&g, "expert_group_count", 4);
    gguf_u32(&g, "expert_group_used_count", 2);
    expect(&g, MOE_ERR_UNSUPPORTED, "'glm4moe.expert_group_used_count'", "gating function");

    g = begin("glm4moe");
    gguf_u32(&g, "nextn_predict_layers", 2);
    expect(&g, MOE_ERR_FORMAT, "'glm4moe.nextn_predict_layers'", "found 2");

    g = begin("qwen3moe");
    gguf_f32(&g, "interleave_moe_layer_step", 1.0f);
    expect(&g, MOE_ERR_FORMAT, "'qwen3moe.interleave_moe_layer_step'", "an integer");
}

static void test_tensor_errors(void **state)
{
    (void)state;
    struct gguf g = begin("qwen3moe");
    expect(&g, MOE_ERR_FORMAT, "'blk.0.ffn_gate_inp.weight'", "missing");

    g = begin("qwen3moe");
    gguf_tensor2(&g, "blk.0.ffn_gate_inp.weight", EXPERTS, HIDDEN);
    gguf_tensor3(&g, "blk.0.ffn_up_exps.weight", EXPERTS, ROWS, HIDDEN);
    expect(&g, MOE_ERR_FORMAT, "'blk.0.ffn_gate_exps.weight'", "missing");

    g = begin("qwen3moe");
    gguf_tensor2(&g, "blk.0.ffn_gate_inp.weight", EXPERTS, HIDDEN);
    gguf_tensor3(&g, "blk.0.ffn_gate_up_exps.weight", EXPERTS, ROWS, HIDDEN);
    expect(&g, MOE_ERR_FORMAT, "'blk.0.ffn_gate_up_exps.weight'", "[8, 40, 12]");

    g = begin("qwen3moe");
    gguf_tensor2(&g, "blk.0.ffn_gate_inp.weight", EXPERTS, HIDDEN);
    gguf_tensor2(&g, "blk.0.ffn_up.0.weight", ROWS, HIDDEN);
    expect(&g, MOE_ERR_FORMAT, "8 experts in a block", "2 tensors");

    g = begin("gpt-oss");
    add_experts(&g, 0);
    expect(&g, MOE_ERR_FORMAT, "'blk.0.ffn_gate_inp.bias'", "missing");

    g = begin_deepseek("deepseek2", true);
    expect(&g, MOE_ERR_FORMAT, "'blk.1.exp_probs_b.bias'", "missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_softmax_families), cmocka_unit_test(test_old_size_key),
        cmocka_unit_test(test_lists),            cmocka_unit_test(test_fused_gate_up),
        cmocka_unit_test(test_gpt_oss),          cmocka_unit_test(test_deepseek),
        cmocka_unit_test(test_deepseek_without_keys),
        cmocka_unit_test(test_qwen2),            cmocka_unit_test(test_llama4),
        cmocka_unit_test(test_single_expert),    cmocka_unit_test(test_key_errors),
        cmocka_unit_test(test_tensor_errors),
    };
    return cmocka_run_group_tests_name("models/model_gguf", tests, temp_setup, temp_teardown);
}
