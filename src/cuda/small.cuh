// SPDX-License-Identifier: MIT
// A product for few tokens a matrix: every weight is read once and used at once. Bound by memory: what a multiprocessor
// has under way (warps * stages units, 36 to 128 KB) covers the latency, everything else has to fit beside it: at 4.4
// TB/s over 132 multiprocessors a warp instruction has room for 10 bytes of weights.
//
// An item is one tile of rows of one matrix, for all of its tokens. Groups of warps take runs of neighbouring items,
// which share their tokens: all of theirs in one run, or, where matrices differ in how often they are read, short ones
// dealt out in turn, so that a matrix with many tokens does not fall to one block.
// `split` warps share an item: warp w takes the accumulators w, w + split, ... (call.h), each of which is a chain of
// units; partial sums meet in shared memory, in ascending order. Each warp streams its units through a ring of its
// own, and never waits for another but at the end of an item.
#ifndef MOE_CUDA_SMALL_CUH
#define MOE_CUDA_SMALL_CUH

#include "cuda/launch.cuh"
#include "cuda/multiply.cuh"
#include "cuda/result.cuh"

struct moe_small_params {
    struct moe_cuda_product product;
    uint32_t split;
    uint32_t row_tiles;    /* of a matrix */
    uint32_t chunk;        /* items that a group takes at a time; 0: all of its items */
};

/* The shapes of one kernel. */
template <class Weights_, int tiles_, int columns_, int warps_, int stages_> struct moe_small_shape {
    typedef Weights_ Weights;
    static constexpr int tiles = tiles_;        /* of 16 rows in an item */
    static constexpr int columns = columns_;    /* of 8 tokens that share a pass over the weights */
    static constexpr int warps = warps_, stages = stages_;    /* warps: at most, blocks may have fewer */
    static constexpr int buffers = 2;    /* of partial sums: warps go on while the last item's are added up */
    static constexpr uint32_t item_bits = tiles == 1 ? 3 : tiles == 2 ? 4 : 5;    /* gated, an item has 2^bits rows */
    static constexpr size_t unit_bytes = tiles * MOE_TILE_ROWS * Weights::pitch;
    static constexpr size_t ring_bytes = stages * unit_bytes;
    static constexpr size_t table_bytes =
        Weights::group < MOE_SEGMENT ? MOE_SEGMENT / Weights::group * tiles * MOE_TILE_ROWS * sizeof(float2) : 0;
    static constexpr size_t warp_bytes = ring_bytes + table_bytes + moe_tokens<Weights, true>::sums_bytes;
    static constexpr size_t part_bytes = 32 * tiles * columns * sizeof(float4);    /* sums of an accumulator */

    /* parts: of all groups of warps that share items */
    static constexpr size_t shared_bytes(uint32_t num_warps, uint32_t parts)
    {
        return num_warps * warp_bytes + parts * buffers * part_bytes;
    }
};

/* The first matrices that have pairs, one a lane: asked for all at once, before anything is known. */
struct moe_small_lists {
    uint32_t num_active, matrix, start;

    __device__ __forceinline__ explicit moe_small_lists(const struct moe_cuda_pairs &pairs)
    {
        const uint32_t lane = threadIdx.x % 32, near = lane <= pairs.num_matrices ? lane : pairs.num_matrices;
        start = moe_pairs_start(pairs, near);
        matrix = moe_pairs_matrix(pairs, near < pairs.num_matrices ? near : 0);
        num_active = moe_pairs_active(pairs);
    }

    /* All lanes of the warp together. */
    __device__ __forceinline__ uint32_t matrix_of(const struct moe_cuda_pairs &pairs, uint32_t a) const
    {
        return a < 32 ? __shfl_sync(0xffffffffu, matrix, (int)a) : moe_pairs_matrix(pairs, a);
    }

    __device__ __forceinline__ uint32_t start_of(const struct moe_cuda_pairs &pairs, uint32_t a) const
    {
        return a < 32 ? __shfl_sync(0xffffffffu, start, (int)a) : moe_pairs_start(pairs, a);
    }
};

/* What does not change during a call of the kernel. */
struct moe_small_run {
    uint32_t row_tiles, rows_of_item, segments, accumulators;
    uint32_t part, split;             /* this warp's accumulators: part, part + split, ... */
    uint32_t items, chunk;            /* of the call; that a group takes at a time */
    uint32_t jump, jump_active, jump_tiles;    /* from its last item to the first of the next chunk: in items, the same
                                                  in matrices and row tiles */
    struct moe_small_lists lists;

    __device__ __forceinline__ explicit moe_small_run(const struct moe_cuda_pairs &pairs) : lists(pairs)
    {
    }
};

