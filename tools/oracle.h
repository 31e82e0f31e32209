// SPDX-License-Identifier: MIT
// The layer by its definition, in double precision, to measure the library against: routing of a row of logits, and the
// sum over a token's experts. Slow and plain on purpose.
#ifndef ORACLE_H
#define ORACLE_H

#include "tool.h"

/* Two keys, or two group scores, are too close for logits in f32 to tell apart if they differ by less than this times
 * the magnitudes that they are made of: 2^-17, 128 roundings to f32. */
#define ORACLE_TIE 7.62939453125e-6

/* What routing has as views; NULL: absent. */
struct oracle_tables {
    const float *bias, *expert_scale;   /* [num_experts] */
    const int64_t *hash_row;            /* [top_k], of the token */
};

/* ids[top_k] and weights[top_k] for one row of finite logits; whether another choice would be as right. tables may be
 * NULL. scratch: 3 * num_experts doubles. */
bool oracle_route(const struct moe_routing *routing, const struct oracle_tables *tables, size_t num_experts,
                  size_t top_k, const double *logits, int64_t *ids, double *weights, double *scratch);

/* logits[num_tokens, num_experts] of the layer's own router; sizes[t]: the largest sum of |w x| of a row's logits. x:
 * [num_tokens, hidden_size]. false: out of memory, or weights that cannot be read, with the error printed. */
bool oracle_logits(const struct moe_routing *routing, size_t num_experts, size_t hidden_size, size_t num_tokens,
                   const float *x, double *logits, double *sizes);

/* out[num_tokens, hidden_size] = the sum over slots of weight times expert, shared experts not included; ids outside
 * the experts are skipped. false: out of memory, or weights that cannot be read, with the error printed. */
bool oracle_experts(const struct moe_experts_params *experts, bool weight_on_input, size_t num_tokens, size_t top_k,
                    const float *x, const int64_t *ids, const float *weights, double *out);

/* ||a - b|| / ||b||; 0 where both are 0, infinite where a has a NaN. */
double oracle_error(const float *a, const double *b, size_t count);

#endif
