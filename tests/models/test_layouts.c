// SPDX-License-Identifier: MIT
// How experts lie in the tensors of each naming scheme: synthetic checkpoints whose every value tells its tensor and
// place, and the matrices that come of them, value by value.
#include "axes_text.h"

enum { EXPERTS = 3, HIDDEN = 10, ROWS = 6 };

/* ---- a checkpoint of f32 tensors ------------------------------------------------------------------------------ */

struct writer {
    json_t *header;
    struct bytes data;
};

static struct writer writer_begin(void)
{
    return (struct writer){.header = json_object()};
}

/* dims: outermost first, ended by 0. Values are gguf_value(name, place). */
static void add(struct writer *w, const char *name, const size_t dims[4])
{
    size_t count = 1, begin = w->data.size;
    json_t *shape = json_array();
    for (size_t i = 0; i < 4 && dims[i] != 0; i++) {
        count *= dims[i];
        json_array_append_new(shape, json_integer((json_int_t)dims[i]));
    }
    for (size_t i = 0; i < count; i++) {
        float value = gguf_value(name, i);
        append(&w->data, &value, sizeof value);
    }
    json_object_set_new(w->header, name,
                        json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                  (json_int_t)begin, (json_int_t)w->data.size));
}
#define ADD(w, name, ...) add((w), (name), (const size_t[4]){__VA_ARGS__})

static struct moe_model *write_and_open(struct writer *w, const char *family, const char *patch)
{
    config_save(family, patch);
    char *text = json_dumps(w->header, JSON_COMPACT);
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    struct bytes out = {NULL, 0};
    append_u64(&out, padded);
    append(&out, text, length);
    while (out.size < 8 + padded)
        append(&out, " ", 1);
    append(&out, w->data.data, w->data.size);
    write_file(temp_path("model.safetensors"), &out);
    free(out.data);
    free(text);
    free(w->data.data);
    json_decref(w->header);
    return open_model_at(temp_dir, 0);
}

#define SIZES "\"num_hidden_layers\": 1, \"hidden_size\": 10, \"intermediate_size\": 6, \"num_experts\": 3"

/* ---- where a value of a stack [experts, rows, cols] is -------------------------------------------------------- */

typedef size_t place(size_t e, size_t r, size_t c, size_t rows, size_t cols);

static size_t plain(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return (e * rows + r) * cols + c;
}
static size_t turned(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return (e * cols + c) * rows + r;
}
static size_t first_half(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return plain(e, r, c, 2 * rows, cols);
}
static size_t second_half(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return plain(e, rows + r, c, 2 * rows, cols);
}
static size_t turned_first(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return turned(e, r, c, 2 * rows, cols);
}
static size_t turned_second(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return turned(e, rows + r, c, 2 * rows, cols);
}
static size_t even(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return plain(e, 2 * r, c, 2 * rows, cols);
}
static size_t odd(size_t e, size_t r, size_t c, size_t rows, size_t cols)
{
    return plain(e, 2 * r + 1, c, 2 * rows, cols);
}

/* Experts first..first+count-1 of m are those of the tensor. */
static void check(const struct moe_matrix *m, size_t first, size_t count, size_t rows, size_t cols, const char *tensor,
                  place *where)
{
    assert_non_null(m);
    for (size_t e = 0; e < count; e++)
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++)
                if (matrix_value(m, first + e, r, c) != gguf_value(tensor, where(e, r, c, rows, cols)))
                    fail_msg("%s: expert %zu, row %zu, column %zu", tensor, e, r, c);
}

static void check_vector(const struct moe_view *view, size_t size, const char *tensor, size_t first)
{
    assert_non_null(view->base);
    for (size_t i = 0; i < size; i++)
        assert_true(load_value((const unsigned char *)view->base + view->offset + 4 * i, view->format) ==
                    gguf_value(tensor, first + i));
}

/* ---- families ------------------------------------------------------------------------------------------------ */

