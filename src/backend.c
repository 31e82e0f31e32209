// SPDX-License-Identifier: MIT
// Backends and contexts: opening by name or by table, memory, counters. Passes calls on; knows no backend's name.
#include <string.h>

#include "objects.h"
#include "plugin.h"
#include "route.h"

#define X(name) extern const struct moe_backend_ops moe_##name##_ops;
#include "backends.def"
#undef X

static const struct moe_backend_ops *const backends[] = {
#define X(name) &moe_##name##_ops,
#include "backends.def"
#undef X
};

#define X(name) #name " "
static const char backend_list[] =
#include "backends.def"
#include "plugins.def"
    "";
#undef X

const char *moe_version(void)
{
    return MOE_VERSION;
}

uint32_t moe_abi_version(void)
{
    return MOE_ABI_VERSION;
}

const char *moe_backend_name(size_t i)
{
    return i < MOE_ARRAY_SIZE(backends) ? backends[i]->name : moe_plugin_name(i - MOE_ARRAY_SIZE(backends));
}

/* The first required function that the table lacks; NULL: it is complete. */
static const char *missing_function(const struct moe_backend_ops *ops)
{
    const struct {
        bool present;
        const char *name;
    } required[] = {
        {ops->open != NULL, "open"},
        {ops->close != NULL, "close"},
        {ops->context_open != NULL, "context_open"},
        {ops->context_close != NULL, "context_close"},
        {ops->mem_alloc != NULL, "mem_alloc"},
        {ops->mem_free != NULL, "mem_free"},
        {ops->mem_write != NULL, "mem_write"},
        {ops->mem_read != NULL, "mem_read"},
        {ops->sync != NULL, "sync"},
        {ops->copy != NULL, "copy"},
        {ops->linear != NULL, "linear"},
        {ops->glu != NULL, "glu"},
        {ops->scaled_add != NULL, "scaled_add"},
    };
    for (size_t i = 0; i < MOE_ARRAY_SIZE(required); i++)
        if (!required[i].present)
            return required[i].name;
    bool any = ops->layer_open || ops->layer_close || ops->layer_workspace_size || ops->layer_forward ||
               ops->layer_route || ops->layer_combine;
    bool all = ops->layer_open && ops->layer_close && ops->layer_workspace_size && ops->layer_forward &&
               ops->layer_route && ops->layer_combine;
    return any == all ? NULL : "layer_* (all of them, or none)";
}

