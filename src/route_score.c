// SPDX-License-Identifier: MIT
// Scores of a router. Functions of one variable come from exp.h and from series here, so that they do not depend on the
// C library; sqrt is exact everywhere.
#include "route_score.h"

#include <math.h>
#include <stdbool.h>

#include "exp.h"

/* ---- functions of one variable ---- */

static double sigmoid(double z)
{
    return 1.0 / (1.0 + moe_exp(-z));
}

/* 2 atanh(s) = log((1 + s) / (1 - s)) for |s| <= 1/3: terms up to s^33, the next one is below 1e-17 of the sum. */
static double double_atanh(double s)
{
    double square = s * s, sum = 0.0;
    for (int i = 33; i >= 1; i -= 2)
        sum = sum * square + 1.0 / i;
    return 2.0 * s * sum;
}

/* sqrt(log(1 + e^z)). Far below 0 the logarithm is e^z, whose root stays a number where e^z itself would be 0. */
static double sqrt_softplus(double z)
{
    if (z < -40.0)
        return moe_exp(0.5 * z);
    double u = moe_exp(-fabs(z));
    return sqrt((z > 0.0 ? z : 0.0) + double_atanh(u / (2.0 + u)));
}

/* x^p, x in 0..1, p > 0: x = m 2^n with m in [2/3, 4/3), log x = log m + n log 2. */
static double power(double x, double p)
{
    int n;
    double m = frexp(x, &n);
    if (x <= 0.0)
        return 0.0;
    if (m < 2.0 / 3) {
        m *= 2.0;
        n--;
    }
    return moe_exp(p * (double_atanh((m - 1.0) / (m + 1.0)) + n * 0.69314718055994531));
}

/* ---- softmax ---- */

/* exp(z - max), where an infinite max leaves 1 to those that reach it and 0 to the rest. */
static double softmax_term(const struct moe_route_softmax *softmax, double z)
{
    if (isnan(z) || z == -INFINITY)
        return 0.0;
    return z == softmax->max ? 1.0 : moe_exp(z - softmax->max);
}

static double softmax_value(const struct moe_route_softmax *softmax, double z)
{
    return softmax->sum > 0.0 ? softmax_term(softmax, z) / softmax->sum : 0.0;
}

/* Over all logits; terms[e] of each, NaN where it is NaN. */
static struct moe_route_softmax softmax_of_all(double *terms, const double *logits, size_t num_experts)
{
    struct moe_route_softmax softmax = {-INFINITY, 0.0};
    for (size_t e = 0; e < num_experts; e++)
        softmax.max = logits[e] > softmax.max ? logits[e] : softmax.max;
    if (isinf(softmax.max)) {
        for (size_t e = 0; e < num_experts; e++)
            terms[e] = isnan(logits[e]) ? logits[e] : softmax_term(&softmax, logits[e]);
    } else {
        double max = softmax.max;
        for (size_t e = 0; e < num_experts; e++)    /* no branch: it vectorises */
            terms[e] = moe_exp(logits[e] - max);
    }
    for (size_t e = 0; e < num_experts; e++)
        softmax.sum += isnan(terms[e]) ? 0.0 : terms[e];
    return softmax;
}

static struct moe_route_softmax softmax_of_chosen(const double *logits, const int32_t *ids, size_t top_k)
{
    struct moe_route_softmax softmax = {-INFINITY, 0.0};
    for (size_t k = 0; k < top_k; k++)
        if (logits[ids[k]] > softmax.max)
            softmax.max = logits[ids[k]];
    for (size_t k = 0; k < top_k; k++)
        softmax.sum += softmax_term(&softmax, logits[ids[k]]);
    return softmax;
}

/* ---- keys ---- */

void moe_route_score_cap(double *out, const double *logits, size_t num_experts, double softcap)
{
    for (size_t e = 0; e < num_experts; e++)
        out[e] = softcap * moe_tanh(logits[e] / softcap);
}

void moe_route_score_keys(const struct moe_router *router, double *keys, struct moe_route_softmax *all,
                          const double *logits)
{
    size_t num_experts = router->num_experts;
    *all = (struct moe_route_softmax){0.0, 1.0};
    if (router->select == MOE_SCORE_SOFTMAX || router->weight == MOE_SCORE_SOFTMAX)
        *all = softmax_of_all(keys, logits, num_experts);
    switch (router->select) {
    case MOE_SCORE_SOFTMAX:
        for (size_t e = 0; e < num_experts; e++)
            keys[e] = keys[e] / all->sum;
        break;
    case MOE_SCORE_SIGMOID:
        for (size_t e = 0; e < num_experts; e++)
            keys[e] = sigmoid(logits[e]);
        break;
    case MOE_SCORE_SQRT_SOFTPLUS:
        for (size_t e = 0; e < num_experts; e++)
            keys[e] = isnan(logits[e]) ? logits[e] : sqrt_softplus(logits[e]);
        break;
    default:
        for (size_t e = 0; e < num_experts; e++)
            keys[e] = logits[e];
    }
}

