// SPDX-License-Identifier: MIT
// The workspace of a call, and the step between routing and experts: checks of MOE_STRICT, pairs sorted by matrix, and
// the results of routing that the caller wants.
#include <string.h>

#include "cpu/experts_cpu.h"

enum { CARVE_ALIGN = 64 };

/* Cuts pieces off the workspace; without base it only counts. */
struct carver {
    unsigned char *base;
    size_t offset;
    bool ok;
};

static void *carve(struct carver *carver, size_t count, size_t size)
{
    size_t bytes, begin = carver->offset;
    carver->ok = carver->ok && moe_mul(&bytes, count, size) && moe_align(&bytes, bytes, CARVE_ALIGN) &&
                 moe_add(&carver->offset, begin, bytes);
    return carver->base != NULL && carver->ok ? carver->base + begin : NULL;
}

static size_t times(struct carver *carver, size_t a, size_t b)
{
    size_t product = 0;
    carver->ok = carver->ok && moe_mul(&product, a, b);
    return product;
}

/* A view as f32 rows: in place where it is f32, otherwise through a copy. */
static void carve_rows(struct moe_cpu_rows *rows, const struct moe_view *view, struct carver *carver,
                       size_t num_tokens, size_t hidden_size)
{
    *rows = (struct moe_cpu_rows){.stride = hidden_size};
    if (view->format == MOE_FORMAT_F32) {
        if (view->base != NULL && carver->base != NULL)    /* absent, or unchecked, while sizes are counted */
            rows->data = moe_cpu_address(view);
        rows->stride = view->stride / sizeof(float);
    } else {
        rows->copy = carve(carver, times(carver, num_tokens, hidden_size), sizeof(float));
        rows->data = rows->copy;
    }
}

/* With room for the other kind, too: sizes must not shrink where more tokens make another choice. */
static void carve_acts(struct moe_cpu_acts *acts, struct carver *carver, enum moe_cpu_kind kind,
                       enum moe_cpu_kind other, size_t rows, size_t cols)
{
    size_t other_stride = moe_round_cpu_row_bytes(other, cols);
    acts->kind = kind;
    acts->stride = moe_round_cpu_row_bytes(kind, cols);
    carver->ok = carver->ok && acts->stride > 0 && other_stride > 0;
    acts->data = carve(carver, rows, acts->stride > other_stride ? acts->stride : other_stride);
}

/* Of activations that there are as f32 already: only what is rounded. */
static void carve_rounded(struct moe_cpu_acts *acts, struct carver *carver, enum moe_cpu_kind kind,
                          enum moe_cpu_kind other, size_t rows, size_t cols)
{
    if (kind != MOE_CPU_F32 || other != MOE_CPU_F32)
        carve_acts(acts, carver, kind, other, rows, cols);
    if (kind == MOE_CPU_F32)
        *acts = (struct moe_cpu_acts){.kind = MOE_CPU_F32};
}

/* The shared expert takes the rows that the others do where both take the same kind. */
static void carve_shared_in(struct moe_cpu_call *call, struct carver *carver)
{
    const struct moe_cpu_kinds *kinds = &call->kinds, *other = &call->other_kinds;
    bool same_x = call->desc->latent == NULL && !call->desc->weight_on_input, same = kinds->shared_in == kinds->in;
    if (!same_x || !same || other->in != kinds->in || other->shared_in != kinds->in)
        carve_rounded(&call->shared_in, carver, kinds->shared_in, other->shared_in, call->num_tokens,
                      call->desc->hidden_size);
    if (same_x && same)
        call->shared_in = call->in;
}

