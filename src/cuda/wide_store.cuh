// SPDX-License-Identifier: MIT
// What becomes of the sums of a tile of wide.cuh: bias, activation, and stores. A lane has of each 8 tokens 4 sums:
// (row g, token 2 t), (row g, token 2 t + 1), (row g + 8, ...); where there is a gate, rows g are gate's and g + 8
// up's. A warpgroup stores for itself, 16 or 32 tokens at a time: it puts results into its part of shared memory, a row
// for each token, and then copies rows out, 16 bytes a lane: 256 bytes of y for each token, or 64 of h (128 without a
// gate).
//
// Instructions of a warp for 32 tokens of y: 4 loads and 16 stores, then 4 loads and 4 stores of 512 bytes; of h the
// activations of 8 values a lane, about 25 each.
#ifndef MOE_CUDA_WIDE_STORE_CUH
#define MOE_CUDA_WIDE_STORE_CUH

#include "cuda/large_list.cuh"
#include "cuda/result.cuh"

/* From token to token, in bytes: the lanes of a warp that write meet no bank twice. Rows of y are 256 bytes, of h 64 or
 * 128. */
enum { MOE_WIDE_Y_PITCH = 256 + 16, MOE_WIDE_H_PITCH = 128 + 16 };

/* How many fours of a lane are stored at once, of 8 tokens each, and what that takes of a warpgroup. */
template <int fours> struct moe_wide_stage {
    static constexpr uint32_t bytes = 8 * fours * MOE_WIDE_Y_PITCH;
};

/* Where a warpgroup's results go. */
struct moe_wide_results {
    unsigned char *staged;        /* its part of shared memory */
    uint32_t expert, tokens;      /* tokens that the tile has */
    uint32_t first, low, high;    /* rows of the matrix: the warpgroup's first, the lane's two */
    uint32_t place;               /* of token 0 */
    int barrier;                  /* of the warpgroup */
};

template <int fours>
MOE_DEVICE struct moe_wide_results moe_wide_results_of(const struct moe_cuda_product &p,
                                                       const struct moe_large_tile &tile, unsigned char *staged)
{
    const uint32_t group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4;
    struct moe_wide_results r;
    r.staged = staged + group * moe_wide_stage<fours>::bytes;
    r.expert = tile.expert;
    r.tokens = tile.tokens;
    r.first = tile.first_row + group * (p.gated ? 32 : 64);
    r.low = r.first + warp * (p.gated ? 8 : 16) + g;
    r.high = p.gated ? r.low : r.low + 8;
    r.place = tile.place;
    r.barrier = 1 + (int)group;
    return r;
}

/* y of tokens first .. first + 8 fours - 1. */
template <int fours>
MOE_DEVICE void moe_wide_store_y(const struct moe_cuda_product &p, const struct moe_wide_results &r, uint32_t first,
                                 const float4 *from, uint32_t stride)
{
    const float *bias = p.up.bias != NULL ? p.up.bias + (size_t)r.expert * p.up.rows : NULL;
    const float low_bias = bias != NULL && r.low < p.up.rows ? bias[r.low] : -0.0f;    /* -0 leaves what it is added */
    const float high_bias = bias != NULL && r.high < p.up.rows ? bias[r.high] : -0.0f; /* to as it is */
    unsigned char *to = r.staged + threadIdx.x % 4 * 2 * MOE_WIDE_Y_PITCH + 4 * (r.low - r.first);
#pragma unroll
    for (uint32_t i = 0; i < fours; i++) {
        float *token = (float *)(to + i * 8 * MOE_WIDE_Y_PITCH);
        const float4 four = from[i * stride];
        token[0] = four.x + low_bias, token[8] = four.z + high_bias;
        token[MOE_WIDE_Y_PITCH / 4] = four.y + low_bias, token[MOE_WIDE_Y_PITCH / 4 + 8] = four.w + high_bias;
    }
    moe_barrier(r.barrier, 128);
    const uint32_t tokens = r.tokens - first < 8 * fours ? r.tokens - first : 8 * fours;
    const uint32_t thread = threadIdx.x % 128;
    float *y = p.y + (size_t)(r.place + first) * p.y_stride + r.first;
    if (r.first + 64 <= p.up.rows && p.y_stride % 4 == 0 && ((uintptr_t)p.y & 15) == 0) {
        const uint32_t chunk = thread % 16;
#pragma unroll
        for (uint32_t k = 0; k < 8 * fours; k += 8) {
            const uint32_t token = k + thread / 16;
            if (token < tokens)
                *(float4 *)(y + token * p.y_stride + 4 * chunk) =
                    *(const float4 *)(r.staged + token * MOE_WIDE_Y_PITCH + 16 * chunk);
        }
    } else if (r.first + thread % 64 < p.up.rows) {
#pragma unroll 1
        for (uint32_t token = thread / 64; token < tokens; token += 2)
            y[token * p.y_stride + thread % 64] = ((const float *)(r.staged + token * MOE_WIDE_Y_PITCH))[thread % 64];
    }
    moe_barrier(r.barrier, 128);
}

