// SPDX-License-Identifier: MIT
// Launches of routing: few tokens in one block, which also sorts their pairs; many with a team of warps for each token.
#include "cuda/launch.cuh"
#include "cuda/logits.h"
#include "cuda/prepare.cuh"
#include "cuda/route.cuh"

enum {
    SHARED_BYTES = 99 * 1024,    /* the least that a multiprocessor since sm_80 gives a block */
    BLOCK_TOKENS = MOE_ROUTE_WARPS,
    BLOCK_PAIRS = 1024,
    TEAM_EXPERTS = 512,          /* for each warp of a team, where there are many tokens */
    MANY_WARPS = 8,
    MANY_BYTES = 48 * 1024       /* of shared memory, if a team needs no more: several blocks a multiprocessor */
};

struct moe_route_params {
    struct moe_cuda_routing r;
    uint32_t warps, teams;       /* warps of a team, teams of a block */
    size_t team_bytes;
};

/* Every token has a team, the first warps. Up to MOE_PLAN_PAIRS pairs are planned by the warps after them, while the
 * teams weigh; more by all of them, after that. */
static __global__ void __launch_bounds__(MOE_PLAN_THREADS + MOE_PLAN_PAIRS)
    moe_route_block_kernel(const __grid_constant__ struct moe_route_params params)
{
    const struct moe_cuda_routing &r = params.r;
    const uint32_t warp = threadIdx.x / 32, num_pairs = r.num_tokens * r.top_k, t = warp / params.warps;
    const bool few = num_pairs <= MOE_PLAN_PAIRS;
    unsigned char *memory = moe_dynamic_shared();
    const struct moe_plan_out out = {r.num_active, r.active, r.starts, r.sorted, r.places};
    const struct moe_route_team team =
        moe_route_team_of(r, memory, params.team_bytes, t, params.warps, warp % params.warps);
    struct moe_route_chosen chosen = {};
    moe_let_next_start();
    moe_wait_for_previous();
    if (blockIdx.x > 0) {
        moe_prepare_beside(r.beside);
        return;
    }
    const uint32_t live = moe_plan_live(r);
    if (t < r.num_tokens)
        chosen = moe_route_token(r, team, t, live);
    __syncthreads();
    if (t < r.num_tokens) {
        if (team.part == 0)
            moe_route_publish(r, team, t, live, chosen, !few);
    } else if (few) {
        const uint32_t p = threadIdx.x - 32 * params.warps * r.num_tokens, at = p / r.top_k;
        int32_t matrix = MOE_CUDA_SKIPPED;
        if (p < num_pairs)
            matrix = moe_plan_matrix(
                r, moe_route_team_of(r, memory, params.team_bytes, at, params.warps, 0).ids[p - at * r.top_k]);
        moe_plan_count_skipped(r, p < num_pairs && at < live && matrix == MOE_CUDA_SKIPPED);
        if (r.sorts)
            moe_plan_pairs(out, (struct moe_plan_shared *)(memory + r.num_tokens * params.team_bytes), num_pairs, p,
                           matrix);
        else if (p < num_pairs)
            r.places[p] = matrix;
    }
    if (few || !r.sorts)
        return;
    __syncthreads();
    const struct moe_plan_block block = moe_plan_block_begin(memory, r.num_matrices);
    __syncthreads();
    for (uint32_t p = threadIdx.x; p < num_pairs; p += MOE_PLAN_THREADS)
        if (r.places[p] >= 0)
            atomicAdd(&block.next[r.places[p]], 1u);
    moe_plan_block_scan(block, out, r.num_matrices, true);
    moe_plan_block_place(block, r.sorted, r.places, r.num_matrices, 0, num_pairs);
}

static __global__ void __launch_bounds__(32 * MANY_WARPS)
    moe_route_many_kernel(const __grid_constant__ struct moe_route_params params)
{
    const struct moe_cuda_routing &r = params.r;
    const uint32_t warp = threadIdx.x / 32, index = warp / params.warps, t = blockIdx.x * params.teams + index;
    moe_let_next_start();
    moe_wait_for_previous();
    const uint32_t live = moe_plan_live(r);
    if (t >= r.num_tokens)
        return;
    const struct moe_route_team team =
        moe_route_team_of(r, moe_dynamic_shared(), params.team_bytes, index, params.warps, warp % params.warps);
    const struct moe_route_chosen chosen = moe_route_token(r, team, t, live);
    moe_route_sync(team);
    if (team.part == 0)
        moe_route_publish(r, team, t, live, chosen, true);
}

