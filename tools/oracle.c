// SPDX-License-Identifier: MIT
// The layer by its definition, in double precision; formulas in include/moe/moe.h.
#include "oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "matrix.h"

static double sigmoid(double z)
{
    return 1 / (1 + exp(-z));
}

/* ---- routing ---- */

/* scores[num_experts] of one row of logits; of scores that are for weights only, the logit. */
static void score(enum moe_score kind, const double *logits, size_t num_experts, double *scores)
{
    double largest = -INFINITY, sum = 0;
    for (size_t e = 0; e < num_experts; e++)
        largest = fmax(largest, logits[e]);
    for (size_t e = 0; e < num_experts; e++) {
        double z = logits[e];
        scores[e] = kind == MOE_SCORE_SIGMOID         ? sigmoid(z)
                    : kind == MOE_SCORE_SOFTMAX       ? exp(z - largest)
                    : kind == MOE_SCORE_SQRT_SOFTPLUS ? sqrt(fmax(z, 0) + log1p(exp(-fabs(z))))
                                                      : z;
        sum += scores[e];
    }
    if (kind == MOE_SCORE_SOFTMAX)
        for (size_t e = 0; e < num_experts; e++)
            scores[e] /= sum;
}

/* Are two values too close for logits in f32 to tell them apart? size: the magnitudes that they are made of. */
static bool is_tie(double a, double b, double size)
{
    return isfinite(a) && isfinite(b) && fabs(a - b) <= ORACLE_TIE * size;
}

static double group_score(const double *keys, size_t count, enum moe_group_score kind)
{
    double best = -INFINITY, second = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        if (keys[i] > best) {
            second = best;
            best = keys[i];
        } else if (keys[i] > second) {
            second = keys[i];
        }
    }
    return kind == MOE_GROUP_MAX || count == 1 ? best : best + second;
}

/* A group is dropped if top_groups others come before it: a higher score, or the same one and a lower index. Returns
 * whether the choice is a tie. */
static bool mask_groups(const struct moe_routing *routing, size_t num_experts, const double *keys, double *masked)
{
    size_t count = num_experts / routing->num_groups;
    bool tie = false;
    for (size_t g = 0; g < routing->num_groups; g++) {
        double mine = group_score(keys + g * count, count, routing->group_score), next = INFINITY;
        size_t before = 0;
        for (size_t h = 0; h < routing->num_groups; h++) {
            double other = group_score(keys + h * count, count, routing->group_score);
            bool ahead = other > mine || (other == mine && h < g);
            before += ahead;
            next = ahead ? fmin(next, other) : next;
        }
        tie = tie || (before == routing->top_groups && is_tie(mine, next, fabs(mine) + fabs(next)));
        for (size_t i = 0; i < count; i++)
            masked[g * count + i] = before < routing->top_groups ? keys[g * count + i]
                                                                 : routing->group_mask_zero ? 0 : -INFINITY;
    }
    return tie;
}

static int64_t best_left(const double *keys, size_t num_experts, const int64_t *ids, size_t taken)
{
    int64_t best = -1;
    for (size_t e = 0; e < num_experts; e++) {
        bool left = true;
        for (size_t j = 0; j < taken; j++)
            left = left && ids[j] != (int64_t)e;
        if (left && (best < 0 || keys[e] > keys[best]))
            best = (int64_t)e;
    }
    return best;
}

/* The weight of slot k: a softmax over those that are left and whose logit is close to the slot's own. */
static double sparse_mix(const double *logits, size_t num_experts, const int64_t *ids, size_t k, double eps)
{
    double m = logits[ids[k]], sum = 0;
    for (size_t e = 0; e < num_experts; e++) {
        double z = logits[e];
        bool taken = false;
        for (size_t j = 0; j < k; j++)
            taken = taken || ids[j] == (int64_t)e;
        if (!taken && (m - z) / fmax(fabs(z), m) <= 2 * eps)
            sum += exp(z - m);
    }
    return 1 / sum;
}

