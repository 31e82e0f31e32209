// SPDX-License-Identifier: MIT
// From metadata to the axes of a block: sizes, routing, activation, shared experts. The keys and the defaults are in
// the preset tables; every value is checked before anything is built from it.
#include "model_axes.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#include "model_matrix.h"

static bool is_config(const struct moe_reading *r)
{
    return r->model->vocabulary == MOE_VOCABULARY_CONFIG;
}

static enum moe_status fail_unsupported(const struct moe_reading *r, const char *key, const char *what,
                                        const char *found)
{
    return moe_fail(r->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': %s '%.64s' is not known to this library",
                    moe_archive_path(r->model->archive), key, what, found);
}

/* ---- routing --------------------------------------------------------------------------------------------------- */

static enum moe_status read_gating(const struct moe_reading *r, struct moe_routing *routing)
{
    const struct moe_preset *preset = r->model->preset;
    size_t gating = r->model->gguf != NULL ? r->model->gguf->gating : 0;
    size_t given = 0;
    MOE_TRY(moe_keys_size(r, MOE_KEY_GATING, 0, UINT32_MAX, &given, NULL));
    if (given != 0)
        gating = given;
    if (gating == 0)
        return MOE_OK;
    enum moe_score weight = MOE_SCORE_DEFAULT;
    struct moe_found f;
    moe_keys_find(r, MOE_KEY_GATING, &f);
    if (!moe_preset_gating((uint32_t)gating, &weight))
        return moe_fail(r->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': gating function %zu is not known to this library",
                        moe_archive_path(r->model->archive), f.key, gating);
    if (weight != preset->weight && preset->select != MOE_SCORE_LOGIT)
        routing->select = MOE_SCORE_DEFAULT;
    routing->weight = weight;
    return MOE_OK;
}

/* Where the family weighs by the chosen logits, softmax and sigmoid are those of the chosen. */
static enum moe_status read_score(const struct moe_reading *r, struct moe_routing *routing)
{
    bool chosen = r->model->preset->weight == MOE_SCORE_SOFTMAX_TOPK;
    const char *name;
    MOE_TRY(moe_keys_text(r, MOE_KEY_SCORE, &name));
    if (name == NULL)
        return MOE_OK;
    if (strcmp(name, "sigmoid") == 0) {
        routing->weight = MOE_SCORE_SIGMOID;
    } else if (strcmp(name, "softmax") == 0 && chosen) {
        routing->weight = MOE_SCORE_SOFTMAX_TOPK;
    } else if (strcmp(name, "sqrtsoftplus") == 0 && !chosen) {
        routing->weight = MOE_SCORE_SQRT_SOFTPLUS;
    } else {
        struct moe_found f;
        moe_keys_find(r, MOE_KEY_SCORE, &f);
        return fail_unsupported(r, f.key, "the score function", name);
    }
    return MOE_OK;
}

/* Does the file's method of choosing look at groups? *needed: then it has to say how many there are. */
static enum moe_status read_group_method(const struct moe_reading *r, bool *groups, bool *needed)
{
    const char *name;
    *groups = true;
    *needed = false;
    if (!moe_keys_obey(r, MOE_KEY_GROUP_METHOD) || !is_config(r))
        return MOE_OK;
    MOE_TRY(moe_keys_text(r, MOE_KEY_GROUP_METHOD, &name));
    *groups = *needed = name != NULL && strcmp(name, "group_limited_greedy") == 0;
    if (name == NULL || *groups || strcmp(name, "greedy") == 0)
        return MOE_OK;
    struct moe_found f;
    moe_keys_find(r, MOE_KEY_GROUP_METHOD, &f);
    return fail_unsupported(r, f.key, "the method", name);
}

