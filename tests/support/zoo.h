// SPDX-License-Identifier: MIT
// A checkpoint with reference.safetensors beside it: what the reference's tensors mean for a layer, and the comparison
// of the definition and of the library's layers with them. For tests/layer/test_zoo.c.
#ifndef MOE_TEST_ZOO_H
#define MOE_TEST_ZOO_H

#include "support.h"

/* ||out - ref|| / ||ref||: with activations in f32, sums of a few hundred products stay well below; by default
 * activations are rounded as weights are, to bf16: 4e-3 (docs/numerics.md), and a quarter more where all sums are so
 * short that their errors do not average. */
#define ZOO_EXACT_ERROR 1e-5
#define ZOO_FAST_ERROR 5e-3
/* Weights against those of a router in double, in units in the last place of f32. */
#define ZOO_WEIGHT_ULPS 2
/* Two keys, or two group scores, are too close for f32 logits to tell apart if they differ by less than this times the
 * magnitudes that they are made of: 2^-17, 128 roundings to f32. */
#define ZOO_TIE 7.62939453125e-6

/* What the reference says of a layer; NULL: not stored. The rules, on what tensors it has:
 *   expert_x [T, hidden]    the reference is that of a whole decoder layer, with a router of its own input: x and out
 *                           are expert_x and expert_out
 *   expert_x [E * T, ..]    the experts' inputs, row e * T + t, are weighted: pairs are compared with expert_out, and
 *                           router_res0 [T, E] holds the weights, 0 for those not chosen
 *   expert_x [T, other]     the experts' own width: the weighted sum of pairs is compared with expert_out
 *   ids without weights, or both without the experts that are always chosen: not used
 *   expert_out equal to out, where the model has a shared expert: it is left out
 *   input_ids               for layers that route by token id */
struct zoo_reference {
    size_t num_tokens, hidden_size, num_experts, top_k;
    double *x, *router_x, *logits, *weights, *out;
    double *pairs;               /* [num_experts * num_tokens, hidden_size] */
    double *sums;                /* [num_tokens, expert_width] */
    size_t expert_width;
    int64_t *ids, *token_ids;
    bool no_shared;
};

struct zoo_result {
    size_t num_layers, num_rows, num_ties;   /* rows of tokens; those excluded from comparing ids and weights */
    double exact_error, fast_error, weight_ulps;
};

/* Compare every layer of the model at path that the reference has; fails through cmocka. */
void zoo_check_model(const char *path, struct zoo_result *result);

/* Does the choice of experts for these logits [num_experts] hang on a difference below ZOO_TIE? */
bool zoo_is_tie(const struct moe_routing *routing, size_t num_experts, size_t top_k, const double *logits);

/* reference.c */
bool zoo_reference_load(struct zoo_reference *ref, struct moe_model *file, size_t layer,
                        const struct moe_model_block *block);
void zoo_reference_free(struct zoo_reference *ref);

#endif
