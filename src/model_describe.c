// SPDX-License-Identifier: MIT
// moe_model_describe: what a model's blocks come to, as the JSON text of a description file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_description.h"

/* ---- values -------------------------------------------------------------------------------------------------- */

/* Text as far as there is place for it; needed: all of it, without the NUL. */
struct text {
    char *out;
    size_t size, needed;
};

static void put_char(struct text *text, char c)
{
    if (text->needed + 1 < text->size)
        text->out[text->needed] = c;
    text->needed++;
}

static void put(struct text *text, const char *bytes)
{
    for (; *bytes != '\0'; bytes++)
        put_char(text, *bytes);
}

/* Names have no control characters. */
static void put_string(struct text *text, const char *bytes)
{
    put_char(text, '"');
    for (; *bytes != '\0'; bytes++) {
        if (*bytes == '"' || *bytes == '\\')
            put_char(text, '\\');
        put_char(text, *bytes);
    }
    put_char(text, '"');
}

static void put_size(struct text *text, size_t value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%zu", value);
    put(text, digits);
}

/* The shortest decimal number that is read as the same float, by way of double as readers of JSON have it; with a point
 * whatever the locale has. */
static void put_number(struct text *text, float value)
{
    char digits[32];
    bool small = value >= 0.0f && value < 1e6f;
    if (small && value == (float)(size_t)value) {   /* 10, not 1e+01 */
        put_size(text, (size_t)value);
        return;
    }
    for (int count = 1; count <= 9; count++) {
        snprintf(digits, sizeof digits, "%.*g", count, (double)value);
        if ((float)strtod(digits, NULL) == value)
            break;
    }
    for (char *c = digits; *c != '\0'; c++)
        put_char(text, strchr("0123456789+-e", *c) != NULL ? *c : '.');
}

/* A list of the words whose bits are set. */
static void put_words(struct text *text, uint32_t set, const char *const *words)
{
    const char *start = "[";
    for (size_t i = 0; words[i] != NULL; i++) {
        if ((set & (UINT32_C(1) << i)) == 0)
            continue;
        put(text, start);
        put_string(text, words[i]);
        start = ", ";
    }
    put(text, set == 0 ? "[]" : "]");
}

static void put_axis(struct text *text, const struct moe_model_axes *axes, const struct moe_axis *axis)
{
    const void *at = (const char *)axes + axis->offset;
    size_t size;
    float real;
    bool flag;
    int word;
    uint32_t roles;
    switch (axis->kind) {
    case MOE_AXIS_SIZE:
        memcpy(&size, at, sizeof size);
        put_size(text, size);
        return;
    case MOE_AXIS_NUMBER:
        memcpy(&real, at, sizeof real);
        put_number(text, real);
        return;
    case MOE_AXIS_BOOL:
        memcpy(&flag, at, sizeof flag);
        put(text, flag ? "true" : "false");
        return;
    case MOE_AXIS_WORD:
        memcpy(&word, at, sizeof word);
        put_string(text, axis->words[word]);
        return;
    case MOE_AXIS_ROLES:
        memcpy(&roles, at, sizeof roles);
        put_words(text, roles, moe_axis_roles);
        return;
    }
}

/* Every block's axes. */
struct blocks {
    const struct moe_model_axes *axes;  /* [count] */
    size_t count;
    const struct moe_model_axes *first; /* with experts */
};

/* A single value, or a list with an item for each block, null where the block has no experts. */
static void put_values(struct text *text, const struct blocks *blocks, const struct moe_axis *axis)
{
    bool all = axis->offset == offsetof(struct moe_model_axes, has_experts), same = true;
    for (size_t b = 0; b < blocks->count && same; b++)
        if (all || blocks->axes[b].has_experts)
            same = moe_axis_same(&blocks->axes[b], blocks->first, axis);
    if (same) {
        put_axis(text, blocks->first, axis);
        return;
    }
    for (size_t b = 0; b < blocks->count; b++) {
        put(text, b == 0 ? "[" : ", ");
        if (all || blocks->axes[b].has_experts)
            put_axis(text, &blocks->axes[b], axis);
        else
            put(text, "null");
    }
    put(text, "]");
}

/* ---- names --------------------------------------------------------------------------------------------------- */

static void put_key(struct text *text, const char *start, const char *key)
{
    put(text, start);
    put_string(text, key);
    put(text, ": ");
}