static enum moe_status read_groups(const struct moe_reading *r, size_t num_ids, struct moe_routing *routing,
                                   size_t *top_k)
{
    const struct moe_preset *preset = r->model->preset;
    size_t usual = is_config(r) ? preset->num_groups : 0, usual_top = is_config(r) ? preset->top_groups : 0;
    size_t groups = usual == 0 ? 1 : usual, top = usual_top == 0 ? 1 : usual_top;
    bool there, top_there, grouped, needed;
    struct moe_found f;
    MOE_TRY(read_group_method(r, &grouped, &needed));
    if (!grouped)
        return MOE_OK;
    moe_keys_find(r, MOE_KEY_GROUPS, &f);
    MOE_TRY(moe_keys_size(r, MOE_KEY_GROUPS, is_config(r) ? 1 : 0, num_ids, &groups, &there));
    if (needed && !there)
        return moe_keys_fail_missing(r, MOE_KEY_GROUPS);
    if (groups <= 1 || f.null)   /* null says "no groups", not "the usual ones" */
        return MOE_OK;
    if (num_ids % groups != 0)
        return moe_fail(r->error, MOE_ERR_FORMAT, "%s: key '%s': expected a divisor of the %zu experts, found %zu",
                        moe_archive_path(r->model->archive), f.key, num_ids, groups);
    MOE_TRY(moe_keys_size(r, MOE_KEY_TOP_GROUPS, 1, groups, &top, &top_there));
    moe_keys_find(r, MOE_KEY_TOP_GROUPS, &f);
    if (there && !top_there && (usual_top == 0 || usual_top > groups || f.null))
        return moe_keys_fail_missing(r, MOE_KEY_TOP_GROUPS);
    /* Group scores are the family's: with another score they would be a guess. */
    if (routing->weight != preset->weight)
        return moe_fail(r->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': groups with a gating function that is not %s's",
                        moe_archive_path(r->model->archive), f.key, preset->name);
    routing->num_groups = groups;
    routing->top_groups = top;
    routing->group_score = preset->group_score;
    routing->group_mask_zero = preset->group_mask_zero;
    size_t kept = top * (num_ids / groups);
    if (preset->group_weights_zero && *top_k > kept)   /* the rest would add nothing */
        *top_k = kept;
    return MOE_OK;
}

/* The p of a p-norm; null is none. */
static enum moe_status read_p_norm(const struct moe_reading *r, bool *norm, float *p)
{
    struct moe_found f;
    MOE_TRY(moe_keys_find_one(r, MOE_KEY_NORM_P, &f));
    if (f.null)
        *norm = false;
    if (!f.there)
        return MOE_OK;
    bool number = f.value.kind == MOE_VALUE_INT || f.value.kind == MOE_VALUE_FLOAT;
    if (!number || !(f.value.number >= 1.0) || f.value.number > FLT_MAX)
        return moe_keys_fail(r, &f, "a finite number from 1 up, or null");
    *p = (float)f.value.number;
    return MOE_OK;
}

static enum moe_status read_renorm(const struct moe_reading *r, struct moe_routing *routing)
{
    const struct moe_preset *preset = r->model->preset;
    bool norm = is_config(r) ? preset->norm.config : r->model->gguf->norm;
    float eps = preset->renorm_eps, p = preset->renorm_p;
    MOE_TRY(moe_keys_bool(r, MOE_KEY_NORM, &norm));
    MOE_TRY(read_p_norm(r, &norm, &p));
    MOE_TRY(moe_keys_number(r, MOE_KEY_NORM_MIN, true, &eps));
    if (!norm || routing->weight == MOE_SCORE_SOFTMAX_TOPK)   /* its weights sum to 1 anyway */
        return MOE_OK;
    routing->renorm = preset->renorm;
    routing->renorm_eps = eps;
    routing->renorm_p = p;
    return MOE_OK;
}

/* Rows of the hash table, where no key says it; 0: it is not there. */
static size_t table_rows(const struct moe_reading *r, const struct moe_names *names)
{
    const struct moe_build b = {.model = (struct moe_model *)r->model, .block = r->block};
    char full[MOE_TENSOR_NAME_SIZE];
    const struct moe_archive_tensor *tensor = moe_matrix_find(&b, names->role[MOE_ROLE_HASH_TABLE], 0, full);
    return tensor != NULL ? tensor->info.shape[0] : 0;
}

