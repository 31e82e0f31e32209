// SPDX-License-Identifier: MIT
// Checkpoints with one thing wrong: the status, and that the sentence names the key or the tensor. And checkpoints with
// something unusual but right, made in the same way.
#include "model_files.h"

/* Open what is in the temporary folder and ask for all blocks; the first failure. */
static enum moe_status open_all(struct moe_error *error)
{
    struct moe_model *model;
    enum moe_status status = moe_model_open(temp_dir, NULL, &model, error);
    if (status != MOE_OK) {
        assert_null(model);
        return status;
    }
    struct moe_model_info info;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    for (size_t b = 0; b < info.num_blocks && status == MOE_OK; b++) {
        const struct moe_model_block *block = (const struct moe_model_block *)1;
        status = moe_model_block(model, b, &block, error);
        if (status != MOE_OK)
            assert_null(block);
    }
    moe_model_close(model);
    return status;
}

static void expect(const char *what, enum moe_status status, const char *const words[3])
{
    struct moe_error error = {.status = MOE_OK, .text = ""};
    enum moe_status found = open_all(&error);
    if (found != status)
        fail_msg("%s: expected status %d, found %d: %s", what, status, found, error.text);
    if (status == MOE_OK)
        return;
    assert_int_equal(error.status, status);
    for (size_t i = 0; i < 3 && words[i] != NULL; i++)
        if (strstr(error.text, words[i]) == NULL)
            fail_msg("%s: no '%s' in: %s", what, words[i], error.text);
}

/* ---- config.json --------------------------------------------------------------------------------------------- */

struct config_case {
    const char *family, *key, *value;   /* value: JSON; NULL: the key is taken out */
    enum moe_status status;
    const char *words[3];
};

