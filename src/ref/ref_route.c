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

/* sqrt(log(1 + e^z)), written so that e^z neither overflows nor is lost: log(1 + e^z) = z + log(1 + e^-z), and far
 * below 0 it is e^z. */
static double sqrt_softplus(double z)
{
    if (z < -40)
        return exp(z / 2);
    return sqrt(z > 0 ? z + log1p(exp(-z)) : log1p(exp(z)));
}

/* score(logit) for all experts, where it depends on no choice; NaN only in, never out: a NaN logit weighs 0. */
static void score(double *out, enum moe_score kind, const double *logits, size_t num_experts)
{
    if (kind == MOE_SCORE_SOFTMAX || kind == MOE_SCORE_DEFAULT) {
        softmax(out, logits, NULL, num_experts);
    } else {
        for (size_t e = 0; e < num_experts; e++) {
            double z = logits[e];
            out[e] = kind == MOE_SCORE_SIGMOID         ? 1 / (1 + exp(-z))
                     : kind == MOE_SCORE_SQRT_SOFTPLUS ? sqrt_softplus(z)
                                                       : z;
            out[e] = isnan(z) ? 0 : out[e];
        }
    }
}

/* Slot by slot: a softmax over the experts that are not taken and whose logit is close to the slot's own. */
static void sparsemixer(double *weights, const struct moe_routing *routing, const double *logits, const int64_t *ids,
                        size_t num_experts, size_t top_k)
{
    double eps = routing->sparsemixer_eps, *shares = moe_ref_alloc(num_experts, sizeof *shares);
    bool *close = moe_ref_alloc(num_experts, sizeof *close), *taken = moe_ref_alloc(num_experts, sizeof *taken);
    for (size_t k = 0; k < top_k; k++) {
        double own = logits[ids[k]];
        for (size_t e = 0; e < num_experts; e++) {
            double distance = (own - logits[e]) / fmax(fabs(logits[e]), own);
            close[e] = !taken[e] && (distance <= 2 * eps || logits[e] >= own);
        }
        softmax(shares, logits, close, num_experts);
        weights[k] = isnan(own) ? 0 : shares[ids[k]];
        taken[ids[k]] = true;
    }
    free(taken);
    free(close);
    free(shares);
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

/* Keys of the experts that compete for a slot, groups applied. */
static void make_keys(double *keys, const struct moe_routing *routing, const double *logits, size_t num_experts)
{
    size_t competing = num_experts - routing->num_always;
    enum moe_score select = routing->select;
    bool of_logits = routing->weight == MOE_SCORE_SOFTMAX_TOPK || routing->weight == MOE_SCORE_SPARSEMIXER;
    if (select == MOE_SCORE_DEFAULT)
        select = of_logits ? MOE_SCORE_LOGIT : routing->weight;
    score(keys, select, logits, num_experts);
    double *bias = moe_ref_alloc(num_experts, sizeof *bias);
    if (routing->selection_bias.base != NULL)
        moe_ref_read(bias, &routing->selection_bias, 0, competing);
    for (size_t e = 0; e < num_experts; e++)
        keys[e] = isnan(logits[e]) ? (double)NAN : keys[e] + bias[e];
    free(bias);
    if (routing->num_groups > 1)
        drop_groups(routing, keys, competing);
}

/* The best keys, then those that are always chosen. */
static void choose(int64_t *ids, const struct moe_routing *routing, const double *logits, size_t num_experts,
                   size_t top_k)
{
    size_t competing = num_experts - routing->num_always, slots = top_k - routing->num_always;
    double *keys = moe_ref_alloc(num_experts, sizeof *keys);
    struct entry *order = moe_ref_alloc(competing, sizeof *order);
    make_keys(keys, routing, logits, num_experts);
    rank(order, keys, competing);
    for (size_t k = 0; k < top_k; k++)
        ids[k] = (int64_t)(k < slots ? order[k].index : competing + (k - slots));
    free(order);
    free(keys);
}

/* Weights whose divisor is 0, or no number, stay as they are. */
static void renormalise(const struct moe_routing *routing, double *weights, size_t top_k)
{
    double sum = 0, largest = 0, p = routing->renorm_p;
    for (size_t k = 0; k < top_k; k++)
        largest = fmax(largest, fabs(weights[k]));
    for (size_t k = 0; k < top_k; k++)    /* as shares of the largest, whose powers are not lost */
        sum += routing->renorm == MOE_RENORM_P_NORM ? pow(fabs(weights[k]) / largest, p) : weights[k];
    if (routing->renorm == MOE_RENORM_ADD_EPS)
        sum += routing->renorm_eps;
    if (routing->renorm == MOE_RENORM_CLAMP_EPS)
        sum = sum > routing->renorm_eps ? sum : routing->renorm_eps;
    if (routing->renorm == MOE_RENORM_P_NORM)
        sum = pow(sum, 1 / p) * largest;
    for (size_t k = 0; k < top_k; k++)
        weights[k] /= sum != 0 && isfinite(sum) ? sum : 1;
}

/* From the chosen's logits to their weights. An id may be there twice: its share counts twice. */
static void weigh(double *weights, const struct moe_routing *routing, const double *logits, const int64_t *ids,
                  size_t num_experts, size_t top_k)
{
    double *scores = moe_ref_alloc(num_experts + top_k, sizeof *scores);
    double *scale = moe_ref_alloc(num_experts, sizeof *scale);
    double *own = scores + num_experts;
    for (size_t k = 0; k < top_k; k++)
        own[k] = logits[ids[k]];
    if (routing->weight == MOE_SCORE_SPARSEMIXER) {
        sparsemixer(weights, routing, logits, ids, num_experts, top_k);
    } else if (routing->weight == MOE_SCORE_SOFTMAX_TOPK) {
        softmax(weights, own, NULL, top_k);
    } else {
        score(scores, routing->weight, logits, num_experts);
        for (size_t k = 0; k < top_k; k++)
            weights[k] = scores[ids[k]];
    }
    if (routing->renorm != MOE_RENORM_NONE)
        renormalise(routing, weights, top_k);
    for (size_t k = 0; k < top_k; k++)
        weights[k] *= routing->scale != 0 ? routing->scale : 1;
    if (routing->expert_scale.base != NULL) {
        moe_ref_read(scale, &routing->expert_scale, 0, num_experts);
        for (size_t k = 0; k < top_k; k++)
            weights[k] *= scale[ids[k]];
    }
    free(scale);
    free(scores);
}

/* softcap tanh(logit / softcap) */
static void cap(double *out, const struct moe_routing *routing, const double *logits, size_t num_experts)
{
    double limit = routing->softcap;
    for (size_t e = 0; e < num_experts; e++)
        out[e] = limit != 0 ? limit * tanh(logits[e] / limit) : logits[e];
}

/* hashed: ids of a hash_table, or NULL. */
static bool route(const struct moe_routing *routing, size_t num_experts, size_t top_k, const double *logits,
                  const double *hashed, int64_t *ids, double *weights)
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
    double *capped = moe_ref_alloc(num_experts, sizeof *capped);
    cap(capped, routing, logits, num_experts);
    for (size_t k = 0; hashed != NULL && k < top_k; k++)
        ids[k] = (int64_t)hashed[k];
    if (hashed == NULL)
        choose(ids, routing, capped, num_experts, top_k);
    weigh(weights, routing, capped, ids, num_experts, top_k);
    free(capped);
    return true;
}