static double divisor_of(const struct moe_routing *routing, const double *weights, size_t top_k)
{
    double sum = 0, powers = 0, p = routing->renorm_p, divisor = 1;
    for (size_t k = 0; k < top_k; k++) {
        sum += weights[k];
        powers += pow(fabs(weights[k]), p);
    }
    switch (routing->renorm) {
    case MOE_RENORM_NONE:
        break;
    case MOE_RENORM_ADD_EPS:
        divisor = sum + routing->renorm_eps;
        break;
    case MOE_RENORM_CLAMP_EPS:
        divisor = fmax(sum, routing->renorm_eps);
        break;
    case MOE_RENORM_P_NORM:
        divisor = pow(powers, 1 / p);
        break;
    }
    return divisor == 0 || !isfinite(divisor) ? 1 : divisor;
}

static void weigh(const struct moe_routing *routing, const struct oracle_tables *tables, enum moe_score kind,
                  const double *logits, size_t num_experts, size_t top_k, const int64_t *ids, const double *scores,
                  double *weights)
{
    double largest = -INFINITY, sum = 0;
    for (size_t k = 0; k < top_k; k++)
        largest = fmax(largest, logits[ids[k]]);
    for (size_t k = 0; k < top_k; k++) {
        weights[k] = kind == MOE_SCORE_SOFTMAX_TOPK  ? exp(logits[ids[k]] - largest)
                     : kind == MOE_SCORE_SPARSEMIXER ? sparse_mix(logits, num_experts, ids, k, routing->sparsemixer_eps)
                                                     : scores[ids[k]];
        sum += weights[k];
    }
    for (size_t k = 0; kind == MOE_SCORE_SOFTMAX_TOPK && k < top_k; k++)
        weights[k] /= sum;
    double divisor = divisor_of(routing, weights, top_k), scale = routing->scale != 0 ? routing->scale : 1;
    for (size_t k = 0; k < top_k; k++)
        weights[k] = weights[k] / divisor * scale * (tables->expert_scale ? tables->expert_scale[ids[k]] : 1);
}

/* ids[top_k]; returns whether the choice is a tie. keys holds the scores, masked is scratch. */
static bool choose(const struct moe_routing *routing, const float *bias, size_t num_experts, size_t top_k, double *keys,
                   double *masked, int64_t *ids)
{
    size_t competing = num_experts - routing->num_always, chosen = top_k - routing->num_always;
    bool tie = false;
    for (size_t e = 0; e < competing && bias; e++)
        keys[e] += bias[e];
    if (routing->num_groups > 1)
        tie = mask_groups(routing, competing, keys, masked);
    else
        memcpy(masked, keys, competing * sizeof *keys);
    for (size_t k = 0; k < chosen; k++)
        ids[k] = best_left(masked, competing, ids, k);
    for (size_t k = chosen; k < top_k; k++)
        ids[k] = (int64_t)(competing + k - chosen);
    if (chosen == 0 || chosen == competing)
        return tie;
    int64_t last = ids[chosen - 1], next = best_left(masked, competing, ids, chosen);
    double biases = bias ? fabs((double)bias[last]) + fabs((double)bias[next]) : 0;
    return tie || is_tie(masked[last], masked[next], fabs(masked[last]) + fabs(masked[next]) + 2 * biases);
}

