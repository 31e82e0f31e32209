// SPDX-License-Identifier: MIT
// The hook: functions of the C library's names, which the linker takes instead of its own, and which call on to it.
// Both mmap and mmap64 are defined, so the headers must not rename one to the other.
#undef _FILE_OFFSET_BITS
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hook.h"

#include <stdatomic.h>

/* Other libraries must find these functions, whatever the visibility of the rest of the program. */
#pragma GCC visibility push(default)

static atomic_bool watching;
static atomic_size_t seen[HOOK_NUM_CALLS];
static atomic_size_t live_blocks;
static _Thread_local size_t fail_countdown;
static _Thread_local bool fail_all, fail_happened;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HOOK_ON 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HOOK_ON 0
#endif
#endif
#include <stdlib.h>   /* says whether this is glibc */
#if !defined(HOOK_ON) && defined(__GLIBC__)
#define HOOK_ON 1
#endif

#if HOOK_ON
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* glibc's own functions under names that it exports for this purpose; dlsym would allocate. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *ptr, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *ptr);

static void note(enum hook_call call)
{
    if (atomic_load_explicit(&watching, memory_order_relaxed))
        atomic_fetch_add(&seen[call], 1);
}

/* Is this the allocation that must fail? */
static bool fails(void)
{
    if (fail_countdown == 0 || --fail_countdown != 0)
        return false;
    fail_countdown = fail_all ? 1 : 0;
    fail_happened = true;
    errno = ENOMEM;
    return true;
}

static void *given(void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_add(&live_blocks, 1);
    return ptr;
}

void *malloc(size_t size)
{
    note(HOOK_malloc);
    return fails() ? NULL : given(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    note(HOOK_calloc);
    return fails() ? NULL : given(__libc_calloc(count, size));
}

void *realloc(void *ptr, size_t size)
{
    note(HOOK_realloc);
    if (fails())
        return NULL;
    void *now = __libc_realloc(ptr, size);
    if (ptr == NULL)
        given(now);
    else if (now == NULL && size == 0)
        atomic_fetch_sub(&live_blocks, 1);
    return now;
}

void *aligned_alloc(size_t align, size_t size)
{
    note(HOOK_aligned_alloc);
    return fails() ? NULL : given(__libc_memalign(align, size));
}

void *memalign(size_t align, size_t size)
{
    note(HOOK_memalign);
    return fails() ? NULL : given(__libc_memalign(align, size));
}

int posix_memalign(void **out, size_t align, size_t size)
{
    note(HOOK_posix_memalign);
    if (align % sizeof(void *) != 0 || (align & (align - 1)) != 0 || align == 0)
        return EINVAL;
    void *ptr = fails() ? NULL : given(__libc_memalign(align, size));
    if (ptr == NULL)
        return ENOMEM;
    *out = ptr;
    return 0;
}

void free(void *ptr)
{
    note(HOOK_free);
    if (ptr != NULL)
        atomic_fetch_sub(&live_blocks, 1);
    __libc_free(ptr);
}

/* The next definition of a function: the C library's. */
#define NEXT(variable, name)                        \
    do {                                            \
        void *address_ = dlsym(RTLD_NEXT, name);    \
        memcpy(&(variable), &address_, sizeof address_); \
    } while (0)

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    void *(*next)(void *, size_t, int, int, int, off_t);
    note(HOOK_mmap);
    NEXT(next, "mmap");
    return next(at, size, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    void *(*next)(void *, size_t, int, int, int, off64_t);
    note(HOOK_mmap64);
    NEXT(next, "mmap64");
    return next(at, size, protection, flags, fd, offset);
}

int munmap(void *at, size_t size)
{
    int (*next)(void *, size_t);
    note(HOOK_munmap);
    NEXT(next, "munmap");
    return next(at, size);
}

void *mremap(void *at, size_t size, size_t new_size, int flags, ...)
{
    void *(*next)(void *, size_t, size_t, int, ...);
    va_list list;
    note(HOOK_mremap);
    NEXT(next, "mremap");
    va_start(list, flags);
    void *to = (flags & MREMAP_FIXED) != 0 ? va_arg(list, void *) : NULL;
    va_end(list);
    return next(at, size, new_size, flags, to);
}

int brk(void *end)
{
    int (*next)(void *);
    note(HOOK_brk);
    NEXT(next, "brk");
    return next(end);
}

void *sbrk(intptr_t more)
{
    void *(*next)(intptr_t);
    note(HOOK_sbrk);
    NEXT(next, "sbrk");
    return next(more);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *arg)
{
    int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    note(HOOK_pthread_create);
    NEXT(next, "pthread_create");
    return next(thread, attributes, start, arg);
}
#endif
#pragma GCC visibility pop

bool hook_works(void)
{
#if HOOK_ON
    return true;
#else
    return false;
#endif
}

const char *hook_name(enum hook_call call)
{
    static const char *const names[] = {
#define HOOK_NAME(name) #name,
        HOOK_MAP(HOOK_NAME)
#undef HOOK_NAME
    };
    return names[call];
}

void hook_watch(void)
{
    for (size_t i = 0; i < HOOK_NUM_CALLS; i++)
        atomic_store(&seen[i], 0);
    atomic_store(&watching, true);
}

size_t hook_unwatch(size_t counts[HOOK_NUM_CALLS])
{
    size_t sum = 0;
    atomic_store(&watching, false);
    for (size_t i = 0; i < HOOK_NUM_CALLS; i++) {
        size_t count = atomic_load(&seen[i]);
        if (counts != NULL)
            counts[i] = count;
        sum += count;
    }
    return sum;
}

void hook_fail_at(size_t n, bool all)
{
    fail_countdown = n;
    fail_all = all;
    fail_happened = false;
}

bool hook_failed(void)
{
    return fail_happened;
}

size_t hook_live_blocks(void)
{
    return atomic_load(&live_blocks);
}
