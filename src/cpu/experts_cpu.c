// SPDX-License-Identifier: MIT
// The first half of the experts: h = act(gate x) * (up x) for every pair, in the sorted order, and for the shared
// expert.
#include "cpu/experts_cpu.h"

enum {
    SCALE_PAIRS = 8,         /* pairs of an item */
    MAX_ROWS = 256,          /* rows of an item; large where many tokens share them */
    MIN_ROWS = 8,
    ITEMS_PER_LANE = 4       /* at least, so that lanes end at about the same time */
};

/* What moe_stack_slice tells, without what only matrices with scales need. */
const unsigned char *moe_experts_cpu_address(const struct moe_stack *stack, size_t e, size_t row)
{
    const unsigned char *base = stack->bases != NULL ? stack->bases[e] : stack->data.base;
    size_t expert = stack->bases != NULL ? 0 : e * stack->expert_stride;
    return base + stack->data.offset + expert + row * stack->data.stride;
}

static void run_f32(const struct moe_kernels *kernels, float *y, size_t y_stride, const struct moe_cpu_slab *slab,
                    const struct moe_cpu_input *input, size_t num_tokens)
{
    const struct moe_stack *stack = slab->stack;
    enum moe_format_index index = moe_kernels_index(stack->data.format);
    struct moe_linear_args args = {
        .y = y,
        .y_stride = y_stride,
        .w = moe_experts_cpu_address(stack, slab->e, slab->first),
        .w_stride = stack->data.stride,
        .x = (const float *)(const void *)input->x,
        .x_stride = input->stride / sizeof(float),
        .x_rows = input->rows,
        .rows = slab->rows,
        .cols = stack->cols,
        .num_tokens = num_tokens,
        .next = slab->next,
    };
    if (stack->scales == NULL) {
        kernels->linear[index](&args);
        return;
    }
    struct moe_slice slice = moe_stack_slice(stack, slab->e);
    kernels->linear_scaled[index](&(struct moe_linear_scaled_args){args, &slice.scales, slab->first});
}

static void run_rounded(const struct moe_kernels *kernels, float *y, size_t y_stride, const struct moe_cpu_slab *slab,
                        const struct moe_cpu_input *input, size_t num_tokens, void *panels)
{
    const struct moe_stack *stack = slab->stack;
    enum moe_format_index index = moe_kernels_index(stack->data.format);
    struct moe_linear_rounded_args args = {
        .y = y,
        .y_stride = y_stride,
        .w = moe_experts_cpu_address(stack, slab->e, slab->first),
        .w_stride = stack->data.stride,
        .x = input->x,
        .x_stride = input->stride,
        .x_rows = input->rows,
        .rows = slab->rows,
        .cols = stack->cols,
        .num_tokens = num_tokens,
        .scratch = panels,
        .next = slab->next,
    };
    if (input->kind == MOE_CPU_Q8)
        kernels->linear_q8[index](&args);
    else
        kernels->linear_bf16[index](&args);
}

/* The input from token t on. */
static struct moe_cpu_input skip_tokens(const struct moe_cpu_input *input, size_t t)
{
    struct moe_cpu_input rest = *input;
    if (rest.rows != NULL)
        rest.rows += t;
    else
        rest.x += t * rest.stride;
    return rest;
}

void moe_experts_cpu_linear(const struct moe_kernels *kernels, float *y, size_t y_stride,
                            const struct moe_cpu_slab *slab, const struct moe_cpu_input *input, size_t num_tokens,
                            void *panels)
{
    for (size_t t = 0; t < num_tokens; t += MOE_LINEAR_TOKENS) {
        size_t run = moe_cpu_smaller(MOE_LINEAR_TOKENS, num_tokens - t);
        struct moe_cpu_input part = skip_tokens(input, t);
        if (input->kind == MOE_CPU_F32)
            run_f32(kernels, y + t * y_stride, y_stride, slab, &part, run);
        else
            run_rounded(kernels, y + t * y_stride, y_stride, slab, &part, run, panels);
    }
    if (slab->stack->host_bias == NULL)
        return;
    const float *bias = slab->stack->host_bias + slab->e * slab->stack->rows + slab->first;
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t i = 0; i < slab->rows; i++)
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
    size_t rows, shared_blocks, blocks, items;
};

static struct cut cut_rows(const struct moe_cpu_call *call)
{
    size_t least = moe_cpu_rounds(call) ? MOE_Q8_UNIT : MIN_ROWS;    /* rows are rounded in whole units */
    struct cut cut = {.rows = call->num_sorted > 8 * call->num_active ? MAX_ROWS : MAX_ROWS / 2};
    for (;; cut.rows /= 2) {
        cut.blocks = moe_cpu_blocks(call->desc->experts->intermediate_size, cut.rows);
        cut.shared_blocks = 0;
        if (call->has_shared && call->live_tokens > 0)
            cut.shared_blocks = moe_cpu_blocks(call->desc->shared->intermediate_size, cut.rows);
        cut.items = cut.shared_blocks + call->num_active * cut.blocks;
        if (cut.rows <= least || cut.items >= ITEMS_PER_LANE * call->num_lanes)
            return cut;
    }
}

