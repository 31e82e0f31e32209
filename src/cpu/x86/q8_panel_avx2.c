// SPDX-License-Identifier: MIT
// Panels times activations on AVX2, one function for each kind of values.
//
// A tile is 16 rows (2 vectors) by up to 3 tokens: 6 sums, 6 f32 sums, 2 vectors of weights, one of x and one for a
// product are all 16 registers. A unit of 32 columns costs a vector and a token so many steps of vector arithmetic, of
// which 3 are issued per cycle since Skylake, 4 by Zen:
//     u4         8 vpmaddubsw, 7 vpaddw, vpmaddwd, vpaddd of the start, to f32, scale, fma     20
//     u4_minima  the same with an fma in place of the start                                     20
//     u5         8 vpaddw, one of the start                                                     20
//     u6_halves  8 vpmaddubsw, 8 vpaddw, 2 vpmaddwd, 6 in f32                                   24
//     u7         8 vpmaddubsw, 8 vpmaddwd, 8 vpaddd, 3 in f32                                   27
//     s8         8 vpxor, 8 vpmaddubsw, 8 vpmaddwd, 8 vpaddd, 3 in f32                          35
// vpsignb for vpxor would run on two ports only, where 27 of the 35 would meet.
//
// Lanes are the outer loop, so that a lane's weights, 4 KB or 8, stay in the first cache for all tokens. What comes
// with each tile counts, as a tile of a lane is 8 units only: 60 steps in scalars would cost a fifth of its time.
#include <string.h>

#include "cpu/x86/q8_avx2.h"

enum { TILE_TOKENS = 3 };

struct tile {
    const struct q8_work *work;
    const unsigned char *x[TILE_TOKENS];    /* rows from the segment's first unit on */
    size_t scale_at, sum_at;                /* bytes from there to the scale of that unit */
    size_t token;                           /* the first */
};

static inline __m256 broadcast(const unsigned char *x)
{
    return _mm256_broadcast_ss((const float *)(const void *)x);
}

static inline __m256i broadcast_bytes(const unsigned char *x)
{
    int32_t value;
    memcpy(&value, x, sizeof value);
    return _mm256_set1_epi32(value);
}

/* A sum as it stands: otherwise compilers sum in a tree, hold products back for it and have too few registers. */
static inline __m256i keep(__m256i sum)
{
    __asm__("" : "+x"(sum));
    return sum;
}

/* Half h of a unit, or with one half all of it, added to acc. */
static inline __attribute__((always_inline)) void add_unit(__m256 acc[TILE_TOKENS][Q8_PANELS], const struct tile *tile,
                                                           size_t place, size_t unit, size_t h, size_t num_tokens,
                                                           size_t num_panels, int kind)
{
    const struct q8_work *work = tile->work;
    const size_t quads = kind & Q8_HALVES ? Q8_QUADS / 2 : Q8_QUADS;
    const size_t chain = kind & Q8_WRAPS ? quads : q8_smaller((size_t)(kind / Q8_CHAIN), quads);
    const bool has_start = !(kind & (Q8_SIGNED | Q8_MINIMA));
    const size_t k = unit / MOE_Q8_LANES;
    const size_t half = unit / MOE_Q8_LANES * 16 + 8 * h + unit % MOE_Q8_LANES;
    __m256i sum[TILE_TOKENS][Q8_PANELS], part[TILE_TOKENS][Q8_PANELS];
#pragma GCC unroll 8
    for (size_t i = 0; i < quads; i++) {
        __m256i w[Q8_PANELS];
        for (size_t p = 0; p < num_panels; p++)
            w[p] = q8_load(kind & Q8_SIGNED ? work->x.signs[p].sizes[k][i] : work->q[p][place][h * quads + i]);
        for (size_t t = 0; t < num_tokens; t++) {
            __m256i x = broadcast_bytes(tile->x[t] + unit * MOE_Q8_UNIT + 4 * (h * quads + i));
            for (size_t p = 0; p < num_panels; p++) {
                __m256i flipped = x;
                if (kind & Q8_SIGNED)
                    flipped = _mm256_xor_si256(x, q8_load(work->x.signs[p].flips[k][i]));
                __m256i dot = _mm256_maddubs_epi16(w[p], flipped);
                part[t][p] = i % chain == 0 ? dot : keep(_mm256_add_epi16(part[t][p], dot));
                if (i % chain < chain - 1 || (kind & Q8_WRAPS))
                    continue;
                __m256i wide = q8_widen(part[t][p]);
                if (i >= chain)
                    sum[t][p] = keep(_mm256_add_epi32(sum[t][p], wide));
                else
                    sum[t][p] = kind & Q8_SIGNED ? _mm256_add_epi32(wide, q8_load(work->x.signs[p].start[k])) : wide;
            }
        }
    }
    for (size_t t = 0; t < num_tokens; t++) {
        __m256 scale = broadcast(tile->x[t] + tile->scale_at + 4 * unit);
        __m256i start = _mm256_setzero_si256();
        if (has_start)
            start = _mm256_set1_epi32(work->x.starts[tile->token + t][kind & Q8_HALVES ? half : unit]);
        for (size_t p = 0; p < num_panels; p++) {
            if (kind & Q8_WRAPS)
                sum[t][p] = q8_widen(_mm256_add_epi16(part[t][p], start));
            else if (has_start)
                sum[t][p] = _mm256_add_epi32(sum[t][p], start);
            acc[t][p] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][p]),
                                        _mm256_mul_ps(_mm256_loadu_ps(work->scale[p][place][h]), scale), acc[t][p]);
        }
        if (!(kind & Q8_MINIMA))
            continue;
        __m256 x_sum = kind & Q8_HALVES ? _mm256_broadcast_ss(&work->x.sums[tile->token + t][half])
                                        : broadcast(tile->x[t] + tile->sum_at + 4 * unit);
        for (size_t p = 0; p < num_panels; p++)
            acc[t][p] = _mm256_fmadd_ps(_mm256_loadu_ps(work->minimum[p][place][h]), x_sum, acc[t][p]);
    }
}

