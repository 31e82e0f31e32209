// SPDX-License-Identifier: MIT
// Which kernel a product takes: by its shapes alone, never by routing, so that a captured graph stays valid.
#ifndef MOE_CUDA_REGIME_H
#define MOE_CUDA_REGIME_H

#include "cuda/call.h"

/* Pairs a matrix, on average, from which on the weights are reused so often that tiles of many tokens pay. */
enum { MOE_REGIME_LARGE = 24 };

static inline bool moe_cuda_prefers_large(const struct moe_cuda_product *product)
{
    return product->pairs.num_pairs / MOE_REGIME_LARGE >= product->pairs.num_matrices;
}

#endif
