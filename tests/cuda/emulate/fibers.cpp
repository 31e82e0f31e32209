// SPDX-License-Identifier: MIT
// Threads of a block as fibers: who runs, who waits for whom, and what can never end. See emulate.h.
#include "fibers.h"

#include <algorithm>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

moe_fiber_engine moe_run;

uint64_t moe_fiber_random(void)
{
    moe_run.random ^= moe_run.random << 13;
    moe_run.random ^= moe_run.random >> 7;
    moe_run.random ^= moe_run.random << 17;
    return moe_run.random * 0x2545f4914f6cdd1dull >> 16;
}

/* ---- messages ---- */

void moe_fiber_say_where(void)
{
    if (!moe_run.in_kernel)
        return;
    fprintf(stderr, "  in block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
    if (moe_run.current)
        fprintf(stderr, ", thread (%u, %u, %u), warp %u lane %u", moe_run.current->index.x, moe_run.current->index.y,
                moe_run.current->index.z, moe_run.current->warp, moe_run.current->lane);
    fprintf(stderr, ", of %u blocks of %u threads%s\n", gridDim.x * gridDim.y * gridDim.z, moe_run.num_threads,
            moe_run.hidden ? "; before moe_wait_for_previous: what kernels before wrote is hidden" : "");
}

/* One line for each place at which threads wait. */
static void say_who_waits(void)
{
    std::vector<bool> said(moe_run.num_threads);
    for (unsigned i = 0; i < moe_run.num_threads; i++) {
        const moe_fiber *f = &moe_run.fibers[i];
        if (said[i])
            continue;
        unsigned count = 0;
        for (unsigned j = i; j < moe_run.num_threads; j++) {
            const moe_fiber *g = &moe_run.fibers[j];
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

void moe_emulate_die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fprintf(stderr, "emulated device: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    moe_fiber_say_where();
    if (moe_run.in_kernel)
        say_who_waits();
    abort();
}

/* ---- choosing who runs ---- */

static unsigned first_bit(uint32_t bits)
{
    return (unsigned)__builtin_ctz(bits);
}

/* The next set bit after `last`, cyclically, in the direction of the order. */
unsigned moe_fiber_next(uint32_t bits, unsigned last)
{
    unsigned start = moe_run.order == MOE_EMULATE_RANDOM ? (unsigned)moe_fiber_random() & 31u : (last + 1) & 31u;
    if (moe_run.order == MOE_EMULATE_REVERSED) {
        uint32_t below = bits & ((1u << last) - 1u);
        return 31u - (unsigned)__builtin_clz(below ? below : bits);
    }
    uint32_t rotated = bits >> start | (start ? bits << (32 - start) : 0);
    return (start + first_bit(rotated)) & 31u;
}

static void switch_to(moe_fiber *next)
{
    moe_fiber *self = moe_run.current;
    if (next == self)
        return;
    moe_run.current = next;
    threadIdx = next->index;
    moe_fiber_switch(&self->context, &next->context);
}

void moe_fiber_make_ready(unsigned w, uint32_t lanes)
{
    moe_run.warps[w].ready |= lanes;
    moe_run.ready_warps |= 1u << w;
    for (uint32_t left = lanes; left; left &= left - 1)
        moe_run.fibers[32 * w + first_bit(left)].state = READY;
}

/* All that can run before the kernels ahead are done has run: now they are. The warps that can go on. */
static uint32_t end_of_early_part(void)
{
    for (unsigned w = 0; w < moe_run.num_warps; w++) {
        uint32_t lanes = moe_run.warps[w].at_previous;
        if (!lanes)
            continue;
        if (moe_run.hidden)
            moe_overlap_reveal(true);
        moe_run.warps[w].at_previous = 0;
        moe_fiber_make_ready(w, lanes);
    }
    return moe_run.ready_warps;
}

/* Run someone else, or go on. leave_warp: another warp if one can run. */
static void reschedule(bool leave_warp)
{
    unsigned own = moe_run.current->warp;
    if (moe_run.order == MOE_EMULATE_RANDOM && (moe_fiber_random() & 15u) == 0)
        leave_warp = true;
    uint32_t ready = moe_run.ready_warps;
    if (leave_warp && ready & ~(1u << own))
        ready &= ~(1u << own);
    if (ready == 0 && moe_run.hidden)
        ready = end_of_early_part();
    if (ready == 0)
        moe_emulate_die("deadlock: every thread waits");
    unsigned w = ready >> own & 1u ? own : moe_fiber_next(ready, own);
    moe_fiber_warp *to = &moe_run.warps[w];
    to->last = moe_fiber_next(to->ready, to->last);
    switch_to(&moe_run.fibers[32 * w + to->last]);
}

static void block_current(moe_fiber_state state, const char *name, moe_emulate_site site)
{
    moe_fiber *f = moe_run.current;
    moe_fiber_warp *w = &moe_run.warps[f->warp];
    f->state = state;
    f->waits_at = name;
    f->site = site;
    w->ready &= ~(1u << f->lane);
    if (!w->ready)
        moe_run.ready_warps &= ~(1u << f->warp);
}

/* A meeting that cannot be held: lane waits for another, which waits for it. */
static const moe_fiber_meeting *conflict(const moe_fiber_warp *w, uint32_t lane, uint32_t waits_for)
{
    for (const moe_fiber_meeting &m : w->meetings)
        if (m.mask & lane && m.arrived & waits_for)
            return &m;
    return NULL;
}

static bool same_place(moe_emulate_site a, moe_emulate_site b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

static moe_fiber_meeting *join(moe_fiber_warp *w, uint32_t self, uint32_t mask, moe_emulate_combine *combine,
                               const char *name, moe_emulate_site site)
{
    if (!(mask & self))
        moe_emulate_die("%s at %s:%d: the mask 0x%08x lacks the caller", name, site.file, site.line, mask);
    for (moe_fiber_meeting &m : w->meetings)
        if (m.mask == mask && m.combine == combine && !(m.arrived & self) &&
            (same_place(m.site, site) || strcmp(name, "__syncwarp") == 0))
            return &m;
    if (mask & (w->ended | ~w->present))
        moe_emulate_die("divergence: %s at %s:%d (mask 0x%08x) names lanes 0x%08x that have ended or are not there",
                        name, site.file, site.line, mask, mask & (w->ended | ~w->present));
    if (mask & w->at_barrier)
        moe_emulate_die("divergence: %s at %s:%d (mask 0x%08x) names lanes 0x%08x that wait at a barrier", name,
                        site.file, site.line, mask, mask & w->at_barrier);
    const moe_fiber_meeting *other = conflict(w, self, mask);
    if (other)
        moe_emulate_die("divergence: %s at %s:%d (mask 0x%08x) meets lanes 0x%08x that wait at %s, %s:%d (mask 0x%08x)",
                        name, site.file, site.line, mask, other->arrived, other->name, other->site.file,
                        other->site.line, other->mask);
    w->meetings.push_back({mask, 0, combine, name, site, {}});
    return &w->meetings.back();
}

void moe_emulate_meet(uint32_t mask, void *operands, moe_emulate_combine *combine, const char *name,
                      moe_emulate_site site)
{
    moe_fiber *f = moe_run.current;
    if (!moe_run.in_kernel || !f)
        moe_emulate_die("%s outside a kernel", name);
    moe_fiber_warp *w = &moe_run.warps[f->warp];
    moe_fiber_meeting *m = join(w, 1u << f->lane, mask, combine, name, site);
    m->arrived |= 1u << f->lane;
    m->operands[f->lane] = operands;
    if (m->arrived != mask) {
        block_current(AT_COLLECTIVE, name, site);
        reschedule(false);
        return;
    }
    combine(m->operands, mask);
    *m = w->meetings.back();
    w->meetings.pop_back();
    moe_fiber_make_ready(f->warp, mask);
    if (moe_run.order == MOE_EMULATE_RANDOM)
        reschedule(false);
}

/* ---- barriers ---- */

static void check_barrier(moe_fiber_barrier *b, int id, unsigned expected, const char *name, moe_emulate_site site)
{
    moe_fiber *f = moe_run.current;
    moe_fiber_warp *w = &moe_run.warps[f->warp];
    if (id == 0 && moe_run.num_ended && expected == moe_run.num_threads)
        moe_emulate_die("barrier divergence: %s at %s:%d, but %u threads have ended", name, site.file, site.line,
                        moe_run.num_ended);
    const moe_fiber_meeting *m = conflict(w, 1u << f->lane, UINT32_MAX);
    if (m)
        moe_emulate_die("divergence: %s at %s:%d, but other lanes of the warp wait for this one at %s, %s:%d", name,
                        site.file, site.line, m->name, m->site.file, m->site.line);
    if (b->arrived && (b->expected != expected || strcmp(b->name, name) != 0))
        moe_emulate_die("barrier %d: %s of %u threads at %s:%d, others wait at %s of %u", id, name, expected, site.file,
                        site.line, b->name, b->expected);
    moe_emulate_site *there = &b->sites[f->warp];
    if (b->lanes[f->warp] && !same_place(*there, site))
        moe_emulate_die("barrier divergence: %s at %s:%d, other lanes of the warp wait at %s:%d", name, site.file,
                        site.line, there->file, there->line);
    *there = site;
}

moe_emulate_votes moe_emulate_barrier(int id, int threads, bool predicate, const char *name, moe_emulate_site site)
{
    moe_fiber *f = moe_run.current;
    if (!moe_run.in_kernel || !f)
        moe_emulate_die("%s outside a kernel", name);
    if (id < 0 || id >= (int)NUM_BARRIERS || threads < 0 || threads % 32 ||
        (unsigned)threads > moe_run.num_threads + 31)
        moe_emulate_die("%s at %s:%d: barrier %d of %d threads", name, site.file, site.line, id, threads);
    moe_fiber_barrier *b = &moe_run.barriers[id];
    unsigned expected = threads ? std::min((unsigned)threads, moe_run.num_threads) : moe_run.num_threads;
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
        moe_run.warps[f->warp].at_barrier |= 1u << f->lane;
        block_current(AT_BARRIER, name, site);
        reschedule(false);
        return b->result;
    }
    b->result = b->votes;
    b->arrived = 0;
    for (unsigned w = 0; w < moe_run.num_warps; w++)
        if (b->lanes[w]) {
            moe_run.warps[w].at_barrier &= ~b->lanes[w];
            moe_fiber_make_ready(w, b->lanes[w]);
            b->lanes[w] = 0;
        }
    reschedule(moe_run.order != MOE_EMULATE_IN_ORDER);
    return b->result;
}

/* ---- others first, and the end ---- */

void moe_emulate_wait_for_previous(moe_emulate_site site)
{
    moe_fiber *f = moe_run.current;
    f->waited_for_previous = true;
    if (!moe_run.hidden)
        return;
    moe_run.warps[f->warp].at_previous |= 1u << f->lane;
    block_current(AT_PREVIOUS, "moe_wait_for_previous", site);
    reschedule(false);
}

void moe_emulate_let_next_start(void)
{
    moe_overlap_let_next_start();
}

void moe_emulate_yield(void)
{
    reschedule(true);
}

void moe_fiber_end_thread(void)
{
    moe_fiber *f = moe_run.current;
    moe_fiber_warp *w = &moe_run.warps[f->warp];
    const moe_fiber_meeting *m = conflict(w, 1u << f->lane, UINT32_MAX);
    if (m)
        moe_emulate_die("divergence: the thread ends, but other lanes of its warp wait for it at %s, %s:%d", m->name,
                        m->site.file, m->site.line);
    if (moe_run.barriers[0].arrived && moe_run.barriers[0].expected == moe_run.num_threads)
        moe_emulate_die("barrier divergence: the thread ends, but others wait at %s", moe_run.barriers[0].name);
    block_current(ENDED, "its end", {"", 0});
    w->ended |= 1u << f->lane;
    if (++moe_run.num_ended == moe_run.num_threads) {
        moe_run.current = NULL;
        moe_fiber_switch(&f->context, &moe_run.home);
    } else {
        reschedule(false);
    }
}
