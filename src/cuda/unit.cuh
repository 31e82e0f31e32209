// SPDX-License-Identifier: MIT
// A unit: 16 rows of weights (or twice that) and one segment of 256 columns, as a warp copies it into shared memory and
// multiplies it with tokens. What a format adds to this is a struct, struct moe_weights_<name> of weights_<name>.cuh:
//
//     segment_bytes    bytes of 256 columns of a row
//     pitch            bytes from row to row of a unit in shared memory: a multiple of 16, at least segment_bytes (+ 31
//                      if not aligned), such that the lanes of a load meet no bank twice
//     aligned          rows of a segment begin at multiples of 16 bytes; false: anywhere, and load gets such addresses
//     order            enum moe_cuda_order of the activations
//     group            columns that share a scale: 16, 32, 64, 128, or MOE_SEGMENT for no scales
//     offset           the values of a group also have a term of their own, beside scale * code
//     centre           a pair of bf16 that is added to every code, or 0. In load, that takes an instruction for two
//                      codes, here two products for all rows of a unit. Not beside offset, whose term can hold it
//     struct side      what a lane needs of scales that lie apart from the values; empty for blocks that hold their own
//     fetch(...)       begin to load it, when the copy of the unit begins
//     line, ...        the same for scales whose places make it cheap, see planes.cuh; others have moe_no_lines
//     scales(...)      fill table[group of the segment][row of the unit] = (scale, term), all lanes of a warp together:
//                      sum over c of w[c] x[c] = scale * sum of code[c] x[c] + term * sum of x[c]
//     load(...)        the codes of rows g and g + 8 in columns 32 q .. 32 q + 31 as operands of two steps
#ifndef MOE_CUDA_UNIT_CUH
#define MOE_CUDA_UNIT_CUH

#include "cuda/call.h"
#include "cuda/ptx.cuh"

enum { MOE_TILE_ROWS = 16, MOE_TILE_TOKENS = 8, MOE_STEP_COLS = 32, MOE_SEGMENT_STEPS = MOE_SEGMENT / MOE_STEP_COLS };

/* Where the rows of a unit come from: rows 0 .. 7 of a tile are rows of low, rows 8 .. 15 of high (gate and up, or the
 * same matrix further down). */
struct moe_unit_rows {
    const struct moe_cuda_product *product;
    const unsigned char *low, *high;      /* the first row of the unit, its column 0 */
    size_t low_stride, high_stride;
    uint32_t expert;
    uint32_t low_row, high_row;           /* index of the first row in the matrix */
    uint32_t low_left, high_left;         /* rows that there are from there on */
    uint32_t pitch, origin;               /* of the copy in shared memory: from row to row; its first byte of a row */
};

MOE_DEVICE const unsigned char *moe_plane_row(const struct moe_cuda_plane &plane, uint32_t expert, size_t row)
{
    const unsigned char *base =
        plane.bases != NULL ? plane.bases[expert] : plane.data + (size_t)expert * plane.expert_stride;
    return base + row * plane.stride;
}

/* Row i of a unit: 8 rows of low and 8 of high in each tile. NULL: there is no such row. */
template <int tiles> MOE_DEVICE const unsigned char *moe_unit_row(const struct moe_unit_rows &rows, uint32_t i)
{
    uint32_t r = i / 16 * 8 + i % 8;
    if (i % 16 < 8)
        return r < rows.low_left ? rows.low + r * rows.low_stride : NULL;
    return r < rows.high_left ? rows.high + r * rows.high_stride : NULL;
}

/* `lanes` lanes a row copy a chunk of 16 bytes each, from chunk `first` on; 32 / lanes rows at a time. Any
 * chunk that has a byte of the row can be read whole. all: no row is missing. */