/* What follows from the score: which biases choose, and whether a table does. */
static enum moe_status read_selection(const struct moe_reading *r, bool hash, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    const uint32_t bias = MOE_ROLE_BIT(SELECTION_BIAS);
    bool use_bias = true;
    if (out->routing.weight != preset->weight) {
        out->needs &= ~bias;
        out->takes |= preset->needs & bias;
    }
    MOE_TRY(moe_keys_bool(r, MOE_KEY_USE_BIAS, &use_bias));
    if (!use_bias || hash) {
        out->needs &= ~bias;
        out->takes &= ~bias;
    }
    if (hash) {
        out->needs |= MOE_ROLE_BIT(HASH_TABLE);
        if (!is_config(r))
            out->hash_rows = table_rows(r, out->names);
        MOE_TRY(moe_keys_size(r, MOE_KEY_VOCAB, 1, INT32_MAX, &out->hash_rows, NULL));
    }
    return MOE_OK;
}

static enum moe_status read_routing(const struct moe_reading *r, bool hash, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    struct moe_routing *routing = &out->routing;
    size_t always = routing->num_always;
    MOE_INIT(routing);
    routing->num_always = always;
    routing->select = preset->select;
    routing->weight = preset->weight;
    routing->sparsemixer_eps = preset->sparsemixer_eps;
    if (!is_config(r))
        MOE_TRY(read_gating(r, routing));
    MOE_TRY(read_score(r, routing));
    MOE_TRY(read_groups(r, out->num_experts + out->num_zero_experts - always, routing, &out->top_k));
    MOE_TRY(read_selection(r, hash, out));
    MOE_TRY(read_renorm(r, routing));
    MOE_TRY(moe_keys_number(r, MOE_KEY_SOFTCAP, true, &routing->softcap));
    MOE_TRY(moe_keys_number(r, MOE_KEY_SPARSEMIXER_EPS, true, &routing->sparsemixer_eps));
    out->weight_on_input = preset->weight_on_input;
    MOE_TRY(moe_keys_bool(r, MOE_KEY_ON_INPUT, &out->weight_on_input));
    float scale = is_config(r) ? preset->scale : 0.0f;
    MOE_TRY(moe_keys_number(r, MOE_KEY_SCALE, !is_config(r), &scale));
    if (preset->scale_on_sum)
        out->routed_scale = scale;
    else
        routing->scale = scale;
    return MOE_OK;
}

/* ---- activation ------------------------------------------------------------------------------------------------ */

static enum moe_status read_act_kind(const struct moe_reading *r, enum moe_key key, struct moe_act *act)
{
    const char *name;
    MOE_TRY(moe_keys_text(r, key, &name));
    if (name == NULL || moe_preset_find_act(name, act))
        return MOE_OK;
    struct moe_found f;
    moe_keys_find(r, key, &f);
    return fail_unsupported(r, f.key, "activation", name);
}

static void clamp_with_limit(struct moe_act *act)
{
    if (act->limit == 0.0f)
        act->clamp = MOE_CLAMP_NONE;
}

static enum moe_status read_act(const struct moe_reading *r, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    struct moe_act *act = &out->act, *shared = &out->shared_act;
    *act = preset->act;
    act->struct_size = sizeof *act;
    bool optional = preset->act.limit == 0.0f || !is_config(r);
    MOE_TRY(moe_keys_number(r, MOE_KEY_LIMIT, optional, &act->limit));
    MOE_TRY(moe_keys_number(r, MOE_KEY_ALPHA, false, &act->alpha));
    MOE_TRY(moe_keys_number(r, MOE_KEY_SITU_BETA, false, &act->beta));
    MOE_TRY(moe_keys_number(r, MOE_KEY_SITU_BETA_UP, true, &act->beta_up));
    MOE_TRY(read_act_kind(r, MOE_KEY_ACT, act));
    *shared = *act;
    MOE_TRY(read_act_kind(r, MOE_KEY_SHARED_ACT, shared));
    if (preset->shared_unclamped || (preset->keys & MOE_KEY_BIT(SHARED_LIMIT)) != 0)
        shared->limit = 0.0f;
    MOE_TRY(moe_keys_number(r, MOE_KEY_SHARED_LIMIT, true, &shared->limit));
    if (!is_config(r) && act->clamp == MOE_CLAMP_NONE)   /* llama.cpp has the key for all, and one meaning for most */
        act->clamp = shared->clamp = MOE_CLAMP_AFTER;
    clamp_with_limit(act);
    clamp_with_limit(shared);
    return MOE_OK;
}