/* One lane of units. Called with constants but for the tile, so that sums stay in registers. */
static inline __attribute__((always_inline)) void run_tile(const struct tile *tile, float (*y)[Q8_PANELS * Q8_ROWS],
                                                           size_t place, size_t end, size_t lane, size_t num_tokens,
                                                           size_t num_panels, int kind)
{
    __m256 acc[TILE_TOKENS][Q8_PANELS];
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t p = 0; p < num_panels; p++)
            acc[t][p] = _mm256_setzero_ps();
    for (size_t unit = lane; place < end; place++, unit += MOE_Q8_LANES)
        for (size_t h = 0; h < (kind & Q8_HALVES ? 2 : 1); h++)
            add_unit(acc, tile, place, unit, h, num_tokens, num_panels, kind);
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t p = 0; p < num_panels; p++)
            _mm256_storeu_ps(y[t] + p * Q8_ROWS,
                             _mm256_add_ps(_mm256_loadu_ps(y[t] + p * Q8_ROWS), acc[t][p]));
}

/* A lane's bytes with signs, which stay in the first cache while its tokens are multiplied. What a flip takes from the
 * sum of magnitude * x is the magnitude. */
static inline void split_signs(struct q8_work *work, size_t panel, size_t place, size_t end)
{
    struct q8_signs *out = &work->x.signs[panel];
    for (size_t k = 0; place < end; place++, k++) {
        __m256i start = _mm256_setzero_si256();
        for (size_t i = 0; i < Q8_QUADS; i++) {
            __m256i q = q8_load(work->q[panel][place][i]), sizes = _mm256_abs_epi8(q);
            __m256i flips = _mm256_cmpgt_epi8(_mm256_setzero_si256(), q);
            start = _mm256_sub_epi16(start, _mm256_maddubs_epi16(sizes, flips));
            _mm256_storeu_si256((void *)out->sizes[k][i], sizes);
            _mm256_storeu_si256((void *)out->flips[k][i], flips);
        }
        _mm256_storeu_si256((void *)out->start[k], q8_widen(start));
    }
}

/* What is left to be fetched, and how much of it for each tile. */
struct ahead {
    const unsigned char *row;
    size_t rows, offset, step;
};

static inline struct ahead ahead_of(const struct q8_part *part)
{
    size_t tiles = MOE_Q8_LANES * ((part->num_tokens + TILE_TOKENS - 1) / TILE_TOKENS);
    size_t lines = part->ahead_rows * (part->ahead_bytes / 64 + 1);
    return (struct ahead){part->ahead, part->ahead_rows, 0, (lines + tiles - 1) / tiles};
}

static inline void fetch(struct ahead *ahead, const struct q8_part *part)
{
    for (size_t i = 0; i < ahead->step && ahead->rows > 0; i++) {
        _mm_prefetch((const char *)(ahead->row + ahead->offset), _MM_HINT_T1);
        ahead->offset += 64;
        if (ahead->offset < part->ahead_bytes)
            continue;
        ahead->offset = 0;
        ahead->row += part->ahead_stride;
        ahead->rows--;
    }
}

#define RUN_TOKENS(n)                                              \
    case n:                                                        \
        if (part->num_panels == 2)                                 \
            run_tile(&tile, y, place, end, lane, n, 2, kind);      \
        else                                                       \
            run_tile(&tile, y, place, end, lane, n, 1, kind);      \
        break;

