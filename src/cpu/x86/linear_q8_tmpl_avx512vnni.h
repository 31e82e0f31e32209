// SPDX-License-Identifier: MIT
// Body of linear_q8 on AVX-512 with VNNI for one format. Parameters: FORMAT_NAME the format's; GROUP_BYTES bytes of
// 256 columns; UNIT_BYTES of 32, or GROUP_BYTES where a block is a group; KIND the sum of Q8_* as a number; static inline
// struct q8_group unpack_group(const unsigned char *in). Two may be left out: OFFSET, what the bytes count from where
// they are biased, 128; SLOTS, the order of units that unpack_group makes of itself. Without it q is in the order of
// columns. With it q[2 i + h] are the halves h of the units in slots 4 i .. 4 i + 3.
#include <string.h>

#include "cpu/x86/q8_avx512vnni.h"

#if !defined(FORMAT_NAME) || !defined(GROUP_BYTES) || !defined(UNIT_BYTES) || !defined(KIND)
#error "linear_q8_tmpl_avx512vnni.h needs FORMAT_NAME, GROUP_BYTES, UNIT_BYTES and KIND"
#endif
#ifndef OFFSET
#define OFFSET 128
#endif

enum {
    GROUP_UNITS = MOE_Q8_GROUP / MOE_Q8_UNIT,
    HALF = MOE_Q8_UNIT / 2,
    DIRECT_TOKENS = 4,       /* up to here a row's dot products cost less than its share of a panel */
    NEAR = 512,              /* bytes ahead of a row's products that are fetched to the first cache */
    FAR = 4096,              /* to the second: a page, so that its address is looked up early */
    DIRECT_COLS = MOE_ROUNDED_SCRATCH / DIRECT_TOKENS
};

#define MULTIPLY_PASTE(kind) moe_q8_multiply_##kind##_avx512vnni
#define MULTIPLY_OF(kind) MULTIPLY_PASTE(kind)

#ifdef SLOTS
static const unsigned char slots[GROUP_UNITS] = {SLOTS};

static inline struct q8_group unpack_slots(const unsigned char *in)
{
    return unpack_group(in);
}
#else
static const unsigned char slots[GROUP_UNITS] = {0, 1, 2, 3, 4, 5, 6, 7};

static inline struct q8_group unpack_slots(const unsigned char *in)
{
    struct q8_group group = unpack_group(in);
    for (size_t i = 0; i < 4; i += 2) {
        __m512i even = _mm512_shuffle_i64x2(group.q[i], group.q[i + 1], 0x88);
        group.q[i + 1] = _mm512_shuffle_i64x2(group.q[i], group.q[i + 1], 0xdd);
        group.q[i] = even;
    }
    return group;
}
#endif

/* The last units of a row, fewer than a group: the rest is 0. */
static inline struct q8_group unpack_some(const unsigned char *in, size_t num_units)
{
    unsigned char padded[GROUP_BYTES] = {0};
    memcpy(padded, in, num_units * UNIT_BYTES);
    return unpack_slots(padded);
}

static inline struct q8_group unpack_units(const unsigned char *in, size_t num_units)
{
    return num_units == GROUP_UNITS || UNIT_BYTES == GROUP_BYTES ? unpack_slots(in) : unpack_some(in, num_units);
}

/* The weights as one stream of rows that follow each other, and then the caller's next. */
struct stream {
    const unsigned char *w, *next;
    size_t size;
};

static inline struct stream stream_of(const struct moe_linear_rounded_args *a)
{
    return (struct stream){a->w, a->next, a->rows * a->w_stride};
}

/* Where an offset lies that is beyond the weights: in next. */
static inline const unsigned char *at_offset(const struct stream *s, size_t offset)
{
    if (offset < s->size || s->next == NULL)
        return s->w + offset;
    return s->next + (offset - s->size);
}

/* A group's bytes to the first cache, or where later is true to the second. (A function that only fetches counts as
 * one without effect in gcc 12, so these are inlined always.) */
