// SPDX-License-Identifier: MIT
// JSON objects as flat metadata: "rope_parameters.rope_theta"; of lists, those of plain values.
#include "readers/config.h"

#include <string.h>

#include "check.h"
#include "readers/file.h"

/* A flattened key repeats the names around it: without bounds, a small file could ask for any amount of memory. */
enum {
    DEPTH_LARGEST = 32,
    KEY_LARGEST = 1024,
    KEYS_LARGEST = 1 << 26    /* bytes of all keys */
};

/* The walk over an object's members. */
struct walk {
    struct moe_config *config;
    const char *path;
    struct moe_error *error;
    size_t total;
    char key[KEY_LARGEST + 1];
};

void moe_config_init(struct moe_config *config, const struct moe_env *env)
{
    memset(config, 0, sizeof *config);
    moe_table_init(&config->keys, env);
}

void moe_config_free(struct moe_config *config)
{
    void *values = (void *)config->values;
    moe_free(config->keys.strings.env, values, config->capacity * sizeof *config->values);
    moe_table_free(&config->keys);
    moe_json_free(&config->document);
    config->values = NULL;
    config->capacity = 0;
}

enum moe_status moe_config_load(struct moe_archive *archive, struct moe_json_document *out, const char *path,
                                size_t limit, bool numbers, struct moe_error *error)
{
    const struct moe_env *env = moe_archive_env(archive);
    char *text;
    size_t size;
    memset(out, 0, sizeof *out);
    MOE_TRY(moe_file_load(env, &text, &size, path, limit, error));
    enum moe_status status = moe_json_parse(out, env, text, size, numbers, path, error);
    moe_free(env, text, size + 1);
    return status;
}

/* ---- flattening ----------------------------------------------------------------------------------------- */

/* All items are single nodes; what holds others, even none, is an array or an object. */
static bool is_plain_list(const struct moe_json *list)
{
    for (const struct moe_json *item = moe_json_first(list); item != NULL; item = moe_json_next(list, item))
        if (item->kind == MOE_JSON_ARRAY || item->kind == MOE_JSON_OBJECT)
            return false;
    return true;
}

static enum moe_status add_value(struct walk *walk, const struct moe_json *value, size_t length)
{
    struct moe_config *config = walk->config;
    const struct moe_env *env = config->keys.strings.env;
    if (!moe_table_is_name(walk->key, length))
        return moe_fail(walk->error, MOE_ERR_FORMAT, "%s: a key is empty or has control characters",
                        walk->path);
    void *values = (void *)config->values;
    enum moe_status status =
        moe_table_grow(env, &values, &config->capacity, config->keys.count, sizeof *config->values);
    config->values = values;
    size_t number = config->keys.count;
    if (status == MOE_OK)
        status = moe_table_add(&config->keys, walk->key, length);
    if (status == MOE_ERR_ARGUMENT)
        return moe_fail(walk->error, MOE_ERR_FORMAT, "%s: key '%.100s' is there twice", walk->path, walk->key);
    if (status != MOE_OK)
        return moe_fail(walk->error, MOE_ERR_MEMORY, "%s: no memory for its keys", walk->path);
    config->values[number] = value;
    walk->total += length;
    if (walk->total > KEYS_LARGEST)
        return moe_fail(walk->error, MOE_ERR_FORMAT, "%s: its keys, with those around them, take over %d bytes",
                        walk->path, KEYS_LARGEST);
    return MOE_OK;
}

/* Members of an object; walk->key holds its name and a dot, of start bytes. */
static enum moe_status flatten_object(struct walk *walk, const struct moe_json *object, size_t start, int depth)
{
    if (depth > DEPTH_LARGEST)
        return moe_fail(walk->error, MOE_ERR_FORMAT, "%s: objects are nested deeper than %d", walk->path,
                        DEPTH_LARGEST);
    for (const struct moe_json *key = moe_json_first(object); key != NULL; key = moe_json_next(object, key)) {
        const struct moe_json *value = key + 1;
        size_t length = key->length;
        if (length > KEY_LARGEST - 1 - start)
            return moe_fail(walk->error, MOE_ERR_FORMAT, "%s: key '%.100s' is longer than %d bytes", walk->path,
                            key->u.string, KEY_LARGEST);
        memcpy(walk->key + start, key->u.string, length + 1);
        if (value->kind == MOE_JSON_OBJECT) {
            walk->key[start + length] = '.';
            MOE_TRY(flatten_object(walk, value, start + length + 1, depth + 1));
        } else if (value->kind != MOE_JSON_ARRAY || is_plain_list(value)) {
            MOE_TRY(add_value(walk, value, start + length));
        }
    }
    return MOE_OK;
}

enum moe_status moe_config_flatten(struct moe_config *config, struct moe_json_document *document,
                                   const struct moe_json *object, const char *path, struct moe_error *error)
{
    struct walk walk = {.config = config, .path = path, .error = error};
    config->document = *document;
    memset(document, 0, sizeof *document);
    return flatten_object(&walk, object, 0, 1);
}

/* ---- answers -------------------------------------------------------------------------------------------- */

static void set_value(struct moe_value *out, const struct moe_json *value)
{
    memset(out, 0, sizeof *out);
    switch ((enum moe_json_kind)value->kind) {
    case MOE_JSON_TRUE:
    case MOE_JSON_FALSE:
        out->kind = MOE_VALUE_BOOL;
        out->boolean = value->kind == MOE_JSON_TRUE;
        break;
    case MOE_JSON_INTEGER:
        out->kind = MOE_VALUE_INT;
        out->integer = value->u.integer;
        out->number = (double)out->integer;
        break;
    case MOE_JSON_REAL:
        out->kind = MOE_VALUE_FLOAT;
        out->number = value->u.number;
        break;
    case MOE_JSON_STRING:
        out->kind = MOE_VALUE_STRING;
        out->string = value->u.string;
        out->length = value->length;
        break;
    case MOE_JSON_ARRAY:
        out->kind = MOE_VALUE_ARRAY;
        out->length = value->length;
        out->array = value;
        break;
    default:
        out->kind = MOE_VALUE_NULL;
    }
}

enum moe_status moe_config_at(const struct moe_config *config, size_t i, const char **key, struct moe_value *out)
{
    if (i >= config->keys.count)
        return MOE_ERR_ARGUMENT;
    *key = config->keys.names[i];
    set_value(out, config->values[i]);
    return MOE_OK;
}

enum moe_status moe_config_find(const struct moe_config *config, const char *key, struct moe_value *out)
{
    size_t i;
    if (!moe_table_find(&config->keys, &i, key, strlen(key)))
        return MOE_ERR_ARGUMENT;
    set_value(out, config->values[i]);
    return MOE_OK;
}

/* Lists of plain values alone are kept: item i is i nodes behind the first. */
enum moe_status moe_config_item(const struct moe_value *array, size_t i, struct moe_value *out)
{
    const struct moe_json *list = array->array;
    if (i >= list->length)
        return MOE_ERR_ARGUMENT;
    set_value(out, list + 1 + i);
    return MOE_OK;
}
