// SPDX-License-Identifier: MIT
// Layers against their reference: by the definition, by the fused layer and by the composed one, routed by the layer's
// own router, by logits, by ids and weights.
#include "zoo.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- ties ---------------------------------------------------------------------------------------------------- */

static double score(enum moe_score kind, double z, double max, double sum)
{
    switch (kind) {
    case MOE_SCORE_SIGMOID:
        return 1 / (1 + exp(-z));
    case MOE_SCORE_SQRT_SOFTPLUS:
        return sqrt(log1p(exp(z)));
    case MOE_SCORE_LOGIT:
        return z;
    default:
        return exp(z - max) / sum;
    }
}

/* Keys, and the magnitudes that rounding errors in them are relative to. */
struct keys {
    double *key, *size;
};

static enum moe_score selection(const struct moe_routing *routing)
{
    enum moe_score weight = routing->weight;
    if (routing->select != MOE_SCORE_DEFAULT)
        return routing->select;
    bool logit = weight == MOE_SCORE_SOFTMAX_TOPK || weight == MOE_SCORE_SPARSEMIXER;
    return logit ? MOE_SCORE_LOGIT : weight;
}

static void make_keys(struct keys *out, const struct moe_routing *routing, size_t num_experts, const double *logits)
{
    double max = -INFINITY, sum = 0, *z = moe_ref_alloc(num_experts, sizeof *z);
    for (size_t e = 0; e < num_experts; e++) {
        z[e] = routing->softcap > 0 ? routing->softcap * tanh(logits[e] / routing->softcap) : logits[e];
        max = fmax(max, z[e]);
    }
    for (size_t e = 0; e < num_experts; e++)
        sum += exp(z[e] - max);
    double *bias = moe_ref_alloc(num_experts, sizeof *bias);
    if (routing->selection_bias.base != NULL)
        moe_ref_read(bias, &routing->selection_bias, 0, num_experts - routing->num_always);
    for (size_t e = 0; e < num_experts; e++) {
        double value = score(selection(routing), z[e], max, sum);
        /* an error of z is one of z relative to the score in an exponential */
        out->size[e] = fabs(value) * fmax(1, selection(routing) == MOE_SCORE_LOGIT ? 1 : fabs(z[e])) + fabs(bias[e]);
        out->key[e] = value + bias[e];
    }
    free(bias);
    free(z);
}

/* Is the gap between the n-th and the (n+1)-th largest key a tie? */
static bool tied(const double *key, const double *size, size_t count, size_t n)
{
    for (size_t i = 0; i < count; i++) {
        size_t above = 0;
        for (size_t j = 0; j < count; j++)
            above += key[j] > key[i] || (key[j] == key[i] && j < i);
        if (above != n - 1)
            continue;
        for (size_t j = 0; j < count; j++) {
            bool below = key[j] < key[i] || (key[j] == key[i] && j > i);
            if (below && isfinite(key[j]) && key[i] - key[j] <= ZOO_TIE * (size[i] + size[j]))
                return true;
        }
    }
    return false;
}

/* Groups that are not chosen are masked in keys; is their choice a tie? */
static bool tied_groups(const struct moe_routing *routing, struct keys *keys, size_t count)
{
    size_t groups = routing->num_groups, per_group = count / groups;
    double *total = moe_ref_alloc(groups, sizeof *total), *size = moe_ref_alloc(groups, sizeof *size);
    for (size_t g = 0; g < groups; g++) {
        double best[2] = {-INFINITY, -INFINITY};
        for (size_t e = g * per_group; e < (g + 1) * per_group; e++) {
            double key = keys->key[e];
            best[1] = key > best[0] ? best[0] : fmax(best[1], key);
            best[0] = fmax(best[0], key);
            size[g] = fmax(size[g], keys->size[e]);
        }
        total[g] = routing->group_score == MOE_GROUP_MAX || per_group == 1 ? best[0] : best[0] + best[1];
    }
    bool tie = routing->top_groups < groups && tied(total, size, groups, routing->top_groups);
    for (size_t g = 0; g < groups; g++) {
        size_t above = 0;
        for (size_t j = 0; j < groups; j++)
            above += total[j] > total[g] || (total[j] == total[g] && j < g);
        for (size_t e = g * per_group; above >= routing->top_groups && e < (g + 1) * per_group; e++)
            keys->key[e] = routing->group_mask_zero ? 0 : -INFINITY;
    }
    free(total);
    free(size);
    return tie;
}

