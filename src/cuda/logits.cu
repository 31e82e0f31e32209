// SPDX-License-Identifier: MIT
// The layer's router: products and sums in double. Bound by the router's bytes for few tokens, by double arithmetic
// for many. Every sum has one order: columns in blocks of 128, part p of 8 takes the blocks p, p + 8, ..., lane l in
// each of them the columns 4 l .. 4 l + 3, in ascending order; the parts of a lane are added in ascending order, then
// the lanes, halves first. A product of two floats is exact, so it does not matter where it is fused.
#include "cuda/launch.cuh"
#include "cuda/logits.h"
#include "cuda/plan.cuh"
#include "moe/moe.h"

enum { PARTS = 8, BLOCK_COLS = 128, LANE_COLS = 4, THREADS = 32 * PARTS };

/* Few tokens: a block for each expert, a warp for each part; up to FEW_TOKENS at once. Many: a warp takes MANY_TOKENS
 * tokens and MANY_EXPERTS experts, a block 4 x 2 such tiles, so that its warps share what they read. */
enum {
    FEW_TOKENS = 4,
    FEW_LIMIT = 32,
    MANY_TOKENS = 8,
    MANY_EXPERTS = 4,
    MANY_BLOCK_TOKENS = 4 * MANY_TOKENS,
    MANY_BLOCK_EXPERTS = 2 * MANY_EXPERTS
};

struct moe_logits_params {
    struct moe_cuda_routing r;
    uint32_t tiles;      /* of tokens */
    bool vectors;        /* x can be read 4 values at once */
};

/* ---- values ---- */

/* Four values in two steps, as in values.cuh: their bits, then what they are. */
template <int format> static __device__ __forceinline__ float4 moe_logits_values(const uint4 &bits)
{
    if (format == MOE_FORMAT_F32)
        return make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                           __uint_as_float(bits.w));
    const float2 a = format == MOE_FORMAT_F16 ? moe_values_f16(bits.x) : moe_values_bf16(bits.x);
    const float2 b = format == MOE_FORMAT_F16 ? moe_values_f16(bits.y) : moe_values_bf16(bits.y);
    return make_float4(a.x, a.y, b.x, b.y);
}

/* Columns c .. c + 3 of an expert; rows end with zeros. */
template <int format> static __device__ __forceinline__ uint4 moe_logits_w(const void *row, uint32_t c, uint32_t padded)
{
    if (c >= padded)
        return make_uint4(0, 0, 0, 0);
    if (format == MOE_FORMAT_F32)
        return __ldg((const uint4 *)((const float *)row + c));
    const uint2 halves = __ldg((const uint2 *)((const uint16_t *)row + c));
    return make_uint4(halves.x, halves.y, 0, 0);
}

/* Columns c .. c + 3 of a token, zeros from cols on. vectors: rows are aligned, and cols is a multiple of 4. */
template <int format>
static __device__ __forceinline__ uint4 moe_logits_x(const unsigned char *row, uint32_t c, uint32_t cols, bool vectors)
{
    if (vectors) {
        if (c < cols && format == MOE_FORMAT_F32)
            return *(const uint4 *)((const float *)row + c);
        const uint2 halves = c < cols ? *(const uint2 *)((const uint16_t *)row + c) : make_uint2(0, 0);
        return make_uint4(halves.x, halves.y, 0, 0);
    }
    uint32_t values[LANE_COLS];
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLS; i++)
        values[i] = c + i < cols ? moe_value_bits(row, c + i, format) : 0;
    return format == MOE_FORMAT_F32 ? make_uint4(values[0], values[1], values[2], values[3])
                                    : make_uint4(values[0] | values[1] << 16, values[2] | values[3] << 16, 0, 0);
}

static __device__ __forceinline__ double moe_logits_add(double sum, const float4 &w, const float4 &x)
{
    sum = __fma_rn((double)w.x, (double)x.x, sum);
    sum = __fma_rn((double)w.y, (double)x.y, sum);
    sum = __fma_rn((double)w.z, (double)x.z, sum);
    return __fma_rn((double)w.w, (double)x.w, sum);
}

