// SPDX-License-Identifier: MIT
// How llama.cpp calls what Hugging Face calls otherwise: model families, and the tensors outside the MoE layers.
#ifndef NAMES_H
#define NAMES_H

#include "tool.h"

/* Which layers have experts, by llama.cpp's keys or without any. */
enum names_layers {
    NAMES_LAYERS_ALL,
    NAMES_LAYERS_LEADING,         /* all but the first leading_dense_block_count */
    NAMES_LAYERS_STEP,            /* layer i where interleave_moe_layer_step divides i + 1 */
    NAMES_LAYERS_LEADING_STEP,    /* both */
    NAMES_LAYERS_TENSORS          /* those that have the tensors */
};

/* Whether llama.cpp renormalises the weights of the chosen experts. */
enum names_renorm {
    NAMES_RENORM_KEY,       /* as expert_weights_norm says */
    NAMES_RENORM_ALWAYS,
    NAMES_RENORM_NEVER
};

struct names_family {
    const char *family;          /* moe_model_info.family */
    const char *architecture;    /* general.architecture */
    const char *pre_tokenizer;   /* tokenizer.ggml.pre, where tokenizer.json splits by a pattern of its own */
    bool post_norm;              /* post_attention_layernorm is post_attention_norm, not ffn_norm */
    bool sandwich;               /* norms before and after attention and MLP: the four have names of their own */
    bool interleaved_rope;       /* attention's rotary pairs are neighbours (2i, 2i+1): rows of q and k are reordered
                                    from Hugging Face's halves (i, i + d/2) */
    bool latent_attention;       /* kv_b_proj is cut into attn_k_b, transposed, and attn_v_b */
    enum names_layers layers;
    enum names_renorm renorm;
    bool shared_count;           /* expert_shared_count must be there, 0 for none */
    bool no_gating;              /* the score has no number in expert_gating_func: the architecture says it */
    bool clamp;                  /* limits of the activation are in swiglu_clamp_exp and swiglu_clamp_shexp */
    bool layer_lists;            /* sizes and top_k may be lists with one value for each layer */
    bool fused_shared;           /* gate and up of the MLP beside the experts are one tensor, ffn_up_shexp */
    const char *latent;          /* beginning of the names of latent projections; NULL: it has none */
    const char *latent_key;      /* key of their width */
    const char *note;            /* where llama.cpp computes otherwise, whatever the file says; NULL: nowhere known */
};

/* NULL: llama.cpp's names for it are not known here. */
const struct names_family *names_find(const char *family);

enum names_kind {
    NAMES_TENSOR,     /* out has the name */
    NAMES_EXPERTS,    /* part of an MoE layer, written from the layer's description */
    NAMES_HALVES,     /* gate rows, then up's, of an MLP beside the layer: ffn_gate_shexp and ffn_up_shexp; out has
                         "blk.N." */
    NAMES_KV_B,       /* kv_b_proj of latent attention: attn_k_b and attn_v_b; out has "blk.N." */
    NAMES_EXTRA,      /* of a block behind the last layer (multi-token prediction), or computable: left out */
    NAMES_UNKNOWN
};
enum names_kind names_map(const struct names_family *family, const char *name, size_t num_blocks, char out[96]);

/* The architecture that a family of that name has in the table; NULL past the last: for tests and lists. */
const struct names_family *names_at(size_t i);

/* Whether a tensor of llama.cpp's name is one of the experts' matrices, and whether it is a down matrix. */
bool names_is_expert(const char *name);
bool names_is_down(const char *name);
/* Whether it is kept in f32: norms, routers, biases, sinks. */
bool names_is_small(const char *name);

/* Whether name has the pattern of `length` bytes: '*' for any characters, '?' for one, anything else for itself. */
bool names_match(const char *pattern, size_t length, const char *name);

#endif
