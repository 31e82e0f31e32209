// SPDX-License-Identifier: MIT
// Parts of quantised matrices: the tensors that belong to one, under the names and in the shapes that files have, and
// the blocks of their scales.
#include "model_quant_parts.h"

#include <stdio.h>
#include <string.h>

#include "view.h"

size_t moe_quant_blocks(size_t n, size_t block)
{
    return n / block + (n % block != 0);
}

/* ---- names ---------------------------------------------------------------------------------------------------- */

enum { NAME_STYLES = 3 };

/* "a.weight" and ".weight_scale" give "a.weight_scale"; "a" gives "a_scale", "a_weight_scale" or "a.weight_scale". */
static bool make_name(char out[MOE_TENSOR_NAME_SIZE], const char *plain, const char *suffix, size_t length, int style)
{
    static const char weight[] = ".weight";
    size_t stem = strlen(plain), skip = sizeof weight - 1;
    bool named = stem > skip && strcmp(plain + stem - skip, weight) == 0;
    bool of_weight = strncmp(suffix, weight, skip) == 0;
    const char *join = "";
    if (named) {
        stem -= skip;
    } else if (style == 0 && of_weight) {
        suffix += skip;
        length -= skip;
    } else if (style <= 1) {
        suffix++;
        length--;
        join = "_";
    }
    int written = snprintf(out, MOE_TENSOR_NAME_SIZE, "%.*s%s%.*s", (int)stem, plain, join, (int)length, suffix);
    return written > 0 && written < MOE_TENSOR_NAME_SIZE && !(named && style > 0);
}

const struct moe_archive_tensor *moe_quant_find_part(const struct moe_archive *archive, const char *plain,
                                                     const char *suffixes, char full[MOE_TENSOR_NAME_SIZE])
{
    char name[MOE_TENSOR_NAME_SIZE], first[MOE_TENSOR_NAME_SIZE] = "";
    for (const char *suffix = suffixes; *suffix != '\0';) {
        size_t length = strcspn(suffix, "|");
        for (int style = 0; style < NAME_STYLES; style++) {
            if (!make_name(name, plain, suffix, length, style))
                continue;
            const struct moe_archive_tensor *tensor = moe_archive_find(archive, name);
            if (tensor != NULL) {
                memcpy(full, name, sizeof name);
                return tensor;
            }
            if (first[0] == '\0')
                memcpy(first, name, sizeof first);
        }
        suffix += length + (suffix[length] == '|');
    }
    if (first[0] != '\0')
        memcpy(full, first, sizeof first);
    return NULL;
}

/* ---- tensors -------------------------------------------------------------------------------------------------- */

static const char *path_of(const struct moe_quant *q, const struct moe_archive_tensor *tensor)
{
    return moe_archive_part_path(q->b->model->archive, tensor->part);
}

enum moe_status moe_quant_fail_memory(const struct moe_quant *q)
{
    return moe_fail(q->b->error, MOE_ERR_MEMORY, "%s: no memory for block %zu", moe_archive_path(q->b->model->archive),
                    q->b->block);
}

/* The shape of one expert without dimensions of 1; of a stack without the experts. */
static void reduce_shape(const struct moe_quant *q, struct moe_quant_part *part)
{
    const struct moe_tensor *info = &part->tensor->info;
    bool stack = !q->each && q->request->num_experts > 1 && info->num_dims > 0 &&
                 info->shape[0] == q->request->num_experts;
    part->num_experts = stack ? q->request->num_experts : 1;
    part->num_dims = 0;
    for (size_t d = stack ? 1 : 0; d < info->num_dims; d++)
        if (info->shape[d] != 1)
            part->shape[part->num_dims++] = info->shape[d];
}

