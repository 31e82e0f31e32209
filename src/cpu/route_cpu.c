// SPDX-License-Identifier: MIT
// The first phases of a call: inputs to f32, the router's logits, and ids and weights for every pair.
#include <string.h>

#include "cpu/cpu.h"
#include "exp.h"
#include "route.h"

enum {
    PREPARE_TOKENS = 8,      /* tokens, and experts, of an item */
    LOGITS_TOKENS = 16,
    LOGITS_EXPERTS = 16,
    ROUTE_TOKENS = 4
};

/* ---- prepare ---- */

static bool needs_x(const struct moe_cpu_call *call)
{
    bool routed_by_x = call->computes_logits && call->io.router_x.base == NULL;
    return call->x.copy != NULL && (call->mode == MOE_CALL_FORWARD || routed_by_x);
}

static bool needs_router_x(const struct moe_cpu_call *call)
{
    return call->computes_logits && call->io.router_x.base != NULL && call->router_x.copy != NULL;
}

size_t moe_route_cpu_prepare_items(const struct moe_cpu_call *call)
{
    return needs_x(call) || needs_router_x(call) ? moe_cpu_blocks(call->live_tokens, PREPARE_TOKENS) : 0;
}

static void load_row(const struct moe_cpu_call *call, const struct moe_cpu_rows *rows, const struct moe_view *view,
                     size_t t)
{
    size_t hidden_size = call->desc->hidden_size;
    call->kernels->load[moe_kernels_index(view->format)](rows->copy + t * hidden_size, moe_cpu_row(view, t),
                                                         hidden_size);
}

void moe_route_cpu_prepare(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    size_t item, items = moe_route_cpu_prepare_items(call);
    while ((item = moe_cpu_take(call, MOE_PHASE_PREPARE)) < items) {
        size_t end = moe_cpu_smaller((item + 1) * PREPARE_TOKENS, call->live_tokens);
        for (size_t t = item * PREPARE_TOKENS; t < end; t++) {
            if (needs_x(call))
                load_row(call, &call->x, &call->io.x, t);
            if (needs_router_x(call))
                load_row(call, &call->router_x, &call->io.router_x, t);
        }
    }
}

/* ---- logits ---- */

size_t moe_route_cpu_logits_items(const struct moe_cpu_call *call)
{
    return call->computes_logits ? moe_cpu_blocks(call->live_tokens, LOGITS_TOKENS) *
                                       moe_cpu_blocks(call->desc->num_experts, LOGITS_EXPERTS)
                                 : 0;
}

void moe_route_cpu_logits(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    const struct moe_router *router = call->desc->router;
    size_t item, items = moe_route_cpu_logits_items(call), num_experts = call->desc->num_experts;
    size_t hidden_size = call->desc->hidden_size, blocks = moe_cpu_blocks(num_experts, LOGITS_EXPERTS);
    while ((item = moe_cpu_take(call, MOE_PHASE_LOGITS)) < items) {
        size_t t = item / blocks * LOGITS_TOKENS, e = item % blocks * LOGITS_EXPERTS;
        struct moe_router_args args = {
            .logits = call->logits + t * num_experts + e,
            .logits_stride = num_experts,
            .w = router->host_matrix + e * hidden_size,
            .bias = router->host_bias != NULL && !router->norm ? router->host_bias + e : NULL,
            .x = call->router_x.data + t * call->router_x.stride,
            .x_stride = call->router_x.stride,
            .rows = moe_cpu_smaller(LOGITS_EXPERTS, num_experts - e),
            .cols = hidden_size,
            .num_tokens = moe_cpu_smaller(LOGITS_TOKENS, call->live_tokens - t),
        };
        call->kernels->router(&args);
    }
}

/* ---- route ---- */

/* A lane's scratch: logits[num_experts], then what moe_route_row needs, in doubles. */
size_t moe_route_cpu_scratch(size_t num_experts)
{
    size_t bytes;
    return moe_add(&bytes, num_experts, moe_route_scratch(num_experts)) && moe_mul(&bytes, bytes, sizeof(double))
               ? bytes
               : 0;
}

size_t moe_route_cpu_items(const struct moe_cpu_call *call)
{
    return moe_cpu_blocks(call->num_tokens, ROUTE_TOKENS);
}

static void load_logits(const struct moe_cpu_call *call, size_t t, double *logits)
{
    float values[64];
    const struct moe_view *view = &call->io.logits;
    enum moe_format_index index = moe_kernels_index(view->format);
    const unsigned char *row = moe_cpu_row(view, t);
    size_t bytes = moe_format_at(index)->block_bytes, num_experts = call->desc->num_experts;
    for (size_t e = 0; e < num_experts; e += MOE_ARRAY_SIZE(values)) {
        size_t run = moe_cpu_smaller(num_experts - e, MOE_ARRAY_SIZE(values));
        call->kernels->load[index](values, row + e * bytes, run);
        for (size_t i = 0; i < run; i++)
            logits[e + i] = (double)values[i];
    }
}

