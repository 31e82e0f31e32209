// SPDX-License-Identifier: MIT
// llama.cpp's architectures, and the tensor names that it has for all of them. Families that transformers does not have
// are here too; where it has them, the arithmetic is transformers', and llama.cpp's own departures from it are not
// followed (docs/gguf.md names them).
#include <string.h>

#include "presets.h"

/* ---- tensor names --------------------------------------------------------------------------------------------- */

#define STACKS                              \
    {.gate = "ffn_gate_exps.weight",        \
     .up = "ffn_up_exps.weight",            \
     .down = "ffn_down_exps.weight",        \
     .gate_bias = "ffn_gate_exps.bias",     \
     .up_bias = "ffn_up_exps.bias",         \
     .down_bias = "ffn_down_exps.bias"}
#define FUSED                               \
    {.layout = MOE_MLP_FUSED,               \
     .up = "ffn_gate_up_exps.weight",       \
     .down = "ffn_down_exps.weight",        \
     .up_bias = "ffn_gate_up_exps.bias",    \
     .down_bias = "ffn_down_exps.bias"}
/* One tensor an expert, as files had before April 2024. */
#define EACH {.gate = "ffn_gate.{e}.weight", .up = "ffn_up.{e}.weight", .down = "ffn_down.{e}.weight"}
#define SHARED {.gate = "ffn_gate_shexp.weight", .up = "ffn_up_shexp.weight", .down = "ffn_down_shexp.weight"}
#define ROLES                                                                            \
    .role[MOE_ROLE_ROUTER] = "ffn_gate_inp.weight",                                      \
    .role[MOE_ROLE_ROUTER_BIAS] = "ffn_gate_inp.bias",                                   \
    .role[MOE_ROLE_ROUTER_NORM] = "ffn_gate_inp.scale",                                  \
    .role[MOE_ROLE_SELECTION_BIAS] = "exp_probs_b.bias|exp_probs_b",                     \
    .role[MOE_ROLE_HASH_TABLE] = "ffn_gate_tid2eid.weight",                              \
    .role[MOE_ROLE_SHARED_GATE] = "ffn_gate_inp_shexp.weight",                           \
    .role[MOE_ROLE_LATENT_IN] = "ffn_latent_down.weight|ffn_routed_down.weight",         \
    .role[MOE_ROLE_LATENT_OUT] = "ffn_latent_up.weight|ffn_routed_up.weight",            \
    .role[MOE_ROLE_LATENT_NORM] = "ffn_routed_norm.weight"

const struct moe_names moe_names_gguf = {ROLES, .experts = {STACKS, FUSED, EACH}, .shared = {SHARED}};

/* Its per-expert scale has the name that NVFP4's second level has elsewhere. */
static const struct moe_names names_gemma4 = {
    ROLES, .role[MOE_ROLE_EXPERT_SCALE] = "ffn_down_exps.scale", .experts = {STACKS, FUSED}};

/* Gate and up of the shared expert are one tensor, called up. */
static const struct moe_names names_granite_swa = {
    ROLES,
    .experts = {STACKS, FUSED},
    .shared = {{.layout = MOE_MLP_FUSED, .up = "ffn_up_shexp.weight", .down = "ffn_down_shexp.weight"}}};

/* ---- families that transformers does not have ------------------------------------------------------------------ */

#define SOFTMAX .weight = MOE_SCORE_SOFTMAX, .renorm = MOE_RENORM_ADD_EPS
#define SIGMOID .weight = MOE_SCORE_SIGMOID, .renorm = MOE_RENORM_ADD_EPS, .renorm_eps = 1e-20f

static const struct moe_preset own_arctic = {.name = "arctic", SOFTMAX, .norm = {.family = true}};
static const struct moe_preset own_grok = {
    .name = "grok", SOFTMAX, .norm = {.family = true}, .act = {.kind = MOE_ACT_GELU_TANH}};
static const struct moe_preset own_deepseek = {
    .name = "deepseek", SOFTMAX, .shared = MOE_PRESET_SHARED_PLAIN, .shared_count = 0};
static const struct moe_preset own_bailing = {
    .name = "bailing_moe", SOFTMAX, .norm = {.family = true}, .shared = MOE_PRESET_SHARED_PLAIN};
static const struct moe_preset own_bailing2 = {.name = "bailing_moe_v2",
                                               SIGMOID,
                                               .norm = {.family = true},
                                               .takes = MOE_ROLE_BIT(SELECTION_BIAS),
                                               .shared = MOE_PRESET_SHARED_PLAIN};
static const struct moe_preset own_bailing3 = {.name = "bailing_moe_v3",
                                               .keys = MOE_KEY_BIT(SHARED_LIMIT),
                                               SIGMOID,
                                               .norm = {.family = true},
                                               .act = {.clamp = MOE_CLAMP_AFTER},
                                               .needs = MOE_ROLE_BIT(SELECTION_BIAS),
                                               .shared = MOE_PRESET_SHARED_PLAIN};
