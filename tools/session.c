// SPDX-License-Identifier: MIT
// Opens backend, context and model for the commands, and runs a layer on host arrays by way of the backend's memory.
#include "session.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void take_level(void *user, const char *key, const char *value)
{
    struct session *session = user;
    if (strcmp(key, "level") == 0)
        snprintf(session->level, sizeof session->level, "%s", value);
}

static int open_backend(struct session *session, const char *name, size_t threads)
{
    struct moe_error error = {0};
    enum moe_status status = moe_backend_open(name, NULL, &session->backend, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, "the backend cannot be opened");
    struct moe_context_params params;
    MOE_INIT(&params);
    params.num_threads = threads;
    status = moe_context_create(session->backend, &params, &session->ctx, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, "the threads cannot be started");
    moe_backend_describe(session->backend, take_level, session);
    return TOOL_OK;
}

/* The whole of a text file, from malloc; NULL with the error printed. */
static char *read_text(const char *path)
{
    enum { LARGEST = 16 << 20 };
    FILE *file = fopen(path, "rb");
    char *text = file ? tool_alloc(LARGEST + 1, 1) : NULL;
    size_t size = text ? fread(text, 1, LARGEST + 1, file) : 0;
    bool failed = !file || (text && ferror(file));
    if (failed)
        tool_fail(TOOL_INPUT, "%s: %s", path, strerror(errno));
    else if (text && (size > LARGEST || memchr(text, '\0', size)))
        tool_fail(TOOL_INPUT, "%s: is no description: larger than 16 MB, or not a text", path);
    else if (text) {
        text[size] = '\0';
        fclose(file);
        return text;
    }
    if (file)
        fclose(file);
    free(text);
    return NULL;
}

int session_open_model(struct session *session, const char *path, const char *describe, bool want_model)
{
    struct moe_error error = {0};
    struct moe_model_params params;
    MOE_INIT(&params);
    char *text = describe ? read_text(describe) : NULL;
    if (describe && !text)
        return TOOL_INPUT;
    params.description = text;
    enum moe_status status = moe_model_open(path, &params, &session->model, &error);
    free(text);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, path);
    session->info.struct_size = sizeof session->info;
    status = moe_model_info(session->model, &session->info);
    if (status != MOE_OK)
        return tool_fail_moe(status, NULL, path);
    if (want_model && !session->info.architecture)
        return tool_fail(TOOL_INPUT, "%s: holds tensors but no model: a Hugging Face directory or a .gguf is needed",
                         path);
    return TOOL_OK;
}

int session_open(struct session *session, const char *backend, size_t threads, const char *model, const char *describe)
{
    *session = (struct session){0};
    int code = backend ? open_backend(session, backend, threads) : TOOL_OK;
    if (code == TOOL_OK && model)
        code = session_open_model(session, model, describe, true);
    return code;
}

void session_close(struct session *session)
{
    moe_model_close(session->model);
    moe_context_destroy(session->ctx);
    moe_backend_close(session->backend);
    *session = (struct session){0};
}

/* One array of a call in the backend's memory. */
struct transfer {
    struct moe_view *view;
    enum moe_format format;
    size_t values;
    const void *in;
    void *out;
};
#define NUM_TRANSFERS 9

static int bring(struct session *session, const struct transfer *transfer, const char *what)
{
    if (!transfer->in && !transfer->out)
        return TOOL_OK;
    size_t bytes = transfer->values * moe_format_info(transfer->format)->block_bytes;
    enum moe_status status = moe_mem_alloc(session->backend, bytes ? bytes : 1, transfer->view);
    if (status != MOE_OK)
        return tool_fail_moe(status, NULL, what);
    transfer->view->format = transfer->format;
    transfer->view->size = bytes;
    if (transfer->in)
        status = moe_mem_write(session->ctx, transfer->view, transfer->in, bytes);
    else if (transfer->format == MOE_FORMAT_F32) {
        float *out = transfer->out;
        for (size_t i = 0; i < transfer->values; i++)
            out[i] = NAN;
        status = moe_mem_write(session->ctx, transfer->view, out, bytes);
    }
    return status == MOE_OK ? TOOL_OK : tool_fail_moe(status, NULL, what);
}

static int forward(struct session *session, const struct layer_call *call, struct moe_layer_io *io, const char *what)
{
    size_t bytes = 0;
    enum moe_status status = moe_layer_workspace_size(session->ctx, call->layer, io, &bytes);
    if (status == MOE_OK)
        status = moe_mem_alloc(session->backend, bytes ? bytes : 1, &io->workspace);
    if (status == MOE_OK && call->route_only)
        status = moe_layer_route(session->ctx, call->layer, io);
    else if (status == MOE_OK)
        status = moe_layer_forward(session->ctx, call->layer, io);
    if (status == MOE_OK)
        status = moe_context_sync(session->ctx);
    return status == MOE_OK ? TOOL_OK : tool_fail_moe(status, NULL, what);
}

int session_call(struct session *session, const struct layer_call *call, const char *what)
{
    struct moe_layer_io io;
    MOE_INIT(&io);
    io.num_tokens = call->num_tokens;
    io.top_k = call->top_k;
    io.flags = call->pairs ? MOE_OUT_PAIRS : 0;
    size_t width = call->num_tokens * call->hidden_size, pairs = call->num_tokens * call->top_k;
    size_t out = call->pairs ? pairs * call->expert_width : width;
    const struct transfer transfers[NUM_TRANSFERS] = {
        {&io.x, MOE_FORMAT_F32, width, call->x, NULL},
        {&io.router_x, MOE_FORMAT_F32, width, call->router_x, NULL},
        {&io.logits, MOE_FORMAT_F32, call->num_tokens * call->num_experts, call->logits, NULL},
        {&io.token_ids, MOE_FORMAT_I64, call->num_tokens, call->token_ids, NULL},
        {&io.ids, MOE_FORMAT_I64, pairs, call->ids, NULL},
        {&io.weights, MOE_FORMAT_F32, pairs, call->weights, NULL},
        {&io.out, MOE_FORMAT_F32, out, NULL, call->out},
        {&io.out_ids, MOE_FORMAT_I32, pairs, NULL, call->out_ids},
        {&io.out_weights, MOE_FORMAT_F32, pairs, NULL, call->out_weights},
    };
    int code = TOOL_OK;
    for (size_t i = 0; i < NUM_TRANSFERS && code == TOOL_OK; i++)
        code = bring(session, &transfers[i], what);
    if (code == TOOL_OK)
        code = forward(session, call, &io, what);
    for (size_t i = 0; i < NUM_TRANSFERS; i++) {
        struct moe_view *view = transfers[i].view;
        if (code == TOOL_OK && transfers[i].out) {
            enum moe_status status = moe_mem_read(session->ctx, transfers[i].out, view, view->size);
            code = status == MOE_OK ? TOOL_OK : tool_fail_moe(status, NULL, what);
        }
        if (view->base)
            moe_mem_free(session->backend, view);
    }
    if (io.workspace.base)
        moe_mem_free(session->backend, &io.workspace);
    return code;
}
