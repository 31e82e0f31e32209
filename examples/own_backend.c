// SPDX-License-Identifier: MIT
// A whole backend from outside the library, on memory that the host cannot read: a buffer is an opaque handle, and its
// bytes are masked by their position. Nothing but the functions of `hidden_ops` can make sense of it, and yet every
// layer of every model runs on it. Copy it to begin a backend of your own; try_backend.h then tries that.
//     own_backend MODEL...    directories with a reference.safetensors; exit 1 if a result or a dispatch count is off
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/backend.h"
#include "moe/moe.h"
#include "try_backend.h"

/* ---- the device ------------------------------------------------------------------------------------------ */

struct device {
    uint64_t dispatches;   /* on all contexts */
};
struct buffer {
    size_t size;
    unsigned char masked[];
};

static unsigned char mask(size_t position)
{
    return (unsigned char)(0x5A + 31 * position + 7 * (position >> 8));
}

/* Bytes of a view, from the byte `at` on. The core has checked the view against its size; that it kept the handle's own
 * size in mind as well is what this backend proves, so it does not go on if not. */
static unsigned char *locate(const struct moe_view *v, size_t at, size_t size)
{
    struct buffer *buffer = v->base;
    if (v->offset > buffer->size || at > buffer->size - v->offset || size > buffer->size - v->offset - at)
        abort();
    return buffer->masked + v->offset + at;
}

/* To host memory and back: on a real device, this is the bus. */
static void get(void *bytes, const struct moe_view *v, size_t at, size_t size)
{
    const unsigned char *masked = locate(v, at, size);
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)bytes)[i] = masked[i] ^ mask(v->offset + at + i);
}

static void put(const struct moe_view *v, size_t at, const void *bytes, size_t size)
{
    unsigned char *masked = locate(v, at, size);
    for (size_t i = 0; i < size; i++)
        masked[i] = ((const unsigned char *)bytes)[i] ^ mask(v->offset + at + i);
}

static enum moe_status hidden_open(const char *name, const struct moe_env *env, void **self, struct moe_error *error)
{
    (void)name, (void)env, (void)error;   /* one device; a backend that ships takes its memory from env */
    *self = calloc(1, sizeof(struct device));
    return *self ? MOE_OK : MOE_ERR_MEMORY;
}

static void hidden_close(void *self)
{
    free(self);
}

/* A context here is the device itself: it has no queue and no threads. */
static enum moe_status hidden_context_open(void *self, const struct moe_context_params *params, void **ctx,
                                           struct moe_error *error)
{
    (void)params, (void)error;
    *ctx = self;
    return MOE_OK;
}

static void hidden_context_close(void *ctx)
{
    (void)ctx;
}

static enum moe_status hidden_mem_alloc(void *self, size_t size, struct moe_view *out)
{
    (void)self;
    struct buffer *buffer = size < SIZE_MAX - sizeof *buffer ? malloc(sizeof *buffer + size) : NULL;
    if (!buffer)
        return MOE_ERR_MEMORY;
    buffer->size = size;
    memset(buffer->masked, 0xEE, size);   /* contents are undefined: let nobody rely on zeros */
    *out = (struct moe_view){.base = buffer, .size = size};
    return MOE_OK;
}

static void hidden_mem_free(void *self, const struct moe_view *mem)
{
    (void)self;
    free(mem->base);
}

static enum moe_status hidden_mem_write(void *self, void *ctx, const struct moe_view *dst, const void *src, size_t size)
{
    (void)self, (void)ctx;
    put(dst, 0, src, size);
    return MOE_OK;
}

static enum moe_status hidden_mem_read(void *self, void *ctx, void *dst, const struct moe_view *src, size_t size)
{
    (void)self, (void)ctx;
    get(dst, src, 0, size);
    return MOE_OK;
}

static enum moe_status hidden_sync(void *ctx)
{
    (void)ctx;   /* every function is done when it returns */
    return MOE_OK;
}

/* ---- the arithmetic: CHUNK values at a time, a whole number of blocks in every format ---------------------- */

enum { CHUNK = 256, ROWS = 64 };

static size_t chunk(size_t n, size_t at)
{
    return n - at < CHUNK ? n - at : CHUNK;
}

/* n <= CHUNK values of a view, from the byte `at` on, as f32; and back. */
static void get_values(float *values, const struct moe_view *v, size_t at, size_t n)
{
    unsigned char bytes[CHUNK * sizeof(float)];
    get(bytes, v, at, moe_format_row_bytes(v->format, n));
    moe_format_dequantise(v->format, values, bytes, 1, n);
}

static void put_values(const struct moe_view *v, size_t at, const float *values, size_t n)
{
    unsigned char bytes[CHUNK * sizeof(float)];
    moe_format_quantise(v->format, bytes, values, 1, n);
    put(v, at, bytes, moe_format_row_bytes(v->format, n));
}

