// SPDX-License-Identifier: MIT
// linear and linear_scaled in plain C, for every format through its dequantiser: a segment of a row is unpacked to f32,
// with its scales, once and then used for all tokens.
#include "cpu/kernels.h"
#include "format/format_def.h"
#include "scales_row.h"

enum { LANES = 16 };

typedef void dequantise_fn(float *out, const void *in, size_t num_blocks);

/* Lane i sums the columns i, i + 16, ...; then the upper half of the lanes is added to the lower until one is left. */
static float segment_dot(const float *w, const float *x, size_t cols)
{
    float lanes[LANES] = {0};
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES) {
        for (size_t i = 0; i < LANES; i++)
            lanes[i] += w[c + i] * x[c + i];
    }
    for (size_t i = 0; c + i < cols; i++)
        lanes[i] += w[c + i] * x[c + i];
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    }
    return lanes[0];
}

/* scales: NULL for linear. */
static void linear(const struct moe_linear_args *a, const struct moe_slice_scales *scales, size_t first_row,
                   dequantise_fn *dequantise, size_t block_values, size_t block_bytes)
{
    float w[MOE_LINEAR_SEGMENT];
    for (size_t r = 0; r < a->rows; r++) {
        const unsigned char *row = a->w + r * a->w_stride;
        for (size_t t = 0; t < a->num_tokens; t++)
            a->y[t * a->y_stride + r] = 0.0f;
        for (size_t c = 0; c < a->cols; c += MOE_LINEAR_SEGMENT) {
            size_t cols = a->cols - c < MOE_LINEAR_SEGMENT ? a->cols - c : MOE_LINEAR_SEGMENT;
            dequantise(w, row + c / block_values * block_bytes, cols / block_values);
            if (scales != NULL)
                moe_scales_apply(w, scales, first_row + r, c, cols);
            for (size_t t = 0; t < a->num_tokens; t++) {
                size_t x_row = a->x_rows != NULL ? (size_t)a->x_rows[t] : t;
                a->y[t * a->y_stride + r] += segment_dot(w, a->x + x_row * a->x_stride + c, cols);
            }
        }
    }
}

#define LINEAR_C(id, NAME, name, values, bytes)                                                                  \
    moe_linear_fn moe_linear_##name##_c;                                                                         \
    void moe_linear_##name##_c(const struct moe_linear_args *args)                                               \
    {                                                                                                            \
        linear(args, NULL, 0, moe_format_def_##NAME.dequantise, values, bytes);                                  \
    }                                                                                                            \
    moe_linear_scaled_fn moe_linear_scaled_##name##_c;                                                           \
    void moe_linear_scaled_##name##_c(const struct moe_linear_scaled_args *args)                                 \
    {                                                                                                            \
        linear(&args->linear, args->scales, args->first_row, moe_format_def_##NAME.dequantise, values, bytes);   \
    }
MOE_FORMAT_MAP(LINEAR_C)
