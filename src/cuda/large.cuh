// SPDX-License-Identifier: MIT
// A product for many tokens: tiles of rows and tokens, bound by the tensor cores, in the order of sums of call.h. On
// sm_90a wide.cuh takes its place.
//
// A block of 8 warps has a tile; a warp has 48 (of formats with scales 32) rows and 64 tokens of it, as two sets of
// sums: the chain of the present accumulator and the total of those before it, 192 (128) registers. Columns come
// through a ring in shared memory, 64 at a time, up to 4 stages deep, with one barrier a stage; the ring runs on from
// tile to tile. Formats of 2 bytes a value are cut into such stages as tokens are; of all others a stage of weights is
// a unit, a whole segment, because its blocks are not to be cut. Registers are what is scarce: where a thread copies
// from is in shared memory, and so are 28 of its totals; nothing is spilled.
//
// bf16, per multiprocessor and step of 16 columns (192 rows, 128 tokens): 192 m16n8k16, 48 for each of the four tensor
// cores, and 38 KB through shared memory at 128 bytes a cycle, 300 cycles (28 KB read, 10 written): 6.2 cycles an
// m16n8k16, 2640 operations a cycle. The second cache gives 10 KB a step, 77 operations a byte. In SASS a warp issues
// 86 for each 48 of them, and about 190 a stage to copy, count and find operands, which two warps of a scheduler do in
// turns, so that one of them multiplies; 40 a stage add up chains.
// Q4_K: 32 rows by 64 tokens in 32 columns are 32 products, 16 for sums of tokens, 128 to scale and 60 others.
#ifndef MOE_CUDA_LARGE_CUH
#define MOE_CUDA_LARGE_CUH

#include "cuda/large_copy.cuh"
#include "cuda/large_store.cuh"
#include "cuda/launch.cuh"

/* Wait until all but the youngest stages - 2 of the copies are done. */
MOE_DEVICE void moe_large_wait(uint32_t stages)
{
    if (stages == 4)
        moe_copy_async_wait<2>();
    else if (stages == 3)
        moe_copy_async_wait<1>();
    else
        moe_copy_async_wait<0>();
}

/* ---- products ---- */

/* A warp's rows of a tile, as a unit of columns `segment`. */
template <class Shape>
MOE_DEVICE struct moe_unit_rows moe_large_unit_rows(const struct moe_cuda_product &p,
                                                    const struct moe_large_tile &tile, int row_warp, uint32_t segment)
{
    struct moe_unit_rows rows;
    rows.expert = tile.expert;
    rows.product = &p;
    rows.low_row = tile.first_row + row_warp * 8 * Shape::tiles;
    rows.high_row = p.gated ? rows.low_row : rows.low_row + Shape::rows / 2;
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

/* What a lane reads of a unit: the first bytes of rows g and g + 8 of each tile; and its warp's table. */
template <class Shape> struct moe_large_unit {
    const unsigned char *low[Shape::tiles], *high[Shape::tiles];
    const float2 *table;
};

/* What a lane multiplies in a stage. Offsets are of its 16 bytes in step 0 of row g, or of token g of its warp's first
 * column tile; those of step s are at ^ 64 s. */
template <class Shape> struct moe_large_stage {
    uint32_t steps, first_step;           /* of 32 columns; of them the first, in its segment */
    uint32_t x, slice;
    uint32_t zero;
    struct moe_large_unit<Shape> unit;    /* of formats that are not sliced */
};

/* Make ready for a unit that has arrived. */
template <class Shape>
MOE_DEVICE void moe_large_find_unit(struct moe_large_unit<Shape> *found, const struct moe_large_params &params,
                                    unsigned char *shared, uint32_t number, uint32_t segment, uint32_t unit,
                                    const struct moe_large_lane<Shape> &lane,
                                    const typename Shape::Weights::side &side)
{
    typedef typename Shape::Weights Weights;
    constexpr int tiles = Shape::tiles;
    const struct moe_unit_rows rows = moe_large_unit_rows<Shape>(
        params.product, *moe_large_queue(params, shared, number), lane.row_warp, segment);
    const unsigned char *of_warp = shared + params.units_at + unit * Shape::unit_bytes +
                                   lane.row_warp * 16 * tiles * Shape::unit_pitch;
    float2 *table = (float2 *)(shared + params.tables_at + threadIdx.x / 32 * Shape::table_bytes);
    if (Shape::table_bytes > 0) {
        Weights::template scales<tiles>(table, of_warp, side, rows, segment, lane.lane);
        __syncwarp();
    }
    found->table = table + lane.lane / 4;
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        found->low[m] = moe_unit_begin<Weights, tiles>(of_warp, rows, segment, 16 * m + lane.lane / 4);
        found->high[m] = moe_unit_begin<Weights, tiles>(of_warp, rows, segment, 16 * m + lane.lane / 4 + 8);
    }
}

