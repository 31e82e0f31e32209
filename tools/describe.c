// SPDX-License-Identifier: MIT
// A block of a model in words and figures.
#include "describe.h"

#include <stdio.h>
#include <string.h>

const char *describe_format(enum moe_format format)
{
    const struct moe_format_info *info = moe_format_info(format);
    return info ? info->name : "?";
}

static const char *score_name(enum moe_score score)
{
    switch (score) {
    case MOE_SCORE_SIGMOID:
        return "sigmoid";
    case MOE_SCORE_LOGIT:
        return "the logit itself";
    case MOE_SCORE_SOFTMAX_TOPK:
        return "softmax over the chosen";
    case MOE_SCORE_DEFAULT:
    case MOE_SCORE_SOFTMAX:
        break;
    }
    return "softmax over all experts";
}

/* What ranks the experts, and what weighs them where that is something else. */
static void describe_scores(char *text, size_t size, const struct moe_routing *routing, size_t num_experts)
{
    enum moe_score weight = routing->weight == MOE_SCORE_DEFAULT ? MOE_SCORE_SOFTMAX : routing->weight;
    enum moe_score select = routing->select;
    if (select == MOE_SCORE_DEFAULT)
        select = weight == MOE_SCORE_SOFTMAX_TOPK ? MOE_SCORE_LOGIT : weight;
    if (select == MOE_SCORE_SOFTMAX)
        tool_append(text, size, "softmax over all %zu experts", num_experts);
    else
        tool_append(text, size, select == MOE_SCORE_LOGIT ? "logits of %zu experts" : "sigmoid of %zu experts",
                    num_experts);
    if (routing->selection_bias.base)
        tool_append(text, size, " + selection bias");
    if (routing->num_groups > 1)
        tool_append(text, size, ", %zu groups, best %zu by %s", routing->num_groups, routing->top_groups,
                    routing->group_score == MOE_GROUP_MAX ? "their best" : "the sum of their two best");
}

static void describe_weights(char *text, size_t size, const struct moe_routing *routing)
{
    enum moe_score weight = routing->weight == MOE_SCORE_DEFAULT ? MOE_SCORE_SOFTMAX : routing->weight;
    bool same = routing->select == MOE_SCORE_DEFAULT ? weight != MOE_SCORE_SOFTMAX_TOPK : routing->select == weight;
    if (!same)
        tool_append(text, size, ", weighed by %s", score_name(weight));
    if (routing->renorm != MOE_RENORM_NONE)
        tool_append(text, size, ", weights renormalised");
    else if (weight != MOE_SCORE_SOFTMAX_TOPK)
        tool_append(text, size, ", weights as they are");
    if (routing->scale != 0 && routing->scale != 1)
        tool_append(text, size, ", x%g", (double)routing->scale);
}

static void describe_routing(char *text, size_t size, const struct moe_model_block *block)
{
    const struct moe_layer_params *layer = block->layer;
    size_t num_experts = layer->num_experts ? layer->num_experts : block->experts->num_experts;
    text[0] = '\0';
    if (layer->routing)
        describe_scores(text, size, layer->routing, num_experts);
    else
        tool_append(text, size, "%zu experts, routed by the caller", num_experts);
    tool_append(text, size, ", top %zu", layer->top_k);
    if (layer->routing)
        describe_weights(text, size, layer->routing);
    if (layer->weight_on_input)
        tool_append(text, size, ", applied to the expert's input");
    if (block->shared && layer->shared)
        tool_append(text, size, "; one shared expert, %s",
                    layer->shared->gate_kind == MOE_SHARED_SIGMOID ? "gated by a sigmoid" : "ungated");
}

void describe_act(char *text, size_t size, const struct moe_act *act, bool gated)
{
    static const char *const names[] = {"silu", "gelu (tanh)", "gelu (erf)", "relu", "relu squared"};
    text[0] = '\0';
    if (act->kind == MOE_ACT_SWISH && act->alpha != 0 && act->alpha != 1)
        tool_append(text, size, "swish (%g)", (double)act->alpha);
    else
        tool_append(text, size, "%s", (size_t)act->kind < sizeof names / sizeof names[0] ? names[act->kind] : "?");
    tool_append(text, size, gated ? " of gate, times up" : " of up, no gate");
    if (act->up_offset != 0)
        tool_append(text, size, " %+g", (double)act->up_offset);
    if (act->clamp != MOE_CLAMP_NONE)
        tool_append(text, size, ", clamped %s at %g", act->clamp == MOE_CLAMP_BEFORE ? "before" : "after",
                    (double)act->limit);
}

static void describe_activation(char *text, size_t size, const struct moe_experts_params *experts)
{
    static const struct moe_act silu;
    describe_act(text, size, experts->act ? experts->act : &silu, experts->gate != NULL);
    if (experts->up->bias.base)
        tool_append(text, size, ", with biases");
}

static uint64_t matrix_bytes(const struct moe_matrix *matrix, size_t rows, size_t cols)
{
    if (!matrix)
        return 0;
    uint64_t bytes = (uint64_t)rows * moe_format_row_bytes(matrix->data.format, cols);
    const struct moe_format_info *bias = matrix->bias.base ? moe_format_info(matrix->bias.format) : NULL;
    return bytes + (bias ? (uint64_t)rows * bias->block_bytes : 0);
}

static uint64_t expert_bytes(const struct moe_experts_params *p)
{
    return matrix_bytes(p->gate, p->intermediate_size, p->hidden_size) +
           matrix_bytes(p->up, p->intermediate_size, p->hidden_size) +
           matrix_bytes(p->down, p->hidden_size, p->intermediate_size);
}

static uint64_t routing_bytes(const struct moe_routing *routing, size_t num_experts, size_t hidden_size)
{
    if (!routing)
        return 0;
    const struct moe_format_info *bias =
        routing->selection_bias.base ? moe_format_info(routing->selection_bias.format) : NULL;
    return matrix_bytes(routing->router, num_experts, hidden_size) + (bias ? num_experts * bias->block_bytes : 0);
}

void describe_block(struct block_facts *facts, const struct moe_model_block *block)
{
    *facts = (struct block_facts){.gate = "", .up = "", .down = "", .shared_up = ""};
    if (!block)
        return;
    const struct moe_experts_params *experts = block->experts;
    facts->moe = true;
    facts->num_experts = experts->num_experts;
    facts->top_k = block->layer->top_k;
    facts->hidden_size = experts->hidden_size;
    facts->intermediate_size = experts->intermediate_size;
    if (experts->gate)
        facts->gate = describe_format(experts->gate->data.format);
    facts->up = describe_format(experts->up->data.format);
    facts->down = describe_format(experts->down->data.format);
    facts->expert_bytes = expert_bytes(experts);
    facts->other_bytes = routing_bytes(block->layer->routing, experts->num_experts, experts->hidden_size);
    if (block->shared) {
        facts->shared_size = block->shared->intermediate_size;
        facts->shared_up = describe_format(block->shared->up->data.format);
        facts->other_bytes += expert_bytes(block->shared);
        if (block->layer->shared)
            facts->other_bytes += matrix_bytes(block->layer->shared->gate, 1, experts->hidden_size);
    }
    facts->layer_bytes = facts->expert_bytes * facts->num_experts + facts->other_bytes;
    facts->token_bytes = facts->expert_bytes * facts->top_k + facts->other_bytes;
    describe_routing(facts->routing, sizeof facts->routing, block);
    describe_activation(facts->activation, sizeof facts->activation, experts);
}
