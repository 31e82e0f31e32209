// SPDX-License-Identifier: MIT
// From config.json to axes, axis by axis: every key that decides one, with values that tell it from its neighbours, and
// what holds without it. Expectations are from transformers' code of each family.
#include "axes_text.h"

struct axis_case {
    const char *family, *patch;   /* JSON */
    size_t block;
    const char *words[6];
};

/* ---- which blocks have experts ------------------------------------------------------------------------------- */

#define DENSE {"dense"}
#define EXPERTS {"experts=8"}

static const struct axis_case block_cases[] = {
    {"qwen3_moe", "{}", 0, EXPERTS},
    {"qwen3_moe", "{\"decoder_sparse_step\": 2}", 0, DENSE},
    {"qwen3_moe", "{\"decoder_sparse_step\": 2}", 1, EXPERTS},
    {"qwen3_moe", "{\"mlp_only_layers\": [1, 3]}", 3, DENSE},
    {"qwen3_moe", "{\"mlp_only_layers\": [1, 3]}", 2, EXPERTS},
    {"qwen3_moe", "{\"num_experts\": 0}", 2, DENSE},
    {"granitemoehybrid", "{\"num_experts\": null, \"num_local_experts\": 0}", 1, DENSE},
    {"gemma4_text", "{}", 0, DENSE},
    {"gemma4_text", "{\"enable_moe_block\": true}", 0, EXPERTS},
    {"jamba", "{}", 0, DENSE},
    {"jamba", "{}", 1, EXPERTS},
    {"jamba", "{\"expert_layer_period\": 3, \"expert_layer_offset\": 2}", 1, DENSE},
    {"jamba", "{\"expert_layer_period\": 3, \"expert_layer_offset\": 2}", 2, EXPERTS},
    {"jamba", "{\"num_experts\": 1}", 1, DENSE},
    {"afmoe", "{}", 0, DENSE},
    {"afmoe", "{\"num_dense_layers\": 3}", 2, DENSE},
    {"afmoe", "{\"num_dense_layers\": 3}", 3, EXPERTS},
    {"deepseek_v3", "{}", 2, DENSE},
    {"deepseek_v3", "{\"first_k_dense_replace\": 1}", 1, EXPERTS},
    {"deepseek_v32", "{\"mlp_layer_types\": [\"sparse\", \"dense\", \"sparse\", \"dense\"]}", 0, EXPERTS},
    {"deepseek_v32", "{\"mlp_layer_types\": [\"sparse\", \"dense\", \"sparse\", \"dense\"]}", 3, DENSE},
    {"deepseek_v32", "{\"mlp_layer_types\": null}", 2, DENSE},
    {"exaone_moe", "{}", 0, DENSE},
    {"exaone_moe", "{}", 1, EXPERTS},
    {"glm4_moe_lite", "{\"first_k_dense_replace\": 3}", 1, EXPERTS},   /* not a key of this family */
    {"axk2", "{\"first_k_dense_replace\": 0, \"moe_layer_freq\": 3}", 1, DENSE},
    {"axk2", "{\"first_k_dense_replace\": 0, \"moe_layer_freq\": 3}", 3, EXPERTS},
    {"axk2", "{\"first_k_dense_replace\": 1, \"moe_layer_freq\": 3}", 0, DENSE},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8, \"moe_layer_freq\": [0, 1, 0, true]}", 0, DENSE},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8, \"moe_layer_freq\": [0, 1, 0, true]}", 3, EXPERTS},
    {"step3p5", "{\"share_expert_dim\": 8}", 2, DENSE},
    {"step3p5", "{\"share_expert_dim\": 8}", 3, EXPERTS},
    {"step3p5", "{\"share_expert_dim\": 8, \"moe_layers_enum\": \"0, 2\"}", 0, EXPERTS},
    {"step3p5", "{\"share_expert_dim\": 8, \"moe_layers_enum\": \"0, 2\"}", 3, DENSE},
    {"step3p5", "{\"share_expert_dim\": 8, \"moe_layers_enum\": [1, 2]}", 2, EXPERTS},
    {"step3p5", "{\"share_expert_dim\": 8, \"moe_layers_enum\": \"\"}", 3, DENSE},
    {"llama4_text", "{\"interleave_moe_layer_step\": 2}", 0, DENSE},
    {"llama4_text", "{\"interleave_moe_layer_step\": 2, \"moe_layers\": [0]}", 0, EXPERTS},
    {"llama4_text", "{\"moe_layers\": []}", 0, DENSE},
    {"ernie4_5_moe", "{}", 0, DENSE},
    {"ernie4_5_moe", "{\"moe_layer_end_index\": -1}", 3, EXPERTS},
    {"ernie4_5_moe", "{\"moe_layer_end_index\": 2}", 3, DENSE},
    {"ernie4_5_moe", "{\"moe_layer_start_index\": 0, \"moe_layer_interval\": 2}", 0, DENSE},
    {"ernie4_5_moe", "{\"moe_layer_start_index\": 0, \"moe_layer_interval\": 2}", 1, EXPERTS},
    {"nemotron_h", "{\"layers_block_type\": [\"moe\", \"mamba\"], \"moe_shared_expert_intermediate_size\": 8}", 0,
     EXPERTS},
    {"nemotron_h", "{\"layers_block_type\": [\"moe\", \"mamba\"], \"moe_shared_expert_intermediate_size\": 8}", 1,
     DENSE},
    {"nemotron_h", "{\"hybrid_override_pattern\": \"M*-E\", \"moe_shared_expert_intermediate_size\": 8}", 3, EXPERTS},
    {"nemotron_h", "{\"hybrid_override_pattern\": \"M*-E\", \"moe_shared_expert_intermediate_size\": 8}", 2, DENSE},
    {"inkling_text", "{\"dense_mlp_idx\": 2}", 1, DENSE},
    {"inkling_text", "{\"dense_mlp_idx\": 2}", 2, {"experts=10"}},
    {"deepseek_v4", "{}", 2, {"hashed=1", "hash=128", "bias=0/0"}},
    {"deepseek_v4", "{}", 3, {"hashed=0", "hash=0", "bias=1/0"}},
    {"deepseek_v4", "{\"num_hash_layers\": 0}", 0, {"hashed=0"}},
    {"deepseek_v4", "{\"mlp_layer_types\": [\"moe\", \"hash_moe\", \"moe\", \"moe\"]}", 1, {"hashed=1"}},
    {"deepseek_v4", "{\"mlp_layer_types\": [\"moe\", \"hash_moe\", \"moe\", \"moe\"]}", 0, {"hashed=0"}},
};

