// SPDX-License-Identifier: MIT
// What multiplies in wide.cuh: a warp's place in its tile, operands from shared memory, the chain of an accumulator.
// For sm_90a only, as wgmma.cuh.
#ifndef MOE_CUDA_WIDE_MULTIPLY_CUH
#define MOE_CUDA_WIDE_MULTIPLY_CUH

#include "cuda/wgmma.cuh"
#include "cuda/wide_copy.cuh"

/* A warp's place in its tile and in the rings. */
template <class Shape> struct moe_wide_warp {
    unsigned char *shared, *staged;
    uint32_t barriers;            /* their address */
    uint32_t stages, units, units_at, cols, segments;
    struct moe_wide_ring x, unit;
    uint32_t released;            /* the next stage to be given back is this one, if it is not x.at */
    uint32_t warp;
    int lane;

    __device__ __forceinline__ uint32_t barrier(uint32_t first, uint32_t at) const
    {
        return barriers + 8 * (first + at);
    }

    /* Nothing that this warp has begun reads the place any more. */
    __device__ __forceinline__ void release(uint32_t first, uint32_t at) const
    {
        __syncwarp();
        if (lane == 0)
            moe_phase_arrive(barrier(first, at));
    }

    /* Products of the stages before x.at are done. */
    __device__ __forceinline__ void release_done(void)
    {
        if (released == x.at)
            return;
        release(MOE_WIDE_FREE, released);
        released = x.at;
    }

    /* The stage at x.at has arrived; its tokens. */
    __device__ __forceinline__ uint64_t await(void) const
    {
        moe_phase_wait(barrier(MOE_WIDE_ARRIVED, x.at), x.parity);
        moe_shared_to_products();
        return moe_wgmma_rows(moe_shared_address(shared) + x.at * Shape::x_bytes);
    }

    /* This warp's rows of a unit. */
    __device__ __forceinline__ unsigned char *rows(uint32_t at) const
    {
        return shared + units_at + at * Shape::unit_bytes + warp * MOE_TILE_ROWS * Shape::unit_pitch;
    }
};

/* A warp's rows of a tile, as a unit of columns `segment`. */
template <class Shape>
MOE_DEVICE struct moe_unit_rows moe_wide_unit_rows(const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                                   uint32_t warp, uint32_t segment)
{
    struct moe_unit_rows rows;
    rows.expert = tile.expert;
    rows.product = &p;
    rows.low_row = tile.first_row + warp * (p.gated ? 8 : 16);
    rows.high_row = p.gated ? rows.low_row : rows.low_row + 8;
    rows.low_left = rows.low_row < p.up.rows ? p.up.rows - rows.low_row : 0;
    rows.high_left = rows.high_row < p.up.rows ? p.up.rows - rows.high_row : 0;
    rows.low = moe_plane_row(p.gated ? p.gate.values : p.up.values, rows.expert, rows.low_row);
    rows.high = moe_plane_row(p.up.values, rows.expert, rows.high_row);
    rows.low_stride = p.gated ? p.gate.values.stride : p.up.values.stride;
    rows.high_stride = p.up.values.stride;
    rows.pitch = Shape::unit_pitch;
    rows.origin = segment * Shape::Weights::segment_bytes;
    return rows;
}

/* What a lane reads of a unit: the first bytes of its rows g and g + 8. */
struct moe_wide_unit {
    const unsigned char *low, *high;
};

/* Operands of step q of a unit; of a slice its step is the last bit of q. */
template <class Shape>
MOE_DEVICE void moe_wide_load(uint32_t a[8], const struct moe_wide_unit &unit, uint32_t q, int lane)
{
    if constexpr (Shape::exchanged) {
        const uint32_t at = (uint32_t)(lane % 4 * 16) ^ (uint32_t)(lane / 4 % 2 * 64) ^ q % 2 * 64;
        Shape::Weights::load(a, unit.low + at, unit.high + at, 0, 0);
    } else {
        Shape::Weights::load(a, unit.low, unit.high, Shape::sliced ? q % 2 : q, lane % 4);
    }
}

/* sums (+)= a step of formats without scales, as a group of products. */
template <int n> MOE_DEVICE void moe_wide_add(float *sums, uint32_t (&a)[8], uint64_t b)
{
    moe_wgmma_hold_operands<8>(a);
    moe_wgmma_begin();
    moe_wgmma<n>(sums, a, b, 1);
    moe_wgmma<n>(sums, a + 4, b + 2, 1);
    moe_wgmma_commit();
}

