// SPDX-License-Identifier: MIT
// The archive: files mapped or read, tensors by name, and the checks that every container's tensors pass.
#include "readers/archive.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "readers/file.h"
#include "readers/table.h"

const struct moe_reader *const moe_readers[] = {&moe_gguf_reader, &moe_safetensors_reader, NULL};

struct archive_part {
    const char *path;
    int fd;                    /* -1 once it is not needed */
    unsigned char *map;        /* NULL: empty, or dropped */
    uint64_t size;
};

struct moe_archive {
    struct moe_env env;
    uint32_t flags;
    const struct moe_reader *reader;
    void *state;               /* the reader's */
    struct moe_arena strings;
    const char *path;
    struct archive_part *parts;
    size_t num_parts, parts_capacity;
    struct moe_archive_tensor *tensors;
    size_t tensors_capacity;
    struct moe_table names;    /* numbers are indices of tensors */
    void **copies;             /* one for each tensor, once open: values that are not used in place */
    pthread_mutex_t lock;      /* of copies */
};

static const char *part_path(const struct moe_archive *archive, const struct moe_archive_tensor *tensor)
{
    return archive->parts[tensor->part].path;
}

/* ---- parts ---------------------------------------------------------------------------------------------- */

enum moe_status moe_archive_add_part(struct moe_archive *archive, const char *path, size_t *part,
                                     const unsigned char **data, uint64_t *size, struct moe_error *error)
{
    void *parts = archive->parts;
    const char *copy = moe_arena_string(&archive->strings, path, strlen(path));
    if (copy == NULL ||
        moe_table_grow(&archive->env, &parts, &archive->parts_capacity, archive->num_parts, sizeof *archive->parts))
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", path);
    archive->parts = parts;
    struct archive_part opened = {copy, -1, NULL, 0};
    MOE_TRY(moe_file_open(&opened.fd, &opened.size, path, error));
    void *map = MAP_FAILED;
    if (opened.size > 0 && opened.size <= PTRDIFF_MAX)
        map = mmap(NULL, (size_t)opened.size, PROT_READ, MAP_PRIVATE, opened.fd, 0);
    if (opened.size > 0 && map == MAP_FAILED) {
        moe_file_close(opened.fd);
        return moe_fail(error, MOE_ERR_IO, "%s: its %llu bytes cannot be mapped", path,
                        (unsigned long long)opened.size);
    }
    opened.map = opened.size > 0 ? map : NULL;
    /* A header lies in front of weights, of which some systems would fetch 8 MB with each page that is missed. */
    if (opened.map != NULL)
        moe_file_map_exactly(opened.map, (size_t)opened.size, true);
    *part = archive->num_parts;
    *data = opened.map;
    *size = opened.size;
    archive->parts[archive->num_parts++] = opened;
    return MOE_OK;
}

static void unmap_part(struct archive_part *part)
{
    if (part->map != NULL)
        munmap(part->map, (size_t)part->size);
    part->map = NULL;
}

/* Mapped files need no descriptor, files to be read no mapping. */
static void settle_parts(struct moe_archive *archive)
{
    for (size_t i = 0; i < archive->num_parts; i++) {
        struct archive_part *part = &archive->parts[i];
        if ((archive->flags & MOE_MODEL_READ) != 0) {
            unmap_part(part);
        } else {
            if (part->map != NULL)
                moe_file_map_exactly(part->map, (size_t)part->size, false);
            moe_file_close(part->fd);
            part->fd = -1;
        }
    }
}

/* ---- tensors -------------------------------------------------------------------------------------------- */

/* Sets format and size of the tensor. */
static enum moe_status check_layout(const struct moe_archive *archive, struct moe_archive_tensor *tensor,
                                    struct moe_error *error)
{
    struct moe_tensor *info = &tensor->info;
    const char *path = part_path(archive, tensor);
    info->format = moe_format_info((enum moe_format)info->type);
    if (info->num_dims > MOE_MAX_DIMS)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s' has %zu dimensions; at most %d are supported",
                        path, info->name, info->num_dims, MOE_MAX_DIMS);
    size_t values = 1;
    bool empty = false;
    for (size_t d = 0; d < info->num_dims; d++) {
        empty = empty || info->shape[d] == 0;
        if (info->shape[d] > PTRDIFF_MAX || !moe_mul(&values, values, info->shape[d] > 0 ? info->shape[d] : 1))
            return moe_fail(error, MOE_ERR_FORMAT, "%s: the shape of tensor '%.100s' overflows", path, info->name);
    }
    if (info->format == NULL)
        return MOE_OK;
    uint32_t block = info->format->block_values;
    size_t cols = info->num_dims > 0 ? info->shape[info->num_dims - 1] : 1, bytes;
    if (cols % block != 0)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' has rows of %zu values; %s needs multiples of %u",
                        path, info->name, cols, info->format->name, (unsigned)block);
    if (!moe_mul(&bytes, values / block, info->format->block_bytes) || bytes > PTRDIFF_MAX)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the size of tensor '%.100s' overflows", path, info->name);
    if (empty)
        bytes = 0;
    if (info->size != MOE_ARCHIVE_SIZE_UNKNOWN && info->size != bytes)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' has %llu bytes; its shape in %s needs %zu", path,
                        info->name, (unsigned long long)info->size, info->format->name, bytes);
    info->size = bytes;
    return MOE_OK;
}

