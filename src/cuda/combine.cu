// SPDX-License-Identifier: MIT
// combine.h alone in a launch. A thread has four columns of a token, or of a pair: 16 bytes of each row of y in f32, up
// to 8 of them under way. Bound by memory: top_k * 4 bytes are read for each value of out, all else is small beside it;
// with few tokens it is bound by two latencies, places and then y, and spread over many blocks for the caches' ports.
#include "cuda/combine.cuh"
#include "cuda/launch.cuh"
#include "cuda/prepare.cuh"

enum { COLUMNS = 4, SLOTS = 8, MAX_THREADS = 256, FEW_BLOCKS = 256 };

struct combine_params {
    struct moe_cuda_combine c;
    uint32_t tiles;               /* blocks of a row */
};

MOE_DEVICE int32_t place_of(const struct moe_cuda_combine &c, uint64_t pair)
{
    return c.places != NULL ? c.places[pair] : 0;
}

/* The row of y for a pair that is not skipped. */
MOE_DEVICE const unsigned char *row_of(const struct moe_cuda_combine &c, uint64_t pair, int32_t place)
{
    return c.y.data + (c.by_pair ? pair : (uint64_t)place) * c.y.stride;
}

/* Pairs first .. end - 1, one after another, whatever they are. */
template <int format>
MOE_DEVICE void add_pairs(const struct moe_cuda_combine &c, struct moe_sum<COLUMNS> &sum, uint32_t t, uint32_t column,
                          uint64_t first, uint64_t end)
{
    const bool wide = moe_rows_aligned(c.y, COLUMNS * moe_rows_bytes(format));
#pragma unroll 1
    for (uint64_t pair = first; pair < end; pair++) {
        float values[COLUMNS];
        int32_t place = place_of(c, pair);
        bool zero_expert = place == MOE_CUDA_ZERO && !c.by_pair;
        if (place == MOE_CUDA_SKIPPED)
            continue;
        if (zero_expert)
            moe_rows_values<COLUMNS>(values, c.x, t, column, c.cols);
        else
            moe_four_values<format>(values, row_of(c, pair, place), column, c.cols, wide);
        moe_sum_add<COLUMNS>(sum, values, moe_sum_weight(c, pair, zero_expert));
    }
}

/* The same for pairs first .. first + count - 1, at most SLOTS, with all loads under way at once: whole aligned pieces,
 * no zero experts. False: there is one, and nothing has been done. */
template <int format>
MOE_DEVICE bool add_pairs_fast(const struct moe_cuda_combine &c, struct moe_sum<COLUMNS> &sum, uint32_t column,
                               uint64_t first, uint32_t count)
{
    struct moe_four<format> y[SLOTS];
    int32_t place[SLOTS];
    float weight[SLOTS];
    bool zero_experts = false;
#pragma unroll
    for (uint32_t i = 0; i < SLOTS; i++) {
        place[i] = i < count ? place_of(c, first + i) : (int32_t)MOE_CUDA_SKIPPED;
        weight[i] = i < count ? moe_sum_weight(c, first + i, false) : 1.0f;
    }
#pragma unroll
    for (uint32_t i = 0; i < SLOTS; i++)
        zero_experts = zero_experts || place[i] == MOE_CUDA_ZERO;
    if (zero_experts && !c.by_pair)
        return false;
#pragma unroll
    for (uint32_t i = 0; i < SLOTS; i++)
        if (place[i] != MOE_CUDA_SKIPPED)
            y[i] = moe_four_load<format>(row_of(c, first + i, place[i]), column, column + COLUMNS, true);
#pragma unroll
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (place[i] == MOE_CUDA_SKIPPED)
            continue;
        float values[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
            values[j] = y[i].value(j);
        moe_sum_add<COLUMNS>(sum, values, weight[i]);
    }
    return true;
}

template <int format>
MOE_DEVICE void sum_token(const struct moe_cuda_combine &c, uint32_t t, uint32_t column, bool live)
{
    const bool whole = c.cols - column >= COLUMNS && moe_rows_aligned(c.y, COLUMNS * moe_rows_bytes(format));
    uint64_t pair = (uint64_t)t * c.top_k, end = live ? pair + c.top_k : pair;
    struct moe_sum<COLUMNS> sum = {};
    for (; pair < end; pair += SLOTS) {
        uint32_t count = end - pair < SLOTS ? (uint32_t)(end - pair) : (uint32_t)SLOTS;
        if (!whole || !add_pairs_fast<format>(c, sum, column, pair, count))
            add_pairs<format>(c, sum, t, column, pair, pair + count);
    }
    moe_sum_finish<COLUMNS>(c, sum, t, live, column);
}

