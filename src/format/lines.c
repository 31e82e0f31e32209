// SPDX-License-Identifier: MIT
// The search for d, dmin, scales, minima and q of the K formats with minima: the best line of each group alone, then
// whole multiples of d and dmin near those, then the d and dmin that fit best to what was found.
#include "format/lines.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "format/block.h"

/* The range of d and dmin, that of f16. */
#define MIN_D 0x1p-24f
#define MAX_D 65504.0f

/* Sums of squares that differ by less of themselves are equal. */
#define NOISE 1e-7

/* A group's values are about scale * q - minimum, neither of which is negative. */
struct line {
    float scale;
    float minimum;
};

/* The values of one group. */
struct group {
    const float *x;
    int n;
    int most_q;
    double sum;
    double squares;   /* sum of x^2 */
};

/* q of the values of a group: (x + minimum) / scale, rounded. */
static void round_group(uint8_t *restrict q, const struct group *group, float inverse, float minimum)
{
    const float *restrict x = group->x;
    float most = (float)group->most_q;
    for (int i = 0; i < group->n; i++) {
        float scaled = (x[i] + minimum) * inverse;
        scaled = scaled > 0 ? scaled : 0;
        scaled = scaled < most ? scaled : most;
        q[i] = (uint8_t)(int)(scaled + 0.5f);
    }
}

/* The line that fits best to given quants by least squares, with a minimum that is not negative; returns the sum of
 * squared errors but for the sum of x^2, which is the same for all. In double: it is a small difference. */
static double fit_line(struct line *line, const struct group *group, const uint8_t *q)
{
    int n = group->n, sum_q = 0, sum_qq = 0;
    float partial[8] = {0};
    double sum_x = group->sum, sum_xq = 0, scale, minimum = 0, determinant;
    for (int i = 0; i < n; i++) {
        sum_q += q[i];
        sum_qq += q[i] * q[i];
    }
    for (int i = 0; i < n; i += 8) {
        for (int j = 0; j < 8; j++)
            partial[j] += group->x[i + j] * (float)q[i + j];
    }
    for (int j = 0; j < 8; j++)
        sum_xq += partial[j];
    determinant = (double)(n * sum_qq - sum_q * sum_q);
    if (determinant > 0)
        minimum = (sum_q * sum_xq - sum_qq * sum_x) / determinant;
    minimum = minimum > 0 ? minimum : 0;
    scale = sum_qq > 0 ? (sum_xq + minimum * sum_q) / sum_qq : 0;
    scale = scale > 0 ? scale : 0;
    line->scale = (float)scale;
    line->minimum = (float)minimum;
    return scale * (scale * sum_qq - 2 * (sum_xq + minimum * sum_q)) + minimum * (n * minimum + 2 * sum_x);
}

/* Round and fit again; keep what is better than *error. */
static bool try_line(struct line *best, double *error, const struct group *group, float inverse, float minimum)
{
    uint8_t q[MOE_LINES_MOST_GROUP];
    struct line line;
    double new_error;
    round_group(q, group, inverse, minimum);
    new_error = fit_line(&line, group, q);
    if (!(new_error < *error - NOISE * group->squares))
        return false;
    *error = new_error;
    *best = line;
    return true;
}

/* The best line of a group alone: from a grid of scales about the one that spans its range, each refitted, the best of
 * them refined by rounding and fitting in turn. Values that came from the format need not span the whole range of q:
 * whole numbers below it are tried for those. */
static struct line search_line(struct group *group)
{
    float low = 0, high = group->x[0];
    double error = DBL_MAX;
    struct line best;
    group->sum = group->squares = 0;
    for (int i = 0; i < group->n; i++) {
        low = group->x[i] < low ? group->x[i] : low;
        high = group->x[i] > high ? group->x[i] : high;
        group->sum += group->x[i];
        group->squares += (double)group->x[i] * (double)group->x[i];
    }
    best.scale = 0;
    best.minimum = -low;
    if (high - low < MIN_D)
        return best;
    (void)try_line(&best, &error, group, (float)group->most_q / (high - low), -low);
    for (int i = -10; i <= 10; i++)
        (void)try_line(&best, &error, group, ((float)group->most_q + 0.125f * (float)i) / (high - low), -low);
    for (int span = group->most_q - 2; span > 0 && span >= group->most_q - 4; span--)
        (void)try_line(&best, &error, group, (float)span / (high - low), -low);
    for (int i = 0; i < 4 && best.scale >= MIN_D / 64; i++) {
        if (!try_line(&best, &error, group, 1.0f / best.scale, best.minimum))
            break;
    }
    return best;
}

static float group_error(uint8_t *q, const struct group *group, float scale, float minimum)
{
    float partial[8] = {0}, error = 0;
    round_group(q, group, scale > 0 ? 1.0f / scale : 0, minimum);
    for (int i = 0; i < group->n; i += 8) {
        for (int j = 0; j < 8; j++) {
            float difference = group->x[i + j] - (scale * (float)q[i + j] - minimum);
            partial[j] += difference * difference;
        }
    }
    for (int j = 0; j < 8; j++)
        error += partial[j];
    return error;
}

