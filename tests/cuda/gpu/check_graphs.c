// SPDX-License-Identifier: MIT
// Captured once, replayed with other inputs and other routing: each replay has the bits of a call that is not captured.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const struct shape shape = {256, 192, 16, 4};
enum { MOST_TOKENS = 24 };

struct inputs {
    float *x, *weights, *logits;
    int32_t *ids;
};

static void make_inputs(struct inputs *in)
{
    in->x = host_alloc(MOST_TOKENS * shape.hidden_size, sizeof *in->x);
    in->ids = host_alloc(MOST_TOKENS * shape.top_k, sizeof *in->ids);
    in->weights = host_alloc(MOST_TOKENS * shape.top_k, sizeof *in->weights);
    in->logits = host_alloc(MOST_TOKENS * shape.num_experts, sizeof *in->logits);
}

static void free_inputs(struct inputs *in)
{
    free(in->x);
    free(in->ids);
    free(in->weights);
    free(in->logits);
}

/* Kinds of routing in turn: random; all tokens to one expert; some ids out of range; each token another; none. */
static void change_inputs(struct inputs *in, struct rng *rng, size_t round)
{
    size_t num_pairs = MOST_TOKENS * shape.top_k;
    rng_values(rng, in->x, MOST_TOKENS * shape.hidden_size, 1, MOE_FORMAT_BF16);
    rng_values(rng, in->logits, MOST_TOKENS * shape.num_experts, 2, MOE_FORMAT_F32);
    rng_routing(rng, in->ids, in->weights, MOST_TOKENS, shape.num_experts, shape.top_k);
    int32_t one = (int32_t)rng_below(rng, shape.num_experts);
    for (size_t i = 0; i < num_pairs; i++) {
        if (round % 5 == 1)
            in->ids[i] = one;
        else if (round % 5 == 2 && rng_below(rng, 3) == 0)
            in->ids[i] = (int32_t)rng_next(rng);
        else if (round % 5 == 3)
            in->ids[i] = (int32_t)(i % shape.num_experts);
        else if (round % 50 == 4)
            in->ids[i] = -1;
    }
    for (size_t i = 0; round % 5 == 1 && i < MOST_TOKENS; i++)
        in->logits[i * shape.num_experts + (size_t)one] += 100;
}

static void set(struct gpu *gpu, struct call *call, size_t num_tokens, const struct inputs *in)
{
    bool logits = call->logits.base != NULL;
    call_set(gpu, call, num_tokens, in->x, logits ? NULL : in->ids, logits ? NULL : in->weights,
             logits ? in->logits : NULL);
}

static void capture(struct gpu *gpu, struct call *calls, size_t count, struct gpu_graph *graph)
{
    gpu_capture_begin(gpu);
    for (size_t i = 0; i < count; i++)
        call_forward(gpu, &calls[i]);
    gpu_capture_end(gpu, graph);
}

/* ---- one layer ---- */

struct part {
    const char *name;
    size_t num_tokens;
    bool routes;
    enum moe_format format;
    bool quick;
};

