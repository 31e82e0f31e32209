// SPDX-License-Identifier: MIT
// Body of linear_q8 on AVX2 for one format. Parameters: LINEAR_Q8_FN the kernel's name; GROUP_BYTES bytes of 256
// columns; UNIT_BYTES of 32, or GROUP_BYTES where a block is a group; KIND a name of Q8_KIND_MAP; OFFSET what codes
// have too much, 0 where there are minima or signs; static inline struct q8_group unpack_group(const unsigned char *).
// Where bits of 8 rows can be brought together before they are unpacked, which costs less, also PACK_GROUP the name of
// a static inline void (const struct q8_columns *out).
#include <string.h>

#include "cpu/x86/q8_avx2.h"

#if !defined(LINEAR_Q8_FN) || !defined(GROUP_BYTES) || !defined(UNIT_BYTES) || !defined(KIND) || !defined(OFFSET)
#error "linear_q8_tmpl_avx2.h needs LINEAR_Q8_FN, GROUP_BYTES, UNIT_BYTES, KIND and OFFSET"
#endif

#define PASTE(a, b, c) a##b##c
#define KIND_OF(name) PASTE(Q8_KIND_, name, )
#define MULTIPLY_OF(name) PASTE(moe_q8_multiply_, name, _avx2)

enum {
    GROUP_UNITS = MOE_Q8_GROUP / MOE_Q8_UNIT,
    DIRECT_TOKENS = 4,       /* up to here dot products, which read weights as one stream, cost less than panels */
    AHEAD = 2048,            /* bytes of weights that are fetched ahead of a row's products */
    CHAIN = KIND_OF(KIND) / Q8_CHAIN,
    HALVES = KIND_OF(KIND) & Q8_HALVES ? 2 : 1,
    HAS_MINIMA = (KIND_OF(KIND) & Q8_MINIMA) != 0,
    HAS_SIGNS = (KIND_OF(KIND) & Q8_SIGNED) != 0
};

/* The last units of a row, fewer than a group: the rest is 0. */
static inline struct q8_group unpack_some(const unsigned char *in, size_t num_units)
{
    unsigned char padded[GROUP_BYTES] = {0};
    memcpy(padded, in, num_units * UNIT_BYTES);
    return unpack_group(padded);
}

