// SPDX-License-Identifier: MIT
// The search for d, scales and q of formats without minima: the best scale of each group alone, then whole multiples of
// d near those, then the d that fits best to what was found.
#include "format/scales.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "format/block.h"

float moe_scales_round_d(float d)
{
    float magnitude = fabsf(d);
    if (!(magnitude > 0))
        return 0;
    magnitude = magnitude < MOE_SCALES_MIN_D ? MOE_SCALES_MIN_D : fminf(magnitude, MOE_SCALES_MOST_D);
    return moe_f16_to_f32(moe_f32_to_f16(copysignf(magnitude, d)));
}

/* The scale that fits best to given quants by least squares; *gain is how much of the sum of squares it explains. */
static float fit_scale(float *gain, const float *x, const int8_t *q, int n)
{
    int qq = 0;
    float xq = 0;
    for (int i = 0; i < n; i++) {
        qq += q[i] * q[i];
        xq += x[i] * (float)q[i];
    }
    *gain = qq > 0 ? xq * xq / (float)qq : 0;
    return qq > 0 ? xq / (float)qq : 0;
}

/* The best so far, and how much of the sum of squares it explains. */
struct fit {
    float scale;
    float gain;
};

/* Round at 1 / scale, fit again, keep what is better by more than the noise of sums. */
static bool try_inverse(struct fit *best, const float *x, int n, const struct moe_scales_grid *grid, float inverse)
{
    int8_t q[MOE_SCALES_MOST_GROUP];
    struct fit fit;
    grid->round(q, x, inverse, n);
    fit.scale = fit_scale(&fit.gain, x, q, n);
    if (!(fit.gain > best->gain * (1 + 0x1p-21f)))
        return false;
    *best = fit;
    return true;
}

/* From a grid about the scale that brings the extreme value to the end of the range that is longer, each refitted, the
 * best of them refined by rounding and fitting in turn. That scale is first: of values that came from the format and
 * that several scales can hold, the largest ones most probably had it. */
float moe_scales_search(const float *x, int n, const struct moe_scales_grid *grid)
{
    float extreme = extreme_value(x, (size_t)n);
    struct fit best = {0, 0};
    if (fabsf(extreme) < MOE_SCALES_MIN_D)
        return 0;
    (void)try_inverse(&best, x, n, grid, (float)grid->lowest / extreme);
    for (int i = -grid->num_steps; i <= grid->num_steps; i++)
        (void)try_inverse(&best, x, n, grid, ((float)grid->lowest - grid->step * (float)i) / extreme);
    for (int i = 0; i < grid->num_book; i++)
        (void)try_inverse(&best, x, n, grid, (float)grid->book[i] / extreme);
    for (int i = 0; i < 4 && best.scale != 0; i++) {
        if (!try_inverse(&best, x, n, grid, 1.0f / best.scale))
            break;
    }
    return best.scale;
}

/* Group g at d: the nearest scale, or one within reach that rounds better. */
static void choose_scale(struct moe_scales_solution *out, int g, const float *x, float scale, float d,
                         const struct moe_scales_shape *shape, int reach)
{
    int n = MOE_SCALES_VALUES / shape->num_groups, low = -shape->most_scale - 1;
    int nearest = round_clamped(scale / d, low, shape->most_scale);
    float best = FLT_MAX;
    for (int s = nearest - reach; s <= nearest + reach; s++) {
        float product = d * (float)s, error = 0;
        int8_t q[MOE_SCALES_MOST_GROUP];
        if (s < low || s > shape->most_scale)
            continue;
        shape->grid.round(q, x, product != 0 ? 1.0f / product : 0, n);
        for (int i = 0; i < n; i++) {
            float difference = x[i] - product * (float)q[i];
            error += difference * difference;
        }
        if (error < best) {
            best = error;
            out->scales[g] = (int8_t)s;
            memcpy(out->q + n * g, q, (size_t)n);
        }
    }
    out->error += (double)best;
}

/* All groups at one d, which is rounded to f16: *out, if that is better. */
static bool try_d(struct moe_scales_solution *out, const float *in, const float *scales, float d,
                  const struct moe_scales_shape *shape, int reach)
{
    struct moe_scales_solution solution;
    int group_values = MOE_SCALES_VALUES / shape->num_groups;
    d = moe_scales_round_d(d);
    d = d != 0 ? d : MOE_SCALES_MIN_D;
    solution.d = moe_f32_to_f16(d);
    solution.error = 0;
    for (int g = 0; g < shape->num_groups; g++)
        choose_scale(&solution, g, in + group_values * g, scales[g], d, shape, reach);
    if (!(solution.error < out->error))
        return false;
    *out = solution;
    return true;
}

/* The d that fits best to given scales and quants. */
static float refit_d(const struct moe_scales_solution *solution, const float *in, int group_values)
{
    double xq = 0, qq = 0;
    for (int i = 0; i < MOE_SCALES_VALUES; i++) {
        int q = solution->scales[i / group_values] * solution->q[i];
        xq += (double)in[i] * q;
        qq += (double)q * q;
    }
    return qq > 0 ? (float)(xq / qq) : 0;
}

/* The group with the largest scale gets the end of the range that is longer, or a neighbour of that: refitting may have
 * left it to values that came from the format. false: NaN, infinite, too large. */
static bool solve_block(struct moe_scales_solution *out, const float *in, const struct moe_scales_shape *shape)
{
    int group_values = MOE_SCALES_VALUES / shape->num_groups, low = -shape->most_scale - 1;
    float scales[MOE_SCALES_MOST_GROUPS], extreme = 0;
    if (max_magnitude(in, MOE_SCALES_VALUES) > MOE_SCALES_MOST_D * (float)(low * shape->grid.lowest))
        return false;
    for (int g = 0; g < shape->num_groups; g++) {
        scales[g] = moe_scales_search(in + group_values * g, group_values, &shape->grid);
        extreme = fabsf(scales[g]) > fabsf(extreme) ? scales[g] : extreme;
    }
    out->error = INFINITY;
    for (int i = 0; i < 3; i++)
        (void)try_d(out, in, scales, extreme / (float)(low + i), shape, 0);
    for (int i = 0; i < 3; i++) {
        if (!try_d(out, in, scales, refit_d(out, in, group_values), shape, shape->reach))
            break;
    }
    return true;
}

void moe_scales_quantise(void *out, const float *in, size_t num_blocks, const struct moe_scales_shape *shape)
{
    uint8_t *block = out;
    for (size_t i = 0; i < num_blocks; i++, block += shape->block_bytes) {
        struct moe_scales_solution solution;
        memset(block, 0, shape->block_bytes);
        if (solve_block(&solution, in + MOE_SCALES_VALUES * i, shape))
            shape->pack(block, &solution);
        else
            store_u16(block + shape->d_offset, MOE_F16_NAN);
    }
}
