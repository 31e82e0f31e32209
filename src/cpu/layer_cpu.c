// SPDX-License-Identifier: MIT
// The fused layer: which phases a call has, and the two ways through them: the context's own lanes, or the host's team.
#include <stdio.h>
#include <string.h>

#include "cpu/experts_cpu.h"

/* Tokens of a matrix, on average, from which on tiles of bf16 gain more than it costs to unpack the weights. */
enum { MANY_TOKENS = 12 };

/* What the backend keeps of a layer. */
struct layer {
    const struct moe_cpu *cpu;
    const struct moe_layer_desc *desc;
    struct moe_cpu_kinds few, many;    /* for few and for many tokens of each matrix */
    bool finishes;             /* out is more than the sum over slots and the shared expert */
};

static enum moe_cpu_kind kind_in(const struct moe_kernels *kernels, const struct moe_expert_set *set, bool many)
{
    return moe_round_cpu_kind(kernels, &set->up, set->gated ? &set->gate : NULL, many);
}

static struct moe_cpu_kinds choose_kinds(const struct moe_kernels *kernels, const struct moe_layer_desc *desc,
                                         bool many)
{
    struct moe_cpu_kinds kinds = {kind_in(kernels, desc->experts, many),
                                  moe_round_cpu_kind(kernels, &desc->experts->down, NULL, many), MOE_CPU_F32,
                                  MOE_CPU_F32};
    if (desc->shared != NULL) {
        kinds.shared_in = kind_in(kernels, desc->shared, many);
        kinds.shared_down = moe_round_cpu_kind(kernels, &desc->shared->down, NULL, many);
    }
    return kinds;
}

static bool same_kinds(const struct moe_cpu_kinds *a, const struct moe_cpu_kinds *b)
{
    return a->in == b->in && a->down == b->down && a->shared_in == b->shared_in && a->shared_down == b->shared_down;
}

enum moe_status moe_layer_cpu_open(void *self, const struct moe_layer_desc *desc, void **state,
                                   struct moe_layer_info *info, struct moe_error *error)
{
    const struct moe_cpu *cpu = self;
    struct layer *layer = moe_alloc(&cpu->env, sizeof *layer);
    *state = layer;
    if (layer == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "cpu: no memory for a layer");
    layer->cpu = cpu;
    layer->desc = desc;
    layer->finishes = desc->latent != NULL || desc->out_norm != NULL || desc->host_out_bias != NULL ||
                      desc->routed_scale != 1.0f || desc->out_scale != 1.0f;
    if (!(desc->flags & MOE_LAYER_EXACT)) {
        layer->few = choose_kinds(&cpu->kernels, desc, false);
        layer->many = choose_kinds(&cpu->kernels, desc, !(desc->flags & MOE_LAYER_BATCH_INVARIANT));
    }
    info->composed = false;
    info->capturable = false;
    info->batch_invariant = same_kinds(&layer->few, &layer->many);
    info->exact = !moe_cpu_kinds_round(&layer->few) && !moe_cpu_kinds_round(&layer->many);
    return MOE_OK;
}

void moe_layer_cpu_close(void *state)
{
    struct layer *layer = state;
    if (layer != NULL)
        moe_free(&layer->cpu->env, layer, sizeof *layer);
}

/* ---- a call ---- */

static bool is_many(size_t num_pairs, size_t num_matrices)
{
    return num_pairs / MANY_TOKENS >= num_matrices;
}

/* By the number of tokens alone: the bits of a token must not depend on where others go. */
static void set_kinds(struct moe_cpu_call *call, const struct layer *layer)
{
    const struct moe_layer_desc *desc = layer->desc;
    bool many = is_many(call->num_pairs, desc->experts->num_experts), shared_many = is_many(call->num_tokens, 1);
    const struct moe_cpu_kinds *kinds = many ? &layer->many : &layer->few, *other = many ? &layer->few : &layer->many;
    call->kinds = *kinds;
    call->other_kinds = *other;
    kinds = shared_many ? &layer->many : &layer->few;
    other = shared_many ? &layer->few : &layer->many;
    call->kinds.shared_in = kinds->shared_in;
    call->kinds.shared_down = kinds->shared_down;
    call->other_kinds.shared_in = other->shared_in;
    call->other_kinds.shared_down = other->shared_down;
}

