// SPDX-License-Identifier: MIT
// A product for many tokens on sm_90a, with its warpgroups' products (wgmma.cuh), in the order of sums of call.h.
//
// A block has a tile of 128 rows and up to 160 tokens, of formats with scales 128 and 128, 192 and 96, or 192 and 64
// (moe_wide_choice). Two or three warpgroups multiply 64 rows each with all tokens, one more copies. Weights
// are the operand in registers, taken from shared memory by the format's load; tokens, in MOE_ORDER_STEPS, are the
// operand in shared memory. Copies and products meet at barriers: of each stage of 64 columns of tokens, up to 6 deep,
// and of each unit of weights, which is a segment, or of formats that can be cut a stage. Warpgroups are not in step:
// one scales, adds or stores while another multiplies.
//
// A thread has the sums of the present accumulator, and the total of those before it, in registers; of formats with
// scales also the products of a group, and of those with terms the sums of tokens, the same for all rows, which cost as
// many products again; then totals are in shared memory, read and written once in 256 columns.
//
// bf16, 128 rows by 128 tokens, a stage: 8 products of 64 cycles on the tensor cores, 4 of each warpgroup, 4096
// operations a cycle, with 64 bytes a cycle of shared memory for tokens and 32 for weights; copies bring 32 KB, for
// which the second cache takes 1200 cycles where all multiprocessors ask at once (27 bytes a cycle, 6.2 TB/s): that is
// what bounds it. Formats with scales are bound by what a step of 32 columns is to its warpgroup, a chain of about 800
// cycles, of which the tensor cores need 256 at most: products begun and the next operands loaded and taken apart 400
// to 600, the last product's way out 70 more, 64 or 128 to scale (of 128 tokens), barriers of the stage 130, the unit's
// scales and addresses 115 to 250.
#ifndef MOE_CUDA_WIDE_CUH
#define MOE_CUDA_WIDE_CUH

#include "cuda/launch.cuh"
#include "cuda/wide_copy.cuh"
#include "cuda/wide_store.cuh"

/* Only there; elsewhere the kernel does nothing, and is not launched. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MOE_WIDE_IS_THERE 1
#include "cuda/wide_multiply.cuh"

/* ---- what multiplies ---- */

/* A tile's sums, in registers, with no more tokens than the tile has, or a few. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_sums(float *totals, struct moe_wide_warp<Shape> &warp, const struct moe_cuda_product &p,
                              const struct moe_large_tile &tile, float2 *table, typename Shape::Weights::side &side)
{
    if constexpr (n > Shape::token_step)
        if (tile.tokens <= n - Shape::token_step) {
            moe_wide_sums<Shape, n - Shape::token_step>(totals, warp, p, tile, table, side);
            return;
        }
#pragma unroll
    for (int i = 0; i < n / 2; i++)
        totals[i] = -0.0f;
#pragma unroll 1
    for (uint32_t j = 0; j < MOE_ACCUMULATORS && j < warp.segments; j++) {
        float sums[n / 2];
        if constexpr (Shape::scaled)
            moe_wide_chain_scaled<Shape, n>(sums, warp, j, p, tile, table, side);
        else
            moe_wide_chain<Shape, n>(sums, warp, j, p, tile);
#pragma unroll
        for (int i = 0; i < n / 2; i++)
            totals[i] = totals[i] + sums[i];
    }
}

/* Totals in registers: results go through shared memory, since the code that stores them is to be there once. kept:
 * this thread's. */
template <class Shape>
MOE_DEVICE void moe_wide_store_totals(const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                      unsigned char *staged, const float (&totals)[Shape::sums], float4 *kept)
{
    constexpr int chunk = Shape::stored_fours;
    const struct moe_wide_results results = moe_wide_results_of<Shape::stored_fours>(p, tile, staged);
#pragma unroll 1
    for (int first = 0; first < Shape::fours && 8 * first < (int)tile.tokens; first += chunk) {
#pragma unroll
        for (int k = 0; k < Shape::fours; k += chunk)
            if (k == first)
#pragma unroll
                for (int i = k; i < k + chunk && i < Shape::fours; i++)
                    kept[(i - k) * Shape::multipliers] =
                        make_float4(totals[4 * i], totals[4 * i + 1], totals[4 * i + 2], totals[4 * i + 3]);
        moe_wide_store<chunk>(p, results, 8 * first, kept, Shape::multipliers);
    }
}