/* Begin to load what scales of a unit lie apart from it. */
template <class Shape>
MOE_DEVICE void moe_large_fetch(typename Shape::Weights::side *side, const struct moe_large_params &params,
                                unsigned char *shared, uint32_t number, uint32_t segment,
                                const struct moe_large_lane<Shape> &lane)
{
    const struct moe_unit_rows rows = moe_large_unit_rows<Shape>(
        params.product, *moe_large_queue(params, shared, number), lane.row_warp, segment);
    Shape::Weights::template fetch<Shape::tiles>(side, rows, segment, lane.lane);
}

/* acc += a step's operands of weights times the first `columns` column tiles, without scales; x: a lane's 16 bytes of
 * the first. Two column tiles at once, so that an instruction does not wait for the one before it. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_add(float (&acc)[Shape::tiles][Shape::columns][4], const uint32_t (&a)[Shape::tiles][8],
                              const unsigned char *x)
{
    constexpr uint32_t column_bytes = MOE_TILE_TOKENS * Shape::token_warps * Shape::x_pitch;
#pragma unroll
    for (int n = 0; n < columns; n += 2) {
        const uint4 b[2] = {*(const uint4 *)(x + n * column_bytes), *(const uint4 *)(x + (n + 1) * column_bytes)};
#pragma unroll
        for (int i = 0; i < 2 * Shape::tiles; i++)
            moe_mma_bf16(acc[i / 2][n + i % 2], a[i / 2], b[i % 2].x, b[i % 2].y);
#pragma unroll
        for (int i = 0; i < 2 * Shape::tiles; i++)
            moe_mma_bf16(acc[i / 2][n + i % 2], a[i / 2] + 4, b[i % 2].z, b[i % 2].w);
    }
}

/* The same with scales, of groups within a step; scales: of row g of the first tile in the step's first group. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_add_scaled(float (&acc)[Shape::tiles][Shape::columns][4],
                                     const uint32_t (&a)[Shape::tiles][8], const unsigned char *x,
                                     const float2 *scales)
{
    typedef typename Shape::Weights Weights;
    constexpr uint32_t column_bytes = MOE_TILE_TOKENS * Shape::token_warps * Shape::x_pitch;
#pragma unroll
    for (int n = 0; n < columns; n++) {
        const uint4 b = *(const uint4 *)(x + n * column_bytes);
        float sums[2][4] = {};
        moe_unit_sums<Weights>(sums, b);
#pragma unroll
        for (int m = 0; m < Shape::tiles; m++)
            moe_unit_add<Weights>(acc[m][n], a[m], b, sums, scales + 16 * m, Shape::tiles * MOE_TILE_ROWS);
    }
}

/* acc += the products of a group of several steps, which is a stage, scaled. x: as an offset, of step 0. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_add_group(float (&acc)[Shape::tiles][Shape::columns][4],
                                    const float (&products)[Shape::tiles][Shape::columns][4],
                                    const unsigned char *shared, uint32_t x, const float2 *scales)
{
    constexpr bool offset = Shape::Weights::offset;
    constexpr uint32_t column_bytes = MOE_TILE_TOKENS * Shape::token_warps * Shape::x_pitch;
    constexpr uint32_t one = 0x3f803f80u;
    const uint32_t ones[4] = {one, one, one, one};
#pragma unroll
    for (int n = 0; n < columns; n++) {
        float sums[4] = {};
        if (offset)
#pragma unroll
            for (uint32_t s = 0; s < Shape::stage_steps; s++) {
                const uint4 b = *(const uint4 *)(shared + (x ^ 64 * s) + n * column_bytes);
                moe_mma_bf16(sums, ones, b.x, b.y);
                moe_mma_bf16(sums, ones, b.z, b.w);
            }
#pragma unroll
        for (int m = 0; m < Shape::tiles; m++) {
            const float2 low = scales[16 * m], high = scales[16 * m + 8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[m][n][i] = fmaf(i < 2 ? low.x : high.x, products[m][n][i], acc[m][n][i]);
                if (offset)
                    acc[m][n][i] = fmaf(i < 2 ? low.y : high.y, sums[i], acc[m][n][i]);
            }
        }
    }
}

/* acc += a step of slices, of the first `columns` column tiles. slice, x: where a lane reads first. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_multiply_step(float (&acc)[Shape::tiles][Shape::columns][4], const unsigned char *slice,
                                        const unsigned char *x, uint32_t zero)
{
    uint32_t a[Shape::tiles][8];
#pragma unroll
    for (int m = 0; m < Shape::tiles; m++) {
        const unsigned char *low = slice + 16 * m * Shape::unit_pitch;
        Shape::Weights::load(a[m], low, low + 8 * Shape::unit_pitch, 0, 0);
        /* Not mere copies of what has been loaded: those ptxas would make again in front of each instruction. */
