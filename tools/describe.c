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

/* ---- routing ---- */

static const char *score_name(enum moe_score score)
{
    switch (score) {
    case MOE_SCORE_SIGMOID:
        return "sigmoid";
    case MOE_SCORE_LOGIT:
        return "the logit itself";
    case MOE_SCORE_SOFTMAX_TOPK:
        return "softmax over the chosen";
    case MOE_SCORE_SQRT_SOFTPLUS:
        return "square root of softplus";
    case MOE_SCORE_SPARSEMIXER:
        return "sparse mixer";
    case MOE_SCORE_DEFAULT:
    case MOE_SCORE_SOFTMAX:
        break;
    }
    return "softmax over all experts";
}

static enum moe_score weight_of(const struct moe_routing *routing)
{
    return routing->weight == MOE_SCORE_DEFAULT ? MOE_SCORE_SOFTMAX : routing->weight;
}

static enum moe_score select_of(const struct moe_routing *routing)
{
    enum moe_score weight = weight_of(routing);
    if (routing->select != MOE_SCORE_DEFAULT)
        return routing->select;
    return weight == MOE_SCORE_SOFTMAX_TOPK || weight == MOE_SCORE_SPARSEMIXER ? MOE_SCORE_LOGIT : weight;
}

/* What ranks the experts. */
static void describe_scores(char *text, size_t size, const struct moe_routing *routing, size_t num_experts)
{
    enum moe_score select = select_of(routing);
    if (routing->hash_table.base) {
        tool_append(text, size, "%zu experts by a table of token ids", num_experts);
        return;
    }
    if (select == MOE_SCORE_SOFTMAX)
        tool_append(text, size, "softmax over all %zu experts", num_experts);
    else
        tool_append(text, size, "%s of %zu experts", select == MOE_SCORE_LOGIT ? "logits" : score_name(select),
                    num_experts);
    if (routing->selection_bias.base)
        tool_append(text, size, " + selection bias");
    if (routing->num_groups > 1)
        tool_append(text, size, ", %zu groups, best %zu by %s%s", routing->num_groups, routing->top_groups,
                    routing->group_score == MOE_GROUP_MAX ? "their best" : "the sum of their two best",
                    routing->group_mask_zero ? ", others count as 0" : "");
}

static void describe_weights(char *text, size_t size, const struct moe_routing *routing)
{
    enum moe_score weight = weight_of(routing);
    if (routing->num_always)
        tool_append(text, size, ", the last %zu always", routing->num_always);
    if (select_of(routing) != weight || routing->hash_table.base)
        tool_append(text, size, ", weighed by %s", score_name(weight));
    if (routing->renorm == MOE_RENORM_P_NORM)
        tool_append(text, size, ", weights divided by their %g-norm", (double)routing->renorm_p);
    else if (routing->renorm != MOE_RENORM_NONE)
        tool_append(text, size, ", weights renormalised");
    else if (weight != MOE_SCORE_SOFTMAX_TOPK)
        tool_append(text, size, ", weights as they are");
    if (routing->scale != 0 && routing->scale != 1)
        tool_append(text, size, ", x%g", (double)routing->scale);
    if (routing->expert_scale.base)
        tool_append(text, size, ", times a scale of each expert");
    if (routing->softcap > 0)
        tool_append(text, size, "; logits capped softly at %g", (double)routing->softcap);
    if (routing->norm)
        tool_append(text, size, "; the router's input is normed");
}

static void describe_shared(char *text, size_t size, const struct moe_model_block *block)
{
    static const struct moe_act silu;
    char own[DESCRIBE_TEXT], experts[DESCRIBE_TEXT];
    describe_act(own, sizeof own, block->shared->act ? block->shared->act : &silu, block->shared->gate != NULL);
    describe_act(experts, sizeof experts, block->experts->act ? block->experts->act : &silu,
                 block->experts->gate != NULL);
    tool_append(text, size, "; one shared expert, %s",
                block->layer->shared->gate_kind == MOE_SHARED_SIGMOID ? "gated by a sigmoid" : "ungated");
    if (strcmp(own, experts) != 0)
        tool_append(text, size, ", with %s", own);
}

