// SPDX-License-Identifier: MIT
// A product for few tokens a matrix: every weight is read once and used at once. A multiprocessor has a unit of each of
// its 16 warps under way, 36 to 144 KB, which covers the latency of memory; everything else has to fit beside it: at
// 4.4 TB/s over 132 multiprocessors a warp instruction has room for 10 bytes of weights. So what does not depend on the
// weights of a unit is done once an item or once a run of items.
//
// An item is one tile of rows of one matrix, for all of its tokens. Groups of warps take runs of neighbouring items,
// which share their tokens: all of theirs in one run, or, where matrices differ in how often they are read, short ones
// dealt out in turn, so that a matrix with many tokens does not fall to one block.
// `split` warps share an item: warp w takes the accumulators w, w + split, ... (call.h), each of which is a chain of
// units; partial sums meet in shared memory, in ascending order. A warp begins to copy its next unit when it has
// multiplied the last one, and never waits for another warp but at the end of an item. (A ring of two units or more a
// warp gained nothing: 16 warps are enough, as they are never all in the same place.)
#ifndef MOE_CUDA_SMALL_CUH
#define MOE_CUDA_SMALL_CUH

#include "cuda/front.cuh"
#include "cuda/launch.cuh"
#include "cuda/multiply.cuh"
#include "cuda/result.cuh"

struct moe_small_params {
    struct moe_cuda_product product;
    uint32_t split;
    uint32_t row_tiles;    /* of a matrix */
    uint32_t chunk;        /* items that a group takes at a time; 0: all of its items */
    uint32_t buffers;      /* of partial sums, 2: warps go on while the last item's are added up; or 1 */
    uint32_t lists_at;     /* bytes into shared memory */
    static constexpr bool front = false;
};

/* Of kernels that plan for themselves. */
struct moe_small_front_params : moe_small_params {
    struct moe_cuda_routing routing;
    uint32_t x_at;         /* as lists_at: rows of x, after the pair at each place */
    static constexpr bool front = true;
};

/* What a warp has to know of a unit when it multiplies, since the copy began. */
struct moe_small_note {
    uint32_t place;      /* of the first token */
    uint32_t row;        /* of the matrix, the first of low */
    uint32_t segment;
    uint32_t bits;       /* 0: there is no unit */
};

/* Of bits: tokens in this round, of 16 at most; whether the unit is the last of an accumulator, of a round of the
 * item's tokens; addresses of low and high modulo 16; the matrix. */
enum {
    MOE_NOTE_TOKENS = 0x1f,
    MOE_NOTE_ENDS_SUM = 0x20,
    MOE_NOTE_ENDS_ITEM = 0x40,
    MOE_NOTE_LOW = 8,
    MOE_NOTE_HIGH = 12,
    MOE_NOTE_EXPERT = 16
};

/* The shapes of one kernel. */
template <class Weights_, int tiles_, int columns_, int warps_> struct moe_small_shape {
    typedef Weights_ Weights;
    static constexpr int tiles = tiles_;        /* of 16 rows in an item */
    static constexpr int columns = columns_;    /* 1 or 2, of 8 tokens that share a pass over the weights */
    static constexpr int warps = warps_;        /* at most, blocks may have fewer */
    static constexpr uint32_t item_bits = tiles == 1 ? 3 : tiles == 2 ? 4 : 5;    /* gated, an item has 2^bits rows */
    /* Copies arrive in sectors of 32 bytes: a unit that does not begin with one takes twice as many writes. */
    static constexpr size_t unit_bytes = (tiles * MOE_TILE_ROWS * Weights::pitch + 127) / 128 * 128;
    static constexpr size_t table_bytes =
        Weights::group < MOE_SEGMENT ? MOE_SEGMENT / Weights::group * tiles * MOE_TILE_ROWS * sizeof(float2) : 0;
    typedef struct moe_tokens<Weights, columns, columns == 1> tokens;
    static constexpr size_t warp_bytes = unit_bytes + table_bytes + tokens::sums_bytes;
    static constexpr size_t part_bytes = 32 * tiles * columns * sizeof(float4);    /* sums of an accumulator */

    /* parts: of all groups of warps that share items, in all buffers. The lists lie behind it. */
    static constexpr size_t shared_bytes(uint32_t num_warps, uint32_t parts)
    {
        return num_warps * warp_bytes + parts * part_bytes;
    }
};

/* The most matrices that can have pairs. */
static __host__ __device__ inline uint32_t moe_small_matrices(const struct moe_cuda_pairs &pairs)
{
    return pairs.num_pairs < pairs.num_matrices ? pairs.num_pairs : pairs.num_matrices;
}

