// SPDX-License-Identifier: MIT
// Blocks of a launch, one after another, and their shared memory.
#include "fibers.h"

#include <algorithm>
#include <errno.h>
#include <link.h>
#include <numeric>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

static constexpr size_t MAX_SHARED = 228 * 1024, SLACK = 128;

/* ---- small things ---- */

int moe_emulate_lane(void)
{
    return (int)moe_run.current->lane;
}

long long moe_emulate_clock(void)
{
    return ++moe_run.clock;
}

unsigned char *moe_emulate_dynamic_shared(void)
{
    return moe_run.shared;
}

uint32_t moe_emulate_shared_address(const void *shared)
{
    return (uint32_t)((const unsigned char *)shared - (moe_run.shared_end - MAX_SHARED));
}

void *moe_emulate_shared_pointer(uint32_t address)
{
    return moe_run.shared_end - MAX_SHARED + (int32_t)address;
}

/* ---- copies to shared memory ---- */

void moe_emulate_copy_async(void *shared, const void *global, uint32_t bytes, moe_emulate_site site)
{
    unsigned char *dst = (unsigned char *)shared;
    bool in_dynamic = dst >= moe_run.shared && dst + 16 <= moe_run.shared + moe_run.shared_bytes;
    bool in_static = !moe_run.tls || (dst >= moe_run.tls && dst + 16 <= moe_run.tls + moe_run.tls_size);
    if (!in_dynamic && !in_static)
        moe_emulate_die("copy at %s:%d: the target is not shared memory", site.file, site.line);
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16 || bytes > 16)
        moe_emulate_die("copy at %s:%d: %u bytes from %p to %p", site.file, site.line, bytes, global, shared);
    memset(shared, 0xff, 16);
    moe_run.current->copies.push_back({dst, (const unsigned char *)global, bytes, moe_run.current->group});
}

void moe_emulate_copy_commit(void)
{
    moe_run.current->group++;
}

void moe_emulate_copy_wait(unsigned pending)
{
    moe_fiber *f = moe_run.current;
    size_t done = 0;
    while (done < f->copies.size() && f->copies[done].group + pending < f->group) {
        const moe_fiber_copy &c = f->copies[done++];
        memset(c.dst, 0, 16);
        memcpy(c.dst, c.src, c.bytes);
    }
    f->copies.erase(f->copies.begin(), f->copies.begin() + (ptrdiff_t)done);
}

/* ---- a block ---- */

/* A fiber serves one thread of block after block. */
static void fiber_main(void)
{
    for (;;) {
        (*moe_run.thread)();
        moe_fiber_end_thread();
    }
}

static void prepare_fibers(void)
{
    for (; moe_run.num_fibers < moe_run.num_threads; moe_run.num_fibers++) {
        moe_fiber *f = &moe_run.fibers[moe_run.num_fibers];
        f->warp = moe_run.num_fibers / 32;
        f->lane = moe_run.num_fibers % 32;
        moe_fiber_create(&f->context, fiber_main, moe_run.num_fibers);
    }
}

static void prepare_block(void)
{
    memset(moe_run.shared - SLACK, 0xff, (size_t)(moe_run.shared_end - moe_run.shared) + SLACK);
    if (moe_run.tls)
        memset(moe_run.tls, 0xff, moe_run.tls_size);
    memset(moe_run.barriers, 0, sizeof moe_run.barriers);
    moe_run.num_ended = 0;
    moe_run.ready_warps = 0;
    for (unsigned i = 0; i < moe_run.num_threads; i++) {
        moe_fiber *f = &moe_run.fibers[i];
        f->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        f->waited_for_previous = false;
        f->copies.clear();
        f->group = 0;
    }
    for (unsigned w = 0; w < moe_run.num_warps; w++) {
        unsigned lanes = std::min(32u, moe_run.num_threads - 32 * w);
        moe_run.warps[w].present = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1u;
        moe_run.warps[w].ended = moe_run.warps[w].ready = moe_run.warps[w].at_barrier = 0;
        moe_run.warps[w].at_previous = 0;
        moe_run.warps[w].last = moe_run.order == MOE_EMULATE_REVERSED ? 0 : 31;
        moe_fiber_make_ready(w, moe_run.warps[w].present);
    }
}

static void check_shared(void)
{
    for (unsigned char *p = moe_run.shared - SLACK; p < moe_run.shared; p++)
        if (*p != 0xff)
            moe_emulate_die("the block wrote %zu bytes before its dynamic shared memory", (size_t)(moe_run.shared - p));
    for (unsigned char *p = moe_run.shared + moe_run.shared_bytes; p < moe_run.shared_end; p++)
        if (*p != 0xff)
            moe_emulate_die("the block wrote beyond its %zu bytes of dynamic shared memory", moe_run.shared_bytes);
}

