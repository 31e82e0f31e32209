// SPDX-License-Identifier: MIT
// moe bench: time of one layer's experts, cell by cell, with the machine's read bandwidth measured in the same run.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_weights.h"
#include "describe.h"
#include "guard.h"
#include "json_value.h"
#include "options.h"
#include "oracle.h"
#include "plot_svg.h"

#define NUM_ROUTINGS 16         /* sets of ids that calls take in turn */
#define ERROR_TOKENS 16         /* tokens that --error looks at */
#define COLD_TOKENS 32          /* up to here, calls rotate over all layers; above, over WARM_BYTES */
#define WARM_BYTES (128e6)
#define MOST_CALLS 100000
#define LEAST_CALLS 7
#define WARM_UP 0.1             /* seconds */
#define MOST_CELLS 32

static const char about[] =
    "Times the routed experts of one layer: input, expert ids (uniform, fresh for each call) and weights are given;\n"
    "no routing, no shared expert. Weights are random, of --shape hidden,intermediate,experts,top-k, or a MODEL's.\n"
    "Up to 32 tokens calls rotate over as many layers as hold --cold-bytes, so that weights come from memory, not\n"
    "from caches. A cell is warmed up for 0.1 s, then called at least 7 times and --seconds long.\n"
    "  GB/s      bytes of the experts in use, each counted once, over the median time\n"
    "  read      linear read of the same buffers with as many threads, the mean of before and after: the limit for\n"
    "            few tokens; ratio is their quotient\n"
    "  GFLOP/s   6 x hidden x intermediate x top-k x tokens over the time: the limit for many tokens is arithmetic\n"
    "  error     ||out - exact|| / ||exact|| against double precision on the same weights, for up to 16 tokens\n"
    "--plot draws the cells: GFLOP/s over FLOP per byte of the experts in use, on logarithmic axes, with a line for\n"
    "each format, the limit that the read bandwidth sets (its median over the cells), and the best rate of the run.";

static const char examples[] =
    "  moe bench --shape 2048,768,128,8 --format q8_0,bf16 --tokens 1,8,64\n"
    "  moe bench --shape 2048,768,128,8 --format q4_k --down q6_k --tokens 1 --threads 1 --error\n"
    "  moe bench models/bard --tokens 1,96 --json       one JSON object a line and cell\n"
    "  moe bench --shape 2048,768,128,8 --format bf16,q8_0,q4_k --plot bench.svg";

struct bench {
    const char *backend, *describe;
    size_t threads, tokens[MOST_CELLS], num_tokens;
    enum moe_format formats[MOST_CELLS];
    size_t num_formats;
    const struct moe_format_info *down;
    double cold_bytes, seconds;
    bool error, json, headed;
    const char *plot;               /* file of the drawing; NULL: none */
    struct plot_cell *plot_cells;   /* [MOST_CELLS * MOST_CELLS] */
    size_t num_plot_cells;
    struct bench_shape shape;
    struct session session;
    struct bench_weights weights;
    struct moe_experts **experts;
    struct moe_layer **layers;
};

struct cell {
    size_t tokens, num_layers, calls;
    double median, least, unique_bytes, read, error;   /* seconds; bytes a second */
};

/* Arrays of one cell in the backend's memory, and copies on the host. */
struct arrays {
    struct moe_view x, out, weights, workspace, ids[NUM_ROUTINGS];
    float *host_x, *host_out, *host_weights;
    int64_t *host_ids;              /* [NUM_ROUTINGS, tokens, top_k] */
    double unique[NUM_ROUTINGS];    /* experts in use */
    double *times;
};

/* ---- layers ---- */

static void destroy_layers(struct bench *bench)
{
    for (size_t i = 0; bench->layers && i < bench->weights.num_layers; i++)
        moe_layer_destroy(bench->layers[i]);
    for (size_t i = 0; bench->experts && i < bench->weights.num_layers; i++)
        moe_experts_destroy(bench->experts[i]);
    free(bench->layers);
    free(bench->experts);
    bench->layers = NULL;
    bench->experts = NULL;
}

