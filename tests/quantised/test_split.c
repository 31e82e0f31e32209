// SPDX-License-Identifier: MIT
// Blocks taken apart (src/split.c): the values of the planes are those of the blocks, row by row and as a backend with
// MOE_BACKEND_PLANES gets them in its memory, also after they have changed.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "objects.h"
#include "scales_row.h"
#include "support.h"

extern const struct moe_backend_ops moe_cpu_ops;

static const enum moe_format formats[] = {MOE_FORMAT_MXFP4, MOE_FORMAT_Q8_0, MOE_FORMAT_Q4_0};
enum { NUM_FORMATS = sizeof formats / sizeof formats[0], NUM_EXPERTS = 3, HIDDEN_SIZE = 96, INTERMEDIATE_SIZE = 64 };

/* MXFP4's -0 is 0. */
static void assert_same(const float *got, const float *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_true(got[i] == expected[i] || (isnan(got[i]) && isnan(expected[i])));
}

static void fill_random(struct test_rng *rng, unsigned char *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        out[i] = (unsigned char)test_below(rng, 256);
}

/* Every code beside scales of every kind. */
static void rows(void **state)
{
    (void)state;
    enum { BLOCKS = 4096, COLS = BLOCKS * MOE_SPLIT_COLS };
    struct test_rng rng = {29};
    float *expected = moe_ref_alloc(COLS, sizeof *expected), *got = moe_ref_alloc(COLS, sizeof *got);
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        const struct moe_split *split = moe_split_find(formats[i], MOE_SPLIT_COLS);
        size_t bytes = moe_format_row_bytes(formats[i], COLS), code_bytes = moe_format_row_bytes(split->codes, COLS);
        unsigned char *blocks = test_alloc(bytes), *codes = test_alloc(code_bytes);
        unsigned char *scales = test_alloc(bytes - code_bytes);
        fill_random(&rng, blocks, bytes);
        split->row(codes, scales, blocks, BLOCKS);
        struct moe_slice_scales slice = {
            .block_rows = 1, .block_cols = MOE_SPLIT_COLS, .zero_offset = split->zero_offset, .factor = 1.0f};
        slice.scale = test_view(scales, bytes - code_bytes, bytes - code_bytes, split->scales);
        moe_format_dequantise(formats[i], expected, blocks, 1, COLS);
        moe_format_dequantise(split->codes, got, codes, 1, COLS);
        moe_scales_apply(got, &slice, 0, 0, COLS);
        assert_same(got, expected, COLS);
        test_release(blocks);
        test_release(codes);
        test_release(scales);
    }
    free(expected);
    free(got);
}

/* Only what reads badly as it is. */
static void choice(void **state)
{
    (void)state;
    assert_non_null(moe_split_find(MOE_FORMAT_MXFP4, 4096));
    assert_null(moe_split_find(MOE_FORMAT_Q8_0, 256));
    assert_non_null(moe_split_find(MOE_FORMAT_Q8_0, 2880));
    assert_null(moe_split_find(MOE_FORMAT_Q4_0, 256));
    assert_non_null(moe_split_find(MOE_FORMAT_Q4_0, 2880));
    assert_null(moe_split_find(MOE_FORMAT_Q6_K, 256));
    assert_null(moe_split_find(MOE_FORMAT_BF16, 33));
}

static void compare(const struct moe_stack *stack, const struct moe_matrix *matrix)
{
    size_t n = stack->rows * stack->cols, cols = stack->cols;
    float *expected = moe_ref_alloc(n, sizeof *expected), *got = moe_ref_alloc(n, sizeof *got);
    for (size_t e = 0; e < stack->num_experts; e++) {
        struct moe_slice slice = moe_stack_slice(stack, e);
        assert_true(slice.scaled);
        moe_format_dequantise(matrix->data.format, expected,
                              (unsigned char *)matrix->data.base + e * matrix->expert_stride, stack->rows, cols);
        moe_format_dequantise(slice.data.format, got, (unsigned char *)slice.data.base + slice.data.offset, stack->rows,
                              cols);
        for (size_t r = 0; r < stack->rows; r++)
            moe_scales_apply(got + r * cols, &slice.scales, r, 0, cols);
        assert_same(got, expected, n);
    }
    free(expected);
    free(got);
}

static void experts(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        struct moe_backend_ops ops = moe_cpu_ops;
        struct moe_backend *backend = NULL;
        struct moe_experts *created = NULL;
        struct moe_experts_params params;
        struct moe_matrix matrices[MOE_MATRICES];
        struct test_rng rng = {31 + i};
        size_t packed, blocks = 0;
        ops.flags = MOE_BACKEND_SCALES | MOE_BACKEND_PLANES;
        test_assert_ok(moe_backend_open_ops(&ops, NULL, NULL, &backend, NULL));
        struct moe_context *ctx = test_context(backend, 1);
        for (size_t m = 0; m < MOE_MATRICES; m++) {
            size_t num_rows = m == MOE_DOWN ? HIDDEN_SIZE : INTERMEDIATE_SIZE;
            MOE_INIT(&matrices[m]);
            matrices[m].expert_stride =
                num_rows * moe_format_row_bytes(formats[i], m == MOE_DOWN ? INTERMEDIATE_SIZE : HIDDEN_SIZE);
            size_t bytes = NUM_EXPERTS * matrices[m].expert_stride;
            matrices[m].data = test_view(test_alloc(bytes), bytes, 0, formats[i]);
            fill_random(&rng, matrices[m].data.base, bytes);
            blocks += bytes;
        }
        MOE_INIT(&params);
        params.num_experts = NUM_EXPERTS, params.hidden_size = HIDDEN_SIZE;
        params.intermediate_size = INTERMEDIATE_SIZE;
        params.gate = &matrices[MOE_GATE], params.up = &matrices[MOE_UP], params.down = &matrices[MOE_DOWN];
        test_assert_ok(moe_experts_packed_size(backend, &params, &packed, NULL));
        assert_in_range(packed, blocks, blocks + 2 * MOE_MATRICES * 256);    /* each plane is aligned to 256 bytes */
        test_assert_ok(moe_experts_create(backend, &params, &created, NULL));
        const struct moe_stack *stacks[] = {&created->set.gate, &created->set.up, &created->set.down};
        for (int changed = 0; changed < 2; changed++) {
            for (size_t m = 0; m < MOE_MATRICES; m++)
                compare(stacks[m], &matrices[m]);
            for (size_t m = 0; m < MOE_MATRICES; m++)
                fill_random(&rng, matrices[m].data.base, NUM_EXPERTS * matrices[m].expert_stride);
            test_assert_ok(moe_experts_update(ctx, created));
        }
        moe_experts_destroy(created);
        moe_context_destroy(ctx);
        moe_backend_close(backend);
        for (size_t m = 0; m < MOE_MATRICES; m++)
            test_release(matrices[m].data.base);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows), cmocka_unit_test(choice), cmocka_unit_test(experts)};
    return cmocka_run_group_tests_name("quantised/split", tests, NULL, NULL);
}
