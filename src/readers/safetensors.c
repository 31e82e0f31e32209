// SPDX-License-Identifier: MIT
// safetensors: a Hugging Face folder (config.json with model.safetensors, or with the shards that
// model.safetensors.index.json lists), or a single .safetensors file. A file: length u64 little endian, a JSON object
// of so many bytes, the data. Each tensor of the object is {"dtype", "shape", "data_offsets": [begin, end]}, counted
// from the data's start; together they cover the data without holes or overlaps.
#include <string.h>

#include "check.h"
#include "readers/archive.h"
#include "readers/config.h"
#include "readers/file.h"

enum {
    HEADER_LARGEST = 100000000,    /* bytes, by the format's definition */
    CONFIG_LARGEST = 1 << 24,
    SHARD_NAME_LARGEST = 255       /* as file systems have it */
};

struct dtype {
    const char *name;
    uint32_t type, bits;
};
static const struct dtype dtypes[] = {
    {"BF16", MOE_FORMAT_BF16, 16}, {"F16", MOE_FORMAT_F16, 16}, {"F32", MOE_FORMAT_F32, 32},
    {"I32", MOE_FORMAT_I32, 32},   {"I64", MOE_FORMAT_I64, 64},
#define SAFETENSORS_DTYPE(number, NAME, bits) {#NAME, number, bits},
    MOE_SAFETENSORS_TYPE_MAP(SAFETENSORS_DTYPE)
#undef SAFETENSORS_DTYPE
};

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static bool probe(const char *path)
{
    unsigned char first[9];
    if (moe_file_is_directory(path))
        return true;
    size_t count = moe_file_peek(path, first, sizeof first);
    return count > 0 && (ends_with(path, ".safetensors") || (count == sizeof first && first[8] == '{'));
}

/* ---- one file ------------------------------------------------------------------------------------------- */

/* A file being read. */
struct shard {
    struct moe_archive *archive;
    size_t part;
    const char *path;
    uint64_t data_start, data_size;
    uint64_t covered;              /* bytes of the tensors so far */
    struct moe_error *error;
};

static enum moe_status fail_tensor(const struct shard *shard, const char *name, const char *reason)
{
    return moe_fail(shard->error, MOE_ERR_FORMAT, "%s: tensor '%.100s': %s", shard->path, name, reason);
}

static const struct dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < MOE_ARRAY_SIZE(dtypes); i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

static bool read_size(uint64_t *out, const json_t *value)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* Bytes of so many values; false: it overflows, or the last byte would be a part of one. */
static bool packed_size(size_t *bytes, const struct moe_tensor *info, uint32_t bits)
{
    size_t values = 1, total;
    for (size_t d = 0; d < info->num_dims; d++)
        if (!moe_mul(&values, values, info->shape[d]))
            return false;
    if (!moe_mul(&total, values, bits) || total % 8 != 0)
        return false;
    *bytes = total / 8;
    return true;
}

static enum moe_status read_shape(const struct shard *shard, struct moe_tensor *info, const json_t *shape)
{
    if (!json_is_array(shape))
        return fail_tensor(shard, info->name, "shape is not a list");
    info->num_dims = json_array_size(shape);
    if (info->num_dims > MOE_MAX_DIMS)
        return moe_fail(shard->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s' has %zu dimensions; at most %d are "
                        "supported", shard->path, info->name, info->num_dims, MOE_MAX_DIMS);
    for (size_t d = 0; d < info->num_dims; d++) {
        uint64_t size;
        if (!read_size(&size, json_array_get(shape, d)) || size > PTRDIFF_MAX)
            return fail_tensor(shard, info->name, "shape is not made of integers from 0 on");
        info->shape[d] = (size_t)size;
    }
    return MOE_OK;
}

