// SPDX-License-Identifier: MIT
// The composer's routing. Rows come through windows, so that a batch costs a read-back or two, not one a token.
#include "compose_route.h"

#include <math.h>
#include <string.h>

#include "half.h"
#include "route.h"
#include "view.h"

enum { CHUNK_VALUES = 1024 };

static float load_float(enum moe_format format, const unsigned char *at)
{
    uint16_t half;
    float value;
    if (format == MOE_FORMAT_F32) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&half, at, sizeof half);
    return format == MOE_FORMAT_F16 ? moe_f16_to_f32(half) : moe_bf16_to_f32(half);
}

static size_t value_bytes(const struct moe_view *view)
{
    return moe_format_info(view->format)->block_bytes;
}

/* ---- windows ---- */

static void open_window(struct moe_window *window, const struct moe_compose_call *call, size_t index,
                        const struct moe_view *view, size_t cols)
{
    *window = (struct moe_window){.view = view, .num_rows = call->io->num_tokens};
    if (view->base == NULL)
        return;
    window->row_bytes = cols * value_bytes(view);
    window->buffer = call->ctx->scratch.window + index * MOE_WINDOW_BYTES;
}

/* Row r, in host memory until the next call. A row is at most MOE_MAX_EXPERTS values of 8 bytes: it fits. */
static enum moe_status window_row(struct moe_context *ctx, struct moe_window *window, size_t r,
                                  const unsigned char **out)
{
    size_t stride = window->view->stride;
    if (r < window->first || r >= window->first + window->count) {
        size_t count = 1;
        if (stride <= MOE_WINDOW_BYTES - window->row_bytes)
            count += (MOE_WINDOW_BYTES - window->row_bytes) / (stride > 0 ? stride : 1);
        if (count > window->num_rows - r)
            count = window->num_rows - r;
        struct moe_view rows = moe_view_row(window->view, r);
        MOE_TRY(moe_mem_read(ctx, window->buffer, &rows, (count - 1) * stride + window->row_bytes));
        window->first = r;
        window->count = count;
    }
    *out = window->buffer + (r - window->first) * stride;
    return MOE_OK;
}

/* ---- reading ---- */

/* squares: MOE_ROUTE_LANES sums of squares of x, NULL: not wanted. */
static enum moe_status host_dots(struct moe_context *ctx, const struct moe_view *x, const float *matrix, size_t rows,
                                 size_t cols, double *y, double *squares)
{
    unsigned char bytes[CHUNK_VALUES * sizeof(float)];
    float chunk[CHUNK_VALUES];
    size_t value = value_bytes(x);
    for (size_t c0 = 0; c0 < cols; c0 += CHUNK_VALUES) {
        size_t n = cols - c0 < CHUNK_VALUES ? cols - c0 : CHUNK_VALUES;
        struct moe_view part = *x;
        part.offset += c0 * value;
        part.size -= c0 * value;
        MOE_TRY(moe_mem_read(ctx, bytes, &part, n * value));
        for (size_t c = 0; c < n; c++)
            chunk[c] = load_float(x->format, bytes + c * value);
        if (squares != NULL)
            moe_route_squares(squares, chunk, n);
        for (size_t r = 0; r < rows; r++) {
            const float *row = matrix + r * cols + c0;
            double sum = 0.0;
            for (size_t c = 0; c < n; c++)
                sum += (double)row[c] * (double)chunk[c];
            y[r] += sum;
        }
    }
    return MOE_OK;
}

enum moe_status moe_compose_host_dots(struct moe_context *ctx, const struct moe_view *x, const float *matrix,
                                      size_t rows, size_t cols, double *y)
{
    return host_dots(ctx, x, matrix, rows, cols, y, NULL);
}

/* The layer's router: its norm, its bias. */
static enum moe_status compute_logits(const struct moe_compose_call *call, size_t t, double *logits)
{
    const struct moe_router *router = call->desc->router;
    const struct moe_view *x = call->io->router_x.base != NULL ? &call->io->router_x : &call->io->x;
    struct moe_view row = moe_view_row(x, t);
    size_t num_experts = call->desc->num_experts, hidden_size = call->desc->hidden_size;
    double squares[MOE_ROUTE_LANES] = {0};
    bool biased = router->host_bias != NULL && !router->norm;
    for (size_t e = 0; e < num_experts; e++)
        logits[e] = biased ? (double)router->host_bias[e] : 0.0;
    MOE_TRY(host_dots(call->ctx, &row, router->host_matrix, num_experts, hidden_size, logits,
                      router->norm ? squares : NULL));
    if (router->norm)
        moe_route_norm(router, logits, squares, hidden_size);
    return MOE_OK;
}

