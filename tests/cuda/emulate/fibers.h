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
    const void *stack;      /* lowest address and size, for AddressSanitizer */
    size_t stack_size;
    void *fake_stack;
};

/* number: of the fiber; neighbours get stacks that fall into different sets of a cache. entry never returns. */
void moe_fiber_create(moe_fiber_context *context, void (*entry)(void), unsigned number);
void moe_fiber_switch(moe_fiber_context *from, moe_fiber_context *to);

#endif
