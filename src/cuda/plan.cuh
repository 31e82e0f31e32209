// SPDX-License-Identifier: MIT
// Sorting pairs by matrix inside a block: stable, so that a matrix has its pairs in ascending order. Integers only:
// what is added atomically has no order that could show.
#ifndef MOE_CUDA_PLAN_CUH
#define MOE_CUDA_PLAN_CUH

#include "cuda/ptx.cuh"
#include "cuda/route.h"
#include "cuda/values.cuh"

/* Where a plan goes: shared or global memory. places may be NULL. */
struct moe_plan_out {
    int32_t *num_active, *active, *starts, *sorted, *places;
};

MOE_DEVICE uint32_t moe_plan_live(const struct moe_cuda_routing &r)
{
    if (r.live_tokens == NULL)
        return r.num_tokens;
    int32_t live = *r.live_tokens;
    return live < 0 ? 0 : (uint32_t)live < r.num_tokens ? (uint32_t)live : r.num_tokens;
}

/* The matrix of an id under expert_map; MOE_CUDA_SKIPPED, MOE_CUDA_ZERO. */
MOE_DEVICE int32_t moe_plan_matrix(const struct moe_cuda_routing &r, int32_t id)
{
    if (id < 0)
        return MOE_CUDA_SKIPPED;
    int32_t matrix = r.expert_map != NULL ? r.expert_map[id] : id;
    if ((uint32_t)id >= r.num_experts - r.num_zero_experts)
        return r.expert_map != NULL && matrix == -1 ? MOE_CUDA_SKIPPED : MOE_CUDA_ZERO;
    return (uint32_t)matrix < r.num_matrices ? matrix : MOE_CUDA_SKIPPED;
}

/* A pair of the caller's ids and weights; id -1, weight 0 from live_pairs on. */
struct moe_plan_pair {
    int32_t id, matrix;
    float weight;
};

MOE_DEVICE struct moe_plan_pair moe_plan_given(const struct moe_cuda_routing &r, uint32_t pair, uint32_t live)
{
    struct moe_plan_pair given = {-1, MOE_CUDA_SKIPPED, 0.0f};
    const uint32_t t = r.num_tokens > 1 ? pair / r.top_k : 0, k = pair - t * r.top_k;
    const uint2 id_bits = moe_value_integer_bits(moe_values_row(r.ids, t), k, r.ids.format);
    const bool weighs = r.weights.data != NULL;
    const uint32_t weight_bits = weighs ? moe_value_bits(moe_values_row(r.weights, t), k, r.weights.format) : 0;
    if (t >= live)
        return given;
    const int64_t id = moe_value_of_integer_bits(id_bits, r.ids.format);
    given.weight = weighs ? moe_value_of_bits(weight_bits, r.weights.format) : 0.0f;
    given.id = (uint64_t)id < r.num_experts ? (int32_t)id : -1;
    given.matrix = moe_plan_matrix(r, given.id);
    return given;
}

/* What is known of a pair once it has an id, to everyone who wants it. */
MOE_DEVICE void moe_plan_publish(const struct moe_cuda_routing &r, uint32_t pair, int32_t id, float weight)
{
    uint32_t t = pair / r.top_k, k = pair - t * r.top_k;
    r.pair_ids[pair] = id;
    r.pair_weights[pair] = weight;
    if (r.out_ids.data != NULL)
        ((int32_t *)(r.out_ids.data + t * r.out_ids.stride))[k] = id;
    if (r.out_weights.data != NULL)
        ((float *)(r.out_weights.data + t * r.out_weights.stride))[k] = weight;
    if (r.expert_counts != NULL && id >= 0)
        atomicAdd((unsigned long long *)&r.expert_counts[id], 1ull);
}

/* Count pairs that are skipped: all lanes of a warp together. */
MOE_DEVICE void moe_plan_count_skipped(const struct moe_cuda_routing &r, bool skipped)
{
    uint32_t lanes = __ballot_sync(0xffffffffu, skipped);
    if (lanes != 0 && threadIdx.x % 32 == 0)
        atomicAdd(&r.counters->skipped_pairs, (unsigned long long)__popc(lanes));
}

/* ---- up to 128 pairs: by rank, in one block of any kernel ---- */

enum { MOE_PLAN_PAIRS = 128, MOE_PLAN_BARRIER = 15 };

