// SPDX-License-Identifier: MIT
// The scales of a caller's matrix. Row-major scales are read in place where the backend can; zeros become u8, column
// blocks are copied and checked, factors become one f32 for each expert.
#include "scales.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scales_row.h"
#include "view.h"

enum { PACK_ALIGN = 256, NAME_SIZE = 64 };

static bool is_there(const struct moe_source *source)
{
    return source->num_experts > 0;
}

/* ---- checks ---- */

/* One of the four. */
static enum moe_status check_part(struct moe_source *out, const struct moe_matrix *given, const char *part,
                                  const char *name, moe_source_allow_fn *allow, size_t num_experts,
                                  const size_t shape[2], struct moe_error *error)
{
    char full[NAME_SIZE];
    if (given == NULL)
        return MOE_OK;
    snprintf(full, sizeof full, "the %s of %s", part, name);
    MOE_TRY(moe_source_check(out, given, full, allow, num_experts, shape[0], shape[1], error));
    if (out->matrix.scales != NULL || out->matrix.bias.base != NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s has scales or a bias of its own", full);
    return MOE_OK;
}

static bool is_scale(enum moe_format format)
{
    return moe_view_is_float(format) || format == MOE_FORMAT_E4M3 || format == MOE_FORMAT_E8M0;
}

static bool is_zero(enum moe_format format)
{
    return format == MOE_FORMAT_U4 || format == MOE_FORMAT_U8 || format == MOE_FORMAT_I8;
}

static bool is_index(enum moe_format format)
{
    return format == MOE_FORMAT_I32;
}

static enum moe_status check_blocks(struct moe_scales_source *out, const char *name, struct moe_error *error)
{
    struct moe_scales *s = &out->scales;
    size_t last;
    if (!isfinite(s->zero_offset))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the scales of %s have a zero_offset that is not finite", name);
    if (s->first_row > 0 && s->first_row >= s->block_rows)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the scales of %s have first_row %zu, beyond a block of %zu rows",
                        name, s->first_row, s->block_rows);
    if (s->block_rows == 0)
        s->block_rows = out->rows;
    if (s->block_cols == 0 || s->block_cols > out->cols)
        s->block_cols = out->cols;
    if (!moe_add(&last, s->first_row, out->rows - 1))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the scales of %s have first_row %zu, which is too large", name,
                        s->first_row);
    out->num_blocks[0] = last / s->block_rows + 1;
    out->num_blocks[1] = (out->cols - 1) / s->block_cols + 1;
    return MOE_OK;
}

enum moe_status moe_scales_check(struct moe_scales_source *out, const struct moe_scales *given, const char *name,
                                 size_t num_experts, size_t rows, size_t cols, struct moe_error *error)
{
    if (MOE_READ_PARAMS(&out->scales, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: its moe_scales is without struct_size, or has unknown fields",
                        name);
    const struct moe_scales *s = &out->scales;
    const size_t one[2] = {1, 1}, columns[2] = {1, cols};
    out->there = true;
    out->rows = rows;
    out->cols = cols;
    MOE_TRY(check_blocks(out, name, error));
    MOE_TRY(check_part(&out->scale, s->scale, "scale", name, is_scale, num_experts, out->num_blocks, error));
    MOE_TRY(check_part(&out->zero, s->zero, "zero", name, is_zero, num_experts, out->num_blocks, error));
    MOE_TRY(check_part(&out->factor, s->factor, "factor", name, moe_view_is_float, num_experts, one, error));
    return check_part(&out->column_block, s->column_block, "column_block", name, is_index, num_experts, columns, error);
}

/* ---- planning ---- */

static bool reserve(struct moe_source *source, size_t value_bytes, size_t *total)
{
    size_t bytes;
    source->copied = true;
    source->packed_offset = *total;
    return moe_mul(&bytes, source->rows, source->cols) && moe_mul(&bytes, bytes, value_bytes) &&
           moe_mul(&bytes, bytes, source->num_experts) && moe_align(&bytes, bytes, PACK_ALIGN) &&
           moe_add(total, *total, bytes);
}

/* Where expert e's part of a plane lies; a copy is dense. */
static struct moe_plane describe(const struct moe_source *source, enum moe_format format)
{
    struct moe_plane plane = {.data = source->matrix.data, .expert_stride = source->matrix.expert_stride};
    if (source->copied) {
        plane.data = (struct moe_view){.format = format, .stride = moe_format_row_bytes(format, source->cols)};
        plane.expert_stride = source->rows * plane.data.stride;
        plane.data.size = source->num_experts * plane.expert_stride;
    }
    return plane;
}

enum moe_status moe_scales_plan(struct moe_scales_source *scales, bool readable, size_t *total)
{
    const struct moe_scales *s = &scales->scales;
    bool fits = true;
    scales->stack = (struct moe_stack_scales){.first_row = s->first_row,
                                              .block_rows = s->block_rows,
                                              .block_cols = s->block_cols,
                                              .zero_offset = s->zero_offset};
    if (is_there(&scales->scale)) {
        enum moe_format format = scales->scale.matrix.data.format;
        if (scales->scale.matrix.transposed || !readable)
            fits = reserve(&scales->scale, moe_format_row_bytes(format, 1), total);
        scales->stack.scale = describe(&scales->scale, format);
    }
    if (is_there(&scales->zero)) {
        fits = fits && reserve(&scales->zero, 1, total);
        scales->stack.zero = describe(&scales->zero, MOE_FORMAT_U8);
        if (scales->zero.matrix.data.format == MOE_FORMAT_I8)
            scales->stack.zero_offset -= 128.0f;
    }
    if (is_there(&scales->column_block)) {
        fits = fits && reserve(&scales->column_block, sizeof(int32_t), total);
        scales->stack.column_block = describe(&scales->column_block, MOE_FORMAT_I32);
    }
    return fits ? MOE_OK : MOE_ERR_ARGUMENT;
}

bool moe_scales_need_copies(const struct moe_scales_source *scales)
{
    return is_there(&scales->zero) || is_there(&scales->column_block) || is_there(&scales->factor) ||
           (is_there(&scales->scale) && scales->scale.matrix.transposed);
}

enum moe_status moe_scales_keep(struct moe_scales_source *scales, const struct moe_env *env)
{
    struct moe_source *parts[] = {&scales->scale, &scales->zero, &scales->factor, &scales->column_block};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(parts); i++)
        if (is_there(parts[i]))
            MOE_TRY(moe_source_keep(parts[i], env));
    if (is_there(&scales->factor)) {
        scales->host_factors = moe_alloc_array(env, scales->factor.num_experts, sizeof(float));
        if (scales->host_factors == NULL)
            return MOE_ERR_MEMORY;
    }
    return MOE_OK;
}

