// SPDX-License-Identifier: MIT
// Threads of a block as fibers: who runs, who waits for whom, and what can never end. See emulate.h.
#include "fibers.h"

#include <algorithm>
#include <errno.h>
#include <link.h>
#include <numeric>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace
{

constexpr unsigned MAX_THREADS = 1024, NUM_BARRIERS = 16;
constexpr size_t MAX_SHARED = 228 * 1024, SLACK = 128;

struct copy {
    unsigned char *dst;
    const unsigned char *src;
    uint32_t bytes;
    unsigned group;
};

enum fiber_state { READY, AT_COLLECTIVE, AT_BARRIER, ENDED };

struct fiber {
    moe_fiber_context context;
    uint3 index;
    unsigned warp, lane;
    fiber_state state;
    const char *waits_at;
    moe_emulate_site site;
    bool waited_for_previous;
    std::vector<copy> copies;
    unsigned group;                  /* that the next copy joins */
};

/* A collective that some lanes have reached. */
struct meeting {
    uint32_t mask, arrived;
    moe_emulate_combine *combine;
    const char *name;
    moe_emulate_site site;
    void *operands[32];
};

struct warp {
    uint32_t present, ready, ended, at_barrier;
    std::vector<meeting> meetings;   /* of lanes that wait: their masks are disjoint */
    uint32_t last;                   /* lane that ran */
};

struct barrier {
    unsigned arrived, expected;
    const char *name;
    moe_emulate_votes votes, result;
    uint32_t lanes[MAX_THREADS / 32];
    moe_emulate_site sites[MAX_THREADS / 32];
};

struct engine {
    std::vector<fiber *> fibers;
    warp warps[MAX_THREADS / 32];
    barrier barriers[NUM_BARRIERS];
    moe_fiber_context home;
    fiber *current;
    unsigned num_threads, num_warps, num_ended;
    uint32_t ready_warps;
    moe_emulate_order order;
    uint64_t random;
    long long clock;
    const std::function<void()> *thread;
    unsigned char *shared_end, *shared;   /* shared memory ends where a page without access begins */
    size_t shared_bytes;
    unsigned char *tls;
    size_t tls_size;
    bool in_kernel;
} E;

uint64_t next_random(void)
{
    E.random ^= E.random << 13;
    E.random ^= E.random >> 7;
    E.random ^= E.random << 17;
    return E.random * 0x2545f4914f6cdd1dull >> 16;
}

/* ---- messages ---- */

void say_where(void)
{
    if (!E.in_kernel)
        return;
    fprintf(stderr, "  in block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
    if (E.current)
        fprintf(stderr, ", thread (%u, %u, %u), warp %u lane %u", E.current->index.x, E.current->index.y,
                E.current->index.z, E.current->warp, E.current->lane);
    fprintf(stderr, ", of %u blocks of %u threads\n", gridDim.x * gridDim.y * gridDim.z, E.num_threads);
}

/* One line for each place at which threads wait. */
void say_who_waits(void)
{
    std::vector<bool> said(E.num_threads);
    for (unsigned i = 0; i < E.num_threads; i++) {
        const fiber *f = E.fibers[i];
        if (said[i])
            continue;
        unsigned count = 0;
        for (unsigned j = i; j < E.num_threads; j++) {
            const fiber *g = E.fibers[j];
            if (g->state == f->state && (f->state == READY || f->state == ENDED || g->site.line == f->site.line)) {
                said[j] = true;
                count++;
            }
        }
        if (f->state == ENDED)
            fprintf(stderr, "  %u threads (first: %u) have ended\n", count, i);
        else if (f->state == READY)
            fprintf(stderr, "  %u threads (first: %u) can run\n", count, i);
        else
            fprintf(stderr, "  %u threads (first: %u) wait at %s, %s:%d\n", count, i, f->waits_at, f->site.file,
                    f->site.line);
    }
}

} // namespace

void moe_emulate_die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fprintf(stderr, "emulated device: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    say_where();
    if (E.in_kernel)
        say_who_waits();
    abort();
}

namespace
{

/* ---- choosing who runs ---- */

unsigned first_bit(uint32_t bits)
{
    return (unsigned)__builtin_ctz(bits);
}

/* The next set bit after `last`, cyclically, in the direction of the order. */
unsigned next_bit(uint32_t bits, unsigned last)
{
    unsigned start = E.order == MOE_EMULATE_RANDOM ? (unsigned)next_random() & 31u : (last + 1) & 31u;
    if (E.order == MOE_EMULATE_REVERSED) {
        uint32_t below = bits & ((1u << last) - 1u);
        return 31u - (unsigned)__builtin_clz(below ? below : bits);
    }
    uint32_t rotated = bits >> start | (start ? bits << (32 - start) : 0);
    return (start + first_bit(rotated)) & 31u;
}

void switch_to(fiber *next)
{
    fiber *self = E.current;
    if (next == self)
        return;
    E.current = next;
    threadIdx = next->index;
    moe_fiber_switch(&self->context, &next->context);
}

/* Run someone else, or go on. leave_warp: another warp if one can run. */
void reschedule(bool leave_warp)
{
    unsigned own = E.current->warp;
    if (E.order == MOE_EMULATE_RANDOM && (next_random() & 15u) == 0)
        leave_warp = true;
    uint32_t ready = E.ready_warps;
    if (leave_warp && ready & ~(1u << own))
        ready &= ~(1u << own);
    if (ready == 0)
        moe_emulate_die("deadlock: every thread waits");
    unsigned w = ready >> own & 1u ? own : next_bit(ready, own);
    warp *to = &E.warps[w];
    to->last = next_bit(to->ready, to->last);
    switch_to(E.fibers[32 * w + to->last]);
}

void make_ready(unsigned w, uint32_t lanes)
{
    E.warps[w].ready |= lanes;
    E.ready_warps |= 1u << w;
    for (uint32_t left = lanes; left; left &= left - 1)
        E.fibers[32 * w + first_bit(left)]->state = READY;
}

void block_current(fiber_state state, const char *name, moe_emulate_site site)
{
    fiber *f = E.current;
    warp *w = &E.warps[f->warp];
    f->state = state;
    f->waits_at = name;
    f->site = site;
    w->ready &= ~(1u << f->lane);
    if (!w->ready)
        E.ready_warps &= ~(1u << f->warp);
}

meeting *meeting_of(warp *w, uint32_t lanes)
{
    for (meeting &m : w->meetings)
        if (m.mask & lanes)
            return &m;
    return NULL;
}

void check_same(const meeting &m, uint32_t mask, moe_emulate_combine *combine, const char *name, moe_emulate_site site)
{
    bool same_place = m.site.line == site.line && strcmp(m.site.file, site.file) == 0;
    if (m.combine != combine || (!same_place && strcmp(name, "__syncwarp") != 0))
        moe_emulate_die("divergence: %s at %s:%d (mask 0x%08x) meets lanes that wait at %s, %s:%d", name, site.file,
                        site.line, mask, m.name, m.site.file, m.site.line);
    if (m.mask != mask)
        moe_emulate_die("divergence: %s at %s:%d has mask 0x%08x, other lanes have 0x%08x", name, site.file, site.line,
                        mask, m.mask);
}

void check_new(const warp *w, uint32_t mask, uint32_t self, const char *name, moe_emulate_site site)
{
    if (!(mask & self))
        moe_emulate_die("%s at %s:%d: the mask 0x%08x lacks the caller", name, site.file, site.line, mask);
    if (mask & (w->ended | ~w->present))
        moe_emulate_die("divergence: %s at %s:%d (mask 0x%08x) names lanes 0x%08x that have ended or are not there",
                        name, site.file, site.line, mask, mask & (w->ended | ~w->present));
    if (mask & w->at_barrier)
        moe_emulate_die("divergence: %s at %s:%d (mask 0x%08x) names lanes 0x%08x that wait at a barrier", name,
                        site.file, site.line, mask, mask & w->at_barrier);
}

} // namespace

void moe_emulate_meet(uint32_t mask, void *operands, moe_emulate_combine *combine, const char *name,
                      moe_emulate_site site)
{
    fiber *f = E.current;
    if (!E.in_kernel || !f)
        moe_emulate_die("%s outside a kernel", name);
    warp *w = &E.warps[f->warp];
    uint32_t self = 1u << f->lane;
    meeting *m = meeting_of(w, mask | self);
    if (!m) {
        check_new(w, mask, self, name, site);
        w->meetings.push_back({mask, 0, combine, name, site, {}});
        m = &w->meetings.back();
    } else {
        check_same(*m, mask, combine, name, site);
    }
    m->arrived |= self;
    m->operands[f->lane] = operands;
    if (m->arrived != mask) {
        block_current(AT_COLLECTIVE, name, site);
        reschedule(false);
        return;
    }
    if (combine)
        combine(m->operands, mask);
    *m = w->meetings.back();
    w->meetings.pop_back();
    make_ready(f->warp, mask);
    if (E.order == MOE_EMULATE_RANDOM)
        reschedule(false);
}

/* ---- barriers ---- */

static void check_barrier(barrier *b, int id, unsigned expected, const char *name, moe_emulate_site site)
{
    fiber *f = E.current;
    warp *w = &E.warps[f->warp];
    if (id == 0 && E.num_ended && expected == E.num_threads)
        moe_emulate_die("barrier divergence: %s at %s:%d, but %u threads have ended", name, site.file, site.line,
                        E.num_ended);
    meeting *m = meeting_of(w, 1u << f->lane);
    if (m)
        moe_emulate_die("divergence: %s at %s:%d, but other lanes of the warp wait for this one at %s, %s:%d", name,
                        site.file, site.line, m->name, m->site.file, m->site.line);
    if (b->arrived && (b->expected != expected || strcmp(b->name, name) != 0))
        moe_emulate_die("barrier %d: %s of %u threads at %s:%d, others wait at %s of %u", id, name, expected,
                        site.file, site.line, b->name, b->expected);
    moe_emulate_site *there = &b->sites[f->warp];
    if (b->lanes[f->warp] && (there->line != site.line || strcmp(there->file, site.file) != 0))
        moe_emulate_die("barrier divergence: %s at %s:%d, other lanes of the warp wait at %s:%d", name, site.file,
                        site.line, there->file, there->line);
    *there = site;
}

moe_emulate_votes moe_emulate_barrier(int id, int threads, bool predicate, const char *name, moe_emulate_site site)
{
    fiber *f = E.current;
    if (!E.in_kernel || !f)
        moe_emulate_die("%s outside a kernel", name);
    if (id < 0 || id >= (int)NUM_BARRIERS || threads < 0 || threads % 32 || (unsigned)threads > E.num_threads + 31)
        moe_emulate_die("%s at %s:%d: barrier %d of %d threads", name, site.file, site.line, id, threads);
    barrier *b = &E.barriers[id];
    unsigned expected = threads ? std::min((unsigned)threads, E.num_threads) : E.num_threads;
    check_barrier(b, id, expected, name, site);
    if (!b->arrived)
        b->votes = {0, 0, 1};
    b->expected = expected;
    b->name = name;
    b->votes.count += predicate;
    b->votes.any |= predicate;
    b->votes.all &= predicate;
    b->lanes[f->warp] |= 1u << f->lane;
    if (++b->arrived < expected) {
        E.warps[f->warp].at_barrier |= 1u << f->lane;
        block_current(AT_BARRIER, name, site);
        reschedule(false);
        return b->result;
    }
    b->result = b->votes;
    b->arrived = 0;
    for (unsigned w = 0; w < E.num_warps; w++)
        if (b->lanes[w]) {
            E.warps[w].at_barrier &= ~b->lanes[w];
            make_ready(w, b->lanes[w]);
            b->lanes[w] = 0;
        }
    reschedule(E.order != MOE_EMULATE_IN_ORDER);
    return b->result;
}

/* ---- small things ---- */

int moe_emulate_lane(void)
{
    return (int)E.current->lane;
}

void moe_emulate_yield(void)
{
    reschedule(true);
}

long long moe_emulate_clock(void)
{
    return ++E.clock;
}

unsigned char *moe_emulate_dynamic_shared(void)
{
    return E.shared;
}

void moe_emulate_wait_for_previous(void)
{
    E.current->waited_for_previous = true;
}

uint32_t moe_emulate_shared_address(const void *shared)
{
    return (uint32_t)((const unsigned char *)shared - (E.shared_end - MAX_SHARED));
}

void *moe_emulate_shared_pointer(uint32_t address)
{
    return E.shared_end - MAX_SHARED + (int32_t)address;
}

/* ---- copies to shared memory ---- */

void moe_emulate_copy_async(void *shared, const void *global, uint32_t bytes, moe_emulate_site site)
{
    unsigned char *dst = (unsigned char *)shared;
    bool in_dynamic = dst >= E.shared && dst + 16 <= E.shared + E.shared_bytes;
    bool in_static = !E.tls || (dst >= E.tls && dst + 16 <= E.tls + E.tls_size);
    if (!in_dynamic && !in_static)
        moe_emulate_die("copy at %s:%d: the target is not shared memory", site.file, site.line);
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16 || bytes > 16)
        moe_emulate_die("copy at %s:%d: %u bytes from %p to %p", site.file, site.line, bytes, global, shared);
    memset(shared, 0xff, 16);
    E.current->copies.push_back({dst, (const unsigned char *)global, bytes, E.current->group});
}

