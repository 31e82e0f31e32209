// SPDX-License-Identifier: MIT
// The arithmetic of a transformer outside its experts, for generate.c: plain f32 loops that compilers vectorise, and
// the choice of the next token.
#ifndef MOE_EXAMPLES_ARITHMETIC_H
#define MOE_EXAMPLES_ARITHMETIC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

struct matrix {
    float *values, *bias;   /* [rows, cols] and [rows]; NULL: the model has none. A vector is one row */
    size_t rows, cols;
};

/* y[t] = w . x[t] for num_tokens <= TILE tokens. Sums are LANES wide because compilers do not reorder a sum by
 * themselves; the order is the same for one token and for many: how a prompt is cut does not change the text. */
enum { LANES = 8, TILE = 4 };
static inline void dot(float *y, size_t y_stride, const float *w, const float *x, size_t cols, size_t num_tokens)
{
    float sums[TILE][LANES] = {{0}};
    size_t c = 0;
    for (; c + LANES <= cols; c += LANES)
        for (size_t t = 0; t < num_tokens; t++)
            for (size_t l = 0; l < LANES; l++)
                sums[t][l] += w[c + l] * x[t * cols + c + l];
    for (size_t t = 0; t < num_tokens; t++) {
        float *s = sums[t];
        for (size_t l = 0; c + l < cols; l++)
            s[l] += w[c + l] * x[t * cols + c + l];
        y[t * y_stride] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    }
}

/* y [num_tokens, rows] = x [num_tokens, cols] times w transposed, plus bias; in blocks of tokens that fit into L1. */
static inline void multiply(float *y, const float *x, const struct matrix *w, size_t num_tokens)
{
    const size_t block = 16;
    for (size_t first = 0; first < num_tokens; first += block) {
        size_t end = first + block < num_tokens ? first + block : num_tokens;
        for (size_t r = 0; r < w->rows; r++) {
            size_t t = first;
            for (; t + TILE <= end; t += TILE)
                dot(y + t * w->rows + r, w->rows, w->values + r * w->cols, x + t * w->cols, w->cols, TILE);
            for (; t < end; t++)
                dot(y + t * w->rows + r, w->rows, w->values + r * w->cols, x + t * w->cols, w->cols, 1);
            for (t = first; w->bias && t < end; t++)
                y[t * w->rows + r] += w->bias[r];
        }
    }
}

/* y = x / rms(x) * weight, for each of num_rows rows; y may be x. */
static inline void rms_norm(float *y, const float *x, const struct matrix *weight, size_t num_rows, double eps)
{
    size_t n = weight->cols;
    for (size_t r = 0; r < num_rows; r++, x += n, y += n) {
        double squares = 0;
        for (size_t i = 0; i < n; i++)
            squares += (double)x[i] * x[i];
        double scale = 1 / sqrt(squares / (double)n + eps);
        for (size_t i = 0; i < n; i++)
            y[i] = (float)(x[i] * scale * weight->values[i]);
    }
}

static inline void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

/* log of the softmax's value i */
static inline double log_softmax(const float *x, size_t n, size_t i)
{
    double max = x[0], sum = 0;
    for (size_t k = 1; k < n; k++)
        max = x[k] > max ? x[k] : max;
    for (size_t k = 0; k < n; k++)
        sum += exp(x[k] - max);
    return x[i] - max - log(sum);
}

/* In place. */
static inline void softmax(float *x, size_t n)
{
    float max = x[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - max);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(x[i] / sum);
}

/* The next token: the likeliest at temperature 0; else drawn from softmax(logits / temperature), which overwrites the
 * logits, by the next number of the splitmix64 sequence. */
static inline int32_t choose(float *logits, size_t n, double temperature, uint64_t *state)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    if (temperature <= 0)
        return (int32_t)best;
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    double left = (double)((z ^ z >> 31) >> 11) * 0x1p-53;
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(logits[i] / temperature);
    softmax(logits, n);
    for (size_t i = 0; i < n; i++)
        if ((left -= logits[i]) < 0)
            return (int32_t)i;
    return (int32_t)best;
}

#endif
