// SPDX-License-Identifier: MIT
// prepare.h's work in pieces that warps take, alone (prepare.cu) or beside other work of a kernel. A piece is a segment
// of 256 positions of a row: eight a lane, 16 bytes of bf16. Bound by memory: of each value it reads 2 or 4 bytes and
// writes 2 for each output; the 2048 threads of a multiprocessor have 32 KB under way.
#ifndef MOE_CUDA_PREPARE_CUH
#define MOE_CUDA_PREPARE_CUH

#include "cuda/order.cuh"
#include "cuda/prepare.h"
#include "cuda/rows.cuh"

MOE_DEVICE uint32_t moe_live_tokens(const int32_t *live_tokens, uint32_t num_tokens)
{
    int32_t live = live_tokens != NULL ? *live_tokens : (int32_t)num_tokens;
    return live < 0 ? 0 : (uint32_t)live < num_tokens ? (uint32_t)live : num_tokens;
}

static __host__ __device__ inline uint64_t moe_prepared_rows(const struct moe_cuda_prepare &p, int output)
{
    const struct moe_cuda_prepared &out = p.outputs[output];
    return out.rows != NULL ? (uint64_t)p.num_tokens * (out.weighted ? p.top_k : 1) : 0;
}

static __host__ __device__ inline uint64_t moe_prepare_pieces(const struct moe_cuda_prepare &p)
{
    uint64_t pieces = 0;
    for (int i = 0; i < 2; i++) {
        const struct moe_cuda_padding &padding = p.paddings[i];
        pieces += moe_prepared_rows(p, i) * (p.outputs[i].stride / MOE_SEGMENT);
        pieces += padding.rows != NULL && padding.cols < padding.stride ? padding.num_rows : 0;
    }
    return pieces;
}

/* Columns c0 .. c0 + 3 and c1 .. c1 + 3. */
template <int format>
MOE_DEVICE void moe_prepare_load(float v[8], const struct moe_cuda_rows &x, size_t row, uint32_t c0, uint32_t c1,
                                 uint32_t cols)
{
    const unsigned char *at = x.data + row * x.stride;
    if (format != MOE_FORMAT_F32 && c1 == c0 + 4 && c1 + 4 <= cols && moe_rows_aligned(x, 16)) {
        uint4 words = *(const uint4 *)(at + 2 * (size_t)c0);
        const uint32_t parts[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = moe_rows_half(format, parts[i / 2] >> (16 * (i % 2)));
        return;
    }
    bool wide = moe_rows_aligned(x, 4 * moe_rows_bytes(format));
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = 0.0f;
    if (c0 < cols)
        moe_four_values<format>(v, at, c0, cols, wide);
    if (c1 < cols)
        moe_four_values<format>(v + 4, at, c1, cols, wide);
}

/* The eight positions of a lane, from two runs of four columns: moe_order_position the other way round. */
MOE_DEVICE uint4 moe_prepare_order(const float v[8], int order)
{
    switch (order & (MOE_ORDER_STEPS - 1)) {
    case MOE_ORDER_BYTES:
    case MOE_ORDER_HALVES:
        return make_uint4(moe_bf16x2(v[0], v[2]), moe_bf16x2(v[1], v[3]), moe_bf16x2(v[4], v[6]),
                          moe_bf16x2(v[5], v[7]));
    case MOE_ORDER_NIBBLES:
        return make_uint4(moe_bf16x2(v[0], v[4]), moe_bf16x2(v[1], v[5]), moe_bf16x2(v[2], v[6]),
                          moe_bf16x2(v[3], v[7]));
    default:
        return make_uint4(moe_bf16x2(v[0], v[1]), moe_bf16x2(v[2], v[3]), moe_bf16x2(v[4], v[5]),
                          moe_bf16x2(v[6], v[7]));
    }
}

MOE_DEVICE void moe_prepare_row(const struct moe_cuda_prepare &p, const struct moe_cuda_prepared &out, size_t row,
                                uint32_t segment, uint32_t live, int lane)
{
    uint32_t position = segment * MOE_SEGMENT + 8 * lane, c0 = position, c1 = position + 4;
    if ((out.order & (MOE_ORDER_STEPS - 1)) == MOE_ORDER_HALVES) {
        c0 = (position & ~31u) + (position >> 3 & 3) * 4;
        c1 = c0 + 16;
    }
    size_t token = out.weighted ? row / p.top_k : row;
    float v[8] = {};
    if (token < live) {
        if (p.x.format == MOE_FORMAT_F32)
            moe_prepare_load<MOE_FORMAT_F32>(v, p.x, token, c0, c1, p.cols);
        else if (p.x.format == MOE_FORMAT_F16)
            moe_prepare_load<MOE_FORMAT_F16>(v, p.x, token, c0, c1, p.cols);
        else
            moe_prepare_load<MOE_FORMAT_BF16>(v, p.x, token, c0, c1, p.cols);
    }
    if (out.weighted && token < live) {
        float weight = p.weights[row];
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)    /* not of columns that there are not: an infinite weight makes NaN of 0 */
            v[i] = (i < 4 ? c0 + i : c1 + i - 4) < p.cols ? __fmul_rn(weight, v[i]) : 0.0f;
    }
    const uint4 words = moe_prepare_order(v, out.order);
    if (out.order & MOE_ORDER_STEPS) {    /* word 2 h + j1 of lane t */
        uint32_t *to = (uint32_t *)(out.rows + row * out.stride + (position & ~31u)) + lane % 4;
        to[0] = words.x, to[4] = words.y, to[8] = words.z, to[12] = words.w;
        return;
    }
    *(uint4 *)(out.rows + row * out.stride + position) = words;
}

