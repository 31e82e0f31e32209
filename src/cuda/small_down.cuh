// SPDX-License-Identifier: MIT
// down and combine in one launch, for few tokens: at most 64 pairs, 8 of a matrix. The bits are those of small.cuh and
// combine.cu, one after the other.
//
// A block owns a run of rows for all matrices, as many as any other block, in tiles of up to 16, or 32 where units of
// so many are small: 2048 rows on 132 multiprocessors are 128 blocks of 16, 2880 are 131 of 22. So the sum over a
// token's experts stays in the block. In a tile each (matrix, accumulator) is a chain of units (call.h); warp w takes
// chains w, w + warps, ..., counted through all tiles, and copies a unit ahead as in small.cuh, into the next tile too.
// What a chain gives goes to shared memory, by place; when all of a tile are there, a thread for each token and row
// adds accumulators, then slots, and writes out. Meanwhile the others go on with the next tile.
//
// Bytes: of 8 matrices of 768 columns a block reads 24 units of 16 rows, 8 KB each in bf16, 2 KB in 4 bits, and 12 KB
// of h; 16 warps have one or two units each, the first all under way at once. Cycles beside the units' own: a barrier
// and the finish of each tile, 3 to 8 accumulators of up to 8 slots from shared memory.
#ifndef MOE_CUDA_SMALL_DOWN_CUH
#define MOE_CUDA_SMALL_DOWN_CUH

#include "cuda/combine.cuh"
#include "cuda/kernels.h"
#include "cuda/prepare.cuh"
#include "cuda/small.cuh"

enum { MOE_DOWN_SLOTS = 8 };

struct moe_small_down_params {
    struct moe_cuda_product product;    /* neither gated nor activated; y is not used */
    struct moe_cuda_combine combine;    /* by places; y is not used */
    uint32_t rows_of_block, rows_of_tile;
    bool front;                         /* the block plans for itself (front.cuh) */
    struct moe_cuda_routing routing;    /* with front */
};

/* Pairs, and the matrices that have some, in shared memory. */
struct moe_down_lists {
    int32_t places[MOE_DOWN_PAIRS];
    float weights[MOE_DOWN_PAIRS];
    uint32_t experts[MOE_DOWN_PAIRS];   /* by place */
    uint32_t packed[MOE_DOWN_PAIRS];    /* matrix << 16 | first place << 8 | number of places, 8 at most */
    uint32_t num_active;                /* of packed: one for each matrix, or more if it has more than 8 */
};

/* What does not change during a call of the kernel. */
struct moe_down_run {
    uint32_t first_row, num_rows;       /* of the block */
    uint32_t tiles, rows_of_tile;
    uint32_t segments, accumulators, row_bytes;
    uint32_t jump_matrices, jump_accumulators;    /* from a warp's chain to its next */
    const struct moe_down_lists *lists;
    uint32_t num_active;
};

