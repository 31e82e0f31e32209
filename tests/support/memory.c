// SPDX-License-Identifier: MIT
// Memory between guard bytes. One block holds: header, padding, guard | the caller's bytes | guard.
#include "support.h"

#include <stdlib.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TEST_ASAN 1
#endif
#ifdef TEST_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(ptr, size) ((void)(ptr), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(ptr, size) ((void)(ptr), (void)(size))
#endif

enum { ALIGN = 256, GUARD = 64, GUARD_BYTE = 0xa5, POISON_BYTE = 0xff };

struct header {
    size_t size;
};

static unsigned char *front_of(const void *ptr)
{
    return (unsigned char *)(uintptr_t)ptr - GUARD;
}

static size_t size_of(const void *ptr)
{
    struct header header;
    memcpy(&header, (const unsigned char *)ptr - ALIGN, sizeof header);
    return header.size;
}

void *test_alloc(size_t size)
{
    size_t total = (ALIGN + size + GUARD + ALIGN - 1) / ALIGN * ALIGN;
    unsigned char *memory = aligned_alloc(ALIGN, total);
    if (memory == NULL)
        fail_msg("no memory for %zu bytes", size);
    struct header header = {size};
    memcpy(memory, &header, sizeof header);
    unsigned char *ptr = memory + ALIGN;
    memset(front_of(ptr), GUARD_BYTE, GUARD);
    memset(ptr, POISON_BYTE, size);
    memset(ptr + size, GUARD_BYTE, GUARD);
    ASAN_POISON_MEMORY_REGION(front_of(ptr), GUARD);
    ASAN_POISON_MEMORY_REGION(ptr + size, GUARD);
    return ptr;
}

void test_guards(const void *ptr)
{
    const unsigned char *front = front_of(ptr), *back = (const unsigned char *)ptr + size_of(ptr);
    ASAN_UNPOISON_MEMORY_REGION(front, GUARD);
    ASAN_UNPOISON_MEMORY_REGION(back, GUARD);
    for (size_t i = 0; i < GUARD; i++)
        if (front[i] != GUARD_BYTE || back[i] != GUARD_BYTE)
            fail_msg("a guard byte %s a block of %zu bytes was overwritten",
                     front[i] != GUARD_BYTE ? "before" : "after", size_of(ptr));
    ASAN_POISON_MEMORY_REGION(front, GUARD);
    ASAN_POISON_MEMORY_REGION(back, GUARD);
}

void test_release(void *ptr)
{
    if (ptr == NULL)
        return;
    test_guards(ptr);
    ASAN_UNPOISON_MEMORY_REGION(front_of(ptr), GUARD);
    ASAN_UNPOISON_MEMORY_REGION((unsigned char *)ptr + size_of(ptr), GUARD);
    free((unsigned char *)ptr - ALIGN);
}

void *test_copy(const void *src, size_t size)
{
    void *ptr = test_alloc(size);
    if (size > 0)
        memcpy(ptr, src, size);
    return ptr;
}

struct moe_view test_view(const void *base, size_t size, size_t stride, enum moe_format format)
{
    return (struct moe_view){.base = (void *)(uintptr_t)base, .size = size, .stride = stride, .format = format};
}
