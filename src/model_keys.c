// SPDX-License-Identifier: MIT
// Finding and checking the values of metadata; the names of keys are in presets.h.
#include "model_keys.h"

#include <ctype.h>
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOUND_SIZE = 96 };

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

enum moe_status moe_keys_fail(const struct moe_reading *r, const struct moe_found *f, const char *expected)
{
    char found[FOUND_SIZE] = "";
    describe(found, &f->value);
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: key '%s': expected %s, found %s",
                    moe_archive_path(r->model->archive), f->key, expected, found);
}

enum moe_status moe_keys_fail_missing(const struct moe_reading *r, enum moe_key key)
{
    struct moe_found f;
    moe_keys_find(r, key, &f);
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: key '%s' is %s", moe_archive_path(r->model->archive), f.key,
                    f.null ? "missing: its value is null" : "missing");
}

bool moe_keys_obey(const struct moe_reading *r, enum moe_key key)
{
    static const uint64_t COMMON = MOE_KEY_BIT(BLOCKS) | MOE_KEY_BIT(NEXTN) | MOE_KEY_BIT(EXPERTS) |
                                   MOE_KEY_BIT(TOP_K) | MOE_KEY_BIT(HIDDEN) | MOE_KEY_BIT(FF) | MOE_KEY_BIT(GATING);
    if (r->model->vocabulary == MOE_VOCABULARY_GGUF)   /* one set of keys for all architectures */
        return true;
    return ((r->model->preset->keys | COMMON) & (UINT64_C(1) << key)) != 0;
}

void moe_keys_find(const struct moe_reading *r, enum moe_key key, struct moe_found *out)
{
    memset(out, 0, sizeof *out);
    if (!moe_keys_obey(r, key))
        return;
    const char *prefix = r->model->key_prefix;
    for (const char *name = moe_preset_key_of(r->model->preset, key, r->model->vocabulary); *name != '\0';) {
        size_t length = strcspn(name, "|");
        char full[MOE_KEY_SIZE];
        snprintf(full, sizeof full, "%s%.*s", prefix, (int)length, name);
        if (out->key[0] == '\0')
            memcpy(out->key, full, sizeof full);
        struct moe_value value;
        bool named = moe_archive_metadata_find(r->model->archive, full, &value) == MOE_OK;
        if (named && value.kind != MOE_VALUE_NULL) {
            memcpy(out->key, full, sizeof full);
            out->value = value;
            out->there = true;
            out->null = false;
            return;
        }
        if (named && !out->null) {
            memcpy(out->key, full, sizeof full);
            out->null = true;
        }
        name += length + (name[length] == '|');
    }
}

enum moe_status moe_keys_find_one(const struct moe_reading *r, enum moe_key key, struct moe_found *out)
{
    moe_keys_find(r, key, out);
    if (!out->there || out->value.kind != MOE_VALUE_ARRAY)
        return MOE_OK;
    size_t item = r->model->preset->by_modality ? 0 : r->block;
    if (item >= out->value.length)
        return moe_keys_fail(r, out, "a value for every block");
    struct moe_value list = out->value;
    MOE_TRY(moe_archive_metadata_item(r->model->archive, &list, item, &out->value));
    if (out->value.kind == MOE_VALUE_NULL) {
        out->there = false;
        out->null = true;
    }
    return MOE_OK;
}

enum moe_status moe_keys_size(const struct moe_reading *r, enum moe_key key, size_t min, size_t max, size_t *out,
                              bool *there)
{
    struct moe_found f;
    MOE_TRY(moe_keys_find_one(r, key, &f));
    if (there != NULL)
        *there = f.there;
    if (!f.there)
        return MOE_OK;
    const struct moe_value *v = &f.value;
    if (v->kind != MOE_VALUE_INT || v->integer < 0 || (uint64_t)v->integer < min || (uint64_t)v->integer > max) {
        char expected[FOUND_SIZE];
        snprintf(expected, sizeof expected, "an integer of %zu to %zu", min, max);
        return moe_keys_fail(r, &f, expected);
    }
    *out = (size_t)v->integer;
    return MOE_OK;
}

enum moe_status moe_keys_need_size(const struct moe_reading *r, enum moe_key key, size_t min, size_t max, size_t *out)
{
    bool there;
    MOE_TRY(moe_keys_size(r, key, min, max, out, &there));
    return there ? MOE_OK : moe_keys_fail_missing(r, key);
}

enum moe_status moe_keys_number(const struct moe_reading *r, enum moe_key key, bool allow_zero, float *out)
{
    struct moe_found f;
    MOE_TRY(moe_keys_find_one(r, key, &f));
    if (!f.there)
        return MOE_OK;
    bool number = f.value.kind == MOE_VALUE_INT || f.value.kind == MOE_VALUE_FLOAT;
    double value = f.value.number;
    bool good = number && value <= FLT_MAX && (value >= FLT_MIN || (allow_zero && value == 0.0));
    if (!good)
        return moe_keys_fail(r, &f, allow_zero ? "a finite number from 0 up" : "a finite number above 0");
    *out = (float)value;
    return MOE_OK;
}

enum moe_status moe_keys_bool(const struct moe_reading *r, enum moe_key key, bool *out)
{
    struct moe_found f;
    MOE_TRY(moe_keys_find_one(r, key, &f));
    if (f.null)   /* None is no, whatever the default is */
        *out = false;
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_BOOL)
        return moe_keys_fail(r, &f, "true or false");
    *out = f.value.boolean;
    return MOE_OK;
}

enum moe_status moe_keys_text(const struct moe_reading *r, enum moe_key key, const char **out)
{
    struct moe_found f;
    *out = NULL;
    MOE_TRY(moe_keys_find_one(r, key, &f));
    if (!f.there)
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_STRING)
        return moe_keys_fail(r, &f, "a text");
    *out = f.value.string;
    return MOE_OK;
}

/* "3, 4,5": false where it is anything else. */
static bool is_in_text(const char *text, size_t block, bool *listed)
{
    while (isspace((unsigned char)*text))
        text++;
    while (*text != '\0') {
        char *end;
        if (!isdigit((unsigned char)*text))
            return false;
        *listed = strtoull(text, &end, 10) == block || *listed;
        text = end + strspn(end, " \t");
        if (*text != '\0' && *text != ',')
            return false;
        if (*text == ',')
            text += 1 + strspn(text + 1, " \t");
    }
    return true;
}

enum moe_status moe_keys_listed(const struct moe_reading *r, enum moe_key key, bool *there, bool *listed)
{
    static const char EXPECTED[] = "a list of block numbers";
    struct moe_found f;
    moe_keys_find(r, key, &f);
    *there = f.there;
    *listed = false;
    if (!f.there)
        return MOE_OK;
    if (f.value.kind == MOE_VALUE_STRING && is_in_text(f.value.string, r->block, listed))
        return MOE_OK;
    if (f.value.kind != MOE_VALUE_ARRAY || f.value.length > MOE_MODEL_MAX_BLOCKS)
        return moe_keys_fail(r, &f, EXPECTED);
    for (size_t i = 0; i < f.value.length; i++) {
        struct moe_value item;
        MOE_TRY(moe_archive_metadata_item(r->model->archive, &f.value, i, &item));
        if (item.kind != MOE_VALUE_INT) {
            f.value = item;
            return moe_keys_fail(r, &f, EXPECTED);
        }
        *listed = *listed || item.integer == (int64_t)r->block;
    }
    return MOE_OK;
}
