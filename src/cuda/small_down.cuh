// SPDX-License-Identifier: MIT
// down and combine in one launch, for few tokens: at most 64 pairs, 8 of a matrix. The bits are those of small.cuh and
// combine.cu, one after the other.
//
// A block owns a run of rows for all matrices, as many as any other block, in tiles of up to 16: 2048 rows on 132
// multiprocessors are 128 blocks of 16, 2880 are 131 of 22, in two tiles of 11. So the sum over a token's experts stays
// in the block. In a tile each (matrix, accumulator) is a chain of units (call.h); warp w takes chains w, w + warps,
// ..., counted through all tiles, by a ring as in small.cuh, which runs ahead into the next tile. What a chain gives
// goes to shared memory, by place; when all of a tile are there, a thread for each token and row adds accumulators,
// then slots, and writes out. Meanwhile the others go on with the next tile.
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

enum {
    MOE_DOWN_SLOTS = 8,
    MOE_DOWN_BARRIER = 1    /* warps meet in different stages of their rings, which is not one __syncthreads for all */
};

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
    uint32_t segments, accumulators, chains, warps;
    struct moe_down_lists lists;
};

/* Where a warp is: in which unit of a chain of a tile. items: 1 while there is one. */
template <class Shape> struct moe_down_place : moe_small_place<Shape> {
    uint32_t tile, chain;

    __device__ __forceinline__ void enter(const struct moe_cuda_product &p, const struct moe_down_run &run)
    {
        while (chain >= run.chains && tile < run.tiles) {    /* without any chain: to the end */
            chain -= run.chains;
            tile++;
        }
        this->items = tile < run.tiles;
        if (this->items == 0)
            return;
        uint32_t a = chain / run.accumulators, list = run.lists.get(a), begin = tile * run.rows_of_tile;
        uint32_t rows = run.num_rows - begin < run.rows_of_tile ? run.num_rows - begin : run.rows_of_tile;
        this->accumulator = this->segment = chain - a * run.accumulators;
        this->start = list >> 8 & 0xff;
        this->num_tokens = list & 0xff;
        this->rows.expert = list >> 16;
        this->rows.low_row = run.first_row + begin;
        this->rows.high_row = this->rows.low_row + 8;
        this->rows.low_left = rows < 8 ? rows : 8;
        this->rows.high_left = rows < 8 ? 0 : rows - 8;
        this->rows.low_stack = this->rows.high_stack = &p.up;
        this->rows.low = moe_plane_row(p.up.values, this->rows.expert, this->rows.low_row);
        this->rows.high = this->rows.low + 8 * p.up.values.stride;
        this->rows.low_stride = this->rows.high_stride = p.up.values.stride;
        this->rows.pitch = Shape::Weights::pitch;
    }

    /* To the next unit. True: that was the last one of the chain. */
    __device__ __forceinline__ bool advance(const struct moe_cuda_product &p, const struct moe_down_run &run)
    {
        this->segment += MOE_ACCUMULATORS;
        if (this->segment < run.segments)
            return false;
        chain += run.warps;
        enter(p, run);
        return true;
    }
};

/* A row's sums for a place, one for each accumulator, 16 rows apart. */
MOE_DEVICE float moe_down_y(const struct moe_cuda_product &p, const float *parts, uint32_t accumulators,
                            const struct moe_down_pairs &pairs, uint32_t place, uint32_t r, uint32_t row)
{
    const float *at = parts + place * accumulators * MOE_TILE_ROWS + r;
    float sum = at[0];
    for (uint32_t j = 1; j < accumulators; j++)
        sum += at[j * MOE_TILE_ROWS];
    return p.up.bias != NULL ? sum + p.up.bias[(size_t)pairs.experts[place] * p.up.rows + row] : sum;
}