bool zoo_is_tie(const struct moe_routing *routing, size_t num_experts, size_t top_k, const double *logits)
{
    if (routing->hash_table.base != NULL)
        return false;
    struct keys keys = {moe_ref_alloc(num_experts, sizeof(double)), moe_ref_alloc(num_experts, sizeof(double))};
    make_keys(&keys, routing, num_experts, logits);
    size_t count = num_experts - routing->num_always, chosen = top_k - routing->num_always;
    bool tie = routing->num_groups > 1 && tied_groups(routing, &keys, count);
    tie = tie || (chosen < count && tied(keys.key, keys.size, count, chosen));
    free(keys.key);
    free(keys.size);
    return tie;
}

/* ---- one layer ----------------------------------------------------------------------------------------------- */

enum source { OWN_ROUTER, LOGITS, IDS, NUM_SOURCES };

/* A layer under test. */
struct subject {
    const struct zoo_reference *ref;
    const struct moe_model_block *block;
    struct moe_context *ctx;
    bool *ties;            /* [num_tokens]: ids and weights of these rows are not compared */
    double *weight_errors; /* [num_tokens]: how far, relative, the definition's weights may be from the reference's */
    int64_t *ids;          /* the definition's choice, and its weights */
    double *weights;
    struct zoo_result *result;
};

static void look_at_logits(struct subject *s)
{
    const struct zoo_reference *ref = s->ref;
    const struct moe_routing *routing = s->block->layer->routing;
    const double *x = ref->router_x != NULL ? ref->router_x : ref->x;
    size_t experts = ref->num_experts, hidden = ref->hidden_size;
    double *logits = moe_ref_alloc(experts, sizeof *logits), *sizes = moe_ref_alloc(experts, sizeof *sizes);
    double *w = moe_ref_alloc(experts * hidden, sizeof *w), *normed = moe_ref_alloc(hidden, sizeof *normed);
    moe_ref_matrix(w, routing->router, experts, hidden, 0);
    s->ties = moe_ref_alloc(ref->num_tokens, sizeof *s->ties);
    s->weight_errors = moe_ref_alloc(ref->num_tokens, sizeof *s->weight_errors);
    for (size_t t = 0; t < ref->num_tokens; t++) {
        double largest = 0;
        moe_ref_norm(normed, routing->norm, x + t * hidden, hidden);
        moe_ref_linear(logits, sizes, w, NULL, normed, experts, hidden);
        for (size_t e = 0; e < experts; e++)
            largest = fmax(largest, sizes[e]);
        /* x is stored in f32: logits are off by 2^-24 of sum |w x|, a weight, relative to itself, by twice as much in
         * a softmax, and that twice over after a renormalisation; the weight itself was rounded too. */
        s->weight_errors[t] = 4 * MOE_REF_UNIT * (largest + 1);
        moe_ref_logits(logits, s->block, x + t * hidden);
        s->ties[t] = zoo_is_tie(routing, experts, s->block->layer->top_k, logits);
        s->result->num_ties += s->ties[t];
    }
    s->result->num_rows += ref->num_tokens;
    free(logits);
    free(sizes);
    free(w);
    free(normed);
}

static void compare_routing(const struct subject *s)
{
    const struct zoo_reference *ref = s->ref;
    size_t top_k = s->block->layer->top_k;
    for (size_t t = 0; ref->ids != NULL && t < ref->num_tokens; t++) {
        for (size_t k = 0; !s->ties[t] && k < top_k; k++) {
            int64_t id = s->ids[t * top_k + k];
            size_t j = 0;
            while (j < top_k && ref->ids[t * top_k + j] != id)
                j++;
            if (j == top_k)
                fail_msg("token %zu: expert %lld is not in the reference", t, (long long)id);
            double weight = ref->weights[t * top_k + j], error = fabs(s->weights[t * top_k + k] - weight);
            if (!(error <= s->weight_errors[t] * fabs(weight)))
                fail_msg("token %zu, expert %lld: the definition's weight is %.9g, the reference's %.9g", t,
                         (long long)id, s->weights[t * top_k + k], weight);
        }
    }
}

