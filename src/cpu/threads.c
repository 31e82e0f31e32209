// SPDX-License-Identifier: MIT
// Own workers that spin a little and then sleep, and the two drivers of a host. A phase does not wait for workers that
// have not begun: the caller closes it when the items are gone and waits for those that are inside. So a small call
// costs no wake-up latency, and more threads than CPUs do no harm.
#define _GNU_SOURCE
#include "cpu/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    CACHE_LINE = 64,
    SPIN_NS = 50000,         /* after the last phase; a sleeping worker costs the next call some 5 us to wake */
    SPINS_PER_CLOCK = 32,
    SPINS_BEFORE_YIELD = 200
};

/* The phase on offer, in one word: how many workers are inside, whether more may enter, and its number. */
#define PHASE_WORKERS UINT64_C(0xffff)
#define PHASE_OPEN    UINT64_C(0x10000)
#define PHASE_NEXT    UINT64_C(0x20000)

struct worker {
    struct moe_threads *threads;
    pthread_t thread;
    size_t lane;
};

struct moe_threads {
    struct moe_env env;
    bool team;
    size_t count, num_workers;
    struct worker *workers;
    void (*parallel_for)(void *user, size_t count, void (*task)(void *arg, size_t i), void *arg);
    void *parallel_user;
    uint64_t spin_ns;                /* 0 where threads outnumber CPUs: a spinning one would keep another from work */

    _Alignas(CACHE_LINE) _Atomic uint64_t word;
    moe_phase_fn *phase;             /* these three change only while the phase is closed and empty */
    void *arg;
    size_t lanes;

    _Alignas(CACHE_LINE) _Atomic size_t sleepers;    /* changed under the mutex */
    atomic_bool stop;
    uint64_t wakes;                  /* under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t wake;

    _Alignas(CACHE_LINE) _Atomic size_t arrived;
    _Atomic size_t turn;
};

static void spin_once(unsigned *spins)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
    if (++*spins % SPINS_BEFORE_YIELD == 0)
        sched_yield();
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static size_t count_cpus(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (size_t)CPU_COUNT(&set);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

/* ---- a worker ---- */

static bool has_phase(struct moe_threads *threads, uint64_t seen)
{
    uint64_t word = atomic_load(&threads->word);
    return (word & PHASE_OPEN) != 0 && word / PHASE_NEXT != seen;
}

/* Enter the open phase unless it is the one seen last; run it. False if there was none to enter. */
static bool try_phase(struct moe_threads *threads, size_t lane, uint64_t *seen)
{
    uint64_t word = atomic_load(&threads->word);
    do {
        if ((word & PHASE_OPEN) == 0 || word / PHASE_NEXT == *seen)
            return false;
    } while (!atomic_compare_exchange_weak(&threads->word, &word, word + 1));
    *seen = word / PHASE_NEXT;
    if (lane < threads->lanes)
        threads->phase(threads->arg, lane);
    atomic_fetch_sub_explicit(&threads->word, 1, memory_order_release);
    return true;
}

/* A sleeper announces itself before it looks at the word, run() writes the word before it looks for sleepers: one of
 * the two sees the other. */
static void sleep_until_woken(struct moe_threads *threads, uint64_t seen)
{
    pthread_mutex_lock(&threads->mutex);
    uint64_t wakes = threads->wakes;
    atomic_fetch_add(&threads->sleepers, 1);
    if (!has_phase(threads, seen) && !atomic_load(&threads->stop)) {
        while (threads->wakes == wakes)
            pthread_cond_wait(&threads->wake, &threads->mutex);
    } else {
        atomic_fetch_sub(&threads->sleepers, 1);
    }
    pthread_mutex_unlock(&threads->mutex);
}

static void wake_all(struct moe_threads *threads)
{
    pthread_mutex_lock(&threads->mutex);
    atomic_store(&threads->sleepers, 0);
    threads->wakes++;
    pthread_cond_broadcast(&threads->wake);
    pthread_mutex_unlock(&threads->mutex);
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct moe_threads *threads = worker->threads;
    uint64_t seen = 0, idle_since = now_ns();
    while (!atomic_load(&threads->stop)) {
        unsigned spins = 0;
        bool worked = false;
        while (!worked && spins < SPINS_PER_CLOCK) {
            worked = try_phase(threads, worker->lane, &seen);
            spin_once(&spins);
        }
        uint64_t now = now_ns();
        if (worked) {
            idle_since = now;
        } else if (now - idle_since >= threads->spin_ns) {
            sleep_until_woken(threads, seen);
            idle_since = now_ns();
        }
    }
    return NULL;
}

/* ---- phases ---- */

static void run_with_workers(struct moe_threads *threads, size_t lanes, moe_phase_fn *phase, void *arg)
{
    threads->phase = phase;
    threads->arg = arg;
    threads->lanes = lanes;
    uint64_t number = atomic_load_explicit(&threads->word, memory_order_relaxed) / PHASE_NEXT;
    atomic_store(&threads->word, (number + 1) * PHASE_NEXT + PHASE_OPEN);
    if (atomic_load(&threads->sleepers) > 0)
        wake_all(threads);
    phase(arg, 0);
    atomic_fetch_and(&threads->word, ~PHASE_OPEN);
    unsigned spins = 0;
    while ((atomic_load_explicit(&threads->word, memory_order_acquire) & PHASE_WORKERS) != 0)
        spin_once(&spins);
}

void moe_threads_run(struct moe_threads *threads, size_t num_items, moe_phase_fn *phase, void *arg)
{
    size_t lanes = num_items < threads->count ? num_items : threads->count;
    if (lanes <= 1 || threads->team)
        phase(arg, 0);
    else if (threads->parallel_for != NULL)
        threads->parallel_for(threads->parallel_user, lanes, phase, arg);
    else
        run_with_workers(threads, lanes, phase, arg);
}

void moe_threads_barrier(struct moe_threads *threads, size_t nth)
{
    size_t turn = atomic_load_explicit(&threads->turn, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&threads->arrived, 1, memory_order_acq_rel) + 1 == nth) {
        atomic_store_explicit(&threads->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&threads->turn, turn + 1, memory_order_release);
        return;
    }
    unsigned spins = 0;
    while (atomic_load_explicit(&threads->turn, memory_order_acquire) == turn)
        spin_once(&spins);
}

