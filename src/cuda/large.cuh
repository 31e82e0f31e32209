// SPDX-License-Identifier: MIT
// A product for many tokens: tiles of rows and tokens, bound by the tensor cores, in the order of sums of call.h.
//
// A block of 8 warps has a tile; a warp has 48 (formats with scales: 32) rows and 64 tokens of it, as two sets of sums:
// the chain of the present accumulator and the total of those before it, 192 (128) registers. Columns come through a
// ring in shared memory, 64 at a time, 3 to 4 stages deep, with one barrier a stage; the ring runs on from tile to tile.
// Formats of 2 bytes a value are cut into such stages as tokens are; of all others a stage of weights is a unit, a whole
// segment, because its blocks are not to be cut. Registers are what is scarce: all that is not needed in each step of
// the innermost loop is in shared memory, or among the parameters.
//
// Per multiprocessor and step of 16 columns, bf16 (192 rows, 128 tokens): 192 instructions m16n8k16, which take the
// tensor cores 48 times the cycles of one, and 38 KB through shared memory: 28 read, of it 12 rows and 16 tokens, 10
// written, which take 300 cycles; from the second cache come 10 KB, 77 operations a byte.
#ifndef MOE_CUDA_LARGE_CUH
#define MOE_CUDA_LARGE_CUH

#include "cuda/large_list.cuh"
#include "cuda/large_store.cuh"
#include "cuda/launch.cuh"
#include "cuda/unit.cuh"

enum { MOE_LARGE_WARPS = 8, MOE_LARGE_THREADS = 32 * MOE_LARGE_WARPS, MOE_LARGE_STAGES = 4, MOE_LARGE_QUEUE = 8 };

/* The shapes of one kernel. */
template <class Weights_> struct moe_large_shape {
    typedef Weights_ Weights;
    static constexpr bool sliced = Weights::aligned && Weights::segment_bytes == 2 * MOE_SEGMENT;
    /* All tokens to each warp, where two units of as many rows fit: fewer tokens are lost at the end of a matrix. */
    static constexpr int token_warps = !sliced && Weights::pitch <= 208 ? 1 : 2;
    static constexpr int row_warps = MOE_LARGE_WARPS / token_warps;
    static constexpr int tiles = sliced ? 3 : 2, columns = 8;    /* of a warp: of 16 rows, of 8 tokens */
    static constexpr int rows = 16 * tiles * row_warps, tokens = 8 * columns * token_warps;

    /* A stage, and what a stage of weights is. */
    static constexpr uint32_t stage_cols = Weights::group == 128 ? 128 : 64;    /* holds whole groups */
    static constexpr uint32_t stage_steps = stage_cols / MOE_STEP_COLS;
    static constexpr uint32_t x_pitch = 2 * stage_cols, x_bytes = tokens * x_pitch;
    static constexpr uint32_t unit_cols = sliced ? stage_cols : (uint32_t)MOE_SEGMENT;
    static constexpr uint32_t unit_stages = unit_cols / stage_cols;
    static constexpr uint32_t unit_pitch = sliced ? 2 * stage_cols : Weights::pitch, unit_bytes = rows * unit_pitch;

    /* Of a warp: scales of a unit. */
    static constexpr uint32_t table_bytes =
        Weights::group < MOE_SEGMENT ? MOE_SEGMENT / Weights::group * tiles * MOE_TILE_ROWS * sizeof(float2) : 0;
    /* Results: of the block a half of the tile's rows, bf16; of a warp 8 tokens, f32. 16 bytes more keep the lanes that
     * write on different banks. */
    static constexpr uint32_t stage_pitch = rows + 16, warp_pitch = tiles * 64 + 16;
};

/* Offsets are into shared memory. */
struct moe_large_params {
    struct moe_cuda_product product;
    uint32_t stages, units;    /* of the ring; units of weights in it */
    uint32_t row_tiles;        /* of a matrix */
    uint32_t zero;
    uint32_t units_at, tables_at, warps_at, staged_at, threads_at, states_at, queue_at, x_rows_at, list_at;
};

