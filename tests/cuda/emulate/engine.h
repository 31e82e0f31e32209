// SPDX-License-Identifier: MIT
// Between the headers that kernels see, the fibers that run them (fibers.cpp, warps.cpp) and the runtime.
#ifndef MOE_EMULATE_ENGINE_H
#define MOE_EMULATE_ENGINE_H

#include "asan.h"
#include "emulate.h"
#include "vectors.h"

#include <functional>
#include <stdint.h>

/* Where in the source a kernel calls: the last parameters of every wrapper, filled in by the compiler. */
struct moe_emulate_site {
    const char *file;
    int line;
};
#define MOE_EMULATE_SITE const char *moe_file = __builtin_FILE(), int moe_line = __builtin_LINE()
#define MOE_EMULATE_HERE (moe_emulate_site{moe_file, moe_line})

/* ---- for kernels, in fibers.cpp ---- */

/* Wait for the lanes of mask; the last one calls combine with every lane's operands (NULL outside mask), which puts the
 * results there too. name is what messages say. */
typedef void moe_emulate_combine(void *const operands[32], uint32_t mask);
void moe_emulate_meet(uint32_t mask, void *operands, moe_emulate_combine *combine, const char *name,
                      moe_emulate_site site);

/* Barrier id (0..15) of that many threads, 0 for the whole block; the sum, or and and of predicate over them. */
struct moe_emulate_votes {
    int count, any, all;
};
moe_emulate_votes moe_emulate_barrier(int id, int threads, bool predicate, const char *name, moe_emulate_site site);

int moe_emulate_lane(void);
void moe_emulate_yield(void);
long long moe_emulate_clock(void);
unsigned char *moe_emulate_dynamic_shared(void);
void moe_emulate_wait_for_previous(moe_emulate_site site);
void moe_emulate_let_next_start(void);
[[noreturn]] void moe_emulate_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* cp.async: queued until the wait. */
void moe_emulate_copy_async(void *shared, const void *global, uint32_t bytes, moe_emulate_site site);
void moe_emulate_copy_commit(void);
void moe_emulate_copy_wait(unsigned pending);

/* The window of addresses of shared memory: that of dynamic memory is what moe_emulate_shared_pointer gives back. */
uint32_t moe_emulate_shared_address(const void *shared);
void *moe_emulate_shared_pointer(uint32_t address);

/* ---- warp collectives over bits, in warps.cpp ---- */

enum moe_emulate_shuffle_mode { MOE_SHUFFLE_INDEX, MOE_SHUFFLE_UP, MOE_SHUFFLE_DOWN, MOE_SHUFFLE_XOR };
uint64_t moe_emulate_shuffle(uint32_t mask, uint64_t value, moe_emulate_shuffle_mode mode, int lane, int width,
                             moe_emulate_site site);
uint32_t moe_emulate_ballot(uint32_t mask, bool predicate, const char *name, moe_emulate_site site);
enum moe_emulate_reduction {
    MOE_REDUCE_ADD,
    MOE_REDUCE_MIN,
    MOE_REDUCE_MAX,
    MOE_REDUCE_MIN_SIGNED,
    MOE_REDUCE_MAX_SIGNED,
    MOE_REDUCE_AND,
    MOE_REDUCE_OR,
    MOE_REDUCE_XOR
};
uint32_t moe_emulate_reduce(uint32_t mask, uint32_t value, moe_emulate_reduction what, moe_emulate_site site);
uint32_t moe_emulate_match(uint32_t mask, uint64_t value, moe_emulate_site site);
void moe_emulate_sync_warp(uint32_t mask, moe_emulate_site site);
/* As mma.m16n8k16 of bf16 lays its registers out. */
void moe_emulate_mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, moe_emulate_site site);
uint32_t moe_emulate_round_bf16(double x); /* to nearest even, once; NaN: 0x7fff */
uint32_t moe_emulate_fma_bf16(uint32_t a, uint32_t b, uint32_t c);

/* ---- for launch.cuh, in streams.cpp ---- */

struct moe_emulate_launch_config {
    const void *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    bool overlap;
};
cudaError_t moe_emulate_launch(const moe_emulate_launch_config &config, cudaStream_t stream,
                               std::function<void()> thread);

/* ---- for the runtime, in fibers.cpp ---- */

struct moe_emulate_run_options {
    moe_emulate_order order;
    uint64_t seed;
};
struct moe_emulate_run_result {
    size_t blocks;
    bool waited; /* every block called moe_wait_for_previous */
};
moe_emulate_run_result moe_emulate_run(const moe_emulate_launch_config &config, const std::function<void()> &thread,
                                       moe_emulate_run_options options);

#endif
