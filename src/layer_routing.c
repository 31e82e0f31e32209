// SPDX-License-Identifier: MIT
// Routing of a layer: every axis of struct moe_routing checked and given its default, the host copies that it needs.
#include <math.h>
#include <string.h>

#include "layer_parts.h"

/* ---- scalars ---- */

static enum moe_status check_scores(const struct moe_routing *routing, struct moe_router *router,
                                    struct moe_error *error)
{
    if ((unsigned)routing->weight > MOE_SCORE_SPARSEMIXER || (unsigned)routing->select > MOE_SCORE_SPARSEMIXER)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "routing has an unknown score (select %d, weight %d)",
                        (int)routing->select, (int)routing->weight);
    if (routing->select == MOE_SCORE_SOFTMAX_TOPK || routing->select == MOE_SCORE_SPARSEMIXER)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s is for routing.weight, not for select",
                        routing->select == MOE_SCORE_SPARSEMIXER ? "MOE_SCORE_SPARSEMIXER" : "MOE_SCORE_SOFTMAX_TOPK");
    router->weight = routing->weight != MOE_SCORE_DEFAULT ? routing->weight : MOE_SCORE_SOFTMAX;
    router->select = routing->select;
    if (router->select == MOE_SCORE_DEFAULT)
        router->select = router->weight == MOE_SCORE_SOFTMAX_TOPK || router->weight == MOE_SCORE_SPARSEMIXER
                             ? MOE_SCORE_LOGIT
                             : router->weight;
    if (router->weight != MOE_SCORE_SPARSEMIXER)
        return MOE_OK;
    if (router->select != MOE_SCORE_LOGIT)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "MOE_SCORE_SPARSEMIXER goes with select MOE_SCORE_LOGIT, not %d",
                        (int)router->select);
    if (!(routing->sparsemixer_eps >= 0.0f) || !isfinite(routing->sparsemixer_eps))
        return moe_fail(error, MOE_ERR_ARGUMENT, "routing has sparsemixer_eps %g; it must be a number from 0 up",
                        (double)routing->sparsemixer_eps);
    router->sparsemixer_eps = routing->sparsemixer_eps;
    return MOE_OK;
}

static enum moe_status check_weights(const struct moe_routing *routing, struct moe_router *router,
                                     struct moe_error *error)
{
    if ((unsigned)routing->renorm > MOE_RENORM_P_NORM)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "routing has an unknown renorm %d", (int)routing->renorm);
    if (!(routing->renorm_eps >= 0.0f) || !isfinite(routing->renorm_eps) || !isfinite(routing->scale))
        return moe_fail(error, MOE_ERR_ARGUMENT,
                        "routing has renorm_eps %g and scale %g; both must be finite, renorm_eps from 0 up",
                        (double)routing->renorm_eps, (double)routing->scale);
    if (routing->renorm == MOE_RENORM_P_NORM && (!(routing->renorm_p >= 1.0f) || !isfinite(routing->renorm_p)))
        return moe_fail(error, MOE_ERR_ARGUMENT, "routing has renorm_p %g; MOE_RENORM_P_NORM needs a number from 1 up",
                        (double)routing->renorm_p);
    if (!(routing->softcap >= 0.0f) || !isfinite(routing->softcap))
        return moe_fail(error, MOE_ERR_ARGUMENT, "routing has softcap %g; it must be a number from 0 up",
                        (double)routing->softcap);
    router->renorm = routing->renorm;
    router->renorm_eps = routing->renorm_eps;
    router->renorm_p = routing->renorm_p;
    router->scale = routing->scale != 0.0f ? routing->scale : 1.0f;
    router->softcap = routing->softcap;
    return MOE_OK;
}