/* The lists of the plan in shared memory. All that may be there is asked for at once, by each block once: all blocks
 * want the same few lines at the same time, and wait for each other's turn. */
struct moe_small_lists {
    uint32_t *num_active, *starts, *matrices;

    __device__ __forceinline__ moe_small_lists(unsigned char *memory, const struct moe_cuda_pairs &pairs)
    {
        num_active = (uint32_t *)memory;
        starts = num_active + 1;
        matrices = starts + moe_small_matrices(pairs) + 1;
    }

    __device__ __forceinline__ void load(const struct moe_cuda_pairs &pairs) const
    {
        const uint32_t most = moe_small_matrices(pairs);
        for (uint32_t i = threadIdx.x; i <= most; i += blockDim.x) {
            const uint32_t start = moe_pairs_start(pairs, i), matrix = i < most ? moe_pairs_matrix(pairs, i) : 0;
            starts[i] = start;
            if (i < most)
                matrices[i] = matrix;
        }
        if (threadIdx.x == 0)
            *num_active = moe_pairs_active(pairs);
    }

    /* By the first warp of a block. sorted: the pair at each place. */
    __device__ __forceinline__ void plan(const struct moe_cuda_routing &r, uint32_t *sorted, uint32_t lane) const
    {
        const struct moe_front_pair pair = moe_front_plan(r, lane);
        if (pair.sorted)
            sorted[pair.place] = lane;
        if (pair.begins) {
            matrices[pair.active] = (uint32_t)pair.given.matrix;
            starts[pair.active] = pair.place;
        }
        if (lane == 0) {
            *num_active = pair.num_active;
            starts[pair.num_active] = pair.num_sorted;
        }
    }

    static __host__ __device__ inline size_t bytes(const struct moe_cuda_pairs &pairs)
    {
        return (2 + 2 * (size_t)moe_small_matrices(pairs)) * sizeof(uint32_t);
    }
};

/* What does not change during a call of the kernel. */
struct moe_small_run {
    uint32_t row_tiles, segments, accumulators;
    uint32_t row_bytes;               /* of weights */
    uint32_t part, split;             /* this warp's accumulators: part, part + split, ... */
    uint32_t items, chunk, jump;      /* of the call; that a group takes at a time; from the end of that to its next */
    struct moe_small_lists lists;
};

template <class Shape> MOE_DEVICE uint32_t moe_small_rows_of_item(const struct moe_cuda_product &p)
{
    return p.gated ? 8 * Shape::tiles : 16 * Shape::tiles;
}

/* The unit whose rows begin at `row`, at the addresses low and high. */
template <class Shape>
MOE_DEVICE struct moe_unit_rows moe_small_rows(const struct moe_cuda_product &p, uint32_t expert, uint32_t row,
                                               const unsigned char *low, const unsigned char *high)
{
    struct moe_unit_rows rows;
    rows.product = &p;
    rows.low = low;
    rows.high = high;
    rows.low_stride = p.gated ? p.gate.values.stride : p.up.values.stride;
    rows.high_stride = p.up.values.stride;
    rows.expert = expert;
    rows.low_row = row;
    rows.high_row = p.gated ? row : row + 8 * Shape::tiles;
    rows.low_left = p.up.rows - row;
    rows.high_left = rows.high_row < p.up.rows ? p.up.rows - rows.high_row : 0;
    rows.pitch = Shape::Weights::pitch;
    rows.origin = 0;
    return rows;
}

/* The rows of a unit, for what reads it from shared memory: of addresses it has their last bits. */
template <class Shape>
MOE_DEVICE struct moe_unit_rows moe_small_noted_rows(const struct moe_cuda_product &p,
                                                     const struct moe_small_note &note)
{
    const unsigned char *low = (const unsigned char *)(uintptr_t)(note.bits >> MOE_NOTE_LOW & 15);
    const unsigned char *high = (const unsigned char *)(uintptr_t)(note.bits >> MOE_NOTE_HIGH & 15);
    struct moe_unit_rows rows = moe_small_rows<Shape>(p, note.bits >> MOE_NOTE_EXPERT, note.row, low, high);
    rows.origin = note.segment * Shape::Weights::segment_bytes;
    return rows;
}

/* A unit under way. */
template <class Weights> struct moe_small_flight {
    unsigned char *unit;            /* where in shared memory */
    typename Weights::side side;
    struct moe_small_note note;
};

