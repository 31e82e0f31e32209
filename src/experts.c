// SPDX-License-Identifier: MIT
// Expert weights: check what the caller described, and make it ready for the backend: in place where it can read the
// memory, otherwise copied, row by row, into one block of its memory.
#include <math.h>
#include <string.h>

#include "objects.h"
#include "view.h"

enum { PACK_ALIGN = 256, TILE_ROWS = 32 };

static const char *const matrix_names[MOE_MATRICES] = {"gate", "up", "down"};

static struct moe_stack *stack_of(struct moe_experts *experts, size_t m)
{
    struct moe_stack *stacks[MOE_MATRICES] = {&experts->set.gate, &experts->set.up, &experts->set.down};
    return stacks[m];
}

struct moe_slice moe_stack_slice(const struct moe_stack *stack, size_t e)
{
    struct moe_slice slice = {.data = stack->data, .rows = stack->rows, .cols = stack->cols};
    if (stack->bases != NULL)
        slice.data.base = stack->bases[e];
    else
        slice.data.offset += e * stack->expert_stride;
    slice.data.size = (stack->rows - 1) * stack->data.stride + moe_format_row_bytes(stack->data.format, stack->cols);
    return slice;
}

/* ---- checks ---- */

static enum moe_status check_act(const struct moe_act *act, struct moe_error *error)
{
    if ((unsigned)act->kind > MOE_ACT_RELU2 || (unsigned)act->clamp > MOE_CLAMP_AFTER)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "activation kind %d or clamp %d is unknown", (int)act->kind,
                        (int)act->clamp);
    if (act->clamp != MOE_CLAMP_NONE && !(act->limit > 0.0f))
        return moe_fail(error, MOE_ERR_ARGUMENT, "activation has a clamp with limit %g, which must be above 0",
                        (double)act->limit);
    if (!isfinite(act->alpha) || !isfinite(act->up_offset))
        return moe_fail(error, MOE_ERR_ARGUMENT, "activation has an alpha or up_offset that is not finite");
    return MOE_OK;
}

/* Fill in the strides of a matrix and its expert_bytes. rows and cols are as the product sees them. */
static bool fill_strides(struct moe_source *source, size_t rows, size_t cols)
{
    struct moe_matrix *m = &source->matrix;
    size_t value_bytes = moe_format_row_bytes(m->data.format, 1); /* 0 for formats in blocks */
    size_t stored_rows = m->transposed ? cols : rows, row_bytes, last;
    if (m->transposed) {
        if (m->element_stride == 0)
            m->element_stride = value_bytes;
        if (m->element_stride < value_bytes || !moe_mul(&last, rows - 1, m->element_stride) ||
            !moe_add(&row_bytes, last, value_bytes))
            return false;
    } else {
        row_bytes = moe_format_row_bytes(m->data.format, cols);
    }
    if (m->data.stride == 0)
        m->data.stride = row_bytes;
    if (m->data.stride < row_bytes || !moe_mul(&last, stored_rows - 1, m->data.stride) ||
        !moe_add(&source->expert_bytes, last, row_bytes))
        return false;
    if (m->expert_stride == 0 && !moe_mul(&m->expert_stride, stored_rows, m->data.stride))
        return false;
    return true;
}