#pragma unroll
        for (int i = 0; i < 8; i++)
            a[m][i] ^= zero;
    }
    moe_large_add<Shape, columns>(acc, a, x);
}

/* acc += a stage of slices. Between its steps nothing is loaded ahead: that takes registers which totals need. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_multiply_slice(float (&acc)[Shape::tiles][Shape::columns][4], const unsigned char *shared,
                                         const struct moe_large_stage<Shape> &stage)
{
    static_assert(Shape::stage_steps == 2, "both");
    moe_large_multiply_step<Shape, columns>(acc, shared + stage.slice, shared + stage.x, stage.zero);
    if (stage.steps < 2)
        return;
    __syncwarp();
    moe_large_multiply_step<Shape, columns>(acc, shared + (stage.slice ^ 64), shared + (stage.x ^ 64), stage.zero);
}

/* acc += a stage of a unit, of the first `columns` column tiles. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_multiply_unit(float (&acc)[Shape::tiles][Shape::columns][4], const unsigned char *shared,
                                        const struct moe_large_stage<Shape> &stage, int lane)
{
    typedef typename Shape::Weights Weights;
    constexpr bool grouped = Weights::group > MOE_STEP_COLS && Weights::group < MOE_SEGMENT;
    constexpr uint32_t groups = Weights::group >= 32 ? 1 : 32 / Weights::group;
    if (grouped && stage.steps == 0)
        return;
    float products[grouped ? Shape::tiles : 1][grouped ? Shape::columns : 1][4] = {};
#pragma unroll
    for (uint32_t s = 0; s < Shape::stage_steps; s++) {
        if (!grouped && s >= stage.steps)
            break;
        uint32_t a[Shape::tiles][8];
#pragma unroll
        for (int m = 0; m < Shape::tiles; m++)
            Weights::load(a[m], stage.unit.low[m], stage.unit.high[m], stage.first_step + s, lane % 4);
        const unsigned char *at = shared + (stage.x ^ 64 * s);
        if constexpr (grouped) {
            moe_large_add<Shape, columns>(products, a, at);
            __syncwarp();    /* nothing is loaded ahead, as between slices */
        } else if constexpr (Weights::group < MOE_SEGMENT)
            moe_large_add_scaled<Shape, columns>(
                acc, a, at, stage.unit.table + (stage.first_step + s) * groups * Shape::tiles * MOE_TILE_ROWS);
        else
            moe_large_add<Shape, columns>(acc, a, at);
    }
    if constexpr (grouped)
        moe_large_add_group<Shape, columns>(
            acc, products, shared, stage.x,
            stage.unit.table + stage.first_step / Shape::stage_steps * Shape::tiles * MOE_TILE_ROWS);
}

/* acc += a stage. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_multiply(float (&acc)[Shape::tiles][Shape::columns][4], const unsigned char *shared,
                                   const struct moe_large_stage<Shape> &stage, int lane)
{
    if constexpr (Shape::sliced)
        moe_large_multiply_slice<Shape, columns>(acc, shared, stage);
    else
        moe_large_multiply_unit<Shape, columns>(acc, shared, stage, lane);
}

/* As many column tiles as the warp has, in pairs; what one too many gives is not stored. */
template <class Shape>
MOE_DEVICE void moe_large_multiply_some(float (&acc)[Shape::tiles][Shape::columns][4], const unsigned char *shared,
                                        const struct moe_large_stage<Shape> &stage,
                                        const struct moe_large_lane<Shape> &lane)
{
    if (lane.columns > 6)
        moe_large_multiply<Shape, 8>(acc, shared, stage, lane.lane);
    else if (lane.columns > 4)
        moe_large_multiply<Shape, 6>(acc, shared, stage, lane.lane);
    else if (lane.columns > 2)
        moe_large_multiply<Shape, 4>(acc, shared, stage, lane.lane);
    else if (lane.columns > 0)
        moe_large_multiply<Shape, 2>(acc, shared, stage, lane.lane);
}

