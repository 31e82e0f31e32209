// SPDX-License-Identifier: MIT
// A unit times tokens, 8 in each column tile, by one warp: what small.cuh and small_down.cuh share. Codes are taken
// apart once for all column tiles. Steps of a whole segment are written out without a branch between them, so that
// one's loads and unpacking run beside another's products: four warps of a scheduler do not hide a step's latency
// (two products in a row, then the scales) for each other.
#ifndef MOE_CUDA_MULTIPLY_CUH
#define MOE_CUDA_MULTIPLY_CUH

#include "cuda/unit.cuh"

/* Tokens in the columns of a segment: of each step a lane's 8 values of token g of each column tile, read where they
 * are used, from the first cache, or, of one tile, kept in registers; and the sums of x over the columns of a group,
 * times the centre or 1, in shared memory. These cost as much as the products with 16 rows; they are computed once
 * for all units that the tokens serve. */
template <class Weights, int columns, bool kept> struct moe_tokens {
    static_assert(columns == 1 || !kept, "registers hold one column tile");
    static constexpr bool summed = Weights::offset || Weights::centre != 0;
    static constexpr uint32_t groups = Weights::group < MOE_SEGMENT ? MOE_SEGMENT / Weights::group : 1;
    static constexpr uint32_t column_sums = groups * MOE_TILE_TOKENS;
    static constexpr size_t sums_bytes = summed ? columns * column_sums * sizeof(float) : 0;
    uint4 values[kept ? MOE_SEGMENT_STEPS : 1];
    const uint4 *x[columns];
    float *sums;    /* [columns][groups][8], of this warp; a lane uses tokens 2 t and 2 t + 1 */

    /* Other tokens, or another segment, of the first `used` column tiles: all lanes of the warp together. from: of each
     * tile this lane's row; at: of the segment's first 16 bytes, in units of so many. */
    __device__ __forceinline__ void take(const uint4 *const (&from)[columns], uint32_t at, uint32_t used, int lane)
    {
#pragma unroll
        for (int n = 0; n < columns; n++)
            x[n] = from[n] + at;
        if (kept)
#pragma unroll
            for (int q = 0; q < MOE_SEGMENT_STEPS; q++)
                values[kept ? q : 0] = x[0][4 * q];
        if constexpr (summed) {
            __syncwarp();    /* sums may still be read */
#pragma unroll
            for (int n = 0; n < columns; n++)
                if (n == 0 || (uint32_t)n < used)
                    add_up(n, lane);
            __syncwarp();
        }
    }

    /* q: known when compiled, if kept. */
    __device__ __forceinline__ uint4 step(int n, uint32_t q) const
    {
        return kept ? values[kept ? q : 0] : x[n][4 * q];
    }

    __device__ __forceinline__ void store_sum(int n, const float sum[4], uint32_t group, int lane) const
    {
        if (lane < 4)    /* all rows are the same */
            *(float2 *)(sums + n * column_sums + MOE_TILE_TOKENS * group + 2 * lane) = make_float2(sum[0], sum[1]);
    }

    __device__ __forceinline__ void add_up(int n, int lane) const
    {
        constexpr uint32_t factor = Weights::centre != 0 ? Weights::centre : 0x3f803f80u;
        constexpr uint32_t span = Weights::group > MOE_STEP_COLS ? Weights::group / MOE_STEP_COLS : 1;
        const uint32_t factors[4] = {factor, factor, factor, factor};
#pragma unroll
        for (uint32_t first = 0; first < MOE_SEGMENT_STEPS; first += span) {
            float sum[4] = {}, second[4] = {};
#pragma unroll
            for (uint32_t q = first; q < first + span; q++) {
                const uint4 b = step(n, q);
                moe_mma_bf16(sum, factors, b.x, b.y);
                moe_mma_bf16(Weights::group == 16 ? second : sum, factors, b.z, b.w);
            }
            store_sum(n, sum, Weights::group == 16 ? 2 * first : first / span, lane);
            if (Weights::group == 16)
                store_sum(n, second, 2 * first + 1, lane);
        }
    }
};

/* Where a lane begins to read a unit: rows g and g + 8 of each tile, the table's entries of row g, its sums of x. */
template <int tiles> struct moe_multiply_at {
    const unsigned char *low[tiles], *high[tiles];
    const float2 *table;    /* a group further: tiles * MOE_TILE_ROWS */
    const float *sums;      /* a group further: MOE_TILE_TOKENS */
};

/* The products of a group: 0, or of the centre. */
template <class Weights> MOE_DEVICE void moe_multiply_begin(float products[4], const float2 &sum)
{
    products[0] = products[2] = Weights::centre != 0 ? sum.x : 0.0f;
    products[1] = products[3] = Weights::centre != 0 ? sum.y : 0.0f;
}