/* Where a warp is in its run of items, and what it needs to know of the item. */
template <class Shape> struct moe_small_place {
    uint32_t items;                   /* 0: none is left */
    uint32_t item, in_chunk;
    uint32_t active, row_tile;        /* of the item */
    uint32_t first_token;             /* of the matrix' tokens, those of the present round */
    uint32_t accumulator, segment;
    uint32_t start, num_tokens;       /* places of the matrix */
    struct moe_unit_rows rows;

    __device__ __forceinline__ void enter(const struct moe_cuda_product &p, const struct moe_small_run &run)
    {
        first_token = 0;
        accumulator = segment = run.part;
        if (items == 0)
            return;
        rows.expert = run.lists.matrix_of(p.pairs, active);
        start = run.lists.start_of(p.pairs, active);
        num_tokens = run.lists.start_of(p.pairs, active + 1) - start;
        rows.low_row = row_tile * run.rows_of_item;
        rows.high_row = p.gated ? rows.low_row : rows.low_row + 8 * Shape::tiles;
        rows.low_left = p.up.rows - rows.low_row;
        rows.high_left = rows.high_row < p.up.rows ? p.up.rows - rows.high_row : 0;
        rows.low_stack = p.gated ? &p.gate : &p.up;
        rows.high_stack = &p.up;
        rows.low = moe_plane_row(p.gated ? p.gate.values : p.up.values, rows.expert, rows.low_row);
        rows.high = moe_plane_row(p.up.values, rows.expert, rows.high_row);
        rows.low_stride = p.gated ? p.gate.values.stride : p.up.values.stride;
        rows.high_stride = p.up.values.stride;
        rows.pitch = Shape::Weights::pitch;
    }

    /* The next tile of rows, or the next chunk. */
    __device__ __forceinline__ void next_item(const struct moe_cuda_product &p, const struct moe_small_run &run)
    {
        bool jumps = ++in_chunk == run.chunk;
        item += jumps ? run.jump : 1;
        row_tile += jumps ? run.jump_tiles : 1;
        active += jumps ? run.jump_active : 0;
        in_chunk = jumps ? 0 : in_chunk;
        items = item < run.items;
        if (row_tile >= run.row_tiles) {
            row_tile -= run.row_tiles;
            active++;
            jumps = true;
        }
        if (jumps) {
            enter(p, run);
            return;
        }
        first_token = 0;
        rows.low_row += run.rows_of_item;
        rows.high_row += run.rows_of_item;
        rows.low_left -= run.rows_of_item;
        rows.high_left = rows.high_row < p.up.rows ? p.up.rows - rows.high_row : 0;
        rows.low += run.rows_of_item * rows.low_stride;
        rows.high += run.rows_of_item * rows.high_stride;
    }

    /* To the next unit of this warp. True: that was the last one of an accumulator. */
    __device__ __forceinline__ bool advance(const struct moe_cuda_product &p, const struct moe_small_run &run)
    {
        segment += MOE_ACCUMULATORS;
        if (segment < run.segments)
            return false;
        accumulator += run.split;
        segment = accumulator;
        if (accumulator < run.accumulators)
            return true;
        accumulator = segment = run.part;
        first_token += 8 * Shape::columns;
        if (first_token >= num_tokens)
            next_item(p, run);
        return true;
    }
};

template <class Shape>
MOE_DEVICE void moe_small_copy(unsigned char *stage, const struct moe_small_place<Shape> &place, uint32_t row_bytes,
                               typename Shape::Weights::side *side, int lane)
{
    typedef typename Shape::Weights Weights;
    if (place.items > 0) {
        moe_unit_source<Weights>::template copy<Shape::tiles>(stage, place.rows, place.segment, row_bytes, lane);
        Weights::template fetch<Shape::tiles>(side, place.rows, place.segment, lane);
    }
    moe_copy_async_commit();
}

/* A unit that is under way, in a stage of the ring. */
template <class Shape> struct moe_small_stage {
    struct moe_small_place<Shape> place;    /* items 0: none */
    typename Shape::Weights::side side;
    bool ends_sum, ends_item;               /* the last one of an accumulator; of a round of the item's tokens */

    /* Begin with the unit at *ahead, which goes on to the next. */
    __device__ __forceinline__ void begin(unsigned char *unit, struct moe_small_place<Shape> *ahead,
                                          const struct moe_cuda_product &p, const struct moe_small_run &run,
                                          uint32_t row_bytes, int lane)
    {
        place = *ahead;
        moe_small_copy<Shape>(unit, place, row_bytes, &side, lane);
        if (place.items == 0)
            return;
        ends_sum = ahead->advance(p, run);
        ends_item = ahead->item != place.item || ahead->first_token != place.first_token;
    }
};

/* A unit that has arrived: where a lane begins to read it, and how many steps of 32 columns it has. The table, with the
 * sums of tokens behind it, is filled with its scales. */