static inline __attribute__((always_inline)) void fetch(const unsigned char *at, bool later)
{
    for (size_t i = 0; i < GROUP_BYTES; i += 64) {
        if (later)
            _mm_prefetch((const char *)(at + i), _MM_HINT_T1);
        else
            _mm_prefetch((const char *)(at + i), _MM_HINT_T0);
    }
}

/* ---- few tokens: units along lanes ---- */

struct x_group {
    const unsigned char *q;                          /* in the order of slots */
    const float *scale, *sum;
    const int32_t *start, *half_start;
};

/* The row with its values copied into the order of slots. */
static inline struct x_group x_of(unsigned char *q, const unsigned char *row, size_t cols)
{
    for (size_t g = 0; g < cols; g += MOE_Q8_GROUP)
        for (size_t i = 0; i < GROUP_UNITS; i++)
            for (size_t h = 0; h < 2; h++)
                memcpy(q + g + (i / 4 * 2 + h) * 64 + i % 4 * HALF, row + g + slots[i] * MOE_Q8_UNIT + h * HALF, HALF);
    return (struct x_group){q, (const float *)(const void *)(row + moe_q8_scale_at(cols)),
                            (const float *)(const void *)(row + moe_q8_sum_at(cols)),
                            (const int32_t *)(const void *)(row + moe_q8_start_at(cols)),
                            (const int32_t *)(const void *)(row + moe_q8_half_start_at(cols))};
}

/* Where lane 0, or 1, of unit u's slot is among 16, each quarter with two slots of four. */
#define LANE_OF(u)                                                                                                    \
    (slots[0] == (u) ? 0 : slots[4] == (u) ? 1 : slots[1] == (u) ? 4 : slots[5] == (u) ? 5 : slots[2] == (u) ? 8      \
     : slots[6] == (u) ? 9 : slots[3] == (u) ? 12 : 13)

/* Sums of each unit's first 16 columns and of its others, or with only one of the two: of all; units in order. */
static inline void sum_lanes(__m256i sums[2], const __m512i dot[4])
{
    __m512i low = _mm512_add_epi32(_mm512_unpacklo_epi32(dot[0], dot[2]), _mm512_unpackhi_epi32(dot[0], dot[2]));
    if (!(KIND & Q8_HALVES)) {
        const __m256i order = _mm256_setr_epi32(LANE_OF(0), LANE_OF(1), LANE_OF(2), LANE_OF(3), LANE_OF(4), LANE_OF(5),
                                                LANE_OF(6), LANE_OF(7));
        low = _mm512_add_epi32(low, _mm512_shuffle_epi32(low, 0x4e));
        sums[0] = _mm512_castsi512_si256(_mm512_permutexvar_epi32(_mm512_castsi256_si512(order), low));
        return;
    }
    __m512i high = _mm512_add_epi32(_mm512_unpacklo_epi32(dot[1], dot[3]), _mm512_unpackhi_epi32(dot[1], dot[3]));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
    const __m512i order = _mm512_setr_epi32(LANE_OF(0), LANE_OF(1), LANE_OF(2), LANE_OF(3), LANE_OF(4), LANE_OF(5),
                                            LANE_OF(6), LANE_OF(7), LANE_OF(0) + 2, LANE_OF(1) + 2, LANE_OF(2) + 2,
                                            LANE_OF(3) + 2, LANE_OF(4) + 2, LANE_OF(5) + 2, LANE_OF(6) + 2,
                                            LANE_OF(7) + 2);
    all = _mm512_permutexvar_epi32(order, all);
    sums[0] = _mm512_castsi512_si256(all);
    sums[1] = _mm512_extracti64x4_epi64(all, 1);
}

/* -OFFSET * sum of x, of what the activations have for 128. */
static inline __m256i offset_of(const int32_t *start)
{
    return _mm256_srai_epi32(_mm256_loadu_si256((const void *)start), __builtin_ctz(128 / OFFSET));
}

