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
    {"BF16", MOE_FORMAT_BF16, 16},   {"F16", MOE_FORMAT_F16, 16},     {"F32", MOE_FORMAT_F32, 32},
    {"F64", MOE_FORMAT_F64, 64},     {"I16", MOE_FORMAT_I16, 16},     {"I32", MOE_FORMAT_I32, 32},
    {"I64", MOE_FORMAT_I64, 64},     {"I8", MOE_FORMAT_I8, 8},        {"U8", MOE_FORMAT_U8, 8},
    {"F8_E4M3", MOE_FORMAT_E4M3, 8}, {"F8_E8M0", MOE_FORMAT_E8M0, 8}, {"F4", MOE_FORMAT_E2M1, 4},
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
    struct moe_table *skipped;     /* names of tensors that have too many dimensions; NULL: not wanted */
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

static bool read_size(uint64_t *out, const struct moe_json *value)
{
    if (!moe_json_is(value, MOE_JSON_INTEGER) || value->u.integer < 0)
        return false;
    *out = (uint64_t)value->u.integer;
    return true;
}

/* The dimensions, of which at most MOE_MAX_DIMS are kept, and the bytes of so many values. */
static enum moe_status read_shape(const struct shard *shard, struct moe_tensor *info, const struct moe_json *shape,
                                  uint32_t bits)
{
    if (!moe_json_is(shape, MOE_JSON_ARRAY))
        return fail_tensor(shard, info->name, "shape is not a list");
    info->num_dims = shape->length;
    size_t values = 1, total = 0;
    bool fits = true, empty = false;
    const struct moe_json *item = moe_json_first(shape);
    for (size_t d = 0; item != NULL; d++, item = moe_json_next(shape, item)) {
        uint64_t size;
        if (!read_size(&size, item) || size > PTRDIFF_MAX)
            return fail_tensor(shard, info->name, "shape is not made of integers from 0 on");
        if (d < MOE_MAX_DIMS)
            info->shape[d] = (size_t)size;
        empty = empty || size == 0;
        fits = fits && moe_mul(&values, values, size > 0 ? (size_t)size : 1);
    }
    if (!fits || !moe_mul(&total, empty ? 0 : values, bits) || total % 8 != 0)
        return fail_tensor(shard, info->name, "the size of its shape overflows, or is not a whole number of bytes");
    info->size = total / 8;
    return MOE_OK;
}

/* No matrix of experts has so many dimensions, a convolution of images may: its bytes count, it is not handed out. */
static enum moe_status skip_tensor(const struct shard *shard, const char *name)
{
    if (shard->skipped == NULL || moe_table_add(shard->skipped, name, strlen(name)) != MOE_ERR_MEMORY)
        return MOE_OK;
    return moe_fail(shard->error, MOE_ERR_MEMORY, "%s: no memory for its tensors", shard->path);
}

static enum moe_status read_tensor(struct shard *shard, const char *name, const struct moe_json *entry)
{
    struct moe_archive_tensor tensor = {.info.name = name, .part = shard->part};
    const char *dtype_name = moe_json_string(moe_json_get(entry, "dtype"));
    const struct moe_json *offsets = moe_json_get(entry, "data_offsets");
    uint64_t begin, end;
    if (dtype_name == NULL)
        return fail_tensor(shard, name, "is not an object with a dtype");
    const struct dtype *dtype = find_dtype(dtype_name);
    if (dtype == NULL)
        return moe_fail(shard->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s' has dtype '%.32s', which is not known",
                        shard->path, name, dtype_name);
    MOE_TRY(read_shape(shard, &tensor.info, moe_json_get(entry, "shape"), dtype->bits));
    if (!moe_json_is(offsets, MOE_JSON_ARRAY) || offsets->length != 2 || !read_size(&begin, offsets + 1) ||
        !read_size(&end, offsets + 2))
        return fail_tensor(shard, name, "data_offsets is not a list of two integers from 0 on");
    if (begin > end || end > shard->data_size)
        return moe_fail(shard->error, MOE_ERR_FORMAT, "%s: tensor '%.100s' lies from %llu to %llu; the data has %llu "
                        "bytes", shard->path, name, (unsigned long long)begin, (unsigned long long)end,
                        (unsigned long long)shard->data_size);
    if (tensor.info.size != end - begin)
        return moe_fail(shard->error, MOE_ERR_FORMAT, "%s: tensor '%.100s' has %llu bytes; its shape in %s needs %llu",
                        shard->path, name, (unsigned long long)(end - begin), dtype->name,
                        (unsigned long long)tensor.info.size);
    tensor.info.type = dtype->type;
    tensor.offset = shard->data_start + begin;
    if (tensor.info.size > shard->data_size - shard->covered)
        return fail_tensor(shard, name, "it overlaps another");
    shard->covered += tensor.info.size;
    if (tensor.info.num_dims > MOE_MAX_DIMS)
        return skip_tensor(shard, name);
    return moe_archive_add_tensor(shard->archive, &tensor, shard->error);
}

/* The header's tensors. That they do not overlap is the archive's check; if they then add up to the size of the data,
 * there are no holes. */
static enum moe_status read_entries(struct shard *shard, const struct moe_json *header)
{
    for (const struct moe_json *key = moe_json_first(header); key != NULL; key = moe_json_next(header, key))
        if (strcmp(key->u.string, "__metadata__") != 0)
            MOE_TRY(read_tensor(shard, key->u.string, key + 1));
    if (shard->covered != shard->data_size)
        return moe_fail(shard->error, MOE_ERR_FORMAT, "%s: tensors cover %llu of the %llu bytes of data", shard->path,
                        (unsigned long long)shard->covered, (unsigned long long)shard->data_size);
    return MOE_OK;
}

