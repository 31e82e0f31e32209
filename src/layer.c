// SPDX-License-Identifier: MIT
// Layers: creation, with every axis checked and given its default, and what is known of a layer afterwards.
#include <math.h>
#include <string.h>

#include "compose.h"
#include "objects.h"
#include "view.h"

/* ---- host copies of small matrices and vectors ---- */

/* A dense f32 copy of rows x cols values of a host view; NULL in *out if the view is absent. */
static enum moe_status copy_host(const struct moe_env *env, float **out, const struct moe_view *view, size_t rows,
                                 size_t cols, const char *name, struct moe_error *error)
{
    size_t row_bytes = moe_format_row_bytes(view->format, cols), stride = view->stride ? view->stride : row_bytes;
    size_t bytes, end;
    *out = NULL;
    if (view->base == NULL)
        return MOE_OK;
    if (!moe_view_is_float(view->format))
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s is neither f32, f16 nor bf16", name);
    if (row_bytes == 0 || (rows > 1 && stride < row_bytes) || !moe_mul(&bytes, rows - 1, stride) ||
        !moe_add(&bytes, bytes, row_bytes) || bytes > view->size || !moe_add(&end, view->offset, view->size))
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s [%zu, %zu] does not fit its view of %zu bytes", name, rows, cols,
                        view->size);
    size_t values;
    float *copy = moe_mul(&values, rows, cols) ? moe_alloc_array(env, values, sizeof *copy) : NULL;
    if (copy == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for %s", name);
    const unsigned char *in = (const unsigned char *)view->base + view->offset;
    for (size_t r = 0; r < rows; r++)
        moe_format_dequantise(view->format, copy + r * cols, in + r * stride, 1, cols);
    *out = copy;
    return MOE_OK;
}

/* A float matrix of one "expert", and its bias. */
static enum moe_status copy_matrix(const struct moe_env *env, float **matrix, float **bias,
                                   const struct moe_matrix *given, size_t rows, size_t cols, const char *name,
                                   struct moe_error *error)
{
    struct moe_matrix own;
    if (MOE_READ_PARAMS(&own, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: its moe_matrix is without struct_size, or has unknown fields",
                        name);
    size_t bias_stride = own.bias_element_stride;
    bool dense_bias = bias_stride == 0 || bias_stride == moe_format_row_bytes(own.bias.format, 1);
    if (own.transposed || own.bases != NULL || !dense_bias)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s must be one matrix as it stands, with a dense bias", name);
    if (own.data.base == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s has no base", name);
    MOE_TRY(copy_host(env, matrix, &own.data, rows, cols, name, error));
    return copy_host(env, bias, &own.bias, 1, rows, name, error);
}

/* ---- routing ---- */

static enum moe_status check_scores(const struct moe_routing *routing, struct moe_router *router,
                                    struct moe_error *error)
{
    if (routing->select == MOE_SCORE_SOFTMAX_TOPK)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "MOE_SCORE_SOFTMAX_TOPK is for routing.weight, not for select");
    if ((unsigned)routing->weight > MOE_SCORE_SOFTMAX_TOPK || (unsigned)routing->select > MOE_SCORE_SOFTMAX_TOPK)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "routing has an unknown score (select %d, weight %d)",
                        (int)routing->select, (int)routing->weight);
    router->weight = routing->weight != MOE_SCORE_DEFAULT ? routing->weight : MOE_SCORE_SOFTMAX;
    router->select = routing->select;
    if (router->select == MOE_SCORE_DEFAULT)
        router->select = router->weight == MOE_SCORE_SOFTMAX_TOPK ? MOE_SCORE_LOGIT : router->weight;
    if ((unsigned)routing->renorm > MOE_RENORM_CLAMP_EPS)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "routing has an unknown renorm %d", (int)routing->renorm);
    if (!(routing->renorm_eps >= 0.0f) || !isfinite(routing->renorm_eps) || !isfinite(routing->scale))
        return moe_fail(error, MOE_ERR_ARGUMENT, "routing has renorm_eps %g and scale %g; both must be finite",
                        (double)routing->renorm_eps, (double)routing->scale);
    router->renorm = routing->renorm;
    router->renorm_eps = routing->renorm_eps;
    router->scale = routing->scale != 0.0f ? routing->scale : 1.0f;
    return MOE_OK;
}

static enum moe_status check_groups(const struct moe_routing *routing, struct moe_router *router, size_t top_k,
                                    struct moe_error *error)
{
    size_t groups = routing->num_groups;
    if (groups <= 1)
        return MOE_OK;
    if (router->num_experts % groups != 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%zu groups do not divide %zu experts", groups, router->num_experts);
    if (routing->top_groups == 0 || routing->top_groups > groups)
        return moe_fail(error, MOE_ERR_ARGUMENT, "top_groups is %zu of %zu groups", routing->top_groups, groups);
    if (top_k > routing->top_groups * (router->num_experts / groups))
        return moe_fail(error, MOE_ERR_ARGUMENT, "top_k %zu is more than the experts of %zu groups", top_k,
                        routing->top_groups);
    if ((unsigned)routing->group_score > MOE_GROUP_MAX)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "routing has an unknown group_score %d", (int)routing->group_score);
    router->num_groups = groups;
    router->top_groups = routing->top_groups;
    router->group_score = routing->group_score;
    router->group_mask_zero = routing->group_mask_zero;
    return MOE_OK;
}

