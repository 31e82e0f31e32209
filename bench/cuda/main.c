// SPDX-License-Identifier: MIT
// moe-bench-cuda: times a layer on a GPU over shapes, types of weights and numbers of tokens, and says how far each is
// from what memory and arithmetic allow, and from the best other implementation.
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static const char usage[] =
    "usage: moe-bench-cuda [--cells PATTERN,...] [--time-limit S] [--json FILE] [--plot FOLDER] ...\n"
    "\n"
    "Times one call of moe_layer_forward in a replayed CUDA graph. The graph has several layers with weights and\n"
    "random routing of their own, so that nothing a layer reads is still in L2; times are medians by events, of a\n"
    "layer.\n"
    "\n"
    "  median us   the layer's time; floor: its ratio to max(bytes of the experts in use / 4.3 TB/s, operations / 790\n"
    "              TFLOP/s, 1580 for fp8), which no layer gets far below; nodes: of the graph, a layer\n"
    "  best other  the ratio to the fastest other implementation measured on an H200, its time, and whose it is\n"
    "\n"
    "  --cells LIST      cells as SHAPE/TYPE/TOKENS or SHAPE/TYPE+VARIANT/TOKENS, with * and ?: 'qwen3-30b/*/1',\n"
    "                    'olmoe/q4_k*/8'; a type may be any format's name. All: most important first\n"
    "  --shape NAME=H,I,E,K   one more shape: hidden, intermediate, experts, top-k\n"
    "  --time-limit S    begin no cell after so many seconds (240)\n"
    "  --memory GB       for weights (100, and no more than 80 % of what is free)\n"
    "  --json FILE       a line of JSON for each cell, appended\n"
    "  --plot FOLDER     rooflines, one SVG for each shape\n"
    "  --no-calibration  leave copy, read and product rates out\n"
    "  --backend NAME    cuda:0\n"
    "  --list            the cells in their order\n"
    "\n"
    "Shapes: qwen3-30b gptoss-120b mixtral olmoe dsv3. Types: bf16 fp8 int4 mxfp4 q4_k (down q6_k) q4_k-pure q8_0 f16\n"
    "fp8-channel q4_0 q5_k q6_k iq4_xs mxfp4-blocks q8_0-planes q4_0-planes. mxfp4 is planes of codes and scales, as\n"
    "it is uploaded, mxfp4-blocks GGUF's blocks in place; q8_0 the other way round. Variants: logits (top-k inside),\n"
    "router, shared, router+shared.\n";

/* Cells in the order of their importance: a cut-off leaves the first. */
struct group {
    const char *shapes, *types;
    size_t tokens[4];
    bool variants;
};
static const struct group groups[] = {
    {"qwen3-30b", "bf16 fp8 q8_0 int4 mxfp4 q4_k q4_k-pure", {1, 8, 64}, false},
    {"gptoss-120b", "bf16 fp8 int4 mxfp4 q8_0-planes q8_0", {1, 8, 64}, false},
    {"mixtral olmoe dsv3", "bf16 fp8 int4 mxfp4 q8_0 q4_k", {1, 8, 64}, false},
    {"qwen3-30b dsv3", "bf16 fp8 q4_k", {1, 8}, true},
    {"qwen3-30b gptoss-120b mixtral olmoe dsv3", "bf16 fp8 mxfp4 int4 q4_k", {512, 4096}, false},
    {"qwen3-30b", "f16 fp8-channel mxfp4-blocks q8_0-planes q4_0 q4_0-planes q5_k q6_k iq4_xs", {1, 8, 64}, false},
    {"qwen3-30b gptoss-120b mixtral olmoe dsv3", "bf16 fp8 mxfp4 int4 q4_k", {16384}, false},
};
enum { NUM_GROUPS = sizeof groups / sizeof groups[0], MOST_CELLS = 1024 };

struct options {
    const char *cells, *plot, *backend;
    double limit, memory;
    bool list, no_calibration;
    struct shape shape;
    char shape_name[64];
};

/* Cells of one make of layers. */
struct run {
    struct bench bench;
    const struct options *options;
    struct cell *cells;
    size_t num_cells;
    double begin;
    bool late;
};

/* ---- what to measure ---- */

static void name_of(char out[160], const struct shape *shape, const struct type *type, enum variant variant,
                    size_t tokens)
{
    snprintf(out, 160, "%s/%s%s%s/%zu", shape->name, type->name, variant == PLAIN ? "" : "+", variant_name(variant),
             tokens);
}

static bool is_chosen(const struct options *options, const struct shape *shape, const struct type *type,
                      enum variant variant, size_t tokens)
{
    char name[160], pattern[160];
    name_of(name, shape, type, variant, tokens);
    for (const char *at = options->cells; at != NULL; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        snprintf(pattern, sizeof pattern, "%.*s", (int)strcspn(at, ","), at);
        if (fnmatch(pattern, name, 0) == 0)
            return true;
    }
    return options->cells == NULL;
}