/* ---- launches ---- */

static uint32_t moe_route_smaller(size_t a, size_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* In one block, or 0 where there are too many. */
static size_t moe_route_block_bytes(const struct moe_cuda_routing *r)
{
    size_t teams = r->num_tokens * moe_route_team_bytes(*r), num_pairs = (size_t)r->num_tokens * r->top_k;
    size_t plan = moe_plan_block_bytes(r->num_matrices);
    if (r->num_tokens > BLOCK_TOKENS || num_pairs > BLOCK_PAIRS)
        return 0;
    size_t bytes = num_pairs <= MOE_PLAN_PAIRS ? teams + sizeof(struct moe_plan_shared)
                   : r->sorts && plan > teams  ? plan
                                               : teams;
    return bytes <= SHARED_BYTES ? bytes : 0;
}

static cudaError_t moe_route_block(const struct moe_cuda_routing *r, size_t bytes, cudaStream_t stream, bool overlap)
{
    const uint32_t num_pairs = r->num_tokens * r->top_k;
    struct moe_route_params params = {*r, 1, r->num_tokens, moe_route_team_bytes(*r)};
    params.warps = moe_route_smaller(MOE_ROUTE_WARPS / r->num_tokens, (r->num_experts + 31) / 32);
    uint32_t threads = 32 * params.warps * r->num_tokens;
    if (num_pairs <= MOE_PLAN_PAIRS)
        threads += (num_pairs + 31) & ~31u;
    else
        threads = MOE_PLAN_THREADS;
    const uint32_t blocks = 1 + moe_prepare_blocks(r->beside, threads);
    return moe_launch(moe_route_block_kernel, blocks, threads, bytes, stream, overlap, params);
}

static cudaError_t moe_route_many(const struct moe_cuda_routing *r, cudaStream_t stream, bool overlap)
{
    struct moe_route_params params = {*r, 1, 1, moe_route_team_bytes(*r)};
    params.warps = moe_route_smaller((r->num_experts + TEAM_EXPERTS - 1) / TEAM_EXPERTS, MANY_WARPS);
    params.teams = MANY_WARPS / params.warps;
    while (params.teams > 1 && params.teams * params.team_bytes > MANY_BYTES)
        params.teams--;
    cudaError_t error = moe_launch(moe_route_many_kernel, (r->num_tokens - 1) / params.teams + 1,
                                   32 * params.warps * params.teams, params.teams * params.team_bytes, stream, overlap,
                                   params);
    return error == cudaSuccess && r->sorts ? moe_plan_launch(r, true, stream, true) : error;
}

extern "C" bool moe_cuda_route_scratch(const struct moe_cuda_routing *r, size_t *router_logits, size_t *histogram)
{
    const uint64_t num_pairs = (uint64_t)r->num_tokens * r->top_k;
    *router_logits = (size_t)r->num_tokens * r->num_experts;
    *histogram = num_pairs <= INT32_MAX && r->sorts ? moe_plan_histogram((uint32_t)num_pairs, r->num_matrices) : 0;
    return num_pairs <= INT32_MAX;
}

extern "C" cudaError_t moe_cuda_route_load(void)
{
    cudaError_t error = moe_allow_shared(moe_route_block_kernel, SHARED_BYTES);
    if (error == cudaSuccess)
        error = moe_allow_shared(moe_route_many_kernel, SHARED_BYTES);
    if (error == cudaSuccess)
        error = moe_plan_load();
    return error == cudaSuccess ? moe_logits_load() : error;
}

extern "C" bool moe_cuda_route_takes(const struct moe_cuda_routing *r)
{
    return r->ids.data != NULL ? r->num_tokens * r->top_k <= MOE_PLAN_PAIRS : moe_route_block_bytes(r) > 0;
}

extern "C" cudaError_t moe_cuda_route(const struct moe_cuda_routing *r, cudaStream_t stream, bool overlap)
{
    if (r->ids.data != NULL)
        return moe_plan_launch(r, false, stream, overlap);
    if (r->logits.data == NULL) {
        cudaError_t error = moe_logits_launch(r, stream, overlap);
        if (error != cudaSuccess)
            return error;
        overlap = true;
    }
    size_t bytes = moe_route_block_bytes(r);
    return bytes > 0 ? moe_route_block(r, bytes, stream, overlap) : moe_route_many(r, stream, overlap);
}
