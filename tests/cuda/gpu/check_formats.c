// SPDX-License-Identifier: MIT
// Every format, several shapes and numbers of tokens: against double precision, and the bits of a token wherever it is.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* Numbers of tokens of a call, ascending; the tokens whose result is computed, those that come last in one of them and
 * a few between. */
static const size_t tokens[] = {1, 2, 3, 8, 9, 17, 64, 100, 300};
static const size_t rows[] = {0, 1, 2, 7, 8, 16, 40, 63, 99, 130, 299};
enum { NUM_TOKENS = sizeof tokens / sizeof tokens[0], NUM_ROWS = sizeof rows / sizeof rows[0], MOST = 300 };

/* Sizes of real models that are no powers of two, and the smallest. */
static const struct shape shapes[] = {{64, 64, 4, 2}, {1024, 704, 16, 6}, {2048, 1408, 8, 4}, {2880, 2880, 4, 2}};
enum { NUM_SHAPES = sizeof shapes / sizeof shapes[0] };

/* The largest shape is for formats that models of that size have. */
static bool in_large_models(const struct scheme *scheme)
{
    static const char *const names[] = {"bf16", "q8_0", "mxfp4", "fp8_128x128", "int4_g128", "mxfp4_planes"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], scheme->name) == 0)
            return true;
    return false;
}

/* Where rows are no whole blocks: the next coarser choice, as quantisers of GGUF files make it. */
static const struct scheme *fitting(const struct scheme *scheme, size_t cols)
{
    if (scheme_fits(scheme, cols))
        return scheme;
    const struct scheme *other = scheme_find("q8_0");
    return scheme_fits(other, cols) ? other : scheme_find("bf16");
}

struct data {
    float *x, *weights, *last, *out;
    int32_t *ids;
    double *ref;
};

static void make_data(struct data *data, struct rng *rng, const struct shape *s)
{
    data->x = host_alloc(MOST * s->hidden_size, sizeof *data->x);
    data->ids = host_alloc(MOST * s->top_k, sizeof *data->ids);
    data->weights = host_alloc(MOST * s->top_k, sizeof *data->weights);
    data->last = host_alloc(MOST * s->hidden_size, sizeof *data->last);
    data->out = host_alloc(MOST * s->hidden_size, sizeof *data->out);
    data->ref = host_alloc(NUM_ROWS * s->hidden_size, sizeof *data->ref);
    rng_values(rng, data->x, MOST * s->hidden_size, 1, MOE_FORMAT_F32);
    rng_routing(rng, data->ids, data->weights, MOST, s->num_experts, s->top_k);
}

static void free_data(struct data *data)
{
    void *const memory[] = {data->x, data->ids, data->weights, data->last, data->out, data->ref};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        free(memory[i]);
}

/* Over the tokens of the call that have a reference. */
static double call_error(const struct data *data, const float *out, size_t num_tokens, size_t hidden_size)
{
    float *compared = host_alloc(NUM_ROWS * hidden_size, sizeof *compared);
    size_t count = 0;
    for (; count < NUM_ROWS && rows[count] < num_tokens; count++)
        memcpy(compared + count * hidden_size, out + rows[count] * hidden_size, hidden_size * sizeof *out);
    double error = relative_error(compared, data->ref, count * hidden_size);
    free(compared);
    return error;
}

/* Layers of few columns, or of weights that cancel, make more of the roundings: 1.25 times the error that rounding to
 * bf16 has in double precision, and as much as that again, at right angles, where weights are rounded too. */
static double own_limit(struct gpu *gpu, const struct subject *subject, const struct data *data, size_t num_rows,
                        bool rounded)
{
    size_t hidden_size = subject->shape.hidden_size, n = num_rows * hidden_size;
    double *ref = host_alloc(n, sizeof *ref);
    float *out = host_alloc(n, sizeof *out);
    reference_rows(gpu, subject, ref, data->x, data->ids, data->weights, rows, num_rows, true);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)ref[i];
    double error = 0;
    for (size_t count = 1; count <= num_rows; count++)      /* the worst call, as below */
        error = fmax(error, relative_error(out, data->ref, count * hidden_size));
    free(ref);
    free(out);
    return 1.25 * error * (rounded ? sqrt(2) : 1);
}

/* Blocks that the core takes apart when it uploads them, into planes that have kernels. */
static bool splits(const struct scheme *scheme)
{
    enum moe_format format = scheme->format;
    return !scheme->scaled && (format == MOE_FORMAT_MXFP4 || format == MOE_FORMAT_Q8_0 || format == MOE_FORMAT_Q4_0);
}

