// SPDX-License-Identifier: MIT
// Experts for `moe bench`. Random weights are quantised once, a pool of about a million per matrix; every expert takes
// its rows from another place of the pool, but has memory of its own.
#include "bench_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "describe.h"
#include "progress.h"

#define POOL_VALUES ((size_t)1 << 20)
#define MOST_LAYERS 256

/* Random bytes until the block is finite and its rms within a factor of 4 of sigma; any finite one, where a format of
 * integers without a scale has none. */
static void random_block(unsigned char *block, const struct moe_format_info *info, double sigma, uint64_t *seed)
{
    float values[256];
    for (int tries = info->block_values > 2 ? 1000 : 8;;) {
        double sum = 0;
        for (size_t i = 0; i < info->block_bytes; i++)
            block[i] = (unsigned char)tool_random(seed);
        moe_format_dequantise(info->format, values, block, 1, info->block_values);
        for (size_t i = 0; i < info->block_values; i++)
            sum += (double)values[i] * (double)values[i];
        double rms = sqrt(sum / info->block_values);
        if (isfinite(rms) && ((rms >= 0.25 * sigma && rms <= 4 * sigma) || --tries <= 0))
            return;
    }
}

/* A pool of quantised rows of one matrix kind, or of random blocks of a format that cannot be made; NULL with the error
 * printed. */
static unsigned char *make_pool(enum moe_format format, size_t cols, size_t num_rows, uint64_t seed)
{
    const struct moe_format_info *info = moe_format_info(format);
    size_t row_bytes = moe_format_row_bytes(format, cols);
    float *row = tool_alloc(cols, sizeof *row);
    unsigned char *pool = row ? tool_alloc(num_rows, row_bytes) : NULL;
    double sigma = 1 / sqrt((double)cols);
    for (size_t r = 0; pool && r < num_rows; r++) {
        for (size_t c = 0; c < cols; c++)
            row[c] = (float)(sigma * tool_normal(&seed));
        if (moe_format_quantise(format, pool + r * row_bytes, row, 1, cols) == MOE_OK)
            continue;
        for (size_t at = 0; at < row_bytes; at += info->block_bytes)
            random_block(pool + r * row_bytes + at, info, sigma, &seed);
    }
    free(row);
    return pool;
}

static size_t pool_rows(size_t cols)
{
    return POOL_VALUES / cols ? POOL_VALUES / cols : 1;
}

struct part {
    enum moe_format format;
    size_t rows, cols, offset;      /* offset of the stack in the layer's memory */
    unsigned char *pool;
};

/* 0: too many for an address. */
static size_t stack_bytes(const struct part *part, size_t num_experts)
{
    size_t bytes = 0;
    if (!tool_mul(&bytes, moe_format_row_bytes(part->format, part->cols), part->rows) ||
        !tool_mul(&bytes, bytes, num_experts) || bytes > SIZE_MAX / 8)
        return 0;
    return (bytes + 63) / 64 * 64;
}

static void fill_stack(unsigned char *out, const struct part *part, size_t num_experts, uint64_t *seed)
{
    size_t row_bytes = moe_format_row_bytes(part->format, part->cols), pool = pool_rows(part->cols);
    for (size_t e = 0; e < num_experts; e++) {
        size_t from = (size_t)(tool_random(seed) % pool);
        for (size_t done = 0; done < part->rows;) {
            size_t now = part->rows - done < pool - from ? part->rows - done : pool - from;
            memcpy(out, part->pool + from * row_bytes, now * row_bytes);
            out += now * row_bytes;
            done += now;
            from = 0;
        }
    }
}

static void describe_layer(struct bench_weights *w, size_t layer, const struct part *parts)
{
    struct moe_matrix *matrices = w->matrices + 3 * layer;
    for (size_t i = 0; i < 3; i++) {
        MOE_INIT(&matrices[i]);
        matrices[i].data = (struct moe_view){.base = w->memory[layer], .offset = parts[i].offset,
                                             .size = stack_bytes(&parts[i], w->shape.num_experts),
                                             .format = parts[i].format};
    }
    struct moe_experts_params *params = &w->params[layer];
    MOE_INIT(params);
    params->num_experts = w->shape.num_experts;
    params->hidden_size = w->shape.hidden_size;
    params->intermediate_size = w->shape.intermediate_size;
    params->gate = &matrices[0];
    params->up = &matrices[1];
    params->down = &matrices[2];
    w->ranges[layer] = (struct bench_range){w->memory[layer], (size_t)w->layer_bytes};
}

