// SPDX-License-Identifier: MIT
// The tensors of an MoE layer in a GGUF file: every part of the layer's description under llama.cpp's name for it.
#include <stdio.h>
#include <string.h>

#include "convert.h"

static int add_view(struct plan *plan, size_t block, const char *kind, const struct moe_view *view, size_t count)
{
    char name[96];
    snprintf(name, sizeof name, "blk.%zu.%s", block, kind);
    struct plan_tensor *tensor = plan_add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = PLAN_VIEW;
    tensor->view = *view;
    return plan_shape(tensor, MOE_FORMAT_F32, 1, 1, 1, count);
}

/* Token ids to experts: [vocabulary, top_k]. */
static int add_hash(struct plan *plan, size_t block, const struct moe_routing *routing, size_t top_k)
{
    char name[96];
    snprintf(name, sizeof name, "blk.%zu.ffn_gate_tid2eid.weight", block);
    struct plan_tensor *tensor = plan_add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = PLAN_INTEGERS;
    tensor->view = routing->hash_table;
    return plan_shape(tensor, MOE_FORMAT_I32, 2, 1, routing->hash_rows, top_k);
}

/* What the input's matrices are, in GGUF's terms; MOE_FORMAT_PRIVATE: what GGUF does not have. */
static enum moe_format own_format(const struct moe_matrix *matrix, size_t cols)
{
    enum moe_format fp4 = fp4_format(matrix, cols);
    if (fp4 != MOE_FORMAT_PRIVATE)
        return fp4;
    bool plain = !matrix->scales && matrix->packing == MOE_PACKING_NONE && plan_is_gguf(matrix->data.format);
    return plain ? matrix->data.format : MOE_FORMAT_PRIVATE;
}

static int add_bias(struct plan *plan, size_t block, const char *kind, const struct moe_matrix *matrix, bool stack,
                    size_t count, size_t rows)
{
    char name[96];
    snprintf(name, sizeof name, "blk.%zu.%s.bias", block, kind);
    struct plan_tensor *tensor = plan_add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = PLAN_BIAS;
    tensor->matrix = matrix;
    int code = plan_shape(tensor, MOE_FORMAT_F32, stack ? 2 : 1, 1, count, rows);
    tensor->count = count;    /* matrix e is the one row of expert e */
    tensor->rows = 1;
    return code;
}

/* NVFP4's second level: one factor for each expert. */
static int add_factor(struct plan *plan, size_t block, const char *kind, const struct moe_matrix *matrix, size_t count)
{
    char name[96];
    snprintf(name, sizeof name, "blk.%zu.%s.scale", block, kind);
    struct plan_tensor *tensor = plan_add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = PLAN_FACTOR;
    tensor->matrix = matrix;
    int code = plan_shape(tensor, MOE_FORMAT_F32, 1, 1, 1, count);
    tensor->count = count;
    tensor->cols = 1;
    return code;
}

struct wanted {
    enum moe_format format;
    bool keep;
};

/* ffn_gate_exps.weight with its .bias and .scale, and the like; num_dims 2 for one matrix, 1 for a vector. */
static int add_matrix(struct plan *plan, const struct convert_options *options, size_t block, const char *kind,
                      const struct moe_matrix *matrix, size_t num_dims, size_t count, size_t rows, size_t cols,
                      struct wanted wanted)
{
    if (!matrix)
        return TOOL_OK;
    char name[96];
    snprintf(name, sizeof name, "blk.%zu.%s.weight", block, kind);
    struct plan_tensor *tensor = plan_add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    enum moe_format format = wanted.format, own = own_format(matrix, cols);
    if (!names_is_small(name))
        format = plan_format(plan, options, name, wanted.format, wanted.keep, own, cols);
    tensor->source = own == format && matrix->scales ? PLAN_FP4 : PLAN_MATRIX;
    tensor->matrix = matrix;
    int code = plan_shape(tensor, format, num_dims, count, rows, cols);
    if (tensor->source == PLAN_FP4)
        plan->num_exact++;
    else if (matrix->scales && matrix->data.format != MOE_FORMAT_E4M3 && format != MOE_FORMAT_F32)
        plan->requantised = matrix->data.format;
    if (code == TOOL_OK && tensor->source == PLAN_FP4 && matrix->scales->factor)
        code = add_factor(plan, block, kind, matrix, count);
    if (code == TOOL_OK && matrix->bias.base)
        code = add_bias(plan, block, kind, matrix, num_dims == 3, count, rows);
    return code;
}

