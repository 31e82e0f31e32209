// SPDX-License-Identifier: MIT
// JSON as metadata: nested objects flattened to keys with dots. For the safetensors reader.
#ifndef MOE_CONFIG_H
#define MOE_CONFIG_H

#include <stddef.h>

#include "moe/moe.h"
#include "readers/archive.h"
#include "readers/json.h"
#include "readers/table.h"

/* document owns the values. */
struct moe_config {
    struct moe_json_document document;
    struct moe_table keys;    /* numbers are indices of values */
    const struct moe_json **values;
    size_t capacity;
};
void moe_config_init(struct moe_config *config, const struct moe_env *env);
void moe_config_free(struct moe_config *config);
/* Parse a file of at most limit bytes as moe_json_parse does; *out is for moe_json_free in any case. */
enum moe_status moe_config_load(struct moe_archive *archive, struct moe_json_document *out, const char *path,
                                size_t limit, bool numbers, struct moe_error *error);
/* Make config the metadata of an object of the document, which it takes over. path is for sentences. */
enum moe_status moe_config_flatten(struct moe_config *config, struct moe_json_document *document,
                                   const struct moe_json *object, const char *path, struct moe_error *error);
enum moe_status moe_config_at(const struct moe_config *config, size_t i, const char **key, struct moe_value *out);
enum moe_status moe_config_find(const struct moe_config *config, const char *key, struct moe_value *out);
enum moe_status moe_config_item(const struct moe_value *array, size_t i, struct moe_value *out);

#endif
