// SPDX-License-Identifier: MIT
// Parts of building a block: its experts, and everything else.
#ifndef MOE_MODEL_BLOCK_H
#define MOE_MODEL_BLOCK_H

#include "model_matrix.h"

/* Is the role's tensor needed, or used where it is there? */
bool moe_block_needs(const struct moe_model_axes *axes, enum moe_role role);
bool moe_block_uses(const struct moe_model_axes *axes, enum moe_role role);

/* The first of the layouts whose tensors fit these sizes; otherwise the first that is there; otherwise the first of
 * all, whose names are missed. */
const struct moe_mlp_names *moe_block_choose_layout(const struct moe_build *b, const struct moe_mlp_names *layouts,
                                                    const struct moe_experts_params *sizes);

/* The routed experts, and those that are always chosen. */
enum moe_status moe_block_load_experts(const struct moe_build *b, const struct moe_model_axes *axes);
/* The shared expert; if the axes have none, that there is none. */
enum moe_status moe_block_load_shared(const struct moe_build *b, const struct moe_model_axes *axes);

/* Router, biases, scales, tables: entry->routing. */
enum moe_status moe_block_load_routing(const struct moe_build *b, const struct moe_model_axes *axes);
/* Latent projections, norm and bias of the output: entry->layer. */
enum moe_status moe_block_load_output(const struct moe_build *b, const struct moe_model_axes *axes);

#endif