static const struct config_case config_cases[] = {
    {"mixtral", "model_type", "\"no_such\"", MOE_ERR_UNSUPPORTED, {"no_such"}},
    {"mixtral", "model_type", "\"ev\\u001b[31mil\"", MOE_ERR_UNSUPPORTED, {"ev?[31mil"}},
    {"mixtral", "model_type", "3", MOE_ERR_FORMAT, {"'model_type'"}},
    {"mixtral", "model_type", NULL, MOE_ERR_FORMAT, {"architecture"}},
    {"mixtral", "num_hidden_layers", NULL, MOE_ERR_FORMAT, {"'num_hidden_layers'", "missing"}},
    {"mixtral", "num_hidden_layers", "0", MOE_ERR_FORMAT, {"'num_hidden_layers'", "1 to", "found 0"}},
    {"mixtral", "num_hidden_layers", "1000000000000", MOE_ERR_FORMAT, {"'num_hidden_layers'", "1000000000000"}},
    {"mixtral", "num_local_experts", NULL, MOE_ERR_FORMAT, {"'num_experts'", "missing"}},
    {"mixtral", "num_local_experts", "0", MOE_ERR_FORMAT, {"'num_local_experts'", "found 0"}},
    {"mixtral", "num_local_experts", "-8", MOE_ERR_FORMAT, {"'num_local_experts'", "found -8"}},
    {"mixtral", "num_local_experts", "8.0", MOE_ERR_FORMAT, {"'num_local_experts'", "an integer", "number 8"}},
    {"mixtral", "num_local_experts", "\"8\"", MOE_ERR_FORMAT, {"'num_local_experts'", "text '8'"}},
    {"mixtral", "num_local_experts", "true", MOE_ERR_FORMAT, {"'num_local_experts'", "true"}},
    {"mixtral", "num_local_experts", "9", MOE_ERR_FORMAT, {"gate.weight'", "[9, 64]", "[8, 64]"}},
    {"mixtral", "num_local_experts", "9223372036854775807", MOE_ERR_FORMAT, {"'num_local_experts'"}},
    {"mixtral", "num_experts_per_tok", "0", MOE_ERR_FORMAT, {"'num_experts_per_tok'", "1 to 8", "found 0"}},
    {"mixtral", "num_experts_per_tok", "9", MOE_ERR_FORMAT, {"'num_experts_per_tok'", "1 to 8", "found 9"}},
    {"mixtral", "hidden_size", "128", MOE_ERR_FORMAT, {"gate.weight'", "[8, 128]", "[8, 64]"}},
    {"mixtral", "intermediate_size", "64", MOE_ERR_FORMAT, {"experts.0.w1.weight'", "[64, 64]", "[48, 64]"}},
    {"mixtral", "intermediate_size", "4611686018427387904", MOE_ERR_FORMAT, {"'intermediate_size'"}},
    {"mixtral", "hidden_act", "\"tanh\"", MOE_ERR_UNSUPPORTED, {"'hidden_act'", "tanh"}},
    {"mixtral", "hidden_act", "7", MOE_ERR_FORMAT, {"'hidden_act'", "found 7"}},
    {"qwen3_moe", "norm_topk_prob", "1", MOE_ERR_FORMAT, {"'norm_topk_prob'", "true or false", "found 1"}},
    {"qwen3_moe", "decoder_sparse_step", "0", MOE_ERR_FORMAT, {"'decoder_sparse_step'", "found 0"}},
    {"qwen3_moe", "mlp_only_layers", "[0, \"a\"]", MOE_ERR_FORMAT, {"'mlp_only_layers'", "text 'a'"}},
    {"qwen3_moe", "mlp_only_layers", "3", MOE_ERR_FORMAT, {"'mlp_only_layers'", "a list"}},
    {"qwen2_moe", "shared_expert_intermediate_size", NULL, MOE_ERR_FORMAT, {"'shared_expert_intermediate_size'"}},
    {"qwen2_moe", "shared_expert_intermediate_size", "48", MOE_ERR_FORMAT,
     {"shared_expert.gate_proj.weight'", "[48, 64]", "[96, 64]"}},
    {"glm4_moe", "n_group", "3", MOE_ERR_FORMAT, {"'n_group'", "divisor of the 8", "found 3"}},
    {"glm4_moe", "n_group", "0", MOE_ERR_FORMAT, {"'n_group'", "found 0"}},
    {"glm4_moe", "n_group", "16", MOE_ERR_FORMAT, {"'n_group'", "1 to 8"}},
    {"glm4_moe", "topk_group", "0", MOE_ERR_FORMAT, {"'topk_group'", "1 to 2"}},
    {"glm4_moe", "topk_group", "3", MOE_ERR_FORMAT, {"'topk_group'", "1 to 2", "found 3"}},
    {"glm4_moe", "topk_group", NULL, MOE_ERR_FORMAT, {"'topk_group'", "missing"}},
    {"glm4_moe", "routed_scaling_factor", "0", MOE_ERR_FORMAT, {"'routed_scaling_factor'", "above 0", "found 0"}},
    {"glm4_moe", "routed_scaling_factor", "-1.5", MOE_ERR_FORMAT, {"'routed_scaling_factor'", "-1.5"}},
    {"glm4_moe", "routed_scaling_factor", "1e300", MOE_ERR_FORMAT, {"'routed_scaling_factor'", "1e+300"}},
    {"glm4_moe", "n_shared_experts", "2", MOE_ERR_FORMAT, {"shared_experts.gate_proj.weight'", "[96, 64]"}},
    {"glm4_moe", "first_k_dense_replace", "-1", MOE_ERR_FORMAT, {"'first_k_dense_replace'", "found -1"}},
    {"glm4_moe", "num_experts_per_tok", "[2]", MOE_ERR_FORMAT, {"'num_experts_per_tok'", "every block"}},
    {"gpt_oss", "swiglu_limit", "0", MOE_ERR_FORMAT, {"'swiglu_limit'", "found 0"}},
    {"gpt_oss", "num_local_experts", "4", MOE_ERR_FORMAT, {"router.weight'", "[4, 64]"}},
    {"llama4_text", "moe_layers", "{\"a\": 1}", MOE_OK, {NULL}},   /* no list: the step counts */
    {"llama4_text", "moe_layers", "null", MOE_OK, {NULL}},
    /* Unusual, and right: lists with a value for each block, null for none. */
    {"glm4_moe", "num_experts_per_tok", "[2, 4]", MOE_OK, {NULL}},
    {"glm4_moe", "n_group", "null", MOE_OK, {NULL}},
    {"deepseek_v3", "topk_group", "null", MOE_ERR_FORMAT, {"'topk_group'", "missing"}},
    {"deepseek_v3", "topk_group", NULL, MOE_ERR_FORMAT, {"'topk_group'", "missing"}},   /* the usual 4 of 2 groups */
    {"glm4_moe", "n_shared_experts", "0", MOE_ERR_FORMAT, {"shared_experts.up_proj.weight'", "no shared expert"}},
    {"glm4_moe", "n_shared_experts", "null", MOE_ERR_FORMAT, {"shared_experts.up_proj.weight'", "no shared expert"}},
    {"glm4_moe", "hidden_act", "\"gelu_pytorch_tanh\"", MOE_OK, {NULL}},
};

