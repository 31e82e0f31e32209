// SPDX-License-Identifier: MIT
// Panels times activations on i8mm, one function for each kind of values.
//
// smmla multiplies 2 tokens of 8 columns by 2 rows of them. A tile is a panel, 4 pairs of rows, by up to 2 pairs of
// tokens: 8 integer sums, 8 f32 sums, 4 vectors of weights and 2 of x fill 22 of the 32 registers; for a unit it costs
// 32 smmla and 24 steps in f32. The bytes of two tokens are brought side by side once for all panels.
#include "cpu/arm/q8_i8mm.h"

enum { TILE_TOKENS = 4, PAIRS = TILE_TOKENS / 2, ROW_PAIRS = Q8_ROWS / 2 };

/* A segment of 4 tokens, those that there are not 0. Lanes of f32 are token 0, 0, 1, 1 of a pair. */
struct x_part {
    int8_t q[Q8_SEGMENT_UNITS][MOE_Q8_UNIT / 8][PAIRS][16];
    float scale[Q8_SEGMENT_UNITS][PAIRS][4];
    float sum[Q8_SEGMENT_UNITS][2][PAIRS][4];    /* without halves, [i][0] only; with minima */
};

struct scratch {
    struct q8_panel panels[Q8_PANELS];
    struct x_part x;
};
_Static_assert(sizeof(struct scratch) <= MOE_ROUNDED_SCRATCH, "panels and tokens are more than the scratch");

/* Tokens t.. of a segment. */
Q8_INLINE void put_tokens(struct x_part *part, const struct moe_linear_rounded_args *a, size_t t, size_t num_tokens,
                          size_t first_unit, size_t num_units, int kind)
{
    memset(part, 0, sizeof *part);
    for (size_t j = 0; j < num_tokens; j++) {
        const unsigned char *x = q8_x_row(a, t + j);
        for (size_t i = 0; i < num_units; i++) {
            size_t unit = first_unit + i;
            for (size_t k = 0; k < MOE_Q8_UNIT / 8; k++)
                memcpy(part->q[i][k][j / 2] + 8 * (j % 2), x + unit * MOE_Q8_UNIT + 8 * k, 8);
            vst1_f32(part->scale[i][j / 2] + 2 * (j % 2), vdup_n_f32(q8_x_float(x, moe_q8_scale_at(a->cols), unit)));
            if (!(kind & Q8_MINIMA))
                continue;
            for (size_t h = 0; h < (kind & Q8_HALVES ? 2 : 1); h++)
                vst1_f32(part->sum[i][h][j / 2] + 2 * (j % 2), vdup_n_f32(q8_x_sum(x, a->cols, unit, h, kind)));
        }
    }
}

/* 16 columns of unit i: sum += x * panel. */
Q8_INLINE void add_columns(int32x4_t sum[PAIRS][ROW_PAIRS], const struct q8_panel *panel, const struct x_part *x,
                           size_t i, size_t h, size_t num_pairs)
{
    for (size_t k = 2 * h; k < 2 * h + 2; k++) {
        int8x16_t w[ROW_PAIRS];
        for (size_t r = 0; r < ROW_PAIRS; r++)
            w[r] = vld1q_s8(panel->q[i] + 64 * k + 16 * r);
        for (size_t p = 0; p < num_pairs; p++) {
            int8x16_t vx = vld1q_s8(x->q[i][k][p]);
            for (size_t r = 0; r < ROW_PAIRS; r++)
                sum[p][r] = vmmlaq_s32(sum[p][r], vx, w[r]);
        }
    }
}

/* Two rows' numbers for each of two tokens. */
Q8_INLINE float32x4_t twice(const float *pair)
{
    return vreinterpretq_f32_u64(vdupq_lane_u64(vreinterpret_u64_f32(vld1_f32(pair)), 0));
}

