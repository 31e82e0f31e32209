// SPDX-License-Identifier: MIT
// Layers: creation, with every axis checked and given its default, and what is known of a layer afterwards.
#include <stdio.h>
#include <string.h>

#include "compose.h"
#include "layer_parts.h"
#include "objects.h"
#include "view.h"

/* ---- creation ---- */

static enum moe_status create_desc(struct moe_layer *layer, const struct moe_layer_params *params,
                                   struct moe_error *error)
{
    const struct moe_experts *experts = params->experts;
    struct moe_layer_desc *desc = &layer->desc;
    if (experts == NULL || experts->backend != layer->backend)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the layer's experts are missing, or of another backend");
    desc->flags = params->flags;
    desc->experts = &experts->set;
    desc->top_k = params->top_k;
    desc->weight_on_input = params->weight_on_input;
    layer->experts_present = experts->set.num_experts;
    MOE_TRY(moe_layer_axes_sizes(layer, params, error));
    if (desc->top_k == 0 || desc->top_k > desc->num_experts)
        return moe_fail(error, MOE_ERR_ARGUMENT, "top_k is %zu, it must be 1..%zu", desc->top_k, desc->num_experts);
    MOE_TRY(moe_layer_routing_create(layer, params->routing, error));
    return moe_layer_axes_create(layer, params, error);
}

/* A row of f32 that the composer needs in backend memory. */
static enum moe_status upload(struct moe_layer *layer, struct moe_view *out, const float *values, size_t n,
                              struct moe_error *error)
{
    const struct moe_backend *backend = layer->backend;
    size_t bytes = n * sizeof *values; /* fits: values are in memory already */
    enum moe_status status = moe_mem_alloc(layer->backend, bytes, out);
    if (status == MOE_OK) {
        out->format = MOE_FORMAT_F32;
        status = backend->ops->mem_write(backend->self, NULL, out, values, bytes);
    }
    return status == MOE_OK ? status : moe_fail(error, status, "backend %s has no memory for a row of %zu values",
                                                backend->ops->name, n);
}

/* Zeros for tokens without an expert, and out_bias. */
static enum moe_status create_rows(struct moe_layer *layer, struct moe_error *error)
{
    const struct moe_layer_desc *desc = &layer->desc;
    const struct moe_env *env = &layer->backend->env;
    size_t width = desc->experts->hidden_size > desc->hidden_size ? desc->experts->hidden_size : desc->hidden_size;
    float *zeros = moe_alloc_array(env, width, sizeof *zeros);
    if (zeros == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a row of zeros");
    enum moe_status status = upload(layer, &layer->zero, zeros, width, error);
    moe_free(env, zeros, width * sizeof *zeros);
    if (status == MOE_OK && desc->host_out_bias != NULL)
        status = upload(layer, &layer->added, desc->host_out_bias, desc->hidden_size, error);
    return status;
}

/* Fused if the backend can and may, otherwise composed if the caller allows it. */
static enum moe_status create_path(struct moe_layer *layer, struct moe_error *error)
{
    const struct moe_backend_ops *ops = layer->backend->ops;
    struct moe_layer_info *info = &layer->info;
    uint32_t flags = layer->desc.flags;
    enum moe_status status = MOE_ERR_UNSUPPORTED;
    struct moe_error said = {.status = MOE_OK};
    if (ops->layer_open == NULL || (flags & MOE_LAYER_FORCE_COMPOSED))
        moe_fail(error, status, "backend %s has no fused layer; MOE_LAYER_ALLOW_COMPOSED runs it from primitives",
                 ops->name);
    else
        status = moe_explain(error, ops->layer_open(layer->backend->self, &layer->desc, &layer->state, info, &said),
                             &said, ops->name);
    if (status == MOE_ERR_UNSUPPORTED && (flags & (MOE_LAYER_ALLOW_COMPOSED | MOE_LAYER_FORCE_COMPOSED))) {
        status = create_rows(layer, error);
        info->composed = info->batch_invariant = info->exact = true; /* one token at a time, f32 scratch */
        info->capturable = false;
    }
    if (status != MOE_OK)
        return status;
    if ((flags & MOE_LAYER_BATCH_INVARIANT) && !info->batch_invariant)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "backend %s cannot hold MOE_LAYER_BATCH_INVARIANT", ops->name);
    if ((flags & MOE_LAYER_EXACT) && !info->exact)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "backend %s cannot hold MOE_LAYER_EXACT", ops->name);
    return MOE_OK;
}

