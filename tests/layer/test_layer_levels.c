// SPDX-License-Identifier: MIT
// A layer on each level of kernels above c that this machine has: each value within its bound, and the bits of a token
// the same alone and in the batch. Short, for machines that are emulated; test_layer_rounded.c goes over all formats.
#include <stdio.h>

#include "cpu/cpuid.h"
#include "cpu/kernels.h"
#include "layer_fixture.h"

enum { NUM_TOKENS = 5, NAME_BYTES = 32 };

/* Gate, up and down. */
static const enum moe_format formats[][3] = {
    {MOE_FORMAT_Q4_K, MOE_FORMAT_Q5_K, MOE_FORMAT_Q6_K},
    {MOE_FORMAT_Q8_0, MOE_FORMAT_Q8_0, MOE_FORMAT_Q4_1},
    {MOE_FORMAT_MXFP4, MOE_FORMAT_MXFP4, MOE_FORMAT_IQ4_XS},
    {MOE_FORMAT_BF16, MOE_FORMAT_F16, MOE_FORMAT_F32},
};

/* f->other has the batch. */
static void compare_alone(struct fixture *f, const struct moe_layer *layer, const struct test_call *all)
{
    for (size_t t = 0; t < NUM_TOKENS; t++) {
        struct test_call one = fixture_part(f, all, t, 1);
        test_assert_ok(test_call_run(f->ctx, layer, &one));
        test_assert_same(one.out, f->other + t * f->hidden_size, f->hidden_size, "a token alone");
    }
}

static void test_level(const char *name)
{
    struct test_layer_spec spec = {.top_k = 2, .shared_size = 256};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const enum moe_format *format = formats[i];
        spec.experts = (struct test_experts_spec){.num_experts = 3, .hidden_size = 256, .intermediate_size = 256,
                                                  .gate = format[0], .up = format[1], .down = format[2]};
        struct fixture f;
        fixture_open_on(&f, name, &spec, i, NUM_TOKENS);
        struct test_call call = fixture_call_ids(&f);
        test_assert_most(fixture_compare(&f, f.fused.layer, &call), 1, name);
        memcpy(f.other, f.out, NUM_TOKENS * f.hidden_size * sizeof *f.out);
        compare_alone(&f, f.fused.layer, &call);
        test_assert_most(fixture_compare(&f, f.exact.layer, &call), 1, name);
        fixture_close(&f);
    }
}

static void test_levels(void **state)
{
    (void)state;
    for (int level = MOE_LEVEL_C + 1; level < MOE_NUM_LEVELS; level++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "cpu:%s", moe_kernels_level_name((enum moe_level)level));
        if (!moe_cpuid_has((enum moe_level)level))
            continue;
        test_level(name);
        print_message("%s\n", name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
