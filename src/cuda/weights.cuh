// SPDX-License-Identifier: MIT
// Makes the kernels of a format: MOE_CUDA_WEIGHTS(name, NAME, scaled) in weights_<name>.cu is all that is in there.
#ifndef MOE_CUDA_WEIGHTS_CUH
#define MOE_CUDA_WEIGHTS_CUH

#include "cuda/kernels.h"
#include "cuda/large.cuh"
#include "cuda/small.cuh"
#include "cuda/small_down.cuh"
#include "cuda/wide.cuh"

enum {
    MOE_SMALL_WARPS = 16,
    MOE_SMALL_UNIT = 6 * 1024,       /* bytes of a unit with two tiles, at most */
    MOE_SMALL_BULK = 9 * 1024 + 512, /* likewise where there are many items */
    MOE_SMALL_MANY = 6,              /* such items of a multiprocessor, at least: three rounds of two groups of warps */
    MOE_SMALL_TURNS = 8,             /* of each group of warps, at least, where matrices differ in tokens */
    MOE_SMALL_FEW = 5,               /* pairs of a matrix, on average: hardly any has more than 8 */
    MOE_SMALL_PARTS = 40,            /* accumulators whose sums meet in shared memory: of 5 groups that have 8 */
    MOE_WIDE_FEW = 56                /* tokens a matrix: with more, tiles of 128 tokens cost less than those of 64 */
};

/* Two tiles where a unit stays small: what a unit costs beside its products, address and barrier, counts half. bulk:
 * larger ones too, of rows whose copies are whole sectors of 32 bytes; others gain nothing. */
template <class Weights, int columns, bool bulk = false> struct moe_small_choice {
    static constexpr bool sectors = Weights::aligned && Weights::pitch % 32 == 0;
    static constexpr uint32_t most = bulk && sectors ? MOE_SMALL_BULK : MOE_SMALL_UNIT;
    static constexpr int tiles = 2 * MOE_TILE_ROWS * Weights::pitch <= most ? 2 : 1;
    typedef moe_small_shape<Weights, tiles, columns, MOE_SMALL_WARPS> shape;
};

/* Without scales there is little beside products, and large tiles read less. With terms there are three sets of sums,
 * and units of a byte a weight leave less of shared memory: then more warpgroups are for few tokens only. */
template <class Weights> struct moe_wide_choice {
    static constexpr bool scaled = Weights::group < MOE_SEGMENT;
    static constexpr bool small = scaled && !Weights::offset && Weights::pitch <= 176;
    typedef moe_wide_shape<Weights, small ? 3 : 2, !scaled ? 160 : small ? 96 : 128> many;
    typedef moe_wide_shape<Weights, scaled ? 3 : 2, !scaled ? 160 : small ? 96 : 64> few;
};

/* How a launch divides a block: warps that it has, warps that share an item, buffers of their partial sums; shared
 * memory in front of the lists. */
struct moe_small_plan {
    uint32_t warps, split, buffers;
    size_t bytes;
};

/* Warps that share an item: as many as keep all warps busy, within 7 %, since a warp that keeps to one segment
 * keeps its tokens in registers; for one token as few, since a barrier an item is what counts then. Two things leave
 * warps idle: a matrix of 768 columns has 3 units in a row, so that two warps have 2 and 1; and the last items of a
 * call do not go round. Shared memory has to have room: a second buffer saves a barrier an item, a tenth of the time
 * (ncu). Without any way bytes are 0. */
template <class Shape>
static inline struct moe_small_plan moe_small_plan(const struct moe_cuda_product *product, uint32_t warps,
                                                   uint32_t items, size_t most_bytes)
{
    const uint32_t segments = (product->up.cols + MOE_SEGMENT - 1) / MOE_SEGMENT;
    const uint32_t accumulators = segments < MOE_ACCUMULATORS ? segments : (uint32_t)MOE_ACCUMULATORS;
    struct moe_small_plan best = {warps, 1, 0, 0};
    double best_busy = 0;
    for (uint32_t split = 1; split <= accumulators && split <= warps; split++) {
        const uint32_t groups = warps / split, parts = groups * accumulators;
        const uint32_t runs = groups * product->multiprocessors, rounds = (items + runs - 1) / runs;
        uint32_t units = 0;
        for (uint32_t j = 0; j < accumulators; j += split)    /* of the warp that has the most, that of accumulator 0 */
            units += (segments - j + MOE_ACCUMULATORS - 1) / MOE_ACCUMULATORS;
        double busy = (double)items * segments / ((double)rounds * units * warps * product->multiprocessors);
        uint32_t buffers = 2;
        if (Shape::shared_bytes(warps, parts * buffers) > most_bytes)
            buffers = 1, busy *= 0.9;
        const size_t bytes = Shape::shared_bytes(warps, parts * buffers);
        const double enough = product->pairs.tokens_of > 1 ? best_busy / 1.07 : best_busy * 1.07;
        if (bytes > most_bytes || busy < enough || (split > 1 && parts > MOE_SMALL_PARTS))
            continue;
        best.split = split;
        best.buffers = buffers;
        best.bytes = bytes;
        best_busy = busy > best_busy ? busy : best_busy;
    }
    return best;
}

