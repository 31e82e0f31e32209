// SPDX-License-Identifier: MIT
// The CUDA backend: devices, contexts, memory, and its table of functions.
#include "cuda/cuda.h"

#include <stdio.h>
#include <string.h>

#include "check.h"
#include "cuda/formats.h"
#include "cuda/layer_cuda.h"
#include "cuda/primitives.h"

/* ---- CUDA's state and errors ---- */

cudaError_t moe_cuda_enter(const struct moe_cuda *device, struct moe_cuda_scope *scope)
{
    cudaError_t error = cudaGetDevice(&scope->device);
    if (error != cudaSuccess)
        return error;
    scope->mode = cudaStreamCaptureModeRelaxed;
    error = cudaThreadExchangeStreamCaptureMode(&scope->mode);
    if (error != cudaSuccess || scope->device == device->index)
        return error;
    error = cudaSetDevice(device->index);
    if (error != cudaSuccess)
        (void)cudaThreadExchangeStreamCaptureMode(&scope->mode);
    return error;
}

void moe_cuda_leave(const struct moe_cuda *device, struct moe_cuda_scope *scope)
{
    (void)cudaThreadExchangeStreamCaptureMode(&scope->mode);
    if (scope->device != device->index)
        (void)cudaSetDevice(scope->device);
}

enum moe_status moe_cuda_status(cudaError_t error)
{
    if (error == cudaSuccess)
        return MOE_OK;
    (void)cudaGetLastError();
    if (error >= cudaErrorStreamCaptureUnsupported && error <= cudaErrorStreamCaptureWrongThread)
        return MOE_ERR_UNSUPPORTED;
    switch (error) {
    case cudaErrorMemoryAllocation:
        return MOE_ERR_MEMORY;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidResourceHandle:
        return MOE_ERR_ARGUMENT;
    default:
        return MOE_ERR_DEVICE;
    }
}

cudaError_t moe_cuda_refuse_capture(const struct moe_cuda_context *ctx)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t error = cudaStreamIsCapturing(ctx->stream, &capture);
    if (error != cudaSuccess)
        return error;
    return capture == cudaStreamCaptureStatusNone ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

/* ---- devices ---- */

/* What follows "cuda:", a number; NULL: 0. false: no number. */
static bool parse_index(const char *device, int *index)
{
    enum { MOST_DIGITS = 6 };
    *index = 0;
    if (device == NULL)
        return true;
    size_t length = strlen(device);
    if (length == 0 || length > MOST_DIGITS || strspn(device, "0123456789") != length)
        return false;
    for (size_t i = 0; i < length; i++)
        *index = *index * 10 + (device[i] - '0');
    return true;
}

/* Why the device cannot be used. */
static enum moe_status explain_start(const struct moe_cuda *device, cudaError_t result, struct moe_error *error)
{
    int driver = device->driver_version, runtime = device->runtime_version;
    enum moe_status status = moe_cuda_status(result);
    if (status != MOE_ERR_MEMORY)
        status = MOE_ERR_UNSUPPORTED;
    if (result == cudaErrorNoDevice)
        return moe_fail(error, status, "there is no GPU that CUDA shows to this process");
    if (result == cudaErrorInsufficientDriver && driver == 0)
        return moe_fail(error, status, "there is no driver of an NVIDIA GPU on this machine");
    if (result == cudaErrorInsufficientDriver)
        return moe_fail(error, status, "the GPU's driver is for CUDA %d.%d, and the backend needs one for CUDA %d.%d",
                        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return moe_fail(error, status, "CUDA cannot use GPU %d: %s", device->index, cudaGetErrorString(result));
}

static cudaError_t read_attribute(size_t *out, enum cudaDeviceAttr attribute, int index)
{
    int value = 0;
    cudaError_t error = cudaDeviceGetAttribute(&value, attribute, index);
    *out = (size_t)value;
    return error;
}

/* What the device is. */
static cudaError_t read_device(struct moe_cuda *device)
{
    struct cudaDeviceProp properties;
    size_t major = 0, minor = 0, num_sms = 0;
    const struct {
        size_t *out;
        enum cudaDeviceAttr attribute;
    } attributes[] = {
        {&major, cudaDevAttrComputeCapabilityMajor},
        {&minor, cudaDevAttrComputeCapabilityMinor},
        {&num_sms, cudaDevAttrMultiProcessorCount},
        {&device->shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin},
        {&device->l2_bytes, cudaDevAttrL2CacheSize},
    };
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(attributes) && error == cudaSuccess; i++)
        error = read_attribute(attributes[i].out, attributes[i].attribute, device->index);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, device->index);
    if (error != cudaSuccess)
        return error;
    device->capability = (int)(10 * major + minor);
    device->num_sms = (int)num_sms;
    device->memory_bytes = properties.totalGlobalMem;
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    return cudaSuccess;
}

