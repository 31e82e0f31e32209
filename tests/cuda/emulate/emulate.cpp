// SPDX-License-Identifier: MIT
// How tests steer the emulated machine: emulate.h.
#include "runtime.h"

static constexpr int MAX_DEVICES = 16;

#define LOCKED std::lock_guard<std::recursive_mutex> lock(moe_gpu.lock)

static void release_everything(void)
{
    for (const auto &entry : moe_gpu.allocations)
        unmap(entry.second);
    for (cudaStream_t stream : moe_gpu.streams)
        delete stream;
    for (cudaEvent_t event : moe_gpu.events)
        delete event;
    for (cudaGraph_t graph : moe_gpu.graphs)
        delete graph;
    for (cudaGraphExec_t exec : moe_gpu.execs)
        delete exec;
    moe_gpu.allocations.clear();
    moe_gpu.streams.clear();
    moe_gpu.events.clear();
    moe_gpu.graphs.clear();
    moe_gpu.execs.clear();
    moe_gpu.captures.clear();
    moe_gpu.threads.clear();
    moe_gpu.shared_limits.clear();
}

extern "C" size_t moe_emulate_reset(void)
{
    LOCKED;
    size_t alive = moe_gpu.allocations.size();
    moe_emulate_guard(false);
    release_everything();
    moe_gpu.num_devices = 1;
    moe_gpu.num_multiprocessors = 4;
    moe_gpu.major = 9;
    moe_gpu.minor = 0;
    moe_gpu.old_driver = moe_gpu.failed = moe_gpu.fail_allocations_after = false;
    moe_gpu.defer = moe_gpu.overlap = true;
    moe_gpu.overlap_seen = false;
    moe_overlap_break();
    moe_gpu.memory = (size_t)64 << 30;
    moe_gpu.run = {MOE_EMULATE_IN_ORDER, 1};
    moe_gpu.fail_allocation = moe_gpu.fail_call = moe_gpu.fail_launch = 0;
    for (int i = 0; i < MAX_DEVICES; i++) {
        moe_gpu.sticky[i] = cudaSuccess;
        moe_gpu.legacy[i] = {};
    }
    moe_gpu.counts = {};
    return alive;
}

extern "C" void moe_emulate_devices(int count)
{
    LOCKED;
    moe_gpu.num_devices = count < 0 ? 0 : count > MAX_DEVICES ? MAX_DEVICES : count;
}

extern "C" void moe_emulate_old_driver(bool old)
{
    LOCKED;
    moe_gpu.old_driver = old;
}

extern "C" void moe_emulate_multiprocessors(int count)
{
    LOCKED;
    moe_gpu.num_multiprocessors = count;
}

extern "C" void moe_emulate_capability(int major, int minor)
{
    LOCKED;
    moe_gpu.major = major;
    moe_gpu.minor = minor;
}

extern "C" void moe_emulate_memory(size_t bytes)
{
    LOCKED;
    moe_gpu.memory = bytes;
}

static void fail_allocations(size_t nth, bool all_after)
{
    LOCKED;
    moe_gpu.fail_allocation = nth;
    moe_gpu.fail_allocations_after = all_after;
    moe_gpu.failed = false;
}

extern "C" void moe_emulate_fail_allocation(size_t nth)
{
    fail_allocations(nth, false);
}

extern "C" void moe_emulate_fail_allocations(size_t nth)
{
    fail_allocations(nth, true);
}

extern "C" void moe_emulate_fail_launch(size_t nth, cudaError_t error)
{
    LOCKED;
    moe_gpu.fail_launch = nth;
    moe_gpu.launch_error = error;
    moe_gpu.failed = false;
}

extern "C" void moe_emulate_fail_call(size_t nth, cudaError_t error)
{
    LOCKED;
    moe_gpu.fail_call = nth;
    moe_gpu.call_error = error;
    moe_gpu.failed = false;
}

extern "C" bool moe_emulate_failed(void)
{
    LOCKED;
    return moe_gpu.failed;
}

extern "C" void moe_emulate_schedule(enum moe_emulate_order order, uint64_t seed)
{
    LOCKED;
    moe_gpu.run = {order, seed};
}

extern "C" void moe_emulate_defer(bool defer)
{
    LOCKED;
    moe_gpu.defer = defer;
}

extern "C" void moe_emulate_overlap(bool overlap)
{
    LOCKED;
    moe_gpu.overlap = overlap;
    moe_overlap_break();
}

extern "C" struct moe_emulate_counts moe_emulate_count(void)
{
    LOCKED;
    return moe_gpu.counts;
}

extern "C" void moe_emulate_count_from_here(void)
{
    LOCKED;
    moe_gpu.counts = {};
}

extern "C" size_t moe_emulate_check(void)
{
    LOCKED;
    memory_access access;
    for (const auto &entry : moe_gpu.allocations)
        check_edges(entry.second);
    return moe_gpu.allocations.size();
}
