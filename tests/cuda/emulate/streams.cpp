// SPDX-License-Identifier: MIT
// Streams and events: work is queued, and runs when someone waits for it.
#include "runtime.h"

#include <string.h>
#include <time.h>

/* ---- queues ---- */

cudaStream_t resolve_stream(cudaStream_t stream)
{
    if (stream == NULL || stream == cudaStreamLegacy) {
        int device = this_thread()->device;
        cudaStream_t legacy = &moe_gpu.legacy[device];
        legacy->legacy = legacy->blocking = true;
        legacy->device = device;
        return legacy;
    }
    return moe_gpu.streams.count(stream) ? stream : NULL;
}

/* The legacy stream and the blocking ones wait for what the other side was given before. */
static void run_before(cudaStream_t stream, uint64_t number)
{
    if (!stream->legacy) {
        if (stream->blocking)
            run_until(&moe_gpu.legacy[stream->device], number);
        return;
    }
    const std::set<cudaStream_t> streams = moe_gpu.streams;
    for (cudaStream_t other : streams)
        if (other->blocking && other->device == stream->device)
            run_until(other, number);
}

void run_until(cudaStream_t stream, uint64_t number)
{
    if (stream->pending.empty() || stream->pending.front().number > number)
        return;
    memory_access access;
    while (!stream->pending.empty() && stream->pending.front().number <= number) {
        run_before(stream, stream->pending.front().number - 1);
        queued next = std::move(stream->pending.front());
        stream->pending.pop_front();
        next.run();
    }
}

void run_everything(int device)
{
    const std::set<cudaStream_t> streams = moe_gpu.streams;
    for (cudaStream_t stream : streams)
        if (device < 0 || stream->device == device)
            run_until(stream, UINT64_MAX);
    for (int i = 0; i < 16; i++)
        if (device < 0 || i == device)
            run_until(&moe_gpu.legacy[i], UINT64_MAX);
}

/* Queues in the stream itself, capturing or not. */
static uint64_t push(cudaStream_t stream, std::function<void()> run)
{
    uint64_t number = ++moe_gpu.last_number;
    stream->pending.push_back({number, std::move(run)});
    if (!moe_gpu.defer)
        run_until(stream, number);
    return number;
}

cudaError_t enqueue(cudaStream_t stream, cudaGraphNodeType type, std::function<void()> run)
{
    if (stream->captured_by)
        return capture_work(stream, type, std::move(run));
    if (stream->legacy)
        for (const auto &c : moe_gpu.captures)
            if (c->origin->blocking && c->origin->device == stream->device) {
                moe_gpu.counts.forbidden++;
                invalidate(c);
                return cudaErrorStreamCaptureImplicit;
            }
    push(stream, std::move(run));
    return cudaSuccess;
}

/* ---- launches ---- */

cudaError_t moe_emulate_launch(const moe_emulate_launch_config &config, cudaStream_t stream,
                               std::function<void()> thread)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s || s->device != this_thread()->device)
        return call.end(cudaErrorInvalidResourceHandle);
    size_t threads = (size_t)config.block.x * config.block.y * config.block.z;
    if (!config.grid.x || config.grid.x > 2147483647u || !config.grid.y || !config.grid.z || !threads || threads > 1024)
        return call.end(cudaErrorInvalidConfiguration);
    auto limit = moe_gpu.shared_limits.find({s->device, config.kernel});
    if (config.shared_bytes > (limit == moe_gpu.shared_limits.end() ? 48u * 1024 : (size_t)limit->second))
        return call.end(cudaErrorInvalidValue);
    moe_gpu.counts.launches++;
    moe_gpu.overlap_seen |= config.overlap;
    int device = s->device;
    return call.end(enqueue(s, cudaGraphNodeTypeKernel, [config, thread, device, s]() {
        if (moe_gpu.sticky[device])
            return;
        if (moe_gpu.fail_launch && --moe_gpu.fail_launch == 0) {
            moe_gpu.failed = true;
            moe_gpu.sticky[device] = moe_gpu.launch_error;
            return;
        }
        bool looks = moe_gpu.overlap && moe_gpu.overlap_seen;
        if (looks)
            moe_overlap_begin(s, device, config.overlap);
        moe_emulate_run_result result = moe_emulate_run(config, thread, moe_gpu.run);
        if (looks)
            moe_overlap_end();
        moe_gpu.counts.kernels++;
        moe_gpu.counts.blocks += result.blocks;
        moe_gpu.counts.overlapping += config.overlap;
        moe_gpu.counts.waited += config.overlap && result.waited;
    }));
}