/* Where a warp is: what it copies next. A note's place has the tile in its upper half. */
enum { MOE_DOWN_TILE = 16 };
template <class Shape> struct moe_down_ahead {
    uint32_t tile, active, accumulator, segment;
    uint32_t list;                      /* of the matrix: moe_down_lists.packed */
    const unsigned char *low;           /* the tile's first row */
    typename Shape::Weights::line line; /* the matrix' scales, of this lane */

    __device__ __forceinline__ struct moe_unit_rows rows(const struct moe_cuda_product &p,
                                                         const struct moe_down_run &run) const
    {
        const uint32_t begin = tile * run.rows_of_tile, left = run.num_rows - begin;
        const uint32_t num_rows = left < run.rows_of_tile ? left : run.rows_of_tile;
        struct moe_unit_rows rows = moe_small_rows<Shape>(p, list >> 16, run.first_row + begin, low,
                                                          low + 8 * Shape::tiles * p.up.values.stride);
        rows.low_left = num_rows;
        rows.high_left = num_rows < 8 * Shape::tiles ? 0 : num_rows - 8 * Shape::tiles;
        return rows;
    }

    __device__ __forceinline__ void enter(const struct moe_cuda_product &p, const struct moe_down_run &run, int lane)
    {
        while (active >= run.num_active && tile < run.tiles) {    /* without any chain: to the end */
            active -= run.num_active;
            tile++;
        }
        if (tile >= run.tiles)
            return;
        list = run.lists->packed[active];
        segment = accumulator;
        low = moe_plane_row(p.up.values, list >> 16, run.first_row + tile * run.rows_of_tile);
        if (p.up.line_bytes > 0)
            Shape::Weights::enter(&line, p, list >> 16, lane);
    }

    /* To the next unit. Returns what the present one ends. */
    __device__ __forceinline__ uint32_t advance(const struct moe_cuda_product &p, const struct moe_down_run &run,
                                                int lane)
    {
        segment += MOE_ACCUMULATORS;
        if (segment < run.segments)
            return 0;
        accumulator += run.jump_accumulators;
        active += run.jump_matrices;
        if (accumulator >= run.accumulators) {
            accumulator -= run.accumulators;
            active++;
        }
        enter(p, run, lane);
        return MOE_NOTE_ENDS_SUM;
    }

    /* Begin to copy a unit, and to load its scales, and go on to the next. Without a next one bits become 0. */
    __device__ __forceinline__ void begin(struct moe_small_flight<typename Shape::Weights> *flight,
                                          const struct moe_cuda_product &p, const struct moe_down_run &run, int lane)
    {
        flight->note.place = run.tiles << MOE_DOWN_TILE;
        flight->note.bits = 0;
        if (tile < run.tiles) {
            moe_small_begin<Shape>(flight, line, rows(p, run), segment, run.row_bytes, list & 0xff, lane);
            flight->note.place = (list >> 8 & 0xff) | tile << MOE_DOWN_TILE;
            flight->note.bits |= advance(p, run, lane);
        }
        moe_copy_async_commit();
    }
};

/* A row's sums for a place, one for each accumulator, `pitch` rows apart. */
template <uint32_t pitch>
MOE_DEVICE float moe_down_y(const struct moe_cuda_product &p, const float *parts, uint32_t accumulators,
                            const struct moe_down_lists &lists, uint32_t place, uint32_t r, uint32_t row)
{
    const float *at = parts + place * accumulators * pitch + r;
    float sum = at[0];
    for (uint32_t j = 1; j < accumulators; j++)
        sum += at[j * pitch];
    return p.up.bias != NULL ? sum + p.up.bias[(size_t)lists.experts[place] * p.up.rows + row] : sum;
}

/* Row r of a tile, `row` of out, for token t: eight lanes of a warp, which take a slot each and all get the sum of
 * slots in order. All lanes of the warp together; `there`: the token is live, and the row exists. */
template <uint32_t pitch>
MOE_DEVICE struct moe_sum<1> moe_down_sum(const struct moe_small_down_params &params, const float *parts,
                                          uint32_t accumulators, const struct moe_down_lists &lists, uint32_t t,
                                          bool there, uint32_t r, uint32_t row)
{
    const struct moe_cuda_combine &c = params.combine;
    const uint32_t lane = threadIdx.x % 32;
    struct moe_sum<1> sum = {};
    for (uint32_t first = 0; first < c.top_k; first += MOE_DOWN_SLOTS) {
        const uint32_t slot = first + lane % MOE_DOWN_SLOTS, pair = t * c.top_k + slot;
        const int32_t place = there && slot < c.top_k ? lists.places[pair] : (int32_t)MOE_CUDA_SKIPPED;
        float y = 0.0f;
        if (place >= 0)
            y = moe_down_y<pitch>(params.product, parts, accumulators, lists, (uint32_t)place, r, row);
        else if (place == MOE_CUDA_ZERO)
            moe_rows_values<1>(&y, c.x, t, row, c.cols);
        const uint32_t terms = __ballot_sync(0xffffffffu, place != MOE_CUDA_SKIPPED) >> (lane & ~(MOE_DOWN_SLOTS - 1u));
        const float term = place != MOE_CUDA_SKIPPED ? __fmul_rn(lists.weights[pair], y) : 0.0f;
#pragma unroll
        for (int i = 0; i < MOE_DOWN_SLOTS; i++) {
            const float next = __shfl_sync(0xffffffffu, term, i, MOE_DOWN_SLOTS);
            if (terms >> i & 1)
                moe_sum_term<1>(sum, &next);
        }
    }
    return sum;
}