static enum moe_status read_logits(struct moe_routing_reader *reader, size_t t, double *logits)
{
    const struct moe_compose_call *call = reader->call;
    if (reader->logits.buffer == NULL)
        return compute_logits(call, t, logits);
    const unsigned char *row;
    size_t value = value_bytes(reader->logits.view);
    MOE_TRY(window_row(call->ctx, &reader->logits, t, &row));
    for (size_t e = 0; e < call->desc->num_experts; e++)
        logits[e] = (double)load_float(reader->logits.view->format, row + e * value);
    return MOE_OK;
}

/* Value i of a row of i32 or i64. */
static int64_t load_integer(enum moe_format format, const unsigned char *row, size_t i)
{
    int32_t narrow;
    int64_t wide;
    if (format == MOE_FORMAT_I32) {
        memcpy(&narrow, row + i * sizeof narrow, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, row + i * sizeof wide, sizeof wide);
    return wide;
}

static enum moe_status read_given(struct moe_routing_reader *reader, size_t t, struct moe_routed *routed)
{
    const struct moe_compose_call *call = reader->call;
    struct moe_host_scratch *scratch = &call->ctx->scratch;
    const unsigned char *ids, *weights = NULL;
    MOE_TRY(window_row(call->ctx, &reader->ids, t, &ids));
    if (reader->weights.buffer != NULL)
        MOE_TRY(window_row(call->ctx, &reader->weights, t, &weights));
    for (size_t k = 0; k < call->io->top_k; k++) {
        int64_t id = load_integer(reader->ids.view->format, ids, k);
        bool in_range = id >= 0 && (uint64_t)id < call->desc->num_experts;
        scratch->ids[k] = in_range ? (int32_t)id : -1;
        routed->empty += !in_range;
        scratch->weights[k] = 0.0f;
        if (weights != NULL)
            scratch->weights[k] =
                load_float(reader->weights.view->format, weights + k * value_bytes(reader->weights.view));
    }
    return MOE_OK;
}

static void leave_empty(struct moe_host_scratch *scratch, size_t top_k)
{
    for (size_t k = 0; k < top_k; k++) {
        scratch->ids[k] = -1;
        scratch->weights[k] = 0.0f;
    }
}

static enum moe_status read_routed(struct moe_routing_reader *reader, size_t t, struct moe_routed *routed)
{
    const struct moe_compose_call *call = reader->call;
    const struct moe_router *router = call->desc->router;
    struct moe_host_scratch *scratch = &call->ctx->scratch;
    const int32_t *chosen = NULL;
    size_t top_k = call->io->top_k;
    if (router->hash_table != NULL) {
        const unsigned char *token;
        MOE_TRY(window_row(call->ctx, &reader->token_ids, t, &token));
        chosen = moe_route_hash(router, load_integer(reader->token_ids.view->format, token, 0));
        if (chosen == NULL) {
            leave_empty(scratch, top_k);
            routed->empty = top_k;
            return MOE_OK;
        }
    }
    MOE_TRY(read_logits(reader, t, scratch->logits));
    routed->finite =
        moe_route_row(router, scratch->logits, chosen, top_k, scratch->ids, scratch->weights, scratch->route);
    return MOE_OK;
}

enum moe_status moe_compose_open_routing(struct moe_routing_reader *reader, const struct moe_compose_call *call)
{
    const struct moe_layer_io *io = call->io;
    struct moe_host_scratch *scratch = &call->ctx->scratch;
    size_t num_experts = call->desc->num_experts;
    *reader = (struct moe_routing_reader){.call = call, .live_tokens = io->num_tokens};
    open_window(&reader->logits, call, 0, &io->logits, num_experts);
    open_window(&reader->ids, call, 1, &io->ids, io->top_k);
    open_window(&reader->weights, call, 2, &io->weights, io->top_k);
    open_window(&reader->token_ids, call, 3, &io->token_ids, 1);
    memset(scratch->counts, 0, num_experts * sizeof *scratch->counts);
    if (io->expert_map.base != NULL)
        MOE_TRY(moe_mem_read(call->ctx, scratch->map, &io->expert_map, num_experts * sizeof *scratch->map));
    if (io->live_tokens.base != NULL) {
        int32_t live;
        MOE_TRY(moe_mem_read(call->ctx, &live, &io->live_tokens, sizeof live));
        reader->live_tokens = live < 0 ? 0 : (size_t)live;
        if (reader->live_tokens > io->num_tokens)
            reader->live_tokens = io->num_tokens;
    }
    return MOE_OK;
}

enum moe_status moe_compose_read_routing(struct moe_routing_reader *reader, size_t t, struct moe_routed *routed)
{
    const struct moe_compose_call *call = reader->call;
    struct moe_host_scratch *scratch = &call->ctx->scratch;
    *routed = (struct moe_routed){.ids = scratch->ids, .weights = scratch->weights, .finite = true};
    if (t >= reader->live_tokens) {
        leave_empty(scratch, call->io->top_k);
        return MOE_OK;
    }
    return reader->ids.buffer != NULL ? read_given(reader, t, routed) : read_routed(reader, t, routed);
}

enum moe_status moe_compose_check_strict(struct moe_routing_reader *reader)
{
    struct moe_routed routed;
    for (size_t t = 0; t < reader->live_tokens; t++) {
        MOE_TRY(moe_compose_read_routing(reader, t, &routed));
        if (!routed.finite)
            return MOE_ERR_NONFINITE;
        if (routed.empty > 0)
            return MOE_ERR_RANGE;
    }
    return MOE_OK;
}

/* ---- results ---- */

int32_t moe_compose_matrix(const struct moe_compose_call *call, int32_t id)
{
    if (id < 0)
        return -1;
    int32_t matrix = call->io->expert_map.base != NULL ? call->ctx->scratch.map[id] : id;
    if ((size_t)id >= call->desc->num_experts - call->desc->num_zero_experts)
        return call->io->expert_map.base != NULL && matrix == -1 ? -1 : (int32_t)call->experts_present;
    return matrix >= 0 && (size_t)matrix < call->experts_present ? matrix : -1;
}

enum moe_status moe_compose_publish(struct moe_routing_reader *reader, size_t t, const struct moe_routed *routed)
{
    const struct moe_compose_call *call = reader->call;
    const struct moe_layer_io *io = call->io;
    struct moe_context *ctx = call->ctx;
    if (io->out_ids.base != NULL) {
        struct moe_view row = moe_view_row(&io->out_ids, t);
        MOE_TRY(moe_mem_write(ctx, &row, routed->ids, io->top_k * sizeof *routed->ids));
    }
    if (io->out_weights.base != NULL) {
        struct moe_view row = moe_view_row(&io->out_weights, t);
        MOE_TRY(moe_mem_write(ctx, &row, routed->weights, io->top_k * sizeof *routed->weights));
    }
    if (t >= reader->live_tokens)
        return MOE_OK;
    ctx->stats.nonfinite_rows += !routed->finite;
    for (size_t k = 0; k < io->top_k; k++) {
        ctx->stats.skipped_pairs += moe_compose_matrix(call, routed->ids[k]) < 0;
        if (routed->ids[k] >= 0)
            ctx->scratch.counts[routed->ids[k]]++;
    }
    return MOE_OK;
}

enum moe_status moe_compose_close_routing(struct moe_routing_reader *reader)
{
    const struct moe_compose_call *call = reader->call;
    const struct moe_view *view = &call->io->expert_counts;
    int64_t *counts = call->ctx->scratch.counts, before[64];
    if (view->base == NULL)
        return MOE_OK;
    for (size_t e = 0; e < call->desc->num_experts; e += MOE_ARRAY_SIZE(before)) {
        size_t n = call->desc->num_experts - e;
        if (n > MOE_ARRAY_SIZE(before))
            n = MOE_ARRAY_SIZE(before);
        struct moe_view part = *view;
        part.offset += e * sizeof *counts;
        part.size -= e * sizeof *counts;
        MOE_TRY(moe_mem_read(call->ctx, before, &part, n * sizeof *counts));
        for (size_t i = 0; i < n; i++)
            counts[e + i] = (int64_t)((uint64_t)counts[e + i] + (uint64_t)before[i]);
        MOE_TRY(moe_mem_write(call->ctx, &part, counts + e, n * sizeof *counts));
    }
    return MOE_OK;
}
