// SPDX-License-Identifier: MIT
// Reading description files. They are hostile input: every key is known, every value of its type and in range, every
// name one that the search for tensors can take, before a block is built from them.
#include "model_description.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* A prefix and one of a name's alternatives, with numbers of up to 5 digits in them, fit in MOE_TENSOR_NAME_SIZE of
 * model_matrix.h. */
enum { PREFIX_LARGEST = 60, NAME_LARGEST = 90, ALTERNATIVES_LARGEST = 400, FOUND_SIZE = 64 };

struct reading {
    const char *path;
    struct moe_error *error;
};

static void describe(char out[FOUND_SIZE], const struct moe_json *value)
{
    switch ((enum moe_json_kind)value->kind) {
    case MOE_JSON_OBJECT:
        snprintf(out, FOUND_SIZE, "an object");
        break;
    case MOE_JSON_ARRAY:
        snprintf(out, FOUND_SIZE, "a list of %lu", (unsigned long)value->length);
        break;
    case MOE_JSON_STRING:
        snprintf(out, FOUND_SIZE, "the text '%.40s'", value->u.string);
        break;
    case MOE_JSON_INTEGER:
        snprintf(out, FOUND_SIZE, "%lld", (long long)value->u.integer);
        break;
    case MOE_JSON_REAL:
        snprintf(out, FOUND_SIZE, "the number %g", value->u.number);
        break;
    case MOE_JSON_TRUE:
    case MOE_JSON_FALSE:
        snprintf(out, FOUND_SIZE, "%s", value->kind == MOE_JSON_TRUE ? "true" : "false");
        break;
    case MOE_JSON_NULL:
        snprintf(out, FOUND_SIZE, "null");
        break;
    }
}

static bool is_bool(const struct moe_json *value)
{
    return moe_json_is(value, MOE_JSON_TRUE) || moe_json_is(value, MOE_JSON_FALSE);
}

/* Items of a list; 0 for what is none. */
static size_t list_length(const struct moe_json *value)
{
    return moe_json_is(value, MOE_JSON_ARRAY) ? value->length : 0;
}

static enum moe_status fail_value(const struct reading *r, const char *key, const char *expected,
                                  const struct moe_json *found)
{
    char text[FOUND_SIZE] = "nothing";
    if (found != NULL)
        describe(text, found);
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: description: key '%.64s': expected %s, found %s", r->path, key,
                    expected, text);
}

static enum moe_status fail_unknown(const struct reading *r, const char *where, const char *key)
{
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: description: key '%.64s' is not known%s%s", r->path, key,
                    where != NULL ? " in " : "", where != NULL ? where : "");
}

/* ---- names of tensors ---------------------------------------------------------------------------------------- */

/* A text of printable characters, "{b}" and, where it may be, "{e}". largest: of what '|' parts. */
static enum moe_status read_name(const struct reading *r, const char *key, const struct moe_json *value, size_t largest,
                                 bool each, const char **out)
{
    const char *name = moe_json_string(value);
    size_t length = name != NULL ? strlen(name) : 0, run = 0;
    bool good = name != NULL && length > 0 && length <= ALTERNATIVES_LARGEST;
    for (size_t i = 0; good && i < length; i++) {
        run = name[i] == '|' ? 0 : run + 1;
        if (name[i] < ' ' || name[i] > '~' || name[i] == '}' || run > largest)
            good = false;
        if (name[i] != '{' || !good)
            continue;
        good = strncmp(name + i, "{b}", 3) == 0 || (each && strncmp(name + i, "{e}", 3) == 0);
        i += 2;
        run += 4;
    }
    if (!good) {
        char expected[112];
        snprintf(expected, sizeof expected, "the name of a tensor, up to %zu characters, with {b}%s as numbers",
                 largest, each ? " and {e}" : "");
        return fail_value(r, key, expected, value);
    }
    *out = name;
    return MOE_OK;
}

