// SPDX-License-Identifier: MIT
// Compares a layer's routing and outputs with its reference, and both with a router in double precision.
#include "check_layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "matrix.h"
#include "oracle.h"

/* Half a unit in the last place of f32, relative. */
#define UNIT 5.9604644775390625e-8

/* What is right for every token. */
struct expected {
    struct oracle_tables tables;
    float *bias, *scale;
    int64_t *hash, *ids;
    double *logits, *sizes, *weights, *scratch;
    float *used;                /* weights as f32, for calls that are given them */
    bool *excluded, *agrees;
};

static void free_expected(struct expected *expected)
{
    void *const memory[] = {expected->bias,  expected->scale,   expected->hash,    expected->ids,
                            expected->logits, expected->sizes,  expected->weights, expected->scratch,
                            expected->used,  expected->excluded, expected->agrees};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
}

static bool alloc_expected(struct expected *expected, size_t tokens, size_t experts, size_t top_k)
{
    expected->ids = tool_alloc(tokens * top_k, sizeof *expected->ids);
    expected->logits = tool_alloc(tokens * experts, sizeof *expected->logits);
    expected->sizes = tool_alloc(tokens, sizeof *expected->sizes);
    expected->weights = tool_alloc(tokens * top_k, sizeof *expected->weights);
    expected->scratch = tool_alloc(experts, 3 * sizeof *expected->scratch);
    expected->used = tool_alloc(tokens * top_k, sizeof *expected->used);
    expected->excluded = tool_alloc(tokens, sizeof *expected->excluded);
    expected->agrees = tool_alloc(tokens, sizeof *expected->agrees);
    for (size_t t = 0; expected->excluded && expected->agrees && t < tokens; t++) {
        expected->excluded[t] = false;
        expected->agrees[t] = true;
    }
    return expected->ids && expected->logits && expected->sizes && expected->weights && expected->scratch &&
           expected->used && expected->excluded && expected->agrees;
}

/* ---- the right routing ---- */

static bool read_table(const struct moe_view *view, size_t count, float **out)
{
    if (!view->base)
        return true;
    *out = tool_alloc(count, sizeof **out);
    return *out && matrix_view(view, count, *out);
}

/* hash[num_tokens, top_k]: the rows of the tokens. */
static int read_hash(const struct check_subject *s, struct expected *expected)
{
    const struct moe_routing *routing = s->block->layer->routing;
    const struct moe_view *table = &routing->hash_table;
    size_t top_k = s->info->top_k, item = table->format == MOE_FORMAT_I64 ? 8 : 4;
    size_t stride = table->stride ? table->stride : top_k * item;
    expected->hash = tool_alloc(s->reference->num_tokens * top_k, sizeof *expected->hash);
    if (!expected->hash)
        return TOOL_INPUT;
    for (size_t i = 0; i < s->reference->num_tokens * top_k; i++) {
        int64_t token = s->reference->token_ids[i / top_k];
        if (token < 0 || (uint64_t)token >= routing->hash_rows)
            return tool_fail(TOOL_INPUT, "tensor 'input_ids' of the reference has token id %lld, but the table of the "
                             "layer %zu rows", (long long)token, routing->hash_rows);
        const char *at = (const char *)table->base + table->offset + (size_t)token * stride + i % top_k * item;
        int32_t narrow;
        memcpy(&narrow, at, sizeof narrow);
        expected->hash[i] = narrow;
        if (item == 8)
            memcpy(&expected->hash[i], at, 8);
    }
    return TOOL_OK;
}

static int read_tables(const struct check_subject *s, struct expected *expected)
{
    const struct moe_routing *routing = s->block->layer->routing;
    if (!read_table(&routing->selection_bias, s->info->num_experts - routing->num_always, &expected->bias) ||
        !read_table(&routing->expert_scale, s->info->num_experts, &expected->scale))
        return TOOL_INPUT;
    expected->tables = (struct oracle_tables){.bias = expected->bias, .expert_scale = expected->scale};
    return s->info->needs_token_ids ? read_hash(s, expected) : TOOL_OK;
}

