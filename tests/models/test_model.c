// SPDX-License-Identifier: MIT
// Blocks of real checkpoints, models/bard, models/scribe and the zoo: sizes, routing and activation as the family
// defines them, and matrices that hold the right values of the right tensors, whatever their layout.
#include <pthread.h>

#include "model_files.h"

struct expectation {
    const char *path, *family;
    size_t blocks, dense;               /* the first ones are dense */
    size_t experts, top_k, hidden, rows, shared_rows;
    enum moe_score select, weight;
    enum moe_renorm renorm;
    float eps, scale;
    size_t groups, top_groups;
    bool selection_bias, router_bias, biases, sigmoid_gate, weight_on_input, oai;
};

#define SMALL .blocks = 2, .experts = 8, .top_k = 2, .hidden = 64, .rows = 48
#define SOFTMAX .weight = MOE_SCORE_SOFTMAX, .renorm = MOE_RENORM_ADD_EPS
#define SIGMOID_BIAS                                                                                               \
    .weight = MOE_SCORE_SIGMOID, .renorm = MOE_RENORM_ADD_EPS, .eps = 1e-20f, .scale = 1.5f, .selection_bias = true

static const struct expectation checkpoints[] = {
    {.path = MOE_SOURCE_DIR "/models/bard", .family = "qwen3_moe", .blocks = 4, .experts = 16, .top_k = 4,
     .hidden = 256, .rows = 256, SOFTMAX},
    {.path = MOE_TEST_MODELS "/scribe", .family = "glm4_moe", .blocks = 4, .dense = 1, .experts = 24, .top_k = 4,
     .hidden = 320, .rows = 160, .shared_rows = 160, SIGMOID_BIAS, .groups = 4, .top_groups = 2},
    {.path = ZOO "qwen3_moe", .family = "qwen3_moe", SMALL, SOFTMAX},
    {.path = ZOO "mixtral", .family = "mixtral", SMALL, SOFTMAX},
    {.path = ZOO "olmoe", .family = "olmoe", SMALL, SOFTMAX},   /* its config asks for renormalisation */
    {.path = ZOO "qwen2_moe", .family = "qwen2_moe", SMALL, SOFTMAX, .shared_rows = 96, .sigmoid_gate = true},
    {.path = ZOO "glm4_moe", .family = "glm4_moe", SMALL, SIGMOID_BIAS, .groups = 2, .top_groups = 1,
     .shared_rows = 48},
    {.path = ZOO "deepseek_v3", .family = "deepseek_v3", SMALL, SIGMOID_BIAS, .groups = 2, .top_groups = 1,
     .shared_rows = 48},
    {.path = ZOO "gpt_oss", .family = "gpt_oss", SMALL, .select = MOE_SCORE_LOGIT, .weight = MOE_SCORE_SOFTMAX_TOPK,
     .router_bias = true, .biases = true, .oai = true},
    {.path = ZOO "llama4_text", .family = "llama4_text", .blocks = 2, .experts = 8, .top_k = 1, .hidden = 64,
     .rows = 48, .shared_rows = 48, .select = MOE_SCORE_LOGIT, .weight = MOE_SCORE_SIGMOID, .weight_on_input = true},
};
enum { NUM_CHECKPOINTS = sizeof checkpoints / sizeof *checkpoints };

/* ---- axes ---------------------------------------------------------------------------------------------------- */

static void check_routing(const struct expectation *e, const struct moe_routing *routing)
{
    assert_int_equal(routing->struct_size, sizeof *routing);
    assert_int_equal(routing->select, e->select);
    assert_int_equal(routing->weight, e->weight);
    assert_int_equal(routing->renorm, e->renorm);
    assert_true(routing->renorm_eps == e->eps);
    assert_true((routing->scale == 0.0f ? 1.0f : routing->scale) == (e->scale == 0.0f ? 1.0f : e->scale));
    assert_int_equal(routing->num_groups, e->groups);
    assert_int_equal(routing->top_groups, e->top_groups);
    assert_int_equal(routing->group_score, MOE_GROUP_TOP2_SUM);
    assert_false(routing->group_mask_zero);
    assert_int_equal(routing->selection_bias.base != NULL, e->selection_bias);
    assert_non_null(routing->router);
    assert_int_equal(routing->router->data.format, MOE_FORMAT_BF16);
    assert_int_equal(routing->router->data.size, e->experts * e->hidden * 2);
    assert_int_equal(routing->router->bias.base != NULL, e->router_bias);
}

