// SPDX-License-Identifier: MIT
// A call of moe_forward with all its buffers between guard bytes: for the test programs of this folder.
#ifndef MOE_TEST_FORWARD_FIXTURE_H
#define MOE_TEST_FORWARD_FIXTURE_H

#include <stdlib.h>
#include <string.h>

#include "support.h"

struct forward_case {
    uint64_t seed;
    size_t batch, hidden_size, intermediate_size, num_experts, top_k;
    enum moe_format weights, x_format, logits_format, out_format;
    size_t padding;                  /* values between the rows of x, logits and out */
    bool norm, bias, no_gate;
    uint32_t flags;
};

enum fixture_buffer { X, LOGITS, ZERO, OUT, X_SINGLE, ACC, GATE_UP, SILU, DOWN, NUM_BUFFERS };

struct fixture {
    struct forward_case given;
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct test_layer layer;
    struct moe_experts *experts;
    struct moe_forward_params params;
    unsigned char *data[NUM_BUFFERS], *before[NUM_BUFFERS];
    size_t size[NUM_BUFFERS], row_bytes[NUM_BUFFERS];
    float *x, *logits;               /* as f32, dense */
};

static inline struct moe_view *fixture_view(struct moe_forward_params *p, enum fixture_buffer i)
{
    struct moe_view *views[NUM_BUFFERS] = {&p->x, &p->router_logits, &p->zero_hidden, &p->out, &p->x_single,
                                           &p->acc_buf, &p->gate_up_buf, &p->silu_buf, &p->down_buf};
    return views[i];
}

static inline void fixture_buffer(struct fixture *f, enum fixture_buffer i, enum moe_format format, size_t rows,
                                  size_t cols, size_t padding)
{
    size_t bytes = moe_format_info(format)->block_bytes;
    f->row_bytes[i] = (cols + padding) * bytes;
    f->size[i] = rows == 0 ? 0 : (rows - 1) * f->row_bytes[i] + cols * bytes;
    f->data[i] = test_alloc(f->size[i]);
    *fixture_view(&f->params, i) = test_view(f->data[i], f->size[i], f->row_bytes[i], format);
}

/* Random values into a buffer; gives them back as the call will see them. */
static inline float *fixture_fill(struct fixture *f, struct test_rng *rng, enum fixture_buffer i, size_t cols)
{
    enum moe_format format = fixture_view(&f->params, i)->format;
    float *values = moe_ref_alloc(f->given.batch * cols, sizeof *values);
    test_fill_heavy(rng, values, f->given.batch, cols, 1);
    test_round(values, f->given.batch * cols, format);
    for (size_t t = 0; t < f->given.batch; t++)
        test_assert_ok(moe_format_quantise(format, f->data[i] + t * f->row_bytes[i], values + t * cols, 1, cols));
    return values;
}

static inline void fixture_remember(struct fixture *f)
{
    for (int i = 0; i < NUM_BUFFERS; i++) {
        test_release(f->before[i]);
        f->before[i] = test_copy(f->data[i], f->size[i]);
    }
}

static inline void fixture_open(struct fixture *f, const struct forward_case *given)
{
    struct test_rng rng = {given->seed};
    memset(f, 0, sizeof *f);
    f->given = *given;
    f->backend = test_backend("cpu");
    f->ctx = test_context(f->backend, 2);
    struct test_layer_spec spec = {.top_k = given->top_k};
    spec.experts = (struct test_experts_spec){
        .num_experts = given->num_experts, .hidden_size = given->hidden_size,
        .intermediate_size = given->intermediate_size, .gate = given->weights, .up = given->weights,
        .down = given->weights, .bias = given->bias, .no_gate = given->no_gate};
    spec.routing.renorm = given->norm ? MOE_RENORM_ADD_EPS : MOE_RENORM_NONE;
    test_layer_init(&f->layer, &rng, &spec);
    struct moe_error error = {0};
    if (moe_experts_create(f->backend, &f->layer.experts.params, &f->experts, &error) != MOE_OK)
        fail_msg("%s", error.text);

    struct moe_forward_params *p = &f->params;
    MOE_INIT(p);
    fixture_buffer(f, X, given->x_format, given->batch, given->hidden_size, given->padding);
    fixture_buffer(f, LOGITS, given->logits_format, given->batch, given->num_experts, given->padding);
    fixture_buffer(f, OUT, given->out_format, given->batch, given->hidden_size, given->padding);
    fixture_buffer(f, ZERO, MOE_FORMAT_F32, 1, given->hidden_size, 0);
    fixture_buffer(f, X_SINGLE, MOE_FORMAT_F32, 1, given->hidden_size, 0);
    fixture_buffer(f, ACC, MOE_FORMAT_F32, 1, given->hidden_size, 0);
    fixture_buffer(f, GATE_UP, MOE_FORMAT_F32, 1, 2 * given->intermediate_size, 0);
    fixture_buffer(f, SILU, MOE_FORMAT_F32, 1, given->intermediate_size, 0);
    fixture_buffer(f, DOWN, MOE_FORMAT_F32, 1, given->hidden_size, 0);
    memset(f->data[ZERO], 0, f->size[ZERO]);
    f->x = fixture_fill(f, &rng, X, given->hidden_size);
    f->logits = fixture_fill(f, &rng, LOGITS, given->num_experts);
    if (given->flags & MOE_ACCUMULATE)
        free(fixture_fill(f, &rng, OUT, given->hidden_size));
    p->ctx = f->ctx;
    p->batch = given->batch;
    p->hidden_size = given->hidden_size;
    p->expert_intermediate = given->intermediate_size;
    p->num_experts = given->num_experts;
    p->top_k = given->top_k;
    p->norm_topk_prob = given->norm;
    p->experts = f->experts;
    p->flags = given->flags;
    fixture_remember(f);
}

static inline void fixture_close(struct fixture *f)
{
    for (int i = 0; i < NUM_BUFFERS; i++) {
        test_release(f->data[i]);
        test_release(f->before[i]);
    }
    free(f->x);
    free(f->logits);
    moe_experts_destroy(f->experts);
    test_layer_free(&f->layer);
    moe_context_destroy(f->ctx);
    moe_backend_close(f->backend);
}

/* What is in out, as f32. */
static inline void fixture_read(const struct fixture *f, float *out)
{
    struct moe_view view = f->params.out;
    double *row = moe_ref_alloc(f->given.hidden_size, sizeof *row);
    for (size_t t = 0; t < f->given.batch; t++) {
        moe_ref_read(row, &view, t, f->given.hidden_size);
        for (size_t c = 0; c < f->given.hidden_size; c++)
            out[t * f->given.hidden_size + c] = (float)row[c];
    }
    free(row);
}

/* Guards whole, inputs as they were. */
static inline void fixture_check(const struct fixture *f)
{
    for (int i = 0; i < NUM_BUFFERS; i++) {
        test_guards(f->data[i]);
        if (i <= ZERO)
            test_assert_same(f->data[i], f->before[i], f->size[i], "an input");
    }
}

/* Nothing was written anywhere. */
static inline void fixture_unchanged(const struct fixture *f)
{
    for (int i = 0; i < NUM_BUFFERS; i++) {
        test_guards(f->data[i]);
        test_assert_same(f->data[i], f->before[i], f->size[i], "a buffer after an error");
    }
}

static inline void fixture_ref(const struct fixture *f, double *out, double *bound)
{
    struct test_call call = {.num_tokens = f->given.batch, .top_k = f->given.top_k, .x = f->x, .logits = f->logits};
    test_call_ref(&f->layer.block, &call, out, bound, NULL, NULL);
}

#endif
