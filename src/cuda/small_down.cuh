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
};

/* Pairs as the finish wants them, in shared memory. */
struct moe_down_pairs {
    int32_t places[MOE_DOWN_PAIRS];
    float weights[MOE_DOWN_PAIRS];
    uint32_t experts[MOE_DOWN_PAIRS];   /* by place */
};

/* The matrices that have pairs, lane i of a warp those at i and 32 + i: matrix, first place, number of places. */
struct moe_down_lists {
    uint32_t num_active, packed[2];

    __device__ __forceinline__ void load(const struct moe_cuda_pairs &pairs, int lane)
    {
        num_active = (uint32_t)*pairs.num_active;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t a = 32 * i + lane;
            packed[i] = 0;
            if (a >= pairs.num_matrices)
                continue;
            uint32_t start = (uint32_t)pairs.starts[a], end = (uint32_t)pairs.starts[a + 1];
            packed[i] = (uint32_t)pairs.active[a] << 16 | (start & 0xff) << 8 | ((end - start) & 0xff);
        }
    }

    /* All lanes of a warp together, of the same a. */
    __device__ __forceinline__ uint32_t get(uint32_t a) const
    {
        return __shfl_sync(0xffffffffu, a < 32 ? packed[0] : packed[1], (int)(a % 32));
    }
};

/* What does not change during a call of the kernel. */
struct moe_down_run {
    uint32_t first_row, num_rows;       /* of the block */
    uint32_t tiles, rows_of_tile;
    uint32_t segments, accumulators, row_bytes;
    uint32_t jump_matrices, jump_accumulators;    /* from a warp's chain to its next */
    struct moe_down_lists lists;
};

/* Where a warp is: what it copies next. A note's place has the tile in its upper half. */
enum { MOE_DOWN_TILE = 16 };
template <class Shape> struct moe_down_ahead {
    uint32_t tile, active, accumulator, segment;
    uint32_t list;                      /* of the matrix: moe_down_lists */
    const unsigned char *low;           /* the tile's first row */

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

    __device__ __forceinline__ void enter(const struct moe_cuda_product &p, const struct moe_down_run &run)
    {
        while (active >= run.lists.num_active && tile < run.tiles) {    /* without any chain: to the end */
            active -= run.lists.num_active;
            tile++;
        }
        if (tile >= run.tiles)
            return;
        list = run.lists.get(active);
        segment = accumulator;
        low = moe_plane_row(p.up.values, list >> 16, run.first_row + tile * run.rows_of_tile);
    }

    /* To the next unit. Returns what the present one ends. */
    __device__ __forceinline__ uint32_t advance(const struct moe_cuda_product &p, const struct moe_down_run &run)
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
        enter(p, run);
        return MOE_NOTE_ENDS_SUM;
    }

    /* Begin to copy a unit, and to load its scales, and go on to the next. */
    __device__ __forceinline__ struct moe_small_note begin(unsigned char *unit, typename Shape::Weights::side *side,
                                                           const struct moe_cuda_product &p,
                                                           const struct moe_down_run &run, int lane)
    {
        struct moe_small_note note = {run.tiles << MOE_DOWN_TILE, 0, 0, 0};
        if (tile < run.tiles) {
            note = moe_small_begin<Shape>(unit, side, rows(p, run), segment, run.row_bytes, list & 0xff, lane);
            note.place = (list >> 8 & 0xff) | tile << MOE_DOWN_TILE;
            note.bits |= advance(p, run);
        }
        return note;
    }
};

/* A row's sums for a place, one for each accumulator, `pitch` rows apart. */
template <uint32_t pitch>
MOE_DEVICE float moe_down_y(const struct moe_cuda_product &p, const float *parts, uint32_t accumulators,
                            const struct moe_down_pairs &pairs, uint32_t place, uint32_t r, uint32_t row)
{
    const float *at = parts + place * accumulators * pitch + r;
    float sum = at[0];
    for (uint32_t j = 1; j < accumulators; j++)
        sum += at[j * pitch];
    return p.up.bias != NULL ? sum + p.up.bias[(size_t)pairs.experts[place] * p.up.rows + row] : sum;
}

