// SPDX-License-Identifier: MIT
// How tests steer the emulated machine: emulate.h.
#include "runtime.h"

static constexpr int MAX_DEVICES = 16;

#define LOCKED std::lock_guard<std::recursive_mutex> lock(M.lock)

static void release_everything(void)
{
    for (const auto &entry : M.allocations)
        unmap(entry.second);
    for (cudaStream_t stream : M.streams)
        delete stream;
    for (cudaEvent_t event : M.events)
        delete event;
    for (cudaGraph_t graph : M.graphs)
        delete graph;
    for (cudaGraphExec_t exec : M.execs)
        delete exec;
    M.allocations.clear();
    M.streams.clear();
    M.events.clear();
    M.graphs.clear();
    M.execs.clear();
    M.captures.clear();
    M.threads.clear();
    M.shared_limits.clear();
}

extern "C" size_t moe_emulate_reset(void)
{
    LOCKED;
    size_t alive = M.allocations.size();
    release_everything();
    M.num_devices = 1;
    M.num_multiprocessors = 4;
    M.major = 9;
    M.minor = 0;
    M.old_driver = M.failed = M.fail_allocations_after = false;
    M.defer = true;
    M.memory = (size_t)64 << 30;
    M.run = {MOE_EMULATE_IN_ORDER, 1};
    M.fail_allocation = M.fail_call = M.fail_launch = 0;
    for (int i = 0; i < MAX_DEVICES; i++) {
        M.sticky[i] = cudaSuccess;
        M.legacy[i] = {};
    }
    M.counts = {};
    return alive;
}

extern "C" void moe_emulate_devices(int count)
{
    LOCKED;
    M.num_devices = count < 0 ? 0 : count > MAX_DEVICES ? MAX_DEVICES : count;
}

extern "C" void moe_emulate_old_driver(bool old)
{
    LOCKED;
    M.old_driver = old;
}

extern "C" void moe_emulate_multiprocessors(int count)
{
    LOCKED;
    M.num_multiprocessors = count;
}

extern "C" void moe_emulate_capability(int major, int minor)
{
    LOCKED;
    M.major = major;
    M.minor = minor;
}

extern "C" void moe_emulate_memory(size_t bytes)
{
    LOCKED;
    M.memory = bytes;
}

static void fail_allocations(size_t nth, bool all_after)
{
    LOCKED;
    M.fail_allocation = nth;
    M.fail_allocations_after = all_after;
    M.failed = false;
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
    M.fail_launch = nth;
    M.launch_error = error;
    M.failed = false;
}

extern "C" void moe_emulate_fail_call(size_t nth, cudaError_t error)
{
    LOCKED;
    M.fail_call = nth;
    M.call_error = error;
    M.failed = false;
}

extern "C" bool moe_emulate_failed(void)
{
    LOCKED;
    return M.failed;
}

extern "C" void moe_emulate_schedule(enum moe_emulate_order order, uint64_t seed)
{
    LOCKED;
    M.run = {order, seed};
}

extern "C" void moe_emulate_defer(bool defer)
{
    LOCKED;
    M.defer = defer;
}

extern "C" struct moe_emulate_counts moe_emulate_count(void)
{
    LOCKED;
    return M.counts;
}

extern "C" void moe_emulate_count_from_here(void)
{
    LOCKED;
    M.counts = {};
}

extern "C" size_t moe_emulate_check(void)
{
    LOCKED;
    for (const auto &entry : M.allocations)
        check_edges(entry.second);
    return M.allocations.size();
}