/* ---- shared experts -------------------------------------------------------------------------------------------- */

/* The width of the first of the layouts whose tensors are there; 0: none. */
static size_t shared_rows(const struct moe_reading *r, const struct moe_mlp_names *layouts)
{
    const struct moe_build b = {.model = (struct moe_model *)r->model, .block = r->block};
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && layouts[i].up != NULL; i++) {
        char full[MOE_TENSOR_NAME_SIZE];
        const struct moe_archive_tensor *tensor = moe_matrix_find(&b, layouts[i].up, 0, full);
        if (tensor == NULL || tensor->info.num_dims < 2)
            continue;
        size_t rows = tensor->info.shape[tensor->info.num_dims - 2];
        return (layouts[i].layout & MOE_MLP_FUSED) != 0 ? rows / 2 : rows;
    }
    return 0;
}

/* How many shared experts, each as wide as an expert. */
static enum moe_status read_shared_count(const struct moe_reading *r, enum moe_key missing, size_t *count)
{
    const struct moe_preset *preset = r->model->preset;
    struct moe_found f;
    bool there;
    moe_keys_find(r, MOE_KEY_SHARED_COUNT, &f);
    *count = f.null ? 0 : preset->shared_count;   /* null says "none", not "the usual number" */
    MOE_TRY(moe_keys_size(r, MOE_KEY_SHARED_COUNT, 0, MOE_MODEL_MAX_EXPERTS, count, &there));
    bool said = there || f.null || preset->shared_optional;
    return *count == 0 && !said ? moe_keys_fail_missing(r, missing) : MOE_OK;
}

static enum moe_status read_shared_mix(const struct moe_reading *r, struct moe_model_axes *out)
{
    bool averaged = r->model->preset->shared_averaged;
    const char *name;
    MOE_TRY(moe_keys_text(r, MOE_KEY_SHARED_MIX, &name));
    if (name != NULL) {
        averaged = strcmp(name, "average") == 0;
        struct moe_found f;
        moe_keys_find(r, MOE_KEY_SHARED_MIX, &f);
        if (!averaged && strcmp(name, "sum") != 0)
            return fail_unsupported(r, f.key, "the strategy", name);
    }
    if (averaged && out->shared_size > 0)
        out->out_scale = 0.5f;
    return MOE_OK;
}

static enum moe_status read_shared(const struct moe_reading *r, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    if (preset->shared == MOE_PRESET_SHARED_NONE)
        return MOE_OK;
    MOE_TRY(moe_keys_bool(r, MOE_KEY_MLP_BIAS, &out->shared_biases));
    if (r->model->gguf != NULL && r->model->gguf->shared_by_tensor) {
        out->shared_size = shared_rows(r, out->names->shared);
        return read_shared_mix(r, out);
    }
    bool there;
    size_t count;
    MOE_TRY(moe_keys_size(r, MOE_KEY_SHARED_FF, 0, INT32_MAX, &out->shared_size, &there));
    if (!there || out->shared_size == 0) {
        if (there && !moe_keys_obey(r, MOE_KEY_SHARED_COUNT))
            return MOE_OK;
        MOE_TRY(read_shared_count(r, moe_keys_obey(r, MOE_KEY_SHARED_FF) ? MOE_KEY_SHARED_FF : MOE_KEY_SHARED_COUNT,
                                  &count));
        if (!moe_mul(&out->shared_size, count, out->intermediate_size) || out->shared_size > INT32_MAX)
            return moe_fail(r->error, MOE_ERR_FORMAT, "%s: %zu shared experts of %zu rows are too many",
                            moe_archive_path(r->model->archive), count, out->intermediate_size);
    }
    return read_shared_mix(r, out);
}

/* ---- sizes ----------------------------------------------------------------------------------------------------- */

