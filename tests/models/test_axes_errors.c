// SPDX-License-Identifier: MIT
// Every key that decides an axis with values that it cannot have, and the tensors that only some families have, missing
// or misshapen: the status, and what the sentence names.
#include "axes_text.h"

/* ---- keys ---------------------------------------------------------------------------------------------------- */

struct key_case {
    const char *family, *patch;
    enum moe_status status;
    const char *words[3];
};

#define BAD MOE_ERR_FORMAT
#define UNKNOWN MOE_ERR_UNSUPPORTED
#define SHARED_LAGUNA "\"shared_expert_intermediate_size\": 8, "
#define SHARED_STEP "\"share_expert_dim\": 8, "
#define NEMOTRON "\"moe_shared_expert_intermediate_size\": 8, "

static const struct key_case key_cases[] = {
    /* Families that cannot be run say why. */
    {"zaya", "{}", UNKNOWN, {"zaya", "from one layer to the next"}},
    {"doge", "{}", UNKNOWN, {"doge", "other tokens"}},
    {"switch_transformers", "{}", UNKNOWN, {"switch_transformers", "drop tokens"}},
    {"nllb-moe", "{}", UNKNOWN, {"nllb-moe", "drop tokens"}},
    {"vitpose", "{}", UNKNOWN, {"vitpose", "data set"}},
    {"vitpose_backbone", "{}", UNKNOWN, {"vitpose_backbone", "data set"}},
    /* Which blocks have experts. */
    {"deepseek_v32", "{\"mlp_layer_types\": [\"sparse\", \"moe\", \"dense\", \"dense\"]}", BAD,
     {"'mlp_layer_types'", "'dense' or 'sparse'", "'moe'"}},
    {"deepseek_v32", "{\"mlp_layer_types\": [\"sparse\"]}", BAD, {"'mlp_layer_types'", "every block", "list of 1"}},
    {"deepseek_v32", "{\"mlp_layer_types\": [1, 1, 1, 1]}", BAD, {"'mlp_layer_types'", "found 1"}},
    {"deepseek_v32", "{\"mlp_layer_types\": \"sparse\"}", BAD, {"'mlp_layer_types'", "text 'sparse'"}},
    {"deepseek_v4", "{\"mlp_layer_types\": [\"sparse\", \"moe\", \"moe\", \"moe\"]}", BAD,
     {"'mlp_layer_types'", "'moe' or 'hash_moe'", "'sparse'"}},
    {"deepseek_v4", "{\"num_hash_layers\": -1}", BAD, {"'num_hash_layers'", "found -1"}},
    {"deepseek_v4", "{\"vocab_size\": 0}", BAD, {"'vocab_size'", "found 0"}},
    {"nemotron_h", "{" NEMOTRON "\"layers_block_type\": [\"moe\", \"mole\"]}", BAD,
     {"'layers_block_type'", "'moe', 'mlp'", "'mole'"}},
    {"nemotron_h", "{" NEMOTRON "\"hybrid_override_pattern\": \"MEx\"}", BAD,
     {"'hybrid_override_pattern'", "M, E, *", "'MEx'"}},
    {"nemotron_h", "{" NEMOTRON "\"hybrid_override_pattern\": 3}", BAD, {"'hybrid_override_pattern'", "found 3"}},
    {"nemotron_h", "{" NEMOTRON "\"num_hidden_layers\": 2}", BAD, {"'layers_block_type'", "missing"}},
    {"jamba", "{\"expert_layer_period\": 0}", BAD, {"'expert_layer_period'", "found 0"}},
    {"jamba", "{\"expert_layer_offset\": 2}", BAD, {"'expert_layer_offset'", "0 to 1", "found 2"}},
    {"axk2", "{\"moe_layer_freq\": 1.5}", BAD, {"'moe_layer_freq'", "an integer", "1.5"}},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8, \"moe_layer_freq\": [1]}", BAD,
     {"'moe_layer_freq'", "every block", "list of 1"}},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8, \"moe_layer_freq\": 1}", BAD, {"'moe_layer_freq'"}},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8, \"moe_layer_freq\": [\"a\", 1, 1, 1]}", BAD,
     {"'moe_layer_freq'", "0 and 1", "'a'"}},
    {"step3p5", "{" SHARED_STEP "\"moe_layers_enum\": \"1;2\"}", BAD, {"'moe_layers_enum'", "block numbers", "'1;2'"}},
    {"step3p5", "{" SHARED_STEP "\"moe_layers_enum\": \"1,,2\"}", BAD, {"'moe_layers_enum'", "'1,,2'"}},
    {"step3p5", "{" SHARED_STEP "\"moe_layers_enum\": 3}", BAD, {"'moe_layers_enum'", "found 3"}},
    {"afmoe", "{\"num_dense_layers\": -1}", BAD, {"'num_dense_layers'", "found -1"}},
    {"inkling_text", "{\"dense_mlp_idx\": \"a\"}", BAD, {"'dense_mlp_idx'", "'a'"}},
    {"ernie4_5_moe", "{\"moe_layer_end_index\": -2}", BAD, {"'moe_layer_end_index'", "or -1", "found -2"}},
    {"ernie4_5_moe", "{\"moe_layer_start_index\": -1}", BAD, {"'moe_layer_start_index'", "found -1"}},
    {"ernie4_5_moe", "{\"moe_layer_interval\": 0}", BAD, {"'moe_layer_interval'", "found 0"}},
    {"gemma4_text", "{\"enable_moe_block\": 1}", BAD, {"'enable_moe_block'", "true or false", "found 1"}},
    /* Sizes. */
    {"dbrx", "{\"num_experts\": null, \"ffn_config\": {\"moe_num_experts\": 0}}", BAD,
     {"'ffn_config.moe_num_experts'", "found 0"}},
    {"dbrx", "{\"num_experts_per_tok\": null, \"ffn_config\": {\"moe_top_k\": 9}}", BAD,
     {"'ffn_config.moe_top_k'", "1 to 8", "found 9"}},
    {"hunyuan_v1_moe", "{\"num_experts\": [8, 8, 8]}", BAD, {"'num_experts'", "every block", "list of 3"}},
    {"hunyuan_v1_moe", "{\"num_experts_per_tok\": [2, 2, 9, 2]}", BAD, {"'num_experts_per_tok'", "found 9"}},
    {"longcat_flash", "{\"num_layers\": 2}", BAD, {"'zero_expert_num'", "missing"}},
    {"longcat_flash", "{\"num_layers\": 2, \"zero_expert_num\": -1}", BAD, {"'zero_expert_num'", "found -1"}},
    {"longcat_flash", "{\"num_layers\": 2, \"zero_expert_num\": 2, \"num_experts_per_tok\": 11}", BAD,
     {"'num_experts_per_tok'", "1 to 10"}},
    {"longcat_flash", "{\"zero_expert_num\": 2}", BAD, {"'num_layers'", "missing"}},
    {"phimoe", "{\"num_experts\": 1}", BAD, {"'num_experts'", "as many as a token has", "found 1"}},
    {"inkling_text", "{\"n_shared_experts\": 0}", BAD, {"'n_shared_experts'", "found 0"}},
    {"nemotron_h", "{" NEMOTRON "\"layers_block_type\": [\"moe\"], \"moe_latent_size\": 0}", BAD,
     {"'moe_latent_size'", "found 0"}},
    {"ernie4_5_vl_moe_text", "{\"moe_intermediate_size\": []}", BAD, {"'moe_intermediate_size'", "list of 0"}},
    /* Routing. */
    {"cohere2_moe", "{\"expert_selection_fn\": \"sparsemax\"}", UNKNOWN, {"'expert_selection_fn'", "sparsemax"}},
    {"cohere2_moe", "{\"expert_selection_fn\": 1}", BAD, {"'expert_selection_fn'", "found 1"}},
    {"cohere2_moe", "{\"num_shared_experts\": 1, \"shared_expert_combination_strategy\": \"max\"}", UNKNOWN,
     {"'shared_expert_combination_strategy'", "max"}},
    {"deepseek_v4", "{\"scoring_func\": \"softmax\"}", UNKNOWN, {"'scoring_func'", "softmax"}},
    {"deepseek_v2", "{\"topk_method\": \"noaux_tc\"}", UNKNOWN, {"'topk_method'", "noaux_tc"}},
    {"deepseek_v2", "{\"topk_method\": \"group_limited_greedy\"}", BAD, {"'n_group'", "missing"}},
    {"deepseek_v2", "{\"topk_method\": \"group_limited_greedy\", \"n_group\": 3, \"topk_group\": 1}", BAD,
     {"'n_group'", "divisor of the 8", "found 3"}},
    {"axk2", "{\"first_k_dense_replace\": 0, \"n_group\": 4}", BAD, {"'topk_group'", "missing"}},
    {"kimi_linear", "{\"num_expert_group\": 5}", BAD, {"'num_expert_group'", "divisor of the 8", "found 5"}},
    {"kimi_linear", "{\"moe_renormalize\": \"yes\"}", BAD, {"'moe_renormalize'", "true or false", "'yes'"}},
    {"dbrx", "{\"ffn_config\": {\"moe_normalize_expert_weights\": 0.5}}", BAD,
     {"'ffn_config.moe_normalize_expert_weights'", "from 1 up", "0.5"}},
    {"dbrx", "{\"ffn_config\": {\"moe_normalize_expert_weights\": \"2\"}}", BAD,
     {"'ffn_config.moe_normalize_expert_weights'", "'2'"}},
    {"ernie4_5_moe", "{\"moe_norm_min\": -1}", BAD, {"'moe_norm_min'", "from 0 up", "found -1"}},
    {"lfm2_moe", "{\"use_expert_bias\": 0}", BAD, {"'use_expert_bias'", "true or false"}},
    {"laguna", "{" SHARED_LAGUNA "\"moe_router_logit_softcapping\": -3}", BAD,
     {"'moe_router_logit_softcapping'", "from 0 up", "-3"}},
    {"laguna", "{" SHARED_LAGUNA "\"moe_routed_scaling_factor\": 0}", BAD,
     {"'moe_routed_scaling_factor'", "above 0", "found 0"}},
    {"laguna", "{" SHARED_LAGUNA "\"moe_apply_router_weight_on_input\": 1}", BAD,
     {"'moe_apply_router_weight_on_input'"}},
    {"phimoe", "{\"router_jitter_noise\": -0.1}", BAD, {"'router_jitter_noise'", "from 0 up", "-0.1"}},
    {"gemma4_text", "{\"enable_moe_block\": true, \"rms_norm_eps\": -1e-6}", BAD, {"'rms_norm_eps'", "-1e-06"}},
    {"afmoe", "{\"route_scale\": 1e39}", BAD, {"'route_scale'", "1e+39"}},
    {"hy_v3", "{\"router_scaling_factor\": \"2\"}", BAD, {"'router_scaling_factor'", "'2'"}},
    /* Activations and shared experts. */
    {"jetmoe", "{\"activation_function\": \"mish\"}", UNKNOWN, {"'activation_function'", "mish"}},
    {"dbrx", "{\"ffn_config\": {\"ffn_act_fn\": {\"name\": \"mish\"}}}", UNKNOWN,
     {"'ffn_config.ffn_act_fn.name'", "mish"}},
    {"nemotron_h", "{" NEMOTRON "\"layers_block_type\": [\"moe\"], \"mlp_hidden_act\": \"tanh\"}", UNKNOWN,
     {"'mlp_hidden_act'", "tanh"}},
    {"gemma4_text", "{\"enable_moe_block\": true, \"hidden_activation\": 3}", BAD, {"'hidden_activation'", "found 3"}},
    {"aria_text", "{\"hidden_act\": \"mish\"}", UNKNOWN, {"'hidden_act'", "mish"}},
    {"deepseek_v4", "{\"swiglu_limit\": 0}", BAD, {"'swiglu_limit'", "above 0", "found 0"}},
    {"hy_v4", "{\"swiglu_limit\": -7}", BAD, {"'swiglu_limit'", "found -7"}},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8, \"swiglu_alpha\": 0}", BAD,
     {"'swiglu_alpha'", "above 0", "found 0"}},
    {"step3p5", "{" SHARED_STEP "\"swiglu_limits\": [0, 0, 0]}", BAD, {"'swiglu_limits'", "every block", "list of 3"}},
    {"step3p5", "{" SHARED_STEP "\"swiglu_limits\": [0, 0, 0, -1]}", BAD, {"'swiglu_limits'", "from 0 up", "found -1"}},
    {"step3p5", "{" SHARED_STEP "\"swiglu_limits_shared\": [0, 0, 0, \"a\"]}", BAD, {"'swiglu_limits_shared'", "'a'"}},
    {"step3p5", "{" SHARED_STEP "\"mlp_bias\": 1}", BAD, {"'mlp_bias'", "true or false"}},
    {"step3p5", "{}", BAD, {"'shared_expert_intermediate_size'", "missing"}},
    {"ernie4_5_moe", "{\"use_bias\": \"no\"}", BAD, {"'use_bias'", "'no'"}},
    {"afmoe", "{\"num_shared_experts\": -1}", BAD, {"'num_shared_experts'", "found -1"}},
    {"dots1", "{}", BAD, {"'n_shared_experts'", "missing"}},
    {"nemotron_h", "{\"layers_block_type\": [\"moe\"]}", BAD, {"'shared_expert_intermediate_size'", "missing"}},
};