static void check_replays(struct gpu *gpu, const void *arg)
{
    const struct part *part = arg;
    const char *name = part->name;
    size_t num_tokens = part->num_tokens;
    bool routes = part->routes;
    enum moe_format format = part->format;
    size_t rounds = gpu->quick ? 20 : 1000, unlike = 0, stale = 0;
    struct rng rng = {43 + num_tokens};
    struct moe_routing routing;
    struct subject subject;
    struct call eager, captured;
    struct inputs in;
    struct gpu_graph graph = {0};
    MOE_INIT(&routing);
    routing.renorm = MOE_RENORM_ADD_EPS;
    struct subject_spec spec = {.shape = shape, .in = scheme_find(name), .down = scheme_find(name),
                                .routing = routes ? &routing : NULL};
    if (!scheme_fits(spec.down, shape.intermediate_size))
        spec.down = scheme_find("q8_0");
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &eager, &subject, MOST_TOKENS, format, format, routes ? FROM_LOGITS : FROM_IDS);
    call_init(gpu, &captured, &subject, MOST_TOKENS, format, format, routes ? FROM_LOGITS : FROM_IDS);
    make_inputs(&in);
    change_inputs(&in, &rng, 0);
    set(gpu, &eager, num_tokens, &in);
    set(gpu, &captured, num_tokens, &in);
    capture(gpu, &captured, 1, &graph);
    size_t bytes = call_out_bytes(&captured);
    unsigned char *expected = host_alloc(bytes, 1), *out = host_alloc(bytes, 1), *last = host_alloc(bytes, 1);
    for (size_t round = 0; round < rounds; round++) {
        change_inputs(&in, &rng, round);
        set(gpu, &eager, num_tokens, &in);
        call_run(gpu, &eager, expected);
        set(gpu, &captured, num_tokens, &in);
        call_poison(gpu, &captured);
        gpu_graph_launch(gpu, &graph);
        call_out(gpu, &captured, out);
        unlike += memcmp(out, expected, bytes) != 0;
        stale += round > 0 && memcmp(out, last, bytes) == 0;
        memcpy(last, out, bytes);
    }
    bool guarded = gpu_guard(gpu, &captured.workspace) && gpu_guard(gpu, &captured.out);
    check_line(gpu, unlike == 0 && stale == 0 && guarded,
               "%s, %zu tokens, %s, x and out %s, %zu nodes: of %zu replays %zu unlike calls, %zu like the last%s",
               name, num_tokens, routes ? "logits given" : "ids given", moe_format_info(format)->name, graph.num_nodes,
               rounds, unlike, stale, guarded ? "" : "; bytes behind a buffer changed");
    gpu_graph_free(&graph);
    free(expected);
    free(out);
    free(last);
    free_inputs(&in);
    call_free(gpu, &captured);
    call_free(gpu, &eager);
    subject_free(gpu, &subject);
}

/* ---- layers in one graph ---- */

/* Three layers, each taking what the last one gave, share one workspace. */
static void check_layers(struct gpu *gpu, const void *arg)
{
    enum { LAYERS = 3, TOKENS = 5 };
    static const char *const names[LAYERS] = {"bf16", "q8_0", "mxfp4"};
    size_t rounds = gpu->quick ? 5 : 200, unlike = 0;
    struct rng rng = {47};
    struct subject subjects[LAYERS];
    struct call calls[LAYERS];
    struct inputs in;
    struct gpu_graph graph = {0};
    (void)arg;
    make_inputs(&in);
    change_inputs(&in, &rng, 0);
    size_t largest = 0;
    for (size_t i = 0; i < LAYERS; i++) {
        struct subject_spec spec = {.shape = shape, .in = scheme_find(names[i]), .down = scheme_find(names[i])};
        subject_init(gpu, &subjects[i], &rng, &spec);
        call_init(gpu, &calls[i], &subjects[i], MOST_TOKENS, MOE_FORMAT_BF16, MOE_FORMAT_BF16, FROM_IDS);
        set(gpu, &calls[i], TOKENS, &in);
        largest = calls[i].workspace.size > calls[largest].workspace.size ? i : largest;
    }
    for (size_t i = 0; i < LAYERS; i++) {
        calls[i].io.workspace = calls[largest].workspace;
        if (i > 0)
            calls[i].io.x = calls[i - 1].io.out;
    }
    capture(gpu, calls, LAYERS, &graph);
    size_t bytes = call_out_bytes(&calls[0]);
    unsigned char *expected = host_alloc(bytes, 1), *out = host_alloc(bytes, 1);
    for (size_t round = 0; round < rounds; round++) {
        for (int replay = 0; replay < 2; replay++) {
            for (size_t i = 0; i < LAYERS; i++)
                call_poison(gpu, &calls[i]);
            if (replay)
                gpu_graph_launch(gpu, &graph);
            for (size_t i = 0; !replay && i < LAYERS; i++)
                call_forward(gpu, &calls[i]);
            call_out(gpu, &calls[LAYERS - 1], replay ? out : expected);
        }
        unlike += memcmp(out, expected, bytes) != 0;
        change_inputs(&in, &rng, round);
        gpu_write(gpu, &calls[0].io.ids, in.ids, TOKENS * shape.top_k * sizeof *in.ids);
    }
    check_line(gpu, unlike == 0, "%d layers in one graph, one workspace, %zu nodes: %zu of %zu replays unlike calls",
               LAYERS, graph.num_nodes, unlike, rounds);
    gpu_graph_free(&graph);
    free(expected);
    free(out);
    free_inputs(&in);
    for (size_t i = 0; i < LAYERS; i++) {
        call_free(gpu, &calls[i]);
        subject_free(gpu, &subjects[i]);
    }
}

