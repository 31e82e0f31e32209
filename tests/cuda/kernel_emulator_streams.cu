// SPDX-License-Identifier: MIT
// The emulated machine's host side: memory, streams, events, captures and graphs, errors, and what is counted.
#include "emulated.cuh"

#include <thread>

struct add_params {
    int *values;
    int n, amount;
};

__global__ void add_kernel(const add_params p)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < p.n)
        p.values[i] += p.amount;
}

static cudaError_t add(int *values, int amount, cudaStream_t stream)
{
    return moe_launch(add_kernel, 2, 64, 0, stream, false, add_params{values, 100, amount});
}

static cudaStream_t new_stream(unsigned flags = cudaStreamNonBlocking)
{
    cudaStream_t stream = NULL;
    OK(cudaStreamCreateWithFlags(&stream, flags));
    return stream;
}

/* ---- memory ---- */

static void test_memory(void **)
{
    unsigned char *memory = NULL, *pinned = NULL, bytes[100] = {7, 8, 9};
    size_t free_bytes = 0, total = 0;
    moe_emulate_memory(1 << 20);
    assert_int_equal(cudaMalloc(&memory, (1 << 20) + 1), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    OK(cudaMalloc(&memory, 100));
    assert_int_equal(memory[99], 0xff);
    OK(cudaMemGetInfo(&free_bytes, &total));
    assert_int_equal(total, 1 << 20);
    assert_int_equal(free_bytes, (1 << 20) - 100);
    OK(cudaHostAlloc(&pinned, 100, cudaHostAllocDefault));
    struct cudaPointerAttributes attributes;
    OK(cudaPointerGetAttributes(&attributes, memory + 50));
    assert_int_equal(attributes.type, cudaMemoryTypeDevice);
    OK(cudaPointerGetAttributes(&attributes, pinned));
    assert_int_equal(attributes.type, cudaMemoryTypeHost);
    OK(cudaPointerGetAttributes(&attributes, bytes));
    assert_int_equal(attributes.type, cudaMemoryTypeUnregistered);
    assert_int_equal(cudaMemcpy(memory, bytes, 101, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(bytes, bytes, 1, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(memory, bytes, 1, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(bytes, 0, 1), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(pinned), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(memory + 1), cudaErrorInvalidValue);
    OK(cudaFreeHost(pinned));
    OK(cudaFree(memory));
    OK(cudaFree(NULL));
    OK(cudaMalloc(&memory, 0));
    assert_null(memory);
}

static void test_guard(void **)
{
    int *values = device_array(std::vector<int>(100, 1)), *more = NULL;
    assert_int_equal(values[3], 1);
    moe_emulate_guard(true);
    OK(cudaMalloc(&more, 100 * sizeof *more));
    OK(add(values, 5, NULL));
    OK(cudaMemcpy(more, values, 100 * sizeof *more, cudaMemcpyDeviceToDevice));
    assert_int_equal(host_array(more, 1)[0], 6);
    for (volatile int *memory : {values, more})
        dies("", [&]() {
            if (memory[0] == 6)
                memory[1] = 7;
        });
    assert_int_equal(moe_emulate_check(), 2);
    OK(cudaFree(more));
    moe_emulate_guard(false);
    assert_int_equal(values[3], 6);
    OK(cudaFree(values));
}

/* ---- streams ---- */

static void test_deferred(void **)
{
    cudaStream_t stream = new_stream(), blocking = new_stream(cudaStreamDefault);
    int *values = device_array(std::vector<int>(100, 1)), *pinned = NULL, pageable = 5;
    OK(cudaMallocHost(&pinned, sizeof *pinned));
    *pinned = 0;
    OK(add(values, 10, stream));
    OK(cudaMemcpyAsync(pinned, values + 99, sizeof *pinned, cudaMemcpyDeviceToHost, stream));
    assert_int_equal(*pinned, 0);
    /* cudaMemcpy does not wait for a stream that does not block */
    assert_int_equal(host_array(values, 1)[0], 1);
    assert_int_equal(cudaStreamQuery(stream), cudaErrorNotReady);
    OK(cudaStreamSynchronize(stream));
    assert_int_equal(*pinned, 11);
    OK(cudaStreamQuery(stream));
    /* but for one that does */
    OK(add(values, 100, blocking));
    assert_int_equal(host_array(values, 1)[0], 111);
    /* which in turn waits for the stream that has no name */
    OK(add(values, 1000, NULL));
    OK(cudaMemcpyAsync(pinned, values, sizeof *pinned, cudaMemcpyDeviceToHost, blocking));
    OK(cudaStreamSynchronize(blocking));
    assert_int_equal(*pinned, 1111);
    *pinned = 11;
    /* pinned memory is read when the copy runs, pageable memory at once */
    OK(cudaMemcpyAsync(values, pinned, sizeof *pinned, cudaMemcpyHostToDevice, stream));
    OK(cudaMemcpyAsync(values + 1, &pageable, sizeof pageable, cudaMemcpyHostToDevice, stream));
    *pinned = pageable = 6;
    OK(cudaMemcpyAsync(&pageable, values + 1, sizeof pageable, cudaMemcpyDeviceToHost, stream));
    assert_int_equal(pageable, 5);
    assert_int_equal(host_array(values, 1)[0], 6);
    moe_emulate_defer(false);
    OK(add(values, 1000, stream));
    assert_int_equal(host_array(values, 1)[0], 1006);
    OK(cudaStreamDestroy(stream));
    OK(cudaStreamDestroy(blocking));
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
    OK(cudaFreeHost(pinned));
    OK(cudaFree(values));
}

static void test_events(void **)
{
    cudaStream_t one = new_stream(), two = new_stream();
    cudaEvent_t start, end;
    float milliseconds = -1;
    OK(cudaEventCreate(&start));
    OK(cudaEventCreateWithFlags(&end, cudaEventDefault));
    int *values = device_array(std::vector<int>(100, 1));
    OK(cudaEventRecord(start, one));
    OK(add(values, 1, one));
    OK(cudaEventRecord(end, one));
    OK(add(values, 10, one));
    assert_int_equal(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
    OK(cudaStreamWaitEvent(two, end, 0));
    OK(cudaMemcpyAsync(values + 1, values, sizeof *values, cudaMemcpyDeviceToDevice, two));
    OK(cudaStreamSynchronize(two));
    assert_int_equal(host_array(values, 2)[1], 2);
    assert_int_equal(host_array(values, 2)[0], 2);
    OK(cudaEventElapsedTime(&milliseconds, start, end));
    assert_true(milliseconds >= 0);
    OK(cudaEventRecord(end, one));
    assert_int_equal(cudaEventQuery(end), cudaErrorNotReady);
    OK(cudaEventSynchronize(end));
    assert_int_equal(host_array(values, 1)[0], 12);
    OK(cudaEventDestroy(start));
    OK(cudaEventDestroy(end));
    OK(cudaStreamDestroy(one));
    OK(cudaStreamDestroy(two));
    OK(cudaFree(values));
}

/* ---- captures ---- */

static void test_graph(void **)
{
    cudaStream_t stream = new_stream(), side = new_stream();
    cudaEvent_t event;
    OK(cudaEventCreate(&event));
    int *values = device_array(std::vector<int>(100, 1));
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaStreamCaptureStatus status;
    unsigned long long id = 0;
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaStreamGetCaptureInfo(stream, &status, &id, NULL, NULL, NULL, NULL));
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    assert_int_not_equal(id, 0);
    OK(cudaMemsetAsync(values, 0, 50 * sizeof *values, stream));
    OK(add(values, 3, stream));
    OK(cudaEventRecord(event, stream));
    OK(cudaStreamWaitEvent(side, event, 0));
    OK(cudaMemcpyAsync(values, values + 99, sizeof *values, cudaMemcpyDeviceToDevice, side));
    OK(cudaEventRecord(event, side));
    OK(cudaStreamWaitEvent(stream, event, 0));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaStreamIsCapturing(side, &status));
    assert_int_equal(status, cudaStreamCaptureStatusNone);
    assert_int_equal(host_array(values, 1)[0], 1);   /* nothing has run */
    size_t count = 0;
    OK(cudaGraphGetNodes(graph, NULL, &count));
    assert_int_equal(count, 3);
    cudaGraphNode_t nodes[3];
    const cudaGraphNodeType types[] = {cudaGraphNodeTypeMemset, cudaGraphNodeTypeKernel, cudaGraphNodeTypeMemcpy};
    OK(cudaGraphGetNodes(graph, nodes, &count));
    for (size_t i = 0; i < 3; i++) {
        cudaGraphNodeType type;
        OK(cudaGraphNodeGetType(nodes[i], &type));
        assert_int_equal(type, types[i]);
    }
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    moe_emulate_count_from_here();
    for (int i = 1; i < 4; i++) {
        OK(cudaGraphLaunch(exec, stream));
        OK(cudaStreamSynchronize(stream));
        std::vector<int> now = host_array(values, 100);
        assert_true(now[0] == 1 + 3 * i && now[1] == 3 && now[49] == 3 && now[50] == 1 + 3 * i);
    }
    assert_int_equal(moe_emulate_count().kernels, 3);
    assert_int_equal(moe_emulate_count().graph_launches, 3);
    assert_int_equal(moe_emulate_count().launches, 0);
    OK(cudaGraphExecDestroy(exec));
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(stream));
    OK(cudaStreamDestroy(side));
    OK(cudaFree(values));
}

/* What CUDA forbids under capture fails, and the capture with it. */
template <class Body> static void spoils(cudaStreamCaptureMode mode, bool expected, Body body)
{
    cudaStream_t stream = new_stream();
    cudaGraph_t graph = NULL;
    OK(cudaStreamBeginCapture(stream, mode));
    size_t before = moe_emulate_count().forbidden;
    cudaError_t error = body(stream);
    cudaStreamCaptureStatus status;
    OK(cudaStreamIsCapturing(stream, &status));
    assert_int_equal(status, expected ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive);
    assert_int_equal(error, expected ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
    assert_int_equal(moe_emulate_count().forbidden - before, expected);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), expected ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
    assert_true((graph == NULL) == expected);
    if (graph)
        OK(cudaGraphDestroy(graph));
    OK(cudaStreamDestroy(stream));
}

static cudaError_t try_malloc(cudaStream_t)
{
    void *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, 10);
    if (!error) {
        cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
        OK(cudaThreadExchangeStreamCaptureMode(&mode));
        OK(cudaFree(memory));
        OK(cudaThreadExchangeStreamCaptureMode(&mode));
    }
    return error;
}

static void test_forbidden(void **)
{
    const cudaStreamCaptureMode global = cudaStreamCaptureModeGlobal, local = cudaStreamCaptureModeThreadLocal,
                                relaxed = cudaStreamCaptureModeRelaxed;
    spoils(global, true, try_malloc);
    spoils(local, true, try_malloc);
    spoils(relaxed, false, try_malloc);
    for (cudaStreamCaptureMode mode : {global, local, relaxed})
        spoils(mode, true, [](cudaStream_t stream) { return cudaStreamSynchronize(stream); });
    spoils(global, true, [](cudaStream_t) { return cudaDeviceSynchronize(); });
    /* another thread is bound by a global capture only; and a relaxed thread by none */
    for (cudaStreamCaptureMode mode : {global, local})
        spoils(mode, mode == global, [](cudaStream_t stream) {
            cudaError_t error = cudaSuccess;
            std::thread([&]() { error = try_malloc(stream); }).join();
            return error;
        });
    spoils(global, false, [](cudaStream_t stream) {
        cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
        OK(cudaThreadExchangeStreamCaptureMode(&mode));
        cudaError_t error = try_malloc(stream);
        OK(cudaThreadExchangeStreamCaptureMode(&mode));
        assert_int_equal(mode, cudaStreamCaptureModeRelaxed);
        return error;
    });
}

static void test_bad_captures(void **)
{
    cudaStream_t stream = new_stream(cudaStreamDefault), side = new_stream();
    cudaEvent_t event;
    cudaGraph_t graph = NULL;
    int *values = device_array(std::vector<int>(100, 1));
    OK(cudaEventCreate(&event));
    assert_int_equal(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeRelaxed), cudaErrorStreamCaptureUnsupported);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    assert_int_equal(add(values, 1, NULL), cudaErrorStreamCaptureImplicit);
    assert_int_equal(add(values, 1, stream), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    OK(cudaEventRecord(event, stream));
    OK(cudaStreamWaitEvent(side, event, 0));
    OK(add(values, 1, side));
    assert_int_equal(cudaStreamEndCapture(side, &graph), cudaErrorStreamCaptureUnmatched);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnjoined);
    OK(cudaEventRecord(event, side));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    assert_int_equal(cudaStreamWaitEvent(stream, event, 0), cudaErrorStreamCaptureIsolation);
    std::thread([&]() {
        assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureWrongThread);
    }).join();
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(stream));
    OK(cudaStreamDestroy(side));
    assert_int_equal(host_array(values, 1)[0], 1);
    OK(cudaFree(values));
}

