// SPDX-License-Identifier: MIT
// The kernels of a format: a row of weights.def, a struct in weights_<name>.cuh (what unit.cuh asks for), and the file
// weights_<name>.cu that makes kernels of it.
#ifndef MOE_CUDA_KERNELS_H
#define MOE_CUDA_KERNELS_H

#include <cuda_runtime_api.h>

#include "cuda/call.h"
#include "cuda/combine.h"
#include "moe/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A product queued on a stream. The kernels take matrices of their own format, whose rows begin at multiples of 16
 * bytes if aligned says so. overlap: the launch may begin before the one ahead of it in the stream is done. */
typedef cudaError_t moe_cuda_product_fn(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap);

/* Whether a kernel takes a product; of its pointers only what is aligned to what counts. */
typedef bool moe_cuda_takes_fn(const struct moe_cuda_product *product);

/* down, for few tokens, and the sum of combine.h in one launch; y of neither is used. */
typedef cudaError_t moe_cuda_down_fn(const struct moe_cuda_product *down, const struct moe_cuda_combine *combine,
                                     cudaStream_t stream, bool overlap);

/* Whether moe_cuda_down_fn takes a call; all others are two launches, with the same bits. */
enum { MOE_DOWN_PAIRS = 64, MOE_DOWN_TOKENS = 8 };
static inline bool moe_cuda_down_takes(const struct moe_cuda_product *down, const struct moe_cuda_combine *combine)
{
    return down->pairs.num_pairs <= MOE_DOWN_PAIRS && down->pairs.tokens_of <= MOE_DOWN_TOKENS &&
           down->x_divisor == 0 && !down->gated && !down->activated && combine->places != NULL && !combine->by_pair &&
           !combine->out_pairs;
}

struct moe_cuda_weights {
    const char *name;
    int format;                   /* enum moe_format of the values */
    bool scaled;                  /* for matrices with scales apart, or for those without */
    bool aligned;
    int group;                    /* columns that share a scale. Scaled: blocks are whole groups, or rows */
    bool zeros;                   /* scaled: there may be zeros and a zero_offset */
    int order;                    /* enum moe_cuda_order that the kernels take x in */
    cudaError_t (*load)(size_t shared_bytes);    /* everything that a launch would load; the most a block may have */
    moe_cuda_product_fn *small;   /* few tokens a matrix: weights are read once, see small.cuh */
    moe_cuda_product_fn *large;   /* many: tiles of tokens and rows; NULL: there is none, small does it */
    moe_cuda_down_fn *down;       /* see small_down.cuh */
    /* large on sm_90a, see wide.cuh, x in MOE_ORDER_STEPS; whether it takes a product, asked on the same device. NULL:
     * there is none. */
    moe_cuda_product_fn *wide;
    moe_cuda_takes_fn *wide_takes;
};

/* Fill in what follows from the shape of a stack's scales. */
static inline void moe_cuda_stack_measure(struct moe_cuda_stack *stack)
{
    const int format = stack->scale.format;
    stack->scale_size = format == MOE_FORMAT_F32 ? 4 : format == MOE_FORMAT_F16 || format == MOE_FORMAT_BF16 ? 2 : 1;
    stack->block_shift = 0;
    while (stack->block_shift < 32 && stack->block_rows != UINT32_C(1) << stack->block_shift)
        stack->block_shift++;
}

/* Whether the kernels take such a matrix, its alignment aside. */
static inline bool moe_cuda_weights_take(const struct moe_cuda_weights *weights, const struct moe_cuda_stack *stack)
{
    const bool has_zeros = stack->zero.data != NULL || stack->zero.bases != NULL || stack->zero_offset != 0.0f;
    if (stack->values.format != weights->format || stack->scaled != weights->scaled)
        return false;
    if (!stack->scaled)
        return true;
    return stack->column_block.data == NULL && stack->column_block.bases == NULL && (weights->zeros || !has_zeros) &&
           (stack->block_cols % (uint32_t)weights->group == 0 || stack->block_cols >= stack->cols);
}

#define X(name, NAME, scaled) extern const struct moe_cuda_weights moe_cuda_weights_##name;
#include "cuda/weights.def"
#undef X

/* Any format, with or without scales, rows anywhere: what no row of weights.def takes. */
extern const struct moe_cuda_weights moe_cuda_weights_any;

#ifdef __cplusplus
}
#endif
#endif