template <class Weights, int tiles, uint32_t first, uint32_t lanes, bool all>
MOE_DEVICE void moe_unit_copy_chunks(unsigned char *unit, const struct moe_unit_rows &rows, size_t begin, int lane)
{
    constexpr uint32_t num_rows = tiles * MOE_TILE_ROWS;
    const uint32_t at = 16 * (first + (uint32_t)lane % lanes);
    const struct moe_copy_place to = moe_copy_to(unit + (uint32_t)lane / lanes * Weights::pitch + at);
#pragma unroll
    for (uint32_t k = 0; k < num_rows; k += 32 / lanes) {
        const uint32_t i = k + (uint32_t)lane / lanes, r = i / 16 * 8 + i % 8;
        if ((num_rows < 32 / lanes && i >= num_rows) || (!all && r >= (i % 16 < 8 ? rows.low_left : rows.high_left)))
            continue;
        const unsigned char *from =
            (i % 16 < 8 ? rows.low + r * rows.low_stride : rows.high + r * rows.high_stride) + begin;
        const uint32_t skew = Weights::aligned ? 0 : (uint32_t)((uintptr_t)from & 15);
        if (16 * (first + lanes) <= Weights::segment_bytes || at < skew + Weights::segment_bytes)
            moe_copy_async_16_once(to, k * Weights::pitch, from - skew + at, 16);
    }
}

/* Bytes of a row of so many columns. */
template <class Weights> MOE_DEVICE uint32_t moe_unit_row_bytes(uint32_t cols)
{
    return cols / MOE_SEGMENT * Weights::segment_bytes + cols % MOE_SEGMENT * Weights::segment_bytes / MOE_SEGMENT;
}

/* Rows of 8 n + m chunks: n times eight lanes a row, the rest with as many lanes as it needs. */
template <class Weights, int tiles, bool all, uint32_t first = 0>
MOE_DEVICE void moe_unit_copy_whole(unsigned char *unit, const struct moe_unit_rows &rows, size_t begin, int lane)
{
    constexpr uint32_t chunks = (Weights::segment_bytes + (Weights::aligned ? 0 : 15) + 15) / 16;
    constexpr uint32_t left = chunks - first, lanes = left > 4 ? 8 : left > 2 ? 4 : left;
    static_assert(Weights::pitch % 16 == 0 && Weights::pitch >= 16 * chunks, "a row of a unit");
    moe_unit_copy_chunks<Weights, tiles, first, lanes, all>(unit, rows, begin, lane);
    if constexpr (left > lanes)
        moe_unit_copy_whole<Weights, tiles, all, first + lanes>(unit, rows, begin, lane);
}

/* One row: eight lanes, 16 bytes each. `bytes` from `from` on are copied, the rest of the segment becomes zeros. */
template <class Weights>
MOE_DEVICE void moe_unit_copy_row(unsigned char *to, const unsigned char *from, uint32_t bytes, int lane)
{
    constexpr uint32_t chunks = (Weights::segment_bytes + (Weights::aligned ? 0 : 15) + 15) / 16;
    const struct moe_copy_place place = moe_copy_to(to);
    uint32_t skew = Weights::aligned ? 0 : (uint32_t)((uintptr_t)from & 15), end = skew + bytes;
    for (uint32_t chunk = lane % 8; chunk < chunks; chunk += 8) {
        uint32_t at = 16 * chunk, valid = at < end ? (end - at < 16 ? end - at : 16) : 0;
        moe_copy_async_16_once(place, at, from - skew + (valid > 0 ? at : 0), valid);
    }
}

/* Begin to copy columns `segment` of the rows into shared memory. What lies behind the last column becomes zeros; rows
 * that do not exist may stay what they were, and so may their sums, which nothing reads. Commits nothing. */
template <class Weights, int tiles>
MOE_DEVICE void moe_unit_copy(unsigned char *unit, const struct moe_unit_rows &rows, uint32_t segment,
                              uint32_t row_bytes, int lane)
{
    const uint32_t begin = segment * Weights::segment_bytes, left = row_bytes - begin;
    /* Rows that begin anywhere are read in granules of 16 bytes, up to 15 bytes more than are wanted: of the segment or
     * the row behind, if there is one. */
    const uint32_t num_rows = rows.product->up.rows;
    const bool more = left > Weights::segment_bytes || Weights::aligned ||
                      (rows.low_row + 8 * tiles < num_rows && rows.high_row + 8 * tiles < num_rows);
    if (left >= Weights::segment_bytes && more) {    /* nearly always */
        if (rows.low_left >= 8 * tiles && rows.high_left >= 8 * tiles)
            moe_unit_copy_whole<Weights, tiles, true>(unit, rows, begin, lane);
        else
            moe_unit_copy_whole<Weights, tiles, false>(unit, rows, begin, lane);
        return;
    }
    uint32_t bytes = left < Weights::segment_bytes ? left : Weights::segment_bytes;
    for (uint32_t i = lane / 8; i < tiles * MOE_TILE_ROWS; i += 4) {
        const unsigned char *row = moe_unit_row<tiles>(rows, i);
        moe_unit_copy_row<Weights>(unit + i * Weights::pitch, row != NULL ? row + begin : rows.low,
                                   row != NULL ? bytes : 0, lane);
    }
}

