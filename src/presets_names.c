// SPDX-License-Identifier: MIT
// Tensor names as transformers saves them and as published checkpoints have them: a set for each naming scheme. Names
// that transformers gives tensors in memory are here too: some tools save them as they are.
#include "presets_names.h"

#define PROJ(p) \
    .gate = p "gate_proj.weight", .up = p "up_proj.weight", .down = p "down_proj.weight"
#define PROJ_BIAS(p) \
    .gate_bias = p "gate_proj.bias", .up_bias = p "up_proj.bias", .down_bias = p "down_proj.bias"
#define W123(p) \
    .gate = p "w1.weight", .up = p "w3.weight", .down = p "w2.weight"

/* All experts in one tensor, as transformers keeps them in memory; or one tensor each. */
#define FUSED(p) \
    {.layout = MOE_MLP_FUSED, .up = p ".gate_up_proj", .down = p ".down_proj"}
#define EXPERTS_PROJ(p) \
    {{PROJ(p ".{e}.")}, FUSED(p)}

const struct moe_names moe_names_mlp = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.gate.e_score_correction_bias",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_experts."), PROJ_BIAS("mlp.shared_experts.")}},
};

/* The norm is on the level of the decoder layer. */
const struct moe_names moe_names_axk1 = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.gate.e_score_correction_bias",
    .role[MOE_ROLE_OUT_NORM] = "post_mlp_layernorm.weight|mlp.post_mlp_layernorm.weight",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_experts.")}},
};

const struct moe_names moe_names_exaone = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.e_score_correction_bias|mlp.gate.e_score_correction_bias",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_experts.")}},
};

const struct moe_names moe_names_ernie = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] =
        "mlp.moe_statics.e_score_correction_bias|mlp.gate.moe_statics.e_score_correction_bias",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_experts."), PROJ_BIAS("mlp.shared_experts.")}},
};

/* The experts for text come first, those for images after them. In memory each kind has names of its own. */
const struct moe_names moe_names_ernie_vl = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight|mlp.text_moe.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] =
        "mlp.moe_statics.e_score_correction_bias|mlp.text_moe.gate.moe_statics.e_score_correction_bias",
    .router_transposed = true,
    .two_biases = true,
    .experts = {{PROJ("mlp.experts.{e}.")}, FUSED("mlp.text_moe.experts")},
    .shared = {{PROJ("mlp.shared_experts."), PROJ_BIAS("mlp.shared_experts.")}},
};

/* transformers renames gates when it saves such a model. */
const struct moe_names moe_names_hy_v4 = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.gate.e_score_correction_bias",
    .experts = {FUSED("mlp.experts"),
                {.gate = "mlp.experts.{e}.gate_proj.weight|mlp.experts.{e}.linear_gate.weight",
                 .up = "mlp.experts.{e}.up_proj.weight",
                 .down = "mlp.experts.{e}.down_proj.weight"}},
    .shared = {{.gate = "mlp.shared_experts.linear_gate.weight|mlp.shared_experts.gate_proj.weight",
                .up = "mlp.shared_experts.up_proj.weight",
                .down = "mlp.shared_experts.down_proj.weight"}},
};

/* AFMoE and Hy3. */
const struct moe_names moe_names_biased = {
    .role[MOE_ROLE_ROUTER] = "mlp.router.gate.weight|mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.expert_bias|mlp.e_score_correction_bias",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_experts."), PROJ_BIAS("mlp.shared_experts.")},
               {PROJ("mlp.shared_mlp."), PROJ_BIAS("mlp.shared_mlp.")}},
};

const struct moe_names moe_names_hunyuan = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.wg.weight",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_mlp.")}},
};

const struct moe_names moe_names_laguna = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.experts.e_score_correction_bias|mlp.gate.e_score_correction_bias",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_expert.")}, {PROJ("mlp.shared_experts.")}},
};

const struct moe_names moe_names_longcat = {
    .role[MOE_ROLE_ROUTER] = "mlp.router.classifier.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.router.e_score_correction_bias",
    .experts = EXPERTS_PROJ("mlp.experts"),
};

const struct moe_names moe_names_qwen2 = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_SHARED_GATE] = "mlp.shared_expert_gate.weight",
    .experts = EXPERTS_PROJ("mlp.experts"),
    .shared = {{PROJ("mlp.shared_expert.")}},
};

/* Published files are transposed, saved ones are not. */
const struct moe_names moe_names_qwen3_vl = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .experts = {FUSED("mlp.experts"),
                {.layout = MOE_MLP_FUSED | MOE_MLP_TRANSPOSED,
                 .up = "mlp.experts.gate_up_proj",
                 .down = "mlp.experts.down_proj"},
                {PROJ("mlp.experts.{e}.")}},
};