/* One rounding for a scale, one for each product that is added; lanes without a unit stay as they are. */
static inline __m256 add_half(__m256 acc, __m256i sum, __m256 w_scale, __m256 x_scale, __m256 minimum, __m256 x_sum,
                              __mmask8 lanes)
{
    __m256 all = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(w_scale, x_scale), acc);
    if (KIND & Q8_MINIMA)
        all = _mm256_fmadd_ps(minimum, x_sum, all);
    return lanes == 0xff ? all : _mm256_mask_mov_ps(acc, lanes, all);
}

static inline __attribute__((always_inline)) __m256 add_group(__m256 acc, const struct q8_group *w,
                                                              const struct x_group *x, size_t unit, __mmask8 lanes)
{
    const unsigned char *q = x->q + unit * MOE_Q8_UNIT;
    __m512i dot[4];
    for (size_t i = 0; i < 4; i++) {
        __m512i from = i % 2 == 1 && !(KIND & Q8_HALVES) ? dot[i - 1] : _mm512_setzero_si512();
        dot[i] = _mm512_dpbusd_epi32(from, w->q[i], _mm512_loadu_si512(q + 64 * i));
    }
    __m256i sums[2];
    __m256 scale = _mm256_loadu_ps(x->scale + unit);
    if (!(KIND & Q8_HALVES)) {
        dot[0] = dot[1];
        dot[2] = dot[3];
        sum_lanes(sums, dot);
        if (KIND & Q8_BIASED)
            sums[0] = _mm256_add_epi32(sums[0], offset_of(x->start + unit));
        return add_half(acc, sums[0], w->scale[0], scale, w->minimum[0], _mm256_loadu_ps(x->sum + unit), lanes);
    }
    sum_lanes(sums, dot);
    for (size_t h = 0; h < 2; h++) {
        const int32_t *start = x->half_start + 2 * unit + 8 * h;
        __m256 x_sum = _mm256_cvtepi32_ps(_mm256_loadu_si256((const void *)start));
        x_sum = _mm256_mul_ps(_mm256_mul_ps(x_sum, _mm256_set1_ps(-0x1p-7f)), scale);
        __m256i sum = KIND & Q8_BIASED ? _mm256_add_epi32(sums[h], offset_of(start)) : sums[h];
        acc = add_half(acc, sum, w->scale[h], scale, w->minimum[h], x_sum, lanes);
    }
    return acc;
}

static inline float add_lanes(float total, __m256 acc)
{
    float lanes[MOE_Q8_LANES];
    _mm256_storeu_ps(lanes, acc);
    for (size_t l = 0; l < MOE_Q8_LANES; l++)
        total += lanes[l];
    return total;
}

/* The lanes' sums of a segment, from its first group at w on. */
static inline __attribute__((always_inline)) void dot_segment(__m256 acc[DIRECT_TOKENS], const unsigned char *w,
                                                              const struct x_group *x, size_t unit, size_t end,
                                                              const unsigned char *near, const unsigned char *far,
                                                              size_t num_tokens)
{
    size_t offset = 0;
    for (size_t t = 0; t < num_tokens; t++)
        acc[t] = _mm256_setzero_ps();
    for (; unit + GROUP_UNITS <= end; unit += GROUP_UNITS, offset += GROUP_BYTES) {
        fetch(near + offset, false);
        fetch(far + offset, true);
        struct q8_group group = unpack_slots(w + offset);
        for (size_t t = 0; t < num_tokens; t++)
            acc[t] = add_group(acc[t], &group, &x[t], unit, 0xff);
    }
    if (unit < end) {
        struct q8_group group = unpack_units(w + offset, end - unit);
        for (size_t t = 0; t < num_tokens; t++)
            acc[t] = add_group(acc[t], &group, &x[t], unit, (__mmask8)((1u << (end - unit)) - 1));
    }
}

