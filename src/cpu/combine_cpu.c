// SPDX-License-Identifier: MIT
// The second half of a call: down, and the weighted sum of a token's experts. One order, in f32, two roundings a term:
//     acc = w0 * y0;  acc = acc + w1 * y1; ...  (slots in order, without the skipped);  acc = acc + gate * shared
//     out = acc, or out = out + acc, rounded to out's format once
// Layers that do more to the sum hand it to finish_cpu.c before the shared expert is added.
#include <string.h>

#include "cpu/experts_cpu.h"

enum {
    MAX_ROWS = 128,          /* rows of down in an item */
    MIN_ROWS = 16,
    FEW_ROWS = 32,           /* for few pairs */
    FEW_PAIRS = 64,
    ITEMS_PER_LANE = 8,
    COMBINE_TOKENS = 4
};

void moe_combine_cpu_write(const struct moe_cpu_call *call, size_t row, size_t first, const float *acc, size_t n,
                           bool any)
{
    const struct moe_view *out = &call->io.out;
    bool accumulate = (call->io.flags & MOE_ACCUMULATE) != 0;
    enum moe_format_index index = moe_kernels_index(out->format);
    size_t bytes = moe_format_at(index)->block_bytes;
    unsigned char *at = (unsigned char *)moe_cpu_row(out, row) + first * bytes;
    if (any)
        call->kernels->scaled_add[index](at, acc, 1.0f, n, accumulate);
    else if (!accumulate)
        memset(at, 0, n * bytes);
}

static void add(const struct moe_cpu_call *call, float *acc, const float *y, float weight, size_t n, bool *any)
{
    call->kernels->scaled_add[MOE_INDEX_F32](acc, y, weight, n, *any);
    *any = true;
}

static float pair_weight(const struct moe_cpu_call *call, size_t p)
{
    return call->desc->weight_on_input ? 1.0f : call->weights[p];
}

/* A zero expert gives its input, which the weight multiplies once, here or there. */
static void add_input(const struct moe_cpu_call *call, float *acc, size_t t, size_t p, size_t first, size_t n,
                      bool *any)
{
    add(call, acc, call->x.data + t * call->x.stride + first, call->weights[p], n, any);
}

/* ---- down ---- */

/* A lane keeps so many outputs of each pair: more rows in an item read h less often and cost workspace. Depends on the
 * shapes only, for the workspace must not shrink as tokens are added. */
size_t moe_combine_cpu_down_floats(const struct moe_cpu_call *call)
{
    size_t rows = MAX_ROWS, wanted = call->desc->experts->hidden_size / (ITEMS_PER_LANE * call->num_lanes);
    while (rows > MIN_ROWS && rows > wanted)
        rows /= 2;
    return rows;
}

static size_t item_rows(const struct moe_cpu_call *call)
{
    size_t rows = moe_combine_cpu_down_floats(call);
    return call->num_pairs <= FEW_PAIRS ? moe_cpu_smaller(rows, FEW_ROWS) : rows;
}

size_t moe_combine_cpu_down_items(const struct moe_cpu_call *call)
{
    return moe_cpu_blocks(call->desc->experts->hidden_size, item_rows(call));
}

/* Rows first.. of down for all pairs, in the sorted order, then for the shared expert's tokens: scratch[row][rows].
 * next_first: the rows after these that the lane will compute, hidden_size if there are none. */
static void multiply(const struct moe_cpu_call *call, float *scratch, size_t first, size_t rows, size_t next_first,
                     void *panels)
{
    const struct moe_expert_set *experts = call->desc->experts;
    for (size_t i = 0; i < call->num_active; i++) {
        size_t e = (size_t)call->active[i], start = call->starts[e];
        struct moe_cpu_slab slab = {&experts->down, e, first, rows, NULL};
        if (i + 1 < call->num_active)
            slab.next = moe_experts_cpu_address(&experts->down, (size_t)call->active[i + 1], first);
        else if (next_first < experts->hidden_size)
            slab.next = moe_experts_cpu_address(&experts->down, (size_t)call->active[0], next_first);
        struct moe_cpu_input input = moe_experts_cpu_acts_input(&call->h);
        input.x += start * input.stride;
        moe_experts_cpu_linear(call->kernels, scratch + start * rows, rows, &slab, &input, call->starts[e + 1] - start,
                               panels);
    }
    if (call->has_shared && call->desc->latent == NULL) {
        struct moe_cpu_slab slab = {&call->desc->shared->down, 0, first, rows, NULL};
        struct moe_cpu_input input = moe_experts_cpu_acts_input(&call->shared_h);
        moe_experts_cpu_linear(call->kernels, scratch + call->num_sorted * rows, rows, &slab, &input,
                               call->live_tokens, panels);
    }
}

