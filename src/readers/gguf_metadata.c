// SPDX-License-Identifier: MIT
// Keys and values of a GGUF header. All of them are copied out of the file: the copy is no larger than a small multiple
// of the bytes it came from, and grows with what has been read, never with a count that the file claims.
#include "readers/gguf.h"

#include <string.h>

#include "check.h"
#include "readers/file.h"

enum {
    KEY_LARGEST = 65535,       /* bytes of a key, by the format's definition */
    FETCH_SMALLEST = 1 << 16,
    FETCH_LARGEST = 1 << 23
};

/* type: of the value, or of the items if it is an array. */
struct moe_gguf_value {
    uint32_t type;
    bool is_array;
    uint64_t length;                        /* bytes of a string, items of an array */
    union {
        uint64_t bits;                      /* of a number or a boolean */
        const char *string;
        const struct gguf_array *array;
    } u;
};

/* Numbers lie in items as in the file, little endian. Strings: item i is items + starts[i], followed by a NUL,
 * and starts[i + 1] is one past that. */
struct gguf_array {
    uint32_t type;
    size_t count;
    const unsigned char *items;
    const uint64_t *starts;
};

static const unsigned char type_bytes[MOE_GGUF_NUM_TYPES] = {
    [MOE_GGUF_UINT8] = 1,  [MOE_GGUF_INT8] = 1,  [MOE_GGUF_UINT16] = 2,  [MOE_GGUF_INT16] = 2,
    [MOE_GGUF_UINT32] = 4, [MOE_GGUF_INT32] = 4, [MOE_GGUF_FLOAT32] = 4, [MOE_GGUF_BOOL] = 1,
    [MOE_GGUF_UINT64] = 8, [MOE_GGUF_INT64] = 8, [MOE_GGUF_FLOAT64] = 8,
};

/* ---- cursor --------------------------------------------------------------------------------------------- */

/* Ahead of the cursor as much again as is behind it: a header of any length is read in few steps, and at most as many
 * bytes of weights. */
static void fetch(struct moe_gguf_cursor *cursor, uint64_t end)
{
    uint64_t ahead = end < FETCH_SMALLEST ? FETCH_SMALLEST : end > FETCH_LARGEST ? FETCH_LARGEST : end;
    uint64_t fetched = ahead < cursor->size - end ? end + ahead : cursor->size;
    moe_file_fetch(cursor->data, cursor->fetched, fetched);
    cursor->fetched = fetched;
}

bool moe_gguf_take(struct moe_gguf_cursor *cursor, const unsigned char **bytes, uint64_t size)
{
    if (size > cursor->size - cursor->pos)
        return false;
    if (cursor->pos + size > cursor->fetched)
        fetch(cursor, cursor->pos + size);
    *bytes = cursor->data + cursor->pos;
    cursor->pos += size;
    return true;
}

static uint64_t load_number(const unsigned char *bytes, size_t count)
{
    uint64_t number = 0;
    for (size_t i = 0; i < count; i++)
        number |= (uint64_t)bytes[i] << (8 * i);
    return number;
}

bool moe_gguf_take_number(struct moe_gguf_cursor *cursor, uint64_t *number, size_t bytes)
{
    const unsigned char *at;
    if (!moe_gguf_take(cursor, &at, bytes))
        return false;
    *number = load_number(at, bytes);
    return true;
}

bool moe_gguf_take_string(struct moe_gguf_cursor *cursor, const unsigned char **bytes, uint64_t *length)
{
    return moe_gguf_take_number(cursor, length, 8) && moe_gguf_take(cursor, bytes, *length);
}

/* ---- reading -------------------------------------------------------------------------------------------- */

static enum moe_status fail_end(const struct moe_gguf_cursor *cursor, const char *key, struct moe_error *error)
{
    return moe_fail(error, MOE_ERR_FORMAT,
                    "%s: the value of '%.100s' does not fit into the header, which has %llu bytes", cursor->path, key,
                    (unsigned long long)cursor->size);
}

