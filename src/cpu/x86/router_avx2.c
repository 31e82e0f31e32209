// SPDX-License-Identifier: MIT
// Router logits on AVX2, with the lanes and the order of router_c.c. Products of floats are exact in double, so fusing
// them changes nothing: the bits are those of the level c.
#include <immintrin.h>

#include "cpu/kernels.h"

enum { LANES = 8, TILE_ROWS = 4 };

struct lanes {
    __m256d low, high;
};

static inline struct lanes to_double(const float *in)
{
    __m256 v = _mm256_loadu_ps(in);
    return (struct lanes){_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
}

/* What is left of the columns goes to the lanes one by one; then halves are added. */
static double finish(const struct lanes *acc, const float *w, const float *x, size_t cols)
{
    double lanes[LANES];
    _mm256_storeu_pd(lanes, acc->low);
    _mm256_storeu_pd(lanes + 4, acc->high);
    for (size_t i = 0; i < cols; i++)
        lanes[i] += (double)w[i] * (double)x[i];
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    }
    return lanes[0];
}

static void dot_rows(double sums[TILE_ROWS], const float *const w[TILE_ROWS], const float *x, size_t cols)
{
    struct lanes acc[TILE_ROWS];
    for (size_t i = 0; i < TILE_ROWS; i++)
        acc[i] = (struct lanes){_mm256_setzero_pd(), _mm256_setzero_pd()};
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES) {
        struct lanes vx = to_double(x + c);
        for (size_t i = 0; i < TILE_ROWS; i++) {
            struct lanes vw = to_double(w[i] + c);
            acc[i].low = _mm256_fmadd_pd(vw.low, vx.low, acc[i].low);
            acc[i].high = _mm256_fmadd_pd(vw.high, vx.high, acc[i].high);
        }
    }
    for (size_t i = 0; i < TILE_ROWS; i++)
        sums[i] = finish(&acc[i], w[i] + c, x + c, cols - c);
}

moe_router_fn moe_router_avx2;
void moe_router_avx2(const struct moe_router_args *a)
{
    for (size_t r = 0; r < a->rows; r += TILE_ROWS) {
        const float *w[TILE_ROWS];
        for (size_t i = 0; i < TILE_ROWS; i++)     /* past the last row: the last again, not stored */
            w[i] = a->w + (r + i < a->rows ? r + i : a->rows - 1) * a->cols;
        for (size_t t = 0; t < a->num_tokens; t++) {
            double sums[TILE_ROWS];
            dot_rows(sums, w, a->x + t * a->x_stride, a->cols);
            for (size_t i = 0; i < TILE_ROWS && r + i < a->rows; i++)
                a->logits[t * a->logits_stride + r + i] = sums[i] + (a->bias != NULL ? (double)a->bias[r + i] : 0.0);
        }
    }
}