static void test_dbrx(void **state)
{
    (void)state;
    struct writer w = writer_begin();
    ADD(&w, "transformer.blocks.0.ffn.router.layer.weight", EXPERTS, HIDDEN);
    ADD(&w, "transformer.blocks.0.ffn.experts.mlp.w1", EXPERTS * ROWS, HIDDEN);
    ADD(&w, "transformer.blocks.0.ffn.experts.mlp.v1", EXPERTS * ROWS, HIDDEN);
    ADD(&w, "transformer.blocks.0.ffn.experts.mlp.w2", EXPERTS * ROWS, HIDDEN);
    struct moe_model *model = write_and_open(&w, "dbrx", "{" SIZES "}");
    const struct moe_experts_params *p = open_block(model, 0)->experts;
    check(p->gate, 0, EXPERTS, ROWS, HIDDEN, "transformer.blocks.0.ffn.experts.mlp.w1", plain);
    check(p->up, 0, EXPERTS, ROWS, HIDDEN, "transformer.blocks.0.ffn.experts.mlp.v1", plain);
    check(p->down, 0, EXPERTS, HIDDEN, ROWS, "transformer.blocks.0.ffn.experts.mlp.w2", turned);
    assert_false(p->gate->transposed);
    assert_true(p->down->transposed);
    moe_model_close(model);
}

/* Saved and published files are each other's transpose, under the same names; hidden may be twice the rows. */
static void check_qwen3_vl(bool transposed, size_t rows)
{
    struct writer w = writer_begin();
    char patch[160];
    snprintf(patch, sizeof patch, "{" SIZES ", \"moe_intermediate_size\": %zu}", rows);
    ADD(&w, "layers.0.mlp.gate.weight", EXPERTS, HIDDEN);
    if (transposed) {
        ADD(&w, "layers.0.mlp.experts.gate_up_proj", EXPERTS, HIDDEN, 2 * rows);
        ADD(&w, "layers.0.mlp.experts.down_proj", EXPERTS, rows, HIDDEN);
    } else {
        ADD(&w, "layers.0.mlp.experts.gate_up_proj", EXPERTS, 2 * rows, HIDDEN);
        ADD(&w, "layers.0.mlp.experts.down_proj", EXPERTS, HIDDEN, rows);
    }
    struct moe_model *model = write_and_open(&w, "qwen3_vl_moe_text", patch);
    const struct moe_experts_params *p = open_block(model, 0)->experts;
    const char *up = "layers.0.mlp.experts.gate_up_proj";
    check(p->gate, 0, EXPERTS, rows, HIDDEN, up, transposed ? turned_first : first_half);
    check(p->up, 0, EXPERTS, rows, HIDDEN, up, transposed ? turned_second : second_half);
    check(p->down, 0, EXPERTS, HIDDEN, rows, "layers.0.mlp.experts.down_proj", transposed ? turned : plain);
    moe_model_close(model);
}

static void test_qwen3_vl(void **state)
{
    (void)state;
    for (size_t rows = HIDDEN / 2; rows <= HIDDEN; rows++) {
        check_qwen3_vl(false, rows);
        if (rows != HIDDEN)   /* then nothing tells them apart but gate_up, which does */
            check_qwen3_vl(true, rows);
    }
    check_qwen3_vl(true, HIDDEN);
}

