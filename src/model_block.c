// SPDX-License-Identifier: MIT
// From tensors to the params of a block: every tensor of it found by name, its shape and format checked, and described
// as a struct moe_matrix over the file's memory, whatever the layout. Nothing is copied here.
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "view.h"

enum { NAME_SIZE = 160, SHAPE_SIZE = 112, TYPE_SIZE = 32 };

struct build {
    struct moe_model *model;
    size_t block;
    struct moe_error *error;
};

/* num_experts matrices [rows, cols] that are wanted from the tensor, or tensors, called name. A fused tensor has two
 * such parts. */
struct request {
    const char *name;
    uint32_t layout;
    size_t num_parts, part;
    size_t num_experts, rows, cols;
    bool plain;                /* only f32, f16, bf16 will do */
};

/* ---- names and shapes ---------------------------------------------------------------------------------------- */

/* Write pattern with its "{b}" and "{e}" filled in behind out's first used bytes. */
static size_t expand(char out[NAME_SIZE], size_t used, const char *pattern, size_t length, size_t block, size_t expert)
{
    for (size_t i = 0; i < length && used < NAME_SIZE - 1;) {
        bool place = i + 3 <= length && pattern[i] == '{' && pattern[i + 2] == '}';
        if (place) {
            size_t number = pattern[i + 1] == 'b' ? block : expert;
            int written = snprintf(out + used, NAME_SIZE - used, "%zu", number);
            used += written > 0 ? (size_t)written : 0;
            i += 3;
        } else {
            out[used++] = pattern[i++];
        }
    }
    if (used > NAME_SIZE - 1)
        used = NAME_SIZE - 1;
    out[used] = '\0';
    return used;
}

/* The first of name's alternatives that is there. full: its name; where none is there, the first one's. */
static const struct moe_archive_tensor *find_tensor(const struct build *b, const char *name, size_t expert,
                                                    char full[NAME_SIZE])
{
    const char *prefix = b->model->block_prefix;
    char first[NAME_SIZE] = "";
    full[0] = '\0';
    while (name != NULL && *name != '\0') {
        size_t length = strcspn(name, "|");
        size_t used = expand(full, 0, prefix, strlen(prefix), b->block, expert);
        expand(full, used, name, length, b->block, expert);
        const struct moe_archive_tensor *tensor = moe_archive_find(b->model->archive, full);
        if (tensor != NULL)
            return tensor;
        if (first[0] == '\0')
            memcpy(first, full, sizeof first);
        name += length + (name[length] == '|');
    }
    memcpy(full, first, sizeof first);
    return NULL;
}

static enum moe_status fail_missing(const struct build *b, const char *full)
{
    return moe_fail(b->error, MOE_ERR_FORMAT, "%s: tensor '%s' is missing; the metadata give block %zu experts",
                    moe_archive_path(b->model->archive), full, b->block);
}

static void describe_shape(char out[SHAPE_SIZE], const size_t *shape, size_t num_dims)
{
    size_t used = (size_t)snprintf(out, SHAPE_SIZE, "[");
    for (size_t i = 0; i < num_dims && used < SHAPE_SIZE; i++)
        used += (size_t)snprintf(out + used, SHAPE_SIZE - used, "%s%zu", i > 0 ? ", " : "", shape[i]);
    if (used < SHAPE_SIZE)
        snprintf(out + used, SHAPE_SIZE - used, "]");
}

static size_t leading_ones(const size_t *shape, size_t num_dims)
{
    size_t i = 0;
    while (i + 1 < num_dims && shape[i] == 1)
        i++;
    return i;
}

/* Shapes are equal if they are so without leading ones, which GGUF does not store. */
static enum moe_status check_shape(const struct build *b, const struct moe_archive_tensor *tensor,
                                   const size_t *expected, size_t num_dims)
{
    const struct moe_tensor *info = &tensor->info;
    size_t skip = leading_ones(expected, num_dims), found_skip = leading_ones(info->shape, info->num_dims);
    size_t count = num_dims - skip;
    if (info->num_dims - found_skip == count &&
        memcmp(expected + skip, info->shape + found_skip, count * sizeof *expected) == 0)
        return MOE_OK;
    char wanted[SHAPE_SIZE], found[SHAPE_SIZE];
    describe_shape(wanted, expected + skip, count);
    describe_shape(found, info->shape, info->num_dims);
    return moe_fail(b->error, MOE_ERR_FORMAT, "%s: tensor '%.100s': expected shape %s, found %s",
                    moe_archive_part_path(b->model->archive, tensor->part), info->name, wanted, found);
}

