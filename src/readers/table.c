// SPDX-License-Identifier: MIT
// The arena and the hash table of names: open addressing with linear probing, at most half full.
#include "readers/table.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum {
    ARENA_FIRST = 4096,        /* payload of the first chunk; doubled from chunk to chunk */
    ARENA_LARGEST = 1 << 20,
    TABLE_FIRST = 64           /* slots; a power of two */
};

struct moe_arena_chunk {
    struct moe_arena_chunk *next;
    size_t size;               /* payload, which follows */
};

struct moe_table_slot {
    uint32_t hash;             /* its low half: places the slot, and spares most comparisons */
    uint32_t number;           /* from 1; 0: free */
};

/* ---- arena ---------------------------------------------------------------------------------------------- */

static struct moe_arena_chunk *new_chunk(const struct moe_env *env, size_t size)
{
    size_t bytes;
    if (!moe_add(&bytes, size, sizeof(struct moe_arena_chunk)))
        return NULL;
    struct moe_arena_chunk *chunk = moe_alloc(env, bytes);
    if (chunk != NULL)
        chunk->size = size;
    return chunk;
}

void *moe_arena_alloc(struct moe_arena *arena, size_t size, size_t align)
{
    struct moe_arena_chunk *current = arena->current;
    size_t start = 0, end;
    if (current != NULL && moe_align(&start, arena->used, align) && moe_add(&end, start, size) &&
        end <= current->size) {
        arena->used = end;
        return (unsigned char *)(current + 1) + start;
    }
    size_t chunk_size = ARENA_FIRST;
    if (current != NULL && current->size >= ARENA_FIRST)
        chunk_size = current->size < ARENA_LARGEST / 2 ? 2 * current->size : ARENA_LARGEST;
    bool alone = size > chunk_size / 4;
    struct moe_arena_chunk *chunk = new_chunk(arena->env, alone ? size : chunk_size);
    if (chunk == NULL)
        return NULL;
    if (alone && current != NULL) {   /* behind the current chunk, which still has room */
        chunk->next = current->next;
        current->next = chunk;
    } else {
        chunk->next = current;
        arena->current = chunk;
        arena->used = size;
    }
    return chunk + 1;
}

const char *moe_arena_string(struct moe_arena *arena, const void *data, size_t length)
{
    size_t bytes;
    char *copy = moe_add(&bytes, length, 1) ? moe_arena_alloc(arena, bytes, 1) : NULL;
    if (copy == NULL)
        return NULL;
    if (length > 0)
        memcpy(copy, data, length);
    copy[length] = '\0';
    return copy;
}

void moe_arena_free(struct moe_arena *arena)
{
    while (arena->current != NULL) {
        struct moe_arena_chunk *next = arena->current->next;
        moe_free(arena->env, arena->current, sizeof *arena->current + arena->current->size);
        arena->current = next;
    }
    arena->used = 0;
}

/* ---- hash ----------------------------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static void sip_rounds(uint64_t v[4], int rounds)
{
    for (int i = 0; i < rounds; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

static uint64_t load_word(const unsigned char *bytes, size_t count)
{
    uint64_t word = 0;
    for (size_t i = 0; i < count; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

/* SipHash-2-4 (Aumasson and Bernstein, 2012). */
uint64_t moe_table_hash(const uint64_t key[2], const void *data, size_t length)
{
    const unsigned char *bytes = data;
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u,
                     key[1] ^ 0x7465646279746573u};
    size_t whole = length - length % 8;
    for (size_t i = 0; i <= whole; i += 8) {
        uint64_t word = i < whole ? load_word(bytes + i, 8)
                                  : load_word(bytes + i, length % 8) | (uint64_t)(length & 255) << 56;
        v[3] ^= word;
        sip_rounds(v, 2);
        v[0] ^= word;
    }
    v[2] ^= 255;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- table ---------------------------------------------------------------------------------------------- */