struct moe_plan_shared {
    __align__(16) uint32_t keys[MOE_PLAN_PAIRS];    /* matrix * MOE_PLAN_PAIRS + pair; all ones: not sorted */
    int32_t order[MOE_PLAN_PAIRS];
};

/* Of the warps that have pairs. */
MOE_DEVICE void moe_plan_sync(uint32_t num_pairs)
{
    if (num_pairs <= 32)
        __syncwarp();
    else
        moe_barrier(MOE_PLAN_BARRIER, (num_pairs + 31) & ~31u);
}

/* At least num_pairs threads of a block, whole warps, call it; p counts them from 0, and thread p has the matrix of
 * pair p. out may be shared or global memory; what is in it can be seen after the block's next barrier. */
MOE_DEVICE void moe_plan_pairs(const struct moe_plan_out &out, struct moe_plan_shared *shared, uint32_t num_pairs,
                               uint32_t p, int32_t matrix)
{
    const uint32_t lane = p % 32, padded = (num_pairs + 3) & ~3u;
    if (p >= ((num_pairs + 31) & ~31u))
        return;
    const uint32_t key = p < num_pairs && matrix >= 0 ? (uint32_t)matrix * MOE_PLAN_PAIRS + p : 0xffffffffu;
    if (p < padded) {
        shared->keys[p] = key;
        shared->order[p] = -1;
    }
    moe_plan_sync(num_pairs);
    if (key != 0xffffffffu) {
        const uint4 *keys = (const uint4 *)shared->keys;
        uint32_t place = 0;
        for (uint32_t q = 0; q < padded / 4; q++) {
            uint4 others = keys[q];
            place += (others.x < key) + (others.y < key) + (others.z < key) + (others.w < key);
        }
        shared->order[place] = (int32_t)p;
        out.sorted[place] = (int32_t)p;
        matrix = (int32_t)place;
    }
    if (p < num_pairs && out.places != NULL)
        out.places[p] = matrix;
    moe_plan_sync(num_pairs);
    if (p >= 32)
        return;
    uint32_t num_active = 0, num_sorted = 0;
    for (uint32_t first = 0; first < num_pairs; first += 32) {
        const uint32_t place = first + lane;
        const int32_t pair = place < num_pairs ? shared->order[place] : -1;
        const uint32_t here = pair >= 0 ? shared->keys[pair] / MOE_PLAN_PAIRS : 0;
        const bool begins =
            pair >= 0 && (place == 0 || shared->keys[shared->order[place - 1]] / MOE_PLAN_PAIRS != here);
        const uint32_t all = __ballot_sync(0xffffffffu, begins);
        if (begins) {
            uint32_t a = num_active + __popc(all & ((1u << lane) - 1));
            out.active[a] = (int32_t)here;
            out.starts[a] = (int32_t)place;
        }
        num_active += __popc(all);
        num_sorted += __popc(__ballot_sync(0xffffffffu, pair >= 0));
    }
    if (lane == 0) {
        *out.num_active = (int32_t)num_active;
        out.starts[num_active] = (int32_t)num_sorted;
    }
}

/* ---- any number of pairs: by counts, in a block of MOE_PLAN_WARPS warps ---- */

enum { MOE_PLAN_WARPS = 16, MOE_PLAN_THREADS = 32 * MOE_PLAN_WARPS };

/* In shared memory: next[num_matrices], the place that each matrix' next pair gets; counts[warps][num_matrices], the
 * pairs of each warp; sums[2 * warps]. */
struct moe_plan_block {
    uint32_t *next;
    unsigned char *counts;
    uint32_t *sums;
};

static __host__ __device__ inline uint32_t moe_plan_block_matrices(uint32_t num_matrices)
{
    return (num_matrices + 15) & ~15u;
}

static __host__ __device__ inline size_t moe_plan_block_bytes(uint32_t num_matrices)
{
    size_t matrices = moe_plan_block_matrices(num_matrices);
    return matrices * (sizeof(uint32_t) + MOE_PLAN_WARPS) + 2 * MOE_PLAN_WARPS * sizeof(uint32_t);
}

