// SPDX-License-Identifier: MIT
// Try a backend: every Mixture-of-Experts layer of some models through moe_forward and moe_layer_forward, against the
// float64 results in reference.safetensors beside the model, with the "cpu" backend for comparison.
#ifndef MOE_EXAMPLES_TRY_BACKEND_H
#define MOE_EXAMPLES_TRY_BACKEND_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/backend.h"
#include "moe/moe.h"

/* ||out - reference|| / ||reference||, where activations are f32 throughout. */
#define TRY_MAX_ERROR 1e-5

struct try_device {
    struct moe_backend *backend;
    struct moe_context *ctx;
    uint64_t dispatches;   /* so far, as the core counted them */
};

/* One layer's inputs and expected output: rows of f32, in the file; token_ids are i32. */
struct try_case {
    struct moe_model *model;
    size_t block, num_tokens, hidden_size;
    const void *x, *router_x, *token_ids, *logits, *out, *expert_out;
    size_t num_logits;
};

static inline void try_check(enum moe_status status, const struct moe_error *error)
{
    if (status == MOE_OK)
        return;
    fprintf(stderr, "%s\n", error ? error->text : moe_status_text(status));
    exit(3);
}

static inline double try_error(const float *out, const void *reference, size_t count)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        float expected;
        memcpy(&expected, (const char *)reference + i * sizeof expected, sizeof expected);
        difference += ((double)out[i] - expected) * ((double)out[i] - expected);
        norm += (double)expected * expected;
    }
    return sqrt(difference / norm);
}

/* The next count floats of an allocation on the device, with these values if there are any. */
static inline struct moe_view try_place(const struct try_device *device, struct moe_view *memory, size_t count,
                                        const void *values)
{
    struct moe_view view = *memory;
    view.format = MOE_FORMAT_F32;
    view.size = count * sizeof(float);
    memory->offset += (view.size + 255) / 256 * 256;
    memory->size -= (view.size + 255) / 256 * 256;
    if (values)
        try_check(moe_mem_write(device->ctx, &view, values, view.size), NULL);
    return view;
}

/* Dispatches since the last time. */
static inline uint64_t try_dispatches(struct try_device *device)
{
    struct moe_stats stats;
    MOE_INIT(&stats);
    try_check(moe_context_stats(device->ctx, &stats, true), NULL);
    device->dispatches += stats.dispatches;
    return stats.dispatches;
}

/* The layer on its own router: returns its error, and the primitives that it took. */
static inline double try_layer(struct try_device *device, const struct try_case *c, uint64_t *dispatches)
{
    struct moe_error error;
    struct moe_layer *layer;
    size_t count = c->num_tokens * c->hidden_size, bytes;
    float *out = calloc(count, sizeof *out);
    struct moe_view memory, rest;
    struct moe_layer_io io;
    if (!out)
        try_check(MOE_ERR_MEMORY, NULL);
    try_check(moe_model_layer(c->model, c->block, device->backend, MOE_LAYER_ALLOW_COMPOSED | MOE_LAYER_EXACT, &layer,
                              &error), &error);
    try_check(moe_mem_alloc(device->backend, 3 * (count * sizeof *out + 256) + c->num_tokens * 4 + 256, &memory), NULL);
    rest = memory;
    MOE_INIT(&io);
    io.num_tokens = c->num_tokens;
    io.x = try_place(device, &rest, count, c->x);
    io.out = try_place(device, &rest, count, NULL);
    if (c->router_x)
        io.router_x = try_place(device, &rest, count, c->router_x);
    if (c->token_ids) {
        io.token_ids = try_place(device, &rest, c->num_tokens, c->token_ids);   /* as wide as f32 */
        io.token_ids.format = MOE_FORMAT_I32;
    }
    try_check(moe_layer_workspace_size(device->ctx, layer, &io, &bytes), NULL);
    try_check(moe_mem_alloc(device->backend, bytes, &io.workspace), NULL);
    try_dispatches(device);
    try_check(moe_layer_forward(device->ctx, layer, &io), NULL);
    *dispatches = try_dispatches(device);
    try_check(moe_mem_read(device->ctx, out, &io.out, io.out.size), NULL);
    double result = try_error(out, c->out, count);
    moe_mem_free(device->backend, &io.workspace);
    moe_mem_free(device->backend, &memory);
    moe_layer_destroy(layer);
    free(out);
    return result;
}

