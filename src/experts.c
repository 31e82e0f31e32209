// SPDX-License-Identifier: MIT
// Expert weights: check what the caller described, and make it ready for the backend: in place where it can read the
// memory, otherwise copied, row by row, into one block of its memory.
#include <math.h>
#include <string.h>

#include "objects.h"
#include "view.h"

enum { PACK_ALIGN = 256 };

static const char *const matrix_names[MOE_MATRICES] = {"gate", "up", "down"};

static struct moe_stack *stack_of(struct moe_experts *experts, size_t m)
{
    struct moe_stack *stacks[MOE_MATRICES] = {&experts->set.gate, &experts->set.up, &experts->set.down};
    return stacks[m];
}

/* Expert e's part of a plane of rows x cols values; absent where the plane is. */
static struct moe_view slice_plane(const struct moe_plane *plane, size_t e, size_t rows, size_t cols)
{
    struct moe_view view = plane->data;
    if (plane->bases != NULL)
        view.base = plane->bases[e];
    else
        view.offset += e * plane->expert_stride;
    view.size = (rows - 1) * view.stride + moe_format_row_bytes(view.format, cols);
    return view;
}

static void slice_scales(struct moe_slice *slice, const struct moe_stack_scales *scales, size_t e)
{
    size_t block_rows = (scales->first_row + slice->rows - 1) / scales->block_rows + 1;
    size_t block_cols = (slice->cols - 1) / scales->block_cols + 1;
    slice->scaled = true;
    slice->scales = (struct moe_slice_scales){.first_row = scales->first_row,
                                              .block_rows = scales->block_rows,
                                              .block_cols = scales->block_cols,
                                              .zero_offset = scales->zero_offset};
    slice->scales.factor = scales->host_factors != NULL ? scales->host_factors[e] : 1.0f;
    if (scales->scale.data.base != NULL || scales->scale.bases != NULL)
        slice->scales.scale = slice_plane(&scales->scale, e, block_rows, block_cols);
    if (scales->zero.data.base != NULL || scales->zero.bases != NULL)
        slice->scales.zero = slice_plane(&scales->zero, e, block_rows, block_cols);
    if (scales->column_block.data.base != NULL || scales->column_block.bases != NULL)
        slice->scales.column_block = slice_plane(&scales->column_block, e, 1, slice->cols);
}

struct moe_slice moe_stack_slice(const struct moe_stack *stack, size_t e)
{
    struct moe_slice slice = {.data = stack->data, .rows = stack->rows, .cols = stack->cols};
    if (stack->bases != NULL)
        slice.data.base = stack->bases[e];
    else
        slice.data.offset += e * stack->expert_stride;
    slice.data.size = (stack->rows - 1) * stack->data.stride + moe_format_row_bytes(stack->data.format, stack->cols);
    if (stack->scales != NULL)
        slice_scales(&slice, stack->scales, e);
    return slice;
}

/* ---- checks ---- */

static enum moe_status check_act(const struct moe_act *act, struct moe_error *error)
{
    if ((unsigned)act->kind > MOE_ACT_SITU || (unsigned)act->clamp > MOE_CLAMP_AFTER)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "activation kind %d or clamp %d is unknown", (int)act->kind,
                        (int)act->clamp);
    if (act->clamp != MOE_CLAMP_NONE && !(act->limit > 0.0f))
        return moe_fail(error, MOE_ERR_ARGUMENT, "activation has a clamp with limit %g, which must be above 0",
                        (double)act->limit);
    if (!isfinite(act->alpha) || !isfinite(act->up_offset))
        return moe_fail(error, MOE_ERR_ARGUMENT, "activation has an alpha or up_offset that is not finite");
    if (act->kind == MOE_ACT_SITU && (!(act->beta > 0.0f) || !(act->beta_up >= 0.0f) || !isfinite(act->beta) ||
                                      !isfinite(act->beta_up)))
        return moe_fail(error, MOE_ERR_ARGUMENT, "activation has beta %g and beta_up %g, expected numbers above 0, and "
                        "from 0 on", (double)act->beta, (double)act->beta_up);
    return MOE_OK;
}

