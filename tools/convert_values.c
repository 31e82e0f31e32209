// SPDX-License-Identifier: MIT
// The values of a plan's tensors, fetched from the input a few rows at a time.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "matrix.h"

/* ---- input tensors whose scales lie apart --------------------------------------------------------------------- */

/* How many rows (or columns) of `size` share each of `count` scales; 0: no number does. */
static size_t block_of(size_t size, size_t count, size_t given)
{
    if (count == size)
        return 1;
    if (count == 1)
        return size;
    if (given && (size + given - 1) / given == count)
        return given;
    return size % count == 0 ? size / count : 0;
}

static size_t given_block(struct session *session, size_t dim)
{
    struct moe_value list, item;
    if (moe_model_metadata_find(session->model, "quantization_config.weight_block_size", &list) != MOE_OK ||
        list.kind != MOE_VALUE_ARRAY || list.length != 2 ||
        moe_model_metadata_item(session->model, &list, dim, &item) != MOE_OK || item.kind != MOE_VALUE_INT ||
        item.integer <= 0 || item.integer > INT32_MAX)
        return 128;
    return (size_t)item.integer;
}

static void view_all(struct moe_matrix *out, const void *data, const struct moe_tensor *tensor, enum moe_format format)
{
    MOE_INIT(out);
    out->data.base = (void *)(uintptr_t)data;
    out->data.size = (size_t)tensor->size;
    out->data.format = format;
}

static int fill_scales(struct session *session, struct plan_scaled *out, const struct moe_tensor *input,
                       const struct moe_tensor *scale)
{
    struct moe_error error = {0};
    const void *values, *scales;
    enum moe_status status = moe_model_tensor_data(session->model, input->name, &values, &error);
    if (status == MOE_OK)
        status = moe_model_tensor_data(session->model, scale->name, &scales, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, scale->name);
    size_t rows = input->num_dims > 1 ? input->shape[0] : 1, cols = input->shape[input->num_dims - 1];
    size_t down = scale->num_dims > 0 ? scale->shape[0] : 1, across = scale->num_dims > 1 ? scale->shape[1] : 1;
    enum moe_format format = scale->format ? scale->format->format : MOE_FORMAT_PRIVATE;
    if (format == MOE_FORMAT_U8)
        format = MOE_FORMAT_E8M0;
    view_all(&out->matrix, values, input, input->format->format);
    view_all(&out->scale, scales, scale, format);
    MOE_INIT(&out->scales);
    out->scales.scale = &out->scale;
    out->scales.block_rows = block_of(rows, down, given_block(session, 0));
    out->scales.block_cols = block_of(cols, across, given_block(session, 1));
    bool known = format == MOE_FORMAT_F32 || format == MOE_FORMAT_F16 || format == MOE_FORMAT_BF16 ||
                 format == MOE_FORMAT_E8M0;
    if (!known || scale->num_dims > 2 || !out->scales.block_rows || !out->scales.block_cols)
        return tool_fail(TOOL_INPUT, "tensor '%s': its shape [%zu, %zu] does not fit '%s' of [%zu, %zu]", scale->name,
                         down, across, input->name, rows, cols);
    out->matrix.scales = &out->scales;
    return TOOL_OK;
}

int plan_find_scales(struct session *session, const struct moe_tensor *input, struct plan_scaled **out)
{
    static const char *const suffixes[] = {"_scale_inv", "_scale"};
    *out = NULL;
    if (!input->format || input->format->format != MOE_FORMAT_E4M3)
        return TOOL_OK;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char name[256];
        struct moe_tensor scale;
        snprintf(name, sizeof name, "%.200s%s", input->name, suffixes[i]);
        if (moe_model_tensor_find(session->model, name, &scale) != MOE_OK)
            continue;
        *out = tool_alloc(1, sizeof **out);
        if (!*out)
            return TOOL_INPUT;
        memset(*out, 0, sizeof **out);
        return fill_scales(session, *out, input, &scale);
    }
    return TOOL_OK;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

/* Rows of the input tensor taken as one matrix with `cols` columns. */
static int input_rows(struct session *session, const struct plan_tensor *source, size_t cols, size_t row,
                      size_t num_rows, float *out)
{
    struct moe_tensor tensor;
    const void *data;
    struct moe_error error = {0};
    enum moe_status status = moe_model_tensor_find(session->model, source->input, &tensor);
    if (status == MOE_OK)
        status = moe_model_tensor_data(session->model, source->input, &data, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, source->input);
    if (source->scaled) {
        size_t rows = tensor.num_dims > 1 ? tensor.shape[0] : 1;
        return matrix_rows(&source->scaled->matrix, rows, cols, 0, row, num_rows, out) ? TOOL_OK : TOOL_INPUT;
    }
    size_t row_bytes = moe_format_row_bytes(tensor.format->format, cols);
    int result =
        moe_format_dequantise(tensor.format->format, out, (const char *)data + row * row_bytes, num_rows, cols);
    return result == MOE_OK ? TOOL_OK : tool_fail_moe((enum moe_status)result, NULL, source->input);
}