/* Half h of unit i, or without halves all of it, scaled. */
Q8_INLINE void add_scaled(float32x4_t acc[PAIRS][ROW_PAIRS], int32x4_t sum[PAIRS][ROW_PAIRS],
                          const struct q8_panel *panel, const struct x_part *x, size_t i, size_t h, size_t num_pairs,
                          int kind)
{
    for (size_t r = 0; r < ROW_PAIRS; r++) {
        float32x4_t w_scale = twice(panel->scale[i][h] + 2 * r);
        for (size_t p = 0; p < num_pairs; p++) {
            float32x4_t scale = vmulq_f32(w_scale, vld1q_f32(x->scale[i][p]));
            acc[p][r] = vfmaq_f32(acc[p][r], vcvtq_f32_s32(sum[p][r]), scale);
            if (kind & Q8_MINIMA)
                acc[p][r] = vfmaq_f32(acc[p][r], twice(panel->minimum[i][h] + 2 * r), vld1q_f32(x->sum[i][h][p]));
        }
    }
}

/* Add a lane's sums, two rows of two tokens in each vector. */
Q8_INLINE void add_lane(float y[TILE_TOKENS][Q8_PANELS * Q8_ROWS], size_t row, float32x4_t acc[PAIRS][ROW_PAIRS],
                        size_t num_pairs)
{
    for (size_t p = 0; p < num_pairs; p++)
        for (size_t r = 0; r < ROW_PAIRS; r++) {
            float *first = y[2 * p] + row + 2 * r, *second = y[2 * p + 1] + row + 2 * r;
            vst1_f32(first, vadd_f32(vld1_f32(first), vget_low_f32(acc[p][r])));
            vst1_f32(second, vadd_f32(vld1_f32(second), vget_high_f32(acc[p][r])));
        }
}

/* Called with constants but for the panel and x, so that sums stay in registers. */
Q8_INLINE void run_tile(float y[TILE_TOKENS][Q8_PANELS * Q8_ROWS], size_t row, const struct q8_panel *panel,
                        const struct x_part *x, size_t num_units, size_t num_pairs, int kind)
{
    size_t halves = kind & Q8_HALVES ? 2 : 1;
    for (size_t lane = 0; lane < MOE_Q8_LANES; lane++) {
        float32x4_t acc[PAIRS][ROW_PAIRS];
        for (size_t p = 0; p < num_pairs; p++)
            for (size_t r = 0; r < ROW_PAIRS; r++)
                acc[p][r] = vdupq_n_f32(0);
        for (size_t i = lane; i < num_units; i += MOE_Q8_LANES)
            for (size_t h = 0; h < halves; h++) {
                int32x4_t sum[PAIRS][ROW_PAIRS];
                for (size_t p = 0; p < num_pairs; p++)
                    for (size_t r = 0; r < ROW_PAIRS; r++)
                        sum[p][r] = vdupq_n_s32(0);
                add_columns(sum, panel, x, i, h, num_pairs);
                if (halves == 1)
                    add_columns(sum, panel, x, i, 1, num_pairs);
                add_scaled(acc, sum, panel, x, i, h, num_pairs, kind);
            }
        add_lane(y, row, acc, num_pairs);
    }
}

Q8_INLINE void multiply(const struct moe_linear_rounded_args *a, size_t first_row, size_t first_unit, size_t num_units,
                        int kind)
{
    struct scratch *scratch = a->scratch;
    size_t rows = q8_smaller(Q8_PANELS * Q8_ROWS, a->rows - first_row);
    for (size_t t = 0; t < a->num_tokens; t += TILE_TOKENS) {
        size_t num_tokens = q8_smaller(TILE_TOKENS, a->num_tokens - t);
        float y[TILE_TOKENS][Q8_PANELS * Q8_ROWS] = {{0}};
        for (size_t j = 0; j < num_tokens && first_unit > 0; j++)
            memcpy(y[j], a->y + (t + j) * a->y_stride + first_row, rows * sizeof **y);
        put_tokens(&scratch->x, a, t, num_tokens, first_unit, num_units, kind);
        for (size_t p = 0; p * Q8_ROWS < rows; p++) {
            if (num_tokens > 2)
                run_tile(y, p * Q8_ROWS, &scratch->panels[p], &scratch->x, num_units, 2, kind);
            else
                run_tile(y, p * Q8_ROWS, &scratch->panels[p], &scratch->x, num_units, 1, kind);
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

q8_multiply_fn *const moe_q8_multiply_i8mm[4] = {multiply_0, multiply_1, multiply_2, multiply_3};
