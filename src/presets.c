// SPDX-License-Identifier: MIT
// The table of model families and their tensor names. A new family is a row of presets[] and, if its names are new, a
// set of names; see presets.h for what the columns mean.
#include "presets.h"

#include <string.h>

static const char *const key_names[MOE_KEYS][MOE_VOCABULARIES] = {
#define MOE_KEY_ROW(NAME, config, gguf) [MOE_KEY_##NAME] = {config, gguf},
    MOE_KEY_MAP(MOE_KEY_ROW)
#undef MOE_KEY_ROW
};

const char *const moe_preset_prefixes[MOE_VOCABULARIES][5] = {
    [MOE_VOCABULARY_CONFIG] = {"model.layers.{b}.", "language_model.model.layers.{b}.",
                               "model.language_model.layers.{b}.", "layers.{b}.", NULL},
    [MOE_VOCABULARY_GGUF] = {"blk.{b}.", NULL},
};

/* ---- tensor names -------------------------------------------------------------------------------------------- */

#define PROJ(p) \
    .gate = p "gate_proj.weight", .up = p "up_proj.weight", .down = p "down_proj.weight"

/* All experts in one tensor, as transformers keeps them in memory; or one tensor each, or so. */
#define EXPERTS_FUSED(p) \
    {.layout = MOE_MLP_FUSED, .up = p ".gate_up_proj", .down = p ".down_proj"}
#define EXPERTS_PROJ(p) \
    {{PROJ(p ".{e}.")}, EXPERTS_FUSED(p)}

static const struct moe_names names_mlp = {
    .router = "mlp.gate.weight",
    .selection_bias = "mlp.gate.e_score_correction_bias",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {PROJ("mlp.shared_experts.")},
};

static const struct moe_names names_qwen2 = {
    .router = "mlp.gate.weight",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {PROJ("mlp.shared_expert.")},
    .shared_gate = "mlp.shared_expert_gate.weight",
};

static const struct moe_names names_mixtral = {
    .router = "block_sparse_moe.gate.weight|mlp.gate.weight",
    .experts = {{.gate = "block_sparse_moe.experts.{e}.w1.weight",
                 .up = "block_sparse_moe.experts.{e}.w3.weight",
                 .down = "block_sparse_moe.experts.{e}.w2.weight"},
                EXPERTS_FUSED("mlp.experts")},
};

static const struct moe_names names_gpt_oss = {
    .router = "mlp.router.weight",
    .router_bias = "mlp.router.bias",
    .experts = {{.layout = MOE_MLP_FUSED | MOE_MLP_TRANSPOSED | MOE_MLP_INTERLEAVED,
                 .up = "mlp.experts.gate_up_proj",
                 .down = "mlp.experts.down_proj",
                 .up_bias = "mlp.experts.gate_up_proj_bias",
                 .down_bias = "mlp.experts.down_proj_bias"},
                {.up = "mlp.experts.gate_up_proj_blocks",
                 .unsupported = "MXFP4 in the order of Hugging Face, with blocks and scales in two tensors"}},
};

static const struct moe_names names_llama4 = {
    .router = "feed_forward.router.weight",
    .experts = {{.layout = MOE_MLP_FUSED | MOE_MLP_TRANSPOSED,
                 .up = "feed_forward.experts.gate_up_proj",
                 .down = "feed_forward.experts.down_proj"}},
    .shared = {PROJ("feed_forward.shared_expert.")},
};

static const struct moe_names names_gguf = {
    .router = "ffn_gate_inp.weight",
    .router_bias = "ffn_gate_inp.bias",
    .selection_bias = "exp_probs_b.bias|exp_probs_b",
    .experts = {{.gate = "ffn_gate_exps.weight",
                 .up = "ffn_up_exps.weight",
                 .down = "ffn_down_exps.weight",
                 .gate_bias = "ffn_gate_exps.bias",
                 .up_bias = "ffn_up_exps.bias",
                 .down_bias = "ffn_down_exps.bias"},
                {.layout = MOE_MLP_FUSED,
                 .up = "ffn_gate_up_exps.weight",
                 .down = "ffn_down_exps.weight",
                 .up_bias = "ffn_gate_up_exps.bias",
                 .down_bias = "ffn_down_exps.bias"},
                {.up = "ffn_up.0.weight", .unsupported = "one tensor an expert, as GGUF files had before April 2024"}},
    .shared = {.gate = "ffn_gate_shexp.weight", .up = "ffn_up_shexp.weight", .down = "ffn_down_shexp.weight"},
    .shared_gate = "ffn_gate_inp_shexp.weight",
};

