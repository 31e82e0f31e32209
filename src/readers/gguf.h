// SPDX-License-Identifier: MIT
// What the two halves of the GGUF reader share: a cursor that cannot leave the file, and a header's metadata.
#ifndef MOE_GGUF_H
#define MOE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"
#include "readers/table.h"

enum moe_gguf_type {
    MOE_GGUF_UINT8,
    MOE_GGUF_INT8,
    MOE_GGUF_UINT16,
    MOE_GGUF_INT16,
    MOE_GGUF_UINT32,
    MOE_GGUF_INT32,
    MOE_GGUF_FLOAT32,
    MOE_GGUF_BOOL,
    MOE_GGUF_STRING,
    MOE_GGUF_ARRAY,
    MOE_GGUF_UINT64,
    MOE_GGUF_INT64,
    MOE_GGUF_FLOAT64,
    MOE_GGUF_NUM_TYPES
};

/* A file's header, read front to back. Numbers are little endian, whatever the machine is. */
struct moe_gguf_cursor {
    const char *path;
    const unsigned char *data;              /* mapped */
    uint64_t size, pos;
    uint64_t fetched;                       /* the system was asked to read so far */
};
/* The next size bytes; false at the end. */
bool moe_gguf_take(struct moe_gguf_cursor *cursor, const unsigned char **bytes, uint64_t size);
/* An unsigned number of 1 to 8 bytes. */
bool moe_gguf_take_number(struct moe_gguf_cursor *cursor, uint64_t *number, size_t bytes);
/* A length of 64 bits and as many bytes. */
bool moe_gguf_take_string(struct moe_gguf_cursor *cursor, const unsigned char **bytes, uint64_t *length);

struct moe_gguf_metadata {
    struct moe_table keys;                  /* numbers are indices of values */
    struct moe_gguf_value *values;
    size_t capacity;
    struct moe_arena arena;                 /* strings and arrays */
};
void moe_gguf_metadata_init(struct moe_gguf_metadata *metadata, const struct moe_env *env);
void moe_gguf_metadata_free(struct moe_gguf_metadata *metadata);
/* Read one pair of key and value. */
enum moe_status moe_gguf_metadata_read(struct moe_gguf_metadata *metadata, struct moe_gguf_cursor *cursor,
                                       struct moe_error *error);
enum moe_status moe_gguf_metadata_at(const struct moe_gguf_metadata *metadata, size_t i, const char **key,
                                     struct moe_value *out);
enum moe_status moe_gguf_metadata_find(const struct moe_gguf_metadata *metadata, const char *key,
                                       struct moe_value *out);
enum moe_status moe_gguf_metadata_item(const struct moe_value *array, size_t i, struct moe_value *out);

#endif
