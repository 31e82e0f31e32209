// SPDX-License-Identifier: MIT
// The metadata of a converted file under llama.cpp's keys: from config.json and the layers, or copied from a GGUF file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"

/* ---- config.json ---- */

static bool find(struct session *session, const char *key, struct moe_value *value)
{
    char nested[128];
    snprintf(nested, sizeof nested, "text_config.%s", key);
    return (moe_model_metadata_find(session->model, key, value) == MOE_OK && value->kind != MOE_VALUE_NULL) ||
           (moe_model_metadata_find(session->model, nested, value) == MOE_OK && value->kind != MOE_VALUE_NULL);
}

bool convert_config_u32(struct session *session, const char *key, uint32_t *out)
{
    struct moe_value value;
    if (!find(session, key, &value) || value.kind != MOE_VALUE_INT || value.integer < 0 || value.integer > UINT32_MAX)
        return false;
    *out = (uint32_t)value.integer;
    return true;
}

bool convert_config_number(struct session *session, const char *key, double *out)
{
    struct moe_value value;
    if (!find(session, key, &value) || (value.kind != MOE_VALUE_INT && value.kind != MOE_VALUE_FLOAT))
        return false;
    *out = value.number;
    return true;
}

/* ---- writing under the architecture's prefix ---- */

struct writer {
    struct gguf_header *header;
    struct session *session;
    const struct names_family *family;
    char key[128];
};

static const char *key_of(struct writer *w, const char *name)
{
    snprintf(w->key, sizeof w->key, "%s.%s", w->family->architecture, name);
    return w->key;
}

static void add_u32(struct writer *w, const char *name, size_t value)
{
    if (value <= UINT32_MAX)
        gguf_add_u32(w->header, key_of(w, name), (uint32_t)value);
}

static void add_f32(struct writer *w, const char *name, double value)
{
    gguf_add_f32(w->header, key_of(w, name), (float)value);
}

/* Add config.json's number under one of llama.cpp's keys, if it is there. */
static void take_u32(struct writer *w, const char *name, const char *config)
{
    uint32_t value;
    if (convert_config_u32(w->session, config, &value))
        add_u32(w, name, value);
}

static void take_f32(struct writer *w, const char *name, const char *config)
{
    double value;
    if (convert_config_number(w->session, config, &value))
        add_f32(w, name, value);
}

/* ---- the parts ---- */

