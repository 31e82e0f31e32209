// SPDX-License-Identifier: MIT
// The calls that run a layer: check everything, then hand over to the backend's fused layer or to the composer.
#include "compose.h"
#include "objects.h"
#include "view.h"

enum { WORKSPACE_ALIGN = 256, MAX_RANGES = 16 };

enum mode { FORWARD, ROUTE, COMBINE };

static bool has_addresses(const struct moe_backend *backend)
{
    return (backend->ops->flags & (MOE_BACKEND_HOST_MEMORY | MOE_BACKEND_ADDRESSES)) != 0;
}

/* ---- checks of a call ---- */

/* Checks views of one call, and that outputs lie apart from the rest. */
struct checker {
    bool addresses, ok;
    struct moe_range ranges[MAX_RANGES];
    size_t count;
};

/* view is needed, or absent where it is optional. */
static void check(struct checker *checker, struct moe_view *view, size_t rows, size_t cols, unsigned allow,
                  bool written)
{
    if (!moe_view_check(view, rows, cols, allow, checker->addresses))
        checker->ok = false;
    else if (checker->addresses && checker->count < MAX_RANGES)
        checker->ranges[checker->count++] = moe_view_range(view, rows, cols, written);
}

static void check_optional(struct checker *checker, struct moe_view *view, size_t rows, size_t cols, unsigned allow,
                           bool written)
{
    if (view->base != NULL)
        check(checker, view, rows, cols, allow, written);
}

/* Sizes and flags; the defaults of io filled in, views that the mode does not use cleared. */
static enum moe_status read_io(struct moe_layer_io *io, const struct moe_layer *layer, const struct moe_layer_io *given,
                               enum mode mode)
{
    size_t pairs;
    MOE_TRY(MOE_READ_PARAMS(io, given));
    if (io->top_k == 0)
        io->top_k = layer->desc.top_k;
    if (io->top_k > layer->desc.num_experts || io->flags & ~(uint32_t)(MOE_ACCUMULATE | MOE_OUT_PAIRS | MOE_STRICT))
        return MOE_ERR_ARGUMENT;
    if ((io->flags & MOE_OUT_PAIRS) && (mode != FORWARD || (io->flags & MOE_ACCUMULATE)))
        return MOE_ERR_ARGUMENT;
    if (!moe_mul(&pairs, io->num_tokens, io->top_k) || pairs > INT32_MAX)
        return MOE_ERR_ARGUMENT;
    if (mode == ROUTE)
        io->ids = io->weights = io->out = io->expert_map = (struct moe_view){0};
    if (mode == COMBINE)
        io->out_ids = io->out_weights = io->expert_counts = (struct moe_view){0};
    if (io->ids.base != NULL)
        io->logits = (struct moe_view){0};
    else
        io->weights = (struct moe_view){0};
    if (io->ids.base != NULL || io->logits.base != NULL)
        io->router_x.base = NULL; /* its format still counts for the workspace */
    if (mode == ROUTE && (io->logits.base != NULL || io->router_x.base != NULL))
        io->x.base = NULL;
    if (io->ids.base != NULL || mode == COMBINE || !layer->info.needs_token_ids)
        io->token_ids = (struct moe_view){0};
    return MOE_OK;
}

/* What the layer's routing needs, where the call brings no ids. */
static void check_router(struct checker *checker, const struct moe_layer *layer, struct moe_layer_io *io)
{
    const struct moe_router *router = layer->desc.router;
    if (io->logits.base != NULL)
        check(checker, &io->logits, io->num_tokens, router->num_experts, MOE_ALLOW_FLOAT, false);
    else if (router->host_matrix == NULL)
        checker->ok = false;
    else
        check_optional(checker, &io->router_x, io->num_tokens, layer->desc.hidden_size, MOE_ALLOW_FLOAT, false);
    if (router->hash_table != NULL)
        check(checker, &io->token_ids, io->num_tokens, 1, MOE_ALLOW_INDEX, false);
    checker->ok = checker->ok && io->top_k > router->num_always &&
                  (router->hash_table == NULL || io->top_k <= router->hash_cols);
}

