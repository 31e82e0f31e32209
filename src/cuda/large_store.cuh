// SPDX-License-Identifier: MIT
// What becomes of the sums of a tile of a product for many tokens: bias, activation, and stores of 16 bytes.
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

/* Where value i of a warp's 8 tokens of column tile n belongs, if they are counted token by token, `width` rows of the
 * lower half of the tile's rows (gate's, if gated) and as many of the upper half, or of one half only. */
template <class Shape, int count> struct moe_large_spot {
    uint32_t token, part, column;    /* in the tile; of the halves; in a half of the tile's rows */
    uint32_t at;                     /* in the warp's memory: 8 rows of warp_pitch bytes */

    __device__ __forceinline__ moe_large_spot(const struct moe_large_lane<Shape> &lane, int n, uint32_t i)
    {
        constexpr uint32_t width = Shape::tiles * 8;
        const uint32_t t = i / count, c = i % count;
        token = (n * Shape::token_warps + lane.token_warp) * 8 + t;
        part = c / width;
        column = lane.row_warp * width + c % width;
        at = t * (Shape::warp_pitch / 4) + c;
    }
};

/* 8 tokens of a warp through the activation, into `staged`, rows of stage_pitch bytes in the order of h, of one half of
 * the tile's rows. The last columns, where a group of 32 is not full, go to h at once. */
template <class Shape>
MOE_DEVICE void moe_large_activate(const struct moe_cuda_product &p, const struct moe_large_tile &tile, uint32_t part,
                                   const struct moe_large_lane<Shape> &lane, int n, const float *sums,
                                   unsigned char *staged)
{
    constexpr uint32_t width = Shape::tiles * 8;
#pragma unroll 2
    for (uint32_t k = 0; k < width / 4; k++) {
        const moe_large_spot<Shape, width> spot(lane, n, 32 * k + lane.lane);
        const uint32_t row = tile.first_row + part * (Shape::rows / 2) + spot.column;
        if (row >= p.up.rows || spot.token >= tile.tokens)
            continue;
        const float low = sums[spot.at + part * width], high = p.gated ? sums[spot.at + width] : 0.0f;
        const float value = moe_result_value(p, tile.expert, row, low, high);
        if ((row | 31) < p.up.rows)
            moe_order_store((uint16_t *)(staged + spot.token * Shape::stage_pitch), spot.column, p.h_order, value);
        else
            moe_order_store(p.h + (size_t)(tile.place + spot.token) * p.h_stride, row, p.h_order, value);
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

/* 8 tokens of a warp, to y. */
template <class Shape>
MOE_DEVICE void moe_large_store_y(const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                  const struct moe_large_lane<Shape> &lane, int n, const float *sums)
{
    const bool whole = p.y_stride % 4 == 0 && ((uintptr_t)p.y & 15) == 0;
    const float *bias = p.up.bias != NULL ? p.up.bias + (size_t)tile.expert * p.up.rows : NULL;
#pragma unroll
    for (uint32_t k = 0; k < Shape::tiles; k++) {
        const moe_large_spot<Shape, Shape::tiles * 16> spot(lane, n, 4 * (32 * k + lane.lane));
        const uint32_t row = tile.first_row + spot.part * (Shape::rows / 2) + spot.column;
        if (spot.token >= tile.tokens || row >= p.up.rows)
            continue;
        const float4 from = *(const float4 *)(sums + spot.at);
        float value[4] = {from.x, from.y, from.z, from.w};
        float *y = p.y + (size_t)(tile.place + spot.token) * p.y_stride + row;
        const uint32_t count = p.up.rows - row;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            value[j] = bias != NULL && j < count ? value[j] + bias[row + j] : value[j];
        if (whole && count >= 4) {
            *(float4 *)y = make_float4(value[0], value[1], value[2], value[3]);
            continue;
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            if (j < count)
                y[j] = value[j];
    }
}

/* staged: Shape::stage_bytes, of_warp: 8 * Shape::warp_pitch bytes, which nothing else uses. All threads of a block
 * together. The code of activations is large, so it is there once, and column tiles go through it one by one. */
template <class Shape>
MOE_DEVICE void moe_large_store(const struct moe_cuda_product &p, const struct moe_large_tile &tile,
                                const struct moe_large_lane<Shape> &lane,
                                const float (&sums)[Shape::tiles][Shape::columns][4], unsigned char *staged,
                                float *of_warp)
{
    constexpr uint32_t width = Shape::tiles * 8, pitch = Shape::warp_pitch / 4;
    float *at = of_warp + lane.lane % 4 * 2 * pitch + lane.lane / 4;
    for (uint32_t part = 0; part < (p.activated && !p.gated ? 2 : 1); part++) {
#pragma unroll 1
        for (int n = 0; n < lane.columns; n++) {
#pragma unroll
            for (int k = 0; k < Shape::columns; k++) {
                if (k != n)
                    continue;
#pragma unroll
                for (int m = 0; m < Shape::tiles; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        at[i % 2 * pitch + i / 2 * width + 8 * m] = sums[m][k][i];
            }
            __syncwarp();
            if (p.activated)
                moe_large_activate<Shape>(p, tile, part, lane, n, of_warp, staged);
            else
                moe_large_store_y<Shape>(p, tile, lane, n, of_warp);
            __syncwarp();
        }
        if (!p.activated)
            continue;
        __syncthreads();
        moe_large_store_h<Shape>(p, tile, part, staged);
        if (!p.gated)
            __syncthreads();
    }
}

#endif