static void check_experts(const struct moe_experts_params *params, size_t experts, size_t hidden, size_t rows,
                          const struct expectation *e)
{
    assert_int_equal(params->struct_size, sizeof *params);
    assert_int_equal(params->num_experts, experts);
    assert_int_equal(params->hidden_size, hidden);
    assert_int_equal(params->intermediate_size, rows);
    assert_int_equal(params->location, MOE_LOCATION_HOST);
    assert_null(params->packed.base);
    const struct moe_matrix *matrices[] = {params->gate, params->up, params->down};
    for (size_t i = 0; i < 3; i++) {
        assert_non_null(matrices[i]);
        assert_int_equal(matrices[i]->struct_size, sizeof *matrices[i]);
        assert_int_equal(matrices[i]->data.format, MOE_FORMAT_BF16);
        assert_int_equal(matrices[i]->bias.base != NULL, e->biases);
    }
    assert_int_equal(params->act->struct_size, sizeof *params->act);
    assert_int_equal(params->act->kind, MOE_ACT_SWISH);
    assert_int_equal(params->act->clamp, e->oai ? MOE_CLAMP_BEFORE : MOE_CLAMP_NONE);
    assert_true(params->act->limit == (e->oai ? 7.0f : 0.0f));
    assert_true(params->act->alpha == (e->oai ? 1.702f : 0.0f));
    assert_true(params->act->up_offset == (e->oai ? 1.0f : 0.0f));
}

static void check_axes(const struct expectation *e, uint32_t flags)
{
    struct moe_model *model = open_model_at(e->path, flags);
    struct moe_model_info info;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_string_equal(info.family, e->family);
    assert_string_equal(info.architecture, e->family);
    assert_string_equal(info.container, "safetensors");
    assert_int_equal(info.num_blocks, e->blocks);
    for (size_t b = 0; b < e->blocks; b++) {
        const struct moe_model_block *block = open_block(model, b);
        assert_int_equal(block == NULL, b < e->dense);
        if (block == NULL)
            continue;
        check_experts(block->experts, e->experts, e->hidden, e->rows, e);
        assert_int_equal(block->layer->struct_size, sizeof *block->layer);
        assert_int_equal(block->layer->num_experts, e->experts);
        assert_int_equal(block->layer->top_k, e->top_k);
        assert_null(block->layer->experts);
        assert_int_equal(block->layer->weight_on_input, e->weight_on_input);
        check_routing(e, block->layer->routing);
        assert_int_equal(block->shared != NULL, e->shared_rows > 0);
        assert_int_equal(block->layer->shared != NULL, e->shared_rows > 0);
        if (block->shared != NULL) {
            check_experts(block->shared, 1, e->hidden, e->shared_rows, e);
            assert_null(block->layer->shared->experts);
            assert_int_equal(block->layer->shared->gate_kind,
                             e->sigmoid_gate ? MOE_SHARED_SIGMOID : MOE_SHARED_PLAIN);
            assert_int_equal(block->layer->shared->gate != NULL, e->sigmoid_gate);
        }
        assert_ptr_equal(open_block(model, b), block);
    }
    moe_model_close(model);
}

static void test_axes(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_CHECKPOINTS; i++) {
        check_axes(&checkpoints[i], 0);
        check_axes(&checkpoints[i], MOE_MODEL_READ);
    }
}

/* ---- values -------------------------------------------------------------------------------------------------- */

static const char *name_of(const char *pattern, size_t block, size_t expert)
{
    static char name[256];
    snprintf(name, sizeof name, pattern, block, expert);
    return name;
}