static const struct moe_preset own_dots3 = {.name = "dots3",
                                            SIGMOID,
                                            .norm = {.family = true},
                                            .needs = MOE_ROLE_BIT(SELECTION_BIAS),
                                            .shared = MOE_PRESET_SHARED_PLAIN};
static const struct moe_preset own_kimi_k3 = {
    .name = "kimi_k3",
    SIGMOID,
    .norm = {.family = true},
    .act = {.kind = MOE_ACT_SITU},
    .needs = MOE_ROLE_BIT(SELECTION_BIAS) | MOE_ROLE_BIT(LATENT_IN) | MOE_ROLE_BIT(LATENT_OUT),
    .takes = MOE_ROLE_BIT(LATENT_NORM),
    .shared = MOE_PRESET_SHARED_PLAIN};
static const struct moe_preset own_maple = {
    .name = "maple", SOFTMAX, .norm = {.family = true}, .act = {.clamp = MOE_CLAMP_BEFORE, .limit = 7.0f}};
static const struct moe_preset own_smallthinker = {
    .name = "smallthinker", SIGMOID, .norm = {.family = true}, .act = {.kind = MOE_ACT_RELU}};
/* DeepSeek-V2 and what is made like it: transformers ignores the key that renormalises, files do have it. */
static const struct moe_preset own_deepseek_v2 = {.name = "deepseek_v2",
                                                  .weight = MOE_SCORE_SOFTMAX,
                                                  .renorm = MOE_RENORM_ADD_EPS,
                                                  .renorm_eps = 1e-20f,
                                                  .group_score = MOE_GROUP_MAX,
                                                  .group_mask_zero = true,
                                                  .shared = MOE_PRESET_SHARED_PLAIN,
                                                  .takes = MOE_ROLE_BIT(SELECTION_BIAS)};

static const struct moe_preset refused_deci = {
    .name = "deci", .refused = "models of this architecture have no experts, though llama.cpp has names for them"};
static const struct moe_preset refused_dflash = {
    .name = "dflash", .refused = "this architecture is a draft model for speculative decoding"};
static const struct moe_preset refused_grove = {
    .name = "grovemoe",
    .refused = "its layers have a second set of experts (adjugate experts, shared by neighbours of the first set), "
               "which this library cannot run"};
static const struct moe_preset refused_nomic = {
    .name = "nomic_bert_moe",
    .refused = "its files leave out the bias that the model adds to the experts' sum, so that what they say is not the "
               "model"};

/* ---- architectures -------------------------------------------------------------------------------------------- */

