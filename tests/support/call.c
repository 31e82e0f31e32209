// SPDX-License-Identifier: MIT
// One call of a layer with every buffer between guard bytes, every row padded, and a look afterwards at all that the
// call had no business to touch.
#include "support.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A view of rows in guarded memory, and what it held before the call. */
struct buffer {
    unsigned char *data, *before;
    size_t rows, cols, bytes, stride, size;   /* bytes of a value */
    enum moe_format format;
    bool output;
};

enum {
    B_X, B_ROUTER_X, B_LOGITS, B_IDS, B_WEIGHTS, B_TOKEN_IDS, B_MAP, B_LIVE, B_OUT, B_OUT_IDS, B_OUT_WEIGHTS, B_COUNTS,
    B_WORKSPACE, B_COUNT
};

struct buffers {
    struct buffer at[B_COUNT];
    struct moe_layer_info info;
    struct moe_layer_io io;
};

static unsigned char *value_at(const struct buffer *buffer, size_t i)
{
    return buffer->data + i / buffer->cols * buffer->stride + i % buffer->cols * buffer->bytes;
}

static void make(struct buffer *buffer, enum moe_format format, size_t rows, size_t cols, size_t padding, bool output)
{
    buffer->format = format;
    buffer->rows = rows;
    buffer->cols = cols;
    buffer->bytes = moe_format_info(format)->block_bytes;
    buffer->stride = (cols + padding) * buffer->bytes;
    buffer->size = rows == 0 ? 0 : (rows - 1) * buffer->stride + cols * buffer->bytes;
    buffer->output = output;
    buffer->data = test_alloc(buffer->size);
}

static void put_floats(struct buffer *buffer, const float *values)
{
    for (size_t i = 0; values != NULL && i < buffer->rows * buffer->cols; i++)
        test_assert_ok(moe_format_quantise(buffer->format, value_at(buffer, i), &values[i], 1, 1));
}

static void put_integer(struct buffer *buffer, size_t i, int64_t value)
{
    int32_t narrow = (int32_t)value;
    if (buffer->format == MOE_FORMAT_I64)
        memcpy(value_at(buffer, i), &value, sizeof value);
    else
        memcpy(value_at(buffer, i), &narrow, sizeof narrow);
}

static void make_inputs(struct buffers *b, const struct test_call *call, size_t top_k)
{
    size_t tokens = call->num_tokens, hidden_size = b->info.hidden_size, num_experts = b->info.num_experts;
    size_t rows = call->entry == TEST_COMBINE ? tokens * top_k : tokens;
    if (call->x != NULL) {
        make(&b->at[B_X], call->x_format, rows, call->entry == TEST_COMBINE ? b->info.expert_width : hidden_size,
             call->padding, false);
        put_floats(&b->at[B_X], call->x);
    }
    if (call->router_x != NULL) {
        make(&b->at[B_ROUTER_X], call->x_format, tokens, hidden_size, call->padding, false);
        put_floats(&b->at[B_ROUTER_X], call->router_x);
    }
    if (call->logits != NULL) {
        make(&b->at[B_LOGITS], call->logits_format, tokens, num_experts, call->padding, false);
        put_floats(&b->at[B_LOGITS], call->logits);
    }
    if (call->weights != NULL) {
        make(&b->at[B_WEIGHTS], call->weights_format, tokens, top_k, call->padding, false);
        put_floats(&b->at[B_WEIGHTS], call->weights);
    }
    if (call->ids != NULL) {
        make(&b->at[B_IDS], call->ids_format != 0 ? call->ids_format : MOE_FORMAT_I32, tokens, top_k, call->padding,
             false);
        for (size_t i = 0; i < tokens * top_k; i++)
            put_integer(&b->at[B_IDS], i, call->ids[i]);
    }
    if (call->token_ids != NULL) {
        make(&b->at[B_TOKEN_IDS], call->ids_format != 0 ? call->ids_format : MOE_FORMAT_I32, tokens, 1, call->padding,
             false);
        for (size_t i = 0; i < tokens; i++)
            put_integer(&b->at[B_TOKEN_IDS], i, call->token_ids[i]);
    }
    if (call->expert_map != NULL) {
        make(&b->at[B_MAP], MOE_FORMAT_I32, 1, num_experts, 0, false);
        memcpy(b->at[B_MAP].data, call->expert_map, b->at[B_MAP].size);
    }
    if (call->live_tokens != NULL) {
        make(&b->at[B_LIVE], MOE_FORMAT_I32, 1, 1, 0, false);
        memcpy(b->at[B_LIVE].data, call->live_tokens, b->at[B_LIVE].size);
    }
}

