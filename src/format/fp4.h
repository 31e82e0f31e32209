// SPDX-License-Identifier: MIT
// What MXFP4 and NVFP4 share: values of E2M1, in units of half their scale.
#ifndef MOE_FORMAT_FP4_H
#define MOE_FORMAT_FP4_H

#include <math.h>
#include <stdint.h>

#include "inline.h"

/* E2M1 is 0, 0.5, 1, 1.5, 2, 3, 4, 6. Doubled, these are integers, 0 1 2 3 4 6 8 12, and the scale is halved. There is
 * no negative zero. A sum in place of a table, because compilers vectorise it. */
MOE_INLINE int fp4_doubled(int code)
{
    int m = code & 7;
    int value = m + (m > 4 ? m - 4 : 0) + (m > 6 ? 2 : 0);
    return code & 8 ? -value : value;
}

/* The code nearest to a magnitude in units of the half scale; ties to the smaller one. The bounds are the middles. */
static inline int fp4_nearest(double magnitude)
{
    return (magnitude > 0.5) + (magnitude > 1.5) + (magnitude > 2.5) + (magnitude > 3.5) + (magnitude > 5.0) +
           (magnitude > 7.0) + (magnitude > 10.0);
}

/* The codes of n values, and the sum of their squared errors in units of the half scale. */
static inline double fp4_encode(uint8_t *codes, const float *in, int n, double inverse)
{
    double error = 0;
    for (int i = 0; i < n; i++) {
        double magnitude = fabs((double)in[i]) * inverse;
        int code = fp4_nearest(magnitude);
        double difference = magnitude - fp4_doubled(code);
        error += difference * difference;
        codes[i] = (uint8_t)(code > 0 && in[i] < 0 ? code | 8 : code);
    }
    return error;
}

#endif
