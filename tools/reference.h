// SPDX-License-Identifier: MIT
// reference.safetensors: recorded inputs and outputs of a model's layers, and what they mean for a layer.
#ifndef REFERENCE_H
#define REFERENCE_H

#include "tool.h"

/* One layer's part; NULL: not recorded. From malloc. */
struct reference {
    size_t num_tokens;
    float *x, *out;              /* [num_tokens, hidden_size]; one of them NULL: the layer is not recorded */
    float *router_x;             /* likewise, where it is not x */
    float *logits;               /* [num_tokens, num_experts] */
    size_t top_k;                /* of ids and weights: the layer's, or less the experts that every token has */
    float *weights;              /* [num_tokens, top_k] */
    float *pairs;                /* [num_experts * num_tokens, expert_width], of weighted inputs */
    float *sums;                 /* [num_tokens, expert_width], of latent experts */
    int64_t *ids, *token_ids;
    bool no_shared;              /* out leaves the model's shared expert out */
};

/* The rules, on what tensors layerN has besides x and out:
 *   expert_x [T, hidden]    other values than x, and expert_out than out: the record is that of a whole decoder layer,
 *                           in which experts have an input of their own; the block's x and out are these two
 *   expert_x [E * T, ..]    inputs are weighted: row e * T + t of expert_out is what expert e makes of token t, and
 *                           router_res0 [T, E] holds the weights, 0 for experts that are not chosen
 *   expert_x [T, other]     experts have a width of their own: expert_out is their weighted sum
 *   expert_out equal to out where the model has a shared expert: it is left out
 *   input_ids [T], of the file, for layers that route by token id
 * TOOL_OK, or an exit code with the error printed; free in either case. */
int reference_read(struct reference *out, struct moe_model *file, const char *path, size_t layer,
                   const struct moe_layer_info *info, const struct moe_model_block *block);
void reference_free(struct reference *reference);

#endif