static enum moe_status check_same(const struct moe_quant *q, const struct moe_archive_tensor *first,
                                  const struct moe_archive_tensor *tensor)
{
    const struct moe_tensor *a = &first->info, *b = &tensor->info;
    if (a->type == b->type && a->num_dims == b->num_dims &&
        memcmp(a->shape, b->shape, a->num_dims * sizeof *a->shape) == 0)
        return MOE_OK;
    char wanted[MOE_SHAPE_SIZE], found[MOE_SHAPE_SIZE], wanted_type[32], found_type[32];
    moe_matrix_describe_shape(wanted, a->shape, a->num_dims);
    moe_matrix_describe_shape(found, b->shape, b->num_dims);
    moe_matrix_describe_type(wanted_type, a);
    moe_matrix_describe_type(found_type, b);
    return moe_fail(q->b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s': expected %s %s as in expert 0, found %s %s",
                    path_of(q, tensor), b->name, wanted_type, wanted, found_type, found);
}

/* A tensor for each expert. */
static enum moe_status load_each(const struct moe_quant *q, struct moe_quant_part *out, const char *suffixes,
                                 bool required)
{
    struct moe_archive *archive = q->b->model->archive;
    for (size_t e = 0; e < q->request->num_experts; e++) {
        struct moe_matrix_name name;
        char full[MOE_TENSOR_NAME_SIZE];
        const void *data;
        moe_matrix_find_name(q->b, q->request->name, e, &name);
        memcpy(full, name.plain, sizeof full);
        const struct moe_archive_tensor *tensor = moe_quant_find_part(archive, name.plain, suffixes, full);
        if (tensor == NULL && e == 0 && !required)
            return MOE_OK;
        if (tensor == NULL)
            return moe_matrix_fail_missing(q->b, full);
        if (e == 0) {
            out->tensor = tensor;
            reduce_shape(q, out);
        }
        MOE_TRY(check_same(q, out->tensor, tensor));
        MOE_TRY(moe_archive_data(archive, tensor, &data, q->b->error));
        out->bases[e] = (void *)data;
    }
    return MOE_OK;
}

static bool alloc_bases(const struct moe_quant *q, struct moe_quant_part *out, void **bases)
{
    out->bases = bases != NULL ? bases : moe_model_block_alloc(q->b->model, q->b->entry, q->request->num_experts,
                                                               sizeof *out->bases);
    return out->bases != NULL;
}

enum moe_status moe_quant_load_part(const struct moe_quant *q, struct moe_quant_part *out, const char *suffixes,
                                    bool required, void **bases)
{
    struct moe_archive *archive = q->b->model->archive;
    struct moe_matrix_name name;
    char full[MOE_TENSOR_NAME_SIZE];
    memset(out, 0, sizeof *out);
    if (q->each)
        return alloc_bases(q, out, bases) ? load_each(q, out, suffixes, required) : moe_quant_fail_memory(q);
    moe_matrix_find_name(q->b, q->request->name, 0, &name);
    out->tensor = moe_quant_find_part(archive, name.plain, suffixes, full);
    if (out->tensor == NULL)
        return required ? moe_matrix_fail_missing(q->b, full) : MOE_OK;
    reduce_shape(q, out);
    MOE_TRY(moe_archive_data(archive, out->tensor, &out->data, q->b->error));
    if (out->num_experts == q->request->num_experts || out->num_dims > 0)
        return MOE_OK;
    if (!alloc_bases(q, out, NULL))   /* one value for all experts */
        return moe_quant_fail_memory(q);
    for (size_t e = 0; e < q->request->num_experts; e++)
        out->bases[e] = (void *)out->data;
    return MOE_OK;
}

bool moe_quant_part_has(const struct moe_quant *q, const struct moe_quant_part *part, size_t a, size_t b, size_t c)
{
    const size_t wanted[] = {a, b, c};
    size_t count = 0;
    for (size_t d = 0; d < MOE_ARRAY_SIZE(wanted); d++) {
        if (wanted[d] == 1)
            continue;
        if (count >= part->num_dims || part->shape[count] != wanted[d])
            return false;
        count++;
    }
    /* a stack's tensor has all experts; a single value may be that of all */
    bool all = q->each || part->num_experts == q->request->num_experts || part->num_dims == 0;
    return count == part->num_dims && all;
}

