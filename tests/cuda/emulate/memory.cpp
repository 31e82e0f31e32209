// SPDX-License-Identifier: MIT
// Device and pinned memory. Each allocation ends where a page without access begins; around it are known bytes.
#include "runtime.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef MOE_EMULATE_ASAN
#include <sanitizer/asan_interface.h>
#define MARK_BAD(address, size)  ASAN_POISON_MEMORY_REGION(address, size)
#define MARK_GOOD(address, size) ASAN_UNPOISON_MEMORY_REGION(address, size)
#else
#define MARK_BAD(address, size)  ((void)0)
#define MARK_GOOD(address, size) ((void)0)
#endif

static constexpr unsigned char EDGE = 0xed, FRESH = 0xff;

static void fill_edges(const allocation &a)
{
    unsigned char *begin = (unsigned char *)a.mapping, *end = begin + a.mapping_size;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    memset(begin + page, EDGE, (size_t)(a.base - (begin + page)));
    memset(a.base + a.size, EDGE, (size_t)(end - page - (a.base + a.size)));
    MARK_BAD(begin + page, (size_t)(a.base - (begin + page)));
    MARK_BAD(a.base + a.size, (size_t)(end - page - (a.base + a.size)));
}

/* Its pages, without the two that never have access. */
static void set_access(const allocation &a, int access)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!a.host && mprotect((unsigned char *)a.mapping + page, a.mapping_size - 2 * page, access) != 0)
        moe_emulate_die("memory cannot be guarded");
}

static int accesses;

memory_access::memory_access()
{
    if (accesses++ == 0 && moe_gpu.guard)
        for (const auto &entry : moe_gpu.allocations)
            set_access(entry.second, PROT_READ | PROT_WRITE);
}

memory_access::~memory_access()
{
    if (--accesses == 0 && moe_gpu.guard)
        for (const auto &entry : moe_gpu.allocations)
            set_access(entry.second, PROT_NONE);
}

extern "C" void moe_emulate_guard(bool guard)
{
    std::lock_guard<std::recursive_mutex> lock(moe_gpu.lock);
    moe_gpu.guard = true;
    memory_access access;   /* what is guarded is opened; and closed again at the end, or not */
    moe_gpu.guard = guard;
}

void check_edges(const allocation &a)
{
    unsigned char *begin = (unsigned char *)a.mapping, *end = begin + a.mapping_size;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    MARK_GOOD(begin + page, a.mapping_size - 2 * page);
    for (unsigned char *p = begin + page; p < end - page; p++) {
        if (p == a.base)
            p += a.size;
        if (p < end - page && *p != EDGE)
            moe_emulate_die("a byte %td from the start of an allocation of %zu bytes has been written", p - a.base,
                            a.size);
    }
    fill_edges(a);
}

static bool allocation_fails(void)
{
    if (moe_gpu.fail_allocation == 0)
        return false;
    if (moe_gpu.fail_allocation > 1) {
        moe_gpu.fail_allocation--;
        return false;
    }
    if (!moe_gpu.fail_allocations_after)
        moe_gpu.fail_allocation = 0;
    moe_gpu.failed = true;
    return true;
}

static size_t bytes_of_device(int device)
{
    size_t bytes = 0;
    for (const auto &entry : moe_gpu.allocations)
        if (!entry.second.host && entry.second.device == device)
            bytes += entry.second.size;
    return bytes;
}

/* At most this much of each end is filled, as pages that are touched must exist. */
static void fill_fresh(const allocation &a)
{
    const size_t most = (size_t)64 << 20;
    size_t head = a.size < most ? a.size : most, tail = a.size - head < most ? a.size - head : most;
    memset(a.base, FRESH, head);
    memset(a.base + a.size - tail, FRESH, tail);
}

