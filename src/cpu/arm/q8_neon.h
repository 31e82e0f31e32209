// SPDX-License-Identifier: MIT
// What the Arm kernels know of a format of blocks: a group, 256 columns of a row, unpacked to signed bytes and f32
// scales. f32 activations (linear_neon.c) and int8 ones (linear_q8_dotprod.c, linear_q8_i8mm.c) use it alike.
//
// A format is a row of formats.h and two functions (unpack_neon.h, unpack_iq_neon.h):
//     q8_scales_<name>    all scales of a group, and minima where it has them
//     q8_quants_<name>    the values of one unit of it, in units of their scale
#ifndef MOE_Q8_NEON_H
#define MOE_Q8_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu/kernels.h"

#define Q8_INLINE static inline __attribute__((always_inline))

enum { Q8_UNITS = MOE_Q8_GROUP / MOE_Q8_UNIT };

/* A scale for 16 columns, not 32; a minimum is added to scale * q. */
enum { Q8_WHOLE = 0, Q8_HALVES = 1, Q8_MINIMA = 2 };

/* Of the 8 units: [0] is for a unit, or for its first 16 columns, [1] for its other 16. */
struct q8_scales {
    float scale[2][Q8_UNITS], minimum[2][Q8_UNITS];
};

/* 16 and 16 columns. */
struct q8_unit {
    int8x16_t q[2];
};

typedef void q8_scales_fn(struct q8_scales *out, const unsigned char *group);
typedef struct q8_unit q8_quants_fn(const unsigned char *group, size_t unit);

static inline size_t q8_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Fetch size bytes into the first cache; they may lie anywhere. */
static inline void q8_fetch(const unsigned char *at, size_t size)
{
    for (size_t i = 0; i < size; i += 64)
        __builtin_prefetch((const void *)((uintptr_t)at + i));
}

#endif