/* ---- families ------------------------------------------------------------------------------------------------ */

enum {
    QWEN_KEYS = MOE_KEY_BIT(ACT) | MOE_KEY_BIT(NORM) | MOE_KEY_BIT(STEP) | MOE_KEY_BIT(DENSE_LIST),
    DEEPSEEK_KEYS = MOE_KEY_BIT(ACT) | MOE_KEY_BIT(NORM) | MOE_KEY_BIT(SCALE) | MOE_KEY_BIT(GROUPS) |
                    MOE_KEY_BIT(TOP_GROUPS) | MOE_KEY_BIT(SHARED_COUNT) | MOE_KEY_BIT(FIRST_DENSE)
};

static const struct moe_preset presets[] = {
    {
        .name = "qwen3_moe",
        .gguf = "qwen3moe",
        .keys = QWEN_KEYS,
        .weight = MOE_SCORE_SOFTMAX,
        .renorm = MOE_RENORM_ADD_EPS,
        .norm = {.family = true, .config = false, .gguf = true},
        .names = &names_mlp,
    },
    {
        .name = "mixtral",
        .gguf = "llama",
        .keys = MOE_KEY_BIT(ACT),
        .weight = MOE_SCORE_SOFTMAX,
        .renorm = MOE_RENORM_ADD_EPS,
        .norm = {true, true, true},
        .names = &names_mixtral,
    },
    {
        .name = "olmoe",
        .gguf = "olmoe",
        .keys = MOE_KEY_BIT(ACT) | MOE_KEY_BIT(NORM),
        .weight = MOE_SCORE_SOFTMAX,
        .renorm = MOE_RENORM_ADD_EPS,
        .names = &names_mlp,
    },
    {
        .name = "qwen2_moe",
        .gguf = "qwen2moe",
        .keys = QWEN_KEYS | MOE_KEY_BIT(SHARED_FF),
        .weight = MOE_SCORE_SOFTMAX,
        .renorm = MOE_RENORM_ADD_EPS,
        .shared = MOE_PRESET_SHARED_SIGMOID,
        .names = &names_qwen2,
    },
    {
        .name = "glm4_moe",
        .gguf = "glm4moe",
        .keys = DEEPSEEK_KEYS,
        .weight = MOE_SCORE_SIGMOID,
        .renorm = MOE_RENORM_ADD_EPS,
        .renorm_eps = 1e-20f,
        .norm = {true, true, true},
        .scale = 1.0f,
        .selection_bias = true,
        .shared = MOE_PRESET_SHARED_PLAIN,
        .shared_count = 1,
        .first_dense = 1,
        .names = &names_mlp,
    },
    {
        /* GGUF's deepseek2 covers V2 to V3: files without a gating function are of the softmax generation. */
        .name = "deepseek_v3",
        .gguf = "deepseek2",
        .keys = DEEPSEEK_KEYS,
        .weight = MOE_SCORE_SIGMOID,
        .renorm = MOE_RENORM_ADD_EPS,
        .renorm_eps = 1e-20f,
        .norm = {.family = true, .config = true, .gguf = false},
        .num_groups = 8,
        .top_groups = 4,
        .scale = 2.5f,
        .gguf_gating = 1,
        .selection_bias = true,
        .shared = MOE_PRESET_SHARED_PLAIN,
        .shared_count = 1,
        .first_dense = 3,
        .names = &names_mlp,
    },
    {
        .name = "gpt_oss",
        .gguf = "gpt-oss",
        .keys = MOE_KEY_BIT(LIMIT),
        .select = MOE_SCORE_LOGIT,
        .weight = MOE_SCORE_SOFTMAX_TOPK,
        .act = {.kind = MOE_ACT_SWISH, .clamp = MOE_CLAMP_BEFORE, .limit = 7.0f, .alpha = 1.702f, .up_offset = 1.0f},
        .router_bias = true,
        .biases = true,
        .names = &names_gpt_oss,
    },
    {
        .name = "llama4_text",
        .outer = "llama4",
        .gguf = "llama4",
        .keys = MOE_KEY_BIT(ACT) | MOE_KEY_BIT(STEP) | MOE_KEY_BIT(MOE_LIST),
        .select = MOE_SCORE_LOGIT,
        .weight = MOE_SCORE_SIGMOID,
        .weight_on_input = true,
        .shared = MOE_PRESET_SHARED_PLAIN,
        .shared_count = 1,
        .names = &names_llama4,
    },
};

