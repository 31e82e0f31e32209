// SPDX-License-Identifier: MIT
// The front of a layer for up to MOE_FRONT_PAIRS given pairs, without a launch of its own: every block of a product
// plans for itself, by one warp, while the others turn x into bf16 rows in its shared memory; one block of the last
// product publishes the plan.
#ifndef MOE_CUDA_FRONT_CUH
#define MOE_CUDA_FRONT_CUH

#include "cuda/plan.cuh"
#include "cuda/prepare.cuh"

/* What lane p of a warp knows of pair p. */
struct moe_front_pair {
    struct moe_plan_pair given;
    bool sorted, begins;           /* it has a place; it is the first of its matrix */
    uint32_t place;
    uint32_t active, count;        /* of the matrix: its index among those that have pairs, how many it has */
    uint32_t num_active, num_sorted;
};

/* All lanes of a warp together. */
MOE_DEVICE struct moe_front_pair moe_front_plan(const struct moe_cuda_routing &r, uint32_t lane)
{
    struct moe_front_pair pair = {{-1, MOE_CUDA_SKIPPED, 0.0f}, false, false, 0, 0, 0, 0, 0};
    if (lane < r.num_tokens * r.top_k)
        pair.given = moe_plan_given(r, lane, moe_plan_live(r));
    pair.sorted = pair.given.matrix >= 0;
    const uint32_t key = pair.sorted ? (uint32_t)pair.given.matrix * 32 + lane : UINT32_MAX;
    uint32_t others[MOE_FRONT_PAIRS], before = 0;
#pragma unroll
    for (uint32_t q = 0; q < MOE_FRONT_PAIRS; q++)
        others[q] = __shfl_sync(0xffffffffu, key, (int)q);
#pragma unroll
    for (uint32_t q = 0; q < MOE_FRONT_PAIRS; q++) {
        const bool same = pair.sorted && others[q] / 32 == key / 32;
        pair.place += others[q] < key;
        pair.count += same;
        before += same && q < lane;
    }
    pair.begins = pair.sorted && before == 0;
    const uint32_t first = __ballot_sync(0xffffffffu, pair.begins);
#pragma unroll
    for (uint32_t q = 0; q < MOE_FRONT_PAIRS; q++)
        pair.active += others[q] < key && (first >> q & 1);
    pair.num_active = __popc(first);
    pair.num_sorted = __popc(__ballot_sync(0xffffffffu, pair.sorted));
    return pair;
}

/* To everyone who wants it: one warp of a launch, after its wait. */
MOE_DEVICE void moe_front_publish(const struct moe_cuda_routing &r, const struct moe_plan_pair &pair, uint32_t lane)
{
    if (lane < r.num_tokens * r.top_k)
        moe_plan_publish(r, lane, pair.id, pair.weight);
    moe_plan_count_skipped(r, pair.matrix == MOE_CUDA_SKIPPED && lane < moe_plan_live(r) * r.top_k);
}

/* Rows of x as the product takes them, in shared memory, by all warps of a block; and, by all of the launch, what lies
 * behind the rows of h. */
MOE_DEVICE void moe_front_rows(const struct moe_cuda_prepare &prepare, uint16_t *x, uint32_t warp, uint32_t warps,
                               int lane)
{
    struct moe_cuda_prepared to = prepare.outputs[0];
    to.rows = x;
    const uint32_t live = moe_live_tokens(prepare.live_tokens, prepare.num_tokens);
    const uint32_t segments = (uint32_t)(to.stride / MOE_SEGMENT), pieces = prepare.num_tokens * segments;
    for (uint32_t piece = warp; piece < pieces; piece += warps)
        moe_prepare_row(prepare, to, piece / segments, piece % segments, live, lane);
    const struct moe_cuda_padding &padding = prepare.paddings[0];
    if (padding.rows != NULL && padding.cols < padding.stride)
        for (size_t row = (size_t)blockIdx.x * warps + warp; row < padding.num_rows; row += (size_t)gridDim.x * warps)
            moe_prepare_pad(padding, row, lane);
}

#endif