static enum moe_status hidden_copy(void *ctx, const struct moe_view *dst, const struct moe_view *src, size_t n)
{
    float values[CHUNK];
    ((struct device *)ctx)->dispatches++;
    for (size_t i = 0; i < n; i += CHUNK) {
        get_values(values, src, moe_format_row_bytes(src->format, i), chunk(n, i));
        put_values(dst, moe_format_row_bytes(dst->format, i), values, chunk(n, i));
    }
    return MOE_OK;
}

/* ROWS sums at a time, so that x is not fetched again for every row. */
static enum moe_status hidden_linear(void *ctx, const struct moe_view *y, const struct moe_slice *w,
                                     const struct moe_view *x)
{
    float xs[CHUNK], ws[CHUNK];
    ((struct device *)ctx)->dispatches++;
    for (size_t first = 0; first < w->rows; first += ROWS) {
        size_t rows = w->rows - first < ROWS ? w->rows - first : ROWS;
        double sums[ROWS] = {0};
        for (size_t c = 0; c < w->cols; c += CHUNK) {
            size_t n = chunk(w->cols, c);
            get_values(xs, x, c * sizeof(float), n);
            for (size_t r = 0; r < rows; r++) {
                get_values(ws, &w->data, (first + r) * w->data.stride + moe_format_row_bytes(w->data.format, c), n);
                for (size_t i = 0; i < n; i++)
                    sums[r] += (double)ws[i] * xs[i];
            }
        }
        float results[ROWS];
        for (size_t r = 0; r < rows; r++)
            results[r] = (float)sums[r];
        put_values(y, first * sizeof(float), results, rows);
    }
    return MOE_OK;
}

static double activate(const struct moe_act *act, double g)
{
    switch (act->kind) {
    case MOE_ACT_GELU_TANH:
        return 0.5 * g * (1 + tanh(0.79788456080286535588 * (g + 0.044715 * g * g * g)));
    case MOE_ACT_GELU_ERF:
        return 0.5 * g * erfc(-g * 0.70710678118654752440);
    case MOE_ACT_RELU:
        return g > 0 ? g : 0;
    case MOE_ACT_RELU2:
        return g > 0 ? g * g : 0;
    default:
        return g / (1 + exp(-act->alpha * g));
    }
}

static enum moe_status hidden_glu(void *ctx, const struct moe_view *y, const struct moe_view *g, size_t n,
                                  const struct moe_act *act, bool gated)
{
    float gate[CHUNK], up[CHUNK];
    ((struct device *)ctx)->dispatches++;
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t m = chunk(n, i);
        get_values(gate, g, i * sizeof(float), m);
        if (gated)
            get_values(up, g, (n + i) * sizeof(float), m);
        for (size_t k = 0; k < m; k++) {
            double h = gate[k], limit = act->limit;
            h = activate(act, act->clamp == MOE_CLAMP_BEFORE && h > limit ? limit : h);
            h = act->clamp == MOE_CLAMP_AFTER && h > limit ? limit : h;
            if (gated && act->clamp)
                up[k] = up[k] > act->limit ? act->limit : up[k] < -act->limit ? -act->limit : up[k];
            gate[k] = (float)(gated ? h * ((double)up[k] + act->up_offset) : h);
        }
        put_values(y, i * sizeof(float), gate, m);
    }
    return MOE_OK;
}

static enum moe_status hidden_scaled_add(void *ctx, const struct moe_view *y, const struct moe_view *x, float a,
                                         size_t n, bool accumulate)
{
    float xs[CHUNK], ys[CHUNK] = {0};
    ((struct device *)ctx)->dispatches++;
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t m = chunk(n, i), at = moe_format_row_bytes(y->format, i);
        get_values(xs, x, i * sizeof(float), m);
        if (accumulate)
            get_values(ys, y, at, m);
        for (size_t k = 0; k < m; k++)
            ys[k] = accumulate ? ys[k] + a * xs[k] : a * xs[k];
        put_values(y, at, ys, m);
    }
    return MOE_OK;
}

static void hidden_describe(const void *self, void (*line)(void *user, const char *key, const char *value), void *user)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)((const struct device *)self)->dispatches);
    line(user, "dispatches", text);
}

static const struct moe_backend_ops hidden_ops = {
    .abi = MOE_BACKEND_ABI, .name = "hidden",   /* no flags: the core asks for a copy of everything */
    .open = hidden_open, .close = hidden_close,
    .context_open = hidden_context_open, .context_close = hidden_context_close,
    .mem_alloc = hidden_mem_alloc, .mem_free = hidden_mem_free,
    .mem_write = hidden_mem_write, .mem_read = hidden_mem_read, .sync = hidden_sync,
    .copy = hidden_copy, .linear = hidden_linear, .glu = hidden_glu, .scaled_add = hidden_scaled_add,
    .describe = hidden_describe,
};

int main(int argc, char **argv)
{
    return try_backend(&hidden_ops, argc - 1, argv + 1);
}