static enum moe_status fail_memory(const struct moe_gguf_cursor *cursor, struct moe_error *error)
{
    return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for its metadata", cursor->path);
}

static bool are_booleans(const unsigned char *items, size_t count)
{
    unsigned char all = 0;
    for (size_t i = 0; i < count; i++)
        all |= items[i];
    return all <= 1;
}

/* A pass to find the extent, a pass to copy; the second is bound by the first even if the file changes in between. */
static enum moe_status read_strings(struct moe_gguf_metadata *metadata, struct moe_gguf_cursor *cursor, const char *key,
                                    struct gguf_array *array, struct moe_error *error)
{
    const unsigned char *bytes;
    uint64_t length, used = 0;
    struct moe_gguf_cursor ahead = *cursor;
    for (size_t i = 0; i < array->count; i++)
        if (!moe_gguf_take_string(&ahead, &bytes, &length))
            return fail_end(cursor, key, error);
    cursor->fetched = ahead.fetched;
    /* Each string has given up 8 bytes for its length and takes one for its NUL: the text fits into extent. */
    size_t extent = (size_t)(ahead.pos - cursor->pos), index_size;
    if (!moe_add(&index_size, array->count, 1) || !moe_mul(&index_size, index_size, sizeof *array->starts))
        return fail_memory(cursor, error);
    uint64_t *starts = moe_arena_alloc(&metadata->arena, index_size, sizeof *starts);
    unsigned char *items = moe_arena_alloc(&metadata->arena, extent, 1);
    if (starts == NULL || items == NULL)
        return fail_memory(cursor, error);
    for (size_t i = 0; i < array->count; i++) {
        if (!moe_gguf_take_string(cursor, &bytes, &length) || length >= extent - used)
            return fail_end(cursor, key, error);
        starts[i] = used;
        memcpy(items + used, bytes, (size_t)length);
        items[used + length] = '\0';
        used += length + 1;
    }
    starts[array->count] = used;
    array->items = items;
    array->starts = starts;
    return MOE_OK;
}

static enum moe_status read_numbers(struct moe_gguf_metadata *metadata, struct moe_gguf_cursor *cursor, const char *key,
                                    struct gguf_array *array, struct moe_error *error)
{
    const unsigned char *bytes;
    size_t size;
    if (!moe_mul(&size, array->count, type_bytes[array->type]) || !moe_gguf_take(cursor, &bytes, size))
        return fail_end(cursor, key, error);
    unsigned char *items = moe_arena_alloc(&metadata->arena, size, 1);
    if (items == NULL)
        return fail_memory(cursor, error);
    if (size > 0)
        memcpy(items, bytes, size);
    if (array->type == MOE_GGUF_BOOL && !are_booleans(items, array->count))
        return moe_fail(error, MOE_ERR_FORMAT, "%s: '%.100s' has booleans that are neither 0 nor 1", cursor->path, key);
    array->items = items;
    return MOE_OK;
}

static enum moe_status read_array(struct moe_gguf_metadata *metadata, struct moe_gguf_cursor *cursor, const char *key,
                                  struct moe_gguf_value *value, struct moe_error *error)
{
    uint64_t type, count;
    if (!moe_gguf_take_number(cursor, &type, 4) || !moe_gguf_take_number(cursor, &count, 8))
        return fail_end(cursor, key, error);
    if (type == MOE_GGUF_ARRAY)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s: '%.100s' is an array of arrays", cursor->path, key);
    if (type >= MOE_GGUF_NUM_TYPES)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: '%.100s' is an array of type %llu, which GGUF does not have",
                        cursor->path, key, (unsigned long long)type);
    size_t item_bytes = type == MOE_GGUF_STRING ? 8 : type_bytes[type];   /* at least */
    if (count > (cursor->size - cursor->pos) / item_bytes)
        return fail_end(cursor, key, error);
    struct gguf_array *array = moe_arena_alloc(&metadata->arena, sizeof *array, 8);
    if (array == NULL)
        return fail_memory(cursor, error);
    *array = (struct gguf_array){(uint32_t)type, (size_t)count, NULL, NULL};
    MOE_TRY(type == MOE_GGUF_STRING ? read_strings(metadata, cursor, key, array, error)
                                    : read_numbers(metadata, cursor, key, array, error));
    *value = (struct moe_gguf_value){(uint32_t)type, true, count, {.array = array}};
    return MOE_OK;
}