enum moe_status moe_quant_fail_shape(const struct moe_quant *q, const struct moe_quant_part *part, size_t a, size_t b,
                                     size_t c)
{
    const struct moe_tensor *info = &part->tensor->info;
    const size_t all[] = {q->request->num_experts, a, b, c};
    bool stack = !q->each && q->request->num_experts > 1;
    char wanted[MOE_SHAPE_SIZE], found[MOE_SHAPE_SIZE];
    size_t num_dims = (c > 1 ? 3u : 2u) + (stack ? 1u : 0u);
    moe_matrix_describe_shape(wanted, all + (stack ? 0 : 1), num_dims);
    moe_matrix_describe_shape(found, info->shape, info->num_dims);
    return moe_fail(q->b->error, MOE_ERR_FORMAT, "%s: tensor '%.100s': expected shape %s, found %s",
                    path_of(q, part->tensor), info->name, wanted, found);
}

enum moe_status moe_quant_fail_groups(const struct moe_quant *q, const struct moe_quant_part *part, size_t group)
{
    return moe_fail(q->b->error, MOE_ERR_FORMAT, "%s: tensor '%.100s': groups of %zu do not divide %zu columns",
                    path_of(q, part->tensor), part->tensor->info.name, group, q->request->cols);
}

enum moe_status moe_quant_fail_layout(const struct moe_quant *q, const struct moe_quant_part *part, const char *what)
{
    return moe_fail(q->b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s': %s are not supported",
                    path_of(q, part->tensor), part->tensor->info.name, what);
}

enum moe_status moe_quant_check_type(const struct moe_quant *q, const struct moe_quant_part *part, const char *expected,
                                     enum moe_format one, enum moe_format other)
{
    const struct moe_format_info *format = part->tensor->info.format;
    char found[32];
    if (format != NULL && (format->format == one || format->format == other))
        return MOE_OK;
    moe_matrix_describe_type(found, &part->tensor->info);
    return moe_fail(q->b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s': expected %s, found %s",
                    path_of(q, part->tensor), part->tensor->info.name, expected, found);
}

/* ---- values --------------------------------------------------------------------------------------------------- */

void moe_quant_describe(const struct moe_quant_part *part, enum moe_format format, size_t offset, size_t stride,
                        struct moe_matrix *out)
{
    const struct moe_scales *scales = out->scales;
    size_t size = (size_t)part->tensor->info.size;
    MOE_INIT(out);
    out->scales = scales;
    out->data.format = format;
    out->data.offset = offset;
    out->data.stride = stride;
    out->data.size = offset < size ? size - offset : 0;
    out->bases = part->bases;
    out->data.base = part->bases == NULL ? (void *)part->data : NULL;
    if (part->bases == NULL && part->num_experts > 1)
        out->expert_stride = size / part->num_experts;
}

enum moe_status moe_quant_place_rows(const struct moe_quant *q, const struct moe_quant_part *part,
                                     enum moe_format format, size_t row_bytes, struct moe_matrix *out)
{
    const struct moe_request *r = q->request;
    bool interleaved = r->num_parts > 1 && (r->layout & MOE_MLP_INTERLEAVED) != 0;
    size_t first = interleaved ? r->part : r->part * r->rows;
    moe_quant_describe(part, format, first * row_bytes, (interleaved ? r->num_parts : 1) * row_bytes, out);
    return MOE_OK;
}

