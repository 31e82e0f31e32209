// SPDX-License-Identifier: MIT
// Layers with random weights, made quickly: a few rows of each matrix come from the host, the rest of up to 100 GB are
// copies of them that the device makes, twice as many each time.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { NUM_ROWS = 61, SCALES = 3, MOST_BLOCK = 256 };

static uint64_t random_state = 1;

static uint64_t next(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Normal enough: a sum of twelve. */
static float normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (double)(next() >> 11) * 0x1p-53;
    return (float)sum;
}

/* Random bytes whose values are finite and not far from 1 / sqrt(cols). */
static void random_block(const struct moe_format_info *info, unsigned char *block, double sigma)
{
    float values[MOST_BLOCK];
    for (int tries = 0; tries < 1000; tries++) {
        double sum = 0;
        for (size_t i = 0; i < info->block_bytes; i++)
            block[i] = (unsigned char)next();
        moe_format_dequantise(info->format, values, block, 1, info->block_values);
        for (size_t i = 0; i < info->block_values; i++)
            sum += (double)values[i] * values[i];
        double rms = sqrt(sum / info->block_values);
        if (isfinite(rms) && rms >= 0.25 * sigma && rms <= 4 * sigma)
            return;
    }
}

static void fill_row(unsigned char *row, const struct scheme *scheme, size_t cols)
{
    const struct moe_format_info *info = moe_format_info(scheme->format);
    double sigma = 1 / sqrt((double)cols);
    size_t bytes = moe_format_row_bytes(scheme->format, cols);
    if (scheme->scaled) {             /* any codes but E4M3's NaN */
        for (size_t i = 0; i < bytes; i++) {
            row[i] = (unsigned char)next();
            if (scheme->format == MOE_FORMAT_E4M3 && (row[i] & 127) == 127)
                row[i] ^= 64;
        }
    } else if (moe_format_can_quantise(scheme->format)) {
        float *values = malloc(cols * sizeof *values);
        for (size_t c = 0; values != NULL && c < cols; c++)
            values[c] = (float)sigma * normal();
        if (values != NULL)
            moe_format_quantise(scheme->format, row, values, 1, cols);
        free(values);
    } else {
        for (size_t at = 0; at < bytes; at += info->block_bytes)
            random_block(info, row + at, sigma);
    }
}

/* Scales that bring codes to about 1 / sqrt(cols). */
static void fill_scales(unsigned char *out, const struct scheme *scheme, size_t cols, size_t count)
{
    double size = scheme->format == MOE_FORMAT_E4M3 ? 100 : scheme->format == MOE_FORMAT_U4 ? 5 : 3;
    size_t bytes = moe_format_info(scheme->scale)->block_bytes;
    for (size_t i = 0; i < count; i++) {
        float scale = (float)((0.5 + (double)(next() % 1024) / 1024) / size / sqrt((double)cols));
        if (scheme->scale == MOE_FORMAT_E8M0)
            out[i] = (unsigned char)(127 + lround(log2(scale)));
        else
            moe_format_quantise(scheme->scale, out + i * bytes, &scale, 1, 1);
    }
}

const char *memory_repeat(struct bench *bench, struct moe_view *view, const void *host, size_t host_bytes, size_t size)
{
    if (moe_mem_alloc(bench->backend, size, view) != MOE_OK)
        return "no memory for the weights";
    size_t done = host_bytes < size ? host_bytes : size;
    char *base = (char *)view->base + view->offset;
    struct moe_view first = *view;
    first.size = done;
    if (moe_mem_write(bench->ctx, &first, host, done) != MOE_OK)
        return "weights cannot be copied";
    while (done < size) {
        size_t now = size - done < done ? size - done : done;
        if (cudaMemcpyAsync(base + done, base, now, cudaMemcpyDeviceToDevice, bench->stream) != cudaSuccess)
            return "weights cannot be copied";
        done += now;
    }
    return NULL;
}

/* One matrix of an expert, three of them, and what they are in memory. */
struct part {
    const struct scheme *scheme;
    size_t rows, cols, value_bytes, scale_bytes, scale_cols;    /* bytes of one expert's */
};

