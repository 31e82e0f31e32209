// SPDX-License-Identifier: MIT
// From tensors to matrices: a tensor, or one for each expert, found by its name, its shape and format checked, and
// described as a struct moe_matrix over the file's memory, whatever the layout. Nothing is copied here.
#include "model_quant.h"

#include <stdio.h>
#include <string.h>

#include "model_description.h"
#include "view.h"

enum { TYPE_SIZE = 32 };

/* ---- names and shapes ---------------------------------------------------------------------------------------- */

/* Write pattern with its "{b}" and "{e}" filled in behind out's first used bytes. */
static size_t expand(char out[MOE_TENSOR_NAME_SIZE], size_t used, const char *pattern, size_t length, size_t block,
                     size_t expert)
{
    for (size_t i = 0; i < length && used < MOE_TENSOR_NAME_SIZE - 1;) {
        bool place = i + 3 <= length && pattern[i] == '{' && pattern[i + 2] == '}';
        if (place) {
            size_t number = pattern[i + 1] == 'b' ? block : expert;
            int written = snprintf(out + used, MOE_TENSOR_NAME_SIZE - used, "%zu", number);
            used += written > 0 ? (size_t)written : 0;
            i += 3;
        } else {
            out[used++] = pattern[i++];
        }
    }
    if (used > MOE_TENSOR_NAME_SIZE - 1)
        used = MOE_TENSOR_NAME_SIZE - 1;
    out[used] = '\0';
    return used;
}

void moe_matrix_find_name(const struct moe_build *b, const char *name, size_t expert, struct moe_matrix_name *out)
{
    const char *prefix = b->model->block_prefix;
    char first[MOE_TENSOR_NAME_SIZE] = "";
    memset(out, 0, sizeof *out);
    while (name != NULL && *name != '\0') {
        size_t length = strcspn(name, "|");
        size_t used = expand(out->plain, 0, prefix, strlen(prefix), b->block, expert);
        expand(out->plain, used, name, length, b->block, expert);
        out->tensor = moe_quant_find(b, out->plain, out->full);
        if (out->tensor != NULL)
            return;
        if (first[0] == '\0')
            memcpy(first, out->plain, sizeof first);
        name += length + (name[length] == '|');
    }
    memcpy(out->plain, first, sizeof first);
    memcpy(out->full, first, sizeof first);
}

const struct moe_archive_tensor *moe_matrix_find(const struct moe_build *b, const char *name, size_t expert,
                                                 char full[MOE_TENSOR_NAME_SIZE])
{
    struct moe_matrix_name found;
    moe_matrix_find_name(b, name, expert, &found);
    memcpy(full, found.full, MOE_TENSOR_NAME_SIZE);
    return found.tensor;
}

enum moe_status moe_matrix_fail_missing(const struct moe_build *b, const char *full)
{
    return moe_fail(b->error, MOE_ERR_FORMAT, "%s: tensor '%s' is missing; the metadata give block %zu experts",
                    moe_archive_path(b->model->archive), full, b->block);
}

void moe_matrix_describe_shape(char out[MOE_SHAPE_SIZE], const size_t *shape, size_t num_dims)
{
    size_t used = (size_t)snprintf(out, MOE_SHAPE_SIZE, "[");
    for (size_t i = 0; i < num_dims && used < MOE_SHAPE_SIZE; i++)
        used += (size_t)snprintf(out + used, MOE_SHAPE_SIZE - used, "%s%zu", i > 0 ? ", " : "", shape[i]);
    if (used < MOE_SHAPE_SIZE)
        snprintf(out + used, MOE_SHAPE_SIZE - used, "]");
}

static size_t leading_ones(const size_t *shape, size_t num_dims)
{
    size_t i = 0;
    while (i + 1 < num_dims && shape[i] == 1)
        i++;
    return i;
}