/* What happens to the experts' sum. */
static void describe_sum(char *text, size_t size, const struct moe_model_block *block)
{
    const struct moe_layer_params *layer = block->layer;
    if (block->latent)
        tool_append(text, size, "; experts in a space of %zu values%s", block->experts->hidden_size,
                    layer->latent_norm ? ", their sum normed" : "");
    if (layer->num_zero_experts)
        tool_append(text, size, "; the last %zu experts give their input", layer->num_zero_experts);
    if (layer->routed_scale != 0 && layer->routed_scale != 1)
        tool_append(text, size, "; sum of experts x%g", (double)layer->routed_scale);
    if (block->shared && layer->shared)
        describe_shared(text, size, block);
    if (layer->out_scale != 0 && layer->out_scale != 1)
        tool_append(text, size, "; output x%g", (double)layer->out_scale);
    if (layer->out_bias.base)
        tool_append(text, size, "; output with a bias");
    if (layer->out_norm)
        tool_append(text, size, "; output normed");
}

static size_t ids_of(const struct moe_model_block *block)
{
    size_t num_experts = block->layer->num_experts;
    return num_experts ? num_experts : block->experts->num_experts + block->layer->num_zero_experts;
}

static void describe_routing(char *text, size_t size, const struct moe_model_block *block)
{
    const struct moe_layer_params *layer = block->layer;
    text[0] = '\0';
    if (layer->routing)
        describe_scores(text, size, layer->routing, ids_of(block));
    else
        tool_append(text, size, "%zu experts, routed by the caller", ids_of(block));
    tool_append(text, size, ", top %zu", layer->top_k);
    if (layer->routing)
        describe_weights(text, size, layer->routing);
    if (layer->weight_on_input)
        tool_append(text, size, ", applied to the expert's input");
    describe_sum(text, size, block);
}

/* ---- experts ---- */