/* All chains of a tile have left their sums in parts: all threads of the block. Eight lanes share a result, for one
 * thread that adds up the sums of all slots is what everything waits for. */
template <uint32_t pitch>
MOE_DEVICE void moe_down_finish(const struct moe_small_down_params &params, const float *parts,
                                const struct moe_down_run &run, uint32_t tile, uint32_t live)
{
    const uint32_t begin = tile * run.rows_of_tile;
    const uint32_t rows = run.num_rows - begin < run.rows_of_tile ? run.num_rows - begin : run.rows_of_tile;
    const uint32_t results = rows * params.combine.num_tokens, lanes = (results * MOE_DOWN_SLOTS + 31) & ~31u;
    for (uint32_t i = threadIdx.x; i < lanes; i += blockDim.x) {
        const uint32_t result = i / MOE_DOWN_SLOTS, t = result / rows, r = result - t * rows;
        const uint32_t row = run.first_row + begin + r;
        const bool exists = result < results;
        struct moe_sum<1> sum =
            moe_down_sum<pitch>(params, parts, run.accumulators, *run.lists, t, exists && t < live, r, row);
        if (exists && i % MOE_DOWN_SLOTS == 0)
            moe_sum_finish<1>(params.combine, sum, t, t < live, row);
    }
}

/* By the first warp of a block: what the plan says. Returns each lane's pair. */
MOE_DEVICE struct moe_plan_pair moe_down_plan(struct moe_down_lists *lists, const struct moe_small_down_params &params,
                                              uint32_t lane)
{
    const struct moe_front_pair pair = moe_front_plan(params.routing, lane);
    const uint32_t matrix = (uint32_t)pair.given.matrix;
    if (lane < MOE_FRONT_PAIRS) {
        const bool weighs = !params.combine.weight_on_input || pair.given.matrix == MOE_CUDA_ZERO;
        lists->places[lane] = pair.sorted ? (int32_t)pair.place : pair.given.matrix;
        lists->weights[lane] = weighs ? pair.given.weight : 1.0f;
    }
    if (pair.sorted)
        lists->experts[pair.place] = matrix;
    if (pair.begins)
        lists->packed[pair.active] = matrix << 16 | pair.place << 8 | pair.count;
    if (lane == 0)
        lists->num_active = pair.num_active;
    return pair.given;
}

/* A token that has a matrix several times: those with more than 8 places are taken apart, from behind, so that entries
 * which have not been read stay. By one thread. */
MOE_DEVICE void moe_down_divide(struct moe_down_lists *lists)
{
    uint32_t i = lists->num_active, end = 0;
    for (uint32_t k = 0; k < i; k++)
        end += ((lists->packed[k] & 0xff) + MOE_TILE_TOKENS - 1) / MOE_TILE_TOKENS;
    lists->num_active = end;
    while (i-- > 0) {
        const uint32_t list = lists->packed[i], count = list & 0xff;
        for (uint32_t first = (count - 1) / MOE_TILE_TOKENS * MOE_TILE_TOKENS, left = count - first;;
             first -= MOE_TILE_TOKENS, left = MOE_TILE_TOKENS) {
            lists->packed[--end] = (list & ~0xffu) + (first << 8) + left;
            if (first == 0)
                break;
        }
    }
}

/* By all threads: what may be there of each index is asked for at once (small.cuh). Returns whether a matrix has more
 * than 8 places. */
