// SPDX-License-Identifier: MIT
// What the formats without minima share: blocks of 256 values, value = (d * scale) * q, in groups that have a whole
// scale each. The search for all of these.
#ifndef MOE_FORMAT_SCALES_H
#define MOE_FORMAT_SCALES_H

#include <stddef.h>
#include <stdint.h>

enum { MOE_SCALES_VALUES = 256, MOE_SCALES_MOST_GROUPS = 16, MOE_SCALES_MOST_GROUP = 32 };

/* What a value can be in units of its scale, and how the scale of a group is searched for. */
struct moe_scales_grid {
    /* The q nearest to the n values x * inverse, which may be beyond the range. */
    void (*round)(int8_t *q, const float *x, float inverse, int n);
    int lowest;            /* the q of the largest magnitude, which is negative */
    float step;            /* tried are scales that bring the extreme value to lowest + step * i, |i| <= num_steps */
    int num_steps;
    const int8_t *book;    /* and to each of these, none of them 0: so values that the format can hold come back */
    int num_book;
};

struct moe_scales_solution {
    double error;      /* the sum of squares */
    uint16_t d;        /* f16 */
    int8_t scales[MOE_SCALES_MOST_GROUPS];
    int8_t q[MOE_SCALES_VALUES];
};

struct moe_scales_shape {
    struct moe_scales_grid grid;
    int num_groups;
    int most_scale;    /* scales are -most_scale - 1 .. most_scale */
    int reach;         /* how far from the nearest scale others are tried */
    size_t block_bytes;
    size_t d_offset;   /* where a block has d */
    void (*pack)(void *block, const struct moe_scales_solution *solution);   /* into zeros */
};

/* The range of d, that of f16. */
#define MOE_SCALES_MIN_D 0x1p-24f
#define MOE_SCALES_MOST_D 65504.0f

/* d within this range, but for 0, and rounded to f16. */
float moe_scales_round_d(float d);

/* The scale that suits n values best, of either sign; 0 for values that are too small for one in f16. */
float moe_scales_search(const float *x, int n, const struct moe_scales_grid *grid);

/* Values that are NaN, infinite or too large for the format get a block of zeros with d = NaN. */
void moe_scales_quantise(void *out, const float *in, size_t num_blocks, const struct moe_scales_shape *shape);

/* The integer nearest to x * inverse, within -most - 1 .. most: round of a format without a code book. */
static inline void moe_scales_round(int8_t *q, const float *x, float inverse, int n, int most)
{
    float low = (float)(-most - 1), high = (float)most, half = (float)(most + 1) + 0.5f;
    for (int i = 0; i < n; i++) {
        float scaled = x[i] * inverse;
        scaled = scaled < low ? low : scaled;
        scaled = scaled > high ? high : scaled;
        q[i] = (int8_t)((int)(scaled + half) - (most + 1));
    }
}

#endif
