// SPDX-License-Identifier: MIT
// moe bench: time of one layer's experts, cell by cell, beside what the machine could do at best, measured in the same
// run.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "describe.h"
#include "guard.h"
#include "options.h"

static const char about[] =
    "Times the routed experts of one layer: input, expert ids (uniform, fresh for each call) and weights are given;\n"
    "no routing, no shared expert. Weights are random, of --shape hidden,intermediate,experts,top-k, or a MODEL's.\n"
    "Up to 32 tokens calls rotate over as many layers as hold --cold-bytes, so that weights come from memory, not\n"
    "from caches. A cell is warmed up for 0.1 s, then called at least 7 times and --seconds long.\n"
    "  spread    distance of the quartiles over the median of the times\n"
    "  GB/s      bytes of the experts in use, each counted once, over the median time\n"
    "  read      linear read of the same buffers with as many threads, the median of 6 passes before and after\n"
    "  GFLOP/s   6 x hidden x intermediate x top-k x tokens over the time\n"
    "  ideal ms  the longer of: those bytes at the read bandwidth; the operations at this machine's peak of the kind\n"
    "            that the layer's kernels use: f32 (always with --exact), bf16 or int8, in vector registers; f32\n"
    "            where that is higher. bound says which of them it is, ratio is the ideal over the median time\n"
    "  AMX       where the level is amx: the same ratio with the peaks of tiles; the ratio may then be above 100 %\n"
    "  error     ||out - exact|| / ||exact|| against double precision on the same weights, for up to 16 tokens\n"
    "  !         other processes took over 4 % of the CPUs, the host over 3 %, the read bandwidth varied by over 1.4,\n"
    "            or arithmetic ran below 85 % of the best of the run; such a cell is measured again, --retries times,\n"
    "            and the quietest counts\n"
    "Peaks are those of the instructions of --backend's level, and the best that the run has seen.\n"
    "--plot draws the cells: GFLOP/s over FLOP per byte of the experts in use, on logarithmic axes, with a line for\n"
    "each format, under the roofs of the read bandwidth (its median over the cells) and of the peaks.";

static const char examples[] =
    "  moe bench --shape 2048,768,128,8 --format q8_0,bf16 --tokens 1,8,64\n"
    "  moe bench --shape 2048,768,128,8 --format q4_k --down q6_k --tokens 1 --threads 1 --error\n"
    "  moe bench --shape 2048,768,128,8 --type q4_K,mxfp4 --tokens 1,32,512 --seconds 2 --json >>results.jsonl\n"
    "  moe bench models/bard --tokens 1,96 --json       one JSON object a line and cell\n"
    "  moe bench --shape 2048,768,128,8 --format bf16,q8_0,q4_k --plot bench.svg";

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
        params.flags = MOE_LAYER_ALLOW_COMPOSED | (bench->exact ? (uint32_t)MOE_LAYER_EXACT : 0);
        params.experts = bench->experts[i];
        params.top_k = w->shape.top_k;
        params.weight_on_input = w->weight_on_input;
        status = moe_layer_create(bench->session.backend, &params, &bench->layers[i], &error);
        if (status != MOE_OK)
            return tool_fail_moe(status, &error, "the layer cannot be made ready");
    }
    return TOOL_OK;
}

/* ---- the run ---- */

static int run_cells(struct bench *bench, size_t series)
{
    int code = create_layers(bench);
    if (code == TOOL_OK)
        code = bench_limits_choose(bench);
    for (size_t i = 0; code == TOOL_OK && i < bench->num_tokens; i++) {
        struct bench_cell cell;
        code = bench_cell_measure(bench, &cell, bench->tokens[i]);
        if (code == TOOL_OK)
            bench_report_cell(bench, &cell);
        if (code == TOOL_OK && bench->plot)
            bench_report_keep(bench, &cell, series);
    }
    progress_hide(&bench->progress);
    destroy_layers(bench);
    bench_weights_free(&bench->weights);
    return code;
}

