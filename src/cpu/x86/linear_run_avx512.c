// SPDX-License-Identifier: MIT
// linear on AVX-512 with activations in f32, for any format. Rows are unpacked to f32 in the first cache: one after the
// other for one token, in strips that several tokens share.
#include <string.h>

#include "cpu/x86/linear_lanes_avx512.h"
#include "scales_row.h"

enum {
    RUN = 4 * SEGMENT,       /* columns unpacked at once for one token: four sums that do not wait for each other */
    TILE_ROWS = 4,
    TILE_TOKENS = 6,         /* 4 x 6 accumulators, 6 vectors of x, 1 of w: 31 of 32 registers */
    STRIP_ROWS = 8,          /* 16 KB of f32 */
    AHEAD = 8192,            /* bytes that are fetched ahead of a row's products */
    LINE = 64
};

/* ---- one token ---- */

/* Columns start.. of row r to f32, with zeros up to whole vectors. */
static inline void unpack(float *out, const struct moe_linear_matrix *m, size_t r, size_t start, size_t cols)
{
    const struct moe_linear_args *a = m->args;
    m->dequantise(out, a->w + r * a->w_stride + start / m->block_values * m->block_bytes, cols / m->block_values);
    if (m->scales != NULL)
        moe_scales_apply(out, m->scales, m->first_row + r, start, cols);
    if (cols % LANES > 0)
        _mm512_mask_storeu_ps(out + cols / LANES * LANES, (__mmask16)~first_lanes(cols % LANES), _mm512_setzero_ps());
}

static inline __m512 dot(const float *w, const float *x, size_t cols)
{
    __m512 acc = _mm512_setzero_ps();
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES)
        acc = _mm512_fmadd_ps(_mm512_load_ps(w + c), _mm512_loadu_ps(x + c), acc);
    if (c < cols)
        acc = _mm512_fmadd_ps(_mm512_load_ps(w + c), _mm512_maskz_loadu_ps(first_lanes(cols - c), x + c), acc);
    return acc;
}

/* Four whole segments at once. */
static inline void dot_run(__m512 acc[4], const float *w, const float *x)
{
    for (size_t i = 0; i < 4; i++)
        acc[i] = _mm512_setzero_ps();
    for (size_t c = 0; c < SEGMENT; c += LANES)
        for (size_t i = 0; i < 4; i++)
            acc[i] = _mm512_fmadd_ps(_mm512_load_ps(w + i * SEGMENT + c), _mm512_loadu_ps(x + i * SEGMENT + c), acc[i]);
}

static void linear_one(const struct moe_linear_matrix *m)
{
    const struct moe_linear_args *a = m->args;
    const float *x = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[0] : 0) * a->x_stride;
    _Alignas(64) float w[RUN];
    struct pending pending;
    pending.count = 0;
    for (size_t i = 0; i < LANES; i++)
        pending.acc[i] = _mm512_setzero_ps();
    size_t size = a->rows * a->w_stride;
    for (size_t r = 0; r < a->rows; r++) {
        a->y[r] = 0.0f;
        for (size_t start = 0; start < a->cols; start += RUN) {
            size_t cols = smaller(RUN, a->cols - start);
            size_t offset = r * a->w_stride + start / m->block_values * m->block_bytes + AHEAD;
            size_t end = smaller(offset + cols / m->block_values * m->block_bytes, size);
            for (; offset < end; offset += LINE)
                _mm_prefetch((const char *)(a->w + offset), _MM_HINT_T0);
            unpack(w, m, r, start, cols);
            if (cols == RUN) {
                __m512 acc[4];
                dot_run(acc, w, x + start);
                for (size_t i = 0; i < 4; i++)
                    push(&pending, a->y + r, acc[i]);
                continue;
            }
            for (size_t c = 0; c < cols; c += SEGMENT)
                push(&pending, a->y + r, dot(w + c, x + start + c, smaller(SEGMENT, cols - c)));
        }
    }
    flush(&pending);
}

/* ---- several tokens ---- */

/* Weights that are fetched while others are multiplied, some lines with each tile: all at once, they would be waited
 * for. */
struct ahead {
    const unsigned char *w;
    size_t stride, bytes, rows;    /* rows of so many bytes */
    size_t row, at;                /* the next line */
    size_t share;                  /* lines with a tile */
};

static inline void fetch(struct ahead *ahead)
{
    for (size_t i = 0; i < ahead->share && ahead->row < ahead->rows; i++) {
        _mm_prefetch((const char *)(ahead->w + ahead->row * ahead->stride + ahead->at), _MM_HINT_T1);
        ahead->at += LINE;
        if (ahead->at < ahead->bytes)
            continue;
        ahead->at = 0;
        ahead->row++;
    }
}

