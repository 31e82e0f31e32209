// SPDX-License-Identifier: MIT
// The experts of a block: which of a family's layouts its tensors have, and the three matrices, routed and shared.
#include <stdio.h>
#include <string.h>

#include "model_block.h"

struct mlp {
    struct moe_matrix *gate, *up, *down;
};

/* ---- layouts --------------------------------------------------------------------------------------------------- */

/* A matrix of all experts, or of one, as a tensor's shape; of a flat one the rows that are stored follow each other. */
static void expected_shape(size_t out[3], const struct moe_request *request, bool each, bool flat)
{
    bool transposed = (request->layout & MOE_MLP_TRANSPOSED) != 0;
    size_t rows = request->rows * request->num_parts;
    out[0] = each ? 1 : request->num_experts;
    out[1] = transposed ? request->cols : rows;
    out[2] = transposed ? rows : request->cols;
    if (flat) {
        out[1] *= out[0];
        out[0] = 1;
    }
}

static bool has_shape(const struct moe_build *b, const struct moe_request *request, bool flat)
{
    char full[MOE_TENSOR_NAME_SIZE];
    const struct moe_archive_tensor *tensor = moe_matrix_find(b, request->name, 0, full);
    if (tensor == NULL || tensor->info.num_dims > 3)
        return false;
    size_t expected[3], found[3] = {1, 1, 1}, dims = tensor->info.num_dims;
    expected_shape(expected, request, moe_matrix_is_each(request->name), flat);
    for (size_t i = 0; i < dims; i++)
        found[3 - dims + i] = tensor->info.shape[i];
    return memcmp(expected, found, sizeof found) == 0;
}

static uint32_t up_layout(uint32_t layout)
{
    return layout & (MOE_MLP_FUSED | MOE_MLP_TRANSPOSED | MOE_MLP_INTERLEAVED);
}

static uint32_t down_layout(uint32_t layout)
{
    return (layout & (MOE_MLP_TRANSPOSED | MOE_MLP_DOWN_TRANSPOSED)) != 0 ? MOE_MLP_TRANSPOSED : 0;
}

static bool fits(const struct moe_build *b, const struct moe_mlp_names *names, const struct moe_experts_params *sizes)
{
    size_t parts = (names->layout & MOE_MLP_FUSED) != 0 ? 2 : 1;
    size_t experts = sizes->num_experts, hidden = sizes->hidden_size, rows = sizes->intermediate_size;
    const struct moe_request up = {names->up, up_layout(names->layout), parts, 0, experts, rows, hidden, false};
    const struct moe_request down = {names->down, down_layout(names->layout), 1, 0, experts, hidden, rows, false};
    bool flat = (names->layout & MOE_MLP_FLAT) != 0;
    return has_shape(b, &up, flat) && has_shape(b, &down, flat);
}

const struct moe_mlp_names *moe_block_choose_layout(const struct moe_build *b, const struct moe_mlp_names *layouts,
                                                    const struct moe_experts_params *sizes)
{
    char full[MOE_TENSOR_NAME_SIZE];
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && layouts[i].up != NULL; i++)
        if (fits(b, &layouts[i], sizes))
            return &layouts[i];
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && layouts[i].up != NULL; i++)
        if (moe_matrix_find(b, layouts[i].up, 0, full) != NULL)
            return &layouts[i];
    return &layouts[0];
}

/* ---- matrices -------------------------------------------------------------------------------------------------- */

/* All experts in one matrix: it is loaded as that of one, and then cut. */
static enum moe_status load_flat(const struct moe_build *b, const struct moe_request *request, struct moe_matrix *out)
{
    struct moe_request whole = *request;
    size_t *stored = (request->layout & MOE_MLP_TRANSPOSED) != 0 ? &whole.cols : &whole.rows, each = *stored;
    whole.num_experts = 1;
    if (!moe_mul(stored, each, request->num_experts))
        return moe_fail(b->error, MOE_ERR_FORMAT, "%s: sizes of block %zu overflow",
                        moe_archive_path(b->model->archive), b->block);
    MOE_TRY(moe_matrix_load(b, &whole, out, NULL));
    if (out->scales != NULL)
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: block %zu: experts in one matrix of quantised values",
                        moe_archive_path(b->model->archive), b->block);
    out->expert_stride = each * out->data.stride;
    return MOE_OK;
}

