// SPDX-License-Identifier: MIT
// The CUDA backend's shell on the emulated device: opening, memory, streams, capture, counters, and what becomes of
// every failure of CUDA.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda_fixture.h"

/* ---- opening ---- */

static void assert_open(const char *name, enum moe_status expected, const char *text)
{
    struct moe_backend *backend;
    struct moe_error error = {.status = MOE_OK};
    enum moe_status status = moe_backend_open_ops(&moe_cuda_ops, name, NULL, &backend, &error);
    test_assert_status(status, expected);
    if (status == MOE_OK) {
        moe_backend_close(backend);
    } else if (strstr(error.text, text) == NULL || backend != NULL) {
        fail_msg("\"%s\": %s", name != NULL ? name : "(null)", error.text);
    }
    assert_int_equal(moe_emulate_check(), 0);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
}

static void test_opening(void **state)
{
    (void)state;
    static const char *const garbage[] = {"", "x", "0x", " 0", "-1", "+0", "0:1", "1234567", "0,1"};
    moe_emulate_reset();
    assert_open(NULL, MOE_OK, "");
    assert_open("0", MOE_OK, "");
    assert_open("00", MOE_OK, "");
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++)
        assert_open(garbage[i], MOE_ERR_ARGUMENT, "takes the number of a GPU");
    assert_open("1", MOE_ERR_UNSUPPORTED, "there is no GPU 1: CUDA shows 1");
    assert_open("999999", MOE_ERR_UNSUPPORTED, "there is no GPU 999999");
    moe_emulate_devices(2);
    assert_open("1", MOE_OK, "");
    moe_emulate_devices(0);
    assert_open("0", MOE_ERR_UNSUPPORTED, "no GPU that CUDA shows");
    moe_emulate_reset();
    moe_emulate_old_driver(true);
    assert_open("0", MOE_ERR_UNSUPPORTED, "the backend needs one for CUDA 13.0");
    moe_emulate_reset();
    moe_emulate_capability(7, 5);
    assert_open("0", MOE_ERR_UNSUPPORTED, "has compute capability 7.5, and 8.0 is needed");
    moe_emulate_capability(8, 0);
    assert_open("0", MOE_OK, "");
}

struct facts {
    size_t num_kernels;
    char level[32], device[64];
};

static void take_fact(void *user, const char *key, const char *value)
{
    struct facts *facts = user;
    facts->num_kernels += strcmp(key, "kernel") == 0;
    if (strcmp(key, "level") == 0)
        snprintf(facts->level, sizeof facts->level, "%s", value);
    if (strcmp(key, "device") == 0)
        snprintf(facts->device, sizeof facts->device, "%s", value);
}

static void test_describe(void **state)
{
    (void)state;
    struct moe_backend *backend;
    struct facts facts = {0};
    size_t num_formats = 0;
    moe_emulate_reset();
    moe_emulate_devices(3);
    while (moe_format_at(num_formats) != NULL)
        num_formats++;
    test_assert_ok(moe_backend_open_ops(&moe_cuda_ops, "2", NULL, &backend, NULL));
    test_assert_ok(moe_backend_describe(backend, take_fact, &facts));
    assert_int_equal(facts.num_kernels, num_formats + 3);
    assert_memory_equal(facts.level, "sm_", 3);
    assert_memory_equal(facts.device, "2, ", 3);
    moe_backend_close(backend);
}

/* ---- memory ---- */

