// SPDX-License-Identifier: MIT
// What needs a whole row of a token, in double: norms (out's, and of the sum of latent experts), the shared expert's
// gate. Sums go to 8 lanes, column modulo 8, each in 32 parts of a fixed order (finish.cuh).
#ifndef MOE_CUDA_FINISH_H
#define MOE_CUDA_FINISH_H

#include <cuda_runtime_api.h>

#include "cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = norm(x), or out = out + norm(x): x / sqrt(mean of x^2 + eps), with unit by sqrt(cols) as well, times scale. A
 * value is rounded to f32 once, then to out's format, or added to it. A row of zeros stays zeros. Either out or rows is
 * set: rows are bf16 for a product, as struct moe_cuda_prepared has them. Rows of tokens from live_tokens on become
 * zeros, or stay as they are with accumulate. */
struct moe_cuda_norm {
    const float *x;               /* [num_tokens, cols] */
    size_t x_stride;              /* values */
    uint32_t num_tokens, cols;
    const int32_t *live_tokens;   /* [1]; NULL: all */
    const float *scale;           /* [cols]; NULL: 1 */
    float eps;
    bool unit;
    struct moe_cuda_rows out;
    bool accumulate;
    uint16_t *rows;
    size_t rows_stride;           /* values, a multiple of MOE_SEGMENT */
    int32_t order;
};
cudaError_t moe_cuda_finish_norm(const struct moe_cuda_norm *norm, cudaStream_t stream, bool overlap);

/* weights[t] = 1 / (1 + e^-z), z = gate . x + bias; 0 from live_tokens on. */
struct moe_cuda_shared_gate {
    float *weights;               /* [num_tokens] */
    struct moe_cuda_rows x;       /* [num_tokens, cols] */
    const float *gate;            /* [cols] */
    float bias;
    uint32_t num_tokens, cols;
    const int32_t *live_tokens;   /* [1]; NULL: all */
};
cudaError_t moe_cuda_shared_weights(const struct moe_cuda_shared_gate *shared, cudaStream_t stream, bool overlap);

/* Both are queued on a stream, nothing without tokens; cudaErrorInvalidValue: values that are not aligned; overlap: see
 * moe_launch. load: everything that a launch would load; not under capture. */
cudaError_t moe_cuda_finish_load(void);

#ifdef __cplusplus
}
#endif
#endif