template <class Shape> struct moe_small_unit {
    struct moe_multiply_at<Shape::tiles> at;
    uint32_t steps;

    __device__ __forceinline__ moe_small_unit(const unsigned char *unit, struct moe_small_place<Shape> &place,
                                              uint32_t cols, float2 *table, const typename Shape::Weights::side &side,
                                              int lane)
    {
        typedef typename Shape::Weights Weights;
        place.rows.origin = place.segment * Weights::segment_bytes;
#pragma unroll
        for (int m = 0; m < Shape::tiles; m++) {
            at.low[m] = moe_unit_begin<Weights, Shape::tiles>(unit, place.rows, place.segment, 16 * m + lane / 4);
            at.high[m] = moe_unit_begin<Weights, Shape::tiles>(unit, place.rows, place.segment, 16 * m + lane / 4 + 8);
        }
        if (Shape::table_bytes > 0) {
            Weights::template scales<Shape::tiles>(table, unit, side, place.rows, place.segment, lane);
            __syncwarp();
        }
        at.table = table + lane / 4;
        at.sums = (const float *)((const unsigned char *)table + Shape::table_bytes) + lane % 4 * 2;
        uint32_t left = cols - place.segment * MOE_SEGMENT;
        steps = left < MOE_SEGMENT ? (left + MOE_STEP_COLS - 1) / MOE_STEP_COLS : (uint32_t)MOE_SEGMENT_STEPS;
    }
};

/* Sums of accumulator j as the warps leave them in shared memory: parts[(j * columns * tiles + n * tiles + m) * 32 +
 * lane], a lane's four of tile m and column tile n. */
template <class Shape>
MOE_DEVICE float moe_small_sum(const float4 *parts, uint32_t accumulators, uint32_t m, uint32_t row, uint32_t n)
{
    constexpr uint32_t pitch = Shape::columns * Shape::tiles * 32 * 4;
    uint32_t lane = row % 8 * 4 + n % 8 / 2, i = row / 8 * 2 + n % 2;
    const float *at = (const float *)(parts + (n / 8 * Shape::tiles + m) * 32 + lane) + i;
    float values[MOE_ACCUMULATORS], sum;
#pragma unroll
    for (uint32_t j = 0; j < MOE_ACCUMULATORS; j++)    /* all on their way before the first is added */
        values[j] = j < accumulators ? at[j * pitch] : 0.0f;
    sum = values[0];
#pragma unroll
    for (uint32_t j = 1; j < MOE_ACCUMULATORS; j++)
        sum = j < accumulators ? sum + values[j] : sum;
    return sum;
}

/* Add up what the warps that share an item have left in parts, and store it: a thread for each result, `index` of
 * `threads`. */
