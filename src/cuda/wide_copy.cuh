// SPDX-License-Identifier: MIT
// What feeds wide.cuh: its shapes, where things are in shared memory, and the warps that copy.
#ifndef MOE_CUDA_WIDE_COPY_CUH
#define MOE_CUDA_WIDE_COPY_CUH

#include "cuda/large_list.cuh"
#include "cuda/unit.cuh"
#include "cuda/wide_store.cuh"

enum {
    MOE_WIDE_COPIERS = 128,
    MOE_WIDE_COLS = 64, MOE_WIDE_STEPS = 2,                /* of a stage; its steps of 32 columns */
    MOE_WIDE_STAGES = 6, MOE_WIDE_LEAST_STAGES = 3, MOE_WIDE_UNITS = 2,
    MOE_WIDE_PASS = MOE_WIDE_COPIERS / 8,                  /* rows that the copiers copy at once, 8 to a row */
    MOE_WIDE_COPIERS_BARRIER = 15,                         /* the other barriers of parts: 1 + a warpgroup's number */
    MOE_WIDE_QUEUE = 8      /* tiles that are known: the copiers are ahead by a tile each stage at most, and by one */
};

/* The shapes of one kernel, of 2 or 3 warpgroups that multiply, 64 rows each, with so many tokens. What a step takes
 * beside its products, to unpack and to scale, is a chain of instructions that takes as long for few tokens as for
 * many, and for one warpgroup as for several: as many of both as there are registers and shared memory for. */
template <class Weights_, int groups_, int tokens_> struct moe_wide_shape {
    typedef Weights_ Weights;
    static constexpr bool scaled = Weights::group < MOE_SEGMENT;
    static constexpr bool grouped = scaled && Weights::group > MOE_STEP_COLS;    /* a group is several steps */
    static constexpr bool sliced = Weights::aligned && Weights::segment_bytes >= 2 * MOE_SEGMENT;
    static constexpr int groups = groups_, warps = 4 * groups, multipliers = 128 * groups;
    static constexpr int threads = multipliers + MOE_WIDE_COPIERS, rows = 64 * groups;
    static constexpr int registers = groups == 2 ? 232 : 152, copier_registers = groups == 2 ? 40 : 56;
    static constexpr int tokens = tokens_, token_step = 16;        /* as wgmma has them */
    static constexpr int sums = tokens / 2, fours = tokens / 8;    /* of a thread; 4 of each 8 tokens */
    static constexpr int stored_fours = groups == 2 ? 4 : 2;       /* at once */
    static_assert(groups == 2 || groups == 3, "the registers of a multiprocessor");

    /* A unit of weights is a segment, or of formats that can be cut a stage. Rows of 128 bytes have their halves
     * exchanged, every other one, so that the lanes of a load meet no bank twice. */
    static constexpr uint32_t unit_cols = sliced ? (uint32_t)MOE_WIDE_COLS : (uint32_t)MOE_SEGMENT;
    static constexpr uint32_t row_bytes = Weights::segment_bytes * unit_cols / MOE_SEGMENT;
    static constexpr bool exchanged = sliced && row_bytes == 128;
    static constexpr uint32_t unit_pitch = exchanged ? 128 : sliced ? row_bytes + 16 : Weights::pitch;
    static constexpr uint32_t unit_bytes = rows * unit_pitch, x_bytes = tokens * 2 * MOE_WIDE_COLS;

    /* Stages of a segment are whole groups. */
    static constexpr uint32_t whole_cols = grouped ? (uint32_t)Weights::group : (uint32_t)MOE_WIDE_COLS;

    /* Of a warp: scales of a unit. Of a thread, in shared memory: totals where registers hold
     * three other sets of sums, or are few; or results on their way out. */
    static constexpr uint32_t table_bytes =
        scaled ? MOE_SEGMENT / Weights::group * MOE_TILE_ROWS * (uint32_t)sizeof(float2) : 0;
    static constexpr bool keeps_totals = scaled && (Weights::offset || groups == 3);
    static constexpr int kept = keeps_totals ? fours : stored_fours;
    static constexpr uint32_t kept_bytes = kept * multipliers * (uint32_t)sizeof(float4);
};

