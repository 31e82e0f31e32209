// SPDX-License-Identifier: MIT
// Memory runs out at every place once: each allocation of each create and open call fails in turn, first alone, then
// with all after it. The call says ERR_MEMORY and leaves nothing behind, and the same call works a moment later.
#include "hook.h"
#include "support.h"

#include <stdlib.h>
#include <string.h>

/* ---- an allocator that counts and fails ---- */

struct heap {
    size_t calls, fail_at;   /* fail_at 0: never */
    bool fail_all;           /* those after it too */
    bool failed;
    size_t live, live_bytes;
};

/* The size stands in front of the block: the library must give it back right. */
enum { FRONT = 256 };

static void *heap_alloc(void *user, size_t size, size_t align)
{
    struct heap *heap = user;
    heap->calls++;
    assert_true(align != 0 && (align & (align - 1)) == 0 && align <= FRONT);
    assert_true(size != 0);
    if (heap->fail_at != 0 && (heap->calls == heap->fail_at || (heap->fail_all && heap->calls > heap->fail_at))) {
        heap->failed = true;
        return NULL;
    }
    unsigned char *block = aligned_alloc(FRONT, FRONT + (size + FRONT - 1) / FRONT * FRONT);
    assert_non_null(block);
    memset(block + FRONT, 0xff, size);
    memcpy(block, &size, sizeof size);
    heap->live++;
    heap->live_bytes += size;
    return block + FRONT;
}

static void heap_free(void *user, void *ptr, size_t size)
{
    struct heap *heap = user;
    size_t given;
    assert_non_null(ptr);
    memcpy(&given, (unsigned char *)ptr - FRONT, sizeof given);
    assert_int_equal(size, given);
    assert_true(heap->live > 0);
    heap->live--;
    heap->live_bytes -= size;
    free((unsigned char *)ptr - FRONT);
}

/* The n-th allocation from now on fails; 0: none. */
static void heap_fail_at(struct heap *heap, size_t n, bool all)
{
    heap->calls = 0;
    heap->fail_at = n;
    heap->fail_all = all;
    heap->failed = false;
}

/* ---- the calls, each with the memory of env ---- */

struct made {
    struct moe_env env;
    struct heap heap;
    const struct test_layer *source;
    const char *path;
    uint32_t flags;
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct moe_experts *experts, *shared, *latent;
    struct moe_layer *layer;
    struct moe_model *model;
};

static enum moe_status make_backend(struct made *made, struct moe_error *error)
{
    return moe_backend_open("cpu", &made->env, &made->backend, error);
}

static enum moe_status make_context(struct made *made, struct moe_error *error)
{
    struct moe_context_params params;
    MOE_INIT(&params);
    params.num_threads = 3;
    return moe_context_create(made->backend, &params, &made->ctx, error);
}

static enum moe_status make_team_context(struct made *made, struct moe_error *error)
{
    struct moe_context_params params;
    MOE_INIT(&params);
    params.num_threads = 3;
    params.team = true;
    return moe_context_create(made->backend, &params, &made->ctx, error);
}

static enum moe_status make_experts(struct made *made, struct moe_error *error)
{
    return moe_experts_create(made->backend, &made->source->experts.params, &made->experts, error);
}

static enum moe_status make_shared(struct made *made, struct moe_error *error)
{
    return moe_experts_create(made->backend, &made->source->shared_experts.params, &made->shared, error);
}

static enum moe_status make_latent(struct made *made, struct moe_error *error)
{
    return moe_experts_create(made->backend, &made->source->latent.params, &made->latent, error);
}

static enum moe_status make_layer(struct made *made, struct moe_error *error)
{
    struct moe_layer_params params = made->source->params;
    struct moe_shared shared = made->source->shared;
    shared.experts = made->shared;
    params.shared = params.shared != NULL ? &shared : NULL;
    params.experts = made->experts;
    params.latent = made->latent;
    params.flags = made->flags;
    return moe_layer_create(made->backend, &params, &made->layer, error);
}

