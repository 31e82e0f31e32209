// SPDX-License-Identifier: MIT
// What feeds large.cuh: its shapes, where things are in shared memory, and the copies through the ring.
#ifndef MOE_CUDA_LARGE_COPY_CUH
#define MOE_CUDA_LARGE_COPY_CUH

#include "cuda/large_list.cuh"
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

#endif
