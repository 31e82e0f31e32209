// SPDX-License-Identifier: MIT
// A unit times up to 8 tokens, by one warp: what small.cuh and small_down.cuh share. Steps of a whole segment are
// written out without a branch between them, so that one's loads and unpacking run beside another's products: four
// warps of a scheduler do not hide a step's latency (two products in a row, then the scales) for each other.
#ifndef MOE_CUDA_MULTIPLY_CUH
#define MOE_CUDA_MULTIPLY_CUH

#include "cuda/unit.cuh"

/* 8 tokens in the columns of a segment: of each step a lane's 8 values of token g, kept in registers, or read where
 * they are used, from the first cache; and the sums of x over the columns of a group, times the centre or 1, in shared
 * memory. These cost as much as the products with 16 rows; they are computed once for all units that the tokens
 * serve. */
template <class Weights, bool kept> struct moe_tokens {
    static constexpr bool summed = Weights::offset || Weights::centre != 0;
    static constexpr uint32_t groups = Weights::group < MOE_SEGMENT ? MOE_SEGMENT / Weights::group : 1;
    static constexpr size_t sums_bytes = summed ? groups * MOE_TILE_TOKENS * sizeof(float) : 0;
    uint4 values[kept ? MOE_SEGMENT_STEPS : 1];
    const uint4 *x;
    float *sums;    /* [groups][8], of this warp; a lane uses tokens 2 t and 2 t + 1 */

    /* Other tokens, or another segment: all lanes of the warp together. from: this lane's first 16 bytes. */
    __device__ __forceinline__ void take(const uint4 *from, int lane)
    {
        x = from;
        if (kept)
#pragma unroll
            for (int q = 0; q < MOE_SEGMENT_STEPS; q++)
                values[kept ? q : 0] = x[4 * q];
        if constexpr (summed) {
            __syncwarp();    /* sums may still be read */
            add_up(lane);
            __syncwarp();
        }
    }

    /* Known when compiled. */
    __device__ __forceinline__ uint4 step(uint32_t q) const
    {
        return kept ? values[kept ? q : 0] : x[4 * q];
    }

    __device__ __forceinline__ void store_sum(const float sum[4], uint32_t group, int lane) const
    {
        if (lane < 4)    /* all rows are the same */
            *(float2 *)(sums + MOE_TILE_TOKENS * group + 2 * lane) = make_float2(sum[0], sum[1]);
    }

    __device__ __forceinline__ void add_up(int lane) const
    {
        constexpr uint32_t factor = Weights::centre != 0 ? Weights::centre : 0x3f803f80u;
        constexpr uint32_t span = Weights::group > MOE_STEP_COLS ? Weights::group / MOE_STEP_COLS : 1;
        const uint32_t factors[4] = {factor, factor, factor, factor};
#pragma unroll
        for (uint32_t first = 0; first < MOE_SEGMENT_STEPS; first += span) {
            float sum[4] = {}, second[4] = {};
#pragma unroll
            for (uint32_t q = first; q < first + span; q++) {
                const uint4 b = step(q);
                moe_mma_bf16(sum, factors, b.x, b.y);
                moe_mma_bf16(Weights::group == 16 ? second : sum, factors, b.z, b.w);
            }
            store_sum(sum, Weights::group == 16 ? 2 * first : first / span, lane);
            if (Weights::group == 16)
                store_sum(second, 2 * first + 1, lane);
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

/* acc += scale * products + term * sums, of a group of tile m. */
template <class Weights, int tiles>
MOE_DEVICE void moe_multiply_scale(float acc[4], const float products[4], const float2 &sum,
                                   const struct moe_multiply_at<tiles> &at, uint32_t group, int m)
{
    const float2 *scales = at.table + tiles * MOE_TILE_ROWS * group + MOE_TILE_ROWS * m;
    const float sums[4] = {sum.x, sum.y, sum.x, sum.y};
    moe_unit_scale<Weights>(acc, products, sums, scales[0], scales[8]);
}

/* acc += steps first .. first + span - 1: those of a group; of two groups, or of none, one step. */
template <class Weights, int tiles, uint32_t span>
MOE_DEVICE void moe_multiply_group(float (&acc)[tiles][4], const uint4 (&x)[span],
                                   const struct moe_multiply_at<tiles> &at, uint32_t first, int t)
{
    constexpr bool scaled = Weights::group < MOE_SEGMENT, halves = Weights::group == 16;
    const uint32_t group = halves ? 2 * first : first / span;
    float2 sums[2] = {};
    if (moe_tokens<Weights, false>::summed) {
        sums[0] = *(const float2 *)(at.sums + MOE_TILE_TOKENS * group);
        if (halves)
            sums[1] = *(const float2 *)(at.sums + MOE_TILE_TOKENS * (group + 1));
    }
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        float products[4], second[4];
        moe_multiply_begin<Weights>(products, sums[0]);
        moe_multiply_begin<Weights>(second, sums[1]);
#pragma unroll
        for (uint32_t i = 0; i < span; i++) {
            uint32_t a[8];
            Weights::load(a, at.low[m], at.high[m], first + i, t);
            moe_mma_bf16(scaled ? products : acc[m], a, x[i].x, x[i].y);
            moe_mma_bf16(!scaled ? acc[m] : halves ? second : products, a + 4, x[i].z, x[i].w);
        }
        if (scaled)
            moe_multiply_scale<Weights, tiles>(acc[m], products, sums[0], at, group, m);
        if (halves)
            moe_multiply_scale<Weights, tiles>(acc[m], second, sums[1], at, group + 1, m);
    }
}

/* acc += a unit, of which the first `steps` steps exist. Beyond the last column both x and the unit are zeros. */
template <class Weights, int tiles, bool kept>
MOE_DEVICE void moe_multiply(float (&acc)[tiles][4], const struct moe_tokens<Weights, kept> &tokens,
                             const struct moe_multiply_at<tiles> &at, uint32_t steps, int lane)
{
    constexpr bool spans = Weights::group > MOE_STEP_COLS && Weights::group < MOE_SEGMENT;
    constexpr uint32_t span = spans ? Weights::group / MOE_STEP_COLS : 1;
    uint4 some[span];
    if (steps == MOE_SEGMENT_STEPS) {    /* nearly always */
#pragma unroll
        for (uint32_t q = 0; q < MOE_SEGMENT_STEPS; q += span) {
#pragma unroll
            for (uint32_t i = 0; i < span; i++)
                some[i] = tokens.step(q + i);
            moe_multiply_group<Weights, tiles, span>(acc, some, at, q, lane % 4);
        }
        return;
    }
#pragma unroll 1
    for (uint32_t q = 0; q < steps; q += span) {
#pragma unroll
        for (uint32_t i = 0; i < span; i++)
            some[i] = tokens.x[4 * (q + i)];
        moe_multiply_group<Weights, tiles, span>(acc, some, at, q, lane % 4);
    }
}

#endif
