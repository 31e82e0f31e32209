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
    static constexpr uint32_t slot_bytes = x_bytes + (sliced ? unit_bytes : 0);    /* of the ring */

    /* What a thread copies: of a stage a chunk of 16 bytes of each so many rows of x, of a unit of so many rows. */
    static constexpr uint32_t x_chunks = x_pitch / 16, x_pass = MOE_LARGE_THREADS / x_chunks;
    static constexpr uint32_t x_passes = tokens / x_pass, unit_passes = rows / 32;

    /* Of a warp: scales of a unit. */
    static constexpr uint32_t table_bytes =
        Weights::group < MOE_SEGMENT ? MOE_SEGMENT / Weights::group * tiles * MOE_TILE_ROWS * sizeof(float2) : 0;
    /* Totals that a thread keeps in shared memory, fours of them: what has no room in registers beside operands. */
    static constexpr int kept = sliced ? 7 : Weights::group > MOE_STEP_COLS && Weights::group < MOE_SEGMENT ? 4 : 0;
    static constexpr uint32_t kept_bytes = kept * MOE_LARGE_THREADS * sizeof(float4);
    /* Results, in the same place: of the block a half of the tile's rows, bf16, 16 bytes more keep the lanes that write
     * on different banks; of a warp one column tile, f32. */
    static constexpr uint32_t stage_pitch = rows + 16, warp_bytes = tiles * 32 * sizeof(float4);
};

/* Offsets are into shared memory; the ring is at 0: of each slot tokens, and slices of weights behind them. */
struct moe_large_params {
    struct moe_cuda_product product;
    uint32_t stages, units;    /* of the ring; units of weights beside it, if they are not sliced */
    uint32_t row_tiles;        /* of a matrix */
    uint32_t zero;
    uint32_t units_at, tables_at, warps_at, staged_at, feeds_at, queue_at, list_at;
};

/* What a thread copies in a tile, in shared memory, since registers are scarce: rows i, i + 32, ... of weights, i =
 * thread / 8, which are 16 rows of one matrix apart, and rows j, j + x_pass, ... of tokens, j = thread / x_chunks. */
template <class Shape> struct __align__(16) moe_large_feed {
    const unsigned char *from;        /* the first row of weights; of slices, this thread's chunk of it */
    const unsigned char *tokens;      /* this thread's chunk of p.x */
    uint32_t stride;                  /* bytes from row to row */
    uint16_t count, num_tokens;       /* rows that there are, one more than are copied at most; of the tile */
    uint32_t x[Shape::x_passes];      /* in segments from p.x on */
};