static enum moe_status read_string(struct moe_gguf_metadata *metadata, struct moe_gguf_cursor *cursor, const char *key,
                                   struct moe_gguf_value *value, struct moe_error *error)
{
    const unsigned char *bytes;
    uint64_t length;
    if (!moe_gguf_take_string(cursor, &bytes, &length))
        return fail_end(cursor, key, error);
    const char *string = moe_arena_string(&metadata->arena, bytes, (size_t)length);
    if (string == NULL)
        return fail_memory(cursor, error);
    *value = (struct moe_gguf_value){MOE_GGUF_STRING, false, length, {.string = string}};
    return MOE_OK;
}

static enum moe_status read_value(struct moe_gguf_metadata *metadata, struct moe_gguf_cursor *cursor, const char *key,
                                  struct moe_gguf_value *value, struct moe_error *error)
{
    uint64_t type, bits;
    if (!moe_gguf_take_number(cursor, &type, 4))
        return fail_end(cursor, key, error);
    if (type == MOE_GGUF_ARRAY)
        return read_array(metadata, cursor, key, value, error);
    if (type == MOE_GGUF_STRING)
        return read_string(metadata, cursor, key, value, error);
    if (type >= MOE_GGUF_NUM_TYPES)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: '%.100s' is of type %llu, which GGUF does not have",
                        cursor->path, key, (unsigned long long)type);
    if (!moe_gguf_take_number(cursor, &bits, type_bytes[type]))
        return fail_end(cursor, key, error);
    if (type == MOE_GGUF_BOOL && bits > 1)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: '%.100s' is a boolean that is neither 0 nor 1", cursor->path, key);
    *value = (struct moe_gguf_value){(uint32_t)type, false, 0, {.bits = bits}};
    return MOE_OK;
}

enum moe_status moe_gguf_metadata_read(struct moe_gguf_metadata *metadata, struct moe_gguf_cursor *cursor,
                                       struct moe_error *error)
{
    const unsigned char *bytes;
    uint64_t length;
    size_t number = metadata->keys.count;
    if (!moe_gguf_take_string(cursor, &bytes, &length))
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the file ends inside key %zu", cursor->path, number);
    void *values = metadata->values;
    enum moe_status status = moe_table_grow(metadata->arena.env, &values, &metadata->capacity, number,
                                            sizeof *metadata->values);
    metadata->values = values;
    if (status != MOE_OK)
        return fail_memory(cursor, error);
    if (length > KEY_LARGEST || !moe_table_is_name(bytes, (size_t)length))
        return moe_fail(error, MOE_ERR_FORMAT, "%s: key %zu is empty, too long or no plain UTF-8", cursor->path,
                        number);
    status = moe_table_add(&metadata->keys, (const char *)bytes, (size_t)length);
    if (status == MOE_ERR_ARGUMENT)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: key '%.*s' is there twice", cursor->path,
                        (int)(length < 100 ? length : 100), (const char *)bytes);
    if (status != MOE_OK)
        return fail_memory(cursor, error);
    return read_value(metadata, cursor, metadata->keys.names[number], &metadata->values[number], error);
}

void moe_gguf_metadata_init(struct moe_gguf_metadata *metadata, const struct moe_env *env)
{
    memset(metadata, 0, sizeof *metadata);
    metadata->arena.env = env;
    moe_table_init(&metadata->keys, env);
}

void moe_gguf_metadata_free(struct moe_gguf_metadata *metadata)
{
    moe_free(metadata->arena.env, metadata->values, metadata->capacity * sizeof *metadata->values);
    moe_table_free(&metadata->keys);
    moe_arena_free(&metadata->arena);
    metadata->values = NULL;
    metadata->capacity = 0;
}