/* moe_forward is for softmax routing over gated SiLU experts without biases. */
static inline bool try_is_plain(const struct moe_model_block *block)
{
    const struct moe_experts_params *e = block->experts;
    const struct moe_routing *r = block->layer->routing;
    const struct moe_act *act = e->act;
    bool softmax = r && r->weight <= MOE_SCORE_SOFTMAX && r->select <= MOE_SCORE_SOFTMAX && r->num_groups <= 1 &&
                   !r->selection_bias.base && (r->scale == 0 || r->scale == 1) &&
                   !(r->router && r->router->bias.base) && !r->norm && r->softcap == 0 &&
                   r->renorm != MOE_RENORM_P_NORM && !r->expert_scale.base && !r->hash_table.base &&
                   r->num_always == 0;
    const struct moe_layer_params *l = block->layer;
    bool sum = (l->routed_scale == 0 || l->routed_scale == 1) && (l->out_scale == 0 || l->out_scale == 1) &&
               !l->out_bias.base && !l->out_norm && !block->latent && l->num_zero_experts == 0;
    bool silu = !act || (act->kind == MOE_ACT_SWISH && !act->clamp && act->up_offset == 0 &&
                         (act->alpha == 0 || act->alpha == 1));
    return softmax && silu && sum && e->gate && !e->gate->bias.base && !e->up->bias.base && !e->down->bias.base &&
           !l->weight_on_input;
}

/* The routed experts through moe_forward, from the router logits of the reference. */
static inline double try_forward(struct try_device *device, const struct try_case *c,
                                 const struct moe_model_block *block, uint64_t *dispatches)
{
    struct moe_error error;
    struct moe_experts *experts;
    size_t hidden = c->hidden_size, inner = block->experts->intermediate_size, count = c->num_tokens * hidden;
    size_t num_logits = c->num_tokens * block->experts->num_experts;
    float *out = calloc(count, sizeof *out), *zeros = calloc(hidden, sizeof *zeros);
    struct moe_view memory, rest;
    if (!out || !zeros)
        try_check(MOE_ERR_MEMORY, NULL);
    try_check(moe_experts_create(device->backend, block->experts, &experts, &error), &error);
    size_t total = 2 * count + num_logits + 4 * hidden + 3 * inner;
    try_check(moe_mem_alloc(device->backend, total * sizeof(float) + 9 * 256, &memory), NULL);
    rest = memory;

    struct moe_forward_params p;
    MOE_INIT(&p);
    p.ctx = device->ctx;
    p.x = try_place(device, &rest, count, c->x);
    p.router_logits = try_place(device, &rest, num_logits, c->logits);
    p.out = try_place(device, &rest, count, NULL);
    p.batch = c->num_tokens;
    p.hidden_size = hidden;
    p.expert_intermediate = inner;
    p.num_experts = block->experts->num_experts;
    p.top_k = block->layer->top_k;
    p.norm_topk_prob = block->layer->routing->renorm != MOE_RENORM_NONE;
    p.experts = experts;
    p.x_single = try_place(device, &rest, hidden, NULL);
    p.acc_buf = try_place(device, &rest, hidden, NULL);
    p.gate_up_buf = try_place(device, &rest, 2 * inner, NULL);
    p.silu_buf = try_place(device, &rest, inner, NULL);
    p.down_buf = try_place(device, &rest, hidden, NULL);
    p.zero_hidden = try_place(device, &rest, hidden, zeros);
    try_dispatches(device);
    try_check(moe_forward(&p), NULL);
    *dispatches = try_dispatches(device);
    try_check(moe_mem_read(device->ctx, out, &p.out, p.out.size), NULL);
    double result = try_error(out, block->shared ? c->expert_out : c->out, count);
    moe_mem_free(device->backend, &memory);
    moe_experts_destroy(experts);
    free(out);
    free(zeros);
    return result;
}

/* A tensor of the reference, [tokens, cols] f32; NULL if it is not there. */
static inline const void *try_find(struct moe_model *reference, size_t block, const char *what, size_t *rows,
                                   size_t *cols)
{
    char name[64];
    struct moe_tensor tensor;
    struct moe_error error;
    const void *data;
    snprintf(name, sizeof name, "layer%zu.%s", block, what);
    if (moe_model_tensor_find(reference, name, &tensor) != MOE_OK)
        return NULL;
    if (tensor.type != MOE_FORMAT_F32 || tensor.num_dims != 2 || (*rows && tensor.shape[0] != *rows) ||
        (*cols && tensor.shape[1] != *cols)) {
        fprintf(stderr, "%s of the reference has another shape than expected\n", name);
        exit(3);
    }
    *rows = tensor.shape[0];
    *cols = tensor.shape[1];
    try_check(moe_model_tensor_data(reference, name, &data, &error), &error);
    return data;
}