template <class Shape>
MOE_DEVICE void moe_small_finish(const struct moe_cuda_product &p, const struct moe_small_place<Shape> &place,
                                 const float4 *parts, uint32_t accumulators, uint32_t index, uint32_t threads)
{
    const uint32_t bits = Shape::item_bits + (p.gated ? 0 : 1), left = place.num_tokens - place.first_token;
    const uint32_t results = (left < 8 * Shape::columns ? left : 8 * Shape::columns) << bits;
    for (; index < results; index += threads) {
        uint32_t n = index >> bits, r = index & ((1u << bits) - 1);
        float low, high = 0.0f;
        if (p.gated) {
            low = moe_small_sum<Shape>(parts, accumulators, r / 8, r % 8, n);
            high = moe_small_sum<Shape>(parts, accumulators, r / 8, r % 8 + 8, n);
        } else {    /* the rows of high lie behind all those of low */
            uint32_t m = r % (8 * Shape::tiles) / 8, high_half = r / (8 * Shape::tiles);
            low = moe_small_sum<Shape>(parts, accumulators, m, r % 8 + 8 * high_half, n);
        }
        uint32_t row = place.rows.low_row + r;
        if (row < p.up.rows)
            moe_result_store(p, place.rows.expert, place.start + place.first_token + n, row, low, high);
    }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::warps * 32, 1)
    moe_small_kernel(const __grid_constant__ moe_small_params params)
{
    typedef typename Shape::Weights Weights;
    constexpr int tiles = Shape::tiles, columns = Shape::columns, stages = Shape::stages, sums = tiles * columns;
    const struct moe_cuda_product &p = params.product;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const uint32_t split = params.split, group = warp / split, groups = blockDim.x / 32 / split;
    unsigned char *ring = moe_dynamic_shared() + warp * Shape::warp_bytes;
    float2 *table = (float2 *)(ring + Shape::ring_bytes);

    const uint32_t row_bytes = (p.up.cols / MOE_SEGMENT) * Weights::segment_bytes +
                               (p.up.cols % MOE_SEGMENT) * Weights::segment_bytes / MOE_SEGMENT;
    moe_let_next_start();
    if (group >= groups)
        return;
    moe_wait_for_previous();

    struct moe_small_run run(p.pairs);
    run.part = warp % split;
    run.split = split;
    run.rows_of_item = tiles * (p.gated ? 8 : 16);
    run.row_tiles = params.row_tiles;
    run.segments = (p.up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT;
    run.accumulators = run.segments < MOE_ACCUMULATORS ? run.segments : (uint32_t)MOE_ACCUMULATORS;
    float4 *parts = (float4 *)(moe_dynamic_shared() + blockDim.x / 32 * Shape::warp_bytes) +
                    group * Shape::buffers * run.accumulators * 32 * sums;
    struct moe_small_place<Shape> ahead;
    {
        const uint32_t runs = gridDim.x * groups, index = group * gridDim.x + blockIdx.x;
        run.items = run.lists.num_active * run.row_tiles;
        run.chunk = params.chunk > 0 ? params.chunk : (run.items + runs - 1) / runs;
        run.jump = (runs - 1) * run.chunk + 1;
        run.jump_active = run.jump / run.row_tiles;
        run.jump_tiles = run.jump - run.jump_active * run.row_tiles;
        ahead.item = index * run.chunk;
        ahead.in_chunk = 0;
        ahead.items = ahead.item < run.items;
        ahead.active = ahead.item / run.row_tiles;
        ahead.row_tile = ahead.item - ahead.active * run.row_tiles;
        ahead.enter(p, run);
    }
    struct moe_small_stage<Shape> under_way[stages];
#pragma unroll
    for (int s = 0; s < stages; s++)
        under_way[s].begin(ring + s * Shape::unit_bytes, &ahead, p, run, row_bytes, lane);

    float acc[columns][tiles][4] = {};
    struct moe_tokens<Weights, columns == 1> tokens;    /* of the first column tile, in one segment */
    tokens.sums = (float *)((unsigned char *)table + Shape::table_bytes);
    const uint4 *x[columns];
    uint32_t place_of_x = UINT32_MAX, loaded = UINT32_MAX;    /* what x and tokens hold */
    uint32_t turn = run.part, buffer = 0;    /* whose results are whose: in turn, for a few results take a few warps */
    while (under_way[0].place.items > 0) {
#pragma unroll
        for (int s = 0; s < stages; s++) {
            struct moe_small_place<Shape> here = under_way[s].place;
            if (here.items == 0)
                return;
            unsigned char *unit = ring + s * Shape::unit_bytes;
            const uint32_t left = here.num_tokens - here.first_token, first = here.start + here.first_token;
            if (first != place_of_x) {
                place_of_x = first;
                loaded = UINT32_MAX;
#pragma unroll
                for (int n = 0; n < columns; n++) {
                    uint32_t token = 8 * n + g;
                    x[n] = (const uint4 *)moe_result_x(p, first + (token < left ? token : 0)) + t;
                }
            }
            const uint32_t of_segment = here.segment * (MOE_SEGMENT / 8);
            if (here.segment != loaded)
                tokens.take(x[0] + of_segment, lane);
            loaded = here.segment;
            moe_copy_async_wait<stages - 1>();
            __syncwarp();
            const struct moe_small_unit<Shape> w(unit, here, p.up.cols, table, under_way[s].side, lane);
            moe_multiply<Weights, tiles>(acc[0], tokens, w.at, w.steps, lane);
#pragma unroll
            for (int n = 1; n < columns; n++)
                if (left > 8 * n) {
                    tokens.take(x[n] + of_segment, lane);
                    loaded = UINT32_MAX;
                    moe_multiply<Weights, tiles>(acc[n], tokens, w.at, w.steps, lane);
                }
            __syncwarp();
            const bool ends_sum = under_way[s].ends_sum, ends_item = under_way[s].ends_item;
            under_way[s].begin(unit, &ahead, p, run, row_bytes, lane);
            if (!ends_sum)
                continue;
            float4 *kept = parts + buffer * run.accumulators * 32 * sums;
#pragma unroll
            for (int i = 0; i < sums; i++) {
                float *sum = &acc[0][0][0] + 4 * i;
                kept[(here.accumulator * sums + i) * 32 + lane] = make_float4(sum[0], sum[1], sum[2], sum[3]);
                sum[0] = sum[1] = sum[2] = sum[3] = 0.0f;
            }
            if (!ends_item)
                continue;
            if (split > 1)
                moe_barrier(1 + group, 32 * split);
            else
                __syncwarp();
            moe_small_finish<Shape>(p, here, kept, run.accumulators, turn * 32 + lane, 32 * split);
            turn = turn + 1 < split ? turn + 1 : 0;
            buffer ^= 1;
        }
    }
}

#endif