static void describe_type(char out[TYPE_SIZE], uint32_t type)
{
    static const struct {
        uint32_t type;
        const char *name;
    } names[] = {
#define TYPE_NAME(number, NAME, bits) {number, #NAME},
        MOE_SAFETENSORS_TYPE_MAP(TYPE_NAME)
#undef TYPE_NAME
    };
    snprintf(out, TYPE_SIZE, "type %lu", (unsigned long)type);
    for (size_t i = 0; i < MOE_ARRAY_SIZE(names); i++)
        if (names[i].type == type)
            snprintf(out, TYPE_SIZE, "%s", names[i].name);
}

static enum moe_status check_format(const struct build *b, const struct moe_archive_tensor *tensor,
                                    const struct request *request)
{
    const struct moe_tensor *info = &tensor->info;
    const char *path = moe_archive_part_path(b->model->archive, tensor->part);
    if (info->format == NULL) {
        char type[TYPE_SIZE];
        describe_type(type, info->type);
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED,
                        "%s: tensor '%.100s': expected a format of weights, found %s, which this library does not read",
                        path, info->name, type);
    }
    enum moe_format format = info->format->format;
    bool plain = moe_view_is_float(format);
    bool weights = format != MOE_FORMAT_I32 && format != MOE_FORMAT_I64;
    if (request->plain ? plain : weights && (plain || (request->layout & MOE_MLP_TRANSPOSED) == 0))
        return MOE_OK;
    return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s': expected %s, found %s", path, info->name,
                    request->plain || weights ? "f32, f16 or bf16" : "a format of weights", info->format->name);
}

/* ---- matrices ------------------------------------------------------------------------------------------------ */

/* What one tensor, or one expert's tensor, has to look like. */
static enum moe_status check_tensor(const struct build *b, const struct moe_archive_tensor *tensor,
                                    const struct request *request, bool each)
{
    size_t both, expected[3];
    if (!moe_mul(&both, request->rows, request->num_parts))
        return moe_fail(b->error, MOE_ERR_FORMAT, "%s: sizes of block %zu overflow",
                        moe_archive_path(b->model->archive), b->block);
    bool transposed = (request->layout & MOE_MLP_TRANSPOSED) != 0;
    expected[0] = each ? 1 : request->num_experts;
    expected[1] = transposed ? request->cols : both;
    expected[2] = transposed ? both : request->cols;
    MOE_TRY(check_shape(b, tensor, expected, 3));
    return check_format(b, tensor, request);
}