void moe_emulate_copy_commit(void)
{
    E.current->group++;
}

void moe_emulate_copy_wait(unsigned pending)
{
    fiber *f = E.current;
    size_t done = 0;
    while (done < f->copies.size() && f->copies[done].group + pending < f->group) {
        const copy &c = f->copies[done++];
        memset(c.dst, 0, 16);
        memcpy(c.dst, c.src, c.bytes);
    }
    f->copies.erase(f->copies.begin(), f->copies.begin() + (ptrdiff_t)done);
}

/* ---- a block ---- */

static void end_thread(void)
{
    fiber *f = E.current;
    warp *w = &E.warps[f->warp];
    meeting *m = meeting_of(w, 1u << f->lane);
    if (m)
        moe_emulate_die("divergence: the thread ends, but other lanes of its warp wait for it at %s, %s:%d", m->name,
                        m->site.file, m->site.line);
    if (E.barriers[0].arrived && E.barriers[0].expected == E.num_threads)
        moe_emulate_die("barrier divergence: the thread ends, but others wait at %s", E.barriers[0].name);
    block_current(ENDED, "its end", {"", 0});
    w->ended |= 1u << f->lane;
    if (++E.num_ended == E.num_threads) {
        E.current = NULL;
        moe_fiber_switch(&f->context, &E.home);
    } else {
        reschedule(false);
    }
}