/* The usual activation of a lane's fours, without a branch, of which `left` tokens from its first one on count; false:
 * they are to be done again, one by one. */
template <int fours>
MOE_DEVICE bool moe_wide_activate_swish(const struct moe_cuda_product &p, unsigned char *to, uint32_t left,
                                        const float4 (&sums)[fours])
{
    float values[2 * fours];
    bool sure = true;
#pragma unroll
    for (uint32_t i = 0; i < fours; i++) {
        bool sure_first = true, sure_second = true;
        values[2 * i] = moe_act_swish_glu(p.act, sums[i].x, sums[i].z, &sure_first);
        values[2 * i + 1] = moe_act_swish_glu(p.act, sums[i].y, sums[i].w, &sure_second);
        sure = sure && (sure_first || 8 * i >= left) && (sure_second || 8 * i + 1 >= left);
    }
#pragma unroll
    for (int i = 0; i < 2 * fours; i++)
        *(uint16_t *)(to + (i / 2 * 8 + i % 2) * MOE_WIDE_H_PITCH) = (uint16_t)moe_bf16x2(values[i], 0.0f);
    return sure;
}

/* A lane's fours through any activation: to its rows of tokens in_stage, in_stage + 1, in_stage + 8, ..., or where a
 * group of 32 columns is not full to h at once. */
template <int fours>
MOE_DEVICE void moe_wide_activate(const struct moe_cuda_product &p, const struct moe_wide_results &r, uint32_t first,
                                  uint32_t in_stage, const float4 *from, uint32_t stride)
{
#pragma unroll 1
    for (uint32_t i = 0; i < 4 * fours; i++) {
        const float *four = (const float *)(from + i / 4 * stride);
        const uint32_t row = i % 4 < 2 ? r.low : r.high, token = i / 4 * 8 + in_stage + i % 2;
        if ((i % 4 >= 2 && p.gated) || row >= p.up.rows || first + token >= r.tokens)
            continue;
        const float value = moe_result_value(p, r.expert, row, four[i % 4], four[2 + i % 2]);
        if ((row | 31) < p.up.rows)
            moe_order_store((uint16_t *)(r.staged + token * MOE_WIDE_H_PITCH), row - r.first, p.h_order, value);
        else
            moe_order_store(p.h + (size_t)(r.place + first + token) * p.h_stride, row, p.h_order, value);
    }
}

/* h of tokens first .. first + 8 fours - 1. */
template <int fours>
MOE_DEVICE void moe_wide_store_h(const struct moe_cuda_product &p, const struct moe_wide_results &r, uint32_t first,
                                 const float4 *from, uint32_t stride)
{
    const bool usual = p.gated && p.act.kind == MOE_ACT_SWISH && p.act.clamp == MOE_CLAMP_NONE && p.gate.bias == NULL &&
                       p.up.bias == NULL && r.first + 32 <= p.up.rows;
    const uint32_t in_stage = threadIdx.x % 4 * 2, chunks = p.gated ? 4 : 8;    /* of 16 bytes, of a token */
    unsigned char *to = r.staged + in_stage * MOE_WIDE_H_PITCH + 2 * moe_order_position(r.low - r.first, p.h_order);
    bool done = false;
    if (usual) {
        float4 sums[fours];
#pragma unroll
        for (int i = 0; i < fours; i++)
            sums[i] = from[i * stride];
        const uint32_t left = r.tokens - first;
        done = moe_wide_activate_swish<fours>(p, to, left > in_stage ? left - in_stage : 0, sums);
    }
    if (!done)
        moe_wide_activate<fours>(p, r, first, in_stage, from, stride);
    moe_barrier(r.barrier, 128);
    const uint32_t tokens = r.tokens - first < 8 * fours ? r.tokens - first : 8 * fours;
    const uint32_t thread = threadIdx.x % 128, end = p.up.rows & ~31u;
#pragma unroll
    for (uint32_t k = 0; k < (8 * fours * 8 + 127) / 128; k++) {
        const uint32_t i = 128 * k + thread, token = i / chunks, row = r.first + i % chunks * 8;
        if (token < tokens && row < end)
            *(uint4 *)(p.h + (size_t)(r.place + first + token) * p.h_stride + row) =
                *(const uint4 *)(r.staged + token * MOE_WIDE_H_PITCH + i % chunks * 16);
    }
    moe_barrier(r.barrier, 128);
}

/* A lane's fours of tokens first .. first + 8 fours - 1, `stride` apart: all of a warpgroup together. */
template <int fours>
MOE_DEVICE void moe_wide_store(const struct moe_cuda_product &p, const struct moe_wide_results &r, uint32_t first,
                               const float4 *from, uint32_t stride)
{
    if (p.activated)
        moe_wide_store_h<fours>(p, r, first, from, stride);
    else
        moe_wide_store_y<fours>(p, r, first, from, stride);
}

#endif
