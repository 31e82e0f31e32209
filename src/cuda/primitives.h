// SPDX-License-Identifier: MIT
// The primitives: functions of struct moe_backend_ops, and the launches of their kernels. Launches queue one kernel and
// wait for nothing.
#ifndef MOE_CUDA_PRIMITIVES_H
#define MOE_CUDA_PRIMITIVES_H

#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum moe_status moe_cuda_copy(void *ctx, const struct moe_view *dst, const struct moe_view *src, size_t n);
enum moe_status moe_cuda_linear(void *ctx, const struct moe_view *y, const struct moe_slice *w,
                                const struct moe_view *x);
enum moe_status moe_cuda_glu(void *ctx, const struct moe_view *y, const struct moe_view *g, size_t n,
                             const struct moe_act *act, bool gated);
enum moe_status moe_cuda_scaled_add(void *ctx, const struct moe_view *y, const struct moe_view *x, float a, size_t n,
                                    bool accumulate);

/* ---- kernels (primitives.cu) ---- */

struct moe_cuda_copy_params {
    void *dst;
    const void *src;
    size_t n;
    enum moe_format dst_format, src_format;
};
struct moe_cuda_linear_params {
    float *y;
    const float *x;
    const unsigned char *w;
    size_t stride, rows, cols;   /* stride in bytes */
    int format;                  /* enum moe_cuda_format */
    bool scaled;
    struct moe_slice_scales scales;
};
struct moe_cuda_glu_params {
    float *y;
    const float *g;
    size_t n;
    struct moe_act act;
    bool gated;
};
struct moe_cuda_scaled_add_params {
    void *y;
    const float *x;
    size_t n;
    float a;
    enum moe_format format;      /* of y */
    bool accumulate;
};

cudaError_t moe_cuda_launch_copy(const struct moe_cuda_context *ctx, const struct moe_cuda_copy_params *params);
cudaError_t moe_cuda_launch_linear(const struct moe_cuda_context *ctx, const struct moe_cuda_linear_params *params);
cudaError_t moe_cuda_launch_glu(const struct moe_cuda_context *ctx, const struct moe_cuda_glu_params *params);
cudaError_t moe_cuda_launch_scaled_add(const struct moe_cuda_context *ctx,
                                       const struct moe_cuda_scaled_add_params *params);

/* Bring the kernels' code to the device that is current, so that no launch has to; *code_version: the capability that
 * it was compiled for. */
cudaError_t moe_cuda_primitives_load(int *code_version);

#ifdef __cplusplus
}
#endif
#endif