/* Row r of a head of d rows comes from r/2 of its first half, or, for odd r, of its second. */
static size_t rope_source(size_t row, size_t head_rows)
{
    size_t head = row / head_rows, r = row % head_rows;
    return head * head_rows + r % 2 * (head_rows / 2) + r / 2;
}

static int key_rows(const struct plan_tensor *tensor, struct session *session, size_t e, size_t row, size_t num_rows,
                    float *out)
{
    float *line = tool_alloc(tensor->rows, sizeof *line);
    int code = line ? TOOL_OK : TOOL_INPUT;
    for (size_t c = 0; code == TOOL_OK && c < tensor->cols; c++) {
        code = input_rows(session, tensor, tensor->rows, e * tensor->head_rows + c, 1, line);
        for (size_t r = 0; code == TOOL_OK && r < num_rows; r++)
            out[r * tensor->cols + c] = line[row + r];
    }
    free(line);
    return code;
}

int plan_rows(const struct plan_tensor *tensor, struct session *session, size_t e, size_t row, size_t num_rows,
              float *out)
{
    size_t cols = tensor->cols, d = tensor->head_rows;
    int code = TOOL_OK;
    switch (tensor->source) {
    case PLAN_MATRIX:
        return matrix_rows(tensor->matrix, tensor->rows, cols, e, row, num_rows, out) ? TOOL_OK : TOOL_INPUT;
    case PLAN_BIAS:
        return matrix_bias(tensor->matrix, e, cols, out) ? TOOL_OK : TOOL_INPUT;
    case PLAN_FACTOR: {
        const struct moe_scales *scales = tensor->matrix->scales;
        if (!matrix_rows(scales->factor, 1, 1, e, 0, 1, out))
            return TOOL_INPUT;
        *out = scales->factor_divides ? 1 / *out : *out;
        return TOOL_OK;
    }
    case PLAN_VIEW:
        return matrix_view(&tensor->view, cols, out) ? TOOL_OK : TOOL_INPUT;
    case PLAN_ROPE:
        for (size_t r = 0; code == TOOL_OK && r < num_rows; r++)
            code = input_rows(session, tensor, cols, rope_source(row + r, d), 1, out + r * cols);
        return code;
    case PLAN_V_B:
        return input_rows(session, tensor, cols, e * d + (d - tensor->rows) + row, num_rows, out);
    case PLAN_K_B:
        return key_rows(tensor, session, e, row, num_rows, out);
    case PLAN_TENSOR:
    case PLAN_COPY:
    case PLAN_FP4:
    case PLAN_INTEGERS:
        break;
    }
    return input_rows(session, tensor, cols, tensor->first_row + e * tensor->rows + row, num_rows, out);
}

/* i32 or i64 to little-endian i32. */
static int integer_rows(const struct plan_tensor *tensor, size_t row, size_t num_rows, unsigned char *out)
{
    const struct moe_view *view = &tensor->view;
    bool wide = view->format == MOE_FORMAT_I64;
    size_t bytes = wide ? 8 : 4, stride = view->stride ? view->stride : tensor->cols * bytes;
    const unsigned char *base = (const unsigned char *)view->base + view->offset;
    for (size_t r = row; r < row + num_rows; r++) {
        for (size_t c = 0; c < tensor->cols; c++, out += 4) {
            int64_t value = 0;
            int32_t narrow = 0;
            memcpy(wide ? (void *)&value : (void *)&narrow, base + r * stride + c * bytes, bytes);
            if (!wide)
                value = narrow;
            if (value < INT32_MIN || value > INT32_MAX)
                return tool_fail(TOOL_INPUT, "tensor '%s': row %zu has a number that is no i32", tensor->name, r);
            for (size_t i = 0; i < 4; i++)
                out[i] = (unsigned char)((uint32_t)value >> 8 * i);
        }
    }
    return TOOL_OK;
}

int plan_blocks(const struct plan_tensor *tensor, struct session *session, size_t e, size_t row, size_t num_rows,
                float *values, void *out)
{
    enum moe_format format = (enum moe_format)tensor->type;
    if (tensor->source == PLAN_FP4) {
        fp4_rows(tensor->matrix, format, tensor->rows, tensor->cols, e, row, num_rows, out);
        return TOOL_OK;
    }
    if (tensor->source == PLAN_INTEGERS)
        return integer_rows(tensor, row, num_rows, out);
    int code = plan_rows(tensor, session, e, row, num_rows, values);
    if (code == TOOL_OK && moe_format_quantise(format, out, values, num_rows, tensor->cols) != MOE_OK)
        return tool_fail(TOOL_INPUT, "tensor '%s' cannot be written as %s", tensor->name,
                         moe_format_info(format) ? moe_format_info(format)->name : "?");
    return code;
}