/* Memory that is free or can be had without swapping; 0: not known. */
static uint64_t free_memory(void)
{
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1)
            break;
    if (file)
        fclose(file);
    if (kilobytes > 0)
        return (uint64_t)kilobytes * 1024;
    long pages = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

/* As many layers as hold cold_bytes, but no more than half the memory that is free. */
static int count_layers(struct bench_weights *w, uint64_t cold_bytes)
{
    uint64_t layers = (cold_bytes + w->layer_bytes - 1) / w->layer_bytes, half = free_memory() / 2;
    layers = layers < 1 ? 1 : layers > MOST_LAYERS ? MOST_LAYERS : layers;
    if (half > 0) {
        char needed[32], free_bytes[32];
        if (w->layer_bytes > half)
            return tool_fail(TOOL_INPUT, "one layer of that shape has %s, more than half of the free memory (%s)",
                             tool_bytes(needed, w->layer_bytes), tool_bytes(free_bytes, 2 * half));
        if (layers > half / w->layer_bytes)
            layers = half / w->layer_bytes;
    }
    w->num_layers = (size_t)layers;
    return TOOL_OK;
}

static int fill_layers(struct bench_weights *w, struct part *parts)
{
    struct progress progress;
    uint64_t seed = 3;
    int code = TOOL_OK;
    progress_begin(&progress, "weights", w->num_layers);
    for (size_t i = 0; i < w->num_layers && code == TOOL_OK; i++) {
        if (posix_memalign(&w->memory[i], 4096, (size_t)w->layer_bytes) != 0) {
            w->memory[i] = NULL;
            code = tool_fail(TOOL_INPUT, "out of memory for the weights of a layer");
            break;
        }
        for (size_t p = 0; p < 3; p++)
            fill_stack((unsigned char *)w->memory[i] + parts[p].offset, &parts[p], w->shape.num_experts, &seed);
        describe_layer(w, i, parts);
        progress_add(&progress, 1);
    }
    progress_end(&progress);
    return code;
}

int bench_weights_make(struct bench_weights *w, const struct bench_shape *shape, enum moe_format format,
                       enum moe_format down, uint64_t cold_bytes)
{
    *w = (struct bench_weights){.shape = *shape, .format = format, .down = down, .matrices_each = 3};
    struct part parts[3] = {{.format = format, .rows = shape->intermediate_size, .cols = shape->hidden_size},
                            {.format = format, .rows = shape->intermediate_size, .cols = shape->hidden_size},
                            {.format = down, .rows = shape->hidden_size, .cols = shape->intermediate_size}};
    for (size_t p = 0; p < 3; p++) {
        unsigned block = (unsigned)moe_format_info(parts[p].format)->block_values;
        if (parts[p].cols % block)
            return tool_fail(TOOL_USAGE, "moe bench: %s needs rows of whole blocks (%u values), not %zu columns",
                             describe_format(parts[p].format), block, parts[p].cols);
        size_t bytes = stack_bytes(&parts[p], shape->num_experts);
        if (!bytes)
            return tool_fail(TOOL_USAGE, "moe bench: --shape: %zu experts of %zu x %zu %s values are more bytes than "
                             "can be addressed", shape->num_experts, parts[p].rows, parts[p].cols,
                             describe_format(parts[p].format));
        parts[p].offset = (size_t)w->layer_bytes;
        w->layer_bytes += bytes;
        w->expert_bytes += parts[p].rows * (uint64_t)moe_format_row_bytes(parts[p].format, parts[p].cols);
    }
    int code = count_layers(w, cold_bytes);
    if (code != TOOL_OK)
        return code;
    w->num_ranges = w->num_layers;
    w->params = calloc(w->num_layers, sizeof *w->params);
    w->matrices = calloc(w->num_layers, 3 * sizeof *w->matrices);
    w->memory = calloc(w->num_layers, sizeof *w->memory);
    w->ranges = calloc(w->num_ranges, sizeof *w->ranges);
    code = w->params && w->matrices && w->memory && w->ranges ? TOOL_OK : tool_fail(TOOL_INPUT, "out of memory");
    for (size_t p = 0; p < 3 && code == TOOL_OK; p++) {
        parts[p].pool = make_pool(parts[p].format, parts[p].cols, pool_rows(parts[p].cols), p + 1);
        code = parts[p].pool ? TOOL_OK : TOOL_INPUT;
    }
    if (code == TOOL_OK)
        code = fill_layers(w, parts);
    for (size_t p = 0; p < 3; p++)
        free(parts[p].pool);
    return code;
}

