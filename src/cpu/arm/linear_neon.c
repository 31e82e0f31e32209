// SPDX-License-Identifier: MIT
// linear on neon, activations in f32: 8 lanes (column modulo 8) in two vectors, fused multiply-add. One token streams
// four rows through registers; several share strips of rows that are unpacked to f32 in the first cache.
#include <stdbool.h>

#include "cpu/arm/formats.h"
#include "cpu/arm/unpack_iq_neon.h"

enum {
    LANES = 8,
    UNIT = MOE_Q8_UNIT,
    VECTORS = UNIT / 4,
    TILE_ROWS = 4,
    TILE_TOKENS = 3,     /* 4 x 3 sums of two vectors, 3 vectors of x, 1 of w: 28 of 32 registers */
    STRIP_ROWS = 16,     /* 16 KB of f32, half of a small first cache */
    MOST_BYTES = 4 * MOE_LINEAR_SEGMENT
};

/* Columns 32 unit.. of a group as f32. scales: of the group, where the format has any. */
typedef void unpack_fn(float32x4_t out[VECTORS], const unsigned char *group, size_t unit,
                       const struct q8_scales *scales);

/* A segment of a row is a group. Called with constants, so that the functions are inlined. */
struct format {
    unpack_fn *unpack;
    q8_scales_fn *scales;    /* NULL: none */
    size_t unit_bytes, group_bytes;
};

Q8_INLINE size_t bytes_of(struct format f, size_t cols)
{
    return cols == MOE_LINEAR_SEGMENT ? f.group_bytes : cols * f.unit_bytes / UNIT;
}

/* The group of cols columns at in, followed by zeros where it is cut short. */
Q8_INLINE const unsigned char *whole_group(unsigned char padded[MOST_BYTES], const unsigned char *in, size_t cols,
                                           struct format f)
{
    if (cols == MOE_LINEAR_SEGMENT)
        return in;
    memset(padded, 0, f.group_bytes);
    memcpy(padded, in, bytes_of(f, cols));
    return padded;
}

/* Of each of four sums ((0 + 4) + (1 + 5)) + ((2 + 6) + (3 + 7)), numbers of lanes. */
Q8_INLINE float32x4_t sum_lanes(float32x4_t acc[TILE_ROWS][2])
{
    float32x4_t half[TILE_ROWS];
    for (size_t i = 0; i < TILE_ROWS; i++)
        half[i] = vaddq_f32(acc[i][0], acc[i][1]);
    return vpaddq_f32(vpaddq_f32(half[0], half[1]), vpaddq_f32(half[2], half[3]));
}

/* ---- one token ---- */

/* acc += 4 rows * x over one unit. */
Q8_INLINE void add_unit(float32x4_t acc[TILE_ROWS][2], const unsigned char *const groups[TILE_ROWS], size_t unit,
                        const struct q8_scales scales[TILE_ROWS], const float *x, struct format f)
{
    float32x4_t vx[VECTORS];
    for (size_t v = 0; v < VECTORS; v++)
        vx[v] = vld1q_f32(x + 4 * v);
    for (size_t i = 0; i < TILE_ROWS; i++) {
        float32x4_t w[VECTORS];
        f.unpack(w, groups[i], unit, &scales[i]);
        for (size_t v = 0; v < VECTORS; v++)
            acc[i][v % 2] = vfmaq_f32(acc[i][v % 2], w[v], vx[v]);
    }
}

/* The dot products of four rows with x over a segment, added to the sums. */
Q8_INLINE float32x4_t add_segment(float32x4_t sums, const unsigned char *const w[TILE_ROWS], const float *x,
                                  size_t cols, struct format f)
{
    unsigned char padded[TILE_ROWS][MOST_BYTES];
    const unsigned char *groups[TILE_ROWS];
    struct q8_scales scales[TILE_ROWS];
    float32x4_t acc[TILE_ROWS][2];
    for (size_t i = 0; i < TILE_ROWS; i++) {
        groups[i] = whole_group(padded[i], w[i], cols, f);
        acc[i][0] = acc[i][1] = vdupq_n_f32(0);
        if (f.scales != NULL)
            f.scales(&scales[i], groups[i]);
    }
    size_t c = 0;
    for (; c + UNIT <= cols; c += UNIT)
        add_unit(acc, groups, c / UNIT, scales, x + c, f);
    if (c < cols) {
        float rest[UNIT] = {0};
        memcpy(rest, x + c, (cols - c) * sizeof *rest);
        add_unit(acc, groups, c / UNIT, scales, rest, f);
    }
    return vaddq_f32(sums, sum_lanes(acc));
}