enum moe_wide_barrier {
    MOE_WIDE_ARRIVED = 0,
    MOE_WIDE_FREE = MOE_WIDE_STAGES,
    MOE_WIDE_UNIT_ARRIVED = 2 * MOE_WIDE_STAGES,
    MOE_WIDE_UNIT_FREE = MOE_WIDE_UNIT_ARRIVED + MOE_WIDE_UNITS,
    MOE_WIDE_TILE = MOE_WIDE_UNIT_FREE + MOE_WIDE_UNITS,
    MOE_WIDE_BARRIERS = MOE_WIDE_TILE + MOE_WIDE_QUEUE
};

/* What is known of the block's tiles: tile `number` at number % MOE_WIDE_QUEUE; and of its tokens the rows of x, in
 * segments from p.x on, in every other place. */
template <class Shape> struct moe_wide_queue {
    struct moe_large_tile tiles[MOE_WIDE_QUEUE];
    uint32_t rows[2][Shape::tokens];
};

/* Offsets are into shared memory; the ring of x is at 0. Barriers, 8 bytes each: a stage has arrived, a stage is free,
 * a unit has arrived, a unit is free, a tile is in the queue; those of stages serve slices too. */
struct moe_wide_params {
    struct moe_cuda_product product;
    uint32_t stages, units, row_tiles;
    uint32_t units_at, tables_at, kept_at, staged_at, barriers_at, queue_at, warps_at, list_at;
};

/* Where all this is in shared memory. Returns how much it is, with what it takes to begin at a multiple of 1024. */
template <class Shape> static inline size_t moe_wide_lay_out(struct moe_wide_params *params, uint32_t stages)
{
    params->stages = stages;
    params->units = Shape::sliced ? stages : (uint32_t)MOE_WIDE_UNITS;
    params->units_at = stages * Shape::x_bytes;
    params->tables_at = params->units_at + params->units * Shape::unit_bytes;
    params->kept_at = params->tables_at + Shape::warps * Shape::table_bytes;
    params->staged_at = params->kept_at + Shape::kept_bytes;
    params->barriers_at = params->staged_at + Shape::groups * moe_wide_stage<Shape::stored_fours>::bytes;
    params->queue_at = params->barriers_at + 8 * MOE_WIDE_BARRIERS;
    params->warps_at = params->queue_at + sizeof(struct moe_wide_queue<Shape>);
    params->list_at = params->warps_at + 32 * sizeof(uint32_t);
    return params->list_at + moe_large_list_bytes(params->product.pairs.num_matrices) + 1024;
}

/* A place in a ring, and the parity of the phase in which it is used: two barriers agree on both. */
struct moe_wide_ring {
    uint32_t at, parity;

    __device__ __forceinline__ void next(uint32_t size)
    {
        at = at + 1 < size ? at + 1 : 0;
        parity ^= at == 0;
    }
};

/* Columns of a segment that its stages have. */
template <class Shape> MOE_DEVICE uint32_t moe_wide_segment_cols(uint32_t cols, uint32_t segment)
{
    const uint32_t left = cols - segment * MOE_SEGMENT;
    return left >= MOE_SEGMENT ? (uint32_t)MOE_SEGMENT
                               : (left + Shape::whole_cols - 1) / Shape::whole_cols * Shape::whole_cols;
}

template <class Shape>
MOE_DEVICE struct moe_wide_queue<Shape> *moe_wide_queue_at(const struct moe_wide_params &params, unsigned char *shared)
{
    return (struct moe_wide_queue<Shape> *)(shared + params.queue_at);
}

