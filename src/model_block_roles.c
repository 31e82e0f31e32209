// SPDX-License-Identifier: MIT
// What a block has beside its experts: router, biases, scales, norms, tables, latent projections.
#include <math.h>
#include <string.h>

#include "model_block.h"

bool moe_block_needs(const struct moe_model_axes *axes, enum moe_role role)
{
    return (axes->needs & (UINT32_C(1) << role)) != 0;
}

bool moe_block_uses(const struct moe_model_axes *axes, enum moe_role role)
{
    return ((axes->needs | axes->takes) & (UINT32_C(1) << role)) != 0;
}

/* A vector of size values, the first of count that follow each other; absent where the role is not used, or not there
 * and not needed. */
static enum moe_status load_vector(const struct moe_build *b, const struct moe_model_axes *axes, enum moe_role role,
                                   size_t count, size_t size, struct moe_view *out)
{
    const struct moe_request request = {axes->names->role[role], 0, 1, 0, count, size, 0, true};
    size_t unused;
    if (!moe_block_uses(axes, role))
        return MOE_OK;
    return moe_matrix_load_vectors(b, &request, moe_block_needs(axes, role), out, &unused);
}

static enum moe_status load_norm(const struct moe_build *b, const struct moe_model_axes *axes, enum moe_role role,
                                 size_t size, float eps, struct moe_norm *norm, const struct moe_norm **out)
{
    struct moe_view scale = {0};
    MOE_TRY(load_vector(b, axes, role, 1, size, &scale));
    if (scale.base == NULL)
        return MOE_OK;
    MOE_INIT(norm);
    norm->scale = scale;
    norm->eps = eps;
    *out = norm;
    return MOE_OK;
}

/* A copy of a matrix [rows, cols] that is stored transposed, as it should be. */
static enum moe_status turn(const struct moe_build *b, struct moe_matrix *matrix, size_t rows, size_t cols)
{
    size_t bytes = moe_format_row_bytes(matrix->data.format, 1), stride = matrix->data.stride;
    unsigned char *copy = moe_model_block_alloc(b->model, b->entry, rows * cols, bytes);
    if (copy == NULL)
        return moe_fail(b->error, MOE_ERR_MEMORY, "%s: no memory for block %zu", moe_archive_path(b->model->archive),
                        b->block);
    const unsigned char *in = (const unsigned char *)matrix->data.base + matrix->data.offset;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            memcpy(copy + (r * cols + c) * bytes, in + c * stride + r * bytes, bytes);
    matrix->data.base = copy;
    matrix->data.offset = 0;
    matrix->data.size = rows * cols * bytes;
    matrix->data.stride = cols * bytes;
    matrix->expert_stride = 0;
    matrix->transposed = false;
    matrix->element_stride = 0;
    return MOE_OK;
}

/* Is it there, with so many rows? */
static bool has_rows(const struct moe_build *b, const char *name, size_t rows)
{
    char full[MOE_TENSOR_NAME_SIZE];
    const struct moe_archive_tensor *tensor = moe_matrix_find(b, name, 0, full);
    return tensor != NULL && tensor->info.num_dims == 2 && tensor->info.shape[0] == rows;
}

static enum moe_status load_router(const struct moe_build *b, const struct moe_model_axes *axes, size_t num_ids)
{
    struct moe_model_entry *entry = b->entry;
    const char *name = axes->names->role[MOE_ROLE_ROUTER];
    bool turned = axes->names->router_transposed && !has_rows(b, name, num_ids);
    struct moe_request router = {name, turned ? MOE_MLP_TRANSPOSED : 0, 1, 0, 1, num_ids,
                                 axes->hidden_size, true};
    MOE_TRY(moe_matrix_load(b, &router, &entry->router, NULL));
    if (turned)
        MOE_TRY(turn(b, &entry->router, num_ids, axes->hidden_size));
    entry->routing.router = &entry->router;
    return load_vector(b, axes, MOE_ROLE_ROUTER_BIAS, 1, num_ids, &entry->router.bias);
}

/* One number of the file that multiplies the weights. */
static enum moe_status load_factor(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_view view = {0};
    float factor = 1.0f;
    MOE_TRY(load_vector(b, axes, MOE_ROLE_ROUTER_FACTOR, 1, 1, &view));
    if (view.base == NULL)
        return MOE_OK;
    moe_format_dequantise(view.format, &factor, (const unsigned char *)view.base + view.offset, 1, 1);
    struct moe_routing *routing = &b->entry->routing;
    float scale = (routing->scale == 0.0f ? 1.0f : routing->scale) * factor;
    char full[MOE_TENSOR_NAME_SIZE];
    moe_matrix_find(b, axes->names->role[MOE_ROLE_ROUTER_FACTOR], 0, full);
    if (!isfinite(scale) || scale == 0.0f)
        return moe_fail(b->error, MOE_ERR_FORMAT, "%s: tensor '%s': expected a finite number other than 0, found %g",
                        moe_archive_path(b->model->archive), full, (double)factor);
    routing->scale = scale;
    return MOE_OK;
}