/* Shapes are equal if they are so without leading ones, which GGUF does not store. */
static enum moe_status check_shape(const struct moe_build *b, const struct moe_archive_tensor *tensor,
                                   const size_t *expected, size_t num_dims)
{
    const struct moe_tensor *info = &tensor->info;
    size_t skip = leading_ones(expected, num_dims), found_skip = leading_ones(info->shape, info->num_dims);
    size_t count = num_dims - skip;
    if (info->num_dims - found_skip == count &&
        memcmp(expected + skip, info->shape + found_skip, count * sizeof *expected) == 0)
        return MOE_OK;
    char wanted[MOE_SHAPE_SIZE], found[MOE_SHAPE_SIZE];
    moe_matrix_describe_shape(wanted, expected + skip, count);
    moe_matrix_describe_shape(found, info->shape, info->num_dims);
    return moe_fail(b->error, MOE_ERR_FORMAT, "%s: tensor '%.100s': expected shape %s, found %s",
                    moe_archive_part_path(b->model->archive, tensor->part), info->name, wanted, found);
}

void moe_matrix_describe_type(char out[TYPE_SIZE], const struct moe_tensor *info)
{
    static const struct {
        uint32_t type;
        const char *name;
    } names[] = {
#define TYPE_NAME(number, NAME, bits) {number, #NAME},
        MOE_SAFETENSORS_TYPE_MAP(TYPE_NAME)
#undef TYPE_NAME
    };
    uint32_t type = info->type;
    snprintf(out, TYPE_SIZE, info->format != NULL ? "%s" : "type", info->format != NULL ? info->format->name : "");
    if (info->format != NULL)
        return;
    snprintf(out, TYPE_SIZE, "type %lu", (unsigned long)type);
    for (size_t i = 0; i < MOE_ARRAY_SIZE(names); i++)
        if (names[i].type == type)
            snprintf(out, TYPE_SIZE, "%s", names[i].name);
}

static enum moe_status check_format(const struct moe_build *b, const struct moe_archive_tensor *tensor,
                                    const struct moe_request *request)
{
    const struct moe_tensor *info = &tensor->info;
    const char *path = moe_archive_part_path(b->model->archive, tensor->part);
    if (info->format == NULL) {
        char type[TYPE_SIZE];
        moe_matrix_describe_type(type, info);
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED,
                        "%s: tensor '%.100s': expected a format of weights, found %s, which this library does not read",
                        path, info->name, type);
    }
    enum moe_format format = info->format->format;
    bool plain = moe_view_is_float(format);
    bool weights = !moe_view_is_index(format);
    if (request->plain ? plain : weights && (plain || (request->layout & MOE_MLP_TRANSPOSED) == 0))
        return MOE_OK;
    return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s': expected %s, found %s", path, info->name,
                    request->plain || weights ? "f32, f16 or bf16" : "a format of weights", info->format->name);
}

/* ---- matrices ------------------------------------------------------------------------------------------------ */

/* What one tensor, or one expert's tensor, has to look like. */
static enum moe_status check_tensor(const struct moe_build *b, const struct moe_archive_tensor *tensor,
                                    const struct moe_request *request, bool each)
{
    size_t both = request->rows * request->num_parts, expected[3];
    bool transposed = (request->layout & MOE_MLP_TRANSPOSED) != 0;
    expected[0] = each ? 1 : request->num_experts;
    expected[1] = transposed ? request->cols : both;
    expected[2] = transposed ? both : request->cols;
    MOE_TRY(check_shape(b, tensor, expected, 3));
    return check_format(b, tensor, request);
}

