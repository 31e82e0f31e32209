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
    json_decref(config->root);
    config->root = NULL;
    config->values = NULL;
    config->capacity = 0;
}

/* ---- parsing -------------------------------------------------------------------------------------------- */

enum moe_status moe_config_parse(json_t **root, const char *text, size_t size, const char *path,
                                 struct moe_error *error)
{
    json_error_t reason;
    json_t *parsed = json_loadb(text, size, JSON_REJECT_DUPLICATES, &reason);
    /* jansson leaves the reason empty where it could not even allocate what holds it */
    if (parsed == NULL && (json_error_code(&reason) == json_error_out_of_memory || reason.text[0] == '\0'))
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to parse it", path);
    if (parsed == NULL)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: line %d: %s", path, reason.line, reason.text);
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return moe_fail(error, MOE_ERR_FORMAT, "%s: is not a JSON object", path);
    }
    *root = parsed;
    return MOE_OK;
}

/* Copy JSON text with Infinity, -Infinity and NaN outside of strings turned into null; lines stay what they are. out
 * has room for 4/3 of size, which NaN needs. Returns the new size. */
static size_t replace_numbers(char *out, const char *text, size_t size)
{
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    bool string = false;
    size_t used = 0;
    for (size_t i = 0; i < size;) {
        size_t skipped = 0;
        for (size_t w = 0; !string && skipped == 0 && w < MOE_ARRAY_SIZE(words); w++)
            if (size - i >= strlen(words[w]) && memcmp(text + i, words[w], strlen(words[w])) == 0)
                skipped = strlen(words[w]);
        if (skipped > 0) {
            memcpy(out + used, "null", 4);
            used += 4;
            i += skipped;
            continue;
        }
        if (string && text[i] == '\\' && i + 1 < size)
            out[used++] = text[i++];
        else if (text[i] == '"')
            string = !string;
        out[used++] = text[i++];
    }
    return used;
}

enum moe_status moe_config_load(struct moe_archive *archive, json_t **root, const char *path, size_t limit,
                                bool numbers, struct moe_error *error)
{
    const struct moe_env *env = moe_archive_env(archive);
    char *text;
    size_t size;
    MOE_TRY(moe_file_load(env, &text, &size, path, limit, error));
    enum moe_status status;
    if (numbers) {
        size_t larger = size + size / 3 + 4, used;
        char *copy = moe_alloc(env, larger);
        used = copy != NULL ? replace_numbers(copy, text, size) : 0;
        status = copy != NULL ? moe_config_parse(root, copy, used, path, error)
                              : moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to parse it", path);
        moe_free(env, copy, larger);
    } else {
        status = moe_config_parse(root, text, size, path, error);
    }
    moe_free(env, text, size + 1);
    return status;
}

/* ---- flattening ----------------------------------------------------------------------------------------- */

static bool is_plain_list(const json_t *value)
{
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        if (json_is_object(item) || json_is_array(item))
            return false;
    }
    return true;
}

static enum moe_status add_value(struct walk *walk, const json_t *value, size_t length)
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
static enum moe_status flatten_object(struct walk *walk, json_t *object, size_t start, int depth)
{
    const char *key;
    json_t *value;
    if (depth > DEPTH_LARGEST)
        return moe_fail(walk->error, MOE_ERR_FORMAT, "%s: objects are nested deeper than %d", walk->path,
                        DEPTH_LARGEST);
    json_object_foreach(object, key, value) {
        size_t length = strlen(key);
        if (length > KEY_LARGEST - 1 - start)
            return moe_fail(walk->error, MOE_ERR_FORMAT, "%s: key '%.100s' is longer than %d bytes", walk->path, key,
                            KEY_LARGEST);
        memcpy(walk->key + start, key, length + 1);
        if (json_is_object(value)) {
            walk->key[start + length] = '.';
            MOE_TRY(flatten_object(walk, value, start + length + 1, depth + 1));
        } else if (!json_is_array(value) || is_plain_list(value)) {
            MOE_TRY(add_value(walk, value, start + length));
        }
    }
    return MOE_OK;
}

enum moe_status moe_config_flatten(struct moe_config *config, json_t *root, const char *path, struct moe_error *error)
{
    struct walk walk = {.config = config, .path = path, .error = error};
    config->root = root;
    return flatten_object(&walk, root, 0, 1);
}

/* ---- answers -------------------------------------------------------------------------------------------- */

static void set_value(struct moe_value *out, const json_t *value)
{
    memset(out, 0, sizeof *out);
    switch (json_typeof(value)) {
    case JSON_TRUE:
    case JSON_FALSE:
        out->kind = MOE_VALUE_BOOL;
        out->boolean = json_is_true(value);
        break;
    case JSON_INTEGER:
        out->kind = MOE_VALUE_INT;
        out->integer = json_integer_value(value);
        out->number = (double)out->integer;
        break;
    case JSON_REAL:
        out->kind = MOE_VALUE_FLOAT;
        out->number = json_real_value(value);
        break;
    case JSON_STRING:
        out->kind = MOE_VALUE_STRING;
        out->string = json_string_value(value);
        out->length = json_string_length(value);
        break;
    case JSON_ARRAY:
        out->kind = MOE_VALUE_ARRAY;
        out->length = json_array_size(value);
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

enum moe_status moe_config_item(const struct moe_value *array, size_t i, struct moe_value *out)
{
    const json_t *item = json_array_get(array->array, i);
    if (item == NULL)
        return MOE_ERR_ARGUMENT;
    set_value(out, item);
    return MOE_OK;
}