static enum moe_status check_matrix(struct moe_source *source, const char *name, size_t num_experts, size_t rows,
                                    size_t cols, struct moe_error *error)
{
    const struct moe_matrix *m = &source->matrix;
    const struct moe_format_info *format = moe_format_info(m->data.format);
    if (format == NULL || m->data.format == MOE_FORMAT_I32 || m->data.format == MOE_FORMAT_I64)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s has format %d, which is not a format of weights", name,
                        (int)m->data.format);
    if (m->transposed && format->block_values != 1)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s is transposed in format %s, which comes in blocks", name,
                        format->name);
    if (!m->transposed && moe_format_row_bytes(m->data.format, cols) == 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s has %zu columns, which are no whole number of %s blocks of %u",
                        name, cols, format->name, (unsigned)format->block_values);
    if (!fill_strides(source, rows, cols))
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s [%zu, %zu] has a stride below its row, or is too large", name,
                        rows, cols);
    size_t extent = source->expert_bytes, last;
    if (m->bases == NULL) {
        if (m->data.base == NULL)
            return moe_fail(error, MOE_ERR_ARGUMENT, "%s has neither a base nor bases", name);
        if (!moe_mul(&last, num_experts - 1, m->expert_stride) || !moe_add(&extent, last, extent))
            return moe_fail(error, MOE_ERR_ARGUMENT, "%s: %zu experts are too large for memory", name, num_experts);
    }
    if (!moe_add(&last, m->data.offset, m->data.size))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the view of %s ends beyond the last address", name);
    if (extent > m->data.size)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s needs %zu bytes, its view has %zu", name, extent, m->data.size);
    for (size_t e = 0; m->bases != NULL && e < num_experts; e++)
        if (m->bases[e] == NULL)
            return moe_fail(error, MOE_ERR_ARGUMENT, "%s has no base for expert %zu", name, e);
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

/* Rows of expert e, dense, from where the caller has them. */
static void gather_rows(const struct moe_source *source, size_t e, size_t rows, size_t cols, unsigned char *out)
{
    const struct moe_matrix *m = &source->matrix;
    const unsigned char *in =
        m->bases != NULL ? m->bases[e] : (const unsigned char *)m->data.base + e * m->expert_stride;
    in += m->data.offset;
    size_t row_bytes = moe_format_row_bytes(m->data.format, cols);
    if (!m->transposed) {
        for (size_t r = 0; r < rows; r++)
            memcpy(out + r * row_bytes, in + r * m->data.stride, row_bytes);
        return;
    }
    size_t value = row_bytes / cols;
    for (size_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        size_t r1 = r0 + TILE_ROWS < rows ? r0 + TILE_ROWS : rows;
        for (size_t c = 0; c < cols; c++)
            for (size_t r = r0; r < r1; r++)
                memcpy(out + r * row_bytes + c * value, in + c * m->data.stride + r * m->element_stride, value);
    }
}