/* What a warp reads of a segment's unit, once that has arrived. */
template <class Shape>
MOE_DEVICE struct moe_wide_unit moe_wide_find_unit(const struct moe_wide_warp<Shape> &warp,
                                                   const struct moe_unit_rows &rows, uint32_t segment)
{
    const unsigned char *of_warp = warp.rows(warp.unit.at);
    return {moe_unit_begin<typename Shape::Weights, 1>(of_warp, rows, segment, warp.lane / 4),
            moe_unit_begin<typename Shape::Weights, 1>(of_warp, rows, segment, warp.lane / 4 + 8)};
}

/* Where a chain is. */
struct moe_wide_place {
    uint32_t segment, column, cols;    /* column: in the segment, of cols that it has */

    __device__ __forceinline__ void enter(uint32_t segment_, uint32_t of_row)
    {
        const uint32_t left = of_row - segment_ * MOE_SEGMENT;
        segment = segment_, column = 0, cols = left < MOE_SEGMENT ? left : (uint32_t)MOE_SEGMENT;
    }
};

/* Wait for the stage at `at`, and the unit if that begins there. Returns the stage's tokens. */
template <class Shape>
MOE_DEVICE uint64_t moe_wide_arrive(struct moe_wide_unit *unit, const struct moe_wide_warp<Shape> &warp,
                                    const struct moe_wide_place &at, const struct moe_cuda_product &p,
                                    const struct moe_large_tile &tile)
{
    if (!Shape::sliced && at.column == 0) {
        moe_phase_wait(warp.barrier(MOE_WIDE_UNIT_ARRIVED, warp.unit.at), warp.unit.parity);
        *unit = moe_wide_find_unit<Shape>(warp, moe_wide_unit_rows<Shape>(p, tile, warp.warp, at.segment), at.segment);
    }
    if (Shape::sliced) {
        unit->low = warp.rows(warp.x.at) + warp.lane / 4 * Shape::unit_pitch;
        unit->high = unit->low + 8 * Shape::unit_pitch;
    }
    return warp.await();
}

/* One accumulator's chain, of formats without scales: sums = over segments first, first + 8, .... The operands of a
 * step are loaded while the one before it runs; of no more than that, since products that run from one turn of a loop
 * to the next are too much for ptxas, which then lets no two run at once. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_chain(float *sums, struct moe_wide_warp<Shape> &warp, uint32_t first,
                               const struct moe_cuda_product &p, const struct moe_large_tile &tile)
{
    uint32_t a[2][8];
    struct moe_wide_unit unit;
    struct moe_wide_place at;
    at.enter(first, warp.cols);
    uint64_t b = moe_wide_arrive<Shape>(&unit, warp, at, p, tile);
    moe_wide_load<Shape>(a[0], unit, 0, warp.lane);
#pragma unroll
    for (int i = 0; i < n / 2; i++)
        sums[i] = 0.0f;
#pragma unroll 1
    do {
        moe_wide_add<n>(sums, a[0], b);
        moe_wide_load<Shape>(a[1], unit, at.column / MOE_STEP_COLS + 1, warp.lane);
        moe_wide_add<n>(sums, a[1], b + 4);
        warp.x.next(warp.stages);
        at.column += MOE_WIDE_COLS;
        if (at.column >= at.cols) {
            if (!Shape::sliced) {
                warp.release(MOE_WIDE_UNIT_FREE, warp.unit.at);
                warp.unit.next(warp.units);
            }
            at.enter(at.segment + MOE_ACCUMULATORS, warp.cols);
        }
        if (at.segment < warp.segments) {
            b = moe_wide_arrive<Shape>(&unit, warp, at, p, tile);
            moe_wgmma_wait<1>();
            moe_wgmma_hold_operands<8>(a[0]);
            moe_wide_load<Shape>(a[0], unit, at.column / MOE_STEP_COLS, warp.lane);
        }
        moe_wgmma_wait<0>();
        moe_wgmma_hold_operands<8>(a[1]);
        warp.release_done();
    } while (at.segment < warp.segments);
    moe_wgmma_hold<n / 2>(sums);
}

/* sums += scale * products + term * totals of x, of a group; scales: of row g. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_scale(float *sums, const float *products, const float *of_x, const float2 *scales)
{
    const float2 low = scales[0], high = scales[8];
#pragma unroll
    for (int i = 0; i < n / 2; i++) {
        sums[i] = fmaf(i % 4 < 2 ? low.x : high.x, products[i], sums[i]);
        if (Shape::Weights::offset)
            sums[i] = fmaf(i % 4 < 2 ? low.y : high.y, of_x[i], sums[i]);
    }
}

/* What multiplies tokens beside weights: the centre, or ones for terms; as operands, which stay where they are while
 * products run. */
