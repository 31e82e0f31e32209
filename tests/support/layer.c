// SPDX-License-Identifier: MIT
// Random experts in every layout that struct moe_matrix can express, and whole layers around them.
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PAD_BYTES = 24 };   /* between the rows of TEST_BASES: a multiple of every value's size */

static void *keep(struct test_experts *experts, size_t size)
{
    experts->memory = realloc(experts->memory, (experts->num_memory + 1) * sizeof *experts->memory);
    assert_non_null(experts->memory);
    return experts->memory[experts->num_memory++] = test_alloc(size);
}

static size_t value_bytes(enum moe_format format)
{
    return moe_format_info(format)->block_bytes;
}

static void store(enum moe_format format, void *at, float value)
{
    test_assert_ok(moe_format_quantise(format, at, &value, 1, 1));
}

/* Random rows, the scale such that products stay near 1. */
static void write_matrix(const struct moe_matrix *matrix, struct test_rng *rng, size_t num_experts, size_t rows,
                         size_t cols)
{
    enum moe_format format = matrix->data.format;
    float *row = moe_ref_alloc(cols, sizeof *row);
    for (size_t e = 0; e < num_experts; e++) {
        char *start = matrix->bases != NULL ? (char *)matrix->bases[e] + matrix->data.offset
                                            : (char *)matrix->data.base + matrix->data.offset;
        if (matrix->bases == NULL)
            start += e * matrix->expert_stride;
        for (size_t r = 0; r < rows; r++) {
            double scale = 0.5 / sqrt((double)cols);
            if (!matrix->transposed) {
                test_fill_weights(rng, format, start + r * matrix->data.stride, cols, scale);
                continue;
            }
            test_fill_heavy(rng, row, 1, cols, scale);
            for (size_t c = 0; c < cols; c++)
                store(format, start + c * matrix->data.stride + r * matrix->element_stride, row[c]);
        }
    }
    free(row);
}

static void write_bias(const struct moe_matrix *matrix, struct test_rng *rng, size_t num_experts, size_t rows)
{
    enum moe_format format = matrix->bias.format;
    size_t step = matrix->bias_element_stride != 0 ? matrix->bias_element_stride : value_bytes(format);
    char *start = (char *)matrix->bias.base + matrix->bias.offset;
    for (size_t e = 0; e < num_experts; e++)
        for (size_t r = 0; r < rows; r++)
            store(format, start + e * matrix->bias.stride + r * step, (float)(0.3 * test_gaussian(rng)));
}

/* Matrices `part` of `parts` that share memory row by row (alternate) or one after the other; parts 1: alone. */
struct place {
    size_t parts, part;
    bool alternate, transposed;
};

static void place_rows(struct moe_matrix *matrix, void *memory, enum moe_format format, size_t num_experts, size_t rows,
                       size_t cols, struct place place)
{
    size_t inner = place.transposed ? rows : cols, outer = place.transposed ? cols : rows;
    size_t step = place.transposed ? value_bytes(format) * (place.alternate ? place.parts : 1) : 0;
    size_t row_bytes = moe_format_row_bytes(format, inner), offset;
    size_t stride = place.transposed ? row_bytes * place.parts : row_bytes * (place.alternate ? place.parts : 1);
    if (place.transposed)
        offset = place.part * (place.alternate ? value_bytes(format) : row_bytes);
    else
        offset = place.part * row_bytes * (place.alternate ? 1 : rows);
    size_t expert_bytes = row_bytes * outer * place.parts;
    MOE_INIT(matrix);
    matrix->data = test_view(memory, num_experts * expert_bytes - offset, stride, format);
    matrix->data.offset = offset;
    matrix->expert_stride = expert_bytes;
    matrix->transposed = place.transposed;
    matrix->element_stride = step;
}

static void place_bases(struct moe_matrix *matrix, struct test_experts *experts, enum moe_format format,
                        size_t num_experts, size_t rows, size_t cols)
{
    size_t stride = moe_format_row_bytes(format, cols) + PAD_BYTES, size = rows * stride - PAD_BYTES;
    void **bases = keep(experts, num_experts * sizeof *bases);
    for (size_t e = 0; e < num_experts; e++)
        bases[e] = keep(experts, size + PAD_BYTES);
    MOE_INIT(matrix);
    matrix->data = test_view(NULL, size, stride, format);
    matrix->data.offset = PAD_BYTES;
    matrix->bases = bases;
}