static inline __attribute__((always_inline)) void multiply(const struct q8_part *part, int kind)
{
    const size_t cols = part->args->cols, unit = part->first_unit;
    const unsigned char *x[Q8_TOKENS + TILE_TOKENS - 1];    /* a tile copies 3, of which it may not use all */
    struct tile tile = {.work = part->work};
    tile.scale_at = moe_q8_scale_at(cols) - unit * (MOE_Q8_UNIT - sizeof(float));
    tile.sum_at = moe_q8_sum_at(cols) - unit * (MOE_Q8_UNIT - sizeof(float));
    for (size_t t = 0; t < part->num_tokens + TILE_TOKENS - 1; t++)
        x[t] = q8_x_row(part->args, part->first_token + q8_smaller(t, part->num_tokens - 1)) + unit * MOE_Q8_UNIT;
    struct ahead ahead = ahead_of(part);
    for (size_t lane = 0, place = 0, end; lane < MOE_Q8_LANES; lane++, place = end) {
        end = place + q8_lane_units(part->num_units, lane);
        for (size_t p = 0; p < part->num_panels && (kind & Q8_SIGNED); p++)
            split_signs(part->work, p, place, end);
        for (size_t t = 0; t < part->num_tokens; t += TILE_TOKENS) {
            float (*y)[Q8_PANELS * Q8_ROWS] = &part->work->y[t];
            tile.token = t;
            fetch(&ahead, part);
            for (size_t i = 0; i < TILE_TOKENS; i++)
                tile.x[i] = x[t + i];
            switch (q8_smaller(TILE_TOKENS, part->num_tokens - t)) {
                RUN_TOKENS(1)
                RUN_TOKENS(2)
                RUN_TOKENS(3)
            default:
                break;
            }
        }
    }
}

#define MULTIPLY(name, kind)                                       \
    void moe_q8_multiply_##name##_avx2(const struct q8_part *part) \
    {                                                              \
        multiply(part, kind);                                      \
    }
Q8_KIND_MAP(MULTIPLY)

/* ---- what tokens bring ---- */

/* q8.h has starts of an offset of 128. */
static void prepare_starts(int32_t *out, const int32_t *in, size_t n, int offset)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256i sum = _mm256_srai_epi32(q8_load(in + i), 7);
        _mm256_storeu_si256((void *)(out + i), _mm256_mullo_epi32(sum, _mm256_set1_epi32(offset)));
    }
}

/* Sums of a group's 4 units from unit first on: pairs of 16 bits, units along lanes, first halves and then others. */
static inline __m256i sum_pairs(const unsigned char *q, size_t first, int offset)
{
    __m256i sum[4];
    for (size_t u = 0; u < 4; u++)
        sum[u] = _mm256_maddubs_epi16(_mm256_set1_epi8((char)offset), q8_load(q + (first + u) * MOE_Q8_UNIT));
    __m256i a = _mm256_add_epi16(_mm256_unpacklo_epi32(sum[0], sum[1]), _mm256_unpackhi_epi32(sum[0], sum[1]));
    __m256i b = _mm256_add_epi16(_mm256_unpacklo_epi32(sum[2], sum[3]), _mm256_unpackhi_epi32(sum[2], sum[3]));
    return _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

static void prepare_pairs(int32_t *out, const unsigned char *q, size_t num_units, bool halves, int offset)
{
    for (size_t unit = 0; unit < num_units; unit += MOE_Q8_LANES) {
        __m256i a = sum_pairs(q + unit * MOE_Q8_UNIT, 0, offset), b = sum_pairs(q + unit * MOE_Q8_UNIT, 4, offset);
        __m256i first = _mm256_permute2x128_si256(a, b, 0x20), second = _mm256_permute2x128_si256(a, b, 0x31);
        const __m256i zero = _mm256_setzero_si256();
        if (halves) {
            _mm256_storeu_si256((void *)(out + 2 * unit), _mm256_sub_epi16(zero, first));
            _mm256_storeu_si256((void *)(out + 2 * unit + 8), _mm256_sub_epi16(zero, second));
        } else {
            _mm256_storeu_si256((void *)(out + unit), _mm256_sub_epi16(zero, _mm256_add_epi16(first, second)));
        }
    }
}

/* The sums of halves, which q8.h has as integers only, scaled. */
static void prepare_sums(float *out, const int32_t *in, const float *scale, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(q8_load(in + i)), _mm256_set1_ps(-0x1p-7f));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(sum, _mm256_loadu_ps(scale + i / 16 * 8)));
    }
}

void moe_q8_prepare_avx2(const struct q8_part *part, int kind, int offset)
{
    size_t cols = part->args->cols, unit = part->first_unit, n = moe_q8_units(part->num_units * MOE_Q8_UNIT);
    for (size_t t = 0; t < part->num_tokens; t++) {
        const unsigned char *row = q8_x_row(part->args, part->first_token + t);
        const int32_t *halves = q8_ints(row, moe_q8_half_start_at(cols)) + 2 * unit;
        if (kind & Q8_WRAPS)
            prepare_pairs(part->work->x.starts[t], row + unit * MOE_Q8_UNIT, n, (kind & Q8_HALVES) != 0, offset);
        else if (!(kind & Q8_HALVES))
            prepare_starts(part->work->x.starts[t], q8_ints(row, moe_q8_start_at(cols)) + unit, n, offset);
        else if (!(kind & Q8_MINIMA))
            prepare_starts(part->work->x.starts[t], halves, 2 * n, offset);
        else
            prepare_sums(part->work->x.sums[t], halves, q8_floats(row, moe_q8_scale_at(cols)) + unit, 2 * n);
    }
}