static void test_config(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof config_cases / sizeof *config_cases; i++) {
        const struct config_case *t = &config_cases[i];
        struct checkpoint c = checkpoint_load(t->family);
        char what[128];
        snprintf(what, sizeof what, "%s, %s = %s", t->family, t->key, t->value != NULL ? t->value : "absent");
        if (t->value == NULL)
            assert_int_equal(json_object_del(c.config, t->key), 0);
        else
            assert_int_equal(
                json_object_set_new(c.config, t->key, json_loads(t->value, JSON_DECODE_ANY, NULL)), 0);
        checkpoint_save(&c);
        expect(what, t->status, t->words);
        checkpoint_free(&c);
    }
}

/* ---- tensors ------------------------------------------------------------------------------------------------- */

static void test_missing_tensors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"qwen3_moe", "model.layers.1.mlp.gate.weight"},
        {"qwen3_moe", "model.layers.0.mlp.experts.0.gate_proj.weight"},
        {"qwen3_moe", "model.layers.0.mlp.experts.0.up_proj.weight"},
        {"qwen3_moe", "model.layers.1.mlp.experts.7.down_proj.weight"},
        {"mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight"},
        {"qwen2_moe", "model.layers.0.mlp.shared_expert.down_proj.weight"},
        {"qwen2_moe", "model.layers.0.mlp.shared_expert_gate.weight"},
        {"deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias"},
        {"deepseek_v3", "model.layers.1.mlp.shared_experts.up_proj.weight"},
        {"gpt_oss", "model.layers.0.mlp.router.bias"},
        {"gpt_oss", "model.layers.0.mlp.experts.gate_up_proj"},
        {"gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias"},
        {"gpt_oss", "model.layers.1.mlp.experts.down_proj"},
        {"gpt_oss", "model.layers.1.mlp.experts.down_proj_bias"},
        {"llama4_text", "model.layers.1.feed_forward.experts.gate_up_proj"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct checkpoint c = checkpoint_load(cases[i][0]);
        assert_int_equal(json_object_del(c.header, cases[i][1]), 0);
        checkpoint_save(&c);
        expect(cases[i][1], MOE_ERR_FORMAT, (const char *const[3]){cases[i][1], "missing", NULL});
        checkpoint_free(&c);
    }
}