/* A fiber serves one thread of block after block. */
static void fiber_main(void)
{
    for (;;) {
        (*E.thread)();
        end_thread();
    }
}

static void prepare_fibers(void)
{
    while (E.fibers.size() < E.num_threads) {
        unsigned i = (unsigned)E.fibers.size();
        fiber *f = new fiber();
        f->warp = i / 32;
        f->lane = i % 32;
        moe_fiber_create(&f->context, fiber_main, i);
        E.fibers.push_back(f);
    }
}

static void prepare_block(void)
{
    memset(E.shared - SLACK, 0xff, (size_t)(E.shared_end - E.shared) + SLACK);
    if (E.tls)
        memset(E.tls, 0xff, E.tls_size);
    memset(E.barriers, 0, sizeof E.barriers);
    E.num_ended = 0;
    E.ready_warps = 0;
    for (unsigned i = 0; i < E.num_threads; i++) {
        fiber *f = E.fibers[i];
        f->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        f->waited_for_previous = false;
        f->copies.clear();
        f->group = 0;
    }
    for (unsigned w = 0; w < E.num_warps; w++) {
        unsigned lanes = std::min(32u, E.num_threads - 32 * w);
        E.warps[w].present = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1u;
        E.warps[w].ended = E.warps[w].ready = E.warps[w].at_barrier = 0;
        E.warps[w].last = E.order == MOE_EMULATE_REVERSED ? 0 : 31;
        make_ready(w, E.warps[w].present);
    }
}