/* Called with a constant num_tokens, so that sums stay in registers. */
static inline __attribute__((always_inline)) void dot_rows(const struct moe_linear_rounded_args *a, size_t num_tokens)
{
    const struct stream stream = stream_of(a);
    size_t num_units = a->cols / MOE_Q8_UNIT;
    struct x_group x[DIRECT_TOKENS];
    for (size_t t = 0; t < num_tokens; t++)
        x[t] = x_of((unsigned char *)a->scratch + t * DIRECT_COLS, q8_x_row(a, t), a->cols);
    for (size_t r = 0; r < a->rows; r++) {
        float total[DIRECT_TOKENS] = {0};
        size_t offset = r * a->w_stride;
        for (size_t unit = 0; unit < num_units; unit += Q8_SEGMENT_UNITS) {
            size_t end = q8_smaller(unit + Q8_SEGMENT_UNITS, num_units);
            __m256 acc[DIRECT_TOKENS];
            dot_segment(acc, a->w + offset, x, unit, end, at_offset(&stream, offset + NEAR),
                        at_offset(&stream, offset + FAR), num_tokens);
            for (size_t t = 0; t < num_tokens; t++)
                total[t] = add_lanes(total[t], acc[t]);
            offset += Q8_SEGMENT_UNITS / GROUP_UNITS * GROUP_BYTES;
        }
        for (size_t t = 0; t < num_tokens; t++)
            a->y[t * a->y_stride + r] = total[t];
    }
}

static void linear_few(const struct moe_linear_rounded_args *a)
{
    switch (a->num_tokens) {
    case 1:
        dot_rows(a, 1);
        break;
    case 2:
        dot_rows(a, 2);
        break;
    case 3:
        dot_rows(a, 3);
        break;
    case 4:
        dot_rows(a, 4);
        break;
    default:
        break;
    }
}

/* ---- several tokens: panels ---- */

