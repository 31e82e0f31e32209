// SPDX-License-Identifier: MIT
// Logits of the layer's router on the device.
#ifndef MOE_CUDA_LOGITS_H
#define MOE_CUDA_LOGITS_H

#include "cuda/route.h"

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t moe_logits_load(void);
/* router_logits = router matrix * router_x, normed and biased as the router says; rows of padding are not written. */
cudaError_t moe_logits_launch(const struct moe_cuda_routing *routing, cudaStream_t stream, bool overlap);

#ifdef __cplusplus
}
#endif
#endif