enum moe_status moe_archive_add_tensor(struct moe_archive *archive, const struct moe_archive_tensor *tensor,
                                       struct moe_error *error)
{
    struct moe_archive_tensor added = *tensor;
    const char *path = part_path(archive, tensor), *name = tensor->info.name;
    if (!moe_table_is_name(name, strlen(name)))
        return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor %zu has a name that is empty or no plain UTF-8", path,
                        archive->names.count);
    MOE_TRY(check_layout(archive, &added, error));
    uint64_t part_size = archive->parts[tensor->part].size;
    uint64_t size = added.info.size == MOE_ARCHIVE_SIZE_UNKNOWN ? 0 : added.info.size;
    if (tensor->offset > part_size || size > part_size - tensor->offset)
        return moe_fail(error, MOE_ERR_FORMAT,
                        "%s: tensor '%.100s' needs %llu bytes from offset %llu; the file has %llu", path, name,
                        (unsigned long long)size, (unsigned long long)tensor->offset,
                        (unsigned long long)part_size);
    void *tensors = archive->tensors;
    size_t number = archive->names.count;
    enum moe_status status =
        moe_table_grow(&archive->env, &tensors, &archive->tensors_capacity, number, sizeof *archive->tensors);
    archive->tensors = tensors;
    if (status == MOE_OK)
        status = moe_table_add(&archive->names, name, strlen(name));
    if (status == MOE_ERR_ARGUMENT)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' is there twice", path, name);
    if (status != MOE_OK)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for its %zu tensors", path, number + 1);
    added.info.name = archive->names.names[number];
    archive->tensors[number] = added;
    return MOE_OK;
}

static int compare_places(const void *left, const void *right)
{
    const struct moe_archive_tensor *a = *(struct moe_archive_tensor *const *)left;
    const struct moe_archive_tensor *b = *(struct moe_archive_tensor *const *)right;
    if (a->part != b->part)
        return a->part < b->part ? -1 : 1;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    if (a->info.size != b->info.size)
        return a->info.size < b->info.size ? -1 : 1;
    return a < b ? -1 : a > b;
}

static bool is_empty(const struct moe_tensor *info)
{
    for (size_t d = 0; d < info->num_dims; d++)
        if (info->shape[d] == 0)
            return true;
    return false;
}

/* order: all tensors as they lie in the files. Neighbours must not overlap; sizes up to the next are filled in. */
static enum moe_status check_neighbours(const struct moe_archive *archive, struct moe_archive_tensor **order,
                                        struct moe_error *error)
{
    for (size_t i = 0; i < archive->names.count; i++) {
        struct moe_archive_tensor *tensor = order[i];
        const struct moe_archive_tensor *next = i + 1 < archive->names.count ? order[i + 1] : NULL;
        bool last = next == NULL || next->part != tensor->part;
        uint64_t room = (last ? archive->parts[tensor->part].size : next->offset) - tensor->offset;
        bool fits = tensor->info.size <= room;
        if (tensor->info.size == MOE_ARCHIVE_SIZE_UNKNOWN) {
            fits = room > 0 || is_empty(&tensor->info);
            tensor->info.size = is_empty(&tensor->info) ? 0 : room;
        }
        if (!fits && last)
            return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' begins where the file ends",
                            part_path(archive, tensor), tensor->info.name);
        if (!fits)
            return moe_fail(error, MOE_ERR_FORMAT, "%s: tensors '%.100s' and '%.100s' overlap",
                            part_path(archive, tensor), tensor->info.name, next->info.name);
    }
    return MOE_OK;
}

