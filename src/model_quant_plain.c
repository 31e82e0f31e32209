// SPDX-License-Identifier: MIT
// Quantised matrices where only plain values will do: a router, the gate of a shared expert. They are small, and
// become a copy in f32 when the block is loaded.
#include "model_quant.h"
#include "scales.h"

static bool is_weight(enum moe_format format)
{
    return moe_format_row_bytes(format, 2) != 0;   /* values, or pairs of them */
}

static enum moe_status expand(const struct moe_source *values, const struct moe_scales_source *scales,
                              const struct moe_env *env, float *out, struct moe_error *error)
{
    struct moe_scales_expansion expansion;
    size_t bytes = values->rows * moe_format_row_bytes(values->matrix.data.format, values->cols);
    unsigned char *codes = moe_alloc(env, bytes);
    enum moe_status status = moe_scales_expand_begin(&expansion, scales, env);
    if (codes == NULL)
        status = MOE_ERR_MEMORY;
    if (status == MOE_OK) {
        moe_source_read(values, 0, codes);
        moe_format_dequantise(values->matrix.data.format, out, codes, values->rows, values->cols);
        status = moe_scales_expand(&expansion, scales, 0, out, error);
    }
    moe_scales_expand_end(&expansion, env);
    moe_free(env, codes, bytes);
    return status;
}

enum moe_status moe_quant_load_plain(const struct moe_build *b, const struct moe_request *request,
                                     const struct moe_matrix_name *name, struct moe_matrix *out)
{
    const struct moe_request any = {request->name, request->layout, 1, 0, 1, request->rows, request->cols, false};
    struct moe_source values = {.num_experts = 0};
    struct moe_scales_source scales = {.there = false};
    struct moe_matrix matrix;
    MOE_TRY(moe_quant_load(b, &any, name, &matrix, NULL));
    MOE_TRY(moe_source_check(&values, &matrix, name->full, is_weight, 1, any.rows, any.cols, b->error));
    MOE_TRY(moe_scales_check(&scales, matrix.scales, name->full, 1, any.rows, any.cols, b->error));
    float *copy = moe_model_block_alloc(b->model, b->entry, any.rows * any.cols, sizeof *copy);
    enum moe_status status = MOE_ERR_MEMORY;
    if (copy != NULL)
        status = expand(&values, &scales, &b->model->env, copy, b->error);
    if (status == MOE_ERR_MEMORY)
        return moe_fail(b->error, status, "%s: no memory for block %zu", moe_archive_path(b->model->archive), b->block);
    MOE_INIT(out);
    out->data = (struct moe_view){.base = copy,
                                  .size = any.rows * any.cols * sizeof *copy,
                                  .stride = any.cols * sizeof *copy,
                                  .format = MOE_FORMAT_F32};
    return status;
}
