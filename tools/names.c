// SPDX-License-Identifier: MIT
// How llama.cpp calls what Hugging Face calls otherwise. The MoE tensors themselves are named in convert_plan.c.
#include "names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct names_family families[] = {
    {"qwen3_moe", "qwen3moe", "qwen2", .renorm = NAMES_RENORM_ALWAYS},
    {"qwen2_moe", "qwen2moe", "qwen2", .renorm = NAMES_RENORM_NEVER},
    {"olmoe", "olmoe", "olmo", .renorm = NAMES_RENORM_NEVER},
    {"mixtral", "llama", "default", .interleaved_rope = true, .renorm = NAMES_RENORM_ALWAYS},
    {"glm4_moe", "glm4moe", "glm4", .post_norm = true, .layers = NAMES_LAYERS_LEADING, .shared_count = true},
    {"deepseek_v3", "deepseek2", "deepseek-v3", .latent_attention = true, .layers = NAMES_LAYERS_LEADING,
     .shared_count = true},
    {"gpt_oss", "gpt-oss", "gpt-4o", .post_norm = true, .renorm = NAMES_RENORM_NEVER},
    {"llama4_text", "llama4", "llama4", .layers = NAMES_LAYERS_STEP, .renorm = NAMES_RENORM_NEVER},
};

static const struct {
    const char *theirs, *ours;
} top_level[] = {
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
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
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"feed_forward.gate_proj", "ffn_gate"},
    {"feed_forward.up_proj", "ffn_up"},
    {"feed_forward.down_proj", "ffn_down"},
};

/* Beginnings, under model.layers.N., of what belongs to an MoE layer. */
static const char *const of_experts[] = {
    "mlp.experts.", "mlp.gate.", "mlp.router.", "mlp.shared_expert", "block_sparse_moe.",
    "feed_forward.experts.", "feed_forward.router.", "feed_forward.shared_expert",
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

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
    if (family->latent_attention && strcmp(name, "self_attn.kv_b_proj.weight") == 0) {
        snprintf(out, 96, "blk.%lu.", block);
        return NAMES_KV_B;
    }
    const char *dot = strrchr(name, '.');
    if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0))
        return NAMES_UNKNOWN;
    size_t length = (size_t)(dot - name);
    const char *ours = NULL;
    if (length == strlen("post_attention_layernorm") && after(name, "post_attention_layernorm"))
        ours = family->post_norm ? "post_attention_norm" : "ffn_norm";
    for (size_t i = 0; i < COUNT(in_layer) && !ours; i++)
        if (strlen(in_layer[i].theirs) == length && strncmp(in_layer[i].theirs, name, length) == 0)
            ours = in_layer[i].ours;
    if (!ours)
        return NAMES_UNKNOWN;
    snprintf(out, 96, "blk.%lu.%s%s", block, ours, dot);
    return NAMES_TENSOR;
}

enum names_kind names_map(const struct names_family *family, const char *name, size_t num_blocks, char out[96])
{
    static const char *const prefixes[] = {"language_model.", "model.language_model.", "model."};
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        const char *rest = after(name, prefixes[i]);
        if (rest)
            name = rest;
    }
    const char *layer = after(name, "layers.");
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
           strstr(name, "attn_sinks") != NULL;
}