/* Row r of a tile, `row` of out, for token t. */
template <uint32_t pitch>
MOE_DEVICE void moe_down_token(const struct moe_small_down_params &params, const float *parts, uint32_t accumulators,
                               const struct moe_down_pairs &pairs, uint32_t t, bool live, uint32_t r, uint32_t row)
{
    const struct moe_cuda_combine &c = params.combine;
    const uint32_t begin = t * c.top_k, slots = live ? c.top_k : 0;
    struct moe_sum<1> sum = {};
    for (uint32_t first = 0; first < slots; first += MOE_DOWN_SLOTS) {
        int32_t place[MOE_DOWN_SLOTS];
        float y[MOE_DOWN_SLOTS], weight[MOE_DOWN_SLOTS];
#pragma unroll
        for (uint32_t i = 0; i < MOE_DOWN_SLOTS; i++) {
            bool there = first + i < slots;
            place[i] = there ? pairs.places[begin + first + i] : (int32_t)MOE_CUDA_SKIPPED;
            weight[i] = there ? pairs.weights[begin + first + i] : 0.0f;
        }
#pragma unroll
        for (uint32_t i = 0; i < MOE_DOWN_SLOTS; i++)
            if (place[i] >= 0)
                y[i] = moe_down_y<pitch>(params.product, parts, accumulators, pairs, (uint32_t)place[i], r, row);
            else if (place[i] == MOE_CUDA_ZERO)
                moe_rows_values<1>(&y[i], c.x, t, row, c.cols);
#pragma unroll
        for (uint32_t i = 0; i < MOE_DOWN_SLOTS; i++)
            if (place[i] != MOE_CUDA_SKIPPED)
                moe_sum_add<1>(sum, &y[i], weight[i]);
    }
    moe_sum_finish<1>(c, sum, t, live, row);
}

/* All chains of a tile have left their sums in parts: all threads of the block. */
template <uint32_t pitch>
MOE_DEVICE void moe_down_finish(const struct moe_small_down_params &params, const float *parts,
                                const struct moe_down_run &run, const struct moe_down_pairs &pairs, uint32_t tile,
                                uint32_t live)
{
    const uint32_t begin = tile * run.rows_of_tile;
    const uint32_t rows = run.num_rows - begin < run.rows_of_tile ? run.num_rows - begin : run.rows_of_tile;
    const uint32_t results = rows * params.combine.num_tokens;
    for (uint32_t i = threadIdx.x; i < results; i += blockDim.x) {
        uint32_t t = i / rows, r = i - t * rows;
        moe_down_token<pitch>(params, parts, run.accumulators, pairs, t, t < live, r, run.first_row + begin + r);
    }
}

MOE_DEVICE void moe_down_load_pairs(struct moe_down_pairs *pairs, const struct moe_small_down_params &params)
{
    const struct moe_cuda_combine &c = params.combine;
    const struct moe_cuda_pairs &plan = params.product.pairs;
    const uint32_t i = threadIdx.x;
    if (i < c.num_tokens * c.top_k) {
        pairs->places[i] = c.places[i];
        pairs->weights[i] = moe_sum_weight(c, i, c.places[i] == MOE_CUDA_ZERO);
    }
    if (i < (uint32_t)*plan.num_active)
        for (int32_t place = plan.starts[i]; place < plan.starts[i + 1]; place++)
            pairs->experts[place] = (uint32_t)plan.active[i];
}

/* The lists of the plan may be read from here on: they come from a kernel before the last one, but that may not be done
 * either where launches overlap. What a kernel before it is known to have waited for can be read earlier: then weights
 * are on their way before h is there. */
