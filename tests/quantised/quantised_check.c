// SPDX-License-Identifier: MIT
// quantised-check MODEL EXPECTED: a quantised checkpoint against a plain one of the same values, or a safetensors file
// that holds "layerN.gate", "layerN.up" and "layerN.down" [experts, rows, cols] in f32. The values of the matrices have
// to be the same bits; the layer, with scales in the kernels and expanded, is within 1e-5 of its definition.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "objects.h"
#include "support.h"

extern const struct moe_backend_ops moe_cpu_ops;

enum { NUM_TOKENS = 7 };

static const char *folder, *expected_path;

/* The CPU without scales in its kernels: matrices are copied as f32. */
static struct moe_backend *open_plain(struct moe_backend_ops *ops)
{
    struct moe_backend *backend = NULL;
    *ops = moe_cpu_ops;
    ops->flags &= ~(uint32_t)MOE_BACKEND_SCALES;
    test_assert_ok(moe_backend_open_ops(ops, NULL, NULL, &backend, NULL));
    return backend;
}

static void compare_matrix(struct moe_model *expected, size_t layer, const char *what, const struct moe_stack *stack)
{
    char name[64];
    struct moe_tensor tensor;
    const void *data;
    snprintf(name, sizeof name, "layer%zu.%s", layer, what);
    test_assert_ok(moe_model_tensor_find(expected, name, &tensor));
    test_assert_ok(moe_model_tensor_data(expected, name, &data, NULL));
    assert_int_equal(tensor.size, stack->num_experts * stack->rows * stack->cols * sizeof(float));
    float *row = moe_ref_alloc(stack->cols, sizeof *row);
    for (size_t e = 0; e < stack->num_experts; e++)
        for (size_t r = 0; r < stack->rows; r++) {
            struct moe_slice slice = moe_stack_slice(stack, e);
            const char *at = (const char *)slice.data.base + slice.data.offset + r * slice.data.stride;
            assert_false(slice.scaled);
            test_assert_ok(moe_format_dequantise(slice.data.format, row, at, 1, stack->cols));
            for (size_t c = 0; c < stack->cols; c++) {
                float value;
                memcpy(&value, (const char *)data + ((e * stack->rows + r) * stack->cols + c) * sizeof value, 4);
                if (memcmp(&value, &row[c], sizeof value) != 0)
                    fail_msg("%s: %s of expert %zu, row %zu, column %zu: expected %.9g, found %.9g", folder, name, e, r,
                             c, (double)value, (double)row[c]);
            }
        }
    free(row);
}

static void read_row(const struct moe_stack *stack, size_t e, size_t r, float *out)
{
    struct moe_slice slice = moe_stack_slice(stack, e);
    const char *at = (const char *)slice.data.base + slice.data.offset + r * slice.data.stride;
    assert_false(slice.scaled);
    test_assert_ok(moe_format_dequantise(slice.data.format, out, at, 1, stack->cols));
}

static void compare_stacks(size_t layer, const char *what, const struct moe_stack *found,
                           const struct moe_stack *expected)
{
    assert_int_equal(found->num_experts, expected->num_experts);
    assert_int_equal(found->rows, expected->rows);
    assert_int_equal(found->cols, expected->cols);
    float *row = moe_ref_alloc(found->cols + 1, sizeof *row), *wanted = moe_ref_alloc(found->cols + 1, sizeof *row);
    for (size_t e = 0; e < found->num_experts; e++)
        for (size_t r = 0; r < found->rows; r++) {
            read_row(found, e, r, row);
            read_row(expected, e, r, wanted);
            for (size_t c = 0; c < found->cols; c++)
                if (memcmp(&row[c], &wanted[c], sizeof row[c]) != 0)
                    fail_msg("%s: layer %zu, %s of expert %zu, row %zu, column %zu: expected %.9g, found %.9g", folder,
                             layer, what, e, r, c, (double)wanted[c], (double)row[c]);
        }
    free(row);
    free(wanted);
}

/* Experts, routed or shared, of both models; both are absent, or both are there. */
static void compare_experts(struct moe_backend *plain, size_t layer, const char *what,
                            const struct moe_experts_params *params, const struct moe_experts_params *wanted)
{
    struct moe_experts *experts = NULL, *expected = NULL;
    struct moe_error error = {0};
    assert_int_equal(params == NULL, wanted == NULL);
    if (params == NULL)
        return;
    if (moe_experts_create(plain, params, &experts, &error) != MOE_OK)
        fail_msg("%s: %s", folder, error.text);
    test_assert_ok(moe_experts_create(plain, wanted, &expected, &error));
    if (experts->set.gated)
        compare_stacks(layer, what, &experts->set.gate, &expected->set.gate);
    compare_stacks(layer, what, &experts->set.up, &expected->set.up);
    compare_stacks(layer, what, &experts->set.down, &expected->set.down);
    moe_experts_destroy(experts);
    moe_experts_destroy(expected);
}