/* Values all over a matrix against a [rows, cols] tensor for each expert. */
static void check_each(struct moe_model *model, const struct moe_matrix *m, const char *pattern, size_t block,
                       size_t experts, size_t rows, size_t cols)
{
    for (size_t e = 0; e < experts; e++)
        for (size_t r = 0; r < rows; r += 7)
            for (size_t c = 0; c < cols; c += 3)
                assert_true(matrix_value(m, e, r, c) ==
                            tensor_value(model, name_of(pattern, block, e), r * cols + c));
}

static void check_values(const char *path, size_t b, size_t experts, size_t hidden, size_t rows, const char *gate,
                         const char *up, const char *down, const char *router)
{
    for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags += MOE_MODEL_READ) {
        struct moe_model *model = open_model_at(path, flags);
        const struct moe_model_block *block = open_block(model, b);
        check_each(model, block->experts->gate, gate, b, experts, rows, hidden);
        check_each(model, block->experts->up, up, b, experts, rows, hidden);
        check_each(model, block->experts->down, down, b, experts, hidden, rows);
        check_each(model, block->layer->routing->router, router, b, 1, experts, hidden);
        moe_model_close(model);
    }
}

#define MLP "model.layers.%zu.mlp."
#define MIXTRAL "model.layers.%zu.block_sparse_moe."

static void test_values_one_tensor_each(void **state)
{
    (void)state;
    check_values(MOE_SOURCE_DIR "/models/bard", 3, 16, 256, 256, MLP "experts.%zu.gate_proj.weight",
                 MLP "experts.%zu.up_proj.weight", MLP "experts.%zu.down_proj.weight", MLP "gate.weight");
    check_values(MOE_TEST_MODELS "/scribe", 2, 24, 320, 160, MLP "experts.%zu.gate_proj.weight",
                 MLP "experts.%zu.up_proj.weight", MLP "experts.%zu.down_proj.weight", MLP "gate.weight");
    check_values(ZOO "mixtral", 1, 8, 64, 48, MIXTRAL "experts.%zu.w1.weight", MIXTRAL "experts.%zu.w3.weight",
                 MIXTRAL "experts.%zu.w2.weight", MIXTRAL "gate.weight");
}

static void test_values_shared(void **state)
{
    (void)state;
    static const struct {
        const char *family, *prefix;
        size_t rows;
    } cases[] = {{"glm4_moe", MLP "shared_experts.", 48},
                 {"qwen2_moe", MLP "shared_expert.", 96},
                 {"llama4_text", "model.layers.%zu.feed_forward.shared_expert.", 48}};
    for (size_t i = 0; i < 3; i++) {
        char path[512], gate[128], up[128], down[128];
        snprintf(path, sizeof path, ZOO "%s", cases[i].family);
        snprintf(gate, sizeof gate, "%sgate_proj.weight", cases[i].prefix);
        snprintf(up, sizeof up, "%sup_proj.weight", cases[i].prefix);
        snprintf(down, sizeof down, "%sdown_proj.weight", cases[i].prefix);
        struct moe_model *model = open_model_at(path, 0);
        const struct moe_model_block *block = open_block(model, 1);
        check_each(model, block->shared->gate, gate, 1, 1, cases[i].rows, 64);
        check_each(model, block->shared->up, up, 1, 1, cases[i].rows, 64);
        check_each(model, block->shared->down, down, 1, 1, 64, cases[i].rows);
        if (block->layer->shared->gate != NULL)
            check_each(model, block->layer->shared->gate, MLP "shared_expert_gate.weight", 1, 1, 1, 64);
        moe_model_close(model);
    }
}

static void test_values_selection_bias(void **state)
{
    (void)state;
    struct moe_model *model = open_model_at(MOE_TEST_MODELS "/scribe", 0);
    const struct moe_view *bias = &open_block(model, 1)->layer->routing->selection_bias;
    assert_int_equal(bias->format, MOE_FORMAT_BF16);
    assert_int_equal(bias->size, 24 * 2);
    for (size_t e = 0; e < 24; e++)
        assert_true(load_value((const unsigned char *)bias->base + bias->offset + 2 * e, bias->format) ==
                    tensor_value(model, "model.layers.1.mlp.gate.e_score_correction_bias", e));
    moe_model_close(model);
}

