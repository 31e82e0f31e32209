// SPDX-License-Identifier: MIT
// For the tests of readers: files built byte by byte in a folder that goes away, and an archive that is looked at in
// full, under an allocator that counts.
#ifndef MOE_TEST_FILES_H
#define MOE_TEST_FILES_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "readers/archive.h"

/* ---- bytes ---------------------------------------------------------------------------------------------- */

struct bytes {
    unsigned char *data;
    size_t size, capacity;
};

static inline void put(struct bytes *bytes, const void *data, size_t size)
{
    if (bytes->size + size > bytes->capacity) {
        bytes->capacity = 2 * (bytes->size + size) + 64;
        bytes->data = realloc(bytes->data, bytes->capacity);
        assert_non_null(bytes->data);
    }
    if (size > 0)
        memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static inline void put_number(struct bytes *bytes, uint64_t number, size_t size)
{
    unsigned char little[8];
    for (size_t i = 0; i < size; i++)
        little[i] = (unsigned char)(number >> (8 * i));
    put(bytes, little, size);
}

static inline void put_string(struct bytes *bytes, const char *string)
{
    put_number(bytes, strlen(string), 8);
    put(bytes, string, strlen(string));
}

static inline void put_zeros(struct bytes *bytes, size_t align)
{
    while (bytes->size % align != 0)
        put_number(bytes, 0, 1);
}

static inline void drop(struct bytes *bytes)
{
    free(bytes->data);
    memset(bytes, 0, sizeof *bytes);
}

/* ---- files ---------------------------------------------------------------------------------------------- */

static char test_folder[512];

static inline int make_folder(void **state)
{
    (void)state;
    snprintf(test_folder, sizeof test_folder, "%s/readers-XXXXXX", MOE_BINARY_DIR);
    return mkdtemp(test_folder) != NULL ? 0 : -1;
}

static inline int remove_folder(void **state)
{
    char command[600];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", test_folder);
    return system(command);
}

/* The path of a name in the folder; one of eight buffers, in turn. */
static inline const char *in_folder(const char *name)
{
    static char paths[8][1024];
    static size_t next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
    return path;
}

static inline const char *write_bytes(const char *name, const void *data, size_t size)
{
    const char *path = in_folder(name);
    int file = open(path, O_WRONLY | O_CREAT, 0666);
    assert_true(file >= 0);
    /* In place: some file systems take a file that is emptied first for one to be flushed when it is closed. */
    assert_int_equal(write(file, data, size), size);
    assert_int_equal(ftruncate(file, (off_t)size), 0);
    assert_int_equal(close(file), 0);
    return path;
}

static inline const char *write_text(const char *name, const char *text)
{
    return write_bytes(name, text, strlen(text));
}

/* ---- GGUF ----------------------------------------------------------------------------------------------- */

struct gguf {
    uint32_t version;
    uint64_t num_tensors, num_pairs;    /* as written: a test may lie */
    uint64_t align;
    struct bytes pairs, infos, data;
};

static inline struct gguf gguf_new(void)
{
    return (struct gguf){.version = 3, .align = 32};
}

static inline struct bytes *gguf_key(struct gguf *file, const char *key, uint32_t type)
{
    put_string(&file->pairs, key);
    put_number(&file->pairs, type, 4);
    file->num_pairs++;
    return &file->pairs;
}

static inline void gguf_number(struct gguf *file, const char *key, uint32_t type, uint64_t number, size_t size)
{
    put_number(gguf_key(file, key, type), number, size);
}

static inline void gguf_text(struct gguf *file, const char *key, const char *text)
{
    put_string(gguf_key(file, key, 8), text);
}

static inline struct bytes *gguf_array(struct gguf *file, const char *key, uint32_t type, uint64_t count)
{
    struct bytes *pairs = gguf_key(file, key, 9);
    put_number(pairs, type, 4);
    put_number(pairs, count, 8);
    return pairs;
}

/* An entry of the header; dims innermost first, as in the file; at most 5 are written. */
static inline void gguf_entry(struct gguf *file, const char *name, uint32_t num_dims, const uint64_t *dims,
                              uint32_t type, uint64_t offset)
{
    put_string(&file->infos, name);
    put_number(&file->infos, num_dims, 4);
    for (uint32_t d = 0; d < num_dims && d < 5; d++)
        put_number(&file->infos, dims[d], 8);
    put_number(&file->infos, type, 4);
    put_number(&file->infos, offset, 8);
    file->num_tensors++;
}

/* An entry and size bytes of data, number i being (unsigned char)(first + i). */
static inline void gguf_tensor(struct gguf *file, const char *name, uint32_t num_dims, const uint64_t *dims,
                               uint32_t type, size_t size, unsigned char first)
{
    put_zeros(&file->data, (size_t)file->align);
    gguf_entry(file, name, num_dims, dims, type, file->data.size);
    for (size_t i = 0; i < size; i++)
        put_number(&file->data, (unsigned char)(first + i), 1);
}

/* The whole file; header_size, if wanted, is where the padding before the data begins. */
static inline struct bytes gguf_finish(struct gguf *file, size_t *header_size)
{
    struct bytes all = {0};
    put(&all, "GGUF", 4);
    put_number(&all, file->version, 4);
    put_number(&all, file->num_tensors, 8);
    put_number(&all, file->num_pairs, 8);
    put(&all, file->pairs.data, file->pairs.size);
    put(&all, file->infos.data, file->infos.size);
    if (header_size != NULL)
        *header_size = all.size;
    put_zeros(&all, file->align > 0 ? (size_t)file->align : 1);
    put(&all, file->data.data, file->data.size);
    drop(&file->pairs);
    drop(&file->infos);
    drop(&file->data);
    return all;
}

static inline const char *gguf_write(struct gguf *file, const char *name)
{
    struct bytes all = gguf_finish(file, NULL);
    const char *path = write_bytes(name, all.data, all.size);
    drop(&all);
    return path;
}

/* ---- safetensors ---------------------------------------------------------------------------------------- */

/* A file of this header and size bytes of data, number i being (unsigned char)i. */
static inline struct bytes safetensors_new(const char *header, size_t size)
{
    struct bytes all = {0};
    put_string(&all, header);
    for (size_t i = 0; i < size; i++)
        put_number(&all, (unsigned char)i, 1);
    return all;
}

static inline const char *safetensors_write(const char *name, const char *header, size_t size)
{
    struct bytes all = safetensors_new(header, size);
    const char *path = write_bytes(name, all.data, all.size);
    drop(&all);
    return path;
}

/* ---- memory --------------------------------------------------------------------------------------------- */

/* An env that counts, and fails at call number fail_at (from 1; 0: never). */
struct meter {
    struct moe_env env;
    size_t calls, fail_at, live, peak;
};

static inline void *meter_alloc(void *user, size_t size, size_t align)
{
    struct meter *meter = user;
    if (++meter->calls == meter->fail_at)
        return NULL;
    void *memory = aligned_alloc(align, size);
    meter->live += memory != NULL ? size : 0;
    meter->peak = meter->live > meter->peak ? meter->live : meter->peak;
    return memory;
}

static inline void meter_free(void *user, void *memory, size_t size)
{
    struct meter *meter = user;
    assert_true(size <= meter->live);
    meter->live -= size;
    free(memory);
}

static inline void meter_init(struct meter *meter, size_t fail_at)
{
    memset(meter, 0, sizeof *meter);
    meter->env = (struct moe_env){sizeof meter->env, meter, meter_alloc, meter_free};
    meter->fail_at = fail_at;
}

/* ---- archives ------------------------------------------------------------------------------------------- */

static inline enum moe_status open_metered(const char *path, uint32_t flags, struct meter *meter,
                                           struct moe_archive **archive, struct moe_error *error)
{
    struct moe_model_params params;
    MOE_INIT(&params);
    params.flags = flags;
    params.env = &meter->env;
    return moe_archive_open(path, &params, archive, error);
}

static inline struct moe_archive *open_good(const char *path, uint32_t flags)
{
    struct moe_model_params params;
    struct moe_archive *archive;
    struct moe_error error = {MOE_OK, ""};
    MOE_INIT(&params);
    params.flags = flags;
    if (moe_archive_open(path, &params, &archive, &error) != MOE_OK)
        fail_msg("%s", error.text);
    return archive;
}

/* Look at every value and every byte; the sum keeps the compiler from leaving it out. */
static inline uint64_t touch_all(struct moe_archive *archive)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < moe_archive_num_tensors(archive); i++) {
        const struct moe_archive_tensor *tensor = moe_archive_tensor_at(archive, i);
        const void *data = NULL;
        struct moe_error error;
        assert_ptr_equal(moe_archive_find(archive, tensor->info.name), tensor);
        assert_true(tensor->info.num_dims <= MOE_MAX_DIMS);
        if (moe_archive_data(archive, tensor, &data, &error) != MOE_OK)
            fail_msg("%s", error.text);
        for (uint64_t b = 0; b < tensor->info.size; b++)
            sum += ((const unsigned char *)data)[b];
    }
    for (size_t i = 0; i < moe_archive_num_metadata(archive); i++) {
        const char *key;
        struct moe_value value, again, item;
        assert_int_equal(moe_archive_metadata_at(archive, i, &key, &value), MOE_OK);
        assert_int_equal(moe_archive_metadata_find(archive, key, &again), MOE_OK);
        assert_int_equal(value.kind, again.kind);
        if (value.kind == MOE_VALUE_STRING)
            assert_int_equal(value.string[value.length], '\0');
        for (size_t k = 0; value.kind == MOE_VALUE_ARRAY && k < value.length; k++) {
            assert_int_equal(moe_archive_metadata_item(archive, &value, k, &item), MOE_OK);
            sum += item.kind == MOE_VALUE_STRING ? (uint64_t)item.string[item.length] : (uint64_t)item.kind;
        }
        if (value.kind == MOE_VALUE_ARRAY)
            assert_int_equal(moe_archive_metadata_item(archive, &value, value.length, &item), MOE_ERR_ARGUMENT);
    }
    return sum;
}

/* Opening fails in both modes, gives back all memory, and the sentence has the file's name, the text, and nothing that
 * a terminal would obey. */
static inline void expect_failure(const char *path, enum moe_status status, const char *file, const char *text)
{
    for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
        struct meter meter;
        struct moe_archive *archive = (struct moe_archive *)&meter;
        struct moe_error error = {MOE_OK, ""};
        meter_init(&meter, 0);
        enum moe_status got = open_metered(path, flags, &meter, &archive, &error);
        if (got != status || strstr(error.text, file) == NULL || strstr(error.text, text) == NULL)
            fail_msg("%s: status %d, \"%s\"; expected %d, \"%s\"", file, (int)got, error.text, (int)status, text);
        assert_int_equal(error.status, status);
        assert_null(archive);
        assert_int_equal(meter.live, 0);
        for (const char *c = error.text; *c != '\0'; c++)
            assert_true((unsigned char)*c >= 0x20 && *c != 0x7f);
    }
}

#endif