/* Whether scales of a segment are read as lines (planes.cuh). */
MOE_DEVICE bool moe_small_has_line(const struct moe_cuda_product &p, uint32_t segment)
{
    return p.up.line_bytes > 0 && (segment + 1) * MOE_SEGMENT <= p.up.cols;
}

/* Begin to copy a unit, and to load its scales. The note lacks the place, and what the unit ends. */
template <class Shape>
MOE_DEVICE void moe_small_begin(struct moe_small_flight<typename Shape::Weights> *flight,
                                const typename Shape::Weights::line &line, const struct moe_unit_rows &rows,
                                uint32_t segment, uint32_t row_bytes, uint32_t num_tokens, int lane)
{
    typedef typename Shape::Weights Weights;
    moe_unit_source<Weights>::template copy<Shape::tiles>(flight->unit, rows, segment, row_bytes, lane);
    if (moe_small_has_line(*rows.product, segment))
        Weights::template fetch_line<Shape::tiles>(&flight->side, line, rows, segment, lane);
    else
        Weights::template fetch<Shape::tiles>(&flight->side, rows, segment, lane);
    struct moe_small_note note = {0, rows.low_row, segment, num_tokens | rows.expert << MOE_NOTE_EXPERT};
    if (!Weights::aligned)
        note.bits |= ((uint32_t)(uintptr_t)rows.low & 15) << MOE_NOTE_LOW |
                     ((uint32_t)(uintptr_t)rows.high & 15) << MOE_NOTE_HIGH;
    flight->note = note;
}

/* Where a warp is in its items: what it copies next. */
template <class Shape> struct moe_small_ahead {
    uint32_t item, chunk_end, run;    /* run: items up to the end of the chunk or the matrix, with this one */
    uint32_t row, first_token;        /* of the item: its first row of low; of the matrix' tokens, this round's */
    uint32_t segment;
    uint32_t expert, start, num_tokens;      /* the matrix, its places */
    const unsigned char *low, *high;         /* the item's first rows */
    typename Shape::Weights::line line;      /* the matrix' scales, of this lane */

    __device__ __forceinline__ struct moe_unit_rows rows(const struct moe_cuda_product &p) const
    {
        return moe_small_rows<Shape>(p, expert, row, low, high);
    }

    /* The run of items that begins at item. */
    __device__ __forceinline__ void enter(const struct moe_cuda_product &p, const struct moe_small_run &call, int lane)
    {
        first_token = 0;
        segment = call.part;
        if (item >= call.items)
            return;
        const uint32_t active = item / call.row_tiles, row_tile = item - active * call.row_tiles;
        const uint32_t end = chunk_end < call.items ? chunk_end : call.items;
        run = end - item < call.row_tiles - row_tile ? end - item : call.row_tiles - row_tile;
        expert = call.lists.matrices[active];
        start = call.lists.starts[active];
        num_tokens = call.lists.starts[active + 1] - start;
        row = row_tile * moe_small_rows_of_item<Shape>(p);
        low = moe_plane_row(p.gated ? p.gate.values : p.up.values, expert, row);
        high = moe_plane_row(p.up.values, expert, p.gated ? row : row + 8 * Shape::tiles);
        if (p.up.line_bytes > 0)
            Shape::Weights::enter(&line, p, expert, lane);
    }

    /* To the next unit of this warp. Returns what the present one ends. */
    __device__ __forceinline__ uint32_t advance(const struct moe_cuda_product &p, const struct moe_small_run &call,
                                                int lane)
    {
        const bool ends_sum = segment + MOE_ACCUMULATORS >= call.segments;
        const uint32_t next = segment % MOE_ACCUMULATORS + call.split;
        if (!ends_sum || next < call.accumulators) {
            segment = ends_sum ? next : segment + MOE_ACCUMULATORS;
            return ends_sum ? MOE_NOTE_ENDS_SUM : 0;
        }
        segment = call.part;
        first_token += 8 * Shape::columns;
        if (first_token < num_tokens)
            return MOE_NOTE_ENDS_SUM | MOE_NOTE_ENDS_ITEM;
        const uint32_t step = moe_small_rows_of_item<Shape>(p);
        first_token = 0;
        row += step;
        low += step * (p.gated ? p.gate.values.stride : p.up.values.stride);
        high += step * p.up.values.stride;
        item++;
        if (--run == 0) {
            if (item == chunk_end) {
                item += call.jump;
                chunk_end = item + call.chunk;
            }
            enter(p, call, lane);
        }
        return MOE_NOTE_ENDS_SUM | MOE_NOTE_ENDS_ITEM;
    }

    /* Begin to copy a unit, and to load its scales, and go on to the next. Without a next one bits become 0. */
    __device__ __forceinline__ void begin(struct moe_small_flight<typename Shape::Weights> *flight,
                                          const struct moe_cuda_product &p, const struct moe_small_run &call, int lane)
    {
        flight->note.bits = 0;
        if (item < call.items) {
            const uint32_t left = num_tokens - first_token, most = 8 * Shape::columns;
            const uint32_t of_round = left < most ? left : most;
            moe_small_begin<Shape>(flight, line, rows(p), segment, call.row_bytes, of_round, lane);
            flight->note.place = start + first_token;
            flight->note.bits |= advance(p, call, lane);
        }
        moe_copy_async_commit();
    }
};

