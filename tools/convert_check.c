// SPDX-License-Identifier: MIT
// Whether a GGUF file can say what the MoE layers of a Hugging Face model are: it has one value for all layers, no key
// for the activation, and each architecture has its own way, or none, to say which layers are dense.
#include <stdio.h>

#include "convert.h"
#include "describe.h"

static bool same_routing(const struct moe_routing *a, const struct moe_routing *b)
{
    if (!a || !b)
        return a == b;
    return a->select == b->select && a->weight == b->weight && a->renorm == b->renorm && a->scale == b->scale &&
           a->num_groups == b->num_groups && a->top_groups == b->top_groups;
}

/* lists: sizes and top_k that may differ by layer. */
static bool same_layer(const struct moe_model_block *a, const struct moe_model_block *b, bool lists)
{
    return a->experts->num_experts == b->experts->num_experts &&
           (lists || (a->experts->intermediate_size == b->experts->intermediate_size &&
                      a->layer->top_k == b->layer->top_k)) &&
           (a->shared ? a->shared->intermediate_size : 0) == (b->shared ? b->shared->intermediate_size : 0) &&
           same_routing(a->layer->routing, b->layer->routing);
}

static bool same_act(const struct moe_act *a, const struct moe_act *b)
{
    float alpha_a = a->alpha != 0 ? a->alpha : 1, alpha_b = b->alpha != 0 ? b->alpha : 1;
    return a->kind == b->kind && a->clamp == b->clamp && a->up_offset == b->up_offset &&
           (a->kind != MOE_ACT_SWISH || alpha_a == alpha_b) && (a->clamp == MOE_CLAMP_NONE || a->limit == b->limit);
}

/* Readers take the activation from the architecture. */
static int check_act(const struct names_family *family, size_t i, const struct moe_model_block *block)
{
    struct moe_act usual, act;
    MOE_INIT(&usual);
    MOE_INIT(&act);
    enum moe_status status = moe_preset(family->family, NULL, &usual);
    if (status != MOE_OK)
        return tool_fail_moe(status, NULL, family->family);
    if (block->experts->act)
        act = *block->experts->act;
    if (family->clamp) {    /* limits have a key */
        usual.clamp = act.clamp;
        usual.limit = act.limit;
    }
    if (same_act(&act, &usual))
        return TOOL_OK;
    char found[DESCRIBE_TEXT], expected[DESCRIBE_TEXT];
    describe_act(found, sizeof found, &act, block->experts->gate != NULL);
    describe_act(expected, sizeof expected, &usual, block->experts->gate != NULL);
    return tool_fail(TOOL_INPUT,
                     "layer %zu computes %s; a GGUF file has no key for that, and readers of architecture '%s' would "
                     "compute %s",
                     i, found, family->architecture, expected);
}

/* Whether a reader takes layer i for one with experts; there: whether it has them. */
static bool expected_experts(const struct names_family *family, const struct convert_layers *layers, size_t i,
                             bool there)
{
    switch (family->layers) {
    case NAMES_LAYERS_LEADING:
        return i >= layers->num_dense;
    case NAMES_LAYERS_STEP:
    case NAMES_LAYERS_LEADING_STEP:
        return i >= layers->num_dense && (i + 1) % layers->step == 0;
    case NAMES_LAYERS_TENSORS:
        return there;
    case NAMES_LAYERS_ALL:
        break;
    }
    return true;
}

static int fail_pattern(const struct names_family *family, const struct convert_layers *layers, size_t i, bool there)
{
    char rule[128] = "every layer";
    if (family->layers == NAMES_LAYERS_LEADING)
        snprintf(rule, sizeof rule, "all layers from the first of them, %zu, on", layers->num_dense);
    else if (family->layers == NAMES_LAYERS_STEP)
        snprintf(rule, sizeof rule, "just the layers i where a step, here %zu, divides i + 1", layers->step);
    else if (family->layers == NAMES_LAYERS_LEADING_STEP)
        snprintf(rule, sizeof rule, "just the layers i from %zu on where a step, here %zu, divides i + 1",
                 layers->num_dense, layers->step);
    return tool_fail(TOOL_INPUT, "layer %zu has %s; in a GGUF file of architecture '%s' experts are in %s", i,
                     there ? "experts" : "no experts", family->architecture, rule);
}