/* Is the bias inside its view: num_experts rows of `rows` values, neighbours bias_element_stride apart. */
static bool check_bias(struct moe_matrix *m, size_t num_experts, size_t rows)
{
    size_t value = moe_format_row_bytes(m->bias.format, 1), row_bytes, bytes, end;
    if (!moe_view_is_float(m->bias.format))
        return false;
    if (m->bias_element_stride == 0)
        m->bias_element_stride = value;
    if (m->bias_element_stride < value || !moe_mul(&row_bytes, rows - 1, m->bias_element_stride) ||
        !moe_add(&row_bytes, row_bytes, value))
        return false;
    if (m->bias.stride == 0)
        m->bias.stride = row_bytes;
    return (num_experts == 1 || m->bias.stride >= row_bytes) && moe_mul(&bytes, num_experts - 1, m->bias.stride) &&
           moe_add(&bytes, bytes, row_bytes) && bytes <= m->bias.size && moe_add(&end, m->bias.offset, m->bias.size);
}

/* ---- copies ---- */

/* Expert e as it is written to the backend: its codes, or its values with the scales in them. codes is room for what
 * the caller has, NULL where that is what is wanted. */
static enum moe_status read_expert(const struct moe_expert_source *source, struct moe_scales_expansion *expansion,
                                   size_t e, unsigned char *codes, unsigned char *out, struct moe_error *error)
{
    const struct moe_source *values = &source->values;
    if (codes == NULL) {
        moe_source_read(values, e, out);
        return MOE_OK;
    }
    moe_source_read(values, e, codes);
    moe_format_dequantise(values->matrix.data.format, (float *)out, codes, values->rows, values->cols);
    return moe_scales_expand(expansion, &source->scales, e, (float *)out, error);
}

/* Expert e taken apart, from its blocks: codes into values, scales behind them. */
static void split_expert(const struct moe_expert_source *source, const struct moe_stack *stack, size_t e,
                         unsigned char *blocks, unsigned char *values, unsigned char *scales)
{
    const size_t num_blocks = stack->cols / MOE_SPLIT_COLS, scale_bytes = stack->scales->scale.data.stride;
    const size_t block_bytes = moe_format_row_bytes(source->values.matrix.data.format, stack->cols);
    moe_source_read(&source->values, e, blocks);
    for (size_t r = 0; r < stack->rows; r++)
        source->split->row(values + r * stack->data.stride, scales + r * scale_bytes, blocks + r * block_bytes,
                           num_blocks);
}

static enum moe_status copy_split(struct moe_experts *experts, void *ctx, size_t m)
{
    const struct moe_backend *backend = experts->backend;
    const struct moe_expert_source *source = &experts->sources[m];
    const struct moe_stack *stack = stack_of(experts, m);
    const size_t value_bytes = stack->expert_stride, scale_bytes = stack->scales->scale.expert_stride;
    const size_t bytes = 2 * (value_bytes + scale_bytes);    /* blocks, which are as many bytes, and both planes */
    unsigned char *memory = moe_alloc(&backend->env, bytes);
    if (memory == NULL)
        return MOE_ERR_MEMORY;
    unsigned char *values = memory + value_bytes + scale_bytes;
    enum moe_status status = MOE_OK;
    for (size_t e = 0; e < stack->num_experts && status == MOE_OK; e++) {
        const struct moe_slice slice = moe_stack_slice(stack, e);
        split_expert(source, stack, e, memory, values, values + value_bytes);
        status = backend->ops->mem_write(backend->self, ctx, &slice.data, values, value_bytes);
        if (status == MOE_OK)
            status = backend->ops->mem_write(backend->self, ctx, &slice.scales.scale, values + value_bytes,
                                             scale_bytes);
    }
    moe_free(&backend->env, memory, bytes);
    return status;
}