static void make_outputs(struct buffers *b, const struct test_call *call, size_t top_k)
{
    size_t tokens = call->num_tokens;
    if (call->out != NULL) {
        bool pairs = (call->flags & MOE_OUT_PAIRS) != 0;
        make(&b->at[B_OUT], call->out_format, pairs ? tokens * top_k : tokens,
             pairs ? b->info.expert_width : b->info.hidden_size, call->padding, true);
        if (call->dirt != 0)
            memset(b->at[B_OUT].data, call->dirt, b->at[B_OUT].size);
        put_floats(&b->at[B_OUT], call->start);
    }
    if (call->out_ids != NULL)
        make(&b->at[B_OUT_IDS], MOE_FORMAT_I32, tokens, top_k, call->padding, true);
    if (call->out_weights != NULL)
        make(&b->at[B_OUT_WEIGHTS], MOE_FORMAT_F32, tokens, top_k, call->padding, true);
    if (call->counts != NULL) {
        make(&b->at[B_COUNTS], MOE_FORMAT_I64, 1, b->info.num_experts, 0, true);
        memcpy(b->at[B_COUNTS].data, call->counts, b->at[B_COUNTS].size);
    }
}

static void set_views(struct buffers *b, const struct test_call *call)
{
    struct moe_layer_io *io = &b->io;
    struct moe_view *views[B_COUNT] = {&io->x, &io->router_x, &io->logits, &io->ids, &io->weights, &io->token_ids,
                                       &io->expert_map, &io->live_tokens, &io->out, &io->out_ids, &io->out_weights,
                                       &io->expert_counts, &io->workspace};
    MOE_INIT(io);
    io->flags = call->flags;
    io->num_tokens = call->num_tokens;
    io->top_k = call->top_k;
    for (size_t i = 0; i < B_COUNT; i++) {
        struct buffer *buffer = &b->at[i];
        if (buffer->data == NULL)
            continue;
        *views[i] = test_view(buffer->data, buffer->size, buffer->stride, buffer->format);
        buffer->before = test_copy(buffer->data, buffer->size);
    }
}

static bool add_workspace(struct buffers *b, struct moe_context *ctx, const struct moe_layer *layer,
                          const struct test_call *call, enum moe_status *status)
{
    size_t bytes = 0;
    *status = moe_layer_workspace_size(ctx, layer, &b->io, &bytes);
    if (*status != MOE_OK)
        return false;
    if (call->workspace_missing > bytes)
        fail_msg("the workspace has %zu bytes only", bytes);
    bytes -= call->workspace_missing;
    b->at[B_WORKSPACE].data = test_alloc(bytes);
    b->at[B_WORKSPACE].size = bytes;
    if (call->dirt != 0)
        memset(b->at[B_WORKSPACE].data, call->dirt, bytes);
    b->io.workspace = test_view(b->at[B_WORKSPACE].data, bytes, 0, MOE_FORMAT_F32);
    return true;
}

struct member {
    struct moe_context *ctx;
    const struct moe_layer *layer;
    const struct moe_layer_io *io;
    size_t ith, nth;
    enum moe_status status;
};

static void *run_member(void *arg)
{
    struct member *member = arg;
    member->status = moe_layer_forward_team(member->ctx, member->layer, member->io, member->ith, member->nth);
    return NULL;
}

static enum moe_status run_team(struct moe_context *ctx, const struct moe_layer *layer, const struct moe_layer_io *io,
                                size_t nth)
{
    struct member members[16];
    pthread_t threads[16];
    assert_in_range(nth, 1, 16);
    for (size_t i = 0; i < nth; i++) {
        members[i] = (struct member){ctx, layer, io, i, nth, MOE_OK};
        if (i > 0)
            assert_int_equal(pthread_create(&threads[i], NULL, run_member, &members[i]), 0);
    }
    run_member(&members[0]);
    for (size_t i = 1; i < nth; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        test_assert_status(members[i].status, members[0].status);
    }
    return members[0].status;
}

static enum moe_status enter(struct moe_context *ctx, const struct moe_layer *layer, const struct buffers *b,
                             const struct test_call *call)
{
    switch (call->entry) {
    case TEST_ROUTE:
        return moe_layer_route(ctx, layer, &b->io);
    case TEST_COMBINE:
        return moe_layer_combine(ctx, layer, &b->io);
    case TEST_TEAM:
        return run_team(ctx, layer, &b->io, call->team);
    default:
        return moe_layer_forward(ctx, layer, &b->io);
    }
}

/* Inputs as they were; outputs too after an error, otherwise at least their padding. */
static void check_buffer(const struct buffer *buffer, enum moe_status status)
{
    test_guards(buffer->data);
    if (buffer->before == NULL)
        return;
    if (!buffer->output || status != MOE_OK) {
        test_assert_same(buffer->data, buffer->before, buffer->size,
                         buffer->output ? "an output after an error" : "an input");
        return;
    }
    for (size_t r = 0; r + 1 < buffer->rows; r++) {
        size_t start = r * buffer->stride + buffer->cols * buffer->bytes, end = (r + 1) * buffer->stride;
        test_assert_same(buffer->data + start, buffer->before + start, end - start, "padding of an output");
    }
}