static void place_bias(struct moe_matrix *matrix, void *memory, enum moe_format format, size_t num_experts,
                       size_t rows, struct place place)
{
    size_t bytes = value_bytes(format), stride = rows * bytes * place.parts;
    size_t offset = place.part * (place.alternate ? bytes : rows * bytes);
    matrix->bias = test_view(memory, num_experts * stride - offset, stride, format);
    matrix->bias.offset = offset;
    matrix->bias_element_stride = place.alternate ? bytes * place.parts : 0;
}

static void build_matrix(struct test_experts *experts, struct moe_matrix *matrix, struct test_rng *rng,
                         const struct test_experts_spec *spec, enum moe_format format, size_t rows, size_t cols,
                         void *shared_memory, void *shared_bias, struct place place)
{
    if (spec->layout == TEST_BASES) {
        place_bases(matrix, experts, format, spec->num_experts, rows, cols);
    } else {
        size_t inner = place.transposed ? rows : cols, outer = place.transposed ? cols : rows;
        void *memory = shared_memory;
        if (memory == NULL)
            memory = keep(experts, spec->num_experts * outer * moe_format_row_bytes(format, inner));
        place_rows(matrix, memory, format, spec->num_experts, rows, cols, place);
    }
    write_matrix(matrix, rng, spec->num_experts, rows, cols);
    if (place.parts == 1 && matrix->bases == NULL)   /* 0 means dense, which it is */
        matrix->data.stride = matrix->expert_stride = matrix->element_stride = 0;
    if (!spec->bias)
        return;
    size_t bias_bytes = spec->num_experts * rows * value_bytes(spec->bias_format);
    void *memory = shared_bias != NULL ? shared_bias : keep(experts, bias_bytes);
    place_bias(matrix, memory, spec->bias_format, spec->num_experts, rows, place);
    write_bias(matrix, rng, spec->num_experts, rows);
}

void test_experts_init(struct test_experts *experts, struct test_rng *rng, const struct test_experts_spec *spec)
{
    size_t hidden_size = spec->hidden_size, intermediate_size = spec->intermediate_size;
    enum test_layout layout = spec->layout;
    bool transposed = layout == TEST_TRANSPOSED || layout == TEST_TRANSPOSED_ALTERNATE;
    bool alternate = layout == TEST_ALTERNATE || layout == TEST_TRANSPOSED_ALTERNATE;
    bool together = !spec->no_gate && (alternate || layout == TEST_JOINED);
    struct place alone = {1, 0, false, transposed}, first = alone, second = alone;
    void *memory = NULL, *bias = NULL;
    memset(experts, 0, sizeof *experts);
    if (together) {
        size_t inner = transposed ? intermediate_size : hidden_size;
        size_t outer = transposed ? hidden_size : intermediate_size;
        memory = keep(experts, 2 * spec->num_experts * outer * moe_format_row_bytes(spec->up, inner));
        bias = keep(experts, 2 * spec->num_experts * intermediate_size * value_bytes(spec->bias_format));
        first = (struct place){2, 0, alternate, transposed};
        second = (struct place){2, 1, alternate, transposed};
    }
    if (!spec->no_gate)
        build_matrix(experts, &experts->gate, rng, spec, together ? spec->up : spec->gate, intermediate_size,
                     hidden_size, memory, bias, first);
    build_matrix(experts, &experts->up, rng, spec, spec->up, intermediate_size, hidden_size, memory, bias, second);
    build_matrix(experts, &experts->down, rng, spec, spec->down, hidden_size, intermediate_size, NULL, NULL, alone);

    struct moe_experts_params *params = &experts->params;
    MOE_INIT(params);
    params->num_experts = spec->num_experts;
    params->hidden_size = hidden_size;
    params->intermediate_size = intermediate_size;
    params->gate = spec->no_gate ? NULL : &experts->gate;
    params->up = &experts->up;
    params->down = &experts->down;
    if (spec->act.struct_size != 0) {
        experts->act = spec->act;
        params->act = &experts->act;
    }
}

void test_experts_free(struct test_experts *experts)
{
    for (size_t i = 0; i < experts->num_memory; i++)
        test_release(experts->memory[i]);
    free(experts->memory);
    memset(experts, 0, sizeof *experts);
}