static void sum_tokens(const struct moe_cpu_call *call, const float *scratch, size_t first, size_t rows)
{
    const float *shared = scratch + call->num_sorted * rows;
    for (size_t t = 0; t < call->num_tokens; t++) {
        float acc[MAX_ROWS];
        bool any = false;
        for (size_t p = t * call->top_k; p < (t + 1) * call->top_k; p++) {
            if (call->positions[p] >= 0)
                add(call, acc, scratch + (size_t)call->positions[p] * rows, pair_weight(call, p), rows, &any);
            else if (call->positions[p] == MOE_PAIR_ZERO)
                add_input(call, acc, t, p, first, rows, &any);
        }
        if (call->finishes) {
            moe_finish_cpu_take(call, t, first, acc, call->has_shared ? shared + t * rows : NULL, rows, any);
            continue;
        }
        if (call->has_shared && t < call->live_tokens)
            add(call, acc, shared + t * rows, call->shared_weights[t], rows, &any);
        moe_combine_cpu_write(call, t, first, acc, rows, any);
    }
}

static void write_pairs(const struct moe_cpu_call *call, const float *scratch, size_t first, size_t rows)
{
    for (size_t p = 0; p < call->num_pairs; p++) {
        float x[MAX_ROWS];
        const float *y = NULL;
        if (call->positions[p] >= 0) {
            y = scratch + (size_t)call->positions[p] * rows;
        } else if (call->positions[p] == MOE_PAIR_ZERO) {
            y = call->x.data + p / call->top_k * call->x.stride + first;
            if (call->desc->weight_on_input) {
                call->kernels->scaled_add[MOE_INDEX_F32](x, y, call->weights[p], rows, false);
                y = x;
            }
        }
        moe_combine_cpu_write(call, p, first, y, rows, y != NULL);
    }
}

void moe_combine_cpu_down(void *arg, size_t lane)
{
    struct moe_cpu_call *call = arg;
    size_t max_rows = item_rows(call), hidden_size = call->desc->experts->hidden_size;
    size_t item = moe_cpu_take(call, MOE_PHASE_DOWN), items = moe_combine_cpu_down_items(call), next;
    float *scratch = moe_cpu_scratch(call, lane);
    for (; item < items; item = next) {
        next = moe_cpu_take(call, MOE_PHASE_DOWN);    /* early, for its weights to be fetched */
        size_t first = item * max_rows, rows = moe_cpu_smaller(max_rows, hidden_size - first);
        multiply(call, scratch, first, rows, next < items ? next * max_rows : hidden_size, moe_cpu_panels(call, lane));
        if (call->io.flags & MOE_OUT_PAIRS)
            write_pairs(call, scratch, first, rows);
        else
            sum_tokens(call, scratch, first, rows);
    }
}

/* ---- combine: the sum alone, of pairs that the caller brings ---- */

size_t moe_combine_cpu_items(const struct moe_cpu_call *call)
{
    return moe_cpu_blocks(call->num_tokens, COMBINE_TOKENS);
}

static void combine_token(const struct moe_cpu_call *call, size_t t)
{
    const struct moe_view *x = &call->io.x;
    enum moe_format_index index = moe_kernels_index(x->format);
    size_t bytes = moe_format_at(index)->block_bytes, hidden_size = call->desc->experts->hidden_size;
    for (size_t first = 0; first < hidden_size; first += MAX_ROWS) {
        float acc[MAX_ROWS], y[MAX_ROWS];
        size_t n = moe_cpu_smaller(MAX_ROWS, hidden_size - first);
        bool any = false;
        for (size_t p = t * call->top_k; p < (t + 1) * call->top_k; p++) {
            if (call->positions[p] == MOE_PAIR_SKIPPED)
                continue;
            call->kernels->load[index](y, (const unsigned char *)moe_cpu_row(x, p) + first * bytes, n);
            add(call, acc, y, pair_weight(call, p), n, &any);
        }
        if (call->finishes)
            moe_finish_cpu_take(call, t, first, acc, NULL, n, any);
        else
            moe_combine_cpu_write(call, t, first, acc, n, any);
    }
}

void moe_combine_cpu_run(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    size_t item, items = moe_combine_cpu_items(call);
    while ((item = moe_cpu_take(call, MOE_PHASE_COMBINE)) < items) {
        size_t end = moe_cpu_smaller((item + 1) * COMBINE_TOKENS, call->num_tokens);
        for (size_t t = item * COMBINE_TOKENS; t < end; t++)
            combine_token(call, t);
    }
}