/* ---- sums ---- */

/* A thread's totals: all but the last Shape::kept fours in registers, these in shared memory. -0 leaves what is added
 * to it as it is, zeros too. */
template <class Shape> struct moe_large_totals {
    static constexpr int fours = Shape::tiles * Shape::columns, values = 4 * (fours - Shape::kept);
    float value[values];
    float4 *kept;    /* MOE_LARGE_THREADS apart */

    __device__ __forceinline__ void clear(void)
    {
#pragma unroll
        for (int i = 0; i < values; i++)
            value[i] = -0.0f;
#pragma unroll
        for (int i = 0; i < Shape::kept; i++)
            kept[i * MOE_LARGE_THREADS] = make_float4(-0.0f, -0.0f, -0.0f, -0.0f);
    }

    /* sums += totals */
    __device__ __forceinline__ void add_to(float *sums) const
    {
#pragma unroll
        for (int i = 0; i < values; i++)
            sums[i] = value[i] + sums[i];
#pragma unroll
        for (int i = 0; i < Shape::kept; i++) {
            const float4 four = kept[i * MOE_LARGE_THREADS];
            float *sum = sums + values + 4 * i;
            sum[0] = four.x + sum[0], sum[1] = four.y + sum[1], sum[2] = four.z + sum[2], sum[3] = four.w + sum[3];
        }
    }

    __device__ __forceinline__ void take(const float *sums)
    {
#pragma unroll
        for (int i = 0; i < values; i++)
            value[i] = sums[i];
#pragma unroll
        for (int i = 0; i < Shape::kept; i++) {
            const float *sum = sums + values + 4 * i;
            kept[i * MOE_LARGE_THREADS] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        }
    }
};

template <class Shape> MOE_DEVICE uint32_t moe_large_next_slot(uint32_t slot, const struct moe_large_params &params)
{
    return slot + Shape::slot_bytes < params.units_at ? slot + Shape::slot_bytes : 0;
}