MOE_DEVICE void moe_down_wait_for_plan(void)
{
    moe_wait_for_previous();
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
    unsigned char *unit = moe_dynamic_shared() + warp * Shape::warp_bytes;
    float2 *table = (float2 *)(unit + Shape::unit_bytes);
    unsigned char *beside = moe_dynamic_shared() + blockDim.x / 32 * Shape::warp_bytes;
    struct moe_down_pairs &pairs = *(struct moe_down_pairs *)beside;
    float *parts = (float *)(&pairs + 1);    /* a tile's sums by place, accumulator, row; the next tile's */

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
    moe_let_next_start();
    moe_down_wait_for_plan();

    run.lists.load(p.pairs, lane);
    struct moe_down_ahead<Shape> ahead;
    ahead.tile = 0;
    ahead.active = warp / run.accumulators;
    ahead.accumulator = warp % run.accumulators;
    ahead.enter(p, run);
    typename Weights::side side;
    struct moe_small_note next = ahead.begin(unit, &side, p, run, lane);
    moe_wait_for_previous();
    moe_down_load_pairs(&pairs, params);
    const uint32_t live = moe_live_tokens(params.combine.live_tokens, params.combine.num_tokens);

    float acc[tiles][4] = {};
    struct moe_tokens<Weights, true> tokens;
    tokens.sums = (float *)((unsigned char *)table + Shape::table_bytes);
    uint32_t tile = 0, parity = 0;    /* the tile that is not finished yet, and its buffer */
    for (;;) {
        const struct moe_small_note note = next;
        for (; tile < note.place >> MOE_DOWN_TILE; tile++) {
            __syncthreads();
            moe_down_finish<pitch>(params, parts + parity * buffer_floats, run, pairs, tile, live);
            parity ^= 1;
        }
        if (note.bits == 0)
            return;
        const uint32_t start = note.place & 0xff, num_tokens = note.bits & MOE_NOTE_TOKENS;
        const uint32_t place = start + (g < (int)num_tokens ? g : 0);
        tokens.take((const uint4 *)moe_result_x(p, place) + t + note.segment * (MOE_SEGMENT / 8), lane);
        moe_copy_async_wait<0>();
        __syncwarp();
        const struct moe_small_unit<Shape> w(unit, p, note, table, side, lane);
        moe_multiply<Weights, tiles>(acc, tokens, w.at, w.steps, lane);
        __syncwarp();
        next = ahead.begin(unit, &side, p, run, lane);
        if (!(note.bits & MOE_NOTE_ENDS_SUM))
            continue;
        float *kept = parts + parity * buffer_floats + note.segment % MOE_ACCUMULATORS * pitch;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t token = 2 * t + i % 2;
#pragma unroll
            for (int m = 0; m < tiles; m++) {
                if (token < num_tokens)
                    kept[(start + token) * run.accumulators * pitch + i / 2 * 8 * tiles + 8 * m + g] = acc[m][i];
                acc[m][i] = 0.0f;
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
    struct moe_small_down_params params = {*product, *combine, 0, 0};
    uint32_t segments = (product->up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT, rows = product->up.rows;
    uint32_t accumulators = segments < MOE_ACCUMULATORS ? segments : (uint32_t)MOE_ACCUMULATORS, warps = Shape::warps;
    if (!moe_cuda_down_takes(product, combine) || !moe_rows_good(combine->x) || !moe_rows_good(combine->out))
        return cudaErrorInvalidValue;
    if (combine->num_tokens == 0)
        return cudaSuccess;
    params.rows_of_block = (rows + product->multiprocessors - 1) / product->multiprocessors;
    uint32_t tiles = (params.rows_of_block + most - 1) / most;
    params.rows_of_tile = (params.rows_of_block + tiles - 1) / tiles;
    size_t part_bytes = (size_t)product->pairs.num_pairs * accumulators * most * sizeof(float);
    size_t beside = sizeof(struct moe_down_pairs) + (tiles > 1 ? 2 : 1) * part_bytes;
    while (warps > 1 && warps * Shape::warp_bytes + beside > product->shared_bytes)
        warps--;
    uint32_t blocks = (rows + params.rows_of_block - 1) / params.rows_of_block;
    return moe_launch(moe_small_down_kernel<Shape>, blocks, warps * 32, warps * Shape::warp_bytes + beside, stream,
                      overlap, params);
}

#endif
