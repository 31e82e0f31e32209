// SPDX-License-Identifier: MIT
// src/cpu/threads.c: every item of every phase is done once, whatever the driver and the number of threads; a context
// that rests uses no CPU. Meant for ThreadSanitizer too: the totals are plain memory.
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/threads.h"
#include "support.h"

enum { MAX_ITEMS = 64, ITEM_TURNS = 2000 };

struct work {
    _Atomic size_t next;
    size_t num_items, num_lanes;
    unsigned done[MAX_ITEMS];           /* each written by the lane that took the item */
    size_t by_lane[MOE_MAX_THREADS];    /* items that a lane has done, in all phases */
    _Atomic unsigned char running[MOE_MAX_THREADS];
    _Atomic bool clash;
};

static void phase(void *arg, size_t lane)
{
    struct work *work = arg;
    if (lane >= work->num_lanes || atomic_exchange(&work->running[lane], 1) != 0)
        atomic_store(&work->clash, true);
    size_t item;
    while ((item = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed)) < work->num_items) {
        for (volatile unsigned i = 0; i < ITEM_TURNS; i++)    /* a microsecond or so, for others to join */
            ;
        work->done[item]++;
        work->by_lane[lane]++;
    }
    if (lane < work->num_lanes)
        atomic_store(&work->running[lane], 0);
}

static struct moe_threads *open_threads(size_t count, const struct moe_context_params *more)
{
    struct moe_context_params params;
    MOE_INIT(&params);
    if (more != NULL)
        params = *more;
    params.num_threads = count;
    struct moe_threads *threads;
    test_assert_ok(moe_threads_open(&threads, NULL, &params, NULL));
    return threads;
}

static void start_phase(struct work *work, size_t num_items)
{
    atomic_store_explicit(&work->next, 0, memory_order_relaxed);
    work->num_items = num_items;
}

static void check_phases(struct moe_threads *threads, size_t num_phases)
{
    struct work *work = calloc(1, sizeof *work);
    assert_non_null(work);
    work->num_lanes = moe_threads_count(threads);
    unsigned expected[MAX_ITEMS] = {0};
    for (size_t i = 0; i < num_phases; i++) {
        size_t num_items = 1 + i * 7 % MAX_ITEMS;
        start_phase(work, num_items);
        moe_threads_run(threads, num_items, phase, work);
        for (size_t j = 0; j < num_items; j++)
            expected[j]++;
        test_assert_same(work->done, expected, MAX_ITEMS, "times that an item was done");
    }
    assert_false(atomic_load(&work->clash));
    free(work);
}

static void test_own_workers(void **state)
{
    (void)state;
    static const size_t counts[] = {1, 2, 3, 7, 16, 64};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct moe_threads *threads = open_threads(counts[i], NULL);
        assert_int_equal(moe_threads_count(threads), counts[i]);
        check_phases(threads, 300);
        moe_threads_close(threads);
    }
}