static void check_shared(void)
{
    for (unsigned char *p = E.shared - SLACK; p < E.shared; p++)
        if (*p != 0xff)
            moe_emulate_die("the block wrote %zu bytes before its dynamic shared memory", (size_t)(E.shared - p));
    for (unsigned char *p = E.shared + E.shared_bytes; p < E.shared_end; p++)
        if (*p != 0xff)
            moe_emulate_die("the block wrote beyond its %zu bytes of dynamic shared memory", E.shared_bytes);
}

/* Runs the block; whether all that overlap needs was there: some thread of it called moe_wait_for_previous. */
static bool run_block(void)
{
    prepare_block();
    unsigned w = next_bit(E.ready_warps, E.warps[0].last);
    E.warps[w].last = next_bit(E.warps[w].ready, E.warps[w].last);
    fiber *first = E.fibers[32 * w + E.warps[w].last];
    E.current = first;
    threadIdx = first->index;
    moe_fiber_switch(&E.home, &first->context);
    check_shared();
    for (unsigned i = 0; i < E.num_threads; i++)
        if (E.fibers[i]->waited_for_previous)
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
            E.tls = begin;
            E.tls_size = size;
        }
    }
    return 0;
}
#endif

static void prepare_memory(void)
{
#ifndef MOE_EMULATE_ASAN
    E.tls = NULL;
    dl_iterate_phdr(find_tls, NULL);
#endif
    if (E.shared_end)
        return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = (MAX_SHARED + SLACK + page - 1) / page * page;
    void *memory = mmap(NULL, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, size, PROT_READ | PROT_WRITE) != 0)
        moe_emulate_die("no memory");
    E.shared_end = (unsigned char *)memory + size;
}