static enum moe_status read_tensor(struct shard *shard, const char *name, const json_t *entry)
{
    struct moe_archive_tensor tensor = {.info.name = name, .part = shard->part};
    const char *dtype_name = json_string_value(json_object_get(entry, "dtype"));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    uint64_t begin, end;
    size_t bytes;
    if (!json_is_object(entry) || dtype_name == NULL)
        return fail_tensor(shard, name, "is not an object with a dtype");
    const struct dtype *dtype = find_dtype(dtype_name);
    if (dtype == NULL)
        return moe_fail(shard->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s' has dtype '%.32s', which is not known",
                        shard->path, name, dtype_name);
    MOE_TRY(read_shape(shard, &tensor.info, json_object_get(entry, "shape")));
    if (json_array_size(offsets) != 2 || !read_size(&begin, json_array_get(offsets, 0)) ||
        !read_size(&end, json_array_get(offsets, 1)))
        return fail_tensor(shard, name, "data_offsets is not a list of two integers from 0 on");
    if (begin > end || end > shard->data_size)
        return moe_fail(shard->error, MOE_ERR_FORMAT, "%s: tensor '%.100s' lies from %llu to %llu; the data has %llu "
                        "bytes", shard->path, name, (unsigned long long)begin, (unsigned long long)end,
                        (unsigned long long)shard->data_size);
    if (!packed_size(&bytes, &tensor.info, dtype->bits))
        return fail_tensor(shard, name, "the size of its shape overflows, or is not a whole number of bytes");
    if (bytes != end - begin)
        return moe_fail(shard->error, MOE_ERR_FORMAT, "%s: tensor '%.100s' has %llu bytes; its shape in %s needs %zu",
                        shard->path, name, (unsigned long long)(end - begin), dtype->name, bytes);
    tensor.info.type = dtype->type;
    tensor.info.size = bytes;
    tensor.offset = shard->data_start + begin;
    if (bytes > shard->data_size - shard->covered)
        return fail_tensor(shard, name, "it overlaps another");
    shard->covered += bytes;
    return moe_archive_add_tensor(shard->archive, &tensor, shard->error);
}

/* The header's tensors. That they do not overlap is the archive's check; if they then add up to the size of the data,
 * there are no holes. */
static enum moe_status read_entries(struct shard *shard, json_t *header)
{
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") != 0)
            MOE_TRY(read_tensor(shard, name, entry));
    }
    if (shard->covered != shard->data_size)
        return moe_fail(shard->error, MOE_ERR_FORMAT, "%s: tensors cover %llu of the %llu bytes of data", shard->path,
                        (unsigned long long)shard->covered, (unsigned long long)shard->data_size);
    return MOE_OK;
}

/* Read a file's header and add its tensors. *header, if wanted, is for json_decref, also after an error. */
static enum moe_status read_shard(struct moe_archive *archive, size_t *part, json_t **header, const char *path,
                                  struct moe_error *error)
{
    const unsigned char *data;
    uint64_t size, length = 0;
    struct shard shard = {.archive = archive, .error = error};
    MOE_TRY(moe_archive_add_part(archive, path, part, &data, &size, error));
    shard.part = *part;
    shard.path = moe_archive_part_path(archive, *part);
    for (size_t i = 0; i < 8 && size >= 8; i++)
        length |= (uint64_t)data[i] << (8 * i);
    if (size < 8 || length > size - 8)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the file has %llu bytes; its header would need %llu and 8", path,
                        (unsigned long long)size, (unsigned long long)length);
    if (length > HEADER_LARGEST)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: a header of %llu bytes; at most %d are allowed", path,
                        (unsigned long long)length, HEADER_LARGEST);
    if (length == 0 || data[8] != '{')
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the header does not begin with {", path);
    shard.data_start = 8 + length;
    shard.data_size = size - shard.data_start;
    MOE_TRY(moe_config_parse(header, (const char *)data + 8, (size_t)length, path, error));
    return read_entries(&shard, *header);
}

/* The strings of __metadata__ are all that such a file says about itself. */
static enum moe_status open_file(struct moe_archive *archive, struct moe_config *config, const char *path,
                                 struct moe_error *error)
{
    json_t *header = NULL;
    size_t part;
    enum moe_status status = read_shard(archive, &part, &header, path, error);
    json_t *metadata = json_object_get(header, "__metadata__");
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        if (status == MOE_OK && !json_is_string(value))
            status = moe_fail(error, MOE_ERR_FORMAT, "%s: __metadata__: '%.100s' is not a string", path, key);
    }
    if (status == MOE_OK && metadata != NULL)
        status = json_is_object(metadata)
                     ? moe_config_flatten(config, json_incref(metadata), path, error)
                     : moe_fail(error, MOE_ERR_FORMAT, "%s: __metadata__ is not an object", path);
    json_decref(header);
    return status;
}

/* ---- folders -------------------------------------------------------------------------------------------- */

/* Shards are files beside the index: a name must not lead elsewhere. Symbolic links may; download caches are made of
 * them. */
static bool is_shard_name(const char *name)
{
    size_t length = strlen(name);
    return length <= SHARD_NAME_LARGEST && name[0] != '.' && moe_table_is_name(name, length) &&
           strpbrk(name, "/\\:") == NULL && ends_with(name, ".safetensors");
}

