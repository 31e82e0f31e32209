// SPDX-License-Identifier: MIT
// How a layer would run on the emulated device, in words, against the launches of a forward.
#include <limits.h>
#include <stdlib.h>

#include "cuda_fixture.h"

enum { HIDDEN = 64, EXPERTS = 16, TOP_K = 4 };

static const struct test_layer_spec bf16 = {
    .experts = {.num_experts = EXPERTS, .hidden_size = HIDDEN, .intermediate_size = 32, .gate = MOE_FORMAT_BF16,
                .up = MOE_FORMAT_BF16, .down = MOE_FORMAT_BF16},
    .top_k = TOP_K, .router = true, .router_format = MOE_FORMAT_F32};

struct subject {
    struct moe_backend *backend;
    struct test_layer layer;
    struct test_handle handle;
};

static void subject_open(struct subject *s, const struct test_layer_spec *spec, uint32_t flags)
{
    struct test_rng rng = {6};
    moe_emulate_reset();
    test_assert_ok(moe_backend_open_ops(&moe_cuda_ops, NULL, NULL, &s->backend, NULL));
    test_layer_init(&s->layer, &rng, spec);
    test_handle_open(&s->handle, s->backend, &s->layer, flags);
}

static void subject_close(struct subject *s)
{
    test_handle_close(&s->handle);
    test_layer_free(&s->layer);
    moe_backend_close(s->backend);
    assert_int_equal(moe_emulate_check(), 0);
}

static void assert_line(const struct test_lines *lines, const char *key, const char *begin)
{
    if (strncmp(test_line(lines, key), begin, strlen(begin)) != 0)
        fail_msg("%s: \"%s\" does not begin with \"%s\"", key, test_line(lines, key), begin);
}

/* ---- which kernel ---- */

static void test_kernels(void **state)
{
    (void)state;
    struct subject s;
    subject_open(&s, &bf16, 0);
    struct test_lines lines = test_lines_of(s.handle.layer, 1);
    test_assert_keys(&lines, "path|pairs|gate, up|down");
    assert_line(&lines, "path", "fused");
    assert_line(&lines, "gate, up", "small (bf16): ");
    assert_line(&lines, "down", "small_down (bf16): ");
    lines = test_lines_of(s.handle.layer, 8);
    assert_line(&lines, "gate, up", "small (bf16): ");
    assert_line(&lines, "down", "small_down (bf16): ");
    lines = test_lines_of(s.handle.layer, 9);
    assert_line(&lines, "down", "small (bf16): ");
    lines = test_lines_of(s.handle.layer, 4096);
    assert_line(&lines, "gate, up", "large (bf16): ");
    assert_line(&lines, "down", "large (bf16): ");
    subject_close(&s);
}

/* What goes through dequantisers never goes through large. */
static void test_any(void **state)
{
    (void)state;
    struct subject s;
    struct test_layer_spec spec = bf16;
    spec.experts.down = MOE_FORMAT_Q4_1;
    subject_open(&s, &spec, 0);
    const struct test_lines lines = test_lines_of(s.handle.layer, 4096);
    assert_line(&lines, "gate, up", "large (bf16): ");
    assert_line(&lines, "down", "small (any): weights are dequantised");
    subject_close(&s);
}

static void test_products(void **state)
{
    (void)state;
    struct subject s;
    struct test_layer_spec spec = bf16;
    spec.experts.no_gate = true;
    spec.hidden_size = 96;
    spec.latent_format = MOE_FORMAT_F16;
    spec.shared_size = 32;
    subject_open(&s, &spec, 0);
    struct test_lines lines = test_lines_of(s.handle.layer, 9);
    test_assert_keys(&lines, "path|pairs|latent in|up|down|latent out|shared up|shared down");
    assert_line(&lines, "latent in", "small (f16): ");
    assert_line(&lines, "latent out", "small (f16): ");
    subject_close(&s);
    subject_open(&s, &spec, MOE_LAYER_FORCE_COMPOSED);
    lines = test_lines_of(s.handle.layer, 9);
    test_assert_keys(&lines, "path|pairs");
    assert_line(&lines, "path", "composed");
    subject_close(&s);
}

static void ignore(void *user, const char *key, const char *value)
{
    (void)user;
    (void)key;
    (void)value;
}

static void test_most_tokens(void **state)
{
    (void)state;
    struct subject s;
    subject_open(&s, &bf16, 0);
    test_assert_ok(moe_layer_describe(s.handle.layer, INT32_MAX / TOP_K, ignore, NULL));
    test_assert_status(moe_layer_describe(s.handle.layer, INT32_MAX / TOP_K + 1, ignore, NULL), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_describe(s.handle.layer, SIZE_MAX / TOP_K, ignore, NULL), MOE_ERR_ARGUMENT);
    subject_close(&s);
}

/* ---- against a forward ---- */

/* Launches of a forward; to describe it takes none. */
static size_t count_launches(const struct subject *s, size_t num_tokens, bool *one_launch)
{
    struct moe_context *ctx = test_context(s->backend, 1);
    struct moe_layer_io io;
    struct moe_view x;
    size_t bytes = num_tokens * HIDDEN * sizeof(float), workspace;
    float *zeros = moe_ref_alloc(num_tokens * HIDDEN, sizeof *zeros);
    MOE_INIT(&io);
    test_assert_ok(moe_mem_alloc(s->backend, 2 * bytes, &x));
    x.format = MOE_FORMAT_F32;
    x.size = bytes;
    io.num_tokens = num_tokens;
    io.x = io.out = x;
    io.out.offset = bytes;
    test_assert_ok(moe_mem_write(ctx, &io.x, zeros, bytes));
    test_assert_ok(moe_layer_workspace_size(ctx, s->handle.layer, &io, &workspace));
    test_assert_ok(moe_mem_alloc(s->backend, workspace, &io.workspace));
    moe_emulate_count_from_here();
    const struct test_lines lines = test_lines_of(s->handle.layer, num_tokens);
    assert_int_equal(moe_emulate_count().launches, 0);
    *one_launch = strncmp(test_line(&lines, "down"), "small_down", strlen("small_down")) == 0;
    test_assert_ok(moe_layer_forward(ctx, s->handle.layer, &io));
    size_t launches = moe_emulate_count().launches;
    test_assert_ok(moe_context_sync(ctx));
    moe_mem_free(s->backend, &io.workspace);
    moe_mem_free(s->backend, &x);
    moe_context_destroy(ctx);
    free(zeros);
    return launches;
}

/* Where down and the sum over slots are said to be one launch there is one less: with 1 to 8 tokens of up to 64 pairs,
 * between which and 9 nothing else changes. */
static void test_launches(void **state)
{
    (void)state;
    static const size_t top_k[] = {1, TOP_K, 8, 9, EXPERTS};
    for (size_t k = 0; k < sizeof top_k / sizeof *top_k; k++) {
        struct subject s;
        struct test_layer_spec spec = bf16;
        spec.top_k = top_k[k];
        subject_open(&s, &spec, 0);
        bool one;
        const size_t two_launches = count_launches(&s, 9, &one);
        assert_false(one);
        for (size_t num_tokens = 1; num_tokens <= 8; num_tokens++) {
            const size_t launches = count_launches(&s, num_tokens, &one);
            assert_int_equal(one, num_tokens * top_k[k] <= 64);
            assert_int_equal(launches, two_launches - one);
        }
        subject_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),     cmocka_unit_test(test_any),      cmocka_unit_test(test_products),
        cmocka_unit_test(test_most_tokens), cmocka_unit_test(test_launches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
