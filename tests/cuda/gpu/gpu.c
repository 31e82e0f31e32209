// SPDX-License-Identifier: MIT
// The backend under test: memory with guards through libmoe's own calls, streams and graphs through CUDA's.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { GUARD_BYTES = 256, GUARD = 0x5a, CHUNK = 1 << 20 };

/* A build that has the backend in the program opens it by its table, an expression: for tests without a GPU. */
#ifdef CHECK_BACKEND
#include "moe/backend.h"
extern const struct moe_backend_ops moe_cuda_ops;
const struct moe_backend_ops *check_double(void);
#endif

enum moe_status gpu_backend_open(const char *name, struct moe_backend **out, struct moe_error *error)
{
#ifdef CHECK_BACKEND
    if (strcmp(name, "cuda") == 0 || strncmp(name, "cuda:", 5) == 0)
        return moe_backend_open_ops(CHECK_BACKEND, name[4] == ':' ? name + 5 : NULL, NULL, out, error);
#endif
    return moe_backend_open(name, NULL, out, error);
}

static void print_fact(void *user, const char *key, const char *value)
{
    (void)user;
    if (strcmp(key, "kernel") != 0)
        printf("      %s: %s\n", key, value);
}

bool gpu_open(struct gpu *gpu)
{
    struct moe_error error = {0};
    gpu->cuda = strncmp(gpu->name, "cuda", 4) == 0;
    enum moe_status status = gpu_backend_open(gpu->name, &gpu->backend, &error);
    if (status == MOE_OK)
        status = moe_context_create(gpu->backend, NULL, &gpu->ctx, &error);
    if (status != MOE_OK) {
        fprintf(stderr, "moe-test-cuda: %s: %s\n", gpu->name, error.text[0] ? error.text : moe_status_text(status));
        moe_backend_close(gpu->backend);
        return false;
    }
    printf("moe-test-cuda: libmoe %s, backend %s%s\n", moe_version(), gpu->name, gpu->quick ? ", quick" : "");
    moe_backend_describe(gpu->backend, print_fact, NULL);
    if (!gpu->cuda)
        return true;
    if (cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking) != cudaSuccess ||
        moe_context_set_stream(gpu->ctx, gpu->stream) != MOE_OK) {
        fprintf(stderr, "moe-test-cuda: %s: no stream can be made\n", gpu->name);
        return false;
    }
    return true;
}

void gpu_close(struct gpu *gpu)
{
    moe_context_destroy(gpu->ctx);
    moe_backend_close(gpu->backend);
    if (gpu->stream != NULL)
        cudaStreamDestroy(gpu->stream);
}

/* ---- memory ---- */

static void fill(struct gpu *gpu, const struct moe_view *view, size_t size, unsigned char value)
{
    if (gpu->cuda) {
        void *at = (char *)view->base + view->offset;
        check_cuda(gpu, cudaMemsetAsync(at, value, size, gpu->stream), "cudaMemsetAsync");
        return;
    }
    unsigned char *bytes = host_alloc(CHUNK, 1);
    memset(bytes, value, CHUNK);
    struct moe_view at = *view;
    for (size_t done = 0; done < size; done += at.size) {
        at.offset = view->offset + done;
        at.size = size - done < CHUNK ? size - done : CHUNK;
        gpu_write(gpu, &at, bytes, at.size);
    }
    free(bytes);
}

struct moe_view gpu_alloc(struct gpu *gpu, size_t size, enum moe_format format)
{
    struct moe_view view;
    if (moe_mem_alloc(gpu->backend, size + GUARD_BYTES, &view) != MOE_OK)
        check_stop(gpu, "no memory for %zu bytes", size);
    view.format = format;
    view.stride = 0;
    struct moe_view guard = view;
    guard.offset += size;
    fill(gpu, &guard, GUARD_BYTES, GUARD);
    view.size = size;
    gpu_poison(gpu, &view);
    return view;
}

/* The views that are freed and guarded are the ones that gpu_alloc gave. */
void gpu_free(struct gpu *gpu, struct moe_view *view)
{
    if (view->base != NULL) {
        view->size += GUARD_BYTES;
        moe_mem_free(gpu->backend, view);
    }
    *view = (struct moe_view){0};
}

