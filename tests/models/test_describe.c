// SPDX-License-Identifier: MIT
// Descriptions of models: what moe_model_describe says gives the same blocks again, for every family, for GGUF and
// quantised files, and for an architecture that the library does not know. Damaged ones are in test_describe_errors.c.
#include <dirent.h>
#include <math.h>

#include "describe_files.h"

/* ---- round trips --------------------------------------------------------------------------------------------- */

static void expect_same(const char *path)
{
    struct moe_error error;
    if (description_round_trip(path, &error) == 0)
        fail_msg("%s: %s", path, error.text);
}

static void test_every_family(void **state)
{
    (void)state;
    DIR *folder = opendir(ZOO);
    struct dirent *entry;
    size_t count = 0;
    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL) {
        char path[640];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, ZOO "%s", entry->d_name);
        expect_same(path);
        count++;
    }
    closedir(folder);
    assert_true(count >= 61);
    expect_same(MOE_SOURCE_DIR "/models/bard");
    expect_same(MOE_TEST_MODELS "/scribe");
}

/* Gemma 4: the scale of an expert's weight has the name that the factor of a matrix has elsewhere. gpt-oss: biases. */
static void test_gguf(void **state)
{
    (void)state;
    static const char *const architectures[] = {"qwen3moe", "gemma4", "gpt-oss"};
    for (size_t i = 0; i < 3; i++) {
        struct gguf g = describe_gguf(architectures[i], i != 1);
        if (i == 1)
            gguf_tensor1(&g, "blk.0.ffn_gate_inp.scale", HIDDEN);
        gguf_tensor1(&g, "blk.0.ffn_down_exps.scale", EXPERTS);
        gguf_save(&g);
        expect_same(temp_path("model.gguf"));
    }
}

/* A checkpoint whose expert matrices are FP8 with a scale for each block of 4 x 8. */
static void test_quantised(void **state)
{
    (void)state;
    describe_tomorrow_save("qwen3_moe", true);
    expect_same(temp_dir);
}

/* ---- an architecture that no preset knows -------------------------------------------------------------------- */

static void check_tomorrow(struct moe_model *model)
{
    struct moe_model_info info;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_string_equal(info.architecture, "tomorrow");
    assert_string_equal(info.family, "described");
    assert_int_equal(info.num_blocks, 2);
    assert_null(open_block(model, 0));
    const struct moe_model_block *block = open_block(model, 1);
    const struct moe_routing *routing = block->layer->routing;
    assert_int_equal(block->experts->num_experts, EXPERTS);
    assert_int_equal(block->experts->hidden_size, HIDDEN);
    assert_int_equal(block->experts->intermediate_size, ROWS);
    assert_int_equal(block->layer->top_k, 2);
    assert_int_equal(routing->weight, MOE_SCORE_SIGMOID);
    assert_int_equal(routing->renorm, MOE_RENORM_CLAMP_EPS);
    assert_true(routing->renorm_eps == 1e-6f && routing->scale == 2.5f);
    assert_int_equal(block->experts->act->kind, MOE_ACT_GELU_TANH);
    assert_non_null(routing->selection_bias.base);
    assert_null(block->shared);
}

static void test_tomorrow(void **state)
{
    (void)state;
    struct moe_model *model = NULL;
    struct moe_backend *backend = NULL;
    struct moe_layer *layer = NULL;
    struct moe_error error = {.text = ""};
    describe_tomorrow_save("tomorrow", false);
    assert_int_equal(moe_model_open(temp_dir, NULL, &model, &error), MOE_ERR_UNSUPPORTED);
    if (description_open(temp_dir, describe_tomorrow, &model, &error) != MOE_OK)
        fail_msg("%s", error.text);
    check_tomorrow(model);
    assert_int_equal(moe_backend_open("cpu", NULL, &backend, &error), MOE_OK);
    if (moe_model_layer(model, 1, backend, 0, &layer, &error) != MOE_OK)
        fail_msg("%s", error.text);
    moe_layer_destroy(layer);
    char *text = description_of(model, &error);
    assert_non_null(text);
    struct moe_model *again = NULL;
    assert_int_equal(description_open(temp_dir, text, &again, &error), MOE_OK);
    check_tomorrow(again);
    assert_true(same_block(open_block(model, 1), open_block(again, 1)));
    free(text);
    moe_model_close(again);
    moe_model_close(model);
    moe_backend_close(backend);
}