static enum moe_status load_one(const struct moe_build *b, const struct moe_mlp_names *names,
                                struct moe_request *request, const char *bias, bool required, struct moe_matrix *out,
                                void **bases)
{
    if ((names->layout & MOE_MLP_FLAT) != 0)
        MOE_TRY(load_flat(b, request, out));
    else
        MOE_TRY(moe_matrix_load(b, request, out, bases));
    if (bias == NULL && required)
        return moe_fail(b->error, MOE_ERR_FORMAT, "%s: block %zu: the experts need biases, and '%s' has none beside it",
                        moe_archive_path(b->model->archive), b->block, request->name);
    if (bias == NULL)
        return MOE_OK;
    request->name = bias;
    return moe_matrix_load_vectors(b, request, required, &out->bias, &out->bias_element_stride);
}

/* bases: [3, num_experts], or NULL where experts are stacks. out->gate NULL: not gated. */
static enum moe_status load_mlp(const struct moe_build *b, const struct moe_mlp_names *names, bool biases,
                                const struct moe_experts_params *sizes, void **bases, const struct mlp *out)
{
    size_t experts = sizes->num_experts, hidden = sizes->hidden_size, rows = sizes->intermediate_size;
    bool fused = (names->layout & MOE_MLP_FUSED) != 0;
    size_t parts = fused ? 2 : 1;
    void **up_bases = bases != NULL ? bases + experts : NULL, **down_bases = bases != NULL ? up_bases + experts : NULL;
    uint32_t layout = up_layout(names->layout);
    struct moe_request gate = {fused ? names->up : names->gate, layout, parts, 0, experts, rows, hidden, false};
    struct moe_request up = {names->up, layout, parts, parts - 1, experts, rows, hidden, false};
    struct moe_request down = {names->down, down_layout(names->layout), 1, 0, experts, hidden, rows, false};
    if (out->gate != NULL)
        MOE_TRY(load_one(b, names, &gate, fused ? names->up_bias : names->gate_bias, biases, out->gate, bases));
    MOE_TRY(load_one(b, names, &up, names->up_bias, biases, out->up, up_bases));
    return load_one(b, names, &down, names->down_bias, biases, out->down, down_bases);
}

static enum moe_status fail_memory(const struct moe_build *b)
{
    return moe_fail(b->error, MOE_ERR_MEMORY, "%s: no memory for block %zu", moe_archive_path(b->model->archive),
                    b->block);
}

/* Addresses for the experts of a layout that has a tensor for each; *bases is NULL for others. */
static enum moe_status alloc_bases(const struct moe_build *b, const struct moe_mlp_names *names, size_t experts,
                                   void ***bases)
{
    *bases = NULL;
    if (!moe_matrix_is_each(names->up))
        return MOE_OK;
    if (experts > moe_archive_num_tensors(b->model->archive))
        return moe_fail(b->error, MOE_ERR_FORMAT, "%s: %zu experts in a block, but only %zu tensors in all",
                        moe_archive_path(b->model->archive), experts, moe_archive_num_tensors(b->model->archive));
    *bases = moe_model_block_alloc(b->model, b->entry, 3 * experts, sizeof **bases);
    return *bases == NULL ? fail_memory(b) : MOE_OK;
}

/* ---- routed experts, and those that are always chosen ------------------------------------------------------------ */

static unsigned char *address_of(const struct moe_matrix *matrix, size_t e)
{
    unsigned char *base = matrix->bases != NULL ? matrix->bases[e] : matrix->data.base;
    return base + matrix->data.offset + (matrix->bases != NULL ? 0 : e * matrix->expert_stride);
}

/* One matrix for two stacks that lie apart, by an address for each expert. */
static enum moe_status join(const struct moe_build *b, struct moe_matrix *out, const struct moe_matrix *more,
                            size_t experts, size_t always, size_t rows, size_t cols)
{
    size_t row_bytes = moe_format_row_bytes(out->data.format, cols);
    if (out->data.format != more->data.format || out->data.stride != more->data.stride || out->transposed ||
        more->transposed || out->scales != NULL || more->scales != NULL)
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED,
                        "%s: block %zu: shared experts are not of the format and layout of the routed ones",
                        moe_archive_path(b->model->archive), b->block);
    void **bases = moe_model_block_alloc(b->model, b->entry, experts + always, sizeof *bases);
    if (bases == NULL)
        return fail_memory(b);
    for (size_t e = 0; e < experts + always; e++)
        bases[e] = e < experts ? address_of(out, e) : address_of(more, e - experts);
    out->bases = bases;
    out->expert_stride = 0;
    out->data.base = NULL;
    out->data.offset = 0;
    out->data.size = (rows - 1) * out->data.stride + row_bytes;
    return MOE_OK;
}