static void test_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof key_cases / sizeof *key_cases; i++) {
        const struct key_case *t = &key_cases[i];
        config_save(t->family, t->patch);
        struct moe_error error = {.text = ""};
        struct moe_model *model = (struct moe_model *)1;
        enum moe_status status = moe_model_open(temp_dir, NULL, &model, &error);
        if (status != t->status)
            fail_msg("%s %s: expected status %d, found %d: %s", t->family, t->patch, t->status, status, error.text);
        assert_null(model);
        assert_non_null(strstr(error.text, temp_dir));
        for (size_t w = 0; w < 3 && t->words[w] != NULL; w++)
            if (strstr(error.text, t->words[w]) == NULL)
                fail_msg("%s %s: no '%s' in: %s", t->family, t->patch, t->words[w], error.text);
    }
}

/* ---- tensors ------------------------------------------------------------------------------------------------- */

static enum moe_status open_blocks(struct moe_error *error)
{
    struct moe_model *model;
    enum moe_status status = moe_model_open(temp_dir, NULL, &model, error);
    struct moe_model_info info;
    MOE_INIT(&info);
    if (status == MOE_OK)
        assert_int_equal(moe_model_info(model, &info), MOE_OK);
    for (size_t b = 0; b < info.num_blocks && status == MOE_OK; b++) {
        const struct moe_model_block *block;
        status = moe_model_block(model, b, &block, error);
    }
    moe_model_close(model);
    return status;
}

