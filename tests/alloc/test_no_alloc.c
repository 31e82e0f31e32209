// SPDX-License-Identifier: MIT
// No forward allocates, maps memory or starts a thread: 10^4 of each call under a hook that counts, on the calling
// thread and the workers, from the very first call on. A first test shows that the hook sees what there is to see.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hook.h"
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { EXPERTS = 4, TOP_K = 2, MOST_TOKENS = 64, THREADS = 4 };

/* Of a driver's 10^4 calls, which the formats share: how many in 1000 with how many tokens. */
static const struct {
    size_t num_tokens, share;
} batches[] = {{1, 880}, {8, 104}, {MOST_TOKENS, 16}};

enum { NUM_CALLS = 10000 };

/* ---- the hook itself ---- */

/* The last barrier: the end of a thread frees what glibc keeps for it, which must not be seen. */
static void *allocate_on_a_thread(void *arg)
{
    pthread_barrier_wait(arg);
    void *volatile ptr = malloc(10);
    free(ptr);
    pthread_barrier_wait(arg);
    pthread_barrier_wait(arg);
    return NULL;
}

static void test_hook_sees_each_call(void **state)
{
    (void)state;
    size_t counts[HOOK_NUM_CALLS];
    void *volatile ptr;
    void *aligned, *end = sbrk(0);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!hook_works())
        skip();
    hook_watch();
    ptr = malloc(10);
    ptr = realloc(ptr, 20);
    free(ptr);
    ptr = calloc(3, 5);
    free(ptr);
    ptr = aligned_alloc(64, 128);
    free(ptr);
    assert_int_equal(posix_memalign(&aligned, 64, 100), 0);
    free(aligned);
    void *map = mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    map = mremap(map, page, 2 * page, MREMAP_MAYMOVE);
    munmap(map, 2 * page);
    sbrk(0);
    brk(end);
    size_t sum = hook_unwatch(counts);
    assert_int_equal(counts[HOOK_malloc], 1);
    assert_int_equal(counts[HOOK_realloc], 1);
    assert_int_equal(counts[HOOK_calloc], 1);
    assert_int_equal(counts[HOOK_aligned_alloc], 1);
    assert_int_equal(counts[HOOK_posix_memalign], 1);
    assert_int_equal(counts[HOOK_free], 4);
    assert_int_equal(counts[HOOK_mmap] + counts[HOOK_mmap64], 1);
    assert_int_equal(counts[HOOK_mremap], 1);
    assert_int_equal(counts[HOOK_munmap], 1);
    assert_int_equal(counts[HOOK_sbrk], 1);
    assert_int_equal(counts[HOOK_brk], 1);
    assert_int_equal(sum, 14);
}

/* Calls from inside other libraries, from other threads, and of this library. */
static void test_hook_sees_elsewhere(void **state)
{
    (void)state;
    size_t counts[HOOK_NUM_CALLS];
    pthread_barrier_t barrier;
    pthread_t thread;
    struct moe_view memory;
    if (!hook_works())
        skip();
    pthread_barrier_init(&barrier, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, allocate_on_a_thread, &barrier), 0);
    hook_watch();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    assert_int_equal(hook_unwatch(counts), 2);
    pthread_barrier_wait(&barrier);
    assert_int_equal(counts[HOOK_malloc], 1);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&barrier);

    hook_watch();
    FILE *file = fopen("/dev/null", "r");
    assert_true(hook_unwatch(NULL) >= 1);
    fclose(file);

    struct moe_backend *backend = test_backend("cpu");
    hook_watch();
    test_assert_ok(moe_mem_alloc(backend, 100, &memory));
    assert_true(hook_unwatch(NULL) >= 1);
    moe_mem_free(backend, &memory);
    hook_watch();
    struct moe_context *ctx = test_context(backend, 2);
    hook_unwatch(counts);
    assert_true(counts[HOOK_pthread_create] >= 1);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
}

/* ---- a host's pool for parallel_for: the caller and THREADS - 1 threads take tasks until there are none ---- */

struct pool {
    pthread_t threads[THREADS - 1];
    pthread_barrier_t begin, end;
    void (*task)(void *arg, size_t i);
    void *arg;
    size_t count;
    atomic_size_t next;
};

static void pool_take(struct pool *pool)
{
    size_t i;
    while ((i = atomic_fetch_add(&pool->next, 1)) < pool->count)
        pool->task(pool->arg, i);
}

