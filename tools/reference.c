// SPDX-License-Identifier: MIT
// Reads a layer's part of reference.safetensors by the rules in reference.h.
#include "reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct source {
    struct moe_model *file;
    const char *path;
    size_t layer;
};

#define KEY_SIZE 64

static bool find(const struct source *source, const char *name, char key[KEY_SIZE], struct moe_tensor *tensor)
{
    snprintf(key, KEY_SIZE, "layer%zu.%s", source->layer, name);
    return moe_model_tensor_find(source->file, key, tensor) == MOE_OK;
}

static int take_data(const struct source *source, const char *key, const void **data)
{
    struct moe_error error = {0};
    enum moe_status status = moe_model_tensor_data(source->file, key, data, &error);
    return status == MOE_OK ? TOOL_OK : tool_fail_moe(status, &error, source->path);
}

/* layerN.NAME as [*rows, cols] floats into *out; *rows 0: any. Leaves *out NULL where there is no such tensor. */
static int take_floats(const struct source *source, const char *name, size_t *rows, size_t cols, float **out)
{
    char key[KEY_SIZE];
    struct moe_tensor tensor;
    if (!find(source, name, key, &tensor))
        return TOOL_OK;
    if (tensor.num_dims != 2 || tensor.shape[0] == 0 || tensor.shape[1] != cols ||
        (*rows && tensor.shape[0] != *rows))
        return tool_fail(TOOL_INPUT, "%s: tensor '%s' is not of %zu values a token, of at least one token, and of as "
                         "many as the layer's other tensors", source->path, key, cols);
    if (!tensor.format || (tensor.format->format != MOE_FORMAT_F32 && tensor.format->format != MOE_FORMAT_F16 &&
                           tensor.format->format != MOE_FORMAT_BF16))
        return tool_fail(TOOL_INPUT, "%s: tensor '%s' must hold f32, f16 or bf16 values", source->path, key);
    const void *data;
    int code = take_data(source, key, &data);
    if (code != TOOL_OK)
        return code;
    *rows = tensor.shape[0];
    *out = tool_alloc(*rows * cols, sizeof **out);
    if (!*out)
        return TOOL_INPUT;
    moe_format_dequantise(tensor.format->format, *out, data, *rows, cols);
    return TOOL_OK;
}

/* count values of type i32 or i64 from the tensor's data. */
static int take_integers(const struct source *source, const char *key, size_t count, bool wide, int64_t **out)
{
    const void *data;
    int code = take_data(source, key, &data);
    if (code != TOOL_OK)
        return code;
    *out = tool_alloc(count, sizeof **out);
    if (!*out)
        return TOOL_INPUT;
    for (size_t i = 0; i < count; i++) {
        int32_t narrow;
        memcpy(&narrow, (const char *)data + i * (wide ? 8 : 4), sizeof narrow);
        (*out)[i] = narrow;
        if (wide)
            memcpy(&(*out)[i], (const char *)data + i * 8, 8);
    }
    return TOOL_OK;
}

static bool is_integers(const struct moe_tensor *tensor)
{
    return tensor->format && (tensor->format->format == MOE_FORMAT_I32 || tensor->format->format == MOE_FORMAT_I64);
}

static int take_ids(const struct source *source, size_t rows, size_t cols, int64_t **out)
{
    char key[KEY_SIZE];
    struct moe_tensor tensor;
    if (!find(source, "ids", key, &tensor))
        return TOOL_OK;
    if (tensor.num_dims != 2 || tensor.shape[0] != rows || tensor.shape[1] != cols || !is_integers(&tensor))
        return tool_fail(TOOL_INPUT, "%s: tensor '%s' must be [%zu, %zu] i32 or i64", source->path, key, rows, cols);
    return take_integers(source, key, rows * cols, tensor.format->format == MOE_FORMAT_I64, out);
}

/* ids and weights; the experts that every token has may be left out of them. */
static int take_choice(const struct source *source, const struct moe_layer_info *info,
                       const struct moe_routing *routing, struct reference *out)
{
    char key[KEY_SIZE];
    struct moe_tensor tensor;
    size_t fewer = info->top_k - (routing ? routing->num_always : 0);
    out->top_k = info->top_k;
    if (find(source, "ids", key, &tensor) && tensor.num_dims == 2 && tensor.shape[1] == fewer)
        out->top_k = fewer;
    int code = take_floats(source, "weights", &out->num_tokens, out->top_k, &out->weights);
    return code == TOOL_OK ? take_ids(source, out->num_tokens, out->top_k, &out->ids) : code;
}

static int take_token_ids(const struct source *source, size_t num_tokens, int64_t **out)
{
    struct moe_tensor tensor;
    size_t count = 1;
    if (moe_model_tensor_find(source->file, "input_ids", &tensor) != MOE_OK || !is_integers(&tensor))
        return tool_fail(TOOL_INPUT, "%s: layer %zu routes by token id: a tensor 'input_ids' of i32 is needed",
                         source->path, source->layer);
    for (size_t d = 0; d < tensor.num_dims; d++)
        count *= tensor.shape[d];
    if (count != num_tokens)
        return tool_fail(TOOL_INPUT, "%s: tensor 'input_ids' has %zu values, but layer %zu %zu tokens", source->path,
                         count, source->layer, num_tokens);
    return take_integers(source, "input_ids", count, tensor.format->format == MOE_FORMAT_I64, out);
}