static int create_layers(struct bench *bench)
{
    struct bench_weights *w = &bench->weights;
    bench->experts = calloc(w->num_layers, sizeof(struct moe_experts *));
    bench->layers = calloc(w->num_layers, sizeof(struct moe_layer *));
    if (!bench->experts || !bench->layers)
        return tool_fail(TOOL_INPUT, "out of memory");
    for (size_t i = 0; i < w->num_layers; i++) {
        struct moe_error error = {0};
        enum moe_status status =
            moe_experts_create(bench->session.backend, &w->params[i], &bench->experts[i], &error);
        if (status != MOE_OK)
            return tool_fail_moe(status, &error, "the experts cannot be made ready");
        struct moe_layer_params params;
        MOE_INIT(&params);
        params.flags = MOE_LAYER_ALLOW_COMPOSED;
        params.experts = bench->experts[i];
        params.top_k = w->shape.top_k;
        params.weight_on_input = w->weight_on_input;
        status = moe_layer_create(bench->session.backend, &params, &bench->layers[i], &error);
        if (status != MOE_OK)
            return tool_fail_moe(status, &error, "the layer cannot be made ready");
    }
    return TOOL_OK;
}

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

static enum moe_status time_calls(struct bench *bench, struct arrays *a, struct moe_layer_io *io, struct cell *cell)
{
    enum moe_status status = MOE_OK;
    double start = tool_seconds(), unique = 0;
    size_t i = 0;
    do
        status = call(bench, a, io, i++, cell->num_layers);
    while (status == MOE_OK && tool_seconds() - start < WARM_UP);
    start = tool_seconds();
    while (status == MOE_OK && cell->calls < MOST_CALLS &&
           (cell->calls < LEAST_CALLS || tool_seconds() - start < bench->seconds)) {
        double before = tool_seconds();
        status = call(bench, a, io, i, cell->num_layers);
        a->times[cell->calls++] = tool_seconds() - before;
        unique += a->unique[i++ % NUM_ROUTINGS];
    }
    if (status != MOE_OK)
        return status;
    qsort(a->times, cell->calls, sizeof *a->times, compare);
    size_t n = cell->calls;
    cell->least = a->times[0];
    cell->median = n % 2 ? a->times[n / 2] : (a->times[n / 2 - 1] + a->times[n / 2]) / 2;
    cell->unique_bytes = unique / (double)n * (double)bench->weights.expert_bytes;
    return MOE_OK;
}

static int measure_error(struct bench *bench, struct arrays *a, struct moe_layer_io *io, struct cell *cell)
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

static int measure(struct bench *bench, struct cell *cell)
{
    struct arrays a = {0};
    struct bench_weights *w = &bench->weights;
    cell->num_layers = w->num_layers;
    if (cell->tokens > COLD_TOKENS) {
        double warm = floor(WARM_BYTES / (double)w->layer_bytes);
        cell->num_layers = warm < 1 ? 1 : warm < (double)w->num_layers ? (size_t)warm : w->num_layers;
    }
    int code = make_arrays(bench, &a, cell->tokens);
    struct moe_layer_io io;
    MOE_INIT(&io);
    io.num_tokens = cell->tokens;
    io.x = a.x;
    io.out = a.out;
    io.weights = a.weights;
    io.ids = a.ids[0];
    size_t bytes = 0;
    enum moe_status status = MOE_OK;
    if (code == TOOL_OK) {
        status = moe_layer_workspace_size(bench->session.ctx, bench->layers[0], &io, &bytes);
        if (status == MOE_OK)
            status = moe_mem_alloc(bench->session.backend, bytes ? bytes : 1, &a.workspace);
        io.workspace = a.workspace;
        double before = bench_read(w, cell->num_layers, bench->threads);
        if (status == MOE_OK)
            status = time_calls(bench, &a, &io, cell);
        cell->read = (before + bench_read(w, cell->num_layers, bench->threads)) / 2;
        if (status != MOE_OK)
            code = tool_fail_moe(status, NULL, "the layer did not run");
    }
    if (code == TOOL_OK && bench->error)
        code = measure_error(bench, &a, &io, cell);
    free_arrays(bench, &a);
    return code;
}