static enum moe_status make_model(struct made *made, struct moe_error *error)
{
    struct moe_model_params params;
    MOE_INIT(&params);
    params.flags = made->flags;
    params.env = made->env.alloc != NULL ? &made->env : NULL;
    return moe_model_open(made->path, &params, &made->model, error);
}

static enum moe_status make_model_layer(struct made *made, struct moe_error *error)
{
    return moe_model_layer(made->model, 0, made->backend, 0, &made->layer, error);
}

struct step {
    const char *name;
    enum moe_status (*make)(struct made *made, struct moe_error *error);
    size_t out;   /* offset in struct made of the pointer that it sets */
};
#define STEP(name, field) {#name, name, offsetof(struct made, field)}

static void unmake(struct made *made)
{
    moe_context_destroy(made->ctx);
    moe_layer_destroy(made->layer);
    moe_experts_destroy(made->shared);
    moe_experts_destroy(made->latent);
    moe_experts_destroy(made->experts);
    moe_model_close(made->model);
    moe_backend_close(made->backend);
}

/* A call that failed: what it must say and leave. */
static void check_failure(struct made *made, const struct step *step, enum moe_status status,
                          const struct moe_error *error)
{
    void *out;
    assert_int_equal(error->status, status);
    assert_true(error->text[0] != '\0');
    memcpy(&out, (char *)made + step->out, sizeof out);
    assert_null(out);
}

/* The last of the steps with allocation n failing, the earlier ones with memory. False: it had fewer than n. */
static bool fail_once(struct made *made, const struct step *steps, size_t num_steps, size_t n, bool all)
{
    struct moe_error error = {0};
    const struct step *last = &steps[num_steps - 1];
    void *dirty = made;
    heap_fail_at(&made->heap, 0, false);
    for (size_t i = 0; i + 1 < num_steps; i++)
        if (steps[i].make(made, &error) != MOE_OK)
            fail_msg("%s: %s", steps[i].name, error.text);
    size_t live = made->heap.live, bytes = made->heap.live_bytes;
    memcpy((char *)made + last->out, &dirty, sizeof dirty);
    heap_fail_at(&made->heap, n, all);
    enum moe_status status = last->make(made, &error);
    bool failed = made->heap.failed;
    heap_fail_at(&made->heap, 0, false);
    if (status != MOE_OK) {
        if (status != MOE_ERR_MEMORY)
            fail_msg("%s without memory: %s (%s)", last->name, moe_status_text(status), error.text);
        check_failure(made, last, status, &error);
        /* A model may keep what it has read so far; all else is as it was. */
        if (made->model == NULL || last->make == make_model) {
            assert_int_equal(made->heap.live, live);
            assert_int_equal(made->heap.live_bytes, bytes);
        }
        status = last->make(made, &error);
        if (status != MOE_OK)
            fail_msg("%s, again: %s", last->name, error.text);
    }
    unmake(made);
    assert_int_equal(made->heap.live, 0);
    assert_int_equal(made->heap.live_bytes, 0);
    return failed;
}

/* Every allocation of the last step, in turn; at least one must be there. */
static void fail_each(const struct made *what, const struct step *steps, size_t num_steps)
{
    for (int all = 0; all < 2; all++) {
        size_t n = 0;
        bool failed;
        do {
            struct made made = *what;
            MOE_INIT(&made.env);
            made.env.user = &made.heap;
            made.env.alloc = heap_alloc;
            made.env.free = heap_free;
            failed = fail_once(&made, steps, num_steps, ++n, all != 0);
        } while (failed);
        if (n == 1)
            fail_msg("%s: takes no memory from its env", steps[num_steps - 1].name);
    }
}

/* Each prefix of the steps. */
static void fail_all_steps(const struct made *what, const struct step *steps, size_t num_steps)
{
    for (size_t n = 1; n <= num_steps; n++)
        fail_each(what, steps, n);
}

/* ---- tests ---- */

static void test_contexts(void **state)
{
    (void)state;
    const struct step own[] = {STEP(make_backend, backend), STEP(make_context, ctx)};
    const struct step team[] = {STEP(make_backend, backend), STEP(make_team_context, ctx)};
    struct made made = {.flags = 0};
    fail_all_steps(&made, own, 2);
    fail_all_steps(&made, team, 2);
}