/* next and counts become 0. Follow it with a barrier. */
MOE_DEVICE struct moe_plan_block moe_plan_block_begin(unsigned char *memory, uint32_t num_matrices)
{
    const uint32_t matrices = moe_plan_block_matrices(num_matrices);
    struct moe_plan_block block = {(uint32_t *)memory, memory + matrices * sizeof(uint32_t), NULL};
    block.sums = (uint32_t *)(block.counts + MOE_PLAN_WARPS * matrices);
    uint4 *words = (uint4 *)memory;
    for (uint32_t i = threadIdx.x; i < matrices * (sizeof(uint32_t) + MOE_PLAN_WARPS) / sizeof(uint4);
         i += MOE_PLAN_THREADS)
        words[i] = make_uint4(0, 0, 0, 0);
    return block;
}

/* next[m], the number of pairs of a matrix, becomes the place of its first pair; out (if `stores`) gets the active
 * matrices. Barriers before and after it are its own. */
MOE_DEVICE void moe_plan_block_scan(const struct moe_plan_block &block, const struct moe_plan_out &out,
                                    uint32_t num_matrices, bool stores)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sorted = 0, actives = 0;
    for (uint32_t first = 0; first < num_matrices; first += MOE_PLAN_THREADS) {
        const uint32_t m = first + threadIdx.x;
        __syncthreads();
        const uint32_t count = m < num_matrices ? block.next[m] : 0;
        const uint32_t active = __ballot_sync(0xffffffffu, count > 0);
        uint32_t sum = count;
        for (int d = 1; d < 32; d *= 2) {
            uint32_t before = __shfl_up_sync(0xffffffffu, sum, d);
            sum += lane >= (uint32_t)d ? before : 0;
        }
        if (lane == 31) {
            block.sums[2 * warp] = sum;
            block.sums[2 * warp + 1] = __popc(active);
        }
        __syncthreads();
        uint32_t place = sorted + sum - count, a = actives + __popc(active & ((1u << lane) - 1));
        for (uint32_t w = 0; w < MOE_PLAN_WARPS; w++) {
            place += w < warp ? block.sums[2 * w] : 0;
            a += w < warp ? block.sums[2 * w + 1] : 0;
            sorted += block.sums[2 * w];
            actives += block.sums[2 * w + 1];
        }
        if (m < num_matrices)
            block.next[m] = place;
        if (count > 0 && stores) {
            out.active[a] = (int32_t)m;
            out.starts[a] = (int32_t)place;
        }
    }
    if (threadIdx.x == 0 && stores) {
        *out.num_active = (int32_t)actives;
        out.starts[actives] = (int32_t)sorted;
    }
    __syncthreads();
}

/* Give the pairs first .. end - 1 their places: places holds their matrices, and gets the places. All threads. */
MOE_DEVICE void moe_plan_block_place(const struct moe_plan_block &block, int32_t *sorted, int32_t *places,
                                     uint32_t num_matrices, uint32_t first, uint32_t end)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, matrices = moe_plan_block_matrices(num_matrices);
    for (uint64_t tile = first; tile < end; tile += MOE_PLAN_THREADS) {
        const uint64_t p = tile + threadIdx.x;
        const int32_t matrix = p < end ? places[p] : MOE_CUDA_SKIPPED;
        const bool sorts = matrix >= 0;
        const uint32_t m = sorts ? (uint32_t)matrix : 0;
        const uint32_t peers = __match_any_sync(0xffffffffu, matrix), before = __popc(peers & ((1u << lane) - 1));
        const bool leads = sorts && before == 0;
        if (leads)
            block.counts[warp * matrices + m] = (unsigned char)__popc(peers);
        __syncthreads();
        if (sorts) {
            uint32_t place = block.next[m] + before;
            for (uint32_t w = 0; w < warp; w++)
                place += block.counts[w * matrices + m];
            sorted[place] = (int32_t)p;
            places[p] = (int32_t)place;
        }
        __syncthreads();
        if (leads) {
            atomicAdd(&block.next[m], (uint32_t)__popc(peers));
            block.counts[warp * matrices + m] = 0;
        }
        __syncthreads();
    }
}

/* ---- launches, plan.cu ---- */

/* The pairs that one block sorts; more are dealt to several blocks in chunks. */
enum { MOE_PLAN_BLOCK_PAIRS = 2048 };

size_t moe_plan_histogram(uint32_t num_pairs, uint32_t num_matrices);    /* values */
cudaError_t moe_plan_load(void);
/* Ids and weights as given, and the plan; or (placed) the plan alone of matrices that are in places. */
cudaError_t moe_plan_launch(const struct moe_cuda_routing *routing, bool placed, cudaStream_t stream, bool overlap);

#endif