/* gate_up_proj [8, 64, 96] with columns gate, up, gate, up; down_proj [8, 48, 64]: both stored [cols, rows]. */
static void test_values_interleaved(void **state)
{
    (void)state;
    const char *gate_up = "model.layers.1.mlp.experts.gate_up_proj", *down = "model.layers.1.mlp.experts.down_proj";
    const char *gate_up_bias = "model.layers.1.mlp.experts.gate_up_proj_bias";
    const char *down_bias = "model.layers.1.mlp.experts.down_proj_bias";
    struct moe_model *model = open_model_at(ZOO "gpt_oss", 0);
    const struct moe_experts_params *p = open_block(model, 1)->experts;
    const struct moe_matrix *router = open_block(model, 1)->layer->routing->router;
    assert_true(p->gate->transposed && p->up->transposed && p->down->transposed);
    for (size_t e = 0; e < 8; e++) {
        for (size_t r = 0; r < 48; r++) {
            for (size_t c = 0; c < 64; c++) {
                size_t at = (e * 64 + c) * 96 + 2 * r;
                assert_true(matrix_value(p->gate, e, r, c) == tensor_value(model, gate_up, at));
                assert_true(matrix_value(p->up, e, r, c) == tensor_value(model, gate_up, at + 1));
                assert_true(matrix_value(p->down, e, c, r) == tensor_value(model, down, (e * 48 + r) * 64 + c));
            }
            size_t at = e * 96 + 2 * r;
            assert_true(bias_value(p->gate, e, r) == tensor_value(model, gate_up_bias, at));
            assert_true(bias_value(p->up, e, r) == tensor_value(model, gate_up_bias, at + 1));
        }
        for (size_t c = 0; c < 64; c++)
            assert_true(bias_value(p->down, e, c) == tensor_value(model, down_bias, e * 64 + c));
        assert_true(bias_value(router, 0, e) == tensor_value(model, "model.layers.1.mlp.router.bias", e));
    }
    moe_model_close(model);
}

/* gate_up_proj [8, 64, 96], the 48 columns of gate first; down_proj [8, 48, 64]: both stored [cols, rows]. */
static void test_values_transposed(void **state)
{
    (void)state;
    const char *gate_up = "model.layers.0.feed_forward.experts.gate_up_proj";
    const char *down = "model.layers.0.feed_forward.experts.down_proj";
    struct moe_model *model = open_model_at(ZOO "llama4_text", 0);
    const struct moe_experts_params *p = open_block(model, 0)->experts;
    for (size_t e = 0; e < 8; e++) {
        for (size_t r = 0; r < 48; r++) {
            for (size_t c = 0; c < 64; c++) {
                size_t at = (e * 64 + c) * 96 + r;
                assert_true(matrix_value(p->gate, e, r, c) == tensor_value(model, gate_up, at));
                assert_true(matrix_value(p->up, e, r, c) == tensor_value(model, gate_up, at + 48));
                assert_true(matrix_value(p->down, e, c, r) == tensor_value(model, down, (e * 48 + r) * 64 + c));
            }
        }
    }
    moe_model_close(model);
}

/* ---- the rest of the functions ------------------------------------------------------------------------------- */

static void test_tensors_without_model(void **state)
{
    (void)state;
    struct moe_model *model = open_model_at(ZOO "mixtral/model.safetensors", 0);
    struct moe_model_info info;
    const struct moe_model_block *block;
    struct moe_tensor tensor;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    assert_null(info.architecture);
    assert_null(info.family);
    assert_int_equal(info.num_blocks, 0);
    assert_int_equal(info.num_tensors, 53);
    assert_int_equal(moe_model_block(model, 0, &block, NULL), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_tensor_find(model, "model.layers.0.block_sparse_moe.gate.weight", &tensor), MOE_OK);
    assert_int_equal(tensor.size, 8 * 64 * 2);
    moe_model_close(model);
}