template <class Shape> struct moe_wide_factors {
    static constexpr uint32_t factor = Shape::Weights::centre != 0 ? Shape::Weights::centre : 0x3f803f80u;
    static constexpr bool there = Shape::Weights::offset || Shape::Weights::centre != 0;
    uint32_t a[4];

    __device__ __forceinline__ void make(void)
    {
#pragma unroll
        for (int i = 0; i < 4 && there; i++)
            a[i] = factor;
        hold();
    }

    __device__ __forceinline__ void hold(void)
    {
        if constexpr (there)
            moe_wgmma_hold_operands<4>(a);
    }
};

/* The products of 16 columns, with a chain that begins here or goes on: of weights, and of formats that have terms, of
 * ones. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_multiply(float *products, float *of_x, const uint32_t *a,
                                  const struct moe_wide_factors<Shape> &factors, uint64_t b, bool begins)
{
    moe_wgmma<n>(products, a, b, Shape::Weights::centre != 0 || !begins);
    if (Shape::Weights::offset)
        moe_wgmma<n>(of_x, factors.a, b, !begins);
}

template <class Shape, int n>
MOE_DEVICE void moe_wide_centre(float *products, const struct moe_wide_factors<Shape> &factors, uint64_t b, bool begins)
{
    if (Shape::Weights::centre != 0)
        moe_wgmma<n>(products, factors.a, b, !begins);
}

/* Step q of a unit, of 32 columns, of formats whose groups are no longer; a: its operands, next: of the step behind,
 * loaded while the products run. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_step(float *sums, float *products, float *of_x, uint32_t (&a)[8], uint32_t (&next)[8],
                              uint64_t b, const struct moe_wide_unit &unit, const float2 *table, uint32_t q, int lane)
{
    constexpr int halves = Shape::Weights::group == 16 ? 2 : 1;
    static_assert(Shape::Weights::group == 16 || Shape::Weights::group == 32, "a group in a step");
    struct moe_wide_factors<Shape> factors;
    factors.make();
    moe_wgmma_hold_operands<8>(a);
#pragma unroll
    for (int h = 0; h < halves; h++) {
        moe_wgmma_begin();
        moe_wide_centre<Shape, n>(products, factors, b + 2 * h, true);
        if (halves == 1)
            moe_wide_centre<Shape, n>(products, factors, b + 2, false);
        moe_wide_multiply<Shape, n>(products, of_x, a + 4 * h, factors, b + 2 * h, true);
        if (halves == 1)
            moe_wide_multiply<Shape, n>(products, of_x, a + 4, factors, b + 2, false);
        moe_wgmma_commit();
        if (h == 0 && q + 1 < MOE_SEGMENT_STEPS)
            moe_wide_load<Shape>(next, unit, q + 1, lane);
        moe_wgmma_wait<0>();
        factors.hold();
        moe_wgmma_hold_operands<8>(a);
        moe_wgmma_hold<n / 2>(products);
        if (Shape::Weights::offset)
            moe_wgmma_hold<n / 2>(of_x);
        moe_wide_scale<Shape, n>(sums, products, of_x, table + (halves * q + h) * MOE_TILE_ROWS);
    }
}

/* Two steps of a group of several, which are the stage at x.at; a[0] has been loaded of the first, q. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_stage_of_group(float *products, float *of_x, uint32_t (&a)[2][8],
                                        const struct moe_wide_factors<Shape> &factors,
                                        struct moe_wide_warp<Shape> &warp, const struct moe_wide_unit &unit,
                                        uint32_t q, bool begins)
{
    const uint64_t b = warp.await();
#pragma unroll
    for (int s = 0; s < MOE_WIDE_STEPS; s++) {
        if (s == 1) {
            if (!begins) {
                moe_wgmma_wait<1>();    /* of the step before the last, whose operands these were */
                moe_wgmma_hold_operands<8>(a[1]);
                warp.release_done();
            }
            moe_wide_load<Shape>(a[1], unit, q + 1, warp.lane);
        }
        moe_wgmma_hold_operands<8>(a[s]);
        moe_wgmma_begin();
        moe_wide_multiply<Shape, n>(products, of_x, a[s], factors, b + 4 * s, begins && s == 0);
        moe_wide_multiply<Shape, n>(products, of_x, a[s] + 4, factors, b + 4 * s + 2, false);
        moe_wgmma_commit();
    }
    warp.x.next(warp.stages);
}