/* Put the block's tile `number` into the queue, for the copiers; thread: of these. They see it after a barrier. */
template <class Shape>
MOE_DEVICE void moe_wide_enter(const struct moe_wide_params &params, unsigned char *shared, uint32_t number,
                               uint32_t thread)
{
    const struct moe_cuda_product &p = params.product;
    struct moe_wide_queue<Shape> *queue = moe_wide_queue_at<Shape>(params, shared);
    const struct moe_large_tile tile = moe_large_list_find<Shape::tokens, true>(
        moe_large_list_at(shared + params.list_at, p.pairs.num_matrices), p.pairs, blockIdx.x + number * gridDim.x,
        params.row_tiles, p.gated ? Shape::rows / 2 : Shape::rows, threadIdx.x % 32);
    if (thread == 0)
        queue->tiles[number % MOE_WIDE_QUEUE] = tile;
#pragma unroll
    for (uint32_t token = thread; token < Shape::tokens; token += MOE_WIDE_COPIERS) {
        const uint32_t place = tile.place + token;
        if (token < tile.tokens)
            queue->rows[number % 2][token] =
                (p.x_divisor > 0 ? (uint32_t)p.pairs.sorted[place] / p.x_divisor : place) *
                (uint32_t)(p.x_stride / MOE_SEGMENT);
    }
}

/* What a thread copies in a tile: of rows i, i + 16, ... of weights and of tokens, i = thread / 8, chunks of 16 bytes.
 * Of a tile's rows, each 16 are 8 of gate and 8 of up, or 16 of the only matrix. */
template <class Shape> struct moe_wide_feed {
    const unsigned char *from, *x;    /* the first row of weights; p.x; of slices and of x, this thread's chunk */
    uint32_t stride;                  /* bytes from row to row of weights */
    uint32_t count, tokens;           /* rows that there are, one more than are copied at most */
    uint32_t rows[Shape::tokens / MOE_WIDE_PASS];    /* of x, in segments from p.x on */

    __device__ __forceinline__ void find(const struct moe_cuda_product &p, const struct moe_wide_queue<Shape> &queue,
                                         uint32_t number, uint32_t thread)
    {
        const struct moe_large_tile tile = queue.tiles[number % MOE_WIDE_QUEUE];
        const uint32_t i = thread / 8, chunk = thread % 8;
#pragma unroll
        for (uint32_t k = 0; k < Shape::tokens / MOE_WIDE_PASS; k++)
            rows[k] = queue.rows[number % 2][i + k * MOE_WIDE_PASS];
        const bool low = i < 8;
        const uint32_t row = tile.first_row + (p.gated ? i % 8 : i), step = p.gated ? 8 : 16;
        const struct moe_cuda_plane &plane = p.gated && low ? p.gate.values : p.up.values;
        from = moe_plane_row(plane, tile.expert, row < p.up.rows ? row : tile.first_row) +
               (Shape::sliced ? 16 * chunk : 0);
        stride = step * (uint32_t)plane.stride;
        count = row < p.up.rows ? (p.up.rows - row + step - 1) / step : 0;
        tokens = tile.tokens;
        x = (const unsigned char *)p.x + 16 * chunk;
    }
};

/* Tokens that are not there stay what they were, and so do rows: so do their sums, which are not stored. */
template <class Shape>
MOE_DEVICE void moe_wide_copy_x(unsigned char *to, const struct moe_wide_feed<Shape> &feed, uint32_t column,
                                uint32_t thread)
{
    const uint32_t row = thread / 8, chunk = thread % 8;
    const unsigned char *x = feed.x + 2 * column;
    to += row * 128 + ((chunk ^ row % 8) * 16);
#pragma unroll
    for (uint32_t k = 0; k < Shape::tokens / MOE_WIDE_PASS; k++)
        if (k * MOE_WIDE_PASS + row < feed.tokens)
            moe_copy_async_16(to + k * MOE_WIDE_PASS * 128, x + (size_t)feed.rows[k] * (2 * MOE_SEGMENT), 16);
}

