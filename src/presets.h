// SPDX-License-Identifier: MIT
// What is known about model families, as data: one row a family, one set of tensor names a naming scheme, one list of
// names a metadata key. Nothing here depends on a file; docs/add-a-family.md walks through a row.
#ifndef MOE_PRESETS_H
#define MOE_PRESETS_H

#include "check.h"

/* Where metadata comes from: the two vocabularies of keys and tensor names. */
enum moe_vocabulary {
    MOE_VOCABULARY_CONFIG, /* config.json and transformers' names */
    MOE_VOCABULARY_GGUF,   /* GGUF keys (after "<architecture>.") and llama.cpp's names */
    MOE_VOCABULARIES
};

/* Metadata that decides an axis: X(NAME, keys in config.json, keys in GGUF). Of alternatives, parted by '|', the first
 * that is there counts; "": no such key. Any of the single values may also be a list with one item for each block. */
#define MOE_KEY_MAP(X)                                                                                                 \
    X(BLOCKS, "num_hidden_layers", "block_count")                                                                      \
    X(NEXTN, "", "nextn_predict_layers")                                                                               \
    X(EXPERTS, "num_experts|num_local_experts|n_routed_experts", "expert_count")                                       \
    X(TOP_K, "num_experts_per_tok", "expert_used_count")                                                               \
    X(HIDDEN, "hidden_size", "embedding_length")                                                                       \
    X(FF, "moe_intermediate_size|intermediate_size", "expert_feed_forward_length|feed_forward_length")                 \
    X(ACT, "hidden_act", "")                                                                                           \
    X(LIMIT, "swiglu_limit", "")                                                                                       \
    X(GATING, "", "expert_gating_func")                                                                                \
    X(NORM, "norm_topk_prob", "expert_weights_norm")                                                                   \
    X(SCALE, "routed_scaling_factor", "expert_weights_scale")                                                          \
    X(GROUPS, "n_group", "expert_group_count")                                                                         \
    X(TOP_GROUPS, "topk_group", "expert_group_used_count")                                                             \
    X(SHARED_COUNT, "n_shared_experts", "expert_shared_count")                                                         \
    X(SHARED_FF, "shared_expert_intermediate_size", "expert_shared_feed_forward_length")                               \
    X(FIRST_DENSE, "first_k_dense_replace", "leading_dense_block_count")                                               \
    X(STEP, "decoder_sparse_step|interleave_moe_layer_step", "interleave_moe_layer_step")                              \
    X(DENSE_LIST, "mlp_only_layers", "")                                                                               \
    X(MOE_LIST, "moe_layers", "")

enum moe_key {
#define MOE_KEY_ENUM(NAME, config, gguf) MOE_KEY_##NAME,
    MOE_KEY_MAP(MOE_KEY_ENUM)
#undef MOE_KEY_ENUM
        MOE_KEYS
};
#define MOE_KEY_BIT(NAME) (1u << MOE_KEY_##NAME)

/* Alternatives of a key, "" for none. */
const char *moe_preset_key_names(enum moe_key key, enum moe_vocabulary vocabulary);

/* How the three matrices of experts, or of a shared expert, lie in tensors. */
enum moe_mlp_layout {
    MOE_MLP_FUSED = 1,      /* gate and up share the tensor called up: gate rows (columns), then up's */
    MOE_MLP_TRANSPOSED = 2, /* stored [cols, rows] */
    MOE_MLP_INTERLEAVED = 4 /* FUSED: rows (columns) gate, up, gate, up, ... */
};

/* Tensor names after the block's prefix. With "{e}" a tensor is one expert's, without it all experts' [experts, rows,
 * cols]. '|' parts alternatives. NULL: no such tensor. */
struct moe_mlp_names {
    uint32_t layout; /* enum moe_mlp_layout */
    const char *gate, *up, *down;
    const char *gate_bias, *up_bias, *down_bias;
    const char *unsupported; /* what this layout is, where it is recognised only to be refused */
};

enum { MOE_MAX_MLP_LAYOUTS = 3 };
struct moe_names {
    const char *router, *router_bias, *selection_bias;
    struct moe_mlp_names experts[MOE_MAX_MLP_LAYOUTS]; /* the first whose up is there; up NULL ends the list */
    struct moe_mlp_names shared;
    const char *shared_gate;
};

/* Prefixes of a block's tensors, "{b}" its number, NULL-terminated; a file uses one of them. */
extern const char *const moe_preset_prefixes[MOE_VOCABULARIES][5];

enum moe_preset_shared { MOE_PRESET_SHARED_NONE, MOE_PRESET_SHARED_PLAIN, MOE_PRESET_SHARED_SIGMOID };

/* A family. Arithmetic is that of transformers; fields that a key of the file decides are the value without the key. */
struct moe_preset {
    const char *name;  /* model_type in config.json */
    const char *outer; /* model_type around a text_config that is of this family without saying so; NULL: none */
    const char *gguf;  /* general.architecture */
    uint32_t keys;     /* MOE_KEY_BIT of the keys that this family obeys, beside those of all */

    enum moe_score select, weight;
    enum moe_renorm renorm; /* how weights are renormalised, if they are */
    float renorm_eps;
    struct {
        bool family;       /* moe_preset: what the family's published models do */
        bool config, gguf; /* a file without the key */
    } norm;
    size_t num_groups, top_groups; /* config.json without the keys, 0: none; GGUF: no groups */
    enum moe_group_score group_score;
    bool group_mask_zero;
    float scale;          /* config.json without the key; GGUF: 1 */
    uint32_t gguf_gating; /* GGUF without expert_gating_func; 0: as weight says */
    bool weight_on_input;

    struct moe_act act;
    bool router_bias, selection_bias; /* these tensors must be there */
    bool biases;                      /* of gate, up and down */

    enum moe_preset_shared shared;
    size_t shared_count; /* shared experts without a key, each as wide as an expert; 0: a key is needed */
    size_t first_dense;  /* config.json without the key; GGUF: 0 */

    const struct moe_names *names; /* transformers' */
};

/* The family of that name in the vocabulary; NULL: unknown. */
const struct moe_preset *moe_preset_find(enum moe_vocabulary vocabulary, const char *name);

/* The family of a text_config without model_type below a config.json of that model_type; NULL: unknown. */
const struct moe_preset *moe_preset_find_outer(const char *name);

/* Tensor names of a family in the vocabulary; llama.cpp has one set for all. */
const struct moe_names *moe_preset_names(const struct moe_preset *preset, enum moe_vocabulary vocabulary);

/* The score that a value of expert_gating_func means; false: none that this library knows. */
bool moe_preset_gating(uint32_t gating, enum moe_score *weight);

/* The activation that config.json calls so; false: unknown. */
bool moe_preset_act_kind(const char *name, enum moe_act_kind *kind);

#endif
