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

/* Memory that lives as long as a block: matrices of scales, bases. */
struct moe_model_memory {
    struct moe_model_memory *next;
    size_t size; /* of all of it, this header among it */
};

/* What moe_model_block hands out, and all that it points to. */
struct moe_model_entry {
    struct moe_model_block block;
    struct moe_experts_params experts, shared_experts, latent_experts;
    struct moe_layer_params layer;
    struct moe_routing routing;
    struct moe_shared shared;
    struct moe_act act, shared_act;
    struct moe_norm router_norm, latent_norm, out_norm;
    struct moe_matrix router, gate, up, down;
    struct moe_matrix shared_gate_proj, shared_up, shared_down, shared_gate;
    struct moe_matrix latent_in, latent_out;
    struct moe_model_memory *memory;
};

struct moe_description;

struct moe_model {
    struct moe_env env;
    struct moe_archive *archive;
    struct moe_description *description; /* in place of the preset; NULL: none */
    const struct moe_preset *preset;    /* NULL: tensors without a model; then there are no blocks */
    const struct moe_preset_gguf *gguf; /* NULL: not a GGUF file */
    const char *architecture;
    enum moe_vocabulary vocabulary;
    char key_prefix[64];      /* before every key: "", "text_config.", "qwen3moe." */
    const char *block_prefix; /* before a block's tensors, with "{b}" */
    size_t num_blocks;
    uint64_t tensor_bytes;
    pthread_mutex_t lock;             /* guards entries */
    struct moe_model_entry **entries; /* [num_blocks]; NULL: not asked for yet, or without experts */
};

/* What a block computes and what its tensors are called: all that is needed to build it. From metadata and a preset, or
 * from a description file; every axis has a key of the same name there. */
struct moe_model_axes {
    bool has_experts; /* false: nothing else is set */
    size_t num_experts, num_zero_experts; /* matrices; ids beyond them */
    size_t top_k, hidden_size, intermediate_size;
    size_t latent_size;         /* 0: experts are as wide as the model */
    size_t shared_size;         /* intermediate size of the shared expert; 0: none */
    size_t hash_rows;           /* of the hash table; 0: none */
    struct moe_routing routing; /* the scalars; pointers and views are set when tensors are found */
    bool router_norm_unit;
    float router_norm_eps, latent_norm_eps, out_norm_eps;   /* of those norms whose role is used */
    float routed_scale, out_scale;
    bool weight_on_input;
    struct moe_act act, shared_act;
    bool gated, shared_gated;
    enum moe_preset_shared shared;
    bool biases, shared_biases; /* of gate, up and down must be there */
    uint32_t needs, takes;      /* MOE_ROLE_BIT: tensors that must be there, that are used where they are there */
    const struct moe_names *names;
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
/* Zeroed memory that is freed with the entry; NULL: none. */
void *moe_model_block_alloc(struct moe_model *model, struct moe_model_entry *entry, size_t count, size_t size);
void moe_model_block_free(struct moe_model *model, struct moe_model_entry *entry);

#endif