static void check_routing(struct checker *checker, const struct moe_layer *layer, struct moe_layer_io *io,
                          enum mode mode)
{
    size_t num_tokens = io->num_tokens, top_k = io->top_k, num_experts = layer->desc.num_experts;
    if (io->ids.base != NULL) {
        check(checker, &io->ids, num_tokens, top_k, MOE_ALLOW_INDEX, false);
        if (!(io->flags & MOE_OUT_PAIRS) || layer->desc.weight_on_input)
            check(checker, &io->weights, num_tokens, top_k, MOE_ALLOW_FLOAT, false);
        else
            check_optional(checker, &io->weights, num_tokens, top_k, MOE_ALLOW_FLOAT, false);
    } else if (mode == COMBINE || layer->desc.router == NULL) {
        checker->ok = false;
    } else {
        check_router(checker, layer, io);
    }
    check_optional(checker, &io->expert_map, 1, num_experts, MOE_ALLOW_I32, false);
    check_optional(checker, &io->live_tokens, 1, 1, MOE_ALLOW_I32, false);
    check_optional(checker, &io->out_ids, num_tokens, top_k, MOE_ALLOW_I32, true);
    check_optional(checker, &io->out_weights, num_tokens, top_k, MOE_ALLOW_F32, true);
    check_optional(checker, &io->expert_counts, 1, num_experts, MOE_ALLOW_I64, true);
}

static enum moe_status check_views(const struct moe_layer *layer, struct moe_layer_io *io, enum mode mode)
{
    struct checker checker = {.addresses = has_addresses(layer->backend), .ok = true};
    size_t hidden_size = layer->desc.hidden_size, expert_width = layer->desc.experts->hidden_size;
    size_t pairs = io->num_tokens * io->top_k;
    bool out_pairs = (io->flags & MOE_OUT_PAIRS) != 0;
    bool needs_x = mode != ROUTE || (io->logits.base == NULL && io->router_x.base == NULL);
    if (needs_x)
        check(&checker, &io->x, mode == COMBINE ? pairs : io->num_tokens, mode == COMBINE ? expert_width : hidden_size,
              MOE_ALLOW_FLOAT, false);
    if (mode != ROUTE)
        check(&checker, &io->out, out_pairs ? pairs : io->num_tokens, out_pairs ? expert_width : hidden_size,
              MOE_ALLOW_FLOAT, true);
    if (mode == ROUTE && (io->out_ids.base == NULL || io->out_weights.base == NULL))
        checker.ok = false;
    check_routing(&checker, layer, io, mode);
    if (checker.addresses && io->workspace.base != NULL) {
        uintptr_t base = (uintptr_t)io->workspace.base;
        size_t end;
        if (!moe_add(&end, io->workspace.offset, io->workspace.size) || end > UINTPTR_MAX - base)
            return MOE_ERR_ARGUMENT;
        const unsigned char *begin = (const unsigned char *)io->workspace.base + io->workspace.offset;
        checker.ok = checker.ok && (uintptr_t)begin % WORKSPACE_ALIGN == 0;
        checker.ranges[checker.count++] = (struct moe_range){begin, begin + io->workspace.size, true};
    }
    return checker.ok && moe_ranges_apart(checker.ranges, checker.count) ? MOE_OK : MOE_ERR_ARGUMENT;
}

/* Of a route or a combine no more than what any forward of the same sizes was told, one with MOE_OUT_PAIRS too. */
static enum moe_status workspace_size(const struct moe_context *ctx, const struct moe_layer *layer,
                                      const struct moe_layer_io *io, enum mode mode, size_t *bytes)
{
    struct moe_layer_io any = *io;
    if (layer->info.composed)
        return moe_compose_workspace(&layer->desc, bytes) ? MOE_OK : MOE_ERR_ARGUMENT;
    if (layer->info.has_router) /* one size for any source of routing: the layer's router needs the most */
        any.ids = any.logits = (struct moe_view){0};
    if (mode != FORWARD)
        any.flags |= MOE_OUT_PAIRS;
    if (mode == COMBINE) /* its x are pairs, which are read as they stand */
        any.x.format = any.router_x.format = MOE_FORMAT_F32;
    return layer->backend->ops->layer_workspace_size(ctx->ctx, layer->state, &any, bytes);
}

