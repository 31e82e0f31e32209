// SPDX-License-Identifier: MIT
// The model families that `moe info` lists. tests/tools/lists.c holds the lists against the library's tables.
#include "families.h"

#include <stddef.h>

const char *const families_config[] = {
    "afmoe", "aria_text", "axk1", "axk2", "cohere2_moe", "dbrx", "deepseek_ocr2_text", "deepseek_v2", "deepseek_v3",
    "deepseek_v32", "deepseek_v4", "diffusion_gemma_text", "dots1", "ernie4_5_moe", "ernie4_5_vl_moe_text",
    "exaone_moe", "flex_olmo", "gemma4_text", "glm4_moe", "glm4_moe_lite", "glm4v_moe_text", "glm5_next_text",
    "glm_moe_dsa", "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared",
    "hunyuan_v1_moe", "hy_v3", "hy_v4", "inkling_text", "jamba", "jetmoe", "kimi_linear", "laguna", "lfm2_moe",
    "llama4_text", "longcat_flash", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl_text",
    "mistral4", "mixtral", "nemotron_h", "olmoe", "openai_privacy_filter", "phimoe", "qwen2_moe", "qwen3_5_moe_text",
    "qwen3_moe", "qwen3_next", "qwen3_omni_moe_text", "qwen3_vl_moe_text", "qwen4_exp_text", "solar_open", "step3p5",
    NULL
};

const char *const families_gguf[] = {
    "afmoe", "arctic", "bailingmoe", "bailingmoe2", "bailingmoe3", "cohere2moe", "dbrx", "deepseek", "deepseek2",
    "deepseek2-ocr", "deepseek32", "deepseek4", "dots1", "dots3note", "ernie4_5-moe", "exaone-moe", "gemma4",
    "glm-dsa", "glm4moe", "glm5-next", "gpt-oss", "granite_swa", "granitehybrid", "granitemoe", "grok", "hunyuan-moe",
    "hy_v3", "hy_v4", "jamba", "kimi-k3", "kimi-linear", "laguna", "lfm2moe", "llada-moe", "llama", "llama-embed",
    "llama4", "maple", "mellum", "mimo2", "minicpm", "minimax-01", "minimax-m2", "minimax-m3", "mistral3", "mistral4",
    "nemotron_h_moe", "olmoe", "phimoe", "qwen2moe", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vlmoe", "qwen4exp",
    "rnd1", "smallthinker", "step35", NULL
};
