// SPDX-License-Identifier: MIT
// How many blocks a model has, and which of them have experts, or route by a hash table. Files say so in a dozen ways.
#include "model_axes.h"

#include <string.h>

#include "model_matrix.h"

enum word { WORD_DENSE, WORD_EXPERTS, WORD_HASH };

/* What a block is, by a list of words, one for each. words ends with a NULL. */
struct named {
    const char *name;
    enum word word;
};

static enum moe_status read_word(const struct moe_reading *r, enum moe_key key, const struct named *words,
                                 const char *expected, bool *there, enum word *out)
{
    struct moe_found f;
    moe_keys_find(r, key, &f);
    *there = f.there;
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_ARRAY || r->block >= f.value.length)
        return moe_keys_fail(r, &f, "a list with a word for every block");
    struct moe_value list = f.value;
    MOE_TRY(moe_archive_metadata_item(r->model->archive, &list, r->block, &f.value));
    for (; f.value.kind == MOE_VALUE_STRING && words->name != NULL; words++) {
        if (strcmp(words->name, f.value.string) == 0) {
            *out = words->word;
            return MOE_OK;
        }
    }
    return moe_keys_fail(r, &f, expected);
}

static enum moe_status read_mlp_type(const struct moe_reading *r, bool *there, enum word *out)
{
    static const struct named sparse[] = {{"dense", WORD_DENSE}, {"sparse", WORD_EXPERTS}, {NULL, WORD_DENSE}};
    static const struct named hashed[] = {{"moe", WORD_EXPERTS}, {"hash_moe", WORD_HASH}, {NULL, WORD_DENSE}};
    bool hash = moe_keys_obey(r, MOE_KEY_HASH_LAYERS);
    return read_word(r, MOE_KEY_MLP_TYPES, hash ? hashed : sparse, hash ? "'moe' or 'hash_moe'" : "'dense' or 'sparse'",
                     there, out);
}

/* A block of such a model is a mixer, or a feed-forward network, with experts or without. */
static enum moe_status read_block_type(const struct moe_reading *r, bool *there, enum word *out)
{
    static const struct named words[] = {
        {"moe", WORD_EXPERTS}, {"mlp", WORD_DENSE},              {"mamba", WORD_DENSE},
        {"mamba2", WORD_DENSE}, {"linear_attention", WORD_DENSE}, {"attention", WORD_DENSE},
        {"full_attention", WORD_DENSE}, {NULL, WORD_DENSE}};
    MOE_TRY(read_word(r, MOE_KEY_BLOCK_TYPES, words, "'moe', 'mlp', 'mamba', 'attention' or the like", there, out));
    if (*there)
        return MOE_OK;
    struct moe_found f;
    moe_keys_find(r, MOE_KEY_BLOCK_PATTERN, &f);
    *there = f.there;
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_STRING || r->block >= f.value.length ||
        strchr("ME*-", f.value.string[r->block]) == NULL)
        return moe_keys_fail(r, &f, "one of M, E, * and - for every block");
    *out = f.value.string[r->block] == 'E' ? WORD_EXPERTS : WORD_DENSE;
    return MOE_OK;
}

/* The last block with experts; -1 is the last of all. */
static enum moe_status read_last(const struct moe_reading *r, bool *out)
{
    struct moe_found f;
    MOE_TRY(moe_keys_find_one(r, MOE_KEY_LAST_MOE, &f));
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_INT || f.value.integer < -1 || f.value.integer > MOE_MODEL_MAX_BLOCKS)
        return moe_keys_fail(r, &f, "a block number, or -1");
    *out = *out && (f.value.integer < 0 || r->block <= (size_t)f.value.integer);
    return MOE_OK;
}

static enum moe_status read_flag(const struct moe_reading *r, bool *out)
{
    struct moe_found f;
    moe_keys_find(r, MOE_KEY_MOE_FLAGS, &f);
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_ARRAY || r->block >= f.value.length)
        return moe_keys_fail(r, &f, "a list of 0 and 1 for every block");
    struct moe_value list = f.value;
    MOE_TRY(moe_archive_metadata_item(r->model->archive, &list, r->block, &f.value));
    if (f.value.kind != MOE_VALUE_BOOL && f.value.kind != MOE_VALUE_INT)
        return moe_keys_fail(r, &f, "a list of 0 and 1 for every block");
    *out = f.value.kind == MOE_VALUE_BOOL ? f.value.boolean : f.value.integer != 0;
    return MOE_OK;
}

/* By first, last and every how many. */
static enum moe_status read_steps(const struct moe_reading *r, bool *out)
{
    bool config = r->model->vocabulary == MOE_VOCABULARY_CONFIG, there, listed;
    const struct moe_preset_blocks *usual = &r->model->preset->blocks;
    size_t first = config ? usual->first : 0, step = 1;
    size_t period = config ? usual->period : 0, offset = config ? usual->offset : 0;
    MOE_TRY(moe_keys_size(r, MOE_KEY_FIRST_DENSE, 0, MOE_MODEL_MAX_BLOCKS, &first, NULL));
    MOE_TRY(moe_keys_size(r, MOE_KEY_FIRST_MOE, 0, MOE_MODEL_MAX_BLOCKS, &first, NULL));
    *out = r->block >= first;
    MOE_TRY(read_last(r, out));
    MOE_TRY(moe_keys_listed(r, MOE_KEY_MOE_LIST, &there, &listed));
    if (there) {
        *out = listed;
    } else {
        MOE_TRY(moe_keys_size(r, MOE_KEY_STEP, 1, MOE_MODEL_MAX_BLOCKS, &step, NULL));
        *out = *out && (r->block + 1) % step == 0;
    }
    MOE_TRY(moe_keys_size(r, MOE_KEY_PERIOD, 1, MOE_MODEL_MAX_BLOCKS, &period, NULL));
    if (period > 0) {
        MOE_TRY(moe_keys_size(r, MOE_KEY_OFFSET, 0, period - 1, &offset, NULL));
        *out = *out && r->block % period == offset;
    }
    MOE_TRY(read_flag(r, out));
    MOE_TRY(moe_keys_listed(r, MOE_KEY_DENSE_LIST, &there, &listed));
    *out = *out && !listed;
    return MOE_OK;
}