static void test_memory(void **state)
{
    (void)state;
    struct gpu gpu;
    struct test_rng rng = {11};
    gpu_open(&gpu);
    for (size_t size = 1; size < 300000; size = 3 * size + 1) {
        unsigned char *in = test_alloc(size), *out = test_alloc(size);
        struct moe_view view, part;
        for (size_t i = 0; i < size; i++)
            in[i] = (unsigned char)test_random(&rng);
        test_assert_ok(moe_cuda_ops.mem_alloc(gpu.self, size, &view));
        assert_int_equal(view.size, size);
        assert_int_equal((uintptr_t)view.base % 256, 0);
        void *ctx = size % 2 == 0 ? gpu.ctx : NULL;
        test_assert_ok(moe_cuda_ops.mem_write(gpu.self, ctx, &view, in, size));
        part = view;
        part.offset = size / 3;
        part.size = size - part.offset;
        test_assert_ok(moe_cuda_ops.mem_write(gpu.self, gpu.ctx, &part, in, part.size));
        test_assert_ok(moe_cuda_ops.mem_read(gpu.self, gpu.ctx, out, &view, size));
        assert_memory_equal(out, in, part.offset);
        assert_memory_equal(out + part.offset, in, part.size);
        test_assert_ok(moe_cuda_ops.mem_read(gpu.self, gpu.ctx, out, &part, 0));
        test_assert_ok(moe_cuda_ops.mem_write(gpu.self, gpu.ctx, &part, in, 0));
        moe_cuda_ops.mem_free(gpu.self, &view);
        test_release(in);
        test_release(out);
    }
    struct moe_view nothing;
    test_assert_ok(moe_cuda_ops.mem_alloc(gpu.self, 0, &nothing));
    assert_non_null(nothing.base);
    moe_cuda_ops.mem_free(gpu.self, &nothing);
    gpu_close(&gpu);
}

/* Work waits in its stream until somebody waits for it; the device's memory can be looked at here. */
static void test_sync(void **state)
{
    (void)state;
    struct gpu gpu;
    const float in = 3;
    gpu_open(&gpu);
    struct moe_view src = gpu_put(&gpu, &in, sizeof in, 0, MOE_FORMAT_F32);
    struct moe_view dst = gpu_put(&gpu, NULL, sizeof in, 0, MOE_FORMAT_F32);
    const float *out = moe_cuda_address(&dst);
    test_assert_ok(moe_cuda_ops.scaled_add(gpu.ctx, &dst, &src, 2, 1, false));
    assert_true(isnan(*out));
    test_assert_ok(moe_cuda_ops.sync(gpu.ctx));
    assert_true(*out == 6);
    gpu_free(&gpu, &src);
    gpu_free(&gpu, &dst);
    gpu_close(&gpu);
}

/* ---- a layer to run ---- */

enum { TOKENS = 3, HIDDEN = 40 };

struct setup {
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct test_layer layer;
    struct test_handle handle;
    struct moe_layer_io io;
    struct moe_view memory;
    float *x, *out;
    double *expected;
};

/* Whatever fails on the way, status says so, and setup_close frees the rest. */
static enum moe_status setup_open(struct setup *s, const char *device)
{
    struct test_rng rng = {12};
    struct test_layer_spec spec = {.experts = {.num_experts = 4,
                                               .hidden_size = HIDDEN,
                                               .intermediate_size = 24,
                                               .gate = MOE_FORMAT_F16,
                                               .up = MOE_FORMAT_F16,
                                               .down = MOE_FORMAT_BF16},
                                   .top_k = 2,
                                   .router = true,
                                   .router_format = MOE_FORMAT_F32};
    memset(s, 0, sizeof *s);
    test_layer_init(&s->layer, &rng, &spec);
    s->x = test_alloc(TOKENS * HIDDEN * sizeof *s->x);
    s->out = test_alloc(TOKENS * HIDDEN * sizeof *s->out);
    s->expected = moe_ref_alloc(TOKENS * HIDDEN, sizeof *s->expected);
    test_fill(&rng, s->x, TOKENS * HIDDEN, 1);
    const struct test_call call = {.num_tokens = TOKENS, .x = s->x};
    test_call_ref(&s->layer.block, &call, s->expected, NULL, NULL, NULL);
    struct moe_error error;
    enum moe_status status = moe_backend_open_ops(&moe_cuda_ops, device, NULL, &s->backend, &error);
    if (status == MOE_OK)
        status = moe_context_create(s->backend, NULL, &s->ctx, &error);
    if (status == MOE_OK)
        status = moe_experts_create(s->backend, &s->layer.experts.params, &s->handle.experts, &error);
    struct moe_layer_params params = s->layer.params;
    params.experts = s->handle.experts;
    params.flags = MOE_LAYER_FORCE_COMPOSED;
    if (status == MOE_OK)
        status = moe_layer_create(s->backend, &params, &s->handle.layer, &error);
    return status;
}