/* [rows, cols] of plain values in memory of its own. */
static void *plain_matrix(struct moe_matrix *matrix, struct test_rng *rng, enum moe_format format, size_t rows,
                          size_t cols)
{
    size_t bytes = rows * moe_format_row_bytes(format, cols);
    void *memory = test_alloc(bytes);
    place_rows(matrix, memory, format, 1, rows, cols, (struct place){1, 0, false, false});
    write_matrix(matrix, rng, 1, rows, cols);
    return memory;
}

static void init_routing(struct test_layer *layer, struct test_rng *rng, const struct test_layer_spec *spec)
{
    struct moe_routing *routing = &layer->routing;
    *routing = spec->routing;
    routing->struct_size = sizeof *routing;
    if (spec->router) {
        layer->memory[0] = plain_matrix(&layer->router, rng, spec->router_format, layer->num_experts,
                                        layer->hidden_size);
        routing->router = &layer->router;
        if (spec->router_bias) {
            layer->memory[1] = test_alloc(layer->num_experts * sizeof(float));
            place_bias(&layer->router, layer->memory[1], MOE_FORMAT_F32, 1, layer->num_experts,
                       (struct place){1, 0, false, false});
            write_bias(&layer->router, rng, 1, layer->num_experts);
        }
    }
    if (spec->selection_bias) {
        float *bias = layer->memory[2] = test_alloc(layer->num_experts * sizeof *bias);
        test_fill(rng, bias, layer->num_experts, 0.3);
        routing->selection_bias = test_view(bias, layer->num_experts * sizeof *bias, 0, MOE_FORMAT_F32);
    }
    layer->params.routing = routing;
}

static void init_shared(struct test_layer *layer, struct test_rng *rng, const struct test_layer_spec *spec)
{
    struct test_experts_spec experts = spec->experts;
    experts.num_experts = 1;
    experts.hidden_size = layer->hidden_size;
    experts.intermediate_size = spec->shared_size;
    if (spec->shared_plain)
        experts.gate = experts.up = experts.down = spec->shared_format;
    if (spec->shared_act.struct_size != 0)
        experts.act = spec->shared_act;
    test_experts_init(&layer->shared_experts, rng, &experts);
    MOE_INIT(&layer->shared);
    if (spec->shared_gate) {
        layer->memory[3] = plain_matrix(&layer->shared_gate, rng, MOE_FORMAT_BF16, 1, layer->hidden_size);
        layer->shared.gate_kind = MOE_SHARED_SIGMOID;
        layer->shared.gate = &layer->shared_gate;
    }
    layer->params.shared = &layer->shared;
    layer->block.shared = &layer->shared_experts.params;
}

static struct moe_view random_vector(void **memory, struct test_rng *rng, size_t n, double mean)
{
    float *values = *memory = test_alloc(n * sizeof *values);
    test_fill(rng, values, n, 0.3);
    for (size_t i = 0; i < n; i++)
        values[i] += (float)mean;
    return test_view(values, n * sizeof *values, 0, MOE_FORMAT_F32);
}

static void init_latent(struct test_layer *layer, struct test_rng *rng, const struct test_layer_spec *spec)
{
    struct test_experts_spec latent = {.num_experts = 1, .hidden_size = layer->hidden_size,
                                       .intermediate_size = layer->expert_width, .no_gate = true,
                                       .up = spec->latent_format, .down = spec->latent_format,
                                       .bias = spec->latent_bias, .bias_format = MOE_FORMAT_F32};
    test_experts_init(&layer->latent, rng, &latent);
    layer->block.latent = &layer->latent.params;
    if (!spec->latent_norm)
        return;
    MOE_INIT(&layer->latent_norm);
    layer->latent_norm.eps = spec->norm_eps;
    layer->latent_norm.unit = spec->norm_unit;
    if (spec->out_bias)
        layer->latent_norm.scale = random_vector(&layer->memory[4], rng, layer->expert_width, 1);
    layer->params.latent_norm = &layer->latent_norm;
}