/* llama.cpp's number for files that have mostly one type; by GGUF's numbers of types. */
static uint32_t file_type(enum moe_format format)
{
    static const unsigned char of[][2] = {{0, 0},   {1, 1},   {2, 2},   {3, 3},   {6, 8},   {7, 9},   {8, 7},
                                          {10, 10}, {11, 11}, {12, 14}, {13, 16}, {14, 18}, {16, 19}, {17, 20},
                                          {18, 23}, {19, 24}, {20, 25}, {21, 26}, {22, 28}, {23, 30}, {29, 31},
                                          {30, 32}, {34, 36}, {35, 37}, {39, 38}, {40, 39}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (of[i][0] == (unsigned)format)
            return of[i][1];
    return 1024;    /* "guessed" */
}

/* The name of the folder, or of the file without its suffix. */
static void add_name(struct writer *w, const char *path)
{
    char name[256];
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    snprintf(name, sizeof name, "%.*s", (int)(end - start < 255 ? end - start : 255), path + start);
    gguf_add_string(w->header, "general.name", *name && strcmp(name, ".") != 0 ? name : w->family->family);
}

static void add_attention(struct writer *w)
{
    uint32_t heads = 0, hidden = 0, head_dim = 0, kv_rank, rope, nope;
    double part = 1;
    take_u32(w, "attention.head_count", "num_attention_heads");
    static const char *const epsilons[] = {"rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", NULL};
    for (size_t i = 0; epsilons[i]; i++) {
        double epsilon;
        if (!convert_config_number(w->session, epsilons[i], &epsilon))
            continue;
        add_f32(w, "attention.layer_norm_rms_epsilon", epsilon);
        break;
    }
    if (w->family->latent_attention) {
        /* One key head of rank + rotary values, which the heads' own parts unfold. */
        add_u32(w, "attention.head_count_kv", 1);
        take_u32(w, "attention.q_lora_rank", "q_lora_rank");
        take_u32(w, "attention.kv_lora_rank", "kv_lora_rank");
        take_u32(w, "attention.value_length", "kv_lora_rank");
        take_u32(w, "attention.value_length_mla", "v_head_dim");
        take_u32(w, "rope.dimension_count", "qk_rope_head_dim");
        if (convert_config_u32(w->session, "kv_lora_rank", &kv_rank) &&
            convert_config_u32(w->session, "qk_rope_head_dim", &rope) &&
            convert_config_u32(w->session, "qk_nope_head_dim", &nope)) {
            add_u32(w, "attention.key_length", (size_t)kv_rank + rope);
            add_u32(w, "attention.key_length_mla", (size_t)nope + rope);
        }
        return;
    }
    take_u32(w, "attention.head_count_kv", "num_key_value_heads");
    if (!convert_config_u32(w->session, "head_dim", &head_dim) &&
        convert_config_u32(w->session, "num_attention_heads", &heads) && heads &&
        convert_config_u32(w->session, "hidden_size", &hidden))
        head_dim = hidden / heads;
    if (!head_dim)
        return;
    add_u32(w, "attention.key_length", head_dim);
    add_u32(w, "attention.value_length", head_dim);
    if (!convert_config_number(w->session, "rope_parameters.partial_rotary_factor", &part) &&
        !convert_config_number(w->session, "partial_rotary_factor", &part))
        part = 1;
    add_u32(w, "rope.dimension_count", part > 0 && part <= 1 ? (size_t)(head_dim * part) : head_dim);
}

static void add_rope(struct writer *w)
{
    double theta;
    struct moe_value type;
    if (convert_config_number(w->session, "rope_parameters.rope_theta", &theta) ||
        convert_config_number(w->session, "rope_theta", &theta))
        add_f32(w, "rope.freq_base", theta);
    const char *group = "rope_parameters";
    if (!find(w->session, "rope_parameters.rope_type", &type)) {
        group = "rope_scaling";
        if (!find(w->session, "rope_scaling.rope_type", &type) && !find(w->session, "rope_scaling.type", &type))
            return;
    }
    if (type.kind != MOE_VALUE_STRING || (strcmp(type.string, "yarn") != 0 && strcmp(type.string, "linear") != 0))
        return;
    static const char *const keys[][2] = {
        {"rope.scaling.factor", "factor"},
        {"rope.scaling.yarn_beta_fast", "beta_fast"},
        {"rope.scaling.yarn_beta_slow", "beta_slow"},
    };
    gguf_add_string(w->header, key_of(w, "rope.scaling.type"), type.string);
    char config[96];
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        snprintf(config, sizeof config, "%s.%s", group, keys[i][1]);
        take_f32(w, keys[i][0], config);
    }
    snprintf(config, sizeof config, "%s.original_max_position_embeddings", group);
    take_u32(w, "rope.scaling.original_context_length", config);
}

/* llama.cpp's numbers; 0: none. */
static uint32_t gating_func(const struct moe_routing *routing)
{
    switch (routing->weight) {
    case MOE_SCORE_DEFAULT:
    case MOE_SCORE_SOFTMAX:
        return 1;
    case MOE_SCORE_SIGMOID:
        return 2;
    case MOE_SCORE_SOFTMAX_TOPK:
        return 3;
    case MOE_SCORE_SQRT_SOFTPLUS:
        return 4;
    case MOE_SCORE_LOGIT:
    case MOE_SCORE_SPARSEMIXER:
        break;
    }
    return 0;
}

static void add_routing(struct writer *w, const struct moe_layer_params *layer)
{
    const struct moe_routing *routing = layer->routing;
    double scale = routing->scale != 0 ? (double)routing->scale : 1;
    if (!w->family->no_gating && gating_func(routing)) {
        add_u32(w, "expert_gating_func", gating_func(routing));
        gguf_add_bool(w->header, key_of(w, "expert_weights_norm"), routing->renorm != MOE_RENORM_NONE);
    }
    add_f32(w, "expert_weights_scale", layer->routed_scale != 0 ? scale * (double)layer->routed_scale : scale);
    if (routing->num_groups > 1) {
        add_u32(w, "expert_group_count", routing->num_groups);
        add_u32(w, "expert_group_used_count", routing->top_groups);
    }
}

enum layer_value { VALUE_FF, VALUE_TOP_K, VALUE_LIMIT, VALUE_SHARED_LIMIT };