/* Memory of the call, and x in it. */
static enum moe_status setup_io(struct setup *s)
{
    size_t bytes = TOKENS * HIDDEN * sizeof(float), workspace;
    enum moe_status status = moe_mem_alloc(s->backend, 2 * 1024, &s->memory);
    MOE_INIT(&s->io);
    s->io.num_tokens = TOKENS;
    s->io.x = s->io.out = s->memory;
    s->io.x.size = s->io.out.size = bytes;
    s->io.out.offset = 1024;
    if (status == MOE_OK)
        status = moe_mem_write(s->ctx, &s->io.x, s->x, bytes);
    if (status == MOE_OK)
        status = moe_layer_workspace_size(s->ctx, s->handle.layer, &s->io, &workspace);
    return status == MOE_OK ? moe_mem_alloc(s->backend, workspace, &s->io.workspace) : status;
}

static enum moe_status setup_forward(struct setup *s)
{
    enum moe_status status = moe_layer_forward(s->ctx, s->handle.layer, &s->io);
    return status == MOE_OK ? moe_mem_read(s->ctx, s->out, &s->io.out, s->io.out.size) : status;
}

static void setup_close(struct setup *s)
{
    moe_layer_destroy(s->handle.layer);
    moe_experts_destroy(s->handle.experts);
    if (s->backend != NULL) {
        moe_mem_free(s->backend, &s->memory);
        moe_mem_free(s->backend, &s->io.workspace);
    }
    moe_context_destroy(s->ctx);
    moe_backend_close(s->backend);
    test_layer_free(&s->layer);
    test_release(s->x);
    test_release(s->out);
    free(s->expected);
}

static enum moe_status setup_run(struct setup *s, const char *device)
{
    enum moe_status status = setup_open(s, device);
    if (status == MOE_OK)
        status = setup_io(s);
    return status == MOE_OK ? setup_forward(s) : status;
}

static void assert_result(const struct setup *s)
{
    test_assert_most(test_relative_error(s->out, s->expected, TOKENS * HIDDEN), 1e-6, "the layer");
}

/* ---- failures ---- */

/* Each allocation fails once: the status says so, all is given back, and CUDA's error is not left behind. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct setup s;
    size_t nth = 0;
    enum moe_status status;
    do {
        moe_emulate_reset();
        moe_emulate_fail_allocation(++nth);
        status = setup_run(&s, "0");
        if (moe_emulate_failed())
            test_assert_status(status, MOE_ERR_MEMORY);
        else
            assert_result(&s);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        setup_close(&s);
        assert_int_equal(moe_emulate_check(), 0);
    } while (status != MOE_OK);
    assert_int_equal(nth, 1 + 5);   /* counters, experts, the layer's zeros, memory, workspace */
}

/* So does each call of CUDA, in turn, with an error that does not stay: nothing is lost, and no success is made up. */
static void test_any_call_fails(void **state)
{
    (void)state;
    static const cudaError_t errors[] = {cudaErrorUnknown, cudaErrorMemoryAllocation, cudaErrorInvalidValue};
    static const enum moe_status expected[] = {MOE_ERR_DEVICE, MOE_ERR_MEMORY, MOE_ERR_ARGUMENT};
    for (size_t e = 0; e < 3; e++) {
        size_t calls = 0, misses = 0;
        bool failed;
        do {
            struct setup s;
            moe_emulate_reset();
            moe_emulate_fail_call(++calls, errors[e]);
            enum moe_status status = setup_run(&s, "0");
            failed = moe_emulate_failed();
            if (failed && status == MOE_OK)
                misses++;
            else if (failed && status != expected[e])
                assert_int_equal(status, MOE_ERR_UNSUPPORTED);    /* the device cannot be opened */
            if (status == MOE_OK)
                assert_result(&s);
            moe_emulate_fail_call(0, cudaSuccess);
            setup_close(&s);
            assert_int_equal(moe_emulate_check(), 0);
            moe_emulate_reset();
        } while (failed);
        assert_true(calls > 100);
        /* Versions, which are only told; and where a call of ours ends, giving back the caller's state. */
        assert_true(misses < calls / 4);
    }
}

