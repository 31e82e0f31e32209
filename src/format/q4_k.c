// SPDX-License-Identifier: MIT
// Q4_K: 256 values of 4 bits in 8 groups of 32, each with a scale and a minimum of 6 bits.
// value = (d * scale) * q - (dmin * minimum).
#include <float.h>
#include <math.h>

#include "format/block.h"

/* byte   0 .. 1    d, f16
 *        2 .. 3    dmin, f16
 *        4 .. 15   scales and minima of groups 0 .. 7: the lower 6 bits of bytes 0 .. 3 are scales 0 .. 3, those of
 *                  bytes 4 .. 7 minima 0 .. 3; byte 8 + j has the lower 4 bits of scale 4 + j (low nibble) and of
 *                  minimum 4 + j (high nibble), and their upper 2 bits are bits 6 and 7 of bytes j and 4 + j
 *       16 .. 143  q: 32 bytes for groups 0 (low nibbles) and 1 (high nibbles), 32 bytes for groups 2 and 3, ... */
struct block {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t q[128];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_Q4_K, "the row of Q4_K");

enum { GROUPS = 8, GROUP_VALUES = 32 };

/* The range of d and dmin, that of f16, and the largest magnitude that values of both signs can have. */
#define MIN_D 0x1p-24f
#define MAX_D 65504.0f
#define MAX_MAGNITUDE (MAX_D * 63)

/* A group's values are about scale * q - minimum, neither of which is negative. */
struct line {
    float scale;
    float minimum;
};

/* q of the values of a group: (x + minimum) / scale, rounded. */
static void round_group(uint8_t *q, const float *x, float inverse, float minimum)
{
    for (int i = 0; i < GROUP_VALUES; i++) {
        float scaled = (x[i] + minimum) * inverse;
        scaled = scaled > 0 ? scaled : 0;
        scaled = scaled < 15 ? scaled : 15;
        q[i] = (uint8_t)(int)(scaled + 0.5f);
    }
}

/* The line that fits best to given quants by least squares, with a minimum that is not negative; returns the sum of
 * squared errors but for the sum of x^2, which is the same for all. In double: it is a small difference. */
static double fit_line(struct line *line, const float *x, double sum_x, const uint8_t *q)
{
    int sum_q = 0, sum_qq = 0;
    float partial[8] = {0};
    double sum_xq = 0, scale, minimum = 0, determinant;
    for (int i = 0; i < GROUP_VALUES; i++) {
        sum_q += q[i];
        sum_qq += q[i] * q[i];
    }
    for (int i = 0; i < GROUP_VALUES; i += 8) {
        for (int j = 0; j < 8; j++)
            partial[j] += x[i + j] * (float)q[i + j];
    }
    for (int j = 0; j < 8; j++)
        sum_xq += partial[j];
    determinant = (double)(GROUP_VALUES * sum_qq - sum_q * sum_q);
    if (determinant > 0)
        minimum = (sum_q * sum_xq - sum_qq * sum_x) / determinant;
    minimum = minimum > 0 ? minimum : 0;
    scale = sum_qq > 0 ? (sum_xq + minimum * sum_q) / sum_qq : 0;
    scale = scale > 0 ? scale : 0;
    line->scale = (float)scale;
    line->minimum = (float)minimum;
    return scale * (scale * sum_qq - 2 * (sum_xq + minimum * sum_q)) + minimum * (GROUP_VALUES * minimum + 2 * sum_x);
}

/* The best line of a group alone: from a grid of scales about the one that spans its range, each refitted, the best of
 * them refined by rounding and fitting in turn. */
static struct line search_line(const float *x)
{
    float low = 0, high = x[0];
    double sum_x = 0, best_error = DBL_MAX;
    uint8_t q[GROUP_VALUES];
    struct line best, line;
    for (int i = 0; i < GROUP_VALUES; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum_x += x[i];
    }
    best.scale = 0;
    best.minimum = -low;
    if (high - low < MIN_D)
        return best;
    for (int i = -10; i <= 10; i++) {
        double error;
        round_group(q, x, (15.0f + 0.125f * (float)i) / (high - low), -low);
        error = fit_line(&line, x, sum_x, q);
        if (error < best_error) {
            best_error = error;
            best = line;
        }
    }
    for (int i = 0; i < 4 && best.scale >= MIN_D / 64; i++) {
        double error;
        round_group(q, x, 1.0f / best.scale, best.minimum);
        error = fit_line(&line, x, sum_x, q);
        if (!(error < best_error))
            break;
        best_error = error;
        best = line;
    }
    return best;
}

static float group_error(uint8_t *q, const float *x, float scale, float minimum)
{
    float partial[8] = {0}, error = 0;
    round_group(q, x, scale > 0 ? 1.0f / scale : 0, minimum);
    for (int i = 0; i < GROUP_VALUES; i += 8) {
        for (int j = 0; j < 8; j++) {
            float difference = x[i + j] - (scale * (float)q[i + j] - minimum);
            partial[j] += difference * difference;
        }
    }
    for (int j = 0; j < 8; j++)
        error += partial[j];
    return error;
}

struct solution {
    float error;
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[GROUPS];
    uint8_t minima[GROUPS];
    uint8_t q[GROUPS][GROUP_VALUES];
};

/* The integers of group g at d and dmin: the nearest ones to its line, or neighbours that round better, which gains a
 * 100th of the error. */
