// SPDX-License-Identifier: MIT
// One cell of `moe bench`: a number of tokens, timed, with the limits of the machine measured before and after.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "oracle.h"

#define NUM_ROUTINGS 16         /* sets of ids that calls take in turn */
#define ERROR_TOKENS 16         /* tokens that --error looks at */
#define MOST_CALLS 100000
#define LEAST_CALLS 7
#define WARM_UP 0.1             /* seconds */
#define NUM_PASSES 3            /* of the read probe, before and after */

/* Arrays of one cell in the backend's memory, and copies on the host. */
struct arrays {
    struct moe_view x, out, weights, workspace, ids[NUM_ROUTINGS];
    float *host_x, *host_out, *host_weights;
    int64_t *host_ids;              /* [NUM_ROUTINGS, tokens, top_k] */
    double unique[NUM_ROUTINGS];    /* experts in use */
    double *times;
};

/* ---- arrays of a cell ---- */

static int bring(struct bench *bench, struct moe_view *view, enum moe_format format, size_t values, const void *host)
{
    size_t bytes = values * moe_format_info(format)->block_bytes;
    enum moe_status status = moe_mem_alloc(bench->session.backend, bytes, view);
    if (status != MOE_OK)
        return tool_fail_moe(status, NULL, "memory for the activations");
    view->format = format;
    view->size = bytes;
    if (host)
        status = moe_mem_write(bench->session.ctx, view, host, bytes);
    return status == MOE_OK ? TOOL_OK : tool_fail_moe(status, NULL, "the activations cannot be written");
}

/* top_k distinct experts for each token, by a partial shuffle; returns how many experts are in use. */
static size_t draw_ids(const struct bench_shape *shape, size_t num_tokens, int64_t *ids, int64_t *order, uint64_t *seed)
{
    size_t n = shape->num_experts, used = 0;
    for (size_t e = 0; e < n; e++) {
        order[e] = (int64_t)e;
        order[n + e] = 0;
    }
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t k = 0; k < shape->top_k; k++) {
            size_t other = k + (size_t)(tool_random(seed) % (n - k));
            int64_t id = order[other];
            order[other] = order[k];
            order[k] = id;
            ids[t * shape->top_k + k] = id;
            used += order[n + (size_t)id]++ == 0;
        }
    return used;
}

static int make_arrays(struct bench *bench, struct arrays *a, size_t tokens)
{
    const struct bench_shape *shape = &bench->weights.shape;
    size_t width = 0, pairs = tokens * shape->top_k;
    uint64_t seed = 7;
    if (!tool_mul(&width, tokens, shape->hidden_size))
        return tool_fail(TOOL_USAGE, "moe bench: %zu tokens are too many", tokens);
    a->host_x = tool_alloc(width, sizeof(float));
    a->host_out = tool_alloc(width, sizeof(float));
    a->host_weights = tool_alloc(pairs, sizeof(float));
    a->host_ids = tool_alloc(pairs * NUM_ROUTINGS, sizeof(int64_t));
    a->times = tool_alloc(MOST_CALLS, sizeof(double));
    int64_t *order = tool_alloc(2 * shape->num_experts, sizeof *order);
    int code = a->host_x && a->host_out && a->host_weights && a->host_ids && a->times && order ? TOOL_OK : TOOL_INPUT;
    for (size_t i = 0; code == TOOL_OK && i < width; i++) {
        a->host_x[i] = (float)tool_normal(&seed);
        a->host_out[i] = NAN;
    }
    for (size_t i = 0; code == TOOL_OK && i < pairs; i++)
        a->host_weights[i] = 1 / (float)shape->top_k;
    if (code == TOOL_OK)
        code = bring(bench, &a->x, MOE_FORMAT_F32, width, a->host_x);
    if (code == TOOL_OK)
        code = bring(bench, &a->out, MOE_FORMAT_F32, width, a->host_out);
    if (code == TOOL_OK)
        code = bring(bench, &a->weights, MOE_FORMAT_F32, pairs, a->host_weights);
    for (size_t r = 0; code == TOOL_OK && r < NUM_ROUTINGS; r++) {
        a->unique[r] = (double)draw_ids(shape, tokens, a->host_ids + r * pairs, order, &seed);
        code = bring(bench, &a->ids[r], MOE_FORMAT_I64, pairs, a->host_ids + r * pairs);
    }
    free(order);
    return code;
}

static void free_arrays(struct bench *bench, struct arrays *a)
{
    struct moe_view *views[] = {&a->x, &a->out, &a->weights, &a->workspace};
    for (size_t i = 0; i < 4; i++)
        if (views[i]->base)
            moe_mem_free(bench->session.backend, views[i]);
    for (size_t r = 0; r < NUM_ROUTINGS; r++)
        if (a->ids[r].base)
            moe_mem_free(bench->session.backend, &a->ids[r]);
    free(a->host_x);
    free(a->host_out);
    free(a->host_weights);
    free(a->host_ids);
    free(a->times);
}