/* A segment of rows r.. in rows of SEGMENT. */
struct strip {
    const struct moe_linear_args *args;
    float *w;
    size_t r, rows, start, cols;
    struct ahead ahead;
};

static void unpack_strip(const struct strip *strip, const struct moe_linear_matrix *m)
{
    for (size_t i = 0; i < strip->rows; i++)
        unpack(strip->w + i * SEGMENT, m, strip->r + i, strip->start, strip->cols);
    for (size_t i = strip->rows; i % TILE_ROWS > 0; i++)    /* not stored */
        memset(strip->w + i * SEGMENT, 0, SEGMENT * sizeof *strip->w);
}

/* What is unpacked after this strip: the next segment, that of the next rows, or what the caller reads next. */
static struct ahead ahead_of(const struct strip *strip, const struct moe_linear_matrix *m, size_t num_tiles)
{
    const struct moe_linear_args *a = m->args;
    size_t end = strip->start + strip->cols, below = strip->r + strip->rows;
    struct ahead ahead = {.w = a->w + strip->r * a->w_stride, .stride = a->w_stride, .rows = strip->rows};
    size_t start = end < a->cols ? end : 0;
    if (end == a->cols && below < a->rows) {
        ahead.w = a->w + below * a->w_stride;
        ahead.rows = smaller(STRIP_ROWS, a->rows - below);
    } else if (end == a->cols) {
        ahead.w = a->next;
        ahead.rows = a->next != NULL ? STRIP_ROWS : 0;
    }
    if (ahead.rows > 0)
        ahead.w += start / m->block_values * m->block_bytes;
    ahead.bytes = smaller(SEGMENT, a->cols - start) / m->block_values * m->block_bytes;
    ahead.share = ahead.rows * (ahead.bytes / LINE + 1) / (num_tiles * (STRIP_ROWS / TILE_ROWS)) + 1;
    return ahead;
}

/* y[t][0..3] (+)= their sums, of which the first num_rows are stored. */
static inline void add_sums(float *y, __m128 sums, __mmask8 rows, bool first)
{
    __m128 before = first ? _mm_setzero_ps() : _mm_maskz_loadu_ps(rows, y);
    _mm_mask_storeu_ps(y, rows, _mm_add_ps(before, sums));
}

/* 4 rows of the strip, num_rows of whose sums are stored, and x and y of the tile's tokens. */
struct tile {
    const float *w, *x[TILE_TOKENS];
    float *y[TILE_TOKENS];
    size_t cols, num_rows;
    bool first;
};

/* 16 columns, or lanes, of 4 rows. A struct, since compilers keep arrays of this size in memory. */
struct rows4 {
    __m512 a, b, c, d;
};

static inline struct rows4 load_rows(const float *w)
{
    return (struct rows4){_mm512_load_ps(w), _mm512_load_ps(w + SEGMENT), _mm512_load_ps(w + 2 * SEGMENT),
                          _mm512_load_ps(w + 3 * SEGMENT)};
}

static inline struct rows4 zero_rows(void)
{
    __m512 zero = _mm512_setzero_ps();
    return (struct rows4){zero, zero, zero, zero};
}

static inline struct rows4 multiply(struct rows4 acc, struct rows4 w, __m512 x)
{
    return (struct rows4){_mm512_fmadd_ps(w.a, x, acc.a), _mm512_fmadd_ps(w.b, x, acc.b),
                          _mm512_fmadd_ps(w.c, x, acc.c), _mm512_fmadd_ps(w.d, x, acc.d)};
}

/* The sums of up to four tokens' lanes, 4 rows after 4 rows. */
static inline __m512 sum_tokens(struct rows4 s0, struct rows4 s1, struct rows4 s2, struct rows4 s3, size_t num_tokens)
{
    if (num_tokens > 2) {
        const __m512 acc[16] = {s0.a, s0.b, s0.c, s0.d, s1.a, s1.b, s1.c, s1.d,
                                s2.a, s2.b, s2.c, s2.d, s3.a, s3.b, s3.c, s3.d};
        return sum16(acc);
    }
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    const __m512 acc[8] = {s0.a, s0.b, s0.c, s0.d, s1.a, s1.b, s1.c, s1.d};
    return _mm512_permutexvar_ps(even, sum8(acc));
}

static inline void store_tokens(const struct tile *tile, size_t t, __m512 sums, size_t num_tokens)
{
    __mmask8 rows = (__mmask8)((1u << tile->num_rows) - 1);
    add_sums(tile->y[t], _mm512_castps512_ps128(sums), rows, tile->first);
    if (num_tokens > 1)
        add_sums(tile->y[t + 1], _mm512_extractf32x4_ps(sums, 1), rows, tile->first);
    if (num_tokens > 2)
        add_sums(tile->y[t + 2], _mm512_extractf32x4_ps(sums, 2), rows, tile->first);
    if (num_tokens > 3)
        add_sums(tile->y[t + 3], _mm512_extractf32x4_ps(sums, 3), rows, tile->first);
}