void moe_table_random_key(uint64_t key[2])
{
    if (getentropy(key, 2 * sizeof *key) != 0) {
        struct timespec now = {0, 0};   /* no entropy in a sandbox: an address and a clock must do */
        clock_gettime(CLOCK_MONOTONIC, &now);
        key[0] = (uint64_t)(uintptr_t)key * 0x9e3779b97f4a7c15u;
        key[1] = (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 32;
    }
}

void moe_table_init(struct moe_table *table, const struct moe_env *env)
{
    memset(table, 0, sizeof *table);
    table->strings.env = env;
    moe_table_random_key(table->key);
}

void moe_table_free(struct moe_table *table)
{
    const struct moe_env *env = table->strings.env;
    moe_free(env, table->names, table->capacity * sizeof *table->names);
    moe_free(env, table->slots, table->num_slots * sizeof *table->slots);
    moe_arena_free(&table->strings);
    table->names = NULL;
    table->slots = NULL;
    table->count = table->capacity = table->num_slots = 0;
}

enum moe_status moe_table_grow(const struct moe_env *env, void **array, size_t *capacity, size_t count, size_t item)
{
    if (count < *capacity)
        return MOE_OK;
    size_t larger = 16;
    if (*capacity > 0 && !moe_mul(&larger, *capacity, 2))
        return MOE_ERR_MEMORY;
    void *copy = moe_alloc_array(env, larger, item);
    if (copy == NULL)
        return MOE_ERR_MEMORY;
    if (*capacity > 0)
        memcpy(copy, *array, *capacity * item);
    moe_free(env, *array, *capacity * item);
    *array = copy;
    *capacity = larger;
    return MOE_OK;
}

/* The slot of the name, or the free one where it belongs. */
static struct moe_table_slot *find_slot(const struct moe_table *table, uint32_t hash, const char *name, size_t length)
{
    size_t mask = table->num_slots - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct moe_table_slot *slot = &table->slots[i];
        if (slot->number == 0)
            return slot;
        if (slot->hash != hash)
            continue;
        const char *other = table->names[slot->number - 1];
        if (strlen(other) == length && memcmp(other, name, length) == 0)
            return slot;
    }
}

static enum moe_status grow_slots(struct moe_table *table)
{
    const struct moe_env *env = table->strings.env;
    size_t num_slots = table->num_slots > 0 ? 2 * table->num_slots : TABLE_FIRST;
    struct moe_table_slot *slots = moe_alloc_array(env, num_slots, sizeof *slots);
    if (slots == NULL)
        return MOE_ERR_MEMORY;
    for (size_t i = 0; i < table->num_slots; i++) {
        if (table->slots[i].number == 0)
            continue;
        size_t place = table->slots[i].hash & (num_slots - 1);
        while (slots[place].number != 0)
            place = (place + 1) & (num_slots - 1);
        slots[place] = table->slots[i];
    }
    moe_free(env, table->slots, table->num_slots * sizeof *slots);
    table->slots = slots;
    table->num_slots = num_slots;
    return MOE_OK;
}

enum moe_status moe_table_add(struct moe_table *table, const char *name, size_t length)
{
    if (table->count >= UINT32_MAX / 4)
        return MOE_ERR_MEMORY;
    void *names = (void *)table->names;
    if (moe_table_grow(table->strings.env, &names, &table->capacity, table->count, sizeof *table->names) != MOE_OK)
        return MOE_ERR_MEMORY;
    table->names = names;
    if (2 * (table->count + 1) > table->num_slots)
        MOE_TRY(grow_slots(table));
    uint32_t hash = (uint32_t)moe_table_hash(table->key, name, length);
    struct moe_table_slot *slot = find_slot(table, hash, name, length);
    if (slot->number != 0)
        return MOE_ERR_ARGUMENT;
    const char *copy = moe_arena_string(&table->strings, name, length);
    if (copy == NULL)
        return MOE_ERR_MEMORY;
    table->names[table->count++] = copy;
    *slot = (struct moe_table_slot){hash, (uint32_t)table->count};
    return MOE_OK;
}

bool moe_table_find(const struct moe_table *table, size_t *number, const char *name, size_t length)
{
    if (table->count == 0)
        return false;
    uint32_t hash = (uint32_t)moe_table_hash(table->key, name, length);
    const struct moe_table_slot *slot = find_slot(table, hash, name, length);
    if (slot->number == 0)
        return false;
    *number = slot->number - 1;
    return true;
}

/* ---- names ---------------------------------------------------------------------------------------------- */

size_t moe_table_utf8(const void *data, size_t length)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};   /* by length: longer forms are invalid */
    const unsigned char *bytes = data;
    unsigned char lead = length > 0 ? bytes[0] : 0xff;
    if (lead < 0x80)
        return 1;
    size_t count = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || count > length)
        return 0;
    uint32_t code = lead & (0x7fu >> count);
    for (size_t i = 1; i < count; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (bytes[i] & 0x3fu);
    }
    bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code >= smallest[count] && code <= 0x10ffff && !surrogate ? count : 0;
}

/* Up to 0x1f, and 0x7f to 0x9f, which is c2 80 to c2 9f: terminals obey some of them. */
static bool is_control(const unsigned char *bytes, size_t count)
{
    return count == 1 ? bytes[0] < 0x20 || bytes[0] == 0x7f : bytes[0] == 0xc2 && bytes[1] < 0xa0;
}

bool moe_table_is_name(const void *data, size_t length)
{
    const unsigned char *bytes = data;
    size_t i = 0;
    while (i < length) {
        size_t count = moe_table_utf8(bytes + i, length - i);
        if (count == 0 || is_control(bytes + i, count))
            return false;
        i += count;
    }
    return length > 0;
}
