// SPDX-License-Identifier: MIT
// Captures and graphs. A graph's nodes are kept, and run, in the order of the calls: one of those that CUDA may choose.
#include "runtime.h"

void invalidate(const std::shared_ptr<capture> &c)
{
    c->invalid = true;
}

bool allowed_under_capture(void)
{
    cudaStreamCaptureMode mode = this_thread()->mode;
    bool allowed = true;
    for (const auto &c : moe_gpu.captures) {
        bool own = c->thread == std::this_thread::get_id();
        bool meant = mode == cudaStreamCaptureModeRelaxed       ? false
                     : mode == cudaStreamCaptureModeThreadLocal ? own
                                                                : own || c->mode == cudaStreamCaptureModeGlobal;
        if (meant && c->mode != cudaStreamCaptureModeRelaxed) {
            invalidate(c);
            allowed = false;
        }
    }
    moe_gpu.counts.forbidden += !allowed;
    return allowed;
}

cudaError_t capture_work(cudaStream_t stream, cudaGraphNodeType type, std::function<void()> run)
{
    capture *c = stream->captured_by.get();
    if (c->invalid)
        return cudaErrorStreamCaptureInvalidated;
    c->nodes.push_back(std::make_shared<CUgraphNode_st>(CUgraphNode_st{{type, std::move(run)}}));
    capture::branch *b = &c->branches[stream];
    b->position++;
    b->joined = false;
    return cudaSuccess;
}

void capture_event(cudaStream_t stream, const std::shared_ptr<event_state> &event)
{
    event->captured_by = stream->captured_by;
    event->position = stream->captured_by->branches[stream].position;
}

cudaError_t capture_wait(cudaStream_t stream, const std::shared_ptr<event_state> &event)
{
    std::shared_ptr<capture> c = event->captured_by;
    if (!c) {
        invalidate(stream->captured_by);
        return cudaErrorStreamCaptureIsolation;
    }
    if (c->invalid || !moe_gpu.captures.count(c))
        return c->invalid ? cudaErrorStreamCaptureInvalidated : cudaErrorCapturedEvent;
    if (stream->captured_by && stream->captured_by != c) {
        invalidate(c);
        invalidate(stream->captured_by);
        return cudaErrorStreamCaptureMerge;
    }
    if (stream->legacy)
        return cudaErrorStreamCaptureImplicit;
    stream->captured_by = c;
    capture::branch *own = &c->branches[stream], *other = &c->branches[event->stream];
    own->position++;
    own->joined = false;
    if (other != own && other->position == event->position)
        other->joined = true;
    return cudaSuccess;
}

extern "C" cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if ((unsigned)*mode > cudaStreamCaptureModeRelaxed)
        return call.end(cudaErrorInvalidValue);
    std::swap(*mode, this_thread()->mode);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s || (unsigned)mode > cudaStreamCaptureModeRelaxed)
        return call.end(s ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    if (s->legacy)
        return call.end(cudaErrorStreamCaptureUnsupported);
    if (s->captured_by)
        return call.end(cudaErrorIllegalState);
    auto c = std::make_shared<capture>();
    c->id = ++moe_gpu.last_capture;
    c->mode = mode;
    c->thread = std::this_thread::get_id();
    c->origin = s;
    moe_gpu.captures.insert(c);
    s->captured_by = c;
    return cudaSuccess;
}

static cudaError_t end_capture(const std::shared_ptr<capture> &c, cudaGraph_t *graph)
{
    moe_gpu.captures.erase(c);
    bool joined = true;
    for (cudaStream_t stream : moe_gpu.streams)
        if (stream->captured_by == c) {
            joined = joined && (stream == c->origin || c->branches[stream].joined);
            stream->captured_by = NULL;
        }
    if (c->invalid)
        return cudaErrorStreamCaptureInvalidated;
    if (!joined)
        return cudaErrorStreamCaptureUnjoined;
    *graph = new CUgraph_st();
    (*graph)->nodes = c->nodes;
    moe_gpu.graphs.insert(*graph);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = NULL;
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s || !s->captured_by)
        return call.end(s ? cudaErrorIllegalState : cudaErrorInvalidResourceHandle);
    std::shared_ptr<capture> c = s->captured_by;
    if (c->origin != s)
        return call.end(cudaErrorStreamCaptureUnmatched);
    if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
        return call.end(cudaErrorStreamCaptureWrongThread);
    return call.end(end_capture(c, graph));
}

extern "C" cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                                unsigned long long *id, cudaGraph_t *graph,
                                                const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges,
                                                size_t *num_dependencies)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s)
        return call.end(cudaErrorInvalidResourceHandle);
    if (graph || dependencies || edges || num_dependencies)
        return call.end(cudaErrorNotSupported); /* of the emulator: it keeps no edges */
    if (s->legacy)
        for (const auto &c : moe_gpu.captures)
            if (c->origin->blocking && c->origin->device == s->device)
                return call.end(cudaErrorStreamCaptureImplicit);
    capture *c = s->captured_by.get();
    *status = !c           ? cudaStreamCaptureStatusNone
              : c->invalid ? cudaStreamCaptureStatusInvalidated
                           : cudaStreamCaptureStatusActive;
    if (id && c)
        *id = c->id;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    return cudaStreamGetCaptureInfo(stream, status, NULL, NULL, NULL, NULL, NULL);
}

/* ---- graphs ---- */

extern "C" cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *num_nodes)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!moe_gpu.graphs.count(graph) || !num_nodes)
        return call.end(cudaErrorInvalidValue);
    size_t count = graph->nodes.size();
    for (size_t i = 0; nodes && i < *num_nodes; i++)
        nodes[i] = i < count ? graph->nodes[i].get() : NULL;
    if (!nodes || *num_nodes > count)
        *num_nodes = count;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, enum cudaGraphNodeType *type)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!node)
        return call.end(cudaErrorInvalidValue);
    *type = node->what.type;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!moe_gpu.graphs.erase(graph))
        return call.end(cudaErrorInvalidValue);
    delete graph;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    api_call call(CALL_HEALTHY | CALL_UNCAPTURED);
    if (call.status)
        return call.status;
    if (!moe_gpu.graphs.count(graph))
        return call.end(cudaErrorInvalidValue);
    moe_gpu.counts.creations++;
    *exec = new CUgraphExec_st();
    (*exec)->device = this_thread()->device;
    (*exec)->nodes = std::make_shared<const std::vector<std::shared_ptr<CUgraphNode_st>>>(graph->nodes);
    moe_gpu.execs.insert(*exec);
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    return moe_gpu.execs.count(exec) && resolve_stream(stream) ? cudaSuccess : call.end(cudaErrorInvalidValue);
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    cudaStream_t s = resolve_stream(stream);
    if (!s || !moe_gpu.execs.count(exec))
        return call.end(s ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    moe_gpu.counts.graph_launches++;
    auto nodes = exec->nodes;
    return call.end(enqueue(s, cudaGraphNodeTypeKernel, [nodes]() {
        moe_overlap_break();
        for (const auto &node : *nodes)
            node->what.run();
        moe_overlap_break();
    }));
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!moe_gpu.execs.erase(exec))
        return call.end(cudaErrorInvalidValue);
    delete exec;
    return cudaSuccess;
}