static enum moe_status check_overlap(const struct moe_archive *archive, struct moe_error *error)
{
    size_t count = archive->names.count;
    struct moe_archive_tensor **order = moe_alloc_array(&archive->env, count, sizeof *order);
    if (order == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for its %zu tensors", archive->path, count);
    bool sorted = true;
    for (size_t i = 0; i < count; i++) {
        order[i] = &archive->tensors[i];
        sorted = sorted && (i == 0 || compare_places(&order[i - 1], &order[i]) < 0);
    }
    if (!sorted)
        qsort(order, count, sizeof *order, compare_places);
    enum moe_status status = check_neighbours(archive, order, error);
    moe_free(&archive->env, order, count * sizeof *order);
    return status;
}

/* ---- open and close ------------------------------------------------------------------------------------- */

static enum moe_status open_with_reader(struct moe_archive *archive, const char *path, struct moe_error *error)
{
    for (size_t i = 0; moe_readers[i] != NULL && archive->reader == NULL; i++)
        if (moe_readers[i]->probe(path))
            archive->reader = moe_readers[i];
    if (archive->reader == NULL) {
        int fd;
        uint64_t size;
        MOE_TRY(moe_file_open(&fd, &size, path, error));
        moe_file_close(fd);
        return moe_fail(error, MOE_ERR_FORMAT, "%s: neither GGUF nor safetensors, nor a folder of a model", path);
    }
    archive->path = moe_arena_string(&archive->strings, path, strlen(path));
    if (archive->path == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", path);
    MOE_TRY(archive->reader->open(archive, path, error));
    MOE_TRY(check_overlap(archive, error));
    archive->copies = moe_alloc_array(&archive->env, archive->names.count, sizeof *archive->copies);
    if (archive->copies == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for its %zu tensors", path, archive->names.count);
    settle_parts(archive);
    return MOE_OK;
}

/* What a file says gets into sentences, and from there onto terminals. */
static void make_printable(struct moe_error *error)
{
    if (error == NULL)
        return;
    for (char *c = error->text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

static enum moe_status read_params(struct moe_model_params *params, struct moe_env *env,
                                   const struct moe_model_params *given, struct moe_error *error)
{
    MOE_INIT(params);
    MOE_INIT(env);
    if (given == NULL)
        return MOE_OK;
    if (moe_read_params(params, sizeof *params, given) != MOE_OK || (params->flags & ~(uint32_t)MOE_MODEL_READ) != 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_model_params has no struct_size, or flags that are not known");
    if (params->env == NULL)
        return MOE_OK;
    if (moe_read_params(env, sizeof *env, params->env) != MOE_OK || (env->alloc == NULL) != (env->free == NULL))
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_env has no struct_size, or only one of alloc and free");
    return MOE_OK;
}

enum moe_status moe_archive_open(const char *path, const struct moe_model_params *params, struct moe_archive **out,
                                 struct moe_error *error)
{
    struct moe_model_params given;
    struct moe_env env;
    if (out == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "no place for the archive");
    *out = NULL;
    if (path == NULL || path[0] == '\0')
        return moe_fail(error, MOE_ERR_ARGUMENT, "no path given");
    MOE_TRY(read_params(&given, &env, params, error));
    struct moe_archive *archive = moe_alloc(&env, sizeof *archive);
    if (archive == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", path);
    archive->env = env;
    archive->flags = given.flags;
    archive->strings.env = &archive->env;
    moe_table_init(&archive->names, &archive->env);
    if (pthread_mutex_init(&archive->lock, NULL) != 0) {
        moe_free(&env, archive, sizeof *archive);
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for a mutex", path);
    }
    enum moe_status status = open_with_reader(archive, path, error);
    if (status != MOE_OK) {
        make_printable(error);
        moe_archive_close(archive);
        return status;
    }
    *out = archive;
    return MOE_OK;
}

void moe_archive_close(struct moe_archive *archive)
{
    if (archive == NULL)
        return;
    struct moe_env env = archive->env;
    if (archive->state != NULL)
        archive->reader->close(archive, archive->state);
    for (size_t i = 0; archive->copies != NULL && i < archive->names.count; i++)
        moe_free(&env, archive->copies[i], (size_t)archive->tensors[i].info.size);
    moe_free(&env, archive->copies, archive->names.count * sizeof *archive->copies);
    for (size_t i = 0; i < archive->num_parts; i++) {
        unmap_part(&archive->parts[i]);
        moe_file_close(archive->parts[i].fd);
    }
    moe_free(&env, archive->parts, archive->parts_capacity * sizeof *archive->parts);
    moe_free(&env, archive->tensors, archive->tensors_capacity * sizeof *archive->tensors);
    moe_table_free(&archive->names);
    moe_arena_free(&archive->strings);
    pthread_mutex_destroy(&archive->lock);
    moe_free(&env, archive, sizeof *archive);
}

/* ---- what the model asks -------------------------------------------------------------------------------- */

const char *moe_archive_container(const struct moe_archive *archive)
{
    return archive->reader->name;
}

const char *moe_archive_path(const struct moe_archive *archive)
{
    return archive->path;
}

const char *moe_archive_part_path(const struct moe_archive *archive, size_t part)
{
    return part < archive->num_parts ? archive->parts[part].path : NULL;
}

size_t moe_archive_num_tensors(const struct moe_archive *archive)
{
    return archive->names.count;
}

const struct moe_archive_tensor *moe_archive_tensor_at(const struct moe_archive *archive, size_t i)
{
    return i < archive->names.count ? &archive->tensors[i] : NULL;
}

const struct moe_archive_tensor *moe_archive_find(const struct moe_archive *archive, const char *name)
{
    size_t number;
    return moe_table_find(&archive->names, &number, name, strlen(name)) ? &archive->tensors[number] : NULL;
}

/* Bytes that the address of a tensor's values must be a multiple of; quantised rows: 1. */
static size_t value_align(const struct moe_tensor *info)
{
    return info->format != NULL && info->format->block_values == 1 ? info->format->block_bytes : 1;
}

static enum moe_status copy_values(const struct moe_archive *archive, const struct moe_archive_tensor *tensor,
                                   void **copy, struct moe_error *error)
{
    const struct archive_part *part = &archive->parts[tensor->part];
    size_t size = (size_t)tensor->info.size;
    void *values = size == tensor->info.size ? moe_alloc(&archive->env, size) : NULL;
    if (values == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for the %llu bytes of tensor '%.100s'", part->path,
                        (unsigned long long)tensor->info.size, tensor->info.name);
    if (part->map != NULL) {
        memcpy(values, part->map + tensor->offset, size);
    } else {
        enum moe_status status = moe_file_read(part->fd, values, size, tensor->offset, part->path, tensor->info.name,
                                               error);
        if (status != MOE_OK) {
            moe_free(&archive->env, values, size);
            return status;
        }
    }
    *copy = values;
    return MOE_OK;
}

enum moe_status moe_archive_data(struct moe_archive *archive, const struct moe_archive_tensor *tensor,
                                 const void **data, struct moe_error *error)
{
    const struct archive_part *part = &archive->parts[tensor->part];
    *data = NULL;
    if (part->map != NULL && (uintptr_t)(part->map + tensor->offset) % value_align(&tensor->info) == 0) {
        *data = part->map + tensor->offset;
        return MOE_OK;
    }
    void **copy = &archive->copies[tensor - archive->tensors];
    enum moe_status status = MOE_OK;
    pthread_mutex_lock(&archive->lock);
    if (*copy == NULL)
        status = copy_values(archive, tensor, copy, error);
    *data = *copy;
    pthread_mutex_unlock(&archive->lock);
    return status;
}

size_t moe_archive_num_metadata(const struct moe_archive *archive)
{
    return archive->state != NULL ? archive->reader->num_metadata(archive->state) : 0;
}

enum moe_status moe_archive_metadata_at(const struct moe_archive *archive, size_t i, const char **key,
                                        struct moe_value *out)
{
    if (i >= moe_archive_num_metadata(archive))
        return MOE_ERR_ARGUMENT;
    return archive->reader->metadata_at(archive->state, i, key, out);
}

enum moe_status moe_archive_metadata_find(const struct moe_archive *archive, const char *key, struct moe_value *out)
{
    return archive->state != NULL ? archive->reader->metadata_find(archive->state, key, out) : MOE_ERR_ARGUMENT;
}

enum moe_status moe_archive_metadata_item(const struct moe_archive *archive, const struct moe_value *array, size_t i,
                                          struct moe_value *out)
{
    if (array->kind != MOE_VALUE_ARRAY || array->array == NULL || i >= array->length)
        return MOE_ERR_ARGUMENT;
    return archive->reader->metadata_item(array, i, out);
}

/* ---- what readers ask ----------------------------------------------------------------------------------- */

const struct moe_env *moe_archive_env(const struct moe_archive *archive)
{
    return &archive->env;
}

void moe_archive_set_state(struct moe_archive *archive, void *state)
{
    archive->state = state;
}

const char *moe_archive_join(struct moe_archive *archive, const char *folder, const char *name)
{
    size_t folder_length = strlen(folder), name_length = strlen(name), size;
    while (folder_length > 1 && folder[folder_length - 1] == '/')
        folder_length--;
    if (!moe_add(&size, folder_length, name_length) || !moe_add(&size, size, 2))
        return NULL;
    char *path = moe_arena_alloc(&archive->strings, size, 1);
    if (path == NULL)
        return NULL;
    memcpy(path, folder, folder_length);
    path[folder_length] = '/';
    memcpy(path + folder_length + 1, name, name_length + 1);
    return path;
}