/* ||a - b|| / ||b|| over the rows that are no ties. */
static double rows_error(const struct subject *s, const float *out, const double *ref, size_t rows, size_t cols)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < rows * cols; i++) {
        if (s->ties[i / cols * s->ref->num_tokens / rows])
            continue;
        difference += (out[i] - ref[i]) * (out[i] - ref[i]);
        size += ref[i] * ref[i];
    }
    return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

static void by_definition(struct subject *s)
{
    const struct zoo_reference *ref = s->ref;
    size_t top_k = s->block->layer->top_k, n = ref->num_tokens * ref->hidden_size;
    double *out = moe_ref_alloc(n, sizeof *out);
    s->ids = moe_ref_alloc(ref->num_tokens * top_k, sizeof *s->ids);
    s->weights = moe_ref_alloc(ref->num_tokens * top_k, sizeof *s->weights);
    struct moe_ref_call call = {.num_tokens = ref->num_tokens, .x = ref->x, .router_x = ref->router_x, .out = out,
                                .token_ids = ref->token_ids, .no_shared = ref->no_shared, .out_ids = s->ids,
                                .out_weights = s->weights};
    moe_ref_layer(s->block, &call);
    compare_routing(s);
    float *out32 = test_floats(out, n);
    test_assert_most(rows_error(s, out32, ref->out, ref->num_tokens, ref->hidden_size), ZOO_EXACT_ERROR,
                     "relative error of the definition");
    free(out32);
    free(out);
}

/* ids and weights that a router in double gives for what the call sees. */
static void expect_routing(const struct subject *s, enum source source, int64_t *ids, double *weights)
{
    const struct zoo_reference *ref = s->ref;
    size_t top_k = s->block->layer->top_k, num_experts = ref->num_experts;
    const double *x = ref->router_x != NULL ? ref->router_x : ref->x;
    double *logits = moe_ref_alloc(num_experts, sizeof *logits);
    for (size_t t = 0; t < ref->num_tokens; t++) {
        for (size_t i = t * top_k; source == IDS && i < (t + 1) * top_k; i++) {
            ids[i] = s->ids[i];
            weights[i] = (float)s->weights[i];
        }
        if (source == IDS)
            continue;
        if (source == OWN_ROUTER)
            moe_ref_logits(logits, s->block, x + t * ref->hidden_size);
        for (size_t e = 0; source == LOGITS && e < num_experts; e++)
            logits[e] = ref->logits[t * num_experts + e];
        moe_ref_route_token(s->block->layer->routing, num_experts, top_k, top_k,
                            ref->token_ids != NULL ? ref->token_ids[t] : -1, logits, ids + t * top_k,
                            weights + t * top_k);
    }
    free(logits);
}

/* Rows of f32 for a call; NULL stays NULL. */
static float *floats(const double *in, size_t n)
{
    return in != NULL ? test_floats(in, n) : NULL;
}

/* The call that this source of routing makes of the reference; out, out_ids and out_weights are for the caller to set.
 * Frees with free_call. */
static struct test_call make_call(const struct subject *s, enum source source)
{
    const struct zoo_reference *ref = s->ref;
    size_t tokens = ref->num_tokens, pairs = tokens * s->block->layer->top_k;
    return (struct test_call){
        .num_tokens = tokens,
        .x = floats(ref->x, tokens * ref->hidden_size),
        .token_ids = s->block->layer->routing->hash_table.base != NULL && source != IDS ? ref->token_ids : NULL,
        .logits = source == LOGITS ? floats(ref->logits, tokens * ref->num_experts) : NULL,
        .router_x = source == OWN_ROUTER ? floats(ref->router_x, tokens * ref->hidden_size) : NULL,
        .ids = source == IDS ? s->ids : NULL,
        .weights = source == IDS ? floats(s->weights, pairs) : NULL,
    };
}

