// SPDX-License-Identifier: MIT
// The CUDA backend's device and context, for its host code and its launchers; and what every call of it needs: the
// device made current, CUDA's errors as ours.
#ifndef MOE_CUDA_H
#define MOE_CUDA_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>

#include "cuda/route.h"
#include "moe/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MOE_CUDA_LEAST_CAPABILITY = 80 };

/* An opened GPU; does not change. */
struct moe_cuda {
    struct moe_env env;
    int index;                    /* CUDA's number of it */
    int capability;               /* compute capability, 10 * major + minor */
    int num_sms;
    size_t shared_per_block;      /* bytes of shared memory that a block may ask for */
    size_t l2_bytes, memory_bytes;
    int driver_version, runtime_version;   /* 1000 * major + 10 * minor */
    int code_version;             /* capability that the kernels in use were compiled for */
    char name[256];
    cudaStream_t transfers;       /* of calls without a context */
};

struct moe_cuda_context {
    struct moe_cuda *device;
    cudaStream_t stream;          /* work is queued here: own, or the caller's */
    cudaStream_t own;
    struct moe_cuda_counters *counters;
};

/* The caller's state of CUDA in this thread, while ours is set. */
struct moe_cuda_scope {
    int device;
    enum cudaStreamCaptureMode mode;
};

/* Make the device current; other streams that capture do not forbid what is called meanwhile. Leave only what could be
 * entered. */
cudaError_t moe_cuda_enter(const struct moe_cuda *device, struct moe_cuda_scope *scope);
void moe_cuda_leave(const struct moe_cuda *device, struct moe_cuda_scope *scope);

/* An error that does not stay is taken off the thread. */
enum moe_status moe_cuda_status(cudaError_t error);

/* cudaErrorStreamCaptureUnsupported if the context's stream captures; asks, and so leaves the capture as it is. */
cudaError_t moe_cuda_refuse_capture(const struct moe_cuda_context *ctx);

/* The first value of a view. */
static inline void *moe_cuda_address(const struct moe_view *view)
{
    return (unsigned char *)view->base + view->offset;
}

#ifdef __cplusplus
}
#endif
#endif
