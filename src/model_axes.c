// SPDX-License-Identifier: MIT
// From metadata to the axes of a block: sizes, routing, activation, and which blocks have experts. The keys and the
// defaults are in presets.c; every value is checked here before anything is built from it.
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "model.h"

enum { KEY_SIZE = 192, FOUND_SIZE = 96 };

/* A reading of one block's metadata. */
struct reading {
    const struct moe_model *model;
    size_t block;
    struct moe_error *error;
};

struct found {
    bool there;
    bool null;                 /* there as null, which counts as absent */
    char key[KEY_SIZE];        /* in full; the first alternative where none is there */
    struct moe_value value;
};

static void describe(char out[FOUND_SIZE], const struct moe_value *value)
{
    switch (value->kind) {
    case MOE_VALUE_NULL:
        snprintf(out, FOUND_SIZE, "null");
        break;
    case MOE_VALUE_BOOL:
        snprintf(out, FOUND_SIZE, "%s", value->boolean ? "true" : "false");
        break;
    case MOE_VALUE_INT:
        snprintf(out, FOUND_SIZE, "%" PRId64, value->integer);
        break;
    case MOE_VALUE_FLOAT:
        snprintf(out, FOUND_SIZE, "the number %g", value->number);
        break;
    case MOE_VALUE_STRING:
        snprintf(out, FOUND_SIZE, "the text '%.64s'", value->string);
        break;
    case MOE_VALUE_ARRAY:
        snprintf(out, FOUND_SIZE, "a list of %zu", value->length);
        break;
    }
}

static enum moe_status fail_value(const struct reading *r, const struct found *f, const char *expected)
{
    char found[FOUND_SIZE] = "";
    describe(found, &f->value);
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: key '%s': expected %s, found %s",
                    moe_archive_path(r->model->archive), f->key, expected, found);
}

static enum moe_status fail_missing(const struct reading *r, const struct found *f)
{
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: key '%s' is missing", moe_archive_path(r->model->archive), f->key);
}

/* Does the family obey the key in this file? */
static bool obeys(const struct reading *r, enum moe_key key)
{
    enum {
        COMMON = MOE_KEY_BIT(BLOCKS) | MOE_KEY_BIT(NEXTN) | MOE_KEY_BIT(EXPERTS) | MOE_KEY_BIT(TOP_K) |
                 MOE_KEY_BIT(HIDDEN) | MOE_KEY_BIT(FF) | MOE_KEY_BIT(GATING),
        COMMON_GGUF = MOE_KEY_BIT(SHARED_COUNT) | MOE_KEY_BIT(SHARED_FF)
    };
    uint32_t keys = r->model->preset->keys | COMMON;
    if (r->model->vocabulary == MOE_VOCABULARY_GGUF)
        keys |= COMMON_GGUF;
    return (keys & (1u << key)) != 0;
}

/* Look for a key under its alternative names. */
static void find(const struct reading *r, enum moe_key key, struct found *out)
{
    memset(out, 0, sizeof *out);
    if (!obeys(r, key))
        return;
    const char *prefix = r->model->key_prefix;
    for (const char *name = moe_preset_key_names(key, r->model->vocabulary); *name != '\0';) {
        size_t length = strcspn(name, "|");
        char full[KEY_SIZE];
        snprintf(full, sizeof full, "%s%.*s", prefix, (int)length, name);
        if (out->key[0] == '\0')
            memcpy(out->key, full, sizeof full);
        struct moe_value value;
        bool named = moe_archive_metadata_find(r->model->archive, full, &value) == MOE_OK;
        if (named && value.kind != MOE_VALUE_NULL) {
            memcpy(out->key, full, sizeof full);
            out->value = value;
            out->there = true;
            return;
        }
        out->null = out->null || named;
        name += length + (name[length] == '|');
    }
}

/* The same for a single value, which may be given as a list with an item for each block. */
static enum moe_status find_one(const struct reading *r, enum moe_key key, struct found *out)
{
    find(r, key, out);
    if (!out->there || out->value.kind != MOE_VALUE_ARRAY)
        return MOE_OK;
    if (r->block >= out->value.length)
        return fail_value(r, out, "a value for every block");
    struct moe_value list = out->value;
    return moe_archive_metadata_item(r->model->archive, &list, r->block, &out->value);
}

/* An integer of min..max; absent: *out stays as it is and *there, if given, tells. */
static enum moe_status read_size(const struct reading *r, enum moe_key key, size_t min, size_t max, size_t *out,
                                 bool *there)
{
    struct found f;
    MOE_TRY(find_one(r, key, &f));
    if (there != NULL)
        *there = f.there;
    if (!f.there)
        return MOE_OK;
    const struct moe_value *v = &f.value;
    if (v->kind != MOE_VALUE_INT || v->integer < 0 || (uint64_t)v->integer < min || (uint64_t)v->integer > max) {
        char expected[FOUND_SIZE];
        snprintf(expected, sizeof expected, "an integer of %zu to %zu", min, max);
        return fail_value(r, &f, expected);
    }
    *out = (size_t)v->integer;
    return MOE_OK;
}