/* An error of a kernel stays: every call from the first that can know reports it, and all can be destroyed. */
static void test_sticky(void **state)
{
    (void)state;
    struct setup s;
    moe_emulate_reset();
    for (size_t nth = 1; nth < 40; nth += 13) {
        moe_emulate_reset();
        test_assert_ok(setup_open(&s, "0"));
        test_assert_ok(setup_io(&s));
        moe_emulate_fail_launch(nth, cudaErrorIllegalAddress);
        test_assert_status(setup_forward(&s), MOE_ERR_DEVICE);
        test_assert_status(setup_forward(&s), MOE_ERR_DEVICE);
        test_assert_status(moe_context_sync(s.ctx), MOE_ERR_DEVICE);
        test_assert_status(moe_mem_write(s.ctx, &s.io.x, s.x, 4), MOE_ERR_DEVICE);
        struct moe_stats stats;
        MOE_INIT(&stats);
        test_assert_status(moe_context_stats(s.ctx, &stats, true), MOE_ERR_DEVICE);
        struct moe_view view;
        test_assert_status(moe_mem_alloc(s.backend, 16, &view), MOE_ERR_DEVICE);
        assert_null(view.base);
        struct moe_context *other;
        test_assert_status(moe_context_create(s.backend, NULL, &other, NULL), MOE_ERR_DEVICE);

        struct moe_backend *cpu = test_backend("cpu");
        struct moe_context *ctx = test_context(cpu, 1);
        struct test_handle handle;
        test_handle_open(&handle, cpu, &s.layer, 0);
        const struct test_call call = {.num_tokens = TOKENS, .x = s.x, .out = s.out};
        test_assert_ok(test_call_run(ctx, handle.layer, &call));
        test_assert_most(test_relative_error(s.out, s.expected, TOKENS * HIDDEN), 1.25e-2, "the CPU's layer");
        test_handle_close(&handle);
        moe_context_destroy(ctx);
        moe_backend_close(cpu);
        setup_close(&s);
    }
    moe_emulate_reset();
}

/* ---- the caller's state of CUDA ---- */

static void assert_current(int expected)
{
    int device = -1;
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    assert_int_equal(cudaGetDevice(&device), cudaSuccess);
    assert_int_equal(device, expected);
    assert_int_equal(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
    assert_int_equal(mode, cudaStreamCaptureModeGlobal);
}

static void test_other_device_current(void **state)
{
    (void)state;
    struct setup s;
    struct cudaPointerAttributes attributes;
    moe_emulate_reset();
    moe_emulate_devices(3);
    assert_int_equal(cudaSetDevice(2), cudaSuccess);
    test_assert_ok(setup_open(&s, "1"));
    assert_current(2);
    test_assert_ok(setup_io(&s));
    assert_current(2);
    assert_int_equal(cudaPointerGetAttributes(&attributes, s.memory.base), cudaSuccess);
    assert_int_equal(attributes.device, 1);
    test_assert_ok(setup_forward(&s));
    assert_result(&s);
    assert_current(2);
    test_assert_ok(moe_context_sync(s.ctx));
    setup_close(&s);
    assert_current(2);
    assert_int_equal(moe_emulate_check(), 0);
    moe_emulate_reset();
}

static void test_streams(void **state)
{
    (void)state;
    struct setup s;
    cudaStream_t streams[3] = {NULL};   /* the default stream, a blocking one, one that is not */
    moe_emulate_reset();
    assert_int_equal(cudaStreamCreate(&streams[1]), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&streams[2], cudaStreamNonBlocking), cudaSuccess);
    test_assert_ok(setup_open(&s, NULL));
    test_assert_ok(setup_io(&s));
    for (size_t i = 0; i < 3; i++) {
        test_assert_ok(moe_context_set_stream(s.ctx, streams[i]));
        memset(s.out, 0xff, TOKENS * HIDDEN * sizeof *s.out);
        test_assert_ok(setup_forward(&s));
        assert_result(&s);
        test_assert_ok(moe_context_sync(s.ctx));
    }
    setup_close(&s);   /* the streams stay the caller's */
    for (size_t i = 1; i < 3; i++)
        assert_int_equal(cudaStreamDestroy(streams[i]), cudaSuccess);
    assert_int_equal(moe_emulate_check(), 0);
}