enum moe_status moe_quant_rows(const struct moe_quant *q, const struct moe_quant_part *part, enum moe_format format,
                               size_t stored_cols, bool transposed, struct moe_matrix *out)
{
    const struct moe_request *r = q->request;
    bool interleaved = r->num_parts > 1 && (r->layout & MOE_MLP_INTERLEAVED) != 0;
    size_t rows = r->rows * r->num_parts;
    if (!moe_quant_part_has(q, part, transposed ? stored_cols : rows, transposed ? rows : stored_cols, 1))
        return moe_quant_fail_shape(q, part, transposed ? stored_cols : rows, transposed ? rows : stored_cols, 1);
    if (!transposed)
        return moe_quant_place_rows(q, part, format, stored_cols * part->tensor->info.format->block_bytes /
                                    part->tensor->info.format->block_values, out);
    moe_quant_describe(part, format, interleaved ? r->part : r->part * r->rows, rows, out);
    out->transposed = true;
    out->element_stride = interleaved ? r->num_parts : 0;
    return MOE_OK;
}

/* ---- blocks --------------------------------------------------------------------------------------------------- */

enum moe_format moe_quant_scale_format(const struct moe_quant_part *part)
{
    enum moe_format format = part->tensor->info.format->format;
    return format == MOE_FORMAT_U8 ? MOE_FORMAT_E8M0 : format;
}

static bool try_grid(const struct moe_quant *q, const struct moe_quant_part *scale, size_t block_rows,
                     size_t block_cols, bool own, struct moe_quant_grid *grid)
{
    const struct moe_request *r = q->request;
    size_t rows = own ? r->rows : r->rows * r->num_parts;
    grid->block_rows = block_rows;
    grid->block_cols = block_cols;
    grid->own = own;
    grid->rows = (block_rows > 0 ? moe_quant_blocks(rows, block_rows) : 1) * (own ? r->num_parts : 1);
    grid->cols = block_cols > 0 ? moe_quant_blocks(r->cols, block_cols) : 1;
    return moe_quant_part_has(q, scale, grid->transposed ? grid->cols : grid->rows,
                              grid->transposed ? grid->rows : grid->cols, 1);
}

/* Item i of a list of two sizes above 0. */
static bool read_pair(const struct moe_quant *q, const struct moe_quant_key *key, size_t pair[2])
{
    for (size_t i = 0; i < 2; i++) {
        struct moe_value item;
        if (key->value.kind != MOE_VALUE_ARRAY || key->value.length != 2 ||
            moe_archive_metadata_item(q->b->model->archive, &key->value, i, &item) != MOE_OK ||
            item.kind != MOE_VALUE_INT || item.integer <= 0 || item.integer > INT32_MAX)
            return false;
        pair[i] = (size_t)item.integer;
    }
    return true;
}

/* Blocks of rows and columns that quantization_config gives: the first that fits. */
static enum moe_status try_config_blocks(const struct moe_quant *q, const struct moe_quant_part *scale, bool own,
                                         struct moe_quant_grid *grid, size_t first[2], bool *fits)
{
    static const char *const names[] = {"weight_block_size", "block_structure"};
    struct moe_quant_key key;
    for (size_t n = 0; n < MOE_ARRAY_SIZE(names); n++)
        for (size_t i = 0; moe_quant_find_weights_key(q->b->model, names[n], i, &key); i++) {
            size_t pair[2];
            if (!read_pair(q, &key, pair))
                return moe_fail(q->b->error, MOE_ERR_FORMAT, "%s: key '%s': expected a list of two sizes above 0",
                                moe_archive_path(q->b->model->archive), key.name);
            if (first[0] == 0)
                memcpy(first, pair, sizeof pair);
            *fits = try_grid(q, scale, pair[0], pair[1], own, grid);
            if (*fits)
                return MOE_OK;
        }
    return MOE_OK;
}

