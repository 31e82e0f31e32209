// SPDX-License-Identifier: MIT
// GGUF, versions 2 and 3, little endian; also split into name-00001-of-00003.gguf and so on. A file:
//     "GGUF", version u32, num_tensors u64, num_pairs u64
//     num_pairs times    key (length u64, bytes), type u32, value
//     num_tensors times  name (length u64, bytes), num_dims u32, dims u64 innermost first, type u32, offset u64
//     the data section, from the next multiple of general.alignment on; tensor offsets count from there
// Stricter than other readers: alignment 8 to 16 MiB; names without control characters; headers of at most 256 MiB.
// Tensors may lie in any order, with gaps between them.
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "readers/archive.h"
#include "readers/file.h"
#include "readers/gguf.h"

enum {
    HEADER_LARGEST = 1 << 28,               /* bytes; tokenizers, the largest content, take some 30 MB */
    ALIGN_DEFAULT = 32,
    ALIGN_SMALLEST = 8,
    ALIGN_LARGEST = 1 << 24,
    NAME_LARGEST = 64,                      /* bytes, by the format's definition */
    TENSOR_SMALLEST = 8 + 1 + 4 + 4 + 8,    /* bytes that a tensor takes in the header at least */
    PAIR_SMALLEST = 8 + 1 + 4 + 1,          /* a pair */
    SPLITS_LARGEST = 65535                  /* split.count is 16 bits wide */
};

/* A file being read. */
struct gguf_file {
    size_t part;
    uint64_t size;                          /* of the file; the cursor ends with the header at the latest */
    struct moe_gguf_cursor cursor;
    uint64_t num_tensors;
    uint64_t alignment;
    uint64_t split_number, split_count, split_tensors;
};

static bool probe(const char *path)
{
    char magic[4];
    return moe_file_peek(path, magic, sizeof magic) == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
}

/* ---- header --------------------------------------------------------------------------------------------- */

static enum moe_status check_version(const char *path, uint64_t version, struct moe_error *error)
{
    if (version == 2 || version == 3)
        return MOE_OK;
    if (version != 0 && (version & 0xffff) == 0)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s: big-endian GGUF; only little endian is read", path);
    if (version == 1)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s: GGUF version 1, of before 2023; 2 and 3 are read", path);
    return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s: GGUF version %llu; 2 and 3 are read", path,
                    (unsigned long long)version);
}

/* An unsigned number from the metadata; *out is left alone if the key is absent. */
static enum moe_status read_setting(const struct moe_gguf_metadata *metadata, const char *path, const char *key,
                                    uint64_t *out, struct moe_error *error)
{
    struct moe_value value;
    if (moe_gguf_metadata_find(metadata, key, &value) != MOE_OK)
        return MOE_OK;
    if (value.kind != MOE_VALUE_INT || value.integer < 0)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: '%s' is not an integer from 0 on", path, key);
    *out = (uint64_t)value.integer;
    return MOE_OK;
}

static enum moe_status read_settings(struct gguf_file *file, const struct moe_gguf_metadata *metadata,
                                     struct moe_error *error)
{
    const char *path = file->cursor.path;
    file->alignment = ALIGN_DEFAULT;
    MOE_TRY(read_setting(metadata, path, "general.alignment", &file->alignment, error));
    MOE_TRY(read_setting(metadata, path, "split.no", &file->split_number, error));
    MOE_TRY(read_setting(metadata, path, "split.count", &file->split_count, error));
    MOE_TRY(read_setting(metadata, path, "split.tensors.count", &file->split_tensors, error));
    bool power = (file->alignment & (file->alignment - 1)) == 0;
    if (!power || file->alignment < ALIGN_SMALLEST || file->alignment > ALIGN_LARGEST)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: general.alignment is %llu, not a power of two from %d to %d", path,
                        (unsigned long long)file->alignment, ALIGN_SMALLEST, ALIGN_LARGEST);
    if (file->split_count > SPLITS_LARGEST)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: split.count is %llu; at most %d files make a set", path,
                        (unsigned long long)file->split_count, SPLITS_LARGEST);
    if (file->split_count > 1 && file->split_number >= file->split_count)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: split.no is %llu, split.count is %llu", path,
                        (unsigned long long)file->split_number, (unsigned long long)file->split_count);
    return MOE_OK;
}