static int64_t load_integer(const struct moe_view *view, size_t t, size_t i)
{
    const void *row = moe_cpu_row(view, t);
    return view->format == MOE_FORMAT_I64 ? ((const int64_t *)row)[i] : ((const int32_t *)row)[i];
}

/* Logits of a token in memory that nobody else has: the norm changes them. */
static void find_logits(const struct moe_cpu_call *call, size_t t, double *logits)
{
    const struct moe_router *router = call->desc->router;
    size_t hidden_size = call->desc->hidden_size;
    if (!call->computes_logits) {
        load_logits(call, t, logits);
        return;
    }
    double squares[MOE_ROUTE_LANES] = {0};
    memcpy(logits, call->logits + t * router->num_experts, router->num_experts * sizeof *logits);
    moe_route_squares(squares, call->router_x.data + t * call->router_x.stride, hidden_size);
    moe_route_norm(router, logits, squares, hidden_size);
}

static void leave_empty(struct moe_cpu_call *call, size_t t)
{
    for (size_t p = t * call->top_k; p < (t + 1) * call->top_k; p++) {
        call->ids[p] = -1;
        call->weights[p] = 0.0f;
    }
}

static void route_token(struct moe_cpu_call *call, size_t t, double *scratch)
{
    const struct moe_router *router = call->desc->router;
    size_t num_experts = call->desc->num_experts, top_k = call->top_k;
    const int32_t *chosen = NULL;
    if (router->hash_table != NULL) {
        chosen = moe_route_hash(router, load_integer(&call->io.token_ids, t, 0));
        if (chosen == NULL) {
            leave_empty(call, t);
            atomic_store_explicit(&call->out_of_range, true, memory_order_relaxed);
            return;
        }
    }
    const double *logits = scratch;
    if (call->computes_logits && !router->norm)
        logits = call->logits + t * num_experts;
    else
        find_logits(call, t, scratch);
    if (!moe_route_row(router, logits, chosen, top_k, call->ids + t * top_k, call->weights + t * top_k,
                       scratch + num_experts))
        atomic_fetch_add_explicit(&call->nonfinite_rows, 1, memory_order_relaxed);
}

/* The caller's ids and weights; an id out of range becomes -1. */
static void read_token(struct moe_cpu_call *call, size_t t)
{
    size_t top_k = call->top_k;
    const struct moe_view *weights = &call->io.weights;
    for (size_t k = 0; k < top_k; k++) {
        int64_t id = load_integer(&call->io.ids, t, k);
        bool in_range = id >= 0 && (uint64_t)id < call->desc->num_experts;
        call->ids[t * top_k + k] = in_range ? (int32_t)id : -1;
        if (!in_range)
            atomic_store_explicit(&call->out_of_range, true, memory_order_relaxed);
    }
    if (weights->base != NULL)
        call->kernels->load[moe_kernels_index(weights->format)](call->weights + t * top_k, moe_cpu_row(weights, t),
                                                                top_k);
    else
        memset(call->weights + t * top_k, 0, top_k * sizeof *call->weights);
}

static float shared_weight(const struct moe_cpu_call *call, size_t t)
{
    if (call->desc->host_shared_gate == NULL)
        return 1.0f;
    double z;
    struct moe_router_args args = {
        .logits = &z,
        .logits_stride = 1,
        .w = call->desc->host_shared_gate,
        .bias = &call->desc->shared_gate_bias,
        .x = call->x.data + t * call->x.stride,
        .x_stride = call->x.stride,
        .rows = 1,
        .cols = call->desc->hidden_size,
        .num_tokens = 1,
    };
    call->kernels->router(&args);
    return (float)(1.0 / (1.0 + moe_exp(-z)));
}

void moe_route_cpu_run(void *arg, size_t lane)
{
    struct moe_cpu_call *call = arg;
    size_t item, items = moe_route_cpu_items(call);
    while ((item = moe_cpu_take(call, MOE_PHASE_ROUTE)) < items) {
        size_t end = moe_cpu_smaller((item + 1) * ROUTE_TOKENS, call->num_tokens);
        for (size_t t = item * ROUTE_TOKENS; t < end; t++) {
            if (t >= call->live_tokens) {
                leave_empty(call, t);
                continue;
            }
            if (call->io.ids.base != NULL)
                read_token(call, t);
            else
                route_token(call, t, moe_cpu_scratch(call, lane));
            if (call->has_shared)
                call->shared_weights[t] = shared_weight(call, t);
        }
    }
}