template <int format>
static __global__ void __launch_bounds__(MAX_THREADS, 2) combine_kernel(const __grid_constant__ combine_params params)
{
    const struct moe_cuda_combine &c = params.c;
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_live_tokens(c.live_tokens, c.num_tokens);
    const uint32_t t = blockIdx.x / params.tiles, tile = blockIdx.x - t * params.tiles;
    const uint32_t column = (tile * blockDim.x + threadIdx.x) * COLUMNS;
    if (column < c.cols)
        sum_token<format>(c, t, column, t < live);
}

static __global__ void __launch_bounds__(MAX_THREADS) pairs_kernel(const __grid_constant__ combine_params params)
{
    const struct moe_cuda_combine &c = params.c;
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_live_tokens(c.live_tokens, c.num_tokens);
    const uint32_t pair = blockIdx.x / params.tiles, tile = blockIdx.x - pair * params.tiles, t = pair / c.top_k;
    const uint32_t column = (tile * blockDim.x + threadIdx.x) * COLUMNS;
    if (column >= c.cols)
        return;
    const int32_t place = t < live ? c.places[pair] : (int32_t)MOE_CUDA_SKIPPED;
    float values[COLUMNS] = {};
    if (place >= 0)
        moe_rows_values<COLUMNS>(values, c.y, (size_t)place, column, c.cols);
    if (place == MOE_CUDA_ZERO) {
        float weight = c.weight_on_input ? moe_sum_weight(c, pair, true) : 1.0f;
        moe_rows_values<COLUMNS>(values, c.x, t, column, c.cols);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            values[i] = __fmul_rn(weight, values[i]);
    }
    moe_rows_put<COLUMNS>(c.out, pair, column, c.cols, values, false);
}

typedef void kernel_fn(combine_params params);

static kernel_fn *choose(const struct moe_cuda_combine *c)
{
    if (c->out_pairs)
        return pairs_kernel;
    return c->y.format == MOE_FORMAT_F32   ? combine_kernel<MOE_FORMAT_F32>
           : c->y.format == MOE_FORMAT_F16 ? combine_kernel<MOE_FORMAT_F16>
                                           : combine_kernel<MOE_FORMAT_BF16>;
}

/* Blocks of equal shares of a row, smaller ones where there are few. */
static void cut(uint32_t *tiles, unsigned *threads, uint64_t rows, uint32_t cols)
{
    uint32_t pieces = (cols + COLUMNS - 1) / COLUMNS, most = MAX_THREADS;
    while (most > 32 && rows * ((pieces + most - 1) / most) < FEW_BLOCKS)
        most /= 2;
    *tiles = (pieces + most - 1) / most;
    *threads = ((pieces + *tiles - 1) / *tiles + 31) / 32 * 32;
}

cudaError_t moe_cuda_combine(const struct moe_cuda_combine *combine, cudaStream_t stream, bool overlap)
{
    struct combine_params params = {*combine, 1};
    kernel_fn *kernel = choose(combine);
    uint64_t rows = (uint64_t)combine->num_tokens * (combine->out_pairs ? combine->top_k : 1), blocks;
    unsigned threads;
    if (!moe_rows_good(combine->x) || !moe_rows_good(combine->y) || !moe_rows_good(combine->out))
        return cudaErrorInvalidValue;
    if (rows == 0 || combine->cols == 0)
        return cudaSuccess;
    cut(&params.tiles, &threads, rows, combine->cols);
    blocks = rows * params.tiles;
    if (blocks > INT32_MAX)    /* more than 10^12 values */
        return cudaErrorInvalidValue;
    return moe_launch(kernel, (unsigned)blocks, threads, 0, stream, overlap, params);
}

cudaError_t moe_cuda_combine_load(void)
{
    kernel_fn *const kernels[] = {
        pairs_kernel,
        combine_kernel<MOE_FORMAT_F32>,
        combine_kernel<MOE_FORMAT_F16>,
        combine_kernel<MOE_FORMAT_BF16>,
    };
    cudaError_t error = cudaSuccess;
    for (kernel_fn *kernel : kernels)
        if (error == cudaSuccess)
            error = moe_allow_shared(kernel, 0);
    return error;
}
