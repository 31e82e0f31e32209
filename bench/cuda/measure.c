// SPDX-License-Identifier: MIT
// One cell: several layers in a CUDA graph, each with weights and routing of its own, replayed and timed by events.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

enum { WARM_UPS = 3, REPLAYS = 11, FEW_REPLAYS = 3, DISTINCT = 7919 * 64 };    /* DISTINCT: values of x */
#define GRAPH_SECONDS 1e-3      /* of the floors of a graph's layers, so that what is around them does not count */
#define SLOW_SECONDS 0.15       /* a replay from which on there are few */

double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Buffers of a graph's calls. */
struct calls {
    struct moe_view x, ids, weights, logits, out[2], workspace;
    struct moe_layer_io io[MOST_LAYERS];
    cudaGraphExec_t graph;
    cudaEvent_t begin, end;
};

static enum moe_status alloc(struct bench *bench, struct moe_view *view, size_t values, enum moe_format format)
{
    enum moe_status status = moe_mem_alloc(bench->backend, values * moe_format_info(format)->block_bytes, view);
    view->format = format;
    return status;
}

/* Different experts for a token, all equally likely, of equal weight; returns how many are in use. */
static size_t random_ids(int32_t *ids, const struct shape *shape, size_t tokens, uint64_t *state)
{
    unsigned char used[MOE_MAX_EXPERTS] = {0};
    size_t count = 0;
    for (size_t t = 0; t < tokens; t++)
        for (size_t k = 0; k < shape->top_k; k++) {
            bool again = true;
            int32_t id = 0;
            while (again) {
                id = (int32_t)(next(state) % shape->num_experts);
                again = false;
                for (size_t other = 0; other < k; other++)
                    again = again || ids[t * shape->top_k + other] == id;
            }
            ids[t * shape->top_k + k] = id;
            count += !used[id];
            used[id] = 1;
        }
    return count;
}

/* bf16, uniform in -2 .. 2: exponents up to 2, random signs and mantissas. */
static void random_bf16(uint16_t *out, size_t n, uint64_t *state)
{
    for (size_t i = 0; i < n; i++) {
        float value = (float)((double)(next(state) >> 40) / 0x1p22 - 2);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        out[i] = (uint16_t)(bits >> 16);
    }
}

/* Each layer's routing: ids, or logits that are high at them. */
static enum moe_status write_routing(struct bench *bench, const struct layers *layers, struct calls *calls,
                                     size_t layer, size_t tokens, uint64_t *state, size_t *unique)
{
    const struct shape *shape = layers->shape;
    size_t pairs = tokens * shape->top_k, values = tokens * shape->num_experts;
    int32_t *ids = malloc(pairs * sizeof *ids);
    float *logits = calloc(layers->variant == LOGITS ? values : 1, sizeof *logits);
    enum moe_status status = ids != NULL && logits != NULL ? MOE_OK : MOE_ERR_MEMORY;
    if (status == MOE_OK) {
        *unique = random_ids(ids, shape, tokens, state);
        struct moe_view view = layers->variant == LOGITS ? calls->logits : calls->ids;
        const void *source = layers->variant == LOGITS ? (const void *)logits : ids;
        size_t bytes = layers->variant == LOGITS ? values * sizeof *logits : pairs * sizeof *ids;
        for (size_t i = 0; layers->variant == LOGITS && i < values; i++)
            logits[i] = (float)(next(state) % 1024) / 1024;
        for (size_t i = 0; layers->variant == LOGITS && i < pairs; i++)
            logits[i / shape->top_k * shape->num_experts + (size_t)ids[i]] += 4;
        view.offset += layer * bytes;
        view.size = bytes;
        status = moe_mem_write(bench->ctx, &view, source, bytes);
        if (layers->variant == LOGITS)
            calls->io[layer].logits = view;
        else
            calls->io[layer].ids = view;
    }
    free(ids);
    free(logits);
    return status;
}

static enum moe_status write_inputs(struct bench *bench, struct calls *calls, size_t values, size_t pairs,
                                    uint64_t *state)
{
    size_t distinct = values < DISTINCT ? values : DISTINCT;
    uint16_t *x = malloc(distinct * sizeof *x);
    const float weight = 0.125f;
    enum moe_status status = x != NULL ? MOE_OK : MOE_ERR_MEMORY;
    if (status == MOE_OK) {
        random_bf16(x, distinct, state);
        if (memory_repeat(bench, &calls->x, x, distinct * sizeof *x, values * sizeof *x) != NULL ||
            memory_repeat(bench, &calls->weights, &weight, sizeof weight, pairs * sizeof weight) != NULL)
            status = MOE_ERR_MEMORY;
    }
    calls->x.format = MOE_FORMAT_BF16;
    calls->weights.format = MOE_FORMAT_F32;
    free(x);
    return status;
}