static void *pool_worker(void *arg)
{
    struct pool *pool = arg;
    for (;;) {
        pthread_barrier_wait(&pool->begin);
        if (pool->task == NULL)
            return NULL;
        pool_take(pool);
        pthread_barrier_wait(&pool->end);
    }
}

static void pool_run(void *user, size_t count, void (*task)(void *arg, size_t i), void *arg)
{
    struct pool *pool = user;
    pool->task = task;
    pool->arg = arg;
    pool->count = count;
    atomic_store(&pool->next, 0);
    pthread_barrier_wait(&pool->begin);
    pool_take(pool);
    pthread_barrier_wait(&pool->end);
}

static void pool_open(struct pool *pool)
{
    memset(pool, 0, sizeof *pool);
    pthread_barrier_init(&pool->begin, NULL, THREADS);
    pthread_barrier_init(&pool->end, NULL, THREADS);
    for (size_t i = 0; i < THREADS - 1; i++)
        assert_int_equal(pthread_create(&pool->threads[i], NULL, pool_worker, pool), 0);
}

static void pool_close(struct pool *pool)
{
    pool->task = NULL;
    pthread_barrier_wait(&pool->begin);
    for (size_t i = 0; i < THREADS - 1; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_barrier_destroy(&pool->begin);
    pthread_barrier_destroy(&pool->end);
}

/* ---- a layer of each format and all that its calls need ---- */

/* Where routing comes from, and which outputs are wanted. */
enum kind { FROM_LOGITS, FROM_ROUTER, FROM_IDS, PAIRS, NUM_KINDS };

struct fixture {
    struct test_layer layer;
    struct test_handle handle;
    size_t hidden_size, intermediate_size;
    void *x, *logits, *ids, *weights, *out, *out_ids, *out_weights, *counts, *workspace, *scratch;
    size_t workspace_size;
};

static struct moe_view whole(void *memory, size_t values, enum moe_format format)
{
    return test_view(memory, moe_format_row_bytes(format, values), 0, format);
}

static struct moe_layer_io make_io(const struct fixture *f, enum kind kind, size_t num_tokens)
{
    struct moe_layer_io io;
    size_t pairs = num_tokens * TOP_K, values = num_tokens * f->hidden_size;
    MOE_INIT(&io);
    io.num_tokens = num_tokens;
    io.x = whole(f->x, values, MOE_FORMAT_F32);
    io.out = whole(f->out, kind == PAIRS ? pairs * f->hidden_size : values,
                   kind == FROM_ROUTER ? MOE_FORMAT_BF16 : MOE_FORMAT_F32);
    io.flags = kind == PAIRS ? MOE_OUT_PAIRS : kind == FROM_IDS ? MOE_ACCUMULATE : 0;
    if (kind == FROM_LOGITS)
        io.logits = whole(f->logits, num_tokens * EXPERTS, MOE_FORMAT_F32);
    if (kind == FROM_IDS || kind == PAIRS) {
        io.ids = whole(f->ids, pairs, MOE_FORMAT_I32);
        io.weights = whole(f->weights, pairs, MOE_FORMAT_F32);
    } else {
        io.out_ids = whole(f->out_ids, pairs, MOE_FORMAT_I32);
        io.out_weights = whole(f->out_weights, pairs, MOE_FORMAT_F32);
        io.expert_counts = whole(f->counts, EXPERTS, MOE_FORMAT_I64);
    }
    io.workspace = test_view(f->workspace, f->workspace_size, 0, MOE_FORMAT_F32);
    return io;
}

static void fixture_open(struct fixture *f, struct moe_backend *backend, const struct moe_context *ctx,
                         const struct moe_format_info *format, uint32_t flags)
{
    struct test_rng rng = {format->format + 1u};
    size_t size = format->block_values > 64 ? format->block_values : 64;
    struct test_layer_spec spec = {
        .experts = {.num_experts = EXPERTS, .hidden_size = size, .intermediate_size = size,
                    .gate = format->format, .up = format->format, .down = format->format},
        .top_k = TOP_K, .router = true, .router_format = MOE_FORMAT_F32, .selection_bias = true,
        .routing = {.weight = MOE_SCORE_SIGMOID, .renorm = MOE_RENORM_ADD_EPS, .renorm_eps = 1e-20f},
        .shared_size = size, .shared_gate = true,
    };
    if (format->format % 3 == 1) {      /* every third layer has latent experts, every third zero experts */
        spec.hidden_size = size;
        spec.latent_norm = spec.out_norm = spec.out_bias = true;
        spec.routed_scale = spec.out_scale = 0.5f;
        spec.norm_eps = 1e-6f;
    } else if (format->format % 3 == 2) {
        spec.num_experts = EXPERTS;
        spec.num_zero_experts = 2;
    }
    memset(f, 0, sizeof *f);
    test_layer_init(&f->layer, &rng, &spec);
    test_handle_open(&f->handle, backend, &f->layer, flags);
    f->hidden_size = f->intermediate_size = size;
    f->x = test_alloc(MOST_TOKENS * size * sizeof(float));
    f->logits = test_alloc(MOST_TOKENS * EXPERTS * sizeof(float));
    f->ids = test_alloc(MOST_TOKENS * TOP_K * sizeof(int32_t));
    f->weights = test_alloc(MOST_TOKENS * TOP_K * sizeof(float));
    f->out = test_alloc(MOST_TOKENS * TOP_K * size * sizeof(float));
    f->out_ids = test_alloc(MOST_TOKENS * TOP_K * sizeof(int32_t));
    f->out_weights = test_alloc(MOST_TOKENS * TOP_K * sizeof(float));
    f->counts = test_alloc(EXPERTS * sizeof(int64_t));
    f->scratch = test_alloc(7 * size * sizeof(float));
    memset(f->out, 0, MOST_TOKENS * TOP_K * size * sizeof(float));
    memset(f->counts, 0, EXPERTS * sizeof(int64_t));
    test_fill(&rng, f->x, MOST_TOKENS * size, 1);
    test_fill(&rng, f->logits, MOST_TOKENS * EXPERTS, 1);
    test_fill(&rng, f->weights, MOST_TOKENS * TOP_K, 1);
    for (size_t i = 0; i < MOST_TOKENS * TOP_K; i++)   /* some slots are empty */
        ((int32_t *)f->ids)[i] = (int32_t)test_below(&rng, EXPERTS + 2) - 1;
    for (enum kind kind = 0; kind < NUM_KINDS; kind++) {
        struct moe_layer_io io = make_io(f, kind, MOST_TOKENS);
        size_t bytes;
        test_assert_ok(moe_layer_workspace_size(ctx, f->handle.layer, &io, &bytes));
        if (f->workspace_size < bytes)
            f->workspace_size = bytes;
    }
    f->workspace = test_alloc(f->workspace_size);
}

static void fixture_close(struct fixture *f)
{
    void *memory[] = {f->x, f->logits, f->ids, f->weights, f->out, f->out_ids, f->out_weights, f->counts, f->scratch,
                      f->workspace};
    test_handle_close(&f->handle);
    test_layer_free(&f->layer);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        test_release(memory[i]);
}

/* ---- the calls ---- */

enum driver { OWN_POOL, PARALLEL_FOR, TEAM, COMPOSED, PORTABLE };

struct job {
    struct moe_context *ctx;
    const struct fixture *fixture;
    enum driver driver;
    size_t num_tokens, times, team;
    pthread_barrier_t barrier;
    enum moe_status status[THREADS];   /* of each thread: the first that is not MOE_OK */
    atomic_size_t next;                /* the number that the next thread of the team takes */
};

static enum moe_status call_layers(const struct job *job, size_t ith)
{
    for (size_t i = 0; i < job->times; i++) {
        struct moe_layer_io io = make_io(job->fixture, (enum kind)(i % NUM_KINDS), job->num_tokens);
        enum moe_status status;
        if (job->driver == TEAM)
            status = moe_layer_forward_team(job->ctx, job->fixture->handle.layer, &io, ith, job->team);
        else
            status = moe_layer_forward(job->ctx, job->fixture->handle.layer, &io);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

static enum moe_status call_portable(const struct job *job)
{
    const struct fixture *f = job->fixture;
    size_t values = job->num_tokens * f->hidden_size;
    float *scratch = f->scratch;
    struct moe_forward_params p;
    MOE_INIT(&p);
    p.ctx = job->ctx;
    p.x = whole(f->x, values, MOE_FORMAT_F32);
    p.router_logits = whole(f->logits, job->num_tokens * EXPERTS, MOE_FORMAT_F32);
    p.out = whole(f->out, values, MOE_FORMAT_F32);
    p.batch = job->num_tokens;
    p.hidden_size = f->hidden_size;
    p.expert_intermediate = f->intermediate_size;
    p.num_experts = EXPERTS;
    p.top_k = TOP_K;
    p.norm_topk_prob = true;
    p.experts = f->handle.experts;
    /* hidden_size and intermediate_size are equal here. */
    struct moe_view *const buffers[] = {&p.x_single, &p.acc_buf, &p.silu_buf, &p.down_buf, &p.zero_hidden};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        *buffers[i] = whole(scratch + i * f->hidden_size, f->hidden_size, MOE_FORMAT_F32);
    p.gate_up_buf = whole(scratch + 5 * f->hidden_size, 2 * f->hidden_size, MOE_FORMAT_F32);
    memset(scratch + 4 * f->hidden_size, 0, f->hidden_size * sizeof *scratch);
    for (size_t i = 0; i < job->times; i++) {
        enum moe_status status = moe_forward(&p);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

static void *team_thread(void *arg)
{
    struct job *job = arg;
    size_t ith = atomic_fetch_add(&job->next, 1);
    pthread_barrier_wait(&job->barrier);
    job->status[ith] = call_layers(job, ith);
    pthread_barrier_wait(&job->barrier);
    pthread_barrier_wait(&job->barrier);   /* its end frees memory */
    return NULL;
}

/* Run a job under the hook. Team threads start before it watches, and end after. */
static void run(struct job *job)
{
    pthread_t threads[THREADS];
    size_t counts[HOOK_NUM_CALLS];
    pthread_barrier_init(&job->barrier, NULL, (unsigned)job->team);
    atomic_store(&job->next, 1);
    for (size_t i = 1; i < job->team; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, team_thread, job), 0);
    hook_watch();
    pthread_barrier_wait(&job->barrier);
    job->status[0] = job->driver == PORTABLE ? call_portable(job) : call_layers(job, 0);
    pthread_barrier_wait(&job->barrier);
    size_t sum = hook_unwatch(counts);
    pthread_barrier_wait(&job->barrier);
    for (size_t i = 1; i < job->team; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&job->barrier);
    for (size_t i = 0; i < job->team; i++)
        test_assert_ok(job->status[i]);
    for (enum hook_call call = 0; call < HOOK_NUM_CALLS; call++)
        if (counts[call] != 0)
            print_error("%s: %zu calls\n", hook_name(call), counts[call]);
    assert_int_equal(sum, 0);
}

static void run_formats(enum driver driver)
{
    struct moe_backend *backend = test_backend("cpu");
    struct moe_error error = {0};
    struct moe_context_params params;
    struct moe_context *ctx;
    struct pool pool;
    size_t calls = 0;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    MOE_INIT(&params);
    params.num_threads = THREADS;
    params.team = driver == TEAM;
    if (driver == PARALLEL_FOR) {
        pool_open(&pool);
        params.parallel_for = pool_run;
        params.parallel_user = &pool;
    }
    if (moe_context_create(backend, &params, &ctx, &error) != MOE_OK)
        fail_msg("%s", error.text);
    const struct moe_format_info *format;
    size_t num_formats = 0;
    while (moe_format_at(num_formats) != NULL)
        num_formats++;
    for (size_t i = 0; (format = moe_format_at(i)) != NULL; i++) {
        struct fixture fixture;
        fixture_open(&fixture, backend, ctx, format, driver == COMPOSED ? MOE_LAYER_FORCE_COMPOSED : 0);
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
            /* A team spins: no more threads than there are CPUs, two at least. */
            struct job job = {.ctx = ctx, .fixture = &fixture, .driver = driver, .num_tokens = batches[b].num_tokens,
                              .times = (NUM_CALLS * batches[b].share / 1000 + num_formats - 1) / num_formats,
                              .team = driver != TEAM ? 1 : cpus >= THREADS ? THREADS : 2};
            run(&job);
            calls += job.times;
        }
        fixture_close(&fixture);
    }
    assert_true(calls >= NUM_CALLS);
    moe_context_destroy(ctx);
    if (driver == PARALLEL_FOR)
        pool_close(&pool);
    moe_backend_close(backend);
}

static void run_driver(void **state)
{
    if (!hook_works())
        skip();
    run_formats(*(const enum driver *)*state);
}

int main(void)
{
    static enum driver drivers[] = {OWN_POOL, PARALLEL_FOR, TEAM, COMPOSED, PORTABLE};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hook_sees_each_call),
        cmocka_unit_test(test_hook_sees_elsewhere),
        {"layer, own pool", run_driver, NULL, NULL, &drivers[0]},
        {"layer, parallel_for", run_driver, NULL, NULL, &drivers[1]},
        {"layer, team", run_driver, NULL, NULL, &drivers[2]},
        {"layer, composed", run_driver, NULL, NULL, &drivers[3]},
        {"moe_forward", run_driver, NULL, NULL, &drivers[4]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