/* A lone file of tensors, which has no metadata at all; and GGUF of an unknown architecture, whose factors count. */
static void test_without_metadata(void **state)
{
    (void)state;
    struct moe_model *model = NULL;
    struct moe_error error = {.text = ""};
    describe_tomorrow_save("tomorrow", false);
    if (description_open(temp_path("model.safetensors"), describe_tomorrow, &model, &error) != MOE_OK)
        fail_msg("%s", error.text);
    assert_non_null(open_block(model, 1));
    moe_model_close(model);

    struct gguf g = describe_gguf("qwen3moe", false);
    gguf_tensor1(&g, "blk.0.ffn_down_exps.scale", EXPERTS);
    gguf_save(&g);
    model = open_model_at(temp_path("model.gguf"), 0);
    char *text = description_of(model, &error);
    moe_model_close(model);
    g = describe_gguf("tomorrow", false);
    gguf_tensor1(&g, "blk.0.ffn_down_exps.scale", EXPERTS);
    gguf_save(&g);
    assert_non_null(text);
    assert_int_equal(moe_model_open(temp_path("model.gguf"), NULL, &model, &error), MOE_ERR_UNSUPPORTED);
    if (description_open(temp_path("model.gguf"), text, &model, &error) != MOE_OK)
        fail_msg("%s", error.text);
    free(text);
    const struct moe_model_block *block = open_block(model, 0);
    assert_non_null(block->experts->down->scales);
    assert_non_null(block->experts->down->scales->factor);
    assert_null(block->experts->up->scales);
    moe_model_close(model);
}

/* ---- the text ------------------------------------------------------------------------------------------------ */

/* As much as there is place for, and never a byte more. */
static void test_sizes(void **state)
{
    (void)state;
    struct moe_model *model = open_model_at(ZOO "qwen2_moe", 0);
    struct moe_error error;
    char *text = description_of(model, &error), part[64];
    size_t needed = 0;
    assert_non_null(text);
    for (size_t size = 0; size < sizeof part; size++) {
        memset(part, '#', sizeof part);
        assert_int_equal(moe_model_describe(model, part, size, &needed, &error), MOE_OK);
        assert_int_equal(needed, strlen(text) + 1);
        assert_int_equal(part[size], '#');
        if (size > 0)
            assert_true(strlen(part) == size - 1 && memcmp(part, text, size - 1) == 0);
    }
    assert_int_equal(moe_model_describe(NULL, part, sizeof part, &needed, &error), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_describe(model, NULL, 1, &needed, &error), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_describe(model, NULL, 0, NULL, NULL), MOE_OK);
    free(text);
    moe_model_close(model);
    model = open_model_at(ZOO "qwen2_moe/model.safetensors", 0);
    assert_int_equal(moe_model_describe(model, NULL, 0, &needed, &error), MOE_ERR_ARGUMENT);
    moe_model_close(model);
}

/* Every float is read as it was: those with few digits, with nine, the smallest and the largest. */
static void test_numbers(void **state)
{
    (void)state;
    static const float values[] = {0.1f, 1e-20f, 16777216.0f, 2.8284271f, 1.17549435e-38f, 1e-45f, 3.40282347e38f,
                                   1.00000012f, 0.333333343f, 999999.0f, 1000000.0f, 33554434.0f};
    describe_tomorrow_save("tomorrow", false);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char number[48];
        struct moe_model *model = NULL, *again = NULL;
        struct moe_error error = {.text = ""};
        snprintf(number, sizeof number, "%.9g", (double)values[i]);
        char *text = describe_with("scale", number);
        if (description_open(temp_dir, text, &model, &error) != MOE_OK)
            fail_msg("%s: %s", number, error.text);
        free(text);
        text = description_of(model, &error);
        assert_int_equal(description_open(temp_dir, text, &again, &error), MOE_OK);
        assert_true(open_block(again, 1)->layer->routing->scale == values[i]);
        free(text);
        moe_model_close(again);
        moe_model_close(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_family),     cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_quantised),        cmocka_unit_test(test_tomorrow),
        cmocka_unit_test(test_without_metadata), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests_name("describe", tests, temp_setup, temp_teardown);
}
