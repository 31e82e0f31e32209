// SPDX-License-Identifier: MIT
// A hook on malloc and friends, on memory mappings and on new threads: it counts their calls in the whole process, and
// makes an allocation fail on demand. It replaces the C library's functions in the program that it is linked to, so
// it sees the calls of every library and thread. glibc only, and not beside a sanitizer, which does the same.
#ifndef MOE_TEST_HOOK_H
#define MOE_TEST_HOOK_H

#include <stdbool.h>
#include <stddef.h>

/* What is counted. X(name) */
#define HOOK_MAP(X)                                                                                      \
    X(malloc) X(calloc) X(realloc) X(aligned_alloc) X(posix_memalign) X(memalign) X(free) X(mmap)        \
    X(mmap64) X(munmap) X(mremap) X(brk) X(sbrk) X(pthread_create)

enum hook_call {
#define HOOK_ENUM(name) HOOK_##name,
    HOOK_MAP(HOOK_ENUM)
#undef HOOK_ENUM
    HOOK_NUM_CALLS
};

bool hook_works(void);                           /* false: not in this build, nothing is counted */
const char *hook_name(enum hook_call call);

/* Count the calls on all threads between the two. unwatch: their sum; each in counts, if given. */
void hook_watch(void);
size_t hook_unwatch(size_t counts[HOOK_NUM_CALLS]);

/* The n-th allocation of this thread from now on, n >= 1, gives NULL, and those after it do too if all is set.
 * n 0: none fails. */
void hook_fail_at(size_t n, bool all);
/* Did one fail since then? */
bool hook_failed(void);

/* Blocks that malloc and its kin have given, less those freed. */
size_t hook_live_blocks(void);

#endif
