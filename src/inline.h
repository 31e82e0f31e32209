// SPDX-License-Identifier: MIT
// How small functions are marked that kernels of a GPU compile, too: one definition for every processor.
#ifndef MOE_INLINE_H
#define MOE_INLINE_H

#ifdef __CUDACC__
#define MOE_INLINE static inline __host__ __device__
#else
#define MOE_INLINE static inline
#endif

/* C's restrict, which C++ spells otherwise. */
#ifdef __cplusplus
#define MOE_RESTRICT __restrict__
#else
#define MOE_RESTRICT restrict
#endif

#endif
