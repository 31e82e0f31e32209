// SPDX-License-Identifier: MIT
// The layer by its definition, in double precision, to measure the library against: routing of a row of logits, and the
// sum over a token's experts. Slow and plain on purpose.
#ifndef ORACLE_H
#define ORACLE_H

#include "tool.h"

/* ids[top_k] and weights[top_k] for one row of finite logits. bias: [num_experts] or NULL. scratch: 2 * num_experts
 * doubles. */
void oracle_route(const struct moe_routing *routing, const float *bias, size_t num_experts, size_t top_k,
                  const float *logits, int64_t *ids, double *weights, double *scratch);

/* out[num_tokens, hidden_size] = the sum over slots of weight times expert, shared experts not included; ids outside
 * the experts are skipped. false: out of memory, or weights that cannot be read, with the error printed. */
bool oracle_experts(const struct moe_experts_params *experts, bool weight_on_input, size_t num_tokens, size_t top_k,
                    const float *x, const int64_t *ids, const float *weights, double *out);

/* ||a - b|| / ||b||; 0 where both are 0, infinite where a has a NaN. */
double oracle_error(const float *a, const double *b, size_t count);

#endif