/* shards: names of the files, in the order of parts. */
static enum moe_status open_shards(struct moe_archive *archive, struct moe_table *shards, json_t *weight_map,
                                   const char *folder, const char *index, struct moe_error *error)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(weight_map, tensor, value) {
        const char *name = json_string_value(value);
        size_t known, part;
        if (name == NULL || !is_shard_name(name))
            return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' is not in a .safetensors file of this folder",
                            index, tensor);
        if (moe_table_find(shards, &known, name, strlen(name)))
            continue;
        const char *path = moe_archive_join(archive, folder, name);
        if (path == NULL || moe_table_add(shards, name, strlen(name)) != MOE_OK)
            return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for its files", index);
        json_t *header = NULL;
        enum moe_status status = read_shard(archive, &part, &header, path, error);
        json_decref(header);
        MOE_TRY(status);
    }
    return MOE_OK;
}

/* Every tensor of the index is where the index says. */
static enum moe_status check_index(const struct moe_archive *archive, const struct moe_table *shards,
                                   json_t *weight_map, const char *index, struct moe_error *error)
{
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value) {
        const char *shard = json_string_value(value);
        const struct moe_archive_tensor *tensor = moe_archive_find(archive, name);
        size_t part = 0;
        if (!moe_table_find(shards, &part, shard, strlen(shard)) || tensor == NULL || tensor->part != part)
            return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' should be in '%.100s', and is not", index, name,
                            shard);
    }
    return MOE_OK;
}

static enum moe_status open_index(struct moe_archive *archive, const char *folder, const char *index,
                                  struct moe_error *error)
{
    json_t *root;
    MOE_TRY(moe_config_load(archive, &root, index, HEADER_LARGEST, false, error));
    json_t *weight_map = json_object_get(root, "weight_map");
    struct moe_table shards;
    moe_table_init(&shards, moe_archive_env(archive));
    enum moe_status status;
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        status = moe_fail(error, MOE_ERR_FORMAT, "%s: has no weight_map, or an empty one", index);
    else
        status = open_shards(archive, &shards, weight_map, folder, index, error);
    if (status == MOE_OK)
        status = check_index(archive, &shards, weight_map, index, error);
    moe_table_free(&shards);
    json_decref(root);
    return status;
}

static bool is_there(const char *path)
{
    int fd;
    uint64_t size;
    if (moe_file_open(&fd, &size, path, NULL) != MOE_OK)
        return false;
    moe_file_close(fd);
    return true;
}

static enum moe_status open_folder(struct moe_archive *archive, struct moe_config *config, const char *folder,
                                   struct moe_error *error)
{
    const char *config_path = moe_archive_join(archive, folder, "config.json");
    const char *single = moe_archive_join(archive, folder, "model.safetensors");
    const char *index = moe_archive_join(archive, folder, "model.safetensors.index.json");
    json_t *root, *header = NULL;
    size_t part;
    if (config_path == NULL || single == NULL || index == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", folder);
    MOE_TRY(moe_config_load(archive, &root, config_path, CONFIG_LARGEST, true, error));
    MOE_TRY(moe_config_flatten(config, root, config_path, error));
    if (is_there(single)) {
        enum moe_status status = read_shard(archive, &part, &header, single, error);
        json_decref(header);
        return status;
    }
    if (is_there(index))
        return open_index(archive, folder, index, error);
    return moe_fail(error, MOE_ERR_IO, "%s: neither model.safetensors nor model.safetensors.index.json can be read",
                    folder);
}

/* ---- the reader ----------------------------------------------------------------------------------------- */

static enum moe_status open_safetensors(struct moe_archive *archive, const char *path, struct moe_error *error)
{
    const struct moe_env *env = moe_archive_env(archive);
    struct moe_config *config = moe_alloc(env, sizeof *config);
    if (config == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", path);
    moe_config_init(config, env);
    moe_archive_set_state(archive, config);
    return moe_file_is_directory(path) ? open_folder(archive, config, path, error)
                                       : open_file(archive, config, path, error);
}

static void close_safetensors(struct moe_archive *archive, void *state)
{
    moe_config_free(state);
    moe_free(moe_archive_env(archive), state, sizeof(struct moe_config));
}

static size_t num_metadata(const void *state)
{
    return ((const struct moe_config *)state)->keys.count;
}

static enum moe_status metadata_at(const void *state, size_t i, const char **key, struct moe_value *out)
{
    return moe_config_at(state, i, key, out);
}

static enum moe_status metadata_find(const void *state, const char *key, struct moe_value *out)
{
    return moe_config_find(state, key, out);
}

const struct moe_reader moe_safetensors_reader = {
    .name = "safetensors",
    .probe = probe,
    .open = open_safetensors,
    .num_metadata = num_metadata,
    .metadata_at = metadata_at,
    .metadata_find = metadata_find,
    .metadata_item = moe_config_item,
    .close = close_safetensors,
};