static void expect(const char *what, enum moe_status status, const char *first, const char *second, const char *third)
{
    struct moe_error error = {.text = ""};
    enum moe_status found = open_blocks(&error);
    if (found != status || strstr(error.text, first) == NULL || strstr(error.text, second) == NULL ||
        strstr(error.text, third) == NULL)
        fail_msg("%s: expected %d with '%s', '%s' and '%s', found %d: %s", what, status, first, second, third, found,
                 error.text);
}

static void test_missing(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"afmoe", "model.layers.0.mlp.expert_bias"},
        {"axk1", "model.layers.1.post_mlp_layernorm.weight"},
        {"dbrx", "transformer.blocks.0.ffn.experts.mlp.v1"},
        {"deepseek_v4", "model.layers.0.ffn.gate.bias"},
        {"deepseek_v4", "model.layers.1.ffn.gate.tid2eid"},
        {"deepseek_v4", "model.layers.1.ffn.shared_experts.w3.weight"},
        {"ernie4_5_moe", "model.layers.0.mlp.moe_statics.e_score_correction_bias"},
        {"gemma4_text", "model.layers.0.router.scale"},
        {"gemma4_text", "model.layers.1.router.per_expert_scale"},
        {"granitemoe", "model.layers.1.block_sparse_moe.output_linear.weight"},
        {"laguna", "model.layers.0.mlp.experts.e_score_correction_bias"},
        {"longcat_flash", "model.layers.0.mlp.experts.7.down_proj.weight"},
        {"longcat_flash", "model.layers.1.mlp.router.e_score_correction_bias"},
        {"nemotron_h", "backbone.layers.0.mixer.fc1_latent_proj.weight"},
        {"nemotron_h", "backbone.layers.0.mixer.fc2_latent_proj.weight"},
        {"nemotron_h", "backbone.layers.0.mixer.experts.3.up_proj.weight"},
        {"nemotron_h", "backbone.layers.0.mixer.shared_experts.down_proj.weight"},
        {"step3p5", "layers.1.mlp.gate.e_score_correction_bias"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct checkpoint c = checkpoint_load(cases[i][0]);
        if (json_object_del(c.header, cases[i][1]) != 0)
            fail_msg("%s has no %s", cases[i][0], cases[i][1]);
        checkpoint_save(&c);
        expect(cases[i][1], BAD, cases[i][1], "missing", "");
        checkpoint_free(&c);
    }
}

