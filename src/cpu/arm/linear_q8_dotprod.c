// SPDX-License-Identifier: MIT
// linear_q8 on dotprod. One token: the dot products of a row at a time, units along lanes, weights in registers. More:
// panels of 8 rows, rows along lanes (q8_panel_dotprod.c).
#include "cpu/arm/formats.h"
#include "cpu/arm/q8_dotprod.h"
#include "cpu/arm/unpack_iq_neon.h"

enum { AHEAD = 4096 };    /* bytes of weights that are fetched ahead of a row's products */

/* ---- one token ---- */

/* Lanes 0 .. 3 and 4 .. 7. */
struct lanes {
    float32x4_t f[2];
};

/* Of each of 8 vectors the sum of its lanes. */
Q8_INLINE void sum_units(int32x4_t sums[2], const int32x4_t dots[Q8_UNITS])
{
    for (size_t i = 0; i < 2; i++)
        sums[i] = vpaddq_s32(vpaddq_s32(dots[4 * i], dots[4 * i + 1]), vpaddq_s32(dots[4 * i + 2], dots[4 * i + 3]));
}

/* One rounding for a scale, one for each product that is added. */
Q8_INLINE struct lanes add_sums(struct lanes acc, const int32x4_t sums[2], const float *w_scale, const float *x_scale,
                                const float *minimum, const float x_sum[Q8_UNITS], int kind)
{
    for (size_t i = 0; i < 2; i++) {
        float32x4_t scale = vmulq_f32(vld1q_f32(w_scale + 4 * i), vld1q_f32(x_scale + 4 * i));
        acc.f[i] = vfmaq_f32(acc.f[i], vcvtq_f32_s32(sums[i]), scale);
        if (kind & Q8_MINIMA)
            acc.f[i] = vfmaq_f32(acc.f[i], vld1q_f32(minimum + 4 * i), vld1q_f32(x_sum + 4 * i));
    }
    return acc;
}

#define EACH_UNIT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

Q8_INLINE struct lanes add_group(struct lanes acc, const unsigned char *group, const unsigned char *x, size_t cols,
                                 size_t unit, struct q8_format f)
{
    const int8_t *q = (const int8_t *)x + unit * MOE_Q8_UNIT;
    const float *x_scale = (const float *)(const void *)(x + moe_q8_scale_at(cols)) + unit;
    const float *x_sum = (const float *)(const void *)(x + moe_q8_sum_at(cols)) + unit;
    struct q8_scales scales;
    int32x4_t dots[2][Q8_UNITS], sums[2];
    f.scales(&scales, group);
#define MULTIPLY_UNIT(u)                                                                                      \
    {                                                                                                         \
        struct q8_unit w = f.quants(group, u);                                                                \
        dots[0][u] = vdotq_s32(vdupq_n_s32(0), w.q[0], vld1q_s8(q + u * MOE_Q8_UNIT));                        \
        dots[1][u] = vdotq_s32(f.kind & Q8_HALVES ? vdupq_n_s32(0) : dots[0][u], w.q[1],                      \
                               vld1q_s8(q + u * MOE_Q8_UNIT + 16));                                           \
    }
    EACH_UNIT(MULTIPLY_UNIT)
#undef MULTIPLY_UNIT
    if (!(f.kind & Q8_HALVES)) {
        sum_units(sums, dots[1]);
        return add_sums(acc, sums, scales.scale[0], x_scale, scales.minimum[0], x_sum, f.kind);
    }
    for (size_t h = 0; h < 2; h++) {
        float half_sum[Q8_UNITS] = {0};
        for (size_t u = 0; f.kind & Q8_MINIMA && u < Q8_UNITS; u++)
            half_sum[u] = q8_x_sum(x, cols, unit + u, h, f.kind);
        sum_units(sums, dots[h]);
        acc = add_sums(acc, sums, scales.scale[h], x_scale, scales.minimum[h], half_sum, f.kind);
    }
    return acc;
}

/* Lanes without a unit stay as they were. */
static inline struct lanes keep_lanes(struct lanes before, struct lanes after, size_t num_units)
{
    static const uint32_t numbers[Q8_UNITS] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (size_t i = 0; i < 2; i++) {
        uint32x4_t there = vcltq_u32(vld1q_u32(numbers + 4 * i), vdupq_n_u32((uint32_t)num_units));
        after.f[i] = vbslq_f32(there, after.f[i], before.f[i]);
    }
    return after;
}

