// SPDX-License-Identifier: MIT
// Stacks, and switching between them: a few instructions on x86-64, ucontext elsewhere.
#include "fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#ifdef MOE_EMULATE_ASAN
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
static constexpr size_t STACK = 256 * 1024; /* its frames are larger */
#else
static constexpr size_t STACK = 64 * 1024;
#endif
static constexpr size_t CACHE_LINE = 64;

static void (*fiber_entry)(void);

#ifdef MOE_EMULATE_ASAN
/* The stack that the program came from is learnt by the first fiber entered. */
static moe_fiber_context *came_from;
static void before_switch(moe_fiber_context *from, const moe_fiber_context *to)
{
    came_from = from;
    if (!from->stack) {
        pthread_attr_t attributes;
        void *stack = NULL;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &stack, &from->stack_size);
        pthread_attr_destroy(&attributes);
        from->stack = stack;
    }
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_size);
}
static void after_switch(moe_fiber_context *self)
{
    __sanitizer_finish_switch_fiber(self ? self->fake_stack : NULL, NULL, NULL);
}
#else
static void before_switch(moe_fiber_context *, const moe_fiber_context *)
{
}
static void after_switch(moe_fiber_context *)
{
}
#endif

/* The first code of a fiber; another begins here, too, only once. */
static void start(void)
{
    after_switch(NULL);
    fiber_entry();
}

static unsigned char *new_stack(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0)
        moe_emulate_die("no memory for a stack");
    return (unsigned char *)memory;
}

#ifndef MOE_EMULATE_USES_UCONTEXT

/* Saves what a call preserves on the old stack, and returns on the new one. */
extern "C" void moe_fiber_swap(void **save, void *to);
asm(".text\n"
    ".p2align 4\n"
    ".hidden moe_fiber_swap\n"
    ".globl moe_fiber_swap\n"
    ".type moe_fiber_swap, @function\n"
    "moe_fiber_swap:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size moe_fiber_swap, .-moe_fiber_swap\n");

void moe_fiber_create(moe_fiber_context *context, void (*entry)(void), unsigned number)
{
    unsigned char *stack = new_stack();
    fiber_entry = entry;
    *context = {};
    context->stack = stack;
    context->stack_size = STACK;
    void **top = (void **)(stack + STACK - (number % 48 + 1) * 3 * CACHE_LINE);
    *--top = NULL; /* where start would return to; and it finds its stack as after a call */
    *--top = (void *)start;
    top -= 6; /* the registers */
    memset(top, 0, 6 * sizeof *top);
    context->stack_pointer = top;
}

void moe_fiber_switch(moe_fiber_context *from, moe_fiber_context *to)
{
    before_switch(from, to);
    moe_fiber_swap(&from->stack_pointer, to->stack_pointer);
    after_switch(from);
}

#else

void moe_fiber_create(moe_fiber_context *context, void (*entry)(void), unsigned number)
{
    unsigned char *stack = new_stack();
    fiber_entry = entry;
    *context = {};
    context->stack = stack;
    context->stack_size = STACK;
    getcontext(&context->context);
    context->context.uc_stack.ss_sp = stack;
    context->context.uc_stack.ss_size = STACK - (number % 48 + 1) * 3 * CACHE_LINE;
    makecontext(&context->context, start, 0);
}

void moe_fiber_switch(moe_fiber_context *from, moe_fiber_context *to)
{
    before_switch(from, to);
    swapcontext(&from->context, &to->context);
    after_switch(from);
}

#endif