static void test_tensors_and_metadata(void **state)
{
    (void)state;
    struct moe_model *model = open_model_at(ZOO "mixtral", 0);
    struct moe_model_info info;
    struct moe_tensor tensor, found;
    struct moe_value value;
    const char *key;
    const void *data = &info;
    struct moe_error error;
    uint64_t bytes = 0;
    MOE_INIT(&info);
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    for (size_t i = 0; i < info.num_tensors; i++) {
        assert_int_equal(moe_model_tensor_at(model, i, &tensor), MOE_OK);
        assert_int_equal(moe_model_tensor_find(model, tensor.name, &found), MOE_OK);
        assert_ptr_equal(found.name, tensor.name);
        bytes += tensor.size;
    }
    assert_int_equal(bytes, info.tensor_bytes);
    assert_int_equal(moe_model_tensor_at(model, info.num_tensors, &tensor), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_tensor_find(model, "no", &tensor), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_tensor_data(model, "no", &data, &error), MOE_ERR_ARGUMENT);
    assert_null(data);
    assert_non_null(strstr(error.text, "'no'"));
    for (size_t i = 0; i < info.num_metadata; i++)
        assert_int_equal(moe_model_metadata_at(model, i, &key, &value), MOE_OK);
    assert_int_equal(moe_model_metadata_at(model, info.num_metadata, &key, &value), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_metadata_find(model, "num_local_experts", &value), MOE_OK);
    assert_int_equal(value.integer, 8);
    assert_int_equal(moe_model_metadata_find(model, "architectures", &value), MOE_OK);
    assert_int_equal(value.kind, MOE_VALUE_ARRAY);
    struct moe_value item;
    assert_int_equal(moe_model_metadata_item(model, &value, 0, &item), MOE_OK);
    assert_string_equal(item.string, "MixtralForCausalLM");
    assert_int_equal(moe_model_metadata_item(model, &value, 1, &item), MOE_ERR_ARGUMENT);
    moe_model_close(model);
}

static void test_arguments(void **state)
{
    (void)state;
    struct moe_model *model = (struct moe_model *)1;
    const struct moe_model_block *block = (const struct moe_model_block *)1;
    struct moe_error error;
    assert_int_equal(moe_model_open(NULL, NULL, &model, &error), MOE_ERR_ARGUMENT);
    assert_null(model);
    assert_int_equal(moe_model_open(ZOO "mixtral", NULL, NULL, &error), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_open(ZOO "nowhere", NULL, &model, &error), MOE_ERR_IO);
    assert_non_null(strstr(error.text, "nowhere"));
    moe_model_close(NULL);
    model = open_model_at(ZOO "mixtral", 0);
    assert_int_equal(moe_model_block(model, 2, &block, &error), MOE_ERR_ARGUMENT);
    assert_null(block);
    assert_int_equal(moe_model_block(NULL, 0, &block, &error), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_block(model, 0, NULL, &error), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_model_info(model, NULL), MOE_ERR_ARGUMENT);
    moe_model_close(model);
}

/* moe_model_layer: a layer of the block's sizes that owns its experts; none for a dense block. */
static void test_layers(void **state)
{
    (void)state;
    struct moe_backend *backend;
    struct moe_error error = {.text = ""};
    assert_int_equal(moe_backend_open("cpu", NULL, &backend, &error), MOE_OK);
    for (size_t i = 0; i < NUM_CHECKPOINTS; i++) {
        const struct expectation *e = &checkpoints[i];
        struct moe_model *model = open_model_at(e->path, 0);
        struct moe_layer *layer = (struct moe_layer *)1;
        if (e->dense > 0) {
            assert_int_equal(moe_model_layer(model, 0, backend, 0, &layer, &error), MOE_ERR_ARGUMENT);
            assert_null(layer);
        }
        if (moe_model_layer(model, e->blocks - 1, backend, MOE_LAYER_ALLOW_COMPOSED, &layer, &error) != MOE_OK)
            fail_msg("%s", error.text);
        struct moe_layer_info info;
        MOE_INIT(&info);
        assert_int_equal(moe_layer_info(layer, &info), MOE_OK);
        assert_int_equal(info.hidden_size, e->hidden);
        assert_int_equal(info.intermediate_size, e->rows);
        assert_int_equal(info.num_experts, e->experts);
        assert_int_equal(info.top_k, e->top_k);
        assert_true(info.has_router);
        moe_layer_destroy(layer);
        moe_model_close(model);
    }
    moe_backend_close(backend);
}