MOE_DEVICE void moe_prepare_pad(const struct moe_cuda_padding &padding, size_t row, int lane)
{
    for (size_t i = (padding.cols & ~31u) + 8 * lane; i < padding.stride; i += 256)
        *(uint4 *)(padding.rows + row * padding.stride + i) = make_uint4(0, 0, 0, 0);
}

/* Pieces warp, warp + warps, ... Reads x, live_tokens and weights: after moe_wait_for_previous. */
MOE_DEVICE void moe_prepare_run(const struct moe_cuda_prepare &p, uint64_t warp, uint64_t warps, int lane)
{
    const uint32_t live = moe_live_tokens(p.live_tokens, p.num_tokens);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const struct moe_cuda_prepared &out = p.outputs[i];
        uint32_t segments = (uint32_t)(out.stride / MOE_SEGMENT);
        uint64_t piece = warp, pieces = moe_prepared_rows(p, i) * segments;
        for (; piece < pieces; piece += warps) {
            uint64_t row = piece / segments;
            moe_prepare_row(p, out, row, (uint32_t)(piece - row * segments), live, lane);
        }
        warp = piece - pieces;    /* who comes next: warps take turns over all of it */
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const struct moe_cuda_padding &padding = p.paddings[i];
        uint64_t row = warp, rows = padding.rows != NULL && padding.cols < padding.stride ? padding.num_rows : 0;
        for (; row < rows; row += warps)
            moe_prepare_pad(padding, row, lane);
        warp = row - rows;
    }
}

/* Blocks of so many threads that do it, beside a first one that does something else. */
static inline uint32_t moe_prepare_blocks(const struct moe_cuda_prepare &p, uint32_t threads)
{
    return (uint32_t)((moe_prepare_pieces(p) + threads / 32 - 1) / (threads / 32));
}

MOE_DEVICE void moe_prepare_beside(const struct moe_cuda_prepare &p)
{
    const uint32_t warps = blockDim.x / 32;
    moe_prepare_run(p, (uint64_t)(blockIdx.x - 1) * warps + threadIdx.x / 32, (uint64_t)(gridDim.x - 1) * warps,
                    threadIdx.x % 32);
}

#endif