const struct moe_names moe_names_step = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight|moe.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.gate.e_score_correction_bias|moe.router_bias",
    .experts = {FUSED("mlp.experts"), {PROJ("moe.")}, {PROJ("mlp.experts.{e}.")}, {PROJ("moe.experts.{e}.")}},
    .shared = {{PROJ("mlp.shared_experts."), PROJ_BIAS("mlp.shared_experts.")},
               {PROJ("share_expert."), PROJ_BIAS("share_expert.")}},
};

/* Shared experts are as wide as routed ones, and lie as they do. */
const struct moe_names moe_names_inkling = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight",
    .role[MOE_ROLE_ROUTER_FACTOR] = "mlp.gate.global_scale",
    .role[MOE_ROLE_SELECTION_BIAS] = "mlp.gate.bias|mlp.gate.e_score_correction_bias",
    .experts = {{.layout = MOE_MLP_FUSED | MOE_MLP_INTERLEAVED,
                 .up = "mlp.experts.w13_weight",
                 .down = "mlp.experts.w2_weight"},
                FUSED("mlp.experts")},
    .shared = {{.layout = MOE_MLP_FUSED | MOE_MLP_INTERLEAVED,
                .up = "mlp.shared_experts.shared_w13_weight",
                .down = "mlp.shared_experts.shared_w2_weight"},
               {.gate = "mlp.shared_experts.gate_proj",
                .up = "mlp.shared_experts.up_proj",
                .down = "mlp.shared_experts.down_proj"}},
};

/* ---- block_sparse_moe ----------------------------------------------------------------------------------------- */

const struct moe_names moe_names_block_sparse = {
    .role[MOE_ROLE_ROUTER] = "block_sparse_moe.gate.weight|mlp.gate.weight|mlp.router.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "block_sparse_moe.e_score_correction_bias|mlp.e_score_correction_bias",
    .experts = {{W123("block_sparse_moe.experts.{e}.")}, FUSED("mlp.experts")},
};

const struct moe_names moe_names_kimi_linear = {
    .role[MOE_ROLE_ROUTER] = "block_sparse_moe.gate.weight|mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] =
        "block_sparse_moe.gate.e_score_correction_bias|mlp.gate.e_score_correction_bias",
    .experts = {{W123("block_sparse_moe.experts.{e}.")}, FUSED("mlp.experts")},
    .shared = {{PROJ("block_sparse_moe.shared_experts.")}, {PROJ("mlp.shared_experts.")}},
};

const struct moe_names moe_names_minimax_m3 = {
    .role[MOE_ROLE_ROUTER] = "mlp.gate.weight|block_sparse_moe.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] =
        "mlp.gate.e_score_correction_bias|block_sparse_moe.gate.e_score_correction_bias|"
        "block_sparse_moe.e_score_correction_bias",
    .experts = {FUSED("mlp.experts"), {W123("block_sparse_moe.experts.{e}.")}},
    .shared = {{.layout = MOE_MLP_FUSED,
                .up = "mlp.shared_experts.gate_up_proj.weight",
                .down = "mlp.shared_experts.down_proj.weight"},
               {PROJ("block_sparse_moe.shared_experts.")}},
};

const struct moe_names moe_names_granite = {
    .role[MOE_ROLE_ROUTER] = "block_sparse_moe.router.layer.weight|block_sparse_moe.router.weight",
    .experts = {{.layout = MOE_MLP_FUSED,
                 .up = "block_sparse_moe.input_linear.weight",
                 .down = "block_sparse_moe.output_linear.weight"},
                FUSED("block_sparse_moe.experts")},
};

const struct moe_names moe_names_jetmoe = {
    .role[MOE_ROLE_ROUTER] = "mlp.router.layer.weight",
    .role[MOE_ROLE_OUT_BIAS] = "mlp.bias",
    .experts = {{.layout = MOE_MLP_FUSED, .up = "mlp.input_linear.weight", .down = "mlp.output_linear.weight"}},
};

/* ---- feed_forward, ffn, mixer --------------------------------------------------------------------------------- */

const struct moe_names moe_names_feed_forward = {
    .role[MOE_ROLE_ROUTER] = "feed_forward.router.weight",
    .experts = EXPERTS_PROJ("feed_forward.experts"),
};

const struct moe_names moe_names_lfm2 = {
    .role[MOE_ROLE_ROUTER] = "feed_forward.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "feed_forward.expert_bias",
    .experts = {{W123("feed_forward.experts.{e}.")}, FUSED("feed_forward.experts")},
};

const struct moe_names moe_names_llama4 = {
    .role[MOE_ROLE_ROUTER] = "feed_forward.router.weight",
    .experts = {{.layout = MOE_MLP_FUSED | MOE_MLP_TRANSPOSED,
                 .up = "feed_forward.experts.gate_up_proj",
                 .down = "feed_forward.experts.down_proj"},
                {PROJ("feed_forward.experts.{e}.")}},
    .shared = {{PROJ("feed_forward.shared_expert.")}},
};