bool moe_ref_route(const struct moe_routing *routing, size_t num_experts, size_t top_k, const double *logits,
                   int64_t *ids, double *weights)
{
    return route(routing, num_experts, top_k, logits, NULL, ids, weights);
}

bool moe_ref_route_token(const struct moe_routing *routing, size_t num_experts, size_t hash_cols, size_t top_k,
                         int64_t token_id, const double *logits, int64_t *ids, double *weights)
{
    if (routing->hash_table.base == NULL)
        return route(routing, num_experts, top_k, logits, NULL, ids, weights);
    if (token_id < 0 || (uint64_t)token_id >= routing->hash_rows) {
        for (size_t k = 0; k < top_k; k++) {
            ids[k] = -1;
            weights[k] = 0;
        }
        return true;
    }
    double *row = moe_ref_alloc(hash_cols, sizeof *row);
    moe_ref_read(row, &routing->hash_table, (size_t)token_id, hash_cols);
    bool finite = route(routing, num_experts, top_k, logits, row, ids, weights);
    free(row);
    return finite;
}

void moe_ref_norm(double *out, const struct moe_norm *norm, const double *x, size_t size)
{
    double *scale = moe_ref_alloc(size, sizeof *scale), mean = 0;
    for (size_t c = 0; c < size; c++) {
        scale[c] = 1;
        mean += x[c] * x[c] / (double)size;
    }
    if (norm != NULL && norm->scale.base != NULL)
        moe_ref_read(scale, &norm->scale, 0, size);
    for (size_t c = 0; c < size; c++) {
        double value = norm != NULL && x[c] != 0 ? x[c] / sqrt(mean + norm->eps) * scale[c] : x[c];
        out[c] = norm != NULL && norm->unit ? value / sqrt((double)size) : value;
    }
    free(scale);
}