/* Open a file and read it up to its tensors. */
static enum moe_status read_header(struct gguf_file *file, struct moe_gguf_metadata *metadata,
                                   struct moe_archive *archive, const char *path, struct moe_error *error)
{
    struct moe_gguf_cursor *cursor = &file->cursor;
    const unsigned char *magic;
    uint64_t version, num_pairs;
    memset(file, 0, sizeof *file);
    MOE_TRY(moe_archive_add_part(archive, path, &file->part, &cursor->data, &file->size, error));
    cursor->path = moe_archive_part_path(archive, file->part);
    cursor->size = file->size < HEADER_LARGEST ? file->size : HEADER_LARGEST;
    if (!moe_gguf_take(cursor, &magic, 4) || memcmp(magic, "GGUF", 4) != 0)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: does not begin with GGUF", path);
    if (!moe_gguf_take_number(cursor, &version, 4))
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the file ends inside its first 24 bytes", path);
    MOE_TRY(check_version(path, version, error));
    if (!moe_gguf_take_number(cursor, &file->num_tensors, 8) || !moe_gguf_take_number(cursor, &num_pairs, 8))
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the file ends inside its first 24 bytes", path);
    uint64_t rest = cursor->size - cursor->pos;
    if (num_pairs > rest / PAIR_SMALLEST || file->num_tensors > rest / TENSOR_SMALLEST)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: %llu keys and %llu tensors do not fit into a header of %llu bytes",
                        path, (unsigned long long)num_pairs, (unsigned long long)file->num_tensors,
                        (unsigned long long)cursor->size);
    for (uint64_t i = 0; i < num_pairs; i++)
        MOE_TRY(moe_gguf_metadata_read(metadata, cursor, error));
    return read_settings(file, metadata, error);
}

/* ---- tensors -------------------------------------------------------------------------------------------- */

/* One entry; offset still counts from the data section. name has room for NAME_LARGEST + 1. */
static enum moe_status read_tensor(struct gguf_file *file, struct moe_archive_tensor *tensor, char *name,
                                   uint64_t number, struct moe_error *error)
{
    struct moe_gguf_cursor *cursor = &file->cursor;
    const unsigned char *bytes;
    uint64_t length, num_dims, type, dims[MOE_MAX_DIMS] = {0};
    bool there = moe_gguf_take_string(cursor, &bytes, &length);
    if (there && (length > NAME_LARGEST || !moe_table_is_name(bytes, (size_t)length)))
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the name of tensor %llu is empty, over %d bytes or no plain UTF-8",
                        cursor->path, (unsigned long long)number, NAME_LARGEST);
    if (there) {
        memcpy(name, bytes, (size_t)length);
        name[length] = '\0';
    }
    there = there && moe_gguf_take_number(cursor, &num_dims, 4);
    if (there && num_dims > MOE_MAX_DIMS)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%s' has %llu dimensions; GGUF has at most %d", cursor->path,
                        name, (unsigned long long)num_dims, MOE_MAX_DIMS);
    for (uint64_t d = 0; there && d < num_dims; d++)
        there = moe_gguf_take_number(cursor, &dims[d], 8);
    there = there && moe_gguf_take_number(cursor, &type, 4) && moe_gguf_take_number(cursor, &tensor->offset, 8);
    if (!there)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor %llu does not fit into the header, which has %llu bytes",
                        cursor->path, (unsigned long long)number, (unsigned long long)cursor->size);
    tensor->part = file->part;
    tensor->info.name = name;
    if (type >= MOE_FORMAT_E4M3)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%s' has type %llu, which is none of GGUF's", cursor->path,
                        name, (unsigned long long)type);
    tensor->info.type = (uint32_t)type;
    tensor->info.size = MOE_ARCHIVE_SIZE_UNKNOWN;
    tensor->info.num_dims = (size_t)num_dims;
    for (size_t d = 0; d < num_dims; d++) {
        if (dims[d] > PTRDIFF_MAX)
            return moe_fail(error, MOE_ERR_FORMAT, "%s: the shape of tensor '%s' overflows", cursor->path, name);
        tensor->info.shape[num_dims - 1 - d] = (size_t)dims[d];
    }
    return MOE_OK;
}