/* Runs the block; whether all that overlap needs was there: some thread of it called moe_wait_for_previous. */
static bool run_block(void)
{
    prepare_block();
    unsigned w = moe_fiber_next(moe_run.ready_warps, moe_run.warps[0].last);
    moe_run.warps[w].last = moe_fiber_next(moe_run.warps[w].ready, moe_run.warps[w].last);
    moe_fiber *first = &moe_run.fibers[32 * w + moe_run.warps[w].last];
    moe_run.current = first;
    threadIdx = first->index;
    if (moe_run.hides)
        moe_overlap_hide();
    moe_fiber_switch(&moe_run.home, &first->context);
    if (moe_run.hidden)
        moe_overlap_reveal(false);
    check_shared();
    for (unsigned i = 0; i < moe_run.num_threads; i++)
        if (moe_run.fibers[i].waited_for_previous)
            return true;
    return false;
}

/* ---- a launch ---- */

#ifndef MOE_EMULATE_ASAN
static __thread char of_this_program;

static int find_tls(struct dl_phdr_info *info, size_t, void *)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        unsigned char *begin = (unsigned char *)info->dlpi_tls_data;
        size_t size = info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type != PT_TLS || !begin)
            continue;
        const unsigned char *mine = (const unsigned char *)&of_this_program;
        const unsigned char *libc = (const unsigned char *)&errno;
        if (mine >= begin && mine < begin + size && !(libc >= begin && libc < begin + size)) {
            moe_run.tls = begin;
            moe_run.tls_size = size;
        }
    }
    return 0;
}
#endif

static void prepare_memory(void)
{
#ifndef MOE_EMULATE_ASAN
    moe_run.tls = NULL;
    dl_iterate_phdr(find_tls, NULL);
#endif
    if (moe_run.shared_end)
        return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = (MAX_SHARED + SLACK + page - 1) / page * page;
    void *memory = mmap(NULL, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, size, PROT_READ | PROT_WRITE) != 0)
        moe_emulate_die("no memory");
    moe_run.shared_end = (unsigned char *)memory + size;
}

/* AddressSanitizer reports faults itself. */
#ifndef MOE_EMULATE_ASAN
static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
static struct sigaction handlers[4];

static void on_fault(int number, siginfo_t *info, void *)
{
    fprintf(stderr, "emulated device: signal %d (%s) at address %p\n", number, strsignal(number), info->si_addr);
    moe_fiber_say_where();
    signal(SIGABRT, SIG_DFL);
    abort();
}

static void catch_faults(void)
{
    static unsigned char stack[64 * 1024];
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, NULL);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (size_t i = 0; i < 4; i++)
        sigaction(faults[i], &action, &handlers[i]);
}

static void release_faults(void)
{
    for (size_t i = 0; i < 4; i++)
        sigaction(faults[i], &handlers[i], NULL);
}
#else
static void catch_faults(void)
{
}
static void release_faults(void)
{
}
#endif

moe_emulate_run_result moe_emulate_run(const moe_emulate_launch_config &config, const std::function<void()> &thread,
                                       moe_emulate_run_options options)
{
    if (moe_run.in_kernel)
        moe_emulate_die("a kernel starts a kernel");
    prepare_memory();
    moe_run.order = options.order;
    moe_run.random = options.seed * 0x9e3779b97f4a7c15ull + 0x1234567;
    moe_run.thread = &thread;
    moe_run.shared_bytes = config.shared_bytes;
    moe_run.shared = moe_run.shared_end - (config.shared_bytes + 127) / 128 * 128;
    gridDim = config.grid;
    blockDim = config.block;
    moe_run.num_threads = blockDim.x * blockDim.y * blockDim.z;
    moe_run.num_warps = (moe_run.num_threads + 31) / 32;
    prepare_fibers();
    catch_faults();
    moe_run.home.stack = NULL;
    moe_run.in_kernel = true;
    moe_emulate_run_result result = {(size_t)gridDim.x * gridDim.y * gridDim.z, true};
    std::vector<unsigned> blocks(result.blocks);
    std::iota(blocks.begin(), blocks.end(), 0u);
    if (moe_run.order == MOE_EMULATE_REVERSED)
        std::reverse(blocks.begin(), blocks.end());
    else if (moe_run.order == MOE_EMULATE_RANDOM)
        for (size_t i = blocks.size(); i > 1; i--)
            std::swap(blocks[i - 1], blocks[moe_fiber_random() % i]);
    for (unsigned i : blocks) {
        blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
        if (!run_block())
            result.waited = false;
    }
    moe_run.in_kernel = false;
    release_faults();
    return result;
}