static enum moe_status check_groups(const struct moe_routing *routing, struct moe_router *router, size_t top_k,
                                    struct moe_error *error)
{
    size_t groups = routing->num_groups, num_experts = router->num_experts - router->num_always;
    if (groups <= 1)
        return MOE_OK;
    if (num_experts % groups != 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%zu groups do not divide %zu experts", groups, num_experts);
    if (routing->top_groups == 0 || routing->top_groups > groups)
        return moe_fail(error, MOE_ERR_ARGUMENT, "top_groups is %zu of %zu groups", routing->top_groups, groups);
    /* With group_mask_zero the experts of dropped groups are candidates still, of key 0. */
    if (!routing->group_mask_zero && top_k - router->num_always > routing->top_groups * (num_experts / groups))
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

/* ---- copies ---- */

static int64_t load_id(enum moe_format format, const unsigned char *at)
{
    int64_t wide;
    int32_t narrow;
    if (format == MOE_FORMAT_I64) {
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
    memcpy(&narrow, at, sizeof narrow);
    return narrow;
}

/* The table's rows as dense i32, each id in range. */
static enum moe_status fill_hash_table(int32_t *table, const struct moe_view *view, size_t stride,
                                       const struct moe_router *router, struct moe_error *error)
{
    const unsigned char *in = (const unsigned char *)view->base + view->offset;
    size_t value = view->format == MOE_FORMAT_I64 ? sizeof(int64_t) : sizeof(int32_t);
    for (size_t r = 0; r < router->hash_rows; r++) {
        for (size_t k = 0; k < router->hash_cols; k++) {
            int64_t id = load_id(view->format, in + r * stride + k * value);
            if (id < 0 || (uint64_t)id >= router->num_experts)
                return moe_fail(error, MOE_ERR_ARGUMENT, "hash_table has id %lld at [%zu, %zu]; it must be 0..%zu",
                                (long long)id, r, k, router->num_experts - 1);
            table[r * router->hash_cols + k] = (int32_t)id;
        }
    }
    return MOE_OK;
}

static enum moe_status copy_hash_table(struct moe_layer *layer, const struct moe_routing *routing,
                                       struct moe_error *error)
{
    struct moe_router *router = &layer->router;
    const struct moe_view *view = &routing->hash_table;
    size_t rows = routing->hash_rows, cols = layer->desc.top_k, bytes, end, values;
    if (view->base == NULL)
        return rows == 0 ? MOE_OK
                         : moe_fail(error, MOE_ERR_ARGUMENT, "routing has %zu hash_rows without a hash_table", rows);
    if (view->format != MOE_FORMAT_I32 && view->format != MOE_FORMAT_I64)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "hash_table is neither i32 nor i64");
    if (router->num_always > 0 || router->weight == MOE_SCORE_SPARSEMIXER)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "hash_table does not go with %s",
                        router->num_always > 0 ? "num_always" : "MOE_SCORE_SPARSEMIXER");
    size_t row_bytes = moe_format_row_bytes(view->format, cols), stride = view->stride ? view->stride : row_bytes;
    if (rows == 0 || row_bytes == 0 || (rows > 1 && stride < row_bytes) || !moe_mul(&bytes, rows - 1, stride) ||
        !moe_add(&bytes, bytes, row_bytes) || bytes > view->size || !moe_add(&end, view->offset, view->size))
        return moe_fail(error, MOE_ERR_ARGUMENT, "hash_table [%zu, %zu] does not fit its view of %zu bytes", rows, cols,
                        view->size);
    int32_t *table = NULL;
    if (moe_mul(&values, rows, cols))
        table = layer->router_memory.hash_table = moe_alloc_array(&layer->backend->env, values, sizeof *table);
    if (table == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for hash_table");
    router->hash_table = table;
    router->hash_rows = rows;
    router->hash_cols = cols;
    return fill_hash_table(table, view, stride, router, error);
}

static enum moe_status copy_expert_scale(struct moe_layer *layer, const struct moe_routing *routing,
                                         struct moe_error *error)
{
    float **scale = &layer->router_memory.expert_scale;
    size_t num_experts = layer->router.num_experts;
    MOE_TRY(moe_layer_copy_view(&layer->backend->env, scale, &routing->expert_scale, 1, num_experts, "expert_scale",
                                error));
    for (size_t e = 0; *scale != NULL && e < num_experts; e++)
        if (!isfinite((*scale)[e]))
            return moe_fail(error, MOE_ERR_ARGUMENT, "expert_scale is %g for expert %zu; it must be finite",
                            (double)(*scale)[e], e);
    layer->router.expert_scale = *scale;
    return MOE_OK;
}

/* The router's matrix, times its norm's scale: x * scale * w is x * (scale * w), exact for scales and weights of 16
 * bits. */
static enum moe_status copy_router(struct moe_layer *layer, const struct moe_routing *routing, struct moe_error *error)
{
    const struct moe_env *env = &layer->backend->env;
    struct moe_router_memory *memory = &layer->router_memory;
    struct moe_router *router = &layer->router;
    size_t hidden_size = layer->desc.hidden_size;
    if (routing->router == NULL)
        return MOE_OK;
    MOE_TRY(moe_layer_copy_matrix(env, &memory->matrix, &memory->bias, routing->router, router->num_experts,
                                  hidden_size, "router", error));
    router->host_matrix = memory->matrix;
    router->host_bias = memory->bias;
    if (routing->norm == NULL)
        return MOE_OK;
    struct moe_norm_desc norm;
    float *scale;
    MOE_TRY(moe_layer_copy_norm(env, &scale, &norm, routing->norm, hidden_size, "the router's norm", error));
    for (size_t e = 0; scale != NULL && e < router->num_experts; e++)
        for (size_t c = 0; c < hidden_size; c++)
            memory->matrix[e * hidden_size + c] *= scale[c];
    moe_free(env, scale, hidden_size * sizeof *scale);
    router->norm = true;
    router->norm_unit = norm.unit;
    router->norm_eps = norm.eps;
    return MOE_OK;
}

/* ---- creation ---- */

enum moe_status moe_layer_routing_create(struct moe_layer *layer, const struct moe_routing *given,
                                         struct moe_error *error)
{
    struct moe_routing routing;
    struct moe_router *router = &layer->router;
    struct moe_router_memory *memory = &layer->router_memory;
    if (given == NULL)
        return MOE_OK;
    if (MOE_READ_PARAMS(&routing, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_routing: without struct_size, or with unknown fields");
    if (routing.num_always >= layer->desc.top_k)
        return moe_fail(error, MOE_ERR_ARGUMENT, "num_always is %zu; it must be below top_k, %zu", routing.num_always,
                        layer->desc.top_k);
    router->num_experts = layer->desc.num_experts;
    router->num_always = routing.num_always;
    MOE_TRY(check_scores(&routing, router, error));
    MOE_TRY(check_weights(&routing, router, error));
    MOE_TRY(check_groups(&routing, router, layer->desc.top_k, error));
    MOE_TRY(moe_layer_copy_view(&layer->backend->env, &memory->selection_bias, &routing.selection_bias, 1,
                                router->num_experts - router->num_always, "selection_bias", error));
    router->selection_bias = memory->selection_bias;
    MOE_TRY(copy_expert_scale(layer, &routing, error));
    MOE_TRY(copy_hash_table(layer, &routing, error));
    MOE_TRY(copy_router(layer, &routing, error));
    layer->desc.router = router;
    return MOE_OK;
}

void moe_layer_routing_destroy(struct moe_layer *layer)
{
    const struct moe_env *env = &layer->backend->env;
    const struct moe_router *router = &layer->router;
    struct moe_router_memory *memory = &layer->router_memory;
    size_t num_experts = router->num_experts;
    moe_free(env, memory->matrix, num_experts * layer->desc.hidden_size * sizeof *memory->matrix);
    moe_free(env, memory->bias, num_experts * sizeof *memory->bias);
    moe_free(env, memory->selection_bias, (num_experts - router->num_always) * sizeof *memory->selection_bias);
    moe_free(env, memory->expert_scale, num_experts * sizeof *memory->expert_scale);
    moe_free(env, memory->hash_table, router->hash_rows * router->hash_cols * sizeof *memory->hash_table);
    *memory = (struct moe_router_memory){0};
}