static void choose_integers(struct solution *out, int g, const float *x, struct line line, float d, float dmin)
{
    int scale = round_clamped(line.scale / d, 0, 63), minimum = round_clamped(line.minimum / dmin, 0, 63);
    float best = FLT_MAX;
    for (int i = scale > 0 ? scale - 1 : 0; i <= scale + 1 && i <= 63; i++) {
        for (int j = minimum > 0 ? minimum - 1 : 0; j <= minimum + 1 && j <= 63; j++) {
            uint8_t q[GROUP_VALUES];
            float error = group_error(q, x, d * (float)i, dmin * (float)j);
            if (error < best) {
                best = error;
                out->scales[g] = (uint8_t)i;
                out->minima[g] = (uint8_t)j;
                memcpy(out->q[g], q, sizeof q);
            }
        }
    }
    out->error += best;
}

static uint16_t round_d(float d)
{
    return moe_f32_to_f16(d < MIN_D ? MIN_D : d < MAX_D ? d : MAX_D);
}

/* All groups at one d and dmin, which are rounded to f16. */
static void solve(struct solution *out, const float *in, const struct line *lines, float d, float dmin)
{
    out->d = round_d(d);
    out->dmin = round_d(dmin);
    out->error = 0;
    for (int g = 0; g < GROUPS; g++)
        choose_integers(out, g, in + GROUP_VALUES * g, lines[g], moe_f16_to_f32(out->d), moe_f16_to_f32(out->dmin));
}

/* The d and dmin that fit best to given integers and quants: least squares of in = d a - dmin b. */
static void refit(float *d, float *dmin, const struct solution *solution, const float *in)
{
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0, determinant;
    for (int i = 0; i < GROUPS * GROUP_VALUES; i++) {
        int g = i / GROUP_VALUES;
        double a = solution->scales[g] * solution->q[g][i % GROUP_VALUES], b = solution->minima[g];
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

static void pack(struct block *out, const struct solution *solution)
{
    const uint8_t *scales = solution->scales, *minima = solution->minima;
    store_u16(out->d, solution->d);
    store_u16(out->dmin, solution->dmin);
    for (int j = 0; j < 4; j++) {
        out->scales[j] = (uint8_t)(scales[j] | (scales[4 + j] >> 4) << 6);
        out->scales[4 + j] = (uint8_t)(minima[j] | (minima[4 + j] >> 4) << 6);
        out->scales[8 + j] = (uint8_t)((scales[4 + j] & 15) | (minima[4 + j] & 15) << 4);
    }
    for (int i = 0; i < 128; i++)
        out->q[i] = (uint8_t)(solution->q[i / 32 * 2][i % 32] | solution->q[i / 32 * 2 + 1][i % 32] << 4);
}

static void quantise_block(struct block *block, const float *in)
{
    struct solution best, next;
    struct line lines[GROUPS];
    float d = 0, dmin = 0;
    if (max_magnitude(in, 256) > MAX_MAGNITUDE) {
        memset(block, 0, sizeof *block);
        store_u16(block->d, MOE_F16_NAN);
        return;
    }
    for (int g = 0; g < GROUPS; g++) {
        lines[g] = search_line(in + GROUP_VALUES * g);
        d = lines[g].scale > d ? lines[g].scale : d;
        dmin = lines[g].minimum > dmin ? lines[g].minimum : dmin;
    }
    solve(&best, in, lines, d / 63, dmin / 63);
    for (int i = 0; i < 2; i++) {
        refit(&d, &dmin, &best, in);
        solve(&next, in, lines, d, dmin);
        if (!(next.error < best.error))
            break;
        best = next;
    }
    pack(block, &best);
}

static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++)
        quantise_block(&blocks[i], in + 256 * i);
}

static void unpack_scales(uint8_t scales[GROUPS], uint8_t minima[GROUPS], const uint8_t packed[12])
{
    for (int j = 0; j < 4; j++) {
        scales[j] = packed[j] & 63;
        minima[j] = packed[4 + j] & 63;
        scales[4 + j] = (uint8_t)((packed[8 + j] & 15) | (packed[j] >> 6) << 4);
        minima[4 + j] = (uint8_t)(packed[8 + j] >> 4 | (packed[4 + j] >> 6) << 4);
    }
}

/* Groups g and g + 1, which share their bytes. */
static void dequantise_groups(float *restrict out, const uint8_t *restrict q, const float scales[2],
                              const float minima[2])
{
    float scale = scales[0], minimum = minima[0], next_scale = scales[1], next_minimum = minima[1];
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i] = scale * (float)(q[i] & 15) - minimum;
    for (int i = 0; i < GROUP_VALUES; i++)
        out[i + GROUP_VALUES] = next_scale * (float)(q[i] >> 4) - next_minimum;
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d), dmin = load_f16(blocks[i].dmin);
        uint8_t scales[GROUPS], minima[GROUPS];
        unpack_scales(scales, minima, blocks[i].scales);
        for (int g = 0; g < GROUPS; g += 2) {
            const float products[2] = {d * (float)scales[g], d * (float)scales[g + 1]};
            const float offsets[2] = {dmin * (float)minima[g], dmin * (float)minima[g + 1]};
            dequantise_groups(out + 256 * i + GROUP_VALUES * g, blocks[i].q + 16 * g, products, offsets);
        }
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        if (!f16_is_finite(blocks[i].d) || !f16_is_finite(blocks[i].dmin))
            return i;
    }
    return num_blocks;
}

const struct moe_format_def moe_format_def_Q4_K = {quantise, dequantise, find_nonfinite};