bool gpu_guard(struct gpu *gpu, const struct moe_view *view)
{
    unsigned char bytes[GUARD_BYTES];
    struct moe_view guard = *view;
    guard.offset += view->size;
    guard.size = GUARD_BYTES;
    gpu_read(gpu, bytes, &guard, GUARD_BYTES);
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (bytes[i] != GUARD)
            return false;
    return true;
}

void gpu_poison(struct gpu *gpu, const struct moe_view *view)
{
    if (view->size > 0)
        fill(gpu, view, view->size, 0xff);
}

void gpu_write(struct gpu *gpu, const struct moe_view *view, const void *src, size_t size)
{
    if (size > 0)
        check_ok(gpu, moe_mem_write(gpu->ctx, view, src, size), "moe_mem_write");
}

void gpu_read(struct gpu *gpu, void *dst, const struct moe_view *view, size_t size)
{
    if (size > 0)
        check_ok(gpu, moe_mem_read(gpu->ctx, dst, view, size), "moe_mem_read");
}

void gpu_sync(struct gpu *gpu)
{
    check_ok(gpu, moe_context_sync(gpu->ctx), "moe_context_sync");
}

/* ---- graphs ---- */

/* Global: no thread may call what might disturb a capture, so that an allocation in a forward shows. */
void gpu_capture_begin(struct gpu *gpu)
{
    gpu_sync(gpu);
    check_cuda(gpu, cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
}

/* cudaMallocAsync and cudaFreeAsync under capture become nodes, of types 10 and 11. */
static void count_memory_nodes(struct gpu *gpu, struct gpu_graph *out, cudaGraph_t graph)
{
    cudaGraphNode_t *nodes = host_alloc(out->num_nodes, sizeof *nodes);
    out->num_memory = 0;
    check_cuda(gpu, cudaGraphGetNodes(graph, nodes, &out->num_nodes), "cudaGraphGetNodes");
    for (size_t i = 0; i < out->num_nodes; i++) {
        enum cudaGraphNodeType type;
        check_cuda(gpu, cudaGraphNodeGetType(nodes[i], &type), "cudaGraphNodeGetType");
        out->num_memory += (int)type == 10 || (int)type == 11;
    }
    free(nodes);
}

void gpu_recover(struct gpu *gpu)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = NULL;
    if (gpu->cuda && cudaStreamIsCapturing(gpu->stream, &status) == cudaSuccess &&
        status != cudaStreamCaptureStatusNone)
        cudaStreamEndCapture(gpu->stream, &graph);
    if (graph != NULL)
        cudaGraphDestroy(graph);
    moe_context_destroy(gpu->ctx);
    gpu->ctx = NULL;
    if (moe_context_create(gpu->backend, NULL, &gpu->ctx, NULL) != MOE_OK)
        return;
    if (gpu->cuda) {
        cudaGetLastError();
        moe_context_set_stream(gpu->ctx, gpu->stream);
    }
}

void gpu_capture_end(struct gpu *gpu, struct gpu_graph *out)
{
    cudaGraph_t graph = NULL;
    check_cuda(gpu, cudaStreamEndCapture(gpu->stream, &graph), "cudaStreamEndCapture");
    check_cuda(gpu, cudaGraphGetNodes(graph, NULL, &out->num_nodes), "cudaGraphGetNodes");
    count_memory_nodes(gpu, out, graph);
    check_cuda(gpu, cudaGraphInstantiate(&out->exec, graph, 0), "cudaGraphInstantiate");
    check_cuda(gpu, cudaGraphDestroy(graph), "cudaGraphDestroy");
}

void gpu_graph_launch(struct gpu *gpu, const struct gpu_graph *graph)
{
    check_cuda(gpu, cudaGraphLaunch(graph->exec, gpu->stream), "cudaGraphLaunch");
}

void gpu_graph_free(struct gpu_graph *graph)
{
    if (graph->exec != NULL)
        cudaGraphExecDestroy(graph->exec);
    graph->exec = NULL;
}