/* A tile of the block's, where in its columns, and where in the ring. */
struct moe_large_place {
    uint32_t number, column, slot, unit;
};

/* What a warp is at: what it copies, and what it multiplies. */
struct moe_large_state {
    struct moe_large_place ahead, here;
    uint32_t item, matrix, x_rows;    /* of the tile ahead: in the list, active matrix, rows of x that are read */
    uint32_t num_tiles;               /* of the block, all in all */
};

/* What a thread copies of weights: rows i, i + 32, ... of the block, i = thread / 8, 16 rows of one matrix apart. */
struct moe_large_thread {
    const unsigned char *from;    /* the first */
    uint32_t count;               /* that there are */
};

/* Where all this is in shared memory. Returns how much it is. */
template <class Shape> static inline size_t moe_large_lay_out(struct moe_large_params *params, uint32_t stages)
{
    params->stages = stages;
    params->units = 1 + (stages - 1 + Shape::unit_stages - 1) / Shape::unit_stages;    /* one is read, others arrive */
    params->units_at = stages * Shape::x_bytes;
    params->tables_at = params->units_at + params->units * Shape::unit_bytes;
    params->warps_at = params->tables_at + MOE_LARGE_WARPS * Shape::table_bytes;
    params->staged_at = params->warps_at + MOE_LARGE_WARPS * 8 * Shape::warp_pitch;
    params->threads_at = params->staged_at + (params->product.activated ? Shape::tokens * Shape::stage_pitch : 0);
    params->x_rows_at = params->threads_at + MOE_LARGE_THREADS * sizeof(struct moe_large_thread);
    params->queue_at = params->x_rows_at + Shape::tokens * sizeof(uint16_t *);
    params->states_at = params->queue_at + MOE_LARGE_QUEUE * sizeof(struct moe_large_tile);
    params->list_at = params->states_at + MOE_LARGE_WARPS * sizeof(struct moe_large_state);
    return params->list_at + moe_large_list_bytes(params->product.pairs.num_matrices);
}

/* On by a stage: through the accumulators one after another, of each its segments. */
enum moe_large_step { MOE_LARGE_ON, MOE_LARGE_NEXT_ACCUMULATOR, MOE_LARGE_NEXT_TILE };

template <class Shape> MOE_DEVICE enum moe_large_step moe_large_next_column(uint32_t *column, uint32_t cols)
{
    *column += Shape::stage_cols;
    if (*column % MOE_SEGMENT != 0 && (*column < cols || !Shape::sliced))
        return MOE_LARGE_ON;
    const uint32_t segments = (cols + MOE_SEGMENT - 1) / MOE_SEGMENT, segment = (*column - 1) / MOE_SEGMENT;
    if (segment + MOE_ACCUMULATORS < segments) {
        *column = (segment + MOE_ACCUMULATORS) * MOE_SEGMENT;
        return MOE_LARGE_ON;
    }
    const uint32_t next = segment % MOE_ACCUMULATORS + 1;
    if (next < MOE_ACCUMULATORS && next < segments) {
        *column = next * MOE_SEGMENT;
        return MOE_LARGE_NEXT_ACCUMULATOR;
    }
    *column = 0;
    return MOE_LARGE_NEXT_TILE;
}

template <class Shape>
MOE_DEVICE enum moe_large_step moe_large_advance(struct moe_large_place *place, const struct moe_large_params &params)
{
    const enum moe_large_step step = moe_large_next_column<Shape>(&place->column, params.product.up.cols);
    place->slot = place->slot + 1 < params.stages ? place->slot + 1 : 0;
    if (Shape::unit_stages == 1)
        place->unit = place->slot;
    else if (place->column % Shape::unit_cols == 0)
        place->unit = place->unit + 1 < params.units ? place->unit + 1 : 0;
    place->number += step == MOE_LARGE_NEXT_TILE ? 1 : 0;
    return step;
}

MOE_DEVICE struct moe_large_state *moe_large_state(const struct moe_large_params &params, unsigned char *shared)
{
    return (struct moe_large_state *)(shared + params.states_at) + threadIdx.x / 32;
}