/* Shared experts behind the routed ones, in tensors of their own. */
static void test_inkling(void **state)
{
    (void)state;
    for (int published = 0; published < 2; published++) {
        struct writer w = writer_begin();
        const char *up = published ? "layers.0.mlp.experts.w13_weight" : "layers.0.mlp.experts.gate_up_proj";
        const char *down = published ? "layers.0.mlp.experts.w2_weight" : "layers.0.mlp.experts.down_proj";
        const char *shared_down = published ? "layers.0.mlp.shared_experts.shared_w2_weight"
                                            : "layers.0.mlp.shared_experts.down_proj";
        const char *bias = published ? "layers.0.mlp.gate.bias" : "layers.0.mlp.gate.e_score_correction_bias";
        ADD(&w, "layers.0.mlp.gate.weight", EXPERTS + 2, HIDDEN);
        ADD(&w, "layers.0.mlp.gate.global_scale", 1);
        ADD(&w, bias, EXPERTS);
        ADD(&w, up, EXPERTS, 2 * ROWS, HIDDEN);
        ADD(&w, down, EXPERTS, HIDDEN, ROWS);
        ADD(&w, shared_down, 2, HIDDEN, ROWS);
        if (published) {
            ADD(&w, "layers.0.mlp.shared_experts.shared_w13_weight", 2, 2 * ROWS, HIDDEN);
        } else {
            ADD(&w, "layers.0.mlp.shared_experts.gate_proj", 2, ROWS, HIDDEN);
            ADD(&w, "layers.0.mlp.shared_experts.up_proj", 2, ROWS, HIDDEN);
        }
        struct moe_model *model = write_and_open(&w, "inkling_text", "{" SIZES ", \"route_scale\": 4}");
        const struct moe_model_block *block = open_block(model, 0);
        const struct moe_experts_params *p = block->experts;
        const char *shared = "layers.0.mlp.shared_experts.shared_w13_weight";
        assert_int_equal(p->num_experts, EXPERTS + 2);
        assert_int_equal(block->layer->top_k, 4);
        check(p->gate, 0, EXPERTS, ROWS, HIDDEN, up, published ? even : first_half);
        check(p->up, 0, EXPERTS, ROWS, HIDDEN, up, published ? odd : second_half);
        check(p->down, 0, EXPERTS, HIDDEN, ROWS, down, plain);
        check(p->gate, EXPERTS, 2, ROWS, HIDDEN, published ? shared : "layers.0.mlp.shared_experts.gate_proj",
              published ? even : plain);
        check(p->up, EXPERTS, 2, ROWS, HIDDEN, published ? shared : "layers.0.mlp.shared_experts.up_proj",
              published ? odd : plain);
        check(p->down, EXPERTS, 2, HIDDEN, ROWS, shared_down, plain);
        check_vector(&block->layer->routing->selection_bias, EXPERTS, bias, 0);
        float factor = gguf_value("layers.0.mlp.gate.global_scale", 0);
        assert_true(block->layer->routing->scale == 4.0f * factor);
        moe_model_close(model);
    }
}