/* [rows, top_k]; rows are the vocabulary, or as many as there are. */
static enum moe_status load_hash_table(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_routing *routing = &b->entry->routing;
    char full[MOE_TENSOR_NAME_SIZE];
    if (!moe_block_uses(axes, MOE_ROLE_HASH_TABLE))
        return MOE_OK;
    const struct moe_archive_tensor *tensor = moe_matrix_find(b, axes->names->role[MOE_ROLE_HASH_TABLE], 0, full);
    if (tensor == NULL)
        return moe_block_needs(axes, MOE_ROLE_HASH_TABLE) ? moe_matrix_fail_missing(b, full) : MOE_OK;
    const struct moe_tensor *info = &tensor->info;
    const char *path = moe_archive_part_path(b->model->archive, tensor->part);
    size_t rows = axes->hash_rows != 0 ? axes->hash_rows : info->shape[0];
    if (info->num_dims != 2 || info->shape[0] != rows || info->shape[1] != axes->top_k) {
        char found[MOE_SHAPE_SIZE];
        moe_matrix_describe_shape(found, info->shape, info->num_dims);
        return moe_fail(b->error, MOE_ERR_FORMAT, "%s: tensor '%s': expected shape [%zu, %zu], found %s", path, full,
                        rows, axes->top_k, found);
    }
    bool index = info->format != NULL &&
                 (info->format->format == MOE_FORMAT_I32 || info->format->format == MOE_FORMAT_I64);
    if (!index) {
        char type[32];
        moe_matrix_describe_type(type, info);
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%s': expected i32 or i64, found %s", path, full,
                        type);
    }
    const void *data;
    MOE_TRY(moe_archive_data(b->model->archive, tensor, &data, b->error));
    routing->hash_table =
        (struct moe_view){.base = (void *)data, .size = (size_t)info->size, .format = info->format->format};
    routing->hash_rows = rows;
    return MOE_OK;
}

enum moe_status moe_block_load_routing(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_model_entry *entry = b->entry;
    struct moe_routing *routing = &entry->routing;
    size_t num_ids = axes->num_experts + axes->num_zero_experts;
    *routing = axes->routing;
    MOE_TRY(load_router(b, axes, num_ids));
    MOE_TRY(load_factor(b, axes));
    bool two = axes->names->two_biases && has_rows(b, axes->names->role[MOE_ROLE_SELECTION_BIAS], 2);
    MOE_TRY(load_vector(b, axes, MOE_ROLE_SELECTION_BIAS, two ? 2 : 1, num_ids - axes->routing.num_always,
                        &routing->selection_bias));
    MOE_TRY(load_vector(b, axes, MOE_ROLE_EXPERT_SCALE, 1, num_ids, &routing->expert_scale));
    MOE_TRY(load_norm(b, axes, MOE_ROLE_ROUTER_NORM, axes->hidden_size, axes->router_norm_eps, &entry->router_norm,
                      &routing->norm));
    entry->router_norm.unit = axes->router_norm_unit;
    return load_hash_table(b, axes);
}

static enum moe_status load_latent(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_model_entry *entry = b->entry;
    const char *const *role = axes->names->role;
    struct moe_experts_params *params = &entry->latent_experts;
    size_t hidden = axes->hidden_size, latent = axes->latent_size;
    const struct moe_request in = {role[MOE_ROLE_LATENT_IN], 0, 1, 0, 1, latent, hidden, false};
    const struct moe_request out = {role[MOE_ROLE_LATENT_OUT], 0, 1, 0, 1, hidden, latent, false};
    MOE_TRY(moe_matrix_load(b, &in, &entry->latent_in, NULL));
    MOE_TRY(moe_matrix_load(b, &out, &entry->latent_out, NULL));
    MOE_TRY(load_vector(b, axes, MOE_ROLE_LATENT_IN_BIAS, 1, latent, &entry->latent_in.bias));
    MOE_TRY(load_vector(b, axes, MOE_ROLE_LATENT_OUT_BIAS, 1, hidden, &entry->latent_out.bias));
    MOE_INIT(params);
    params->num_experts = 1;
    params->hidden_size = hidden;
    params->intermediate_size = latent;
    params->up = &entry->latent_in;
    params->down = &entry->latent_out;
    entry->block.latent = params;
    return load_norm(b, axes, MOE_ROLE_LATENT_NORM, latent, axes->latent_norm_eps, &entry->latent_norm,
                     &entry->layer.latent_norm);
}

enum moe_status moe_block_load_output(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_model_entry *entry = b->entry;
    if (axes->latent_size != 0)
        MOE_TRY(load_latent(b, axes));
    MOE_TRY(load_vector(b, axes, MOE_ROLE_OUT_BIAS, 1, axes->hidden_size, &entry->layer.out_bias));
    return load_norm(b, axes, MOE_ROLE_OUT_NORM, axes->hidden_size, axes->out_norm_eps, &entry->out_norm,
                     &entry->layer.out_norm);
}