/* ids and weights out of router_res0 [num_tokens, num_experts], 0 for experts that are not chosen. */
static int take_scores(const struct source *source, const struct moe_layer_info *info, struct reference *out)
{
    float *scores = NULL;
    size_t n = info->num_experts, pairs = out->num_tokens * info->top_k, filled = 0;
    int code = take_floats(source, "router_res0", &out->num_tokens, n, &scores);
    if (code != TOOL_OK || !scores) {
        free(scores);
        return code;
    }
    out->ids = tool_alloc(pairs, sizeof *out->ids);
    out->weights = tool_alloc(pairs, sizeof *out->weights);
    if (!out->ids || !out->weights)
        code = TOOL_INPUT;
    for (size_t t = 0; code == TOOL_OK && t < out->num_tokens; t++) {
        for (size_t e = 0; e < n; e++) {
            if (scores[t * n + e] == 0)
                continue;
            if (filled < (t + 1) * info->top_k) {
                out->ids[filled] = (int64_t)e;
                out->weights[filled] = scores[t * n + e];
            }
            filled++;
        }
        if (filled != (t + 1) * info->top_k)
            code = tool_fail(TOOL_INPUT, "%s: tensor 'layer%zu.router_res0' does not have %zu weights for token %zu",
                             source->path, source->layer, info->top_k, t);
    }
    free(scores);
    return code;
}

static void move(float **to, float **from)
{
    free(*to);
    *to = *from;
    *from = NULL;
}

/* What expert_x and expert_out say; expert_out may be there alone. */
static int take_experts(const struct source *source, const struct moe_layer_info *info, bool has_shared,
                        struct reference *out)
{
    char key[KEY_SIZE];
    struct moe_tensor tensor;
    float *in = NULL, *expert_out = NULL;
    size_t hidden = info->hidden_size, tokens = out->num_tokens, rows = tokens, cols = hidden;
    if (find(source, "expert_x", key, &tensor) && tensor.num_dims == 2) {
        rows = tensor.shape[0];
        cols = tensor.shape[1];
    }
    bool weighted = rows == tokens * info->num_experts && rows != tokens;
    if ((rows != tokens && !weighted) || (cols != hidden && cols != info->expert_width))
        return tool_fail(TOOL_INPUT, "%s: tensor '%s' is [%zu, %zu], expected %zu or %zu rows of %zu values",
                         source->path, key, rows, cols, tokens, tokens * info->num_experts, info->expert_width);
    int code = take_floats(source, "expert_x", &rows, cols, &in);
    if (code == TOOL_OK)
        code = take_floats(source, "expert_out", &rows, cols, &expert_out);
    if (code == TOOL_OK && in && !expert_out)
        code = tool_fail(TOOL_INPUT, "%s: tensor '%s' is there, but no expert_out", source->path, key);
    bool same_x = !in || (rows == tokens && cols == hidden && memcmp(in, out->x, rows * cols * sizeof *in) == 0);
    bool same_out = expert_out && rows == tokens && cols == hidden &&
                    memcmp(expert_out, out->out, rows * cols * sizeof *in) == 0;
    if (code == TOOL_OK && weighted) {
        move(&out->pairs, &expert_out);
    } else if (code == TOOL_OK && cols != hidden) {
        move(&out->sums, &expert_out);
    } else if (code == TOOL_OK && (same_x || same_out)) {
        out->no_shared = has_shared && same_out;
    } else if (code == TOOL_OK) {
        if (!out->router_x)
            move(&out->router_x, &out->x);
        move(&out->x, &in);
        move(&out->out, &expert_out);
    }
    free(in);
    free(expert_out);
    return code;
}

int reference_read(struct reference *out, struct moe_model *file, const char *path, size_t layer,
                   const struct moe_layer_info *info, const struct moe_model_block *block)
{
    const struct source source = {file, path, layer};
    size_t *rows = &out->num_tokens;
    *out = (struct reference){0};
    int code = take_floats(&source, "x", rows, info->hidden_size, &out->x);
    if (code != TOOL_OK || !out->x)
        return code;
    code = take_floats(&source, "out", rows, info->hidden_size, &out->out);
    if (code != TOOL_OK || !out->out)
        return code;
    code = take_floats(&source, "router_x", rows, info->hidden_size, &out->router_x);
    if (code == TOOL_OK)
        code = take_floats(&source, "router_logits", rows, info->num_experts, &out->logits);
    if (code == TOOL_OK)
        code = take_choice(&source, info, block->layer->routing, out);
    if (code == TOOL_OK && info->needs_token_ids)
        code = take_token_ids(&source, *rows, &out->token_ids);
    if (code == TOOL_OK)
        code = take_experts(&source, info, block->shared != NULL, out);
    if (code == TOOL_OK && out->pairs && !out->ids)
        code = take_scores(&source, info, out);
    return code;
}

void reference_free(struct reference *reference)
{
    float *const floats[] = {reference->x,       reference->out,   reference->router_x, reference->logits,
                             reference->weights, reference->pairs, reference->sums};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        free(floats[i]);
    free(reference->ids);
    free(reference->token_ids);
    *reference = (struct reference){0};
}