/* ---- answers -------------------------------------------------------------------------------------------- */

static void set_integer(struct moe_value *out, int64_t integer)
{
    out->kind = MOE_VALUE_INT;
    out->integer = integer;
    out->number = (double)integer;
}

static void set_float(struct moe_value *out, double number)
{
    out->kind = MOE_VALUE_FLOAT;
    out->number = number;
}

/* The number whose two's complement of so many bytes bits is. */
static int64_t sign_extend(uint64_t bits, size_t bytes)
{
    uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
    uint64_t extended = (bits ^ sign) - sign;
    int64_t integer;
    memcpy(&integer, &extended, sizeof integer);
    return integer;
}

static void set_number(struct moe_value *out, uint32_t type, uint64_t bits)
{
    uint32_t low = (uint32_t)bits;
    float f32;
    double f64;
    out->gguf_type = type;
    switch (type) {
    case MOE_GGUF_BOOL:
        out->kind = MOE_VALUE_BOOL;
        out->boolean = bits != 0;
        break;
    case MOE_GGUF_FLOAT32:
        memcpy(&f32, &low, sizeof f32);
        set_float(out, (double)f32);
        break;
    case MOE_GGUF_FLOAT64:
        memcpy(&f64, &bits, sizeof f64);
        set_float(out, f64);
        break;
    case MOE_GGUF_INT8:
    case MOE_GGUF_INT16:
    case MOE_GGUF_INT32:
    case MOE_GGUF_INT64:
        set_integer(out, sign_extend(bits, type_bytes[type]));
        break;
    default:
        if (bits <= INT64_MAX)
            set_integer(out, (int64_t)bits);
        else
            set_float(out, (double)bits);
    }
}

static void set_string(struct moe_value *out, const char *string, size_t length)
{
    out->kind = MOE_VALUE_STRING;
    out->string = string;
    out->length = length;
    out->gguf_type = MOE_GGUF_STRING;
}

static void set_value(struct moe_value *out, const struct moe_gguf_value *value)
{
    memset(out, 0, sizeof *out);
    if (value->is_array) {
        out->kind = MOE_VALUE_ARRAY;
        out->length = (size_t)value->length;
        out->gguf_type = value->type;
        out->array = value->u.array;
    } else if (value->type == MOE_GGUF_STRING) {
        set_string(out, value->u.string, (size_t)value->length);
    } else {
        set_number(out, value->type, value->u.bits);
    }
}

enum moe_status moe_gguf_metadata_at(const struct moe_gguf_metadata *metadata, size_t i, const char **key,
                                     struct moe_value *out)
{
    if (i >= metadata->keys.count)
        return MOE_ERR_ARGUMENT;
    *key = metadata->keys.names[i];
    set_value(out, &metadata->values[i]);
    return MOE_OK;
}

enum moe_status moe_gguf_metadata_find(const struct moe_gguf_metadata *metadata, const char *key,
                                       struct moe_value *out)
{
    size_t i;
    if (!moe_table_find(&metadata->keys, &i, key, strlen(key)))
        return MOE_ERR_ARGUMENT;
    set_value(out, &metadata->values[i]);
    return MOE_OK;
}

enum moe_status moe_gguf_metadata_item(const struct moe_value *array, size_t i, struct moe_value *out)
{
    const struct gguf_array *items = array->array;
    if (i >= items->count)
        return MOE_ERR_ARGUMENT;
    memset(out, 0, sizeof *out);
    if (items->type == MOE_GGUF_STRING) {
        set_string(out, (const char *)items->items + items->starts[i],
                   (size_t)(items->starts[i + 1] - items->starts[i] - 1));
    } else {
        size_t bytes = type_bytes[items->type];
        set_number(out, items->type, load_number(items->items + i * bytes, bytes));
    }
    return MOE_OK;
}