/* ---- capture ---- */

static void test_capture(void **state)
{
    (void)state;
    struct gpu gpu;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float in[4] = {1, 2, 3, 4}, out[4] = {0};
    struct moe_stats stats;
    MOE_INIT(&stats);
    gpu_open(&gpu);
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    struct moe_view src = gpu_put(&gpu, in, sizeof in, 0, MOE_FORMAT_F32);
    struct moe_view dst = gpu_put(&gpu, NULL, sizeof out, 0, MOE_FORMAT_F32);
    test_assert_ok(moe_cuda_ops.set_stream(gpu.ctx, stream));
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    moe_emulate_count_from_here();
    test_assert_ok(moe_cuda_ops.scaled_add(gpu.ctx, &dst, &src, 2, 4, false));
    test_assert_status(moe_cuda_ops.mem_read(gpu.self, gpu.ctx, out, &dst, sizeof out), MOE_ERR_UNSUPPORTED);
    test_assert_status(moe_cuda_ops.mem_write(gpu.self, gpu.ctx, &src, in, sizeof in), MOE_ERR_UNSUPPORTED);
    test_assert_status(moe_cuda_ops.sync(gpu.ctx), MOE_ERR_UNSUPPORTED);
    test_assert_status(moe_cuda_ops.context_stats(gpu.ctx, &stats, true), MOE_ERR_UNSUPPORTED);
    /* What creates objects goes on meanwhile, as it does not touch the stream. */
    struct moe_view other;
    test_assert_ok(moe_cuda_ops.mem_alloc(gpu.self, 64, &other));
    test_assert_ok(moe_cuda_ops.mem_write(gpu.self, NULL, &other, in, sizeof in));
    moe_cuda_ops.mem_free(gpu.self, &other);
    test_assert_ok(moe_cuda_ops.scaled_add(gpu.ctx, &dst, &src, 1, 4, true));
    assert_int_equal(moe_emulate_count().forbidden, 0);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    in[0] = 5;
    test_assert_ok(moe_cuda_ops.mem_write(gpu.self, gpu.ctx, &src, in, sizeof in));
    assert_int_equal(cudaGraphLaunch(exec, stream), cudaSuccess);
    test_assert_ok(moe_cuda_ops.mem_read(gpu.self, gpu.ctx, out, &dst, sizeof out));
    for (int i = 0; i < 4; i++)
        assert_true(out[i] == 3 * in[i]);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    gpu_free(&gpu, &src);
    gpu_free(&gpu, &dst);
    test_assert_ok(moe_cuda_ops.set_stream(gpu.ctx, NULL));
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    gpu_close(&gpu);
}