void moe_scales_free(struct moe_scales_source *scales, const struct moe_env *env)
{
    struct moe_source *parts[] = {&scales->scale, &scales->zero, &scales->factor, &scales->column_block};
    moe_free(env, scales->host_factors, scales->factor.num_experts * sizeof(float));
    for (size_t i = 0; i < MOE_ARRAY_SIZE(parts); i++)
        moe_source_free(parts[i], env);
}

static void place(struct moe_plane *plane, const struct moe_source *source, const struct moe_view *packed)
{
    if (!is_there(source))
        return;
    plane->bases = source->copied ? NULL : source->bases;
    if (source->copied) {
        plane->data.base = packed->base;
        plane->data.offset = packed->offset + source->packed_offset;
    }
}

void moe_scales_place(struct moe_scales_source *scales, const struct moe_view *packed)
{
    place(&scales->stack.scale, &scales->scale, packed);
    place(&scales->stack.zero, &scales->zero, packed);
    place(&scales->stack.column_block, &scales->column_block, packed);
    scales->stack.host_factors = scales->host_factors;
}

/* ---- copies ---- */

/* Expert e's factor, as a multiplier. */
static float read_factor(const struct moe_scales_source *scales, size_t e)
{
    unsigned char bytes[sizeof(float)];
    float factor = 1.0f;
    if (!is_there(&scales->factor))
        return factor;
    moe_source_read(&scales->factor, e, bytes);
    moe_format_dequantise(scales->factor.matrix.data.format, &factor, bytes, 1, 1);
    return scales->scales.factor_divides ? 1.0f / factor : factor;
}

static enum moe_status read_column_block(const struct moe_scales_source *scales, size_t e, int32_t *out,
                                         struct moe_error *error)
{
    moe_source_read(&scales->column_block, e, (unsigned char *)out);
    for (size_t c = 0; c < scales->cols; c++)
        if (out[c] < 0 || (size_t)out[c] >= scales->num_blocks[1])
            return moe_fail(error, MOE_ERR_ARGUMENT,
                            "column %zu of expert %zu is in block %ld, expected 0 to %zu", c, e, (long)out[c],
                            scales->num_blocks[1] - 1);
    return MOE_OK;
}

/* Where expert e of a plane is written to. */
static struct moe_view plane_of(const struct moe_plane *plane, size_t e)
{
    struct moe_view view = plane->data;
    if (plane->bases != NULL)
        view.base = plane->bases[e];
    else
        view.offset += e * plane->expert_stride;
    return view;
}