size_t moe_threads_count(const struct moe_threads *threads)
{
    return threads->count;
}

/* ---- open and close ---- */

static void stop_workers(struct moe_threads *threads)
{
    atomic_store(&threads->stop, true);
    wake_all(threads);
    for (size_t i = 0; i < threads->num_workers; i++)
        pthread_join(threads->workers[i].thread, NULL);
    threads->num_workers = 0;
}

/* Workers block all signals: the host's handlers run on the host's threads. */
static bool start_workers(struct moe_threads *threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = true;
    for (size_t i = 0; ok && i + 1 < threads->count; i++) {
        struct worker *worker = &threads->workers[i];
        worker->threads = threads;
        worker->lane = i + 1;
        ok = pthread_create(&worker->thread, NULL, worker_main, worker) == 0;
        threads->num_workers += ok;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

static bool own_workers(const struct moe_threads *threads)
{
    return !threads->team && threads->parallel_for == NULL && threads->count > 1;
}

static void free_threads(struct moe_threads *threads)
{
    struct moe_env env = threads->env;
    moe_free(&env, threads->workers, (threads->count - 1) * sizeof *threads->workers);
    moe_free(&env, threads, sizeof *threads);
}

void moe_threads_close(struct moe_threads *threads)
{
    if (threads == NULL)
        return;
    stop_workers(threads);
    pthread_cond_destroy(&threads->wake);
    pthread_mutex_destroy(&threads->mutex);
    free_threads(threads);
}

/* The struct with its fields set, the mutex and the condition not yet made. */
static struct moe_threads *alloc_threads(const struct moe_env *env, const struct moe_context_params *params,
                                         size_t count, size_t cpus)
{
    struct moe_threads *threads = moe_alloc(env, sizeof *threads);
    if (threads == NULL)
        return NULL;
    if (env != NULL)
        threads->env = *env;
    threads->count = count;
    threads->spin_ns = count <= cpus ? SPIN_NS : 0;
    if (params != NULL) {
        threads->team = params->team;
        threads->parallel_for = params->parallel_for;
        threads->parallel_user = params->parallel_user;
    }
    if (own_workers(threads)) {
        threads->workers = moe_alloc_array(env, count - 1, sizeof *threads->workers);
        if (threads->workers == NULL) {
            free_threads(threads);
            return NULL;
        }
    }
    return threads;
}

enum moe_status moe_threads_open(struct moe_threads **out, const struct moe_env *env,
                                 const struct moe_context_params *params, struct moe_error *error)
{
    *out = NULL;
    size_t cpus = count_cpus(), count = params != NULL ? params->num_threads : 0;
    if (count > MOE_MAX_THREADS)
        return moe_fail(error, MOE_ERR_ARGUMENT, "cpu: num_threads is %zu, at most %d are possible", count,
                        MOE_MAX_THREADS);
    if (count == 0)
        count = cpus < MOE_MAX_THREADS ? cpus : MOE_MAX_THREADS;
    struct moe_threads *threads = alloc_threads(env, params, count, cpus);
    if (threads == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "cpu: no memory for a context of %zu threads", count);
    if (pthread_mutex_init(&threads->mutex, NULL) != 0) {
        free_threads(threads);
        return moe_fail(error, MOE_ERR_MEMORY, "cpu: cannot make a mutex");
    }
    if (pthread_cond_init(&threads->wake, NULL) != 0) {
        pthread_mutex_destroy(&threads->mutex);
        free_threads(threads);
        return moe_fail(error, MOE_ERR_MEMORY, "cpu: cannot make a condition variable");
    }
    if (own_workers(threads) && !start_workers(threads)) {
        size_t started = threads->num_workers;
        moe_threads_close(threads);
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "cpu: the system lets a context start %zu of %zu threads", started,
                        count - 1);
    }
    *out = threads;
    return MOE_OK;
}
