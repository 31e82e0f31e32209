// SPDX-License-Identifier: MIT
// How llama.cpp calls what Hugging Face calls otherwise. The MoE tensors themselves are named in convert_plan.c.
#include "names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS .renorm = NAMES_RENORM_ALWAYS
#define NEVER .renorm = NAMES_RENORM_NEVER
#define LEADING .layers = NAMES_LAYERS_LEADING
#define TENSORS .layers = NAMES_LAYERS_TENSORS

static const struct names_family families[] = {
    {"afmoe", "afmoe", "afmoe", .sandwich = true, LEADING, .shared_count = true},
    {"cohere2_moe", "cohere2moe", "cohere2moe", LEADING, .shared_count = true},
    {"dbrx", "dbrx", "dbrx", ALWAYS},
    {"deepseek_ocr2_text", "deepseek2-ocr", "deepseek-v3", .interleaved_rope = true, LEADING, .shared_count = true,
     .note = "scores a group by its two best experts, not by its best"},
    {"deepseek_v2", "deepseek2", "deepseek-llm", .latent_attention = true, LEADING, .shared_count = true,
     .note = "scores a group by its two best experts, not by its best"},
    {"deepseek_v3", "deepseek2", "deepseek-v3", .latent_attention = true, LEADING, .shared_count = true},
    {"deepseek_v32", "deepseek32", "deepseek-v3", .latent_attention = true, LEADING, .shared_count = true},
    {"deepseek_v4", "deepseek4", "deepseek-v3", .shared_count = true, .clamp = true},
    {"dots1", "dots1", "qwen2", LEADING, .shared_count = true},
    {"ernie4_5_moe", "ernie4_5-moe", "default", .layers = NAMES_LAYERS_LEADING_STEP, ALWAYS, .shared_count = true},
    {"exaone_moe", "exaone-moe", "exaone-moe", LEADING, .shared_count = true},
    {"gemma4_text", "gemma4", "gemma4", .sandwich = true, TENSORS, ALWAYS},
    {"glm4_moe", "glm4moe", "glm4", .post_norm = true, LEADING, .shared_count = true},
    {"glm4_moe_lite", "deepseek2", "glm4", .latent_attention = true, LEADING, .shared_count = true},
    {"glm4v_moe_text", "glm4moe", "glm4", .post_norm = true, LEADING, .shared_count = true},
    {"glm5_next_text", "glm5-next", "glm4", LEADING, .shared_count = true, .clamp = true},
    {"glm_moe_dsa", "glm-dsa", "glm4", .latent_attention = true, LEADING, .shared_count = true},
    {"gpt_oss", "gpt-oss", "gpt-4o", .post_norm = true, NEVER},
    {"granitemoe", "granitemoe", "refact", .interleaved_rope = true, TENSORS, ALWAYS, .no_gating = true},
    {"granitemoe_swa", "granite_swa", "refact", .interleaved_rope = true, TENSORS, ALWAYS, .no_gating = true,
     .fused_shared = true},
    {"granitemoehybrid", "granitehybrid", "refact", .interleaved_rope = true, TENSORS, ALWAYS, .no_gating = true},
    {"granitemoeshared", "granitemoe", "refact", .interleaved_rope = true, TENSORS, ALWAYS, .no_gating = true},
    {"hunyuan_v1_moe", "hunyuan-moe", "hunyuan", ALWAYS, .shared_count = true},
    {"hy_v3", "hy_v3", "hunyuan", TENSORS, .shared_count = true},
    {"hy_v4", "hy_v4", "hunyuan", LEADING, .shared_count = true, .clamp = true},
    {"jamba", "jamba", "default", TENSORS, NEVER},
    {"kimi_linear", "kimi-linear", "kimi-k2", LEADING, ALWAYS, .shared_count = true},
    {"laguna", "laguna", "laguna", LEADING, .shared_count = true},
    {"lfm2_moe", "lfm2moe", "lfm2", LEADING, ALWAYS},
    {"llama4_text", "llama4", "llama4", .layers = NAMES_LAYERS_STEP, NEVER},
    {"mellum", "mellum", "mellum", ALWAYS},
    {"mimo_v2_flash", "mimo2", "qwen2", TENSORS, ALWAYS},
    {"minimax", "minimax-01", "minimax-m2", ALWAYS},
    {"minimax_m2", "minimax-m2", "minimax-m2", ALWAYS},
    {"minimax_m3_vl_text", "minimax-m3", "minimax-m2", LEADING, .shared_count = true},
    {"mistral4", "mistral4", "tekken", .latent_attention = true, LEADING, .shared_count = true,
     .note = "drops groups to minus infinity, not to 0"},
    {"mixtral", "llama", "default", .interleaved_rope = true, ALWAYS},
    {"nemotron_h", "nemotron_h_moe", "pixtral", TENSORS, .shared_count = true, .layer_lists = true,
     .latent = "ffn_latent", .latent_key = "moe_latent_size"},
    {"olmoe", "olmoe", "olmo", NEVER},
    {"phimoe", "phimoe", "default", .no_gating = true,
     .note = "chooses and weighs experts by a plain softmax, not by the sparse mixer that the model was trained with"},
    {"qwen2_moe", "qwen2moe", "qwen2", NEVER},
    {"qwen3_5_moe_text", "qwen35moe", "qwen35", .post_norm = true, ALWAYS},
    {"qwen3_moe", "qwen3moe", "qwen2", ALWAYS},
    {"qwen3_next", "qwen3next", "qwen2", .post_norm = true, ALWAYS},
    {"qwen3_omni_moe_text", "qwen3vlmoe", "qwen2", ALWAYS},
    {"qwen3_vl_moe_text", "qwen3vlmoe", "qwen2", ALWAYS},
    {"qwen4_exp_text", "qwen4exp", "qwen35", .post_norm = true, ALWAYS},
    {"solar_open", "glm4moe", "solar-open", .post_norm = true, LEADING, .shared_count = true},
    {"step3p5", "step35", "deepseek-v3", TENSORS, .clamp = true},
};