/* ---- reporting ---- */

static double cell_flops(const struct bench *bench, const struct cell *cell)
{
    const struct bench_shape *s = &bench->weights.shape;
    return 6.0 * (double)s->hidden_size * (double)s->intermediate_size * (double)s->top_k * (double)cell->tokens;
}

static void print_cell(struct bench *bench, const struct cell *cell)
{
    const struct bench_weights *w = &bench->weights;
    const struct bench_shape *s = &w->shape;
    double rate = cell->unique_bytes / cell->median;
    double flops = cell_flops(bench, cell);
    double ratio = cell->read > 0 ? rate / cell->read : 0;
    if (bench->json) {
        char shape[96];
        snprintf(shape, sizeof shape, "%zu,%zu,%zu,%zu", s->hidden_size, s->intermediate_size, s->num_experts,
                 s->top_k);
        json_t *line = json_pack(
            "{s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o}", "library", "libmoe",
            "shape", shape, "type", describe_format(w->format), "down", describe_format(w->down), "tokens",
            (json_int_t)cell->tokens, "threads", (json_int_t)bench->threads, "backend", bench->backend, "level",
            bench->session.level, "median_ms", json_value_number(1e3 * cell->median), "min_ms",
            json_value_number(1e3 * cell->least), "calls", (json_int_t)cell->calls, "unique_expert_bytes",
            (json_int_t)cell->unique_bytes, "GB_s", json_value_number(rate / 1e9), "read_GB_s",
            json_value_number(cell->read / 1e9), "ratio_to_read", json_value_number(ratio), "GFLOP_s",
            json_value_number(flops / cell->median / 1e9));
        json_object_set_new(line, "rel_error", json_value_number(bench->error ? cell->error : NAN));
        json_dumpf(line, stdout, JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(line);
    } else {
        if (!bench->headed)
            printf("shape %zu,%zu,%zu,%zu, backend %s, level %s, %zu threads\n"
                   "format  down    tokens   median ms      min ms     GB/s  read GB/s  ratio   GFLOP/s%s\n",
                   s->hidden_size, s->intermediate_size, s->num_experts, s->top_k, bench->backend,
                   *bench->session.level ? bench->session.level : "-", bench->threads,
                   bench->error ? "      error" : "");
        printf("%-7s %-7s %6zu %11.4f %11.4f %8.2f %10.2f %6.2f %9.2f", describe_format(w->format),
               describe_format(w->down), cell->tokens, 1e3 * cell->median, 1e3 * cell->least, rate / 1e9,
               cell->read / 1e9, ratio, flops / cell->median / 1e9);
        if (bench->error)
            printf("   %.2e", cell->error);
        putchar('\n');
    }
    bench->headed = true;
    fflush(stdout);
}

static void keep_for_plot(struct bench *bench, const struct cell *cell, size_t series)
{
    const struct bench_weights *w = &bench->weights;
    double flops = cell_flops(bench, cell);
    bench->shape = w->shape;    /* a MODEL's outlives its weights */
    bench->plot_cells[bench->num_plot_cells++] = (struct plot_cell){
        .series = series,
        .format = describe_format(w->format),
        .down = describe_format(w->down),
        .tokens = cell->tokens,
        .intensity = flops / cell->unique_bytes,
        .rate = flops / cell->median / 1e9,
        .read = cell->read / 1e9,
    };
}

static bool draw_plot(struct bench *bench, struct outfile *out)
{
    const struct bench_shape *s = &bench->shape;
    char title[160], subtitle[240];
    snprintf(title, sizeof title, "moe bench: hidden %zu, intermediate %zu, %zu experts, top-k %zu", s->hidden_size,
             s->intermediate_size, s->num_experts, s->top_k);
    snprintf(subtitle, sizeof subtitle, "backend %s, level %s, %zu thread%s", bench->backend,
             *bench->session.level ? bench->session.level : "-", bench->threads, bench->threads == 1 ? "" : "s");
    struct plot plot = {title, subtitle, bench->plot_cells, bench->num_plot_cells};
    return plot_svg_write(out, &plot) && outfile_commit(out);
}

static int run_cells(struct bench *bench, size_t series)
{
    int code = create_layers(bench);
    for (size_t i = 0; code == TOOL_OK && i < bench->num_tokens; i++) {
        struct cell cell = {.tokens = bench->tokens[i], .error = NAN};
        code = measure(bench, &cell);
        if (code == TOOL_OK)
            print_cell(bench, &cell);
        if (code == TOOL_OK && bench->plot)
            keep_for_plot(bench, &cell, series);
    }
    destroy_layers(bench);
    bench_weights_free(&bench->weights);
    return code;
}

/* out: where the plot goes, or NULL. */
static int run(struct bench *bench, const char *model, struct outfile *out)
{
    int code = session_open(&bench->session, bench->backend, bench->threads, model, bench->describe);
    if (code == TOOL_OK && model) {
        code = bench_weights_of_model(&bench->weights, &bench->session);
        if (code == TOOL_OK)
            code = run_cells(bench, 0);
    }
    for (size_t i = 0; code == TOOL_OK && !model && i < bench->num_formats; i++) {
        enum moe_format down = bench->down ? bench->down->format : bench->formats[i];
        code = bench_weights_make(&bench->weights, &bench->shape, bench->formats[i], down, (uint64_t)bench->cold_bytes);
        if (code == TOOL_OK)
            code = run_cells(bench, i);
    }
    if (code == TOOL_OK && out && !draw_plot(bench, out))
        code = TOOL_INPUT;
    bench_weights_free(&bench->weights);
    session_close(&bench->session);
    return code;
}

/* The file is opened before anything is timed, so that a path that cannot be written costs no time. */
static int run_and_plot(struct bench *bench, const char *model)
{
    struct outfile out;
    if (!outfile_open(&out, bench->plot))
        return TOOL_INPUT;
    bench->plot_cells = tool_alloc((size_t)MOST_CELLS * MOST_CELLS, sizeof *bench->plot_cells);
    int code = bench->plot_cells ? run(bench, model, &out) : TOOL_INPUT;
    outfile_discard(&out);
    free(bench->plot_cells);
    return code;
}

/* ---- options ---- */

static const struct moe_format_info *weight_format(const char *name)
{
    for (size_t i = 0; moe_format_at(i); i++)
        if (moe_format_at(i) == moe_format_find(name))
            return moe_format_at(i);
    tool_fail(TOOL_USAGE, "moe bench: there is no weight format '%s'; `moe info` lists them", name);
    return NULL;
}

static bool parse_formats(struct bench *bench, const char *text)
{
    for (bool more = true; more;) {
        char name[32];
        size_t length = strcspn(text, ",");
        snprintf(name, sizeof name, "%.*s", (int)(length < 31 ? length : 31), text);
        const struct moe_format_info *info = weight_format(name);
        if (!info)
            return false;
        if (bench->num_formats == MOST_CELLS) {
            tool_fail(TOOL_USAGE, "moe bench: more than %d formats", MOST_CELLS);
            return false;
        }
        bench->formats[bench->num_formats++] = info->format;
        more = text[length] == ',';
        text += length + more;
    }
    return true;
}

static int check_options(struct bench *bench, const char *model, const char *shape, const char *format,
                         const char *down, const char *tokens)
{
    size_t sizes[5];
    if (!model == !shape)
        return tool_fail(TOOL_USAGE, "moe bench takes either a MODEL or --shape H,I,E,K");
    if (model && (format || down))
        return tool_fail(TOOL_USAGE, "moe bench: --format and --down go with --shape; a MODEL has its formats");
    if (!model && bench->describe)
        return tool_fail(TOOL_USAGE, "moe bench: --describe goes with a MODEL");
    if (shape && options_sizes(shape, sizes, 5) != 4)
        return tool_fail(TOOL_USAGE,
                         "moe bench: --shape takes four numbers, hidden,intermediate,experts,top-k; not '%s'", shape);
    if (shape && sizes[2] > MOE_MAX_EXPERTS)
        return tool_fail(TOOL_USAGE, "moe bench: --shape: %zu experts are more than %d", sizes[2], MOE_MAX_EXPERTS);
    if (shape && sizes[3] > sizes[2])
        return tool_fail(TOOL_USAGE, "moe bench: --shape: top-k %zu is more than %zu experts", sizes[3], sizes[2]);
    if (shape && !format)
        return tool_fail(TOOL_USAGE, "moe bench --shape needs --format");
    if (shape)
        bench->shape = (struct bench_shape){sizes[0], sizes[1], sizes[2], sizes[3]};
    if (format && !parse_formats(bench, format))
        return TOOL_USAGE;
    if (down && !(bench->down = weight_format(down)))
        return TOOL_USAGE;
    bench->num_tokens = options_sizes(tokens, bench->tokens, MOST_CELLS);
    if (!bench->num_tokens)
        return tool_fail(TOOL_USAGE, "moe bench: --tokens takes numbers such as 1,8,64; not '%s'", tokens);
    for (size_t i = 0; i < bench->num_tokens; i++)
        if (bench->tokens[i] > 1048576)
            return tool_fail(TOOL_USAGE, "moe bench: --tokens: %zu is more than 1048576", bench->tokens[i]);
    if (bench->plot && (guard_other_kind(bench->plot, ".svg") || (model && guard_of_model(model, bench->plot))))
        return tool_fail(TOOL_USAGE, "moe bench: --plot: %s is no .svg or is a file of the model; choose another name",
                         bench->plot);
    if (bench->cold_bytes > 1e15 || bench->threads > 65536)
        return tool_fail(TOOL_USAGE, "moe bench: --cold-bytes or --threads is out of all proportion");
    return TOOL_OK;
}

int cmd_bench(int argc, char **argv)
{
    struct bench bench = {.backend = "cpu", .cold_bytes = 512e6, .seconds = 1};
    const char *shape = NULL, *format = NULL, *down = NULL, *tokens = "1,8,64,512", *model;
    const struct option_row rows[] = {
        {"shape", OPTION_STRING, &shape, "H,I,E,K", "hidden, intermediate, experts, top-k of random weights"},
        {"format", OPTION_STRING, &format, "F[,F]", "formats of gate, up and down, one after the other"},
        {"down", OPTION_STRING, &down, "F", "another format for down"},
        {"tokens", OPTION_STRING, &tokens, "T[,T]", "tokens of a call; default 1,8,64,512"},
        {"threads", OPTION_SIZE, &bench.threads, "N", "default: all CPUs of the machine"},
        {"backend", OPTION_STRING, &bench.backend, "B", "cpu (default), or cpu:LEVEL; `moe info` lists them"},
        {"describe", OPTION_STRING, &bench.describe, "FILE", "what MODEL is (docs/describe.md), not its metadata"},
        {"error", OPTION_FLAG, &bench.error, NULL, "also the error against double precision"},
        {"seconds", OPTION_NUMBER, &bench.seconds, "S", "how long a cell is timed at least; default 1"},
        {"cold-bytes", OPTION_NUMBER, &bench.cold_bytes, "N", "bytes that calls rotate over; default 512e6"},
        {"json", OPTION_FLAG, &bench.json, NULL, "print a JSON object for each cell, one a line"},
        {"plot", OPTION_STRING, &bench.plot, "FILE", "also draw the cells, as an SVG, when all are done"},
        {NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct option_page page = {"moe bench", "[MODEL]", 0, 1, about, rows, examples};
    enum option_result parsed = options_parse(&page, argc, argv, &model);
    if (parsed != OPTIONS_OK)
        return parsed == OPTIONS_HELP ? TOOL_OK : TOOL_USAGE;
    int code = check_options(&bench, model, shape, format, down, tokens);
    if (code != TOOL_OK)
        return code;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (!bench.threads)
        bench.threads = cpus > 0 ? (size_t)cpus : 1;
    return bench.plot ? run_and_plot(&bench, model) : run(&bench, model, NULL);
}
