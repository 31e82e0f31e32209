// SPDX-License-Identifier: MIT
// Random layers over every axis of the params, exact, composed and by default, against the definition: each value
// within the bound that the definition derives for f32 arithmetic, or for activations that are rounded. So exact and
// composed are within twice that of each other.
#include "layer_fixture.h"

enum { NUM_LAYERS = 150, NUM_TOKENS = 9, NUM_WAYS = 3 };

static const char *const ways[NUM_WAYS] = {"exact", "composed", "by default"};

static void explain(const struct test_layer *layer, uint64_t seed)
{
    const struct moe_experts_params *e = &layer->experts.params;
    print_error("seed %llu: %zu experts of [%zu, %zu], formats %d %d %d, gate %d, transposed %d, bias %d, act %d, "
                "shared %d, top_k %zu, weight on input %d\n",
                (unsigned long long)seed, e->num_experts, e->intermediate_size, e->hidden_size,
                e->gate != NULL ? (int)e->gate->data.format : -1, (int)e->up->data.format, (int)e->down->data.format,
                e->gate != NULL, e->up->transposed, e->up->bias.base != NULL, e->act != NULL ? (int)e->act->kind : -1,
                layer->params.shared != NULL, layer->top_k, layer->params.weight_on_input);
}

static void compare_all(struct fixture *f, const struct test_call *call, uint64_t seed, double *worst)
{
    const struct moe_layer *layers[NUM_WAYS] = {f->exact.layer, f->composed.layer, f->fused.layer};
    assert_int_equal(test_rounding(f->exact.layer, &f->layer.block), MOE_REF_F32);
    for (size_t i = 0; i < NUM_WAYS; i++) {
        double found = fixture_compare(f, layers[i], call);
        worst[i] = found > worst[i] ? found : worst[i];
        if (found <= 1)
            continue;
        explain(&f->layer, seed);
        fail_msg("%s: error is %g times its bound", ways[i], found);
    }
}

static void test_random_layers(void **state)
{
    (void)state;
    double worst[NUM_WAYS] = {0};
    for (uint64_t seed = 0; seed < NUM_LAYERS; seed++) {
        struct fixture f;
        fixture_open_random(&f, 1000 * seed, NUM_TOKENS);
        struct test_call call = fixture_call(&f);
        if (f.layer.routing.router != NULL && seed % 2 == 0)
            call.logits = NULL;
        compare_all(&f, &call, seed, worst);
        call = fixture_call_ids(&f);
        compare_all(&f, &call, seed, worst);
        call.flags = MOE_OUT_PAIRS;
        compare_all(&f, &call, seed, worst);
        fixture_close(&f);
    }
    for (size_t i = 0; i < NUM_WAYS; i++)
        print_message("largest error / bound, %s: %.2g\n", ways[i], worst[i]);
}

/* Every format of weights, all three matrices in it; other formats beside it in the random layers. With the best
 * kernels, and with plain C alone. */
static void test_formats_on(const char *backend)
{
    const struct moe_format_info *info;
    double worst[NUM_WAYS] = {0};
    for (size_t i = 0; (info = moe_format_at(i)) != NULL; i++) {
        struct test_layer_spec spec = {.top_k = 2};
        bool large = info->block_values > 64;
        spec.experts = (struct test_experts_spec){.num_experts = 4, .hidden_size = large ? 512 : 192,
                                                  .intermediate_size = large ? 256 : 128, .gate = info->format,
                                                  .up = info->format, .down = info->format};
        struct fixture f;
        fixture_open_on(&f, backend, &spec, i, NUM_TOKENS);
        struct test_call call = fixture_call(&f);
        compare_all(&f, &call, i, worst);
        test_assert_ok(test_call_run(f.ctx, f.exact.layer, &call));
        double *ref = moe_ref_alloc(NUM_TOKENS * f.hidden_size, sizeof *ref);
        test_call_ref(&f.layer.block, &call, ref, NULL, NULL, NULL);
        double error = test_relative_error(f.out, ref, NUM_TOKENS * f.hidden_size);
        test_assert_most(error, 1e-5, info->name);
        free(ref);
        fixture_close(&f);
    }
}

static void test_formats(void **state)
{
    (void)state;
    test_formats_on("cpu");
    test_formats_on("cpu:c");
}

/* Every layout of matrices and biases, with and without a gate and a shared expert. */
static void test_layouts_of_biases_and_matrices(void **state)
{
    (void)state;
    double worst[NUM_WAYS] = {0};
    for (int layout = TEST_DENSE; layout < TEST_NUM_LAYOUTS; layout++) {
        for (int way = 0; way < 8; way++) {
            struct test_layer_spec spec = {.top_k = 3, .shared_size = way & 4 ? 24 : 0, .shared_gate = true};
            spec.experts = (struct test_experts_spec){.num_experts = 5, .hidden_size = 37, .intermediate_size = 23,
                                                      .gate = MOE_FORMAT_BF16, .up = MOE_FORMAT_BF16,
                                                      .down = MOE_FORMAT_F16, .layout = (enum test_layout)layout,
                                                      .bias = way & 1, .no_gate = way & 2,
                                                      .bias_format = MOE_FORMAT_BF16};
            struct fixture f;
            fixture_open(&f, &spec, (uint64_t)(8 * layout + way), NUM_TOKENS);
            struct test_call call = fixture_call(&f);
            compare_all(&f, &call, (uint64_t)layout, worst);
            fixture_close(&f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_layouts_of_biases_and_matrices),
        cmocka_unit_test(test_random_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
