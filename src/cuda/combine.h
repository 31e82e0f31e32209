// SPDX-License-Identifier: MIT
// The weighted sum of a token's experts, and what a layer does to it value by value. In f32, each step rounded once, as
// docs/numerics.md says:
//     sum = w0 * y0;  sum = sum + w1 * y1; ...  (slots in order, without the skipped);  sum = sum * routed_scale
//     sum = sum + g * shared;  sum = sum * out_scale;  sum = sum + out_bias;  out = sum, or out = out + sum
// A sum without any term leaves out 0, or as it was with accumulate; so do tokens from live_tokens on, whose places and
// weights are not read.
//
// Layers with more to them run it twice: latent experts first with out f32 rows of the experts' width and none of what
// follows routed_scale, then, after finish.h's norm and latent->down, by_pair with top_k 1, places and weights NULL.
// Where out has a norm, out is f32 rows for finish.h, without accumulate.
#ifndef MOE_CUDA_COMBINE_H
#define MOE_CUDA_COMBINE_H

#include <cuda_runtime_api.h>

#include "cuda/call.h"
#include "cuda/route.h"

#ifdef __cplusplus
extern "C" {
#endif

struct moe_cuda_combine {
    uint32_t num_tokens, top_k, cols;
    const int32_t *live_tokens;     /* [1]; NULL: all */
    const int32_t *places;          /* [num_tokens * top_k]: rows of y; MOE_CUDA_SKIPPED: nothing is done for the pair;
                                       MOE_CUDA_ZERO: a zero expert, which gives its input. NULL, by_pair: all are */
    const float *weights;           /* [num_tokens * top_k]; NULL: 1 */
    bool weight_on_input;           /* weights are those of zero experts only, other experts' count as 1 */
    bool by_pair;                   /* y has a row for each pair, zero experts' too; places only tell which to skip */
    struct moe_cuda_rows y;
    struct moe_cuda_rows x;         /* [num_tokens, cols], for zero experts; data NULL: there are none */
    float routed_scale, out_scale;  /* 1: none */
    const float *shared;            /* [num_tokens, cols]; NULL: none */
    size_t shared_stride;           /* values */
    const float *shared_weights;    /* [num_tokens]; NULL: 1 */
    const float *out_bias;          /* [cols]; NULL: none */
    struct moe_cuda_rows out;       /* [num_tokens, cols]; with out_pairs [num_tokens * top_k, cols] */
    bool accumulate;
    bool out_pairs;                 /* MOE_OUT_PAIRS: rows of pairs without their weights; skipped ones are 0, zero
                                       experts their input, times weight with weight_on_input. Nothing else is done */
};

/* Queued on a stream; nothing without tokens. cudaErrorInvalidValue: values that are not aligned. overlap: see
 * moe_launch. */
cudaError_t moe_cuda_combine(const struct moe_cuda_combine *combine, cudaStream_t stream, bool overlap);
cudaError_t moe_cuda_combine_load(void);     /* everything that a launch would load; not under capture */

#ifdef __cplusplus
}
#endif
#endif
