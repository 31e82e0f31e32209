// SPDX-License-Identifier: MIT
// The naming schemes of presets_names.c.
#ifndef MOE_PRESETS_NAMES_H
#define MOE_PRESETS_NAMES_H

#include "presets.h"

extern const struct moe_names moe_names_aria, moe_names_axk1, moe_names_biased, moe_names_block_sparse, moe_names_dbrx,
    moe_names_deepseek_v4, moe_names_ernie, moe_names_ernie_vl, moe_names_exaone, moe_names_feed_forward,
    moe_names_gemma, moe_names_gpt_oss, moe_names_granite, moe_names_hunyuan, moe_names_hy_v4, moe_names_inkling,
    moe_names_jetmoe, moe_names_kimi_linear, moe_names_laguna, moe_names_lfm2, moe_names_llama4, moe_names_longcat,
    moe_names_minimax_m3, moe_names_mlp, moe_names_nemotron, moe_names_privacy_filter, moe_names_qwen2,
    moe_names_qwen3_vl, moe_names_step;

#endif
