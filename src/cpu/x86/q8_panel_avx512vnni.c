// SPDX-License-Identifier: MIT
// Panels times activations on AVX-512 with VNNI, one function for each kind of values.
//
// A tile is 32 rows (2 vectors) by up to 6 tokens: 12 integer sums, 12 f32 sums, 2 vectors of weights and one of x
// fill 27 of the 32 registers. For a unit of 32 columns, two vectors and a token it costs 16 vpdpbusd and 6 steps in
// f32, and 8 broadcasts, which the load ports make: arithmetic takes both 512-bit ports for 11 cycles, loads 10 of 22
// slots.
#include <string.h>

#include "cpu/x86/q8_avx512vnni.h"

enum { TILE_TOKENS = 6 };

struct tile {
    const struct q8_panel *panels;
    const unsigned char *x[TILE_TOKENS];     /* rows */
    size_t cols, first_unit, num_units;
    float *y[TILE_TOKENS];                   /* [Q8_PANELS * Q8_ROWS], of this segment's first row */
};

static inline __m512 broadcast(const unsigned char *x, size_t at, size_t i)
{
    float value;
    memcpy(&value, x + at + 4 * i, sizeof value);
    return _mm512_set1_ps(value);
}

static inline __m512i broadcast_int(const unsigned char *x, size_t at, size_t i)
{
    int32_t value;
    memcpy(&value, x + at + 4 * i, sizeof value);
    return _mm512_set1_epi32(value);
}

/* Half h of a unit, or with one half all of it, added to acc. */
static inline __attribute__((always_inline)) void add_unit(__m512 acc[TILE_TOKENS][Q8_PANELS], const struct tile *tile,
                                                           size_t place, size_t unit, size_t h, size_t num_tokens,
                                                           size_t num_panels, int kind)
{
    const struct q8_panel *panels = tile->panels;
    size_t halves = kind & Q8_HALVES ? 2 : 1, quads = MOE_Q8_UNIT / 4 / halves, cols = tile->cols;
    size_t half = unit / MOE_Q8_LANES * 16 + 8 * h + unit % MOE_Q8_LANES;
    __m512i sum[TILE_TOKENS][Q8_PANELS];
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t p = 0; p < num_panels; p++)
            sum[t][p] = !(kind & Q8_BIASED) ? _mm512_setzero_si512()
                        : kind & Q8_HALVES  ? broadcast_int(tile->x[t], moe_q8_half_start_at(cols), half)
                                            : broadcast_int(tile->x[t], moe_q8_start_at(cols), unit);
    for (size_t i = h * quads; i < (h + 1) * quads; i++) {
        __m512i w[Q8_PANELS];
        for (size_t p = 0; p < num_panels; p++)
            w[p] = _mm512_load_si512(panels[p].q[place][i]);
        for (size_t t = 0; t < num_tokens; t++) {
            __m512i x = broadcast_int(tile->x[t], unit * MOE_Q8_UNIT, i);
            for (size_t p = 0; p < num_panels; p++)
                sum[t][p] = _mm512_dpbusd_epi32(sum[t][p], w[p], x);
        }
    }
    for (size_t t = 0; t < num_tokens; t++) {
        __m512 scale = broadcast(tile->x[t], moe_q8_scale_at(cols), unit);
        for (size_t p = 0; p < num_panels; p++)
            acc[t][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][p]),
                                        _mm512_mul_ps(_mm512_load_ps(panels[p].scale[place][h]), scale), acc[t][p]);
        if (!(kind & Q8_MINIMA))
            continue;
        __m512 x_sum;
        if (kind & Q8_HALVES)
            x_sum = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(broadcast_int(tile->x[t], moe_q8_half_start_at(cols),
                                                                                 half)),
                                                _mm512_set1_ps(-0x1p-7f)),
                                  scale);
        else
            x_sum = broadcast(tile->x[t], moe_q8_sum_at(cols), unit);
        for (size_t p = 0; p < num_panels; p++)
            acc[t][p] = _mm512_fmadd_ps(_mm512_load_ps(panels[p].minimum[place][h]), x_sum, acc[t][p]);
    }
}

