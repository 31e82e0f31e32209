// SPDX-License-Identifier: MIT
// An open model: an archive, the family that its metadata names, and its blocks as they are asked for. model.c has the
// public functions, model_axes.c reads metadata, model_block.c finds and checks tensors.
#ifndef MOE_MODEL_H
#define MOE_MODEL_H

#include <pthread.h>

#include "presets.h"
#include "readers/archive.h"

/* More blocks, or experts in one, than any model has: beyond it a file is malformed, not large. */
enum { MOE_MODEL_MAX_BLOCKS = 4096, MOE_MODEL_MAX_EXPERTS = 65536 };

/* What moe_model_block hands out, and all that it points to. */
struct moe_model_entry {
    struct moe_model_block block;
    struct moe_experts_params experts, shared_experts;
    struct moe_layer_params layer;
    struct moe_routing routing;
    struct moe_shared shared;
    struct moe_act act;
    struct moe_matrix router, gate, up, down;
    struct moe_matrix shared_gate_proj, shared_up, shared_down, shared_gate;
    void **bases; /* of gate, up and down, [3, num_experts]; NULL: stacks */
    size_t num_bases;
};

struct moe_model {
    struct moe_env env;
    struct moe_archive *archive;
    const struct moe_preset *preset; /* NULL: tensors without a model; then there are no blocks */
    const char *architecture;
    enum moe_vocabulary vocabulary;
    char key_prefix[64];      /* before every key: "", "text_config.", "qwen3moe." */
    const char *block_prefix; /* before a block's tensors, with "{b}" */
    size_t num_blocks;
    uint64_t tensor_bytes;
    pthread_mutex_t lock;             /* guards entries */
    struct moe_model_entry **entries; /* [num_blocks]; NULL: not asked for yet, or without experts */
};

/* What metadata say about a block. */
struct moe_model_axes {
    bool has_experts; /* false: nothing else is set */
    size_t num_experts, top_k, hidden_size, intermediate_size;
    size_t shared_size;         /* intermediate size of the shared expert; 0: none */
    struct moe_routing routing; /* without router and selection bias */
    struct moe_act act;
    bool selection_bias; /* must be there */
};

/* Decoder blocks that the file says it has, prediction layers at its end not counted. */
enum moe_status moe_model_axes_blocks(const struct moe_model *model, size_t *num_blocks, struct moe_error *error);

/* ERR_FORMAT and ERR_UNSUPPORTED name the key, what was expected and what was found. */
enum moe_status moe_model_axes_read(const struct moe_model *model, size_t block, struct moe_model_axes *out,
                                    struct moe_error *error);

/* The prefix of presets.h that this file's tensors have. */
const char *moe_model_block_prefix(const struct moe_archive *archive, enum moe_vocabulary vocabulary);

/* Build the entry of a block with experts: every tensor found, its shape and format checked. */
enum moe_status moe_model_block_build(struct moe_model *model, size_t block, const struct moe_model_axes *axes,
                                      struct moe_model_entry **out, struct moe_error *error);
void moe_model_block_free(struct moe_model *model, struct moe_model_entry *entry);

#endif
