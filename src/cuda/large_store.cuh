// SPDX-License-Identifier: MIT
// What becomes of the sums of a tile of a product for many tokens: bias, activation, and stores.
#ifndef MOE_CUDA_LARGE_STORE_CUH
#define MOE_CUDA_LARGE_STORE_CUH

#include "cuda/large_list.cuh"
#include "cuda/result.cuh"

/* What a thread is to its block; columns: column tiles of 8 tokens that its warp has in the present tile. */
template <class Shape> struct moe_large_lane {
    int lane, row_warp, token_warp, columns;

    __device__ __forceinline__ void find_columns(uint32_t tokens)
    {
        constexpr uint32_t all = 8 * Shape::token_warps;
        columns = (int)((tokens + all - 1 - 8 * token_warp) / all);
    }
};

/* Column tile n of a lane's sums, to its part of its warp's memory: n is known when running only, registers when
 * compiled, and the code of activations, which is large, is to be there once. */
template <class Shape>
MOE_DEVICE void moe_large_pick(float4 *picked, const float (&sums)[Shape::tiles][Shape::columns][4], int n)
{
#pragma unroll
    for (int k = 0; k < Shape::columns; k++)
        if (k == n)
#pragma unroll
            for (int m = 0; m < Shape::tiles; m++)
                picked[32 * m] = make_float4(sums[m][k][0], sums[m][k][1], sums[m][k][2], sums[m][k][3]);
}

/* The usual activation, of a lane's column tile, to `staged`, from its first token on; false: it is to be done again,
 * one by one. at: of its rows. */
template <class Shape>
MOE_DEVICE bool moe_large_activate_swish(const struct moe_cuda_product &p, const float4 *picked,
                                         const uint32_t (&at)[Shape::tiles], unsigned char *staged)
{
    float value[Shape::tiles][2];
    bool sure = true;
#pragma unroll
    for (int m = 0; m < Shape::tiles; m++) {
        const float4 sums = picked[32 * m];
        value[m][0] = moe_act_swish_glu(p.act, sums.x, sums.z, &sure);
        value[m][1] = moe_act_swish_glu(p.act, sums.y, sums.w, &sure);
    }
    if (!sure)
        return false;
#pragma unroll
    for (int m = 0; m < Shape::tiles; m++) {
        ((uint16_t *)staged)[at[m]] = (uint16_t)moe_bf16x2(value[m][0], 0.0f);
        ((uint16_t *)(staged + Shape::stage_pitch))[at[m]] = (uint16_t)moe_bf16x2(value[m][1], 0.0f);
    }
    return true;
}

/* One half of the tile's rows (gate's and up's, if gated) through the activation, into `staged`, rows of stage_pitch
 * bytes in the order of h. The last columns, where a group of 32 is not full, go to h at once. */
template <class Shape>
MOE_DEVICE void moe_large_activate(const struct moe_cuda_product &p, const struct moe_large_tile &tile, uint32_t part,
                                   const struct moe_large_lane<Shape> &lane,
                                   const float (&sums)[Shape::tiles][Shape::columns][4], unsigned char *staged,
                                   float4 *of_warp)
{
    const uint32_t first = tile.first_row + part * (Shape::rows / 2);
    const uint32_t first_column = lane.row_warp * 8 * Shape::tiles + lane.lane / 4;
    const bool usual = p.gated && p.act.kind == MOE_ACT_SWISH && p.act.clamp == MOE_CLAMP_NONE &&
                       p.gate.bias == NULL && p.up.bias == NULL && first + Shape::rows / 2 <= (p.up.rows & ~31u);
    float4 *picked = of_warp + lane.lane;
    uint32_t at[Shape::tiles];
#pragma unroll
    for (int m = 0; m < Shape::tiles; m++)    /* not simply of the column: ptxas would keep that from tile to tile */
        at[m] = moe_order_position(first + first_column + 8 * m, p.h_order) - first;
#pragma unroll 1
    for (int n = 0; n < lane.columns; n++) {
        const uint32_t token = (n * Shape::token_warps + lane.token_warp) * 8 + lane.lane % 4 * 2;
        moe_large_pick<Shape>(picked, sums, n);
        if (usual && moe_large_activate_swish<Shape>(p, picked, at, staged + token * Shape::stage_pitch))
            continue;
#pragma unroll 1
        for (uint32_t k = 0; k < 2 * Shape::tiles; k++) {
            const uint32_t i = k % 2, column = first_column + k / 2 * 8, row = first + column;
            const float *four = (const float *)(picked + k / 2 * 32);
            if (row >= p.up.rows || token + i >= tile.tokens)
                continue;
            const float value =
                moe_result_value(p, tile.expert, row, four[2 * part + i], p.gated ? four[2 + i] : 0.0f);
            if ((row | 31) < p.up.rows)
                moe_order_store((uint16_t *)(staged + (token + i) * Shape::stage_pitch), column, p.h_order, value);
            else
                moe_order_store(p.h + (size_t)(tile.place + token + i) * p.h_stride, row, p.h_order, value);
        }
    }
}

