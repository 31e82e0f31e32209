// SPDX-License-Identifier: MIT
// Body of linear_q8 on AVX-512 with VNNI for one format. Parameters: FORMAT_NAME the format's; GROUP_BYTES bytes of
// 256 columns; UNIT_BYTES of 32, or GROUP_BYTES where a block is a group; KIND the sum of Q8_* as a number; static
// inline struct q8_group unpack_group(const unsigned char *in). Two may be left out: OFFSET, what the bytes count
// from where they are biased, 128; SLOTS, the order of units that unpack_group makes of itself. Without it q is in
// the order of columns. With it q[2 i + h] are the halves h of the units in slots 4 i .. 4 i + 3.
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
    DIRECT_TOKENS = 6,       /* up to here a row's dot products cost less than its share of a panel */
    NEAR = 1024,              /* bytes ahead of a row's products that are fetched to the first cache */
    FAR = 8192,              /* to the second: a page, so that its address is looked up early */
    DIRECT_COLS = 16384      /* up to which activations are copied for it */
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

/* The last units of all, fewer than a group: the rest is 0. */
static struct q8_group unpack_some(const unsigned char *in, size_t num_units)
{
    unsigned char padded[GROUP_BYTES] = {0};
    memcpy(padded, in, num_units * UNIT_BYTES);
    return unpack_slots(padded);
}

/* Units of a group, of which some may lie beyond the row and mean nothing: then they are the next row's bytes. left:
 * bytes from in to the end of the weights. */
static inline struct q8_group unpack_units(const unsigned char *in, size_t num_units, size_t left)
{
    return UNIT_BYTES == GROUP_BYTES || left >= GROUP_BYTES ? unpack_slots(in) : unpack_some(in, num_units);
}

/* The weights as one stream of rows that follow each other, and then the caller's next. */
struct stream {
    const unsigned char *w, *next;
    size_t size, end;          /* of all rows; of the last one's last value */
};

static inline struct stream stream_of(const struct moe_linear_rounded_args *a)
{
    size_t row_bytes = a->cols / (UNIT_BYTES == GROUP_BYTES ? MOE_Q8_GROUP : MOE_Q8_UNIT) * UNIT_BYTES;
    return (struct stream){a->w, a->next, a->rows * a->w_stride, (a->rows - 1) * a->w_stride + row_bytes};
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

/* Two tokens' activations, values in the order of slots, numbers of a group side by side: all that a group needs is at
 * constant distances from one pointer. start is what a unit's sum begins with, -OFFSET times its sum of x. */
struct x_pair {
    _Alignas(64) unsigned char q[2][DIRECT_COLS];
    float scale[DIRECT_COLS / MOE_Q8_GROUP][2][MOE_Q8_LANES];
    float sum[DIRECT_COLS / MOE_Q8_GROUP][2][2][MOE_Q8_LANES];          /* [half][token] */
    int32_t start[DIRECT_COLS / MOE_Q8_GROUP][2][2][MOE_Q8_LANES];      /* [half][token]; without halves [0] */
};
_Static_assert(sizeof(struct x_pair) * ((DIRECT_TOKENS + 1) / 2) <= MOE_ROUNDED_SCRATCH, "x is more than the scratch");

static inline __m256i load_ints(const void *in)
{
    return _mm256_loadu_si256((const __m256i *)in);
}

static inline void copy_numbers(struct x_pair *out, size_t t, size_t g, const unsigned char *row, size_t cols)
{
    size_t at = g * MOE_Q8_LANES * 4;
    __m256 scale = _mm256_castsi256_ps(load_ints(row + moe_q8_scale_at(cols) + at));
    _mm256_store_ps(out->scale[g][t], scale);
    if (!(KIND & Q8_HALVES)) {
        __m256i start = load_ints(row + moe_q8_start_at(cols) + at);
        _mm256_store_si256((void *)out->start[g][0][t], _mm256_srai_epi32(start, __builtin_ctz(128 / OFFSET)));
        _mm256_store_ps(out->sum[g][0][t], _mm256_castsi256_ps(load_ints(row + moe_q8_sum_at(cols) + at)));
        return;
    }
    for (size_t h = 0; h < 2; h++) {
        __m256i start = load_ints(row + moe_q8_half_start_at(cols) + 2 * at + 32 * h);
        __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(start), _mm256_set1_ps(-0x1p-7f));
        _mm256_store_si256((void *)out->start[g][h][t], _mm256_srai_epi32(start, __builtin_ctz(128 / OFFSET)));
        _mm256_store_ps(out->sum[g][h][t], _mm256_mul_ps(sum, scale));
    }
}