static inline struct q8_group unpack_units(const unsigned char *in, size_t num_units)
{
    return num_units == GROUP_UNITS || UNIT_BYTES == GROUP_BYTES ? unpack_group(in) : unpack_some(in, num_units);
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

/* Fetch the bytes of a group at an offset. Not inlined, gcc takes it for a function without effects, and drops it. */
static inline __attribute__((always_inline)) void fetch(const struct stream *s, size_t offset)
{
    const unsigned char *at = offset < s->size ? s->w + offset : s->next + (offset - s->size);
    if (offset >= s->size && s->next == NULL)
        return;
    for (size_t i = 0; i < GROUP_BYTES; i += 64)
        _mm_prefetch((const char *)(at + i), _MM_HINT_T0);
}

/* ---- few tokens: units along lanes ---- */

/* Sums in 16 bits while they fit, and in 32 from the level on where they would not. */
static inline __m256i add_at(__m256i a, __m256i b, int level)
{
    return CHAIN > level ? _mm256_add_epi16(a, b) : _mm256_add_epi32(a, b);
}

static inline void widen_at(__m256i *sums, size_t n, int level)
{
    for (size_t i = 0; i < n; i++)
        if (CHAIN == level)
            sums[i] = q8_widen(sums[i]);
}

/* The 16 bytes of a, of b. */
static inline __m256i fold_128(__m256i a, __m256i b, int level)
{
    return add_at(_mm256_blend_epi32(a, b, 0xf0), _mm256_permute2x128_si256(a, b, 0x21), level);
}

/* In each half, 8 bytes of a, of b. */
static inline __m256i fold_64(__m256i a, __m256i b, int level)
{
    return add_at(_mm256_blend_epi32(a, b, 0xcc), _mm256_alignr_epi8(b, a, 8), level);
}

/* In each half, 4 bytes of a, of b, of a, of b. */
static inline __m256i fold_32(__m256i a, __m256i b, int level)
{
    return add_at(_mm256_blend_epi32(a, b, 0xaa), _mm256_shuffle_epi32(_mm256_blend_epi32(b, a, 0xaa), 0xb1), level);
}

/* The sums of 8 units, lanes in order. */
static inline __m256i sum_units(__m256i dot[GROUP_UNITS])
{
    widen_at(dot, 8, 1);
    for (size_t u = 0; u < 4; u++)
        dot[u] = fold_128(dot[u], dot[u + 4], 1);
    widen_at(dot, 4, 2);
    for (size_t u = 0; u < 2; u++)
        dot[u] = fold_64(dot[u], dot[u + 2], 2);
    widen_at(dot, 2, 4);
    dot[0] = fold_32(dot[0], dot[1], 4);
    widen_at(dot, 1, 8);
    return dot[0];
}

/* The sums of the first 16 columns of 8 units, and of the others. */
static inline void sum_halves(__m256i sums[2], __m256i dot[GROUP_UNITS])
{
    widen_at(dot, 8, 1);
    for (size_t i = 0; i < 4; i++)
        dot[i] = fold_64(dot[i / 2 * 4 + i % 2], dot[i / 2 * 4 + i % 2 + 2], 1);
    widen_at(dot, 4, 2);
    __m256i low = fold_32(dot[0], dot[1], 2), high = fold_32(dot[2], dot[3], 2);
    widen_at(&low, 1, 4);
    widen_at(&high, 1, 4);
    sums[0] = _mm256_permute2x128_si256(low, high, 0x20);
    sums[1] = _mm256_permute2x128_si256(low, high, 0x31);
}

struct x_group {
    const unsigned char *q;
    const float *scale, *sum;
    const int32_t *start, *half_start;
};

static inline struct x_group x_of(const unsigned char *row, size_t cols)
{
    return (struct x_group){row, q8_floats(row, moe_q8_scale_at(cols)), q8_floats(row, moe_q8_sum_at(cols)),
                            q8_ints(row, moe_q8_start_at(cols)), q8_ints(row, moe_q8_half_start_at(cols))};
}

/* A start is of an offset of 128. */
static inline __m256i add_start(__m256i sum, const int32_t *start)
{
    if (OFFSET == 0)
        return sum;
    __m256i minus_sum = _mm256_srai_epi32(q8_load(start), 7);
    return _mm256_add_epi32(sum, _mm256_mullo_epi32(minus_sum, _mm256_set1_epi32(OFFSET)));
}

/* One rounding for a scale, one for each product that is added. */
static inline __m256 add_half(__m256 acc, __m256i sum, __m256 w_scale, __m256 x_scale, __m256 minimum, __m256 x_sum)
{
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(w_scale, x_scale), acc);
    return HAS_MINIMA ? _mm256_fmadd_ps(minimum, x_sum, acc) : acc;
}

static inline __m256 add_group(__m256 acc, const struct q8_group *w, const struct x_group *x, size_t unit)
{
    __m256i dot[GROUP_UNITS];
    for (size_t u = 0; u < GROUP_UNITS; u++) {
        __m256i q = q8_load(x->q + (unit + u) * MOE_Q8_UNIT);
        dot[u] = HAS_SIGNS ? _mm256_maddubs_epi16(_mm256_abs_epi8(w->q[u]), _mm256_sign_epi8(q, w->q[u]))
                           : _mm256_maddubs_epi16(w->q[u], q);
    }
    __m256 scale = _mm256_loadu_ps(x->scale + unit);
    if (HALVES == 1)
        return add_half(acc, add_start(sum_units(dot), x->start + unit), w->scale[0], scale, w->minimum[0],
                        _mm256_loadu_ps(x->sum + unit));
    __m256i sums[2];
    sum_halves(sums, dot);
    for (size_t h = 0; h < 2; h++) {
        const int32_t *start = x->half_start + 2 * unit + 8 * h;
        __m256 x_sum = _mm256_mul_ps(_mm256_cvtepi32_ps(q8_load(start)), _mm256_set1_ps(-0x1p-7f));
        acc = add_half(acc, add_start(sums[h], start), w->scale[h], scale, w->minimum[h],
                       _mm256_mul_ps(x_sum, scale));
    }
    return acc;
}

/* Lanes from num_units on stay as they are. */
static inline __m256 add_units(__m256 acc, const struct q8_group *w, const struct x_group *x, size_t unit,
                               size_t num_units)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)num_units), lane);
    return _mm256_blendv_ps(acc, add_group(acc, w, x, unit), _mm256_castsi256_ps(there));
}

static inline float add_lanes(float total, __m256 acc)
{
    float lanes[MOE_Q8_LANES];
    _mm256_storeu_ps(lanes, acc);
    for (size_t l = 0; l < MOE_Q8_LANES; l++)
        total += lanes[l];
    return total;
}

