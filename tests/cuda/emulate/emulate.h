// SPDX-License-Identifier: MIT
// A CUDA device on the CPU, for tests: src/cuda compiles against these headers and runs. Here: what is modelled, and
// how a test steers it.
//
// Kernels. Each thread is a fiber with a stack of its own; blocks run one after another. A fiber runs until it meets
// others: at a collective of its warp, a barrier, __nanosleep, its end. So a missing __syncwarp or __syncthreads shows
// as a wrong result, in one schedule or another (moe_emulate_schedule). What ends the program with a message:
//   - a collective whose mask names a lane that has ended, waits elsewhere, names another mask, or lacks the caller
//   - a barrier that lanes of one warp reach at different places, or that a thread has left out by ending
//   - threads that wait for ever; a fault (the message names block, thread and kernel)
//   - writes beyond the ends of dynamic shared memory, or of an allocation (looked at by cudaFree, moe_emulate_check)
// Shared memory is 0xff before each block (NaN in every float), new allocations too. moe_copy_async_16 makes its target
// 0xff at once and copies at the wait, so what reads too early, or issues too early, sees NaN. With AddressSanitizer
// static shared arrays have red zones instead of the 0xff.
// Streams. Work waits in its stream until something synchronises, then runs in a valid order: a host that forgets to
// wait sees the state before (moe_emulate_defer). Copies from pageable memory are staged, those to it wait, as in CUDA.
// Capturing records kernels, copies and fills; calls that CUDA forbids under capture fail and invalidate it.
// Launches that overlap. Until a block calls moe_wait_for_previous, what the kernels that may still be under way have
// changed is 0xff for it, and its own writes end the program (moe_emulate_overlap; allocations of up to 1 MB).
// Errors. Codes are CUDA's, kept until cudaGetLastError; one of a kernel stays for good, and is seen by the next call
// that waits, or any later one.
//
// Not modelled: blocks at the same time (no block may wait for another, and no race between blocks shows); threads of
// a warp in step; time; caches; reads of host memory by kernels, and of device memory by the host (both work, the
// latter unless moe_emulate_guard is on); the order of sums inside an mma (here in double, rounded once; the hardware
// has its own); fast arithmetic (exact here); limits of registers and of static shared memory; PTX but for the twins
// of src/cuda/ptx.cuh. Thread-local variables of the program are 0xff after a kernel: shared arrays are made of them.
#ifndef MOE_EMULATE_H
#define MOE_EMULATE_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Everything as at the start: no streams, graphs, allocations (returns how many there were), captures, sticky errors;
 * the settings below at their defaults. No other thread may be in a call. */
size_t moe_emulate_reset(void);

/* ---- the machine; 1 device, a new driver, 4 multiprocessors, 64 GB ---- */

void moe_emulate_devices(int count);   /* 0: calls fail with cudaErrorNoDevice; at most 16 */
void moe_emulate_old_driver(bool old); /* calls fail with cudaErrorInsufficientDriver */
void moe_emulate_multiprocessors(int count);
void moe_emulate_capability(int major, int minor);
void moe_emulate_memory(size_t bytes); /* of each device */

/* ---- failures, counted from the call on: 1 is the next; 0 turns it off ---- */

void moe_emulate_fail_allocation(size_t nth);  /* the nth allocation of device or pinned memory, and only it */
void moe_emulate_fail_allocations(size_t nth); /* the nth and all after it */
/* The nth kernel to run, of those on any device, and none after it on that device: error stays there. */
void moe_emulate_fail_launch(size_t nth, cudaError_t error);
/* The nth call of any function that returns cudaError_t, but cudaGetLastError and cudaPeekAtLastError, does nothing
 * and returns error. Whether it has happened: moe_emulate_failed. */
void moe_emulate_fail_call(size_t nth, cudaError_t error);
bool moe_emulate_failed(void);

/* ---- how kernels and streams run ---- */

enum moe_emulate_order {
    MOE_EMULATE_IN_ORDER, /* warps, lanes and blocks by number: a warp goes on as long as it can */
    MOE_EMULATE_REVERSED,
    MOE_EMULATE_RANDOM /* of the seed; warps change at collectives too */
};
void moe_emulate_schedule(enum moe_emulate_order order, uint64_t seed);
void moe_emulate_defer(bool defer); /* default true; false: work runs when it is queued */
/* Default true: launches with overlap begin before the kernels ahead of them have written anything; see above. */
void moe_emulate_overlap(bool overlap);

/* Default false. true: the host faults when it touches device memory, as with a real device. */
void moe_emulate_guard(bool guard);

/* ---- what has happened since moe_emulate_reset or moe_emulate_count_from_here ---- */

struct moe_emulate_counts {
    size_t allocations, frees;      /* of device and pinned memory */
    size_t creations;               /* of streams, events, executable graphs */
    size_t synchronisations;        /* calls that wait, or may: copies to and from pageable memory, frees too */
    size_t launches, copies, fills; /* queued or captured */
    size_t graph_launches;
    size_t kernels;     /* run, those of graphs too */
    size_t overlapping; /* of them, allowed to start early ... */
    size_t waited;      /* ... and every block called moe_wait_for_previous */
    size_t blocks;
    size_t forbidden; /* calls that are not allowed under capture and met one */
};
struct moe_emulate_counts moe_emulate_count(void);
void moe_emulate_count_from_here(void);

/* How many allocations are alive; ends the program if the bytes around one of them have changed. */
size_t moe_emulate_check(void);

#ifdef __cplusplus
}
#endif
#endif