/* Tensors decide: a router, or experts. */
static bool has_tensors(const struct moe_reading *r, const struct moe_names *names)
{
    const struct moe_build b = {.model = (struct moe_model *)r->model, .block = r->block};
    char full[MOE_TENSOR_NAME_SIZE];
    if (moe_matrix_find(&b, names->role[MOE_ROLE_ROUTER], 0, full) != NULL)
        return true;
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && names->experts[i].up != NULL; i++)
        if (moe_matrix_find(&b, names->experts[i].up, 0, full) != NULL)
            return true;
    return false;
}

/* In GGUF files the table itself says so too. */
static bool has_table(const struct moe_reading *r)
{
    const struct moe_build b = {.model = (struct moe_model *)r->model, .block = r->block};
    char full[MOE_TENSOR_NAME_SIZE];
    return r->model->gguf != NULL &&
           moe_matrix_find(&b, moe_names_gguf.role[MOE_ROLE_HASH_TABLE], 0, full) != NULL;
}

static enum moe_status read_hash(const struct moe_reading *r, bool *hash)
{
    size_t count = r->model->vocabulary == MOE_VOCABULARY_CONFIG ? r->model->preset->blocks.num_hash : 0;
    MOE_TRY(moe_keys_size(r, MOE_KEY_HASH_LAYERS, 0, MOE_MODEL_MAX_BLOCKS, &count, NULL));
    *hash = r->block < count || has_table(r);
    return MOE_OK;
}

/* Families that also have dense members say that there are no experts, or one. */
static enum moe_status read_any(const struct moe_reading *r, bool *out)
{
    const struct moe_preset *preset = r->model->preset;
    *out = true;
    if (moe_keys_obey(r, MOE_KEY_HAS_EXPERTS) && r->model->vocabulary == MOE_VOCABULARY_CONFIG) {
        *out = false;
        MOE_TRY(moe_keys_bool(r, MOE_KEY_HAS_EXPERTS, out));
    }
    if (!*out || preset->min_experts == 0)
        return MOE_OK;
    size_t count = preset->min_experts;
    MOE_TRY(moe_keys_size(r, MOE_KEY_EXPERTS, 0, MOE_MODEL_MAX_EXPERTS, &count, NULL));
    *out = count >= preset->min_experts;
    return MOE_OK;
}

enum moe_status moe_axes_find_experts(const struct moe_reading *r, const struct moe_names *names, bool *has_experts,
                                      bool *hash)
{
    const struct moe_preset_gguf *gguf = r->model->gguf;
    bool there = false;
    enum word word = WORD_EXPERTS;
    *has_experts = *hash = false;
    if (gguf != NULL && gguf->by_tensor) {
        *has_experts = has_tensors(r, names);
        return MOE_OK;
    }
    MOE_TRY(read_any(r, has_experts));
    if (!*has_experts)
        return MOE_OK;
    MOE_TRY(read_mlp_type(r, &there, &word));
    if (!there)
        MOE_TRY(read_block_type(r, &there, &word));
    if (there) {
        *has_experts = word != WORD_DENSE;
        *hash = word == WORD_HASH;
        return MOE_OK;
    }
    if (moe_keys_obey(r, MOE_KEY_BLOCK_PATTERN) && r->model->vocabulary == MOE_VOCABULARY_CONFIG)
        return moe_keys_fail_missing(r, MOE_KEY_BLOCK_TYPES);
    MOE_TRY(read_steps(r, has_experts));
    return read_hash(r, hash);
}

/* A list of what each block is says how many there are, whatever else does. */
static bool count_list(const struct moe_reading *r, size_t *num_blocks)
{
    static const enum moe_key keys[] = {MOE_KEY_BLOCK_TYPES, MOE_KEY_BLOCK_PATTERN};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(keys); i++) {
        struct moe_found f;
        moe_keys_find(r, keys[i], &f);
        bool list = f.value.kind == MOE_VALUE_ARRAY || f.value.kind == MOE_VALUE_STRING;
        if (f.there && list && f.value.length > 0 && f.value.length <= MOE_MODEL_MAX_BLOCKS) {
            *num_blocks = f.value.length;
            return true;
        }
    }
    return false;
}

enum moe_status moe_model_axes_blocks(const struct moe_model *model, size_t *num_blocks, struct moe_error *error)
{
    const struct moe_reading r = {model, 0, error};
    const struct moe_preset *preset = model->preset;
    if (preset->refused != NULL)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s: models of the family %s cannot be run: %s",
                        moe_archive_path(model->archive), preset->name, preset->refused);
    if (count_list(&r, num_blocks))
        return MOE_OK;
    size_t nextn = 0;
    MOE_TRY(moe_keys_need_size(&r, MOE_KEY_BLOCKS, 1, MOE_MODEL_MAX_BLOCKS, num_blocks));
    MOE_TRY(moe_keys_size(&r, MOE_KEY_NEXTN, 0, *num_blocks - 1, &nextn, NULL));
    *num_blocks -= nextn;
    return MOE_OK;
}