/* The sum of all lanes, in every lane. */
static __device__ __forceinline__ double moe_logits_lanes(double sum)
{
    for (int d = 16; d > 0; d /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}

static __device__ const unsigned char *moe_logits_row(const struct moe_cuda_router &router, uint32_t e)
{
    size_t bytes = router.matrix_format == MOE_FORMAT_F32 ? sizeof(float) : sizeof(uint16_t);
    return (const unsigned char *)router.matrix + (size_t)e * router.matrix_stride * bytes;
}

/* squares: the sum of x^2, if there is a norm. */
static __device__ double moe_logits_finish(const struct moe_cuda_routing &r, uint32_t e, double sum, double squares)
{
    const struct moe_cuda_router &router = r.router;
    if (router.norm) {
        const double size = (double)r.hidden_size;
        double divisor = sqrt(squares / size + (double)router.norm_eps);
        if (router.norm_unit)
            divisor *= sqrt(size);
        sum /= divisor == 0.0 ? 1.0 : divisor;    /* of zeros: zeros */
    }
    return router.bias != NULL ? sum + (double)router.bias[e] : sum;
}

/* ---- few tokens ---- */

/* This warp's part of expert e for `tokens` tokens from first on; squares are added up if `norm`. */
template <int w_format, int x_format, int tokens>
static __device__ __forceinline__ void moe_logits_part(const struct moe_logits_params &params, uint32_t e,
                                                       uint32_t first, double sums[tokens], double squares[tokens])
{
    constexpr int ahead = tokens == 1 ? 8 : 4;
    const struct moe_cuda_routing &r = params.r;
    const uint32_t lane = threadIdx.x % 32, part = threadIdx.x / 32, cols = r.hidden_size;
    const uint32_t blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS, padded = (cols + LANE_COLS - 1) & ~(LANE_COLS - 1);
    const unsigned char *w_row = moe_logits_row(r.router, e), *x_rows[tokens];
    uint4 w[ahead];
#pragma unroll
    for (int i = 0; i < ahead; i++)
        w[i] = moe_logits_w<w_format>(w_row, (part + i * PARTS) * BLOCK_COLS + lane * LANE_COLS, padded);
    moe_wait_for_previous();    /* no kernel writes the router */
#pragma unroll
    for (int j = 0; j < tokens; j++)
        x_rows[j] = moe_values_row(r.router_x, first + j < r.num_tokens ? first + j : first);
    for (uint32_t block = part; block < blocks; block += ahead * PARTS) {
        uint4 x[ahead][tokens];
#pragma unroll
        for (int i = 0; i < ahead; i++)
#pragma unroll
            for (int j = 0; j < tokens; j++)
                x[i][j] = moe_logits_x<x_format>(x_rows[j], (block + i * PARTS) * BLOCK_COLS + lane * LANE_COLS, cols,
                                                 params.vectors);
#pragma unroll
        for (int i = 0; i < ahead; i++) {
#pragma unroll
            for (int j = 0; j < tokens; j++) {
                const float4 values = moe_logits_values<x_format>(x[i][j]);
                sums[j] = moe_logits_add(sums[j], moe_logits_values<w_format>(w[i]), values);
                if (r.router.norm)
                    squares[j] = moe_logits_add(squares[j], values, values);
            }
            w[i] = moe_logits_w<w_format>(w_row, (block + (i + ahead) * PARTS) * BLOCK_COLS + lane * LANE_COLS, padded);
        }
    }
}

template <int w_format, int tokens>
static __global__ void __launch_bounds__(THREADS)
    moe_logits_few_kernel(const __grid_constant__ struct moe_logits_params params)
{
    const struct moe_cuda_routing &r = params.r;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t e = blockIdx.x / params.tiles, first = blockIdx.x % params.tiles * tokens;
    double *parts = (double *)moe_dynamic_shared();    /* [2][PARTS][tokens][32]: sums, squares */
    double sums[tokens] = {}, squares[tokens] = {};
    moe_let_next_start();
    if (r.router_x.format == MOE_FORMAT_F32)
        moe_logits_part<w_format, MOE_FORMAT_F32, tokens>(params, e, first, sums, squares);
    else if (r.router_x.format == MOE_FORMAT_F16)
        moe_logits_part<w_format, MOE_FORMAT_F16, tokens>(params, e, first, sums, squares);
    else
        moe_logits_part<w_format, MOE_FORMAT_BF16, tokens>(params, e, first, sums, squares);
#pragma unroll
    for (int j = 0; j < tokens; j++) {
        parts[(warp * tokens + j) * 32 + lane] = sums[j];
        parts[((PARTS + warp) * tokens + j) * 32 + lane] = squares[j];
    }
    __syncthreads();
    const uint32_t live = moe_plan_live(r);
    if (warp >= tokens || first + warp >= live)
        return;
    double sum = parts[warp * 32 + lane], square = parts[(PARTS * tokens + warp) * 32 + lane];
    for (uint32_t p = 1; p < PARTS; p++) {
        sum += parts[(p * tokens + warp) * 32 + lane];
        square += parts[((PARTS + p) * tokens + warp) * 32 + lane];
    }
    sum = moe_logits_lanes(sum);
    square = moe_logits_lanes(square);
    if (lane == 0)
        r.router_logits[(size_t)(first + warp) * r.num_experts + e] = moe_logits_finish(r, e, sum, square);
}

/* ---- many tokens ---- */

template <int w_format, int x_format>
static __device__ __forceinline__ void moe_logits_tile(const struct moe_logits_params &params, uint32_t e, uint32_t t)
{
    const struct moe_cuda_routing &r = params.r;
    const uint32_t lane = threadIdx.x % 32, cols = r.hidden_size;
    const uint32_t blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS, padded = (cols + LANE_COLS - 1) & ~(LANE_COLS - 1);
    const uint32_t live = moe_plan_live(r);
    if (e >= r.num_experts || t >= live)
        return;
    const unsigned char *w_rows[MANY_EXPERTS], *x_rows[MANY_TOKENS];
#pragma unroll
    for (uint32_t i = 0; i < MANY_EXPERTS; i++)
        w_rows[i] = moe_logits_row(r.router, e + i < r.num_experts ? e + i : e);
#pragma unroll
    for (uint32_t j = 0; j < MANY_TOKENS; j++)
        x_rows[j] = moe_values_row(r.router_x, t + j < live ? t + j : t);
    double totals[MANY_EXPERTS][MANY_TOKENS] = {};
    for (uint32_t part = 0; part < PARTS; part++) {
        double sums[MANY_EXPERTS][MANY_TOKENS] = {};
        for (uint32_t block = part; block < blocks; block += PARTS) {
            const uint32_t c = block * BLOCK_COLS + lane * LANE_COLS;
            uint4 w[MANY_EXPERTS], x[MANY_TOKENS];
#pragma unroll
            for (uint32_t i = 0; i < MANY_EXPERTS; i++)
                w[i] = moe_logits_w<w_format>(w_rows[i], c, padded);
#pragma unroll
            for (uint32_t j = 0; j < MANY_TOKENS; j++)
                x[j] = moe_logits_x<x_format>(x_rows[j], c, cols, params.vectors);
#pragma unroll
            for (uint32_t i = 0; i < MANY_EXPERTS; i++)
#pragma unroll
                for (uint32_t j = 0; j < MANY_TOKENS; j++)
                    sums[i][j] = moe_logits_add(sums[i][j], moe_logits_values<w_format>(w[i]),
                                                moe_logits_values<x_format>(x[j]));
        }
#pragma unroll
        for (uint32_t i = 0; i < MANY_EXPERTS; i++)
#pragma unroll
            for (uint32_t j = 0; j < MANY_TOKENS; j++)
                totals[i][j] = part == 0 ? sums[i][j] : totals[i][j] + sums[i][j];
    }
    double squares[MANY_TOKENS] = {};
    for (uint32_t j = 0; r.router.norm && j < MANY_TOKENS; j++) {
        for (uint32_t part = 0; part < PARTS; part++) {
            double sum = 0.0;
            for (uint32_t block = part; block < blocks; block += PARTS) {
                const float4 x = moe_logits_values<x_format>(
                    moe_logits_x<x_format>(x_rows[j], block * BLOCK_COLS + lane * LANE_COLS, cols, params.vectors));
                sum = moe_logits_add(sum, x, x);
            }
            squares[j] = part == 0 ? sum : squares[j] + sum;
        }
        squares[j] = moe_logits_lanes(squares[j]);
    }
#pragma unroll
    for (uint32_t i = 0; i < MANY_EXPERTS; i++)
#pragma unroll
        for (uint32_t j = 0; j < MANY_TOKENS; j++) {
            const double sum = moe_logits_lanes(totals[i][j]);
            if (lane == 0 && e + i < r.num_experts && t + j < live)
                r.router_logits[(size_t)(t + j) * r.num_experts + e + i] = moe_logits_finish(r, e + i, sum, squares[j]);
        }
}

template <int w_format>
static __global__ void __launch_bounds__(THREADS)
    moe_logits_many_kernel(const __grid_constant__ struct moe_logits_params params)
{
    const struct moe_cuda_routing &r = params.r;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t e = blockIdx.x / params.tiles * MANY_BLOCK_EXPERTS + warp % 2 * MANY_EXPERTS;
    const uint32_t t = blockIdx.x % params.tiles * MANY_BLOCK_TOKENS + warp / 2 * MANY_TOKENS;
    moe_let_next_start();
    moe_wait_for_previous();
    if (r.router_x.format == MOE_FORMAT_F32)
        moe_logits_tile<w_format, MOE_FORMAT_F32>(params, e, t);
    else if (r.router_x.format == MOE_FORMAT_F16)
        moe_logits_tile<w_format, MOE_FORMAT_F16>(params, e, t);
    else
        moe_logits_tile<w_format, MOE_FORMAT_BF16>(params, e, t);
}

/* ---- launches ---- */

static size_t moe_logits_few_bytes(int tokens)
{
    return 2 * PARTS * 32 * (size_t)tokens * sizeof(double);
}

extern "C" cudaError_t moe_logits_load(void)
{
    cudaError_t error = moe_allow_shared(moe_logits_few_kernel<MOE_FORMAT_F32, 1>, moe_logits_few_bytes(1));
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_logits_few_kernel<MOE_FORMAT_BF16, 1>, moe_logits_few_bytes(1));
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_logits_few_kernel<MOE_FORMAT_F32, FEW_TOKENS>, moe_logits_few_bytes(FEW_TOKENS));
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_logits_few_kernel<MOE_FORMAT_BF16, FEW_TOKENS>, moe_logits_few_bytes(FEW_TOKENS));
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_logits_many_kernel<MOE_FORMAT_F32>, 0);
    return error == cudaSuccess ? moe_allow_shared(moe_logits_many_kernel<MOE_FORMAT_BF16>, 0) : error;
}