/* A unit that has arrived: where a lane begins to read it, and how many steps of 32 columns it has. The table, with the
 * sums of tokens behind it, is filled with its scales. */
template <class Shape> struct moe_small_unit {
    struct moe_multiply_at<Shape::tiles> at;
    uint32_t steps;

    __device__ __forceinline__ moe_small_unit(const struct moe_small_flight<typename Shape::Weights> &flight,
                                              const struct moe_cuda_product &p, float2 *table, int lane)
    {
        typedef typename Shape::Weights Weights;
        const unsigned char *unit = flight.unit;
        const struct moe_small_note &note = flight.note;
        const struct moe_unit_rows rows = moe_small_noted_rows<Shape>(p, note);
#pragma unroll
        for (int m = 0; m < Shape::tiles; m++) {
            at.low[m] = moe_unit_begin<Weights, Shape::tiles>(unit, rows, note.segment, 16 * m + lane / 4);
            at.high[m] = moe_unit_begin<Weights, Shape::tiles>(unit, rows, note.segment, 16 * m + lane / 4 + 8);
        }
        if (Shape::table_bytes > 0) {
            if (moe_small_has_line(p, note.segment))
                Weights::template scales_of_line<Shape::tiles>(table, flight.side, rows, lane);
            else
                Weights::template scales<Shape::tiles>(table, unit, flight.side, rows, note.segment, lane);
            __syncwarp();
        }
        at.table = table + lane / 4;
        at.sums = (const float *)((const unsigned char *)table + Shape::table_bytes) + lane % 4 * 2;
        const uint32_t left = p.up.cols - note.segment * MOE_SEGMENT;
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
MOE_DEVICE void moe_small_finish(const struct moe_cuda_product &p, const struct moe_small_note &note,
                                 const float4 *parts, uint32_t accumulators, uint32_t index, uint32_t threads)
{
    const uint32_t bits = Shape::item_bits + (p.gated ? 0 : 1), results = (note.bits & MOE_NOTE_TOKENS) << bits;
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
        if (note.row + r < p.up.rows)
            moe_result_store(p, note.bits >> MOE_NOTE_EXPERT, note.place + n, note.row + r, low, high);
    }
}

/* A warp's rows of x for a round of tokens, one a column tile; which tokens, and which segment of them it holds. front:
 * they are in shared memory. */
template <class Weights, int columns, bool front> struct moe_small_x {
    const uint4 *rows[columns];
    uint32_t place, segment;
    const uint16_t *own;       /* front: row 0 */
    const uint32_t *sorted;    /* likewise */

    /* Those that are not there are read as the first. */
    __device__ __forceinline__ void find(const struct moe_cuda_product &p, const struct moe_small_note &note, int lane)
    {
        if (note.place == place || (moe_result_one_row(p) && place != UINT32_MAX))
            return;
        place = note.place;
        segment = UINT32_MAX;
#pragma unroll
        for (int n = 0; n < columns; n++) {
            const uint32_t token = 8 * n + lane / 4;
            const uint32_t at = place + (token < (note.bits & MOE_NOTE_TOKENS) ? token : 0);
            const uint16_t *row = front ? own + sorted[at] / p.x_divisor * p.x_stride : moe_result_x(p, at);
            rows[n] = (const uint4 *)row + lane % 4;
        }
    }
};

template <class Shape, class Params = moe_small_params>
__global__ void __launch_bounds__(Shape::warps * 32, 1) moe_small_kernel(const __grid_constant__ Params params)
{
    typedef typename Shape::Weights Weights;
    constexpr int tiles = Shape::tiles, columns = Shape::columns, sums = tiles * columns;
    const struct moe_cuda_product &p = params.product;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t split = params.split, group = warp / split, groups = blockDim.x / 32 / split;
    struct moe_small_flight<Weights> flight;
    flight.unit = moe_dynamic_shared() + warp * Shape::warp_bytes;
    float2 *table = (float2 *)(flight.unit + Shape::unit_bytes);

    if (!p.planned) {
        moe_wait_for_previous();
        moe_let_next_start();
    }
    struct moe_small_run call = {.lists = {moe_dynamic_shared() + params.lists_at, p.pairs}};
    struct moe_small_x<Weights, columns, Params::front> x;
    if constexpr (Params::front) {
        uint32_t *sorted = (uint32_t *)(moe_dynamic_shared() + params.x_at);
        x.sorted = sorted;
        x.own = (const uint16_t *)(sorted + MOE_FRONT_PAIRS);
        const uint32_t helpers = blockDim.x / 32 - 1;
        if (warp == 0)
            call.lists.plan(params.routing, sorted, lane);
        if (warp > 0 || helpers == 0)
            moe_front_rows(params.routing.beside, (uint16_t *)x.own, helpers > 0 ? warp - 1 : 0,
                           helpers > 0 ? helpers : 1, (int)lane);
    } else {
        call.lists.load(p.pairs);
    }
    __syncthreads();
    if (group >= groups)
        return;
    call.part = warp % split;
    call.split = split;
    call.row_tiles = params.row_tiles;
    call.row_bytes = moe_unit_row_bytes<Weights>(p.up.cols);
    call.segments = (p.up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT;
    call.accumulators = call.segments < MOE_ACCUMULATORS ? call.segments : (uint32_t)MOE_ACCUMULATORS;
    float4 *parts = (float4 *)(moe_dynamic_shared() + blockDim.x / 32 * Shape::warp_bytes) +
                    group * params.buffers * call.accumulators * 32 * sums;
    struct moe_small_ahead<Shape> ahead;
    {
        const uint32_t runs = gridDim.x * groups, index = group * gridDim.x + blockIdx.x;
        call.items = *call.lists.num_active * call.row_tiles;
        call.chunk = params.chunk > 0 ? params.chunk : (call.items + runs - 1) / runs;
        call.jump = (runs - 1) * call.chunk;
        ahead.item = index * call.chunk;
        ahead.chunk_end = ahead.item + call.chunk;
        ahead.enter(p, call, lane);
    }
    ahead.begin(&flight, p, call, lane);
    if (p.planned) {
        moe_wait_for_previous();
        moe_let_next_start();
    }

    float acc[columns][tiles][4] = {};
    typename Shape::tokens tokens;    /* in one segment */
    tokens.sums = (float *)((unsigned char *)table + Shape::table_bytes);
    x.place = UINT32_MAX;
    uint32_t turn = call.part, buffer = 0;    /* whose results are whose: in turn, for a few results take a few warps */
    while (flight.note.bits != 0) {
        const struct moe_small_note note = flight.note;
        const uint32_t used = ((note.bits & MOE_NOTE_TOKENS) + MOE_TILE_TOKENS - 1) / MOE_TILE_TOKENS;
        x.find(p, note, lane);
        if (note.segment != x.segment)
            tokens.take(x.rows, note.segment * (MOE_SEGMENT / 8), used, lane);
        x.segment = note.segment;
        moe_copy_async_wait<0>();
        __syncwarp();
        const struct moe_small_unit<Shape> w(flight, p, table, lane);
        if (columns == 1 || used == 1)
            moe_multiply<1>(acc, tokens, w.at, w.steps, lane);
        else
            moe_multiply<columns>(acc, tokens, w.at, w.steps, lane);
        __syncwarp();
        ahead.begin(&flight, p, call, lane);
        if (!(note.bits & MOE_NOTE_ENDS_SUM))
            continue;
        float4 *kept = parts + buffer * call.accumulators * 32 * sums;
#pragma unroll
        for (int i = 0; i < sums; i++) {
            float(&sum)[4] = acc[i / tiles][i % tiles];
            kept[(note.segment % MOE_ACCUMULATORS * sums + i) * 32 + lane] =
                make_float4(sum[0], sum[1], sum[2], sum[3]);
            sum[0] = sum[1] = sum[2] = sum[3] = 0.0f;
        }
        if (!(note.bits & MOE_NOTE_ENDS_ITEM))
            continue;
        if (split > 1)
            moe_barrier(1 + group, 32 * split);
        else
            __syncwarp();
        moe_small_finish<Shape>(p, note, kept, call.accumulators, turn * 32 + lane, 32 * split);
        turn = turn + 1 < split ? turn + 1 : 0;
        buffer ^= params.buffers - 1;
        if (params.buffers == 1 && split > 1)
            moe_barrier(1 + group, 32 * split);
    }
}

#endif
