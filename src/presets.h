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
    X(BLOCKS, "num_hidden_layers|n_layers|num_layers", "block_count")                                                  \
    X(NEXTN, "", "nextn_predict_layers")                                                                               \
    X(EXPERTS, "num_experts|num_local_experts|n_routed_experts|moe_num_experts|ffn_config.moe_num_experts",            \
      "expert_count")                                                                                                  \
    X(TOP_K, "num_experts_per_tok|num_experts_per_token|moe_topk|moe_top_k|moe_k|top_k_experts|"                       \
      "ffn_config.moe_top_k", "expert_used_count")                                                                     \
    X(HIDDEN, "hidden_size|d_model", "embedding_length")                                                               \
    X(FF, "moe_intermediate_size|expert_ffn_hidden_size|ffn_config.ffn_hidden_size|intermediate_size",                 \
      "expert_feed_forward_length|feed_forward_length")                                                                \
    X(ZERO_EXPERTS, "zero_expert_num", "")                                                                             \
    X(LATENT, "moe_latent_size", "moe_latent_size|expert_latent_length")                                               \
    X(VOCAB, "vocab_size", "")                                                                                         \
    X(NORM_EPS, "rms_norm_eps", "attention.layer_norm_rms_epsilon")                                                    \
    X(ACT, "hidden_act|hidden_activation|mlp_hidden_act|activation_function|ffn_config.ffn_act_fn.name", "")           \
    X(SHARED_ACT, "hidden_act", "")                                                                                    \
    X(LIMIT, "swiglu_limit|swiglu_limits", "swiglu_clamp_exp")                                                         \
    X(SHARED_LIMIT, "swiglu_limits_shared", "swiglu_clamp_shexp")                                                      \
    X(ALPHA, "swiglu_alpha", "")                                                                                       \
    X(MLP_BIAS, "mlp_bias", "")                                                                                        \
    X(GATING, "", "expert_gating_func")                                                                                \
    X(SCORE, "scoring_func|expert_selection_fn", "")                                                                   \
    X(SOFTCAP, "moe_router_logit_softcapping", "router_logit_softcapping")                                             \
    X(SPARSEMIXER_EPS, "router_jitter_noise", "")                                                                      \
    X(USE_BIAS, "use_expert_bias", "")                                                                                 \
    X(NORM, "norm_topk_prob|moe_renormalize", "expert_weights_norm")                                                   \
    X(NORM_MIN, "moe_norm_min", "")                                                                                    \
    X(NORM_P, "ffn_config.moe_normalize_expert_weights", "")                                                           \
    X(SCALE, "routed_scaling_factor|route_scale|router_scaling_factor|moe_router_scaling_factor|"                      \
      "moe_routed_scaling_factor", "expert_weights_scale")                                                             \
    X(ON_INPUT, "moe_apply_router_weight_on_input", "")                                                                \
    X(GROUP_METHOD, "topk_method", "")                                                                                 \
    X(GROUPS, "n_group|num_expert_group", "expert_group_count")                                                        \
    X(TOP_GROUPS, "topk_group", "expert_group_used_count")                                                             \
    X(SHARED_COUNT, "n_shared_experts|num_shared_experts|moe_num_shared_experts", "expert_shared_count")               \
    X(SHARED_FF, "shared_expert_intermediate_size|moe_shared_expert_intermediate_size|shared_intermediate_size|"       \
      "share_expert_dim|share_expert_dims", "expert_shared_feed_forward_length")                                       \
    X(SHARED_MIX, "shared_expert_combination_strategy", "")                                                            \
    X(HAS_EXPERTS, "enable_moe_block", "")                                                                             \
    X(MLP_TYPES, "mlp_layer_types", "")                                                                                \
    X(BLOCK_TYPES, "layers_block_type", "")                                                                            \
    X(BLOCK_PATTERN, "hybrid_override_pattern", "")                                                                    \
    X(HASH_LAYERS, "num_hash_layers", "hash_layer_count")                                                              \
    X(FIRST_DENSE, "first_k_dense_replace|num_dense_layers|dense_mlp_idx", "leading_dense_block_count")                \
    X(STEP, "decoder_sparse_step|interleave_moe_layer_step|moe_layer_interval", "interleave_moe_layer_step")           \
    X(FIRST_MOE, "moe_layer_start_index", "")                                                                          \
    X(LAST_MOE, "moe_layer_end_index", "")                                                                             \
    X(PERIOD, "expert_layer_period|moe_layer_freq", "")                                                                \
    X(OFFSET, "expert_layer_offset", "")                                                                               \
    X(DENSE_LIST, "mlp_only_layers", "")                                                                               \
    X(MOE_LIST, "moe_layers|moe_layers_enum", "")                                                                      \
    X(MOE_FLAGS, "moe_layer_freq", "")                                                                                 \
    X(SITU_BETA, "", "activation.situ_beta")                                                                           \
    X(SITU_BETA_UP, "", "activation.situ_linear_beta")