static enum moe_status copy_expert(const struct moe_scales_source *scales, size_t e, unsigned char *staging,
                                   const struct moe_backend_ops *ops, void *self, void *ctx, struct moe_error *error)
{
    const struct moe_stack_scales *stack = &scales->stack;
    if (scales->scale.copied) {
        struct moe_view view = plane_of(&stack->scale, e);
        moe_source_read(&scales->scale, e, staging);
        MOE_TRY(ops->mem_write(self, ctx, &view, staging, stack->scale.expert_stride));
    }
    if (scales->zero.copied) {
        struct moe_view view = plane_of(&stack->zero, e);
        moe_source_read_bytes(&scales->zero, e, staging);
        MOE_TRY(ops->mem_write(self, ctx, &view, staging, stack->zero.expert_stride));
    }
    if (scales->column_block.copied) {
        struct moe_view view = plane_of(&stack->column_block, e);
        MOE_TRY(read_column_block(scales, e, (int32_t *)staging, error));
        MOE_TRY(ops->mem_write(self, ctx, &view, staging, stack->column_block.expert_stride));
    }
    return MOE_OK;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

enum moe_status moe_scales_copy(struct moe_scales_source *scales, const struct moe_backend_ops *ops, void *self,
                                void *ctx, const struct moe_env *env, struct moe_error *error)
{
    const struct moe_stack_scales *stack = &scales->stack;
    size_t num_experts = scales->host_factors != NULL ? scales->factor.num_experts : 0;
    for (size_t e = 0; e < num_experts; e++)
        scales->host_factors[e] = read_factor(scales, e);
    const struct moe_source *parts[] = {&scales->scale, &scales->zero, &scales->column_block};
    const struct moe_plane *planes[] = {&stack->scale, &stack->zero, &stack->column_block};
    size_t bytes = 0;
    num_experts = 0;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(parts); i++)
        if (parts[i]->copied) {
            bytes = larger(bytes, planes[i]->expert_stride);
            num_experts = parts[i]->num_experts;
        }
    if (num_experts == 0)
        return MOE_OK;
    unsigned char *staging = moe_alloc(env, bytes);
    if (staging == NULL)
        return MOE_ERR_MEMORY;
    enum moe_status status = MOE_OK;
    for (size_t e = 0; e < num_experts && status == MOE_OK; e++)
        status = copy_expert(scales, e, staging, ops, self, ctx, error);
    moe_free(env, staging, bytes);
    return status;
}

/* ---- expansion ---- */

/* Room for the plane of one expert at *bytes, 64-byte aligned; the view's base is set once there is memory. */
static bool add_plane(struct moe_view *view, const struct moe_source *source, enum moe_format format, size_t *bytes)
{
    size_t size;
    if (!is_there(source))
        return true;
    view->format = format;
    view->offset = *bytes;
    view->stride = moe_format_row_bytes(format, source->cols);
    return moe_mul(&size, source->rows, view->stride) && moe_align(&size, size, 64) && moe_add(bytes, *bytes, size);
}

enum moe_status moe_scales_expand_begin(struct moe_scales_expansion *expansion, const struct moe_scales_source *scales,
                                        const struct moe_env *env)
{
    struct moe_slice_scales *slice = &expansion->slice;
    memset(expansion, 0, sizeof *expansion);
    slice->first_row = scales->scales.first_row;
    slice->block_rows = scales->scales.block_rows;
    slice->block_cols = scales->scales.block_cols;
    slice->zero_offset = scales->scales.zero_offset;
    if (is_there(&scales->zero) && scales->zero.matrix.data.format == MOE_FORMAT_I8)
        slice->zero_offset -= 128.0f;
    if (!add_plane(&slice->scale, &scales->scale, scales->scale.matrix.data.format, &expansion->bytes) ||
        !add_plane(&slice->zero, &scales->zero, MOE_FORMAT_U8, &expansion->bytes) ||
        !add_plane(&slice->column_block, &scales->column_block, MOE_FORMAT_I32, &expansion->bytes))
        return MOE_ERR_ARGUMENT;
    expansion->memory = moe_alloc(env, expansion->bytes);
    if (expansion->memory == NULL)
        return MOE_ERR_MEMORY;
    slice->scale.base = is_there(&scales->scale) ? expansion->memory : NULL;
    slice->zero.base = is_there(&scales->zero) ? expansion->memory : NULL;
    slice->column_block.base = is_there(&scales->column_block) ? expansion->memory : NULL;
    return MOE_OK;
}

enum moe_status moe_scales_expand(struct moe_scales_expansion *expansion, const struct moe_scales_source *scales,
                                  size_t e, float *values, struct moe_error *error)
{
    struct moe_slice_scales *slice = &expansion->slice;
    slice->factor = read_factor(scales, e);
    if (slice->scale.base != NULL)
        moe_source_read(&scales->scale, e, expansion->memory + slice->scale.offset);
    if (slice->zero.base != NULL)
        moe_source_read_bytes(&scales->zero, e, expansion->memory + slice->zero.offset);
    if (slice->column_block.base != NULL)
        MOE_TRY(read_column_block(scales, e, (int32_t *)(expansion->memory + slice->column_block.offset), error));
    for (size_t r = 0; r < scales->rows; r++)
        moe_scales_apply(values + r * scales->cols, slice, r, 0, scales->cols);
    return MOE_OK;
}

void moe_scales_expand_end(struct moe_scales_expansion *expansion, const struct moe_env *env)
{
    moe_free(env, expansion->memory, expansion->bytes);
    expansion->memory = NULL;
}
