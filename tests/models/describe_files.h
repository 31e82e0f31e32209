// SPDX-License-Identifier: MIT
// Models for the tests of descriptions: one of an architecture that no preset knows, with its description, and GGUF
// files with one block.
#ifndef MOE_TEST_DESCRIBE_FILES_H
#define MOE_TEST_DESCRIBE_FILES_H

#include "description.h"
#include "model_files.h"

enum { EXPERTS = 4, HIDDEN = 16, ROWS = 8 };

/* Block 0 is dense. Sizes as in describe_tomorrow_save. */
static const char describe_tomorrow[] =
    "{\n"
    "\"version\": 1,\n"
    "\"blocks\": 2,\n"
    "\"prefix\": \"model.layers.{b}.\",\n"
    "\"moe\": [false, true],\n"
    "\"num_experts\": [null, 4],\n"
    "\"top_k\": 2,\n"
    "\"hidden_size\": 16,\n"
    "\"intermediate_size\": 8,\n"
    "\"weight\": \"sigmoid\",\n"
    "\"renorm\": \"clamp_eps\",\n"
    "\"renorm_eps\": 1e-6,\n"
    "\"scale\": 2.5,\n"
    "\"act\": \"gelu_tanh\",\n"
    "\"needs\": [null, [\"selection_bias\"]],\n"
    "\"tensors\": {\"router\": \"mlp.gate.weight\", \"selection_bias\": \"mlp.gate.offset\"},\n"
    "\"experts\": [{\"gate\": \"mlp.experts.{e}.gate_proj.weight\",\n"
    "\"up\": \"mlp.experts.{e}.up_proj.weight\",\n"
    "\"down\": \"mlp.experts.{e}.down_proj.weight\"}]\n"
    "}\n";

/* The same with another value of a key, which may be new. From malloc. */
static inline char *describe_with(const char *key, const char *value)
{
    json_t *root = json_loads(describe_tomorrow, 0, NULL), *given = json_loads(value, JSON_DECODE_ANY, NULL);
    assert_non_null(root);
    assert_non_null(given);
    assert_int_equal(json_object_set_new(root, key, given), 0);
    char *text = json_dumps(root, JSON_REAL_PRECISION(17));
    json_decref(root);
    return text;
}

struct writer {
    struct bytes data;
    json_t *header;
};

static inline void writer_tensor(struct writer *w, const char *name, const char *dtype, size_t size, json_t *shape)
{
    size_t begin = w->data.size;
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)(0x30 + (i * 7 + begin) % 8);   /* small numbers in each of the formats */
        append(&w->data, &byte, 1);
    }
    json_object_set_new(w->header, name, json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape,
                                                   "data_offsets", (json_int_t)begin, (json_int_t)w->data.size));
}

static inline void writer_expert(struct writer *w, size_t e, const char *which, int rows, int cols, bool fp8)
{
    char name[96];
    snprintf(name, sizeof name, "model.layers.1.mlp.experts.%zu.%s.weight", e, which);
    writer_tensor(w, name, fp8 ? "F8_E4M3" : "BF16", (size_t)(rows * cols * (fp8 ? 1 : 2)),
                  json_pack("[i, i]", rows, cols));
    snprintf(name, sizeof name, "model.layers.1.mlp.experts.%zu.%s.weight_scale_inv", e, which);
    if (fp8)
        writer_tensor(w, name, "F32", (size_t)(rows / 4 * (cols / 8) * 4), json_pack("[i, i]", rows / 4, cols / 8));
}

/* config.json and model.safetensors: block 1 has experts, in bf16 or in FP8 with scales. */
static inline void describe_tomorrow_save(const char *model_type, bool fp8)
{
    struct writer w = {{NULL, 0}, json_object()};
    json_t *config = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:[i]}", "model_type", model_type, "num_hidden_layers",
                               2, "hidden_size", HIDDEN, "moe_intermediate_size", ROWS, "num_experts", EXPERTS,
                               "num_experts_per_tok", 2, "mlp_only_layers", 0);
    if (fp8)
        json_object_set_new(config, "quantization_config", json_pack("{s:s, s:[i, i]}", "quant_method", "fp8",
                                                                     "weight_block_size", 4, 8));
    assert_int_equal(json_dump_file(config, temp_path("config.json"), 0), 0);
    json_decref(config);
    writer_tensor(&w, "model.layers.1.mlp.gate.weight", "BF16", EXPERTS * HIDDEN * 2,
                  json_pack("[i, i]", EXPERTS, HIDDEN));
    writer_tensor(&w, "model.layers.1.mlp.gate.offset", "F32", EXPERTS * 4, json_pack("[i]", EXPERTS));
    for (size_t e = 0; e < EXPERTS; e++) {
        writer_expert(&w, e, "gate_proj", ROWS, HIDDEN, fp8);
        writer_expert(&w, e, "up_proj", ROWS, HIDDEN, fp8);
        writer_expert(&w, e, "down_proj", HIDDEN, ROWS, fp8);
    }
    char *text = json_dumps(w.header, JSON_COMPACT);
    struct bytes out = {NULL, 0};
    append_u64(&out, strlen(text));
    append(&out, text, strlen(text));
    append(&out, w.data.data, w.data.size);
    write_file(temp_path("model.safetensors"), &out);
    free(text);
    free(out.data);
    free(w.data.data);
    json_decref(w.header);
}

/* One block under llama.cpp's names; the caller adds to it and saves it. */
static inline struct gguf describe_gguf(const char *architecture, bool biases)
{
    static const char *const stacks[] = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};
    struct gguf g = gguf_begin(architecture);
    gguf_u32(&g, "block_count", 1);
    gguf_u32(&g, "embedding_length", HIDDEN);
    gguf_u32(&g, "expert_feed_forward_length", ROWS);
    gguf_u32(&g, "expert_count", EXPERTS);
    gguf_u32(&g, "expert_used_count", 2);
    gguf_tensor2(&g, "blk.0.ffn_gate_inp.weight", EXPERTS, HIDDEN);
    if (biases)
        gguf_tensor1(&g, "blk.0.ffn_gate_inp.bias", EXPERTS);
    for (size_t i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.0.%s.weight", stacks[i]);
        gguf_tensor3(&g, name, EXPERTS, i == 2 ? HIDDEN : ROWS, i == 2 ? ROWS : HIDDEN);
        snprintf(name, sizeof name, "blk.0.%s.bias", stacks[i]);
        if (biases)
            gguf_tensor2(&g, name, EXPERTS, i == 2 ? HIDDEN : ROWS);
    }
    return g;
}

#endif