/* 16 rows of 8 floats to 8 columns. */
static inline void transpose_floats(float *const out[GROUP_UNITS], const float in[Q8_ROWS][MOE_Q8_LANES])
{
    __m512i rows[8], a[8];
    for (size_t i = 0; i < 8; i++)
        rows[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256((const void *)in[i])),
                                     _mm256_load_si256((const void *)in[8 + i]), 1);
    for (size_t i = 0; i < 8; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (size_t i = 0; i < 8; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    for (size_t i = 0; i < 4; i++) {
        _mm512_store_si512(out[i], _mm512_permutex2var_epi64(rows[i], low, rows[4 + i]));
        _mm512_store_si512(out[4 + i], _mm512_permutex2var_epi64(rows[i], high, rows[4 + i]));
    }
}

/* One group of 16 rows, unpacked. */
struct strip {
    __m512i q[4][Q8_ROWS];
    _Alignas(64) float scale[2][Q8_ROWS][MOE_Q8_LANES], minimum[2][Q8_ROWS][MOE_Q8_LANES];
};

/* The group of units from unit on to the panel; units that are not there go to a place of their own. */
static void put_strip(struct q8_panel *panel, const struct strip *strip, size_t unit, size_t all_units)
{
    _Alignas(64) unsigned char unused[Q8_UNIT_BYTES];
    unsigned char *q[GROUP_UNITS];
    float *scale[2][GROUP_UNITS], *minimum[2][GROUP_UNITS];
    for (size_t u = 0; u < GROUP_UNITS; u++) {
        bool any = unit + u < all_units;
        size_t place = any ? q8_place(all_units, unit + u) : 0;
        q[u] = any ? panel->q[place][0][0] : unused;
        for (size_t h = 0; h < 2; h++) {
            scale[h][u] = any ? panel->scale[place][h] : (float *)(void *)unused;
            minimum[h][u] = any ? panel->minimum[place][h] : (float *)(void *)unused;
        }
    }
    for (size_t i = 0; i < 4; i++) {
        const unsigned char *slot = slots + i / 2 * 4;
        size_t half = i % 2 * (Q8_UNIT_BYTES / 2);
        q8_transpose((unsigned char *const[4]){q[slot[0]] + half, q[slot[1]] + half, q[slot[2]] + half, q[slot[3]] + half},
                  strip->q[i]);
    }
    for (size_t h = 0; h < (KIND & Q8_HALVES ? 2 : 1); h++) {
        transpose_floats(scale[h], strip->scale[h]);
        if (KIND & Q8_MINIMA)
            transpose_floats(minimum[h], strip->minimum[h]);
    }
}

/* A segment of rows r.. + 15; rows that there are not repeat the last, and are not stored. What is packed next is
 * fetched meanwhile: these rows' next segment, or the first of the rows that follow. */
static void pack(struct q8_panel *panel, const struct moe_linear_rounded_args *a, size_t r, size_t first_unit,
                 size_t num_units)
{
    const struct stream stream = stream_of(a);
    size_t ahead = Q8_ROWS * a->w_stride, segment_bytes = Q8_SEGMENT_UNITS / GROUP_UNITS * GROUP_BYTES;
    if ((first_unit + num_units) * MOE_Q8_UNIT < a->cols)
        ahead = segment_bytes;
    else if (first_unit > 0)
        ahead = Q8_PANELS * Q8_ROWS * a->w_stride - first_unit / Q8_SEGMENT_UNITS * segment_bytes;
    struct strip strip;
    for (size_t unit = 0; unit < num_units; unit += GROUP_UNITS) {
        size_t units = q8_smaller(GROUP_UNITS, num_units - unit), g = (first_unit + unit) / GROUP_UNITS;
        for (size_t i = 0; i < Q8_ROWS; i++) {
            size_t offset = q8_smaller(r + i, a->rows - 1) * a->w_stride + g * GROUP_BYTES;
            struct q8_group group = unpack_units(a->w + offset, units);
            fetch(at_offset(&stream, (r + i) * a->w_stride + g * GROUP_BYTES + ahead), true);
            for (size_t j = 0; j < 4; j++)
                strip.q[j][i] = OFFSET == 128 || !(KIND & Q8_BIASED)
                                    ? group.q[j]
                                    : _mm512_add_epi8(group.q[j], _mm512_set1_epi8(128 - OFFSET));
            for (size_t h = 0; h < (KIND & Q8_HALVES ? 2 : 1); h++) {
                _mm256_store_ps(strip.scale[h][i], group.scale[h]);
                if (KIND & Q8_MINIMA)
                    _mm256_store_ps(strip.minimum[h][i], group.minimum[h]);
            }
        }
        put_strip(panel, &strip, unit, num_units);
    }
}

static void linear_many(const struct moe_linear_rounded_args *a)
{
    struct q8_panel *panels = a->scratch;
    size_t num_units = a->cols / MOE_Q8_UNIT;
    for (size_t r = 0; r < a->rows; r += Q8_PANELS * Q8_ROWS) {
        for (size_t first = 0; first < num_units; first += Q8_SEGMENT_UNITS) {
            size_t units = q8_smaller(Q8_SEGMENT_UNITS, num_units - first);
            for (size_t i = 0; i < Q8_PANELS && r + i * Q8_ROWS < a->rows; i++)
                pack(&panels[i], a, r + i * Q8_ROWS, first, units);
            MULTIPLY_OF(KIND)(a, panels, r, first, units);
        }
    }
}

static inline bool is_direct(const struct moe_linear_rounded_args *a)
{
    return a->num_tokens <= DIRECT_TOKENS && a->cols <= DIRECT_COLS - MOE_Q8_GROUP;
}

#define FN_PASTE(name) moe_linear_q8_##name##_avx512vnni
#define FN_OF(name) FN_PASTE(name)

moe_linear_q8_fn FN_OF(FORMAT_NAME);
void FN_OF(FORMAT_NAME)(const struct moe_linear_rounded_args *args)
{
    if (args->rows == 0)
        return;
    if (is_direct(args))
        linear_few(args);
    else
        linear_many(args);
}

#undef FORMAT_NAME
#undef GROUP_BYTES
#undef UNIT_BYTES
#undef KIND
#undef OFFSET
#undef SLOTS
