// SPDX-License-Identifier: MIT
// Definition of the router: the rules of struct moe_routing in the order in which that page gives them.
#include "ref/ref.h"

#include <math.h>
#include <stdlib.h>

/* Softmax over the num_logits logits that are in the set (NULL: all). NaN weighs 0 and is left out of the sum; where
 * one is +inf, those that are share it all. */
static void softmax(double *out, const double *logits, const bool *in_set, size_t num_logits)
{
    double largest = -(double)INFINITY, sum = 0;
    for (size_t e = 0; e < num_logits; e++)
        if ((in_set == NULL || in_set[e]) && logits[e] > largest)
            largest = logits[e];
    for (size_t e = 0; e < num_logits; e++) {
        out[e] = 0;
        if ((in_set != NULL && !in_set[e]) || isnan(logits[e]) || largest == -(double)INFINITY)
            continue;
        out[e] = logits[e] == largest ? 1 : largest == (double)INFINITY ? 0 : exp(logits[e] - largest);
        sum += out[e];
    }
    for (size_t e = 0; e < num_logits; e++)
        if (sum > 0)
            out[e] /= sum;
}

/* score(logit) for all experts; NaN only in, never out: a NaN logit weighs 0. */
static void score(double *out, enum moe_score kind, const double *logits, const bool *chosen, size_t num_experts)
{
    if (kind == MOE_SCORE_SOFTMAX || kind == MOE_SCORE_DEFAULT) {
        softmax(out, logits, NULL, num_experts);
    } else if (kind == MOE_SCORE_SOFTMAX_TOPK) {
        softmax(out, logits, chosen, num_experts);
    } else {
        for (size_t e = 0; e < num_experts; e++)
            out[e] = isnan(logits[e]) ? 0 : kind == MOE_SCORE_SIGMOID ? 1 / (1 + exp(-logits[e])) : logits[e];
    }
}

struct entry {
    double key;
    size_t index;
};

/* The larger key first, NaN last; then the lower index. */
static int compare(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    if (isnan(a->key) != isnan(b->key))
        return isnan(a->key) ? 1 : -1;
    if (a->key != b->key && !isnan(a->key))
        return a->key > b->key ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Indices of keys in the order of choice. */
static void rank(struct entry *order, const double *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        order[i] = (struct entry){keys[i], i};
    qsort(order, count, sizeof *order, compare);
}

/* A key that is NaN counts as -inf in a group's score, and a group without a second best key has score -inf. */
static double group_score(const struct moe_routing *routing, const double *keys, size_t size)
{
    const double lowest = -(double)INFINITY;
    struct entry *order = moe_ref_alloc(size, sizeof *order);
    rank(order, keys, size);
    double best = isnan(order[0].key) ? lowest : order[0].key;
    if (routing->group_score == MOE_GROUP_TOP2_SUM && size > 1) {
        double second = isnan(order[1].key) ? lowest : order[1].key;
        best = second == lowest ? lowest : best + second;
    }
    free(order);
    return best;
}

/* Experts outside the best groups lose their key; one that is NaN stays so. */
static void drop_groups(const struct moe_routing *routing, double *keys, size_t num_experts)
{
    size_t num_groups = routing->num_groups, size = num_experts / num_groups;
    double *scores = moe_ref_alloc(num_groups, sizeof *scores);
    struct entry *order = moe_ref_alloc(num_groups, sizeof *order);
    for (size_t g = 0; g < num_groups; g++)
        scores[g] = group_score(routing, keys + g * size, size);
    rank(order, scores, num_groups);
    for (size_t i = routing->top_groups; i < num_groups; i++)
        for (size_t e = order[i].index * size; e < (order[i].index + 1) * size; e++)
            if (!isnan(keys[e]))
                keys[e] = routing->group_mask_zero ? 0 : -(double)INFINITY;
    free(order);
    free(scores);
}

/* Keys of all experts, groups applied. */
static void make_keys(double *keys, const struct moe_routing *routing, const double *logits, size_t num_experts)
{
    enum moe_score select = routing->select;
    if (select == MOE_SCORE_DEFAULT)
        select = routing->weight == MOE_SCORE_SOFTMAX_TOPK ? MOE_SCORE_LOGIT : routing->weight;
    score(keys, select, logits, NULL, num_experts);
    double *bias = moe_ref_alloc(num_experts, sizeof *bias);
    if (routing->selection_bias.base != NULL)
        moe_ref_read(bias, &routing->selection_bias, 0, num_experts);
    for (size_t e = 0; e < num_experts; e++)
        keys[e] = isnan(logits[e]) ? (double)NAN : keys[e] + bias[e];
    free(bias);
    if (routing->num_groups > 1)
        drop_groups(routing, keys, num_experts);
}

/* Weights whose sum is 0 stay as they are. */
static void renormalise(const struct moe_routing *routing, double *weights, size_t top_k)
{
    double sum = 0;
    for (size_t k = 0; k < top_k; k++)
        sum += weights[k];
    if (routing->renorm == MOE_RENORM_ADD_EPS)
        sum += routing->renorm_eps;
    if (routing->renorm == MOE_RENORM_CLAMP_EPS)
        sum = sum > routing->renorm_eps ? sum : routing->renorm_eps;
    for (size_t k = 0; k < top_k; k++)
        weights[k] /= sum != 0 && isfinite(sum) ? sum : 1;
}

bool moe_ref_route(const struct moe_routing *routing, size_t num_experts, size_t top_k, const double *logits,
                   int64_t *ids, double *weights)
{
    bool any_finite = false;
    for (size_t e = 0; e < num_experts; e++)
        any_finite = any_finite || isfinite(logits[e]);
    for (size_t k = 0; k < top_k; k++) {
        ids[k] = (int64_t)k;
        weights[k] = 0;
    }
    if (!any_finite)
        return false;

    double *keys = moe_ref_alloc(num_experts, sizeof *keys), *scores = moe_ref_alloc(num_experts, sizeof *scores);
    struct entry *order = moe_ref_alloc(num_experts, sizeof *order);
    bool *chosen = moe_ref_alloc(num_experts, sizeof *chosen);
    make_keys(keys, routing, logits, num_experts);
    rank(order, keys, num_experts);
    for (size_t k = 0; k < top_k; k++) {
        ids[k] = (int64_t)order[k].index;
        chosen[order[k].index] = true;
    }
    score(scores, routing->weight, logits, chosen, num_experts);
    for (size_t k = 0; k < top_k; k++)
        weights[k] = scores[ids[k]];
    if (routing->renorm != MOE_RENORM_NONE)
        renormalise(routing, weights, top_k);
    for (size_t k = 0; k < top_k; k++)
        weights[k] *= routing->scale != 0 ? routing->scale : 1;
    free(chosen);
    free(order);
    free(scores);
    free(keys);
    return true;
}