/* What moe_large_activate has collected: all threads of a block together. */
template <class Shape>
MOE_DEVICE void moe_large_store_h(const struct moe_cuda_product &p, const struct moe_large_tile &tile, uint32_t part,
                                  const unsigned char *staged)
{
    constexpr uint32_t chunks = Shape::rows / 16;
    const uint32_t begin = tile.first_row + part * (Shape::rows / 2), end = p.up.rows & ~31u;
#pragma unroll 2
    for (uint32_t i = threadIdx.x; i < tile.tokens * chunks; i += blockDim.x) {
        const uint32_t token = i / chunks, c = i % chunks * 8;
        if (begin + c < end)
            *(uint4 *)(p.h + (size_t)(tile.place + token) * p.h_stride + begin + c) =
                *(const uint4 *)(staged + token * Shape::stage_pitch + 2 * c);
    }
}

/* All of a lane's sums, to y: 8 lanes have neighbouring rows of a token, 32 bytes. */
template <class Shape>
MOE_DEVICE void moe_large_store_y(const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                  const struct moe_large_lane<Shape> &lane,
                                  const float (&sums)[Shape::tiles][Shape::columns][4])
{
    const uint32_t row = tile.first_row + lane.row_warp * 8 * Shape::tiles + lane.lane / 4;
    const uint32_t count = row < p.up.rows ? p.up.rows - row : 0;    /* rows from this lane's first one on */
    float bias[2 * Shape::tiles];    /* -0 leaves what it is added to as it is */
#pragma unroll
    for (uint32_t j = 0; j < 2 * Shape::tiles; j++) {
        const uint32_t beyond = j / 2 * 8 + j % 2 * (Shape::rows / 2);
        const size_t at = (size_t)tile.expert * p.up.rows + row + beyond;
        bias[j] = p.up.bias != NULL && beyond < count ? p.up.bias[at] : -0.0f;
    }
    uint32_t token = lane.token_warp * 8 + lane.lane % 4 * 2;
    float *y = p.y + (size_t)(tile.place + token) * p.y_stride + row;
#pragma unroll
    for (int n = 0; n < Shape::columns; n++) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            if (token + i < tile.tokens)
#pragma unroll
                for (uint32_t j = 0; j < 2 * Shape::tiles; j++) {
                    const uint32_t beyond = j / 2 * 8 + j % 2 * (Shape::rows / 2);
                    if (beyond < count)
                        y[i * p.y_stride + beyond] = sums[j / 2][n][j % 2 * 2 + i] + bias[j];
                }
        }
        token += 8 * Shape::token_warps;
        y += 8 * Shape::token_warps * p.y_stride;
    }
}

/* staged: Shape::stage_pitch bytes for each token, of_warp: Shape::warp_bytes, which nothing else uses. All threads of
 * a block together. */
template <class Shape>
MOE_DEVICE void moe_large_store(const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                const struct moe_large_lane<Shape> &lane,
                                const float (&sums)[Shape::tiles][Shape::columns][4], unsigned char *staged,
                                float4 *of_warp)
{
    if (!p.activated) {
        moe_large_store_y<Shape>(p, tile, lane, sums);
        return;
    }
    for (uint32_t part = 0; part < (p.gated ? 1 : 2); part++) {
        moe_large_activate<Shape>(p, tile, part, lane, sums, staged, of_warp);
        __syncthreads();
        moe_large_store_h<Shape>(p, tile, part, staged);
        if (!p.gated)
            __syncthreads();
    }
}

#endif