static enum moe_status copy_values(struct moe_experts *experts, void *ctx, size_t m, struct moe_error *error)
{
    const struct moe_backend *backend = experts->backend;
    const struct moe_expert_source *source = &experts->sources[m];
    const struct moe_stack *stack = stack_of(experts, m);
    struct moe_scales_expansion expansion = {.memory = NULL};
    size_t bytes = stack->rows * moe_format_row_bytes(stack->data.format, stack->cols), code_bytes = 0;
    if (source->expanded)
        code_bytes = stack->rows * moe_format_row_bytes(source->values.matrix.data.format, stack->cols);
    enum moe_status status = MOE_OK;
    if (source->expanded)
        status = moe_scales_expand_begin(&expansion, &source->scales, &backend->env);
    unsigned char *staging = moe_alloc(&backend->env, bytes);
    unsigned char *codes = source->expanded ? moe_alloc(&backend->env, code_bytes) : NULL;
    if (staging == NULL || (source->expanded && codes == NULL))
        status = MOE_ERR_MEMORY;
    for (size_t e = 0; e < stack->num_experts && status == MOE_OK; e++) {
        struct moe_slice slice = moe_stack_slice(stack, e);
        status = read_expert(source, &expansion, e, codes, staging, error);
        if (status == MOE_OK)
            status = backend->ops->mem_write(backend->self, ctx, &slice.data, staging, bytes);
    }
    moe_free(&backend->env, codes, code_bytes);
    moe_free(&backend->env, staging, bytes);
    moe_scales_expand_end(&expansion, &backend->env);
    return status;
}

static void fill_host_bias(float *out, const struct moe_matrix *m, size_t num_experts, size_t rows)
{
    const unsigned char *in = (const unsigned char *)m->bias.base + m->bias.offset;
    for (size_t e = 0; e < num_experts; e++)
        for (size_t r = 0; r < rows; r++)
            moe_format_dequantise(m->bias.format, &out[e * rows + r],
                                  in + e * m->bias.stride + r * m->bias_element_stride, 1, 1);
}

static enum moe_status copy_all(struct moe_experts *experts, void *ctx, struct moe_error *error)
{
    const struct moe_backend *backend = experts->backend;
    for (size_t m = 0; m < MOE_MATRICES; m++) {
        struct moe_expert_source *source = &experts->sources[m];
        const struct moe_stack *stack = stack_of(experts, m);
        if (source->split != NULL)
            MOE_TRY(copy_split(experts, ctx, m));
        else if (source->values.copied)
            MOE_TRY(copy_values(experts, ctx, m, error));
        if (source->scales.there && !source->expanded)
            MOE_TRY(moe_scales_copy(&source->scales, backend->ops, backend->self, ctx, &backend->env, error));
        if (source->host_bias == NULL)
            continue;
        fill_host_bias(source->host_bias, &source->values.matrix, stack->num_experts, stack->rows);
        if (stack->bias.base != source->host_bias)
            MOE_TRY(backend->ops->mem_write(backend->self, ctx, &stack->bias, source->host_bias, stack->bias.size));
    }
    return MOE_OK;
}

/* ---- planning: what is read in place, what is copied, and where to ---- */

static enum moe_status reserve(size_t *offset, size_t *total, size_t num_experts, size_t rows, size_t row_bytes)
{
    size_t bytes;
    *offset = *total;
    if (!moe_mul(&bytes, rows, row_bytes) || !moe_mul(&bytes, bytes, num_experts) ||
        !moe_align(&bytes, bytes, PACK_ALIGN) || !moe_add(total, *total, bytes))
        return MOE_ERR_ARGUMENT;
    return MOE_OK;
}

static bool is_weight(enum moe_format format)
{
    return !moe_view_is_index(format);
}

static enum moe_status check_source(struct moe_expert_source *source, const struct moe_matrix *given, const char *name,
                                    const struct moe_stack *stack, struct moe_error *error)
{
    struct moe_matrix *m = &source->values.matrix;
    MOE_TRY(moe_source_check(&source->values, given, name, is_weight, stack->num_experts, stack->rows, stack->cols,
                             error));
    if (moe_format_row_bytes(m->data.format, stack->cols) == 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s has %zu columns, which are no whole number of %s blocks", name,
                        stack->cols, moe_format_info(m->data.format)->name);
    if (m->bias.base != NULL && !check_bias(m, stack->num_experts, stack->rows))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the bias of %s is not f32, f16 or bf16, or its view is too small",
                        name);
    if (m->scales == NULL)
        return MOE_OK;
    return moe_scales_check(&source->scales, m->scales, name, stack->num_experts, stack->rows, stack->cols, error);
}