/* Called with a constant number of tokens. */
static inline __attribute__((always_inline)) void linear_few(const struct moe_linear_rounded_args *a, size_t num_tokens)
{
    struct x_group x[DIRECT_TOKENS];
    for (size_t t = 0; t < num_tokens; t++)
        x[t] = x_of(q8_x_row(a, t), a->cols);
    const struct stream stream = stream_of(a);
    size_t num_units = a->cols / MOE_Q8_UNIT;
    for (size_t r = 0; r < a->rows; r++) {
        const unsigned char *w = a->w + r * a->w_stride;
        float total[DIRECT_TOKENS] = {0};
        for (size_t first = 0, g = 0; first < num_units; first += Q8_SEGMENT_UNITS) {
            size_t end = q8_smaller(first + Q8_SEGMENT_UNITS, num_units), unit = first;
            __m256 acc[DIRECT_TOKENS];
            for (size_t t = 0; t < num_tokens; t++)
                acc[t] = _mm256_setzero_ps();
            for (; unit + GROUP_UNITS <= end; unit += GROUP_UNITS, g++) {
                fetch(&stream, r * a->w_stride + g * GROUP_BYTES + AHEAD);
                struct q8_group group = unpack_group(w + g * GROUP_BYTES);
                for (size_t t = 0; t < num_tokens; t++)
                    acc[t] = add_group(acc[t], &group, &x[t], unit);
            }
            if (unit < end) {
                struct q8_group group = unpack_units(w + g * GROUP_BYTES, end - unit);
                for (size_t t = 0; t < num_tokens; t++)
                    acc[t] = add_units(acc[t], &group, &x[t], unit, end - unit);
            }
            for (size_t t = 0; t < num_tokens; t++)
                total[t] = add_lanes(total[t], acc[t]);
        }
        for (size_t t = 0; t < num_tokens; t++)
            a->y[t * a->y_stride + r] = total[t];
    }
}

/* ---- several tokens: panels ---- */

#ifndef PACK_GROUP
/* One group of 8 rows, unpacked row by row. */
struct strip {
    _Alignas(32) unsigned char q[Q8_ROWS][MOE_Q8_GROUP];
    float scale[2][Q8_ROWS][MOE_Q8_LANES], minimum[2][Q8_ROWS][MOE_Q8_LANES];
};

/* Lane u of all rows, for each unit. */
static inline void spread(__m256 out[GROUP_UNITS], const float in[Q8_ROWS][MOE_Q8_LANES])
{
    const unsigned char *rows[Q8_ROWS];
    __m256i columns[GROUP_UNITS];
    for (size_t i = 0; i < Q8_ROWS; i++)
        rows[i] = (const unsigned char *)in[i];
    load_columns(columns, rows, 0);
    load_columns(columns + 4, rows, 16);
    for (size_t u = 0; u < GROUP_UNITS; u++)
        out[u] = _mm256_castsi256_ps(columns[u]);
}

static inline void put_strip(const struct q8_columns *out, const struct strip *strip)
{
    const unsigned char *rows[Q8_ROWS];
    for (size_t i = 0; i < Q8_ROWS; i++)
        rows[i] = strip->q[i];
    for (size_t u = 0; u < out->num_units; u++) {
        __m256i quads[Q8_QUADS];
        load_columns(quads, rows, u * MOE_Q8_UNIT);
        load_columns(quads + 4, rows, u * MOE_Q8_UNIT + 16);
        put_quads(out, u, quads);
    }
    for (size_t h = 0; h < HALVES; h++) {
        __m256 scale[GROUP_UNITS], minimum[GROUP_UNITS];
        spread(scale, strip->scale[h]);
        if (HAS_MINIMA)
            spread(minimum, strip->minimum[h]);
        for (size_t u = 0; u < out->num_units; u++) {
            put_scale(out, u, h, scale[u]);
            if (HAS_MINIMA)
                put_minimum(out, u, h, minimum[u]);
        }
    }
}

static inline void pack_rows(const struct q8_columns *out)
{
    struct strip strip;
    for (size_t i = 0; i < Q8_ROWS; i++) {
        struct q8_group group = unpack_units(out->rows[i], out->num_units);
        for (size_t u = 0; u < GROUP_UNITS; u++)
            _mm256_store_si256((void *)(strip.q[i] + u * MOE_Q8_UNIT), group.q[u]);
        for (size_t h = 0; h < HALVES; h++) {
            _mm256_storeu_ps(strip.scale[h][i], group.scale[h]);
            if (HAS_MINIMA)
                _mm256_storeu_ps(strip.minimum[h][i], group.minimum[h]);
        }
    }
    put_strip(out, &strip);
}
#define PACK_GROUP pack_rows
#endif