/* The sizes of a call, from the shapes in io alone. */
static void set_sizes(struct moe_cpu_call *call, const struct moe_cpu_context *ctx, const struct layer *layer,
                      const struct moe_layer_io *io, enum moe_cpu_mode mode)
{
    const struct moe_layer_desc *desc = layer->desc;
    call->kernels = &layer->cpu->kernels;
    call->desc = desc;
    call->io = *io;
    call->mode = mode;
    call->num_lanes = moe_threads_count(ctx->threads);
    call->num_tokens = io->num_tokens;
    call->top_k = io->top_k;
    call->finishes = layer->finishes && !(io->flags & MOE_OUT_PAIRS);
    call->has_shared = mode == MOE_CALL_FORWARD && desc->shared != NULL && !(io->flags & MOE_OUT_PAIRS);
    call->computes_logits = io->ids.base == NULL && io->logits.base == NULL && desc->router != NULL &&
                            desc->router->host_matrix != NULL && mode != MOE_CALL_COMBINE;
    if (!moe_mul(&call->num_pairs, io->num_tokens, io->top_k))
        call->num_pairs = SIZE_MAX;
    set_kinds(call, layer);
}

/* A forward needs no less than a route or a combine with the same views. */
enum moe_status moe_layer_cpu_workspace_size(const void *ctx, const void *state, const struct moe_layer_io *io,
                                             size_t *bytes)
{
    struct moe_cpu_call call;
    memset(&call, 0, sizeof call);
    *bytes = 0;
    set_sizes(&call, ctx, state, io, MOE_CALL_FORWARD);
    return moe_plan_cpu_workspace(&call, NULL, bytes);
}

static void set_up(struct moe_cpu_context *ctx, const struct layer *layer, const struct moe_layer_io *io,
                   enum moe_cpu_mode mode)
{
    struct moe_cpu_call *call = &ctx->call;
    for (size_t i = 0; i < MOE_NUM_PHASES; i++)
        atomic_store_explicit(&call->items[i].next, 0, memory_order_relaxed);
    atomic_store_explicit(&call->nonfinite_rows, 0, memory_order_relaxed);
    atomic_store_explicit(&call->out_of_range, false, memory_order_relaxed);
    call->num_active = call->num_sorted = call->skipped_pairs = 0;
    set_sizes(call, ctx, layer, io, mode);
    call->live_tokens = call->num_tokens;
    if (io->live_tokens.base != NULL) {
        int32_t live = *(const int32_t *)moe_cpu_address(&io->live_tokens);
        call->live_tokens = live < 0 ? 0 : moe_cpu_smaller((size_t)live, call->num_tokens);
    }
    size_t bytes;
    call->status = moe_plan_cpu_workspace(call, moe_cpu_address(&io->workspace), &bytes);
    if (call->status == MOE_OK && bytes > io->workspace.size)
        call->status = MOE_ERR_WORKSPACE;
}

/* ---- phases ---- */

static size_t one_item(const struct moe_cpu_call *call)
{
    (void)call;
    return 1;
}

static const struct phase {
    size_t (*num_items)(const struct moe_cpu_call *call);
    moe_phase_fn *run;
} phases[MOE_NUM_PHASES] = {
    [MOE_PHASE_PREPARE] = {moe_route_cpu_prepare_items, moe_route_cpu_prepare},
    [MOE_PHASE_LOGITS] = {moe_route_cpu_logits_items, moe_route_cpu_logits},
    [MOE_PHASE_ROUTE] = {moe_route_cpu_items, moe_route_cpu_run},
    [MOE_PHASE_PLAN] = {one_item, moe_plan_cpu_run},
    [MOE_PHASE_LATENT_IN] = {moe_finish_cpu_latent_in_items, moe_finish_cpu_latent_in},
    [MOE_PHASE_SCALE] = {moe_experts_cpu_scale_items, moe_experts_cpu_scale},
    [MOE_PHASE_ROUND] = {moe_round_cpu_items, moe_round_cpu_run},
    [MOE_PHASE_GATE_UP] = {moe_experts_cpu_gate_up_items, moe_experts_cpu_gate_up},
    [MOE_PHASE_DOWN] = {moe_combine_cpu_down_items, moe_combine_cpu_down},
    [MOE_PHASE_COMBINE] = {moe_combine_cpu_items, moe_combine_cpu_run},
    [MOE_PHASE_LATENT_NORM] = {moe_finish_cpu_latent_norm_items, moe_finish_cpu_latent_norm},
    [MOE_PHASE_LATENT_OUT] = {moe_finish_cpu_latent_out_items, moe_finish_cpu_latent_out},
    [MOE_PHASE_OUT_NORM] = {moe_finish_cpu_out_norm_items, moe_finish_cpu_out_norm},
};

