// SPDX-License-Identifier: MIT
// A product for many tokens: tiles of rows and tokens, bound by the tensor cores, in the order of sums of call.h.
//
// A block of 8 warps has a tile; a warp has 48 (of formats with scales 32) rows and 64 tokens of it, as two sets of
// sums: the chain of the present accumulator and the total of those before it, 192 (128) registers. Columns come
// through a ring in shared memory, 64 at a time, up to 4 stages deep, with one barrier a stage; the ring runs on from
// tile to tile. Formats of 2 bytes a value are cut into such stages as tokens are; of all others a stage of weights is
// a unit, a whole segment, because its blocks are not to be cut. Registers are what is scarce: what the innermost loop
// does not need in each step is in shared memory, or among the parameters; some totals lie in local memory between the
// ends of accumulators.
//
// bf16, per multiprocessor and step of 16 columns (192 rows, 128 tokens): 192 m16n8k16, 48 for each of the four tensor
// cores, and 38 KB through shared memory at 128 bytes a cycle, 300 cycles (28 KB read, 10 written): 6.2 cycles an
// m16n8k16, 2640 operations a cycle. A warp issues 100 instructions for 48 of them. The second cache gives 10 KB a
// step, 77 operations a byte.
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
    rows.low_stack = p.gated ? &p.gate : &p.up;
    rows.high_stack = &p.up;
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

/* What a lane reads in a stage: the first bytes of rows g and g + 8 of each tile (sliced: its 16 bytes of step 0), and
 * its 16 bytes of step 0 of token g of the warp's first column tile. */
template <class Shape> struct moe_large_operands {
    const unsigned char *low[Shape::tiles], *high[Shape::tiles], *x;
    const float2 *table;
};

template <class Shape>
MOE_DEVICE void moe_large_find(struct moe_large_operands<Shape> *operands, const struct moe_large_params &params,
                               unsigned char *shared, const struct moe_large_tile &tile,
                               const struct moe_large_lane<Shape> &lane, const struct moe_large_place &here,
                               const typename Shape::Weights::side &side)
{
    typedef typename Shape::Weights Weights;
    constexpr int tiles = Shape::tiles;
    const int g = lane.lane / 4, t = lane.lane % 4;
    const unsigned char *of_warp = shared + params.units_at + here.unit * Shape::unit_bytes +
                                   lane.row_warp * 16 * tiles * Shape::unit_pitch;
    operands->x = shared + here.slot * Shape::x_bytes + (8 * lane.token_warp + g) * Shape::x_pitch + 16 * t;
    operands->table = (const float2 *)(shared + params.tables_at + threadIdx.x / 32 * Shape::table_bytes);
    if (Shape::sliced) {
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            operands->low[m] = of_warp + (16 * m + g) * Shape::unit_pitch;
            operands->high[m] = operands->low[m] + 8 * Shape::unit_pitch;
        }
        return;
    }
    const uint32_t segment = here.column / MOE_SEGMENT;
    const struct moe_unit_rows rows = moe_large_unit_rows<Shape>(params.product, tile, lane.row_warp, segment);
    if (Shape::table_bytes > 0 && here.column % MOE_SEGMENT == 0) {
        Weights::template scales<tiles>((float2 *)operands->table, of_warp, side, rows, segment, lane.lane);
        __syncwarp();
    }
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        operands->low[m] = moe_unit_begin<Weights, tiles>(of_warp, rows, segment, 16 * m + g);
        operands->high[m] = moe_unit_begin<Weights, tiles>(of_warp, rows, segment, 16 * m + g + 8);
    }
}