/* Rows that do not begin at multiples of 16 bytes go through dequantisers, which round to bf16, but for the formats
 * whose kernels take rows anywhere. */
static bool rounds_rows(const struct scheme *scheme, size_t cols, bool on_device)
{
    enum moe_format format = scheme->format;
    bool anywhere = format == MOE_FORMAT_MXFP4 || format == MOE_FORMAT_Q6_K || format == MOE_FORMAT_IQ4_XS;
    if (!on_device && splits(scheme))
        return false;
    return scheme->rounded || (!scheme->scaled && !anywhere && moe_format_info(format)->block_values > 1 &&
                               moe_format_row_bytes(format, cols) % 16 != 0);
}

struct part {
    const struct scheme *scheme;
    struct shape shape;
    bool on_device;
};

static void check_shape(struct gpu *gpu, const void *arg)
{
    const struct part *part = arg;
    const struct scheme *scheme = part->scheme;
    const struct shape *shape = &part->shape;
    bool on_device = part->on_device;
    struct rng rng = {7 + shape->hidden_size};
    struct subject subject;
    struct data data;
    struct subject_spec spec = {.shape = *shape, .in = fitting(scheme, shape->hidden_size),
                                .down = fitting(scheme, shape->intermediate_size), .on_device = on_device};
    if (spec.in != scheme && spec.down != scheme)
        return;
    bool rounded = rounds_rows(spec.in, shape->hidden_size, on_device) ||
                   rounds_rows(spec.down, shape->intermediate_size, on_device);
    double worst = 0, limit = check_limit(gpu, rounded);
    size_t unlike = 0, most = gpu->quick ? 17 : MOST, compared = 0, num_rows = gpu->quick ? 6 : NUM_ROWS;
    subject_init(gpu, &subject, &rng, &spec);
    make_data(&data, &rng, shape);
    reference_rows(gpu, &subject, data.ref, data.x, data.ids, data.weights, rows, num_rows, false);
    struct call call;
    call_init(gpu, &call, &subject, MOST, MOE_FORMAT_F32, MOE_FORMAT_F32, FROM_IDS);
    for (size_t i = NUM_TOKENS; i-- > 0;) {
        if (tokens[i] > most)
            continue;
        float *out = tokens[i] == most ? data.last : data.out;
        call_set(gpu, &call, tokens[i], data.x, data.ids, data.weights, NULL);
        call_run(gpu, &call, out);
        worst = fmax(worst, call_error(&data, out, tokens[i], shape->hidden_size));
        for (size_t t = 0; out != data.last && subject.info.batch_invariant && t < tokens[i]; t++, compared++)
            unlike += memcmp(out + t * shape->hidden_size, data.last + t * shape->hidden_size,
                             shape->hidden_size * sizeof *out) != 0;
    }
    if (worst > limit)
        limit = fmax(limit, own_limit(gpu, &subject, &data, num_rows, rounded));
    check_line(gpu, worst <= limit && unlike == 0 && !(gpu->cuda && subject.info.composed),
               "%s, down %s, %zu x %zu x %zu, top %zu, weights %s: worst error %.2e (limit %.1e), %zu of %zu tokens "
               "unlike in other batches%s", spec.in->name, spec.down->name, shape->hidden_size,
               shape->intermediate_size, shape->num_experts, shape->top_k, on_device ? "on the device" : "uploaded",
               worst, limit, unlike, compared, subject.info.composed ? ", composed" : "");
    call_free(gpu, &call);
    free_data(&data);
    subject_free(gpu, &subject);
}

void check_formats(struct gpu *gpu)
{
    const struct scheme *scheme;
    for (size_t i = 0; (scheme = scheme_at(i)) != NULL; i++)
        for (size_t s = 0; s < (gpu->quick ? 1 : NUM_SHAPES); s++) {
            struct shape shape = shapes[s];
            const struct moe_format_info *info = moe_format_info(scheme->format);
            if (s == NUM_SHAPES - 1 && !in_large_models(scheme))
                continue;
            if (s == 0 && info->block_values > 64)      /* the smallest of whole blocks */
                shape.hidden_size = shape.intermediate_size = info->block_values;
            bool copied = scheme->zeros || scheme->factor;    /* by the core, out of host memory */
            struct part part = {scheme, shape, s % 2 == 1 && !copied};
            check_part(gpu, check_shape, &part);
            part.on_device = !part.on_device;
            if (splits(scheme))                         /* other kernels than for blocks in place */
                check_part(gpu, check_shape, &part);
        }
}
