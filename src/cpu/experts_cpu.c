// SPDX-License-Identifier: MIT
// The first half of the experts: h = act(gate x) * (up x) for every pair, in the sorted order, and for the shared
// expert.
#include "cpu/experts_cpu.h"

enum {
    SCALE_PAIRS = 8,         /* pairs of an item */
    MAX_ROWS = 64,           /* rows of an item; large where many tokens share them */
    MIN_ROWS = 8,
    ITEMS_PER_LANE = 4       /* at least, so that lanes end at about the same time */
};

/* Row r of matrix e: what moe_stack_slice tells, without what only matrices with scales need. */
static const unsigned char *row_address(const struct moe_stack *stack, size_t e, size_t r)
{
    const unsigned char *base = stack->bases != NULL ? stack->bases[e] : stack->data.base;
    size_t expert = stack->bases != NULL ? 0 : e * stack->expert_stride;
    return base + stack->data.offset + expert + r * stack->data.stride;
}

/* As linear, of a matrix whose scales lie apart. */
static void run_scaled(moe_linear_scaled_fn *linear, const struct moe_linear_args *args, const struct moe_stack *stack,
                       size_t e, size_t first)
{
    struct moe_slice slice = moe_stack_slice(stack, e);
    linear(&(struct moe_linear_scaled_args){*args, &slice.scales, first});
}

void moe_experts_cpu_linear(const struct moe_kernels *kernels, float *y, size_t y_stride,
                            const struct moe_stack *stack, size_t e, size_t first, size_t rows,
                            const struct moe_cpu_input *input, size_t num_tokens)
{
    struct moe_linear_args args = {
        .y_stride = y_stride,
        .w = row_address(stack, e, first),
        .w_stride = stack->data.stride,
        .x_stride = input->x_stride,
        .rows = rows,
        .cols = stack->cols,
    };
    enum moe_format_index index = moe_kernels_index(stack->data.format);
    for (size_t t = 0; t < num_tokens; t += MOE_LINEAR_TOKENS) {
        args.num_tokens = moe_cpu_smaller(MOE_LINEAR_TOKENS, num_tokens - t);
        args.y = y + t * y_stride;
        args.x = input->x_rows != NULL ? input->x : input->x + t * input->x_stride;
        args.x_rows = input->x_rows != NULL ? input->x_rows + t : NULL;
        if (stack->scales != NULL)
            run_scaled(kernels->linear_scaled[index], &args, stack, e, first);
        else
            kernels->linear[index](&args);
    }
    if (stack->host_bias == NULL)
        return;
    const float *bias = stack->host_bias + e * stack->rows + first;
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t i = 0; i < rows; i++)
            y[t * y_stride + i] += bias[i];
}

/* ---- scale ---- */

size_t moe_experts_cpu_scale_items(const struct moe_cpu_call *call)
{
    return call->desc->weight_on_input ? moe_cpu_blocks(call->num_pairs, SCALE_PAIRS) : 0;
}

void moe_experts_cpu_scale(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    size_t item, items = moe_experts_cpu_scale_items(call), hidden_size = call->desc->experts->hidden_size;
    while ((item = moe_cpu_take(call, MOE_PHASE_SCALE)) < items) {
        size_t end = moe_cpu_smaller((item + 1) * SCALE_PAIRS, call->num_pairs);
        for (size_t p = item * SCALE_PAIRS; p < end; p++) {
            if (call->positions[p] < 0)
                continue;
            const float *x = call->expert_x.data + p / call->top_k * call->expert_x.stride;
            call->kernels->scaled_add[MOE_INDEX_F32](call->scaled + (size_t)call->positions[p] * hidden_size, x,
                                                     call->weights[p], hidden_size, false);
        }
    }
}

/* ---- gate and up ---- */

/* How the rows are cut: the shared expert's blocks first, since they have the most tokens, then each matrix'. */
struct cut {
    size_t rows, shared_blocks, blocks;
};