/* Gates and ups of zero experts are in files, and not needed. */
static void test_not_needed(void **state)
{
    (void)state;
    struct checkpoint c = checkpoint_load("longcat_flash");
    assert_int_equal(json_object_del(c.header, "model.layers.0.mlp.experts.8.gate_proj.weight"), 0);
    assert_int_equal(json_object_del(c.header, "model.layers.0.mlp.experts.9.up_proj.weight"), 0);
    checkpoint_save(&c);
    expect("zero experts", MOE_OK, "", "", "");
    checkpoint_free(&c);
}

static void test_misshapen(void **state)
{
    (void)state;
    static const struct {
        const char *family, *tensor;
        size_t count, shape[3];
        const char *expected, *found;
    } cases[] = {
        {"axk1", "model.layers.0.post_mlp_layernorm.weight", 2, {8, 8}, "[64]", "[8, 8]"},
        {"dbrx", "transformer.blocks.0.ffn.experts.mlp.w1", 3, {8, 48, 64}, "[384, 64]", "[8, 48, 64]"},
        {"dbrx", "transformer.blocks.0.ffn.experts.mlp.w2", 2, {64, 384}, "[384, 64]", "[64, 384]"},
        {"deepseek_v4", "model.layers.1.ffn.gate.tid2eid", 2, {64, 4}, "[128, 2]", "[64, 4]"},
        {"gemma4_text", "model.layers.0.router.scale", 2, {32, 2}, "[64]", "[32, 2]"},
        {"gemma4_text", "model.layers.0.router.per_expert_scale", 2, {4, 2}, "[8]", "[4, 2]"},
        {"longcat_flash", "model.layers.0.mlp.router.classifier.weight", 2, {64, 10}, "[10, 64]", "[64, 10]"},
        {"nemotron_h", "backbone.layers.0.mixer.fc1_latent_proj.weight", 2, {64, 32}, "[32, 64]", "[64, 32]"},
        {"qwen3_vl_moe_text", "layers.0.mlp.experts.gate_up_proj", 3, {4, 192, 64}, "[8, 96, 64]", "[4, 192, 64]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct checkpoint c = checkpoint_load(cases[i].family);
        set_shape(&c, cases[i].tensor, cases[i].count, cases[i].shape);
        checkpoint_save(&c);
        expect(cases[i].tensor, BAD, cases[i].tensor, cases[i].expected, cases[i].found);
        checkpoint_free(&c);
    }
}

/* A table of ids has to be of integers. */
static void test_hash_table_format(void **state)
{
    (void)state;
    struct checkpoint c = checkpoint_load("deepseek_v4");
    json_t *entry = json_object_get(c.header, "model.layers.1.ffn.gate.tid2eid");
    assert_non_null(entry);
    json_object_set_new(entry, "dtype", json_string("F64"));
    checkpoint_save(&c);
    expect("F64", UNKNOWN, "tid2eid", "i32 or i64", "64");
    checkpoint_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),      cmocka_unit_test(test_missing),           cmocka_unit_test(test_not_needed),
        cmocka_unit_test(test_misshapen), cmocka_unit_test(test_hash_table_format),
    };
    return cmocka_run_group_tests_name("models/axes_errors", tests, temp_setup, temp_teardown);
}