/* Begin to load what scales of a unit lie apart from it, if a unit begins at `place`. */
template <class Shape>
MOE_DEVICE void moe_large_fetch(typename Shape::Weights::side *side, const struct moe_large_params &params,
                                unsigned char *shared, const struct moe_large_lane<Shape> &lane,
                                const struct moe_large_place &place)
{
    if (Shape::table_bytes == 0 || place.column % MOE_SEGMENT != 0 ||
        place.number >= moe_large_state(params, shared)->num_tiles)
        return;
    const struct moe_large_tile tile =
        ((struct moe_large_tile *)(shared + params.queue_at))[place.number % MOE_LARGE_QUEUE];
    const uint32_t segment = place.column / MOE_SEGMENT;
    const struct moe_unit_rows rows = moe_large_unit_rows<Shape>(params.product, tile, lane.row_warp, segment);
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

/* acc += the products of a group of several steps, which is a stage, scaled. x, scales: of the stage. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_add_group(float (&acc)[Shape::tiles][Shape::columns][4],
                                    const float (&products)[Shape::tiles][Shape::columns][4], const unsigned char *x,
                                    const float2 *scales, int lane)
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
                const uint4 b = *(const uint4 *)(x + moe_large_chunk(lane / 4, 4 * s) + n * column_bytes);
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

/* The operands of step s of a stage, of all tiles. */
template <class Shape>
MOE_DEVICE void moe_large_load(uint32_t (&a)[Shape::tiles][8], const struct moe_large_operands<Shape> &operands,
                               uint32_t first_step, uint32_t s, uint32_t zero, int lane)
{
    typedef typename Shape::Weights Weights;
    const uint32_t at = Shape::sliced ? moe_large_chunk(lane / 4, 4 * s) : 0;
#pragma unroll
    for (int m = 0; m < Shape::tiles; m++) {
        Weights::load(a[m], operands.low[m] + at, operands.high[m] + at, Shape::sliced ? 0 : first_step + s, lane % 4);
        /* Not mere copies of what has been loaded: those ptxas would make again in front of each instruction. */
        if (Shape::sliced)
#pragma unroll
            for (int i = 0; i < 8; i++)
                a[m][i] ^= zero;
    }
}

/* acc += `steps` steps of a stage, of the first `columns` column tiles; first_step: of the stage, in its segment. */
template <class Shape, int columns>
MOE_DEVICE void moe_large_multiply(float (&acc)[Shape::tiles][Shape::columns][4],
                                   const struct moe_large_operands<Shape> &operands, uint32_t first_step,
                                   uint32_t steps, uint32_t zero, int lane)
{
    typedef typename Shape::Weights Weights;
    uint32_t a[Shape::tiles][8];
    if constexpr (Weights::group > MOE_STEP_COLS && Weights::group < MOE_SEGMENT) {
        if (steps == 0)
            return;
        float products[Shape::tiles][Shape::columns][4] = {};
#pragma unroll
        for (uint32_t s = 0; s < Shape::stage_steps; s++) {
            moe_large_load<Shape>(a, operands, first_step, s, zero, lane);
            moe_large_add<Shape, columns>(products, a, operands.x + moe_large_chunk(lane / 4, 4 * s));
        }
        moe_large_add_group<Shape, columns>(
            acc, products, operands.x,
            operands.table + first_step / Shape::stage_steps * Shape::tiles * MOE_TILE_ROWS + lane / 4, lane);
    } else {
        constexpr uint32_t groups = Weights::group >= 32 ? 1 : 32 / Weights::group;
#pragma unroll(Shape::sliced ? 1 : Shape::stage_steps)
        for (uint32_t s = 0; s < Shape::stage_steps; s++) {
            if (s >= steps)
                break;
            const unsigned char *x = operands.x + moe_large_chunk(lane / 4, 4 * s);
            moe_large_load<Shape>(a, operands, first_step, s, zero, lane);
            if constexpr (Weights::group < MOE_SEGMENT)
                moe_large_add_scaled<Shape, columns>(
                    acc, a, x,
                    operands.table + (first_step + s) * groups * Shape::tiles * MOE_TILE_ROWS + lane / 4);
            else
                moe_large_add<Shape, columns>(acc, a, x);
        }
    }
}

/* As many column tiles as the warp has, in pairs. */
template <class Shape>
MOE_DEVICE void moe_large_multiply_some(float (&acc)[Shape::tiles][Shape::columns][4],
                                        const struct moe_large_operands<Shape> &operands, uint32_t first_step,
                                        uint32_t steps, uint32_t zero, const struct moe_large_lane<Shape> &lane)
{
    switch ((lane.columns + 1) / 2) {
    case 0:
        break;
    case 1:
        moe_large_multiply<Shape, 2>(acc, operands, first_step, steps, zero, lane.lane);
        break;
    case 2:
        moe_large_multiply<Shape, 4>(acc, operands, first_step, steps, zero, lane.lane);
        break;
    case 3:
        moe_large_multiply<Shape, 6>(acc, operands, first_step, steps, zero, lane.lane);
        break;
    default:
        moe_large_multiply<Shape, 8>(acc, operands, first_step, steps, zero, lane.lane);
        break;
    }
}

template <class Shape>
__global__ void __launch_bounds__(MOE_LARGE_THREADS, 1)
    moe_large_kernel(const __grid_constant__ moe_large_params params)
{
    const struct moe_cuda_product &p = params.product;
    unsigned char *shared = moe_dynamic_shared();
    const int warp = threadIdx.x / 32;
    struct moe_large_lane<Shape> lane = {(int)threadIdx.x % 32, warp % Shape::row_warps, warp / Shape::row_warps, 0};
    moe_let_next_start();
    moe_wait_for_previous();

    const struct moe_large_list list = moe_large_list_at(shared + params.list_at, p.pairs.num_matrices);
    const uint32_t items =
        moe_large_list_fill<Shape::tokens>(list, p.pairs, params.row_tiles, (uint32_t *)(shared + params.warps_at));
    struct moe_large_state *state = moe_large_state(params, shared);
    bool enter = blockIdx.x < items;
    if (lane.lane == 0) {
        struct moe_large_state begin = {};
        begin.item = blockIdx.x;
        begin.num_tiles = enter ? (items - blockIdx.x + gridDim.x - 1) / gridDim.x : 0;
        *state = begin;
    }
    __syncwarp();
    uint32_t pair = 0;
    for (uint32_t s = 0; s < params.stages; s++) {
        if (enter) {
            pair = moe_large_enter<Shape>(params, shared, lane.lane);
            moe_large_find_x<Shape>(params, shared, pair, lane.lane);
        }
        if (s + 1 < params.stages)
            enter = moe_large_copy<Shape>(params, shared, lane.lane);
    }

    float acc[Shape::tiles][Shape::columns][4], total[Shape::tiles][Shape::columns][4];
    constexpr int values = Shape::tiles * Shape::columns * 4;
#pragma unroll
    for (int i = 0; i < values; i++) {
        (&acc[0][0][0])[i] = 0.0f;
        (&total[0][0][0])[i] = -0.0f;    /* which leaves what is added to it as it is, zeros too */
    }
    typename Shape::Weights::side side;
    __syncthreads();    /* the first tile is in the queue */
    moe_large_fetch<Shape>(&side, params, shared, lane, state->here);
#pragma unroll 1
    while (state->here.number < state->num_tiles) {
        moe_large_wait(params.stages);
        __syncthreads();
        enter = moe_large_copy<Shape>(params, shared, lane.lane);
        if (enter)
            pair = moe_large_enter<Shape>(params, shared, lane.lane);
        struct moe_large_place here = state->here;
        const struct moe_large_tile *tile = (struct moe_large_tile *)(shared + params.queue_at) +
                                            here.number % MOE_LARGE_QUEUE;
        lane.find_columns(tile->tokens);
        struct moe_large_operands<Shape> operands;
        moe_large_find<Shape>(&operands, params, shared, *tile, lane, here, side);
        struct moe_large_place next = here;    /* whose tile has been entered: the ring is ahead by a stage at least */
        moe_large_advance<Shape>(&next, params);
        moe_large_fetch<Shape>(&side, params, shared, lane, next);
        const uint32_t cols_left = here.column < p.up.cols ? p.up.cols - here.column : 0;
        const uint32_t steps = cols_left < Shape::stage_cols ? (cols_left + MOE_STEP_COLS - 1) / MOE_STEP_COLS
                                                             : Shape::stage_steps;
        moe_large_multiply_some<Shape>(acc, operands, here.column % MOE_SEGMENT / MOE_STEP_COLS, steps, params.zero,
                                       lane);
        if (enter)
            moe_large_find_x<Shape>(params, shared, pair, lane.lane);
        __syncwarp();    /* also: what follows is loaded again, rather than kept in registers */
        here = state->here;
        const enum moe_large_step step = moe_large_advance<Shape>(&here, params);
        __syncwarp();
        if (lane.lane == 0)
            state->here = here;
        __syncwarp();
        if (step == MOE_LARGE_ON)
            continue;
#pragma unroll
        for (int i = 0; i < values; i++) {
            (&total[0][0][0])[i] += (&acc[0][0][0])[i];
            (&acc[0][0][0])[i] = 0.0f;
        }
        if (step != MOE_LARGE_NEXT_TILE)
            continue;
        tile = (struct moe_large_tile *)(shared + params.queue_at) + (here.number - 1) % MOE_LARGE_QUEUE;
        lane.find_columns(tile->tokens);
        moe_large_store<Shape>(p, *tile, lane, total, shared + params.staged_at,
                               (float *)(shared + params.warps_at + warp * 8 * Shape::warp_pitch));
#pragma unroll
        for (int i = 0; i < values; i++)
            (&total[0][0][0])[i] = -0.0f;
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
    for (uint32_t stages = MOE_LARGE_STAGES; stages > 1; stages--) {
        *shared_bytes = moe_large_lay_out<Shape>(params, stages);
        if (*shared_bytes <= product->shared_bytes)
            return true;
    }
    return false;
}

#endif