/* ---- sizes --------------------------------------------------------------------------------------------------- */

static const struct axis_case size_cases[] = {
    {"qwen3_moe", "{\"moe_intermediate_size\": 24}", 0, {"ff=24", "hidden=64", "top_k=2", "zero=0", "latent=0"}},
    {"mixtral", "{\"num_experts\": null, \"num_local_experts\": 6}", 0, {"experts=6", "ff=48"}},
    {"glm4_moe", "{\"num_experts\": null, \"n_routed_experts\": 6, \"n_group\": 1}", 1, {"experts=6"}},
    {"hunyuan_v1_moe", "{\"num_experts\": [4, 8, 4, 6], \"moe_intermediate_size\": [9, 9, 9, 9]}", 3,
     {"experts=6", "ff=48", "shared=48"}},
    {"hunyuan_v1_moe", "{\"num_experts_per_tok\": null, \"moe_topk\": [1, 2, 3, 4]}", 2, {"top_k=3"}},
    {"ernie4_5_moe", "{\"num_experts_per_tok\": null, \"moe_k\": 3}", 1, {"top_k=3"}},
    {"kimi_linear", "{\"num_experts_per_tok\": null, \"num_experts_per_token\": 3}", 1, {"top_k=3"}},
    {"gemma4_text", "{\"enable_moe_block\": true, \"num_experts_per_tok\": null, \"top_k_experts\": 3}", 1,
     {"top_k=3"}},
    {"step3p5", "{\"num_experts\": null, \"num_experts_per_tok\": null, \"moe_num_experts\": 6, \"moe_top_k\": 3, "
                "\"share_expert_dim\": 10}", 3, {"experts=6", "top_k=3", "shared=10"}},
    {"dbrx", "{\"hidden_size\": null, \"d_model\": 32, \"n_layers\": 2, \"num_experts\": null, "
             "\"num_experts_per_tok\": null, \"ffn_config\": {\"moe_num_experts\": 4, \"moe_top_k\": 3, "
             "\"ffn_hidden_size\": 20}}", 1,
     {"hidden=32", "experts=4", "top_k=3", "ff=20"}},
    {"longcat_flash", "{\"num_layers\": 2, \"expert_ffn_hidden_size\": 20, \"zero_expert_num\": 3, "
                      "\"num_experts_per_tok\": 10}", 1, {"experts=8", "zero=3", "top_k=10", "ff=20"}},
    {"longcat_flash", "{\"num_layers\": 2, \"zero_expert_num\": null}", 1, {"zero=0"}},
    {"phimoe", "{\"num_experts_per_tok\": 5}", 0, {"top_k=2"}},   /* its router knows no other */
    {"ernie4_5_vl_moe_text", "{\"moe_intermediate_size\": [24, 8], \"moe_num_shared_experts\": 2}", 3,
     {"ff=24", "shared=48"}},
    {"inkling_text", "{\"n_shared_experts\": 3}", 0, {"experts=11", "always=3", "top_k=5", "shared=0"}},
    {"nemotron_h", "{\"layers_block_type\": [\"moe\"], \"moe_latent_size\": 16, \"mlp_bias\": true, "
                   "\"moe_shared_expert_intermediate_size\": 8}", 0,
     {"latent=16", "latent_biases=1", "shared_biases=1", "gated=0", "shared=8"}},
    {"nemotron_h", "{\"layers_block_type\": [\"moe\"], \"moe_latent_size\": null, "
                   "\"moe_shared_expert_intermediate_size\": 8}", 0, {"latent=0", "latent_biases=0"}},
};

