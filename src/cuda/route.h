// SPDX-License-Identifier: MIT
// Routing on the device: from logits, the layer's router or the caller's ids to ids, weights and the plan, the pairs
// sorted by matrix. The rules are those of src/route.c, which has the same results up to the last place of a double.
//
//     logits   the layer's router                                          logits.cu
//     route    logits, or the caller's ids -> ids, weights, matrices       route.cu, route.cuh
//     plan     pairs sorted by matrix                                      plan.cu, plan.cuh
//
// For few tokens route and plan are one launch of one block.
#ifndef MOE_CUDA_ROUTE_H
#define MOE_CUDA_ROUTE_H

#include <cuda_runtime_api.h>

#include "cuda/call.h"
#include "cuda/prepare.h"

#ifdef __cplusplus
extern "C" {
#endif

/* struct moe_router on the device: the same fields, arrays in device memory. */
struct moe_cuda_router {
    int32_t select, weight;             /* enum moe_score, never DEFAULT */
    int32_t group_score, renorm;        /* enum moe_group_score, moe_renorm */
    uint32_t num_groups, top_groups;    /* 0 or 1 groups: none */
    uint32_t num_always;
    bool group_mask_zero;
    bool norm, norm_unit;               /* of the matrix' logits, before the bias */
    float norm_eps, softcap, renorm_eps, renorm_p, sparsemixer_eps;
    float scale;                        /* never 0 */
    const float *selection_bias;        /* [num_experts - num_always]; NULL: none */
    const float *expert_scale;          /* [num_experts]; NULL: none */
    const float *bias;                  /* [num_experts], host_bias; NULL: none */
    const int32_t *hash_table;          /* [hash_rows, hash_cols]; NULL: none */
    uint64_t hash_rows, hash_cols;
    /* host_matrix [num_experts, hidden_size]: rows matrix_stride values apart, zeros from hidden_size up to the next
     * multiple of 4, which the stride is one of; aligned to 16. F32, or BF16 where that loses no value: half the bytes
     * to read. NULL: none. */
    const void *matrix;
    uint32_t matrix_stride;
    int32_t matrix_format;              /* enum moe_format */
};

/* What places holds of a pair that is not sorted. */
enum { MOE_CUDA_SKIPPED = -1, MOE_CUDA_ZERO = -2 };

/* Counts of a context, added to; device memory. */
struct moe_cuda_counters {
    unsigned long long nonfinite_rows, skipped_pairs;
};

/* Routing of one call. Ids come from ids, if it is there, else from logits, if it is there, else from the router's
 * matrix and router_x. */
struct moe_cuda_routing {
    uint32_t num_tokens, top_k;
    uint32_t num_experts;               /* ids */
    uint32_t num_zero_experts;          /* the last of them */
    uint32_t num_matrices;
    uint32_t hidden_size;               /* of router_x */
    bool sorts;                         /* false: places[pair] is the pair's matrix, or as above; no more of the plan
                                           is written (route, combine) */
    struct moe_cuda_router router;      /* not used with ids */
    struct moe_cuda_rows logits, router_x;    /* f32, f16, bf16 */
    struct moe_cuda_rows ids;           /* i32, i64 */
    struct moe_cuda_rows weights;       /* beside ids; f32, f16, bf16; absent: 0 */
    struct moe_cuda_rows token_ids;     /* i32, i64; with hash_table */
    struct moe_cuda_rows out_ids;       /* i32; absent: not wanted */
    struct moe_cuda_rows out_weights;   /* f32 */
    const int32_t *expert_map;          /* [num_experts]; NULL: identity */
    const int32_t *live_tokens;         /* [1]; NULL: all */
    int64_t *expert_counts;             /* [num_experts], added to; NULL: not wanted */
    struct moe_cuda_counters *counters;

    /* Results, in the workspace; every one is there, the plan's may be NULL unless it sorts. Aligned to 16. */
    int32_t *pair_ids;                  /* [num_tokens * top_k]; -1: empty */
    float *pair_weights;                /* [num_tokens * top_k] */
    int32_t *places;                    /* [num_tokens * top_k]: where the pair is among the sorted, or as above */
    int32_t *num_active, *active, *starts, *sorted;    /* struct moe_cuda_pairs */
    /* Scratch, of the sizes that moe_cuda_route_scratch gives; NULL where that is 0. */
    double *router_logits;
    uint32_t *histogram;

    /* Activations that blocks of the last launch make beside it; nothing of it may need the routing. Only where
     * moe_cuda_route_takes; otherwise outputs and paddings are NULL. */
    struct moe_cuda_prepare beside;
};

/* How much scratch the sizes in routing need (num_tokens, top_k, num_experts, num_matrices, sorts; views do not
 * matter): router_logits as if the layer's router were used. Neither falls as num_tokens or top_k grows. False: a size
 * overflows. */
bool moe_cuda_route_scratch(const struct moe_cuda_routing *routing, size_t *router_logits, size_t *histogram);

/* Loads every kernel, so that no launch has to. Not under capture. */
cudaError_t moe_cuda_route_load(void);

/* Whether routing of these sizes and views ends with a launch of one block, which has room beside it. */
bool moe_cuda_route_takes(const struct moe_cuda_routing *routing);

/* Queue it all: 1 launch for ids of up to 2048 pairs, and for logits of up to 16 tokens and 1024 pairs (unless they are
 * more than shared memory holds: 16 bytes a logit); 1 more with the router's matrix; otherwise one for logits, one for
 * ids, and 1 or 2 for the plan. The number depends on sizes and on which views are there. overlap: the first launch may
 * begin before the one ahead of it in the stream is done. num_tokens * top_k is in 1 .. 2^31 - 1. */
cudaError_t moe_cuda_route(const struct moe_cuda_routing *routing, cudaStream_t stream, bool overlap);

#ifdef __cplusplus
}
#endif
#endif