/* The same bytes in another shape. */
static void test_wrong_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *family, *tensor;
        size_t count, shape[4];
        const char *expected, *found;
    } cases[] = {
        {"qwen3_moe", "model.layers.0.mlp.gate.weight", 2, {64, 8}, "[8, 64]", "[64, 8]"},
        {"qwen3_moe", "model.layers.1.mlp.experts.5.up_proj.weight", 2, {64, 48}, "[48, 64]", "[64, 48]"},
        {"qwen3_moe", "model.layers.1.mlp.experts.5.down_proj.weight", 1, {3072}, "[64, 48]", "[3072]"},
        {"qwen3_moe", "model.layers.1.mlp.experts.5.down_proj.weight", 3, {2, 32, 48}, "[64, 48]", "[2, 32, 48]"},
        {"qwen2_moe", "model.layers.0.mlp.shared_expert_gate.weight", 2, {64, 1}, "[64]", "[64, 1]"},
        {"glm4_moe", "model.layers.0.mlp.gate.e_score_correction_bias", 2, {2, 4}, "[8]", "[2, 4]"},
        {"gpt_oss", "model.layers.0.mlp.experts.gate_up_proj", 3, {8, 96, 64}, "[8, 64, 96]", "[8, 96, 64]"},
        {"gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias", 2, {96, 8}, "[8, 96]", "[96, 8]"},
        {"llama4_text", "model.layers.0.feed_forward.experts.down_proj", 3, {8, 64, 48}, "[8, 48, 64]", "[8, 64, 48]"},
        {"llama4_text", "model.layers.0.feed_forward.experts.down_proj", 4, {2, 4, 48, 64}, "[8, 48, 64]",
         "[2, 4, 48, 64]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct checkpoint c = checkpoint_load(cases[i].family);
        set_shape(&c, cases[i].tensor, cases[i].count, cases[i].shape);
        checkpoint_save(&c);
        expect(cases[i].tensor, MOE_ERR_FORMAT,
               (const char *const[3]){cases[i].tensor, cases[i].expected, cases[i].found});
        checkpoint_free(&c);
    }
}

/* The same bytes as another type of two bytes a value, or of four. */
static void test_wrong_formats(void **state)
{
    (void)state;
    static const struct {
        const char *family, *tensor, *dtype;
        bool halve;
        const char *word;
    } cases[] = {
        {"qwen3_moe", "model.layers.0.mlp.gate.weight", "I16", false, "found i16"},
        {"qwen3_moe", "model.layers.0.mlp.experts.0.up_proj.weight", "I16", false, "found i16"},
        {"qwen3_moe", "model.layers.0.mlp.experts.4.up_proj.weight", "F16", false, "expected bf16"},
        {"gpt_oss", "model.layers.0.mlp.experts.down_proj", "U16", false, "found U16,"},
        {"gpt_oss", "model.layers.0.mlp.experts.down_proj_bias", "I16", false, "found i16"},
        {"llama4_text", "model.layers.0.feed_forward.experts.down_proj", "F8_E5M2", true, "found F8_E5M2,"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct checkpoint c = checkpoint_load(cases[i].family);
        json_t *entry = json_object_get(c.header, cases[i].tensor);
        json_object_set_new(entry, "dtype", json_string(cases[i].dtype));
        if (cases[i].halve) {
            json_t *offsets = json_object_get(entry, "data_offsets");
            json_int_t begin = json_integer_value(json_array_get(offsets, 0));
            json_int_t end = json_integer_value(json_array_get(offsets, 1));
            json_array_set_new(offsets, 1, json_integer((begin + end) / 2));
        }
        checkpoint_save(&c);
        expect(cases[i].tensor, MOE_ERR_UNSUPPORTED, (const char *const[3]){cases[i].tensor, cases[i].word, NULL});
        checkpoint_free(&c);
    }
}

/* A name that gpt-oss has as it is published, of another type. */
static void test_packed_experts(void **state)
{
    (void)state;
    struct checkpoint c = checkpoint_load("gpt_oss");
    rename_tensor(&c, "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.gate_up_proj_blocks");
    checkpoint_save(&c);
    expect("blocks and scales", MOE_ERR_UNSUPPORTED,
           (const char *const[3]){"model.layers.0.mlp.experts.gate_up_proj_blocks", "bf16", NULL});
    checkpoint_free(&c);
}

/* Damage all over config.json: any status will do, as long as nothing is read that is not there (sanitizers tell). */
static void test_damage(void **state)
{
    (void)state;
    static const char *const families[] = {"qwen3_moe", "mixtral", "olmoe",   "qwen2_moe",
                                           "glm4_moe",  "gpt_oss", "deepseek_v3", "llama4_text"};
    static const char marks[] = "0189-.,:[]{}\"enltrua ";
    uint32_t random = 12345;
    size_t opened = 0, refused = 0;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct checkpoint c = checkpoint_load(families[i]);
        checkpoint_save(&c);
        struct bytes text = read_file(temp_path("config.json"));
        for (size_t n = 0; n < 250; n++) {
            struct moe_error error = {.text = ""};
            random = random * 1664525u + 1013904223u;
            size_t at = (random >> 8) % text.size;
            unsigned char old = text.data[at];
            text.data[at] = (unsigned char)marks[(random >> 3) % (sizeof marks - 1)];
            write_file(temp_path("config.json"), &text);
            bool good = open_all(&error) == MOE_OK;
            opened += good;
            refused += !good;
            assert_true(good || error.text[0] != '\0');
            text.data[at] = old;
        }
        free(text.data);
        checkpoint_free(&c);
    }
    assert_true(opened > 100 && refused > 100);
}