/* ffn: as published and saved. mlp: as in memory. */
const struct moe_names moe_names_deepseek_v4 = {
    .role[MOE_ROLE_ROUTER] = "ffn.gate.weight|mlp.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "ffn.gate.bias|mlp.gate.e_score_correction_bias",
    .role[MOE_ROLE_HASH_TABLE] = "ffn.gate.tid2eid|mlp.gate.tid2eid",
    .experts = {{W123("ffn.experts.{e}.")}, FUSED("mlp.experts")},
    .shared = {{W123("ffn.shared_experts."),
                .gate_bias = "ffn.shared_experts.w1.bias",
                .up_bias = "ffn.shared_experts.w3.bias",
                .down_bias = "ffn.shared_experts.w2.bias"},
               {PROJ("mlp.shared_experts."), PROJ_BIAS("mlp.shared_experts.")}},
};

/* Of the three, only w2 is the transpose of what it does. */
const struct moe_names moe_names_dbrx = {
    .role[MOE_ROLE_ROUTER] = "ffn.router.layer.weight",
    .experts = {{.layout = MOE_MLP_FLAT | MOE_MLP_DOWN_TRANSPOSED,
                 .gate = "ffn.experts.mlp.w1",
                 .up = "ffn.experts.mlp.v1",
                 .down = "ffn.experts.mlp.w2"}},
};

const struct moe_names moe_names_nemotron = {
    .role[MOE_ROLE_ROUTER] = "mixer.gate.weight",
    .role[MOE_ROLE_SELECTION_BIAS] = "mixer.gate.e_score_correction_bias",
    .role[MOE_ROLE_LATENT_IN] = "mixer.fc1_latent_proj.weight",
    .role[MOE_ROLE_LATENT_IN_BIAS] = "mixer.fc1_latent_proj.bias",
    .role[MOE_ROLE_LATENT_OUT] = "mixer.fc2_latent_proj.weight",
    .role[MOE_ROLE_LATENT_OUT_BIAS] = "mixer.fc2_latent_proj.bias",
    .experts = {{.up = "mixer.experts.{e}.up_proj.weight", .down = "mixer.experts.{e}.down_proj.weight"},
                {.up = "mixer.experts.up_proj", .down = "mixer.experts.down_proj"}},
    .shared = {{.up = "mixer.shared_experts.up_proj.weight",
                .down = "mixer.shared_experts.down_proj.weight",
                .up_bias = "mixer.shared_experts.up_proj.bias",
                .down_bias = "mixer.shared_experts.down_proj.bias"}},
};

/* ---- routers and experts of another kind ---------------------------------------------------------------------- */

/* Router and experts stand beside each other in the decoder layer. */
const struct moe_names moe_names_gemma = {
    .role[MOE_ROLE_ROUTER] = "router.proj.weight",
    .role[MOE_ROLE_ROUTER_NORM] = "router.scale",
    .role[MOE_ROLE_EXPERT_SCALE] = "router.per_expert_scale",
    .experts = {FUSED("experts"), {PROJ("experts.{e}.")}},
};

const struct moe_names moe_names_aria = {
    .role[MOE_ROLE_ROUTER] = "mlp.router.weight",
    .experts = {{.layout = MOE_MLP_FUSED | MOE_MLP_TRANSPOSED,
                 .up = "mlp.experts.fc1.weight",
                 .down = "mlp.experts.fc2.weight"}},
    .shared = {{PROJ("mlp.shared_experts."), PROJ_BIAS("mlp.shared_experts.")}},
};

#define OPENAI_BIASES \
    .up_bias = "mlp.experts.gate_up_proj_bias", .down_bias = "mlp.experts.down_proj_bias"

const struct moe_names moe_names_gpt_oss = {
    .role[MOE_ROLE_ROUTER] = "mlp.router.weight",
    .role[MOE_ROLE_ROUTER_BIAS] = "mlp.router.bias",
    .experts = {{.layout = MOE_MLP_FUSED | MOE_MLP_TRANSPOSED | MOE_MLP_INTERLEAVED,
                 .up = "mlp.experts.gate_up_proj",
                 .down = "mlp.experts.down_proj",
                 OPENAI_BIASES}},
};

const struct moe_names moe_names_privacy_filter = {
    .role[MOE_ROLE_ROUTER] = "mlp.router.weight",
    .role[MOE_ROLE_ROUTER_BIAS] = "mlp.router.bias",
    .experts = {{.layout = MOE_MLP_FUSED | MOE_MLP_TRANSPOSED,
                 .up = "mlp.experts.gate_up_proj",
                 .down = "mlp.experts.down_proj",
                 OPENAI_BIASES}},
};
