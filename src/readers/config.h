// SPDX-License-Identifier: MIT
// JSON as metadata: nested objects flattened to keys with dots. For the safetensors reader.
#ifndef MOE_CONFIG_H
#define MOE_CONFIG_H

#include <jansson.h>
#include <stddef.h>

#include "moe/moe.h"
#include "readers/archive.h"
#include "readers/table.h"

/* root owns the values; jansson has its memory from malloc, whatever the env. */
struct moe_config {
    json_t *root;
    struct moe_table keys;    /* numbers are indices of values */
    const json_t **values;
    size_t capacity;
};
void moe_config_init(struct moe_config *config, const struct moe_env *env);
void moe_config_free(struct moe_config *config);
/* Parse a file that holds one JSON object of at most limit bytes; json_decref *root. ERR_FORMAT names path, line and
 * reason. numbers: accept Infinity and NaN, which Python writes and JSON does not have, as null. */
enum moe_status moe_config_load(struct moe_archive *archive, json_t **root, const char *path, size_t limit,
                                bool numbers, struct moe_error *error);
enum moe_status moe_config_parse(json_t **root, const char *text, size_t size, const char *path,
                                 struct moe_error *error);
/* Make config the metadata of the object, which it takes over. path is for sentences. */
enum moe_status moe_config_flatten(struct moe_config *config, json_t *root, const char *path, struct moe_error *error);
enum moe_status moe_config_at(const struct moe_config *config, size_t i, const char **key, struct moe_value *out);
enum moe_status moe_config_find(const struct moe_config *config, const char *key, struct moe_value *out);
enum moe_status moe_config_item(const struct moe_value *array, size_t i, struct moe_value *out);

#endif
