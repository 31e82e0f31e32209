// SPDX-License-Identifier: MIT
// Router logits in plain C: a product of two floats is exact in double, so only the sums round.
#include "cpu/kernels.h"

enum { LANES = 8 };

/* Lane i sums the columns i, i + 8, ...; then halves are added as in linear. Any level that keeps this order and these
 * lanes has the same bits, whether it fuses or not. */
static double dot(const float *w, const float *x, size_t cols)
{
    double lanes[LANES] = {0};
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES) {
        for (size_t i = 0; i < LANES; i++)
            lanes[i] += (double)w[c + i] * (double)x[c + i];
    }
    for (size_t i = 0; c + i < cols; i++)
        lanes[i] += (double)w[c + i] * (double)x[c + i];
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    }
    return lanes[0];
}

moe_router_fn moe_router_c;
void moe_router_c(const struct moe_router_args *a)
{
    for (size_t r = 0; r < a->rows; r++) {
        double bias = a->bias != NULL ? (double)a->bias[r] : 0.0;
        for (size_t t = 0; t < a->num_tokens; t++)
            a->logits[t * a->logits_stride + r] = dot(a->w + r * a->cols, a->x + t * a->x_stride, a->cols) + bias;
    }
}