MOE_DEVICE bool moe_down_load(struct moe_down_lists *lists, const struct moe_small_down_params &params)
{
    const struct moe_cuda_combine &c = params.combine;
    const struct moe_cuda_pairs &plan = params.product.pairs;
    bool many = false;
    for (uint32_t i = threadIdx.x; i < MOE_DOWN_PAIRS; i += blockDim.x) {
        const bool pair = i < c.num_tokens * c.top_k, matrix = i < moe_small_matrices(plan);
        const int32_t place = pair ? __ldcg(&c.places[i]) : (int32_t)MOE_CUDA_SKIPPED;
        const float weight = pair && c.weights != NULL ? __ldcg(&c.weights[i]) : 1.0f;
        const uint32_t start = matrix ? moe_pairs_start(plan, i) : 0, end = matrix ? moe_pairs_start(plan, i + 1) : 0;
        const uint32_t expert = matrix ? moe_pairs_matrix(plan, i) : 0, num_active = moe_pairs_active(plan);
        lists->places[i] = place;
        lists->weights[i] = c.weight_on_input && place != MOE_CUDA_ZERO ? 1.0f : weight;
        if (i == 0)
            lists->num_active = num_active;
        if (i >= num_active)
            continue;
        many = many || end - start > MOE_TILE_TOKENS;
        lists->packed[i] = expert << 16 | start << 8 | (end - start);
        for (uint32_t p = start; p < end; p++)
            lists->experts[p] = expert;
    }
    return many;
}

template <class Shape>
__global__ void __launch_bounds__(Shape::warps * 32, 1)
    moe_small_down_kernel(const __grid_constant__ moe_small_down_params params)
{
    static_assert(Shape::columns == 1, "a matrix has up to 8 tokens");
    typedef typename Shape::Weights Weights;
    constexpr int tiles = Shape::tiles;
    constexpr uint32_t pitch = tiles * MOE_TILE_ROWS;
    const struct moe_cuda_product &p = params.product;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    struct moe_small_flight<Weights> flight;
    flight.unit = moe_dynamic_shared() + warp * Shape::warp_bytes;
    float2 *table = (float2 *)(flight.unit + Shape::unit_bytes);
    unsigned char *beside = moe_dynamic_shared() + blockDim.x / 32 * Shape::warp_bytes;
    struct moe_down_lists *lists = (struct moe_down_lists *)beside;
    float *parts = (float *)(lists + 1);    /* a tile's sums by place, accumulator, row; the next tile's */

    struct moe_down_run run;
    run.first_row = blockIdx.x * params.rows_of_block;
    run.num_rows = p.up.rows - run.first_row < params.rows_of_block ? p.up.rows - run.first_row : params.rows_of_block;
    run.rows_of_tile = params.rows_of_tile;
    run.tiles = (run.num_rows + run.rows_of_tile - 1) / run.rows_of_tile;
    run.segments = (p.up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT;
    run.accumulators = run.segments < MOE_ACCUMULATORS ? run.segments : (uint32_t)MOE_ACCUMULATORS;
    run.row_bytes = moe_unit_row_bytes<Weights>(p.up.cols);
    run.jump_matrices = blockDim.x / 32 / run.accumulators;
    run.jump_accumulators = blockDim.x / 32 % run.accumulators;
    const uint32_t buffer_floats = p.pairs.num_pairs * run.accumulators * pitch;
    if (!p.planned) {
        moe_wait_for_previous();
        moe_let_next_start();
    }

    struct moe_plan_pair planned = {};
    bool many = false;
    if (!params.front)
        many = moe_down_load(lists, params);
    else if (warp == 0)
        planned = moe_down_plan(lists, params, (uint32_t)lane);
    if (__syncthreads_or(many)) {
        if (threadIdx.x == 0)
            moe_down_divide(lists);
        __syncthreads();
    }
    run.lists = lists;
    run.num_active = lists->num_active;
    struct moe_down_ahead<Shape> ahead;
    ahead.tile = 0;
    ahead.active = warp / run.accumulators;
    ahead.accumulator = warp % run.accumulators;
    ahead.enter(p, run, lane);
    ahead.begin(&flight, p, run, lane);
    if (p.planned) {
        moe_wait_for_previous();
        moe_let_next_start();
    }
    if (params.front && warp == 0 && blockIdx.x == 0)
        moe_front_publish(params.routing, planned, (uint32_t)lane);
    const uint32_t live = moe_live_tokens(params.combine.live_tokens, params.combine.num_tokens);

    float acc[1][tiles][4] = {};
    typename Shape::tokens tokens;
    tokens.sums = (float *)((unsigned char *)table + Shape::table_bytes);
    uint32_t tile = 0, parity = 0;    /* the tile that is not finished yet, and its buffer */
    for (;;) {
        const struct moe_small_note note = flight.note;
        for (; tile < note.place >> MOE_DOWN_TILE; tile++) {
            __syncthreads();
            moe_down_finish<pitch>(params, parts + parity * buffer_floats, run, tile, live);
            parity ^= 1;
        }
        if (note.bits == 0)
            return;
        const uint32_t start = note.place & 0xff, num_tokens = note.bits & MOE_NOTE_TOKENS;
        const uint32_t place = start + (g < (int)num_tokens ? g : 0);
        const uint4 *const x[1] = {(const uint4 *)moe_result_x(p, place) + t};
        tokens.take(x, note.segment * (MOE_SEGMENT / 8), 1, lane);
        moe_copy_async_wait<0>();
        __syncwarp();
        const struct moe_small_unit<Shape> w(flight, p, table, lane);
        moe_multiply<1>(acc, tokens, w.at, w.steps, lane);
        __syncwarp();
        ahead.begin(&flight, p, run, lane);
        if (!(note.bits & MOE_NOTE_ENDS_SUM))
            continue;
        float *kept = parts + parity * buffer_floats + note.segment % MOE_ACCUMULATORS * pitch;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t token = 2 * t + i % 2;
#pragma unroll
            for (int m = 0; m < tiles; m++) {
                if (token < num_tokens)
                    kept[(start + token) * run.accumulators * pitch + i / 2 * 8 * tiles + 8 * m + g] = acc[0][m][i];
                acc[0][m][i] = 0.0f;
            }
        }
    }
}