static enum moe_status read_top_k(const struct moe_reading *r, size_t num_ids, size_t *top_k)
{
    *top_k = r->model->preset->top_k;
    if (*top_k == 0)
        return moe_keys_need_size(r, MOE_KEY_TOP_K, 1, num_ids, top_k);
    if (*top_k <= num_ids)
        return MOE_OK;
    struct moe_found f;
    MOE_TRY(moe_keys_find_one(r, MOE_KEY_EXPERTS, &f));
    return moe_keys_fail(r, &f, "as many as a token has");
}

static enum moe_status read_sizes(const struct moe_reading *r, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    size_t always = 0;
    bool there = false;
    MOE_TRY(moe_keys_need_size(r, MOE_KEY_EXPERTS, 1, MOE_MODEL_MAX_EXPERTS, &out->num_experts));
    MOE_TRY(moe_keys_size(r, MOE_KEY_ZERO_EXPERTS, 0, MOE_MODEL_MAX_EXPERTS, &out->num_zero_experts, &there));
    struct moe_found f;
    moe_keys_find(r, MOE_KEY_ZERO_EXPERTS, &f);
    if (moe_keys_obey(r, MOE_KEY_ZERO_EXPERTS) && is_config(r) && !there && !f.null)
        return moe_keys_fail_missing(r, MOE_KEY_ZERO_EXPERTS);
    MOE_TRY(read_top_k(r, out->num_experts + out->num_zero_experts, &out->top_k));
    if (preset->shared_routed) {
        always = preset->shared_count;
        MOE_TRY(moe_keys_size(r, MOE_KEY_SHARED_COUNT, 1, MOE_MODEL_MAX_EXPERTS, &always, NULL));
    }
    out->num_experts += always;
    out->top_k += always;
    out->routing.num_always = always;
    MOE_TRY(moe_keys_need_size(r, MOE_KEY_HIDDEN, 1, INT32_MAX, &out->hidden_size));
    return moe_keys_need_size(r, MOE_KEY_FF, 1, INT32_MAX, &out->intermediate_size);
}

static enum moe_status read_latent(const struct moe_reading *r, struct moe_model_axes *out)
{
    const uint32_t roles = MOE_ROLE_BIT(LATENT_IN) | MOE_ROLE_BIT(LATENT_OUT);
    bool biases = false;
    MOE_TRY(moe_keys_size(r, MOE_KEY_LATENT, 1, INT32_MAX, &out->latent_size, NULL));
    if (out->latent_size == 0)
        return (out->needs & roles) != 0 ? moe_keys_fail_missing(r, MOE_KEY_LATENT) : MOE_OK;
    out->needs |= roles;
    MOE_TRY(moe_keys_bool(r, MOE_KEY_MLP_BIAS, &biases));
    if (biases)
        out->needs |= MOE_ROLE_BIT(LATENT_IN_BIAS) | MOE_ROLE_BIT(LATENT_OUT_BIAS);
    return MOE_OK;
}

enum moe_status moe_model_axes_read(const struct moe_model *model, size_t block, struct moe_model_axes *out,
                                    struct moe_error *error)
{
    const struct moe_reading r = {model, block, error};
    const struct moe_preset *preset = model->preset;
    bool hash;
    memset(out, 0, sizeof *out);
    out->names = preset->names;
    if (model->gguf != NULL)
        out->names = model->gguf->names != NULL ? model->gguf->names : &moe_names_gguf;
    MOE_TRY(moe_axes_find_experts(&r, out->names, &out->has_experts, &hash));
    if (!out->has_experts)
        return MOE_OK;
    out->gated = out->shared_gated = !preset->ungated;
    out->shared = preset->shared;
    out->biases = preset->biases;
    out->needs = preset->needs;
    out->takes = preset->takes;
    MOE_TRY(read_sizes(&r, out));
    MOE_TRY(read_latent(&r, out));
    MOE_TRY(read_routing(&r, hash, out));
    MOE_TRY(read_act(&r, out));
    float eps = preset->norm_eps;
    MOE_TRY(moe_keys_number(&r, MOE_KEY_NORM_EPS, true, &eps));
    out->router_norm_eps = out->latent_norm_eps = out->out_norm_eps = eps;
    out->router_norm_unit = preset->router_norm_unit;
    return read_shared(&r, out);
}