/* A slice: columns from `column` on, of which `left` are left: zeros behind them. */
template <class Shape>
MOE_DEVICE void moe_wide_copy_slice(unsigned char *to, const struct moe_wide_feed<Shape> &feed, uint32_t column,
                                    uint32_t left, uint32_t thread)
{
    constexpr uint32_t passes = Shape::rows / MOE_WIDE_PASS, chunks = Shape::row_bytes / 16;
    constexpr uint32_t value = Shape::row_bytes / MOE_WIDE_COLS;
    const uint32_t row = thread / 8, chunk = thread % 8;
    const unsigned char *from = feed.from + value * column;
    to += row * Shape::unit_pitch + (Shape::exchanged ? (16 * chunk) ^ (row % 2 * 64) : 16 * chunk);
    if (left >= MOE_WIDE_COLS && feed.count >= passes) {    /* nearly always */
#pragma unroll
        for (uint32_t k = 0; k < passes; k++)
#pragma unroll
            for (uint32_t i = 0; i < chunks; i += 8)
                moe_copy_async_16(to + k * MOE_WIDE_PASS * Shape::unit_pitch + 16 * i,
                                  from + (size_t)k * feed.stride + 16 * i, 16);
        return;
    }
#pragma unroll 1
    for (uint32_t k = 0; k < passes && k < feed.count; k++) {
#pragma unroll
        for (uint32_t i = 0; i < chunks; i += 8) {
            const uint32_t at = 16 * (chunk + i), bytes = at < value * left ? value * left - at : 0;
            moe_copy_async_16(to + 16 * i, bytes > 0 ? from + 16 * i : feed.from - 16 * chunk, bytes < 16 ? bytes : 16);
        }
        from += feed.stride;
        to += MOE_WIDE_PASS * Shape::unit_pitch;
    }
}

/* A unit of a segment. Rows that begin anywhere are read in granules of 16 bytes, up to 15 bytes more than are wanted:
 * of the segment or the row behind, if there is one. */
template <class Shape>
MOE_DEVICE void moe_wide_copy_unit(unsigned char *to, const struct moe_wide_feed<Shape> &feed, uint32_t segment,
                                   uint32_t left, uint32_t thread)
{
    typedef typename Shape::Weights Weights;
    constexpr uint32_t passes = Shape::rows / MOE_WIDE_PASS;
    constexpr uint32_t chunks = (Weights::segment_bytes + (Weights::aligned ? 0 : 15) + 15) / 16;
    const uint32_t chunk = thread % 8;
    const unsigned char *from = feed.from + (size_t)segment * Weights::segment_bytes;
    to += thread / 8 * Shape::unit_pitch;
    if (feed.count >= passes &&
        (left > MOE_SEGMENT || (left == MOE_SEGMENT && (Weights::aligned || feed.count > passes)))) {
#pragma unroll
        for (uint32_t k = 0; k < passes; k++) {
            const unsigned char *row = from + (size_t)k * feed.stride;
            const uint32_t skew = Weights::aligned ? 0 : (uint32_t)((uintptr_t)row & 15);
#pragma unroll
            for (uint32_t i = 0; i < chunks; i += 8)
                if (16 * (i + 8) <= Weights::segment_bytes || 16 * (i + chunk) < skew + Weights::segment_bytes)
                    moe_copy_async_16(to + k * MOE_WIDE_PASS * Shape::unit_pitch + 16 * (i + chunk),
                                      row - skew + 16 * (i + chunk), 16);
        }
        return;
    }
    const uint32_t bytes = (left < MOE_SEGMENT ? left : (uint32_t)MOE_SEGMENT) * Weights::segment_bytes / MOE_SEGMENT;
#pragma unroll 1
    for (uint32_t k = 0; k < passes && k < feed.count; k++) {
        const unsigned char *row = from + (size_t)k * feed.stride;
        const uint32_t skew = Weights::aligned ? 0 : (uint32_t)((uintptr_t)row & 15), end = skew + bytes;
#pragma unroll 1
        for (uint32_t i = chunk; i < chunks; i += 8) {
            const uint32_t at = 16 * i, valid = at < end ? (end - at < 16 ? end - at : 16) : 0;
            moe_copy_async_16(to + k * MOE_WIDE_PASS * Shape::unit_pitch + at, row - skew + (valid > 0 ? at : 0),
                              valid);
        }
    }
}

#endif
