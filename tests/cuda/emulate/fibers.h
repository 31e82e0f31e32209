// SPDX-License-Identifier: MIT
// Stacks, and switching between them, in switch.cpp.
#ifndef MOE_EMULATE_FIBERS_H
#define MOE_EMULATE_FIBERS_H

#include "engine.h"

#include <stddef.h>
#include <string.h>
#include <vector>

#if !defined(__x86_64__) || defined(MOE_EMULATE_UCONTEXT)
#define MOE_EMULATE_USES_UCONTEXT 1
#include <ucontext.h>
#endif

struct moe_fiber_context {
#ifdef MOE_EMULATE_USES_UCONTEXT
    ucontext_t context;
#else
    void *stack_pointer;
#endif
    const void *stack; /* lowest address and size, for AddressSanitizer */
    size_t stack_size;
    void *fake_stack;
};

/* number: of the fiber; neighbours get stacks that fall into different sets of a cache. entry never returns. */
void moe_fiber_create(moe_fiber_context *context, void (*entry)(void), unsigned number);
void moe_fiber_switch(moe_fiber_context *from, moe_fiber_context *to);

/* ---- the state of the block that runs; threadIdx is that of the thread that does ---- */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

constexpr unsigned MAX_THREADS = 1024, NUM_BARRIERS = 16;

struct moe_fiber_copy {
    unsigned char *dst;
    const unsigned char *src;
    uint32_t bytes;
    unsigned group;
};

enum moe_fiber_state { READY, AT_COLLECTIVE, AT_BARRIER, AT_PREVIOUS, ENDED };

struct moe_fiber {
    moe_fiber_context context;
    uint3 index;
    unsigned warp, lane;
    moe_fiber_state state;
    const char *waits_at;
    moe_emulate_site site;
    bool waited_for_previous;
    std::vector<moe_fiber_copy> copies;
    unsigned group; /* that the next copy joins */
};

/* A collective that some lanes have reached. */
struct moe_fiber_meeting {
    uint32_t mask, arrived;
    moe_emulate_combine *combine;
    const char *name;
    moe_emulate_site site;
    void *operands[32];
};

struct moe_fiber_warp {
    uint32_t present, ready, ended, at_barrier, at_previous;
    std::vector<moe_fiber_meeting> meetings; /* of lanes that wait; each lane is in one */
    uint32_t last;                           /* lane that ran */
};

struct moe_fiber_barrier {
    unsigned arrived, expected;
    const char *name;
    moe_emulate_votes votes, result;
    uint32_t lanes[MAX_THREADS / 32];
    moe_emulate_site sites[MAX_THREADS / 32];
};

struct moe_fiber_engine {
    moe_fiber fibers[MAX_THREADS];
    unsigned num_fibers; /* that have a stack */
    moe_fiber_warp warps[MAX_THREADS / 32];
    moe_fiber_barrier barriers[NUM_BARRIERS];
    moe_fiber_context home;
    moe_fiber *current;
    unsigned num_threads, num_warps, num_ended;
    uint32_t ready_warps;
    moe_emulate_order order;
    uint64_t random;
    long long clock;
    const std::function<void()> *thread;
    unsigned char *shared_end, *shared; /* shared memory ends where a page without access begins */
    size_t shared_bytes;
    unsigned char *tls;
    size_t tls_size;
    bool in_kernel;
    bool hides, hidden; /* what kernels before have written; now (overlap.cpp) */
};
extern moe_fiber_engine moe_run;

/* overlap.cpp: of each block while moe_run.hides; waited: a thread of it has called moe_wait_for_previous */
void moe_overlap_hide(void);
void moe_overlap_reveal(bool waited);
void moe_overlap_let_next_start(void);

/* fibers.cpp */
uint64_t moe_fiber_random(void);
/* The next set bit after `last`, cyclically, in the direction of the order. */
unsigned moe_fiber_next(uint32_t bits, unsigned last);
void moe_fiber_make_ready(unsigned warp, uint32_t lanes);
void moe_fiber_end_thread(void);
void moe_fiber_say_where(void);

#endif