static void take(const struct buffers *b, const struct test_call *call)
{
    const struct buffer *out = &b->at[B_OUT], *ids = &b->at[B_OUT_IDS], *weights = &b->at[B_OUT_WEIGHTS];
    for (size_t i = 0; call->out != NULL && i < out->rows * out->cols; i++)
        call->out[i] = (float)moe_ref_value(out->format, value_at(out, i));
    for (size_t i = 0; call->out_ids != NULL && i < ids->rows * ids->cols; i++)
        memcpy(&call->out_ids[i], value_at(ids, i), sizeof *call->out_ids);
    for (size_t i = 0; call->out_weights != NULL && i < weights->rows * weights->cols; i++)
        memcpy(&call->out_weights[i], value_at(weights, i), sizeof *call->out_weights);
    if (call->counts != NULL)
        memcpy(call->counts, b->at[B_COUNTS].data, b->at[B_COUNTS].size);
}

enum moe_status test_call_run(struct moe_context *ctx, const struct moe_layer *layer, const struct test_call *call)
{
    struct buffers b = {0};
    enum moe_status status;
    b.info.struct_size = sizeof b.info;
    test_assert_ok(moe_layer_info(layer, &b.info));
    size_t top_k = call->top_k != 0 ? call->top_k : b.info.top_k;
    make_inputs(&b, call, top_k);
    make_outputs(&b, call, top_k);
    set_views(&b, call);
    if (add_workspace(&b, ctx, layer, call, &status))
        status = enter(ctx, layer, &b, call);
    for (size_t i = 0; i < B_COUNT; i++)
        if (b.at[i].data != NULL)
            check_buffer(&b.at[i], status);
    if (status == MOE_OK)
        take(&b, call);
    for (size_t i = 0; i < B_COUNT; i++) {
        test_release(b.at[i].data);
        test_release(b.at[i].before);
    }
    return status;
}

static double *doubles(const float *in, size_t n)
{
    if (in == NULL)
        return NULL;
    double *out = moe_ref_alloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = in[i];
    return out;
}

void test_call_ref(const struct moe_model_block *block, const struct test_call *call, double *out, double *bound,
                   int64_t *out_ids, double *out_weights)
{
    size_t hidden_size = block->latent != NULL ? block->latent->hidden_size : block->experts->hidden_size;
    size_t top_k = call->top_k != 0 ? call->top_k : block->layer->top_k, num_experts = block->layer->num_experts;
    if (num_experts == 0)
        num_experts = block->experts->num_experts + block->layer->num_zero_experts;
    bool combine = call->entry == TEST_COMBINE;
    size_t x_values = call->num_tokens * (combine ? top_k * block->experts->hidden_size : hidden_size);
    double *x = doubles(call->x, x_values);
    double *router_x = doubles(call->router_x, call->num_tokens * hidden_size);
    double *logits = doubles(call->logits, call->num_tokens * num_experts);
    double *weights = doubles(call->weights, call->num_tokens * top_k);
    struct moe_ref_call ref = {
        .num_tokens = call->num_tokens, .top_k = top_k, .x = x, .router_x = router_x, .logits = logits,
        .ids = call->ids, .weights = weights, .expert_map = call->expert_map, .token_ids = call->token_ids,
        .pairs = (call->flags & MOE_OUT_PAIRS) != 0, .combine = combine, .out = out, .bound = bound, .out_ids = out_ids,
        .out_weights = out_weights, .activations = call->activations,
    };
    moe_ref_layer(block, &ref);
    free(x);
    free(router_x);
    free(logits);
    free(weights);
}

static bool has_blocks(const struct moe_experts_params *experts)
{
    const struct moe_matrix *matrices[] = {experts->up, experts->down, experts->gate};
    for (size_t i = 0; i < 3; i++)
        if (matrices[i] != NULL && moe_format_info(matrices[i]->data.format)->block_values > 1)
            return true;
    return false;
}

enum moe_ref_activations test_rounding(const struct moe_layer *layer, const struct moe_model_block *block)
{
    struct moe_layer_info info = {.struct_size = sizeof info};
    test_assert_ok(moe_layer_info(layer, &info));
    if (info.exact)
        return MOE_REF_F32;
    if (!info.batch_invariant)
        return MOE_REF_CHOICE;
    return has_blocks(block->experts) || (block->shared != NULL && has_blocks(block->shared)) ? MOE_REF_INT8
                                                                                            : MOE_REF_BF16;
}

void test_round(float *values, size_t n, enum moe_format format)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < n; i++) {
        test_assert_ok(moe_format_quantise(format, bytes, &values[i], 1, 1));
        values[i] = (float)moe_ref_value(format, bytes);
    }
}