static const struct {
    const char *theirs, *ours;
} top_level[] = {
    {"embed_tokens", "token_embd"},
    {"embeddings", "token_embd"},
    {"wte", "token_embd"},
    {"norm", "output_norm"},
    {"norm_f", "output_norm"},
    {"final_layernorm", "output_norm"},
    {"lm_head", "output"},
};

/* Under model.layers.N. */
static const struct {
    const char *theirs, *ours;
} in_layer[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.q_a_proj", "attn_q_a"},
    {"self_attn.q_a_layernorm", "attn_q_a_norm"},
    {"self_attn.q_b_proj", "attn_q_b"},
    {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
    {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
    {"self_attn.query_layernorm", "attn_q_norm"},
    {"self_attn.key_layernorm", "attn_k_norm"},
    {"self_attn.gate_proj", "attn_gate"},
    {"operator_norm", "attn_norm"},
    {"pre_ff_layernorm", "ffn_norm"},
    {"ffn_norm", "ffn_norm"},
    {"mixer.q_proj", "attn_q"},
    {"mixer.k_proj", "attn_k"},
    {"mixer.v_proj", "attn_v"},
    {"mixer.o_proj", "attn_output"},
    {"norm", "attn_norm"},
    {"shared_mlp.output_linear", "ffn_down_shexp"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"feed_forward.gate_proj", "ffn_gate"},
    {"feed_forward.up_proj", "ffn_up"},
    {"feed_forward.down_proj", "ffn_down"},
};

/* The same for families with norms on both sides of attention and MLP. */
static const struct {
    const char *theirs, *ours;
} sandwich[] = {
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_mlp_layernorm", "ffn_norm"},
    {"post_mlp_layernorm", "post_ffw_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {"post_feedforward_layernorm_1", "post_ffw_norm_1"},
    {"pre_feedforward_layernorm_2", "pre_ffw_norm_2"},
    {"post_feedforward_layernorm_2", "post_ffw_norm_2"},
};

/* Beginnings, under model.layers.N., of what belongs to an MoE layer. */
static const char *const of_experts[] = {
    "mlp.experts.",          "mlp.gate.",          "mlp.router.",         "mlp.shared_expert",
    "mlp.shared_mlp.",       "mlp.expert_bias",    "mlp.e_score",         "mlp.moe_statics.",
    "block_sparse_moe.",     "ffn.experts.",       "ffn.gate.",           "ffn.router.",
    "ffn.shared_experts.",   "experts.",           "router.",             "moe.",
    "share_expert.",         "mixer.experts.",     "mixer.gate.",         "mixer.shared_experts.",
    "mixer.fc1_latent_proj", "mixer.fc2_latent_proj", "feed_forward.experts.", "feed_forward.router.",
    "feed_forward.gate.",    "feed_forward.expert_bias", "feed_forward.shared_expert",
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

const struct names_family *names_at(size_t i)
{
    return i < COUNT(families) ? &families[i] : NULL;
}

const struct names_family *names_find(const char *family)
{
    for (size_t i = 0; i < COUNT(families); i++)
        if (strcmp(families[i].family, family) == 0)
            return &families[i];
    return NULL;
}

static const char *after(const char *text, const char *beginning)
{
    size_t length = strlen(beginning);
    return strncmp(text, beginning, length) == 0 ? text + length : NULL;
}

/* llama.cpp's name of what Hugging Face calls so in a layer, without the suffix; NULL: none is known. */
static const char *in_layer_name(const struct names_family *family, const char *name, size_t length)
{
    if (family->sandwich) {
        for (size_t i = 0; i < COUNT(sandwich); i++)
            if (strlen(sandwich[i].theirs) == length && strncmp(sandwich[i].theirs, name, length) == 0)
                return sandwich[i].ours;
    } else if (length == strlen("post_attention_layernorm") && after(name, "post_attention_layernorm")) {
        return family->post_norm ? "post_attention_norm" : "ffn_norm";
    }
    for (size_t i = 0; i < COUNT(in_layer); i++)
        if (strlen(in_layer[i].theirs) == length && strncmp(in_layer[i].theirs, name, length) == 0)
            return in_layer[i].ours;
    return NULL;
}

static enum names_kind map_in_layer(const struct names_family *family, const char *name, unsigned long block,
                                    char out[96])
{
    for (size_t i = 0; i < COUNT(of_experts); i++)
        if (after(name, of_experts[i]))
            return NAMES_EXPERTS;
    if (strstr(name, "rotary_emb.inv_freq"))
        return NAMES_EXTRA;
    if (strcmp(name, "self_attn.sinks") == 0) {
        snprintf(out, 96, "blk.%lu.attn_sinks.weight", block);
        return NAMES_TENSOR;
    }
    bool halves = strcmp(name, "shared_mlp.input_linear.weight") == 0;
    if (halves && family->fused_shared) {
        snprintf(out, 96, "blk.%lu.ffn_up_shexp.weight", block);
        return NAMES_TENSOR;
    }
    if (halves || (family->latent_attention && strcmp(name, "self_attn.kv_b_proj.weight") == 0)) {
        snprintf(out, 96, "blk.%lu.", block);
        return halves ? NAMES_HALVES : NAMES_KV_B;
    }
    const char *dot = strrchr(name, '.');
    if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0))
        return NAMES_UNKNOWN;
    const char *ours = in_layer_name(family, name, (size_t)(dot - name));
    if (!ours)
        return NAMES_UNKNOWN;
    snprintf(out, 96, "blk.%lu.%s%s", block, ours, dot);
    return NAMES_TENSOR;
}

enum names_kind names_map(const struct names_family *family, const char *name, size_t num_blocks, char out[96])
{
    static const char *const prefixes[] = {"language_model.", "model.language_model.", "model.", "backbone.",
                                           "transformer."};
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        const char *rest = after(name, prefixes[i]);
        if (rest)
            name = rest;
    }
    const char *layer = after(name, "layers.");
    if (!layer)
        layer = after(name, "blocks.");
    if (layer && isdigit((unsigned char)*layer)) {
        char *end;
        unsigned long block = strtoul(layer, &end, 10);
        if (block >= num_blocks)
            return NAMES_EXTRA;
        return *end == '.' ? map_in_layer(family, end + 1, block, out) : NAMES_UNKNOWN;
    }
    for (size_t i = 0; i < COUNT(top_level); i++) {
        const char *rest = after(name, top_level[i].theirs);
        if (rest && (strcmp(rest, ".weight") == 0 || strcmp(rest, ".bias") == 0)) {
            snprintf(out, 96, "%s%s", top_level[i].ours, rest);
            return NAMES_TENSOR;
        }
    }
    return NAMES_UNKNOWN;
}

bool names_is_expert(const char *name)
{
    return strstr(name, "_exps.weight") != NULL || strstr(name, "_shexp.weight") != NULL;
}

bool names_is_down(const char *name)
{
    return strstr(name, "ffn_down_exps.") != NULL || strstr(name, "ffn_down_shexp.") != NULL;
}

bool names_is_small(const char *name)
{
    size_t length = strlen(name);
    bool weight = length > 7 && strcmp(name + length - 7, ".weight") == 0;
    return !weight || strstr(name, "norm") != NULL || strstr(name, "ffn_gate_inp") != NULL ||
           strstr(name, "attn_sinks") != NULL || strstr(name, "tid2eid") != NULL;
}

bool names_match(const char *pattern, size_t length, const char *name)
{
    size_t at = 0, star = length;    /* star: where the last '*' was; length: none yet */
    const char *resume = name;
    while (*name) {
        if (at < length && pattern[at] == '*') {
            star = at++;
            resume = name;
        } else if (at < length && (pattern[at] == '?' || pattern[at] == *name)) {
            at++;
            name++;
        } else if (star < length) {    /* let the last '*' take one character more */
            at = star + 1;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (at < length && pattern[at] == '*')
        at++;
    return at == length;
}
