// SPDX-License-Identifier: MIT
// Host copies of the small matrices and vectors of a layer: routers, gates, biases, scales of norms.
#include <math.h>

#include "layer_parts.h"
#include "view.h"

enum moe_status moe_layer_copy_view(const struct moe_env *env, float **out, const struct moe_view *view, size_t rows,
                                    size_t cols, const char *name, struct moe_error *error)
{
    size_t row_bytes = moe_format_row_bytes(view->format, cols), stride = view->stride ? view->stride : row_bytes;
    size_t bytes, end;
    *out = NULL;
    if (view->base == NULL)
        return MOE_OK;
    if (!moe_view_is_float(view->format))
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s is neither f32, f16 nor bf16", name);
    if (row_bytes == 0 || (rows > 1 && stride < row_bytes) || !moe_mul(&bytes, rows - 1, stride) ||
        !moe_add(&bytes, bytes, row_bytes) || bytes > view->size || !moe_add(&end, view->offset, view->size))
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s [%zu, %zu] does not fit its view of %zu bytes", name, rows, cols,
                        view->size);
    size_t values;
    float *copy = moe_mul(&values, rows, cols) ? moe_alloc_array(env, values, sizeof *copy) : NULL;
    if (copy == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for %s", name);
    const unsigned char *in = (const unsigned char *)view->base + view->offset;
    for (size_t r = 0; r < rows; r++)
        moe_format_dequantise(view->format, copy + r * cols, in + r * stride, 1, cols);
    *out = copy;
    return MOE_OK;
}

enum moe_status moe_layer_copy_matrix(const struct moe_env *env, float **matrix, float **bias,
                                      const struct moe_matrix *given, size_t rows, size_t cols, const char *name,
                                      struct moe_error *error)
{
    struct moe_matrix own;
    if (MOE_READ_PARAMS(&own, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: its moe_matrix is without struct_size, or has unknown fields",
                        name);
    size_t bias_stride = own.bias_element_stride;
    bool dense_bias = bias_stride == 0 || bias_stride == moe_format_row_bytes(own.bias.format, 1);
    bool plain = own.packing == MOE_PACKING_NONE && own.scales == NULL;
    if (own.transposed || own.bases != NULL || !dense_bias || !plain)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s must be one matrix as it stands, with a dense bias", name);
    if (own.data.base == NULL)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s has no base", name);
    MOE_TRY(moe_layer_copy_view(env, matrix, &own.data, rows, cols, name, error));
    return moe_layer_copy_view(env, bias, &own.bias, 1, rows, name, error);
}

enum moe_status moe_layer_copy_norm(const struct moe_env *env, float **scale, struct moe_norm_desc *desc,
                                    const struct moe_norm *given, size_t size, const char *name,
                                    struct moe_error *error)
{
    struct moe_norm own;
    if (MOE_READ_PARAMS(&own, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: its moe_norm is without struct_size, or has unknown fields",
                        name);
    if (!(own.eps >= 0.0f) || !isfinite(own.eps))
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s has eps %g; it must be a number from 0 up", name,
                        (double)own.eps);
    MOE_TRY(moe_layer_copy_view(env, scale, &own.scale, 1, size, name, error));
    *desc = (struct moe_norm_desc){.scale = *scale, .eps = own.eps, .unit = own.unit};
    return MOE_OK;
}