/* ids and weights of expected->logits; tokens that are too close to call are marked. */
static void route(const struct check_subject *s, struct expected *expected)
{
    size_t n = s->info->num_experts, k = s->info->top_k;
    for (size_t t = 0; t < s->reference->num_tokens; t++) {
        expected->tables.hash_row = expected->hash ? expected->hash + t * k : NULL;
        bool tie = oracle_route(s->block->layer->routing, &expected->tables, n, k, expected->logits + t * n,
                                expected->ids + t * k, expected->weights + t * k, expected->scratch);
        expected->excluded[t] = expected->excluded[t] || tie;
    }
}

/* ---- comparing ---- */

static double ulps(float weight, double expected)
{
    if (isnan(weight))
        return INFINITY;
    int exponent;
    frexp(fmax(fabs(expected), 1.17549435e-38), &exponent);
    return fabs(weight - expected) / ldexp(1, exponent - 24);
}

/* |a - b| in multiples of size. */
static double off(double a, double b, double size)
{
    double difference = fabs(a - b);
    return isnan(difference) ? INFINITY : difference / fmax(size, 1e-300);
}

/* The slot of an id, or top_k. */
static size_t slot_of(const int64_t *ids, size_t top_k, int64_t id)
{
    size_t k = 0;
    while (k < top_k && ids[k] != id)
        k++;
    return k;
}

/* How far the reference's weights are from the right ones, beyond roundings of x to f32: logits are off by 2^-24 of the
 * sum of |w x|, a weight, relative to itself, by twice as much in a softmax, and that twice over after a
 * renormalisation; the weight itself was rounded too. A scale may be with the weights, or with the experts' sum. */
static void compare_reference_weights(const struct check_subject *s, const struct expected *expected,
                                      struct check_result *result)
{
    const struct reference *ref = s->reference;
    size_t top_k = s->info->top_k;
    double scale = s->block->layer->routing->scale, own = 0, scaled = 0;
    for (size_t i = 0; ref->ids && ref->weights && i < ref->num_tokens * top_k; i++) {
        size_t t = i / top_k, k = slot_of(ref->ids + t * ref->top_k, ref->top_k, expected->ids[i]);
        if (expected->excluded[t] || k == ref->top_k)
            continue;
        double weight = ref->weights[t * ref->top_k + k], size = 4 * UNIT * (expected->sizes[t] + 1) * fabs(weight);
        own = fmax(own, off(expected->weights[i], weight, size));
        scaled = fmax(scaled, off(expected->weights[i], weight * scale, size * fabs(scale)));
    }
    result->weights_off = scale != 0 ? fmin(own, scaled) : own;
}

/* The same ids, but for those that every token has and that the reference leaves out. */
static void compare_ids(const struct check_subject *s, struct expected *expected)
{
    const struct reference *ref = s->reference;
    size_t top_k = s->info->top_k, num_listed = s->info->num_experts;
    if (ref->top_k < top_k)
        num_listed -= s->block->layer->routing->num_always;
    for (size_t t = 0; ref->ids && t < ref->num_tokens; t++) {
        const int64_t *right = expected->ids + t * top_k, *ids = ref->ids + t * ref->top_k;
        for (size_t k = 0; k < top_k; k++)
            if ((uint64_t)right[k] < num_listed && slot_of(ids, ref->top_k, right[k]) == ref->top_k)
                expected->agrees[t] = false;
        for (size_t k = 0; k < ref->top_k; k++)
            if (slot_of(right, top_k, ids[k]) == top_k)
                expected->agrees[t] = false;
    }
}

static void compare_routing(const struct check_subject *s, struct expected *expected, const int32_t *ids,
                            const float *weights, struct check_result *result)
{
    size_t top_k = s->info->top_k;
    for (size_t i = 0; i < s->reference->num_tokens * top_k; i++) {
        size_t t = i / top_k, k = slot_of(expected->ids + t * top_k, top_k, ids[i]);
        if (k == top_k)
            expected->agrees[t] = false;
        else if (!expected->excluded[t])
            result->ulp = fmax(result->ulp, ulps(weights[i], expected->weights[t * top_k + k]));
    }
}