/* ---- errors ---- */

static void test_no_machine(void **)
{
    int count = 7;
    void *memory;
    moe_emulate_devices(0);
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    assert_int_equal(count, 0);
    assert_int_equal(cudaMalloc(&memory, 10), cudaErrorNoDevice);
    moe_emulate_devices(2);
    moe_emulate_old_driver(true);
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    OK(cudaDriverGetVersion(&count));
    assert_true(count < CUDART_VERSION);
    moe_emulate_old_driver(false);
    OK(cudaGetDeviceCount(&count));
    assert_int_equal(count, 2);
    assert_int_equal(cudaSetDevice(2), cudaErrorInvalidDevice);
    assert_string_equal(cudaGetErrorName(cudaErrorInvalidDevice), "cudaErrorInvalidDevice");
    assert_string_equal(cudaGetErrorString(cudaErrorInvalidDevice), "invalid device ordinal");
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidDevice);
}

static void test_two_devices(void **)
{
    moe_emulate_devices(2);
    cudaStream_t zero = new_stream();
    int *values = device_array(std::vector<int>(100, 1)), device = -1;
    OK(cudaSetDevice(1));
    assert_int_equal(add(values, 1, zero), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidResourceHandle);
    std::thread([&]() { OK(cudaGetDevice(&device)); }).join();
    assert_int_equal(device, 0);
    OK(cudaStreamGetDevice(zero, &device));
    assert_int_equal(device, 0);
    OK(cudaSetDevice(0));
    OK(add(values, 1, zero));
    OK(cudaStreamDestroy(zero));
    OK(cudaFree(values));
}