static double layer_value(const struct moe_model_block *block, enum layer_value which)
{
    const struct moe_experts_params *experts = which == VALUE_SHARED_LIMIT ? block->shared : block->experts;
    if (which == VALUE_FF)
        return (double)experts->intermediate_size;
    if (which == VALUE_TOP_K)
        return (double)block->layer->top_k;
    return experts && experts->act && experts->act->clamp != MOE_CLAMP_NONE ? (double)experts->act->limit : 0;
}

/* A list with a value for each layer, 0 for those without experts. */
static void add_list(struct writer *w, const char *name, enum layer_value which)
{
    enum gguf_type type = which == VALUE_FF || which == VALUE_TOP_K ? GGUF_U32 : GGUF_F32;
    gguf_begin_array(w->header, key_of(w, name), type, w->session->info.num_blocks);
    for (size_t i = 0; i < w->session->info.num_blocks; i++) {
        const struct moe_model_block *block = NULL;
        double value = 0;
        if (moe_model_block(w->session->model, i, &block, NULL) == MOE_OK && block)
            value = layer_value(block, which);
        gguf_put_number(w->header, type, (int64_t)value, value);
    }
}

static void add_sizes(struct writer *w, const struct convert_layers *layers)
{
    const struct moe_model_block *first = layers->first;
    add_u32(w, "expert_count", first->experts->num_experts);
    if (layers->lists) {
        add_list(w, "expert_used_count", VALUE_TOP_K);
        add_list(w, "expert_feed_forward_length", VALUE_FF);
    } else {
        add_u32(w, "expert_used_count", first->layer->top_k);
        add_u32(w, "expert_feed_forward_length", first->experts->intermediate_size);
    }
    if (w->family->clamp) {
        add_list(w, "swiglu_clamp_exp", VALUE_LIMIT);
        add_list(w, "swiglu_clamp_shexp", VALUE_SHARED_LIMIT);
    }
    if (first->latent && w->family->latent_key)
        add_u32(w, w->family->latent_key, first->latent->intermediate_size);
}

/* But for lists, a file of this kind has one value for all layers: that of the first. */
static void add_experts(struct writer *w, const struct convert_layers *layers)
{
    const struct moe_model_block *first = layers->first;
    const struct names_family *family = w->family;
    size_t size = first->experts->intermediate_size;
    add_sizes(w, layers);
    if (family->layers == NAMES_LAYERS_LEADING || family->layers == NAMES_LAYERS_LEADING_STEP)
        add_u32(w, "leading_dense_block_count", layers->num_dense);
    if (family->layers == NAMES_LAYERS_STEP || family->layers == NAMES_LAYERS_LEADING_STEP)
        add_u32(w, "interleave_moe_layer_step", layers->step);
    if (first->layer->routing && first->layer->routing->weight == MOE_SCORE_SQRT_SOFTPLUS)
        add_u32(w, "hash_layer_count", layers->num_hashed);
    if (first->shared || family->shared_count) {
        size_t shared_size = first->shared ? first->shared->intermediate_size : 0;
        bool whole = family->shared_count && shared_size % size == 0;
        add_u32(w, "expert_shared_count", whole ? shared_size / size : 1);
        add_u32(w, "expert_shared_feed_forward_length", shared_size);
    }
    if (first->layer->routing)
        add_routing(w, first->layer);
}

static bool quantised(enum moe_format format)
{
    const struct moe_format_info *info = moe_format_info(format);
    return info && info->block_values > 1;
}

enum general { GENERAL_ALIGNMENT, GENERAL_FILE_TYPE, GENERAL_QUANTIZATION, GENERALS };
static const char *const general_keys[GENERALS] = {"general.alignment", "general.file_type",
                                                   "general.quantization_version"};

/* Whether any matrix of the output is quantised. */
static bool needs_version(const struct convert_options *options)
{
    bool any = quantised(options->format) || quantised(options->down) || options->keep || options->keep_down;
    for (size_t i = 0; i < options->num_rules; i++)
        any = any || options->rules[i].keep || quantised(options->rules[i].format);
    return any;
}

static void add_general(struct gguf_header *header, const struct convert_options *options, enum general which)
{
    uint32_t type = options->format == MOE_FORMAT_Q4_K && options->down == MOE_FORMAT_Q6_K ? 15 /* Q4_K_M */
                                                                                          : file_type(options->format);
    if (options->keep || options->num_rules)
        type = 1024;
    if (which == GENERAL_ALIGNMENT)
        gguf_add_u32(header, general_keys[which], GGUF_ALIGNMENT);
    else if (which == GENERAL_FILE_TYPE)
        gguf_add_u32(header, general_keys[which], type);
    else if (needs_version(options))
        gguf_add_u32(header, general_keys[which], 2);
}

