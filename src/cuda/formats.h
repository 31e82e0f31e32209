// SPDX-License-Identifier: MIT
// Formats of weights by their place in MOE_FORMAT_MAP, which kernels switch over: enum moe_format has gaps.
#ifndef MOE_CUDA_FORMATS_H
#define MOE_CUDA_FORMATS_H

#include "inline.h"
#include "moe/format.h"

enum moe_cuda_format {
#define MOE_CUDA_FORMAT(id, NAME, name, values, bytes) MOE_CUDA_##NAME,
    MOE_FORMAT_MAP(MOE_CUDA_FORMAT)
#undef MOE_CUDA_FORMAT
    MOE_CUDA_NUM_FORMATS
};

/* Sizes of their blocks, as constants. */
enum {
#define MOE_CUDA_FORMAT(id, NAME, name, values, bytes) MOE_CUDA_VALUES_##NAME = values, MOE_CUDA_BYTES_##NAME = bytes,
    MOE_FORMAT_MAP(MOE_CUDA_FORMAT)
#undef MOE_CUDA_FORMAT
};

/* MOE_CUDA_NUM_FORMATS for what is no format of weights. */
MOE_INLINE int moe_cuda_format_index(enum moe_format format)
{
    switch ((int)format) {
#define MOE_CUDA_FORMAT(id, NAME, name, values, bytes) \
    case id:                                           \
        return MOE_CUDA_##NAME;
        MOE_FORMAT_MAP(MOE_CUDA_FORMAT)
#undef MOE_CUDA_FORMAT
    default:
        return MOE_CUDA_NUM_FORMATS;
    }
}

#endif