static void copy_x(struct x_pair *out, size_t t, const unsigned char *row, size_t cols)
{
    for (size_t g = 0; g < moe_q8_units(cols) / GROUP_UNITS; g++) {
        unsigned char *q = out->q[t] + g * MOE_Q8_GROUP;
        const unsigned char *from = row + g * MOE_Q8_GROUP;
        for (size_t i = 0; i < GROUP_UNITS; i++)
            for (size_t h = 0; h < 2; h++)
                memcpy(q + (i / 4 * 2 + h) * 64 + i % 4 * HALF, from + slots[i] * MOE_Q8_UNIT + h * HALF, HALF);
        copy_numbers(out, t, g, row, cols);
    }
}

/* Sums of products of four columns, of slots 0 to 3 in the even ones, of 4 to 7 in the odd ones: [0], [1] of all
 * columns or the first halves, [2], [3] of the others. */
static inline __attribute__((always_inline)) void dot_group(__m512i dot[4], const struct q8_group *w,
                                                            const unsigned char *q)
{
    const __m512i zero = _mm512_setzero_si512();
    for (size_t i = 0; i < 2; i++) {
        dot[i] = _mm512_dpbusd_epi32(zero, w->q[2 * i], _mm512_load_si512(q + 128 * i));
        dot[2 + i] = _mm512_dpbusd_epi32(KIND & Q8_HALVES ? zero : dot[i], w->q[2 * i + 1],
                                         _mm512_load_si512(q + 128 * i + 64));
        if (!(KIND & Q8_HALVES))
            dot[i] = dot[2 + i];
    }
}

/* Of each quarter's four lanes in two registers: pairs of a's, b's, a's, b's. */
static inline __m512i add_pairs(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

static inline __m512i add_quads(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Where unit u is among add_quads(a, .)'s lanes: each quarter has a slot of the first four, one of the others, and the
 * same of b. */
#define LANE_OF(u)                                                                                                    \
    (slots[0] == (u) ? 0 : slots[4] == (u) ? 1 : slots[1] == (u) ? 4 : slots[5] == (u) ? 5 : slots[2] == (u) ? 8      \
     : slots[6] == (u) ? 9 : slots[3] == (u) ? 12 : 13)
#define LANES_OF(first)                                                                                               \
    LANE_OF(0) + (first), LANE_OF(1) + (first), LANE_OF(2) + (first), LANE_OF(3) + (first), LANE_OF(4) + (first),     \
        LANE_OF(5) + (first), LANE_OF(6) + (first), LANE_OF(7) + (first)

/* LANES_OF is more than one argument once it is expanded. */
#define LANES(...) _mm512_setr_epi32(__VA_ARGS__)

/* One rounding for a scale, one for each product that is added; lanes without a unit stay as they are. */
static inline __attribute__((always_inline)) __m512 add_half(__m512 acc, __m512i sum, const struct q8_group *w,
                                                             const struct x_pair *x, size_t g, size_t h,
                                                             __mmask16 lanes)
{
    if (KIND & Q8_BIASED)
        sum = _mm512_add_epi32(sum, _mm512_load_si512(x->start[g][h]));
    __m512 scale = _mm512_mul_ps(_mm512_broadcast_f32x8(w->scale[h]), _mm512_load_ps(x->scale[g][0]));
    __m512 all = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc);
    if (KIND & Q8_MINIMA)
        all = _mm512_fmadd_ps(_mm512_broadcast_f32x8(w->minimum[h]), _mm512_load_ps(x->sum[g][h][0]), all);
    return lanes == 0xffff ? all : _mm512_mask_mov_ps(acc, lanes, all);
}

/* The same of one token, in the lower lanes. */
static inline __attribute__((always_inline)) __m256 add_half_one(__m256 acc, __m256i sum, const struct q8_group *w,
                                                                 const struct x_pair *x, size_t g, size_t h,
                                                                 __mmask8 lanes)
{
    if (KIND & Q8_BIASED)
        sum = _mm256_add_epi32(sum, load_ints(x->start[g][h]));
    __m256 scale = _mm256_mul_ps(w->scale[h], _mm256_load_ps(x->scale[g][0]));
    __m256 all = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc);
    if (KIND & Q8_MINIMA)
        all = _mm256_fmadd_ps(w->minimum[h], _mm256_load_ps(x->sum[g][h][0]), all);
    return lanes == 0xff ? all : _mm256_mask_mov_ps(acc, lanes, all);
}

