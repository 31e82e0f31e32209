// SPDX-License-Identifier: MIT
// The norm of a row of f32 in double, as composer and CPU backend compute it: sum the squares with moe_route_squares,
// then scale the row. A row of zeros stays zeros, also where eps is 0.
#ifndef MOE_NORM_H
#define MOE_NORM_H

#include <math.h>

#include "moe/backend.h"
#include "route.h"

/* From the sums of squares of size values: what each value is multiplied by. */
static inline double moe_norm_factor(const struct moe_norm_desc *norm, const double *lanes, size_t size)
{
    double sum = 0.0;
    for (size_t i = 0; i < MOE_ROUTE_LANES; i++)
        sum += lanes[i];
    double divisor = sqrt(sum / (double)size + (double)norm->eps);
    if (norm->unit)
        divisor *= sqrt((double)size);
    return divisor > 0.0 || divisor != divisor ? 1.0 / divisor : 0.0;
}

/* x[i] *= factor * scale[i], rounded once; x are the values from first on. */
static inline void moe_norm_apply(const struct moe_norm_desc *norm, float *x, size_t first, size_t n, double factor)
{
    for (size_t i = 0; i < n; i++) {
        double value = (double)x[i] * factor;
        x[i] = (float)(norm->scale != NULL ? value * (double)norm->scale[first + i] : value);
    }
}

#endif