/* ||a - b|| / ||b|| over the rows, of as many for every token, of tokens that are not excluded. */
static double rows_error(const struct check_subject *s, const struct expected *expected, const float *a,
                         const float *b, size_t rows, size_t cols)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < rows * cols; i++) {
        if (expected->excluded[i / cols / (rows / s->reference->num_tokens)])
            continue;
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    if (isnan(difference))
        return INFINITY;
    return size > 0 ? sqrt(difference / size) : difference > 0 ? INFINITY : 0;
}

/* ---- calls ---- */

static struct layer_call make_call(const struct check_subject *s)
{
    return (struct layer_call){.layer = s->layer, .num_tokens = s->reference->num_tokens,
                               .hidden_size = s->info->hidden_size, .num_experts = s->info->num_experts,
                               .top_k = s->info->top_k, .expert_width = s->info->expert_width,
                               .token_ids = s->reference->token_ids};
}

/* The library's routing of what expected->logits are, by the layer's router or from the reference's logits. */
static int check_routing(const struct check_subject *s, struct expected *expected, bool own,
                         struct check_result *result)
{
    size_t pairs = s->reference->num_tokens * s->info->top_k;
    struct layer_call call = make_call(s);
    int32_t *ids = tool_alloc(pairs, sizeof *ids);
    float *weights = tool_alloc(pairs, sizeof *weights);
    call.route_only = true;
    call.out_ids = ids;
    call.out_weights = weights;
    call.x = own ? s->reference->x : NULL;
    call.router_x = own ? s->reference->router_x : NULL;
    call.logits = own ? NULL : s->reference->logits;
    int code = ids && weights ? session_call(s->session, &call, "the routing did not run") : TOOL_INPUT;
    if (code == TOOL_OK) {
        compare_ids(s, expected);
        compare_routing(s, expected, ids, weights, result);
    }
    free(ids);
    free(weights);
    return code;
}

/* Logits of the reference and those of the layer's router in double, which expected->logits hold. */
static void compare_logits(const struct check_subject *s, const struct expected *expected, struct check_result *result)
{
    size_t n = s->info->num_experts;
    for (size_t i = 0; i < s->reference->num_tokens * n; i++) {
        double logit = s->reference->logits[i], size = 4 * UNIT * expected->sizes[i / n];
        result->logits_off = fmax(result->logits_off, off(logit, expected->logits[i], size));
    }
}

static int route_both(const struct check_subject *s, struct expected *expected, struct check_result *result)
{
    const struct reference *ref = s->reference;
    size_t values = ref->num_tokens * s->info->num_experts;
    const float *x = ref->router_x ? ref->router_x : ref->x;
    for (size_t t = 0; t < ref->num_tokens; t++)
        expected->sizes[t] = 0;
    if (s->info->has_router && !oracle_logits(s->block->layer->routing, s->info->num_experts, s->info->hidden_size,
                                              ref->num_tokens, x, expected->logits, expected->sizes))
        return TOOL_INPUT;
    int code = read_tables(s, expected);
    if (code == TOOL_OK && ref->logits) {
        if (s->info->has_router)
            compare_logits(s, expected, result);
        double *own = expected->logits;
        expected->logits = tool_alloc(values, sizeof *expected->logits);
        for (size_t i = 0; expected->logits && i < values; i++)
            expected->logits[i] = ref->logits[i];
        if (expected->logits)
            route(s, expected);
        code = expected->logits ? check_routing(s, expected, false, result) : TOOL_INPUT;
        if (s->info->has_router) {
            free(expected->logits);
            expected->logits = own;
        } else {
            free(own);
        }
    }
    if (code == TOOL_OK && s->info->has_router) {
        route(s, expected);
        code = check_routing(s, expected, true, result);
    }
    if (code == TOOL_OK)
        compare_reference_weights(s, expected, result);
    return code;
}

/* Without a router or logits the reference's ids and weights are what there is. */
static int take_routing(const struct check_subject *s, struct expected *expected)
{
    if (!s->reference->ids || !s->reference->weights || s->reference->top_k != s->info->top_k)
        return tool_fail(TOOL_INPUT, "a layer has no router, and its reference neither logits nor ids with weights");
    for (size_t i = 0; i < s->reference->num_tokens * s->info->top_k; i++) {
        if (s->reference->ids[i] < 0 || (uint64_t)s->reference->ids[i] >= s->info->num_experts)
            return tool_fail(TOOL_INPUT, "the reference's ids have %lld, but the layer %zu experts",
                             (long long)s->reference->ids[i], s->info->num_experts);
        expected->ids[i] = s->reference->ids[i];
        expected->weights[i] = s->reference->weights[i];
    }
    return TOOL_OK;
}