/* ---- of a model ---- */

static uint64_t expert_bytes(const struct moe_experts_params *p)
{
    uint64_t across = p->intermediate_size * (uint64_t)moe_format_row_bytes(p->up->data.format, p->hidden_size);
    uint64_t gate =
        p->gate ? p->intermediate_size * (uint64_t)moe_format_row_bytes(p->gate->data.format, p->hidden_size) : 0;
    return across + gate + p->hidden_size * (uint64_t)moe_format_row_bytes(p->down->data.format, p->intermediate_size);
}

static bool alike(const struct moe_experts_params *a, const struct moe_experts_params *b)
{
    return a->num_experts == b->num_experts && a->hidden_size == b->hidden_size &&
           a->intermediate_size == b->intermediate_size && !a->gate == !b->gate &&
           (!a->gate || a->gate->data.format == b->gate->data.format) && a->up->data.format == b->up->data.format &&
           a->down->data.format == b->down->data.format;
}

static void add_ranges(struct bench_weights *w, const struct moe_matrix *matrix, size_t num_experts)
{
    if (!matrix)
        return;
    size_t count = matrix->bases ? num_experts : 1;
    for (size_t e = 0; e < count; e++)
        w->ranges[w->num_ranges++] = (struct bench_range){
            (const char *)(matrix->bases ? matrix->bases[e] : matrix->data.base) + matrix->data.offset,
            matrix->data.size};
}

int bench_weights_of_model(struct bench_weights *w, struct session *session)
{
    *w = (struct bench_weights){0};
    size_t blocks = session->info.num_blocks;
    w->params = calloc(blocks ? blocks : 1, sizeof *w->params);
    if (!w->params)
        return tool_fail(TOOL_INPUT, "out of memory");
    for (size_t i = 0; i < blocks; i++) {
        const struct moe_model_block *block = NULL;
        struct moe_error error = {0};
        enum moe_status status = moe_model_block(session->model, i, &block, &error);
        if (status != MOE_OK)
            return tool_fail_moe(status, &error, "a layer cannot be read");
        if (!block || (w->num_layers && !alike(&w->params[0], block->experts)))
            continue;
        if (w->num_layers == 0) {
            const struct moe_experts_params *p = block->experts;
            w->shape = (struct bench_shape){p->hidden_size, p->intermediate_size, p->num_experts, block->layer->top_k};
            w->weight_on_input = block->layer->weight_on_input;
            w->matrices_each = p->gate ? 3 : 2;
        }
        w->params[w->num_layers++] = *block->experts;
    }
    if (w->num_layers == 0)
        return tool_fail(TOOL_INPUT, "the model has no MoE layer");
    w->format = w->params[0].up->data.format;
    w->down = w->params[0].down->data.format;
    w->expert_bytes = expert_bytes(&w->params[0]);
    w->layer_bytes = w->expert_bytes * w->shape.num_experts;
    w->ranges = calloc(w->num_layers * 3, w->shape.num_experts * sizeof *w->ranges);
    if (!w->ranges)
        return tool_fail(TOOL_INPUT, "out of memory");
    for (size_t i = 0; i < w->num_layers; i++) {
        add_ranges(w, w->params[i].gate, w->shape.num_experts);
        add_ranges(w, w->params[i].up, w->shape.num_experts);
        add_ranges(w, w->params[i].down, w->shape.num_experts);
    }
    return TOOL_OK;
}

void bench_weights_free(struct bench_weights *w)
{
    for (size_t i = 0; w->memory && i < w->num_layers; i++)
        free(w->memory[i]);
    free(w->memory);
    free(w->matrices);
    free(w->params);
    free(w->ranges);
    *w = (struct bench_weights){0};
}