/* Published routers are transposed, and have a second row of biases for images. */
static void test_ernie_vl(void **state)
{
    (void)state;
    for (int published = 0; published < 2; published++) {
        struct writer w = writer_begin();
        const char *router = published ? "layers.0.mlp.gate.weight" : "layers.0.mlp.text_moe.gate.weight";
        const char *bias = published ? "layers.0.mlp.moe_statics.e_score_correction_bias"
                                     : "layers.0.mlp.text_moe.gate.moe_statics.e_score_correction_bias";
        char name[96];
        if (published) {
            ADD(&w, router, HIDDEN, EXPERTS);
            ADD(&w, bias, 2, EXPERTS);
            for (size_t e = 0; e < 2 * EXPERTS; e++) {   /* those for images are narrower */
                size_t rows = e < EXPERTS ? ROWS : 2;
                snprintf(name, sizeof name, "layers.0.mlp.experts.%zu.gate_proj.weight", e);
                ADD(&w, name, rows, HIDDEN);
                snprintf(name, sizeof name, "layers.0.mlp.experts.%zu.up_proj.weight", e);
                ADD(&w, name, rows, HIDDEN);
                snprintf(name, sizeof name, "layers.0.mlp.experts.%zu.down_proj.weight", e);
                ADD(&w, name, HIDDEN, rows);
            }
        } else {
            ADD(&w, router, EXPERTS, HIDDEN);
            ADD(&w, bias, 1, EXPERTS);
            ADD(&w, "layers.0.mlp.text_moe.experts.gate_up_proj", EXPERTS, 2 * ROWS, HIDDEN);
            ADD(&w, "layers.0.mlp.text_moe.experts.down_proj", EXPERTS, HIDDEN, ROWS);
        }
        struct moe_model *model =
            write_and_open(&w, "ernie4_5_vl_moe_text",
                           "{" SIZES ", \"mlp_layer_types\": [\"sparse\"], \"moe_intermediate_size\": [6, 2], "
                           "\"moe_num_shared_experts\": 0}");
        const struct moe_model_block *block = open_block(model, 0);
        check(block->layer->routing->router, 0, 1, EXPERTS, HIDDEN, router, published ? turned : plain);
        assert_false(block->layer->routing->router->transposed);   /* layers take no other */
        check_vector(&block->layer->routing->selection_bias, EXPERTS, bias, 0);
        assert_int_equal(block->experts->num_experts, EXPERTS);
        if (published)
            check(block->experts->down, 2, 1, HIDDEN, ROWS, "layers.0.mlp.experts.2.down_proj.weight", plain);
        else
            check(block->experts->up, 0, EXPERTS, ROWS, HIDDEN, "layers.0.mlp.text_moe.experts.gate_up_proj",
                  second_half);
        moe_model_close(model);
    }
}

/* Stacks of gate, up and down apart, and biases of the shared expert. */
static void test_step(void **state)
{
    (void)state;
    struct writer w = writer_begin();
    static const char *const shared[] = {"gate_proj", "up_proj", "down_proj"};
    ADD(&w, "model.layers.0.moe.gate.weight", EXPERTS, HIDDEN);
    ADD(&w, "model.layers.0.moe.router_bias", EXPERTS);
    ADD(&w, "model.layers.0.moe.gate_proj.weight", EXPERTS, ROWS, HIDDEN);
    ADD(&w, "model.layers.0.moe.up_proj.weight", EXPERTS, ROWS, HIDDEN);
    ADD(&w, "model.layers.0.moe.down_proj.weight", EXPERTS, HIDDEN, ROWS);
    for (size_t i = 0; i < 3; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.0.share_expert.%s.weight", shared[i]);
        ADD(&w, name, i < 2 ? 4 : HIDDEN, i < 2 ? HIDDEN : 4);
        snprintf(name, sizeof name, "model.layers.0.share_expert.%s.bias", shared[i]);
        ADD(&w, name, i < 2 ? 4 : HIDDEN);
    }
    struct moe_model *model = write_and_open(
        &w, "step3p5", "{" SIZES ", \"share_expert_dim\": 4, \"moe_layers_enum\": \"0\", \"mlp_bias\": true}");
    const struct moe_model_block *block = open_block(model, 0);
    check(block->experts->gate, 0, EXPERTS, ROWS, HIDDEN, "model.layers.0.moe.gate_proj.weight", plain);
    check(block->experts->down, 0, EXPERTS, HIDDEN, ROWS, "model.layers.0.moe.down_proj.weight", plain);
    check_vector(&block->layer->routing->selection_bias, EXPERTS, "model.layers.0.moe.router_bias", 0);
    check(block->shared->up, 0, 1, 4, HIDDEN, "model.layers.0.share_expert.up_proj.weight", plain);
    check_vector(&block->shared->up->bias, 4, "model.layers.0.share_expert.up_proj.bias", 0);
    check_vector(&block->shared->down->bias, HIDDEN, "model.layers.0.share_expert.down_proj.bias", 0);
    moe_model_close(model);
}