/* ---- copies and fills ---- */

/* -1: host memory; -2: beyond the end of an allocation. */
static int device_of(const void *pointer, size_t size, bool *pinned)
{
    const allocation *a = allocation_of(pointer);
    *pinned = a && a->host;
    if (a && size > (uintptr_t)a->base + a->size - (uintptr_t)pointer)
        return -2;
    return !a || a->host ? -1 : a->device;
}

struct route {
    bool ok, pageable_dst, pageable_src, to_device;
};

static route copy_route(const void *dst, const void *src, size_t count, cudaMemcpyKind kind)
{
    bool dst_pinned, src_pinned;
    int to = device_of(dst, count, &dst_pinned), from = device_of(src, count, &src_pinned);
    bool dst_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool src_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    bool ok = to != -2 && from != -2 && (unsigned)kind <= 4 && dst && src;
    if (kind != cudaMemcpyDefault)
        ok = ok && (to >= 0) == dst_device && (from >= 0) == src_device;
    return {ok, to < 0 && !dst_pinned, from < 0 && !src_pinned, to >= 0};
}

static void copy_now(int device, void *dst, const void *src, size_t count)
{
    moe_overlap_break();
    if (!moe_gpu.sticky[device])
        memcpy(dst, src, count);
}

extern "C" cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind,
                                       cudaStream_t stream)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s)
        return call.end(cudaErrorInvalidResourceHandle);
    if (count == 0)
        return cudaSuccess;
    route r = copy_route(dst, src, count, kind);
    if (!r.ok)
        return call.end(cudaErrorInvalidValue);
    moe_gpu.counts.copies++;
    moe_gpu.counts.synchronisations += r.pageable_dst || r.pageable_src;
    int device = s->device;
    if (r.pageable_src && r.to_device && !s->captured_by) {
        auto staged = std::make_shared<std::vector<unsigned char>>((const unsigned char *)src,
                                                                   (const unsigned char *)src + count);
        return call.end(enqueue(s, cudaGraphNodeTypeMemcpy, [=]() { copy_now(device, dst, staged->data(), count); }));
    }
    cudaError_t error = enqueue(s, cudaGraphNodeTypeMemcpy, [=]() { copy_now(device, dst, src, count); });
    if (!error && r.pageable_dst && !s->captured_by) {
        run_until(s, UINT64_MAX);
        return call.end_waited(device);
    }
    return call.end(error);
}

extern "C" cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind)
{
    api_call call(CALL_HEALTHY | CALL_UNCAPTURED | CALL_SYNCHRONISES);
    if (call.status || count == 0)
        return call.status;
    cudaStream_t s = resolve_stream(NULL);
    if (!copy_route(dst, src, count, kind).ok)
        return call.end(cudaErrorInvalidValue);
    moe_gpu.counts.copies++;
    int device = s->device;
    cudaError_t error = enqueue(s, cudaGraphNodeTypeMemcpy, [=]() { copy_now(device, dst, src, count); });
    run_until(s, UINT64_MAX);
    return error ? call.end(error) : call.end_waited(device);
}

extern "C" cudaError_t cudaMemsetAsync(void *pointer, int value, size_t count, cudaStream_t stream)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s)
        return call.end(cudaErrorInvalidResourceHandle);
    if (count == 0)
        return cudaSuccess;
    bool pinned;
    if (device_of(pointer, count, &pinned) < 0)
        return call.end(cudaErrorInvalidValue);
    moe_gpu.counts.fills++;
    int device = s->device;
    return call.end(enqueue(s, cudaGraphNodeTypeMemset, [=]() {
        moe_overlap_break();
        if (!moe_gpu.sticky[device])
            memset(pointer, value, count);
    }));
}

extern "C" cudaError_t cudaMemset(void *pointer, int value, size_t count)
{
    return cudaMemsetAsync(pointer, value, count, NULL);
}

extern "C" cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *user)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s || !function)
        return call.end(s ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    return call.end(enqueue(s, cudaGraphNodeTypeHost, [=]() {
        moe_overlap_break();
        function(user);
    }));
}

/* ---- streams ---- */

extern "C" cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    if (flags > cudaStreamNonBlocking)
        return call.end(cudaErrorInvalidValue);
    moe_gpu.counts.creations++;
    *stream = new CUstream_st();
    (*stream)->device = this_thread()->device;
    (*stream)->blocking = flags == cudaStreamDefault;
    moe_gpu.streams.insert(*stream);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

