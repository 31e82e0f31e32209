// SPDX-License-Identifier: MIT
// Makes the kernels of a format: MOE_CUDA_WEIGHTS(name, NAME, scaled) in weights_<name>.cu is all that is in there.
#ifndef MOE_CUDA_WEIGHTS_CUH
#define MOE_CUDA_WEIGHTS_CUH

#include "cuda/kernels.h"
#include "cuda/large.cuh"
#include "cuda/small.cuh"
#include "cuda/small_down.cuh"

enum {
    MOE_SMALL_WARPS = 16,
    MOE_SMALL_RING = 5 * 1024,       /* bytes of units that a warp has under way: 16 of them, 80 KB */
    MOE_SMALL_UNIT = 6 * 1024,       /* bytes of a unit with two tiles, at most */
    MOE_SMALL_PARTS = 40             /* accumulators whose sums meet in shared memory: of 5 groups that have 8 */
};

template <class Weights, int columns> struct moe_small_choice {
    /* Two tiles where a unit stays small: what a unit costs beside its products, address and barrier, counts half. */
    static constexpr int tiles = 2 * MOE_TILE_ROWS * Weights::pitch <= MOE_SMALL_UNIT ? 2 : 1;
    static constexpr int wanted = MOE_SMALL_RING / (tiles * MOE_TILE_ROWS * Weights::pitch);
    static constexpr int stages = wanted < 1 ? 1 : wanted > 4 ? 4 : wanted;
    typedef moe_small_shape<Weights, tiles, columns, MOE_SMALL_WARPS, stages> shape;
};

/* One tile: a block has no more than 16 rows of most matrices. */
template <class Weights> struct moe_down_choice {
    static constexpr int wanted = MOE_SMALL_RING / (MOE_TILE_ROWS * (int)Weights::pitch);
    static constexpr int stages = wanted < 1 ? 1 : wanted > 4 ? 4 : wanted;
    typedef moe_small_shape<Weights, 1, 1, MOE_SMALL_WARPS, stages> shape;
};

/* How a launch divides a block: warps that it has, warps that share an item, sums that meet in shared memory. */
struct moe_small_plan {
    uint32_t warps, split, parts;
};

/* Warps that share an item: as many as keep all warps of a block equally busy, within 7 %. A matrix of 2048 columns has 8
 * segments: 8 warps with one each; of 768 columns 3: 5 groups of 3 warps; of 2880 columns 12, in 8 accumulators of two
 * or one: 4 warps with three each. */
static inline struct moe_small_plan moe_small_plan(uint32_t cols, uint32_t warps)
{
    uint32_t segments = (cols + MOE_SEGMENT - 1) / MOE_SEGMENT, best_busy = 0;
    uint32_t accumulators = segments < MOE_ACCUMULATORS ? segments : (uint32_t)MOE_ACCUMULATORS;
    struct moe_small_plan best = {warps, 1, warps * accumulators};
    for (uint32_t split = 1; split <= accumulators && split <= warps; split++) {
        uint32_t units = 0, parts = warps / split * accumulators;
        for (uint32_t j = 0; j < accumulators; j += split)    /* of the warp that has the most, that of accumulator 0 */
            units += (segments - j + MOE_ACCUMULATORS - 1) / MOE_ACCUMULATORS;
        uint32_t busy = warps / split * segments * 1000 / (units * warps);
        if (split > 1 && (busy * 107 < best_busy * 100 || parts > MOE_SMALL_PARTS))
            continue;
        best.split = split;
        best.parts = parts;
        best_busy = busy > best_busy ? busy : best_busy;
    }
    return best;
}

template <class Shape>
static cudaError_t moe_small_launch(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
{
    struct moe_small_plan plan = moe_small_plan(product->up.cols, Shape::warps);
    while (plan.warps > 1 && Shape::shared_bytes(plan.warps, plan.parts) > product->shared_bytes)
        plan = moe_small_plan(product->up.cols, plan.warps / 2);
    struct moe_small_params params = {*product, plan.split};
    return moe_launch(moe_small_kernel<Shape>, product->multiprocessors, plan.warps * 32,
                      Shape::shared_bytes(plan.warps, plan.parts), stream, overlap, params);
}

template <class Weights> struct moe_weights_kernels {
    typedef typename moe_small_choice<Weights, 1>::shape few;
    typedef typename moe_small_choice<Weights, 2>::shape some;
    typedef moe_large_shape<Weights> many;
    typedef typename moe_down_choice<Weights>::shape one;

    static cudaError_t load(size_t shared_bytes)
    {
        cudaError_t error = moe_allow_shared(moe_small_kernel<few>, shared_bytes);
        error = error == cudaSuccess ? moe_allow_shared(moe_small_kernel<some>, shared_bytes) : error;
        if constexpr (moe_unit_source<Weights>::copies)
            error = error == cudaSuccess ? moe_allow_shared(moe_large_kernel<many>, shared_bytes) : error;
        return error == cudaSuccess ? moe_allow_shared(moe_small_down_kernel<one>, shared_bytes) : error;
    }

    static cudaError_t small(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
    {
        if (product->pairs.tokens_of <= MOE_TILE_TOKENS)
            return moe_small_launch<few>(product, stream, overlap);
        return moe_small_launch<some>(product, stream, overlap);
    }

    static cudaError_t large(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
    {
        struct moe_large_params params;
        size_t shared_bytes;
        if (!moe_large_plan<many>(&params, &shared_bytes, product))
            return small(product, stream, overlap);
        return moe_launch(moe_large_kernel<many>, product->multiprocessors, MOE_LARGE_THREADS, shared_bytes, stream,
                          overlap, params);
    }

    static constexpr moe_cuda_product_fn *large_if_served(void)
    {
        if constexpr (moe_unit_source<Weights>::copies)
            return large;
        return NULL;
    }
};

#define MOE_CUDA_WEIGHTS(name, NAME, scaled)                                                                           \
    const struct moe_cuda_weights moe_cuda_weights_##name = {                                                          \
        #name,                                                                                                         \
        MOE_FORMAT_##NAME,                                                                                             \
        scaled,                                                                                                        \
        moe_weights_##name::aligned,                                                                                   \
        moe_weights_##name::group,                                                                                     \
        moe_weights_##name::offset,                                                                                    \
        moe_weights_##name::order,                                                                                     \
        moe_weights_kernels<moe_weights_##name>::load,                                                                 \
        moe_weights_kernels<moe_weights_##name>::small,                                                                \
        moe_weights_kernels<moe_weights_##name>::large_if_served(),                                                    \
        moe_small_down_launch<moe_weights_kernels<moe_weights_##name>::one>,                                           \
    }

#endif