/* Bytes of weights to make: no more than calls rotate over. */
static uint64_t rotation(const struct bench *bench)
{
    for (size_t i = 0; i < bench->num_tokens; i++)
        if (bench->tokens[i] <= BENCH_COLD_TOKENS)
            return (uint64_t)bench->cold_bytes;
    return (uint64_t)(bench->cold_bytes < BENCH_WARM_BYTES ? bench->cold_bytes : BENCH_WARM_BYTES);
}

/* out: where the plot goes, or NULL. */
static int run(struct bench *bench, const char *model, struct outfile *out)
{
    int code = session_open(&bench->session, bench->backend, bench->threads, model, bench->describe);
    if (code == TOOL_OK)
        bench_limits_measure(bench);
    progress_begin(&bench->progress, "cells", (model ? 1 : bench->num_formats) * bench->num_tokens * BENCH_PROGRESS);
    if (code == TOOL_OK && model) {
        code = bench_weights_of_model(&bench->weights, &bench->session);
        snprintf(bench->name, sizeof bench->name, "%s", describe_format(bench->weights.format));
        if (code == TOOL_OK)
            code = run_cells(bench, 0);
    }
    for (size_t i = 0; code == TOOL_OK && !model && i < bench->num_formats; i++) {
        const struct bench_formats *formats = &bench->formats[i];
        snprintf(bench->name, sizeof bench->name, "%s", formats->name);
        code = bench_weights_make(&bench->weights, &bench->shape, formats->format, formats->down, rotation(bench));
        if (code == TOOL_OK)
            code = run_cells(bench, i);
    }
    progress_end(&bench->progress);
    if (code == TOOL_OK && out && !bench_report_plot(bench, out))
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
    bench->plot_cells = tool_alloc((size_t)BENCH_MOST_CELLS * BENCH_MOST_CELLS, sizeof *bench->plot_cells);
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

/* The formats that text lists. typed: names as other programs give them, where q4_K has a down of q6_K, as files of
 * the kind Q4_K_M have. down: for all of them, or NULL. */
static bool parse_formats(struct bench *bench, const char *text, bool typed, const struct moe_format_info *down)
{
    for (bool more = true; more;) {
        if (bench->num_formats == BENCH_MOST_CELLS) {
            tool_fail(TOOL_USAGE, "moe bench: more than %d formats", BENCH_MOST_CELLS);
            return false;
        }
        struct bench_formats *formats = &bench->formats[bench->num_formats++];
        size_t length = strcspn(text, ",");
        snprintf(formats->name, sizeof formats->name, "%.*s", (int)(length < 31 ? length : 31), text);
        const struct moe_format_info *info = weight_format(formats->name);
        if (!info)
            return false;
        formats->format = info->format;
        formats->down = down ? down->format : typed && info->format == MOE_FORMAT_Q4_K ? MOE_FORMAT_Q6_K : info->format;
        if (!typed)
            snprintf(formats->name, sizeof formats->name, "%s", info->name);
        more = text[length] == ',';
        text += length + more;
    }
    return true;
}

/* What the command line says of the weights, as text. */
struct words {
    const char *model, *shape, *format, *type, *down, *tokens;
};

static int check_weights(struct bench *bench, const struct words *words)
{
    const char *model = words->model, *shape = words->shape, *format = words->format ? words->format : words->type;
    size_t sizes[5];
    if (!model == !shape)
        return tool_fail(TOOL_USAGE, "moe bench takes either a MODEL or --shape H,I,E,K");
    if (model && (format || words->down))
        return tool_fail(TOOL_USAGE, "moe bench: --format and --down go with --shape; a MODEL has its formats");
    if (words->format && words->type)
        return tool_fail(TOOL_USAGE, "moe bench: --type is --format by other names; give one of them");
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
    const struct moe_format_info *down = words->down ? weight_format(words->down) : NULL;
    if ((words->down && !down) || (format && !parse_formats(bench, format, words->type != NULL, down)))
        return TOOL_USAGE;
    return TOOL_OK;
}

static int check_options(struct bench *bench, const struct words *words)
{
    const char *model = words->model;
    int code = check_weights(bench, words);
    if (code != TOOL_OK)
        return code;
    bench->num_tokens = options_sizes(words->tokens, bench->tokens, BENCH_MOST_CELLS);
    if (!bench->num_tokens)
        return tool_fail(TOOL_USAGE, "moe bench: --tokens takes numbers such as 1,8,64; not '%s'", words->tokens);
    for (size_t i = 0; i < bench->num_tokens; i++)
        if (bench->tokens[i] > 1048576)
            return tool_fail(TOOL_USAGE, "moe bench: --tokens: %zu is more than 1048576", bench->tokens[i]);
    if (bench->plot && (guard_other_kind(bench->plot, ".svg") || (model && guard_of_model(model, bench->plot))))
        return tool_fail(TOOL_USAGE, "moe bench: --plot: %s is no .svg or is a file of the model; choose another name",
                         bench->plot);
    if (bench->cold_bytes > 1e15 || bench->threads > 65536 || bench->retries > 1000)
        return tool_fail(TOOL_USAGE, "moe bench: --cold-bytes, --threads or --retries is out of all proportion");
    return TOOL_OK;
}

int cmd_bench(int argc, char **argv)
{
    struct bench bench = {.backend = "cpu", .cold_bytes = 2e9, .seconds = 1, .retries = 2};
    struct words words = {.tokens = "1,8,64,512"};
    const struct option_row rows[] = {
        {"shape", OPTION_STRING, &words.shape, "H,I,E,K", "hidden, intermediate, experts, top-k of random weights"},
        {"format", OPTION_STRING, &words.format, "F[,F]", "formats of gate, up and down, one after the other"},
        {"type", OPTION_STRING, &words.type, "T[,T]", "the same by ggml's names: q4_K has down q6_K, as in Q4_K_M"},
        {"down", OPTION_STRING, &words.down, "F", "another format for down"},
        {"tokens", OPTION_STRING, &words.tokens, "T[,T]", "tokens of a call; default 1,8,64,512"},
        {"threads", OPTION_SIZE, &bench.threads, "N", "default: all CPUs of the machine"},
        {"backend", OPTION_STRING, &bench.backend, "B", "cpu (default), cpu:LEVEL, cuda:N; `moe info` lists them"},
        {"describe", OPTION_STRING, &bench.describe, "FILE", "what MODEL is (docs/describe.md), not its metadata"},
        {"exact", OPTION_FLAG, &bench.exact, NULL, "a layer that keeps activations in f32"},
        {"error", OPTION_FLAG, &bench.error, NULL, "also the error against double precision"},
        {"seconds", OPTION_NUMBER, &bench.seconds, "S", "how long a cell is timed at least; default 1"},
        {"retries", OPTION_SIZE, &bench.retries, "N", "measure a disturbed cell up to N times more; default 2"},
        {"cold-bytes", OPTION_NUMBER, &bench.cold_bytes, "N", "bytes that calls rotate over; default 2e9"},
        {"json", OPTION_FLAG, &bench.json, NULL, "print a JSON object for each cell, one a line"},
        {"plot", OPTION_STRING, &bench.plot, "FILE", "also draw the cells, as an SVG, when all are done"},
        {NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct option_page page = {"moe bench", "[MODEL]", 0, 1, about, rows, examples};
    enum option_result parsed = options_parse(&page, argc, argv, &words.model);
    if (parsed != OPTIONS_OK)
        return parsed == OPTIONS_HELP ? TOOL_OK : TOOL_USAGE;
    int code = check_options(&bench, &words);
    if (code != TOOL_OK)
        return code;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (!bench.threads)
        bench.threads = cpus > 0 ? (size_t)cpus : 1;
    return bench.plot ? run_and_plot(&bench, words.model) : run(&bench, words.model, NULL);
}
