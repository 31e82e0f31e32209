// SPDX-License-Identifier: MIT
// Panels times activations on dotprod, one function for each kind of values.
//
// A tile is a panel, 8 rows in two vectors, by up to 4 tokens: 8 integer sums, 8 f32 sums, 4 vectors of x and 2 of
// weights fill 22 of the 32 registers. For a unit, a token and a panel it costs 16 sdot and 6 steps in f32.
#include "cpu/arm/q8_dotprod.h"

enum { TILE_TOKENS = 4, VECTORS = Q8_ROWS / 4 };

struct tile {
    const struct q8_panel *panel;
    const unsigned char *x[TILE_TOKENS];     /* rows */
    size_t cols, first_unit, num_units;
    float *y[TILE_TOKENS];                   /* [Q8_ROWS], of this panel's first row */
};

/* 4 columns, number lane of the 16 in x. */
#define ADD_QUAD(lane)                                                                                        \
    for (size_t v = 0; v < VECTORS; v++) {                                                                    \
        int8x16_t w = vld1q_s8(q + 32 * lane + 16 * v);                                                       \
        for (size_t t = 0; t < num_tokens; t++)                                                               \
            sum[t][v] = vdotq_laneq_s32(sum[t][v], w, x[t], lane);                                            \
    }

/* 16 columns of a unit: sum += panel * x. */
Q8_INLINE void add_columns(int32x4_t sum[TILE_TOKENS][VECTORS], const struct tile *tile, size_t i, size_t h,
                           size_t num_tokens)
{
    const int8_t *q = tile->panel->q[i] + 128 * h;
    int8x16_t x[TILE_TOKENS];
    for (size_t t = 0; t < num_tokens; t++)
        x[t] = vreinterpretq_s8_u8(vld1q_u8(tile->x[t] + (tile->first_unit + i) * MOE_Q8_UNIT + 16 * h));
    ADD_QUAD(0)
    ADD_QUAD(1)
    ADD_QUAD(2)
    ADD_QUAD(3)
}

/* Half h of unit i, or without halves all of it, scaled. */
Q8_INLINE void add_scaled(float32x4_t acc[TILE_TOKENS][VECTORS], int32x4_t sum[TILE_TOKENS][VECTORS],
                          const struct tile *tile, size_t i, size_t h, size_t num_tokens, int kind)
{
    for (size_t t = 0; t < num_tokens; t++) {
        float x_scale = q8_x_float(tile->x[t], moe_q8_scale_at(tile->cols), tile->first_unit + i);
        for (size_t v = 0; v < VECTORS; v++) {
            float32x4_t scale = vmulq_n_f32(vld1q_f32(tile->panel->scale[i][h] + 4 * v), x_scale);
            acc[t][v] = vfmaq_f32(acc[t][v], vcvtq_f32_s32(sum[t][v]), scale);
        }
        if (!(kind & Q8_MINIMA))
            continue;
        float x_sum = q8_x_sum(tile->x[t], tile->cols, tile->first_unit + i, h, kind);
        for (size_t v = 0; v < VECTORS; v++)
            acc[t][v] = vfmaq_n_f32(acc[t][v], vld1q_f32(tile->panel->minimum[i][h] + 4 * v), x_sum);
    }
}

/* Called with constants but for the tile, so that sums stay in registers. */
Q8_INLINE void run_tile(const struct tile *tile, size_t num_tokens, int kind)
{
    size_t halves = kind & Q8_HALVES ? 2 : 1;
    for (size_t lane = 0; lane < MOE_Q8_LANES; lane++) {
        float32x4_t acc[TILE_TOKENS][VECTORS];
        for (size_t t = 0; t < num_tokens; t++)
            for (size_t v = 0; v < VECTORS; v++)
                acc[t][v] = vdupq_n_f32(0);
        for (size_t i = lane; i < tile->num_units; i += MOE_Q8_LANES)
            for (size_t h = 0; h < halves; h++) {
                int32x4_t sum[TILE_TOKENS][VECTORS];
                for (size_t t = 0; t < num_tokens; t++)
                    for (size_t v = 0; v < VECTORS; v++)
                        sum[t][v] = vdupq_n_s32(0);
                add_columns(sum, tile, i, h, num_tokens);
                if (halves == 1)
                    add_columns(sum, tile, i, 1, num_tokens);
                add_scaled(acc, sum, tile, i, h, num_tokens, kind);
            }
        for (size_t t = 0; t < num_tokens; t++)
            for (size_t v = 0; v < VECTORS; v++)
                vst1q_f32(tile->y[t] + 4 * v, vaddq_f32(vld1q_f32(tile->y[t] + 4 * v), acc[t][v]));
    }
}

Q8_INLINE void run_tokens(const struct tile *tile, size_t num_tokens, int kind)
{
    if (num_tokens == 4)
        run_tile(tile, 4, kind);
    else if (num_tokens == 3)
        run_tile(tile, 3, kind);
    else if (num_tokens == 2)
        run_tile(tile, 2, kind);
    else
        run_tile(tile, 1, kind);
}

Q8_INLINE void multiply(const struct moe_linear_rounded_args *a, size_t first_row, size_t first_unit, size_t num_units,
                        int kind)
{
    const struct q8_panel *panels = a->scratch;
    size_t rows = q8_smaller(Q8_PANELS * Q8_ROWS, a->rows - first_row);
    struct tile tile = {.cols = a->cols, .first_unit = first_unit, .num_units = num_units};
    for (size_t t = 0; t < a->num_tokens; t += TILE_TOKENS) {
        size_t num_tokens = q8_smaller(TILE_TOKENS, a->num_tokens - t);
        float y[TILE_TOKENS][Q8_PANELS * Q8_ROWS] = {{0}};
        for (size_t j = 0; j < num_tokens; j++) {
            tile.x[j] = q8_x_row(a, t + j);
            if (first_unit > 0)
                memcpy(y[j], a->y + (t + j) * a->y_stride + first_row, rows * sizeof **y);
        }
        for (size_t p = 0; p * Q8_ROWS < rows; p++) {
            tile.panel = &panels[p];
            for (size_t j = 0; j < num_tokens; j++)
                tile.y[j] = y[j] + p * Q8_ROWS;
            run_tokens(&tile, num_tokens, kind);
        }
        for (size_t j = 0; j < num_tokens; j++)
            memcpy(a->y + (t + j) * a->y_stride + first_row, y[j], rows * sizeof **y);
    }
}

#define MULTIPLY(kind)                                                                                        \
    static void multiply_##kind(const struct moe_linear_rounded_args *args, size_t first_row,                 \
                                size_t first_unit, size_t num_units)                                          \
    {                                                                                                         \
        multiply(args, first_row, first_unit, num_units, kind);                                               \
    }
MULTIPLY(0)
MULTIPLY(1)    /* Q8_HALVES */
MULTIPLY(2)    /* Q8_MINIMA */
MULTIPLY(3)    /* Q8_HALVES | Q8_MINIMA */

q8_multiply_fn *const moe_q8_multiply_dotprod[4] = {multiply_0, multiply_1, multiply_2, multiply_3};