/* ---- routing ------------------------------------------------------------------------------------------------- */

#define FIRST "\"first_k_dense_replace\": 0"
#define GROUPED "{" FIRST ", \"n_group\": 4, \"topk_group\": 3}"

static const struct axis_case routing_cases[] = {
    {"qwen3_moe", "{}", 0, {"select=default", "weight=softmax", "renorm=none", "scale=0", "bias=0/0"}},
    {"qwen3_moe", "{\"norm_topk_prob\": true}", 0, {"renorm=add", "eps=0"}},
    {"qwen3_moe", "{\"routed_scaling_factor\": 3, \"n_group\": 2, \"scoring_func\": \"sigmoid\"}", 0,
     {"scale=0", "groups=0/0", "weight=softmax"}},   /* keys that this family does not obey */
    {"deepseek_v3", GROUPED, 0, {"groups=4/3", "best=0", "zeroed=0", "renorm=add", "eps=1e-20", "scale=2.5"}},
    {"deepseek_v3", "{" FIRST "}", 0, {"groups=8/4"}},
    {"deepseek_v3", "{" FIRST ", \"norm_topk_prob\": false, \"routed_scaling_factor\": 7}", 0,
     {"renorm=none", "scale=7", "weight=sigmoid", "bias=1/0"}},
    {"mistral4", GROUPED, 0, {"weight=softmax", "groups=4/3", "best=0", "zeroed=1", "eps=1e-20", "bias=0/0"}},
    {"axk2", GROUPED, 0, {"weight=sigmoid", "groups=4/3", "best=0", "zeroed=1", "scale=2.5"}},
    {"axk2", "{" FIRST ", \"n_group\": null}", 0, {"groups=0/0"}},
    {"axk1", "{" FIRST ", \"n_group\": 1, \"topk_group\": 1, \"rms_norm_eps\": 0.5}", 0,
     {"groups=0/0", "norm_eps=0.5"}},
    {"axk1", "{" FIRST "}", 0, {"norm_eps=1e-06"}},
    {"deepseek_v2", "{\"topk_method\": \"group_limited_greedy\", \"n_group\": 4, \"topk_group\": 3, "
                    "\"norm_topk_prob\": true, \"routed_scaling_factor\": 16}", 0,
     {"groups=4/3", "best=1", "zeroed=1", "renorm=none", "scale=16", "bias=0/0"}},
    {"deepseek_v2", "{\"topk_method\": \"greedy\", \"n_group\": 4, \"topk_group\": 3}", 0, {"groups=0/0", "scale=1"}},
    {"deepseek_v2", "{\"n_group\": 4, \"topk_group\": 3}", 0, {"groups=0/0"}},
    {"kimi_linear", "{\"num_expert_group\": 4, \"topk_group\": 2, \"moe_renormalize\": false}", 1,
     {"groups=4/2", "renorm=none", "scale=2.446"}},
    {"afmoe", "{\"route_scale\": 0.25}", 1, {"scale=0.25", "renorm=add", "eps=1e-20"}},
    {"hy_v3", "{\"router_scaling_factor\": 0.25}", 1, {"scale=0.25"}},
    {"mimo_v2_flash", "{\"routed_scaling_factor\": null, \"n_group\": 1}", 1, {"scale=1"}},
    {"lfm2_moe", "{}", 2, {"renorm=add", "eps=1e-06", "scale=1", "bias=1/0"}},
    {"lfm2_moe", "{\"use_expert_bias\": false, \"norm_topk_prob\": false}", 2, {"renorm=none", "bias=0/0"}},
    /* None is false, whatever the default. */
    {"deepseek_v3", "{\"n_group\": 2, \"topk_group\": 1, \"norm_topk_prob\": null}", 3, {"renorm=none"}},
    {"lfm2_moe", "{\"use_expert_bias\": null, \"norm_topk_prob\": null}", 2, {"renorm=none", "bias=0/0"}},
    /* A null name does not hide another that is there. */
    {"deepseek_v3", "{\"n_group\": null, \"num_expert_group\": 2, \"topk_group\": 1}", 3, {"groups=2/1"}},
    /* More slots than kept groups hold: deepseek_v2 weighs the rest by 0, others by their scores. */
    {"deepseek_v2", "{\"topk_method\": \"group_limited_greedy\", \"n_group\": 4, \"topk_group\": 1, "
                    "\"num_experts_per_tok\": 5}", 0, {"groups=4/1", "top_k=2", "zeroed=1"}},
    {"mistral4", "{\"n_group\": 4, \"topk_group\": 1, \"num_experts_per_tok\": 5}", 0,
     {"groups=4/1", "top_k=5", "zeroed=1"}},
    {"laguna", "{\"shared_expert_intermediate_size\": 8, \"moe_routed_scaling_factor\": 2.5, "
               "\"moe_router_logit_softcapping\": 30}", 1,
     {"scale=0", "sum_scale=2.5", "softcap=30", "renorm=add", "eps=0", "on_input=0"}},
    {"laguna", "{\"shared_expert_intermediate_size\": 8, \"moe_apply_router_weight_on_input\": true, "
               "\"moe_router_logit_softcapping\": 0.0}", 1, {"on_input=1", "softcap=0", "sum_scale=1"}},
    {"step3p5", "{\"share_expert_dim\": 8, \"moe_router_scaling_factor\": 3}", 3, {"scale=0", "sum_scale=3", "eps=0"}},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8}", 0, {"scale=0", "sum_scale=2", "renorm=add", "eps=0"}},
    {"dbrx", "{}", 0, {"renorm=p", "p=1", "weight=softmax"}},
    {"dbrx", "{\"ffn_config\": {\"moe_normalize_expert_weights\": 2.0}}", 0, {"renorm=p", "p=2"}},
    {"dbrx", "{\"ffn_config\": {\"moe_normalize_expert_weights\": null}}", 0, {"renorm=none", "p=0"}},
    {"ernie4_5_moe", "{\"moe_norm_min\": 0.125}", 1, {"renorm=clamp", "eps=0.125", "weight=softmax", "bias=1/0"}},
    {"ernie4_5_moe", "{}", 1, {"renorm=clamp", "eps=1e-12"}},
    {"cohere2_moe", "{}", 0, {"select=logit", "weight=chosen", "renorm=none", "out_scale=0", "shared=0"}},
    {"cohere2_moe", "{\"expert_selection_fn\": \"sigmoid\"}", 0, {"select=logit", "weight=sigmoid", "renorm=add"}},
    {"cohere2_moe", "{\"expert_selection_fn\": \"sigmoid\", \"norm_topk_prob\": false}", 0,
     {"weight=sigmoid", "renorm=none"}},
    {"deepseek_v4", "{\"norm_topk_prob\": false}", 3, {"weight=softplus", "renorm=add", "eps=1e-20", "scale=1.5"}},
    {"deepseek_v4", "{\"scoring_func\": \"sigmoid\"}", 3, {"weight=sigmoid", "renorm=add"}},
    {"phimoe", "{\"router_jitter_noise\": 0.5}", 0, {"select=logit", "weight=mixer", "mixer=0.5", "renorm=none"}},
    {"phimoe", "{}", 0, {"mixer=0.01"}},
    {"gemma4_text", "{\"enable_moe_block\": true, \"rms_norm_eps\": 0.25}", 0,
     {"unit=1", "norm_eps=0.25", "renorm=add", "eps=0"}},
    {"inkling_text", "{\"route_scale\": 0.5}", 0, {"scale=0.5", "renorm=add", "eps=0", "always=2", "weight=sigmoid"}},
    {"llama4_text", "{}", 0, {"select=logit", "weight=sigmoid", "on_input=1", "renorm=none"}},
    {"longcat_flash", "{\"num_layers\": 2, \"zero_expert_num\": 2}", 0, {"scale=6", "renorm=none", "bias=1/0"}},
};

