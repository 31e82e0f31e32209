// SPDX-License-Identifier: MIT
// Hosts that run a layer on threads of their own, in every way that the API has: for the test programs of this folder.
#ifndef MOE_TEST_LAYER_DRIVERS_H
#define MOE_TEST_LAYER_DRIVERS_H

#include <pthread.h>
#include <stdatomic.h>

#include "layer_fixture.h"

struct tasks {
    void (*task)(void *arg, size_t i);
    void *arg;
    size_t count;
    atomic_size_t next;
};

static inline void *drivers_take_tasks(void *arg)
{
    struct tasks *tasks = arg;
    size_t i;
    while ((i = atomic_fetch_add(&tasks->next, 1)) < tasks->count)
        tasks->task(tasks->arg, i);
    return NULL;
}

static inline void drivers_run_ascending(void *user, size_t count, void (*task)(void *arg, size_t i), void *arg)
{
    (void)user;
    for (size_t i = 0; i < count; i++)
        task(arg, i);
}

static inline void drivers_run_descending(void *user, size_t count, void (*task)(void *arg, size_t i), void *arg)
{
    (void)user;
    for (size_t i = count; i-- > 0;)
        task(arg, i);
}

static inline void drivers_run_on_threads(void *user, size_t count, void (*task)(void *arg, size_t i), void *arg)
{
    struct tasks tasks = {.task = task, .arg = arg, .count = count};
    pthread_t threads[3];
    (void)user;
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, drivers_take_tasks, &tasks), 0);
    drivers_take_tasks(&tasks);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

/* The call through a host's parallel_for, 4 lanes: the bits that are in f->other. */
static inline void drivers_compare(struct fixture *f, const struct moe_layer *layer, const struct test_call *call,
                                   size_t n)
{
    void (*const drivers[])(void *, size_t, void (*)(void *, size_t), void *) = {
        drivers_run_ascending, drivers_run_descending, drivers_run_on_threads};
    for (size_t i = 0; i < 3; i++) {
        struct moe_context_params params;
        struct moe_context *ctx = NULL;
        MOE_INIT(&params);
        params.num_threads = 4;
        params.parallel_for = drivers[i];
        test_assert_ok(moe_context_create(f->backend, &params, &ctx, NULL));
        test_assert_ok(test_call_run(ctx, layer, call));
        test_assert_same(call->out, f->other, n, "a host's parallel_for");
        moe_context_destroy(ctx);
    }
}

/* The same inside teams of threads. */
static inline void drivers_compare_teams(struct fixture *f, const struct moe_layer *layer, const struct test_call *call,
                                         size_t n)
{
    const size_t members[] = {1, 2, 3, 4, 7};
    struct test_call team = *call;
    struct moe_context_params params;
    struct moe_context *ctx = NULL;
    MOE_INIT(&params);
    params.num_threads = 8;
    params.team = true;
    test_assert_ok(moe_context_create(f->backend, &params, &ctx, NULL));
    team.entry = TEST_TEAM;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        team.team = members[i];
        test_assert_ok(test_call_run(ctx, layer, &team));
        test_assert_same(call->out, f->other, n, "a host's team");
    }
    moe_context_destroy(ctx);
}

#endif