static bool has_phase(enum moe_cpu_mode mode, size_t phase)
{
    if (phase <= MOE_PHASE_PLAN)
        return true;
    if (phase > MOE_PHASE_COMBINE)
        return mode != MOE_CALL_ROUTE;
    return mode == MOE_CALL_ROUTE ? false : (mode == MOE_CALL_COMBINE) == (phase == MOE_PHASE_COMBINE);
}

static void add_stats(const struct moe_cpu_call *call, struct moe_stats *stats)
{
    if (call->mode == MOE_CALL_COMBINE)
        return;                        /* the forward that gave the pairs has counted them */
    stats->nonfinite_rows += atomic_load_explicit(&call->nonfinite_rows, memory_order_relaxed);
    stats->skipped_pairs += call->skipped_pairs;
}

static enum moe_status run_call(struct moe_cpu_context *ctx, const struct layer *layer, const struct moe_layer_io *io,
                                struct moe_stats *stats, enum moe_cpu_mode mode)
{
    struct moe_cpu_call *call = &ctx->call;
    if (io->num_tokens == 0)
        return MOE_OK;
    set_up(ctx, layer, io, mode);
    for (size_t i = 0; i < MOE_NUM_PHASES && call->status == MOE_OK; i++) {
        size_t items = has_phase(mode, i) ? phases[i].num_items(call) : 0;
        if (items > 0)
            moe_threads_run(ctx->threads, items, phases[i].run, call);
    }
    if (call->status == MOE_OK)
        add_stats(call, stats);
    return call->status;
}

enum moe_status moe_layer_cpu_forward(void *ctx, const void *state, const struct moe_layer_io *io,
                                      struct moe_stats *stats)
{
    return run_call(ctx, state, io, stats, MOE_CALL_FORWARD);
}

enum moe_status moe_layer_cpu_route(void *ctx, const void *state, const struct moe_layer_io *io,
                                    struct moe_stats *stats)
{
    return run_call(ctx, state, io, stats, MOE_CALL_ROUTE);
}

enum moe_status moe_layer_cpu_combine(void *ctx, const void *state, const struct moe_layer_io *io,
                                      struct moe_stats *stats)
{
    return run_call(ctx, state, io, stats, MOE_CALL_COMBINE);
}

/* Thread 0 sets the call up and runs what one lane does; all meet after each phase. The last meeting keeps thread 0
 * from setting up the next call while another still reads this one. Only thread 0 touches stats. */
enum moe_status moe_layer_cpu_forward_team(void *arg, const void *state, const struct moe_layer_io *io,
                                           struct moe_stats *stats, size_t ith, size_t nth)
{
    struct moe_cpu_context *ctx = arg;
    struct moe_cpu_call *call = &ctx->call;
    if (nth == 0 || ith >= nth || nth > moe_threads_count(ctx->threads))
        return MOE_ERR_ARGUMENT;
    if (io->num_tokens == 0)
        return MOE_OK;
    if (ith == 0)
        set_up(ctx, state, io, MOE_CALL_FORWARD);
    moe_threads_barrier(ctx->threads, nth);
    enum moe_status status = call->status;
    for (size_t i = 0; i < MOE_NUM_PHASES && status == MOE_OK; i++) {
        size_t items = has_phase(MOE_CALL_FORWARD, i) ? phases[i].num_items(call) : 0;
        if (items == 0)
            continue;
        if (ith == 0 || items > 1)
            phases[i].run(call, ith);
        moe_threads_barrier(ctx->threads, nth);
        if (i == MOE_PHASE_PLAN)       /* not earlier: thread 0 may be in plan already, and change it */
            status = call->status;
    }
    if (ith == 0 && status == MOE_OK)
        add_stats(call, stats);
    moe_threads_barrier(ctx->threads, nth);
    return status;
}