/* Steps first .. first + span - 1, which are those of a group, of two (groups of 16), or one of all, times the first
 * `used` column tiles. */
template <class Weights, int tiles, int columns, bool kept, int used, uint32_t span> struct moe_multiply_group {
    typedef struct moe_tokens<Weights, columns, kept> tokens_type;
    static constexpr bool scaled = Weights::group < MOE_SEGMENT, halves = Weights::group == 16;
    static constexpr int sets = halves ? 2 : 1;    /* of products */
    float products[scaled ? sets : 1][scaled ? tiles : 1][scaled ? used : 1][4];
    float2 sums[sets][used];

    __device__ __forceinline__ void begin(const struct moe_multiply_at<tiles> &at, uint32_t group)
    {
#pragma unroll
        for (int i = 0; i < sets * used; i++) {
            const int set = i / used, n = i % used;
            if (tokens_type::summed)
                sums[set][n] =
                    *(const float2 *)(at.sums + n * tokens_type::column_sums + MOE_TILE_TOKENS * (group + set));
            if (scaled)
#pragma unroll
                for (int m = 0; m < tiles; m++)
                    moe_multiply_begin<Weights>(products[scaled ? set : 0][scaled ? m : 0][scaled ? n : 0],
                                                sums[set][n]);
        }
    }

    /* acc += scale * products + term * sums */
    __device__ __forceinline__ void scale(float (&acc)[columns][tiles][4], const struct moe_multiply_at<tiles> &at,
                                          uint32_t group) const
    {
#pragma unroll
        for (int i = 0; i < sets * tiles; i++) {
            const int set = i / tiles, m = i % tiles;
            const float2 *scales = at.table + tiles * MOE_TILE_ROWS * (group + set) + MOE_TILE_ROWS * m;
            const float2 low = scales[0], high = scales[8];
#pragma unroll
            for (int n = 0; n < used; n++) {
                const float2 &sum = sums[set][n];
                const float own[4] = {sum.x, sum.y, sum.x, sum.y};
                moe_unit_scale<Weights>(acc[n][m], products[scaled ? set : 0][scaled ? m : 0][scaled ? n : 0], own, low,
                                        high);
            }
        }
    }

    /* One step; q as for the tokens, of the unit. */
    __device__ __forceinline__ void multiply(float (&acc)[columns][tiles][4], const uint4 (&x)[used],
                                             const struct moe_multiply_at<tiles> &at, uint32_t q, int t)
    {
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            uint32_t a[8];
            Weights::load(a, at.low[m], at.high[m], q, t);
#pragma unroll
            for (int n = 0; n < used; n++) {
                float *first = scaled ? products[0][scaled ? m : 0][scaled ? n : 0] : acc[n][m];
                float *second = scaled ? products[halves ? 1 : 0][scaled ? m : 0][scaled ? n : 0] : acc[n][m];
                moe_mma_bf16(first, a, x[n].x, x[n].y);
                moe_mma_bf16(second, a + 4, x[n].z, x[n].w);
            }
        }
    }
};

/* acc += a unit, of which the first `steps` steps exist. Beyond the last column both x and the unit are zeros. */
template <int used, class Weights, int tiles, int columns, bool kept>
MOE_DEVICE void moe_multiply(float (&acc)[columns][tiles][4], const struct moe_tokens<Weights, columns, kept> &tokens,
                             const struct moe_multiply_at<tiles> &at, uint32_t steps, int lane)
{
    constexpr bool scaled = Weights::group < MOE_SEGMENT, spans = scaled && Weights::group > MOE_STEP_COLS;
    constexpr uint32_t span = spans ? Weights::group / MOE_STEP_COLS : 1;
    const bool whole = steps == MOE_SEGMENT_STEPS;    /* nearly always */
    struct moe_multiply_group<Weights, tiles, columns, kept, used, span> group;
    uint4 x[used];
    const auto add = [&](uint32_t first, auto read) {
        const uint32_t number = Weights::group == 16 ? 2 * first : first / span;
        group.begin(at, number);
#pragma unroll
        for (uint32_t i = 0; i < span; i++) {
#pragma unroll
            for (int n = 0; n < used; n++)
                x[n] = read(n, first + i);
            group.multiply(acc, x, at, first + i, lane % 4);
        }
        if (scaled)
            group.scale(acc, at, number);
    };
    if (whole) {
#pragma unroll
        for (uint32_t q = 0; q < MOE_SEGMENT_STEPS; q += span)
            add(q, [&](int n, uint32_t q) { return tokens.step(n, q); });
        return;
    }
#pragma unroll 1
    for (uint32_t q = 0; q < steps; q += span)
        add(q, [&](int n, uint32_t q) { return tokens.x[n][4 * q]; });
}

#endif