/* ---- copies ---- */

/* The row of x, of those of a block, whose address a lane finds for its warp, which copies it. */
template <class Shape> MOE_DEVICE uint32_t moe_large_x_row(int lane)
{
    constexpr uint32_t of_warp = 32 / (Shape::x_pitch / 16);
    return (threadIdx.x / 32 + lane / of_warp * MOE_LARGE_WARPS) * of_warp + lane % of_warp;
}

/* Make ready to copy the tile state->item. Returns what moe_large_find_x wants, which takes long to load. */
template <class Shape>
MOE_DEVICE uint32_t moe_large_enter(const struct moe_large_params &params, unsigned char *shared, int lane)
{
    const struct moe_cuda_product &p = params.product;
    struct moe_large_state *state = moe_large_state(params, shared);
    const struct moe_large_list list = moe_large_list_at(shared + params.list_at, p.pairs.num_matrices);
    uint32_t matrix = state->matrix;
    const struct moe_large_tile tile = moe_large_list_find<Shape::tokens>(
        list, p.pairs, state->item, &matrix, params.row_tiles, p.gated ? Shape::rows / 2 : Shape::rows, lane);
    constexpr uint32_t several = 2 * MOE_TILE_TOKENS * Shape::token_warps;    /* moe_large_multiply's are even */
    if (lane == 0) {
        state->matrix = matrix;
        state->x_rows = (tile.tokens + several - 1) / several * several;
    }
    if (threadIdx.x == 0)
        ((struct moe_large_tile *)(shared + params.queue_at))[state->ahead.number % MOE_LARGE_QUEUE] = tile;
    const uint32_t i = threadIdx.x / 8;
    const bool high = i % 16 >= 8;
    const uint32_t row = tile.first_row + (high && !p.gated ? Shape::rows / 2 : 0) + i / 16 * 8 + i % 8;
    struct moe_large_thread *thread = (struct moe_large_thread *)(shared + params.threads_at) + threadIdx.x;
    thread->from = moe_plane_row(p.gated && !high ? p.gate.values : p.up.values, tile.expert,
                                 row < p.up.rows ? row : tile.first_row);
    thread->count = row < p.up.rows ? (p.up.rows - row + 15) / 16 : 0;
    const uint32_t token = moe_large_x_row<Shape>(lane);
    const uint32_t place = tile.place + (token < tile.tokens ? token : 0);
    return p.x_divisor > 0 ? (uint32_t)p.pairs.sorted[place] : place;
}

template <class Shape>
MOE_DEVICE void moe_large_find_x(const struct moe_large_params &params, unsigned char *shared, uint32_t pair, int lane)
{
    const struct moe_cuda_product &p = params.product;
    const uint16_t **rows = (const uint16_t **)(shared + params.x_rows_at);
    __syncwarp();
    if (lane < Shape::tokens / MOE_LARGE_WARPS)
        rows[moe_large_x_row<Shape>(lane)] = p.x + (p.x_divisor > 0 ? pair / p.x_divisor : pair) * p.x_stride;
    __syncwarp();
}

/* Chunks of 16 bytes of rows that are read as moe_large_multiply does: of two rows, one has its halves of 64 bytes
 * exchanged. */
MOE_DEVICE uint32_t moe_large_chunk(uint32_t row, uint32_t chunk)
{
    return (16 * chunk) ^ (row % 2 * 64);
}

template <class Shape>
MOE_DEVICE void moe_large_copy_x(const struct moe_large_params &params, unsigned char *shared,
                                 const struct moe_large_place &ahead, uint32_t x_rows)
{
    constexpr uint32_t chunks = Shape::x_pitch / 16, pass = MOE_LARGE_THREADS / chunks;
    const uint16_t *const *rows = (const uint16_t *const *)(shared + params.x_rows_at);
    const uint32_t row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
    unsigned char *to = shared + ahead.slot * Shape::x_bytes + row * Shape::x_pitch + moe_large_chunk(row, chunk);
#pragma unroll
    for (uint32_t k = 0; k < Shape::tokens / pass; k++)
        if (row + pass * k < x_rows)
            moe_copy_async_16(to + k * pass * Shape::x_pitch, rows[row + pass * k] + ahead.column + 8 * chunk, 16);
}

