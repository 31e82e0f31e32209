// SPDX-License-Identifier: MIT
// Parts of reading a block's axes from metadata.
#ifndef MOE_MODEL_AXES_H
#define MOE_MODEL_AXES_H

#include "model_keys.h"

/* Has the block experts, and does it route by a hash table? names: for files where only tensors tell. */
enum moe_status moe_axes_find_experts(const struct moe_reading *r, const struct moe_names *names, bool *has_experts,
                                      bool *hash);

#endif