/* What of a matrix is copied, and whether it can be. */
static enum moe_status choose_copies(struct moe_expert_source *source, const struct moe_backend_ops *ops,
                                     enum moe_location location, const char *name, struct moe_error *error)
{
    const struct moe_matrix *m = &source->values.matrix;
    bool host_memory = (ops->flags & MOE_BACKEND_HOST_MEMORY) != 0;
    bool readable = host_memory || location == MOE_LOCATION_BACKEND;
    source->expanded = source->scales.there && (ops->flags & MOE_BACKEND_SCALES) == 0;
    source->values.copied = m->transposed || m->packing != MOE_PACKING_NONE || source->expanded || !readable;
    if (source->values.copied && !source->scales.there && !host_memory && (ops->flags & MOE_BACKEND_PLANES) != 0)
        source->split = moe_split_find(m->data.format, source->values.cols);
    bool copies = source->values.copied || (source->scales.there && moe_scales_need_copies(&source->scales));
    if (copies && location == MOE_LOCATION_BACKEND && !host_memory)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s is %s in memory that the host cannot read", name,
                        m->transposed ? "transposed" : "packed, or has scales that must be copied,");
    return MOE_OK;
}

/* Where planes of codes and of scales go, each dense, and what the backend sees of them. */
static enum moe_status plan_split(struct moe_expert_source *source, struct moe_stack *stack, size_t *total)
{
    const struct moe_split *split = source->split;
    const size_t row_bytes = moe_format_row_bytes(split->codes, stack->cols), num_blocks = stack->cols / MOE_SPLIT_COLS;
    const size_t scale_bytes = moe_format_row_bytes(split->scales, num_blocks);
    MOE_TRY(reserve(&source->values.packed_offset, total, stack->num_experts, stack->rows, row_bytes));
    MOE_TRY(reserve(&source->split_offset, total, stack->num_experts, stack->rows, scale_bytes));
    stack->data.format = split->codes;
    stack->data.stride = row_bytes;
    stack->expert_stride = stack->rows * row_bytes;
    struct moe_stack_scales *scales = &source->scales.stack;
    *scales = (struct moe_stack_scales){.block_rows = 1,
                                        .block_cols = MOE_SPLIT_COLS,
                                        .zero_offset = split->zero_offset};
    scales->scale.data = (struct moe_view){.size = stack->num_experts * stack->rows * scale_bytes,
                                           .stride = scale_bytes,
                                           .format = split->scales};
    scales->scale.expert_stride = stack->rows * scale_bytes;
    stack->scales = scales;
    return MOE_OK;
}

static enum moe_status plan_matrix(struct moe_experts *experts, size_t m, const struct moe_matrix *given,
                                   enum moe_location location, size_t *total, struct moe_error *error)
{
    struct moe_stack *stack = stack_of(experts, m);
    struct moe_expert_source *source = &experts->sources[m];
    const struct moe_expert_set *set = &experts->set;
    const struct moe_backend_ops *ops = experts->backend->ops;
    bool host_memory = (ops->flags & MOE_BACKEND_HOST_MEMORY) != 0;
    stack->num_experts = set->num_experts;
    stack->rows = m == MOE_DOWN ? set->hidden_size : set->intermediate_size;
    stack->cols = m == MOE_DOWN ? set->intermediate_size : set->hidden_size;
    MOE_TRY(check_source(source, given, matrix_names[m], stack, error));
    MOE_TRY(choose_copies(source, ops, location, matrix_names[m], error));
    stack->data = source->values.matrix.data;
    stack->expert_stride = source->values.matrix.expert_stride;
    if (source->expanded)
        stack->data.format = MOE_FORMAT_F32;
    size_t row_bytes = moe_format_row_bytes(stack->data.format, stack->cols);
    enum moe_status status = row_bytes > 0 ? MOE_OK : MOE_ERR_ARGUMENT;
    if (status == MOE_OK && source->split != NULL) {
        status = plan_split(source, stack, total);
    } else if (status == MOE_OK && source->values.copied) {
        status = reserve(&source->values.packed_offset, total, stack->num_experts, stack->rows, row_bytes);
        stack->data.stride = row_bytes;
        stack->expert_stride = stack->rows * row_bytes;
    }
    if (status == MOE_OK && source->scales.there && !source->expanded) {
        stack->scales = &source->scales.stack;
        status = moe_scales_plan(&source->scales, host_memory || location == MOE_LOCATION_BACKEND, total);
    }
    if (status == MOE_OK && source->values.matrix.bias.base != NULL && !host_memory)
        status = reserve(&source->bias_offset, total, stack->num_experts, stack->rows, sizeof(float));
    return status == MOE_OK ? status : moe_fail(error, status, "%s is too large for memory", matrix_names[m]);
}