extern "C" cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!moe_gpu.streams.count(stream))
        return call.end(cudaErrorInvalidResourceHandle);
    run_until(stream, UINT64_MAX);
    if (stream->captured_by) {
        invalidate(stream->captured_by);
        moe_gpu.captures.erase(stream->captured_by);
    }
    moe_gpu.streams.erase(stream);
    int device = stream->device;
    delete stream;
    return call.end(moe_gpu.sticky[device]);
}

static cudaError_t wait_for(cudaStream_t stream, bool query)
{
    api_call call(CALL_HEALTHY | (query ? 0 : CALL_SYNCHRONISES));
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s)
        return call.end(cudaErrorInvalidResourceHandle);
    if (s->captured_by) {
        moe_gpu.counts.forbidden++;
        invalidate(s->captured_by);
        return call.end(cudaErrorStreamCaptureUnsupported);
    }
    if (!query && !allowed_under_capture())
        return call.end(cudaErrorStreamCaptureUnsupported);
    if (query && !s->pending.empty()) {
        run_until(s, s->pending.front().number);
        return moe_gpu.sticky[s->device] ? call.end_waited(s->device) : cudaErrorNotReady;
    }
    run_until(s, UINT64_MAX);
    return call.end_waited(s->device);
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return wait_for(stream, false);
}

/* What is pending goes on by one piece of work a query. */
extern "C" cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    return wait_for(stream, true);
}

extern "C" cudaError_t cudaStreamGetDevice(cudaStream_t stream, int *device)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s)
        return call.end(cudaErrorInvalidResourceHandle);
    *device = s->device;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceSynchronize(void)
{
    api_call call(CALL_HEALTHY | CALL_UNCAPTURED | CALL_SYNCHRONISES);
    if (call.status)
        return call.status;
    int device = this_thread()->device;
    run_everything(device);
    return call.end_waited(device);
}

/* ---- events ---- */

extern "C" cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    moe_gpu.counts.creations++;
    *event = new CUevent_st();
    (*event)->device = this_thread()->device;
    (*event)->flags = flags;
    moe_gpu.events.insert(*event);
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

extern "C" cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!moe_gpu.events.erase(event))
        return call.end(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

extern "C" cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s || !moe_gpu.events.count(event) || event->device != s->device)
        return call.end(cudaErrorInvalidResourceHandle);
    auto state = std::make_shared<event_state>();
    state->stream = s;
    event->last = state;
    if (s->captured_by) {
        if (s->captured_by->invalid)
            return call.end(cudaErrorStreamCaptureInvalidated);
        capture_event(s, state);
        return cudaSuccess;
    }
    state->number = push(s, [state]() {
        state->done = true;
        state->time = now();
    });
    return cudaSuccess;
}

/* Runs what the event stands behind. */
static void finish(const std::shared_ptr<event_state> &state)
{
    if (!state->done && (state->stream->legacy || moe_gpu.streams.count(state->stream)))
        run_until(state->stream, state->number);
}

extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s || !moe_gpu.events.count(event))
        return call.end(cudaErrorInvalidResourceHandle);
    std::shared_ptr<event_state> state = event->last;
    if (state && (s->captured_by || state->captured_by))
        return call.end(capture_wait(s, state));
    if (state && !state->done)
        push(s, [state]() { finish(state); });
    return cudaSuccess;
}

static cudaError_t wait_for_event(cudaEvent_t event, bool query)
{
    api_call call(CALL_HEALTHY | CALL_UNCAPTURED | (query ? 0 : CALL_SYNCHRONISES));
    if (call.status)
        return call.status;
    if (!moe_gpu.events.count(event))
        return call.end(cudaErrorInvalidResourceHandle);
    std::shared_ptr<event_state> state = event->last;
    if (!state)
        return cudaSuccess;
    if (state->captured_by) {
        invalidate(state->captured_by);
        return call.end(cudaErrorCapturedEvent);
    }
    if (query && !state->done) {
        finish(state);
        return cudaErrorNotReady;
    }
    finish(state);
    return call.end_waited(event->device);
}

extern "C" cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return wait_for_event(event, true);
}

extern "C" cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    return wait_for_event(event, false);
}

extern "C" cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    if (!moe_gpu.events.count(start) || !moe_gpu.events.count(end) ||
        (start->flags | end->flags) & cudaEventDisableTiming || !start->last || !end->last)
        return call.end(cudaErrorInvalidResourceHandle);
    if (!start->last->done || !end->last->done)
        return call.end(cudaErrorNotReady);
    *milliseconds = (float)(end->last->time - start->last->time);
    return cudaSuccess;
}