/* Called with constants but for the tile, so that sums stay in registers. */
static inline __attribute__((always_inline)) void run_tile(const struct tile *tile, size_t num_tokens,
                                                           size_t num_panels, int kind)
{
    size_t halves = kind & Q8_HALVES ? 2 : 1;
    for (size_t lane = 0, place = 0; lane < MOE_Q8_LANES; lane++) {
        size_t end = place + q8_lane_units(tile->num_units, lane);
        __m512 acc[TILE_TOKENS][Q8_PANELS];
        for (size_t t = 0; t < num_tokens; t++)
            for (size_t p = 0; p < num_panels; p++)
                acc[t][p] = _mm512_setzero_ps();
        for (size_t unit = tile->first_unit + lane; place < end; place++, unit += MOE_Q8_LANES)
            for (size_t h = 0; h < halves; h++)
                add_unit(acc, tile, place, unit, h, num_tokens, num_panels, kind);
        for (size_t t = 0; t < num_tokens; t++)
            for (size_t p = 0; p < num_panels; p++) {
                float *y = tile->y[t] + p * Q8_ROWS;
                _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), acc[t][p]));
            }
    }
}

#define RUN_TOKENS(n)                                      \
    case n:                                                \
        if (num_panels == 2)                               \
            run_tile(tile, n, 2, kind);                    \
        else                                               \
            run_tile(tile, n, 1, kind);                    \
        break;

static inline __attribute__((always_inline)) void run_kind(const struct tile *tile, size_t num_tokens,
                                                           size_t num_panels, int kind)
{
    switch (num_tokens) {
        RUN_TOKENS(1)
        RUN_TOKENS(2)
        RUN_TOKENS(3)
        RUN_TOKENS(4)
        RUN_TOKENS(5)
        RUN_TOKENS(6)
    default:
        break;
    }
}

static inline __attribute__((always_inline)) void multiply(const struct moe_linear_rounded_args *a,
                                                           const struct q8_panel *panels, size_t first_row,
                                                           size_t first_unit, size_t num_units, int kind)
{
    size_t rows = q8_smaller(Q8_PANELS * Q8_ROWS, a->rows - first_row), num_panels = (rows + Q8_ROWS - 1) / Q8_ROWS;
    struct tile tile = {.panels = panels, .cols = a->cols, .first_unit = first_unit, .num_units = num_units};
    _Alignas(64) float y[TILE_TOKENS][Q8_PANELS * Q8_ROWS];
    size_t tiles = (a->num_tokens + TILE_TOKENS - 1) / TILE_TOKENS, num_tokens;
    for (size_t t = 0; t < a->num_tokens; t += num_tokens) {    /* tiles as even as can be */
        num_tokens = (a->num_tokens - t + tiles - 1) / tiles;
        tiles--;
        for (size_t i = 0; i < num_tokens; i++) {
            tile.x[i] = q8_x_row(a, t + i);
            tile.y[i] = y[i];
            if (first_unit == 0)
                memset(y[i], 0, sizeof y[i]);
            else
                memcpy(y[i], a->y + (t + i) * a->y_stride + first_row, rows * sizeof **y);
        }
        run_kind(&tile, num_tokens, num_panels, kind);
        for (size_t i = 0; i < num_tokens; i++)
            memcpy(a->y + (t + i) * a->y_stride + first_row, y[i], rows * sizeof **y);
    }
}

#define MULTIPLY(kind)                                                                                              \
    void moe_q8_multiply_##kind##_avx512vnni(const struct moe_linear_rounded_args *args,                            \
                                             const struct q8_panel *panels, size_t first_row, size_t first_unit,    \
                                             size_t num_units)                                                      \
    {                                                                                                               \
        multiply(args, panels, first_row, first_unit, num_units, kind);                                             \
    }
MULTIPLY(1)    /* Q8_BIASED */
MULTIPLY(3)    /* Q8_BIASED | Q8_HALVES */
MULTIPLY(4)    /* Q8_MINIMA */
MULTIPLY(6)    /* Q8_MINIMA | Q8_HALVES */