/* Row r of a tile, `row` of out, for token t. */
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
                y[i] = moe_down_y(params.product, parts, accumulators, pairs, (uint32_t)place[i], r, row);
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
MOE_DEVICE void moe_down_finish(const struct moe_small_down_params &params, const float *parts,
                                const struct moe_down_run &run, const struct moe_down_pairs &pairs, uint32_t tile,
                                uint32_t live)
{
    const uint32_t begin = tile * run.rows_of_tile;
    const uint32_t rows = run.num_rows - begin < run.rows_of_tile ? run.num_rows - begin : run.rows_of_tile;
    const uint32_t results = rows * params.combine.num_tokens;
    for (uint32_t i = threadIdx.x; i < results; i += blockDim.x) {
        uint32_t t = i / rows, r = i - t * rows;
        moe_down_token(params, parts, run.accumulators, pairs, t, t < live, r, run.first_row + begin + r);
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
    static_assert(Shape::tiles == 1 && Shape::columns == 1, "a unit is 16 rows, a matrix has up to 8 tokens");
    typedef typename Shape::Weights Weights;
    constexpr int stages = Shape::stages;
    const struct moe_cuda_product &p = params.product;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    unsigned char *ring = moe_dynamic_shared() + warp * Shape::warp_bytes;
    float2 *table = (float2 *)(ring + Shape::ring_bytes);
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
    run.warps = blockDim.x / 32;
    const uint32_t row_bytes = (p.up.cols / MOE_SEGMENT) * Weights::segment_bytes +
                               (p.up.cols % MOE_SEGMENT) * Weights::segment_bytes / MOE_SEGMENT;
    const uint32_t buffer_floats = p.pairs.num_pairs * run.accumulators * MOE_TILE_ROWS;
    moe_let_next_start();
    moe_down_wait_for_plan();

    run.lists.load(p.pairs, lane);
    run.chains = run.lists.num_active * run.accumulators;
    struct moe_down_place<Shape> ahead, here;
    here.tile = 0;
    here.chain = warp;
    here.enter(p, run);
    ahead = here;
    typename Weights::side sides[stages];
#pragma unroll
    for (int s = 0; s < stages; s++) {
        moe_small_copy<Shape>(ring + s * Shape::unit_bytes, ahead, row_bytes, &sides[s], lane);
        if (ahead.items > 0)
            ahead.advance(p, run);
    }
    moe_wait_for_previous();
    moe_down_load_pairs(&pairs, params);
    const uint32_t live = moe_live_tokens(params.combine.live_tokens, params.combine.num_tokens);

    float acc[1][4] = {};
    struct moe_tokens<Weights, true> tokens;
    tokens.sums = (float *)((unsigned char *)table + Shape::table_bytes);
    uint32_t tile = 0, parity = 0;    /* the tile that is not finished yet, and its buffer */
    for (bool done = false; !done;) {
#pragma unroll
        for (int s = 0; s < stages; s++) {
            for (; tile < here.tile; tile++) {
                moe_barrier(MOE_DOWN_BARRIER, (int)blockDim.x);
                moe_down_finish(params, parts + parity * buffer_floats, run, pairs, tile, live);
                parity ^= 1;
            }
            done = here.items == 0;
            if (done)
                break;
            unsigned char *unit = ring + s * Shape::unit_bytes;
            const uint32_t place = here.start + (g < (int)here.num_tokens ? g : 0);
            tokens.take((const uint4 *)moe_result_x(p, place) + t + here.segment * (MOE_SEGMENT / 8), lane);
            moe_copy_async_wait<stages - 1>();
            __syncwarp();
            const struct moe_small_unit<Shape> w(unit, here, p.up.cols, table, sides[s], lane);
            moe_multiply<Weights, 1>(acc, tokens, w.at, w.steps, lane);
            __syncwarp();
            moe_small_copy<Shape>(unit, ahead, row_bytes, &sides[s], lane);
            if (ahead.items > 0)
                ahead.advance(p, run);

            const struct moe_down_place<Shape> now = here;
            if (!here.advance(p, run))
                continue;
            float *kept = parts + parity * buffer_floats + now.accumulator * MOE_TILE_ROWS;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t token = 2 * t + i % 2;
                if (token < now.num_tokens)
                    kept[(now.start + token) * run.accumulators * MOE_TILE_ROWS + g + i / 2 * 8] = acc[0][i];
                acc[0][i] = 0.0f;
            }
        }
    }
}

/* ---- on the host ---- */

template <class Shape>
static cudaError_t moe_small_down_launch(const struct moe_cuda_product *product, const struct moe_cuda_combine *combine,
                                         cudaStream_t stream, bool overlap)
{
    struct moe_small_down_params params = {*product, *combine, 0, 0};
    uint32_t segments = (product->up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT, rows = product->up.rows;
    uint32_t accumulators = segments < MOE_ACCUMULATORS ? segments : (uint32_t)MOE_ACCUMULATORS, warps = Shape::warps;
    if (!moe_cuda_down_takes(product, combine) || !moe_rows_good(combine->x) || !moe_rows_good(combine->out))
        return cudaErrorInvalidValue;
    if (combine->num_tokens == 0)
        return cudaSuccess;
    params.rows_of_block = (rows + product->multiprocessors - 1) / product->multiprocessors;
    uint32_t tiles = (params.rows_of_block + MOE_TILE_ROWS - 1) / MOE_TILE_ROWS;
    params.rows_of_tile = (params.rows_of_block + tiles - 1) / tiles;
    size_t part_bytes = (size_t)product->pairs.num_pairs * accumulators * MOE_TILE_ROWS * sizeof(float);
    size_t beside = sizeof(struct moe_down_pairs) + (tiles > 1 ? 2 : 1) * part_bytes;
    while (warps > 1 && warps * Shape::warp_bytes + beside > product->shared_bytes)
        warps--;
    uint32_t blocks = (rows + params.rows_of_block - 1) / params.rows_of_block;
    return moe_launch(moe_small_down_kernel<Shape>, blocks, warps * 32, warps * Shape::warp_bytes + beside, stream,
                      overlap, params);
}

#endif