static void carve_experts(struct moe_cpu_call *call, struct carver *carver)
{
    const struct moe_expert_set *experts = call->desc->experts;
    size_t pairs = call->num_pairs;
    call->starts = carve(carver, experts->num_experts + 1, sizeof *call->starts);
    call->active = carve(carver, experts->num_experts, sizeof *call->active);
    call->tokens = carve(carver, pairs, sizeof *call->tokens);
    call->expert_x = call->x;
    if (call->desc->latent != NULL) {
        size_t width = experts->hidden_size;
        call->expert_x = (struct moe_cpu_rows){.stride = width};
        call->expert_x.copy = carve(carver, times(carver, call->num_tokens, width), sizeof *call->expert_x.copy);
        call->expert_x.data = call->expert_x.copy;
    }
    if (call->desc->weight_on_input)
        call->scaled = carve(carver, times(carver, pairs, experts->hidden_size), sizeof *call->scaled);
    call->in = call->shared_in = (struct moe_cpu_acts){.kind = MOE_CPU_F32};
    carve_rounded(&call->in, carver, call->kinds.in, call->other_kinds.in,
                  call->desc->weight_on_input ? pairs : call->num_tokens, experts->hidden_size);
    carve_acts(&call->h, carver, call->kinds.down, call->other_kinds.down, pairs, experts->intermediate_size);
    if (!call->has_shared)
        return;
    call->shared_weights = carve(carver, call->num_tokens, sizeof *call->shared_weights);
    carve_shared_in(call, carver);
    carve_acts(&call->shared_h, carver, call->kinds.shared_down, call->other_kinds.shared_down, call->num_tokens,
               call->desc->shared->intermediate_size);
}

/* For a forward and for a combine. */
static void carve_sums(struct moe_cpu_call *call, struct carver *carver)
{
    const struct moe_layer_desc *desc = call->desc;
    size_t num_tokens = call->num_tokens;
    if (desc->latent != NULL)
        call->sums = carve(carver, times(carver, num_tokens, desc->experts->hidden_size), sizeof *call->sums);
    if (desc->out_norm != NULL)
        call->finished = carve(carver, times(carver, num_tokens, desc->hidden_size), sizeof *call->finished);
}

static void carve_scratch(struct moe_cpu_call *call, struct carver *carver)
{
    size_t route = moe_route_cpu_scratch(call->desc->num_experts), gate_up = moe_experts_cpu_gate_up_scratch();
    size_t rows = call->num_pairs + (call->has_shared ? call->num_tokens : 0);
    size_t bytes = times(carver, times(carver, rows, moe_combine_cpu_down_floats(call)), sizeof(float));
    if (bytes < route)
        bytes = route;
    if (bytes < gate_up)
        bytes = gate_up;
    if (call->desc->latent != NULL && bytes < moe_finish_cpu_latent_out_scratch())
        bytes = moe_finish_cpu_latent_out_scratch();
    if (moe_cpu_rounds(call))
        carver->ok = carver->ok && moe_add(&bytes, bytes, MOE_ROUNDED_SCRATCH);
    carver->ok = carver->ok && route > 0 && moe_align(&bytes, bytes, CARVE_ALIGN);
    call->scratch_bytes = bytes;
    call->scratch = carve(carver, call->num_lanes, bytes);
}

enum moe_status moe_plan_cpu_workspace(struct moe_cpu_call *call, unsigned char *base, size_t *bytes)
{
    struct carver carver = {.base = base, .ok = call->num_pairs <= INT32_MAX};
    size_t num_tokens = call->num_tokens, hidden_size = call->desc->hidden_size;
    if (call->mode != MOE_CALL_COMBINE)
        carve_rows(&call->x, &call->io.x, &carver, num_tokens, hidden_size);
    call->router_x = call->x;
    if (call->computes_logits) {
        bool counted = base == NULL && call->io.router_x.format != MOE_FORMAT_F32;   /* while sizes are asked for */
        if (call->io.router_x.base != NULL || counted)
            carve_rows(&call->router_x, &call->io.router_x, &carver, num_tokens, hidden_size);
        call->logits = carve(&carver, times(&carver, num_tokens, call->desc->num_experts), sizeof *call->logits);
    }
    call->ids = carve(&carver, call->num_pairs, sizeof *call->ids);
    call->weights = carve(&carver, call->num_pairs, sizeof *call->weights);
    call->positions = carve(&carver, call->num_pairs, sizeof *call->positions);
    if (call->mode == MOE_CALL_FORWARD)
        carve_experts(call, &carver);
    if (call->mode != MOE_CALL_ROUTE)
        carve_sums(call, &carver);
    carve_scratch(call, &carver);
    *bytes = carver.offset;
    return carver.ok ? MOE_OK : MOE_ERR_ARGUMENT;
}

