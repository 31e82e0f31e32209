// SPDX-License-Identifier: MIT
// The axes of a layer around its experts, checked and given their defaults: latent projections, zero experts, the
// shared expert, and what becomes of the sum.
#include <math.h>

#include "layer_parts.h"

/* ---- sizes ---- */

static enum moe_status find_latent(struct moe_layer *layer, const struct moe_experts *latent, struct moe_error *error)
{
    struct moe_layer_desc *desc = &layer->desc;
    desc->hidden_size = desc->experts->hidden_size;
    if (latent == NULL)
        return MOE_OK;
    const struct moe_expert_set *set = &latent->set;
    if (latent->backend != layer->backend)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the latent projections are of another backend than the layer");
    if (set->num_experts != 1 || set->gated)
        return moe_fail(error, MOE_ERR_ARGUMENT,
                        "the latent projections must be 1 expert without a gate, not %zu %s a gate", set->num_experts,
                        set->gated ? "with" : "without");
    if (set->intermediate_size != desc->experts->hidden_size)
        return moe_fail(error, MOE_ERR_ARGUMENT,
                        "latent->up has %zu rows; it must have the %zu that are the experts' hidden_size",
                        set->intermediate_size, desc->experts->hidden_size);
    desc->latent = set;
    desc->hidden_size = set->hidden_size;
    return MOE_OK;
}

enum moe_status moe_layer_axes_sizes(struct moe_layer *layer, const struct moe_layer_params *params,
                                     struct moe_error *error)
{
    struct moe_layer_desc *desc = &layer->desc;
    size_t num_zero = params->num_zero_experts, present = desc->experts->num_experts;
    MOE_TRY(find_latent(layer, params->latent, error));
    if (num_zero > MOE_MAX_EXPERTS)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "num_zero_experts is %zu, more than %d", num_zero, MOE_MAX_EXPERTS);
    desc->num_experts = params->num_experts != 0 ? params->num_experts : present + num_zero;
    if (desc->num_experts > MOE_MAX_EXPERTS)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "the layer has %zu experts, more than %d", desc->num_experts,
                        MOE_MAX_EXPERTS);
    if (num_zero >= desc->num_experts)
        return moe_fail(error, MOE_ERR_ARGUMENT, "num_zero_experts is %zu of %zu experts; it must be below", num_zero,
                        desc->num_experts);
    if (num_zero > 0 && desc->latent != NULL)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "num_zero_experts is %zu, which does not go with latent experts",
                        num_zero);
    desc->num_zero_experts = num_zero;
    return MOE_OK;
}

/* ---- shared expert ---- */

static enum moe_status create_shared(struct moe_layer *layer, const struct moe_shared *given, struct moe_error *error)
{
    struct moe_shared shared;
    size_t hidden_size = layer->desc.hidden_size;
    if (given == NULL)
        return MOE_OK;
    if (MOE_READ_PARAMS(&shared, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_shared: without struct_size, or with unknown fields");
    if (shared.experts == NULL || shared.experts->backend != layer->backend)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the shared expert is missing, or of another backend");
    if (shared.experts->set.num_experts != 1 || shared.experts->set.hidden_size != hidden_size)
        return moe_fail(error, MOE_ERR_ARGUMENT,
                        "the shared expert must be 1 expert of hidden_size %zu, not %zu of %zu", hidden_size,
                        shared.experts->set.num_experts, shared.experts->set.hidden_size);
    if ((unsigned)shared.gate_kind > MOE_SHARED_SIGMOID)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "the shared expert has an unknown gate %d", (int)shared.gate_kind);
    if ((shared.gate_kind == MOE_SHARED_SIGMOID) != (shared.gate != NULL))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the shared expert's gate matrix goes with MOE_SHARED_SIGMOID");
    layer->desc.shared = &shared.experts->set;
    if (shared.gate == NULL)
        return MOE_OK;
    float *bias;
    MOE_TRY(moe_layer_copy_matrix(&layer->backend->env, &layer->shared_gate, &bias, shared.gate, 1, hidden_size,
                                  "shared gate", error));
    layer->desc.host_shared_gate = layer->shared_gate;
    layer->desc.shared_gate_bias = bias != NULL ? bias[0] : 0.0f;
    moe_free(&layer->backend->env, bias, sizeof *bias);
    return MOE_OK;
}

/* ---- the sum ---- */

static enum moe_status copy_scales(struct moe_layer_desc *desc, const struct moe_layer_params *params,
                                   struct moe_error *error)
{
    if (!isfinite(params->routed_scale) || !isfinite(params->out_scale))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the layer has routed_scale %g and out_scale %g; both must be finite",
                        (double)params->routed_scale, (double)params->out_scale);
    desc->routed_scale = params->routed_scale != 0.0f ? params->routed_scale : 1.0f;
    desc->out_scale = params->out_scale != 0.0f ? params->out_scale : 1.0f;
    return MOE_OK;
}

enum moe_status moe_layer_axes_create(struct moe_layer *layer, const struct moe_layer_params *params,
                                      struct moe_error *error)
{
    struct moe_layer_desc *desc = &layer->desc;
    const struct moe_env *env = &layer->backend->env;
    MOE_TRY(copy_scales(desc, params, error));
    MOE_TRY(create_shared(layer, params->shared, error));
    MOE_TRY(moe_layer_copy_view(env, &layer->out_bias, &params->out_bias, 1, desc->hidden_size, "out_bias", error));
    desc->host_out_bias = layer->out_bias;
    if (params->out_norm != NULL) {
        MOE_TRY(moe_layer_copy_norm(env, &layer->out_norm_scale, &layer->out_norm, params->out_norm, desc->hidden_size,
                                    "out_norm", error));
        desc->out_norm = &layer->out_norm;
    }
    if (params->latent_norm == NULL)
        return MOE_OK;
    if (desc->latent == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the layer has a latent_norm without latent");
    MOE_TRY(moe_layer_copy_norm(env, &layer->latent_norm_scale, &layer->latent_norm, params->latent_norm,
                                desc->experts->hidden_size, "latent_norm", error));
    desc->latent_norm = &layer->latent_norm;
    return MOE_OK;
}

void moe_layer_axes_destroy(struct moe_layer *layer)
{
    const struct moe_env *env = &layer->backend->env;
    size_t width = layer->desc.experts != NULL ? layer->desc.experts->hidden_size : 0;
    moe_free(env, layer->shared_gate, layer->desc.hidden_size * sizeof *layer->shared_gate);
    moe_free(env, layer->out_bias, layer->desc.hidden_size * sizeof *layer->out_bias);
    moe_free(env, layer->out_norm_scale, layer->desc.hidden_size * sizeof *layer->out_norm_scale);
    moe_free(env, layer->latent_norm_scale, width * sizeof *layer->latent_norm_scale);
}