static enum moe_status plan(struct moe_experts *experts, const struct moe_experts_params *params, size_t *total,
                            struct moe_error *error)
{
    struct moe_experts_params own;
    struct moe_act act = {.struct_size = sizeof act};
    *total = 0;
    if (MOE_READ_PARAMS(&own, params) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT,
                        "moe_experts_params: NULL, without struct_size, or with unknown fields");
    if (own.num_experts == 0 || own.num_experts > MOE_MAX_EXPERTS || own.hidden_size == 0 || own.intermediate_size == 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "experts need 1..%d experts and sizes above 0, got %zu x %zu x %zu",
                        MOE_MAX_EXPERTS, own.num_experts, own.hidden_size, own.intermediate_size);
    if (own.up == NULL || own.down == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "experts need up and down matrices");
    if ((unsigned)own.location > MOE_LOCATION_BACKEND)
        return moe_fail(error, MOE_ERR_ARGUMENT, "experts have location %d, which is unknown", (int)own.location);
    if (own.act != NULL && MOE_READ_PARAMS(&act, own.act) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_act: without struct_size, or with unknown fields");
    MOE_TRY(check_act(&act, error));
    if (act.alpha == 0.0f)
        act.alpha = 1.0f;
    struct moe_expert_set *set = &experts->set;
    set->num_experts = own.num_experts;
    set->hidden_size = own.hidden_size;
    set->intermediate_size = own.intermediate_size;
    set->gated = own.gate != NULL;
    set->act = act;
    if (set->gated)
        MOE_TRY(plan_matrix(experts, MOE_GATE, own.gate, own.location, total, error));
    MOE_TRY(plan_matrix(experts, MOE_UP, own.up, own.location, total, error));
    return plan_matrix(experts, MOE_DOWN, own.down, own.location, total, error);
}

enum moe_status moe_experts_packed_size(struct moe_backend *backend, const struct moe_experts_params *params,
                                        size_t *bytes, struct moe_error *error)
{
    if (backend == NULL || bytes == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_experts_packed_size: backend or bytes is NULL");
    struct moe_experts experts = {.backend = backend};
    size_t needed;
    MOE_TRY(plan(&experts, params, &needed, error));
    *bytes = needed;
    return MOE_OK;
}

/* ---- creation ---- */

/* Bases and biases are the caller's only until creation returns: keep copies. */
static enum moe_status keep_source(struct moe_experts *experts, size_t m)
{
    const struct moe_env *env = &experts->backend->env;
    struct moe_expert_source *source = &experts->sources[m];
    struct moe_stack *stack = stack_of(experts, m);
    size_t values;
    MOE_TRY(moe_source_keep(&source->values, env));
    stack->bases = source->values.copied ? NULL : source->values.bases;
    if (source->scales.there)
        MOE_TRY(moe_scales_keep(&source->scales, env));
    if (source->values.matrix.bias.base == NULL)
        return MOE_OK;
    if (!moe_mul(&values, stack->num_experts, stack->rows))
        return MOE_ERR_MEMORY;
    source->host_bias = moe_alloc_array(env, values, sizeof(float));
    if (source->host_bias == NULL)
        return MOE_ERR_MEMORY;
    stack->host_bias = source->host_bias;
    stack->bias = (struct moe_view){.base = source->host_bias,
                                    .size = values * sizeof(float),
                                    .stride = stack->rows * sizeof(float),
                                    .format = MOE_FORMAT_F32};
    return MOE_OK;
}

/* Point the stacks into packed. */
static void place(struct moe_experts *experts)
{
    bool host_memory = (experts->backend->ops->flags & MOE_BACKEND_HOST_MEMORY) != 0;
    for (size_t m = 0; m < MOE_MATRICES; m++) {
        struct moe_expert_source *source = &experts->sources[m];
        struct moe_stack *stack = stack_of(experts, m);
        if (source->values.copied) {
            stack->data.base = experts->packed.base;
            stack->data.offset = experts->packed.offset + source->values.packed_offset;
            stack->data.size = stack->num_experts * stack->expert_stride;
        }
        if (source->scales.there && !source->expanded)
            moe_scales_place(&source->scales, &experts->packed);
        if (source->split != NULL) {
            source->scales.stack.scale.data.base = experts->packed.base;
            source->scales.stack.scale.data.offset = experts->packed.offset + source->split_offset;
        }
        if (source->host_bias != NULL && !host_memory) {
            stack->bias.base = experts->packed.base;
            stack->bias.offset = experts->packed.offset + source->bias_offset;
        }
    }
}

static enum moe_status provide_packed(struct moe_experts *experts, const struct moe_experts_params *params,
                                      size_t bytes, struct moe_error *error)
{
    struct moe_experts_params own;
    MOE_TRY(MOE_READ_PARAMS(&own, params));
    if (bytes == 0)
        return MOE_OK;
    if (own.packed.base == NULL) {
        experts->owns_packed = true;
        enum moe_status status = moe_mem_alloc(experts->backend, bytes, &experts->packed);
        return status == MOE_OK ? status : moe_fail(error, status, "no memory for %zu bytes of experts", bytes);
    }
    experts->packed = own.packed;
    bool addresses = (experts->backend->ops->flags & (MOE_BACKEND_HOST_MEMORY | MOE_BACKEND_ADDRESSES)) != 0;
    size_t end;
    if (own.packed.size < bytes || !moe_add(&end, own.packed.offset, own.packed.size))
        return moe_fail(error, MOE_ERR_ARGUMENT, "packed has %zu bytes, the experts need %zu", own.packed.size, bytes);
    if (addresses && ((uintptr_t)own.packed.base + own.packed.offset) % PACK_ALIGN != 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "packed is not aligned to %d bytes", PACK_ALIGN);
    return MOE_OK;
}

enum moe_status moe_experts_create(struct moe_backend *backend, const struct moe_experts_params *params,
                                   struct moe_experts **out, struct moe_error *error)
{
    if (out == NULL || backend == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "moe_experts_create: backend or out is NULL");
    *out = NULL;
    struct moe_experts *experts = moe_alloc(&backend->env, sizeof *experts);
    if (experts == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for experts");
    experts->backend = backend;
    size_t bytes;
    struct moe_error said = {.status = MOE_OK};
    enum moe_status status = plan(experts, params, &bytes, error);
    if (status == MOE_OK)
        status = provide_packed(experts, params, bytes, error);
    if (status == MOE_OK) {
        for (size_t m = experts->set.gated ? MOE_GATE : MOE_UP; m < MOE_MATRICES && status == MOE_OK; m++)
            status = keep_source(experts, m);
        if (status == MOE_OK) {
            place(experts);
            status = copy_all(experts, NULL, &said);
        }
        if (status != MOE_OK)
            moe_fail(error, status, "experts could not be copied: %s",
                     said.status != MOE_OK ? said.text : moe_status_text(status));
    }
    if (status != MOE_OK) {
        moe_experts_destroy(experts);
        return status;
    }
    *out = experts;
    return MOE_OK;
}

enum moe_status moe_experts_update(struct moe_context *ctx, struct moe_experts *experts)
{
    if (ctx == NULL || experts == NULL || ctx->backend != experts->backend)
        return MOE_ERR_ARGUMENT;
    return copy_all(experts, ctx->ctx, NULL);
}

void moe_experts_destroy(struct moe_experts *experts)
{
    if (experts == NULL)
        return;
    struct moe_backend *backend = experts->backend;
    for (size_t m = 0; m < MOE_MATRICES; m++) {
        struct moe_expert_source *source = &experts->sources[m];
        const struct moe_stack *stack = stack_of(experts, m);
        moe_source_free(&source->values, &backend->env);
        moe_scales_free(&source->scales, &backend->env);
        moe_free(&backend->env, source->host_bias, stack->num_experts * stack->rows * sizeof(float));
    }
    if (experts->owns_packed)
        moe_mem_free(backend, &experts->packed);
    moe_free(&backend->env, experts, sizeof *experts);
}
