// SPDX-License-Identifier: MIT
// How a layer would run, in words: lines of fused, exact and composed layers, what they say against what the layer
// promises, backends that say nothing, and errors.
#include <string.h>

#include "moe/backend.h"
#include "support.h"

extern const struct moe_backend_ops moe_cpu_ops;

enum { EXPERTS = 4, TOP_K = 2, MANY = 12 * EXPERTS / TOP_K };    /* from MANY tokens on there are 12 a matrix */

static const struct test_layer_spec q8_0 = {
    .experts = {.num_experts = EXPERTS, .hidden_size = 64, .intermediate_size = 32, .gate = MOE_FORMAT_Q8_0,
                .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_BF16},
    .top_k = TOP_K, .router = true, .router_format = MOE_FORMAT_F32};

struct subject {
    struct moe_backend *backend;
    struct test_layer layer;
    struct test_handle handle;
};

static void subject_open_on(struct subject *s, struct moe_backend *backend, const struct test_layer_spec *spec,
                            uint32_t flags)
{
    struct test_rng rng = {5};
    s->backend = backend;
    test_layer_init(&s->layer, &rng, spec);
    test_handle_open(&s->handle, s->backend, &s->layer, flags);
}

static void subject_open(struct subject *s, const char *backend, const struct test_layer_spec *spec, uint32_t flags)
{
    subject_open_on(s, test_backend(backend), spec, flags);
}

static void subject_close(struct subject *s)
{
    test_handle_close(&s->handle);
    test_layer_free(&s->layer);
    moe_backend_close(s->backend);
}

/* ---- lines ---- */

static void test_fused(void **state)
{
    (void)state;
    struct subject s;
    subject_open(&s, "cpu:c", &q8_0, 0);
    struct test_lines lines = test_lines_of(s.handle.layer, 3);
    test_assert_keys(&lines, "path|pairs|gate, up|down");
    assert_string_equal(test_line(&lines, "path"), "fused");
    assert_string_equal(test_line(&lines, "pairs"), "6 (3 x top 2): spread evenly, 4 of 4 experts get 1.5 each");
    assert_string_equal(test_line(&lines, "gate, up"), "linear q8_0 c, activations in f32");
    assert_string_equal(test_line(&lines, "down"), "linear bf16 c, activations in f32");
    lines = test_lines_of(s.handle.layer, 1);
    assert_string_equal(test_line(&lines, "pairs"), "2 (1 x top 2): spread evenly, 2 of 4 experts get 1.0 each");
    subject_close(&s);
}

/* Each product that the layer has, and gate apart from up where their formats differ. */
static void test_products(void **state)
{
    (void)state;
    struct subject s;
    struct test_layer_spec spec = q8_0;
    spec.experts.gate = MOE_FORMAT_F32;
    spec.shared_size = 32;
    subject_open(&s, "cpu:c", &spec, 0);
    struct test_lines lines = test_lines_of(s.handle.layer, 3);
    test_assert_keys(&lines, "path|pairs|gate|up|down|shared gate|shared up|shared down");
    assert_string_equal(test_line(&lines, "gate"), "linear f32 c, activations in f32");
    assert_string_equal(test_line(&lines, "shared up"), "linear q8_0 c, activations in f32");
    subject_close(&s);

    spec = q8_0;
    spec.experts.no_gate = true;
    spec.hidden_size = 96;
    spec.latent_format = MOE_FORMAT_F16;
    spec.shared_size = 32;
    spec.shared_plain = true;
    spec.shared_format = MOE_FORMAT_F32;
    subject_open(&s, "cpu:c", &spec, 0);
    lines = test_lines_of(s.handle.layer, 3);
    test_assert_keys(&lines, "path|pairs|latent in|up|down|latent out|shared up|shared down");
    assert_string_equal(test_line(&lines, "latent in"), "linear f16 c, activations in f32");
    assert_string_equal(test_line(&lines, "latent out"), "linear f16 c, activations in f32");
    assert_string_equal(test_line(&lines, "shared down"), "linear f32 c, activations in f32");
    subject_close(&s);

    subject_open(&s, "cpu", &spec, 0);    /* f32 weights are never rounded for, whatever the experts' are */
    lines = test_lines_of(s.handle.layer, 3);
    assert_non_null(strstr(test_line(&lines, "shared up"), "activations in f32"));
    assert_non_null(strstr(test_line(&lines, "shared down"), "activations in f32"));
    subject_close(&s);
}

static void test_composed(void **state)
{
    (void)state;
    struct subject s;
    subject_open(&s, "cpu", &q8_0, MOE_LAYER_FORCE_COMPOSED);
    struct test_lines lines = test_lines_of(s.handle.layer, 3);
    test_assert_keys(&lines, "path|pairs");
    assert_string_equal(test_line(&lines, "path"), "composed of primitives, a token at a time");
    subject_close(&s);
}

/* ---- against moe_layer_info ---- */

static bool all_in_f32(const struct test_lines *lines)
{
    return strstr(test_line(lines, "gate, up"), "activations in f32") != NULL &&
           strstr(test_line(lines, "down"), "activations in f32") != NULL;
}

/* A layer is exact if no line tells of rounding, whatever this machine has; and batch-invariant if lines are the same
 * for all numbers of tokens, otherwise they change from 12 tokens a matrix on, and say so. */