static void free_call(struct test_call *call)
{
    free((void *)call->x);
    free((void *)call->logits);
    free((void *)call->router_x);
    free((void *)call->weights);
}

/* The ids of the definition, and weights within 2 units in the last place of a router in double. */
static void check_routing(const struct subject *s, enum source source, const int32_t *ids, const float *weights)
{
    size_t top_k = s->block->layer->top_k, pairs = s->ref->num_tokens * top_k;
    double *expected = moe_ref_alloc(pairs, sizeof *expected);
    int64_t *expected_ids = moe_ref_alloc(pairs, sizeof *expected_ids);
    expect_routing(s, source, expected_ids, expected);
    for (size_t i = 0; i < pairs; i++) {
        if (s->ties[i / top_k])
            continue;
        assert_int_equal(ids[i], expected_ids[i]);
        double ulps = test_ulps(weights[i], expected[i]);
        s->result->weight_ulps = fmax(s->result->weight_ulps, ulps);
        test_assert_most(ulps, ZOO_WEIGHT_ULPS, "weight in units in the last place");
    }
    for (size_t t = 0; t < s->ref->num_tokens; t++)
        assert_true(s->ties[t] || test_same_set(expected_ids + t * top_k, s->ids + t * top_k, top_k));
    free(expected_ids);
    free(expected);
}

static void by_layer(const struct subject *s, const struct moe_layer *layer, enum source source, double limit,
                     double *worst)
{
    size_t n = s->ref->num_tokens * s->ref->hidden_size, pairs = s->ref->num_tokens * s->block->layer->top_k;
    struct test_call call = make_call(s, source);
    call.out = moe_ref_alloc(n, sizeof *call.out);
    call.out_ids = moe_ref_alloc(pairs, sizeof *call.out_ids);
    call.out_weights = moe_ref_alloc(pairs, sizeof *call.out_weights);
    test_assert_ok(test_call_run(s->ctx, layer, &call));
    check_routing(s, source, call.out_ids, call.out_weights);
    double error = rows_error(s, call.out, s->ref->out, s->ref->num_tokens, s->ref->hidden_size);
    *worst = fmax(*worst, error);
    test_assert_most(error, limit, "relative error");
    free(call.out);
    free(call.out_ids);
    free(call.out_weights);
    free_call(&call);
}

/* What the reference says of the experts alone, from MOE_OUT_PAIRS. */
static void check_pairs(const struct subject *s, const struct moe_layer *layer, size_t width, double limit)
{
    const struct zoo_reference *ref = s->ref;
    size_t top_k = s->block->layer->top_k, pairs = ref->num_tokens * top_k;
    struct test_call call = make_call(s, IDS);
    call.flags = MOE_OUT_PAIRS;
    call.out = moe_ref_alloc(pairs * width, sizeof *call.out);
    test_assert_ok(test_call_run(s->ctx, layer, &call));
    if (ref->pairs != NULL) {
        double *expected = moe_ref_alloc(pairs * width, sizeof *expected);
        for (size_t i = 0; i < pairs; i++)
            memcpy(expected + i * width,
                   ref->pairs + ((size_t)s->ids[i] * ref->num_tokens + i / top_k) * width, width * sizeof *expected);
        test_assert_most(rows_error(s, call.out, expected, pairs, width), limit, "relative error of the pairs");
        free(expected);
    } else {
        float *sums = moe_ref_alloc(ref->num_tokens * width, sizeof *sums);
        for (size_t i = 0; i < pairs * width; i++)
            sums[i / width / top_k * width + i % width] += (float)s->weights[i / width] * call.out[i];
        test_assert_most(rows_error(s, sums, ref->sums, ref->num_tokens, width), limit, "relative error of the sums");
        free(sums);
    }
    free(call.out);
    free_call(&call);
}

/* ---- models -------------------------------------------------------------------------------------------------- */

/* A layer and what it was made of, where the model's own would have too much. */
struct handle {
    struct moe_experts *experts, *latent;
    struct moe_layer *layer;
};

