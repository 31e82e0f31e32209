// SPDX-License-Identifier: MIT
// The kernels of a format: a row of weights.def, a struct in weights_<name>.cuh (what unit.cuh asks for), and the file
// weights_<name>.cu that makes kernels of it.
#ifndef MOE_CUDA_KERNELS_H
#define MOE_CUDA_KERNELS_H

#include <cuda_runtime_api.h>

#include "cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A product queued on a stream. The kernels take matrices of their own format, whose rows begin at multiples of 16
 * bytes if aligned says so. overlap: the launch may begin before the one ahead of it in the stream is done. */
typedef cudaError_t moe_cuda_product_fn(const struct moe_cuda_product *product, cudaStream_t stream, bool overlap);

struct moe_cuda_weights {
    const char *name;
    int format;                   /* enum moe_format of the values */
    bool scaled;                  /* for matrices with scales apart, or for those without */
    bool aligned;
    int order;                    /* enum moe_cuda_order that the kernels take x in */
    cudaError_t (*load)(size_t shared_bytes);    /* everything that a launch would load; the most a block may have */
    moe_cuda_product_fn *small;   /* few tokens a matrix: weights are read once, see small.cuh */
    moe_cuda_product_fn *large;   /* many: tiles of tokens and rows; NULL: there is none, small does it */
};

#define X(name, NAME, scaled) extern const struct moe_cuda_weights moe_cuda_weights_##name;
#include "cuda/weights.def"
#undef X

#ifdef __cplusplus
}
#endif
#endif