/* The whole check of a call; io is ready for the backend afterwards. */
static enum moe_status check_call(struct moe_context *ctx, const struct moe_layer *layer,
                                  const struct moe_layer_io *given, enum mode mode, struct moe_layer_io *io)
{
    size_t bytes;
    if (ctx == NULL || layer == NULL || ctx->backend != layer->backend)
        return MOE_ERR_ARGUMENT;
    MOE_TRY(read_io(io, layer, given, mode));
    if (io->num_tokens == 0)
        return MOE_OK;
    MOE_TRY(check_views(layer, io, mode));
    MOE_TRY(workspace_size(ctx, layer, io, mode, &bytes));
    if (bytes > 0 && (io->workspace.base == NULL || io->workspace.size < bytes))
        return MOE_ERR_WORKSPACE;
    return MOE_OK;
}

/* ---- calls ---- */

static enum moe_status compose(struct moe_context *ctx, const struct moe_layer *layer, const struct moe_layer_io *io,
                               enum mode mode)
{
    struct moe_compose_call call = {
        .ctx = ctx, .desc = &layer->desc, .experts_present = layer->experts_present, .io = io};
    moe_compose_place(&layer->desc, &io->workspace, &call.buffers);
    call.buffers.zero = layer->zero;
    call.buffers.added = layer->added;
    switch (mode) {
    case ROUTE:
        return moe_compose_route(&call);
    case COMBINE:
        return moe_compose_combine(&call);
    default:
        return moe_compose_forward(&call);
    }
}

static enum moe_status run(struct moe_context *ctx, const struct moe_layer *layer, const struct moe_layer_io *given,
                           enum mode mode)
{
    struct moe_layer_io io;
    MOE_TRY(check_call(ctx, layer, given, mode, &io));
    if (io.num_tokens > 0) {
        const struct moe_backend_ops *ops = layer->backend->ops;
        if (layer->info.composed)
            MOE_TRY(compose(ctx, layer, &io, mode));
        else if (mode == ROUTE)
            MOE_TRY(ops->layer_route(ctx->ctx, layer->state, &io, &ctx->stats));
        else if (mode == COMBINE)
            MOE_TRY(ops->layer_combine(ctx->ctx, layer->state, &io, &ctx->stats));
        else
            MOE_TRY(ops->layer_forward(ctx->ctx, layer->state, &io, &ctx->stats));
    }
    ctx->stats.calls++;
    return MOE_OK;
}

enum moe_status moe_layer_forward(struct moe_context *ctx, const struct moe_layer *layer, const struct moe_layer_io *io)
{
    return run(ctx, layer, io, FORWARD);
}

enum moe_status moe_layer_route(struct moe_context *ctx, const struct moe_layer *layer, const struct moe_layer_io *io)
{
    return run(ctx, layer, io, ROUTE);
}

enum moe_status moe_layer_combine(struct moe_context *ctx, const struct moe_layer *layer, const struct moe_layer_io *io)
{
    return run(ctx, layer, io, COMBINE);
}

enum moe_status moe_layer_forward_team(struct moe_context *ctx, const struct moe_layer *layer,
                                       const struct moe_layer_io *given, size_t ith, size_t nth)
{
    struct moe_layer_io io;
    if (nth == 0 || ith >= nth)
        return MOE_ERR_ARGUMENT;
    MOE_TRY(check_call(ctx, layer, given, FORWARD, &io));
    const struct moe_backend_ops *ops = layer->backend->ops;
    if (layer->info.composed || ops->layer_forward_team == NULL)
        return MOE_ERR_UNSUPPORTED;
    if (io.num_tokens > 0)
        MOE_TRY(ops->layer_forward_team(ctx->ctx, layer->state, &io, &ctx->stats, ith, nth));
    if (ith == 0)
        ctx->stats.calls++;
    return MOE_OK;
}

enum moe_status moe_layer_workspace_size(const struct moe_context *ctx, const struct moe_layer *layer,
                                         const struct moe_layer_io *given, size_t *bytes)
{
    struct moe_layer_io io;
    size_t needed;
    if (ctx == NULL || layer == NULL || bytes == NULL || ctx->backend != layer->backend)
        return MOE_ERR_ARGUMENT;
    MOE_TRY(read_io(&io, layer, given, FORWARD));
    MOE_TRY(workspace_size(ctx, layer, &io, FORWARD, &needed));
    *bytes = needed;
    return MOE_OK;
}

