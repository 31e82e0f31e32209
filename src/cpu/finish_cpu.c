// SPDX-License-Identifier: MIT
// What a layer does around its experts beyond a weighted sum, in this order and each step rounded to f32 once:
//     acc = acc * routed_scale;  latent: acc = latent->down(norm(acc));  acc = acc + gate * shared
//     acc = acc * out_scale;  acc = acc + out_bias;  out = norm(acc)
// Norms are computed in double. A sum that has not begun counts as zeros.
#include <string.h>

#include "cpu/experts_cpu.h"
#include "norm.h"

enum {
    MAX_ROWS = 64,           /* rows of a projection in an item */
    MIN_ROWS = 8,
    ITEMS_PER_LANE = 4,
    NORM_TOKENS = 4
};

/* Rows of an item, such that there are enough items. */
static size_t item_rows(const struct moe_cpu_call *call, size_t rows)
{
    size_t n = MAX_ROWS;
    while (n > MIN_ROWS && rows / n < ITEMS_PER_LANE * call->num_lanes)
        n /= 2;
    return n;
}

/* ---- latent in ---- */

size_t moe_finish_cpu_latent_in_items(const struct moe_cpu_call *call)
{
    size_t width = call->desc->experts->hidden_size;
    return call->desc->latent != NULL ? moe_cpu_blocks(width, item_rows(call, width)) : 0;
}

void moe_finish_cpu_latent_in(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    const struct moe_cpu_rows *rows = &call->expert_x;
    struct moe_cpu_input input = moe_experts_cpu_rows_input(&call->x);
    size_t item, items = moe_finish_cpu_latent_in_items(call), width = call->desc->experts->hidden_size;
    size_t max_rows = item_rows(call, width);
    while ((item = moe_cpu_take(call, MOE_PHASE_LATENT_IN)) < items) {
        size_t first = item * max_rows;
        struct moe_cpu_slab slab = {&call->desc->latent->up, 0, first, moe_cpu_smaller(max_rows, width - first), NULL};
        moe_experts_cpu_linear(call->kernels, rows->copy + first, rows->stride, &slab, &input, call->live_tokens, NULL);
    }
}

/* ---- the sum ---- */

static void scale(float *acc, float factor, size_t n)
{
    for (size_t i = 0; factor != 1.0f && i < n; i++)
        acc[i] *= factor;
}

/* A row of out that belongs to no token; out_norm writes all rows. */
static void put_padding(const struct moe_cpu_call *call, size_t t, size_t first, size_t n)
{
    if (call->desc->out_norm == NULL)
        moe_combine_cpu_write(call, t, first, NULL, n, false);
}

/* acc, at hidden_size, to out or to where its norm is waited for. */
static void put(const struct moe_cpu_call *call, size_t t, size_t first, float *acc, size_t n, bool any)
{
    const struct moe_layer_desc *desc = call->desc;
    if (t >= call->live_tokens) {
        put_padding(call, t, first, n);
        return;
    }
    if (any)
        scale(acc, desc->out_scale, n);
    for (size_t i = 0; desc->host_out_bias != NULL && i < n; i++)
        acc[i] = any ? acc[i] + desc->host_out_bias[first + i] : desc->host_out_bias[first + i];
    any = any || desc->host_out_bias != NULL;
    if (desc->out_norm == NULL)
        moe_combine_cpu_write(call, t, first, acc, n, any);
    else if (any)
        memcpy(call->finished + t * desc->hidden_size + first, acc, n * sizeof *acc);
    else
        memset(call->finished + t * desc->hidden_size + first, 0, n * sizeof *acc);
}

static void add_shared(const struct moe_cpu_call *call, size_t t, float *acc, const float *shared, size_t n, bool any)
{
    call->kernels->scaled_add[MOE_INDEX_F32](acc, shared, call->shared_weights[t], n, any);
}

void moe_finish_cpu_take(const struct moe_cpu_call *call, size_t t, size_t first, float *acc, const float *shared,
                         size_t n, bool any)
{
    const struct moe_layer_desc *desc = call->desc;
    if (any)
        scale(acc, desc->routed_scale, n);
    if (desc->latent != NULL) {
        float *sum = call->sums + t * desc->experts->hidden_size + first;
        if (any)
            memcpy(sum, acc, n * sizeof *acc);
        else
            memset(sum, 0, n * sizeof *acc);
        return;
    }
    if (shared != NULL && t < call->live_tokens) {
        add_shared(call, t, acc, shared, n, any);
        any = true;
    }
    put(call, t, first, acc, n, any);
}

/* ---- norms ---- */

static void norm_row(const struct moe_norm_desc *norm, float *row, size_t size)
{
    double lanes[MOE_ROUTE_LANES] = {0};
    moe_route_squares(lanes, row, size);
    moe_norm_apply(norm, row, 0, size, moe_norm_factor(norm, lanes, size));
}