/* Groups of columns: config_groups has one size, or several. */
static bool try_groups(const struct moe_quant *q, const struct moe_quant_part *scale, struct moe_quant_grid *grid,
                       size_t *first)
{
    struct moe_quant_key key;
    for (size_t i = 0; moe_quant_find_weights_key(q->b->model, "group_size", i, &key); i++) {
        if (key.value.kind != MOE_VALUE_INT || key.value.integer <= 0 || key.value.integer > INT32_MAX)
            continue;
        if (*first == 0)
            *first = (size_t)key.value.integer;
        if (try_grid(q, scale, 1, (size_t)key.value.integer, false, grid))
            return true;
    }
    return false;
}

enum moe_status moe_quant_settle_grid(const struct moe_quant *q, const struct moe_quant_part *scale,
                                      struct moe_quant_grid *grid)
{
    const struct moe_request *r = q->request;
    size_t block = grid->block_rows, before = r->part * r->rows;
    grid->start = grid->first_row = 0;
    grid->step = 1;
    if (r->num_parts == 1)
        return MOE_OK;
    if ((r->layout & MOE_MLP_INTERLEAVED) != 0 && block != 0) {
        if (block == 1) {
            grid->start = r->part;
            grid->step = r->num_parts;
        } else if (block % r->num_parts == 0) {
            grid->block_rows = block / r->num_parts;
        } else {
            return moe_quant_fail_layout(q, scale, "blocks of an odd number of rows of gate and up");
        }
    } else if (grid->own) {
        grid->start = r->part * (block > 0 ? moe_quant_blocks(r->rows, block) : 1);
    } else if (block > 0) {
        grid->start = before / block;
        grid->first_row = before % block;
    }
    return MOE_OK;
}

enum moe_status moe_quant_find_grid(const struct moe_quant *q, const struct moe_quant_part *scale, bool transposed,
                                    struct moe_quant_grid *out)
{
    enum { MX_GROUP = 32, USUAL_BLOCK = 128 };
    const struct moe_format_info *format = scale->tensor->info.format;
    bool e8m0 = format != NULL && (format->format == MOE_FORMAT_U8 || format->format == MOE_FORMAT_E8M0), fits = false;
    bool alternate = (q->request->layout & MOE_MLP_INTERLEAVED) != 0, own = q->request->num_parts > 1 && !alternate;
    size_t first[2] = {0, 0}, group = 0;
    if (!e8m0 && (format == NULL || !moe_view_is_float(format->format)))
        MOE_TRY(moe_quant_check_type(q, scale, "f32, f16, bf16, e8m0 or u8", MOE_FORMAT_F32, MOE_FORMAT_E8M0));
    memset(out, 0, sizeof *out);
    out->transposed = transposed;
    MOE_TRY(try_config_blocks(q, scale, false, out, first, &fits));
    if (!fits && own)
        MOE_TRY(try_config_blocks(q, scale, true, out, first, &fits));
    if (!fits && ((e8m0 && try_grid(q, scale, 1, MX_GROUP, false, out)) || try_groups(q, scale, out, &group))) {
        if (q->request->cols % out->block_cols != 0 && q->request->cols > out->block_cols)
            return moe_quant_fail_groups(q, scale, out->block_cols);
        fits = true;
    }
    if (!fits && first[0] == 0)
        fits = try_grid(q, scale, USUAL_BLOCK, USUAL_BLOCK, false, out);
    bool vector = scale->num_dims <= 1;   /* one way to store it */
    out->transposed = transposed && !vector;
    fits = fits || try_grid(q, scale, 1, 0, false, out) || try_grid(q, scale, 0, 0, false, out) ||
           (own && try_grid(q, scale, 0, 0, true, out));
    if (fits && vector)
        out->transposed = false;
    if (fits)
        return moe_quant_settle_grid(q, scale, out);
    out->transposed = transposed;
    if (first[0] > 0)
        (void)try_grid(q, scale, first[0], first[1], false, out);
    else
        (void)try_grid(q, scale, 1, e8m0 ? MX_GROUP : group, false, out);
    return moe_quant_fail_shape(q, scale, transposed ? out->cols : out->rows, transposed ? out->rows : out->cols, 1);
}

