// SPDX-License-Identifier: MIT
// A random layer with random input, opened as it is by default (fused: activations may be rounded), with
// MOE_LAYER_BATCH_INVARIANT, with MOE_LAYER_EXACT, and composed: for the test programs of this folder.
#ifndef MOE_TEST_LAYER_FIXTURE_H
#define MOE_TEST_LAYER_FIXTURE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

struct fixture {
    struct test_rng rng;
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct test_layer layer;
    struct test_handle fused, invariant, exact, composed;
    size_t num_tokens, top_k, hidden_size, expert_width, num_experts;
    float *x, *logits, *weights, *out, *other, *out_weights;   /* out, other: num_tokens * num_experts rows */
    int64_t *ids;
    int32_t *out_ids;
};

static inline void fixture_open_on(struct fixture *f, const char *backend, const struct test_layer_spec *spec,
                                   uint64_t seed, size_t num_tokens)
{
    memset(f, 0, sizeof *f);
    f->rng.state = seed;
    f->backend = test_backend(backend);
    f->ctx = test_context(f->backend, 2);
    test_layer_init(&f->layer, &f->rng, spec);
    test_handle_open(&f->fused, f->backend, &f->layer, 0);
    test_handle_open(&f->invariant, f->backend, &f->layer, MOE_LAYER_BATCH_INVARIANT);
    test_handle_open(&f->exact, f->backend, &f->layer, MOE_LAYER_EXACT);
    test_handle_open(&f->composed, f->backend, &f->layer, MOE_LAYER_FORCE_COMPOSED);
    f->num_tokens = num_tokens;
    f->top_k = f->layer.top_k;
    f->hidden_size = f->layer.hidden_size;
    f->expert_width = f->layer.expert_width;
    f->num_experts = f->layer.num_experts;
    size_t most = num_tokens * f->num_experts;
    size_t width = f->expert_width > f->hidden_size ? f->expert_width : f->hidden_size;
    f->x = moe_ref_alloc(num_tokens * f->hidden_size, sizeof *f->x);
    f->logits = moe_ref_alloc(most, sizeof *f->logits);
    f->weights = moe_ref_alloc(most, sizeof *f->weights);
    f->ids = moe_ref_alloc(most, sizeof *f->ids);
    f->out = moe_ref_alloc(most * width, sizeof *f->out);
    f->other = moe_ref_alloc(most * width, sizeof *f->other);
    f->out_weights = moe_ref_alloc(most, sizeof *f->out_weights);
    f->out_ids = moe_ref_alloc(most, sizeof *f->out_ids);
    test_fill_heavy(&f->rng, f->x, num_tokens, f->hidden_size, 1);
    test_fill_heavy(&f->rng, f->logits, num_tokens, f->num_experts, 1.5);
    for (size_t i = 0; i < most; i++) {
        f->ids[i] = (int64_t)test_below(&f->rng, f->num_experts);
        f->weights[i] = (float)test_uniform(&f->rng);
    }
}

static inline void fixture_open(struct fixture *f, const struct test_layer_spec *spec, uint64_t seed, size_t num_tokens)
{
    fixture_open_on(f, "cpu", spec, seed, num_tokens);
}

static inline void fixture_open_random(struct fixture *f, uint64_t seed, size_t num_tokens)
{
    struct test_rng rng = {seed};
    struct test_layer_spec spec;
    test_spec_random(&spec, &rng);
    fixture_open(f, &spec, seed + 1, num_tokens);
}

static inline void fixture_close(struct fixture *f)
{
    test_handle_close(&f->fused);
    test_handle_close(&f->invariant);
    test_handle_close(&f->exact);
    test_handle_close(&f->composed);
    test_layer_free(&f->layer);
    moe_context_destroy(f->ctx);
    moe_backend_close(f->backend);
    free(f->x);
    free(f->logits);
    free(f->weights);
    free(f->ids);
    free(f->out);
    free(f->other);
    free(f->out_weights);
    free(f->out_ids);
}

/* All of the fixture's tokens, routed by its logits, f32 in and out. */
static inline struct test_call fixture_call(const struct fixture *f)
{
    return (struct test_call){.num_tokens = f->num_tokens, .x = f->x, .logits = f->logits, .out = f->out};
}

/* By ids and weights instead. */
static inline struct test_call fixture_call_ids(const struct fixture *f)
{
    return (struct test_call){.num_tokens = f->num_tokens, .x = f->x, .ids = f->ids, .weights = f->weights,
                              .out = f->out};
}

/* Tokens first..first+count-1 of a call, where its arrays lie. */
static inline struct test_call fixture_part(const struct fixture *f, const struct test_call *all, size_t first,
                                            size_t count)
{
    struct test_call call = *all;
    call.num_tokens = count;
    call.x += first * f->hidden_size;
    call.out += first * f->hidden_size;
    if (call.logits != NULL)
        call.logits += first * f->num_experts;
    if (call.ids != NULL) {
        call.ids += first * f->top_k;
        call.weights += first * f->top_k;
    }
    return call;
}

/* Half a unit in the last place of the format, or of its denormals. */
static inline double fixture_rounding(enum moe_format format, double value)
{
    if (format == MOE_FORMAT_F16)
        return 0x1p-11 * value + 0x1p-25;
    return format == MOE_FORMAT_BF16 ? 0x1p-8 * value : 0;
}

/* Run and compare with the definition, each value by its bound, which is that of rounded activations where the layer
 * says that it rounds them; gives back the worst error / bound. */
static inline double fixture_compare(struct fixture *f, const struct moe_layer *layer, const struct test_call *call)
{
    size_t top_k = call->top_k != 0 ? call->top_k : f->top_k;
    bool pairs = (call->flags & MOE_OUT_PAIRS) != 0;
    size_t n = call->num_tokens * (pairs ? top_k * f->expert_width : f->hidden_size);
    double *ref = moe_ref_alloc(2 * n, sizeof *ref), *bound = ref + n;
    struct test_call allowed = *call;
    allowed.activations = test_rounding(layer, &f->layer.block);
    test_assert_ok(test_call_run(f->ctx, layer, call));
    test_call_ref(&f->layer.block, &allowed, ref, bound, NULL, NULL);
    for (size_t i = 0; i < n; i++) {
        double before = call->flags & MOE_ACCUMULATE ? call->start[i] : 0;
        ref[i] += before;
        bound[i] += MOE_REF_UNIT * (fabs(ref[i]) + fabs(before)) + 0x1p-140;
        bound[i] += fixture_rounding(call->out_format, fabs(ref[i]) + bound[i]);
    }
    double worst = test_worst(call->out, ref, bound, n);
    free(ref);
    return worst;
}

#endif