Q8_INLINE void linear_one(const struct moe_linear_args *a, struct format f)
{
    const float *x = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[0] : 0) * a->x_stride;
    for (size_t r = 0; r < a->rows; r += TILE_ROWS) {
        const unsigned char *w[TILE_ROWS];
        for (size_t i = 0; i < TILE_ROWS; i++)     /* past the last row: the last again, not stored */
            w[i] = a->w + q8_smaller(r + i, a->rows - 1) * a->w_stride;
        size_t ahead = r + 2 * TILE_ROWS <= a->rows ? TILE_ROWS * a->w_stride : 0;
        float32x4_t sums = vdupq_n_f32(0);
        for (size_t c = 0; c < a->cols; c += MOE_LINEAR_SEGMENT) {
            size_t cols = q8_smaller(MOE_LINEAR_SEGMENT, a->cols - c);
            for (size_t i = 0; i < TILE_ROWS; i++)
                q8_fetch(w[i] + ahead, f.group_bytes);
            sums = add_segment(sums, w, x + c, cols, f);
            for (size_t i = 0; i < TILE_ROWS; i++)
                w[i] += bytes_of(f, cols);
        }
        float out[TILE_ROWS];
        vst1q_f32(out, sums);
        memcpy(a->y + r, out, q8_smaller(TILE_ROWS, a->rows - r) * sizeof *out);
    }
}

/* ---- several tokens ---- */

/* Columns c.. of rows r.. into strip rows of 256 f32, zero-padded to whole units. */
Q8_INLINE void unpack_strip(float *strip, const struct moe_linear_args *a, size_t r, size_t rows, size_t c, size_t cols,
                            struct format f)
{
    unsigned char padded[MOST_BYTES];
    for (size_t i = 0; i < rows; i++) {
        const unsigned char *w = a->w + (r + i) * a->w_stride + c / MOE_LINEAR_SEGMENT * f.group_bytes;
        const unsigned char *group = whole_group(padded, w, cols, f);
        struct q8_scales scales;
        if (f.scales != NULL)
            f.scales(&scales, group);
        for (size_t unit = 0; unit * UNIT < cols; unit++) {
            float32x4_t unpacked[VECTORS];
            f.unpack(unpacked, group, unit, &scales);
            for (size_t v = 0; v < VECTORS; v++)
                vst1q_f32(strip + i * MOE_LINEAR_SEGMENT + unit * UNIT + 4 * v, unpacked[v]);
        }
    }
}

/* acc += 4 rows * num_tokens tokens over 8 columns. */
Q8_INLINE void add_columns(float32x4_t acc[TILE_TOKENS][TILE_ROWS][2], const float *const w[TILE_ROWS],
                           const float *const x[TILE_TOKENS], size_t w_at, size_t x_at, size_t num_tokens)
{
    for (size_t h = 0; h < 2; h++) {
        float32x4_t vx[TILE_TOKENS];
        for (size_t t = 0; t < num_tokens; t++)
            vx[t] = vld1q_f32(x[t] + x_at + 4 * h);
        for (size_t i = 0; i < TILE_ROWS; i++) {
            float32x4_t vw = vld1q_f32(w[i] + w_at + 4 * h);
            for (size_t t = 0; t < num_tokens; t++)
                acc[t][i][h] = vfmaq_f32(acc[t][i][h], vw, vx[t]);
        }
    }
}

/* y[t][i] (+)= strip row i * x[t] over one segment, for 4 rows, of which num_rows are stored, and num_tokens <= 3
 * tokens. Called with a constant num_tokens, so that the sums stay in registers. */
Q8_INLINE void tile(float *const y[TILE_TOKENS], const float *const w[TILE_ROWS], const float *const x[TILE_TOKENS],
                    size_t cols, size_t num_rows, size_t num_tokens, bool first)
{
    float32x4_t acc[TILE_TOKENS][TILE_ROWS][2];
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t i = 0; i < TILE_ROWS; i++)
            acc[t][i][0] = acc[t][i][1] = vdupq_n_f32(0);
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES)
        add_columns(acc, w, x, c, c, num_tokens);
    if (c < cols) {
        float rest[TILE_TOKENS][LANES] = {{0}};
        const float *rests[TILE_TOKENS];
        for (size_t t = 0; t < num_tokens; t++) {
            memcpy(rest[t], x[t] + c, (cols - c) * sizeof **rest);
            rests[t] = rest[t];
        }
        add_columns(acc, w, rests, c, 0, num_tokens);
    }
    for (size_t t = 0; t < num_tokens; t++) {
        float sums[TILE_ROWS] = {0};
        if (!first)
            memcpy(sums, y[t], num_rows * sizeof *sums);
        vst1q_f32(sums, vaddq_f32(vld1q_f32(sums), sum_lanes(acc[t])));
        memcpy(y[t], sums, num_rows * sizeof *sums);
    }
}

/* All tokens against one strip, whose first row is r. */
static void multiply_strip(const struct moe_linear_args *a, const float *strip, size_t r, size_t rows, size_t c,
                           size_t cols)
{
    for (size_t t = 0; t < a->num_tokens; t += TILE_TOKENS) {
        size_t num_tokens = q8_smaller(TILE_TOKENS, a->num_tokens - t);
        const float *x[TILE_TOKENS];
        for (size_t j = 0; j < num_tokens; j++)
            x[j] = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t + j] : t + j) * a->x_stride + c;
        for (size_t i = 0; i < rows; i += TILE_ROWS) {
            const float *w[TILE_ROWS];
            for (size_t j = 0; j < TILE_ROWS; j++)
                w[j] = strip + q8_smaller(i + j, rows - 1) * MOE_LINEAR_SEGMENT;
            float *y[TILE_TOKENS];
            for (size_t j = 0; j < num_tokens; j++)
                y[j] = a->y + (t + j) * a->y_stride + r + i;
            size_t num_rows = q8_smaller(TILE_ROWS, rows - i);
            if (num_tokens == 3)
                tile(y, w, x, cols, num_rows, 3, c == 0);
            else if (num_tokens == 2)
                tile(y, w, x, cols, num_rows, 2, c == 0);
            else
                tile(y, w, x, cols, num_rows, 1, c == 0);
        }
    }
}

