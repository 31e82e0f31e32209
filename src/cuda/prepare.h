// SPDX-License-Identifier: MIT
// Activations as products take them: bf16 rows in the order of the weights, whole segments long (call.h).
#ifndef MOE_CUDA_PREPARE_H
#define MOE_CUDA_PREPARE_H

#include <cuda_runtime_api.h>

#include "cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x once more: rounded to nearest, ties to even; zeros behind the last column, and in rows of tokens from live_tokens
 * on. */
struct moe_cuda_prepared {
    uint16_t *rows;               /* aligned to 16; NULL: none */
    size_t stride;                /* values, a multiple of MOE_SEGMENT */
    int32_t order;                /* enum moe_cuda_order */
    bool weighted;                /* row p, of a pair, is weight * x of its token, in f32 first; false: row t is x */
};

/* Rows that a product fills later, but for what lies behind its last column, which the next one multiplies by zeros of
 * weights: it has to be finite. All rows, since places depend on the routing. */
struct moe_cuda_padding {
    uint16_t *rows;               /* aligned to 16; NULL: none */
    size_t num_rows;
    size_t stride;                /* values, a multiple of MOE_SEGMENT */
    uint32_t cols;                /* zeros from here on: from the multiple of 32 below, for orders mix these */
};

struct moe_cuda_prepare {
    struct moe_cuda_rows x;       /* [num_tokens, cols] */
    uint32_t cols, num_tokens, top_k;
    const int32_t *live_tokens;   /* [1]; NULL: all */
    const float *weights;         /* [num_tokens * top_k]; for weighted rows */
    struct moe_cuda_prepared outputs[2];
    struct moe_cuda_padding paddings[2];
};

/* Queued on a stream; nothing where there is nothing to do. cudaErrorInvalidValue: values that are not aligned.
 * overlap: see moe_launch. */
cudaError_t moe_cuda_prepare(const struct moe_cuda_prepare *prepare, cudaStream_t stream, bool overlap);
cudaError_t moe_cuda_prepare_load(void);     /* everything that a launch would load; not under capture */

#ifdef __cplusplus
}
#endif
#endif