/* A segment of rows r.. + 7; rows that there are not repeat the last, and are not stored. */
static void pack(const struct q8_part *part, size_t p, size_t r)
{
    const struct moe_linear_rounded_args *a = part->args;
    struct q8_columns columns = {.work = part->work, .panel = p};
    for (size_t i = 0; i < Q8_ROWS; i++)
        columns.rows[i] = a->w + q8_smaller(r + i, a->rows - 1) * a->w_stride +
                          part->first_unit / GROUP_UNITS * GROUP_BYTES;
    for (size_t u = 0; u < GROUP_UNITS; u++)
        columns.places[u] = q8_place(part->num_units, u);
    for (size_t unit = 0; unit < part->num_units; unit += GROUP_UNITS) {
        columns.num_units = q8_smaller(GROUP_UNITS, part->num_units - unit);
        PACK_GROUP(&columns);
        for (size_t i = 0; i < Q8_ROWS; i++) {
            columns.rows[i] += GROUP_BYTES;
            columns.places[i]++;
        }
    }
}

/* What is packed after a segment of rows r..: their next segment, or the first of the rows that follow. */
static void set_ahead(struct q8_part *part, size_t r)
{
    const struct moe_linear_rounded_args *a = part->args;
    size_t num_units = a->cols / MOE_Q8_UNIT, end = part->first_unit + part->num_units, rows = a->rows - r, first = 0;
    part->ahead = a->w + r * a->w_stride;
    if (end < num_units) {
        first = end;
    } else if (rows > Q8_PANELS * Q8_ROWS) {
        part->ahead += Q8_PANELS * Q8_ROWS * a->w_stride;
        rows -= Q8_PANELS * Q8_ROWS;
    } else {
        part->ahead = a->next;
        rows = a->next != NULL ? Q8_PANELS * Q8_ROWS : 0;
    }
    if (part->ahead != NULL)
        part->ahead += first / GROUP_UNITS * GROUP_BYTES;
    part->ahead_rows = q8_smaller(rows, Q8_PANELS * Q8_ROWS);
    part->ahead_stride = a->w_stride;
    part->ahead_bytes = q8_smaller(Q8_SEGMENT_UNITS, num_units - first) * GROUP_BYTES / GROUP_UNITS;
}

static void linear_block(const struct moe_linear_rounded_args *a, size_t first_token, size_t num_tokens)
{
    struct q8_work *work = a->scratch;
    size_t num_units = a->cols / MOE_Q8_UNIT;
    for (size_t r = 0; r < a->rows; r += Q8_PANELS * Q8_ROWS) {
        size_t rows = q8_smaller(Q8_PANELS * Q8_ROWS, a->rows - r);
        memset(work->y, 0, num_tokens * sizeof work->y[0]);
        for (size_t first = 0; first < num_units; first += Q8_SEGMENT_UNITS) {
            struct q8_part part = {.args = a, .work = work, .first_token = first_token, .num_tokens = num_tokens,
                                   .first_unit = first, .num_units = q8_smaller(Q8_SEGMENT_UNITS, num_units - first),
                                   .num_panels = (rows + Q8_ROWS - 1) / Q8_ROWS};
            set_ahead(&part, r);
            if ((OFFSET != 0 || (HAS_MINIMA && HALVES == 2)) && (r == 0 || num_units > Q8_SEGMENT_UNITS))
                moe_q8_prepare_avx2(&part, KIND_OF(KIND), OFFSET);
            for (size_t p = 0; p < part.num_panels; p++)
                pack(&part, p, r + p * Q8_ROWS);
            MULTIPLY_OF(KIND)(&part);
        }
        for (size_t t = 0; t < num_tokens; t++)
            memcpy(a->y + (first_token + t) * a->y_stride + r, work->y[t], rows * sizeof(float));
    }
}

moe_linear_q8_fn LINEAR_Q8_FN;
void LINEAR_Q8_FN(const struct moe_linear_rounded_args *args)
{
    if (args->rows == 0 || args->num_tokens == 0)
        return;
    if (args->num_tokens == 1)
        linear_few(args, 1);
    else if (args->num_tokens == 2)
        linear_few(args, 2);
    else if (args->num_tokens == 3)
        linear_few(args, 3);
    else if (args->num_tokens == DIRECT_TOKENS)
        linear_few(args, DIRECT_TOKENS);
    else
        for (size_t t = 0; t < args->num_tokens; t += Q8_TOKENS)
            linear_block(args, t, q8_smaller(Q8_TOKENS, args->num_tokens - t));
}