static enum moe_status add_tensor(struct moe_archive *archive, const struct gguf_file *file,
                                  struct moe_archive_tensor *tensor, uint64_t data_start, struct moe_error *error)
{
    const char *path = file->cursor.path, *name = tensor->info.name;
    if (tensor->offset % file->alignment != 0)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the offset of tensor '%s', %llu, is not a multiple of %llu", path,
                        name, (unsigned long long)tensor->offset, (unsigned long long)file->alignment);
    if (data_start > file->size || tensor->offset > file->size - data_start)
        return moe_fail(error, MOE_ERR_FORMAT,
                        "%s: tensor '%s' begins %llu bytes into the data, beyond the end of file", path, name,
                        (unsigned long long)tensor->offset);
    tensor->offset += data_start;
    return moe_archive_add_tensor(archive, tensor, error);
}

/* Twice over the entries: the data section begins where the first pass ends. */
static enum moe_status read_tensors(struct moe_archive *archive, struct gguf_file *file, struct moe_error *error)
{
    char name[NAME_LARGEST + 1] = "";
    struct moe_archive_tensor tensor = {0};
    uint64_t first = file->cursor.pos;
    for (uint64_t i = 0; i < file->num_tensors; i++)
        MOE_TRY(read_tensor(file, &tensor, name, i, error));
    uint64_t data_start = (file->cursor.pos + file->alignment - 1) & ~(file->alignment - 1);
    file->cursor.pos = first;
    for (uint64_t i = 0; i < file->num_tensors; i++) {
        MOE_TRY(read_tensor(file, &tensor, name, i, error));
        MOE_TRY(add_tensor(archive, file, &tensor, data_start, error));
    }
    return MOE_OK;
}

/* ---- split sets ----------------------------------------------------------------------------------------- */

/* What stands before "-00001-of-00003.gguf" in the path of such a file; 0: it has another name. */
static size_t stem_length(const char *path, const struct gguf_file *file)
{
    char suffix[64];
    int length = snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", (unsigned)file->split_number + 1,
                          (unsigned)file->split_count);
    size_t path_length = strlen(path);
    if (length < 0 || path_length <= (size_t)length)
        return 0;
    size_t stem = path_length - (size_t)length;
    return strcmp(path + stem, suffix) == 0 ? stem : 0;
}