/* Where all this is in shared memory. Returns how much it is. */
template <class Shape> static inline size_t moe_large_lay_out(struct moe_large_params *params, uint32_t stages)
{
    params->stages = stages;
    params->units = Shape::sliced ? 0 : 1 + (stages - 1 + Shape::unit_stages - 1) / Shape::unit_stages;
    params->units_at = stages * Shape::slot_bytes;
    params->tables_at = params->units_at + params->units * Shape::unit_bytes;    /* one is read, others arrive */
    params->staged_at = params->tables_at + MOE_LARGE_WARPS * Shape::table_bytes;
    params->warps_at = params->staged_at + (params->product.activated ? Shape::tokens * Shape::stage_pitch : 0);
    const uint32_t end = params->warps_at + MOE_LARGE_WARPS * Shape::warp_bytes;
    const uint32_t end_of_kept = params->staged_at + Shape::kept_bytes;
    params->feeds_at = end > end_of_kept ? end : end_of_kept;
    params->queue_at = params->feeds_at + MOE_LARGE_THREADS * sizeof(struct moe_large_feed<Shape>);
    params->list_at = params->queue_at + MOE_LARGE_QUEUE * sizeof(struct moe_large_tile);
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

/* ---- copies ---- */

/* Chunks of 16 bytes of rows that are read as moe_large_multiply does: of two rows, one has its halves of 64 bytes
 * exchanged. */
MOE_DEVICE uint32_t moe_large_chunk(uint32_t row, uint32_t chunk)
{
    return (16 * chunk) ^ (row % 2 * 64);
}

/* What is copied next: the number of the tile among the block's, columns, and the unit that they go to. */
struct moe_large_ahead {
    uint32_t number, column, unit;
};

MOE_DEVICE struct moe_large_tile *moe_large_queue(const struct moe_large_params &params, unsigned char *shared,
                                                  uint32_t number)
{
    return (struct moe_large_tile *)(shared + params.queue_at) + number % MOE_LARGE_QUEUE;
}

template <class Shape>
MOE_DEVICE struct moe_large_feed<Shape> *moe_large_feed_of_thread(const struct moe_large_params &params,
                                                                  unsigned char *shared)
{
    return (struct moe_large_feed<Shape> *)(shared + params.feeds_at) + threadIdx.x;
}

/* Make ready to copy the block's tile `number`. */
template <class Shape>
MOE_DEVICE void moe_large_enter(const struct moe_large_params &params, unsigned char *shared, uint32_t number)
{
    const struct moe_cuda_product &p = params.product;
    const struct moe_large_list list = moe_large_list_at(shared + params.list_at, p.pairs.num_matrices);
    const struct moe_large_tile tile =
        moe_large_list_find<Shape::tokens>(list, p.pairs, blockIdx.x + number * gridDim.x, params.row_tiles,
                                           p.gated ? Shape::rows / 2 : Shape::rows, threadIdx.x % 32);
    if (threadIdx.x == 0)
        *moe_large_queue(params, shared, number) = tile;
    struct moe_large_feed<Shape> feed;
#pragma unroll
    for (uint32_t k = 0; k < Shape::x_passes; k++) {
        const uint32_t token = threadIdx.x / Shape::x_chunks + k * Shape::x_pass, place = tile.place + token;
        feed.x[k] = 0;
        if (token < tile.tokens)
            feed.x[k] = (p.x_divisor > 0 ? (uint32_t)p.pairs.sorted[place] / p.x_divisor : place) *
                        (uint32_t)(p.x_stride / MOE_SEGMENT);
    }
    const uint32_t i = threadIdx.x / 8;
    const bool high = i % 16 >= 8;
    const uint32_t row = tile.first_row + (high && !p.gated ? Shape::rows / 2 : 0) + i / 16 * 8 + i % 8;
    const struct moe_cuda_plane &plane = p.gated && !high ? p.gate.values : p.up.values;
    feed.from = moe_plane_row(plane, tile.expert, row < p.up.rows ? row : tile.first_row) +
                (Shape::sliced ? threadIdx.x % 8 * 16 : 0);
    feed.stride = 16 * (uint32_t)plane.stride;
    const uint32_t count = row < p.up.rows ? (p.up.rows - row + 15) / 16 : 0;
    feed.count = (uint16_t)(count < Shape::unit_passes + 1 ? count : Shape::unit_passes + 1);
    feed.num_tokens = (uint16_t)tile.tokens;
    feed.tokens = (const unsigned char *)p.x + threadIdx.x % Shape::x_chunks * 16;
    *moe_large_feed_of_thread<Shape>(params, shared) = feed;
}

/* Rows that are not there stay what they were, here and in weights: so do their sums, which are not stored. */
template <class Shape>
MOE_DEVICE void moe_large_copy_x(unsigned char *to, const struct moe_large_feed<Shape> &feed, uint32_t column)
{
    const uint32_t row = threadIdx.x / Shape::x_chunks, chunk = threadIdx.x % Shape::x_chunks;
    const uint32_t tokens = feed.num_tokens;
    const unsigned char *x = feed.tokens + 2 * column;
    to += row * Shape::x_pitch + moe_large_chunk(row, chunk);
    if (tokens > Shape::tokens - Shape::x_pass) {
#pragma unroll
        for (uint32_t k = 0; k < Shape::x_passes; k++)
            moe_copy_async_16(to + k * Shape::x_pass * Shape::x_pitch, x + (size_t)feed.x[k] * (2 * MOE_SEGMENT), 16);
        return;
    }
#pragma unroll
    for (uint32_t k = 0; k + 1 < Shape::x_passes; k++) {
        if (tokens <= k * Shape::x_pass)
            break;
        moe_copy_async_16(to + k * Shape::x_pass * Shape::x_pitch, x + (size_t)feed.x[k] * (2 * MOE_SEGMENT), 16);
    }
}

/* Columns from `column` on, of which `left` are left: zeros behind them. */
template <class Shape>
MOE_DEVICE void moe_large_copy_slice(unsigned char *to, const struct moe_large_feed<Shape> &feed, uint32_t column,
                                     uint32_t left)
{
    const uint32_t row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const unsigned char *from = feed.from + 2 * column;
    to += row * Shape::unit_pitch + moe_large_chunk(row, chunk);
    if (left >= Shape::stage_cols && feed.count >= Shape::unit_passes) {    /* nearly always */
#pragma unroll
        for (uint32_t k = 0; k < Shape::unit_passes; k++)
            moe_copy_async_16(to + k * 32 * Shape::unit_pitch, from + (size_t)k * feed.stride, 16);
        return;
    }
    const uint32_t bytes = 16 * chunk < 2 * left ? 2 * left - 16 * chunk : 0;
#pragma unroll 1
    for (uint32_t k = 0; k < Shape::unit_passes && k < feed.count; k++) {
        moe_copy_async_16(to, bytes > 0 ? from : feed.from - 16 * chunk, bytes < 16 ? bytes : 16);
        from += feed.stride;
        to += 32 * Shape::unit_pitch;
    }
}

/* A unit of a segment. Rows that begin anywhere are read in granules of 16 bytes, up to 15 bytes more than are wanted:
 * of the segment or the row behind, if there is one. */
template <class Shape>
MOE_DEVICE void moe_large_copy_unit(unsigned char *to, const struct moe_large_feed<Shape> &feed, uint32_t segment,
                                    uint32_t left)
{
    typedef typename Shape::Weights Weights;
    constexpr uint32_t chunks = (Weights::segment_bytes + (Weights::aligned ? 0 : 15) + 15) / 16;
    const uint32_t chunk = threadIdx.x % 8;
    const unsigned char *from = feed.from + (size_t)segment * Weights::segment_bytes;
    to += threadIdx.x / 8 * Shape::unit_pitch;
    if (feed.count >= Shape::unit_passes &&
        (left > MOE_SEGMENT || (left == MOE_SEGMENT && (Weights::aligned || feed.count > Shape::unit_passes)))) {
#pragma unroll
        for (uint32_t k = 0; k < Shape::unit_passes; k++) {
            const unsigned char *row = from + (size_t)k * feed.stride;
            const uint32_t skew = Weights::aligned ? 0 : (uint32_t)((uintptr_t)row & 15);
#pragma unroll
            for (uint32_t i = 0; i < chunks; i += 8)
                if (16 * (i + 8) <= Weights::segment_bytes || 16 * (i + chunk) < skew + Weights::segment_bytes)
                    moe_copy_async_16(to + k * 32 * Shape::unit_pitch + 16 * (i + chunk),
                                      row - skew + 16 * (i + chunk), 16);
        }
        return;
    }
    const uint32_t bytes = (left < MOE_SEGMENT ? left : (uint32_t)MOE_SEGMENT) * Weights::segment_bytes / MOE_SEGMENT;
#pragma unroll 1
    for (uint32_t k = 0; k < Shape::unit_passes && k < feed.count; k++) {
        const unsigned char *row = from + (size_t)k * feed.stride;
        const uint32_t skew = Weights::aligned ? 0 : (uint32_t)((uintptr_t)row & 15), end = skew + bytes;
#pragma unroll 1
        for (uint32_t i = chunk; i < chunks; i += 8) {
            const uint32_t at = 16 * i, valid = at < end ? (end - at < 16 ? end - at : 16) : 0;
            moe_copy_async_16(to + k * 32 * Shape::unit_pitch + at, row - skew + (valid > 0 ? at : 0), valid);
        }
    }
}

/* Begin to copy a stage to `slot` of the ring, and go on; from no tile to the first. */
template <class Shape>
MOE_DEVICE void moe_large_copy(struct moe_large_ahead *ahead, const struct moe_large_params &params,
                               unsigned char *shared, uint32_t slot, uint32_t num_tiles)
{
    const struct moe_cuda_product &p = params.product;
    bool ends = ahead->number == UINT32_MAX;
    if (ahead->number < num_tiles) {
        const struct moe_large_feed<Shape> feed = *moe_large_feed_of_thread<Shape>(params, shared);
        const uint32_t column = ahead->column;
        moe_large_copy_x<Shape>(shared + slot, feed, column);
        if (Shape::sliced) {
            moe_large_copy_slice<Shape>(shared + slot + Shape::x_bytes, feed, column, p.up.cols - column);
        } else if (column % Shape::unit_cols == 0) {
            moe_large_copy_unit<Shape>(shared + params.units_at + ahead->unit * Shape::unit_bytes, feed,
                                       column / MOE_SEGMENT, p.up.cols - column);
            ahead->unit = ahead->unit + 1 < params.units ? ahead->unit + 1 : 0;
        }
        ends = moe_large_next_column<Shape>(&ahead->column, p.up.cols) == MOE_LARGE_NEXT_TILE;
    }
    moe_copy_async_commit();
    if (ends && ++ahead->number < num_tiles)
        moe_large_enter<Shape>(params, shared, ahead->number);
}

#endif