static enum moe_status copy_matrix(struct moe_experts *experts, void *ctx, size_t m)
{
    const struct moe_backend *backend = experts->backend;
    const struct moe_stack *stack = stack_of(experts, m);
    size_t bytes = stack->rows * moe_format_row_bytes(stack->data.format, stack->cols);
    unsigned char *staging = moe_alloc(&backend->env, bytes);
    if (staging == NULL)
        return MOE_ERR_MEMORY;
    enum moe_status status = MOE_OK;
    for (size_t e = 0; e < stack->num_experts && status == MOE_OK; e++) {
        gather_rows(&experts->sources[m], e, stack->rows, stack->cols, staging);
        struct moe_slice slice = moe_stack_slice(stack, e);
        status = backend->ops->mem_write(backend->self, ctx, &slice.data, staging, bytes);
    }
    moe_free(&backend->env, staging, bytes);
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

static enum moe_status copy_all(struct moe_experts *experts, void *ctx)
{
    const struct moe_backend *backend = experts->backend;
    for (size_t m = 0; m < MOE_MATRICES; m++) {
        const struct moe_source *source = &experts->sources[m];
        const struct moe_stack *stack = stack_of(experts, m);
        if (source->copied)
            MOE_TRY(copy_matrix(experts, ctx, m));
        if (source->host_bias == NULL)
            continue;
        fill_host_bias(source->host_bias, &source->matrix, stack->num_experts, stack->rows);
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

static enum moe_status plan_matrix(struct moe_experts *experts, size_t m, const struct moe_matrix *given,
                                   enum moe_location location, size_t *total, struct moe_error *error)
{
    struct moe_stack *stack = stack_of(experts, m);
    struct moe_source *source = &experts->sources[m];
    const struct moe_expert_set *set = &experts->set;
    bool host_memory = (experts->backend->ops->flags & MOE_BACKEND_HOST_MEMORY) != 0;
    stack->num_experts = set->num_experts;
    stack->rows = m == MOE_DOWN ? set->hidden_size : set->intermediate_size;
    stack->cols = m == MOE_DOWN ? set->intermediate_size : set->hidden_size;
    if (MOE_READ_PARAMS(&source->matrix, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: its moe_matrix is without struct_size, or has unknown fields",
                        matrix_names[m]);
    MOE_TRY(check_matrix(source, matrix_names[m], stack->num_experts, stack->rows, stack->cols, error));
    if (source->matrix.bias.base != NULL && !check_bias(&source->matrix, stack->num_experts, stack->rows))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the bias of %s is not f32, f16 or bf16, or its view is too small",
                        matrix_names[m]);
    bool readable = host_memory || location == MOE_LOCATION_BACKEND;
    source->copied = source->matrix.transposed || !readable;
    if (source->copied && location == MOE_LOCATION_BACKEND && !host_memory)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s is transposed in memory that the host cannot read",
                        matrix_names[m]);
    stack->data = source->matrix.data;
    stack->expert_stride = source->matrix.expert_stride;
    size_t row_bytes = moe_format_row_bytes(stack->data.format, stack->cols);
    enum moe_status status = MOE_OK;
    if (source->copied) {
        stack->data.stride = row_bytes;
        stack->expert_stride = stack->rows * row_bytes;
        status = reserve(&source->packed_offset, total, stack->num_experts, stack->rows, row_bytes);
    }
    if (status == MOE_OK && source->matrix.bias.base != NULL && !host_memory)
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
    struct moe_source *source = &experts->sources[m];
    struct moe_stack *stack = stack_of(experts, m);
    size_t num_experts = stack->num_experts, values;
    if (source->matrix.bases != NULL) {
        source->bases = moe_alloc_array(env, num_experts, sizeof *source->bases);
        if (source->bases == NULL)
            return MOE_ERR_MEMORY;
        memcpy(source->bases, source->matrix.bases, num_experts * sizeof *source->bases);
        source->matrix.bases = source->bases;
        stack->bases = source->copied ? NULL : source->bases;
    }
    if (source->matrix.bias.base == NULL)
        return MOE_OK;
    if (!moe_mul(&values, num_experts, stack->rows))
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
        struct moe_source *source = &experts->sources[m];
        struct moe_stack *stack = stack_of(experts, m);
        if (source->copied) {
            stack->data.base = experts->packed.base;
            stack->data.offset = experts->packed.offset + source->packed_offset;
            stack->data.size = stack->num_experts * stack->expert_stride;
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
    bool host_memory = (experts->backend->ops->flags & MOE_BACKEND_HOST_MEMORY) != 0;
    size_t end;
    if (own.packed.size < bytes || !moe_add(&end, own.packed.offset, own.packed.size))
        return moe_fail(error, MOE_ERR_ARGUMENT, "packed has %zu bytes, the experts need %zu", own.packed.size, bytes);
    if (host_memory && ((uintptr_t)own.packed.base + own.packed.offset) % PACK_ALIGN != 0)
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
    enum moe_status status = plan(experts, params, &bytes, error);
    if (status == MOE_OK)
        status = provide_packed(experts, params, bytes, error);
    if (status == MOE_OK) {
        for (size_t m = experts->set.gated ? MOE_GATE : MOE_UP; m < MOE_MATRICES && status == MOE_OK; m++)
            status = keep_source(experts, m);
        if (status == MOE_OK) {
            place(experts);
            status = copy_all(experts, NULL);
        }
        if (status != MOE_OK)
            moe_fail(error, status, "experts could not be copied: %s", moe_status_text(status));
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
    return copy_all(experts, ctx->ctx);
}

void moe_experts_destroy(struct moe_experts *experts)
{
    if (experts == NULL)
        return;
    struct moe_backend *backend = experts->backend;
    for (size_t m = 0; m < MOE_MATRICES; m++) {
        const struct moe_source *source = &experts->sources[m];
        const struct moe_stack *stack = stack_of(experts, m);
        moe_free(&backend->env, source->bases, stack->num_experts * sizeof *source->bases);
        moe_free(&backend->env, source->host_bias, stack->num_experts * stack->rows * sizeof(float));
    }
    if (experts->owns_packed)
        moe_mem_free(backend, &experts->packed);
    moe_free(&backend->env, experts, sizeof *experts);
}
