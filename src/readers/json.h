// SPDX-License-Identifier: MIT
// JSON of files: a whole text in one array of nodes, in the order of the text. Made for the headers and indices of
// large models, which hold a hundred thousand objects: one pass, two blocks of memory.
#ifndef MOE_JSON_H
#define MOE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"

enum moe_json_kind {
    MOE_JSON_NULL,
    MOE_JSON_FALSE,
    MOE_JSON_TRUE,
    MOE_JSON_INTEGER,
    MOE_JSON_REAL,
    MOE_JSON_STRING,
    MOE_JSON_ARRAY,
    MOE_JSON_OBJECT
};

/* An array's items, or an object's keys and values in turn, follow it. A node and all that belongs to it take span
 * nodes, so that the next one of the same parent is span further on. */
struct moe_json {
    unsigned kind : 4;        /* enum moe_json_kind */
    unsigned span : 28;
    uint32_t length;          /* bytes of a string, items of an array, members of an object */
    union {
        int64_t integer;
        double number;
        const char *string;   /* NUL-terminated, and without NUL inside */
    } u;
};

struct moe_json_document {
    const struct moe_env *env;
    char *text;               /* the strings, where they stood in the text */
    size_t size;
    struct moe_json *nodes;   /* the root first */
    size_t count, capacity;
};

/* Parse an object of at most 100 MB as RFC 8259 has it: no key twice, no NUL in strings, integers of 64 bits, at most
 * 256 levels. numbers: accept Infinity, -Infinity and NaN, which Python writes and JSON does not have, as null.
 * ERR_FORMAT names path, line and reason; ERR_UNSUPPORTED: too large; ERR_MEMORY. *out is for moe_json_free in any
 * case. */
enum moe_status moe_json_parse(struct moe_json_document *out, const struct moe_env *env, const char *text, size_t size,
                               bool numbers, const char *path, struct moe_error *error);
void moe_json_free(struct moe_json_document *document);

static inline bool moe_json_is(const struct moe_json *value, enum moe_json_kind kind)
{
    return value != NULL && value->kind == (unsigned)kind;
}

/* NULL for what is no string. */
static inline const char *moe_json_string(const struct moe_json *value)
{
    return moe_json_is(value, MOE_JSON_STRING) ? value->u.string : NULL;
}

/* The items of an array, or the keys of an object, each followed by its value:
 *      for (item = moe_json_first(array); item != NULL; item = moe_json_next(array, item))
 *      for (key = moe_json_first(object); key != NULL; key = moe_json_next(object, key))   the value is key + 1 */
static inline const struct moe_json *moe_json_first(const struct moe_json *parent)
{
    return parent != NULL && parent->span > 1 ? parent + 1 : NULL;
}

static inline const struct moe_json *moe_json_next(const struct moe_json *parent, const struct moe_json *at)
{
    const struct moe_json *next = moe_json_is(parent, MOE_JSON_OBJECT) ? at + 1 + at[1].span : at + at->span;
    return next < parent + parent->span ? next : NULL;
}

/* The value of a member; NULL if there is none, or if object is none. Takes time in proportion to the members. */
const struct moe_json *moe_json_get(const struct moe_json *object, const char *key);

#endif