/* The tensor is checked: its size is that of its shape, so that no product here overflows. */
static void describe_layout(struct moe_matrix *out, const struct moe_tensor *info, const struct moe_request *request,
                            bool each)
{
    bool interleaved = request->num_parts > 1 && (request->layout & MOE_MLP_INTERLEAVED) != 0;
    size_t value_bytes = info->format->block_bytes;   /* transposed: one value a block */
    size_t row_bytes = moe_format_row_bytes(info->format->format, info->shape[info->num_dims - 1]);
    struct moe_view *data = &out->data;
    data->format = info->format->format;
    data->stride = row_bytes;
    if ((request->layout & MOE_MLP_TRANSPOSED) != 0) {
        out->transposed = true;
        data->offset = request->part * (interleaved ? value_bytes : request->rows * value_bytes);
        out->element_stride = interleaved ? request->num_parts * value_bytes : 0;
    } else if (interleaved) {
        data->offset = request->part * row_bytes;
        data->stride = request->num_parts * row_bytes;
    } else {
        data->offset = request->part * request->rows * row_bytes;
    }
    data->size = (size_t)info->size - data->offset;
    if (!each)
        out->expert_stride = (size_t)info->size / request->num_experts;
}

/* Experts in a tensor each: one shape and format, so that one description holds for all of them. */
static enum moe_status load_each(const struct moe_build *b, const struct moe_request *request, struct moe_matrix *out,
                                 void **bases)
{
    enum moe_format format = MOE_FORMAT_F32;
    for (size_t e = 0; e < request->num_experts; e++) {
        char full[MOE_TENSOR_NAME_SIZE];
        const struct moe_archive_tensor *tensor = moe_matrix_find(b, request->name, e, full);
        if (tensor == NULL)
            return moe_matrix_fail_missing(b, full);
        MOE_TRY(check_tensor(b, tensor, request, true));
        if (e == 0) {
            format = tensor->info.format->format;
            describe_layout(out, &tensor->info, request, true);
        } else if (tensor->info.format->format != format) {
            return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%s': expected %s as in expert 0, found %s",
                            moe_archive_part_path(b->model->archive, tensor->part), full,
                            moe_format_info(format)->name, tensor->info.format->name);
        }
        const void *data;
        MOE_TRY(moe_archive_data(b->model->archive, tensor, &data, b->error));
        bases[e] = (void *)data;
    }
    out->bases = bases;
    return MOE_OK;
}

bool moe_matrix_is_each(const char *name)
{
    return name != NULL && strstr(name, "{e}") != NULL;
}

/* Is it one that weights are multiplied with, not values? Some architectures have them under the same name. */
static bool is_expert_scale(const struct moe_build *b, const char *full)
{
    const struct moe_names *names = b->model->gguf != NULL ? b->model->gguf->names : NULL;
    if (b->model->description != NULL)
        names = &b->model->description->names;
    const char *role = names != NULL ? names->role[MOE_ROLE_EXPERT_SCALE] : NULL;
    char found[MOE_TENSOR_NAME_SIZE];
    return role != NULL && moe_matrix_find(b, role, 0, found) != NULL && strcmp(full, found) == 0;
}

/* GGUF: "a.weight" may have "a.scale", one factor for each expert. */
static enum moe_status add_factor(const struct moe_build *b, const struct moe_request *request, struct moe_matrix *out)
{
    struct moe_matrix_name name;
    char full[MOE_TENSOR_NAME_SIZE];
    moe_matrix_find_name(b, request->name, 0, &name);
    size_t stem = strlen(name.plain), skip = strlen(".weight");
    if (b->model->vocabulary != MOE_VOCABULARY_GGUF || stem <= skip ||
        strcmp(name.plain + stem - skip, ".weight") != 0)
        return MOE_OK;
    snprintf(full, sizeof full, "%.*s.scale", (int)(stem - skip), name.plain);
    const struct moe_archive_tensor *tensor = moe_archive_find(b->model->archive, full);
    if (tensor == NULL || request->plain || is_expert_scale(b, full))
        return MOE_OK;
    const struct moe_request vectors = {.plain = true};
    const void *data;
    MOE_TRY(check_shape(b, tensor, &request->num_experts, 1));
    MOE_TRY(check_format(b, tensor, &vectors));
    MOE_TRY(moe_archive_data(b->model->archive, tensor, &data, b->error));
    struct factor {
        struct moe_scales scales;
        struct moe_matrix factor;
    } *memory = moe_model_block_alloc(b->model, b->entry, 1, sizeof *memory);
    if (memory == NULL)
        return moe_fail(b->error, MOE_ERR_MEMORY, "%s: no memory for block %zu", moe_archive_path(b->model->archive),
                        b->block);
    MOE_INIT(&memory->scales);
    MOE_INIT(&memory->factor);
    memory->factor.data = (struct moe_view){.base = (void *)data,
                                            .size = (size_t)tensor->info.size,
                                            .format = tensor->info.format->format};
    memory->scales.factor = &memory->factor;
    out->scales = &memory->scales;
    return MOE_OK;
}