/* What becomes of the sum. */
static void init_out(struct test_layer *layer, struct test_rng *rng, const struct test_layer_spec *spec)
{
    layer->params.routed_scale = spec->routed_scale;
    layer->params.out_scale = spec->out_scale;
    if (spec->out_bias)
        layer->params.out_bias = random_vector(&layer->memory[5], rng, layer->hidden_size, 0);
    if (!spec->out_norm)
        return;
    MOE_INIT(&layer->out_norm);
    layer->out_norm.eps = spec->norm_eps;
    layer->out_norm.unit = spec->norm_unit;
    if (spec->out_bias)
        layer->out_norm.scale = random_vector(&layer->memory[6], rng, layer->hidden_size, 1);
    layer->params.out_norm = &layer->out_norm;
}

void test_layer_init(struct test_layer *layer, struct test_rng *rng, const struct test_layer_spec *spec)
{
    memset(layer, 0, sizeof *layer);
    test_experts_init(&layer->experts, rng, &spec->experts);
    layer->num_experts = spec->experts.num_experts + spec->num_zero_experts;
    if (spec->num_experts != 0)
        layer->num_experts = spec->num_experts;
    layer->top_k = spec->top_k;
    layer->expert_width = spec->experts.hidden_size;
    layer->hidden_size = spec->hidden_size != 0 ? spec->hidden_size : layer->expert_width;
    MOE_INIT(&layer->params);
    layer->params.num_experts = spec->num_experts;
    layer->params.top_k = spec->top_k;
    layer->params.weight_on_input = spec->weight_on_input;
    layer->params.num_zero_experts = spec->num_zero_experts;
    if (!spec->no_routing)
        init_routing(layer, rng, spec);
    if (spec->shared_size != 0)
        init_shared(layer, rng, spec);
    if (spec->hidden_size != 0)
        init_latent(layer, rng, spec);
    init_out(layer, rng, spec);
    layer->block.experts = &layer->experts.params;
    layer->block.layer = &layer->params;
}

void test_layer_free(struct test_layer *layer)
{
    test_experts_free(&layer->experts);
    test_experts_free(&layer->shared_experts);
    test_experts_free(&layer->latent);
    for (size_t i = 0; i < sizeof layer->memory / sizeof *layer->memory; i++)
        test_release(layer->memory[i]);
    memset(layer, 0, sizeof *layer);
}

void test_handle_open(struct test_handle *handle, struct moe_backend *backend, const struct test_layer *layer,
                      uint32_t flags)
{
    struct moe_error error = {0};
    struct moe_layer_params params = layer->params;
    struct moe_shared shared = layer->shared;
    memset(handle, 0, sizeof *handle);
    if (moe_experts_create(backend, &layer->experts.params, &handle->experts, &error) != MOE_OK)
        fail_msg("experts: %s", error.text);
    if (params.shared != NULL) {
        if (moe_experts_create(backend, &layer->shared_experts.params, &handle->shared, &error) != MOE_OK)
            fail_msg("shared expert: %s", error.text);
        shared.experts = handle->shared;
        params.shared = &shared;
    }
    if (layer->block.latent != NULL) {
        if (moe_experts_create(backend, layer->block.latent, &handle->latent, &error) != MOE_OK)
            fail_msg("latent projections: %s", error.text);
        params.latent = handle->latent;
    }
    params.experts = handle->experts;
    params.flags = flags;
    if (moe_layer_create(backend, &params, &handle->layer, &error) != MOE_OK)
        fail_msg("layer: %s", error.text);
}

void test_handle_close(struct test_handle *handle)
{
    moe_layer_destroy(handle->layer);
    moe_experts_destroy(handle->shared);
    moe_experts_destroy(handle->latent);
    moe_experts_destroy(handle->experts);
    memset(handle, 0, sizeof *handle);
}

struct moe_backend *test_backend(const char *name)
{
    struct moe_error error = {0};
    struct moe_backend *backend = NULL;
    if (moe_backend_open(name, NULL, &backend, &error) != MOE_OK)
        fail_msg("%s: %s", name, error.text);
    return backend;
}

struct moe_context *test_context(struct moe_backend *backend, size_t num_threads)
{
    struct moe_error error = {0};
    struct moe_context *ctx = NULL;
    struct moe_context_params params;
    MOE_INIT(&params);
    params.num_threads = num_threads;
    if (moe_context_create(backend, &params, &ctx, &error) != MOE_OK)
        fail_msg("context: %s", error.text);
    return ctx;
}
