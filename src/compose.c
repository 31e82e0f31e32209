// SPDX-License-Identifier: MIT
// The composer: one token at a time, out of copy, linear, glu and scaled_add. Host-side routing lives in
// compose_route.c.
#include "compose.h"

#include <math.h>

#include "compose_route.h"
#include "exp.h"
#include "norm.h"
#include "view.h"

/* ---- dispatches: each is one backend operation, and counted ---- */

static enum moe_status copy(const struct moe_compose_call *call, const struct moe_view *dst, const struct moe_view *src,
                            size_t n)
{
    struct moe_context *ctx = call->ctx;
    ctx->stats.dispatches++;
    return ctx->backend->ops->copy(ctx->ctx, dst, src, n);
}

static enum moe_status scaled_add(const struct moe_compose_call *call, const struct moe_view *y,
                                  const struct moe_view *x, float a, size_t n, bool accumulate)
{
    struct moe_context *ctx = call->ctx;
    ctx->stats.dispatches++;
    return ctx->backend->ops->scaled_add(ctx->ctx, y, x, a, n, accumulate);
}

static enum moe_status glu(const struct moe_compose_call *call, const struct moe_expert_set *set)
{
    struct moe_context *ctx = call->ctx;
    ctx->stats.dispatches++;
    return ctx->backend->ops->glu(ctx->ctx, &call->buffers.h, &call->buffers.gate_up, set->intermediate_size, &set->act,
                                  set->gated);
}

/* y = W x, and the bias if there is one: a dispatch more. */
static enum moe_status linear(const struct moe_compose_call *call, const struct moe_view *y,
                              const struct moe_stack *stack, size_t e, const struct moe_view *x)
{
    struct moe_context *ctx = call->ctx;
    struct moe_slice slice = moe_stack_slice(stack, e);
    ctx->stats.dispatches++;
    MOE_TRY(ctx->backend->ops->linear(ctx->ctx, y, &slice, x));
    if (stack->bias.base == NULL)
        return MOE_OK;
    struct moe_view bias = moe_view_from(&stack->bias, e * stack->rows);
    return scaled_add(call, y, &bias, 1.0f, stack->rows, true);
}

/* ---- the algorithm ---- */

/* down = expert e of the set, applied to x */
static enum moe_status run_expert(const struct moe_compose_call *call, const struct moe_expert_set *set, size_t e,
                                  const struct moe_view *x)
{
    const struct moe_compose_buffers *buffers = &call->buffers;
    struct moe_view up = buffers->gate_up;
    if (set->gated) {
        MOE_TRY(linear(call, &buffers->gate_up, &set->gate, e, x));
        up = moe_view_from(&buffers->gate_up, set->intermediate_size);
    }
    MOE_TRY(linear(call, &up, &set->up, e, x));
    MOE_TRY(glu(call, set));
    return linear(call, &buffers->down, &set->down, e, &buffers->h);
}

/* *y = the output of one pair, and the weight that is still to be applied to it */
static enum moe_status run_pair(const struct moe_compose_call *call, int32_t matrix, const struct moe_view **y,
                                float *weight)
{
    const struct moe_compose_buffers *buffers = &call->buffers;
    const struct moe_expert_set *set = call->desc->experts;
    const struct moe_view *x = call->desc->latent != NULL ? &buffers->latent : &buffers->x;
    if (call->desc->weight_on_input) {
        MOE_TRY(scaled_add(call, &buffers->scaled, x, *weight, set->hidden_size, false));
        *weight = 1.0f;
        x = &buffers->scaled;
    }
    bool identity = (size_t)matrix == call->experts_present;
    *y = identity ? x : &buffers->down;
    return identity ? MOE_OK : run_expert(call, set, (size_t)matrix, x);
}

/* Weight of the shared expert's output for token t. */
static enum moe_status shared_weight(const struct moe_compose_call *call, size_t t, float *weight)
{
    const struct moe_layer_desc *desc = call->desc;
    *weight = 1.0f;
    if (desc->host_shared_gate == NULL)
        return MOE_OK;
    struct moe_view row = moe_view_row(&call->io->x, t);
    double z = (double)desc->shared_gate_bias;
    MOE_TRY(moe_compose_host_dots(call->ctx, &row, desc->host_shared_gate, 1, desc->hidden_size, &z));
    *weight = (float)(1.0 / (1.0 + moe_exp(-z)));
    return MOE_OK;
}

/* The weighted sum of a token as it grows: *at is acc or step. any false: nothing was added yet, *at is not set. */
struct sum {
    const struct moe_view *at;
    size_t width;
    bool any;
};

static const struct moe_view *other(const struct moe_compose_call *call, const struct sum *sum)
{
    return sum->at == &call->buffers.acc ? &call->buffers.step : &call->buffers.acc;
}

static enum moe_status add(const struct moe_compose_call *call, struct sum *sum, const struct moe_view *y, float weight)
{
    bool any = sum->any;
    sum->any = true;
    return scaled_add(call, sum->at, y, weight, sum->width, any);
}