/* ---- the portable call ---- */

/* The buffer contract of moe_forward: every view with its length. */
static enum moe_status check_buffers(struct moe_forward_params *p, struct moe_layer_io *io)
{
    struct checker checker = {.addresses = has_addresses(p->ctx->backend), .ok = true};
    size_t gate_up;
    if (!moe_mul(&gate_up, p->expert_intermediate, 2))
        return MOE_ERR_ARGUMENT;
    check(&checker, &io->x, p->batch, p->hidden_size, MOE_ALLOW_FLOAT, false);
    check(&checker, &io->logits, p->batch, p->num_experts, MOE_ALLOW_FLOAT, false);
    check(&checker, &io->out, p->batch, p->hidden_size, MOE_ALLOW_FLOAT, true);
    check(&checker, &p->x_single, 1, p->hidden_size, MOE_ALLOW_F32, true);
    check(&checker, &p->acc_buf, 1, p->hidden_size, MOE_ALLOW_F32, true);
    check(&checker, &p->gate_up_buf, 1, gate_up, MOE_ALLOW_F32, true);
    check(&checker, &p->silu_buf, 1, p->expert_intermediate, MOE_ALLOW_F32, true);
    check(&checker, &p->down_buf, 1, p->hidden_size, MOE_ALLOW_F32, true);
    check(&checker, &p->zero_hidden, 1, p->hidden_size, MOE_ALLOW_F32, false);
    return checker.ok && moe_ranges_apart(checker.ranges, checker.count) ? MOE_OK : MOE_ERR_ARGUMENT;
}

static enum moe_status check_forward(const struct moe_forward_params *p)
{
    size_t pairs;
    if (p->ctx == NULL || p->experts == NULL || p->ctx->backend != p->experts->backend)
        return MOE_ERR_ARGUMENT;
    const struct moe_expert_set *set = &p->experts->set;
    if (p->hidden_size != set->hidden_size || p->expert_intermediate != set->intermediate_size ||
        p->num_experts != set->num_experts || p->top_k == 0 || p->top_k > p->num_experts)
        return MOE_ERR_ARGUMENT;
    if (p->flags & ~(uint32_t)(MOE_ACCUMULATE | MOE_STRICT) || !moe_mul(&pairs, p->batch, p->top_k) ||
        pairs > INT32_MAX)
        return MOE_ERR_ARGUMENT;
    if (!set->gated || set->gate.host_bias != NULL || set->up.host_bias != NULL || set->down.host_bias != NULL)
        return MOE_ERR_UNSUPPORTED;
    return MOE_OK;
}

enum moe_status moe_forward(const struct moe_forward_params *params)
{
    struct moe_forward_params p;
    MOE_TRY(MOE_READ_PARAMS(&p, params));
    MOE_TRY(check_forward(&p));
    struct moe_router router = {.num_experts = p.num_experts,
                                .select = MOE_SCORE_SOFTMAX,
                                .weight = MOE_SCORE_SOFTMAX,
                                .renorm = p.norm_topk_prob ? MOE_RENORM_ADD_EPS : MOE_RENORM_NONE,
                                .scale = 1.0f};
    struct moe_layer_desc desc = {
        .num_experts = p.num_experts, .top_k = p.top_k, .experts = &p.experts->set, .router = &router,
        .hidden_size = p.hidden_size, .routed_scale = 1.0f, .out_scale = 1.0f};
    struct moe_layer_io io = {.struct_size = sizeof io,
                              .flags = p.flags,
                              .num_tokens = p.batch,
                              .top_k = p.top_k,
                              .x = p.x,
                              .out = p.out,
                              .logits = p.router_logits};
    if (p.batch > 0) {
        MOE_TRY(check_buffers(&p, &io));
        struct moe_compose_call call = {.ctx = p.ctx, .desc = &desc, .experts_present = p.num_experts, .io = &io};
        call.buffers = (struct moe_compose_buffers){.x = p.x_single,
                                                    .acc = p.acc_buf,
                                                    .gate_up = p.gate_up_buf,
                                                    .h = p.silu_buf,
                                                    .down = p.down_buf,
                                                    .zero = p.zero_hidden};
        MOE_TRY(moe_compose_forward(&call));
    }
    p.ctx->stats.calls++;
    return MOE_OK;
}
