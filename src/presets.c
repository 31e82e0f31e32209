// SPDX-License-Identifier: MIT
// Looking up what is known about families: their rows, keys and prefixes.
#include "presets.h"

#include <string.h>

static const char *const key_names[MOE_KEYS][MOE_VOCABULARIES] = {
#define MOE_KEY_ROW(NAME, config, gguf) [MOE_KEY_##NAME] = {config, gguf},
    MOE_KEY_MAP(MOE_KEY_ROW)
#undef MOE_KEY_ROW
};

const char *const moe_preset_prefixes[MOE_VOCABULARIES][16] = {
    [MOE_VOCABULARY_CONFIG] = {"model.layers.{b}.", "language_model.model.layers.{b}.",
                               "model.language_model.layers.{b}.", "thinker.model.layers.{b}.",
                               "model.decoder.layers.{b}.", "model.llm.layers.{b}.", "language_model.layers.{b}.",
                               "language_model.model.blocks.{b}.", "backbone.layers.{b}.",
                               "transformer.blocks.{b}.", "blocks.{b}.", "decoder.layers.{b}.", "layers.{b}.",
                               NULL},
    [MOE_VOCABULARY_GGUF] = {"blk.{b}.", NULL},
};

/* ---- look-ups --------------------------------------------------------------------------------------------- */

const char *moe_preset_key_names(enum moe_key key, enum moe_vocabulary vocabulary)
{
    return key_names[key][vocabulary];
}

const char *moe_preset_key_of(const struct moe_preset *preset, enum moe_key key, enum moe_vocabulary vocabulary)
{
    if (vocabulary == MOE_VOCABULARY_CONFIG)
        for (size_t i = 0; i < MOE_ARRAY_SIZE(preset->own_keys) && preset->own_keys[i].names != NULL; i++)
            if (preset->own_keys[i].key == key)
                return preset->own_keys[i].names;
    return moe_preset_key_names(key, vocabulary);
}

/* Is name one of the alternatives? */
static bool is_among(const char *names, const char *name)
{
    size_t size = strlen(name);
    while (names != NULL && *names != '\0') {
        size_t length = strcspn(names, "|");
        if (length == size && memcmp(names, name, size) == 0)
            return true;
        names += length + (names[length] == '|');
    }
    return false;
}

const struct moe_preset *moe_preset_find(const char *name)
{
    for (size_t i = 0; i < moe_num_presets; i++)
        if (strcmp(moe_presets[i].name, name) == 0 || is_among(moe_presets[i].aliases, name))
            return &moe_presets[i];
    return NULL;
}

const struct moe_preset *moe_preset_find_outer(const char *name, bool sure)
{
    for (size_t i = 0; i < moe_num_presets; i++)
        if (is_among(sure ? moe_presets[i].outer : moe_presets[i].around, name))
            return &moe_presets[i];
    return NULL;
}

bool moe_preset_gating(uint32_t gating, enum moe_score *weight)
{
    static const enum moe_score scores[] = {
        [1] = MOE_SCORE_SOFTMAX, [2] = MOE_SCORE_SIGMOID, [3] = MOE_SCORE_SOFTMAX_TOPK, [4] = MOE_SCORE_SQRT_SOFTPLUS};
    if (gating == 0 || gating >= MOE_ARRAY_SIZE(scores))
        return false;
    *weight = scores[gating];
    return true;
}

bool moe_preset_find_act(const char *name, struct moe_act *act)
{
    static const struct {
        const char *name;
        enum moe_act_kind kind;
        float alpha;
    } acts[] = {
        {"silu", MOE_ACT_SWISH, 0.0f},
        {"swish", MOE_ACT_SWISH, 0.0f},
        {"quick_gelu", MOE_ACT_SWISH, 1.702f},
        {"gelu", MOE_ACT_GELU_ERF, 0.0f},
        {"gelu_python", MOE_ACT_GELU_ERF, 0.0f},
        {"gelu_pytorch_tanh", MOE_ACT_GELU_TANH, 0.0f},
        {"gelu_python_tanh", MOE_ACT_GELU_TANH, 0.0f},
        {"gelu_new", MOE_ACT_GELU_TANH, 0.0f},
        {"gelu_fast", MOE_ACT_GELU_TANH, 0.0f},
        {"gelu_accurate", MOE_ACT_GELU_TANH, 0.0f},
        {"relu", MOE_ACT_RELU, 0.0f},
        {"relu2", MOE_ACT_RELU2, 0.0f},
    };
    for (size_t i = 0; i < MOE_ARRAY_SIZE(acts); i++) {
        if (strcmp(acts[i].name, name) == 0) {
            act->kind = acts[i].kind;
            act->alpha = acts[i].alpha;
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
    const struct moe_preset *preset = moe_preset_find(family);
    const struct moe_preset_gguf *gguf = preset == NULL ? moe_preset_find_gguf(family) : NULL;
    if (gguf != NULL)
        preset = moe_preset_of_gguf(gguf);
    if (preset == NULL || preset->refused != NULL)
        return MOE_ERR_UNSUPPORTED;
    struct moe_act with_limit = preset->act;
    if (with_limit.limit == 0.0f)
        with_limit.clamp = MOE_CLAMP_NONE;
    struct moe_routing values;
    MOE_INIT(&values);
    values.select = preset->select;
    values.weight = preset->weight;
    if (preset->norm.family) {
        values.renorm = preset->renorm;
        values.renorm_eps = preset->renorm_eps;
        values.renorm_p = preset->renorm_p;
    }
    values.num_groups = preset->num_groups;
    values.top_groups = preset->top_groups;
    values.group_score = preset->group_score;
    values.group_mask_zero = preset->group_mask_zero;
    values.scale = preset->scale_on_sum ? 0.0f : preset->scale;
    values.sparsemixer_eps = preset->sparsemixer_eps;
    if (routing != NULL)
        MOE_TRY(moe_write_params(routing, &values, sizeof values));
    if (act != NULL)
        MOE_TRY(moe_write_params(act, &with_limit, sizeof with_limit));
    return MOE_OK;
}