void describe_act(char *text, size_t size, const struct moe_act *act, bool gated)
{
    static const char *const names[] = {"silu", "gelu (tanh)", "gelu (erf)", "relu", "relu squared"};
    text[0] = '\0';
    if (act->kind == MOE_ACT_SITU && act->beta_up > 0)
        tool_append(text, size, "situ (%g, up %g)", (double)act->beta, (double)act->beta_up);
    else if (act->kind == MOE_ACT_SITU)
        tool_append(text, size, "situ (%g)", (double)act->beta);
    else if (act->kind == MOE_ACT_SWISH && act->alpha != 0 && act->alpha != 1)
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

/* Scales of the matrices of experts in words; "" if values need none. */
static void describe_scales(char *text, size_t size, const struct moe_experts_params *experts)
{
    const struct moe_scales *scales = experts->up->scales;
    text[0] = '\0';
    if (!scales)
        return;
    if (scales->scale)
        tool_append(text, size, "%s", describe_format(scales->scale->data.format));
    if (scales->scale && (scales->block_rows || scales->block_cols)) {
        tool_append(text, size, scales->block_rows ? " for %zu rows" : " for all rows", scales->block_rows);
        tool_append(text, size, scales->block_cols ? " of %zu values" : " of all values", scales->block_cols);
    } else if (scales->scale) {
        tool_append(text, size, " for a matrix");
    }
    if (scales->factor)
        tool_append(text, size, "%sa factor for each expert", *text ? ", " : "");
    if (scales->zero)
        tool_append(text, size, ", zeros %s", describe_format(scales->zero->data.format));
    if (scales->column_block)
        tool_append(text, size, ", columns in an order of their own");
}

static uint64_t matrix_bytes(const struct moe_matrix *matrix, size_t rows, size_t cols);

/* Of one expert. */
static uint64_t scales_bytes(const struct moe_scales *scales, size_t rows, size_t cols)
{
    if (!scales)
        return 0;
    size_t block_rows = scales->block_rows ? scales->block_rows : rows;
    size_t block_cols = scales->block_cols ? scales->block_cols : cols;
    size_t num_rows = (rows + block_rows - 1) / block_rows, num_cols = (cols + block_cols - 1) / block_cols;
    return matrix_bytes(scales->scale, num_rows, num_cols) + matrix_bytes(scales->zero, num_rows, num_cols) +
           matrix_bytes(scales->factor, 1, 1) + matrix_bytes(scales->column_block, 1, cols);
}

static uint64_t matrix_bytes(const struct moe_matrix *matrix, size_t rows, size_t cols)
{
    if (!matrix)
        return 0;
    const struct moe_format_info *info = moe_format_info(matrix->data.format);
    const struct moe_format_info *bias = matrix->bias.base ? moe_format_info(matrix->bias.format) : NULL;
    uint64_t blocks = info ? ((uint64_t)rows * cols + info->block_values - 1) / info->block_values : 0;
    uint64_t bytes = info ? blocks * info->block_bytes : 0;
    return bytes + (bias ? (uint64_t)rows * bias->block_bytes : 0) + scales_bytes(matrix->scales, rows, cols);
}

static uint64_t expert_bytes(const struct moe_experts_params *p)
{
    return matrix_bytes(p->gate, p->intermediate_size, p->hidden_size) +
           matrix_bytes(p->up, p->intermediate_size, p->hidden_size) +
           matrix_bytes(p->down, p->hidden_size, p->intermediate_size);
}

static uint64_t vector_bytes(const struct moe_view *view, uint64_t count)
{
    const struct moe_format_info *info = view->base ? moe_format_info(view->format) : NULL;
    return info ? count * info->block_bytes : 0;
}

/* The hash table is not counted: a token reads one row of it. */
static uint64_t routing_bytes(const struct moe_routing *routing, size_t num_experts, size_t hidden_size)
{
    if (!routing)
        return 0;
    return matrix_bytes(routing->router, num_experts, hidden_size) +
           vector_bytes(&routing->selection_bias, num_experts) + vector_bytes(&routing->expert_scale, num_experts) +
           (routing->norm ? vector_bytes(&routing->norm->scale, hidden_size) : 0);
}

void describe_block(struct block_facts *facts, const struct moe_model_block *block)
{
    *facts = (struct block_facts){.gate = "", .up = "", .down = "", .shared_up = ""};
    if (!block)
        return;
    const struct moe_experts_params *experts = block->experts;
    size_t hidden_size = block->latent ? block->latent->hidden_size : experts->hidden_size;
    facts->moe = true;
    facts->num_experts = experts->num_experts;
    facts->num_zero_experts = block->layer->num_zero_experts;
    facts->top_k = block->layer->top_k;
    facts->hidden_size = hidden_size;
    facts->expert_width = experts->hidden_size;
    facts->intermediate_size = experts->intermediate_size;
    if (experts->gate)
        facts->gate = describe_format(experts->gate->data.format);
    facts->up = describe_format(experts->up->data.format);
    facts->down = describe_format(experts->down->data.format);
    facts->expert_bytes = expert_bytes(experts);
    facts->other_bytes = routing_bytes(block->layer->routing, ids_of(block), hidden_size);
    if (block->latent)
        facts->other_bytes += expert_bytes(block->latent);
    facts->other_bytes += vector_bytes(&block->layer->out_bias, hidden_size);
    if (block->shared) {
        facts->shared_size = block->shared->intermediate_size;
        facts->shared_up = describe_format(block->shared->up->data.format);
        facts->other_bytes += expert_bytes(block->shared);
        if (block->layer->shared)
            facts->other_bytes += matrix_bytes(block->layer->shared->gate, 1, hidden_size);
    }
    facts->layer_bytes = facts->expert_bytes * facts->num_experts + facts->other_bytes;
    facts->token_bytes = facts->expert_bytes * facts->top_k + facts->other_bytes;
    describe_routing(facts->routing, sizeof facts->routing, block);
    describe_scales(facts->scales, sizeof facts->scales, experts);
    describe_activation(facts->activation, sizeof facts->activation, experts);
}