/* Whatever routing it has, a layer of primitives is refused before anything is queued. */
static void test_capture_layer(void **state)
{
    (void)state;
    struct setup s;
    cudaStream_t stream;
    cudaGraph_t graph;
    size_t num_nodes;
    moe_emulate_reset();
    test_assert_ok(setup_open(&s, NULL));
    test_assert_ok(setup_io(&s));
    assert_int_equal(cudaStreamCreate(&stream), cudaSuccess);
    for (int own = 0; own < 2; own++) {
        cudaStream_t capturing = stream;
        if (own == 0)
            test_assert_ok(moe_context_set_stream(s.ctx, stream));
        else    /* the default stream waits for blocking ones, so it cannot be used meanwhile either */
            test_assert_ok(moe_context_set_stream(s.ctx, NULL));
        assert_int_equal(cudaStreamBeginCapture(capturing, cudaStreamCaptureModeGlobal), cudaSuccess);
        moe_emulate_count_from_here();
        test_assert_status(moe_layer_forward(s.ctx, s.handle.layer, &s.io), MOE_ERR_UNSUPPORTED);
        struct moe_layer_io given = s.io;
        given.ids = given.weights = s.memory;   /* any will do: they are not read */
        given.ids.format = MOE_FORMAT_I32;
        given.ids.size = given.weights.size = 480;
        test_assert_status(moe_layer_forward(s.ctx, s.handle.layer, &given), MOE_ERR_UNSUPPORTED);
        assert_int_equal(moe_emulate_count().forbidden, 0);
        assert_int_equal(moe_emulate_count().launches, 0);
        assert_int_equal(cudaStreamEndCapture(capturing, &graph), cudaSuccess);
        assert_int_equal(cudaGraphGetNodes(graph, NULL, &num_nodes), cudaSuccess);
        assert_int_equal(num_nodes, 0);
        cudaGraphDestroy(graph);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        test_assert_ok(setup_forward(&s));
        assert_result(&s);
    }
    setup_close(&s);
    cudaStreamDestroy(stream);
}

/* ---- the rest ---- */

static void test_stats(void **state)
{
    (void)state;
    struct gpu gpu;
    struct moe_stats stats;
    gpu_open(&gpu);
    const struct moe_cuda_context *ctx = gpu.ctx;
    const struct moe_cuda_counters counted = {7, 1ull << 40};
    assert_int_equal(cudaMemcpy(ctx->counters, &counted, sizeof counted, cudaMemcpyHostToDevice), cudaSuccess);
    for (int round = 0; round < 3; round++) {   /* as counted; again, and reset; nothing */
        MOE_INIT(&stats);
        stats.skipped_pairs = 5;
        test_assert_ok(moe_cuda_ops.context_stats(gpu.ctx, &stats, round == 1));
        assert_int_equal(stats.nonfinite_rows, round < 2 ? 7 : 0);
        assert_int_equal(stats.skipped_pairs, 5 + (round < 2 ? 1ull << 40 : 0));
    }
    gpu_close(&gpu);
}

/* Addresses of a device are checked as the host's are. */
static void test_views(void **state)
{
    (void)state;
    struct setup s;
    moe_emulate_reset();
    test_assert_ok(setup_open(&s, NULL));
    test_assert_ok(setup_io(&s));
    struct moe_layer_io io = s.io;
    io.x.offset = 2;
    test_assert_status(moe_layer_forward(s.ctx, s.handle.layer, &io), MOE_ERR_ARGUMENT);
    io = s.io;
    io.out.offset = 476;    /* x ends at 480 */
    test_assert_status(moe_layer_forward(s.ctx, s.handle.layer, &io), MOE_ERR_ARGUMENT);
    io.out.offset = 480;
    test_assert_ok(moe_layer_forward(s.ctx, s.handle.layer, &io));
    io = s.io;
    io.workspace.offset = 4;
    test_assert_status(moe_layer_forward(s.ctx, s.handle.layer, &io), MOE_ERR_ARGUMENT);
    setup_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening),          cmocka_unit_test(test_describe),
        cmocka_unit_test(test_memory),        cmocka_unit_test(test_sync),
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_any_call_fails),
        cmocka_unit_test(test_sticky),
        cmocka_unit_test(test_other_device_current), cmocka_unit_test(test_streams),
        cmocka_unit_test(test_capture),       cmocka_unit_test(test_capture_layer),
        cmocka_unit_test(test_stats),         cmocka_unit_test(test_views),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
