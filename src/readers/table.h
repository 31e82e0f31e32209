// SPDX-License-Identifier: MIT
// What readers keep of a file: a table from names to numbers that no choice of names can slow down, an arena for
// strings and small arrays, and what a name may look like.
#ifndef MOE_TABLE_H
#define MOE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"

/* Memory that is freed at once. Zero-initialise, then set env. */
struct moe_arena {
    const struct moe_env *env;
    struct moe_arena_chunk *current;   /* the newest of a list */
    size_t used;                       /* bytes of current */
};
void *moe_arena_alloc(struct moe_arena *arena, size_t size, size_t align);   /* align <= 16; NULL: no memory */
const char *moe_arena_string(struct moe_arena *arena, const void *data, size_t length);   /* a copy, NUL-terminated */
void moe_arena_free(struct moe_arena *arena);

/* Hashes under a secret key: SipHash-2-4, whose collisions nobody can make who does not know the key. */
void moe_table_random_key(uint64_t key[2]);
uint64_t moe_table_hash(const uint64_t key[2], const void *data, size_t length);

/* Names, numbered 0, 1, ... as they are added. Hashed with a secret key, so that a file cannot be made whose names
 * all collide. */
struct moe_table {
    struct moe_arena strings;
    uint64_t key[2];
    const char **names;
    struct moe_table_slot *slots;
    size_t count, capacity, num_slots;
};
void moe_table_init(struct moe_table *table, const struct moe_env *env);
void moe_table_free(struct moe_table *table);
/* Copy name into the table as number table->count. ERR_ARGUMENT: it is there already; ERR_MEMORY. */
enum moe_status moe_table_add(struct moe_table *table, const char *name, size_t length);
bool moe_table_find(const struct moe_table *table, size_t *number, const char *name, size_t length);

/* *array of *capacity items of item bytes gets room for one more than count. ERR_MEMORY. */
enum moe_status moe_table_grow(const struct moe_env *env, void **array, size_t *capacity, size_t count, size_t item);

/* Bytes of the UTF-8 sequence at the start of data, 1 to 4; 0: there is none that is valid. */
size_t moe_table_utf8(const void *data, size_t length);

/* Names are shown on terminals and in sentences: not empty, valid UTF-8, no control characters, no NUL. */
bool moe_table_is_name(const void *data, size_t length);

#endif