static int check_out(const struct check_subject *s, struct expected *expected, bool given, struct check_result *result)
{
    const struct reference *ref = s->reference;
    struct layer_call call = make_call(s);
    float *out = tool_alloc(ref->num_tokens * s->info->hidden_size, sizeof *out);
    call.x = ref->x;
    call.router_x = given ? NULL : ref->router_x;
    call.logits = given || s->info->has_router ? NULL : ref->logits;
    call.ids = given ? expected->ids : NULL;
    call.weights = given ? expected->used : NULL;
    call.out = out;
    int code = out ? session_call(s->session, &call, "the layer did not run") : TOOL_INPUT;
    if (code == TOOL_OK)
        result->error = rows_error(s, expected, out, ref->out, ref->num_tokens, s->info->hidden_size);
    free(out);
    return code;
}

/* What the reference says of the experts alone: of each pair, or of the weighted sums in the experts' width. */
static int check_pairs(const struct check_subject *s, const struct expected *expected, struct check_result *result)
{
    const struct reference *ref = s->reference;
    size_t width = s->info->expert_width, top_k = s->info->top_k, tokens = ref->num_tokens, rows = tokens * top_k;
    struct layer_call call = make_call(s);
    float *out = tool_alloc(rows * width, sizeof *out), *other = tool_alloc(rows * width, sizeof *other);
    call.x = ref->x;
    call.ids = expected->ids;
    call.weights = expected->used;
    call.pairs = true;
    call.out = out;
    int code = out && other ? session_call(s->session, &call, "the experts did not run") : TOOL_INPUT;
    if (code == TOOL_OK && ref->pairs) {
        for (size_t i = 0; i < rows; i++)
            memcpy(other + i * width, ref->pairs + ((size_t)expected->ids[i] * tokens + i / top_k) * width,
                   width * sizeof *other);
        result->experts_error = rows_error(s, expected, out, other, rows, width);
    } else if (code == TOOL_OK) {
        for (size_t i = 0; i < tokens * width; i++) {
            double sum = 0;
            for (size_t k = 0; k < top_k; k++)
                sum += expected->weights[i / width * top_k + k] * out[(i / width * top_k + k) * width + i % width];
            other[i] = (float)sum;
        }
        result->experts_error = rows_error(s, expected, other, ref->sums, tokens, width);
    }
    free(out);
    free(other);
    return code;
}

int check_layer(struct check_result *result, const struct check_subject *s)
{
    const struct reference *ref = s->reference;
    size_t tokens = ref->num_tokens, pairs = tokens * s->info->top_k;
    struct expected expected = {0};
    *result = (struct check_result){.experts_error = -1};
    int code = alloc_expected(&expected, tokens, s->info->num_experts, s->info->top_k) ? TOOL_OK : TOOL_INPUT;
    bool given = !s->block->layer->routing || (!s->info->has_router && !ref->logits);
    if (code == TOOL_OK)
        code = given ? take_routing(s, &expected) : route_both(s, &expected, result);
    if (given)
        result->ulp = -1;
    for (size_t i = 0; code == TOOL_OK && i < pairs; i++)
        expected.used[i] = (float)expected.weights[i];
    if (code == TOOL_OK)
        code = check_out(s, &expected, given, result);
    if (code == TOOL_OK && (ref->pairs || ref->sums))
        code = check_pairs(s, &expected, result);
    for (size_t t = 0; code == TOOL_OK && t < tokens; t++) {
        result->excluded += expected.excluded[t];
        result->ids_agree += !expected.excluded[t] && expected.agrees[t];
    }
    free_expected(&expected);
    return code;
}

bool check_routing_holds(const struct check_result *result, size_t num_tokens)
{
    return result->ulp <= CHECK_MOST_ULP && result->logits_off <= 1 && result->weights_off <= 1 &&
           4 * result->excluded <= num_tokens && result->ids_agree == num_tokens - result->excluded;
}