/* front_bytes: of shared memory, that the front needs. */
template <class Shape>
static inline bool moe_small_fill(struct moe_small_params *params, struct moe_small_plan *plan,
                                  const struct moe_cuda_product *product, size_t front_bytes)
{
    const uint32_t rows_of_item = Shape::tiles * (product->gated ? 8 : 16);
    const uint32_t row_tiles = (product->up.rows + rows_of_item - 1) / rows_of_item;
    const uint32_t matrices = moe_small_matrices(product->pairs);
    const size_t more = moe_small_lists::bytes(product->pairs) + front_bytes;
    const size_t most_bytes = product->shared_bytes > more ? product->shared_bytes - more : 0;
    *plan = moe_small_plan<Shape>(product, Shape::warps, matrices * row_tiles, most_bytes);
    while (plan->warps > 1 && plan->bytes == 0)
        *plan = moe_small_plan<Shape>(product, plan->warps / 2, matrices * row_tiles, most_bytes);
    if (plan->bytes == 0)
        return false;
    const uint32_t turns = plan->warps / plan->split * product->multiprocessors * MOE_SMALL_TURNS;
    const uint32_t chunk = matrices * row_tiles / turns;
    const bool alike = product->pairs.tokens_of <= 8 * Shape::columns;    /* all items take as long */
    *params = {*product, plan->split, row_tiles, alike ? 0 : chunk > 0 ? chunk : 1, plan->buffers,
               (uint32_t)plan->bytes};
    Shape::Weights::find_lines(&params->product);
    return true;
}