/* ---- unusual, and right -------------------------------------------------------------------------------------- */

/* Blocks without experts, one rule at a time; a dense block's tensors are not looked at. */
static void test_dense_blocks(void **state)
{
    (void)state;
    static const struct {
        const char *family, *key, *value;
        bool dense[2];
    } cases[] = {
        {"glm4_moe", "first_k_dense_replace", "1", {true, false}},
        {"glm4_moe", "first_k_dense_replace", "2", {true, true}},
        {"glm4_moe", "first_k_dense_replace", NULL, {true, false}},      /* the family's default is 1 */
        {"deepseek_v3", "first_k_dense_replace", NULL, {true, true}},    /* ... 3 */
        {"glm4_moe", "decoder_sparse_step", "2", {false, false}},        /* not a key of this family */
        {"qwen3_moe", "mlp_only_layers", "[1]", {false, true}},
        {"qwen3_moe", "decoder_sparse_step", "2", {true, false}},
        {"qwen3_moe", "first_k_dense_replace", "1", {false, false}},     /* not a key of this family */
        {"llama4_text", "moe_layers", "[1]", {true, false}},
        {"llama4_text", "moe_layers", "[0]", {false, true}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct checkpoint c = checkpoint_load(cases[i].family);
        if (cases[i].value == NULL)
            json_object_del(c.config, cases[i].key);
        else
            json_object_set_new(c.config, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        checkpoint_save(&c);
        struct moe_model *model = open_model_at(temp_dir, 0);
        for (size_t b = 0; b < 2; b++)
            if ((open_block(model, b) == NULL) != cases[i].dense[b])
                fail_msg("%s, %s = %s, block %zu", cases[i].family, cases[i].key, cases[i].value, b);
        moe_model_close(model);
        checkpoint_free(&c);
    }
    struct checkpoint c = checkpoint_load("llama4_text");
    json_object_del(c.config, "moe_layers");
    set_int(c.config, "interleave_moe_layer_step", 2);
    checkpoint_save(&c);
    struct moe_model *model = open_model_at(temp_dir, 0);
    assert_null(open_block(model, 0));
    assert_non_null(open_block(model, 1));
    moe_model_close(model);
    checkpoint_free(&c);
}

static struct moe_routing routing_with(const char *family, const char *key, const char *value)
{
    struct checkpoint c = checkpoint_load(family);
    if (value == NULL)
        assert_int_equal(json_object_del(c.config, key), 0);
    else
        json_object_set_new(c.config, key, json_loads(value, JSON_DECODE_ANY, NULL));
    checkpoint_save(&c);
    struct moe_model *model = open_model_at(temp_dir, 0);
    const struct moe_model_block *block = open_block(model, 1);
    assert_non_null(block);
    struct moe_routing routing = *block->layer->routing;
    moe_model_close(model);
    checkpoint_free(&c);
    return routing;
}

/* What config.json decides, and transformers' default where it is silent. */
static void test_routing_keys(void **state)
{
    (void)state;
    static const char *const softmax[] = {"qwen3_moe", "olmoe", "qwen2_moe"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(routing_with(softmax[i], "norm_topk_prob", "true").renorm, MOE_RENORM_ADD_EPS);
        assert_int_equal(routing_with(softmax[i], "norm_topk_prob", "false").renorm, MOE_RENORM_NONE);
        assert_int_equal(routing_with(softmax[i], "norm_topk_prob", NULL).renorm, MOE_RENORM_NONE);
    }
    static const char *const sigmoid[] = {"glm4_moe", "deepseek_v3"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(routing_with(sigmoid[i], "norm_topk_prob", NULL).renorm, MOE_RENORM_ADD_EPS);
        assert_int_equal(routing_with(sigmoid[i], "norm_topk_prob", "false").renorm, MOE_RENORM_NONE);
        assert_true(routing_with(sigmoid[i], "routed_scaling_factor", "2").scale == 2.0f);
        assert_int_equal(routing_with(sigmoid[i], "n_group", "1").num_groups, 0);
        assert_int_equal(routing_with(sigmoid[i], "n_group", "null").num_groups, 0);
        assert_int_equal(routing_with(sigmoid[i], "n_group", "4").num_groups, 4);
        assert_int_equal(routing_with(sigmoid[i], "topk_group", "2").top_groups, 2);
    }
    assert_true(routing_with("glm4_moe", "routed_scaling_factor", NULL).scale == 1.0f);
    assert_true(routing_with("deepseek_v3", "routed_scaling_factor", NULL).scale == 2.5f);
    struct checkpoint c = checkpoint_load("deepseek_v3");   /* topk_group is 4 where n_group stands alone */
    set_int(c.config, "n_group", 4);
    json_object_del(c.config, "topk_group");
    checkpoint_save(&c);
    struct moe_model *model = open_model_at(temp_dir, 0);
    const struct moe_routing *routing = open_block(model, 1)->layer->routing;
    assert_true(routing->num_groups == 4 && routing->top_groups == 4);
    moe_model_close(model);
    checkpoint_free(&c);
    assert_int_equal(routing_with("mixtral", "norm_topk_prob", "false").renorm, MOE_RENORM_ADD_EPS);
}

static void test_no_shared_expert(void **state)
{
    (void)state;
    static const char *const values[] = {"0", "null"};
    for (size_t i = 0; i < 2; i++) {
        struct checkpoint c = checkpoint_load("deepseek_v3");
        json_object_set_new(c.config, "n_shared_experts", json_loads(values[i], JSON_DECODE_ANY, NULL));
        const char *name;
        json_t *entry;
        void *next;
        json_object_foreach_safe(c.header, next, name, entry)
            if (strstr(name, "shared_experts") != NULL)
                json_object_del(c.header, name);
        checkpoint_save(&c);
        struct moe_model *model = open_model_at(temp_dir, 0);
        for (size_t b = 0; b < 2; b++)
            assert_true(open_block(model, b)->shared == NULL && open_block(model, b)->layer->shared == NULL);
        moe_model_close(model);
        checkpoint_free(&c);
    }
}

/* A multimodal checkpoint: the language model's config is nested, its tensors have a longer prefix. */
static void test_nested_config(void **state)
{
    (void)state;
    struct checkpoint c = checkpoint_load("llama4_text");
    json_t *outer = json_pack("{s:s, s:O, s:{s:s}}", "model_type", "llama4", "text_config", c.config, "vision_config",
                              "model_type", "llama4_vision_model");
    json_t *renamed = json_object();
    const char *name;
    json_t *entry;
    json_object_foreach(c.header, name, entry) {
        char full[256];
        snprintf(full, sizeof full, "language_model.%s", name);
        json_object_set(renamed, full, entry);
    }
    json_decref(c.config);
    json_decref(c.header);
    c.config = outer;
    c.header = renamed;
    checkpoint_save(&c);
    struct moe_model *model = open_model_at(temp_dir, 0);
    struct moe_model_info info;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_string_equal(info.family, "llama4_text");
    assert_int_equal(info.num_blocks, 2);
    const struct moe_model_block *block = open_block(model, 1);
    assert_true(block->layer->weight_on_input);
    assert_true(matrix_value(block->experts->up, 1, 2, 3) ==
                tensor_value(model, "language_model.model.layers.1.feed_forward.experts.gate_up_proj",
                             (1 * 64 + 3) * 96 + 48 + 2));
    moe_model_close(model);
    json_object_del(json_object_get(outer, "text_config"), "model_type");    /* what is around it tells */
    checkpoint_save(&c);
    model = open_model_at(temp_dir, 0);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_string_equal(info.family, "llama4_text");
    assert_true(open_block(model, 1)->layer->weight_on_input);
    moe_model_close(model);
    set_int(json_object_get(outer, "text_config"), "num_experts_per_tok", 0);
    checkpoint_save(&c);
    expect("nested", MOE_ERR_FORMAT, (const char *const[3]){"'text_config.num_experts_per_tok'", NULL, NULL});
    checkpoint_free(&c);
}

/* Experts in one tensor [experts, 2 rows, cols], gate rows first, where the family publishes one tensor each. */
static void check_fused_experts(const char *family)
{
    struct checkpoint c = checkpoint_load("gpt_oss");
    json_object_set_new(c.config, "model_type", json_string(family));
    for (size_t b = 0; b < 2; b++) {
        char from[128], to[128];
        snprintf(from, sizeof from, "model.layers.%zu.mlp.router.weight", b);
        snprintf(to, sizeof to, "model.layers.%zu.mlp.gate.weight", b);
        rename_tensor(&c, from, to);
        snprintf(from, sizeof from, "model.layers.%zu.mlp.experts.gate_up_proj", b);
        set_shape(&c, from, 3, (const size_t[]){8, 96, 64});
        snprintf(from, sizeof from, "model.layers.%zu.mlp.experts.down_proj", b);
        set_shape(&c, from, 3, (const size_t[]){8, 64, 48});
    }
    checkpoint_save(&c);
    struct moe_model *model = open_model_at(temp_dir, 0);
    const struct moe_experts_params *p = open_block(model, 1)->experts;
    const char *gate_up = "model.layers.1.mlp.experts.gate_up_proj", *down = "model.layers.1.mlp.experts.down_proj";
    for (size_t e = 0; e < 8; e++) {
        for (size_t r = 0; r < 48; r++) {
            assert_true(matrix_value(p->gate, e, r, 5) == tensor_value(model, gate_up, (e * 96 + r) * 64 + 5));
            assert_true(matrix_value(p->up, e, r, 5) == tensor_value(model, gate_up, (e * 96 + 48 + r) * 64 + 5));
            assert_true(matrix_value(p->down, e, 5, r) == tensor_value(model, down, (e * 64 + 5) * 48 + r));
        }
    }
    moe_model_close(model);
    checkpoint_free(&c);
}

static void test_fused_experts(void **state)
{
    (void)state;
    check_fused_experts("qwen3_moe");
    check_fused_experts("mixtral");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),         cmocka_unit_test(test_missing_tensors),
        cmocka_unit_test(test_wrong_shapes),   cmocka_unit_test(test_wrong_formats),
        cmocka_unit_test(test_packed_experts), cmocka_unit_test(test_dense_blocks),
        cmocka_unit_test(test_routing_keys),   cmocka_unit_test(test_nested_config),
        cmocka_unit_test(test_fused_experts),  cmocka_unit_test(test_no_shared_expert),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests_name("models/model_errors", tests, temp_setup, temp_teardown);
}