static enum moe_status make_calls(struct bench *bench, const struct layers *layers, struct calls *calls,
                                  struct cell *cell)
{
    const struct shape *s = layers->shape;
    size_t tokens = cell->tokens, width = tokens * s->hidden_size, pairs = tokens * s->top_k, n = cell->num_layers;
    uint64_t state = 17 + tokens;
    size_t largest = 0, total = 0;
    bool inside = layers->variant == ROUTER || layers->variant == ROUTER_SHARED;
    enum moe_status status = write_inputs(bench, calls, width, pairs, &state);
    for (int i = 0; i < 2 && status == MOE_OK; i++)
        status = alloc(bench, &calls->out[i], width, MOE_FORMAT_BF16);
    if (status == MOE_OK)
        status = alloc(bench, &calls->ids, n * pairs, MOE_FORMAT_I32);
    if (status == MOE_OK && layers->variant == LOGITS)
        status = alloc(bench, &calls->logits, n * tokens * s->num_experts, MOE_FORMAT_F32);
    for (size_t i = 0; i < n && status == MOE_OK; i++) {
        struct moe_layer_io *io = &calls->io[i];
        size_t unique = 0, bytes = 0;
        MOE_INIT(io);
        io->num_tokens = tokens;
        io->x = calls->x;
        io->out = calls->out[i % 2];
        if (layers->variant == PLAIN || layers->variant == SHARED)
            io->weights = calls->weights;
        if (!inside)
            status = write_routing(bench, layers, calls, i, tokens, &state, &unique);
        total += unique;
        if (status == MOE_OK)
            status = moe_layer_workspace_size(bench->ctx, layers->sets[i % layers->num_sets], io, &bytes);
        largest = bytes > largest ? bytes : largest;
    }
    if (status == MOE_OK)
        status = moe_mem_alloc(bench->backend, largest > 0 ? largest : 1, &calls->workspace);
    for (size_t i = 0; i < n; i++)
        calls->io[i].workspace = calls->workspace;
    cell->bytes = (double)total / (double)n * (double)layers->expert_bytes + (double)layers->shared_bytes;
    return status;
}

/* Where the library routes, the experts in use are those that it chose. */
static enum moe_status count_experts(struct bench *bench, const struct layers *layers, struct calls *calls,
                                     struct cell *cell)
{
    size_t total = 0, experts = layers->shape->num_experts;
    int64_t *counts = calloc(experts, sizeof *counts);
    struct moe_view view = {0};
    enum moe_status status = counts != NULL ? alloc(bench, &view, experts, MOE_FORMAT_I64) : MOE_ERR_MEMORY;
    for (size_t i = 0; i < cell->num_layers && status == MOE_OK; i++) {
        struct moe_layer_io io = calls->io[i];
        memset(counts, 0, experts * sizeof *counts);
        status = moe_mem_write(bench->ctx, &view, counts, experts * sizeof *counts);
        io.expert_counts = view;
        if (status == MOE_OK)
            status = moe_layer_forward(bench->ctx, layers->sets[i % layers->num_sets], &io);
        if (status == MOE_OK)
            status = moe_mem_read(bench->ctx, counts, &view, experts * sizeof *counts);
        for (size_t e = 0; e < experts; e++)
            total += counts[e] > 0;
    }
    cell->bytes =
        (double)total / (double)cell->num_layers * (double)layers->expert_bytes + (double)layers->shared_bytes;
    free(counts);
    if (view.base != NULL)
        moe_mem_free(bench->backend, &view);
    return status;
}

static const char *capture(struct bench *bench, const struct layers *layers, struct calls *calls, struct cell *cell)
{
    cudaGraph_t graph = NULL;
    size_t nodes = 0;
    enum moe_status status = MOE_OK;
    if (cudaStreamBeginCapture(bench->stream, cudaStreamCaptureModeGlobal) != cudaSuccess)
        return "the capture does not begin";
    for (size_t i = 0; i < cell->num_layers && status == MOE_OK; i++)
        status = moe_layer_forward(bench->ctx, layers->sets[i % layers->num_sets], &calls->io[i]);
    if (cudaStreamEndCapture(bench->stream, &graph) != cudaSuccess)
        return status != MOE_OK ? moe_status_text(status) : "the capture does not end";
    bool good = status == MOE_OK && cudaGraphGetNodes(graph, NULL, &nodes) == cudaSuccess &&
                cudaGraphInstantiate(&calls->graph, graph, 0) == cudaSuccess;
    cudaGraphDestroy(graph);
    cell->nodes = (double)nodes / (double)cell->num_layers;
    return good ? NULL : status != MOE_OK ? moe_status_text(status) : "the graph cannot be made";
}