bool oracle_route(const struct moe_routing *routing, const struct oracle_tables *tables, size_t num_experts,
                  size_t top_k, const double *logits, int64_t *ids, double *weights, double *scratch)
{
    static const struct oracle_tables none;
    tables = tables ? tables : &none;
    double *z = scratch, *keys = scratch + num_experts, *masked = scratch + 2 * num_experts;
    enum moe_score weight = routing->weight == MOE_SCORE_DEFAULT ? MOE_SCORE_SOFTMAX : routing->weight;
    enum moe_score select = routing->select;
    if (select == MOE_SCORE_DEFAULT)
        select = weight == MOE_SCORE_SOFTMAX_TOPK || weight == MOE_SCORE_SPARSEMIXER ? MOE_SCORE_LOGIT : weight;
    for (size_t e = 0; e < num_experts; e++)
        z[e] = routing->softcap > 0 ? routing->softcap * tanh(logits[e] / routing->softcap) : logits[e];
    score(select, z, num_experts, keys);
    bool tie = false;
    if (tables->hash_row)
        memcpy(ids, tables->hash_row, top_k * sizeof *ids);
    else
        tie = choose(routing, tables->bias, num_experts, top_k, keys, masked, ids);
    score(weight, z, num_experts, keys);
    weigh(routing, tables, weight, z, num_experts, top_k, ids, keys, weights);
    return tie;
}

/* out = x normed, or x. */
static void apply_norm(const struct moe_norm *norm, const float *scale, const float *x, size_t size, double *out)
{
    double squares = 0;
    for (size_t i = 0; i < size; i++)
        squares += (double)x[i] * x[i];
    double divisor = norm ? sqrt(squares / (double)size + norm->eps) * (norm->unit ? sqrt((double)size) : 1) : 1;
    for (size_t i = 0; i < size; i++)
        out[i] = squares > 0 ? x[i] / divisor * (scale ? scale[i] : 1) : 0;
}

bool oracle_logits(const struct moe_routing *routing, size_t num_experts, size_t hidden_size, size_t num_tokens,
                   const float *x, double *logits, double *sizes)
{
    const struct moe_matrix *router = routing->router;
    const struct moe_norm *norm = routing->norm;
    float *w = tool_alloc(num_experts * hidden_size, sizeof *w), *bias = tool_alloc(num_experts, sizeof *bias);
    float *scale = tool_alloc(hidden_size, sizeof *scale);
    double *in = tool_alloc(hidden_size, sizeof *in);
    bool has_scale = norm && norm->scale.base;
    bool good = w && bias && scale && in && matrix_rows(router, num_experts, hidden_size, 0, 0, num_experts, w) &&
                (!router->bias.base || matrix_bias(router, 0, num_experts, bias)) &&
                (!has_scale || matrix_view(&norm->scale, hidden_size, scale));
    for (size_t t = 0; good && t < num_tokens; t++) {
        apply_norm(norm, has_scale ? scale : NULL, x + t * hidden_size, hidden_size, in);
        sizes[t] = 0;
        for (size_t e = 0; e < num_experts; e++) {
            double sum = router->bias.base ? (double)bias[e] : 0, size = fabs(sum);
            for (size_t c = 0; c < hidden_size; c++) {
                sum += w[e * hidden_size + c] * in[c];
                size += fabs(w[e * hidden_size + c] * in[c]);
            }
            logits[t * num_experts + e] = sum;
            sizes[t] = fmax(sizes[t], size);
        }
    }
    free(w);
    free(bias);
    free(scale);
    free(in);
    return good;
}

/* ---- experts ---- */

static double activate(const struct moe_act *act, double g)
{
    switch (act->kind) {
    case MOE_ACT_SWISH:
        return g * sigmoid((act->alpha != 0 ? act->alpha : 1) * g);
    case MOE_ACT_GELU_TANH:
        return 0.5 * g * (1 + tanh(0.79788456080286535588 * (g + 0.044715 * g * g * g)));
    case MOE_ACT_GELU_ERF:
        return 0.5 * g * (1 + erf(g * 0.70710678118654752440));
    case MOE_ACT_RELU:
        return fmax(g, 0);
    case MOE_ACT_RELU2:
        return fmax(g, 0) * fmax(g, 0);
    case MOE_ACT_SITU:
        return act->beta * tanh(g / act->beta) * sigmoid(g);
    }
    return NAN;
}