static enum moe_status need_size(const struct reading *r, enum moe_key key, size_t min, size_t max, size_t *out)
{
    bool there;
    MOE_TRY(read_size(r, key, min, max, out, &there));
    if (there)
        return MOE_OK;
    struct found f;
    find(r, key, &f);
    return fail_missing(r, &f);
}

/* A finite number above 0, or 0 where that stands for "none"; absent: *out stays. */
static enum moe_status read_positive(const struct reading *r, enum moe_key key, bool allow_zero, float *out)
{
    struct found f;
    MOE_TRY(find_one(r, key, &f));
    if (!f.there)
        return MOE_OK;
    bool number = f.value.kind == MOE_VALUE_INT || f.value.kind == MOE_VALUE_FLOAT;
    double value = f.value.number;
    bool good = number && value <= FLT_MAX && (value >= FLT_MIN || (allow_zero && value == 0.0));
    if (!good)
        return fail_value(r, &f, "a finite number above 0");
    *out = (float)value;
    return MOE_OK;
}

static enum moe_status read_bool(const struct reading *r, enum moe_key key, bool *out)
{
    struct found f;
    MOE_TRY(find_one(r, key, &f));
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_BOOL)
        return fail_value(r, &f, "true or false");
    *out = f.value.boolean;
    return MOE_OK;
}

/* Is the block in a list of block numbers? */
static enum moe_status read_list(const struct reading *r, enum moe_key key, bool *there, bool *listed)
{
    struct found f;
    find(r, key, &f);
    *there = f.there;
    *listed = false;
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_ARRAY || f.value.length > MOE_MODEL_MAX_BLOCKS)
        return fail_value(r, &f, "a list of block numbers");
    for (size_t i = 0; i < f.value.length; i++) {
        struct moe_value item;
        MOE_TRY(moe_archive_metadata_item(r->model->archive, &f.value, i, &item));
        if (item.kind != MOE_VALUE_INT) {
            f.value = item;
            return fail_value(r, &f, "a list of block numbers");
        }
        *listed = *listed || item.integer == (int64_t)r->block;
    }
    return MOE_OK;
}

static enum moe_status read_has_experts(const struct reading *r, bool *out)
{
    bool gguf = r->model->vocabulary == MOE_VOCABULARY_GGUF;
    bool there, listed;
    size_t first_dense = gguf ? 0 : r->model->preset->first_dense;
    MOE_TRY(read_size(r, MOE_KEY_FIRST_DENSE, 0, MOE_MODEL_MAX_BLOCKS, &first_dense, NULL));
    *out = obeys(r, MOE_KEY_FIRST_DENSE) ? r->block >= first_dense : true;

    MOE_TRY(read_list(r, MOE_KEY_MOE_LIST, &there, &listed));
    if (there) {
        *out = *out && listed;
    } else {
        size_t step = 1;
        MOE_TRY(read_size(r, MOE_KEY_STEP, 1, MOE_MODEL_MAX_BLOCKS, &step, NULL));
        *out = *out && (r->block + 1) % step == 0;
    }
    MOE_TRY(read_list(r, MOE_KEY_DENSE_LIST, &there, &listed));
    *out = *out && !listed;
    return MOE_OK;
}

static enum moe_status read_score(const struct reading *r, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    struct moe_routing *routing = &out->routing;
    routing->select = preset->select;
    routing->weight = preset->weight;
    size_t gating = r->model->vocabulary == MOE_VOCABULARY_GGUF ? preset->gguf_gating : 0;
    MOE_TRY(read_size(r, MOE_KEY_GATING, 0, UINT32_MAX, &gating, NULL));
    if (gating == 0)
        return MOE_OK;
    enum moe_score weight = MOE_SCORE_DEFAULT;
    struct found f;
    find(r, MOE_KEY_GATING, &f);
    if (!moe_preset_gating((uint32_t)gating, &weight))
        return moe_fail(r->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': gating function %zu is not known to this library",
                        moe_archive_path(r->model->archive), f.key, gating);
    if (weight != preset->weight)
        routing->select = MOE_SCORE_DEFAULT;
    routing->weight = weight;
    return MOE_OK;
}

static enum moe_status read_groups(const struct reading *r, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    struct moe_routing *routing = &out->routing;
    bool gguf = r->model->vocabulary == MOE_VOCABULARY_GGUF;
    size_t groups = gguf || preset->num_groups == 0 ? 1 : preset->num_groups;
    size_t top = gguf || preset->num_groups == 0 ? 1 : preset->top_groups;
    bool there, top_there;
    struct found f;
    find(r, MOE_KEY_GROUPS, &f);
    MOE_TRY(read_size(r, MOE_KEY_GROUPS, gguf ? 0 : 1, out->num_experts, &groups, &there));
    if (groups <= 1 || f.null)   /* null says "no groups", not "the usual ones" */
        return MOE_OK;
    if (out->num_experts % groups != 0)
        return moe_fail(r->error, MOE_ERR_FORMAT, "%s: key '%s': expected a divisor of the %zu experts, found %zu",
                        moe_archive_path(r->model->archive), f.key, out->num_experts, groups);
    MOE_TRY(read_size(r, MOE_KEY_TOP_GROUPS, 1, groups, &top, &top_there));
    find(r, MOE_KEY_TOP_GROUPS, &f);
    size_t usual = gguf ? 0 : preset->top_groups;
    if (there && !top_there && (usual == 0 || usual > groups || f.null))
        return fail_missing(r, &f);
    /* Group scores are the family's: with another score they would be a guess. */
    if (routing->weight != preset->weight)
        return moe_fail(r->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': groups with a gating function that is not %s's",
                        moe_archive_path(r->model->archive), f.key, preset->name);
    routing->num_groups = groups;
    routing->top_groups = top;
    routing->group_score = preset->group_score;
    routing->group_mask_zero = preset->group_mask_zero;
    return MOE_OK;
}