/* Everything that may fail on the device itself. */
static cudaError_t start_device(struct moe_cuda *device)
{
    struct moe_cuda_scope scope;
    cudaError_t error = moe_cuda_enter(device, &scope);
    if (error != cudaSuccess)
        return error;
    error = moe_cuda_primitives_load(&device->code_version);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&device->transfers, cudaStreamNonBlocking);
    moe_cuda_leave(device, &scope);
    return error;
}

static enum moe_status find_device(struct moe_cuda *device, const char *text, struct moe_error *error)
{
    int count = 0;
    if (!parse_index(text, &device->index))
        return moe_fail(error, MOE_ERR_ARGUMENT, "backend cuda takes the number of a GPU, cuda:0, not \"%.40s\"", text);
    if (cudaDriverGetVersion(&device->driver_version) != cudaSuccess ||
        cudaRuntimeGetVersion(&device->runtime_version) != cudaSuccess)
        (void)cudaGetLastError();
    cudaError_t result = cudaGetDeviceCount(&count);
    if (result == cudaSuccess && count == 0)
        result = cudaErrorNoDevice;
    if (result != cudaSuccess)
        return explain_start(device, result, error);
    if (device->index >= count)
        return moe_fail(error, MOE_ERR_UNSUPPORTED,
                        "there is no GPU %d: CUDA shows %d to this process, numbered from 0", device->index, count);
    result = read_device(device);
    if (result != cudaSuccess)
        return explain_start(device, result, error);
    if (device->capability < MOE_CUDA_LEAST_CAPABILITY)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "GPU %d (%.80s) has compute capability %d.%d, and %d.%d is needed",
                        device->index, device->name, device->capability / 10, device->capability % 10,
                        MOE_CUDA_LEAST_CAPABILITY / 10, MOE_CUDA_LEAST_CAPABILITY % 10);
    result = start_device(device);
    return result == cudaSuccess ? MOE_OK : explain_start(device, result, error);
}

