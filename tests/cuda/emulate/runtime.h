// SPDX-License-Identifier: MIT
// The emulated machine's state, all of it behind one lock, and what the parts of the runtime share.
#ifndef MOE_EMULATE_RUNTIME_H
#define MOE_EMULATE_RUNTIME_H

#include "engine.h"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

struct allocation {
    unsigned char *base;
    size_t size;
    void *mapping;
    size_t mapping_size;
    int device;
    bool host;
};

struct work {
    cudaGraphNodeType type;
    std::function<void()> run;
};

struct CUgraphNode_st {
    work what;
};
struct CUgraph_st {
    std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
};
struct CUgraphExec_st {
    int device;
    std::shared_ptr<const std::vector<std::shared_ptr<CUgraphNode_st>>> nodes;
};

/* A capture, and how far its streams are joined again to the one it began in. */
struct capture {
    unsigned long long id;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    cudaStream_t origin;
    bool invalid;
    std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
    struct branch {
        size_t position; /* work and waits so far */
        bool joined;
    };
    std::map<cudaStream_t, branch> branches;
};

struct queued {
    uint64_t number; /* in the order of all calls */
    std::function<void()> run;
};
struct CUstream_st {
    int device;
    bool legacy, blocking;
    std::deque<queued> pending;
    std::shared_ptr<capture> captured_by;
};

struct event_state {
    cudaStream_t stream;
    uint64_t number;
    bool done;
    double time;
    std::shared_ptr<capture> captured_by;
    size_t position;
};
struct CUevent_st {
    int device;
    unsigned flags;
    std::shared_ptr<event_state> last; /* of the last record; NULL: never */
};

struct thread_state {
    int device;
    cudaError_t last_error;
    cudaStreamCaptureMode mode;
};

struct machine {
    std::recursive_mutex lock;
    int num_devices = 1, num_multiprocessors = 4, major = 9, minor = 0;
    bool old_driver = false, defer = true, overlap = true, overlap_seen = false, guard = false;
    size_t memory = (size_t)64 << 30;
    moe_emulate_run_options run = {MOE_EMULATE_IN_ORDER, 1};
    size_t fail_allocation = 0, fail_call = 0, fail_launch = 0;
    bool fail_allocations_after = false, failed = false;
    cudaError_t call_error = cudaSuccess, launch_error = cudaSuccess;
    cudaError_t sticky[16] = {};
    CUstream_st legacy[16] = {};
    std::map<std::thread::id, thread_state> threads;
    std::map<uintptr_t, allocation> allocations;
    std::map<std::pair<int, const void *>, int> shared_limits;
    std::set<cudaStream_t> streams;
    std::set<cudaEvent_t> events;
    std::set<cudaGraph_t> graphs;
    std::set<cudaGraphExec_t> execs;
    std::set<std::shared_ptr<capture>> captures;
    uint64_t last_number = 0;
    unsigned long long last_capture = 0;
    moe_emulate_counts counts = {};
};
extern machine moe_gpu;

/* ---- every function of the API begins with one of these: ---- */

enum call_needs {
    CALL_ANY = 0,
    CALL_DRIVER = 1,      /* a driver that is new enough, and a device */
    CALL_HEALTHY = 2 | 1, /* and no error of a kernel before */
    CALL_UNCAPTURED = 4,  /* not while a capture that the thread's mode looks at is under way */
    CALL_SYNCHRONISES = 8
};
struct api_call {
    std::unique_lock<std::recursive_mutex> lock;
    cudaError_t status;
    explicit api_call(int needs);
    /* Keeps the error for cudaGetLastError. */
    cudaError_t end(cudaError_t error);
    /* As end, after work was waited for: an error of a kernel comes first. */
    cudaError_t end_waited(int device);
};

thread_state *this_thread(void);
bool is_device(int device);
/* The allocation that holds pointer, or NULL. */
const allocation *allocation_of(const void *pointer);

/* memory.cpp: while one of these lives, device memory can be touched though it is guarded */
struct memory_access {
    memory_access();
    ~memory_access();
};
/* ends the program if bytes around the allocation have changed; and gives it back, checked */
void check_edges(const allocation &a);
void unmap(const allocation &a);

/* overlap.cpp: around each kernel; and before anything else that changes memory */
void moe_overlap_begin(const void *stream, int device, bool overlap);
void moe_overlap_end(void);
void moe_overlap_break(void);

/* streams.cpp */
cudaStream_t resolve_stream(cudaStream_t stream); /* NULL: no such stream */
void run_until(cudaStream_t stream, uint64_t number);
void run_everything(int device); /* -1: of all devices */
cudaError_t enqueue(cudaStream_t stream, cudaGraphNodeType type, std::function<void()> run);

/* graphs.cpp */
void invalidate(const std::shared_ptr<capture> &c);
/* Whether the calling thread may make a call that captures forbid; if not, they are invalid now. */
bool allowed_under_capture(void);
cudaError_t capture_work(cudaStream_t stream, cudaGraphNodeType type, std::function<void()> run);
void capture_event(cudaStream_t stream, const std::shared_ptr<event_state> &event);
cudaError_t capture_wait(cudaStream_t stream, const std::shared_ptr<event_state> &event);

#endif