static enum moe_status read_routing(const struct reading *r, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    struct moe_routing *routing = &out->routing;
    bool gguf = r->model->vocabulary == MOE_VOCABULARY_GGUF;
    MOE_INIT(routing);
    MOE_TRY(read_score(r, out));
    MOE_TRY(read_groups(r, out));
    out->selection_bias = preset->selection_bias && routing->weight == preset->weight;
    bool norm = gguf ? preset->norm.gguf : preset->norm.config;
    MOE_TRY(read_bool(r, MOE_KEY_NORM, &norm));
    if (norm) {
        routing->renorm = preset->renorm;
        routing->renorm_eps = preset->renorm_eps;
    }
    routing->scale = gguf ? 0.0f : preset->scale;
    return read_positive(r, MOE_KEY_SCALE, gguf, &routing->scale);
}

static enum moe_status read_act(const struct reading *r, struct moe_model_axes *out)
{
    out->act = r->model->preset->act;
    out->act.struct_size = sizeof out->act;
    MOE_TRY(read_positive(r, MOE_KEY_LIMIT, false, &out->act.limit));
    struct found f;
    find(r, MOE_KEY_ACT, &f);
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_STRING)
        return fail_value(r, &f, "the name of an activation");
    if (!moe_preset_act_kind(f.value.string, &out->act.kind))
        return moe_fail(r->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': activation '%.64s' is not known to this library",
                        moe_archive_path(r->model->archive), f.key, f.value.string);
    return MOE_OK;
}

static enum moe_status read_shared(const struct reading *r, struct moe_model_axes *out)
{
    const struct moe_preset *preset = r->model->preset;
    bool there;
    out->shared_size = 0;
    if (preset->shared == MOE_PRESET_SHARED_NONE)
        return MOE_OK;
    MOE_TRY(read_size(r, MOE_KEY_SHARED_FF, 0, INT32_MAX, &out->shared_size, &there));
    if (there && out->shared_size > 0)
        return MOE_OK;
    struct found f;
    find(r, MOE_KEY_SHARED_COUNT, &f);
    size_t count = f.null ? 0 : preset->shared_count;   /* null says "none", not "the usual number" */
    bool count_there;
    MOE_TRY(read_size(r, MOE_KEY_SHARED_COUNT, 0, MOE_MODEL_MAX_EXPERTS, &count, &count_there));
    if (count == 0 && !count_there && !f.null && !there) {
        find(r, MOE_KEY_SHARED_FF, &f);
        return fail_missing(r, &f);
    }
    if (!moe_mul(&out->shared_size, count, out->intermediate_size) || out->shared_size > INT32_MAX)
        return moe_fail(r->error, MOE_ERR_FORMAT, "%s: %zu shared experts of %zu rows are too many",
                        moe_archive_path(r->model->archive), count, out->intermediate_size);
    return MOE_OK;
}

enum moe_status moe_model_axes_blocks(const struct moe_model *model, size_t *num_blocks, struct moe_error *error)
{
    const struct reading r = {model, 0, error};
    size_t nextn = 0;
    MOE_TRY(need_size(&r, MOE_KEY_BLOCKS, 1, MOE_MODEL_MAX_BLOCKS, num_blocks));
    MOE_TRY(read_size(&r, MOE_KEY_NEXTN, 0, *num_blocks - 1, &nextn, NULL));
    *num_blocks -= nextn;
    return MOE_OK;
}

enum moe_status moe_model_axes_read(const struct moe_model *model, size_t block, struct moe_model_axes *out,
                                    struct moe_error *error)
{
    const struct reading r = {model, block, error};
    memset(out, 0, sizeof *out);
    MOE_TRY(read_has_experts(&r, &out->has_experts));
    if (!out->has_experts)
        return MOE_OK;
    MOE_TRY(need_size(&r, MOE_KEY_EXPERTS, 1, MOE_MODEL_MAX_EXPERTS, &out->num_experts));
    MOE_TRY(need_size(&r, MOE_KEY_TOP_K, 1, out->num_experts, &out->top_k));
    MOE_TRY(need_size(&r, MOE_KEY_HIDDEN, 1, INT32_MAX, &out->hidden_size));
    MOE_TRY(need_size(&r, MOE_KEY_FF, 1, INT32_MAX, &out->intermediate_size));
    MOE_TRY(read_routing(&r, out));
    MOE_TRY(read_act(&r, out));
    return read_shared(&r, out);
}
