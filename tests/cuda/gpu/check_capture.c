// SPDX-License-Identifier: MIT
// Calls that wait for the device must not run while a stream captures: they say so and leave the capture as it is. And
// forwards, 10^4 of them, neither allocate nor wait.
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static const struct shape shape = {256, 256, 8, 2};
enum { NUM_TOKENS = 4 };

struct inputs {
    float x[NUM_TOKENS * 256], weights[NUM_TOKENS * 2];
    int32_t ids[NUM_TOKENS * 2];
};

static void make_inputs(struct inputs *in)
{
    struct rng rng = {61};
    rng_values(&rng, in->x, NUM_TOKENS * shape.hidden_size, 1, MOE_FORMAT_BF16);
    rng_routing(&rng, in->ids, in->weights, NUM_TOKENS, shape.num_experts, shape.top_k);
}

static bool is_capturing(struct gpu *gpu)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(gpu->stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive;
}

static void refused(struct gpu *gpu, enum moe_status status, const char *what)
{
    bool capturing = is_capturing(gpu);
    check_line(gpu, status == MOE_ERR_UNSUPPORTED && capturing, "%s under capture: \"%s\"; the capture %s", what,
               moe_status_text(status), capturing ? "goes on" : "is broken");
}

/* The portable call with buffers for any of its scratch. */
static struct moe_forward_params portable(struct gpu *gpu, const struct call *call, const struct moe_view *scratch)
{
    struct moe_forward_params params;
    MOE_INIT(&params);
    params.ctx = gpu->ctx;
    params.x = call->io.x;
    params.router_logits = scratch[0];
    params.out = call->io.out;
    params.batch = NUM_TOKENS;
    params.hidden_size = shape.hidden_size;
    params.expert_intermediate = shape.intermediate_size;
    params.num_experts = shape.num_experts;
    params.top_k = shape.top_k;
    params.experts = call->subject->experts;
    params.x_single = scratch[1];
    params.acc_buf = scratch[2];
    params.gate_up_buf = scratch[3];
    params.silu_buf = scratch[4];
    params.down_buf = scratch[5];
    params.zero_hidden = scratch[6];
    return params;
}

static void check_refusals(struct gpu *gpu, struct call *call, struct call *composed)
{
    enum { NUM_SCRATCH = 7 };
    struct moe_view scratch[NUM_SCRATCH];
    struct moe_stats stats = {.struct_size = sizeof stats};
    unsigned char byte[16] = {0}, *expected = host_alloc(call_out_bytes(call), 1);
    unsigned char *out = host_alloc(call_out_bytes(call), 1);
    for (size_t i = 0; i < NUM_SCRATCH; i++)
        scratch[i] = gpu_alloc(gpu, 2 * shape.intermediate_size * sizeof(float) * NUM_TOKENS, MOE_FORMAT_F32);
    float *zeros = host_alloc(2 * shape.hidden_size, sizeof *zeros);
    gpu_write(gpu, &scratch[6], zeros, shape.hidden_size * sizeof *zeros);
    gpu_write(gpu, &scratch[0], zeros, NUM_TOKENS * shape.num_experts * sizeof *zeros);
    struct moe_forward_params params = portable(gpu, call, scratch);
    check_ok(gpu, moe_forward(&params), "moe_forward");
    call_run(gpu, call, expected);
    gpu_capture_begin(gpu);
    call_forward(gpu, call);
    refused(gpu, moe_forward(&params), "moe_forward");
    refused(gpu, moe_layer_forward(gpu->ctx, composed->subject->layer, &composed->io), "a composed layer");
    refused(gpu, moe_context_sync(gpu->ctx), "moe_context_sync");
    refused(gpu, moe_mem_read(gpu->ctx, byte, &scratch[1], sizeof byte), "moe_mem_read");
    refused(gpu, moe_mem_write(gpu->ctx, &scratch[1], byte, sizeof byte), "moe_mem_write");
    refused(gpu, moe_context_stats(gpu->ctx, &stats, false), "moe_context_stats");
    call_forward(gpu, call);
    struct gpu_graph graph = {0};
    gpu_capture_end(gpu, &graph);
    call_poison(gpu, call);
    gpu_graph_launch(gpu, &graph);
    call_out(gpu, call, out);
    check_line(gpu, memcmp(out, expected, call_out_bytes(call)) == 0, "what was captured around them: the call's bits");
    check_ok(gpu, moe_forward(&params), "moe_forward after the capture");
    gpu_graph_free(&graph);
    for (size_t i = 0; i < NUM_SCRATCH; i++)
        gpu_free(gpu, &scratch[i]);
    free(zeros);
    free(expected);
    free(out);
}

