// SPDX-License-Identifier: MIT
// The CUDA backend's table, opened without the core, and arrays in its memory; for tests on the emulated device.
#ifndef MOE_CUDA_FIXTURE_H
#define MOE_CUDA_FIXTURE_H

#include <emulate.h>
#include <string.h>

#include "cuda/cuda.h"
#include "support.h"

extern const struct moe_backend_ops moe_cuda_ops;

struct gpu {
    void *self;
    void *ctx;    /* struct moe_cuda_context */
};

static inline void gpu_open(struct gpu *gpu)
{
    struct moe_error error;
    moe_emulate_reset();
    test_assert_ok(moe_cuda_ops.open(NULL, NULL, &gpu->self, &error));
    test_assert_ok(moe_cuda_ops.context_open(gpu->self, NULL, &gpu->ctx, &error));
}

/* Nothing that the test allocated may be left, nor the bytes around it changed. */
static inline void gpu_close(struct gpu *gpu)
{
    moe_cuda_ops.context_close(gpu->ctx);
    moe_cuda_ops.close(gpu->self);
    assert_int_equal(moe_emulate_check(), 0);
}

/* bytes of device memory, at an address that is no multiple of more than `skew` says; NULL: full of NaN. */
static inline struct moe_view gpu_put(struct gpu *gpu, const void *bytes, size_t size, size_t skew,
                                      enum moe_format format)
{
    struct moe_view view;
    test_assert_ok(moe_cuda_ops.mem_alloc(gpu->self, size + skew, &view));
    unsigned char *poison = test_alloc(size + skew);
    test_assert_ok(moe_cuda_ops.mem_write(gpu->self, NULL, &view, poison, size + skew));
    test_release(poison);
    view.offset = skew;
    view.size = size;
    view.format = format;
    if (bytes != NULL)
        test_assert_ok(moe_cuda_ops.mem_write(gpu->self, gpu->ctx, &view, bytes, size));
    return view;
}

static inline void gpu_get(struct gpu *gpu, void *out, const struct moe_view *view)
{
    test_assert_ok(moe_cuda_ops.mem_read(gpu->self, gpu->ctx, out, view, view->size));
}

static inline void gpu_free(struct gpu *gpu, const struct moe_view *view)
{
    if (view->base != NULL)
        moe_cuda_ops.mem_free(gpu->self, view);
}

#endif