static void open_without_shared(struct handle *h, const struct moe_model_block *block, struct moe_backend *backend,
                                uint32_t flags)
{
    struct moe_error error = {0};
    struct moe_layer_params params = *block->layer;
    if (moe_experts_create(backend, block->experts, &h->experts, &error) != MOE_OK)
        fail_msg("%s", error.text);
    if (block->latent != NULL && moe_experts_create(backend, block->latent, &h->latent, &error) != MOE_OK)
        fail_msg("%s", error.text);
    params.experts = h->experts;
    params.latent = h->latent;
    params.shared = NULL;
    params.flags = flags;
    if (moe_layer_create(backend, &params, &h->layer, &error) != MOE_OK)
        fail_msg("%s", error.text);
}

static void test_with_flags(struct moe_model *model, size_t b, const struct subject *s, struct moe_backend *backend,
                            uint32_t flags)
{
    struct handle handle = {0};
    struct moe_error error = {0};
    struct moe_layer_info info = {.struct_size = sizeof info};
    bool exact = (flags & MOE_LAYER_EXACT) != 0;
    double limit = exact ? ZOO_EXACT_ERROR : ZOO_FAST_ERROR, worst = 0;
    if (s->ref->no_shared)
        open_without_shared(&handle, s->block, backend, flags);
    else if (moe_model_layer(model, b, backend, flags, &handle.layer, &error) != MOE_OK)
        fail_msg("layer %zu: %s", b, error.text);
    test_assert_ok(moe_layer_info(handle.layer, &info));
    assert_true(info.composed == ((flags & MOE_LAYER_FORCE_COMPOSED) != 0));
    assert_true(info.has_router);
    for (int source = OWN_ROUTER; source < NUM_SOURCES; source++)
        if (source != LOGITS || s->ref->logits != NULL)
            by_layer(s, handle.layer, (enum source)source, limit, &worst);
    if (s->ref->sums != NULL)
        assert_int_equal(info.expert_width, s->ref->expert_width);
    if (s->ref->pairs != NULL || s->ref->sums != NULL)
        check_pairs(s, handle.layer, info.expert_width, limit);
    double *total = exact ? &s->result->exact_error : &s->result->fast_error;
    *total = fmax(*total, worst);
    print_message("  layer %zu, %s%s: relative error %.2g\n", b, info.composed ? "composed" : "fused",
                  exact ? ", exact" : "", worst);
    moe_layer_destroy(handle.layer);
    moe_experts_destroy(handle.experts);
    moe_experts_destroy(handle.latent);
}

static void test_layer(struct moe_model *model, size_t b, const struct moe_model_block *block,
                       const struct zoo_reference *ref, struct moe_backend *backend, struct moe_context *ctx,
                       struct zoo_result *result)
{
    static const uint32_t flags[] = {MOE_LAYER_EXACT, MOE_LAYER_EXACT | MOE_LAYER_FORCE_COMPOSED, 0};
    struct subject s = {.ref = ref, .block = block, .ctx = ctx, .result = result};
    look_at_logits(&s);
    by_definition(&s);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        test_with_flags(model, b, &s, backend, flags[i]);
    result->num_layers++;
    free(s.ties);
    free(s.weight_errors);
    free(s.ids);
    free(s.weights);
}

void zoo_check_model(const char *path, struct zoo_result *result)
{
    struct moe_backend *backend = test_backend("cpu");
    struct moe_context *ctx = test_context(backend, 2);
    struct moe_model *model = test_open(path, NULL), *file = test_open(path, "reference.safetensors");
    struct moe_model_info info = {.struct_size = sizeof info};
    struct moe_error error = {0};
    memset(result, 0, sizeof *result);
    test_assert_ok(moe_model_info(model, &info));
    for (size_t b = 0; b < info.num_blocks; b++) {
        const struct moe_model_block *block;
        struct zoo_reference ref;
        if (moe_model_block(model, b, &block, &error) != MOE_OK)
            fail_msg("block %zu: %s", b, error.text);
        if (zoo_reference_load(&ref, file, b, block))
            test_layer(model, b, block, &ref, backend, ctx, result);
        else if (block != NULL)
            print_message("  layer %zu has no reference\n", b);
        zoo_reference_free(&ref);
    }
    moe_model_close(file);
    moe_model_close(model);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
}