/* ---- activation and shared experts --------------------------------------------------------------------------- */

static const struct axis_case act_cases[] = {
    {"mixtral", "{\"hidden_act\": \"gelu\"}", 0, {"act=gelu_erf", "clamp=none", "biases=0", "gated=1"}},
    {"mixtral", "{\"hidden_act\": \"quick_gelu\"}", 0, {"act=swish", "alpha=1.702"}},
    {"aria_text", "{\"hidden_act\": \"quick_gelu\"}", 0,
     {"act=swish", "alpha=0", "shared_act=swish", "shared_alpha=1.702"}},
    {"jetmoe", "{\"hidden_act\": \"relu\", \"activation_function\": \"gelu_new\"}", 0, {"act=gelu_tanh"}},
    {"dbrx", "{\"ffn_config\": {\"ffn_act_fn\": {\"name\": \"relu\"}}}", 0, {"act=relu"}},
    {"nemotron_h", "{\"layers_block_type\": [\"moe\"], \"moe_shared_expert_intermediate_size\": 8}", 0,
     {"act=relu2", "shared_act=relu2", "gated=0"}},
    {"nemotron_h", "{\"layers_block_type\": [\"moe\"], \"moe_shared_expert_intermediate_size\": 8, "
                   "\"mlp_hidden_act\": \"silu\", \"hidden_act\": \"gelu\"}", 0, {"act=swish"}},
    {"gemma4_text", "{\"enable_moe_block\": true}", 0, {"act=gelu_tanh"}},
    {"gemma4_text", "{\"enable_moe_block\": true, \"hidden_activation\": \"silu\"}", 0, {"act=swish"}},
    {"gpt_oss", "{\"swiglu_limit\": 3.5}", 0, {"clamp=before", "limit=3.5", "alpha=1.702", "up=1", "biases=1"}},
    {"openai_privacy_filter", "{\"swiglu_limit\": 3.5}", 0, {"clamp=before", "limit=7", "alpha=1.702", "up=1"}},
    {"minimax_m3_vl_text", "{\"shared_intermediate_size\": 8, \"swiglu_alpha\": 1.5, \"swiglu_limit\": 4, "
                           "\"hidden_act\": \"gelu\"}", 0,
     {"act=swish", "limit=4", "alpha=1.5", "up=1", "shared_limit=4", "shared_alpha=1.5"}},
    {"deepseek_v4", "{\"swiglu_limit\": 3, \"hidden_act\": \"gelu\"}", 3,
     {"act=gelu_erf", "clamp=before", "limit=3", "shared_clamp=before", "shared_limit=3", "shared=48"}},
    {"hy_v4", "{\"swiglu_limit\": 3, \"hidden_act\": \"gelu\"}", 1,
     {"act=swish", "clamp=before", "limit=3", "shared_act=gelu_erf", "shared_clamp=none", "shared_limit=0"}},
    {"glm5_next_text", "{\"swiglu_limit\": 3, \"hidden_act\": \"gelu\"}", 3,
     {"act=swish", "clamp=before", "limit=3", "shared_act=gelu_erf", "shared_clamp=before", "shared_limit=3"}},
    {"aria_text", "{\"hidden_act\": \"gelu\", \"mlp_bias\": true}", 0,
     {"act=swish", "shared_act=gelu_erf", "shared_biases=1", "biases=0", "shared=96"}},
    {"lfm2_moe", "{\"hidden_act\": \"gelu\"}", 2, {"act=swish"}},
#define STEP "{\"share_expert_dim\": 8, \"moe_layers_enum\": \"0,1,2,3\", \"swiglu_limits\": [0, 0.5, null, 2], " \
             "\"swiglu_limits_shared\": [null, 0.0, 3, 4]}"
    {"step3p5", STEP, 0, {"clamp=none", "limit=0", "shared_clamp=none", "shared_limit=0"}},
    {"step3p5", STEP, 1, {"clamp=after", "limit=0.5", "shared_clamp=none", "shared_limit=0"}},
    {"step3p5", STEP, 2, {"clamp=none", "limit=0", "shared_clamp=after", "shared_limit=3"}},
    {"step3p5", STEP, 3, {"clamp=after", "limit=2", "shared_clamp=after", "shared_limit=4"}},
    {"step3p5", "{\"share_expert_dim\": 8, \"swiglu_limits\": null, \"mlp_bias\": true}", 3,
     {"clamp=none", "shared_clamp=none", "shared_biases=1", "biases=0"}},
    {"qwen2_moe", "{\"shared_expert_intermediate_size\": 20}", 0, {"shared=20", "shared_kind=2"}},
    {"qwen2_moe", "{\"shared_expert_intermediate_size\": 0}", 0, {"shared=0"}},
    {"glm4_moe", "{\"n_shared_experts\": 3, \"moe_intermediate_size\": 5}", 1, {"shared=15", "shared_kind=1"}},
    {"glm4_moe", "{\"n_shared_experts\": null}", 1, {"shared=0"}},
    {"deepseek_v2", "{\"mlp_bias\": true}", 0, {"shared=96", "shared_biases=1"}},
    {"ernie4_5_moe", "{\"use_bias\": true, \"moe_num_shared_experts\": 1}", 1, {"shared=48", "shared_biases=1"}},
    {"ernie4_5_moe", "{\"mlp_bias\": true}", 1, {"shared_biases=0"}},
    {"deepseek_v32", "{" FIRST ", \"mlp_bias\": true}", 0, {"shared_biases=0"}},
    {"granitemoehybrid", "{\"shared_intermediate_size\": 20}", 0, {"shared=0", "shared_kind=0"}},
    {"cohere2_moe", "{\"num_shared_experts\": 2}", 0, {"shared=96", "out_scale=0.5"}},
    {"cohere2_moe", "{\"num_shared_experts\": 2, \"shared_expert_combination_strategy\": \"sum\"}", 0,
     {"shared=96", "out_scale=0"}},
    {"cohere2_moe", "{\"num_shared_experts\": 0, \"shared_expert_combination_strategy\": \"average\"}", 0,
     {"shared=0", "out_scale=0"}},
    {"llama4_text", "{}", 0, {"shared=48", "shared_kind=1"}},
    {"laguna", "{\"shared_expert_intermediate_size\": 8}", 1, {"shared=8"}},
};