/* Not gated, and projections to the experts' own width and back, with biases. */
static void test_nemotron(void **state)
{
    (void)state;
    enum { LATENT = 4 };
    struct writer w = writer_begin();
    ADD(&w, "backbone.layers.0.mixer.gate.weight", EXPERTS, HIDDEN);
    ADD(&w, "backbone.layers.0.mixer.gate.e_score_correction_bias", EXPERTS);
    ADD(&w, "backbone.layers.0.mixer.experts.up_proj", EXPERTS, ROWS, LATENT);
    ADD(&w, "backbone.layers.0.mixer.experts.down_proj", EXPERTS, LATENT, ROWS);
    ADD(&w, "backbone.layers.0.mixer.fc1_latent_proj.weight", LATENT, HIDDEN);
    ADD(&w, "backbone.layers.0.mixer.fc1_latent_proj.bias", LATENT);
    ADD(&w, "backbone.layers.0.mixer.fc2_latent_proj.weight", HIDDEN, LATENT);
    ADD(&w, "backbone.layers.0.mixer.fc2_latent_proj.bias", HIDDEN);
    ADD(&w, "backbone.layers.0.mixer.shared_experts.up_proj.weight", 5, HIDDEN);
    ADD(&w, "backbone.layers.0.mixer.shared_experts.up_proj.bias", 5);
    ADD(&w, "backbone.layers.0.mixer.shared_experts.down_proj.weight", HIDDEN, 5);
    ADD(&w, "backbone.layers.0.mixer.shared_experts.down_proj.bias", HIDDEN);
    struct moe_model *model =
        write_and_open(&w, "nemotron_h", "{" SIZES ", \"hybrid_override_pattern\": \"E\", \"mlp_bias\": true, "
                                         "\"moe_latent_size\": 4, \"moe_shared_expert_intermediate_size\": 5}");
    const struct moe_model_block *block = open_block(model, 0);
    assert_null(block->experts->gate);
    assert_null(block->shared->gate);
    assert_int_equal(block->experts->hidden_size, LATENT);
    assert_int_equal(block->shared->hidden_size, HIDDEN);
    check(block->experts->up, 0, EXPERTS, ROWS, LATENT, "backbone.layers.0.mixer.experts.up_proj", plain);
    assert_int_equal(block->latent->hidden_size, HIDDEN);
    assert_int_equal(block->latent->intermediate_size, LATENT);
    assert_null(block->latent->gate);
    check(block->latent->up, 0, 1, LATENT, HIDDEN, "backbone.layers.0.mixer.fc1_latent_proj.weight", plain);
    check(block->latent->down, 0, 1, HIDDEN, LATENT, "backbone.layers.0.mixer.fc2_latent_proj.weight", plain);
    check_vector(&block->latent->up->bias, LATENT, "backbone.layers.0.mixer.fc1_latent_proj.bias", 0);
    check_vector(&block->latent->down->bias, HIDDEN, "backbone.layers.0.mixer.fc2_latent_proj.bias", 0);
    moe_model_close(model);
}

/* One after the other, where gpt-oss has gate and up alternate. */
static void test_privacy_filter(void **state)
{
    (void)state;
    struct writer w = writer_begin();
    const char *up = "model.layers.0.mlp.experts.gate_up_proj";
    ADD(&w, "model.layers.0.mlp.router.weight", EXPERTS, HIDDEN);
    ADD(&w, "model.layers.0.mlp.router.bias", EXPERTS);
    ADD(&w, up, EXPERTS, HIDDEN, 2 * ROWS);
    ADD(&w, "model.layers.0.mlp.experts.down_proj", EXPERTS, ROWS, HIDDEN);
    ADD(&w, "model.layers.0.mlp.experts.gate_up_proj_bias", EXPERTS, 2 * ROWS);
    ADD(&w, "model.layers.0.mlp.experts.down_proj_bias", EXPERTS, HIDDEN);
    struct moe_model *model = write_and_open(&w, "openai_privacy_filter", "{" SIZES "}");
    const struct moe_experts_params *p = open_block(model, 0)->experts;
    check(p->gate, 0, EXPERTS, ROWS, HIDDEN, up, turned_first);
    check(p->up, 0, EXPERTS, ROWS, HIDDEN, up, turned_second);
    for (size_t e = 0; e < EXPERTS; e++)
        for (size_t r = 0; r < ROWS; r++) {
            assert_true(bias_value(p->gate, e, r) ==
                        gguf_value("model.layers.0.mlp.experts.gate_up_proj_bias", e * 2 * ROWS + r));
            assert_true(bias_value(p->up, e, r) ==
                        gguf_value("model.layers.0.mlp.experts.gate_up_proj_bias", e * 2 * ROWS + ROWS + r));
        }
    moe_model_close(model);
}