/* acc: units along lanes, token 0 and token 1. */
static inline __attribute__((always_inline)) __m512 add_two(__m512 acc, const struct q8_group *w,
                                                            const struct x_pair *x, size_t g, __mmask16 lanes)
{
    __m512i dot[2][4];
    for (size_t t = 0; t < 2; t++)
        dot_group(dot[t], w, x->q[t] + g * MOE_Q8_GROUP);
    if (!(KIND & Q8_HALVES)) {
        const __m512i order = LANES(LANES_OF(0), LANES_OF(2));
        __m512i sums = add_quads(add_pairs(dot[0][0], dot[0][1]), add_pairs(dot[1][0], dot[1][1]));
        return add_half(acc, _mm512_permutexvar_epi32(order, sums), w, x, g, 0, lanes);
    }
    __m512i halves[2];               /* of each token: both halves */
    for (size_t t = 0; t < 2; t++)
        halves[t] = add_quads(add_pairs(dot[t][0], dot[t][1]), add_pairs(dot[t][2], dot[t][3]));
    const __m512i first = LANES(LANES_OF(0), LANES_OF(16)), second = LANES(LANES_OF(2), LANES_OF(18));
    acc = add_half(acc, _mm512_permutex2var_epi32(halves[0], first, halves[1]), w, x, g, 0, lanes);
    return add_half(acc, _mm512_permutex2var_epi32(halves[0], second, halves[1]), w, x, g, 1, lanes);
}

static inline __attribute__((always_inline)) __m512 add_one(__m512 acc, const struct q8_group *w,
                                                            const struct x_pair *x, size_t g, __mmask16 lanes)
{
    __m512i dot[4];
    dot_group(dot, w, x->q[0] + g * MOE_Q8_GROUP);
    __m256 one = _mm512_castps512_ps256(acc);
    __m512i low = add_pairs(dot[0], dot[1]);
    if (!(KIND & Q8_HALVES)) {
        const __m512i order = LANES(LANES_OF(0), LANES_OF(0));
        low = _mm512_add_epi32(low, _mm512_shuffle_epi32(low, 0x4e));
        low = _mm512_permutexvar_epi32(order, low);
        one = add_half_one(one, _mm512_castsi512_si256(low), w, x, g, 0, (__mmask8)lanes);
        return _mm512_castps256_ps512(one);
    }
    const __m512i order = LANES(LANES_OF(0), LANES_OF(2));
    __m512i halves = _mm512_permutexvar_epi32(order, add_quads(low, add_pairs(dot[2], dot[3])));
    one = add_half_one(one, _mm512_castsi512_si256(halves), w, x, g, 0, (__mmask8)lanes);
    one = add_half_one(one, _mm512_extracti64x4_epi64(halves, 1), w, x, g, 1, (__mmask8)lanes);
    return _mm512_castps256_ps512(one);
}

/* A group for all tokens; of an odd number of them, the last alone. */
static inline __attribute__((always_inline)) void add_group(__m512 *acc, const struct q8_group *w,
                                                            const struct x_pair *x, size_t g, size_t num_tokens,
                                                            unsigned lanes)
{
    for (size_t i = 0; i < num_tokens / 2; i++)
        acc[i] = add_two(acc[i], w, &x[i], g, (__mmask16)(lanes << 8 | lanes));
    if (num_tokens % 2 == 1)
        acc[num_tokens / 2] = add_one(acc[num_tokens / 2], w, &x[num_tokens / 2], g, (__mmask16)lanes);
}