static int add_shared(struct plan *plan, size_t block, const struct moe_model_block *part,
                      const struct convert_options *options)
{
    static const struct wanted plain = {MOE_FORMAT_F32, false};
    const struct moe_experts_params *p = part->shared;
    const struct wanted gate_up = {options->format, options->keep}, down = {options->down, options->keep_down};
    size_t h = p->hidden_size, f = p->intermediate_size;
    int code = add_matrix(plan, options, block, "ffn_gate_shexp", p->gate, 2, 1, f, h, gate_up);
    if (code == TOOL_OK)
        code = add_matrix(plan, options, block, "ffn_up_shexp", p->up, 2, 1, f, h, gate_up);
    if (code == TOOL_OK)
        code = add_matrix(plan, options, block, "ffn_down_shexp", p->down, 2, 1, h, f, down);
    if (code == TOOL_OK && part->layer->shared)
        code = add_matrix(plan, options, block, "ffn_gate_inp_shexp", part->layer->shared->gate, 1, 1, 1, h, plain);
    return code;
}

static int add_router(struct plan *plan, size_t block, const struct moe_model_block *part,
                      const struct convert_options *options)
{
    static const struct wanted plain = {MOE_FORMAT_F32, false};
    const struct moe_routing *routing = part->layer->routing;
    size_t h = part->latent ? part->latent->hidden_size : part->experts->hidden_size;
    if (!routing)
        return TOOL_OK;
    size_t n = part->layer->num_experts ? part->layer->num_experts : part->experts->num_experts;
    int code = add_matrix(plan, options, block, "ffn_gate_inp", routing->router, 2, 1, n, h, plain);
    if (code == TOOL_OK && routing->norm && routing->norm->scale.base)
        code = add_view(plan, block, "ffn_gate_inp.scale", &routing->norm->scale, h);
    if (code == TOOL_OK && routing->selection_bias.base)
        code = add_view(plan, block, "exp_probs_b.bias", &routing->selection_bias, n);
    if (code == TOOL_OK && routing->expert_scale.base)
        code = add_view(plan, block, "ffn_down_exps.scale", &routing->expert_scale, n);
    if (code == TOOL_OK && routing->hash_table.base)
        code = add_hash(plan, block, routing, part->layer->top_k);
    return code;
}

/* Projections around the experts. */
static int add_latent(struct plan *plan, const struct names_family *family, size_t block,
                      const struct moe_model_block *part, const struct convert_options *options)
{
    const struct wanted wanted = {options->format, options->keep};
    const struct moe_experts_params *p = part->latent;
    size_t h = p->hidden_size, f = p->intermediate_size;
    const char *prefix = family->latent ? family->latent : "ffn_latent";
    char kind[64];
    snprintf(kind, sizeof kind, "%s_down", prefix);
    int code = add_matrix(plan, options, block, kind, p->up, 2, 1, f, h, wanted);
    snprintf(kind, sizeof kind, "%s_up", prefix);
    if (code == TOOL_OK)
        code = add_matrix(plan, options, block, kind, p->down, 2, 1, h, f, wanted);
    snprintf(kind, sizeof kind, "%s_norm.weight", prefix);
    if (code == TOOL_OK && part->layer->latent_norm && part->layer->latent_norm->scale.base)
        code = add_view(plan, block, kind, &part->layer->latent_norm->scale, f);
    return code;
}

int plan_moe_block(struct plan *plan, const struct names_family *family, size_t block,
                   const struct moe_model_block *part, const struct convert_options *options)
{
    const struct moe_experts_params *p = part->experts;
    const struct wanted gate_up = {options->format, options->keep}, down = {options->down, options->keep_down};
    size_t n = p->num_experts, h = p->hidden_size, f = p->intermediate_size;
    int code = add_router(plan, block, part, options);
    if (code == TOOL_OK)
        code = add_matrix(plan, options, block, "ffn_gate_exps", p->gate, 3, n, f, h, gate_up);
    if (code == TOOL_OK)
        code = add_matrix(plan, options, block, "ffn_up_exps", p->up, 3, n, f, h, gate_up);
    if (code == TOOL_OK)
        code = add_matrix(plan, options, block, "ffn_down_exps", p->down, 3, n, h, f, down);
    if (code == TOOL_OK && part->shared)
        code = add_shared(plan, block, part, options);
    if (code == TOOL_OK && part->latent)
        code = add_latent(plan, family, block, part, options);
    return code;
}
