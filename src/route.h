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

/* Fill ids[top_k] and weights[top_k], slots in descending order of key, then those that are always chosen. chosen: the
 * row's ids where a hash table gives them, otherwise NULL. Allocates nothing; num_always < top_k <= num_experts, and
 * top_k <= hash_cols with chosen. Returns false for a row without one finite logit (before the soft-cap): ids
 * 0..top_k-1, weights 0. */
bool moe_route_row(const struct moe_router *router, const double *logits, const int32_t *chosen, size_t top_k,
                   int32_t *ids, float *weights, double *scratch);

/* The hash table's row of a token id; NULL: outside the table, the token has empty slots. */
const int32_t *moe_route_hash(const struct moe_router *router, int64_t token_id);

/* The norm of the router's input. Add the squares of a piece of x to lanes[MOE_ROUTE_LANES], zero at first; all pieces
 * but the last are multiples of the lanes, so that the pieces do not change the sum. Then divide the matrix' logits,
 * and add the router's bias to them. */
enum { MOE_ROUTE_LANES = 8 };
void moe_route_squares(double *lanes, const float *x, size_t count);
void moe_route_norm(const struct moe_router *router, double *logits, const double *lanes, size_t hidden_size);

#endif