enum { DIRECT_PAIRS = (DIRECT_TOKENS + 1) / 2 };

/* The lanes' sums of a segment, from its first group at w on. */
static inline __attribute__((always_inline)) void dot_segment(__m512 acc[DIRECT_PAIRS], const unsigned char *w,
                                                              const struct x_pair *x, size_t unit, size_t end,
                                                              const unsigned char *near, const unsigned char *far,
                                                              size_t left, size_t num_tokens)
{
    size_t offset = 0;
    for (size_t i = 0; 2 * i < num_tokens; i++)
        acc[i] = _mm512_setzero_ps();
    for (; unit + GROUP_UNITS <= end; unit += GROUP_UNITS, offset += GROUP_BYTES) {
        fetch(near + offset, false);
        fetch(far + offset, true);
        struct q8_group group = unpack_slots(w + offset);
        add_group(acc, &group, x, unit / GROUP_UNITS, num_tokens, 0xff);
    }
    if (unit < end) {
        struct q8_group group = unpack_units(w + offset, end - unit, left - offset);
        add_group(acc, &group, x, unit / GROUP_UNITS, num_tokens, (1u << (end - unit)) - 1);
    }
}

/* Lanes are added in order: they are few, and there are other rows to be computed meanwhile. */
static inline void add_lanes(float *totals, __m512 acc, size_t num_tokens)
{
    float lanes[2][MOE_Q8_LANES];
    _mm512_storeu_ps(lanes[0], acc);
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t l = 0; l < MOE_Q8_LANES; l++)
            totals[t] += lanes[t][l];
}

/* Called with a constant num_tokens, so that sums stay in registers. */
static inline __attribute__((always_inline)) void dot_rows(const struct moe_linear_rounded_args *a, size_t num_tokens)
{
    const struct stream stream = stream_of(a);
    size_t num_units = a->cols / MOE_Q8_UNIT;
    struct x_pair *x = a->scratch;
    for (size_t t = 0; t < num_tokens; t++)
        copy_x(&x[t / 2], t % 2, q8_x_row(a, t), a->cols);
    for (size_t r = 0; r < a->rows; r++) {
        float total[2 * DIRECT_PAIRS] = {0};
        size_t offset = r * a->w_stride;
        for (size_t unit = 0; unit < num_units; unit += Q8_SEGMENT_UNITS) {
            size_t end = q8_smaller(unit + Q8_SEGMENT_UNITS, num_units);
            __m512 acc[DIRECT_PAIRS];
            dot_segment(acc, a->w + offset, x, unit, end, at_offset(&stream, offset + NEAR),
                        at_offset(&stream, offset + FAR), stream.end - offset, num_tokens);
            for (size_t t = 0; t < num_tokens; t += 2)
                add_lanes(total + t, acc[t / 2], t + 1 < num_tokens ? 2 : 1);
            offset += Q8_SEGMENT_UNITS / GROUP_UNITS * GROUP_BYTES;
        }
        for (size_t t = 0; t < num_tokens; t++)
            a->y[t * a->y_stride + r] = total[t];
    }
}

#define DOT_ROWS(n)     \
    case n:             \
        dot_rows(a, n); \
        break;

static void linear_few(const struct moe_linear_rounded_args *a)
{
    switch (a->num_tokens) {
        DOT_ROWS(1)
        DOT_ROWS(2)
        DOT_ROWS(3)
        DOT_ROWS(4)
        DOT_ROWS(5)
        DOT_ROWS(6)
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
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
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
        unsigned char *const to[4] = {q[slot[0]] + half, q[slot[1]] + half, q[slot[2]] + half, q[slot[3]] + half};
        q8_transpose(to, strip->q[i]);
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
            struct q8_group group = unpack_units(a->w + offset, units, stream.end - offset);
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
    return a->num_tokens <= DIRECT_TOKENS && a->cols <= DIRECT_COLS;
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

#include "cpu/x86/linear_bf16_tmpl_amx.h"

#undef FORMAT_NAME
#undef GROUP_BYTES
#undef UNIT_BYTES
#undef KIND
#undef OFFSET
#undef SLOTS
#undef VALUES
