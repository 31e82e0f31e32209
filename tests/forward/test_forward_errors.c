// SPDX-License-Identifier: MIT
// moe_forward's arguments: every mistake gives its status and leaves every buffer as it was.
#include "forward_fixture.h"

static const struct forward_case base_case = {
    .seed = 1, .batch = 3, .hidden_size = 32, .intermediate_size = 48, .num_experts = 8, .top_k = 2, .norm = true};

static void expect(struct fixture *f, const struct moe_forward_params *params, enum moe_status status)
{
    test_assert_status(moe_forward(params), status);
    fixture_unchanged(f);
}

static void test_views(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    for (int i = 0; i < NUM_BUFFERS; i++) {
        struct moe_forward_params p = f.params;
        struct moe_view *view = fixture_view(&p, (enum fixture_buffer)i), good = *view;
        view->base = NULL;
        expect(&f, &p, MOE_ERR_ARGUMENT);
        *view = good;
        view->size--;
        expect(&f, &p, MOE_ERR_ARGUMENT);
        *view = good;
        view->size = 0;
        expect(&f, &p, MOE_ERR_ARGUMENT);
        *view = good;
        view->offset = 2;   /* inside, but f32 needs 4 */
        view->base = (char *)good.base - 4;
        view->size = good.size + 2;
        expect(&f, &p, MOE_ERR_ARGUMENT);
        *view = good;
        view->offset = SIZE_MAX - 3;
        expect(&f, &p, MOE_ERR_ARGUMENT);
        const enum moe_format wrong[] = {MOE_FORMAT_Q8_0, MOE_FORMAT_I32, MOE_FORMAT_I64, (enum moe_format)77,
                                         MOE_FORMAT_PRIVATE};
        *view = good;
        for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
            view->format = wrong[j];
            expect(&f, &p, MOE_ERR_ARGUMENT);
        }
        if (i != X && i != LOGITS && i != OUT) {   /* scratch is f32 */
            view->format = MOE_FORMAT_BF16;
            expect(&f, &p, MOE_ERR_ARGUMENT);
            continue;
        }
        *view = good;
        view->stride -= 4;
        expect(&f, &p, MOE_ERR_ARGUMENT);
        view->stride = good.stride + 1;
        view->size = good.size + 2;
        expect(&f, &p, MOE_ERR_ARGUMENT);
        view->stride = SIZE_MAX / 4 * 4;
        expect(&f, &p, MOE_ERR_ARGUMENT);
    }
    fixture_close(&f);
}

static void test_overlaps(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    for (int i = OUT; i < NUM_BUFFERS; i++) {
        for (int j = 0; j < NUM_BUFFERS; j++) {
            if (i == j)
                continue;
            struct moe_forward_params p = f.params;
            struct moe_view *view = fixture_view(&p, (enum fixture_buffer)i);
            const struct moe_view *other = fixture_view(&p, (enum fixture_buffer)j);
            view->base = (char *)other->base + f.size[j] - 4;   /* the last value of j is the first of i */
            view->offset = 0;
            expect(&f, &p, MOE_ERR_ARGUMENT);
        }
    }
    /* Inputs may share memory. */
    struct moe_forward_params p = f.params;
    p.router_logits = p.x;
    test_assert_ok(moe_forward(&p));
    fixture_close(&f);
}

static void test_sizes(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    const size_t wrong[] = {0, 1, 31, 33, SIZE_MAX, SIZE_MAX / 2 + 1, (size_t)1 << 62};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct moe_forward_params p = f.params;
        p.hidden_size = wrong[i];
        expect(&f, &p, MOE_ERR_ARGUMENT);
        p = f.params;
        p.expert_intermediate = wrong[i];
        expect(&f, &p, MOE_ERR_ARGUMENT);
        p = f.params;
        p.num_experts = wrong[i];
        expect(&f, &p, MOE_ERR_ARGUMENT);
        p = f.params;
        p.top_k = wrong[i] == 1 ? 9 : wrong[i];
        expect(&f, &p, MOE_ERR_ARGUMENT);
        if (wrong[i] > 3) {   /* more tokens than the views hold, or than can be counted */
            p = f.params;
            p.batch = wrong[i];
            expect(&f, &p, MOE_ERR_ARGUMENT);
        }
    }
    struct moe_forward_params p = f.params;
    p.batch = 4;
    expect(&f, &p, MOE_ERR_ARGUMENT);
    p.batch = 0;   /* nothing to do, and no memory needed */
    for (int i = 0; i < NUM_BUFFERS; i++)
        *fixture_view(&p, (enum fixture_buffer)i) = (struct moe_view){0};
    expect(&f, &p, MOE_OK);
    p.top_k = 0;
    expect(&f, &p, MOE_ERR_ARGUMENT);
    fixture_close(&f);
}

static void test_objects_and_flags(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, &base_case);
    struct moe_backend *other = test_backend("cpu");
    struct moe_context *other_ctx = test_context(other, 1);
    struct moe_forward_params p = f.params;
    expect(&f, NULL, MOE_ERR_ARGUMENT);
    p.struct_size = 0;
    expect(&f, &p, MOE_ERR_ARGUMENT);
    p = f.params;
    p.ctx = NULL;
    expect(&f, &p, MOE_ERR_ARGUMENT);
    p.ctx = other_ctx;   /* of another backend than the experts */
    expect(&f, &p, MOE_ERR_ARGUMENT);
    p = f.params;
    p.experts = NULL;
    expect(&f, &p, MOE_ERR_ARGUMENT);
    const uint32_t flags[] = {MOE_OUT_PAIRS, 8, 0x80000000u};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        p = f.params;
        p.flags = flags[i];
        expect(&f, &p, MOE_ERR_ARGUMENT);
    }
    moe_context_destroy(other_ctx);
    moe_backend_close(other);
    fixture_close(&f);
}

/* A program built against a later header may have a longer struct, as long as what we do not know is 0. */
static void test_longer_struct(void **state)
{
    (void)state;
    struct fixture f;
    struct {
        struct moe_forward_params params;
        uint64_t more;
    } longer = {0};
    fixture_open(&f, &base_case);
    longer.params = f.params;
    longer.params.struct_size = sizeof longer;
    longer.more = 1;
    expect(&f, &longer.params, MOE_ERR_ARGUMENT);
    longer.more = 0;
    test_assert_ok(moe_forward(&longer.params));
    fixture_close(&f);
}

static void test_unsupported_experts(void **state)
{
    (void)state;
    struct fixture f;
    struct forward_case c = base_case;
    c.bias = true;
    fixture_open(&f, &c);
    expect(&f, &f.params, MOE_ERR_UNSUPPORTED);
    fixture_close(&f);
    c.bias = false;
    c.no_gate = true;
    fixture_open(&f, &c);
    expect(&f, &f.params, MOE_ERR_UNSUPPORTED);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),         cmocka_unit_test(test_overlaps),
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_objects_and_flags),
        cmocka_unit_test(test_longer_struct), cmocka_unit_test(test_unsupported_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
