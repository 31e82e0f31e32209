// SPDX-License-Identifier: MIT
// Routing of one token on the host, from logits to ids and weights: the rules of struct moe_routing. Every backend that
// routes on the CPU uses this; src/ref/ref_route.c is the definition that it is tested against.
#ifndef MOE_ROUTE_H
#define MOE_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/backend.h"

/* Doubles of scratch that a row needs. */
size_t moe_route_scratch(size_t num_experts);

/* Fill ids[top_k] and weights[top_k], slots in descending order of key. Allocates nothing; 1 <= top_k <= num_experts.
 * Returns false for a row without one finite logit: ids 0..top_k-1, weights 0. */
bool moe_route_row(const struct moe_router *router, const double *logits, size_t top_k, int32_t *ids, float *weights,
                   double *scratch);

#endif
