// SPDX-License-Identifier: MIT
// linear_q8 of several tokens on Arm: panels of 8 rows, unpacked once for all tokens. Levels differ in the product, and
// in the order of a panel's bytes: dotprod multiplies 4 rows by a token, i8mm 2 tokens by 2 rows.
#ifndef MOE_Q8_PANEL_NEON_H
#define MOE_Q8_PANEL_NEON_H

#include "cpu/arm/q8_neon.h"
#include "cpu/q8.h"

enum {
    Q8_ROWS = 8,         /* of a panel */
    Q8_PANELS = 4,
    Q8_SEGMENT_UNITS = MOE_Q8_SEGMENT / MOE_Q8_UNIT,
    Q8_MOST_BYTES = 2 * MOE_Q8_GROUP
};

/* A segment of 8 rows. A unit's bytes are in the order of its level: q8_put_fn. */
struct q8_panel {
    int8_t q[Q8_SEGMENT_UNITS][Q8_ROWS * MOE_Q8_UNIT];
    float scale[Q8_SEGMENT_UNITS][2][Q8_ROWS];       /* without halves, [i][0] only */
    float minimum[Q8_SEGMENT_UNITS][2][Q8_ROWS];
};

/* One unit of 8 rows. */
typedef void q8_put_fn(int8_t out[Q8_ROWS * MOE_Q8_UNIT], const struct q8_unit rows[Q8_ROWS]);

/* y (+)= panels * x, for the segment of num_units units from unit first_unit on, rows of y first_row.. . */
typedef void q8_multiply_fn(const struct moe_linear_rounded_args *args, size_t first_row, size_t first_unit,
                            size_t num_units);

/* What unpacking needs to know. Called with constants, so that the functions are inlined. */
struct q8_format {
    q8_scales_fn *scales;
    q8_quants_fn *quants;
    size_t unit_bytes, group_bytes;
    int kind;
};

static inline const unsigned char *q8_x_row(const struct moe_linear_rounded_args *a, size_t t)
{
    return a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t] : t) * a->x_stride;
}

static inline float q8_x_float(const unsigned char *row, size_t at, size_t i)
{
    float value;
    memcpy(&value, row + at + 4 * i, sizeof value);
    return value;
}

/* The scaled sum of a unit of x, or with halves of half h of it. */
static inline float q8_x_sum(const unsigned char *row, size_t cols, size_t unit, size_t h, int kind)
{
    int32_t start;
    if (!(kind & Q8_HALVES))
        return q8_x_float(row, moe_q8_sum_at(cols), unit);
    size_t half = unit / MOE_Q8_LANES * 16 + 8 * h + unit % MOE_Q8_LANES;
    memcpy(&start, row + moe_q8_half_start_at(cols) + 4 * half, sizeof start);
    return (float)start * -0x1p-7f * q8_x_float(row, moe_q8_scale_at(cols), unit);
}

/* The group of num_units units at in, followed by zeros where it is cut short. */
Q8_INLINE const unsigned char *q8_whole_group(unsigned char padded[Q8_MOST_BYTES], const unsigned char *in,
                                              size_t num_units, struct q8_format f)
{
    if (num_units == Q8_UNITS)
        return in;
    memset(padded, 0, f.group_bytes);
    memcpy(padded, in, num_units * f.unit_bytes);
    return padded;
}

/* The weights as one stream of rows that follow each other, and then the caller's next: fetch at an offset. */
Q8_INLINE void q8_fetch_stream(const struct moe_linear_rounded_args *a, size_t offset, size_t size)
{
    size_t end = a->rows * a->w_stride;
    if (offset < end)
        q8_fetch(a->w + offset, size);
    else if (a->next != NULL)
        q8_fetch((const unsigned char *)((uintptr_t)a->next + (offset - end)), size);
}

/* A segment of rows r.. + 7; rows that there are not repeat the last, and are not stored. What is packed next is
 * fetched meanwhile: these rows' next segment, or the first of the rows that follow. */
Q8_INLINE void q8_pack(struct q8_panel *panel, const struct moe_linear_rounded_args *a, size_t r, size_t first_unit,
                       size_t num_units, struct q8_format f, q8_put_fn *put)
{
    unsigned char padded[Q8_ROWS][Q8_MOST_BYTES];
    size_t ahead = Q8_ROWS * a->w_stride, segment_bytes = Q8_SEGMENT_UNITS / Q8_UNITS * f.group_bytes;
    if ((first_unit + num_units) * MOE_Q8_UNIT < a->cols)
        ahead = segment_bytes;
    else if (first_unit > 0)
        ahead = Q8_PANELS * Q8_ROWS * a->w_stride - first_unit / Q8_SEGMENT_UNITS * segment_bytes;
    for (size_t first = 0; first < num_units; first += Q8_UNITS) {
        size_t units = q8_smaller(Q8_UNITS, num_units - first), g = (first_unit + first) / Q8_UNITS;
        const unsigned char *groups[Q8_ROWS];
        for (size_t i = 0; i < Q8_ROWS; i++) {
            size_t offset = g * f.group_bytes, row = q8_smaller(r + i, a->rows - 1);
            groups[i] = q8_whole_group(padded[i], a->w + row * a->w_stride + offset, units, f);
            q8_fetch_stream(a, (r + i) * a->w_stride + offset + ahead, f.group_bytes);
            struct q8_scales scales;
            f.scales(&scales, groups[i]);
            for (size_t h = 0; h < (f.kind & Q8_HALVES ? 2 : 1); h++)
                for (size_t u = 0; u < units; u++) {
                    panel->scale[first + u][h][i] = scales.scale[h][u];
                    if (f.kind & Q8_MINIMA)
                        panel->minimum[first + u][h][i] = scales.minimum[h][u];
                }
        }
        for (size_t u = 0; u < units; u++) {
            struct q8_unit rows[Q8_ROWS];
            for (size_t i = 0; i < Q8_ROWS; i++)
                rows[i] = f.quants(groups[i], u);
            put(panel->q[first + u], rows);
        }
    }
}

Q8_INLINE void q8_linear_many(const struct moe_linear_rounded_args *a, struct q8_format f, q8_put_fn *put,
                              q8_multiply_fn *multiply)
{
    struct q8_panel *panels = a->scratch;
    size_t num_units = a->cols / MOE_Q8_UNIT;
    for (size_t r = 0; r < a->rows; r += Q8_PANELS * Q8_ROWS) {
        for (size_t first = 0; first < num_units; first += Q8_SEGMENT_UNITS) {
            size_t units = q8_smaller(Q8_SEGMENT_UNITS, num_units - first);
            for (size_t i = 0; i < Q8_PANELS && r + i * Q8_ROWS < a->rows; i++)
                q8_pack(&panels[i], a, r + i * Q8_ROWS, first, units, f, put);
            multiply(a, r, first, units);
        }
    }
}

#endif