const struct moe_preset_gguf moe_presets_gguf[] = {
    {.architecture = "afmoe", .family = "afmoe", .gating = 2, .norm = true},
    {.architecture = "arctic", .own = &own_arctic, .norm = true},
    {.architecture = "bailingmoe", .own = &own_bailing},
    {.architecture = "bailingmoe2", .own = &own_bailing2, .shared_by_tensor = true},
    {.architecture = "bailingmoe3", .own = &own_bailing3, .shared_by_tensor = true},
    {.architecture = "cohere2moe", .family = "cohere2_moe", .gating = 2, .shared_by_tensor = true},
    {.architecture = "dbrx", .family = "dbrx", .norm = true},
    {.architecture = "deci", .own = &refused_deci},
    {.architecture = "deepseek", .own = &own_deepseek},
    /* V2 to V3, Kimi-K2, GLM-4.7-Flash, Mistral-Large-3. */
    {.architecture = "deepseek2", .family = "deepseek_v3", .gating = 2},
    {.architecture = "deepseek2", .own = &own_deepseek_v2, .gating = 1},
    {.architecture = "deepseek2-ocr", .own = &own_deepseek_v2, .gating = 1},
    {.architecture = "deepseek32", .family = "deepseek_v32", .gating = 2},
    {.architecture = "deepseek4", .family = "deepseek_v4", .gating = 4, .norm = true},
    {.architecture = "dflash", .own = &refused_dflash},
    {.architecture = "dots1", .family = "dots1", .gating = 2},
    {.architecture = "dots3note", .own = &own_dots3, .gating = 2},
    {.architecture = "ernie4_5-moe", .family = "ernie4_5_moe", .norm = true, .shared_by_tensor = true},
    {.architecture = "exaone-moe", .family = "exaone_moe", .gating = 2, .norm = true},
    {.architecture = "gemma4", .family = "gemma4_text", .norm = true, .by_tensor = true, .names = &names_gemma4},
    {.architecture = "glm-dsa", .family = "glm_moe_dsa", .gating = 2, .norm = true},
    {.architecture = "glm4moe", .family = "glm4_moe", .norm = true},
    {.architecture = "glm5-next", .family = "glm5_next_text", .gating = 2, .norm = true},
    {.architecture = "gpt-oss", .family = "gpt_oss"},
    {.architecture = "granite_swa", .family = "granitemoe_swa", .by_tensor = true, .shared_by_tensor = true,
     .names = &names_granite_swa},
    {.architecture = "granitehybrid", .family = "granitemoehybrid", .by_tensor = true, .shared_by_tensor = true},
    {.architecture = "granitemoe", .family = "granitemoe", .by_tensor = true, .shared_by_tensor = true},
    {.architecture = "grok", .own = &own_grok, .norm = true},
    {.architecture = "grovemoe", .own = &refused_grove},
    {.architecture = "hunyuan-moe", .family = "hunyuan_v1_moe", .norm = true, .shared_by_tensor = true},
    {.architecture = "hy_v3", .family = "hy_v3", .gating = 2, .norm = true, .by_tensor = true},
    {.architecture = "hy_v4", .family = "hy_v4", .gating = 2, .norm = true},
    {.architecture = "jamba", .family = "jamba", .by_tensor = true},
    {.architecture = "kimi-k3", .own = &own_kimi_k3, .gating = 2, .norm = true},
    {.architecture = "kimi-linear", .family = "kimi_linear", .gating = 2, .norm = true},
    {.architecture = "laguna", .family = "laguna", .gating = 2, .norm = true, .shared_by_tensor = true},
    {.architecture = "lfm2moe", .family = "lfm2_moe", .gating = 2, .norm = true},
    {.architecture = "llada-moe", .family = "olmoe"},
    {.architecture = "llama", .family = "mixtral", .norm = true, .by_tensor = true},
    {.architecture = "llama-embed", .family = "mixtral", .norm = true, .by_tensor = true},
    {.architecture = "llama4", .family = "llama4_text"},
    {.architecture = "maple", .own = &own_maple, .norm = true},
    {.architecture = "mellum", .family = "mellum", .norm = true},
    {.architecture = "mimo2", .family = "mimo_v2_flash", .gating = 2, .norm = true, .by_tensor = true},
    {.architecture = "minicpm", .family = "mixtral", .norm = true, .by_tensor = true},
    {.architecture = "minimax-01", .family = "minimax", .norm = true},
    {.architecture = "minimax-m2", .family = "minimax_m2", .gating = 2, .norm = true},
    {.architecture = "minimax-m3", .family = "minimax_m3_vl_text", .gating = 2, .norm = true},
    {.architecture = "mistral3", .family = "mixtral", .norm = true, .by_tensor = true},
    {.architecture = "mistral4", .family = "mistral4", .norm = true},
    {.architecture = "nemotron_h_moe", .family = "nemotron_h", .gating = 2, .norm = true, .by_tensor = true},
    {.architecture = "nomic-bert-moe", .own = &refused_nomic},
    {.architecture = "olmoe", .family = "olmoe"},
    {.architecture = "phimoe", .family = "phimoe"},
    {.architecture = "qwen2moe", .family = "qwen2_moe"},
    {.architecture = "qwen35moe", .family = "qwen3_5_moe_text", .norm = true},
    {.architecture = "qwen3moe", .family = "qwen3_moe", .norm = true},
    {.architecture = "qwen3next", .family = "qwen3_next", .norm = true},
    {.architecture = "qwen3vlmoe", .family = "qwen3_vl_moe_text", .norm = true},
    {.architecture = "qwen4exp", .family = "qwen4_exp_text", .norm = true},
    {.architecture = "rnd1", .family = "qwen3_moe", .norm = true},
    {.architecture = "smallthinker", .own = &own_smallthinker, .norm = true},
    {.architecture = "step35", .family = "step3p5", .gating = 2, .norm = true, .by_tensor = true},
};
const size_t moe_num_presets_gguf = MOE_ARRAY_SIZE(moe_presets_gguf);

const struct moe_preset_gguf *moe_preset_find_gguf(const char *architecture)
{
    for (size_t i = 0; i < moe_num_presets_gguf; i++)
        if (strcmp(moe_presets_gguf[i].architecture, architecture) == 0)
            return &moe_presets_gguf[i];
    return NULL;
}

const struct moe_preset_gguf *moe_preset_choose_gguf(const char *architecture, uint32_t gating, bool selection_bias)
{
    const struct moe_preset_gguf *first = moe_preset_find_gguf(architecture);
    if (first == NULL)
        return NULL;
    if (gating == 0)   /* files without the function are older than any other that has such a bias */
        gating = selection_bias ? 2 : 1;
    for (size_t i = 0; i < moe_num_presets_gguf; i++) {
        const struct moe_preset_gguf *row = &moe_presets_gguf[i];
        if (strcmp(row->architecture, architecture) == 0 && row->gating == gating)
            return row;
    }
    return first;
}

const struct moe_preset *moe_preset_of_gguf(const struct moe_preset_gguf *row)
{
    return row->own != NULL ? row->own : moe_preset_find(row->family);
}