/* The pattern of dense layers that the family's keys would give. */
static int find_pattern(struct session *session, const struct names_family *family, struct convert_layers *out)
{
    *out = (struct convert_layers){.step = 1};
    size_t second = 0;
    for (size_t i = 0; i < session->info.num_blocks && !second; i++) {
        const struct moe_model_block *block = NULL;
        struct moe_error error = {0};
        enum moe_status status = moe_model_block(session->model, i, &block, &error);
        if (status != MOE_OK)
            return tool_fail_moe(status, &error, "a layer cannot be read");
        if (block && out->first)
            second = i;
        if (block && !out->first) {
            out->first = block;
            out->num_dense = i;
        }
    }
    if (!out->first)
        return tool_fail(TOOL_INPUT, "the model has no MoE layer");
    if (family->layers == NAMES_LAYERS_STEP)
        out->step = out->num_dense + 1;
    else if (family->layers == NAMES_LAYERS_LEADING_STEP && second)
        out->step = second - out->num_dense;
    return TOOL_OK;
}

static int check_layer(const struct names_family *family, struct convert_layers *layers, size_t i,
                       const struct moe_model_block *block)
{
    if (expected_experts(family, layers, i, block != NULL) != (block != NULL))
        return fail_pattern(family, layers, i, block != NULL);
    if (!block)
        return TOOL_OK;
    if (!same_layer(layers->first, block, family->layer_lists))
        return tool_fail(TOOL_INPUT,
                         "layer %zu has other numbers of experts, sizes or routing than layer %zu; a GGUF file has "
                         "one value for all layers",
                         i, layers->num_dense);
    layers->lists = layers->lists || !same_layer(layers->first, block, false);
    if (block->layer->routing && block->layer->routing->hash_table.base) {
        layers->hash_apart = layers->hash_apart || layers->num_hashed != i;
        layers->num_hashed += !layers->hash_apart;
    }
    return check_act(family, i, block);
}

int convert_check_layers(struct session *session, const struct names_family *family, struct convert_layers *out)
{
    int code = find_pattern(session, family, out);
    for (size_t i = 0; i < session->info.num_blocks && code == TOOL_OK; i++) {
        const struct moe_model_block *block = NULL;
        struct moe_error error = {0};
        enum moe_status status = moe_model_block(session->model, i, &block, &error);
        code = status == MOE_OK ? check_layer(family, out, i, block)
                                : tool_fail_moe(status, &error, "a layer cannot be read");
    }
    return code;
}

void convert_note_layers(const struct names_family *family, const struct convert_layers *layers)
{
    const struct moe_routing *routing = layers->first->layer->routing;
    bool renorm = routing && routing->renorm != MOE_RENORM_NONE;
    bool chosen = routing && routing->weight == MOE_SCORE_SOFTMAX_TOPK;    /* sums to 1 as it is */
    if (family->renorm != NAMES_RENORM_KEY && !chosen && renorm != (family->renorm == NAMES_RENORM_ALWAYS))
        tool_note("llama.cpp %s the weights of the chosen experts in architecture '%s', whatever expert_weights_norm "
                  "says; this model %s, so that only readers of that key compute it right",
                  renorm ? "does not renormalise" : "renormalises", family->architecture, renorm ? "does" : "does not");
    if (family->shared_count && !layers->first->shared)
        tool_note("llama.cpp expects a shared expert in architecture '%s'; this model has none, so that only readers "
                  "of expert_shared_count = 0 compute it right",
                  family->architecture);
    if (layers->hash_apart)
        tool_note("llama.cpp routes by token id in the first layers only; here others do, so that only readers that "
                  "look for ffn_gate_tid2eid compute it right");
    if (family->note)
        tool_note("llama.cpp %s in architecture '%s'", family->note, family->architecture);
}