template <class Shape>
__global__ void __launch_bounds__(MOE_LARGE_THREADS, 1)
    moe_large_kernel(const __grid_constant__ moe_large_params params)
{
    const struct moe_cuda_product &p = params.product;
    unsigned char *shared = moe_dynamic_shared();
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    struct moe_large_lane<Shape> lane = {(int)threadIdx.x % 32, warp % Shape::row_warps, warp / Shape::row_warps, 0};
    moe_wait_for_previous();
    moe_let_next_start();

    const struct moe_large_list list = moe_large_list_at(shared + params.list_at, p.pairs.num_matrices);
    const uint32_t items =
        moe_large_list_fill<Shape::tokens>(list, p.pairs, params.row_tiles, (uint32_t *)(shared + params.warps_at));
    if (blockIdx.x >= items)
        return;
    const int num_tiles = (int)((items - blockIdx.x + gridDim.x - 1) / gridDim.x);
    const uint32_t x_of_lane = (8 * lane.token_warp + g) * Shape::x_pitch + (16 * t ^ g % 2 * 64);
    const uint32_t slice_of_lane =
        Shape::x_bytes + (16 * Shape::tiles * lane.row_warp + g) * Shape::unit_pitch + (16 * t ^ g % 2 * 64);
    struct moe_large_ahead ahead = {UINT32_MAX, 0, 0};
    uint32_t slot = 0, unit = 0, column = 0;
    struct moe_large_stage<Shape> stage;
    stage.zero = params.zero;
    typename Shape::Weights::side side;
    float acc[Shape::tiles][Shape::columns][4] = {};
    struct moe_large_totals<Shape> totals;
    totals.kept = (float4 *)(shared + params.staged_at) + threadIdx.x;
    totals.clear();
#pragma unroll 1
    for (int number = -(int)params.stages; number < num_tiles;) {    /* before tile 0: the ring fills */
        moe_large_wait(params.stages);
        __syncthreads();
        /* Of the two warps that share a scheduler one copies first, and the other multiplies. */
#pragma unroll 1
        for (int turn = 0; turn < 2; turn++) {
            if (turn == (int)(threadIdx.x / (MOE_LARGE_THREADS / 2))) {
                moe_large_copy<Shape>(&ahead, params, shared, (slot > 0 ? slot : params.units_at) - Shape::slot_bytes,
                                      (uint32_t)num_tiles);    /* to where the last stage was */
            } else if (number >= 0) {
                const uint32_t cols_left = column < p.up.cols ? p.up.cols - column : 0;
                stage.steps = cols_left < Shape::stage_cols ? (cols_left + MOE_STEP_COLS - 1) / MOE_STEP_COLS
                                                            : Shape::stage_steps;
                stage.first_step = column % MOE_SEGMENT / Shape::stage_cols * Shape::stage_steps;
                stage.x = slot + x_of_lane;
                stage.slice = slot + slice_of_lane;
                if (!Shape::sliced && stage.first_step == 0)
                    moe_large_find_unit<Shape>(&stage.unit, params, shared, number, column / MOE_SEGMENT, unit, lane,
                                               side);
                if (Shape::table_bytes > 0 && stage.first_step + Shape::stage_steps == MOE_SEGMENT_STEPS) {
                    /* The next unit's tile has been entered: the ring is ahead by a stage at least. */
                    uint32_t next_column = column;
                    const int next =
                        number + (moe_large_next_column<Shape>(&next_column, p.up.cols) == MOE_LARGE_NEXT_TILE ? 1 : 0);
                    if (next < num_tiles)
                        moe_large_fetch<Shape>(&side, params, shared, next, next_column / MOE_SEGMENT, lane);
                }
                moe_large_multiply_some<Shape>(acc, shared, stage, lane);
            }
        }
        slot = moe_large_next_slot<Shape>(slot, params);
        if (number < 0) {
            if (++number == 0) {
                lane.find_columns(moe_large_queue(params, shared, 0)->tokens);
                if (Shape::table_bytes > 0)
                    moe_large_fetch<Shape>(&side, params, shared, 0, 0, lane);
            }
            continue;
        }
        const enum moe_large_step step = moe_large_next_column<Shape>(&column, p.up.cols);
        if (!Shape::sliced && column % MOE_SEGMENT == 0)
            unit = unit + 1 < params.units ? unit + 1 : 0;
        if (step == MOE_LARGE_ON)
            continue;
        totals.add_to(&acc[0][0][0]);
        if (step != MOE_LARGE_NEXT_TILE) {
            totals.take(&acc[0][0][0]);
        } else {
            if (Shape::kept > 0)
                __syncthreads();    /* results take the place of totals */
            moe_large_store<Shape>(p, *moe_large_queue(params, shared, number), lane, acc, shared + params.staged_at,
                                   (float4 *)(shared + params.warps_at + warp * Shape::warp_bytes));
            if (++number < num_tiles)
                lane.find_columns(moe_large_queue(params, shared, number)->tokens);
            if (Shape::kept > 0)
                __syncthreads();
            totals.clear();
        }
#pragma unroll
        for (int i = 0; i < Shape::tiles * Shape::columns * 4; i++)
            (&acc[0][0][0])[i] = 0.0f;
    }
}

/* Launch parameters, and how much shared memory; the deepest ring that fits. False: none does, or tiles can not be
 * counted in 32 bits, or rows of h not be written 16 bytes at a time. */
template <class Shape>
static inline bool moe_large_plan(struct moe_large_params *params, size_t *shared_bytes,
                                  const struct moe_cuda_product *product)
{
    const uint32_t step = product->gated ? Shape::rows / 2 : Shape::rows;
    params->product = *product;
    params->zero = 0;
    params->row_tiles = product->up.rows / step + (product->up.rows % step != 0);
    const uint64_t token_tiles = (uint64_t)product->pairs.num_pairs / Shape::tokens + product->pairs.num_matrices;
    if (params->row_tiles * token_tiles > UINT32_MAX - product->multiprocessors ||
        (product->activated && (product->h_stride % 8 != 0 || ((uintptr_t)product->h & 15) != 0)))
        return false;
    if (product->up.values.stride > UINT32_MAX / 16 ||
        (product->gated && product->gate.values.stride > UINT32_MAX / 16))
        return false;
    for (uint32_t stages = MOE_LARGE_STAGES; stages > 1; stages--) {
        *shared_bytes = moe_large_lay_out<Shape>(params, stages);
        if (*shared_bytes <= product->shared_bytes)
            return true;
    }
    return false;
}

#endif