/* The tensor is checked: its size is that of its shape, so that no product here overflows. */
static void describe_layout(struct moe_matrix *out, const struct moe_tensor *info, const struct request *request,
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
static enum moe_status load_each(const struct build *b, const struct request *request, struct moe_matrix *out,
                                 void **bases)
{
    enum moe_format format = MOE_FORMAT_F32;
    for (size_t e = 0; e < request->num_experts; e++) {
        char full[NAME_SIZE];
        const struct moe_archive_tensor *tensor = find_tensor(b, request->name, e, full);
        if (tensor == NULL)
            return fail_missing(b, full);
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

static bool is_each(const char *name)
{
    return name != NULL && strstr(name, "{e}") != NULL;
}

static enum moe_status load_matrix(const struct build *b, const struct request *request, struct moe_matrix *out,
                                   void **bases)
{
    MOE_INIT(out);
    if (is_each(request->name))
        return load_each(b, request, out, bases);
    char full[NAME_SIZE];
    const struct moe_archive_tensor *tensor = find_tensor(b, request->name, 0, full);
    if (tensor == NULL)
        return fail_missing(b, full);
    MOE_TRY(check_tensor(b, tensor, request, false));
    describe_layout(out, &tensor->info, request, false);
    const void *data;
    MOE_TRY(moe_archive_data(b->model->archive, tensor, &data, b->error));
    out->data.base = (void *)data;
    return MOE_OK;
}

/* A bias [num_experts, rows], of a fused tensor the part that is wanted; absent unless it must be there. */
static enum moe_status load_bias(const struct build *b, const struct request *request, bool required,
                                 struct moe_view *out, size_t *element_stride)
{
    struct request vectors = *request;
    vectors.plain = true;
    char full[NAME_SIZE];
    const struct moe_archive_tensor *tensor = find_tensor(b, request->name, 0, full);
    if (tensor == NULL)
        return required ? fail_missing(b, full) : MOE_OK;
    size_t expected[2] = {request->num_experts, 0};
    if (!moe_mul(&expected[1], request->rows, request->num_parts))
        return fail_missing(b, full);
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

/* ---- experts, router, shared expert -------------------------------------------------------------------------- */

struct mlp {
    struct moe_matrix *gate, *up, *down;
};

static enum moe_status load_with_bias(const struct build *b, struct request *request, const char *bias, bool required,
                                      struct moe_matrix *out, void **bases)
{
    MOE_TRY(load_matrix(b, request, out, bases));
    if (bias == NULL)
        return MOE_OK;
    request->name = bias;
    return load_bias(b, request, required, &out->bias, &out->bias_element_stride);
}

/* bases: [3, num_experts], or NULL where experts are stacks. */
static enum moe_status load_mlp(const struct build *b, const struct moe_mlp_names *names, bool biases,
                                const struct moe_experts_params *sizes, void **bases, const struct mlp *out)
{
    size_t experts = sizes->num_experts, hidden = sizes->hidden_size, rows = sizes->intermediate_size;
    bool fused = (names->layout & MOE_MLP_FUSED) != 0;
    size_t parts = fused ? 2 : 1;
    void **up_bases = bases != NULL ? bases + experts : NULL, **down_bases = bases != NULL ? up_bases + experts : NULL;
    struct request gate = {fused ? names->up : names->gate, names->layout, parts, 0, experts, rows, hidden, false};
    struct request up = {names->up, names->layout, parts, parts - 1, experts, rows, hidden, false};
    struct request down = {names->down, names->layout, 1, 0, experts, hidden, rows, false};
    MOE_TRY(load_with_bias(b, &gate, fused ? names->up_bias : names->gate_bias, biases, out->gate, bases));
    MOE_TRY(load_with_bias(b, &up, names->up_bias, biases, out->up, up_bases));
    return load_with_bias(b, &down, names->down_bias, biases, out->down, down_bases);
}

/* The first layout that the block's tensors have; where they have none, the first of all, whose names are missed. */
static const struct moe_mlp_names *choose_layout(const struct build *b, const struct moe_names *names)
{
    char full[NAME_SIZE];
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && names->experts[i].up != NULL; i++)
        if (find_tensor(b, names->experts[i].up, 0, full) != NULL)
            return &names->experts[i];
    return &names->experts[0];
}

static enum moe_status load_experts(const struct build *b, const struct moe_names *names, struct moe_model_entry *entry)
{
    const struct moe_mlp_names *layout = choose_layout(b, names);
    if (layout->unsupported != NULL) {
        char full[NAME_SIZE];
        find_tensor(b, layout->up, 0, full);
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%s': %s is not supported",
                        moe_archive_path(b->model->archive), full, layout->unsupported);
    }
    size_t experts = entry->experts.num_experts;
    if (is_each(layout->up)) {
        if (experts > moe_archive_num_tensors(b->model->archive))
            return moe_fail(b->error, MOE_ERR_FORMAT, "%s: %zu experts in a block, but only %zu tensors in all",
                            moe_archive_path(b->model->archive), experts, moe_archive_num_tensors(b->model->archive));
        entry->num_bases = 3 * experts;
        entry->bases = moe_alloc_array(&b->model->env, entry->num_bases, sizeof *entry->bases);
        if (entry->bases == NULL)
            return moe_fail(b->error, MOE_ERR_MEMORY, "%s: no memory for block %zu",
                            moe_archive_path(b->model->archive), b->block);
    }
    const struct mlp matrices = {&entry->gate, &entry->up, &entry->down};
    MOE_TRY(load_mlp(b, layout, b->model->preset->biases, &entry->experts, entry->bases, &matrices));
    entry->experts.gate = &entry->gate;
    entry->experts.up = &entry->up;
    entry->experts.down = &entry->down;
    entry->experts.act = &entry->act;
    return MOE_OK;
}

static enum moe_status load_router(const struct build *b, const struct moe_names *names,
                                   const struct moe_model_axes *axes, struct moe_model_entry *entry)
{
    const struct moe_preset *preset = b->model->preset;
    struct request router = {names->router, 0, 1, 0, 1, axes->num_experts, axes->hidden_size, true};
    MOE_TRY(load_with_bias(b, &router, names->router_bias, preset->router_bias, &entry->router, NULL));
    if (preset->selection_bias) {
        const struct request bias = {names->selection_bias, 0, 1, 0, 1, axes->num_experts, 0, true};
        size_t unused;
        MOE_TRY(load_bias(b, &bias, axes->selection_bias, &entry->routing.selection_bias, &unused));
    }
    entry->routing.router = &entry->router;
    return MOE_OK;
}

static enum moe_status load_shared(const struct build *b, const struct moe_names *names,
                                   const struct moe_model_axes *axes, struct moe_model_entry *entry)
{
    struct moe_experts_params *params = &entry->shared_experts;
    MOE_INIT(params);
    params->num_experts = 1;
    params->hidden_size = axes->hidden_size;
    params->intermediate_size = axes->shared_size;
    const struct mlp matrices = {&entry->shared_gate_proj, &entry->shared_up, &entry->shared_down};
    MOE_TRY(load_mlp(b, &names->shared, false, params, NULL, &matrices));
    params->gate = &entry->shared_gate_proj;
    params->up = &entry->shared_up;
    params->down = &entry->shared_down;
    params->act = &entry->act;
    MOE_INIT(&entry->shared);
    if (b->model->preset->shared == MOE_PRESET_SHARED_SIGMOID) {
        const struct request gate = {names->shared_gate, 0, 1, 0, 1, 1, axes->hidden_size, true};
        MOE_TRY(load_matrix(b, &gate, &entry->shared_gate, NULL));
        entry->shared.gate_kind = MOE_SHARED_SIGMOID;
        entry->shared.gate = &entry->shared_gate;
    }
    entry->layer.shared = &entry->shared;
    entry->block.shared = params;
    return MOE_OK;
}

/* A shared expert that the metadata deny is not left out in silence. */
static enum moe_status check_no_shared(const struct build *b, const struct moe_names *names)
{
    char full[NAME_SIZE];
    if (b->model->preset->shared == MOE_PRESET_SHARED_NONE || find_tensor(b, names->shared.up, 0, full) == NULL)
        return MOE_OK;
    return moe_fail(b->error, MOE_ERR_FORMAT,
                    "%s: tensor '%s' is there, but the metadata give block %zu no shared expert",
                    moe_archive_path(b->model->archive), full, b->block);
}

static enum moe_status fill(const struct build *b, const struct moe_model_axes *axes, struct moe_model_entry *entry)
{
    const struct moe_names *names = moe_preset_names(b->model->preset, b->model->vocabulary);
    entry->act = axes->act;
    entry->routing = axes->routing;
    MOE_INIT(&entry->experts);
    entry->experts.num_experts = axes->num_experts;
    entry->experts.hidden_size = axes->hidden_size;
    entry->experts.intermediate_size = axes->intermediate_size;
    MOE_INIT(&entry->layer);
    entry->layer.num_experts = axes->num_experts;
    entry->layer.top_k = axes->top_k;
    entry->layer.routing = &entry->routing;
    entry->layer.weight_on_input = b->model->preset->weight_on_input;
    MOE_TRY(load_router(b, names, axes, entry));
    MOE_TRY(load_experts(b, names, entry));
    if (axes->shared_size > 0)
        MOE_TRY(load_shared(b, names, axes, entry));
    else
        MOE_TRY(check_no_shared(b, names));
    entry->block.experts = &entry->experts;
    entry->block.layer = &entry->layer;
    return MOE_OK;
}

enum moe_status moe_model_block_build(struct moe_model *model, size_t block, const struct moe_model_axes *axes,
                                      struct moe_model_entry **out, struct moe_error *error)
{
    const struct build b = {model, block, error};
    struct moe_model_entry *entry = moe_alloc(&model->env, sizeof *entry);
    if (entry == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for block %zu", moe_archive_path(model->archive), block);
    enum moe_status status = fill(&b, axes, entry);
    if (status != MOE_OK) {
        moe_model_block_free(model, entry);
        return status;
    }
    *out = entry;
    return MOE_OK;
}

void moe_model_block_free(struct moe_model *model, struct moe_model_entry *entry)
{
    if (entry == NULL)
        return;
    moe_free(&model->env, entry->bases, entry->num_bases * sizeof *entry->bases);
    moe_free(&model->env, entry, sizeof *entry);
}

const char *moe_model_block_prefix(const struct moe_archive *archive, enum moe_vocabulary vocabulary)
{
    const char *const *prefixes = moe_preset_prefixes[vocabulary];
    for (size_t p = 0; prefixes[p] != NULL; p++) {
        size_t length = strcspn(prefixes[p], "{");
        for (size_t i = 0; i < moe_archive_num_tensors(archive); i++) {
            const char *name = moe_archive_tensor_at(archive, i)->info.name;
            if (strncmp(name, prefixes[p], length) == 0 && isdigit((unsigned char)name[length]))
                return prefixes[p];
        }
    }
    return prefixes[0];
}
