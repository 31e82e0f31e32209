// SPDX-License-Identifier: MIT
// Which kernel makes a product: a decision on shapes alone, so that a captured graph holds for any routing.
#ifndef MOE_CUDA_REGIME_H
#define MOE_CUDA_REGIME_H

#include "cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What both kernels are expected to take, in rows of weights that one multiprocessor streams: the same number means the
 * same time. Counted for pairs that spread evenly over the matrices. */
struct moe_cuda_regime {
    double tokens_of;          /* pairs of a matrix that has any */
    double small, large;
};
struct moe_cuda_regime moe_cuda_regime(const struct moe_cuda_product *product);

/* large rather than small. Both give the same bits. */
bool moe_cuda_prefers_large(const struct moe_cuda_product *product);

#ifdef __cplusplus
}
#endif
#endif
