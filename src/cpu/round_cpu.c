// SPDX-License-Identifier: MIT
// Activations that are rounded below f32, to int8 (q8.h) or bf16: which products take them, and x as gate and up take
// it, rounded once for all experts. What down takes is rounded where it comes into being (experts_cpu.c).
#include <string.h>

#include "cpu/experts_cpu.h"
#include "cpu/q8.h"

enum { ROUND_ROWS = 8 };     /* of an item: below, waking other lanes costs more than it gains */

static enum moe_cpu_kind kind_of(const struct moe_kernels *kernels, const struct moe_stack *stack, bool many)
{
    enum moe_format_index index = moe_kernels_index(stack->data.format);
    if (index == MOE_INDEX_NONE || stack->scales != NULL)
        return MOE_CPU_F32;
    if (kernels->linear_bf16[index] != NULL && (many || kernels->linear_q8[index] == NULL))
        return MOE_CPU_BF16;
    return kernels->linear_q8[index] != NULL ? MOE_CPU_Q8 : MOE_CPU_F32;
}

enum moe_cpu_kind moe_round_cpu_kind(const struct moe_kernels *kernels, const struct moe_stack *first,
                                     const struct moe_stack *second, bool many)
{
    enum moe_cpu_kind kind = kind_of(kernels, first, many);
    return second == NULL || kind_of(kernels, second, many) == kind ? kind : MOE_CPU_F32;
}

size_t moe_round_cpu_row_bytes(enum moe_cpu_kind kind, size_t cols)
{
    size_t bytes;
    switch (kind) {
    case MOE_CPU_Q8:
        return cols <= SIZE_MAX / 128 ? moe_q8_row_bytes(cols) : 0;
    case MOE_CPU_BF16:
        return moe_mul(&bytes, cols, sizeof(uint16_t)) && moe_align(&bytes, bytes, MOE_Q8_ALIGN) ? bytes : 0;
    case MOE_CPU_F32:
        break;
    }
    return moe_mul(&bytes, cols, sizeof(float)) ? bytes : 0;
}

void moe_round_cpu_put(const struct moe_kernels *kernels, enum moe_cpu_kind kind, unsigned char *row, size_t cols,
                       size_t first, const float *x, size_t n)
{
    if (kind == MOE_CPU_Q8)
        kernels->quantise(row, cols, first, x, n);
    else if (kind == MOE_CPU_BF16)
        kernels->store[MOE_INDEX_BF16](row + first * sizeof(uint16_t), x, n);
    else
        memcpy(row + first * sizeof(float), x, n * sizeof(float));
}

/* Rows of in: of expert_x, for tokens, or of scaled, for pairs. */
static size_t count_in(const struct moe_cpu_call *call)
{
    if (call->in.data == NULL)
        return 0;
    return call->desc->weight_on_input ? call->num_sorted : call->live_tokens;
}

/* Rows of shared_in, unless they are those of in. */
static size_t count_shared(const struct moe_cpu_call *call)
{
    return call->shared_in.data != NULL && call->shared_in.data != call->in.data ? call->live_tokens : 0;
}

size_t moe_round_cpu_items(const struct moe_cpu_call *call)
{
    return moe_cpu_blocks(count_in(call), ROUND_ROWS) + moe_cpu_blocks(count_shared(call), ROUND_ROWS);
}

static void round_rows(const struct moe_cpu_call *call, const struct moe_cpu_acts *out, const float *x, size_t stride,
                       size_t cols, size_t first, size_t count)
{
    size_t end = moe_cpu_smaller(first + ROUND_ROWS, count);
    for (size_t i = first; i < end; i++)
        moe_round_cpu_put(call->kernels, out->kind, out->data + i * out->stride, cols, 0, x + i * stride, cols);
}

void moe_round_cpu_run(void *arg, size_t lane)
{
    (void)lane;
    struct moe_cpu_call *call = arg;
    size_t count = count_in(call), blocks = moe_cpu_blocks(count, ROUND_ROWS), item, items = moe_round_cpu_items(call);
    size_t width = call->desc->experts->hidden_size;
    while ((item = moe_cpu_take(call, MOE_PHASE_ROUND)) < items) {
        if (item >= blocks)
            round_rows(call, &call->shared_in, call->x.data, call->x.stride, call->desc->hidden_size,
                       (item - blocks) * ROUND_ROWS, count_shared(call));
        else if (call->desc->weight_on_input)
            round_rows(call, &call->in, call->scaled, width, width, item * ROUND_ROWS, count);
        else
            round_rows(call, &call->in, call->expert_x.data, call->expert_x.stride, width, item * ROUND_ROWS, count);
    }
}
