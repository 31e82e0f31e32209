// SPDX-License-Identifier: MIT
// Model files, the public functions of moe.h part 3: an archive with a family's preset on top of it, and blocks that
// are built when they are first asked for.
#include "model_description.h"

#include <stdio.h>
#include <string.h>

#include "objects.h"
#include "readers/file.h"

/* ---- open and close ------------------------------------------------------------------------------------------ */

/* Names and texts of a file may hold anything; sentences with them go to terminals. */
static enum moe_status printable(struct moe_error *error, enum moe_status status)
{
    if (error == NULL || status == MOE_OK)
        return status;
    for (char *c = error->text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return status;
}

/* Where architectures are named, in the order of asking; a nested one counts only if the ones before are unknown. */
enum place { PLACE_OWN, PLACE_OUTER, PLACE_AROUND };   /* the key is that of the config itself, or of the one around */
static const struct {
    const char *container, *key;
    const char *prefix;         /* of all other keys; NULL: the architecture and a dot */
    enum moe_vocabulary vocabulary;
    enum place place;
} places[] = {
    {"gguf", "general.architecture", NULL, MOE_VOCABULARY_GGUF, PLACE_OWN},
    {"safetensors", "model_type", "", MOE_VOCABULARY_CONFIG, PLACE_OWN},
    {"safetensors", "model_type", "text_config.", MOE_VOCABULARY_CONFIG, PLACE_OUTER},
    {"safetensors", "text_config.model_type", "text_config.", MOE_VOCABULARY_CONFIG, PLACE_OWN},
    {"safetensors", "thinker_config.text_config.model_type", "thinker_config.text_config.", MOE_VOCABULARY_CONFIG,
     PLACE_OWN},
    {"safetensors", "model_type", "text_config.", MOE_VOCABULARY_CONFIG, PLACE_AROUND},
    {"safetensors", "model_type", "thinker_config.text_config.", MOE_VOCABULARY_CONFIG, PLACE_OUTER},
    {"safetensors", "model_type", "", MOE_VOCABULARY_CONFIG, PLACE_OUTER},
};

static bool has_keys(const struct moe_archive *archive, const char *prefix)
{
    const char *key;
    struct moe_value value;
    for (size_t i = 0; moe_archive_metadata_at(archive, i, &key, &value) == MOE_OK; i++)
        if (strncmp(key, prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

/* One architecture may hold several families, which the gating function tells apart, or the tensors. */
static const struct moe_preset_gguf *choose_gguf(const struct moe_model *model, const char *architecture)
{
    char key[160];
    struct moe_value value;
    uint32_t gating = 0;
    bool bias = false;
    snprintf(key, sizeof key, "%.100s.expert_gating_func", architecture);
    if (moe_archive_metadata_find(model->archive, key, &value) == MOE_OK && value.kind == MOE_VALUE_INT &&
        value.integer > 0 && value.integer <= UINT32_MAX)
        gating = (uint32_t)value.integer;
    for (size_t i = 0; gating == 0 && !bias && i < moe_archive_num_tensors(model->archive); i++)
        bias = strstr(moe_archive_tensor_at(model->archive, i)->info.name, ".exp_probs_b") != NULL;
    return moe_preset_choose_gguf(architecture, gating, bias);
}

/* The architecture as the file calls it goes to *name, NULL where it names none. */
static enum moe_status find_family(struct moe_model *model, const char **name, struct moe_error *error)
{
    *name = NULL;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(places); i++) {
        struct moe_value value;
        if (strcmp(places[i].container, moe_archive_container(model->archive)) != 0 ||
            moe_archive_metadata_find(model->archive, places[i].key, &value) != MOE_OK ||
            value.kind == MOE_VALUE_NULL ||
            (places[i].place != PLACE_OWN && !has_keys(model->archive, places[i].prefix)))
            continue;
        if (value.kind != MOE_VALUE_STRING)
            return moe_fail(error, MOE_ERR_FORMAT, "%s: key '%s': expected the name of an architecture",
                            moe_archive_path(model->archive), places[i].key);
        if (*name == NULL)
            *name = value.string;
        model->gguf = places[i].vocabulary == MOE_VOCABULARY_GGUF ? choose_gguf(model, value.string) : NULL;
        if (places[i].vocabulary == MOE_VOCABULARY_GGUF)
            model->preset = model->gguf != NULL ? moe_preset_of_gguf(model->gguf) : NULL;
        else if (places[i].place == PLACE_OWN)
            model->preset = moe_preset_find(value.string);
        else
            model->preset = moe_preset_find_outer(value.string, places[i].place == PLACE_OUTER);
        if (model->preset == NULL)
            continue;
        model->architecture = *name = value.string;
        model->vocabulary = places[i].vocabulary;
        const char *prefix = places[i].prefix;
        snprintf(model->key_prefix, sizeof model->key_prefix, "%s%s", prefix != NULL ? prefix : value.string,
                 prefix != NULL ? "" : ".");
        return MOE_OK;
    }
    return MOE_OK;
}

/* A lone .safetensors file is no model, whatever its metadata say: they are free text. */
static bool may_be_model(const struct moe_model *model)
{
    const char *path = moe_archive_path(model->archive);
    return strcmp(moe_archive_container(model->archive), "safetensors") != 0 || moe_file_is_directory(path);
}

enum moe_status moe_model_axes_of(const struct moe_model *model, size_t block, struct moe_model_axes *out,
                                  struct moe_error *error)
{
    return model->description != NULL ? moe_description_axes(model, block, out, error)
                                      : moe_model_axes_read(model, block, out, error);
}

/* Metadata of every block are read once, so that what open accepts has sane sizes throughout. */
static enum moe_status read_blocks(struct moe_model *model, struct moe_error *error)
{
    size_t num_blocks = 0;
    if (model->description != NULL) {
        model->block_prefix = model->description->prefix;
        num_blocks = model->description->num_blocks;
    } else {
        model->block_prefix = moe_model_block_prefix(model->archive, model->vocabulary);
        MOE_TRY(moe_model_axes_blocks(model, &num_blocks, error));
    }
    for (size_t b = 0; b < num_blocks; b++) {
        struct moe_model_axes axes;
        MOE_TRY(moe_model_axes_of(model, b, &axes, error));
    }
    model->entries = moe_alloc_array(&model->env, num_blocks, sizeof *model->entries);
    if (model->entries == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for %zu blocks", moe_archive_path(model->archive),
                        num_blocks);
    model->num_blocks = num_blocks;
    return MOE_OK;
}

static void count_bytes(struct moe_model *model)
{
    for (size_t i = 0; i < moe_archive_num_tensors(model->archive); i++) {
        const struct moe_tensor *info = &moe_archive_tensor_at(model->archive, i)->info;
        if (info->format != NULL)
            model->tensor_bytes += info->size;
    }
}

/* Metadata still say what the file calls itself, and how weights are packed. */
static enum moe_status open_described(struct moe_model *model, const char *text, struct moe_error *error)
{
    const char *name = NULL;
    if (may_be_model(model) && find_family(model, &name, NULL) != MOE_OK)
        name = NULL;
    MOE_TRY(moe_description_read(model, text, &model->description, error));
    bool gguf = strcmp(moe_archive_container(model->archive), "gguf") == 0;
    model->preset = NULL;
    model->vocabulary = gguf ? MOE_VOCABULARY_GGUF : MOE_VOCABULARY_CONFIG;
    model->architecture = name != NULL ? name : model->description->family;
    return read_blocks(model, error);
}

static enum moe_status open_model(struct moe_model *model, const char *path, const struct moe_model_params *params,
                                  struct moe_error *error)
{
    MOE_TRY(moe_archive_open(path, params, &model->archive, error));
    count_bytes(model);
    if (params != NULL && params->description != NULL)
        return open_described(model, params->description, error);
    if (!may_be_model(model))
        return MOE_OK;
    const char *name;
    MOE_TRY(find_family(model, &name, error));
    if (name == NULL)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: the metadata name no architecture", path);
    if (model->preset == NULL)
        return moe_fail(error, MOE_ERR_UNSUPPORTED,
                        "%s: architecture '%.64s' is not one of the model families that this library knows; its README "
                        "lists them", path, name);
    return read_blocks(model, error);
}

enum moe_status moe_model_open(const char *path, const struct moe_model_params *params, struct moe_model **out,
                               struct moe_error *error)
{
    struct moe_model_params given;
    struct moe_env env;
    MOE_INIT(&given);
    MOE_INIT(&env);
    if (out == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "no place for the model");
    *out = NULL;
    if (params != NULL && MOE_READ_PARAMS(&given, params) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_model_params has no struct_size, or fields that are not known");
    if (given.env != NULL &&
        (MOE_READ_PARAMS(&env, given.env) != MOE_OK || (env.alloc == NULL) != (env.free == NULL)))
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_env has no struct_size, or only one of alloc and free");
    struct moe_model *model = moe_alloc(&env, sizeof *model);
    if (model == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a model");
    model->env = env;
    if (pthread_mutex_init(&model->lock, NULL) != 0) {
        moe_free(&env, model, sizeof *model);
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a mutex");
    }
    enum moe_status status = open_model(model, path, &given, error);
    if (status != MOE_OK) {
        moe_model_close(model);
        return printable(error, status);
    }
    *out = model;
    return MOE_OK;
}

void moe_model_close(struct moe_model *model)
{
    if (model == NULL)
        return;
    struct moe_env env = model->env;
    for (size_t b = 0; b < model->num_blocks; b++)
        moe_model_block_free(model, model->entries[b]);
    moe_free(&env, model->entries, model->num_blocks * sizeof *model->entries);
    moe_description_free(model, model->description);
    moe_archive_close(model->archive);
    pthread_mutex_destroy(&model->lock);
    moe_free(&env, model, sizeof *model);
}

enum moe_status moe_model_info(const struct moe_model *model, struct moe_model_info *out)
{
    if (model == NULL || out == NULL)
        return MOE_ERR_ARGUMENT;
    const struct moe_model_info info = {
        .struct_size = sizeof info,
        .architecture = model->architecture,
        .family = model->description != NULL ? model->description->family
                  : model->preset != NULL    ? model->preset->name
                                             : NULL,
        .container = moe_archive_container(model->archive),
        .num_blocks = model->num_blocks,
        .num_tensors = moe_archive_num_tensors(model->archive),
        .num_metadata = moe_archive_num_metadata(model->archive),
        .tensor_bytes = model->tensor_bytes,
    };
    return moe_write_params(out, &info, sizeof info);
}

/* ---- blocks -------------------------------------------------------------------------------------------------- */

static enum moe_status find_block(struct moe_model *model, size_t block, struct moe_model_entry **out,
                                  struct moe_error *error)
{
    if (model->entries[block] == NULL) {
        struct moe_model_axes axes;
        MOE_TRY(moe_model_axes_of(model, block, &axes, error));
        if (axes.has_experts)
            MOE_TRY(moe_model_block_build(model, block, &axes, &model->entries[block], error));
    }
    *out = model->entries[block];
    return MOE_OK;
}

enum moe_status moe_model_block(struct moe_model *model, size_t block, const struct moe_model_block **out,
                                struct moe_error *error)
{
    if (out != NULL)
        *out = NULL;
    if (model == NULL || out == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "no model, or no place for its block");
    if (block >= model->num_blocks)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: there is no block %zu; the model has %zu",
                        moe_archive_path(model->archive), block, model->num_blocks);
    struct moe_model_entry *entry = NULL;
    pthread_mutex_lock(&model->lock);
    enum moe_status status = find_block(model, block, &entry, error);
    pthread_mutex_unlock(&model->lock);
    if (status == MOE_OK && entry != NULL)
        *out = &entry->block;
    return printable(error, status);
}

/* What a layer owns. */
struct owned {
    struct moe_experts *experts, *shared, *latent;
};

/* owned: what was made so far, NULL where not; the caller cleans up. */
static enum moe_status create_layer(const struct moe_model_block *block, struct moe_backend *backend, uint32_t flags,
                                    struct owned *owned, struct moe_layer **out, struct moe_error *error)
{
    struct moe_layer_params layer = *block->layer;
    struct moe_shared with_experts;
    layer.flags = flags;
    MOE_TRY(moe_experts_create(backend, block->experts, &owned->experts, error));
    layer.experts = owned->experts;
    if (block->shared != NULL) {
        MOE_TRY(moe_experts_create(backend, block->shared, &owned->shared, error));
        with_experts = *block->layer->shared;
        with_experts.experts = owned->shared;
        layer.shared = &with_experts;
    }
    if (block->latent != NULL) {
        MOE_TRY(moe_experts_create(backend, block->latent, &owned->latent, error));
        layer.latent = owned->latent;
    }
    return moe_layer_create(backend, &layer, out, error);
}

/* Says which block it was that could not be made. */
static enum moe_status fail_layer(const struct moe_model *model, size_t block, enum moe_status status,
                                  struct moe_error *error)
{
    struct moe_error cause;
    if (error == NULL)
        return status;
    cause = *error;
    return moe_fail(error, status, "%s: block %zu: %.360s", moe_archive_path(model->archive), block, cause.text);
}

enum moe_status moe_model_layer(struct moe_model *model, size_t block, struct moe_backend *backend, uint32_t flags,
                                struct moe_layer **out, struct moe_error *error)
{
    if (out != NULL)
        *out = NULL;
    if (out == NULL || backend == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "no backend, or no place for the layer");
    const struct moe_model_block *params;
    MOE_TRY(moe_model_block(model, block, &params, error));
    if (params == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: block %zu has no experts", moe_archive_path(model->archive),
                        block);
    struct owned owned = {NULL, NULL, NULL};
    enum moe_status status = create_layer(params, backend, flags, &owned, out, error);
    if (status != MOE_OK) {
        moe_experts_destroy(owned.experts);
        moe_experts_destroy(owned.shared);
        moe_experts_destroy(owned.latent);
        *out = NULL;
        return fail_layer(model, block, status, error);
    }
    moe_layer_own(*out, owned.experts, owned.shared, owned.latent);
    return MOE_OK;
}

/* ---- tensors and metadata ------------------------------------------------------------------------------------ */

enum moe_status moe_model_tensor_at(const struct moe_model *model, size_t i, struct moe_tensor *out)
{
    if (model == NULL || out == NULL || i >= moe_archive_num_tensors(model->archive))
        return MOE_ERR_ARGUMENT;
    *out = moe_archive_tensor_at(model->archive, i)->info;
    return MOE_OK;
}

enum moe_status moe_model_tensor_find(const struct moe_model *model, const char *name, struct moe_tensor *out)
{
    if (model == NULL || name == NULL || out == NULL)
        return MOE_ERR_ARGUMENT;
    const struct moe_archive_tensor *tensor = moe_archive_find(model->archive, name);
    if (tensor == NULL)
        return MOE_ERR_ARGUMENT;
    *out = tensor->info;
    return MOE_OK;
}

enum moe_status moe_model_tensor_data(struct moe_model *model, const char *name, const void **data,
                                      struct moe_error *error)
{
    if (data != NULL)
        *data = NULL;
    if (model == NULL || name == NULL || data == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "no model, no name, or no place for the data");
    const struct moe_archive_tensor *tensor = moe_archive_find(model->archive, name);
    if (tensor == NULL)
        return printable(error, moe_fail(error, MOE_ERR_ARGUMENT, "%s: there is no tensor '%.100s'",
                                         moe_archive_path(model->archive), name));
    return printable(error, moe_archive_data(model->archive, tensor, data, error));
}

enum moe_status moe_model_metadata_at(const struct moe_model *model, size_t i, const char **key, struct moe_value *out)
{
    if (model == NULL || key == NULL || out == NULL)
        return MOE_ERR_ARGUMENT;
    return moe_archive_metadata_at(model->archive, i, key, out);
}

enum moe_status moe_model_metadata_find(const struct moe_model *model, const char *key, struct moe_value *out)
{
    if (model == NULL || key == NULL || out == NULL)
        return MOE_ERR_ARGUMENT;
    return moe_archive_metadata_find(model->archive, key, out);
}

enum moe_status moe_model_metadata_item(const struct moe_model *model, const struct moe_value *array, size_t i,
                                        struct moe_value *out)
{
    if (model == NULL || array == NULL || out == NULL)
        return MOE_ERR_ARGUMENT;
    return moe_archive_metadata_item(model->archive, array, i, out);
}