enum moe_key {
#define MOE_KEY_ENUM(NAME, config, gguf) MOE_KEY_##NAME,
    MOE_KEY_MAP(MOE_KEY_ENUM)
#undef MOE_KEY_ENUM
        MOE_KEYS
};
#define MOE_KEY_BIT(NAME) (UINT64_C(1) << MOE_KEY_##NAME)

/* Alternatives of a key, "" for none. */
const char *moe_preset_key_names(enum moe_key key, enum moe_vocabulary vocabulary);
struct moe_preset;
/* The same for a family, which may have names of its own in config.json. */
const char *moe_preset_key_of(const struct moe_preset *preset, enum moe_key key, enum moe_vocabulary vocabulary);

/* How the three matrices of experts, or of a shared expert, lie in tensors. */
enum moe_mlp_layout {
    MOE_MLP_FUSED = 1,      /* gate and up share the tensor called up: gate rows (columns), then up's */
    MOE_MLP_TRANSPOSED = 2, /* stored [cols, rows] */
    MOE_MLP_INTERLEAVED = 4, /* FUSED: rows (columns) gate, up, gate, up, ... */
    MOE_MLP_FLAT = 8,        /* all experts in one matrix, one after the other */
    MOE_MLP_DOWN_TRANSPOSED = 16 /* down is stored [cols, rows], gate and up are not */
};

/* Tensor names after the block's prefix. With "{e}" a tensor is one expert's, without it all experts' [experts, rows,
 * cols]. '|' parts alternatives. NULL: no such tensor. */
struct moe_mlp_names {
    uint32_t layout; /* enum moe_mlp_layout */
    const char *gate, *up, *down;
    const char *gate_bias, *up_bias, *down_bias;
};

/* What else a block's tensors are: X(NAME, name in descriptions). The shape of each is in model_block.c. */
#define MOE_ROLE_MAP(X)                \
    X(ROUTER, router)                  \
    X(ROUTER_BIAS, router_bias)        \
    X(ROUTER_NORM, router_norm)        \
    X(ROUTER_FACTOR, router_factor)    \
    X(SELECTION_BIAS, selection_bias)  \
    X(EXPERT_SCALE, expert_scale)      \
    X(HASH_TABLE, hash_table)          \
    X(SHARED_GATE, shared_gate)        \
    X(OUT_BIAS, out_bias)              \
    X(OUT_NORM, out_norm)              \
    X(LATENT_IN, latent_in)            \
    X(LATENT_IN_BIAS, latent_in_bias)  \
    X(LATENT_OUT, latent_out)          \
    X(LATENT_OUT_BIAS, latent_out_bias) \
    X(LATENT_NORM, latent_norm)

enum moe_role {
#define MOE_ROLE_ENUM(NAME, name) MOE_ROLE_##NAME,
    MOE_ROLE_MAP(MOE_ROLE_ENUM)
#undef MOE_ROLE_ENUM
        MOE_ROLES
};
#define MOE_ROLE_BIT(NAME) (UINT32_C(1) << MOE_ROLE_##NAME)

enum { MOE_MAX_MLP_LAYOUTS = 4 };
struct moe_names {
    const char *role[MOE_ROLES];
    bool router_transposed; /* stored [hidden_size, experts], unless it is as usual */
    bool two_biases;        /* the selection bias is the first of two rows, unless there is only one */
    struct moe_mlp_names experts[MOE_MAX_MLP_LAYOUTS]; /* the first whose tensors fit; up NULL ends the list */
    struct moe_mlp_names shared[MOE_MAX_MLP_LAYOUTS];  /* likewise */
};

/* Prefixes of a block's tensors, "{b}" its number, NULL-terminated; a file uses one of them. */
extern const char *const moe_preset_prefixes[MOE_VOCABULARIES][16];

enum moe_preset_shared { MOE_PRESET_SHARED_NONE, MOE_PRESET_SHARED_PLAIN, MOE_PRESET_SHARED_SIGMOID };

/* Which blocks have experts, without a key that says so. */
struct moe_preset_blocks {
    size_t first;          /* the first that has */
    size_t period, offset; /* block b has where b % period is offset; 0: all */
    size_t num_hash;       /* the first so many route by a hash table */
};

/* Names of a key in this family, in place of those in the map. */
struct moe_preset_key {
    enum moe_key key;
    const char *names; /* NULL ends a list */
};

