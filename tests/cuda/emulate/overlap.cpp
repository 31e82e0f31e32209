// SPDX-License-Identifier: MIT
// Launches that may begin early. Until a block calls moe_wait_for_previous, it runs as if the kernels that may still be
// under way had written nothing yet: what they changed is 0xff. And it may write nothing itself.
#include "fibers.h"
#include "runtime.h"

/* Larger allocations (weights) are not looked at: that would take too long. Nor is, but for the first block, what a
 * block writes early where no kernel before wrote, if more than that is to be compared. */
static constexpr size_t MOST_BYTES = (size_t)1 << 20, MOST_BYTES_PER_BLOCK = (size_t)1 << 18, CHUNK = 1024;

struct watched {
    unsigned char *base;
    std::vector<unsigned char> before; /* the content when the last kernel was done */
    std::vector<bool> changed;         /* by kernels that may still be under way; of pairs of bytes */
    bool any_changed;
    std::vector<unsigned char> hidden; /* the content that the block begins with */
};

struct range {
    unsigned char *begin;
    size_t size;
    std::vector<unsigned char> saved;
};

static struct {
    const void *stream; /* of the chain of kernels; NULL: none */
    std::vector<watched> memory;
    std::vector<range> ranges;
    bool late; /* some block of this kernel waited before it let the next one start */
    bool block_early;
    bool compares; /* this block */
} chain;

void moe_overlap_break(void)
{
    chain.stream = NULL;
}

static void begin_chain(const void *stream, int device)
{
    chain.stream = stream;
    chain.memory.clear();
    for (const auto &entry : moe_gpu.allocations) {
        const allocation &a = entry.second;
        if (a.host || a.device != device || a.size > MOST_BYTES)
            continue;
        watched w = {a.base,
                     std::vector<unsigned char>(a.base, a.base + a.size),
                     std::vector<bool>((a.size + 1) / 2),
                     false,
                     {}};
        chain.memory.push_back(std::move(w));
    }
}

static void forget(watched *w)
{
    if (w->any_changed)
        w->changed.assign(w->changed.size(), false);
    w->any_changed = false;
}

static void find_ranges(const watched &w)
{
    for (size_t i = 0; i < w.changed.size();) {
        size_t first = i;
        while (i < w.changed.size() && w.changed[i])
            i++;
        if (i > first) {
            size_t end = 2 * i < w.before.size() ? 2 * i : w.before.size();
            chain.ranges.push_back({w.base + 2 * first, end - 2 * first, {}});
        } else {
            i++;
        }
    }
}

void moe_overlap_begin(const void *stream, int device, bool overlap)
{
    bool goes_on = overlap && chain.stream == stream;
    chain.ranges.clear();
    chain.late = !goes_on;
    chain.compares = true;
    if (chain.stream != stream)
        begin_chain(stream, device);
    for (watched &w : chain.memory)
        if (!goes_on)
            forget(&w);
        else if (w.any_changed)
            find_ranges(w);
    moe_run.hides = goes_on && !chain.ranges.empty();
}

/* Notes what the kernel has changed. */
void moe_overlap_end(void)
{
    moe_run.hides = false;
    for (watched &w : chain.memory) {
        if (chain.late)
            forget(&w);
        for (size_t i = 0; i < w.before.size(); i += CHUNK) {
            size_t size = w.before.size() - i < CHUNK ? w.before.size() - i : CHUNK;
            if (memcmp(w.base + i, &w.before[i], size) == 0)
                continue;
            w.any_changed = true;
            for (size_t j = i; j < i + size; j++)
                if (w.base[j] != w.before[j])
                    w.changed[j / 2] = true;
            memcpy(&w.before[i], w.base + i, size);
        }
    }
}

void moe_overlap_hide(void)
{
    chain.block_early = false;
    moe_run.hidden = true;
    for (range &r : chain.ranges)
        r.saved.assign(r.begin, r.begin + r.size);
    for (range &r : chain.ranges)
        memset(r.begin, 0xff, r.size);
    if (chain.compares)
        for (watched &w : chain.memory)
            w.hidden.assign(w.base, w.base + w.before.size());
}

void moe_overlap_let_next_start(void)
{
    if (moe_run.hidden)
        chain.block_early = true;
}

static void check_same(const unsigned char *now, const unsigned char *hidden, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (now[i] != (hidden ? hidden[i] : 0xff))
            moe_emulate_die("the block writes before moe_wait_for_previous, while the kernel before it may still run: "
                            "at %p",
                            (const void *)(now + i));
}

static void check_nothing_written(void)
{
    size_t size = 0;
    for (const range &r : chain.ranges)
        check_same(r.begin, NULL, r.size);
    for (const watched &w : chain.memory) {
        if (chain.compares && memcmp(w.base, w.hidden.data(), w.hidden.size()) != 0)
            check_same(w.base, w.hidden.data(), w.hidden.size());
        size += w.before.size();
    }
    chain.compares = size <= MOST_BYTES_PER_BLOCK;
}

void moe_overlap_reveal(bool waited)
{
    check_nothing_written();
    moe_run.hidden = false;
    chain.late = chain.late || (waited && !chain.block_early);
    for (range &r : chain.ranges)
        memcpy(r.begin, r.saved.data(), r.size);
}