/* The integers of group g at d and dmin: the nearest ones to its line, or those within reach that round better, which
 * gains a 100th of the error at 4 bits. */
static void choose_integers(struct moe_lines_solution *out, int g, const struct group *group, struct line line,
                            int most, int reach)
{
    float d = moe_f16_to_f32(out->d), dmin = moe_f16_to_f32(out->dmin), best = FLT_MAX;
    int scale = round_clamped(line.scale / d, 0, most), minimum = round_clamped(line.minimum / dmin, 0, most);
    for (int i = scale > reach ? scale - reach : 0; i <= scale + reach && i <= most; i++) {
        for (int j = minimum > reach ? minimum - reach : 0; j <= minimum + reach && j <= most; j++) {
            uint8_t q[MOE_LINES_MOST_GROUP];
            float error = group_error(q, group, d * (float)i, dmin * (float)j);
            if (error < best) {
                best = error;
                out->scales[g] = (uint8_t)i;
                out->minima[g] = (uint8_t)j;
                memcpy(out->q + group->n * g, q, (size_t)group->n);
            }
        }
    }
    out->error += (double)best;
}

static uint16_t round_d(float d)
{
    return moe_f32_to_f16(d < MIN_D ? MIN_D : d < MAX_D ? d : MAX_D);
}

/* All groups at one d and dmin, which are rounded to f16: *out, if that is better. */
static bool try_scales(struct moe_lines_solution *out, const struct group *groups, const struct line *lines,
                       const struct moe_lines_shape *shape, float d, float dmin, int reach)
{
    struct moe_lines_solution solution;
    solution.d = round_d(d);
    solution.dmin = round_d(dmin);
    solution.error = 0;
    for (int g = 0; g < shape->num_groups; g++)
        choose_integers(&solution, g, &groups[g], lines[g], shape->most_scale, reach);
    if (!(solution.error < out->error))
        return false;
    *out = solution;
    return true;
}

/* The d and dmin that fit best to given integers and quants: least squares of in = d a - dmin b. */
static void refit(float *d, float *dmin, const struct moe_lines_solution *solution, const float *in, int group_values)
{
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0, determinant;
    for (int i = 0; i < MOE_LINES_VALUES; i++) {
        int g = i / group_values;
        double a = solution->scales[g] * solution->q[i], b = solution->minima[g];
        aa += a * a;
        ab += a * b;
        bb += b * b;
        xa += in[i] * a;
        xb += in[i] * b;
    }
    determinant = aa * bb - ab * ab;
    *d = determinant > 0 ? (float)((xa * bb - xb * ab) / determinant) : moe_f16_to_f32(solution->d);
    *dmin = determinant > 0 ? (float)((xa * ab - xb * aa) / determinant) : moe_f16_to_f32(solution->dmin);
}

/* The largest scale and minimum become the largest integers, or up to two less: that is what refitting may have left of
 * values that came from the format. */
static void try_starts(struct moe_lines_solution *out, const struct group *groups, const struct line *lines,
                       const struct moe_lines_shape *shape)
{
    float d = 0, dmin = 0, most = (float)shape->most_scale;
    for (int g = 0; g < shape->num_groups; g++) {
        d = lines[g].scale > d ? lines[g].scale : d;
        dmin = lines[g].minimum > dmin ? lines[g].minimum : dmin;
    }
    for (int i = 0; i < 9; i++)
        (void)try_scales(out, groups, lines, shape, d / (most - (float)(i % 3)), dmin / (most - (float)(i / 3)), 0);
}

/* false: NaN, infinite, or beyond the largest magnitude that values of both signs can have. */
static bool solve_block(struct moe_lines_solution *out, const float *in, const struct moe_lines_shape *shape)
{
    struct group groups[MOE_LINES_MOST_GROUPS];
    struct line lines[MOE_LINES_MOST_GROUPS];
    int group_values = MOE_LINES_VALUES / shape->num_groups;
    if (max_magnitude(in, MOE_LINES_VALUES) > MAX_D * (float)shape->most_scale)
        return false;
    for (int g = 0; g < shape->num_groups; g++) {
        groups[g] = (struct group){in + group_values * g, group_values, shape->most_q, 0, 0};
        lines[g] = search_line(&groups[g]);
    }
    out->error = INFINITY;
    try_starts(out, groups, lines, shape);
    for (int i = 0; i < 3; i++) {
        float d, dmin;
        refit(&d, &dmin, out, in, group_values);
        if (!try_scales(out, groups, lines, shape, d, dmin, shape->reach))
            break;
    }
    return true;
}

void moe_lines_quantise(void *out, const float *in, size_t num_blocks, const struct moe_lines_shape *shape)
{
    uint8_t *block = out;
    for (size_t i = 0; i < num_blocks; i++, block += shape->block_bytes) {
        struct moe_lines_solution solution;
        memset(block, 0, shape->block_bytes);
        if (solve_block(&solution, in + MOE_LINES_VALUES * i, shape))
            shape->pack(block, &solution);
        else
            store_u16(block + shape->d_offset, MOE_F16_NAN);
    }
}