Q8_INLINE void linear_many(const struct moe_linear_args *a, struct format f)
{
    float strip[STRIP_ROWS * MOE_LINEAR_SEGMENT];
    for (size_t r = 0; r < a->rows; r += STRIP_ROWS) {
        size_t rows = q8_smaller(STRIP_ROWS, a->rows - r);
        for (size_t c = 0; c < a->cols; c += MOE_LINEAR_SEGMENT) {
            size_t cols = q8_smaller(MOE_LINEAR_SEGMENT, a->cols - c);
            unpack_strip(strip, a, r, rows, c, cols, f);
            multiply_strip(a, strip, r, rows, c, cols);
        }
    }
}

/* ---- formats ---- */

Q8_INLINE void linear(const struct moe_linear_args *a, struct format f)
{
    if (a->rows == 0)
        return;
    if (a->num_tokens == 1)
        linear_one(a, f);
    else
        linear_many(a, f);
}

Q8_INLINE void unpack_f32(float32x4_t out[VECTORS], const unsigned char *group, size_t unit,
                          const struct q8_scales *scales)
{
    (void)scales;
    for (size_t v = 0; v < VECTORS; v++)
        out[v] = vreinterpretq_f32_u8(vld1q_u8(group + unit * 128 + 16 * v));
}

Q8_INLINE void unpack_f16(float32x4_t out[VECTORS], const unsigned char *group, size_t unit,
                          const struct q8_scales *scales)
{
    (void)scales;
    for (size_t v = 0; v < VECTORS; v += 2) {
        uint16x8_t halves = vreinterpretq_u16_u8(vld1q_u8(group + unit * 64 + 8 * v));
        out[v] = halves_to_f32(vget_low_u16(halves));
        out[v + 1] = halves_to_f32(vget_high_u16(halves));
    }
}

/* A bf16 is the upper half of an f32. */
Q8_INLINE void unpack_bf16(float32x4_t out[VECTORS], const unsigned char *group, size_t unit,
                           const struct q8_scales *scales)
{
    (void)scales;
    for (size_t v = 0; v < VECTORS; v += 2) {
        uint16x8_t halves = vreinterpretq_u16_u8(vld1q_u8(group + unit * 64 + 8 * v));
        out[v] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16));
        out[v + 1] = vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(halves), 16));
    }
}

/* scale * q is exact, so a minimum is added with one rounding. */
Q8_INLINE void unpack_quants(float32x4_t out[VECTORS], struct q8_unit unit, size_t u, const struct q8_scales *scales,
                             int kind)
{
    for (size_t h = 0; h < 2; h++) {
        size_t part = kind & Q8_HALVES ? h : 0;
        int16x8_t wide[2] = {vmovl_s8(vget_low_s8(unit.q[h])), vmovl_high_s8(unit.q[h])};
        for (size_t v = 0; v < 4; v++) {
            int32x4_t ints = v % 2 == 0 ? vmovl_s16(vget_low_s16(wide[v / 2])) : vmovl_high_s16(wide[v / 2]);
            float32x4_t scaled = vmulq_n_f32(vcvtq_f32_s32(ints), scales->scale[part][u]);
            if (kind & Q8_MINIMA)
                scaled = vaddq_f32(scaled, vdupq_n_f32(scales->minimum[part][u]));
            out[4 * h + v] = scaled;
        }
    }
}

#define LINEAR(name, scales, unit_bytes, group_bytes)                                                         \
    moe_linear_fn moe_linear_##name##_neon;                                                                   \
    void moe_linear_##name##_neon(const struct moe_linear_args *args)                                         \
    {                                                                                                         \
        linear(args, (struct format){unpack_##name, scales, unit_bytes, group_bytes});                        \
    }
#define LINEAR_BLOCKS(NAME, name, kind, unit_bytes, group_bytes)                                              \
    Q8_INLINE void unpack_##name(float32x4_t out[VECTORS], const unsigned char *group, size_t unit,           \
                                 const struct q8_scales *scales)                                              \
    {                                                                                                         \
        unpack_quants(out, q8_quants_##name(group, unit), unit, scales, kind);                                \
    }                                                                                                         \
    LINEAR(name, q8_scales_##name, unit_bytes, group_bytes)

LINEAR(f32, NULL, 128, 1024)
LINEAR(f16, NULL, 64, 512)
LINEAR(bf16, NULL, 64, 512)
MOE_ARM_FORMAT_MAP(LINEAR_BLOCKS)