/* Layers of every layout; transposed ones and biases are copied. */
static void test_layers(void **state)
{
    (void)state;
    const struct step steps[] = {STEP(make_backend, backend), STEP(make_experts, experts), STEP(make_shared, shared),
                                 STEP(make_latent, latent), STEP(make_layer, layer)};
    for (enum test_layout layout = 0; layout < TEST_NUM_LAYOUTS; layout++) {
        struct test_layer source;
        struct test_rng rng = {layout + 1u};
        struct test_layer_spec spec = {
            .experts = {.num_experts = 4, .hidden_size = 32, .intermediate_size = 64, .gate = MOE_FORMAT_BF16,
                        .up = MOE_FORMAT_BF16, .down = MOE_FORMAT_BF16, .layout = layout, .bias = true,
                        .bias_format = MOE_FORMAT_F32},
            .top_k = 2, .router = true, .router_bias = true, .router_format = MOE_FORMAT_BF16, .selection_bias = true,
            .shared_size = 32, .shared_gate = true, .hidden_size = 48, .latent_bias = true, .latent_norm = true,
            .out_norm = true, .out_bias = true,
        };
        test_layer_init(&source, &rng, &spec);
        struct made made = {.source = &source};
        fail_all_steps(&made, steps, 5);
        made.flags = MOE_LAYER_FORCE_COMPOSED;
        fail_each(&made, steps, 5);
        test_layer_free(&source);
    }
}

/* A router, groups, correction bias, shared expert; fused and transposed tensors; biases; one file and many. Or else
 * the files of the command line. */
static const char *const own_models[] = {
    MOE_SOURCE_DIR "/models/bard",
    MOE_TEST_MODELS "/zoo/deepseek_v3",
    MOE_TEST_MODELS "/zoo/gpt_oss",
    MOE_TEST_MODELS "/zoo/llama4_text",
    MOE_TEST_MODELS "/zoo/qwen2_moe",
};
static const char *const *models = own_models;
static size_t num_models = sizeof own_models / sizeof *own_models;

static void test_models(void **state)
{
    (void)state;
    const struct step steps[] = {STEP(make_model, model), STEP(make_backend, backend), STEP(make_model_layer, layer)};
    for (size_t i = 0; i < num_models; i++)
        for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags += MOE_MODEL_READ) {
            struct made made = {.path = models[i], .flags = flags};
            fail_each(&made, steps, 1);
            fail_each(&made, steps, 3);
        }
}

/* The same for memory that does not come from an env: the C library's, for JSON and everything else. jansson calls it a
 * syntax error when it has no memory, so the status is not always ERR_MEMORY here. */
static void test_models_malloc(void **state)
{
    (void)state;
    if (!hook_works())
        skip();
    struct moe_backend *backend = test_backend("cpu");
    for (size_t i = 0; i < num_models; i++) {
        const struct step step = STEP(make_model, model);
        bool failed = true;
        for (size_t n = 1; failed; n += n < 100 ? 1 : n / 50) {
            struct made made = {.path = models[i]};
            struct moe_error error = {0};
            size_t live = hook_live_blocks();
            hook_fail_at(n, false);
            enum moe_status status = make_model(&made, &error);
            failed = hook_failed();
            hook_fail_at(0, false);
            if (status != MOE_OK)
                check_failure(&made, &step, status, &error);
            moe_model_close(made.model);
            if (hook_live_blocks() != live)
                fail_msg("%s, allocation %zu: %zu blocks before, %zu after", models[i], n, live,
                         hook_live_blocks());
        }
    }
    moe_backend_close(backend);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contexts),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_models_malloc),
    };
    const struct CMUnitTest model_tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_models_malloc),
    };
    if (argc > 1) {
        models = (const char *const *)&argv[1];
        num_models = (size_t)argc - 1;
        return cmocka_run_group_tests(model_tests, NULL, NULL);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