static cudaError_t allocate(void **pointer, size_t size, bool host)
{
    int device = this_thread()->device;
    *pointer = NULL;
    if (size == 0)
        return cudaSuccess;
    moe_gpu.counts.allocations++;
    moe_overlap_break();
    if (allocation_fails() || (!host && (size > moe_gpu.memory || bytes_of_device(device) > moe_gpu.memory - size)))
        return cudaErrorMemoryAllocation;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (size + 255) / 256 * 256;
    size_t mapped = (inner + page - 1) / page * page + 2 * page;
    void *mapping = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    unsigned char *begin = (unsigned char *)mapping;
    if (mprotect(begin + page, mapped - 2 * page, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapping, mapped);
        return cudaErrorMemoryAllocation;
    }
    memory_access access;
    allocation a = {begin + mapped - page - inner, size, mapping, mapped, device, host};
    fill_fresh(a);
    fill_edges(a);
    moe_gpu.allocations[(uintptr_t)a.base] = a;
    *pointer = a.base;
    return cudaSuccess;
}

void unmap(const allocation &a)
{
    check_edges(a);
    MARK_GOOD(a.mapping, a.mapping_size);
    munmap(a.mapping, a.mapping_size);
}

static cudaError_t release(void *pointer, bool host)
{
    memory_access access;
    auto found = moe_gpu.allocations.find((uintptr_t)pointer);
    if (found == moe_gpu.allocations.end() || found->second.host != host)
        return cudaErrorInvalidValue;
    moe_overlap_break();
    unmap(found->second);
    moe_gpu.allocations.erase(found);
    moe_gpu.counts.frees++;
    return cudaSuccess;
}

const allocation *allocation_of(const void *pointer)
{
    auto next = moe_gpu.allocations.upper_bound((uintptr_t)pointer);
    if (next == moe_gpu.allocations.begin())
        return NULL;
    const allocation *a = &std::prev(next)->second;
    return (uintptr_t)pointer < (uintptr_t)a->base + a->size ? a : NULL;
}

extern "C" cudaError_t cudaMalloc(void **pointer, size_t size)
{
    api_call call(CALL_HEALTHY | CALL_UNCAPTURED);
    return call.status ? call.status : call.end(allocate(pointer, size, false));
}

extern "C" cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags)
{
    api_call call(CALL_HEALTHY | CALL_UNCAPTURED);
    if (call.status || flags > 7)
        return call.status ? call.status : call.end(cudaErrorInvalidValue);
    return call.end(allocate(pointer, size, true));
}

extern "C" cudaError_t cudaMallocHost(void **pointer, size_t size)
{
    return cudaHostAlloc(pointer, size, cudaHostAllocDefault);
}

/* After an error of a kernel memory goes all the same, and the error comes back. */
static cudaError_t free_waiting(void *pointer, bool host)
{
    if (!pointer)
        return cudaSuccess;
    api_call call(CALL_DRIVER | CALL_UNCAPTURED | CALL_SYNCHRONISES);
    if (call.status)
        return call.status;
    const allocation *a = allocation_of(pointer);
    int device = a ? a->device : this_thread()->device;
    run_everything(host ? -1 : device);
    cudaError_t error = release(pointer, host);
    return error ? call.end(error) : call.end_waited(device);
}

extern "C" cudaError_t cudaFree(void *pointer)
{
    return free_waiting(pointer, false);
}

extern "C" cudaError_t cudaFreeHost(void *pointer)
{
    return free_waiting(pointer, true);
}

extern "C" cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    *total = moe_gpu.memory;
    *free = moe_gpu.memory - bytes_of_device(this_thread()->device);
    return cudaSuccess;
}

extern "C" cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    const allocation *a = allocation_of(pointer);
    *attributes = {};
    attributes->type = !a ? cudaMemoryTypeUnregistered : a->host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->device = a ? a->device : -2;
    attributes->devicePointer = a ? (void *)pointer : NULL;
    attributes->hostPointer = a && a->host ? (void *)pointer : NULL;
    return cudaSuccess;
}