static void describe_parts(struct part parts[3], const struct shape *shape, const struct type *type)
{
    for (int i = 0; i < 3; i++) {
        struct part *part = &parts[i];
        part->scheme = i < 2 ? &type->in : &type->down;
        part->rows = i < 2 ? shape->intermediate_size : shape->hidden_size;
        part->cols = i < 2 ? shape->hidden_size : shape->intermediate_size;
        part->value_bytes = part->rows * moe_format_row_bytes(part->scheme->format, part->cols);
        part->scale_bytes = part->scale_cols = 0;
        if (part->scheme->scaled) {
            size_t block_rows = part->scheme->block_rows ? part->scheme->block_rows : part->rows;
            size_t block_cols = part->scheme->block_cols ? part->scheme->block_cols : part->cols;
            part->scale_cols = (part->cols + block_cols - 1) / block_cols;
            part->scale_bytes = (part->rows + block_rows - 1) / block_rows *
                                moe_format_row_bytes(part->scheme->scale, part->scale_cols);
        }
    }
}

static const char *fill_part(struct bench *bench, struct layers *layers, int i, const struct part *part, size_t experts)
{
    size_t row_bytes = moe_format_row_bytes(part->scheme->format, part->cols);
    unsigned char *rows = malloc(NUM_ROWS * row_bytes);
    if (rows == NULL)
        return "no host memory";
    for (size_t r = 0; r < NUM_ROWS; r++)
        fill_row(rows + r * row_bytes, part->scheme, part->cols);
    const char *failure =
        memory_repeat(bench, &layers->memory[i], rows, NUM_ROWS * row_bytes, experts * part->value_bytes);
    free(rows);
    if (failure != NULL || !part->scheme->scaled)
        return failure;
    size_t count = NUM_ROWS * part->scale_cols, bytes = moe_format_row_bytes(part->scheme->scale, count);
    unsigned char *scales = malloc(bytes);
    if (scales == NULL)
        return "no host memory";
    fill_scales(scales, part->scheme, part->cols, count);
    failure = memory_repeat(bench, &layers->memory[SCALES + i], scales, bytes, experts * part->scale_bytes);
    free(scales);
    return failure;
}

/* The matrices of experts first .. of the stacks. */
struct stacks {
    struct moe_matrix matrices[3], planes[3];
    struct moe_scales scales[3];
};

static struct moe_view part_view(const struct moe_view *memory, size_t offset, size_t size, enum moe_format format)
{
    return (struct moe_view){memory->base, memory->offset + offset, size, 0, format};
}

static void describe_stacks(struct stacks *stacks, const struct layers *layers, const struct part parts[3],
                            size_t first, size_t count)
{
    for (int i = 0; i < 3; i++) {
        const struct part *p = &parts[i];
        MOE_INIT(&stacks->matrices[i]);
        stacks->matrices[i].data = part_view(&layers->memory[i], first * p->value_bytes, count * p->value_bytes,
                                             p->scheme->format);
        if (!p->scheme->scaled)
            continue;
        MOE_INIT(&stacks->planes[i]);
        MOE_INIT(&stacks->scales[i]);
        stacks->planes[i].data = part_view(&layers->memory[SCALES + i], first * p->scale_bytes, count * p->scale_bytes,
                                           p->scheme->scale);
        stacks->scales[i].block_rows = p->scheme->block_rows;
        stacks->scales[i].block_cols = p->scheme->block_cols;
        stacks->scales[i].zero_offset = p->scheme->zero_offset;
        stacks->scales[i].scale = &stacks->planes[i];
        stacks->matrices[i].scales = &stacks->scales[i];
    }
}

static void describe_experts(struct moe_experts_params *params, struct stacks *stacks, const struct shape *shape,
                             size_t count)
{
    MOE_INIT(params);
    params->num_experts = count;
    params->hidden_size = shape->hidden_size;
    params->intermediate_size = shape->intermediate_size;
    params->gate = &stacks->matrices[0];
    params->up = &stacks->matrices[1];
    params->down = &stacks->matrices[2];
    params->location = MOE_LOCATION_BACKEND;
}

static const char *keep(char text[256], const struct moe_error *error)
{
    snprintf(text, 256, "%.255s", error->text);
    return text;
}

static bool has_shared(enum variant variant)
{
    return variant == SHARED || variant == ROUTER_SHARED;
}