static void check_case(const struct axis_case *t)
{
    config_save(t->family, t->patch);
    struct moe_model *model = open_model_at(temp_dir, 0);
    struct moe_model_axes axes;
    struct moe_error error = {.text = ""};
    if (moe_model_axes_read(model, t->block, &axes, &error) != MOE_OK)
        fail_msg("%s %s: %s", t->family, t->patch, error.text);
    char text[AXES_TEXT_SIZE];
    axes_text(text, &axes);
    for (size_t i = 0; i < 6 && t->words[i] != NULL; i++) {
        char word[64];
        snprintf(word, sizeof word, " %s ", t->words[i]);
        if (strstr(text, word) == NULL)
            fail_msg("%s %s, block %zu: no '%s' in %s", t->family, t->patch, t->block, t->words[i], text);
    }
    moe_model_close(model);
}

static void check_cases(const struct axis_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_case(&cases[i]);
}

static void test_blocks(void **state)
{
    (void)state;
    check_cases(block_cases, sizeof block_cases / sizeof *block_cases);
}

static void test_sizes(void **state)
{
    (void)state;
    check_cases(size_cases, sizeof size_cases / sizeof *size_cases);
}

static void test_routing(void **state)
{
    (void)state;
    check_cases(routing_cases, sizeof routing_cases / sizeof *routing_cases);
}

