// SPDX-License-Identifier: MIT
// What the GPU does at best, in the same run as the cells: copies, reads, products by mma.sync.
#include "bench.h"
#include "kernels.h"

enum { ROUNDS = 7, ITERATIONS = 20000 };
#define CALIBRATE_BYTES ((size_t)4 << 30)

struct calibration {
    struct bench *bench;
    struct moe_view from, to;
    size_t bytes;
};

static cudaError_t copy(const struct calibration *c)
{
    return cudaMemcpyAsync(c->to.base, c->from.base, c->bytes, cudaMemcpyDeviceToDevice, c->bench->stream);
}

static cudaError_t read(const struct calibration *c)
{
    return bench_read(c->bench->stream, c->from.base, c->bytes, c->to.base, 2 * c->bench->multiprocessors);
}

static cudaError_t multiply(const struct calibration *c)
{
    return bench_mma(c->bench->stream, c->to.base, ITERATIONS, 2 * c->bench->multiprocessors);
}

/* Seconds of the fastest of ROUNDS; 0: it failed. */
static double fastest(const struct calibration *c, cudaError_t (*run)(const struct calibration *c))
{
    cudaEvent_t begin = NULL, end = NULL;
    double best = 0;
    bool good = cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess;
    for (int i = 0; i < ROUNDS && good; i++) {
        float milliseconds = 0;
        good = cudaEventRecord(begin, c->bench->stream) == cudaSuccess && run(c) == cudaSuccess &&
               cudaEventRecord(end, c->bench->stream) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess &&
               cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess;
        if (i > 0 && good && (best == 0 || 1e-3 * milliseconds < best))
            best = 1e-3 * milliseconds;
    }
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (end != NULL)
        cudaEventDestroy(end);
    return good ? best : 0;
}

const char *bench_calibrate(struct bench *bench)
{
    struct calibration c = {.bench = bench, .bytes = CALIBRATE_BYTES};
    while (c.bytes > bench->memory / 4)
        c.bytes /= 2;
    const char *failure = NULL;
    if (moe_mem_alloc(bench->backend, c.bytes, &c.from) != MOE_OK)
        return "no memory to calibrate with";
    if (moe_mem_alloc(bench->backend, c.bytes, &c.to) != MOE_OK) {
        moe_mem_free(bench->backend, &c.from);
        return "no memory to calibrate with";
    }
    cudaMemsetAsync(c.from.base, 0x3c, c.bytes, bench->stream);
    double copy_time = fastest(&c, copy), read_time = fastest(&c, read), mma_time = fastest(&c, multiply);
    if (copy_time > 0 && read_time > 0 && mma_time > 0) {
        bench->copy = 2 * (double)c.bytes / copy_time;
        bench->read = (double)c.bytes / read_time;
        bench->mma = BENCH_MMA_FLOPS * ITERATIONS * 2 * bench->multiprocessors / mma_time;
    } else {
        failure = "the calibration failed";
    }
    moe_mem_free(bench->backend, &c.from);
    moe_mem_free(bench->backend, &c.to);
    return failure;
}