/* A tile's sums, of formats that keep totals in shared memory. */
template <class Shape, int n>
MOE_DEVICE void moe_wide_sums_kept(float4 *kept, struct moe_wide_warp<Shape> &warp, const struct moe_cuda_product &p,
                                   const struct moe_large_tile &tile, float2 *table,
                                   typename Shape::Weights::side &side)
{
    if constexpr (n > Shape::token_step)
        if (tile.tokens <= n - Shape::token_step) {
            moe_wide_sums_kept<Shape, n - Shape::token_step>(kept, warp, p, tile, table, side);
            return;
        }
#pragma unroll 1
    for (uint32_t j = 0; j < MOE_ACCUMULATORS && j < warp.segments; j++) {
        float sums[n / 2];
        moe_wide_chain_scaled<Shape, n>(sums, warp, j, p, tile, table, side);
#pragma unroll
        for (int i = 0; i < n / 8; i++) {
            float4 total = make_float4(-0.0f, -0.0f, -0.0f, -0.0f);
            if (j > 0)
                total = kept[i * Shape::multipliers];
            total.x = total.x + sums[4 * i], total.y = total.y + sums[4 * i + 1];
            total.z = total.z + sums[4 * i + 2], total.w = total.w + sums[4 * i + 3];
            kept[i * Shape::multipliers] = total;
        }
    }
}

/* What such formats have kept of a tile. */
template <class Shape>
MOE_DEVICE void moe_wide_store_kept(const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                    unsigned char *staged, const float4 *kept)
{
    const struct moe_wide_results results = moe_wide_results_of<Shape::stored_fours>(p, tile, staged);
#pragma unroll 1
    for (uint32_t first = 0; first < tile.tokens; first += 8 * Shape::stored_fours)
        moe_wide_store<Shape::stored_fours>(p, results, first, kept + first / 8 * Shape::multipliers,
                                            Shape::multipliers);
}

/* Tile `number`, once it is in the queue. */
template <class Shape>
MOE_DEVICE struct moe_large_tile moe_wide_await_tile(const struct moe_wide_params &params, unsigned char *shared,
                                                     uint32_t barriers, uint32_t number)
{
    const uint32_t at = number % MOE_WIDE_QUEUE;
    moe_phase_wait(barriers + 8 * (MOE_WIDE_TILE + at), number / MOE_WIDE_QUEUE % 2);
    struct moe_large_tile tile = moe_wide_queue_at<Shape>(params, shared)->tiles[at];
    tile.tokens = __shfl_sync(0xffffffffu, tile.tokens, 0);    /* for ptxas, as in moe_wide_kernel */
    return tile;
}