template <class Shape>
static cudaError_t moe_small_launch(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
{
    struct moe_small_params params;
    struct moe_small_plan plan;
    if (!moe_small_fill<Shape>(&params, &plan, product, 0))
        return cudaErrorInvalidValue;
    return moe_launch(moe_small_kernel<Shape>, product->multiprocessors, plan.warps * 32,
                      plan.bytes + moe_small_lists::bytes(product->pairs), stream, overlap, params);
}

template <class Shape>
static cudaError_t moe_small_front_launch(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
{
    const struct moe_cuda_prepare &prepare = product->front->beside;
    const size_t own = 16 + MOE_FRONT_PAIRS * sizeof(uint32_t) +    /* 16: to begin at such a multiple */
                       prepare.num_tokens * prepare.outputs[0].stride * sizeof(uint16_t);
    struct moe_small_front_params params;
    struct moe_small_plan plan;
    if (product->pairs.num_pairs > MOE_FRONT_PAIRS || own > MOE_FRONT_BYTES + 64 || !moe_rows_good(prepare.x) ||
        !moe_small_fill<Shape>(&params, &plan, product, own))
        return cudaErrorInvalidValue;
    params.routing = *product->front;
    params.x_at = (uint32_t)((plan.bytes + moe_small_lists::bytes(product->pairs) + 15) & ~(size_t)15);
    return moe_launch(moe_small_kernel<Shape, moe_small_front_params>, product->multiprocessors, plan.warps * 32,
                      params.lists_at + moe_small_lists::bytes(product->pairs) + own, stream, overlap, params);
}

template <class Weights> struct moe_weights_kernels {
    typedef typename moe_small_choice<Weights, 1>::shape few;
    typedef typename moe_small_choice<Weights, 1, true>::shape bulk;
    typedef typename moe_small_choice<Weights, 2>::shape some;
    typedef moe_large_shape<Weights> many;
    typedef typename moe_wide_choice<Weights>::many wide_many;
    typedef typename moe_wide_choice<Weights>::few wide_few;
    typedef moe_small_shape<Weights, 1, 1, MOE_SMALL_WARPS> one;
    typedef few two;    /* of blocks that have more than 16 rows, where units are small */

    static cudaError_t load(size_t shared_bytes)
    {
        cudaError_t error = moe_allow_shared(moe_small_kernel<few>, shared_bytes);
        error = error == cudaSuccess ? moe_allow_shared(moe_small_kernel<bulk>, shared_bytes) : error;
        error = error == cudaSuccess ? moe_allow_shared(moe_small_kernel<few, moe_small_front_params>, shared_bytes)
                                     : error;
        error = error == cudaSuccess ? moe_allow_shared(moe_small_kernel<bulk, moe_small_front_params>, shared_bytes)
                                     : error;
        error = error == cudaSuccess ? moe_allow_shared(moe_small_kernel<some>, shared_bytes) : error;
        if constexpr (moe_unit_source<Weights>::copies)
            error = error == cudaSuccess ? moe_allow_shared(moe_large_kernel<many>, shared_bytes) : error;
        if constexpr (has_wide)
            error = error == cudaSuccess ? moe_allow_shared(moe_wide_kernel<wide_many>, shared_bytes) : error;
        if constexpr (has_wide)
            error = error == cudaSuccess ? moe_allow_shared(moe_wide_kernel<wide_few>, shared_bytes) : error;
        error = error == cudaSuccess ? moe_allow_shared(moe_small_down_kernel<two>, shared_bytes) : error;
        return error == cudaSuccess ? moe_allow_shared(moe_small_down_kernel<one>, shared_bytes) : error;
    }

    /* Whether items of two tiles are enough to keep all warps busy. */
    static bool has_many_items(const struct moe_cuda_product *product)
    {
        const uint64_t items = (uint64_t)moe_small_matrices(product->pairs) * (product->up.rows / MOE_TILE_ROWS);
        return product->gated && items >= (uint64_t)MOE_SMALL_MANY * product->multiprocessors;
    }

    static cudaError_t small(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
    {
        const struct moe_cuda_pairs &pairs = product->pairs;
        if (product->front != NULL)
            return has_many_items(product) ? moe_small_front_launch<bulk>(product, stream, overlap)
                                           : moe_small_front_launch<few>(product, stream, overlap);
        if (pairs.tokens_of > MOE_TILE_TOKENS && pairs.num_pairs / MOE_SMALL_FEW >= pairs.num_matrices)
            return moe_small_launch<some>(product, stream, overlap);
        return has_many_items(product) ? moe_small_launch<bulk>(product, stream, overlap)
                                       : moe_small_launch<few>(product, stream, overlap);
    }

    static cudaError_t down(const struct moe_cuda_product *product, const struct moe_cuda_combine *combine,
                            cudaStream_t stream, bool overlap)
    {
        if (product->up.rows > MOE_TILE_ROWS * product->multiprocessors)
            return moe_small_down_launch<two>(product, combine, stream, overlap);
        return moe_small_down_launch<one>(product, combine, stream, overlap);
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

    /* With few tokens a matrix, on the average. */
    static bool wide_has_few(const struct moe_cuda_product *product)
    {
        const uint32_t pairs = product->pairs.num_pairs, all = product->pairs.num_matrices;
        return pairs / MOE_WIDE_FEW < (pairs < all ? pairs : all);
    }

    static bool wide_takes(const struct moe_cuda_product *product)
    {
        return wide_has_few(product) ? moe_wide_takes<wide_few>(product) : moe_wide_takes<wide_many>(product);
    }

    static cudaError_t wide(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap)
    {
        return wide_has_few(product) ? moe_wide_launch<wide_few>(product, stream, overlap)
                                     : moe_wide_launch<wide_many>(product, stream, overlap);
    }

    static constexpr moe_cuda_product_fn *large_if_served(void)
    {
        if constexpr (moe_unit_source<Weights>::copies)
            return large;
        return NULL;
    }

    /* The emulated device of the tests has no wgmma. */
#if defined(__CUDACC__)
    static constexpr bool has_wide = moe_unit_source<Weights>::copies;
#else
    static constexpr bool has_wide = false;
#endif

    static constexpr moe_cuda_product_fn *wide_if_served(void)
    {
        if constexpr (has_wide)
            return wide;
        return NULL;
    }

    static constexpr moe_cuda_takes_fn *wide_takes_if_served(void)
    {
        if constexpr (has_wide)
            return wide_takes;
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
        moe_weights_kernels<moe_weights_##name>::down,                                                                 \
        moe_weights_kernels<moe_weights_##name>::wide_if_served(),                                                     \
        moe_weights_kernels<moe_weights_##name>::wide_takes_if_served(),                                               \
    }

#endif