static struct cut cut_rows(const struct moe_cpu_call *call)
{
    struct cut cut = {.rows = call->num_sorted > 8 * call->num_active ? MAX_ROWS : MAX_ROWS / 2};
    for (;; cut.rows /= 2) {
        cut.blocks = moe_cpu_blocks(call->desc->experts->intermediate_size, cut.rows);
        cut.shared_blocks = 0;
        if (call->has_shared && call->live_tokens > 0)
            cut.shared_blocks = moe_cpu_blocks(call->desc->shared->intermediate_size, cut.rows);
        size_t items = cut.shared_blocks + call->num_active * cut.blocks;
        if (cut.rows == MIN_ROWS || items >= ITEMS_PER_LANE * call->num_lanes)
            return cut;
    }
}

size_t moe_experts_cpu_gate_up_items(const struct moe_cpu_call *call)
{
    struct cut cut = cut_rows(call);
    return cut.shared_blocks + call->num_active * cut.blocks;
}

size_t moe_experts_cpu_gate_up_scratch(void)
{
    return sizeof(float) * MAX_ROWS * MOE_LINEAR_TOKENS;
}

/* h[t][first..] for one matrix and some rows; up is scratch. Gate is computed where h will be. */
static void run_block(const struct moe_kernels *kernels, float *h, const struct moe_expert_set *set, size_t e,
                      size_t first, size_t rows, const struct moe_cpu_input *input, size_t num_tokens, float *up)
{
    size_t stride = set->intermediate_size;
    h += first;
    for (size_t t = 0; t < num_tokens; t += MOE_LINEAR_TOKENS) {
        size_t run = moe_cpu_smaller(MOE_LINEAR_TOKENS, num_tokens - t);
        struct moe_cpu_input part = *input;
        if (part.x_rows != NULL)
            part.x_rows += t;
        else
            part.x += t * part.x_stride;
        float *out = h + t * stride;
        if (set->gated) {
            moe_experts_cpu_linear(kernels, out, stride, &set->gate, e, first, rows, &part, run);
            moe_experts_cpu_linear(kernels, up, rows, &set->up, e, first, rows, &part, run);
        } else {
            moe_experts_cpu_linear(kernels, out, stride, &set->up, e, first, rows, &part, run);
        }
        for (size_t i = 0; i < run; i++)
            kernels->glu(out + i * stride, out + i * stride, set->gated ? up + i * rows : NULL, rows, &set->act,
                         set->gated);
    }
}

static void run_shared(const struct moe_cpu_call *call, size_t first, size_t max_rows, float *up)
{
    const struct moe_expert_set *set = call->desc->shared;
    struct moe_cpu_input input = {.x = call->x.data, .x_stride = call->x.stride};
    run_block(call->kernels, call->shared_h, set, 0, first, moe_cpu_smaller(max_rows, set->intermediate_size - first),
              &input, call->live_tokens, up);
}

static void run_expert(const struct moe_cpu_call *call, size_t e, size_t first, size_t max_rows, float *up)
{
    const struct moe_expert_set *set = call->desc->experts;
    size_t start = call->starts[e], num_tokens = call->starts[e + 1] - start;
    const struct moe_cpu_rows *x = &call->expert_x;
    struct moe_cpu_input input = {.x = x->data, .x_stride = x->stride, .x_rows = call->tokens + start};
    if (call->desc->weight_on_input)
        input = (struct moe_cpu_input){.x = call->scaled + start * set->hidden_size, .x_stride = set->hidden_size};
    run_block(call->kernels, call->h + start * set->intermediate_size, set, e, first,
              moe_cpu_smaller(max_rows, set->intermediate_size - first), &input, num_tokens, up);
}

void moe_experts_cpu_gate_up(void *arg, size_t lane)
{
    struct moe_cpu_call *call = arg;
    struct cut cut = cut_rows(call);
    size_t item, items = moe_experts_cpu_gate_up_items(call);
    float *up = moe_cpu_scratch(call, lane);
    while ((item = moe_cpu_take(call, MOE_PHASE_GATE_UP)) < items) {
        if (item < cut.shared_blocks) {
            run_shared(call, item * cut.rows, cut.rows, up);
            continue;
        }
        item -= cut.shared_blocks;
        run_expert(call, (size_t)call->active[item / cut.blocks], item % cut.blocks * cut.rows, cut.rows, up);
    }
}