/* The next of words separated by spaces. */
static bool next_word(const char **at, char word[64])
{
    *at += strspn(*at, " ");
    size_t length = strcspn(*at, " ");
    snprintf(word, 64, "%.*s", (int)length, *at);
    *at += length;
    return length > 0;
}

static const struct shape *find_shape(const struct options *options, const char *name)
{
    const struct shape *shape;
    for (size_t i = 0; (shape = shape_at(i)) != NULL; i++)
        if (strcmp(shape->name, name) == 0)
            return shape;
    return options->shape.name != NULL && strcmp(options->shape.name, name) == 0 ? &options->shape : NULL;
}

/* ---- one make of layers, and its cells ---- */

static bool wants_any(const struct run *run, const struct shape *shape, const struct type *type, enum variant variant,
                      const size_t tokens[4])
{
    for (size_t i = 0; i < 4 && tokens[i] > 0; i++)
        if (is_chosen(run->options, shape, type, variant, tokens[i]))
            return true;
    return false;
}

static void keep(struct run *run, const struct cell *cell)
{
    report_cell(&run->bench, cell);
    if (run->num_cells < MOST_CELLS)
        run->cells[run->num_cells++] = *cell;
}

static void measure(struct run *run, const struct shape *shape, const struct type *type, enum variant variant,
                    const size_t tokens[4])
{
    struct layers layers;
    if (!type_fits(type, shape) || !wants_any(run, shape, type, variant, tokens))
        return;
    for (size_t i = 0; run->options->list && i < 4 && tokens[i] > 0; i++) {
        char name[160];
        name_of(name, shape, type, variant, tokens[i]);
        if (is_chosen(run->options, shape, type, variant, tokens[i]))
            puts(name);
    }
    run->late = run->late || seconds() - run->begin > run->options->limit;
    if (run->options->list || run->late)
        return;
    const char *failure = layers_make(&run->bench, &layers, shape, type, variant);
    for (size_t i = 0; i < 4 && tokens[i] > 0; i++) {
        struct cell cell = {.shape = shape, .type = type, .variant = variant, .tokens = tokens[i], .failure = failure};
        run->late = run->late || seconds() - run->begin > run->options->limit;
        if (run->late || !is_chosen(run->options, shape, type, variant, tokens[i]))
            continue;
        if (failure == NULL)
            cell_measure(&run->bench, &layers, &cell, tokens[i]);
        keep(run, &cell);
    }
    layers_free(&run->bench, &layers);
}

static void measure_group(struct run *run, const struct group *group)
{
    char shape_name[64], type_name[64];
    for (const char *s = group->shapes; next_word(&s, shape_name);)
        for (const char *t = group->types; next_word(&t, type_name);)
            for (int variant = group->variants; variant < (group->variants ? NUM_VARIANTS : 1); variant++)
                measure(run, find_shape(run->options, shape_name), type_find(type_name), (enum variant)variant,
                        group->tokens);
}

/* Patterns that name a shape, a type and tokens outright are measured even if no group has them. */
static void measure_named(struct run *run)
{
    for (const char *at = run->options->cells; at != NULL; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        char text[160], *type_name, *tokens_name;
        snprintf(text, sizeof text, "%.*s", (int)strcspn(at, ","), at);
        if ((type_name = strchr(text, '/')) == NULL || (tokens_name = strchr(type_name + 1, '/')) == NULL)
            continue;
        *type_name++ = *tokens_name++ = '\0';
        char *plus = strchr(type_name, '+');
        enum variant variant = PLAIN;
        for (int v = LOGITS; plus != NULL && v < NUM_VARIANTS; v++)
            variant = strcmp(plus + 1, variant_name((enum variant)v)) == 0 ? (enum variant)v : variant;
        if (plus != NULL)
            *plus = '\0';
        const struct shape *shape = find_shape(run->options, text);
        const struct type *type = type_find(type_name);
        size_t tokens[4] = {(size_t)strtoull(tokens_name, NULL, 10)};
        bool known = false;
        for (size_t i = 0; i < run->num_cells && shape != NULL && type != NULL; i++)
            known = known || (run->cells[i].shape == shape && run->cells[i].type == type &&
                              run->cells[i].variant == variant && run->cells[i].tokens == tokens[0]);
        if (shape != NULL && type != NULL && tokens[0] > 0 && !known)
            measure(run, shape, type, variant, tokens);
    }
}

/* ---- the run ---- */