/* ---- threads and memory -------------------------------------------------------------------------------------- */

struct asker {
    struct moe_model *model;
    pthread_t thread;
    const struct moe_model_block *blocks[4];
};

static void *ask(void *arg)
{
    struct asker *asker = arg;
    for (size_t b = 0; b < 4; b++)
        if (moe_model_block(asker->model, b, &asker->blocks[b], NULL) != MOE_OK)
            return NULL;
    return asker;
}

/* All threads get the same block, built once. */
static void test_threads(void **state)
{
    (void)state;
    for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags += MOE_MODEL_READ) {
        struct moe_model *model = open_model_at(MOE_TEST_MODELS "/scribe", flags);
        struct asker askers[8];
        for (size_t i = 0; i < 8; i++) {
            askers[i].model = model;
            assert_int_equal(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
        }
        for (size_t i = 0; i < 8; i++) {
            void *done;
            assert_int_equal(pthread_join(askers[i].thread, &done), 0);
            assert_ptr_equal(done, &askers[i]);
            assert_null(askers[i].blocks[0]);
            for (size_t b = 1; b < 4; b++) {
                assert_non_null(askers[i].blocks[b]);
                assert_ptr_equal(askers[i].blocks[b], askers[0].blocks[b]);
            }
        }
        moe_model_close(model);
    }
}

/* A host's memory that runs out after so many requests, and knows what it has given. */
struct purse {
    size_t left, held;
};

static void *purse_alloc(void *user, size_t size, size_t align)
{
    struct purse *purse = user;
    if (purse->left == 0)
        return NULL;
    purse->left--;
    purse->held += size;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void purse_free(void *user, void *ptr, size_t size)
{
    struct purse *purse = user;
    assert_true(ptr == NULL || purse->held >= size);
    purse->held -= ptr != NULL ? size : 0;
    free(ptr);
}

/* Memory that ends at every place in turn: ERR_MEMORY, and all of it is given back. */
static void test_memory(void **state)
{
    (void)state;
    struct purse purse = {0, 0};
    struct moe_env env = {sizeof env, &purse, purse_alloc, purse_free};
    struct moe_model_params params;
    MOE_INIT(&params);
    params.flags = MOE_MODEL_READ;
    params.env = &env;
    enum moe_status status = MOE_ERR_MEMORY;
    size_t tries = 0;
    for (; status != MOE_OK && tries < 100000; tries++) {
        struct moe_model *model;
        const struct moe_model_block *block = NULL;
        purse.left = tries;
        status = moe_model_open(ZOO "qwen2_moe", &params, &model, NULL);
        for (size_t b = 0; b < 2 && status == MOE_OK; b++)
            status = moe_model_block(model, b, &block, NULL);
        assert_true(status == MOE_OK || status == MOE_ERR_MEMORY);
        moe_model_close(model);
        assert_int_equal(purse.held, 0);
    }
    assert_int_equal(status, MOE_OK);
    assert_true(tries > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_axes),
        cmocka_unit_test(test_values_one_tensor_each),
        cmocka_unit_test(test_values_shared),
        cmocka_unit_test(test_values_selection_bias),
        cmocka_unit_test(test_values_interleaved),
        cmocka_unit_test(test_values_transposed),
        cmocka_unit_test(test_tensors_without_model),
        cmocka_unit_test(test_tensors_and_metadata),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("models/model", tests, NULL, NULL);
}