/* How a unit gets into shared memory; a format whose units are not copied as they are has one of its own. */
template <class Weights> struct moe_unit_source {
    static constexpr bool copies = true;    /* rows as they are: large.cuh has kernels for such formats only */

    template <int tiles>
    static __device__ __forceinline__ void copy(unsigned char *unit, const struct moe_unit_rows &rows,
                                                uint32_t segment, uint32_t row_bytes, int lane)
    {
        moe_unit_copy<Weights, tiles>(unit, rows, segment, row_bytes, lane);
    }
};

/* Where columns `segment` of row i begin in shared memory. Rows of formats that are not aligned keep their place within
 * 16 bytes; a row that does not exist is zeros, wherever it begins. */
template <class Weights, int tiles>
MOE_DEVICE const unsigned char *moe_unit_begin(const unsigned char *unit, const struct moe_unit_rows &rows,
                                               uint32_t segment, uint32_t i)
{
    const unsigned char *at = unit + i * rows.pitch + (segment * Weights::segment_bytes - rows.origin);
    if (Weights::aligned)
        return at;
    const bool low = i % 16 < 8;
    uint32_t first = (uint32_t)(uintptr_t)(low ? rows.low : rows.high);
    uint32_t stride = (uint32_t)(low ? rows.low_stride : rows.high_stride);
    return at + ((first + (i / 16 * 8 + i % 8) * stride + rows.origin) & 15);
}

/* Sums of x over the columns of a group, times the centre, or 1 for terms; nothing for formats that have neither. */
template <class Weights> MOE_DEVICE void moe_unit_sums(float sums[2][4], const uint4 &b)
{
    constexpr uint32_t factor = Weights::centre != 0 ? Weights::centre : 0x3f803f80u;
    const uint32_t factors[4] = {factor, factor, factor, factor};
    static_assert(!Weights::offset || Weights::centre == 0, "a term can hold the centre");
    static_assert(Weights::group <= MOE_STEP_COLS || Weights::centre == 0, "moe_unit_add begins with the centre");
    if (!Weights::offset && Weights::centre == 0)
        return;
    moe_mma_bf16(sums[0], factors, b.x, b.y);
    moe_mma_bf16(sums[Weights::group == 16], factors, b.z, b.w);
}

/* acc += scale * products + term * sums, of a group; low and high: (scale, term) of rows g and g + 8. */
template <class Weights>
MOE_DEVICE void moe_unit_scale(float acc[4], const float products[4], const float sums[4], float2 low, float2 high)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        acc[i] = fmaf(i < 2 ? low.x : high.x, products[i], acc[i]);
        if (Weights::offset)
            acc[i] = fmaf(i < 2 ? low.y : high.y, sums[i], acc[i]);
    }
}

/* acc += the 16 rows of a, in step q of 32 columns, times 8 tokens. scales: the table's (scale, term) of row g of the
 * tile in the step's first group; a group further is `pitch` further. */
template <class Weights>
MOE_DEVICE void moe_unit_add(float acc[4], const uint32_t a[8], const uint4 &b, const float (&sums)[2][4],
                             const float2 *scales, uint32_t pitch)
{
    if constexpr (Weights::group >= MOE_SEGMENT) {
        moe_mma_bf16(acc, a, b.x, b.y);
        moe_mma_bf16(acc, a + 4, b.z, b.w);
    } else {
        constexpr int halves = Weights::group == 16 ? 2 : 1;
        float products[2][4];
#pragma unroll
        for (int i = 0; i < 8; i++)
            products[i / 4][i % 4] = Weights::centre != 0 ? sums[i / 4][i % 4] : 0.0f;
        moe_mma_bf16(products[0], a, b.x, b.y);
        moe_mma_bf16(products[halves - 1], a + 4, b.z, b.w);
#pragma unroll
        for (int h = 0; h < halves; h++)
            moe_unit_scale<Weights>(acc, products[h], sums[h], scales[h * pitch], scales[h * pitch + 8]);
    }
}

#endif