/* The warps that multiply. */
template <class Shape>
MOE_DEVICE void moe_wide_multiply_tiles(const struct moe_wide_params &params, unsigned char *shared, uint32_t num_tiles)
{
    const struct moe_cuda_product &p = params.product;
    const uint32_t index = threadIdx.x / 32;
    struct moe_wide_warp<Shape> warp;
    warp.shared = shared, warp.staged = shared + params.staged_at;
    warp.barriers = moe_shared_address(shared + params.barriers_at);
    warp.stages = params.stages, warp.units = params.units, warp.units_at = params.units_at;
    warp.cols = p.up.cols, warp.segments = (p.up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT;
    warp.x = warp.unit = {0, 0};
    warp.released = 0;
    warp.warp = index;
    warp.lane = threadIdx.x % 32;
    float4 *kept = (float4 *)(shared + params.kept_at) + threadIdx.x;
    float2 *table = (float2 *)(shared + params.tables_at + index * Shape::table_bytes);
    struct moe_large_tile tile = moe_wide_await_tile<Shape>(params, shared, warp.barriers, 0);
    typename Shape::Weights::side side;
    if (Shape::scaled)
        Shape::Weights::template fetch<1>(&side, moe_wide_unit_rows<Shape>(p, tile, index, 0), 0, warp.lane);
#pragma unroll 1
    for (uint32_t number = 0; number < num_tiles; number++) {
        const struct moe_large_tile present = tile;
        float totals[Shape::sums];
        if constexpr (Shape::keeps_totals)
            moe_wide_sums_kept<Shape, Shape::tokens>(kept, warp, p, present, table, side);
        else
            moe_wide_sums<Shape, Shape::tokens>(totals, warp, p, present, table, side);
        if (number + 1 < num_tiles) {    /* scales of the next tile are on their way while this one is stored */
            tile = moe_wide_await_tile<Shape>(params, shared, warp.barriers, number + 1);
            if (Shape::scaled)
                Shape::Weights::template fetch<1>(&side, moe_wide_unit_rows<Shape>(p, tile, index, 0), 0, warp.lane);
        }
        if constexpr (Shape::keeps_totals)
            moe_wide_store_kept<Shape>(p, present, warp.staged, kept);
        else
            moe_wide_store_totals<Shape>(p, present, warp.staged, totals, kept);
    }
}

/* ---- what copies ---- */

/* A segment of a tile: its unit, or slices, and its stages. */
template <class Shape>
MOE_DEVICE void moe_wide_copy_segment(const struct moe_wide_params &params, unsigned char *shared, uint32_t barriers,
                                      const struct moe_wide_feed<Shape> &feed, struct moe_wide_ring *x,
                                      struct moe_wide_ring *unit, uint32_t segment, uint32_t thread)
{
    const uint32_t cols = params.product.up.cols, begin = segment * MOE_SEGMENT;
    const uint32_t end = begin + moe_wide_segment_cols<Shape>(cols, segment);
    if (!Shape::sliced) {
        moe_phase_wait(barriers + 8 * (MOE_WIDE_UNIT_FREE + unit->at), unit->parity);
        moe_wide_copy_unit<Shape>(shared + params.units_at + unit->at * Shape::unit_bytes, feed, segment, cols - begin,
                                  thread);
        moe_phase_arrive_after_copies(barriers + 8 * (MOE_WIDE_UNIT_ARRIVED + unit->at));
        unit->next(params.units);
    }
#pragma unroll 1
    for (uint32_t column = begin; column < end; column += MOE_WIDE_COLS) {
        moe_phase_wait(barriers + 8 * (MOE_WIDE_FREE + x->at), x->parity);
        moe_wide_copy_x<Shape>(shared + x->at * Shape::x_bytes, feed, column, thread);
        if (Shape::sliced)
            moe_wide_copy_slice<Shape>(shared + params.units_at + x->at * Shape::unit_bytes, feed, column,
                                       cols - column, thread);
        moe_phase_arrive_after_copies(barriers + 8 * (MOE_WIDE_ARRIVED + x->at));
        x->next(params.stages);
    }
}

/* The warps that copy. The next tile is looked for while the first segment of the present one is on its way. */
template <class Shape>
MOE_DEVICE void moe_wide_copy_tiles(const struct moe_wide_params &params, unsigned char *shared, uint32_t num_tiles)
{
    const uint32_t thread = threadIdx.x - Shape::multipliers;
    const uint32_t segments = (params.product.up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT;
    const uint32_t barriers = moe_shared_address(shared + params.barriers_at);
    struct moe_wide_ring x = {0, 1}, unit = {0, 1};    /* both are free */
    moe_wide_enter<Shape>(params, shared, 0, thread);
#pragma unroll 1
    for (uint32_t number = 0; number < num_tiles; number++) {
        moe_barrier(MOE_WIDE_COPIERS_BARRIER, MOE_WIDE_COPIERS);
        if (thread == 0)
            moe_phase_arrive(barriers + 8 * (MOE_WIDE_TILE + number % MOE_WIDE_QUEUE));
        struct moe_wide_feed<Shape> feed;
        feed.find(params.product, *moe_wide_queue_at<Shape>(params, shared), number, thread);
        uint32_t segment = 0;
#pragma unroll 1
        for (uint32_t i = 0; i < segments; i++) {
            moe_wide_copy_segment<Shape>(params, shared, barriers, feed, &x, &unit, segment, thread);
            if (i == 0 && number + 1 < num_tiles)
                moe_wide_enter<Shape>(params, shared, number + 1, thread);
            segment += MOE_ACCUMULATORS;
            if (segment >= segments)
                segment = segment % MOE_ACCUMULATORS + 1;
        }
    }
}
#endif

template <class Shape>
__global__ void __launch_bounds__(Shape::threads, 1)
    moe_wide_kernel(const __grid_constant__ moe_wide_params params)
{
#if defined(MOE_WIDE_IS_THERE)
    const struct moe_cuda_product &p = params.product;
    unsigned char *unaligned = moe_dynamic_shared();
    unsigned char *shared = unaligned + (-moe_shared_address(unaligned) & 1023);
    const uint32_t barriers = moe_shared_address(shared + params.barriers_at);
    if (threadIdx.x < MOE_WIDE_BARRIERS) {
        const uint32_t i = threadIdx.x;
        const bool arrived = i < MOE_WIDE_FREE || (i >= MOE_WIDE_UNIT_ARRIVED && i < MOE_WIDE_UNIT_FREE);
        moe_phase_init(barriers + 8 * i, i >= MOE_WIDE_TILE ? 1 : arrived ? MOE_WIDE_COPIERS : Shape::warps);
    }
    moe_wait_for_previous();
    moe_let_next_start();
    const uint32_t items =
        moe_large_list_fill<Shape::tokens>(moe_large_list_at(shared + params.list_at, p.pairs.num_matrices), p.pairs,
                                           params.row_tiles, (uint32_t *)(shared + params.warps_at));
    if (blockIdx.x >= items)
        return;
    /* ptxas is to know that all threads of a warp go the same way: otherwise it lets no two products run at once. */
    const uint32_t num_tiles = __shfl_sync(0xffffffffu, (items - blockIdx.x + gridDim.x - 1) / gridDim.x, 0);
    if (__shfl_sync(0xffffffffu, threadIdx.x, 0) >= Shape::multipliers) {
        moe_registers_give<Shape::copier_registers>();
        moe_wide_copy_tiles<Shape>(params, shared, num_tiles);
    } else {
        moe_registers_take<Shape::registers>();
        moe_wide_multiply_tiles<Shape>(params, shared, num_tiles);
    }
#else
    (void)params;
#endif
}

/* Launch parameters, and how much shared memory; the deepest ring that fits. False: none does, or tiles can not be
 * counted in 32 bits, or rows of h not be written 16 bytes at a time. */
template <class Shape>
static inline bool moe_wide_plan(struct moe_wide_params *params, size_t *shared_bytes,
                                 const struct moe_cuda_product *product)
{
    const uint32_t step = product->gated ? Shape::rows / 2 : Shape::rows;
    params->product = *product;
    params->row_tiles = product->up.rows / step + (product->up.rows % step != 0);
    const uint64_t token_tiles = (uint64_t)product->pairs.num_pairs / Shape::tokens + product->pairs.num_matrices;
    if (params->row_tiles * token_tiles > UINT32_MAX - product->multiprocessors ||
        (product->activated && (product->h_stride % 8 != 0 || ((uintptr_t)product->h & 15) != 0)))
        return false;
    if (product->up.values.stride > UINT32_MAX / 16 ||
        (product->gated && product->gate.values.stride > UINT32_MAX / 16))
        return false;
    for (uint32_t stages = MOE_WIDE_STAGES; stages >= MOE_WIDE_LEAST_STAGES; stages--) {
        *shared_bytes = moe_wide_lay_out<Shape>(params, stages);
        if (*shared_bytes <= product->shared_bytes)
            return true;
    }
    return false;
}

template <class Shape> static inline bool moe_wide_takes(const struct moe_cuda_product *product)
{
    struct moe_wide_params params;
    size_t shared_bytes;
    return moe_wide_plan<Shape>(&params, &shared_bytes, product);
}

template <class Shape>
static inline cudaError_t moe_wide_launch(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
{
    struct moe_wide_params params;
    size_t shared_bytes;
    if (!moe_wide_plan<Shape>(&params, &shared_bytes, product))
        return cudaErrorInvalidValue;
    return moe_launch(moe_wide_kernel<Shape>, product->multiprocessors, Shape::threads, shared_bytes, stream, overlap,
                      params);
}

#endif