enum moe_status moe_backend_open_ops(const struct moe_backend_ops *ops, const char *device, const struct moe_env *env,
                                     struct moe_backend **out, struct moe_error *error)
{
    if (out == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_backend_open_ops: out is NULL");
    *out = NULL;
    if (ops == NULL || ops->abi != MOE_BACKEND_ABI)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the table of the backend is not of MOE_BACKEND_ABI %d",
                        MOE_BACKEND_ABI);
    const char *missing = ops->name == NULL ? "name" : missing_function(ops);
    if (missing != NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the table of backend %s lacks %s",
                        ops->name != NULL ? ops->name : "(no name)", missing);
    struct moe_env own = {.struct_size = sizeof own};
    if (env != NULL && (moe_read_params(&own, sizeof own, env) != MOE_OK || !own.alloc != !own.free))
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_env: struct_size is wrong, or only one of alloc and free is set");
    struct moe_backend *backend = moe_alloc(&own, sizeof *backend);
    if (backend == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for backend %s", ops->name);
    backend->env = own;
    backend->ops = ops;
    struct moe_error said = {.status = MOE_OK};
    enum moe_status status = ops->open(device, &backend->env, &backend->self, &said);
    if (status != MOE_OK) {
        moe_explain(error, status, &said, ops->name);
        moe_free(&own, backend, sizeof *backend);
        return status;
    }
    *out = backend;
    return MOE_OK;
}

static bool is_name(const char *name, const char *text, size_t length)
{
    return strlen(name) == length && strncmp(name, text, length) == 0;
}

static enum moe_status open_plugin(const char *name, const char *device, const struct moe_env *env,
                                   struct moe_backend **out, struct moe_error *error)
{
    const struct moe_backend_ops *ops;
    void *library;
    MOE_TRY(moe_plugin_load(name, &ops, &library, error));
    enum moe_status status = moe_backend_open_ops(ops, device, env, out, error);
    if (status == MOE_OK)
        (*out)->library = library;
    else
        moe_plugin_unload(library);
    return status;
}

enum moe_status moe_backend_open(const char *name, const struct moe_env *env, struct moe_backend **out,
                                 struct moe_error *error)
{
    if (out == NULL || name == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_backend_open: name or out is NULL");
    *out = NULL;
    size_t length = strcspn(name, ":");
    const char *device = name[length] == ':' ? name + length + 1 : NULL;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(backends); i++)
        if (is_name(backends[i]->name, name, length))
            return moe_backend_open_ops(backends[i], device, env, out, error);
    const char *plugin;
    for (size_t i = 0; (plugin = moe_plugin_name(i)) != NULL; i++)
        if (is_name(plugin, name, length))
            return open_plugin(plugin, device, env, out, error);
    return moe_fail(error, MOE_ERR_UNSUPPORTED, "this library has no backend \"%.*s\"; it has: %s",
                    (int)(length < 64 ? length : 64), name, backend_list);
}

void moe_backend_close(struct moe_backend *backend)
{
    if (backend == NULL)
        return;
    backend->ops->close(backend->self);
    struct moe_env env = backend->env;
    void *library = backend->library;
    moe_free(&env, backend, sizeof *backend);
    moe_plugin_unload(library);
}

enum moe_status moe_backend_describe(const struct moe_backend *backend,
                                     void (*line)(void *user, const char *key, const char *value), void *user)
{
    if (backend == NULL || line == NULL)
        return MOE_ERR_ARGUMENT;
    line(user, "backend", backend->ops->name);
    line(user, "fused layer", backend->ops->layer_open != NULL ? "yes" : "no");
    if (backend->ops->describe != NULL)
        backend->ops->describe(backend->self, line, user);
    return MOE_OK;
}

enum moe_status moe_mem_alloc(struct moe_backend *backend, size_t size, struct moe_view *out)
{
    if (backend == NULL || out == NULL)
        return MOE_ERR_ARGUMENT;
    memset(out, 0, sizeof *out);
    return backend->ops->mem_alloc(backend->self, size, out);
}

void moe_mem_free(struct moe_backend *backend, const struct moe_view *mem)
{
    if (backend != NULL && mem != NULL && mem->base != NULL)
        backend->ops->mem_free(backend->self, mem);
}

enum moe_status moe_mem_write(struct moe_context *ctx, const struct moe_view *dst, const void *src, size_t size)
{
    if (ctx == NULL || dst == NULL || dst->base == NULL || src == NULL || size > dst->size)
        return MOE_ERR_ARGUMENT;
    return ctx->backend->ops->mem_write(ctx->backend->self, ctx->ctx, dst, src, size);
}

enum moe_status moe_mem_read(struct moe_context *ctx, void *dst, const struct moe_view *src, size_t size)
{
    if (ctx == NULL || dst == NULL || src == NULL || src->base == NULL || size > src->size)
        return MOE_ERR_ARGUMENT;
    return ctx->backend->ops->mem_read(ctx->backend->self, ctx->ctx, dst, src, size);
}

/* ---- contexts ---- */

static void free_scratch(const struct moe_env *env, struct moe_host_scratch *scratch)
{
    moe_free(env, scratch->window, MOE_WINDOWS * (size_t)MOE_WINDOW_BYTES);
    moe_free(env, scratch->logits, MOE_MAX_EXPERTS * sizeof(double));
    moe_free(env, scratch->route, moe_route_scratch(MOE_MAX_EXPERTS) * sizeof(double));
    moe_free(env, scratch->weights, MOE_MAX_EXPERTS * sizeof(float));
    moe_free(env, scratch->ids, MOE_MAX_EXPERTS * sizeof(int32_t));
    moe_free(env, scratch->map, MOE_MAX_EXPERTS * sizeof(int32_t));
    moe_free(env, scratch->counts, MOE_MAX_EXPERTS * sizeof(int64_t));
}

static bool alloc_scratch(const struct moe_env *env, struct moe_host_scratch *scratch)
{
    scratch->window = moe_alloc(env, MOE_WINDOWS * (size_t)MOE_WINDOW_BYTES);
    scratch->logits = moe_alloc(env, MOE_MAX_EXPERTS * sizeof(double));
    scratch->route = moe_alloc(env, moe_route_scratch(MOE_MAX_EXPERTS) * sizeof(double));
    scratch->weights = moe_alloc(env, MOE_MAX_EXPERTS * sizeof(float));
    scratch->ids = moe_alloc(env, MOE_MAX_EXPERTS * sizeof(int32_t));
    scratch->map = moe_alloc(env, MOE_MAX_EXPERTS * sizeof(int32_t));
    scratch->counts = moe_alloc(env, MOE_MAX_EXPERTS * sizeof(int64_t));
    return scratch->window && scratch->logits && scratch->route && scratch->weights && scratch->ids && scratch->map &&
           scratch->counts;
}

enum moe_status moe_context_create(struct moe_backend *backend, const struct moe_context_params *params,
                                   struct moe_context **out, struct moe_error *error)
{
    if (out == NULL || backend == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_context_create: backend or out is NULL");
    *out = NULL;
    struct moe_context_params own = {.struct_size = sizeof own};
    if (params != NULL && MOE_READ_PARAMS(&own, params) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_context_params: without struct_size, or with unknown fields");
    struct moe_context *ctx = moe_alloc(&backend->env, sizeof *ctx);
    if (ctx == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a context");
    ctx->backend = backend;
    struct moe_error said = {.status = MOE_OK};
    enum moe_status status = MOE_ERR_MEMORY;
    if (!alloc_scratch(&backend->env, &ctx->scratch))
        moe_fail(error, status, "no memory for the scratch of a context");
    else
        status = moe_explain(error, backend->ops->context_open(backend->self, &own, &ctx->ctx, &said), &said,
                             backend->ops->name);
    if (status != MOE_OK) {
        free_scratch(&backend->env, &ctx->scratch);
        moe_free(&backend->env, ctx, sizeof *ctx);
        return status;
    }
    *out = ctx;
    return MOE_OK;
}

void moe_context_destroy(struct moe_context *ctx)
{
    if (ctx == NULL)
        return;
    struct moe_backend *backend = ctx->backend;
    backend->ops->context_close(ctx->ctx);
    free_scratch(&backend->env, &ctx->scratch);
    moe_free(&backend->env, ctx, sizeof *ctx);
}

enum moe_status moe_context_set_stream(struct moe_context *ctx, void *stream)
{
    if (ctx == NULL)
        return MOE_ERR_ARGUMENT;
    if (ctx->backend->ops->set_stream == NULL)
        return MOE_ERR_UNSUPPORTED;
    return ctx->backend->ops->set_stream(ctx->ctx, stream);
}

enum moe_status moe_context_sync(struct moe_context *ctx)
{
    return ctx == NULL ? MOE_ERR_ARGUMENT : ctx->backend->ops->sync(ctx->ctx);
}

enum moe_status moe_context_stats(struct moe_context *ctx, struct moe_stats *out, bool reset)
{
    if (ctx == NULL)
        return MOE_ERR_ARGUMENT;
    struct moe_stats stats = ctx->stats;
    if (out == NULL || out->struct_size < sizeof out->struct_size)
        return MOE_ERR_ARGUMENT;
    if (ctx->backend->ops->context_stats != NULL)
        MOE_TRY(ctx->backend->ops->context_stats(ctx->ctx, &stats, reset));
    MOE_TRY(moe_write_params(out, &stats, sizeof stats));
    if (reset)
        memset(&ctx->stats, 0, sizeof ctx->stats);
    return MOE_OK;
}