/* Part number of the set that first belongs to; its metadata goes into *metadata. */
static enum moe_status read_part(struct moe_archive *archive, struct gguf_file *file,
                                 struct moe_gguf_metadata *metadata, const struct gguf_file *first, uint64_t number,
                                 struct moe_error *error)
{
    const char *given = moe_archive_path(archive);
    size_t stem = stem_length(given, first), size = strlen(given) + 1;
    const struct moe_env *env = moe_archive_env(archive);
    struct moe_error reason = {MOE_OK, ""};
    char *path = moe_alloc(env, size);
    if (path == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", given);
    memcpy(path, given, stem);
    snprintf(path + stem, size - stem, "-%05u-of-%05u.gguf", (unsigned)number + 1, (unsigned)first->split_count);
    enum moe_status status = read_header(file, metadata, archive, path, &reason);
    if (status == MOE_ERR_IO)
        moe_fail(error, status, "part %u of %u cannot be opened: %s", (unsigned)number + 1,
                 (unsigned)first->split_count, reason.text);
    else if (status != MOE_OK)
        moe_fail(error, status, "%s", reason.text);
    else if (file->split_number != number || file->split_count != first->split_count ||
             file->split_tensors != first->split_tensors)
        status = moe_fail(error, MOE_ERR_FORMAT, "%s: says that it is part %llu of %llu with %llu tensors; '%s' says "
                          "otherwise", path, (unsigned long long)file->split_number + 1,
                          (unsigned long long)file->split_count, (unsigned long long)file->split_tensors,
                          first->cursor.path);
    moe_free(env, path, size);
    return status;
}

/* All parts in order; given is the one whose path was given, its header read. The set's metadata is part 0's. */
static enum moe_status read_set(struct moe_archive *archive, struct gguf_file *given,
                                struct moe_gguf_metadata *metadata, struct moe_error *error)
{
    const struct moe_env *env = moe_archive_env(archive);
    if (stem_length(given->cursor.path, given) == 0)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: is part %u of %u; its name should end in -%05u-of-%05u.gguf",
                        given->cursor.path, (unsigned)given->split_number + 1, (unsigned)given->split_count,
                        (unsigned)given->split_number + 1, (unsigned)given->split_count);
    for (uint64_t number = 0; number < given->split_count; number++) {
        struct gguf_file file = *given;
        if (number != given->split_number) {
            struct moe_gguf_metadata other;
            moe_gguf_metadata_init(&other, env);
            enum moe_status status = read_part(archive, &file, &other, given, number, error);
            if (status == MOE_OK && number == 0) {
                struct moe_gguf_metadata swapped = *metadata;
                *metadata = other;
                other = swapped;
            }
            moe_gguf_metadata_free(&other);
            MOE_TRY(status);
        }
        MOE_TRY(read_tensors(archive, &file, error));
    }
    if (moe_archive_num_tensors(archive) != given->split_tensors)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: split.tensors.count is %llu, but the %u parts have %zu tensors",
                        given->cursor.path, (unsigned long long)given->split_tensors, (unsigned)given->split_count,
                        moe_archive_num_tensors(archive));
    return MOE_OK;
}

/* ---- the reader ----------------------------------------------------------------------------------------- */

static enum moe_status open_gguf(struct moe_archive *archive, const char *path, struct moe_error *error)
{
    const struct moe_env *env = moe_archive_env(archive);
    struct gguf_file file;
    struct moe_gguf_metadata *metadata = moe_alloc(env, sizeof *metadata);
    if (metadata == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", path);
    moe_gguf_metadata_init(metadata, env);
    moe_archive_set_state(archive, metadata);
    MOE_TRY(read_header(&file, metadata, archive, path, error));
    if (file.split_count > 1)
        return read_set(archive, &file, metadata, error);
    return read_tensors(archive, &file, error);
}

static void close_gguf(struct moe_archive *archive, void *state)
{
    moe_gguf_metadata_free(state);
    moe_free(moe_archive_env(archive), state, sizeof(struct moe_gguf_metadata));
}

static size_t num_metadata(const void *state)
{
    return ((const struct moe_gguf_metadata *)state)->keys.count;
}

static enum moe_status metadata_at(const void *state, size_t i, const char **key, struct moe_value *out)
{
    return moe_gguf_metadata_at(state, i, key, out);
}

static enum moe_status metadata_find(const void *state, const char *key, struct moe_value *out)
{
    return moe_gguf_metadata_find(state, key, out);
}

const struct moe_reader moe_gguf_reader = {
    .name = "gguf",
    .probe = probe,
    .open = open_gguf,
    .num_metadata = num_metadata,
    .metadata_at = metadata_at,
    .metadata_find = metadata_find,
    .metadata_item = moe_gguf_metadata_item,
    .close = close_gguf,
};