static void test_acts_and_shared(void **state)
{
    (void)state;
    check_cases(act_cases, sizeof act_cases / sizeof *act_cases);
}

/* ---- where the family is named ------------------------------------------------------------------------------- */

static void test_places(void **state)
{
    (void)state;
#define TEXT "\"text_config\": {\"num_hidden_layers\": 3, \"hidden_size\": 32, \"intermediate_size\": 16, " \
             "\"num_experts\": 5, \"num_experts_per_tok\": 2"
    static const struct {
        const char *outer, *patch, *family;
        size_t num_blocks;
    } cases[] = {
        {"gemma4", "{" TEXT ", \"model_type\": \"gemma4_text\"}}", "gemma4_text", 3},
        {"gemma4", "{" TEXT "}}", "gemma4_text", 3},
        {"qwen3_vl_moe", "{" TEXT ", \"model_type\": null}}", "qwen3_vl_moe_text", 3},
        {"minimax_m3_vl", "{" TEXT ", \"shared_intermediate_size\": 8, \"model_type\": \"mixtral\"}}",
         "minimax_m3_vl_text", 3},   /* whatever it calls itself */
        {"kimi_k25", "{" TEXT ", \"n_group\": 1, \"model_type\": \"kimi_k2\"}}", "deepseek_v3", 3},
        {"kimi_k25", "{" TEXT ", \"n_group\": 1}}", "deepseek_v3", 3},
        {"kimi_k25", "{" TEXT ", \"model_type\": \"kimi_linear\"}}", "kimi_linear", 3},
        {"any_wrapper", "{" TEXT ", \"model_type\": \"mixtral\"}}", "mixtral", 3},
        {"qwen3_omni_moe", "{\"thinker_config\": {" TEXT ", \"model_type\": \"qwen3_omni_moe_text\"}}}",
         "qwen3_omni_moe_text", 3},
        {"qwen3_omni_moe", "{\"thinker_config\": {" TEXT "}}}", "qwen3_omni_moe_text", 3},
        {"qwen3_omni_moe_thinker", "{" TEXT "}}", "qwen3_omni_moe_text", 3},
        {"ernie4_5_vl_moe", "{}", "ernie4_5_vl_moe_text", 4},   /* without a text_config: keys are its own */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        config_save(cases[i].outer, cases[i].patch);
        struct moe_model *model = open_model_at(temp_dir, 0);
        struct moe_model_info info;
        MOE_INIT(&info);
        assert_int_equal(moe_model_info(model, &info), MOE_OK);
        assert_string_equal(info.family, cases[i].family);
        assert_int_equal(info.num_blocks, cases[i].num_blocks);
        moe_model_close(model);
    }
}

/* A list of block types counts the blocks, whatever another key says. */
static void test_num_blocks(void **state)
{
    (void)state;
    config_save("nemotron_h", "{\"num_hidden_layers\": 9, \"hybrid_override_pattern\": \"ME*\", "
                              "\"moe_shared_expert_intermediate_size\": 8}");
    struct moe_model *model = open_model_at(temp_dir, 0);
    struct moe_model_info info;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_int_equal(info.num_blocks, 3);
    moe_model_close(model);
    config_save("longcat_flash", "{\"num_layers\": 2, \"zero_expert_num\": 2}");
    model = open_model_at(temp_dir, 0);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_int_equal(info.num_blocks, 2);
    moe_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),          cmocka_unit_test(test_sizes),  cmocka_unit_test(test_routing),
        cmocka_unit_test(test_acts_and_shared), cmocka_unit_test(test_places), cmocka_unit_test(test_num_blocks),
    };
    return cmocka_run_group_tests_name("models/axes", tests, temp_setup, temp_teardown);
}