/* X of each token of a tile, where it has so many. */
#define EACH_TOKEN(num_tokens, X)      \
    X(0)                               \
    X(1)                               \
    if ((num_tokens) > 2)              \
        X(2)                           \
    if ((num_tokens) > 3)              \
        X(3)                           \
    if ((num_tokens) > 4)              \
        X(4)                           \
    if ((num_tokens) > 5)              \
        X(5)
#define MULTIPLY(t) s##t = multiply(s##t, w, _mm512_loadu_ps(tile->x[t] + c));
#define MULTIPLY_SOME(t) s##t = multiply(s##t, w, _mm512_maskz_loadu_ps(lanes, tile->x[t] + c));

/* y[t][i] (+)= strip row i * x[t] over one segment. */
static inline __attribute__((always_inline)) void run_tile(const struct tile *tile, size_t num_tokens)
{
    struct rows4 s0 = zero_rows(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0;
    size_t c = 0;
    for (; c + LANES <= tile->cols; c += LANES) {
        struct rows4 w = load_rows(tile->w + c);
        EACH_TOKEN(num_tokens, MULTIPLY)
    }
    if (c < tile->cols) {
        struct rows4 w = load_rows(tile->w + c);
        __mmask16 lanes = first_lanes(tile->cols - c);
        EACH_TOKEN(num_tokens, MULTIPLY_SOME)
    }
    store_tokens(tile, 0, sum_tokens(s0, s1, s2, s3, num_tokens), num_tokens);
    if (num_tokens > 4)
        store_tokens(tile, 4, sum_tokens(s4, s5, s4, s5, num_tokens - 4), num_tokens - 4);
}

typedef void tile_fn(const struct tile *tile);
/* Functions of their own, and reached by pointers: inlined side by side, their constants take registers from sums. */
#define TILE_FN(num_tokens)                               \
    static void tile##num_tokens(const struct tile *tile) \
    {                                                     \
        run_tile(tile, num_tokens);                       \
    }
TILE_FN(2) TILE_FN(3) TILE_FN(4) TILE_FN(5) TILE_FN(6)
static tile_fn *const tiles[TILE_TOKENS + 1] = {NULL, NULL, tile2, tile3, tile4, tile5, tile6};

/* Tokens t.. against the strip. */
static void multiply_tokens(struct strip *strip, size_t t, size_t num_tokens)
{
    const struct moe_linear_args *a = strip->args;
    struct tile tile = {.cols = strip->cols, .first = strip->start == 0};
    for (size_t j = 0; j < num_tokens; j++)
        tile.x[j] = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t + j] : t + j) * a->x_stride + strip->start;
    for (size_t i = 0; i < strip->rows; i += TILE_ROWS) {
        tile.w = strip->w + i * SEGMENT;
        for (size_t j = 0; j < num_tokens; j++)
            tile.y[j] = a->y + (t + j) * a->y_stride + strip->r + i;
        tile.num_rows = smaller(TILE_ROWS, strip->rows - i);
        fetch(&strip->ahead);
        tiles[num_tokens](&tile);
    }
}

/* Two tokens or more, in tiles that are as equal as can be: small ones wait for their sums. */
static void linear_many(const struct moe_linear_matrix *m)
{
    const struct moe_linear_args *a = m->args;
    _Alignas(64) float w[STRIP_ROWS * SEGMENT];
    size_t num_tiles = (a->num_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    struct strip strip = {.args = a, .w = w};
    for (strip.r = 0; strip.r < a->rows; strip.r += STRIP_ROWS) {
        strip.rows = smaller(STRIP_ROWS, a->rows - strip.r);
        for (strip.start = 0; strip.start < a->cols; strip.start += SEGMENT) {
            strip.cols = smaller(SEGMENT, a->cols - strip.start);
            strip.ahead = ahead_of(&strip, m, num_tiles);
            unpack_strip(&strip, m);
            for (size_t i = 0; i < num_tiles; i++) {
                size_t t = i * a->num_tokens / num_tiles, end = (i + 1) * a->num_tokens / num_tiles;
                multiply_tokens(&strip, t, end - t);
            }
        }
    }
}

void moe_linear_run_avx512(const struct moe_linear_matrix *m)
{
    if (m->args->rows == 0)
        return;
    if (m->args->num_tokens == 1)
        linear_one(m);
    else
        linear_many(m);
}
