// SPDX-License-Identifier: MIT
// The keys of description files: one row an axis, with the words that its values have. A new axis is a row here.
#include "model_description.h"

#include <float.h>
#include <string.h>

static const char *const words_select[] = {"default", "softmax", "sigmoid", "logit", "", "sqrt_softplus", NULL};
static const char *const words_weight[] = {"default",      "softmax",       "sigmoid",     "logit",
                                           "softmax_topk", "sqrt_softplus", "sparsemixer", NULL};
static const char *const words_renorm[] = {"none", "add_eps", "clamp_eps", "p_norm", NULL};
static const char *const words_group_score[] = {"top2_sum", "max", NULL};
static const char *const words_act[] = {"swish", "gelu_tanh", "gelu_erf", "relu", "relu2", "situ", NULL};
static const char *const words_clamp[] = {"none", "before", "after", NULL};
static const char *const words_shared[] = {"none", "plain", "sigmoid", NULL};

/* Words are the values of their enum in order. */
_Static_assert(MOE_SCORE_SPARSEMIXER == 6 && MOE_SCORE_SOFTMAX_TOPK == 4 && MOE_RENORM_P_NORM == 3 &&
                   MOE_GROUP_MAX == 1 && MOE_ACT_SITU == 5 && MOE_CLAMP_AFTER == 2 && MOE_PRESET_SHARED_SIGMOID == 2,
               "a word for every value");
_Static_assert(sizeof(enum moe_score) == sizeof(int) && sizeof(enum moe_renorm) == sizeof(int) &&
                   sizeof(enum moe_group_score) == sizeof(int) && sizeof(enum moe_act_kind) == sizeof(int) &&
                   sizeof(enum moe_clamp) == sizeof(int) && sizeof(enum moe_preset_shared) == sizeof(int),
               "words are read and written as int");

#define AT(field) offsetof(struct moe_model_axes, field)
#define SIZE(name, field, least, most) \
    {.key = name, .kind = MOE_AXIS_SIZE, .offset = AT(field), .min = least, .max = most}
#define NEED(name, field, least, most) \
    {.key = name, .kind = MOE_AXIS_SIZE, .required = true, .offset = AT(field), .min = least, .max = most}
#define NUMBER(name, field) \
    {.key = name, .kind = MOE_AXIS_NUMBER, .offset = AT(field), .min = 0, .max = FLT_MAX}
#define ANY_NUMBER(name, field) \
    {.key = name, .kind = MOE_AXIS_NUMBER, .offset = AT(field), .min = -FLT_MAX, .max = FLT_MAX}
#define BOOL(name, field) \
    {.key = name, .kind = MOE_AXIS_BOOL, .offset = AT(field)}
#define WORD(name, field, list) \
    {.key = name, .kind = MOE_AXIS_WORD, .offset = AT(field), .words = list}
#define ROLES(name, field) \
    {.key = name, .kind = MOE_AXIS_ROLES, .offset = AT(field)}
#define ACT(name, field)                                                                                       \
    WORD(name, field.kind, words_act), WORD(name "_clamp", field.clamp, words_clamp),                          \
        NUMBER(name "_limit", field.limit), ANY_NUMBER(name "_alpha", field.alpha),                            \
        ANY_NUMBER(name "_up_offset", field.up_offset), NUMBER(name "_beta", field.beta),                      \
        NUMBER(name "_beta_up", field.beta_up)