static enum moe_status cuda_open(const char *text, const struct moe_env *env, void **self, struct moe_error *error)
{
    struct moe_cuda *device = moe_alloc(env, sizeof *device);
    if (device == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for backend cuda");
    if (env != NULL)
        device->env = *env;
    enum moe_status status = find_device(device, text, error);
    if (status == MOE_OK)
        *self = device;
    else
        moe_free(env, device, sizeof *device);
    return status;
}

/* Nothing here can be helped if it fails, as after an error that stays all does. */
static void cuda_close(void *self)
{
    struct moe_cuda *device = self;
    struct moe_cuda_scope scope;
    struct moe_env env = device->env;
    cudaError_t error = moe_cuda_enter(device, &scope);
    if (error == cudaSuccess) {
        error = cudaStreamDestroy(device->transfers);
        moe_cuda_leave(device, &scope);
    }
    (void)moe_cuda_status(error);
    moe_free(&env, device, sizeof *device);
}

/* ---- contexts ---- */

static void free_context(struct moe_cuda_context *ctx)
{
    struct moe_cuda_scope scope;
    struct moe_env env = ctx->device->env;
    cudaError_t error = moe_cuda_enter(ctx->device, &scope);
    if (error == cudaSuccess) {
        if (ctx->counters != NULL)
            (void)moe_cuda_status(cudaFree(ctx->counters));
        if (ctx->own != NULL)
            error = cudaStreamDestroy(ctx->own);
        moe_cuda_leave(ctx->device, &scope);
    }
    (void)moe_cuda_status(error);
    moe_free(&env, ctx, sizeof *ctx);
}

static cudaError_t start_context(struct moe_cuda_context *ctx)
{
    struct moe_cuda_scope scope;
    void *counters = NULL;
    cudaError_t error = moe_cuda_enter(ctx->device, &scope);
    if (error != cudaSuccess)
        return error;
    error = cudaStreamCreateWithFlags(&ctx->own, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaMalloc(&counters, sizeof *ctx->counters);
    ctx->counters = counters;
    if (error == cudaSuccess)
        error = cudaMemsetAsync(counters, 0, sizeof *ctx->counters, ctx->own);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(ctx->own);
    moe_cuda_leave(ctx->device, &scope);
    return error;
}

static enum moe_status cuda_context_open(void *self, const struct moe_context_params *params, void **out,
                                         struct moe_error *error)
{
    struct moe_cuda *device = self;
    (void)params;    /* about host threads */
    struct moe_cuda_context *ctx = moe_alloc(&device->env, sizeof *ctx);
    if (ctx == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a context of backend cuda");
    ctx->device = device;
    cudaError_t result = start_context(ctx);
    if (result != cudaSuccess) {
        enum moe_status status = moe_cuda_status(result);
        free_context(ctx);
        return moe_fail(error, status, "GPU %d gives no stream and counters for a context: %s", device->index,
                        cudaGetErrorString(result));
    }
    ctx->stream = ctx->own;
    *out = ctx;
    return MOE_OK;
}

static void cuda_context_close(void *ctx)
{
    free_context(ctx);
}

static enum moe_status cuda_set_stream(void *ctx, void *stream)
{
    ((struct moe_cuda_context *)ctx)->stream = stream;
    return MOE_OK;
}

static cudaError_t wait_for(const struct moe_cuda_context *ctx)
{
    cudaError_t error = moe_cuda_refuse_capture(ctx);
    return error == cudaSuccess ? cudaStreamSynchronize(ctx->stream) : error;
}

static enum moe_status cuda_sync(void *ctx)
{
    const struct moe_cuda_context *c = ctx;
    struct moe_cuda_scope scope;
    cudaError_t error = moe_cuda_enter(c->device, &scope);
    if (error == cudaSuccess) {
        error = wait_for(c);
        moe_cuda_leave(c->device, &scope);
    }
    return moe_cuda_status(error);
}

static cudaError_t read_counters(const struct moe_cuda_context *ctx, struct moe_cuda_counters *counters, bool reset)
{
    cudaError_t error = moe_cuda_refuse_capture(ctx);
    if (error == cudaSuccess)
        error = cudaMemcpyAsync(counters, ctx->counters, sizeof *counters, cudaMemcpyDeviceToHost, ctx->stream);
    if (error == cudaSuccess && reset)
        error = cudaMemsetAsync(ctx->counters, 0, sizeof *counters, ctx->stream);
    return error == cudaSuccess ? cudaStreamSynchronize(ctx->stream) : error;
}

static enum moe_status cuda_context_stats(void *ctx, struct moe_stats *stats, bool reset)
{
    const struct moe_cuda_context *c = ctx;
    struct moe_cuda_counters counters = {0, 0};
    struct moe_cuda_scope scope;
    cudaError_t error = moe_cuda_enter(c->device, &scope);
    if (error == cudaSuccess) {
        error = read_counters(c, &counters, reset);
        moe_cuda_leave(c->device, &scope);
    }
    if (error == cudaSuccess) {
        stats->nonfinite_rows += counters.nonfinite_rows;
        stats->skipped_pairs += counters.skipped_pairs;
    }
    return moe_cuda_status(error);
}

/* ---- memory ---- */

static enum moe_status cuda_mem_alloc(void *self, size_t size, struct moe_view *out)
{
    const struct moe_cuda *device = self;
    struct moe_cuda_scope scope;
    void *memory = NULL;
    cudaError_t error = moe_cuda_enter(device, &scope);
    if (error == cudaSuccess) {
        error = cudaMalloc(&memory, size > 0 ? size : 1);
        moe_cuda_leave(device, &scope);
    }
    if (error == cudaSuccess)
        *out = (struct moe_view){.base = memory, .size = size};
    return moe_cuda_status(error);
}

static void cuda_mem_free(void *self, const struct moe_view *mem)
{
    const struct moe_cuda *device = self;
    struct moe_cuda_scope scope;
    cudaError_t error = moe_cuda_enter(device, &scope);
    if (error == cudaSuccess) {
        error = cudaFree(mem->base);
        moe_cuda_leave(device, &scope);
    }
    (void)moe_cuda_status(error);
}

/* On the context's stream, or without a context on the device's own; done on return. */
static enum moe_status transfer(const struct moe_cuda *device, const struct moe_cuda_context *ctx, void *dst,
                                const void *src, size_t size, enum cudaMemcpyKind kind)
{
    struct moe_cuda_scope scope;
    cudaStream_t stream = ctx != NULL ? ctx->stream : device->transfers;
    cudaError_t error = moe_cuda_enter(device, &scope);
    if (error != cudaSuccess)
        return moe_cuda_status(error);
    if (ctx != NULL)
        error = moe_cuda_refuse_capture(ctx);
    if (error == cudaSuccess && size > 0)
        error = cudaMemcpyAsync(dst, src, size, kind, stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(stream);
    moe_cuda_leave(device, &scope);
    return moe_cuda_status(error);
}

static enum moe_status cuda_mem_write(void *self, void *ctx, const struct moe_view *dst, const void *src, size_t size)
{
    return transfer(self, ctx, moe_cuda_address(dst), src, size, cudaMemcpyHostToDevice);
}

static enum moe_status cuda_mem_read(void *self, void *ctx, void *dst, const struct moe_view *src, size_t size)
{
    return transfer(self, ctx, dst, moe_cuda_address(src), size, cudaMemcpyDeviceToHost);
}

/* ---- description ---- */

static void cuda_describe(const void *self, void (*line)(void *user, const char *key, const char *value), void *user)
{
    const struct moe_cuda *device = self;
    char text[320];
    snprintf(text, sizeof text, "%d, %.200s, %d multiprocessors", device->index, device->name, device->num_sms);
    line(user, "device", text);
    snprintf(text, sizeof text, "sm_%d", device->capability);
    line(user, "level", text);
    snprintf(text, sizeof text, "%.1f GB, L2 %.1f MB, %zu KB of shared memory a block",
             (double)device->memory_bytes / 1e9, (double)device->l2_bytes / 1e6, device->shared_per_block / 1024);
    line(user, "memory", text);
    snprintf(text, sizeof text, "driver %d.%d, runtime %d.%d", device->driver_version / 1000,
             device->driver_version % 1000 / 10, device->runtime_version / 1000, device->runtime_version % 1000 / 10);
    line(user, "cuda", text);
    static const char *const kernels[] = {"copy", "glu", "scaled_add"};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(kernels); i++) {
        snprintf(text, sizeof text, "%s sm_%d", kernels[i], device->code_version);
        line(user, "kernel", text);
    }
#define MOE_CUDA_DESCRIBE(id, NAME, name, values, bytes)                   \
    snprintf(text, sizeof text, "linear " #name " sm_%d", device->code_version); \
    line(user, "kernel", text);
    MOE_FORMAT_MAP(MOE_CUDA_DESCRIBE)
#undef MOE_CUDA_DESCRIBE
}

extern const struct moe_backend_ops moe_cuda_ops;
__attribute__((visibility("default"))) const struct moe_backend_ops moe_cuda_ops = {
    .abi = MOE_BACKEND_ABI,
    .flags = MOE_BACKEND_SCALES | MOE_BACKEND_ADDRESSES | MOE_BACKEND_PLANES,
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .context_open = cuda_context_open,
    .context_close = cuda_context_close,
    .mem_alloc = cuda_mem_alloc,
    .mem_free = cuda_mem_free,
    .mem_write = cuda_mem_write,
    .mem_read = cuda_mem_read,
    .sync = cuda_sync,
    .copy = moe_cuda_copy,
    .linear = moe_cuda_linear,
    .glu = moe_cuda_glu,
    .scaled_add = moe_cuda_scaled_add,
    .set_stream = cuda_set_stream,
    .describe = cuda_describe,
    .layer_open = moe_layer_cuda_open,
    .layer_close = moe_layer_cuda_close,
    .layer_workspace_size = moe_layer_cuda_workspace_size,
    .layer_forward = moe_layer_cuda_forward,
    .layer_route = moe_layer_cuda_route,
    .layer_combine = moe_layer_cuda_combine,
    .layer_describe = moe_layer_cuda_describe,
    .context_stats = cuda_context_stats,
};