void check_capture(struct gpu *gpu)
{
    struct rng rng = {67};
    struct subject subject, other;
    struct call call, composed;
    struct inputs in;
    struct subject_spec spec = {.shape = shape, .in = scheme_find("bf16"), .down = scheme_find("q8_0")};
    subject_init(gpu, &subject, &rng, &spec);
    spec.flags = MOE_LAYER_FORCE_COMPOSED;
    subject_init(gpu, &other, &rng, &spec);
    check_line(gpu, subject.info.capturable && !subject.info.composed && !other.info.capturable && other.info.composed,
               "moe_layer_info: the fused layer is capturable, the composed one is not");
    call_init(gpu, &call, &subject, NUM_TOKENS, MOE_FORMAT_BF16, MOE_FORMAT_F32, FROM_IDS);
    call_init(gpu, &composed, &other, NUM_TOKENS, MOE_FORMAT_BF16, MOE_FORMAT_F32, FROM_IDS);
    make_inputs(&in);
    call_set(gpu, &call, NUM_TOKENS, in.x, in.ids, in.weights, NULL);
    call_set(gpu, &composed, NUM_TOKENS, in.x, in.ids, in.weights, NULL);
    check_refusals(gpu, &call, &composed);
    call_free(gpu, &composed);
    call_free(gpu, &call);
    subject_free(gpu, &other);
    subject_free(gpu, &subject);
}

/* ---- neither allocations nor waits ---- */

/* A host function that keeps a stream busy until it is released, by the check or, after a while, by the clock. */
struct gate {
    atomic_bool open, late;
};

static void CUDART_CB hold(void *arg)
{
    struct gate *gate = arg;
    double begin = seconds();
    while (!atomic_load(&gate->open))
        if (seconds() - begin > 10) {
            atomic_store(&gate->late, true);
            return;
        }
}

/* Forwards that would wait for the stream could not return before the gate opens, which is after them. No more than a
 * stream's queue takes. */
static void check_waits(struct gpu *gpu, struct call *call)
{
    enum { FORWARDS = 64 };
    struct gate gate;
    atomic_init(&gate.open, false);
    atomic_init(&gate.late, false);
    gpu_sync(gpu);
    check_cuda(gpu, cudaLaunchHostFunc(gpu->stream, hold, &gate), "cudaLaunchHostFunc");
    for (int i = 0; i < FORWARDS; i++)
        call_forward(gpu, call);
    bool waited = atomic_load(&gate.late);
    atomic_store(&gate.open, true);
    gpu_sync(gpu);
    check_line(gpu, !waited, "%d forwards queued behind work that had not ended%s", FORWARDS,
               waited ? ": one of them waited for it" : "");
}

/* CUDA refuses to wait for a stream that captures, and allocations in its order become nodes. Others show as memory
 * that is gone, or, if it is given back, as a wait: check_memory, check_waits. */
static void check_captured(struct gpu *gpu, struct call *call, size_t count)
{
    enum { EACH = 500 };
    size_t nodes = 0, graphs = 0, allocations = 0;
    for (size_t done = 0; done < count; done += EACH, graphs++) {
        struct gpu_graph graph = {0};
        gpu_capture_begin(gpu);
        for (size_t i = 0; i < EACH; i++)
            call_forward(gpu, call);
        gpu_capture_end(gpu, &graph);
        nodes = graph.num_nodes;
        allocations += graph.num_memory;
        gpu_graph_launch(gpu, &graph);
        gpu_sync(gpu);
        gpu_graph_free(&graph);
    }
    check_line(gpu, nodes > 0 && nodes % EACH == 0 && allocations == 0,
               "%zu forwards captured, where waits are errors: %zu nodes each, %zu of all allocate", graphs * EACH,
               nodes / EACH, allocations);
}

static void check_memory(struct gpu *gpu, struct call *call, size_t count)
{
    size_t before = 0, after = 0, total;
    call_forward(gpu, call);
    gpu_sync(gpu);
    check_cuda(gpu, cudaMemGetInfo(&before, &total), "cudaMemGetInfo");
    for (size_t i = 0; i < count; i++)
        call_forward(gpu, call);
    check_cuda(gpu, cudaMemGetInfo(&after, &total), "cudaMemGetInfo");
    gpu_sync(gpu);
    check_line(gpu, before == after, "%zu forwards: free memory of the device %zu bytes before, %zu after", count,
               before, after);
}

void check_trace(struct gpu *gpu)
{
    struct rng rng = {71};
    struct subject subject;
    struct call call;
    struct inputs in;
    struct subject_spec spec = {.shape = shape, .in = scheme_find("q4_k"), .down = scheme_find("q4_k")};
    size_t count = gpu->quick ? 100 : 10000;
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &call, &subject, NUM_TOKENS, MOE_FORMAT_BF16, MOE_FORMAT_BF16, FROM_IDS);
    make_inputs(&in);
    call_set(gpu, &call, NUM_TOKENS, in.x, in.ids, in.weights, NULL);
    check_captured(gpu, &call, count);
    check_memory(gpu, &call, count);
    check_waits(gpu, &call);
    call_free(gpu, &call);
    subject_free(gpu, &subject);
}
