// SPDX-License-Identifier: MIT
// Which kernel makes a product: a decision on shapes alone, so that a captured graph holds for any routing.
#ifndef MOE_CUDA_REGIME_H
#define MOE_CUDA_REGIME_H

#include "cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The kernels of a product: see small.cuh, large.cuh, wide.cuh. All give the same bits. */
enum moe_cuda_way { MOE_CUDA_SMALL, MOE_CUDA_LARGE, MOE_CUDA_WIDE, MOE_CUDA_WAYS };

/* What each is expected to take, in rows of bf16 that one multiprocessor streams in the same time. Counted for pairs
 * that spread evenly over the matrices. */
struct moe_cuda_regime {
    double tokens_of;          /* pairs of a matrix that has any */
    double rows[MOE_CUDA_WAYS];
};
struct moe_cuda_regime moe_cuda_regime(const struct moe_cuda_product *product);

/* The fastest of small and, if they serve the product, wide or else large. */
enum moe_cuda_way moe_cuda_choose(const struct moe_cuda_product *product, bool has_large, bool has_wide);

/* Whether down had better be one launch with the sum over slots (small_down.cuh) than two. */
bool moe_cuda_prefers_sum(const struct moe_cuda_product *down);

#ifdef __cplusplus
}
#endif
#endif