static inline float add_lanes(float total, struct lanes acc)
{
    float lanes[MOE_Q8_LANES];
    vst1q_f32(lanes, acc.f[0]);
    vst1q_f32(lanes + 4, acc.f[1]);
    for (size_t l = 0; l < MOE_Q8_LANES; l++)
        total += lanes[l];
    return total;
}

Q8_INLINE void linear_one(const struct moe_linear_rounded_args *a, struct q8_format f)
{
    const unsigned char *x = q8_x_row(a, 0);
    size_t num_units = a->cols / MOE_Q8_UNIT;
    for (size_t r = 0; r < a->rows; r++) {
        const unsigned char *w = a->w + r * a->w_stride;
        float total = 0;
        for (size_t first = 0; first < num_units; first += Q8_SEGMENT_UNITS) {
            size_t end = q8_smaller(first + Q8_SEGMENT_UNITS, num_units), unit = first;
            struct lanes acc = {{vdupq_n_f32(0), vdupq_n_f32(0)}};
            for (; unit + Q8_UNITS <= end; unit += Q8_UNITS, w += f.group_bytes) {
                q8_fetch_stream(a, (size_t)(w - a->w) + AHEAD, f.group_bytes);
                acc = add_group(acc, w, x, a->cols, unit, f);
            }
            if (unit < end) {
                unsigned char padded[Q8_MOST_BYTES];
                const unsigned char *group = q8_whole_group(padded, w, end - unit, f);
                acc = keep_lanes(acc, add_group(acc, group, x, a->cols, unit, f), end - unit);
            }
            total = add_lanes(total, acc);
        }
        a->y[r] = total;
    }
}

/* ---- several tokens ---- */

/* 4 rows of 16 columns: 4 columns of each row side by side. */
Q8_INLINE void put_rows(int8_t *out, int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d)
{
    int32x4_t rows[4] = {vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b), vreinterpretq_s32_s8(c),
                         vreinterpretq_s32_s8(d)};
    int64x2_t ab[2] = {vreinterpretq_s64_s32(vtrn1q_s32(rows[0], rows[1])),
                       vreinterpretq_s64_s32(vtrn2q_s32(rows[0], rows[1]))};
    int64x2_t cd[2] = {vreinterpretq_s64_s32(vtrn1q_s32(rows[2], rows[3])),
                       vreinterpretq_s64_s32(vtrn2q_s32(rows[2], rows[3]))};
    for (size_t i = 0; i < 2; i++) {
        vst1q_s8(out + 32 * i, vreinterpretq_s8_s64(vtrn1q_s64(ab[i], cd[i])));
        vst1q_s8(out + 32 * (2 + i), vreinterpretq_s8_s64(vtrn2q_s64(ab[i], cd[i])));
    }
}

Q8_INLINE void put(int8_t out[Q8_ROWS * MOE_Q8_UNIT], const struct q8_unit rows[Q8_ROWS])
{
    for (size_t h = 0; h < 2; h++)
        for (size_t i = 0; i < Q8_ROWS; i += 4)
            put_rows(out + 128 * h + 4 * i, rows[i].q[h], rows[i + 1].q[h], rows[i + 2].q[h], rows[i + 3].q[h]);
}

Q8_INLINE void linear(const struct moe_linear_rounded_args *a, struct q8_format f, q8_multiply_fn *multiply)
{
    if (a->num_tokens == 1)
        linear_one(a, f);
    else
        q8_linear_many(a, f, put, multiply);
}

#define LINEAR_Q8(NAME, name, kind, unit_bytes, group_bytes)                                                          \
    moe_linear_q8_fn moe_linear_q8_##name##_dotprod;                                                                  \
    void moe_linear_q8_##name##_dotprod(const struct moe_linear_rounded_args *args)                                   \
    {                                                                                                                 \
        linear(args, (struct q8_format){q8_scales_##name, q8_quants_##name, unit_bytes, group_bytes, kind},           \
               moe_q8_multiply_dotprod[kind]);                                                                        \
    }
MOE_ARM_FORMAT_MAP(LINEAR_Q8)