enum moe_status moe_matrix_load(const struct moe_build *b, const struct moe_request *request, struct moe_matrix *out,
                                void **bases)
{
    struct moe_matrix_name name;
    size_t both, all;
    MOE_INIT(out);
    moe_matrix_find_name(b, request->name, 0, &name);
    if (!moe_mul(&both, request->rows, request->num_parts) || !moe_mul(&all, both, request->cols) ||
        !moe_mul(&all, all, request->num_experts) || all > PTRDIFF_MAX / sizeof(float))
        return moe_fail(b->error, MOE_ERR_FORMAT, "%s: sizes of block %zu overflow",
                        moe_archive_path(b->model->archive), b->block);
    if (name.tensor == NULL)
        MOE_TRY(moe_quant_check_method(b, name.plain));
    if (name.tensor == NULL)
        return moe_matrix_fail_missing(b, name.plain);
    if (moe_quant_is_quantised(b, name.tensor, name.plain))
        return request->plain ? moe_quant_load_plain(b, request, &name, out)
                              : moe_quant_load(b, request, &name, out, bases);
    if (moe_matrix_is_each(request->name))
        return load_each(b, request, out, bases);
    MOE_TRY(check_tensor(b, name.tensor, request, false));
    describe_layout(out, &name.tensor->info, request, false);
    const void *data;
    MOE_TRY(moe_archive_data(b->model->archive, name.tensor, &data, b->error));
    out->data.base = (void *)data;
    return add_factor(b, request, out);
}

/* A bias [num_experts, rows], of a fused tensor the part that is wanted; absent unless it must be there. */
enum moe_status moe_matrix_load_vectors(const struct moe_build *b, const struct moe_request *request, bool required,
                                 struct moe_view *out, size_t *element_stride)
{
    struct moe_request vectors = *request;
    vectors.plain = true;
    char full[MOE_TENSOR_NAME_SIZE];
    const struct moe_archive_tensor *tensor = moe_matrix_find(b, request->name, 0, full);
    if (tensor == NULL)
        return required ? moe_matrix_fail_missing(b, full) : MOE_OK;
    size_t expected[2] = {request->num_experts, 0};
    if (!moe_mul(&expected[1], request->rows, request->num_parts))
        return moe_matrix_fail_missing(b, full);
    MOE_TRY(check_shape(b, tensor, expected, 2));
    MOE_TRY(check_format(b, tensor, &vectors));
    const void *data;
    MOE_TRY(moe_archive_data(b->model->archive, tensor, &data, b->error));
    bool interleaved = request->num_parts > 1 && (request->layout & MOE_MLP_INTERLEAVED) != 0;
    size_t value_bytes = tensor->info.format->block_bytes;
    out->base = (void *)data;
    out->format = tensor->info.format->format;
    out->offset = request->part * (interleaved ? value_bytes : request->rows * value_bytes);
    out->size = (size_t)tensor->info.size - out->offset;
    out->stride = expected[1] * value_bytes;
    *element_stride = interleaved ? request->num_parts * value_bytes : 0;
    return MOE_OK;
}