size_t moe_experts_cpu_gate_up_items(const struct moe_cpu_call *call)
{
    return cut_rows(call).items;
}

/* Outputs of gate and of up. */
size_t moe_experts_cpu_gate_up_scratch(void)
{
    return 2 * sizeof(float) * MAX_ROWS * MOE_LINEAR_TOKENS;
}

/* Some rows of one expert, shared or not, for its tokens. */
struct block {
    const struct moe_expert_set *set;
    size_t e, first, rows;
    struct moe_cpu_input input;
    size_t num_tokens;
    struct moe_cpu_acts h;     /* of these tokens */
};

static struct block block_of(const struct moe_cpu_call *call, const struct cut *cut, size_t item)
{
    if (item < cut->shared_blocks) {
        const struct moe_expert_set *set = call->desc->shared;
        struct block block = {.set = set, .first = item * cut->rows, .num_tokens = call->live_tokens,
                              .h = call->shared_h};
        block.rows = moe_cpu_smaller(cut->rows, set->intermediate_size - block.first);
        block.input = moe_experts_cpu_rows_input(&call->x);
        if (call->kinds.shared_in != MOE_CPU_F32)
            block.input = moe_experts_cpu_acts_input(&call->shared_in);
        return block;
    }
    item -= cut->shared_blocks;
    const struct moe_expert_set *set = call->desc->experts;
    struct block block = {.set = set, .e = (size_t)call->active[item / cut->blocks], .h = call->h};
    size_t start = call->starts[block.e];
    block.first = item % cut->blocks * cut->rows;
    block.rows = moe_cpu_smaller(cut->rows, set->intermediate_size - block.first);
    block.num_tokens = call->starts[block.e + 1] - start;
    block.h.data += start * block.h.stride;
    struct moe_cpu_rows scaled = {.data = call->scaled, .stride = set->hidden_size};
    block.input = moe_experts_cpu_rows_input(call->desc->weight_on_input ? &scaled : &call->expert_x);
    if (call->kinds.in != MOE_CPU_F32)
        block.input = moe_experts_cpu_acts_input(&call->in);
    if (call->desc->weight_on_input)
        block.input.x += start * block.input.stride;
    else
        block.input.rows = call->tokens + start;
    return block;
}

/* h[t][first..] of a block. Where h is f32 gate is computed where h will be, otherwise in scratch, as up is. */
static void run_block(const struct moe_kernels *kernels, const struct block *block, const unsigned char *next,
                      float *scratch, void *panels)
{
    const struct moe_expert_set *set = block->set;
    size_t rows = block->rows, width = set->intermediate_size;
    struct moe_cpu_slab gate = {&set->gate, block->e, block->first, rows, NULL};
    struct moe_cpu_slab up = {&set->up, block->e, block->first, rows, next};
    gate.next = set->gated ? moe_experts_cpu_address(&set->up, block->e, block->first) : NULL;
    float *up_y = scratch + MAX_ROWS * MOE_LINEAR_TOKENS;
    for (size_t t = 0; t < block->num_tokens; t += MOE_LINEAR_TOKENS) {
        size_t run = moe_cpu_smaller(MOE_LINEAR_TOKENS, block->num_tokens - t);
        struct moe_cpu_input input = skip_tokens(&block->input, t);
        unsigned char *h = block->h.data + t * block->h.stride;
        bool direct = block->h.kind == MOE_CPU_F32;
        float *y = direct ? (float *)(void *)h + block->first : scratch;
        size_t stride = direct ? width : rows;
        moe_experts_cpu_linear(kernels, y, stride, set->gated ? &gate : &up, &input, run, panels);
        if (set->gated)
            moe_experts_cpu_linear(kernels, up_y, rows, &up, &input, run, panels);
        for (size_t i = 0; i < run; i++) {
            float *out = y + i * stride;
            kernels->glu(out, out, set->gated ? up_y + i * rows : NULL, rows, &set->act, set->gated);
            if (!direct)
                moe_round_cpu_put(kernels, block->h.kind, h + i * block->h.stride, width, block->first, out, rows);
        }
    }
}

/* Where the weights of an item begin; NULL: there is no such item. */
static const unsigned char *first_weights(const struct moe_cpu_call *call, const struct cut *cut, size_t item)
{
    if (item >= cut->items)
        return NULL;
    struct block block = block_of(call, cut, item);
    return moe_experts_cpu_address(block.set->gated ? &block.set->gate : &block.set->up, block.e, block.first);
}

void moe_experts_cpu_gate_up(void *arg, size_t lane)
{
    struct moe_cpu_call *call = arg;
    struct cut cut = cut_rows(call);
    size_t item = moe_cpu_take(call, MOE_PHASE_GATE_UP), next;
    for (; item < cut.items; item = next) {
        next = moe_cpu_take(call, MOE_PHASE_GATE_UP);    /* early, for its weights to be fetched */
        struct block block = block_of(call, &cut, item);
        run_block(call->kernels, &block, first_weights(call, &cut, next), moe_cpu_scratch(call, lane),
                  moe_cpu_panels(call, lane));
    }
}