static void test_allocations_fail(void **)
{
    void *a, *b, *c;
    moe_emulate_fail_allocation(2);
    OK(cudaMalloc(&a, 10));
    assert_int_equal(cudaMallocHost(&b, 10), cudaErrorMemoryAllocation);
    assert_null(b);
    OK(cudaMalloc(&c, 10));
    assert_true(moe_emulate_failed());
    moe_emulate_fail_allocations(1);
    assert_int_equal(cudaMalloc(&b, 10), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMalloc(&b, 10), cudaErrorMemoryAllocation);
    OK(cudaFree(a));
    moe_emulate_fail_call(1, cudaErrorUnknown);
    assert_int_equal(cudaFree(c), cudaErrorUnknown);
    OK(cudaFree(c));
    assert_int_equal(moe_emulate_count().allocations, 5);
    assert_int_equal(moe_emulate_count().frees, 2);
}

static void test_sticky(void **)
{
    cudaStream_t stream = new_stream();
    int *values = device_array(std::vector<int>(100, 1)), *more;
    moe_emulate_fail_launch(2, cudaErrorIllegalAddress);
    OK(add(values, 1, stream));
    OK(cudaStreamSynchronize(stream));
    OK(add(values, 1, stream));
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
    assert_int_equal(add(values, 1, stream), cudaErrorIllegalAddress);
    assert_int_equal(cudaGetLastError(), cudaErrorIllegalAddress);
    assert_int_equal(cudaGetLastError(), cudaErrorIllegalAddress);
    assert_int_equal(cudaMalloc(&more, 10), cudaErrorIllegalAddress);
    assert_int_equal(cudaStreamDestroy(stream), cudaErrorIllegalAddress);
    assert_int_equal(moe_emulate_check(), 1);
    assert_int_equal(cudaFree(values), cudaErrorIllegalAddress);
    assert_int_equal(moe_emulate_check(), 0);
}