/* A family. Arithmetic is that of transformers; fields that a key of the file decides are the value without the key. */
struct moe_preset {
    const char *name;    /* model_type in config.json */
    const char *aliases; /* other model_types of it, parted by '|'; NULL: none */
    const char *outer;   /* model_types around a text_config that is of this family whatever it says itself */
    const char *around;  /* ... that is of this family where it does not say what it is */
    const char *refused; /* why models of this family cannot be run, one sentence; NULL: they can */
    uint64_t keys;       /* MOE_KEY_BIT of the keys that this family obeys, beside those of all */
    struct moe_preset_key own_keys[3];
    bool by_modality;    /* lists have an item for text and one for images, not one for each block */

    size_t min_experts;  /* with fewer, blocks are dense; 0: fewer than 1 is an error */
    size_t top_k;        /* whatever keys say; 0: they say it */
    enum moe_score select, weight;
    enum moe_renorm renorm; /* how weights are renormalised, if they are */
    float renorm_eps, renorm_p;
    struct {
        bool family; /* moe_preset: what the family's published models do */
        bool config; /* config.json without the key */
    } norm;
    size_t num_groups, top_groups; /* config.json without the keys, 0: none */
    enum moe_group_score group_score;
    bool group_mask_zero;
    bool group_weights_zero; /* experts of dropped groups weigh 0, should they be chosen */
    float scale; /* config.json without the key */
    bool scale_on_sum; /* scale is the layer's routed_scale, not the weights' */
    bool weight_on_input;
    float sparsemixer_eps;
    bool router_norm_unit;
    float norm_eps; /* of the norms whose role is used */

    struct moe_act act;     /* a clamp without a limit: only with a key for it */
    bool ungated;
    bool shared_unclamped;  /* the shared expert has the activation, without its clamp */
    uint32_t needs; /* MOE_ROLE_BIT of the tensors that must be there */
    uint32_t takes; /* of those that are used where they are there */
    bool biases;    /* of gate, up and down must be there */

    enum moe_preset_shared shared;
    bool shared_routed;  /* shared experts have rows of the router, after the routed ones, and are always chosen */
    size_t shared_count; /* shared experts without a key, each as wide as an expert; 0: a key is needed */
    bool shared_optional; /* no: there are none without a key */
    bool shared_averaged; /* out is the mean of the routed and the shared, not their sum; without a key */
    struct moe_preset_blocks blocks;

    const struct moe_names *names; /* transformers' */
};

/* Rows of presets_config.c, in alphabetical order; num_presets of them. */
extern const struct moe_preset moe_presets[];
extern const size_t moe_num_presets;

/* An architecture of llama.cpp's, and where its files differ from the family. */
struct moe_preset_gguf {
    const char *architecture; /* general.architecture; several rows of one, where the gating function tells families
                                 apart */
    const char *family;       /* name of the row of moe_presets; NULL: own counts */
    const struct moe_preset *own; /* a family that transformers does not have; its names do not count */
    uint32_t gating;          /* files without expert_gating_func; 0: as the family's weight says */
    bool norm;                /* files without expert_weights_norm */
    bool by_tensor;           /* keys do not tell blocks with experts: those that have a router or experts */
    bool shared_by_tensor;    /* keys do not tell the shared expert: it is as wide as its tensors, none without them */
    const struct moe_names *names; /* NULL: moe_names_gguf */
};
extern const struct moe_preset_gguf moe_presets_gguf[];
extern const size_t moe_num_presets_gguf;
extern const struct moe_names moe_names_gguf; /* what llama.cpp has for nearly all */

/* The first row of an architecture; NULL: unknown. */
const struct moe_preset_gguf *moe_preset_find_gguf(const char *architecture);
/* The row for a file with that gating function; where it does not say one (0), a selection bias among its tensors tells
 * sigmoid from softmax. The first where none is for it. */
const struct moe_preset_gguf *moe_preset_choose_gguf(const char *architecture, uint32_t gating, bool selection_bias);
const struct moe_preset *moe_preset_of_gguf(const struct moe_preset_gguf *row);

/* The family of that model_type; NULL: unknown. */
const struct moe_preset *moe_preset_find(const char *name);

/* The family of what lies inside a config.json of that model_type. sure: whatever it calls itself; otherwise only where
 * it does not. NULL: unknown. */
const struct moe_preset *moe_preset_find_outer(const char *name, bool sure);

/* The score that a value of expert_gating_func means; false: none that this library knows. */
bool moe_preset_gating(uint32_t gating, enum moe_score *weight);

/* Kind and alpha of the activation that config.json calls so; false: unknown. */
bool moe_preset_find_act(const char *name, struct moe_act *act);

#endif