/* ---- look-ups --------------------------------------------------------------------------------------------- */

const char *moe_preset_key_names(enum moe_key key, enum moe_vocabulary vocabulary)
{
    return key_names[key][vocabulary];
}

const struct moe_preset *moe_preset_find(enum moe_vocabulary vocabulary, const char *name)
{
    for (size_t i = 0; i < MOE_ARRAY_SIZE(presets); i++) {
        const char *known = vocabulary == MOE_VOCABULARY_GGUF ? presets[i].gguf : presets[i].name;
        if (known != NULL && strcmp(known, name) == 0)
            return &presets[i];
    }
    return NULL;
}

const struct moe_preset *moe_preset_find_outer(const char *name)
{
    for (size_t i = 0; i < MOE_ARRAY_SIZE(presets); i++)
        if (presets[i].outer != NULL && strcmp(presets[i].outer, name) == 0)
            return &presets[i];
    return NULL;
}

const struct moe_names *moe_preset_names(const struct moe_preset *preset, enum moe_vocabulary vocabulary)
{
    return vocabulary == MOE_VOCABULARY_GGUF ? &names_gguf : preset->names;
}

bool moe_preset_gating(uint32_t gating, enum moe_score *weight)
{
    static const enum moe_score scores[] = {
        [1] = MOE_SCORE_SOFTMAX, [2] = MOE_SCORE_SIGMOID, [3] = MOE_SCORE_SOFTMAX_TOPK};
    if (gating == 0 || gating >= MOE_ARRAY_SIZE(scores))
        return false;
    *weight = scores[gating];
    return true;
}

bool moe_preset_act_kind(const char *name, enum moe_act_kind *kind)
{
    static const struct {
        const char *name;
        enum moe_act_kind kind;
    } acts[] = {
        {"silu", MOE_ACT_SWISH},
        {"swish", MOE_ACT_SWISH},
        {"gelu", MOE_ACT_GELU_ERF},
        {"gelu_pytorch_tanh", MOE_ACT_GELU_TANH},
        {"gelu_new", MOE_ACT_GELU_TANH},
        {"relu", MOE_ACT_RELU},
        {"relu2", MOE_ACT_RELU2},
    };
    for (size_t i = 0; i < MOE_ARRAY_SIZE(acts); i++) {
        if (strcmp(acts[i].name, name) == 0) {
            *kind = acts[i].kind;
            return true;
        }
    }
    return false;
}

enum moe_status moe_preset(const char *family, struct moe_routing *routing, struct moe_act *act)
{
    if (family == NULL || (routing != NULL && routing->struct_size < sizeof(size_t)) ||
        (act != NULL && act->struct_size < sizeof(size_t)))
        return MOE_ERR_ARGUMENT;
    const struct moe_preset *preset = moe_preset_find(MOE_VOCABULARY_CONFIG, family);
    if (preset == NULL)
        preset = moe_preset_find(MOE_VOCABULARY_GGUF, family);
    if (preset == NULL)
        return MOE_ERR_UNSUPPORTED;
    struct moe_routing values;
    MOE_INIT(&values);
    values.select = preset->select;
    values.weight = preset->weight;
    values.renorm = preset->norm.family ? preset->renorm : MOE_RENORM_NONE;
    values.renorm_eps = preset->norm.family ? preset->renorm_eps : 0.0f;
    values.num_groups = preset->num_groups;
    values.top_groups = preset->top_groups;
    values.group_score = preset->group_score;
    values.group_mask_zero = preset->group_mask_zero;
    values.scale = preset->scale;
    if (routing != NULL)
        MOE_TRY(moe_write_params(routing, &values, sizeof values));
    if (act != NULL)
        MOE_TRY(moe_write_params(act, &preset->act, sizeof preset->act));
    return MOE_OK;
}