/* Read a file's header and add its tensors. *header is for moe_json_free in any case. */
static enum moe_status read_shard(struct moe_archive *archive, size_t *part, struct moe_json_document *header,
                                  struct moe_table *skipped, const char *path, struct moe_error *error)
{
    const unsigned char *data;
    uint64_t size, length = 0;
    struct shard shard = {.archive = archive, .skipped = skipped, .error = error};
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
    moe_file_fetch(data, 0, 8 + length);
    shard.data_start = 8 + length;
    shard.data_size = size - shard.data_start;
    MOE_TRY(moe_json_parse(header, moe_archive_env(archive), (const char *)data + 8, (size_t)length, false, path,
                           error));
    return read_entries(&shard, header->nodes);
}

/* The strings of __metadata__ are all that such a file says about itself. */
static enum moe_status read_metadata(struct moe_config *config, struct moe_json_document *header, const char *path,
                                     struct moe_error *error)
{
    const struct moe_json *metadata = moe_json_get(header->nodes, "__metadata__");
    if (metadata == NULL)
        return MOE_OK;
    if (metadata->kind != MOE_JSON_OBJECT)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: __metadata__ is not an object", path);
    for (const struct moe_json *key = moe_json_first(metadata); key != NULL; key = moe_json_next(metadata, key))
        if (key[1].kind != MOE_JSON_STRING)
            return moe_fail(error, MOE_ERR_FORMAT, "%s: __metadata__: '%.100s' is not a string", path, key->u.string);
    return moe_config_flatten(config, header, metadata, path, error);
}

static enum moe_status open_file(struct moe_archive *archive, struct moe_config *config, const char *path,
                                 struct moe_error *error)
{
    struct moe_json_document header = {0};
    size_t part;
    enum moe_status status = read_shard(archive, &part, &header, NULL, path, error);
    if (status == MOE_OK)
        status = read_metadata(config, &header, path, error);
    moe_json_free(&header);
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

/* shards: names of the files, in the order of parts. skipped: names of tensors. */
static enum moe_status open_shards(struct moe_archive *archive, struct moe_table *shards, struct moe_table *skipped,
                                   const struct moe_json *map, const char *folder, const char *index,
                                   struct moe_error *error)
{
    for (const struct moe_json *tensor = moe_json_first(map); tensor != NULL; tensor = moe_json_next(map, tensor)) {
        const char *name = moe_json_string(tensor + 1);
        size_t known, part;
        if (name == NULL || !is_shard_name(name))
            return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' is not in a .safetensors file of this folder",
                            index, tensor->u.string);
        if (moe_table_find(shards, &known, name, strlen(name)))
            continue;
        const char *path = moe_archive_join(archive, folder, name);
        if (path == NULL || moe_table_add(shards, name, strlen(name)) != MOE_OK)
            return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for its files", index);
        struct moe_json_document header = {0};
        enum moe_status status = read_shard(archive, &part, &header, skipped, path, error);
        moe_json_free(&header);
        MOE_TRY(status);
    }
    return MOE_OK;
}

/* Every tensor of the index is where the index says. */
static enum moe_status check_index(const struct moe_archive *archive, const struct moe_table *shards,
                                   const struct moe_table *skipped, const struct moe_json *map, const char *index,
                                   struct moe_error *error)
{
    for (const struct moe_json *key = moe_json_first(map); key != NULL; key = moe_json_next(map, key)) {
        const char *name = key->u.string, *shard = key[1].u.string;
        const struct moe_archive_tensor *tensor = moe_archive_find(archive, name);
        size_t part = 0;
        if (tensor == NULL && moe_table_find(skipped, &part, name, strlen(name)))
            continue;
        if (!moe_table_find(shards, &part, shard, strlen(shard)) || tensor == NULL || tensor->part != part)
            return moe_fail(error, MOE_ERR_FORMAT, "%s: tensor '%.100s' should be in '%.100s', and is not", index, name,
                            shard);
    }
    return MOE_OK;
}

static enum moe_status open_index(struct moe_archive *archive, const char *folder, const char *index,
                                  struct moe_error *error)
{
    struct moe_json_document document;
    struct moe_table shards, skipped;
    enum moe_status status = moe_config_load(archive, &document, index, HEADER_LARGEST, false, error);
    const struct moe_json *map = moe_json_get(status == MOE_OK ? document.nodes : NULL, "weight_map");
    moe_table_init(&shards, moe_archive_env(archive));
    moe_table_init(&skipped, moe_archive_env(archive));
    if (status == MOE_OK && (!moe_json_is(map, MOE_JSON_OBJECT) || map->length == 0))
        status = moe_fail(error, MOE_ERR_FORMAT, "%s: has no weight_map, or an empty one", index);
    if (status == MOE_OK)
        status = open_shards(archive, &shards, &skipped, map, folder, index, error);
    if (status == MOE_OK)
        status = check_index(archive, &shards, &skipped, map, index, error);
    moe_table_free(&shards);
    moe_table_free(&skipped);
    moe_json_free(&document);
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
    struct moe_json_document document, header = {0};
    size_t part;
    if (config_path == NULL || single == NULL || index == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to open it", folder);
    enum moe_status status = moe_config_load(archive, &document, config_path, CONFIG_LARGEST, true, error);
    if (status == MOE_OK)
        status = moe_config_flatten(config, &document, document.nodes, config_path, error);
    moe_json_free(&document);
    MOE_TRY(status);
    if (is_there(single)) {
        status = read_shard(archive, &part, &header, NULL, single, error);
        moe_json_free(&header);
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