/* A segment's stages, of formats whose groups are one or two stages. The unit has arrived, and its scales are in the
 * table. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_groups(float *sums, struct moe_wide_warp<Shape> &warp, uint32_t segment,
                                const struct moe_wide_unit &unit, const float2 *table)
{
    constexpr uint32_t stages = Shape::whole_cols / MOE_WIDE_COLS, span = Shape::whole_cols / MOE_STEP_COLS;
    const uint32_t groups = moe_wide_segment_cols<Shape>(warp.cols, segment) / Shape::whole_cols;
    float products[n / 2], of_x[n / 2];
    uint32_t a[2][8];
    struct moe_wide_factors<Shape> factors;
    factors.make();
    static_assert(stages == 1 || stages == 2, "a group");
    moe_wide_load<Shape>(a[0], unit, 0, warp.lane);
#pragma unroll 1
    for (uint32_t i = 0; i < groups; i++) {
        moe_wide_stage_of_group<Shape, n>(products, of_x, a, factors, warp, unit, span * i, true);
        if (stages == 2) {
            moe_wgmma_wait<1>();
            moe_wgmma_hold_operands<8>(a[0]);
            moe_wide_load<Shape>(a[0], unit, span * i + 2, warp.lane);
            moe_wide_stage_of_group<Shape, n>(products, of_x, a, factors, warp, unit, span * i + 2, false);
        }
        moe_wgmma_wait<1>();
        moe_wgmma_hold_operands<8>(a[0]);
        if (i + 1 < groups)
            moe_wide_load<Shape>(a[0], unit, span * (i + 1), warp.lane);
        moe_wgmma_wait<0>();
        factors.hold();
        moe_wgmma_hold_operands<8>(a[1]);
        moe_wgmma_hold<n / 2>(products);
        if (Shape::Weights::offset)
            moe_wgmma_hold<n / 2>(of_x);
        warp.release_done();
        moe_wide_scale<Shape, n>(sums, products, of_x, table + i * MOE_TILE_ROWS);
    }
}

/* The same of formats whose groups are a step, or half of one. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_segment(float *sums, struct moe_wide_warp<Shape> &warp, uint32_t segment,
                                 const struct moe_wide_unit &unit, const float2 *table)
{
    const uint32_t cols = moe_wide_segment_cols<Shape>(warp.cols, segment);
    float products[n / 2], of_x[n / 2];
    uint32_t a[2][8];
    moe_wide_load<Shape>(a[0], unit, 0, warp.lane);
#pragma unroll 1
    for (uint32_t column = 0; column < cols; column += MOE_WIDE_COLS) {
        const uint32_t left = warp.cols - segment * MOE_SEGMENT - column, q = column / MOE_STEP_COLS;
        const uint64_t b = warp.await();
        moe_wide_step<Shape, n>(sums, products, of_x, a[0], a[1], b, unit, table, q, warp.lane);
        if (left > MOE_STEP_COLS)
            moe_wide_step<Shape, n>(sums, products, of_x, a[1], a[0], b + 4, unit, table, q + 1, warp.lane);
        warp.x.next(warp.stages);
        warp.release_done();
    }
}

/* One accumulator's chain, of formats with scales. side: what fetch has loaded of its first unit; then of the unit
 * behind its last one, if that is of this tile. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_chain_scaled(float *sums, struct moe_wide_warp<Shape> &warp, uint32_t first,
                                      const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                      float2 *table, typename Shape::Weights::side &side)
{
    typedef typename Shape::Weights Weights;
#pragma unroll
    for (int i = 0; i < n / 2; i++)
        sums[i] = 0.0f;
#pragma unroll 1
    for (uint32_t segment = first; segment < warp.segments; segment += MOE_ACCUMULATORS) {
        const struct moe_unit_rows rows = moe_wide_unit_rows<Shape>(p, tile, warp.warp, segment);
        moe_phase_wait(warp.barrier(MOE_WIDE_UNIT_ARRIVED, warp.unit.at), warp.unit.parity);
        __syncwarp();
        Weights::template scales<1>(table, warp.rows(warp.unit.at), side, rows, segment, warp.lane);
        __syncwarp();
        const struct moe_wide_unit unit = moe_wide_find_unit<Shape>(warp, rows, segment);
        const uint32_t next = segment + MOE_ACCUMULATORS < warp.segments ? segment + MOE_ACCUMULATORS : first + 1;
        if (next < warp.segments && (next != first + 1 || next < MOE_ACCUMULATORS)) {
            const struct moe_unit_rows next_rows = moe_wide_unit_rows<Shape>(p, tile, warp.warp, next);
            Weights::template fetch<1>(&side, next_rows, next, warp.lane);
        }
        if constexpr (Shape::grouped)
            moe_wide_groups<Shape, n>(sums, warp, segment, unit, table + warp.lane / 4);
        else
            moe_wide_segment<Shape, n>(sums, warp, segment, unit, table + warp.lane / 4);
        warp.release(MOE_WIDE_UNIT_FREE, warp.unit.at);
        warp.unit.next(warp.units);
    }
}

#endif