/* The shared expert's gate and up in one matrix, the output's bias, and a scale and a norm of the router's. */
static void test_roles(void **state)
{
    (void)state;
    struct writer w = writer_begin();
    ADD(&w, "model.layers.0.mlp.router.layer.weight", EXPERTS, HIDDEN);
    ADD(&w, "model.layers.0.mlp.bias", HIDDEN);
    ADD(&w, "model.layers.0.mlp.input_linear.weight", EXPERTS, 2 * ROWS, HIDDEN);
    ADD(&w, "model.layers.0.mlp.output_linear.weight", EXPERTS, HIDDEN, ROWS);
    struct moe_model *model = write_and_open(&w, "jetmoe", "{" SIZES "}");
    const struct moe_model_block *block = open_block(model, 0);
    check_vector(&block->layer->out_bias, HIDDEN, "model.layers.0.mlp.bias", 0);
    check(block->experts->up, 0, EXPERTS, ROWS, HIDDEN, "model.layers.0.mlp.input_linear.weight", second_half);
    moe_model_close(model);

    w = writer_begin();
    ADD(&w, "model.layers.0.router.proj.weight", EXPERTS, HIDDEN);
    ADD(&w, "model.layers.0.router.scale", HIDDEN);
    ADD(&w, "model.layers.0.router.per_expert_scale", EXPERTS);
    ADD(&w, "model.layers.0.experts.gate_up_proj", EXPERTS, 2 * ROWS, HIDDEN);
    ADD(&w, "model.layers.0.experts.down_proj", EXPERTS, HIDDEN, ROWS);
    model = write_and_open(&w, "gemma4_text", "{" SIZES ", \"enable_moe_block\": true, \"rms_norm_eps\": 0.5}");
    const struct moe_routing *routing = open_block(model, 0)->layer->routing;
    check_vector(&routing->norm->scale, HIDDEN, "model.layers.0.router.scale", 0);
    check_vector(&routing->expert_scale, EXPERTS, "model.layers.0.router.per_expert_scale", 0);
    assert_true(routing->norm->eps == 0.5f);
    assert_true(routing->norm->unit);
    moe_model_close(model);

    w = writer_begin();
    ADD(&w, "model.layers.0.mlp.gate.weight", EXPERTS, HIDDEN);
    ADD(&w, "model.layers.0.mlp.gate.e_score_correction_bias", EXPERTS);
    ADD(&w, "model.layers.0.mlp.experts.gate_up_proj", EXPERTS, 2 * ROWS, HIDDEN);
    ADD(&w, "model.layers.0.mlp.experts.down_proj", EXPERTS, HIDDEN, ROWS);
    ADD(&w, "model.layers.0.mlp.shared_experts.gate_up_proj.weight", 8, HIDDEN);
    ADD(&w, "model.layers.0.mlp.shared_experts.down_proj.weight", HIDDEN, 4);
    model = write_and_open(&w, "minimax_m3_vl_text", "{" SIZES ", \"shared_intermediate_size\": 4}");
    const struct moe_experts_params *shared = open_block(model, 0)->shared;
    check(shared->gate, 0, 1, 4, HIDDEN, "model.layers.0.mlp.shared_experts.gate_up_proj.weight", first_half);
    check(shared->up, 0, 1, 4, HIDDEN, "model.layers.0.mlp.shared_experts.gate_up_proj.weight", second_half);
    moe_model_close(model);
}