/* ---- on the host ---- */

template <class Shape>
static cudaError_t moe_small_down_launch(const struct moe_cuda_product *product, const struct moe_cuda_combine *combine,
                                         cudaStream_t stream, bool overlap)
{
    constexpr uint32_t most = Shape::tiles * MOE_TILE_ROWS;
    struct moe_small_down_params params = {*product, *combine};
    uint32_t segments = (product->up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT, rows = product->up.rows;
    uint32_t accumulators = segments < MOE_ACCUMULATORS ? segments : (uint32_t)MOE_ACCUMULATORS, warps = Shape::warps;
    if (product->front != NULL) {
        params.front = true;
        params.routing = *product->front;
    }
    if (!moe_cuda_down_takes(product, combine) || !moe_rows_good(combine->x) || !moe_rows_good(combine->out))
        return cudaErrorInvalidValue;
    if (combine->num_tokens == 0)
        return cudaSuccess;
    Shape::Weights::find_lines(&params.product);
    params.rows_of_block = (rows + product->multiprocessors - 1) / product->multiprocessors;
    uint32_t tiles = (params.rows_of_block + most - 1) / most;
    params.rows_of_tile = (params.rows_of_block + tiles - 1) / tiles;
    size_t part_bytes = (size_t)product->pairs.num_pairs * accumulators * most * sizeof(float);
    size_t beside = sizeof(struct moe_down_lists) + (tiles > 1 ? 2 : 1) * part_bytes;
    while (warps > 1 && warps * Shape::warp_bytes + beside > product->shared_bytes)
        warps--;
    uint32_t blocks = (rows + params.rows_of_block - 1) / params.rows_of_block;
    return moe_launch(moe_small_down_kernel<Shape>, blocks, warps * 32, warps * Shape::warp_bytes + beside, stream,
                      overlap, params);
}

#endif