/* sum *= factor */
static enum moe_status scale(const struct moe_compose_call *call, struct sum *sum, float factor)
{
    const struct moe_view *from = sum->at;
    if (factor == 1.0f || !sum->any)
        return MOE_OK;
    sum->at = other(call, sum);
    return scaled_add(call, sum->at, from, factor, sum->width, false);
}

/* The row is read back, in pieces, twice: a norm is no primitive. */
static enum moe_status norm_sum(const struct moe_compose_call *call, const struct sum *sum,
                                const struct moe_norm_desc *norm)
{
    enum { PIECE = 1024 };
    float piece[PIECE];
    double lanes[MOE_ROUTE_LANES] = {0}, factor = 0.0;
    if (norm == NULL || !sum->any)
        return MOE_OK;
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t first = 0; first < sum->width; first += PIECE) {
            size_t n = sum->width - first < PIECE ? sum->width - first : PIECE;
            struct moe_view part = moe_view_from(sum->at, first);
            MOE_TRY(moe_mem_read(call->ctx, piece, &part, n * sizeof *piece));
            if (pass == 0) {
                moe_route_squares(lanes, piece, n);
                continue;
            }
            moe_norm_apply(norm, piece, first, n, factor);
            MOE_TRY(moe_mem_write(call->ctx, &part, piece, n * sizeof *piece));
        }
        factor = moe_norm_factor(norm, lanes, sum->width);
    }
    return MOE_OK;
}

/* Back to hidden_size. A token without an expert has a sum of 0, of which latent->down may still make something. */
static enum moe_status leave_latent(const struct moe_compose_call *call, struct sum *sum)
{
    const struct moe_layer_desc *desc = call->desc;
    const struct moe_view *from = sum->any ? sum->at : &call->buffers.zero;
    if (desc->latent == NULL)
        return MOE_OK;
    MOE_TRY(norm_sum(call, sum, desc->latent_norm));
    sum->at = other(call, sum);
    sum->any = true;
    sum->width = desc->hidden_size;
    return linear(call, sum->at, &desc->latent->down, 0, from);
}

/* From the sum over slots of token t to its row of out; a token to which nothing was added gives zeros. */
static enum moe_status finish_token(const struct moe_compose_call *call, struct sum *sum, size_t t, bool with_shared)
{
    const struct moe_layer_desc *desc = call->desc;
    const struct moe_compose_buffers *buffers = &call->buffers;
    MOE_TRY(scale(call, sum, desc->routed_scale));
    MOE_TRY(leave_latent(call, sum));
    if (with_shared && desc->shared != NULL) {
        float weight;
        MOE_TRY(shared_weight(call, t, &weight));
        MOE_TRY(run_expert(call, desc->shared, 0, &buffers->x));
        MOE_TRY(add(call, sum, &buffers->down, weight));
    }
    MOE_TRY(scale(call, sum, desc->out_scale));
    if (desc->host_out_bias != NULL)
        MOE_TRY(add(call, sum, &buffers->added, 1.0f));
    MOE_TRY(norm_sum(call, sum, desc->out_norm));
    struct moe_view row = moe_view_row(&call->io->out, t);
    if (!(call->io->flags & MOE_ACCUMULATE))
        return copy(call, &row, sum->any ? sum->at : &buffers->zero, desc->hidden_size);
    return sum->any ? scaled_add(call, &row, sum->at, 1.0f, desc->hidden_size, true) : MOE_OK;
}

/* One token: the sum over slots in order of weight * expert, then what the layer does to it. */
static enum moe_status forward_token(const struct moe_compose_call *call, const struct moe_routed *routed, size_t t)
{
    const struct moe_layer_desc *desc = call->desc;
    const struct moe_compose_buffers *buffers = &call->buffers;
    size_t width = desc->experts->hidden_size, top_k = call->io->top_k;
    bool pairs = (call->io->flags & MOE_OUT_PAIRS) != 0;
    struct sum sum = {&buffers->acc, width, false};
    struct moe_view x = moe_view_row(&call->io->x, t);
    MOE_TRY(copy(call, &buffers->x, &x, desc->hidden_size));
    if (desc->latent != NULL)
        MOE_TRY(linear(call, &buffers->latent, &desc->latent->up, 0, &buffers->x));
    for (size_t k = 0; k < top_k; k++) {
        int32_t matrix = moe_compose_matrix(call, routed->ids[k]);
        const struct moe_view *y = &buffers->zero;
        float weight = routed->weights[k];
        if (matrix >= 0)
            MOE_TRY(run_pair(call, matrix, &y, &weight));
        if (pairs) {
            struct moe_view row = moe_view_row(&call->io->out, t * top_k + k);
            MOE_TRY(copy(call, &row, y, width));
        } else if (matrix >= 0) {
            MOE_TRY(add(call, &sum, y, weight));
        }
    }
    return pairs ? MOE_OK : finish_token(call, &sum, t, true);
}