static void put_mlp(struct text *text, const struct moe_mlp_names *names)
{
    const char *start = "{";
    if (names->layout != 0) {
        put_key(text, start, "layout");
        put_words(text, names->layout, moe_axis_layouts);
        start = ",\n     ";
    }
    for (size_t i = 0; i < moe_num_axis_mlp_names; i++) {
        const char *name;
        memcpy(&name, (const char *)names + moe_axis_mlp_names[i].offset, sizeof name);
        if (name == NULL)
            continue;
        put_key(text, start, moe_axis_mlp_names[i].key);
        put_string(text, name);
        start = ",\n     ";
    }
    put(text, "}");
}

static void put_layouts(struct text *text, const char *key, const struct moe_mlp_names *layouts)
{
    const char *start = "[\n    ";
    put_key(text, ",\n  ", key);
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && layouts[i].up != NULL; i++) {
        put(text, start);
        put_mlp(text, &layouts[i]);
        start = ",\n    ";
    }
    put(text, "\n  ]");
}

static void put_roles(struct text *text, const struct moe_names *names)
{
    const char *start = "{\n    ";
    put_key(text, ",\n  ", "tensors");
    for (size_t i = 0; i < MOE_ROLES; i++) {
        if (names->role[i] == NULL)
            continue;
        put_key(text, start, moe_axis_roles[i]);
        put_string(text, names->role[i]);
        start = ",\n    ";
    }
    for (size_t i = 0; i < moe_num_axis_name_flags; i++) {
        bool flag;
        memcpy(&flag, (const char *)names + moe_axis_name_flags[i].offset, sizeof flag);
        if (!flag)
            continue;
        put_key(text, start, moe_axis_name_flags[i].key);
        put(text, "true");
    }
    put(text, "\n  }");
}

/* ---- the text ------------------------------------------------------------------------------------------------ */

static void put_model(struct text *text, const struct moe_model *model, const struct blocks *blocks)
{
    const struct moe_names *names = blocks->first->names;
    put_key(text, "{\n  ", "version");
    put_size(text, MOE_DESCRIPTION_VERSION);
    put_key(text, ",\n  ", "family");
    put_string(text, model->description != NULL ? model->description->family : model->preset->name);
    put_key(text, ",\n  ", "blocks");
    put_size(text, blocks->count);
    put_key(text, ",\n  ", "prefix");
    put_string(text, model->block_prefix);
    for (size_t i = 0; i < moe_num_axes; i++) {
        put_key(text, ",\n  ", moe_axes[i].key);
        put_values(text, blocks, &moe_axes[i]);
    }
    put_roles(text, names);
    put_layouts(text, "experts", names->experts);
    if (names->shared[0].up != NULL)
        put_layouts(text, "shared_experts", names->shared);
    put(text, "\n}\n");
}

static enum moe_status read_blocks(struct moe_model *model, struct moe_model_axes *axes, struct blocks *blocks,
                                   struct moe_error *error)
{
    const char *path = moe_archive_path(model->archive);
    for (size_t b = 0; b < model->num_blocks; b++) {
        MOE_TRY(moe_model_axes_of(model, b, &axes[b], error));
        if (!axes[b].has_experts)
            continue;
        if (blocks->first == NULL)
            blocks->first = &axes[b];
        if (axes[b].names != blocks->first->names)
            return moe_fail(error, MOE_ERR_UNSUPPORTED,
                            "%s: block %zu has other tensor names than the first: a description has one set", path, b);
    }
    blocks->axes = axes;
    blocks->count = model->num_blocks;
    if (blocks->first == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: no block has experts: there is nothing to describe", path);
    return MOE_OK;
}

enum moe_status moe_model_describe(struct moe_model *model, char *out, size_t size, size_t *needed,
                                   struct moe_error *error)
{
    if (model == NULL || (out == NULL && size > 0))
        return moe_fail(error, MOE_ERR_ARGUMENT, "no model, or no place for its description");
    if (size > 0)
        out[0] = '\0';
    struct moe_model_axes *axes = moe_alloc_array(&model->env, model->num_blocks, sizeof *axes);
    if (axes == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for %zu blocks", moe_archive_path(model->archive),
                        model->num_blocks);
    struct blocks blocks = {0};
    struct text text = {.out = out, .size = size};
    enum moe_status status = read_blocks(model, axes, &blocks, error);
    if (status == MOE_OK)
        put_model(&text, model, &blocks);
    moe_free(&model->env, axes, model->num_blocks * sizeof *axes);
    if (status != MOE_OK)
        return status;
    if (size > 0)
        out[text.needed < size ? text.needed : size - 1] = '\0';
    if (needed != NULL)
        *needed = text.needed + 1;
    return MOE_OK;
}