static void test_launches(void **)
{
    int *values = device_array(std::vector<int>(100, 1)), blocks = 0;
    add_params p = {values, 100, 1};
    assert_int_equal(moe_launch(add_kernel, 0, 64, 0, NULL, false, p), cudaErrorInvalidConfiguration);
    assert_int_equal(moe_launch(add_kernel, 1, 1025, 0, NULL, false, p), cudaErrorInvalidConfiguration);
    assert_int_equal(moe_launch(add_kernel, 1, 64, 49153, NULL, false, p), cudaErrorInvalidValue);
    assert_int_equal(moe_allow_shared(add_kernel, 227 * 1024 + 1), cudaErrorInvalidValue);
    OK(moe_allow_shared(add_kernel, 227 * 1024));
    OK(moe_launch(add_kernel, 1, 1024, 227 * 1024, NULL, false, p));
    assert_int_equal(host_array(values, 1)[0], 2);
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, add_kernel, 256, 100 * 1024));
    assert_int_equal(blocks, 2);
    moe_emulate_count_from_here();
    OK(moe_launch(add_kernel, 3, 64, 0, NULL, true, p));
    OK(cudaDeviceSynchronize());
    struct moe_emulate_counts counts = moe_emulate_count();
    assert_true(counts.launches == 1 && counts.kernels == 1 && counts.blocks == 3 && counts.synchronisations == 1);
    assert_true(counts.overlapping == 1 && counts.waited == 0);
    OK(cudaFree(values));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_memory),      TEST(test_guard),            TEST(test_deferred),
        TEST(test_events),      TEST(test_graph),
        TEST(test_forbidden),   TEST(test_bad_captures),     TEST(test_no_machine),
        TEST(test_two_devices), TEST(test_allocations_fail), TEST(test_sticky), TEST(test_launches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