static void on_fault(int number, siginfo_t *info, void *)
{
    fprintf(stderr, "emulated device: signal %d (%s) at address %p\n", number, strsignal(number), info->si_addr);
    say_where();
    signal(SIGABRT, SIG_DFL);
    abort();
}

static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

static void catch_faults(struct sigaction *before)
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
        sigaction(faults[i], &action, &before[i]);
}

moe_emulate_run_result moe_emulate_run(const moe_emulate_launch_config &config, const std::function<void()> &thread,
                                       moe_emulate_run_options options)
{
    if (E.in_kernel)
        moe_emulate_die("a kernel starts a kernel");
    prepare_memory();
    E.order = options.order;
    E.random = options.seed * 0x9e3779b97f4a7c15ull + 0x1234567;
    E.thread = &thread;
    E.shared_bytes = config.shared_bytes;
    E.shared = E.shared_end - (config.shared_bytes + 127) / 128 * 128;
    gridDim = config.grid;
    blockDim = config.block;
    E.num_threads = blockDim.x * blockDim.y * blockDim.z;
    E.num_warps = (E.num_threads + 31) / 32;
    prepare_fibers();
    struct sigaction before[4];
#ifndef MOE_EMULATE_ASAN
    catch_faults(before);
#endif
    E.home.stack = NULL;
    E.in_kernel = true;
    moe_emulate_run_result result = {(size_t)gridDim.x * gridDim.y * gridDim.z, true};
    std::vector<unsigned> blocks(result.blocks);
    std::iota(blocks.begin(), blocks.end(), 0u);
    if (E.order == MOE_EMULATE_REVERSED)
        std::reverse(blocks.begin(), blocks.end());
    else if (E.order == MOE_EMULATE_RANDOM)
        for (size_t i = blocks.size(); i > 1; i--)
            std::swap(blocks[i - 1], blocks[next_random() % i]);
    for (unsigned i : blocks) {
        blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
        if (!run_block())
            result.waited = false;
    }
    E.in_kernel = false;
#ifndef MOE_EMULATE_ASAN
    for (size_t i = 0; i < 4; i++)
        sigaction(faults[i], &before[i], NULL);
#endif
    return result;
}
