// SPDX-License-Identifier: MIT
// Scores of a router: from logits to keys before the bias, and from logits and chosen ids to weights. All in double.
#ifndef MOE_ROUTE_SCORE_H
#define MOE_ROUTE_SCORE_H

#include <stddef.h>
#include <stdint.h>

#include "moe/backend.h"

/* The largest logit, and the sum of exp(z - max) over those that are numbers. */
struct moe_route_softmax {
    double max, sum;
};

/* out[e] = softcap tanh(z / softcap); NaN stays, infinities become +-softcap. */
void moe_route_score_cap(double *out, const double *logits, size_t num_experts, double softcap);

/* keys[e] = select(z), without bias, NaN where z is. *all is filled where select or weight is a softmax over all. */
void moe_route_score_keys(const struct moe_router *router, double *keys, struct moe_route_softmax *all,
                          const double *logits);

/* weights[top_k] of the chosen: score, renorm, scales. values[top_k] and rest[num_experts] are scratch. */
void moe_route_score_weigh(const struct moe_router *router, float *weights, const struct moe_route_softmax *all,
                           const double *logits, const int32_t *ids, size_t top_k, double *values, double *rest);

#endif