static void check_promises(const char *backend, enum moe_format format, uint32_t flags)
{
    struct subject s;
    struct test_layer_spec spec = q8_0;
    struct moe_layer_info info = {.struct_size = sizeof info};
    spec.experts.hidden_size = spec.experts.intermediate_size = 256;
    spec.experts.gate = spec.experts.up = spec.experts.down = format;
    subject_open(&s, backend, &spec, flags);
    test_assert_ok(moe_layer_info(s.handle.layer, &info));
    const struct test_lines one = test_lines_of(s.handle.layer, 1), few = test_lines_of(s.handle.layer, MANY - 1),
                            many = test_lines_of(s.handle.layer, MANY);
    assert_int_equal(info.exact, all_in_f32(&one) && all_in_f32(&many));
    const char *products[] = {"gate, up", "down"};
    for (size_t i = 0; i < 2; i++) {
        const char *at_one = test_line(&one, products[i]), *at_many = test_line(&many, products[i]);
        assert_string_equal(test_line(&few, products[i]), at_one);
        assert_int_equal(info.batch_invariant, strcmp(at_one, at_many) == 0);
        assert_int_equal(info.batch_invariant, strstr(at_one, ": fewer than 12 tokens a matrix") == NULL);
        assert_int_equal(info.batch_invariant, strstr(at_many, ": at least 12 tokens a matrix") == NULL);
    }
    subject_close(&s);
}

static void test_promises(void **state)
{
    (void)state;
    static const char *const backends[] = {"cpu", "cpu:c"};
    static const uint32_t flags[] = {0, MOE_LAYER_BATCH_INVARIANT, MOE_LAYER_EXACT};
    for (size_t b = 0; b < sizeof backends / sizeof *backends; b++)
        for (size_t f = 0; f < sizeof flags / sizeof *flags; f++) {
            check_promises(backends[b], MOE_FORMAT_F32, flags[f]);
            check_promises(backends[b], MOE_FORMAT_BF16, flags[f]);
            check_promises(backends[b], MOE_FORMAT_Q4_K, flags[f]);
        }
}

/* The shared expert's only matrix has all tokens. */
static void test_shared_has_all_tokens(void **state)
{
    (void)state;
    struct subject s;
    struct test_layer_spec spec = q8_0;
    struct moe_layer_info info = {.struct_size = sizeof info};
    spec.shared_size = 32;
    subject_open(&s, "cpu", &spec, 0);
    test_assert_ok(moe_layer_info(s.handle.layer, &info));
    const struct test_lines few = test_lines_of(s.handle.layer, 11), many = test_lines_of(s.handle.layer, 12);
    assert_string_equal(test_line(&few, "gate, up"), test_line(&many, "gate, up"));
    assert_int_equal(info.batch_invariant,
                     strcmp(test_line(&few, "shared gate, up"), test_line(&many, "shared gate, up")) == 0);
    subject_close(&s);
}

/* ---- backends of one's own ---- */

static enum moe_status refuse(const void *state, size_t num_tokens,
                              void (*line)(void *user, const char *key, const char *value), void *user)
{
    (void)state;
    (void)line;
    (void)user;
    return num_tokens == 7 ? MOE_ERR_DEVICE : MOE_OK;
}

static void ignore(void *user, const char *key, const char *value)
{
    (void)key;
    (void)value;
    ++*(size_t *)user;
}

static void test_other_backends(void **state)
{
    (void)state;
    struct subject s;
    struct moe_backend *backend;
    struct moe_backend_ops ops = moe_cpu_ops;
    size_t count = 0;
    ops.layer_describe = NULL;
    test_assert_ok(moe_backend_open_ops(&ops, NULL, NULL, &backend, NULL));
    subject_open_on(&s, backend, &q8_0, 0);
    struct test_lines lines = test_lines_of(s.handle.layer, 3);
    test_assert_keys(&lines, "path|pairs");
    assert_string_equal(test_line(&lines, "path"), "fused");
    ops.layer_describe = refuse;
    test_assert_ok(moe_layer_describe(s.handle.layer, 6, ignore, &count));
    test_assert_status(moe_layer_describe(s.handle.layer, 7, ignore, &count), MOE_ERR_DEVICE);
    subject_close(&s);
}

/* ---- errors ---- */

static void test_errors(void **state)
{
    (void)state;
    struct subject s;
    size_t count = 0;
    subject_open(&s, "cpu", &q8_0, 0);
    test_assert_status(moe_layer_describe(NULL, 1, ignore, &count), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_describe(s.handle.layer, 1, NULL, &count), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_describe(s.handle.layer, 0, ignore, &count), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_describe(s.handle.layer, SIZE_MAX / TOP_K + 1, ignore, &count), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_describe(s.handle.layer, SIZE_MAX, ignore, &count), MOE_ERR_ARGUMENT);
    assert_int_equal(count, 0);
    test_assert_ok(moe_layer_describe(s.handle.layer, SIZE_MAX / TOP_K, ignore, &count));
    assert_int_equal(count, 4);
    subject_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fused),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_composed),
        cmocka_unit_test(test_promises),
        cmocka_unit_test(test_shared_has_all_tokens),
        cmocka_unit_test(test_other_backends),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