/* A router of small weights, in host memory, alike for all layers: choices differ with x. */
static const char *make_layer(struct bench *bench, struct layers *layers, size_t set)
{
    static char text[256];
    const struct shape *shape = layers->shape;
    struct moe_error error = {0};
    struct moe_layer_params params;
    struct moe_routing routing;
    struct moe_shared shared;
    struct moe_matrix router;
    uint16_t *matrix = NULL;
    MOE_INIT(&params);
    MOE_INIT(&routing);
    MOE_INIT(&shared);
    MOE_INIT(&router);
    params.experts = layers->experts[set];
    params.top_k = shape->top_k;
    if (layers->variant == ROUTER || layers->variant == ROUTER_SHARED) {
        size_t bytes = shape->num_experts * shape->hidden_size * 2;
        struct scheme bf16 = {.format = MOE_FORMAT_BF16};
        matrix = malloc(bytes);
        if (matrix == NULL)
            return "no host memory";
        for (size_t e = 0; e < shape->num_experts; e++)
            fill_row((unsigned char *)(matrix + e * shape->hidden_size), &bf16, shape->hidden_size);
        router.data = (struct moe_view){matrix, 0, bytes, 0, MOE_FORMAT_BF16};
        routing.router = &router;
    }
    if (layers->variant != PLAIN && layers->variant != SHARED)
        params.routing = &routing;
    if (has_shared(layers->variant)) {
        shared.experts = layers->shared[set];
        params.shared = &shared;
    }
    enum moe_status status = moe_layer_create(bench->backend, &params, &layers->sets[set], &error);
    free(matrix);
    return status == MOE_OK ? NULL : keep(text, &error);
}

/* As many sets as fit in memory with what the backend copies of them. The shared expert of a set is one more. */
static const char *count_sets(struct bench *bench, struct layers *layers, const struct part parts[3])
{
    static char text[256];
    struct stacks stacks;
    struct moe_experts_params params;
    struct moe_error error = {0};
    size_t copies = 0, experts = layers->shape->num_experts + has_shared(layers->variant), bytes = 0;
    for (int i = 0; i < 3; i++)
        bytes += experts * (parts[i].value_bytes + parts[i].scale_bytes);
    struct layers nothing = {.shape = layers->shape};
    for (int i = 0; i < 6; i++)
        nothing.memory[i].base = layers;    /* not looked at for a size */
    describe_stacks(&stacks, &nothing, parts, 0, layers->shape->num_experts);
    describe_experts(&params, &stacks, layers->shape, layers->shape->num_experts);
    if (moe_experts_packed_size(bench->backend, &params, &copies, &error) != MOE_OK)
        return keep(text, &error);
    layers->num_sets = bench->memory / (bytes + copies);
    if (layers->num_sets > MOST_SETS)
        layers->num_sets = MOST_SETS;
    return layers->num_sets > 0 ? NULL : "a layer does not fit in the device's memory";
}

static const char *make_set(struct bench *bench, struct layers *layers, const struct part parts[3], size_t set)
{
    static char text[256];
    struct stacks stacks;
    struct moe_experts_params params;
    struct moe_error error = {0};
    size_t experts = layers->shape->num_experts, each = experts + has_shared(layers->variant);
    describe_stacks(&stacks, layers, parts, set * each, experts);
    describe_experts(&params, &stacks, layers->shape, experts);
    if (moe_experts_create(bench->backend, &params, &layers->experts[set], &error) != MOE_OK)
        return keep(text, &error);
    if (has_shared(layers->variant)) {
        describe_stacks(&stacks, layers, parts, set * each + experts, 1);
        describe_experts(&params, &stacks, layers->shape, 1);
        if (moe_experts_create(bench->backend, &params, &layers->shared[set], &error) != MOE_OK)
            return keep(text, &error);
    }
    return make_layer(bench, layers, set);
}

const char *layers_make(struct bench *bench, struct layers *layers, const struct shape *shape, const struct type *type,
                        enum variant variant)
{
    struct part parts[3];
    *layers = (struct layers){.shape = shape, .type = type, .variant = variant};
    describe_parts(parts, shape, type);
    const char *failure = count_sets(bench, layers, parts);
    size_t experts = layers->num_sets * (shape->num_experts + has_shared(variant));
    for (int i = 0; i < 3 && failure == NULL; i++) {
        failure = fill_part(bench, layers, i, &parts[i], experts);
        layers->expert_bytes += parts[i].value_bytes + parts[i].scale_bytes;
    }
    layers->shared_bytes = has_shared(variant) ? layers->expert_bytes : 0;
    if (failure == NULL && moe_context_sync(bench->ctx) != MOE_OK)
        failure = "weights cannot be made";
    for (size_t set = 0; set < layers->num_sets && failure == NULL; set++)
        failure = make_set(bench, layers, parts, set);
    return failure;
}

void layers_free(struct bench *bench, struct layers *layers)
{
    for (size_t i = 0; i < MOST_SETS; i++) {
        moe_layer_destroy(layers->sets[i]);
        moe_experts_destroy(layers->shared[i]);
        moe_experts_destroy(layers->experts[i]);
    }
    for (int i = 0; i < 6; i++)
        if (layers->memory[i].base != NULL)
            moe_mem_free(bench->backend, &layers->memory[i]);
    *layers = (struct layers){0};
}