/* ---- timing ---- */

static enum moe_status call(struct bench *bench, struct arrays *a, struct moe_layer_io *io, size_t i, size_t num_layers)
{
    io->ids = a->ids[i % NUM_ROUTINGS];
    enum moe_status status = moe_layer_forward(bench->session.ctx, bench->layers[i % num_layers], io);
    return status == MOE_OK ? moe_context_sync(bench->session.ctx) : status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between the values where that is what lies a share of the way through n sorted ones. */
static double quantile(const double *sorted, size_t n, double share)
{
    double at = share * (double)(n - 1), below = floor(at);
    size_t i = (size_t)below;
    return i + 1 < n ? sorted[i] + (at - below) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

/* Moves the bar to where a cell is after so many of its seconds. */
static void show_progress(struct bench *bench, double seconds, uint64_t *shown)
{
    double share = seconds / (bench->seconds + WARM_UP);
    uint64_t done = (uint64_t)(BENCH_PROGRESS * fmin(share, 1));
    if (done > *shown)
        progress_add(&bench->progress, done - *shown);
    *shown = done > *shown ? done : *shown;
}

static enum moe_status time_calls(struct bench *bench, struct arrays *a, struct moe_layer_io *io,
                                  struct bench_cell *cell, uint64_t *shown)
{
    enum moe_status status = MOE_OK;
    double start = tool_seconds(), unique = 0;
    size_t i = 0, n = 0;
    do {
        status = call(bench, a, io, i++, cell->num_layers);
        show_progress(bench, tool_seconds() - start, shown);
    } while (status == MOE_OK && tool_seconds() - start < WARM_UP);
    start = tool_seconds();
    while (status == MOE_OK && n < MOST_CALLS && (n < LEAST_CALLS || tool_seconds() - start < bench->seconds)) {
        double before = tool_seconds();
        status = call(bench, a, io, i, cell->num_layers);
        a->times[n++] = tool_seconds() - before;
        unique += a->unique[i++ % NUM_ROUTINGS];
        show_progress(bench, tool_seconds() - start + WARM_UP, shown);
    }
    if (status != MOE_OK)
        return status;
    qsort(a->times, n, sizeof *a->times, compare);
    cell->calls = n;
    cell->least = a->times[0];
    cell->median = quantile(a->times, n, 0.5);
    cell->spread = (quantile(a->times, n, 0.75) - quantile(a->times, n, 0.25)) / cell->median;
    cell->unique_bytes = unique / (double)n * (double)bench->weights.expert_bytes;
    return MOE_OK;
}

/* The probes around the calls: passes of a linear read, and the arithmetic of the kinds in use; none where the backend
 * does not compute on the CPU. */
struct probes {
    double reads[2 * NUM_PASSES], f32;
    size_t num_reads;
};

static double probe_peak(struct bench *bench, enum peak_kind kind)
{
    double rate = bench_peak(kind, bench->session.level, bench->threads);
    bench->peaks[kind] = fmax(bench->peaks[kind], rate);
    return rate;
}

static void probe(struct bench *bench, struct probes *probes, size_t num_layers)
{
    if (!bench_peak_knows(bench->session.level))
        return;
    for (size_t i = 0; i < NUM_PASSES; i++)
        probes->reads[probes->num_reads++] = bench_read(&bench->weights, num_layers, bench->threads);
    double f32 = probe_peak(bench, PEAK_F32);
    probes->f32 = probes->f32 > 0 ? fmin(probes->f32, f32) : f32;
    if (bench->in != PEAK_F32)
        probe_peak(bench, bench->in);
    if (bench->down != PEAK_F32 && bench->down != bench->in)
        probe_peak(bench, bench->down);
}

static enum moe_status time_and_probe(struct bench *bench, struct arrays *a, struct moe_layer_io *io,
                                      struct bench_cell *cell, uint64_t *shown)
{
    struct probes probes = {.num_reads = 0};
    struct bench_clock from = bench_clock_now();
    probe(bench, &probes, cell->num_layers);
    enum moe_status status = time_calls(bench, a, io, cell, shown);
    if (status != MOE_OK)
        return status;
    probe(bench, &probes, cell->num_layers);
    struct bench_clock to = bench_clock_now();
    bench_noise_between(&cell->noise, &from, &to);
    qsort(probes.reads, probes.num_reads, sizeof *probes.reads, compare);
    cell->read = probes.num_reads > 0 ? quantile(probes.reads, probes.num_reads, 0.5) : 0;
    cell->noise.read_spread = cell->read > 0 ? probes.reads[probes.num_reads - 1] / probes.reads[0] : 1;
    cell->f32 = probes.f32;
    cell->noise.compute = bench->peaks[PEAK_F32] > 0 ? probes.f32 / bench->peaks[PEAK_F32] : 1;
    return MOE_OK;
}

/* The quietest of up to 1 + retries measurements; the first that is quiet. */
static enum moe_status time_until_quiet(struct bench *bench, struct arrays *a, struct moe_layer_io *io,
                                        struct bench_cell *cell)
{
    uint64_t shown = 0;
    enum moe_status status = time_and_probe(bench, a, io, cell, &shown);
    for (size_t i = 0; i < bench->retries && status == MOE_OK && bench_noise_disturbed(&cell->noise); i++) {
        struct bench_cell again = *cell;
        status = time_and_probe(bench, a, io, &again, &shown);
        if (bench_noise_severity(&again.noise) < bench_noise_severity(&cell->noise))
            *cell = again;
    }
    if (shown < BENCH_PROGRESS)
        progress_add(&bench->progress, BENCH_PROGRESS - shown);
    return status;
}

static void set_limits(struct bench *bench, struct bench_cell *cell)
{
    const struct bench_weights *w = &bench->weights;
    cell->flops = 2.0 * (double)w->matrices_each * (double)w->shape.hidden_size * (double)w->shape.intermediate_size *
                  (double)w->shape.top_k * (double)cell->tokens;
    cell->memory = cell->read > 0 ? cell->unique_bytes / cell->read : 0;
    cell->compute = bench_limits_compute(bench, cell->flops, false);
    cell->tiles = bench_limits_compute(bench, cell->flops, true);
}

static int measure_error(struct bench *bench, struct arrays *a, struct moe_layer_io *io, struct bench_cell *cell)
{
    const struct bench_shape *shape = &bench->weights.shape;
    size_t tokens = cell->tokens < ERROR_TOKENS ? cell->tokens : ERROR_TOKENS, width = tokens * shape->hidden_size;
    double *exact = tool_alloc(width, sizeof *exact);
    if (!exact)
        return TOOL_INPUT;
    size_t all = cell->tokens * shape->hidden_size * sizeof(float);
    enum moe_status status = moe_mem_write(bench->session.ctx, &a->out, a->host_out, all);   /* NaN */
    if (status == MOE_OK)
        status = call(bench, a, io, 0, 1);
    float *out = tool_alloc(width, sizeof *out);
    if (status == MOE_OK && out)
        status = moe_mem_read(bench->session.ctx, out, &a->out, width * sizeof *out);
    int code = status == MOE_OK && out ? TOOL_OK : tool_fail_moe(status, NULL, "the layer did not run");
    if (code == TOOL_OK && !oracle_experts(&bench->weights.params[0], bench->weights.weight_on_input, tokens,
                                           shape->top_k, a->host_x, a->host_ids, a->host_weights, exact))
        code = TOOL_INPUT;
    if (code == TOOL_OK)
        cell->error = oracle_error(out, exact, width);
    free(out);
    free(exact);
    return code;
}

/* Up to BENCH_COLD_TOKENS all layers, so that weights come from memory. */
static size_t layers_in_turn(const struct bench_weights *w, size_t tokens)
{
    double warm = floor(BENCH_WARM_BYTES / (double)w->layer_bytes);
    if (tokens <= BENCH_COLD_TOKENS || warm >= (double)w->num_layers)
        return w->num_layers;
    return warm < 1 ? 1 : (size_t)warm;
}

int bench_cell_measure(struct bench *bench, struct bench_cell *cell, size_t tokens)
{
    struct arrays a = {0};
    *cell = (struct bench_cell){.tokens = tokens, .num_layers = layers_in_turn(&bench->weights, tokens), .error = NAN};
    int code = make_arrays(bench, &a, tokens);
    struct moe_layer_io io;
    MOE_INIT(&io);
    io.num_tokens = tokens;
    io.x = a.x;
    io.out = a.out;
    io.weights = a.weights;
    io.ids = a.ids[0];
    size_t bytes = 0;
    if (code == TOOL_OK) {
        enum moe_status status = moe_layer_workspace_size(bench->session.ctx, bench->layers[0], &io, &bytes);
        if (status == MOE_OK)
            status = moe_mem_alloc(bench->session.backend, bytes ? bytes : 1, &a.workspace);
        io.workspace = a.workspace;
        if (status == MOE_OK)
            status = time_until_quiet(bench, &a, &io, cell);
        if (status != MOE_OK)
            code = tool_fail_moe(status, NULL, "the layer did not run");
    }
    if (code == TOOL_OK && bench->error)
        code = measure_error(bench, &a, &io, cell);
    if (code == TOOL_OK)
        set_limits(bench, cell);
    free_arrays(bench, &a);
    return code;
}