/* ---- the plan ---- */

/* The matrix of an id under expert_map; MOE_PAIR_SKIPPED, MOE_PAIR_ZERO. */
static int32_t matrix_of(const struct moe_cpu_call *call, int32_t id)
{
    if (id < 0)
        return MOE_PAIR_SKIPPED;
    const struct moe_view *map = &call->io.expert_map;
    int32_t matrix = map->base != NULL ? ((const int32_t *)moe_cpu_address(map))[id] : id;
    if ((size_t)id >= call->desc->num_experts - call->desc->num_zero_experts)
        return map->base != NULL && matrix == -1 ? MOE_PAIR_SKIPPED : MOE_PAIR_ZERO;
    return matrix >= 0 && (size_t)matrix < call->desc->experts->num_experts ? matrix : MOE_PAIR_SKIPPED;
}

/* positions[p] = the pair's matrix, below 0 where it has none; padding is skipped without being counted. */
static void find_matrices(struct moe_cpu_call *call)
{
    size_t live_pairs = call->live_tokens * call->top_k;
    for (size_t p = 0; p < call->num_pairs; p++) {
        call->positions[p] = matrix_of(call, call->ids[p]);
        call->skipped_pairs += p < live_pairs && call->positions[p] == MOE_PAIR_SKIPPED;
    }
}

/* A counting sort by matrix that keeps the order of pairs: from positions as matrices to positions as places. */
static void sort_pairs(struct moe_cpu_call *call)
{
    size_t matrices = call->desc->experts->num_experts, sum = 0;
    size_t *starts = call->starts;
    memset(starts, 0, (matrices + 1) * sizeof *starts);
    for (size_t p = 0; p < call->num_pairs; p++)
        if (call->positions[p] >= 0)
            starts[call->positions[p]]++;
    for (size_t m = 0; m < matrices; m++) {
        size_t count = starts[m];
        starts[m] = sum;
        sum += count;
        if (count > 0)
            call->active[call->num_active++] = (int32_t)m;
    }
    for (size_t t = 0, p = 0; t < call->num_tokens; t++) {
        for (size_t k = 0; k < call->top_k; k++, p++) {
            int32_t matrix = call->positions[p];
            if (matrix < 0)
                continue;
            size_t place = starts[matrix]++;
            call->positions[p] = (int32_t)place;
            call->tokens[place] = (int32_t)t;
        }
    }
    /* Each start has moved to its end, where the next one starts. */
    memmove(starts + 1, starts, matrices * sizeof *starts);
    starts[0] = 0;
    call->num_sorted = sum;
}

static void publish(const struct moe_cpu_call *call)
{
    size_t top_k = call->top_k;
    for (size_t t = 0; call->io.out_ids.base != NULL && t < call->num_tokens; t++)
        memcpy(moe_cpu_row(&call->io.out_ids, t), call->ids + t * top_k, top_k * sizeof *call->ids);
    for (size_t t = 0; call->io.out_weights.base != NULL && t < call->num_tokens; t++)
        memcpy(moe_cpu_row(&call->io.out_weights, t), call->weights + t * top_k, top_k * sizeof *call->weights);
    if (call->io.expert_counts.base == NULL)
        return;
    int64_t *counts = moe_cpu_address(&call->io.expert_counts);
    for (size_t p = 0; p < call->num_pairs; p++)
        if (call->ids[p] >= 0)
            counts[call->ids[p]] = (int64_t)((uint64_t)counts[call->ids[p]] + 1);   /* the caller's may be any number */
}

void moe_plan_cpu_run(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    if (call->io.flags & MOE_STRICT) {
        if (atomic_load_explicit(&call->nonfinite_rows, memory_order_relaxed) > 0)
            call->status = MOE_ERR_NONFINITE;
        else if (atomic_load_explicit(&call->out_of_range, memory_order_relaxed))
            call->status = MOE_ERR_RANGE;
        if (call->status != MOE_OK)
            return;
    }
    find_matrices(call);
    if (call->mode == MOE_CALL_FORWARD)
        sort_pairs(call);
    if (call->mode != MOE_CALL_COMBINE)
        publish(call);
}