const struct moe_axis moe_axes[] = {
    BOOL("moe", has_experts),
    NEED("num_experts", num_experts, 1, MOE_MODEL_MAX_EXPERTS),
    SIZE("num_zero_experts", num_zero_experts, 0, MOE_MODEL_MAX_EXPERTS),
    NEED("top_k", top_k, 1, MOE_MODEL_MAX_EXPERTS),
    NEED("hidden_size", hidden_size, 1, INT32_MAX),
    NEED("intermediate_size", intermediate_size, 1, INT32_MAX),
    SIZE("latent_size", latent_size, 0, INT32_MAX),
    WORD("select", routing.select, words_select),
    WORD("weight", routing.weight, words_weight),
    SIZE("num_groups", routing.num_groups, 0, MOE_MODEL_MAX_EXPERTS),
    SIZE("top_groups", routing.top_groups, 0, MOE_MODEL_MAX_EXPERTS),
    WORD("group_score", routing.group_score, words_group_score),
    BOOL("group_mask_zero", routing.group_mask_zero),
    WORD("renorm", routing.renorm, words_renorm),
    NUMBER("renorm_eps", routing.renorm_eps),
    NUMBER("renorm_p", routing.renorm_p),
    NUMBER("scale", routing.scale),
    NUMBER("softcap", routing.softcap),
    NUMBER("sparsemixer_eps", routing.sparsemixer_eps),
    SIZE("num_always", routing.num_always, 0, MOE_MODEL_MAX_EXPERTS),
    SIZE("hash_rows", hash_rows, 0, INT32_MAX),
    NUMBER("router_norm_eps", router_norm_eps),
    BOOL("router_norm_unit", router_norm_unit),
    BOOL("weight_on_input", weight_on_input),
    NUMBER("routed_scale", routed_scale),
    NUMBER("out_scale", out_scale),
    NUMBER("out_norm_eps", out_norm_eps),
    NUMBER("latent_norm_eps", latent_norm_eps),
    BOOL("gated", gated),
    ACT("act", act),
    BOOL("biases", biases),
    WORD("shared", shared, words_shared),
    SIZE("shared_size", shared_size, 0, INT32_MAX),
    BOOL("shared_gated", shared_gated),
    ACT("shared_act", shared_act),
    BOOL("shared_biases", shared_biases),
    ROLES("needs", needs),
    ROLES("takes", takes),
};
const size_t moe_num_axes = MOE_ARRAY_SIZE(moe_axes);

const char *const moe_axis_roles[] = {
#define ROLE_NAME(NAME, name) #name,
    MOE_ROLE_MAP(ROLE_NAME)
#undef ROLE_NAME
        NULL};

const char *const moe_axis_layouts[] = {"fused", "transposed", "interleaved", "flat", "down_transposed", NULL};

#define MLP(field) {#field, offsetof(struct moe_mlp_names, field)}
const struct moe_axis_name moe_axis_mlp_names[] = {MLP(gate),      MLP(up),      MLP(down),
                                                   MLP(gate_bias), MLP(up_bias), MLP(down_bias)};
const size_t moe_num_axis_mlp_names = MOE_ARRAY_SIZE(moe_axis_mlp_names);

const struct moe_axis_name moe_axis_name_flags[] = {
    {"router_transposed", offsetof(struct moe_names, router_transposed)},
    {"two_selection_biases", offsetof(struct moe_names, two_biases)},
};
const size_t moe_num_axis_name_flags = MOE_ARRAY_SIZE(moe_axis_name_flags);

void moe_axis_defaults(struct moe_model_axes *axes)
{
    memset(axes, 0, sizeof *axes);
    MOE_INIT(&axes->routing);
    axes->has_experts = axes->gated = axes->shared_gated = true;
    axes->act.struct_size = axes->shared_act.struct_size = sizeof axes->act;
}

static size_t value_size(enum moe_axis_kind kind)
{
    switch (kind) {
    case MOE_AXIS_SIZE:
        return sizeof(size_t);
    case MOE_AXIS_NUMBER:
        return sizeof(float);
    case MOE_AXIS_BOOL:
        return sizeof(bool);
    case MOE_AXIS_WORD:
        return sizeof(int);
    case MOE_AXIS_ROLES:
        break;
    }
    return sizeof(uint32_t);
}

bool moe_axis_same(const struct moe_model_axes *a, const struct moe_model_axes *b, const struct moe_axis *axis)
{
    return memcmp((const char *)a + axis->offset, (const char *)b + axis->offset, value_size(axis->kind)) == 0;
}