/* ---- weights ---- */

/* rest: logits of the experts that no slot has yet, otherwise NaN. The chosen one, of logit m, is among them. */
static double sparsemixer_share(double *rest, size_t num_experts, double m, double eps)
{
    struct moe_route_softmax softmax = {-INFINITY, 0.0};
    for (int pass = 0; pass < 2; pass++) {
        for (size_t e = 0; e < num_experts; e++) {
            double z = rest[e], size = fabs(z) > m ? fabs(z) : m;
            if (isnan(z) || (z < m && (m - z) / size > 2.0 * eps))
                continue;
            if (pass > 0)
                softmax.sum += softmax_term(&softmax, z);
            else if (z > softmax.max)
                softmax.max = z;
        }
    }
    return softmax_value(&softmax, m);
}

static void sparsemixer(const struct moe_router *router, double *values, const double *logits, const int32_t *ids,
                        size_t top_k, double *rest)
{
    for (size_t e = 0; e < router->num_experts; e++)
        rest[e] = logits[e];
    for (size_t k = 0; k < top_k; k++) {
        values[k] = sparsemixer_share(rest, router->num_experts, logits[ids[k]], (double)router->sparsemixer_eps);
        rest[ids[k]] = NAN;
    }
}

static double weight_of(enum moe_score kind, const struct moe_route_softmax *softmax, double z)
{
    if (isnan(z))
        return 0.0;
    switch (kind) {
    case MOE_SCORE_SIGMOID:
        return sigmoid(z);
    case MOE_SCORE_LOGIT:
        return z;
    case MOE_SCORE_SQRT_SOFTPLUS:
        return sqrt_softplus(z);
    default:
        return softmax_value(softmax, z);
    }
}

/* (sum of |w|^p)^(1/p) as max (sum of (|w| / max)^p)^(1/p): no power can overflow. */
static double p_norm(const double *values, size_t top_k, double p)
{
    double max = 0.0, sum = 0.0;
    for (size_t k = 0; k < top_k; k++)
        max = fabs(values[k]) > max ? fabs(values[k]) : max;
    if (max == 0.0 || isinf(max))
        return max;
    for (size_t k = 0; k < top_k; k++) {
        double share = fabs(values[k]) / max;
        sum += p == 1.0 ? share : p == 2.0 ? share * share : power(share, p);
    }
    if (p == 1.0)
        return max * sum;
    return max * (p == 2.0 ? sqrt(sum) : 1.0 / power(1.0 / sum, 1.0 / p));
}

static double divisor_of(const struct moe_router *router, const double *values, size_t top_k)
{
    double sum = 0.0, eps = (double)router->renorm_eps;
    for (size_t k = 0; k < top_k; k++)
        sum += values[k];
    switch (router->renorm) {
    case MOE_RENORM_ADD_EPS:
        return sum + eps;
    case MOE_RENORM_CLAMP_EPS:
        return sum > eps ? sum : eps;
    case MOE_RENORM_P_NORM:
        return p_norm(values, top_k, (double)router->renorm_p);
    default:
        return 1.0;
    }
}

void moe_route_score_weigh(const struct moe_router *router, float *weights, const struct moe_route_softmax *all,
                           const double *logits, const int32_t *ids, size_t top_k, double *values, double *rest)
{
    struct moe_route_softmax softmax = *all;
    if (router->weight == MOE_SCORE_SOFTMAX_TOPK)
        softmax = softmax_of_chosen(logits, ids, top_k);
    if (router->weight == MOE_SCORE_SPARSEMIXER) {
        sparsemixer(router, values, logits, ids, top_k, rest);
    } else {
        for (size_t k = 0; k < top_k; k++)
            values[k] = weight_of(router->weight, &softmax, logits[ids[k]]);
    }
    double divisor = divisor_of(router, values, top_k);
    if (divisor == 0.0 || !isfinite(divisor))
        divisor = 1.0;
    for (size_t k = 0; k < top_k; k++) {
        double weight = values[k] / divisor * (double)router->scale;
        weights[k] = (float)(router->expert_scale != NULL ? weight * (double)router->expert_scale[ids[k]] : weight);
    }
}
