// SPDX-License-Identifier: MIT
// A block of a model in words and figures: how it routes, what its experts compute, how many bytes they have.
#ifndef DESCRIBE_H
#define DESCRIBE_H

#include "tool.h"

#define DESCRIBE_TEXT 600

struct block_facts {
    bool moe;                          /* false: a dense block; all else is 0 */
    size_t num_experts;                /* that have matrices */
    size_t num_zero_experts, top_k;
    size_t hidden_size, intermediate_size, shared_size;
    size_t expert_width;               /* what experts take and give: hidden_size, or latent */
    const char *gate, *up, *down;      /* names of formats; gate "" if not gated */
    const char *shared_up;             /* format of the shared expert; "" if there is none */
    uint64_t expert_bytes;             /* of one expert */
    uint64_t other_bytes;              /* shared expert, router, latent, biases: read for every token */
    uint64_t layer_bytes;              /* all experts and the rest */
    uint64_t token_bytes;              /* what one token reads: top_k experts and the rest */
    char routing[DESCRIBE_TEXT];
    char scales[DESCRIBE_TEXT];        /* that lie apart from the values; "" */
    char activation[DESCRIBE_TEXT];
};

void describe_block(struct block_facts *facts, const struct moe_model_block *block);

/* What an expert computes from gate and up, or from up alone; size DESCRIBE_TEXT is enough. */
void describe_act(char *text, size_t size, const struct moe_act *act, bool gated);

/* Name of a format, "?" if it is not known. */
const char *describe_format(enum moe_format format);

#endif
