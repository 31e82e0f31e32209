// SPDX-License-Identifier: MIT
// Experts cut in two by their intermediate size, in place: gate's and up's rows, down's columns. The outputs of the
// halves add up to that of the whole. It is how two sockets share every expert (docs/scaling.md).
#include <math.h>

#include "support.h"

enum { EXPERTS = 4, HIDDEN = 64, INTERMEDIATE = 128, TOP_K = 2, TOKENS = 5, WIDTH = TOKENS * HIDDEN };

/* From byte skip of each expert's matrix on. */
static struct moe_matrix part_of(const struct moe_matrix *whole, size_t row_bytes, size_t rows, size_t skip)
{
    struct moe_matrix part = *whole;
    part.data.stride = row_bytes;
    part.expert_stride = rows * row_bytes;
    part.data.offset += skip;
    part.data.size -= skip;
    return part;
}

static void forward(struct moe_backend *backend, struct moe_context *ctx, const struct moe_experts_params *params,
                    uint32_t layer_flags, uint32_t flags, const float *x, float *out)
{
    static const int64_t ids[TOKENS * TOP_K] = {0, 1, 2, 3, 1, 1, 3, 0, 2, 1};
    static const float weights[TOKENS * TOP_K] = {0.5f, 0.25f, 1, 0.125f, 0.75f, 0.5f, 0.25f, 1, 0.5f, 0.5f};
    struct moe_error error = {0};
    struct moe_experts *experts;
    struct moe_layer *layer;
    struct moe_layer_params layer_params;
    MOE_INIT(&layer_params);
    test_assert_status(moe_experts_create(backend, params, &experts, &error), MOE_OK);
    layer_params.experts = experts;
    layer_params.top_k = TOP_K;
    layer_params.flags = layer_flags;
    test_assert_status(moe_layer_create(backend, &layer_params, &layer, &error), MOE_OK);
    struct moe_layer_io io;
    MOE_INIT(&io);
    io.flags = flags;
    io.num_tokens = TOKENS;
    io.x = test_view((void *)(uintptr_t)x, WIDTH * sizeof *x, 0, MOE_FORMAT_F32);
    io.out = test_view(out, WIDTH * sizeof *out, 0, MOE_FORMAT_F32);
    io.ids = test_view((void *)(uintptr_t)ids, sizeof ids, 0, MOE_FORMAT_I64);
    io.weights = test_view((void *)(uintptr_t)weights, sizeof weights, 0, MOE_FORMAT_F32);
    size_t bytes;
    test_assert_status(moe_layer_workspace_size(ctx, layer, &io, &bytes), MOE_OK);
    test_assert_status(moe_mem_alloc(backend, bytes, &io.workspace), MOE_OK);
    test_assert_status(moe_layer_forward(ctx, layer, &io), MOE_OK);
    moe_mem_free(backend, &io.workspace);
    moe_layer_destroy(layer);
    moe_experts_destroy(experts);
}

/* Both sums have the same products, in the same lanes but for the cut: they differ by roundings in f32. */
static void check(struct moe_backend *backend, struct moe_context *ctx, enum moe_format format, uint32_t flags)
{
    struct test_rng rng = {format + 1u};
    struct test_experts whole;
    test_experts_init(&whole, &rng, &(struct test_experts_spec){.num_experts = EXPERTS, .hidden_size = HIDDEN,
                      .intermediate_size = INTERMEDIATE, .gate = format, .up = format, .down = format});
    float x[WIDTH], out[WIDTH], halves[WIDTH];
    test_fill(&rng, x, WIDTH, 1);
    forward(backend, ctx, &whole.params, flags, 0, x, out);
    size_t in_bytes = moe_format_row_bytes(format, HIDDEN), down_bytes = moe_format_row_bytes(format, INTERMEDIATE);
    for (size_t half = 0; half < 2; half++) {
        struct moe_matrix gate = part_of(&whole.gate, in_bytes, INTERMEDIATE, half * INTERMEDIATE / 2 * in_bytes);
        struct moe_matrix up = part_of(&whole.up, in_bytes, INTERMEDIATE, half * INTERMEDIATE / 2 * in_bytes);
        struct moe_matrix down = part_of(&whole.down, down_bytes, HIDDEN, half * down_bytes / 2);
        struct moe_experts_params params = whole.params;
        params.intermediate_size = INTERMEDIATE / 2;
        params.gate = &gate;
        params.up = &up;
        params.down = &down;
        forward(backend, ctx, &params, flags, half == 0 ? 0 : MOE_ACCUMULATE, x, halves);
    }
    double error = 0, size = 0;
    for (size_t i = 0; i < WIDTH; i++) {
        error += ((double)halves[i] - out[i]) * ((double)halves[i] - out[i]);
        size += (double)out[i] * out[i];
    }
    assert_true(size > 0);
    test_assert_most(sqrt(error / size), 1e-6, moe_format_info(format)->name);
    test_experts_free(&whole);
}

static void test_halves(void **state)
{
    (void)state;
    static const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_BF16, MOE_FORMAT_Q8_0, MOE_FORMAT_Q4_0,
                                              MOE_FORMAT_MXFP4};
    struct moe_error error = {0};
    struct moe_backend *backend;
    struct moe_context *ctx;
    test_assert_status(moe_backend_open("cpu", NULL, &backend, &error), MOE_OK);
    test_assert_status(moe_context_create(backend, NULL, &ctx, &error), MOE_OK);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        check(backend, ctx, formats[i], 0);
        check(backend, ctx, formats[i], MOE_LAYER_EXACT);
    }
    moe_context_destroy(ctx);
    moe_backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_halves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