static const char *replay(struct bench *bench, struct calls *calls, double *time)
{
    float milliseconds = 0;
    if (cudaEventRecord(calls->begin, bench->stream) != cudaSuccess ||
        cudaGraphLaunch(calls->graph, bench->stream) != cudaSuccess ||
        cudaEventRecord(calls->end, bench->stream) != cudaSuccess ||
        cudaEventSynchronize(calls->end) != cudaSuccess ||
        cudaEventElapsedTime(&milliseconds, calls->begin, calls->end) != cudaSuccess)
        return cudaGetErrorString(cudaGetLastError());
    *time = 1e-3 * milliseconds;
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const char *time_replays(struct bench *bench, struct calls *calls, struct cell *cell)
{
    double times[REPLAYS] = {0};
    size_t warm_ups = WARM_UPS, replays = REPLAYS;
    const char *failure = NULL;
    for (size_t i = 0; i < warm_ups && failure == NULL; i++) {
        failure = replay(bench, calls, &times[0]);
        if (times[0] > SLOW_SECONDS) {
            warm_ups = 1;
            replays = FEW_REPLAYS;
        }
    }
    for (size_t i = 0; i < replays && failure == NULL; i++)
        failure = replay(bench, calls, &times[i]);
    qsort(times, replays, sizeof times[0], ascending);
    cell->median = times[replays / 2] / (double)cell->num_layers;
    cell->least = times[0] / (double)cell->num_layers;
    cell->replays = replays;
    return failure;
}

/* The first token's row of the last output: every value finite, and not all of them 0. */
static bool is_finite(struct bench *bench, const struct calls *calls, const struct cell *cell)
{
    size_t n = cell->shape->hidden_size, zeros = 0, bad = 0;
    struct moe_view view = calls->out[(cell->num_layers - 1) % 2];
    uint16_t *out = malloc(n * sizeof *out);
    view.offset += (cell->tokens - 1) * n * sizeof *out;
    view.size = n * sizeof *out;
    bool good = out != NULL && moe_mem_read(bench->ctx, out, &view, view.size) == MOE_OK;
    for (size_t i = 0; good && i < n; i++) {
        bad += (out[i] & 0x7f80) == 0x7f80;
        zeros += (out[i] & 0x7fff) == 0;
    }
    free(out);
    return good && bad == 0 && zeros < n;
}

static void free_calls(struct bench *bench, struct calls *calls)
{
    struct moe_view *const views[] = {&calls->x, &calls->ids, &calls->weights, &calls->logits, &calls->out[0],
                                      &calls->out[1], &calls->workspace};
    if (calls->graph != NULL)
        cudaGraphExecDestroy(calls->graph);
    if (calls->begin != NULL)
        cudaEventDestroy(calls->begin);
    if (calls->end != NULL)
        cudaEventDestroy(calls->end);
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++)
        if (views[i]->base != NULL)
            moe_mem_free(bench->backend, views[i]);
}

/* Enough layers for a graph of GRAPH_SECONDS; their weights are then many times L2 too. */
static size_t count_layers(const struct layers *layers, struct cell *cell)
{
    const struct shape *s = layers->shape;
    double miss = pow(1 - (double)s->top_k / (double)s->num_experts, (double)cell->tokens);
    cell->bytes = (1 - miss) * (double)s->num_experts * (double)layers->expert_bytes + (double)layers->shared_bytes;
    cell->flops = 6.0 * (double)s->hidden_size * (double)s->intermediate_size * (double)cell->tokens *
                  (double)(s->top_k + (layers->shared_bytes > 0));
    double wanted = ceil(GRAPH_SECONDS / cell_floor(cell));
    size_t least = cell->tokens <= 64 ? 4 : 2;
    return wanted < (double)least ? least : wanted > MOST_LAYERS ? MOST_LAYERS : (size_t)wanted;
}

void cell_measure(struct bench *bench, const struct layers *layers, struct cell *cell, size_t tokens)
{
    struct calls calls = {0};
    *cell = (struct cell){.shape = layers->shape, .type = layers->type, .variant = layers->variant, .tokens = tokens,
                          .num_sets = layers->num_sets};
    cell->num_layers = count_layers(layers, cell);
    enum moe_status status = make_calls(bench, layers, &calls, cell);
    if (status == MOE_OK && (layers->variant == ROUTER || layers->variant == ROUTER_SHARED))
        status = count_experts(bench, layers, &calls, cell);
    if (status == MOE_OK)
        status = moe_context_sync(bench->ctx);
    if (status != MOE_OK)
        cell->failure = moe_status_text(status);
    else if (cudaEventCreate(&calls.begin) != cudaSuccess || cudaEventCreate(&calls.end) != cudaSuccess)
        cell->failure = "no events";
    if (cell->failure == NULL)
        cell->failure = capture(bench, layers, &calls, cell);
    if (cell->failure == NULL)
        cell->failure = time_replays(bench, &calls, cell);
    if (cell->failure == NULL)
        cell->finite = is_finite(bench, &calls, cell);
    free_calls(bench, &calls);
}
