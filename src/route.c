// SPDX-License-Identifier: MIT
// Routing of one token: keys, groups, the top_k best, weights. All in double, so that a choice depends on the logits
// and not on how their scores were rounded.
#include "route.h"

#include <math.h>

#include "exp.h"

/* max and sum of exp(z - max) over the logits that are numbers; infinite logits counted apart. */
struct softmax {
    double max, sum;
};

size_t moe_route_scratch(size_t num_experts)
{
    return 3 * num_experts; /* keys, group scores, keys of the chosen */
}

/* NaN ranks below everything, also below -inf; equal keys keep their order. */
static bool ranks_before(double a, double b)
{
    return a > b || (isnan(b) && !isnan(a));
}

static double sigmoid(double z)
{
    return 1.0 / (1.0 + moe_exp(-z));
}

/* exp(z - max), where an infinite max leaves 1 to those that reach it and 0 to the rest. */
static double softmax_term(const struct softmax *softmax, double z)
{
    if (isnan(z) || z == -INFINITY)
        return 0.0;
    return z == softmax->max ? 1.0 : moe_exp(z - softmax->max);
}

/* Over logits[ids[i]], or over logits[i] where ids is NULL. */
static struct softmax softmax_of(const double *logits, const int32_t *ids, size_t count)
{
    struct softmax softmax = {-INFINITY, 0.0};
    for (size_t i = 0; i < count; i++) {
        double z = logits[ids != NULL ? (size_t)ids[i] : i];
        if (z > softmax.max)
            softmax.max = z;
    }
    for (size_t i = 0; i < count; i++)
        softmax.sum += softmax_term(&softmax, logits[ids != NULL ? (size_t)ids[i] : i]);
    return softmax;
}

static double softmax_value(const struct softmax *softmax, double z)
{
    return softmax->sum > 0.0 ? softmax_term(softmax, z) / softmax->sum : 0.0;
}

static void fill_keys(const struct moe_router *router, const struct softmax *all, const double *logits, double *keys)
{
    for (size_t e = 0; e < router->num_experts; e++) {
        double z = logits[e], key = z;
        if (router->select == MOE_SCORE_SOFTMAX && !isnan(z))
            key = softmax_value(all, z);
        else if (router->select == MOE_SCORE_SIGMOID)
            key = sigmoid(z);
        keys[e] = router->selection_bias != NULL ? key + (double)router->selection_bias[e] : key;
    }
}

static double group_score(const struct moe_router *router, const double *keys, size_t size)
{
    double best = -INFINITY, second = -INFINITY;
    for (size_t i = 0; i < size; i++) {
        if (keys[i] > best) {
            second = best;
            best = keys[i];
        } else if (keys[i] > second) {
            second = keys[i];
        }
    }
    if (router->group_score == MOE_GROUP_MAX || size == 1)
        return best;
    return second == -INFINITY ? -INFINITY : best + second;
}

/* Keep the keys of the top_groups best groups. A group is dropped if top_groups others rank before it. */
static void mask_groups(const struct moe_router *router, double *keys, double *scores)
{
    size_t size = router->num_experts / router->num_groups;
    for (size_t g = 0; g < router->num_groups; g++)
        scores[g] = group_score(router, keys + g * size, size);
    for (size_t g = 0; g < router->num_groups; g++) {
        size_t before = 0;
        for (size_t other = 0; other < router->num_groups; other++)
            before += scores[other] > scores[g] || (scores[other] == scores[g] && other < g);
        if (before < router->top_groups)
            continue;
        for (size_t e = g * size; e < (g + 1) * size; e++)
            if (!isnan(keys[e]))
                keys[e] = router->group_mask_zero ? 0.0 : -INFINITY;
    }
}

/* ids of the top_k best keys, best first. An expert enters behind those of equal key, so the lower id wins. */
static void choose(const double *keys, size_t num_experts, size_t top_k, int32_t *ids, double *best)
{
    size_t count = 0;
    for (size_t e = 0; e < num_experts; e++) {
        if (count == top_k && !ranks_before(keys[e], best[count - 1]))
            continue;
        size_t slot = count < top_k ? count++ : count - 1;
        for (; slot > 0 && ranks_before(keys[e], best[slot - 1]); slot--) {
            best[slot] = best[slot - 1];
            ids[slot] = ids[slot - 1];
        }
        best[slot] = keys[e];
        ids[slot] = (int32_t)e;
    }
}

static double weight_of(const struct moe_router *router, const struct softmax *softmax, double z)
{
    if (isnan(z))
        return 0.0;
    switch (router->weight) {
    case MOE_SCORE_SIGMOID:
        return sigmoid(z);
    case MOE_SCORE_LOGIT:
        return z;
    default:
        return softmax_value(softmax, z);
    }
}

static void weigh(const struct moe_router *router, const struct softmax *all, const double *logits, size_t top_k,
                  const int32_t *ids, float *weights, double *values)
{
    struct softmax softmax = *all;
    if (router->weight == MOE_SCORE_SOFTMAX_TOPK)
        softmax = softmax_of(logits, ids, top_k);
    double sum = 0.0;
    for (size_t k = 0; k < top_k; k++) {
        values[k] = weight_of(router, &softmax, logits[ids[k]]);
        sum += values[k];
    }
    double divisor = 1.0, eps = (double)router->renorm_eps;
    if (router->renorm == MOE_RENORM_ADD_EPS)
        divisor = sum + eps;
    else if (router->renorm == MOE_RENORM_CLAMP_EPS)
        divisor = sum > eps ? sum : eps;
    if (divisor == 0.0 || !isfinite(divisor))
        divisor = 1.0;
    for (size_t k = 0; k < top_k; k++)
        weights[k] = (float)(values[k] / divisor * (double)router->scale);
}

bool moe_route_row(const struct moe_router *router, const double *logits, size_t top_k, int32_t *ids, float *weights,
                   double *scratch)
{
    size_t num_experts = router->num_experts;
    bool finite = false;
    for (size_t e = 0; e < num_experts && !finite; e++)
        finite = isfinite(logits[e]);
    if (!finite) {
        for (size_t k = 0; k < top_k; k++) {
            ids[k] = (int32_t)k;
            weights[k] = 0.0f;
        }
        return false;
    }
    double *keys = scratch, *group_scores = keys + num_experts, *best = group_scores + num_experts;
    struct softmax all = {0.0, 1.0};
    if (router->select == MOE_SCORE_SOFTMAX || router->weight == MOE_SCORE_SOFTMAX)
        all = softmax_of(logits, NULL, num_experts);
    fill_keys(router, &all, logits, keys);
    if (router->num_groups > 1)
        mask_groups(router, keys, group_scores);
    choose(keys, num_experts, top_k, ids, best);
    weigh(router, &all, logits, top_k, ids, weights, best);
    return true;
}