enum moe_status moe_quant_find_groups(const struct moe_quant *q, const struct moe_quant_part *scale,
                                      struct moe_quant_grid *out)
{
    const struct moe_request *r = q->request;
    const struct moe_format_info *format = scale->tensor->info.format;
    struct moe_quant_key key;
    size_t rows = r->rows * r->num_parts, groups = scale->num_dims == 2 ? scale->shape[0] : 1, group = r->cols;
    if (format == NULL || !moe_view_is_float(format->format))
        MOE_TRY(moe_quant_check_type(q, scale, "f32, f16 or bf16", MOE_FORMAT_F32, MOE_FORMAT_F16));
    if (moe_quant_find_key(q->b->model, "group_size", &key)) {
        if (key.value.kind != MOE_VALUE_INT || key.value.integer < -1 || key.value.integer == 0)
            return moe_fail(q->b->error, MOE_ERR_FORMAT, "%s: key '%s': expected -1 or an integer above 0",
                            moe_archive_path(q->b->model->archive), key.name);
        if (key.value.integer > 0 && (uint64_t)key.value.integer < r->cols)
            group = (size_t)key.value.integer;
    }
    /* rules for some tensors may give them another size: then the shape tells */
    if (moe_quant_has_rules(q->b->model) && groups > 0 && r->cols % groups == 0)
        group = r->cols / groups;
    memset(out, 0, sizeof *out);
    out->block_rows = 1;
    out->block_cols = group;
    out->rows = rows;
    out->cols = moe_quant_blocks(r->cols, group);
    out->transposed = true;
    if (!moe_quant_part_has(q, scale, out->cols, out->rows, 1))
        return moe_quant_fail_shape(q, scale, out->cols, out->rows, 1);
    return r->cols % group == 0 ? moe_quant_settle_grid(q, scale, out) : moe_quant_fail_groups(q, scale, group);
}

enum moe_status moe_quant_add_plane(const struct moe_quant *q, const struct moe_quant_part *part,
                                    const struct moe_quant_grid *grid, enum moe_format format,
                                    struct moe_matrix *matrix, const struct moe_matrix **place)
{
    struct moe_scales *scales = &q->memory->scales;
    size_t value = moe_format_row_bytes(format, 1), line = (grid->transposed ? grid->rows : grid->cols) * value;
    moe_quant_describe(part, format, grid->start * (grid->transposed ? value : line),
                       grid->transposed ? line : grid->step * line, matrix);
    matrix->transposed = grid->transposed;
    matrix->element_stride = grid->transposed ? grid->step * value : 0;
    scales->block_rows = grid->block_rows;
    scales->block_cols = grid->block_cols;
    scales->first_row = grid->first_row;
    *place = matrix;
    return MOE_OK;
}

enum moe_status moe_quant_add_factor(const struct moe_quant *q, const struct moe_quant_part *part)
{
    const struct moe_format_info *format = part->tensor->info.format;
    size_t parts = q->request->num_parts;
    bool own = parts > 1 && moe_quant_part_has(q, part, parts, 1, 1);
    if (format == NULL || !moe_view_is_float(format->format))
        MOE_TRY(moe_quant_check_type(q, part, "f32, f16 or bf16", MOE_FORMAT_F32, MOE_FORMAT_F16));
    if (!own && !moe_quant_part_has(q, part, 1, 1, 1))
        return moe_quant_fail_shape(q, part, 1, 1, 1);
    moe_quant_describe(part, format->format, own ? q->request->part * format->block_bytes : 0, format->block_bytes,
                       &q->memory->factor);
    q->memory->scales.factor = &q->memory->factor;
    return MOE_OK;
}

/* ---- column blocks and zeros ---------------------------------------------------------------------------------- */