template <class Shape>
MOE_DEVICE void moe_large_copy_weights(const struct moe_large_params &params, unsigned char *shared,
                                       const struct moe_large_place &ahead)
{
    typedef typename Shape::Weights Weights;
    const struct moe_cuda_product &p = params.product;
    const struct moe_large_thread thread = ((const struct moe_large_thread *)(shared + params.threads_at))[threadIdx.x];
    const uint32_t row = threadIdx.x / 8, chunk = threadIdx.x % 8, left = p.up.cols - ahead.column;
    const size_t stride = 16 * (p.gated && row % 16 < 8 ? p.gate.values.stride : p.up.values.stride);
    unsigned char *to = shared + params.units_at + ahead.unit * Shape::unit_bytes + row * Shape::unit_pitch;
    const unsigned char *from = thread.from;
    if (Shape::sliced) {
        const uint32_t begin = 16 * chunk, bytes = begin < 2 * left ? 2 * left - begin : 0;
        from += bytes > 0 ? 2 * ahead.column + begin : 0;
        to += moe_large_chunk(row, chunk);
#pragma unroll
        for (uint32_t k = 0; k < Shape::rows / 32; k++) {
            moe_copy_async_16(to + k * 32 * Shape::unit_pitch, from, k < thread.count ? (bytes < 16 ? bytes : 16) : 0);
            from += k + 1 < thread.count ? stride : 0;
        }
        return;
    }
    constexpr uint32_t chunks = (Weights::segment_bytes + (Weights::aligned ? 0 : 15) + 15) / 16;
    const uint32_t bytes = (left < MOE_SEGMENT ? left : (uint32_t)MOE_SEGMENT) * Weights::segment_bytes / MOE_SEGMENT;
    from += (size_t)(ahead.column / MOE_SEGMENT) * Weights::segment_bytes;
#pragma unroll
    for (uint32_t k = 0; k < Shape::rows / 32; k++) {
        const uint32_t skew = Weights::aligned ? 0 : (uint32_t)((uintptr_t)from & 15);
        const uint32_t end = k < thread.count ? skew + bytes : 0;
#pragma unroll
        for (uint32_t i = chunk; i < (chunks + 7) / 8 * 8; i += 8) {
            const uint32_t at = 16 * i, valid = at < end ? (end - at < 16 ? end - at : 16) : 0;
            if (i < chunks)
                moe_copy_async_16(to + k * 32 * Shape::unit_pitch + at, from - skew + (valid > 0 ? at : 0), valid);
        }
        from += k + 1 < thread.count ? stride : 0;
    }
}

/* Begin to copy a stage, and go on. True: that was a tile's last, and another follows: moe_large_enter. */
template <class Shape>
MOE_DEVICE bool moe_large_copy(const struct moe_large_params &params, unsigned char *shared, int lane)
{
    struct moe_large_state *state = moe_large_state(params, shared);
    struct moe_large_place ahead = state->ahead;
    bool next = false;
    if (ahead.number < state->num_tiles) {
        if (ahead.column % Shape::unit_cols == 0)
            moe_large_copy_weights<Shape>(params, shared, ahead);
        if (ahead.column < params.product.up.cols)
            moe_large_copy_x<Shape>(params, shared, ahead, state->x_rows);
        next = moe_large_advance<Shape>(&ahead, params) == MOE_LARGE_NEXT_TILE;
        __syncwarp();
        if (lane == 0) {
            state->ahead = ahead;
            state->item += next ? gridDim.x : 0;
        }
        __syncwarp();
        next = next && ahead.number < state->num_tiles;
    }
    moe_copy_async_commit();
    return next;
}

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

/* acc += a step's operands of weights times the first `columns` column tiles, without scales; x: a lane's 16 bytes of the
 * first. Two column tiles at once, so that an instruction does not wait for the one before it. */
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