size_t moe_finish_cpu_latent_norm_items(const struct moe_cpu_call *call)
{
    return call->finishes && call->desc->latent_norm != NULL ? moe_cpu_blocks(call->live_tokens, NORM_TOKENS) : 0;
}

void moe_finish_cpu_latent_norm(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    size_t item, items = moe_finish_cpu_latent_norm_items(call), width = call->desc->experts->hidden_size;
    while ((item = moe_cpu_take(call, MOE_PHASE_LATENT_NORM)) < items) {
        size_t end = moe_cpu_smaller((item + 1) * NORM_TOKENS, call->live_tokens);
        for (size_t t = item * NORM_TOKENS; t < end; t++)
            norm_row(call->desc->latent_norm, call->sums + t * width, width);
    }
}

size_t moe_finish_cpu_out_norm_items(const struct moe_cpu_call *call)
{
    return call->finishes && call->desc->out_norm != NULL ? moe_cpu_blocks(call->num_tokens, NORM_TOKENS) : 0;
}

void moe_finish_cpu_out_norm(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    size_t item, items = moe_finish_cpu_out_norm_items(call), hidden_size = call->desc->hidden_size;
    while ((item = moe_cpu_take(call, MOE_PHASE_OUT_NORM)) < items) {
        size_t end = moe_cpu_smaller((item + 1) * NORM_TOKENS, call->num_tokens);
        for (size_t t = item * NORM_TOKENS; t < end; t++) {
            float *row = call->finished + t * hidden_size;
            if (t < call->live_tokens)
                norm_row(call->desc->out_norm, row, hidden_size);
            moe_combine_cpu_write(call, t, 0, row, hidden_size, t < call->live_tokens);
        }
    }
}

/* ---- latent out ---- */

size_t moe_finish_cpu_latent_out_items(const struct moe_cpu_call *call)
{
    size_t hidden_size = call->desc->hidden_size;
    return call->finishes && call->desc->latent != NULL ? moe_cpu_blocks(hidden_size, item_rows(call, hidden_size)) : 0;
}

/* Outputs of the projection and of the shared expert, of MOE_LINEAR_TOKENS tokens. */
size_t moe_finish_cpu_latent_out_scratch(void)
{
    return 2 * sizeof(float) * MAX_ROWS * MOE_LINEAR_TOKENS;
}

/* Rows first.. of out for up to MOE_LINEAR_TOKENS tokens from t on. */
static void leave_latent(const struct moe_cpu_call *call, size_t t, size_t num_tokens, size_t first, size_t rows,
                         float *scratch, void *panels)
{
    const struct moe_layer_desc *desc = call->desc;
    size_t width = desc->experts->hidden_size;
    float *shared = scratch + MAX_ROWS * MOE_LINEAR_TOKENS;
    struct moe_cpu_rows sums = {.data = call->sums + t * width, .stride = width};
    struct moe_cpu_input input = moe_experts_cpu_rows_input(&sums);
    struct moe_cpu_slab slab = {&desc->latent->down, 0, first, rows, NULL};
    moe_experts_cpu_linear(call->kernels, scratch, rows, &slab, &input, num_tokens, NULL);
    if (call->has_shared) {
        input = moe_experts_cpu_acts_input(&call->shared_h);
        input.x += t * input.stride;
        slab.stack = &desc->shared->down;
        moe_experts_cpu_linear(call->kernels, shared, rows, &slab, &input, num_tokens, panels);
    }
    for (size_t i = 0; i < num_tokens; i++) {
        if (call->has_shared)
            add_shared(call, t + i, scratch + i * rows, shared + i * rows, rows, true);
        put(call, t + i, first, scratch + i * rows, rows, true);
    }
}

void moe_finish_cpu_latent_out(void *arg, size_t lane)
{
    struct moe_cpu_call *call = arg;
    size_t item, items = moe_finish_cpu_latent_out_items(call), hidden_size = call->desc->hidden_size;
    size_t max_rows = item_rows(call, hidden_size);
    float *scratch = moe_cpu_scratch(call, lane);
    while ((item = moe_cpu_take(call, MOE_PHASE_LATENT_OUT)) < items) {
        size_t first = item * max_rows, rows = moe_cpu_smaller(max_rows, hidden_size - first), t;
        for (t = 0; t < call->live_tokens; t += MOE_LINEAR_TOKENS)
            leave_latent(call, t, moe_cpu_smaller(MOE_LINEAR_TOKENS, call->live_tokens - t), first, rows, scratch,
                         moe_cpu_panels(call, lane));
        for (t = call->live_tokens; t < call->num_tokens; t++)
            put_padding(call, t, first, rows);
    }
}