template <int w_format>
static cudaError_t moe_logits_launch_as(struct moe_logits_params params, cudaStream_t stream, bool overlap)
{
    const struct moe_cuda_routing &r = params.r;
    if (r.num_tokens > FEW_LIMIT) {
        params.tiles = (r.num_tokens - 1) / MANY_BLOCK_TOKENS + 1;
        uint32_t blocks = params.tiles * ((r.num_experts + MANY_BLOCK_EXPERTS - 1) / MANY_BLOCK_EXPERTS);
        return moe_launch(moe_logits_many_kernel<w_format>, blocks, THREADS, 0, stream, overlap, params);
    }
    const int tokens = r.num_tokens == 1 ? 1 : (int)FEW_TOKENS;
    params.tiles = (r.num_tokens + tokens - 1) / tokens;
    return moe_launch(tokens == 1 ? moe_logits_few_kernel<w_format, 1> : moe_logits_few_kernel<w_format, FEW_TOKENS>,
                      params.tiles * r.num_experts, THREADS, moe_logits_few_bytes(tokens), stream, overlap, params);
}

extern "C" cudaError_t moe_logits_launch(const struct moe_cuda_routing *r, cudaStream_t stream, bool overlap)
{
    const size_t unit = r->router_x.format == MOE_FORMAT_F32 ? 16 : 8;
    struct moe_logits_params params = {*r, 0, false};
    params.vectors = r->hidden_size % LANE_COLS == 0 && (uintptr_t)r->router_x.data % unit == 0 &&
                     (r->router_x.stride % unit == 0 || r->num_tokens == 1);
    return r->router.matrix_format == MOE_FORMAT_F32
               ? moe_logits_launch_as<MOE_FORMAT_F32>(params, stream, overlap)
               : moe_logits_launch_as<MOE_FORMAT_BF16>(params, stream, overlap);
}