/* ---- description ---- */

/* Of the products of a set. */
struct telling {
    const struct layer *layer;
    void (*line)(void *user, const char *key, const char *value);
    void *user;
    const char *prefix;        /* of keys */
    bool many;                 /* tokens of each matrix */
};

/* The kernel as moe_backend_describe names it, what it takes x as, and, where that depends on num_tokens, why. */
static void tell_product(const struct telling *telling, const char *product, const struct moe_stack *stack,
                         enum moe_cpu_kind few, enum moe_cpu_kind many)
{
    static const char *const taken[] = {
        [MOE_CPU_F32] = "in f32", [MOE_CPU_Q8] = "rounded to int8", [MOE_CPU_BF16] = "rounded to bf16"};
    const enum moe_op ops[] = {[MOE_CPU_F32] = stack->scales != NULL ? MOE_OP_linear_scaled : MOE_OP_linear,
                               [MOE_CPU_Q8] = MOE_OP_linear_q8, [MOE_CPU_BF16] = MOE_OP_linear_bf16};
    const enum moe_cpu_kind kind = telling->many ? many : few;
    const enum moe_format_index index = moe_kernels_index(stack->data.format);
    const struct moe_kernel_row *row = telling->layer->cpu->kernels.rows[ops[kind]][index];
    char key[32], text[160], why[48] = "";
    if (few != many)
        snprintf(why, sizeof why, ": %s %d tokens a matrix", telling->many ? "at least" : "fewer than",
                 (int)MANY_TOKENS);
    snprintf(key, sizeof key, "%s%s", telling->prefix, product);
    snprintf(text, sizeof text, "%s %s %s, activations %s%s", moe_kernels_op_name(row->op), moe_format_at(index)->name,
             moe_kernels_level_name(row->level), taken[kind], why);
    telling->line(telling->user, key, text);
}

/* few, many: of gate and up. */
static void tell_in(const struct telling *telling, const struct moe_expert_set *set, enum moe_cpu_kind few,
                    enum moe_cpu_kind many)
{
    bool same = set->gated && set->gate.data.format == set->up.data.format && !set->gate.scales == !set->up.scales;
    if (set->gated && !same)
        tell_product(telling, "gate", &set->gate, few, many);
    tell_product(telling, same ? "gate, up" : "up", &set->up, few, many);
}

enum moe_status moe_layer_cpu_describe(const void *state, size_t num_tokens,
                                       void (*line)(void *user, const char *key, const char *value), void *user)
{
    const struct layer *layer = state;
    const struct moe_layer_desc *desc = layer->desc;
    const struct moe_cpu_kinds *few = &layer->few, *many = &layer->many;
    const bool routed_many = is_many(num_tokens * desc->top_k, desc->experts->num_experts);
    const struct telling routed = {layer, line, user, "", routed_many};
    const struct telling shared = {layer, line, user, "shared ", is_many(num_tokens, 1)};
    if (desc->latent != NULL)
        tell_product(&routed, "latent in", &desc->latent->up, MOE_CPU_F32, MOE_CPU_F32);
    tell_in(&routed, desc->experts, few->in, many->in);
    tell_product(&routed, "down", &desc->experts->down, few->down, many->down);
    if (desc->latent != NULL)
        tell_product(&routed, "latent out", &desc->latent->down, MOE_CPU_F32, MOE_CPU_F32);
    if (desc->shared != NULL) {
        tell_in(&shared, desc->shared, few->shared_in, many->shared_in);
        tell_product(&shared, "down", &desc->shared->down, few->shared_down, many->shared_down);
    }
    return MOE_OK;
}