/* ---- a graph for each number of tokens ---- */

static void check_sizes(struct gpu *gpu, const void *arg)
{
    size_t sizes = gpu->quick ? 4 : MOST_TOKENS, rounds = gpu->quick ? 8 : 300, unlike = 0;
    struct rng rng = {53};
    struct subject subject;
    struct call eager, captured;
    struct inputs in;
    struct gpu_graph graphs[MOST_TOKENS] = {{0}};
    struct subject_spec spec = {.shape = shape, .in = scheme_find("bf16"), .down = scheme_find("bf16")};
    (void)arg;
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &eager, &subject, MOST_TOKENS, MOE_FORMAT_BF16, MOE_FORMAT_F32, FROM_IDS);
    call_init(gpu, &captured, &subject, MOST_TOKENS, MOE_FORMAT_BF16, MOE_FORMAT_F32, FROM_IDS);
    make_inputs(&in);
    change_inputs(&in, &rng, 0);
    set(gpu, &captured, MOST_TOKENS, &in);
    struct moe_view workspace = captured.io.workspace;
    for (size_t n = 1; n <= sizes; n++) {
        captured.io.num_tokens = n;       /* views and workspace of the largest call */
        captured.io.workspace = workspace;
        capture(gpu, &captured, 1, &graphs[n - 1]);
    }
    size_t row = shape.hidden_size * sizeof(float);
    unsigned char *expected = host_alloc(MOST_TOKENS, row), *out = host_alloc(MOST_TOKENS, row);
    for (size_t round = 0; round < rounds; round++) {
        size_t n = 1 + rng_below(&rng, sizes);
        change_inputs(&in, &rng, round);
        set(gpu, &eager, n, &in);
        call_run(gpu, &eager, expected);
        set(gpu, &captured, MOST_TOKENS, &in);
        call_poison(gpu, &captured);
        gpu_graph_launch(gpu, &graphs[n - 1]);
        call_out(gpu, &captured, out);
        unlike += memcmp(out, expected, n * row) != 0;
        for (size_t i = n * row; i < MOST_TOKENS * row; i++)      /* rows beyond the call are not its own */
            if (out[i] != 0xff) {
                unlike++;
                break;
            }
    }
    check_line(gpu, unlike == 0, "a graph for each of 1 to %zu tokens, one workspace: %zu of %zu replays unlike calls",
               sizes, unlike, rounds);
    for (size_t i = 0; i < MOST_TOKENS; i++)
        gpu_graph_free(&graphs[i]);
    free(expected);
    free(out);
    free_inputs(&in);
    call_free(gpu, &captured);
    call_free(gpu, &eager);
    subject_free(gpu, &subject);
}

/* ---- two streams ---- */