static void compare_layer(struct moe_backend *backend, const struct moe_model_block *block, const char *what)
{
    struct moe_layer_params params = *block->layer;
    params.flags |= MOE_LAYER_EXACT;
    struct moe_experts *experts = NULL, *shared = NULL, *latent = NULL;
    struct moe_layer *layer = NULL;
    struct moe_shared shared_params;
    struct moe_error error = {0};
    test_assert_ok(moe_experts_create(backend, block->experts, &experts, &error));
    if (block->shared != NULL) {
        test_assert_ok(moe_experts_create(backend, block->shared, &shared, &error));
        shared_params = *params.shared;
        shared_params.experts = shared;
        params.shared = &shared_params;
    }
    if (block->latent != NULL)
        test_assert_ok(moe_experts_create(backend, block->latent, &latent, &error));
    params.latent = latent;
    params.experts = experts;
    test_assert_ok(moe_layer_create(backend, &params, &layer, &error));
    struct moe_context *ctx = test_context(backend, 2);
    struct test_rng rng = {7};
    size_t hidden = latent != NULL ? block->latent->hidden_size : block->experts->hidden_size, n = NUM_TOKENS * hidden;
    float *x = moe_ref_alloc(n, sizeof *x), *out = moe_ref_alloc(n, sizeof *out);
    double *ref = moe_ref_alloc(n, sizeof *ref);
    test_fill(&rng, x, n, 1);
    size_t num_pairs = NUM_TOKENS * params.top_k;
    int64_t *ids = moe_ref_alloc(num_pairs, sizeof *ids);
    float *weights = moe_ref_alloc(num_pairs, sizeof *weights);
    for (size_t p = 0; p < num_pairs; p++) {
        ids[p] = (int64_t)test_below(&rng, block->experts->num_experts);
        weights[p] = (float)test_uniform(&rng);
    }
    struct test_call call = {.num_tokens = NUM_TOKENS, .x = x, .ids = ids, .weights = weights, .out = out};
    test_assert_ok(test_call_run(ctx, layer, &call));
    test_call_ref(block, &call, ref, NULL, NULL, NULL);
    test_assert_most(test_relative_error(out, ref, n), 1e-5, what);
    free(x);
    free(out);
    free(ref);
    free(ids);
    free(weights);
    moe_context_destroy(ctx);
    moe_layer_destroy(layer);
    moe_experts_destroy(experts);
    moe_experts_destroy(shared);
    moe_experts_destroy(latent);
}

/* Matrices that are plain, whatever the file has. */
static void compare_gates(size_t layer, const char *what, const struct moe_matrix *found,
                          const struct moe_matrix *expected, size_t rows, size_t cols)
{
    double *values = moe_ref_alloc(rows * cols, sizeof *values), *wanted = moe_ref_alloc(rows * cols, sizeof *wanted);
    moe_ref_matrix(values, found, rows, cols, 0);
    moe_ref_matrix(wanted, expected, rows, cols, 0);
    for (size_t i = 0; i < rows * cols; i++)
        if (values[i] != wanted[i])
            fail_msg("%s: layer %zu, %s, value %zu: expected %.9g, found %.9g", folder, layer, what, i, wanted[i],
                     values[i]);
    free(values);
    free(wanted);
}

static void compare_tensors(struct moe_backend *plain, size_t layer, const struct moe_model_block *block,
                            struct moe_model *expected)
{
    struct moe_experts *experts = NULL;
    struct moe_error error = {0};
    if (moe_experts_create(plain, block->experts, &experts, &error) != MOE_OK)
        fail_msg("%s: %s", folder, error.text);
    compare_matrix(expected, layer, "gate", &experts->set.gate);
    compare_matrix(expected, layer, "up", &experts->set.up);
    compare_matrix(expected, layer, "down", &experts->set.down);
    moe_experts_destroy(experts);
}

static void compare_blocks(struct moe_backend *plain, size_t layer, const struct moe_model_block *block,
                           struct moe_model *expected)
{
    const struct moe_model_block *wanted;
    test_assert_ok(moe_model_block(expected, layer, &wanted, NULL));
    assert_non_null(wanted);
    compare_experts(plain, layer, "experts", block->experts, wanted->experts);
    compare_experts(plain, layer, "shared expert", block->shared, wanted->shared);
    compare_experts(plain, layer, "latent projections", block->latent, wanted->latent);
    size_t width = block->latent != NULL ? block->latent->hidden_size : block->experts->hidden_size;
    compare_gates(layer, "router", block->layer->routing->router, wanted->layer->routing->router,
                  block->experts->num_experts, width);
    if (block->layer->shared != NULL && block->layer->shared->gate != NULL)
        compare_gates(layer, "gate of the shared expert", block->layer->shared->gate, wanted->layer->shared->gate, 1,
                      width);
}

static void check(void **state)
{
    struct moe_backend_ops ops;
    struct moe_backend *plain = open_plain(&ops), *cpu = test_backend("cpu:c");
    struct moe_model *model = test_open(folder, NULL), *expected = test_open(expected_path, NULL);
    struct moe_model_info info = {.struct_size = sizeof info};
    bool is_file = strstr(expected_path, ".safetensors") != NULL;
    size_t scaled = 0;
    (void)state;
    test_assert_ok(moe_model_info(model, &info));
    for (size_t b = 0; b < info.num_blocks; b++) {
        const struct moe_model_block *block;
        struct moe_error error = {0};
        if (moe_model_block(model, b, &block, &error) != MOE_OK)
            fail_msg("%s: %s", folder, error.text);
        if (block == NULL)
            continue;
        scaled += block->experts->up->scales != NULL || (block->shared != NULL && block->shared->up->scales != NULL);
        if (is_file)
            compare_tensors(plain, b, block, expected);
        else
            compare_blocks(plain, b, block, expected);
        compare_layer(cpu, block, "the layer with scales in its kernels");
        compare_layer(plain, block, "the layer of expanded matrices");
    }
    assert_true(scaled > 0);
    moe_model_close(model);
    moe_model_close(expected);
    moe_backend_close(plain);
    moe_backend_close(cpu);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(check)};
    if (argc != 3)
        return 2;
    folder = argv[1];
    expected_path = argv[2];
    return cmocka_run_group_tests_name(folder, tests, NULL, NULL);
}