static const unsigned char *expert_data(const struct moe_quant_part *part, size_t e)
{
    if (part->bases != NULL)
        return part->bases[e];
    return (const unsigned char *)part->data + e * ((size_t)part->tensor->info.size / part->num_experts);
}

enum moe_status moe_quant_add_columns(const struct moe_quant *q, const struct moe_quant_part *part)
{
    struct moe_scales *scales = &q->memory->scales;
    size_t cols = q->request->cols, block = scales->block_cols > 0 ? scales->block_cols : cols;
    bool usual = true;
    MOE_TRY(moe_quant_check_type(q, part, "i32", MOE_FORMAT_I32, MOE_FORMAT_I32));
    if (!moe_quant_part_has(q, part, cols, 1, 1))
        return moe_quant_fail_shape(q, part, 1, cols, 1);
    for (size_t e = 0; e < q->request->num_experts; e++)
        for (size_t c = 0; c < cols; c++) {
            int32_t found;
            memcpy(&found, expert_data(part, e) + c * sizeof found, sizeof found);
            if (found == -1 && e == 0 && c == 0)
                return MOE_OK;   /* compressed-tensors: not set */
            if (found < 0 || (size_t)found >= moe_quant_blocks(cols, block))
                return moe_fail(q->b->error, MOE_ERR_FORMAT,
                                "%s: tensor '%.100s' of expert %zu: expected groups of 0 to %zu, found %ld",
                                path_of(q, part->tensor), part->tensor->info.name, e,
                                moe_quant_blocks(cols, block) - 1, (long)found);
            usual = usual && (size_t)found == c / block;
        }
    if (usual)
        return MOE_OK;
    moe_quant_describe(part, MOE_FORMAT_I32, 0, cols * sizeof(int32_t), &q->memory->column_block);
    scales->column_block = &q->memory->column_block;
    return MOE_OK;
}

/* Is any of a word's values the largest, so that adding 1 carries? */
static bool carries(uint32_t word, size_t bits)
{
    uint32_t mask = bits == 4 ? 15 : 255;
    for (size_t shift = 0; shift < 32; shift += bits)
        if ((word >> shift & mask) == mask)
            return true;
    return false;
}

/* The first GPTQ format takes 1 off all zeros of a word by one subtraction, which borrows from the next zero where one
 * is 0. One addition gives them back; where nothing carries, that is an offset, and nothing is copied. */
enum moe_status moe_quant_add_one(const struct moe_quant *q, struct moe_quant_part *zero, size_t bits)
{
    struct moe_matrix *m = &q->memory->zero;
    size_t size = (size_t)zero->tensor->info.size, count = zero->bases != NULL ? q->request->num_experts : 1;
    uint32_t ones = bits == 4 ? 0x11111111u : 0x01010101u, word;
    bool carry = false;
    for (size_t e = 0; e < count; e++)
        for (size_t i = 0; i + sizeof word <= size && !carry; i += sizeof word) {
            memcpy(&word, expert_data(zero, e) + i, sizeof word);
            carry = carries(word, bits);
        }
    if (!carry) {
        q->memory->scales.zero_offset = 1;
        return MOE_OK;
    }
    unsigned char *copies = moe_model_block_alloc(q->b->model, q->b->entry, count, size);
    void **bases = moe_model_block_alloc(q->b->model, q->b->entry, count, sizeof *bases);
    if (copies == NULL || bases == NULL)
        return moe_quant_fail_memory(q);
    for (size_t e = 0; e < count; e++) {
        bases[e] = copies + e * size;
        for (size_t i = 0; i + sizeof word <= size; i += sizeof word) {
            memcpy(&word, expert_data(zero, e) + i, sizeof word);
            word += ones;
            memcpy(copies + e * size + i, &word, sizeof word);
        }
    }
    m->bases = zero->bases != NULL ? bases : NULL;
    m->data.base = zero->bases != NULL ? NULL : copies;
    return MOE_OK;
}