/* Another context with a stream of its own on the same backend and layer. */
static struct gpu second(struct gpu *gpu)
{
    struct gpu other = *gpu;
    struct moe_error error = {0};
    other.ctx = NULL;
    check_ok(gpu, moe_context_create(gpu->backend, NULL, &other.ctx, &error), "a second context");
    check_cuda(gpu, cudaStreamCreateWithFlags(&other.stream, cudaStreamNonBlocking), "a second stream");
    check_ok(gpu, moe_context_set_stream(other.ctx, other.stream), "moe_context_set_stream");
    return other;
}

static void check_streams(struct gpu *gpu, const void *arg)
{
    enum { STREAMS = 2, TOKENS = 9 };
    size_t rounds = gpu->quick ? 5 : 100, burst = 20, unlike = 0;
    struct rng rng = {59};
    struct gpu others[STREAMS] = {*gpu, second(gpu)};
    struct subject subject;
    struct call calls[STREAMS];
    struct inputs in;
    struct gpu_graph graphs[STREAMS] = {{0}};
    unsigned char *expected[STREAMS], *out;
    struct subject_spec spec = {.shape = shape, .in = scheme_find("q8_0"), .down = scheme_find("bf16")};
    (void)arg;
    subject_init(gpu, &subject, &rng, &spec);
    make_inputs(&in);
    for (size_t i = 0; i < STREAMS; i++) {
        call_init(&others[i], &calls[i], &subject, MOST_TOKENS, MOE_FORMAT_BF16, MOE_FORMAT_BF16, FROM_IDS);
        change_inputs(&in, &rng, 0);
        set(&others[i], &calls[i], TOKENS, &in);
        gpu_sync(&others[i]);
        capture(&others[i], &calls[i], 1, &graphs[i]);
        expected[i] = host_alloc(call_out_bytes(&calls[i]), 1);
    }
    size_t bytes = call_out_bytes(&calls[0]);
    out = host_alloc(bytes, 1);
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < STREAMS; i++) {
            change_inputs(&in, &rng, round + i);
            set(&others[i], &calls[i], TOKENS, &in);
            call_run(&others[i], &calls[i], expected[i]);
            call_poison(&others[i], &calls[i]);
        }
        for (size_t i = 0; i < burst; i++) {     /* replays on one, calls on the other, at the same time */
            gpu_graph_launch(&others[i % 2], &graphs[i % 2]);
            call_forward(&others[1 - i % 2], &calls[1 - i % 2]);
        }
        for (size_t i = 0; i < STREAMS; i++) {
            call_out(&others[i], &calls[i], out);
            unlike += memcmp(out, expected[i], bytes) != 0;
        }
    }
    check_line(gpu, unlike == 0, "two streams at once, a context each: %zu of %zu results unlike those alone", unlike,
               STREAMS * rounds);
    for (size_t i = 0; i < STREAMS; i++) {
        gpu_graph_free(&graphs[i]);
        call_free(&others[i], &calls[i]);
        free(expected[i]);
    }
    free(out);
    free_inputs(&in);
    subject_free(gpu, &subject);
    moe_context_destroy(others[1].ctx);
    cudaStreamDestroy(others[1].stream);
}

void check_graphs(struct gpu *gpu)
{
    static const struct part parts[] = {
        {"bf16", 1, false, MOE_FORMAT_BF16, true},  {"q8_0", 7, true, MOE_FORMAT_F32, true},
        {"bf16", 24, true, MOE_FORMAT_BF16, false}, {"q4_k", 8, false, MOE_FORMAT_BF16, false},
        {"mxfp4", 1, true, MOE_FORMAT_F16, false},  {"fp8_128x128", 8, false, MOE_FORMAT_BF16, false},
        {"int4_g128", 3, false, MOE_FORMAT_BF16, false}, {"iq2_xs", 2, false, MOE_FORMAT_BF16, false},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!gpu->quick || parts[i].quick)
            check_part(gpu, check_replays, &parts[i]);
    check_part(gpu, check_layers, NULL);
    check_part(gpu, check_sizes, NULL);
    check_part(gpu, check_streams, NULL);
}