static enum moe_status load_always(const struct moe_build *b, const struct moe_model_axes *axes, const struct mlp *out)
{
    struct moe_experts_params sizes = b->entry->experts;
    struct moe_matrix gate, up, down;
    const struct mlp more = {out->gate != NULL ? &gate : NULL, &up, &down};
    size_t always = axes->routing.num_always, experts = axes->num_experts - always;
    size_t hidden = sizes.hidden_size, rows = sizes.intermediate_size;
    void **bases;
    sizes.num_experts = always;
    const struct moe_mlp_names *layout = moe_block_choose_layout(b, axes->names->shared, &sizes);
    MOE_TRY(alloc_bases(b, layout, always, &bases));
    MOE_TRY(load_mlp(b, layout, axes->biases, &sizes, bases, &more));
    if (out->gate != NULL)
        MOE_TRY(join(b, out->gate, &gate, experts, always, rows, hidden));
    MOE_TRY(join(b, out->up, &up, experts, always, rows, hidden));
    return join(b, out->down, &down, experts, always, hidden, rows);
}

enum moe_status moe_block_load_experts(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_model_entry *entry = b->entry;
    struct moe_experts_params sizes = entry->experts;
    sizes.num_experts = axes->num_experts - axes->routing.num_always;
    const struct moe_mlp_names *layout = moe_block_choose_layout(b, axes->names->experts, &sizes);
    void **bases;
    MOE_TRY(alloc_bases(b, layout, sizes.num_experts, &bases));
    const struct mlp matrices = {axes->gated ? &entry->gate : NULL, &entry->up, &entry->down};
    MOE_TRY(load_mlp(b, layout, axes->biases, &sizes, bases, &matrices));
    if (axes->routing.num_always > 0)
        MOE_TRY(load_always(b, axes, &matrices));
    entry->experts.gate = matrices.gate;
    entry->experts.up = &entry->up;
    entry->experts.down = &entry->down;
    entry->experts.act = &entry->act;
    return MOE_OK;
}

/* ---- the shared expert ------------------------------------------------------------------------------------------- */

/* A shared expert that the metadata deny is not left out in silence. One without rows is none, but for its bias. */
static enum moe_status check_no_shared(const struct moe_build *b, const struct moe_model_axes *axes)
{
    char full[MOE_TENSOR_NAME_SIZE];
    if (axes->shared == MOE_PRESET_SHARED_NONE)
        return MOE_OK;
    const struct moe_mlp_names *layout = moe_block_choose_layout(b, axes->names->shared, &b->entry->experts);
    const struct moe_archive_tensor *up = moe_matrix_find(b, layout->up, 0, full);
    if (up == NULL || (up->info.size == 0 && !axes->shared_biases))
        return MOE_OK;
    return moe_fail(b->error, MOE_ERR_FORMAT,
                    "%s: tensor '%s' is there, but the metadata give block %zu no shared expert",
                    moe_archive_path(b->model->archive), full, b->block);
}

enum moe_status moe_block_load_shared(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_model_entry *entry = b->entry;
    struct moe_experts_params *params = &entry->shared_experts;
    if (axes->shared_size == 0)
        return check_no_shared(b, axes);
    MOE_INIT(params);
    params->num_experts = 1;
    params->hidden_size = axes->hidden_size;
    params->intermediate_size = axes->shared_size;
    const struct mlp matrices = {axes->shared_gated ? &entry->shared_gate_proj : NULL, &entry->shared_up,
                                 &entry->shared_down};
    const struct moe_mlp_names *layout = moe_block_choose_layout(b, axes->names->shared, params);
    MOE_TRY(load_mlp(b, layout, axes->shared_biases, params, NULL, &matrices));
    params->gate = matrices.gate;
    params->up = &entry->shared_up;
    params->down = &entry->shared_down;
    params->act = &entry->shared_act;
    MOE_INIT(&entry->shared);
    if (axes->shared == MOE_PRESET_SHARED_SIGMOID) {
        const char *name = axes->names->role[MOE_ROLE_SHARED_GATE];
        const struct moe_request gate = {name, 0, 1, 0, 1, 1, axes->hidden_size, true};
        MOE_TRY(moe_matrix_load(b, &gate, &entry->shared_gate, NULL));
        entry->shared.gate_kind = MOE_SHARED_SIGMOID;
        entry->shared.gate = &entry->shared_gate;
    }
    entry->layer.shared = &entry->shared;
    entry->block.shared = params;
    return MOE_OK;
}
