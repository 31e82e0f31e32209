// SPDX-License-Identifier: MIT
// copy, linear, glu and scaled_add: from views to what their kernels take.
#include "cuda/primitives.h"

#include "cuda/formats.h"

/* After a launch in scope, the status of the call. */
static enum moe_status leave(const struct moe_cuda_context *ctx, struct moe_cuda_scope *scope, cudaError_t error)
{
    moe_cuda_leave(ctx->device, scope);
    return moe_cuda_status(error);
}

static bool is_float(enum moe_format format)
{
    return format == MOE_FORMAT_F32 || format == MOE_FORMAT_F16 || format == MOE_FORMAT_BF16;
}

enum moe_status moe_cuda_copy(void *ctx, const struct moe_view *dst, const struct moe_view *src, size_t n)
{
    const struct moe_cuda_context *c = ctx;
    const struct moe_cuda_copy_params params = {.dst = moe_cuda_address(dst),
                                                .src = moe_cuda_address(src),
                                                .n = n,
                                                .dst_format = dst->format,
                                                .src_format = src->format};
    struct moe_cuda_scope scope;
    if (!is_float(dst->format) || !is_float(src->format))
        return MOE_ERR_UNSUPPORTED;
    if (n == 0)
        return MOE_OK;
    cudaError_t error = moe_cuda_enter(c->device, &scope);
    return error == cudaSuccess ? leave(c, &scope, moe_cuda_launch_copy(c, &params)) : moe_cuda_status(error);
}

enum moe_status moe_cuda_linear(void *ctx, const struct moe_view *y, const struct moe_slice *w,
                                const struct moe_view *x)
{
    const struct moe_cuda_context *c = ctx;
    const struct moe_cuda_linear_params params = {.y = moe_cuda_address(y),
                                                  .x = moe_cuda_address(x),
                                                  .w = moe_cuda_address(&w->data),
                                                  .stride = w->data.stride,
                                                  .rows = w->rows,
                                                  .cols = w->cols,
                                                  .format = moe_cuda_format_index(w->data.format),
                                                  .scaled = w->scaled,
                                                  .scales = w->scales};
    struct moe_cuda_scope scope;
    if (params.format == MOE_CUDA_NUM_FORMATS)
        return MOE_ERR_UNSUPPORTED;
    cudaError_t error = moe_cuda_enter(c->device, &scope);
    return error == cudaSuccess ? leave(c, &scope, moe_cuda_launch_linear(c, &params)) : moe_cuda_status(error);
}

enum moe_status moe_cuda_glu(void *ctx, const struct moe_view *y, const struct moe_view *g, size_t n,
                             const struct moe_act *act, bool gated)
{
    const struct moe_cuda_context *c = ctx;
    const struct moe_cuda_glu_params params = {
        .y = moe_cuda_address(y), .g = moe_cuda_address(g), .n = n, .act = *act, .gated = gated};
    struct moe_cuda_scope scope;
    if (n == 0)
        return MOE_OK;
    cudaError_t error = moe_cuda_enter(c->device, &scope);
    return error == cudaSuccess ? leave(c, &scope, moe_cuda_launch_glu(c, &params)) : moe_cuda_status(error);
}

enum moe_status moe_cuda_scaled_add(void *ctx, const struct moe_view *y, const struct moe_view *x, float a, size_t n,
                                    bool accumulate)
{
    const struct moe_cuda_context *c = ctx;
    const struct moe_cuda_scaled_add_params params = {.y = moe_cuda_address(y),
                                                      .x = moe_cuda_address(x),
                                                      .n = n,
                                                      .a = a,
                                                      .format = y->format,
                                                      .accumulate = accumulate};
    struct moe_cuda_scope scope;
    if (!is_float(y->format))
        return MOE_ERR_UNSUPPORTED;
    if (n == 0)
        return MOE_OK;
    cudaError_t error = moe_cuda_enter(c->device, &scope);
    return error == cudaSuccess ? leave(c, &scope, moe_cuda_launch_scaled_add(c, &params)) : moe_cuda_status(error);
}