static enum moe_status create_router(struct moe_layer *layer, const struct moe_routing *given, struct moe_error *error)
{
    struct moe_routing routing;
    struct moe_router *router = &layer->router;
    const struct moe_env *env = &layer->backend->env;
    if (given == NULL)
        return MOE_OK;
    if (MOE_READ_PARAMS(&routing, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_routing: without struct_size, or with unknown fields");
    router->num_experts = layer->desc.num_experts;
    MOE_TRY(check_scores(&routing, router, error));
    MOE_TRY(check_groups(&routing, router, layer->desc.top_k, error));
    MOE_TRY(copy_host(env, &layer->selection_bias, &routing.selection_bias, 1, router->num_experts, "selection_bias",
                      error));
    if (routing.router != NULL)
        MOE_TRY(copy_matrix(env, &layer->router_matrix, &layer->router_bias, routing.router, router->num_experts,
                            layer->desc.experts->hidden_size, "router", error));
    router->selection_bias = layer->selection_bias;
    router->host_matrix = layer->router_matrix;
    router->host_bias = layer->router_bias;
    layer->desc.router = router;
    return MOE_OK;
}

/* ---- shared expert ---- */

static enum moe_status create_shared(struct moe_layer *layer, const struct moe_shared *given, struct moe_error *error)
{
    struct moe_shared shared;
    size_t hidden_size = layer->desc.experts->hidden_size;
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
    MOE_TRY(copy_matrix(&layer->backend->env, &layer->shared_gate, &bias, shared.gate, 1, hidden_size, "shared gate",
                        error));
    layer->desc.host_shared_gate = layer->shared_gate;
    layer->desc.shared_gate_bias = bias != NULL ? bias[0] : 0.0f;
    moe_free(&layer->backend->env, bias, sizeof *bias);
    return MOE_OK;
}

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
    desc->num_experts = params->num_experts != 0 ? params->num_experts : experts->set.num_experts;
    desc->top_k = params->top_k;
    desc->weight_on_input = params->weight_on_input;
    layer->experts_present = experts->set.num_experts;
    if (desc->num_experts > MOE_MAX_EXPERTS)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "the layer has %zu experts, more than %d", desc->num_experts,
                        MOE_MAX_EXPERTS);
    if (desc->top_k == 0 || desc->top_k > desc->num_experts)
        return moe_fail(error, MOE_ERR_ARGUMENT, "top_k is %zu, it must be 1..%zu", desc->top_k, desc->num_experts);
    MOE_TRY(create_router(layer, params->routing, error));
    return create_shared(layer, params->shared, error);
}

/* A row of zeros in backend memory, for tokens without an expert. */
static enum moe_status create_zero(struct moe_layer *layer, struct moe_error *error)
{
    const struct moe_backend *backend = layer->backend;
    size_t bytes = layer->desc.experts->hidden_size * sizeof(float);
    float *zeros = moe_alloc(&backend->env, bytes);
    enum moe_status status = zeros != NULL ? moe_mem_alloc(layer->backend, bytes, &layer->zero) : MOE_ERR_MEMORY;
    if (status == MOE_OK) {
        layer->zero.format = MOE_FORMAT_F32;
        status = backend->ops->mem_write(backend->self, NULL, &layer->zero, zeros, bytes);
    }
    moe_free(&backend->env, zeros, bytes);
    return status == MOE_OK ? status : moe_fail(error, status, "no memory for a row of zeros");
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
        status = create_zero(layer, error);
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
        layer->info.hidden_size = layer->desc.experts->hidden_size;
        layer->info.intermediate_size = layer->desc.experts->intermediate_size;
        layer->info.num_experts = layer->desc.num_experts;
        layer->info.top_k = layer->desc.top_k;
        layer->info.has_router = layer->router_matrix != NULL;
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

void moe_layer_own(struct moe_layer *layer, struct moe_experts *experts, struct moe_experts *shared)
{
    layer->owned = experts;
    layer->owned_shared = shared;
}

void moe_layer_destroy(struct moe_layer *layer)
{
    if (layer == NULL)
        return;
    struct moe_backend *backend = layer->backend;
    const struct moe_env *env = &backend->env;
    size_t num_experts = layer->desc.num_experts;
    size_t hidden_size = layer->desc.experts != NULL ? layer->desc.experts->hidden_size : 0;
    if (layer->state != NULL)
        backend->ops->layer_close(layer->state);
    moe_mem_free(backend, &layer->zero);
    moe_free(env, layer->selection_bias, num_experts * sizeof(float));
    moe_free(env, layer->router_matrix, num_experts * hidden_size * sizeof(float));
    moe_free(env, layer->router_bias, num_experts * sizeof(float));
    moe_free(env, layer->shared_gate, hidden_size * sizeof(float));
    moe_experts_destroy(layer->owned);
    moe_experts_destroy(layer->owned_shared);
    moe_free(env, layer, sizeof *layer);
}

enum moe_status moe_layer_info(const struct moe_layer *layer, struct moe_layer_info *out)
{
    return layer == NULL ? MOE_ERR_ARGUMENT : moe_write_params(out, &layer->info, sizeof layer->info);
}
