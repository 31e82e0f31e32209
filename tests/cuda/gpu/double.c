// SPDX-License-Identifier: MIT
// A backend that the checks can be tried on: the emulated device, with layers computed by the CPU backend where their
// turn in the stream comes. MOE_DOUBLE_FAULT names something that it is to do wrong, which a check must find.
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda.h"
#include "moe/backend.h"

extern const struct moe_backend_ops moe_cuda_ops, moe_cpu_ops;

const struct moe_backend_ops *check_double(void);

enum { MOST_IDS = 4096 };

#define TRY(call)                          \
    do {                                   \
        enum moe_status try_status = call; \
        if (try_status != MOE_OK)          \
            return try_status;             \
    } while (0)

/* The descriptor that a layer of the CPU refers to, and that layer. */
struct layer {
    struct moe_layer_desc desc;
    void *state;
};

static const void *cpu_state(const void *state)
{
    return ((const struct layer *)state)->state;
}

/* A call that waits in a stream, or is kept by a graph; never freed. */
struct job {
    const void *state;
    struct moe_layer_io io;
    const char *fault;
    int32_t ids[MOST_IDS];
    struct job *next;
};
static struct job *jobs;
static void *cpu, *cpu_ctx;
static struct moe_stats counted;

static bool is_fault(const char *fault, const char *name)
{
    return fault != NULL && strcmp(fault, name) == 0;
}

/* ids in memory of the job: those of the time when it was queued, or with all that are out of range made 0. */
static void replace_ids(struct job *job, struct moe_layer_io *io, bool in_range)
{
    size_t count = io->num_tokens * io->top_k;
    if (io->ids.base == NULL || io->ids.format != MOE_FORMAT_I32 || count > MOST_IDS)
        return;
    if (in_range)
        memcpy(job->ids, moe_cuda_address(&io->ids), count * sizeof *job->ids);
    for (size_t i = 0; in_range && i < count; i++)
        job->ids[i] = job->ids[i] < 0 || job->ids[i] > 15 ? 0 : job->ids[i];
    io->ids.base = job->ids;
    io->ids.offset = 0;
}

static void spoil(const struct job *job)
{
    unsigned char *out = moe_cuda_address(&job->io.out), *workspace = moe_cuda_address(&job->io.workspace);
    size_t row = job->io.out.stride;
    if (is_fault(job->fault, "batch") && job->io.num_tokens > 4)
        out[0] ^= 1;
    if (is_fault(job->fault, "value") && job->io.num_tokens > 0)
        memset(out, 0, row / 8);
    if (is_fault(job->fault, "behind"))
        workspace[job->io.workspace.size] = 1;
    if (is_fault(job->fault, "padding") && job->io.num_tokens > 0)
        memset(out + (job->io.num_tokens - 1) * row, 1, 4);
}

static void CUDART_CB run(void *arg)
{
    struct job *job = arg;
    struct moe_layer_io io = job->io;
    if (is_fault(job->fault, "range"))
        replace_ids(job, &io, true);
    else if (is_fault(job->fault, "stale"))
        replace_ids(job, &io, false);
    struct moe_stats stats = {0};
    moe_cpu_ops.layer_forward(cpu_ctx, cpu_state(job->state), &io, &stats);
    counted.nonfinite_rows += stats.nonfinite_rows;
    counted.skipped_pairs += stats.skipped_pairs;
    spoil(job);
}

static enum moe_status open_layer(void *self, const struct moe_layer_desc *desc, void **state,
                                  struct moe_layer_info *info, struct moe_error *error)
{
    struct layer *layer = calloc(1, sizeof *layer);
    *state = layer;
    (void)self;
    if (layer == NULL)
        return MOE_ERR_MEMORY;
    if (cpu == NULL) {
        struct moe_context_params params;
        MOE_INIT(&params);
        params.num_threads = 1;
        TRY(moe_cpu_ops.open(NULL, NULL, &cpu, error));
        TRY(moe_cpu_ops.context_open(cpu, &params, &cpu_ctx, error));
    }
    layer->desc = *desc;
    layer->desc.flags |= MOE_LAYER_EXACT | MOE_LAYER_BATCH_INVARIANT;
    TRY(moe_cpu_ops.layer_open(cpu, &layer->desc, &layer->state, info, error));
    info->capturable = true;
    return MOE_OK;
}

static void close_layer(void *state)
{
    struct layer *layer = state;
    if (layer != NULL)
        moe_cpu_ops.layer_close(layer->state);
    free(layer);
}

static enum moe_status workspace_size(const void *ctx, const void *state, const struct moe_layer_io *io, size_t *bytes)
{
    (void)ctx;
    return moe_cpu_ops.layer_workspace_size(cpu_ctx, cpu_state(state), io, bytes);
}

static enum moe_status forward(void *ctx, const void *state, const struct moe_layer_io *io, struct moe_stats *stats)
{
    struct moe_cuda_context *cuda = ctx;
    struct job *job = calloc(1, sizeof *job);
    void *leak = NULL;
    (void)stats;
    if (job == NULL)
        return MOE_ERR_MEMORY;
    *job = (struct job){.state = state, .io = *io, .fault = getenv("MOE_DOUBLE_FAULT"), .next = jobs};
    jobs = job;
    if (is_fault(job->fault, "stale") && io->ids.format == MOE_FORMAT_I32 && io->num_tokens * io->top_k <= MOST_IDS)
        memcpy(job->ids, moe_cuda_address(&io->ids), io->num_tokens * io->top_k * sizeof *job->ids);
    if (is_fault(job->fault, "wait") && cudaStreamSynchronize(cuda->stream) != cudaSuccess)
        return MOE_ERR_DEVICE;
    if (is_fault(job->fault, "alloc"))
        (void)cudaMalloc(&leak, 256);
    if (is_fault(job->fault, "early")) {
        run(job);
        return MOE_OK;
    }
    return moe_cuda_status(cudaLaunchHostFunc(cuda->stream, run, job));
}

/* Halves are not what graphs are made of: they wait and run. */
static enum moe_status route(void *ctx, const void *state, const struct moe_layer_io *io, struct moe_stats *stats)
{
    TRY(moe_cuda_ops.sync(ctx));
    return moe_cpu_ops.layer_route(cpu_ctx, cpu_state(state), io, stats);
}

static enum moe_status combine(void *ctx, const void *state, const struct moe_layer_io *io, struct moe_stats *stats)
{
    TRY(moe_cuda_ops.sync(ctx));
    return moe_cpu_ops.layer_combine(cpu_ctx, cpu_state(state), io, stats);
}

static enum moe_status stats_of(void *ctx, struct moe_stats *stats, bool reset)
{
    TRY(moe_cuda_ops.context_stats(ctx, stats, reset));
    stats->nonfinite_rows += counted.nonfinite_rows;
    stats->skipped_pairs += counted.skipped_pairs;
    if (reset)
        memset(&counted, 0, sizeof counted);
    return MOE_OK;
}

/* The emulated device's table with layers added, when the program starts. */
static struct moe_backend_ops double_ops;

const struct moe_backend_ops *check_double(void)
{
    double_ops = moe_cuda_ops;
    double_ops.layer_open = open_layer;
    double_ops.layer_close = close_layer;
    double_ops.layer_workspace_size = workspace_size;
    double_ops.layer_forward = forward;
    double_ops.layer_route = route;
    double_ops.layer_combine = combine;
    double_ops.layer_forward_team = NULL;
    double_ops.context_stats = stats_of;
    return &double_ops;
}