/* One line of the table; returns whether all is as it should be. */
static inline bool try_block(struct try_device *device, struct try_device *cpu, struct moe_model *model,
                             struct moe_model *reference, size_t index)
{
    const struct moe_model_block *block;
    struct moe_error error;
    struct try_case c = {.model = model, .block = index};
    uint64_t dispatches, unused;
    try_check(moe_model_block(model, index, &block, &error), &error);
    if (!block) {
        printf("  %-6zu dense\n", index);
        return true;
    }
    size_t top_k = block->layer->top_k;
    c.hidden_size = block->latent ? block->latent->hidden_size : block->experts->hidden_size;
    c.num_logits = block->experts->num_experts + block->layer->num_zero_experts;
    c.router_x = try_find(reference, index, "router_x", &c.num_tokens, &c.hidden_size);
    /* With a router apart, x and out belong to more than this layer. */
    c.x = try_find(reference, index, c.router_x ? "expert_x" : "x", &c.num_tokens, &c.hidden_size);
    c.out = try_find(reference, index, c.router_x ? "expert_out" : "out", &c.num_tokens, &c.hidden_size);
    c.logits = try_find(reference, index, "router_logits", &c.num_tokens, &c.num_logits);
    if (block->layer->routing->hash_table.base)
        try_check(moe_model_tensor_data(reference, "input_ids", &c.token_ids, &error), &error);
    if (!c.x || !c.out) {
        printf("  %-6zu not in the reference\n", index);
        return false;
    }
    double on_cpu = try_layer(cpu, &c, &unused), composed = try_layer(device, &c, &dispatches);
    printf("  %-6zu %-10.1e %-10.1e %-12.2f", index, on_cpu, composed, (double)dispatches / (double)c.num_tokens);
    bool good = on_cpu <= TRY_MAX_ERROR && composed <= TRY_MAX_ERROR;
    if (try_is_plain(block) && c.logits) {
        size_t expert_size = c.hidden_size, rows = c.num_tokens;
        c.expert_out = block->shared ? try_find(reference, index, "expert_out", &rows, &expert_size) : NULL;
        double forward = block->shared && !c.expert_out ? INFINITY : try_forward(device, &c, block, &dispatches);
        printf(" %-12.1e %.2f of %zu", forward, (double)dispatches / (double)c.num_tokens, 5 * top_k + 2);
        good = good && forward <= TRY_MAX_ERROR && dispatches <= (5 * top_k + 2) * c.num_tokens;
    } else
        printf(" -");
    printf("%s\n", good ? "" : "   WRONG");
    return good;
}

/* A backend that counts for itself says so in its description. */
static inline void try_line(void *user, const char *key, const char *value)
{
    if (strcmp(key, "dispatches") == 0)
        *(uint64_t *)user = strtoull(value, NULL, 10);
}

static inline void try_open(struct try_device *device, const struct moe_backend_ops *ops)
{
    struct moe_error error;
    if (ops)
        try_check(moe_backend_open_ops(ops, NULL, NULL, &device->backend, &error), &error);
    else
        try_check(moe_backend_open("cpu", NULL, &device->backend, &error), &error);
    try_check(moe_context_create(device->backend, NULL, &device->ctx, &error), &error);
}

static inline void try_close(struct try_device *device)
{
    moe_context_destroy(device->ctx);
    moe_backend_close(device->backend);
}

/* The whole program: exit code 0, or 1 if anything is off. */
static inline int try_backend(const struct moe_backend_ops *ops, int num_models, char **paths)
{
    struct try_device device = {0}, cpu = {0};
    struct moe_error error;
    uint64_t counted = UINT64_MAX;
    bool good = num_models > 0;
    if (!good)
        fprintf(stderr, "usage: MODEL...   directories of models, each with its reference.safetensors\n");
    try_open(&device, ops);
    try_open(&cpu, NULL);
    for (int m = 0; m < num_models; m++) {
        struct moe_model *model, *reference;
        struct moe_model_info info;
        char path[4096];
        snprintf(path, sizeof path, "%s/reference.safetensors", paths[m]);
        try_check(moe_model_open(paths[m], NULL, &model, &error), &error);
        try_check(moe_model_open(path, NULL, &reference, &error), &error);
        MOE_INIT(&info);
        try_check(moe_model_info(model, &info), NULL);
        printf("%s (%s): errors against float64; dispatches a token\n", paths[m], info.family);
        printf("  layer  cpu        %-10s dispatches   moe_forward  dispatches\n", ops->name);
        for (size_t i = 0; i < info.num_blocks; i++)
            good = try_block(&device, &cpu, model, reference, i) && good;
        moe_model_close(reference);
        moe_model_close(model);
    }
    try_check(moe_backend_describe(device.backend, try_line, &counted), NULL);
    good = good && (counted == UINT64_MAX || counted == device.dispatches);
    printf("%llu dispatches", (unsigned long long)device.dispatches);
    if (counted != UINT64_MAX)
        printf("; the backend itself counted %llu", (unsigned long long)counted);
    printf("\n");
    try_close(&cpu);
    try_close(&device);
    return good ? 0 : num_models > 0 ? 1 : 2;
}

#endif