static bool find_word(const char *const *words, const char *word, size_t *out)
{
    for (size_t i = 0; word != NULL && *word != '\0' && words[i] != NULL; i++) {
        if (strcmp(words[i], word) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

static const char *list_words(char *out, size_t size, const char *const *words)
{
    size_t used = (size_t)snprintf(out, size, "one of");
    for (size_t i = 0; words[i] != NULL && used < size; i++)
        if (words[i][0] != '\0')
            used += (size_t)snprintf(out + used, size - used, " %s", words[i]);
    return out;
}

/* A set of words as bits. */
static enum moe_status read_set(const struct reading *r, const char *key, const struct moe_json *value,
                                const char *const *words, uint32_t *out)
{
    uint32_t set = 0;
    char expected[320];
    if (!moe_json_is(value, MOE_JSON_ARRAY))
        return fail_value(r, key, "a list of words", value);
    for (const struct moe_json *item = moe_json_first(value); item != NULL; item = moe_json_next(value, item)) {
        size_t bit;
        if (!find_word(words, moe_json_string(item), &bit))
            return fail_value(r, key, list_words(expected, sizeof expected, words), item);
        set |= UINT32_C(1) << bit;
    }
    *out = set;
    return MOE_OK;
}

static enum moe_status fail_layout(const struct reading *r, const char *where, const char *reason)
{
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: description: key '%s': %s", r->path, where, reason);
}

/* What the search for tensors takes for granted. */
static enum moe_status check_layout(const struct reading *r, const char *where, const struct moe_mlp_names *names)
{
    const char *all[] = {names->gate, names->up, names->down, names->gate_bias, names->up_bias, names->down_bias};
    bool fused = (names->layout & MOE_MLP_FUSED) != 0;
    if (names->up == NULL || names->down == NULL)
        return fail_layout(r, where, "a layout needs the names 'up' and 'down'");
    bool each = strstr(names->up, "{e}") != NULL;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(all); i++)
        if (all[i] != NULL && (strstr(all[i], "{e}") != NULL) != each)
            return fail_layout(r, where, "{e} must be in all names of a layout, or in none");
    if (fused && (names->gate != NULL || names->gate_bias != NULL))
        return fail_layout(r, where, "a fused layout has no 'gate' of its own: it is in 'up'");
    if (!fused && (names->layout & MOE_MLP_INTERLEAVED) != 0)
        return fail_layout(r, where, "only a fused layout can be interleaved");
    if (each && (names->layout & MOE_MLP_FLAT) != 0)
        return fail_layout(r, where, "a flat layout has all experts in one tensor, not {e}");
    return MOE_OK;
}

static enum moe_status read_layout(const struct reading *r, const char *where, const struct moe_json *object, bool each,
                                   struct moe_mlp_names *out)
{
    if (!moe_json_is(object, MOE_JSON_OBJECT))
        return fail_value(r, where, "a list of objects", object);
    for (const struct moe_json *at = moe_json_first(object); at != NULL; at = moe_json_next(object, at)) {
        const char *key = moe_json_string(at);
        const struct moe_json *value = at + 1;
        if (strcmp(key, "layout") == 0) {
            MOE_TRY(read_set(r, key, value, moe_axis_layouts, &out->layout));
            continue;
        }
        size_t i = 0;
        while (i < moe_num_axis_mlp_names && strcmp(moe_axis_mlp_names[i].key, key) != 0)
            i++;
        if (i == moe_num_axis_mlp_names)
            return fail_unknown(r, where, key);
        const char *name;
        MOE_TRY(read_name(r, key, value, NAME_LARGEST, each, &name));
        memcpy((char *)out + moe_axis_mlp_names[i].offset, &name, sizeof name);
    }
    return check_layout(r, where, out);
}

static enum moe_status read_layouts(const struct reading *r, const char *where, const struct moe_json *list, bool each,
                                    struct moe_mlp_names out[MOE_MAX_MLP_LAYOUTS])
{
    char expected[48];
    size_t count = list_length(list), i = 0;
    snprintf(expected, sizeof expected, "a list of 1 to %d layouts", MOE_MAX_MLP_LAYOUTS);
    if (count == 0 || count > MOE_MAX_MLP_LAYOUTS)
        return fail_value(r, where, expected, list);
    for (const struct moe_json *item = moe_json_first(list); item != NULL; item = moe_json_next(list, item))
        MOE_TRY(read_layout(r, where, item, each, &out[i++]));
    return MOE_OK;
}

static enum moe_status read_tensors(const struct reading *r, const struct moe_json *object, struct moe_names *out)
{
    if (!moe_json_is(object, MOE_JSON_OBJECT))
        return fail_value(r, "tensors", "an object with the names of tensors", object);
    for (const struct moe_json *at = moe_json_first(object); at != NULL; at = moe_json_next(object, at)) {
        const char *key = moe_json_string(at);
        const struct moe_json *value = at + 1;
        size_t i;
        if (find_word(moe_axis_roles, key, &i)) {
            MOE_TRY(read_name(r, key, value, NAME_LARGEST, false, &out->role[i]));
            continue;
        }
        for (i = 0; i < moe_num_axis_name_flags; i++)
            if (strcmp(moe_axis_name_flags[i].key, key) == 0)
                break;
        if (i == moe_num_axis_name_flags)
            return fail_unknown(r, "tensors", key);
        if (!is_bool(value))
            return fail_value(r, key, "true or false", value);
        bool flag = value->kind == MOE_JSON_TRUE;
        memcpy((char *)out + moe_axis_name_flags[i].offset, &flag, sizeof flag);
    }
    if (out->role[MOE_ROLE_ROUTER] == NULL)
        return fail_value(r, "tensors", "the name of the 'router'", object);
    return MOE_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------------- */

static const struct moe_axis *find_axis(const char *key)
{
    for (size_t i = 0; i < moe_num_axes; i++)
        if (strcmp(moe_axes[i].key, key) == 0)
            return &moe_axes[i];
    return NULL;
}

static enum moe_status check_keys(const struct reading *r, const struct moe_json *root)
{
    static const char *const others[] = {"version", "family",  "blocks",         "prefix",
                                         "tensors", "experts", "shared_experts", NULL};
    size_t unused;
    for (const struct moe_json *key = moe_json_first(root); key != NULL; key = moe_json_next(root, key))
        if (find_axis(moe_json_string(key)) == NULL && !find_word(others, moe_json_string(key), &unused))
            return fail_unknown(r, NULL, moe_json_string(key));
    for (size_t i = 0; i < moe_num_axes; i++)
        if (moe_axes[i].required && moe_json_get(root, moe_axes[i].key) == NULL)
            return moe_fail(r->error, MOE_ERR_FORMAT, "%s: description: key '%s' is missing", r->path,
                            moe_axes[i].key);
    return MOE_OK;
}

static enum moe_status read_integer(const struct reading *r, const struct moe_json *root, const char *key, int64_t min,
                                    int64_t max, int64_t *out)
{
    const struct moe_json *value = moe_json_get(root, key);
    char expected[64];
    if (moe_json_is(value, MOE_JSON_INTEGER) && value->u.integer >= min && value->u.integer <= max) {
        *out = value->u.integer;
        return MOE_OK;
    }
    if (min == max)
        snprintf(expected, sizeof expected, "%lld", (long long)min);
    else
        snprintf(expected, sizeof expected, "an integer of %lld to %lld", (long long)min, (long long)max);
    return fail_value(r, key, expected, value);
}

static enum moe_status read_root(const struct reading *r, struct moe_description *d)
{
    int64_t version = 0, blocks = 0;
    const struct moe_json *root = d->document.nodes, *family = moe_json_get(root, "family");
    const struct moe_json *shared = moe_json_get(root, "shared_experts");
    MOE_TRY(read_integer(r, root, "version", MOE_DESCRIPTION_VERSION, MOE_DESCRIPTION_VERSION, &version));
    MOE_TRY(check_keys(r, root));
    MOE_TRY(read_integer(r, root, "blocks", 1, MOE_MODEL_MAX_BLOCKS, &blocks));
    d->num_blocks = (size_t)blocks;
    d->family = "described";
    if (family != NULL)
        MOE_TRY(read_name(r, "family", family, NAME_LARGEST, false, &d->family));
    MOE_TRY(read_name(r, "prefix", moe_json_get(root, "prefix"), PREFIX_LARGEST, false, &d->prefix));
    MOE_TRY(read_tensors(r, moe_json_get(root, "tensors"), &d->names));
    MOE_TRY(read_layouts(r, "experts", moe_json_get(root, "experts"), true, d->names.experts));
    if (shared != NULL)
        MOE_TRY(read_layouts(r, "shared_experts", shared, false, d->names.shared));
    return MOE_OK;
}

enum moe_status moe_description_read(const struct moe_model *model, const char *text, struct moe_description **out,
                                     struct moe_error *error)
{
    char where[240];
    const struct reading r = {moe_archive_path(model->archive), error};
    snprintf(where, sizeof where, "%.220s: description", r.path);
    struct moe_description *d = moe_alloc(&model->env, sizeof *d);
    if (d == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory", where);
    enum moe_status status = moe_json_parse(&d->document, &model->env, text, strlen(text), false, where, error);
    if (status == MOE_OK)
        status = read_root(&r, d);
    if (status == MOE_OK) {
        *out = d;
        return MOE_OK;
    }
    moe_json_free(&d->document);
    moe_free(&model->env, d, sizeof *d);
    return status;
}

void moe_description_free(struct moe_model *model, struct moe_description *description)
{
    if (description == NULL)
        return;
    moe_json_free(&description->document);
    moe_free(&model->env, description, sizeof *description);
}

/* ---- axes of a block ----------------------------------------------------------------------------------------- */

/* Is it a list of words, and so one value of a set? */
static bool is_set(const struct moe_json *value)
{
    const struct moe_json *item = list_length(value) > MOE_ROLES ? value : moe_json_first(value);
    while (item != NULL && moe_json_is(item, MOE_JSON_STRING))
        item = moe_json_next(value, item);
    return item == NULL;
}

/* The block's value of a key that may be a list with an item for each block; NULL: not there. */
static enum moe_status find_value(const struct reading *r, const struct moe_description *d, const struct moe_axis *axis,
                                  size_t block, const struct moe_json **out)
{
    const struct moe_json *value = moe_json_get(d->document.nodes, axis->key);
    *out = value;
    if (!moe_json_is(value, MOE_JSON_ARRAY) || (axis->kind == MOE_AXIS_ROLES && is_set(value)))
        return MOE_OK;
    if (list_length(value) != d->num_blocks) {
        char expected[80];
        snprintf(expected, sizeof expected, "one value, or a list with an item for each of %zu blocks", d->num_blocks);
        return fail_value(r, axis->key, expected, value);
    }
    bool plain = value->span == value->length + 1;   /* no item has items */
    const struct moe_json *item = moe_json_first(value) + (plain ? block : 0);
    for (size_t b = 0; !plain && b < block; b++)
        item = moe_json_next(value, item);
    *out = item;
    return MOE_OK;
}

static enum moe_status read_number(const struct reading *r, const struct moe_axis *axis, const struct moe_json *value,
                                   void *out)
{
    bool integer = moe_json_is(value, MOE_JSON_INTEGER), real = moe_json_is(value, MOE_JSON_REAL);
    double number = integer ? (double)value->u.integer : real ? value->u.number : 0;
    char expected[64];
    const double half_step = 0x1p103;   /* numbers so close to the largest float are it, in few digits */
    if (fabs(number) > FLT_MAX && fabs(number) < FLT_MAX + half_step)
        number = copysign(FLT_MAX, number);
    bool in_range = (integer || real) && number >= axis->min && number <= axis->max;
    float as_float = in_range ? (float)number : 0;
    if (in_range && (number == 0 || as_float != 0)) {
        memcpy(out, &as_float, sizeof as_float);
        return MOE_OK;
    }
    snprintf(expected, sizeof expected, "a finite number%s", axis->min < 0 ? "" : ", 0 or above");
    return fail_value(r, axis->key, expected, value);
}

static enum moe_status read_axis(const struct reading *r, const struct moe_axis *axis, const struct moe_json *value,
                                 void *out)
{
    char expected[160];
    int64_t integer;
    size_t size;
    int word;
    bool flag;
    switch (axis->kind) {
    case MOE_AXIS_SIZE:
        integer = moe_json_is(value, MOE_JSON_INTEGER) ? value->u.integer : -1;
        if (integer < 0 || (double)integer < axis->min || (double)integer > axis->max) {
            snprintf(expected, sizeof expected, "an integer of %.0f to %.0f", axis->min, axis->max);
            return fail_value(r, axis->key, expected, value);
        }
        size = (size_t)integer;
        memcpy(out, &size, sizeof size);
        return MOE_OK;
    case MOE_AXIS_NUMBER:
        return read_number(r, axis, value, out);
    case MOE_AXIS_BOOL:
        if (!is_bool(value))
            return fail_value(r, axis->key, "true or false", value);
        flag = value->kind == MOE_JSON_TRUE;
        memcpy(out, &flag, sizeof flag);
        return MOE_OK;
    case MOE_AXIS_WORD:
        if (!find_word(axis->words, moe_json_string(value), &size))
            return fail_value(r, axis->key, list_words(expected, sizeof expected, axis->words), value);
        word = (int)size;
        memcpy(out, &word, sizeof word);
        return MOE_OK;
    case MOE_AXIS_ROLES:
        break;
    }
    return read_set(r, axis->key, value, moe_axis_roles, out);
}

static enum moe_status fail_block(const struct reading *r, size_t block, const char *key, const char *reason)
{
    return moe_fail(r->error, MOE_ERR_FORMAT, "%s: description: key '%s': block %zu: %s", r->path, key, block, reason);
}

/* Names of the tensors that the block needs or takes. */
static enum moe_status check_names(const struct reading *r, size_t block, const struct moe_model_axes *axes)
{
    uint32_t used = axes->needs | axes->takes;
    if (axes->shared == MOE_PRESET_SHARED_SIGMOID && axes->shared_size > 0)
        used |= MOE_ROLE_BIT(SHARED_GATE);
    if (axes->latent_size > 0)
        used |= MOE_ROLE_BIT(LATENT_IN) | MOE_ROLE_BIT(LATENT_OUT);
    for (size_t i = 0; i < MOE_ROLES; i++) {
        char reason[96];
        if ((used & (UINT32_C(1) << i)) == 0 || axes->names->role[i] != NULL)
            continue;
        snprintf(reason, sizeof reason, "the name of '%s' is missing, which it uses", moe_axis_roles[i]);
        return fail_block(r, block, "tensors", reason);
    }
    if ((axes->shared != MOE_PRESET_SHARED_NONE || axes->routing.num_always > 0) && axes->names->shared[0].up == NULL)
        return fail_block(r, block, "shared_experts", "names are missing, though there are shared experts");
    return MOE_OK;
}

static enum moe_status check_mlp(const struct reading *r, size_t block, const char *key, bool gated,
                                 const struct moe_mlp_names layouts[MOE_MAX_MLP_LAYOUTS])
{
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && layouts[i].up != NULL; i++) {
        bool fused = (layouts[i].layout & MOE_MLP_FUSED) != 0;
        if (gated && !fused && layouts[i].gate == NULL)
            return fail_block(r, block, key, "a layout without 'gate', neither fused nor of experts without one");
    }
    return MOE_OK;
}

/* What the keys say together. */
static enum moe_status check_block(const struct reading *r, size_t block, const struct moe_model_axes *axes)
{
    const struct moe_routing *routing = &axes->routing;
    size_t ids = axes->num_experts + axes->num_zero_experts;
    bool hash = ((axes->needs | axes->takes) & MOE_ROLE_BIT(HASH_TABLE)) != 0;
    if (axes->top_k > ids)
        return fail_block(r, block, "top_k", "is larger than the number of experts");
    if (routing->num_always >= axes->top_k)
        return fail_block(r, block, "num_always", "must be below top_k");
    if (routing->num_always >= axes->num_experts)
        return fail_block(r, block, "num_always", "must be below num_experts");
    if (routing->num_groups > 1 && (ids - routing->num_always) % routing->num_groups != 0)
        return fail_block(r, block, "num_groups", "does not divide the number of experts");
    if (routing->num_groups > 1 && (routing->top_groups == 0 || routing->top_groups > routing->num_groups))
        return fail_block(r, block, "top_groups", "must be 1 to num_groups");
    if (hash != (axes->hash_rows > 0))
        return fail_block(r, block, "hash_rows", "must be above 0 where 'hash_table' is used, and 0 elsewhere");
    if (axes->shared == MOE_PRESET_SHARED_NONE && axes->shared_size > 0)
        return fail_block(r, block, "shared_size", "must be 0 where shared is 'none'");
    const struct moe_names *names = axes->names;
    MOE_TRY(check_names(r, block, axes));
    MOE_TRY(check_mlp(r, block, "experts", axes->gated, names->experts));
    if (routing->num_always > 0)
        MOE_TRY(check_mlp(r, block, "shared_experts", axes->gated, names->shared));
    if (axes->shared_size > 0)
        MOE_TRY(check_mlp(r, block, "shared_experts", axes->shared_gated, names->shared));
    return MOE_OK;
}

enum moe_status moe_description_axes(const struct moe_model *model, size_t block, struct moe_model_axes *out,
                                     struct moe_error *error)
{
    const struct moe_description *d = model->description;
    const struct reading r = {moe_archive_path(model->archive), error};
    moe_axis_defaults(out);
    out->names = &d->names;
    for (size_t i = 0; i < moe_num_axes; i++) {
        const struct moe_json *value;
        MOE_TRY(find_value(&r, d, &moe_axes[i], block, &value));
        if (value != NULL)
            MOE_TRY(read_axis(&r, &moe_axes[i], value, (char *)out + moe_axes[i].offset));
        if (!out->has_experts) {   /* the first key; the others say nothing of such a block */
            memset(out, 0, sizeof *out);
            return MOE_OK;
        }
    }
    return check_block(&r, block, out);
}