static double glu(const struct moe_act *act, bool gated, double g, double u)
{
    if (!gated)
        return activate(act, u);
    if (act->clamp != MOE_CLAMP_NONE)
        u = fmin(fmax(u, -(double)act->limit), act->limit);
    if (act->kind == MOE_ACT_SITU && act->beta_up > 0)
        u = act->beta_up * tanh(u / act->beta_up);
    if (act->clamp == MOE_CLAMP_BEFORE)
        g = fmin(g, act->limit);
    double a = activate(act, g);
    if (act->clamp == MOE_CLAMP_AFTER)
        a = fmin(a, act->limit);
    return a * (u + act->up_offset);
}

/* Matrices of one expert in f32, biases behind each. */
struct unpacked {
    float *gate, *up, *down;
};

static bool unpack(float *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    float *bias = out + rows * cols;
    if (!matrix_rows(matrix, rows, cols, e, 0, rows, out))
        return false;
    if (matrix->bias.base)
        return matrix_bias(matrix, e, rows, bias);
    memset(bias, 0, rows * sizeof *bias);
    return true;
}

static double dot(const float *matrix, size_t rows, size_t cols, size_t row, const double *x)
{
    double sum = 0;
    for (size_t c = 0; c < cols; c++)
        sum += (double)matrix[row * cols + c] * x[c];
    return sum + matrix[rows * cols + row];
}

static void add_pair(const struct moe_experts_params *p, const struct unpacked *w, bool weight_on_input, float weight,
                     const float *x, double *in, double *hidden, double *out)
{
    static const struct moe_act silu;
    size_t h = p->hidden_size, f = p->intermediate_size;
    for (size_t i = 0; i < h; i++)
        in[i] = weight_on_input ? (double)x[i] * weight : x[i];
    for (size_t r = 0; r < f; r++)
        hidden[r] = glu(p->act ? p->act : &silu, p->gate, p->gate ? dot(w->gate, f, h, r, in) : 0,
                        dot(w->up, f, h, r, in));
    for (size_t r = 0; r < h; r++)
        out[r] += (weight_on_input ? 1 : (double)weight) * dot(w->down, h, f, r, hidden);
}

bool oracle_experts(const struct moe_experts_params *p, bool weight_on_input, size_t num_tokens, size_t top_k,
                    const float *x, const int64_t *ids, const float *weights, double *out)
{
    size_t h = p->hidden_size, f = p->intermediate_size;
    struct unpacked w = {.gate = tool_alloc((h + 1) * f, sizeof(float)), .up = tool_alloc((h + 1) * f, sizeof(float)),
                         .down = tool_alloc((f + 1) * h, sizeof(float))};
    double *in = tool_alloc(h, sizeof *in), *hidden = tool_alloc(f, sizeof *hidden);
    bool good = w.gate && w.up && w.down && in && hidden;
    for (size_t i = 0; i < num_tokens * h; i++)
        out[i] = 0;
    for (size_t e = 0; good && e < p->num_experts; e++) {
        bool ready = false;
        for (size_t pair = 0; good && pair < num_tokens * top_k; pair++) {
            if (ids[pair] != (int64_t)e)
                continue;
            if (!ready)
                good = (!p->gate || unpack(w.gate, p->gate, f, h, e)) && unpack(w.up, p->up, f, h, e) &&
                       unpack(w.down, p->down, h, f, e);
            ready = true;
            if (good)
                add_pair(p, &w, weight_on_input, weights[pair], x + pair / top_k * h, in, hidden,
                         out + pair / top_k * h);
        }
    }
    free(w.gate);
    free(w.up);
    free(w.down);
    free(in);
    free(hidden);
    return good;
}

double oracle_error(const float *a, const double *b, size_t count)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    if (isnan(difference))
        return INFINITY;
    return norm > 0 ? sqrt(difference / norm) : difference > 0 ? INFINITY : 0;
}