static void pause_ns(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

/* Workers do take part: phases are repeated until each has done something. A lane that two threads had, or a phase that
 * ended before its workers did, would show in what check_phases compares. */
static void test_workers_join(void **state)
{
    (void)state;
    struct moe_threads *threads = open_threads(3, NULL);
    struct work *work = calloc(1, sizeof *work);
    work->num_lanes = 3;
    for (int i = 0; i < 100000 && !(work->by_lane[1] > 0 && work->by_lane[2] > 0); i++) {
        start_phase(work, MAX_ITEMS);
        moe_threads_run(threads, MAX_ITEMS, phase, work);
    }
    assert_true(work->by_lane[1] > 0 && work->by_lane[2] > 0);
    assert_false(atomic_load(&work->clash));
    free(work);
    moe_threads_close(threads);
}

/* Phases with pauses about as long as workers spin: some find them spinning, some asleep, some falling asleep. */
static void test_sleep_and_wake(void **state)
{
    (void)state;
    struct moe_threads *threads = open_threads(4, NULL);
    for (long i = 0; i < 100; i++) {
        check_phases(threads, 3);
        pause_ns(i * 2000);
    }
    moe_threads_close(threads);
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* 100 ms of rest: the worker spins for 0.05 ms of it. On a busy machine one that never sleeps gets some of the rest. */
static void test_rest(void **state)
{
    (void)state;
    struct moe_threads *threads = open_threads(2, NULL);
    check_phases(threads, 10);
    double before = cpu_seconds();
    pause_ns(100000000);
    test_assert_most(cpu_seconds() - before, 0.003, "CPU seconds in 100 ms of rest");
    moe_threads_close(threads);
}

/* A host that runs the tasks one after another, last first. */
static void backwards(void *user, size_t count, void (*task)(void *arg, size_t i), void *arg)
{
    ++*(size_t *)user;
    while (count-- > 0)
        task(arg, count);
}

static void test_parallel_for(void **state)
{
    (void)state;
    size_t calls = 0;
    struct moe_context_params params;
    MOE_INIT(&params);
    params.parallel_for = backwards;
    params.parallel_user = &calls;
    struct moe_threads *threads = open_threads(5, &params);
    check_phases(threads, 100);
    assert_true(calls > 90 && calls <= 100);
    moe_threads_close(threads);
}

/* ---- a team ---- */

enum { TEAM_ROUNDS = 200 };

struct team {
    struct moe_threads *threads;
    struct work *work;
    size_t size;
    unsigned bad;                       /* written by member 0 */
};

struct member {
    struct team *team;
    pthread_t thread;
    size_t ith;
};

static void *team_main(void *arg)
{
    const struct member *member = arg;
    struct team *team = member->team;
    for (size_t round = 1; round <= TEAM_ROUNDS; round++) {
        if (member->ith == 0)
            start_phase(team->work, MAX_ITEMS);
        moe_threads_barrier(team->threads, team->size);
        phase(team->work, member->ith);
        moe_threads_barrier(team->threads, team->size);
        for (size_t i = 0; member->ith == 0 && i < MAX_ITEMS; i++)
            team->bad += team->work->done[i] != round;
    }
    return NULL;
}

static void run_team(size_t size)
{
    struct moe_context_params params;
    MOE_INIT(&params);
    params.team = true;
    struct team team = {.threads = open_threads(size, &params), .size = size, .work = calloc(1, sizeof *team.work)};
    struct member members[16];
    team.work->num_lanes = size;
    for (size_t i = 0; i < size; i++) {
        members[i] = (struct member){.team = &team, .ith = i};
        assert_int_equal(pthread_create(&members[i].thread, NULL, team_main, &members[i]), 0);
    }
    for (size_t i = 0; i < size; i++)
        pthread_join(members[i].thread, NULL);
    assert_int_equal(team.bad, 0);
    assert_false(atomic_load(&team.work->clash));
    free(team.work);
    moe_threads_close(team.threads);
}

static void test_team(void **state)
{
    (void)state;
    run_team(1);
    run_team(2);
    run_team(5);
    run_team(16);
}

/* A context for a team starts no threads: its phases run on the caller. */
static void test_team_alone(void **state)
{
    (void)state;
    struct moe_context_params params;
    MOE_INIT(&params);
    params.team = true;
    struct moe_threads *threads = open_threads(4, &params);
    struct work *work = calloc(1, sizeof *work);
    work->num_lanes = 1;                /* any other lane is a clash */
    start_phase(work, MAX_ITEMS);
    moe_threads_run(threads, MAX_ITEMS, phase, work);
    assert_false(atomic_load(&work->clash));
    free(work);
    moe_threads_close(threads);
}

static void test_counts(void **state)
{
    (void)state;
    struct moe_threads *threads = open_threads(0, NULL);
#if defined(__linux__)
    assert_true(moe_threads_count(threads) >= 1 && moe_threads_count(threads) <= MOE_MAX_THREADS);
#endif
    moe_threads_close(threads);
    struct moe_context_params params;
    MOE_INIT(&params);
    params.num_threads = MOE_MAX_THREADS + 1;
    struct moe_error error;
    test_assert_status(moe_threads_open(&threads, NULL, &params, &error), MOE_ERR_ARGUMENT);
    assert_null(threads);
    assert_non_null(strstr(error.text, "1025"));
    moe_threads_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_workers),
        cmocka_unit_test(test_workers_join),
        cmocka_unit_test(test_sleep_and_wake),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_parallel_for),
        cmocka_unit_test(test_team),
        cmocka_unit_test(test_team_alone),
        cmocka_unit_test(test_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
