// SPDX-License-Identifier: MIT
// The composer: one token at a time, out of copy, linear, glu and scaled_add. Host-side routing lives in
// compose_route.c.
#include "compose.h"

#include <math.h>

#include "compose_route.h"
#include "exp.h"
#include "view.h"

/* ---- dispatches: each is one backend operation, and counted ---- */

static enum moe_status copy(const struct moe_compose_call *call, const struct moe_view *dst, const struct moe_view *src)
{
    struct moe_context *ctx = call->ctx;
    ctx->stats.dispatches++;
    return ctx->backend->ops->copy(ctx->ctx, dst, src, call->desc->experts->hidden_size);
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

/* down = the output of one pair, and the weight that is still to be applied to it */
static enum moe_status run_pair(const struct moe_compose_call *call, int32_t matrix, float *weight)
{
    const struct moe_compose_buffers *buffers = &call->buffers;
    const struct moe_expert_set *set = call->desc->experts;
    if (!call->desc->weight_on_input)
        return run_expert(call, set, (size_t)matrix, &buffers->x);
    MOE_TRY(scaled_add(call, &buffers->scaled, &buffers->x, *weight, set->hidden_size, false));
    *weight = 1.0f;
    return run_expert(call, set, (size_t)matrix, &buffers->scaled);
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
    MOE_TRY(moe_compose_host_dots(call->ctx, &row, desc->host_shared_gate, 1, desc->experts->hidden_size, &z));
    *weight = (float)(1.0 / (1.0 + moe_exp(-z)));
    return MOE_OK;
}

/* out[t] = acc, or out[t] += acc; a token to which nothing was added gives zeros. */
static enum moe_status write_row(const struct moe_compose_call *call, size_t t, bool any)
{
    struct moe_view row = moe_view_row(&call->io->out, t);
    const struct moe_compose_buffers *buffers = &call->buffers;
    if (!(call->io->flags & MOE_ACCUMULATE))
        return copy(call, &row, any ? &buffers->acc : &buffers->zero);
    return any ? scaled_add(call, &row, &buffers->acc, 1.0f, call->desc->experts->hidden_size, true) : MOE_OK;
}

/* One token: acc = sum over slots in order of weight * expert, then + shared. */
static enum moe_status forward_token(const struct moe_compose_call *call, const struct moe_routed *routed, size_t t)
{
    const struct moe_layer_desc *desc = call->desc;
    const struct moe_compose_buffers *buffers = &call->buffers;
    size_t hidden_size = desc->experts->hidden_size, top_k = call->io->top_k;
    bool pairs = (call->io->flags & MOE_OUT_PAIRS) != 0, any = false;
    struct moe_view x = moe_view_row(&call->io->x, t);
    MOE_TRY(copy(call, &buffers->x, &x));
    for (size_t k = 0; k < top_k; k++) {
        int32_t matrix = moe_compose_matrix(call, routed->ids[k]);
        float weight = routed->weights[k];
        if (matrix >= 0)
            MOE_TRY(run_pair(call, matrix, &weight));
        if (pairs) {
            struct moe_view row = moe_view_row(&call->io->out, t * top_k + k);
            MOE_TRY(copy(call, &row, matrix >= 0 ? &buffers->down : &buffers->zero));
        } else if (matrix >= 0) {
            MOE_TRY(scaled_add(call, &buffers->acc, &buffers->down, weight, hidden_size, any));
            any = true;
        }
    }
    if (pairs)
        return MOE_OK;
    if (desc->shared != NULL) {
        float weight;
        MOE_TRY(shared_weight(call, t, &weight));
        MOE_TRY(run_expert(call, desc->shared, 0, &buffers->x));
        MOE_TRY(scaled_add(call, &buffers->acc, &buffers->down, weight, hidden_size, any));
        any = true;
    }
    return write_row(call, t, any);
}

/* Tokens that are padding: zeros, or nothing when results are added. */
static enum moe_status clear_token(const struct moe_compose_call *call, size_t t)
{
    size_t per_token = call->io->flags & MOE_OUT_PAIRS ? call->io->top_k : 1;
    if (call->io->flags & MOE_ACCUMULATE)
        return MOE_OK;
    for (size_t row = t * per_token; row < (t + 1) * per_token; row++) {
        struct moe_view view = moe_view_row(&call->io->out, row);
        MOE_TRY(copy(call, &view, &call->buffers.zero));
    }
    return MOE_OK;
}

/* One token of a combine: the sum alone, of pairs that the caller brings. */
static enum moe_status combine_token(const struct moe_compose_call *call, const struct moe_routed *routed, size_t t)
{
    const struct moe_compose_buffers *buffers = &call->buffers;
    size_t hidden_size = call->desc->experts->hidden_size, top_k = call->io->top_k;
    bool any = false;
    for (size_t k = 0; k < top_k; k++) {
        if (moe_compose_matrix(call, routed->ids[k]) < 0)
            continue;
        struct moe_view row = moe_view_row(&call->io->x, t * top_k + k);
        MOE_TRY(copy(call, &buffers->down, &row));
        float weight = call->desc->weight_on_input ? 1.0f : routed->weights[k];
        MOE_TRY(scaled_add(call, &buffers->acc, &buffers->down, weight, hidden_size, any));
        any = true;
    }
    return write_row(call, t, any);
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
    size_t hidden_size = desc->experts->hidden_size, intermediate_size = desc->experts->intermediate_size, twice;
    if (desc->shared != NULL && desc->shared->intermediate_size > intermediate_size)
        intermediate_size = desc->shared->intermediate_size;
    *bytes = 0;
    return moe_mul(&twice, intermediate_size, 2) && cut(&buffers->x, workspace, bytes, hidden_size) &&
           cut(&buffers->scaled, workspace, bytes, hidden_size) && cut(&buffers->acc, workspace, bytes, hidden_size) &&
           cut(&buffers->gate_up, workspace, bytes, twice) && cut(&buffers->h, workspace, bytes, intermediate_size) &&
           cut(&buffers->down, workspace, bytes, hidden_size);
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