/* Tokens that are padding: zeros, or nothing when results are added. */
static enum moe_status clear_token(const struct moe_compose_call *call, size_t t)
{
    bool pairs = (call->io->flags & MOE_OUT_PAIRS) != 0;
    size_t per_token = pairs ? call->io->top_k : 1;
    size_t width = pairs ? call->desc->experts->hidden_size : call->desc->hidden_size;
    if (call->io->flags & MOE_ACCUMULATE)
        return MOE_OK;
    for (size_t row = t * per_token; row < (t + 1) * per_token; row++) {
        struct moe_view view = moe_view_row(&call->io->out, row);
        MOE_TRY(copy(call, &view, &call->buffers.zero, width));
    }
    return MOE_OK;
}

/* One token of a combine: pairs that the caller brings. */
static enum moe_status combine_token(const struct moe_compose_call *call, const struct moe_routed *routed, size_t t)
{
    const struct moe_compose_buffers *buffers = &call->buffers;
    struct sum sum = {&buffers->acc, call->desc->experts->hidden_size, false};
    for (size_t k = 0; k < call->io->top_k; k++) {
        if (moe_compose_matrix(call, routed->ids[k]) < 0)
            continue;
        struct moe_view row = moe_view_row(&call->io->x, t * call->io->top_k + k);
        MOE_TRY(copy(call, &buffers->down, &row, sum.width));
        MOE_TRY(add(call, &sum, &buffers->down, call->desc->weight_on_input ? 1.0f : routed->weights[k]));
    }
    return finish_token(call, &sum, t, false);
}

/* Route each token, report it if publish is set, and run it; run NULL: routing is all that is wanted. */
typedef enum moe_status token_fn(const struct moe_compose_call *call, const struct moe_routed *routed, size_t t);

static enum moe_status each_token(const struct moe_compose_call *call, bool publish, token_fn *run)
{
    struct moe_routing_reader reader;
    struct moe_routed routed;
    MOE_TRY(moe_compose_open_routing(&reader, call));
    if (call->io->flags & MOE_STRICT)
        MOE_TRY(moe_compose_check_strict(&reader));
    for (size_t t = 0; t < call->io->num_tokens; t++) {
        MOE_TRY(moe_compose_read_routing(&reader, t, &routed));
        if (publish)
            MOE_TRY(moe_compose_publish(&reader, t, &routed));
        if (run != NULL)
            MOE_TRY(t < reader.live_tokens ? run(call, &routed, t) : clear_token(call, t));
    }
    return moe_compose_close_routing(&reader);
}

enum moe_status moe_compose_forward(const struct moe_compose_call *call)
{
    return each_token(call, true, forward_token);
}

enum moe_status moe_compose_route(const struct moe_compose_call *call)
{
    return each_token(call, true, NULL);
}

enum moe_status moe_compose_combine(const struct moe_compose_call *call)
{
    return each_token(call, false, combine_token);
}

/* ---- workspace ---- */

enum { BUFFER_ALIGN = 256 };

/* Cut a vector of n f32 from the workspace at *offset; base NULL: only count. */
static bool cut(struct moe_view *out, const struct moe_view *workspace, size_t *offset, size_t n)
{
    size_t bytes;
    if (!moe_mul(&bytes, n, sizeof(float)) || !moe_align(&bytes, bytes, BUFFER_ALIGN))
        return false;
    *out = (struct moe_view){.base = workspace->base,
                             .offset = workspace->offset + *offset,
                             .size = bytes,
                             .stride = n * sizeof(float),
                             .format = MOE_FORMAT_F32};
    return moe_add(offset, *offset, bytes);
}

static bool cut_buffers(const struct moe_layer_desc *desc, const struct moe_view *workspace,
                        struct moe_compose_buffers *buffers, size_t *bytes)
{
    size_t hidden_size = desc->hidden_size, width = desc->experts->hidden_size, twice;
    size_t wider = width > hidden_size ? width : hidden_size, intermediate_size = desc->experts->intermediate_size;
    if (desc->shared != NULL && desc->shared->intermediate_size > intermediate_size)
        intermediate_size = desc->shared->intermediate_size;
    *bytes = 0;
    return moe_mul(&twice, intermediate_size, 2) && cut(&buffers->x, workspace, bytes, hidden_size) &&
           cut(&buffers->latent, workspace, bytes, width) && cut(&buffers->scaled, workspace, bytes, width) &&
           cut(&buffers->acc, workspace, bytes, wider) && cut(&buffers->step, workspace, bytes, wider) &&
           cut(&buffers->gate_up, workspace, bytes, twice) && cut(&buffers->h, workspace, bytes, intermediate_size) &&
           cut(&buffers->down, workspace, bytes, wider);
}

bool moe_compose_workspace(const struct moe_layer_desc *desc, size_t *bytes)
{
    struct moe_compose_buffers buffers;
    struct moe_view none = {0};
    return cut_buffers(desc, &none, &buffers, bytes);
}

void moe_compose_place(const struct moe_layer_desc *desc, const struct moe_view *workspace,
                       struct moe_compose_buffers *buffers)
{
    size_t bytes;
    (void)cut_buffers(desc, workspace, buffers, &bytes);
}
