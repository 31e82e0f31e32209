// SPDX-License-Identifier: MIT
// moe_forward on real and family checkpoints against their float64 references: the families whose routed experts the
// portable call computes (softmax routing, gated experts without biases).
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>


static float *vector(size_t n)
{
    return test_alloc(n * sizeof(float));
}

static struct moe_view floats(const float *values, size_t n)
{
    return test_view(values, n * sizeof *values, 0, MOE_FORMAT_F32);
}

/* out [num_tokens, hidden_size] of block, by moe_forward with the reference's logits. */
static void forward_block(struct moe_backend *backend, struct moe_context *ctx, const struct moe_model_block *block,
                          size_t num_tokens, const double *x, const double *logits, float *out)
{
    size_t hidden_size = block->experts->hidden_size, intermediate_size = block->experts->intermediate_size;
    size_t num_experts = block->experts->num_experts;
    struct moe_error error = {0};
    struct moe_forward_params p;
    MOE_INIT(&p);
    struct moe_experts *experts = NULL;
    if (moe_experts_create(backend, block->experts, &experts, &error) != MOE_OK)
        fail_msg("%s", error.text);
    float *x32 = test_floats(x, num_tokens * hidden_size), *logits32 = test_floats(logits, num_tokens * num_experts);
    float *buffers[] = {vector(hidden_size), vector(hidden_size), vector(2 * intermediate_size),
                        vector(intermediate_size), vector(hidden_size), vector(hidden_size)};
    memset(buffers[5], 0, hidden_size * sizeof(float));
    p.ctx = ctx;
    p.x = floats(x32, num_tokens * hidden_size);
    p.router_logits = floats(logits32, num_tokens * num_experts);
    p.out = floats(out, num_tokens * hidden_size);
    p.batch = num_tokens;
    p.hidden_size = hidden_size;
    p.expert_intermediate = intermediate_size;
    p.num_experts = num_experts;
    p.top_k = block->layer->top_k;
    p.norm_topk_prob = block->layer->routing->renorm != MOE_RENORM_NONE;
    p.experts = experts;
    p.x_single = floats(buffers[0], hidden_size);
    p.acc_buf = floats(buffers[1], hidden_size);
    p.gate_up_buf = floats(buffers[2], 2 * intermediate_size);
    p.silu_buf = floats(buffers[3], intermediate_size);
    p.down_buf = floats(buffers[4], hidden_size);
    p.zero_hidden = floats(buffers[5], hidden_size);
    test_assert_ok(moe_forward(&p));
    for (size_t i = 0; i < 6; i++)
        test_release(buffers[i]);
    free(x32);
    free(logits32);
    moe_experts_destroy(experts);
}

static void test_model(const char *path)
{
    struct moe_backend *backend = test_backend("cpu");
    struct moe_context *ctx = test_context(backend, 2);
    struct moe_model *model = test_open(path, NULL), *reference = test_open(path, "reference.safetensors");
    struct moe_model_info info = {.struct_size = sizeof info};
    struct moe_error error = {0};
    test_assert_ok(moe_model_info(model, &info));
    size_t tested = 0;
    for (size_t b = 0; b < info.num_blocks; b++) {
        const struct moe_model_block *block;
        size_t num_tokens, hidden_size;
        if (moe_model_block(model, b, &block, &error) != MOE_OK)
            fail_msg("%s", error.text);
        double *x = test_tensor(reference, b, "x", &num_tokens, &hidden_size);
        double *logits = test_tensor(reference, b, "router_logits", NULL, NULL);
        double *ref = test_tensor(reference, b, "expert_out", NULL, NULL);
        if (ref == NULL && block->shared == NULL)
            ref = test_tensor(reference, b, "out", NULL, NULL);
        assert_non_null(x);
        assert_non_null(logits);
        assert_non_null(ref);
        float *out = vector(num_tokens * hidden_size);
        forward_block(backend, ctx, block, num_tokens, x, logits, out);
        double error_found = test_relative_error(out, ref, num_tokens * hidden_size);
        print_message("%s block %zu: relative error %.2g\n", strrchr(path, '/') + 1, b, error_found);
        test_assert_most(error_found, 1e-5, "relative error");
        tested++;
        test_release(out);
        free(x);
        free(logits);
        free(ref);
    }
    assert_true(tested > 0);
    moe_model_close(reference);
    moe_model_close(model);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
}

#define MODEL_TEST(name, path)            \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_model(path);                 \
    }
MODEL_TEST(bard, MOE_SOURCE_DIR "/models/bard")
MODEL_TEST(qwen3_moe, MOE_TEST_MODELS "/zoo/qwen3_moe")
MODEL_TEST(qwen2_moe, MOE_TEST_MODELS "/zoo/qwen2_moe")
MODEL_TEST(mixtral, MOE_TEST_MODELS "/zoo/mixtral")
MODEL_TEST(olmoe, MOE_TEST_MODELS "/zoo/olmoe")

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bard),    cmocka_unit_test(test_qwen3_moe), cmocka_unit_test(test_qwen2_moe),
        cmocka_unit_test(test_mixtral), cmocka_unit_test(test_olmoe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