enum moe_status moe_layer_create(struct moe_backend *backend, const struct moe_layer_params *params,
                                 struct moe_layer **out, struct moe_error *error)
{
    struct moe_layer_params own;
    if (out == NULL || backend == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_layer_create: backend or out is NULL");
    *out = NULL;
    if (MOE_READ_PARAMS(&own, params) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_layer_params: NULL, without struct_size, or with unknown fields");
    const uint32_t known =
        MOE_LAYER_ALLOW_COMPOSED | MOE_LAYER_FORCE_COMPOSED | MOE_LAYER_BATCH_INVARIANT | MOE_LAYER_EXACT;
    if (own.flags & ~known)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_layer_params: flags 0x%x are unknown",
                        (unsigned)(own.flags & ~known));
    struct moe_layer *layer = moe_alloc(&backend->env, sizeof *layer);
    if (layer == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a layer");
    layer->backend = backend;
    enum moe_status status = create_desc(layer, &own, error);
    if (status == MOE_OK) {
        layer->info.hidden_size = layer->desc.hidden_size;
        layer->info.expert_width = layer->desc.experts->hidden_size;
        layer->info.num_zero_experts = layer->desc.num_zero_experts;
        layer->info.intermediate_size = layer->desc.experts->intermediate_size;
        layer->info.num_experts = layer->desc.num_experts;
        layer->info.top_k = layer->desc.top_k;
        layer->info.has_router = layer->router.host_matrix != NULL;
        layer->info.needs_token_ids = layer->router.hash_table != NULL;
        status = create_path(layer, error);
    }
    if (status != MOE_OK) {
        moe_layer_destroy(layer);
        return status;
    }
    if (error != NULL)
        *error = (struct moe_error){.status = MOE_OK};
    *out = layer;
    return MOE_OK;
}

void moe_layer_own(struct moe_layer *layer, struct moe_experts *experts, struct moe_experts *shared,
                   struct moe_experts *latent)
{
    layer->owned = experts;
    layer->owned_shared = shared;
    layer->owned_latent = latent;
}

void moe_layer_destroy(struct moe_layer *layer)
{
    if (layer == NULL)
        return;
    struct moe_backend *backend = layer->backend;
    const struct moe_env *env = &backend->env;
    if (layer->state != NULL)
        backend->ops->layer_close(layer->state);
    moe_mem_free(backend, &layer->zero);
    moe_mem_free(backend, &layer->added);
    moe_layer_routing_destroy(layer);
    moe_layer_axes_destroy(layer);
    moe_experts_destroy(layer->owned);
    moe_experts_destroy(layer->owned_shared);
    moe_experts_destroy(layer->owned_latent);
    moe_free(env, layer, sizeof *layer);
}

enum moe_status moe_layer_info(const struct moe_layer *layer, struct moe_layer_info *out)
{
    return layer == NULL ? MOE_ERR_ARGUMENT : moe_write_params(out, &layer->info, sizeof layer->info);
}

enum moe_status moe_layer_describe(const struct moe_layer *layer, size_t num_tokens,
                                   void (*line)(void *user, const char *key, const char *value), void *user)
{
    size_t num_pairs;
    if (layer == NULL || line == NULL || num_tokens == 0 || !moe_mul(&num_pairs, num_tokens, layer->desc.top_k))
        return MOE_ERR_ARGUMENT;
    const size_t num_matrices = layer->desc.experts->num_experts;
    const size_t busy = num_pairs < num_matrices ? num_pairs : num_matrices;
    char text[192];
    line(user, "path", layer->info.composed ? "composed of primitives, a token at a time" : "fused");
    snprintf(text, sizeof text, "%zu (%zu x top %zu): spread evenly, %zu of %zu experts get %.1f each", num_pairs,
             num_tokens, layer->desc.top_k, busy, num_matrices, (double)num_pairs / (double)busy);
    line(user, "pairs", text);
    if (layer->info.composed || layer->backend->ops->layer_describe == NULL)
        return MOE_OK;
    return layer->backend->ops->layer_describe(layer->state, num_tokens, line, user);
}