/* A norm of the output belongs to the decoder layer, and its epsilon is a key's. */
static void test_out_norm(void **state)
{
    (void)state;
    struct checkpoint c = checkpoint_load("axk1");
    json_object_set_new(c.config, "rms_norm_eps", json_real(0.125));
    checkpoint_save(&c);
    struct moe_model *model = open_model_at(temp_dir, 0);
    const struct moe_norm *norm = open_block(model, 1)->layer->out_norm;
    assert_non_null(norm);
    assert_true(norm->eps == 0.125f);
    assert_false(norm->unit);
    for (size_t i = 0; i < 64; i++)
        assert_true(load_value((const unsigned char *)norm->scale.base + norm->scale.offset + 2 * i,
                               norm->scale.format) ==
                    tensor_value(model, "model.layers.1.post_mlp_layernorm.weight", i));
    moe_model_close(model);
    checkpoint_free(&c);
}

/* A factor of 0 would be no factor to the layer, and infinity no number. */
static void test_bad_factor(void **state)
{
    (void)state;
    struct writer w = writer_begin();
    ADD(&w, "layers.0.mlp.gate.weight", EXPERTS + 2, HIDDEN);
    ADD(&w, "layers.0.mlp.gate.global_scale", 1);
    memset(w.data.data + w.data.size - 4, 0, 4);
    struct moe_model *model = write_and_open(&w, "inkling_text", "{" SIZES "}");
    const struct moe_model_block *block;
    struct moe_error error;
    assert_int_equal(moe_model_block(model, 0, &block, &error), MOE_ERR_FORMAT);
    assert_non_null(strstr(error.text, "global_scale"));
    assert_non_null(strstr(error.text, "found 0"));
    moe_model_close(model);
}

/* transformers saves shared experts of no rows where there are to be 0 of them: there are none. */
static void test_shared_without_rows(void **state)
{
    (void)state;
    struct writer w = writer_begin();
    ADD(&w, "layers.0.mlp.gate.weight", EXPERTS, HIDDEN);
    ADD(&w, "layers.0.mlp.gate.e_score_correction_bias", EXPERTS);
    ADD(&w, "layers.0.mlp.experts.gate_up_proj", EXPERTS, 2 * ROWS, HIDDEN);
    ADD(&w, "layers.0.mlp.experts.down_proj", EXPERTS, HIDDEN, ROWS);
    json_int_t end = (json_int_t)w.data.size;
    json_object_set_new(w.header, "layers.0.mlp.shared_experts.up_proj.weight",
                        json_pack("{s:s, s:[i, i], s:[I, I]}", "dtype", "F32", "shape", 0, (int)HIDDEN,
                                  "data_offsets", end, end));
    struct moe_model *model =
        write_and_open(&w, "glm4_moe", "{" SIZES ", \"n_shared_experts\": 0, \"first_k_dense_replace\": 0}");
    const struct moe_model_block *block;
    struct moe_error error;
    if (moe_model_block(model, 0, &block, &error) != MOE_OK)
        fail_msg("%s", error.text);
    assert_null(block->shared);
    moe_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dbrx),     cmocka_unit_test(test_qwen3_vl), cmocka_unit_test(test_inkling),
        cmocka_unit_test(test_ernie_vl), cmocka_unit_test(test_step),     cmocka_unit_test(test_nemotron),
        cmocka_unit_test(test_roles),    cmocka_unit_test(test_out_norm), cmocka_unit_test(test_privacy_filter),
        cmocka_unit_test(test_bad_factor), cmocka_unit_test(test_shared_without_rows),
    };
    return cmocka_run_group_tests_name("models/layouts", tests, temp_setup, temp_teardown);
}