int convert_metadata(struct gguf_header *header, struct session *session, const struct names_family *family,
                     const char *path, const struct convert_options *options,
                     const struct convert_layers *layers)
{
    struct writer w = {.header = header, .session = session, .family = family};
    uint32_t dense_size;
    gguf_add_string(header, "general.architecture", family->architecture);
    gguf_add_string(header, "general.type", "model");
    add_name(&w, path);
    for (int i = 0; i < GENERALS; i++)
        add_general(header, options, (enum general)i);
    add_u32(&w, "block_count", session->info.num_blocks);
    take_u32(&w, "context_length", "max_position_embeddings");
    const struct moe_model_block *first = layers->first;
    add_u32(&w, "embedding_length", first->latent ? first->latent->hidden_size : first->experts->hidden_size);
    if (!convert_config_u32(session, "intermediate_size_mlp", &dense_size) &&
        !convert_config_u32(session, "intermediate_size", &dense_size))
        dense_size = (uint32_t)first->experts->intermediate_size;
    add_u32(&w, "feed_forward_length", dense_size);
    take_u32(&w, "vocab_size", "vocab_size");
    add_attention(&w);
    add_rope(&w);
    if (family->post_norm)
        take_u32(&w, "attention.sliding_window", "sliding_window");
    add_experts(&w, layers);
    return convert_tokenizer(header, session, family, path);
}

/* ---- from a GGUF file ---- */

/* Above 2^63 the reader gives a u64 as a float; the nearest one to 2^64 would not fit back. */
static void put_number(struct gguf_header *header, enum gguf_type type, const struct moe_value *value)
{
    int64_t integer = value->kind == MOE_VALUE_BOOL ? value->boolean : value->integer;
    if (value->kind == MOE_VALUE_FLOAT && type == GGUF_U64)
        integer = (int64_t)(value->number >= 18446744073709551615.0 ? UINT64_MAX : (uint64_t)value->number);
    gguf_put_number(header, type, integer, value->number);
}

static int copy_value(struct gguf_header *header, struct session *session, const char *key,
                      const struct moe_value *value)
{
    if (value->kind == MOE_VALUE_STRING) {
        gguf_begin(header, key, GGUF_STRING);
        gguf_put_string(header, value->string, value->length);
    } else if (value->kind == MOE_VALUE_ARRAY) {
        if (value->gguf_type == GGUF_ARRAY || value->gguf_type > GGUF_F64)
            return tool_fail(TOOL_INPUT, "metadata '%s': arrays of arrays cannot be copied", key);
        gguf_begin_array(header, key, (enum gguf_type)value->gguf_type, value->length);
        for (size_t i = 0; i < value->length; i++) {
            struct moe_value item;
            enum moe_status status = moe_model_metadata_item(session->model, value, i, &item);
            if (status != MOE_OK)
                return tool_fail_moe(status, NULL, key);
            if (item.kind == MOE_VALUE_STRING)
                gguf_put_string(header, item.string, item.length);
            else
                put_number(header, (enum gguf_type)value->gguf_type, &item);
        }
    } else if (value->gguf_type <= GGUF_F64) {
        gguf_begin(header, key, (enum gguf_type)value->gguf_type);
        put_number(header, (enum gguf_type)value->gguf_type, value);
    }
    return TOOL_OK;
}

/* What the format decides is replaced where it stands; where all is kept, so is that. */
int convert_copy_metadata(struct gguf_header *header, struct session *session, const struct convert_options *options)
{
    const char *key;
    struct moe_value value;
    int code = TOOL_OK;
    bool done[GENERALS] = {false}, same = options->keep && options->keep_down && !options->num_rules;
    for (size_t i = 0; code == TOOL_OK && moe_model_metadata_at(session->model, i, &key, &value) == MOE_OK; i++) {
        int general = 0;
        while (general < GENERALS && strcmp(key, general_keys[general]) != 0)
            general++;
        bool ours = general == GENERAL_ALIGNMENT || (general < GENERALS && !same);
        if (general < GENERALS)
            done[general] = true;
        if (ours)
            add_general(header, options, (enum general)general);
        else if (strncmp(key, "split.", 6) != 0)
            code = copy_value(header, session, key, &value);
    }
    for (int i = 0; i < GENERALS; i++)
        if (!done[i] && !(same && i == GENERAL_QUANTIZATION))
            add_general(header, options, (enum general)i);
    return code;
}