static int parse(struct options *options, struct bench *bench, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strcmp(option, "--list") == 0) {
            options->list = true;
            continue;
        }
        if (strcmp(option, "--no-calibration") == 0) {
            options->no_calibration = true;
            continue;
        }
        i++;
        struct shape *s = &options->shape;
        if (strcmp(option, "--cells") == 0 && value != NULL)
            options->cells = value;
        else if (strcmp(option, "--plot") == 0 && value != NULL)
            options->plot = value;
        else if (strcmp(option, "--backend") == 0 && value != NULL)
            options->backend = value;
        else if (strcmp(option, "--time-limit") == 0 && value != NULL && atof(value) > 0)
            options->limit = atof(value);
        else if (strcmp(option, "--memory") == 0 && value != NULL && atof(value) > 0)
            options->memory = atof(value) * 1e9;
        else if (strcmp(option, "--json") == 0 && value != NULL && (bench->json = fopen(value, "a")) != NULL)
            continue;
        else if (strcmp(option, "--shape") == 0 && value != NULL &&
                 sscanf(value, "%63[^=]=%zu,%zu,%zu,%zu", options->shape_name, &s->hidden_size, &s->intermediate_size,
                        &s->num_experts, &s->top_k) == 5)
            s->name = options->shape_name;
        else {
            fputs(usage, stderr);
            return 2;
        }
    }
    return -1;
}

/* A build that has the backend in the program opens it by its table, an expression: for tests without a GPU. */
#ifdef BENCH_BACKEND
#include "moe/backend.h"
const struct moe_backend_ops *check_double(void);
#endif

static enum moe_status open_backend(const char *name, struct moe_backend **out, struct moe_error *error)
{
#ifdef BENCH_BACKEND
    (void)name;
    return moe_backend_open_ops(BENCH_BACKEND, NULL, NULL, out, error);
#else
    return moe_backend_open(name, NULL, out, error);
#endif
}

static bool open_gpu(struct bench *bench, const struct options *options, struct cudaDeviceProp *properties)
{
    struct moe_error error = {0};
    size_t free_bytes = 0, total = 0;
    const char *number = strchr(options->backend, ':');
    int device = number != NULL ? atoi(number + 1) : 0;
    enum moe_status status = open_backend(options->backend, &bench->backend, &error);
    if (status == MOE_OK)
        status = moe_context_create(bench->backend, NULL, &bench->ctx, &error);
    if (status != MOE_OK) {
        fprintf(stderr, "moe-bench-cuda: %s\n", error.text[0] ? error.text : moe_status_text(status));
        return false;
    }
    if (cudaSetDevice(device) != cudaSuccess || cudaGetDeviceProperties(properties, device) != cudaSuccess ||
        cudaMemGetInfo(&free_bytes, &total) != cudaSuccess ||
        cudaStreamCreateWithFlags(&bench->stream, cudaStreamNonBlocking) != cudaSuccess ||
        moe_context_set_stream(bench->ctx, bench->stream) != MOE_OK) {
        fprintf(stderr, "moe-bench-cuda: %s: no stream can be made\n", options->backend);
        return false;
    }
    bench->device = properties->name;
    bench->multiprocessors = properties->multiProcessorCount;
    bench->memory = (size_t)(0.8 * (double)free_bytes);
    if ((double)bench->memory > options->memory)
        bench->memory = (size_t)options->memory;
    return true;
}

static void close_gpu(struct bench *bench)
{
    moe_context_destroy(bench->ctx);
    moe_backend_close(bench->backend);
    if (bench->stream != NULL)
        cudaStreamDestroy(bench->stream);
    if (bench->json != NULL)
        fclose(bench->json);
}

int main(int argc, char **argv)
{
    struct options options = {.limit = 240, .memory = 100e9, .backend = "cuda:0"};
    struct run run = {.options = &options, .begin = seconds()};
    struct cudaDeviceProp properties;
    int code = parse(&options, &run.bench, argc, argv);
    if (code >= 0)
        return code;
    run.cells = calloc(MOST_CELLS, sizeof *run.cells);
    if (run.cells == NULL || (!options.list && !open_gpu(&run.bench, &options, &properties)))
        return 3;
    const char *failure = options.list || options.no_calibration ? NULL : bench_calibrate(&run.bench);
    if (failure != NULL)
        fprintf(stderr, "moe-bench-cuda: %s\n", failure);
    if (!options.list)
        report_calibration(&run.bench);
    for (size_t i = 0; i < NUM_GROUPS; i++)
        measure_group(&run, &groups[i]);
    measure_named(&run);
    size_t failed = 0;
    for (size_t i = 0; i < run.num_cells; i++)
        failed += run.cells[i].failure != NULL || !run.cells[i].finite;
    if (options.plot != NULL && run.num_cells > 0 &&
        !report_plot(&run.bench, run.cells, run.num_cells, options.plot))
        failed++;
    if (!options.list)
        printf("%zu cells in %.0f s%s, %zu failed\n", run.num_cells, seconds() - run.begin,
               run.late ? ", the rest left out for the time limit" : "", failed);
    close_gpu(&run.bench);
    free(run.cells);
    return failed > 0;
}
