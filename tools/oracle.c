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

/* scores[num_experts] of one row; SOFTMAX_TOPK is left as the logit: it is for weights only. */
static void score(enum moe_score kind, const float *logits, size_t num_experts, double *scores)
{
    double largest = -INFINITY, sum = 0;
    for (size_t e = 0; e < num_experts; e++)
        largest = fmax(largest, logits[e]);
    for (size_t e = 0; e < num_experts; e++) {
        double z = logits[e];
        scores[e] = kind == MOE_SCORE_SIGMOID ? sigmoid(z) : kind == MOE_SCORE_SOFTMAX ? exp(z - largest) : z;
        sum += scores[e];
    }
    if (kind == MOE_SCORE_SOFTMAX)
        for (size_t e = 0; e < num_experts; e++)
            scores[e] /= sum;
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

/* A group is dropped if top_groups others come before it: a higher score, or the same one and a lower index. */
static void mask_groups(const struct moe_routing *routing, size_t num_experts, const double *keys, double *masked)
{
    size_t count = num_experts / routing->num_groups;
    for (size_t g = 0; g < routing->num_groups; g++) {
        double mine = group_score(keys + g * count, count, routing->group_score);
        size_t before = 0;
        for (size_t h = 0; h < routing->num_groups; h++) {
            double other = group_score(keys + h * count, count, routing->group_score);
            before += other > mine || (other == mine && h < g);
        }
        for (size_t i = 0; i < count; i++)
            masked[g * count + i] = before < routing->top_groups ? keys[g * count + i]
                                                                 : routing->group_mask_zero ? 0 : -INFINITY;
    }
}

static void choose(const double *keys, size_t num_experts, size_t top_k, int64_t *ids)
{
    for (size_t k = 0; k < top_k; k++) {
        int64_t best = -1;
        for (size_t e = 0; e < num_experts; e++) {
            bool taken = false;
            for (size_t j = 0; j < k; j++)
                taken = taken || ids[j] == (int64_t)e;
            if (!taken && (best < 0 || keys[e] > keys[best]))
                best = (int64_t)e;
        }
        ids[k] = best;
    }
}

static void weigh(const struct moe_routing *routing, enum moe_score kind, const float *logits, size_t top_k,
                  const int64_t *ids, const double *scores, double *weights)
{
    double largest = -INFINITY, sum = 0;
    for (size_t k = 0; k < top_k; k++)
        largest = fmax(largest, logits[ids[k]]);
    for (size_t k = 0; k < top_k; k++) {
        weights[k] = kind == MOE_SCORE_SOFTMAX_TOPK ? exp(logits[ids[k]] - largest) : scores[ids[k]];
        sum += weights[k];
    }
    double eps = routing->renorm_eps, divisor = 1;
    if (kind == MOE_SCORE_SOFTMAX_TOPK) {
        for (size_t k = 0; k < top_k; k++)
            weights[k] /= sum;
        sum = 1;
    }
    if (routing->renorm == MOE_RENORM_ADD_EPS)
        divisor = sum + eps;
    else if (routing->renorm == MOE_RENORM_CLAMP_EPS)
        divisor = fmax(sum, eps);
    if (divisor == 0 || !isfinite(divisor))
        divisor = 1;
    double scale = routing->scale != 0 ? routing->scale : 1;
    for (size_t k = 0; k < top_k; k++)
        weights[k] = weights[k] / divisor * scale;
}

void oracle_route(const struct moe_routing *routing, const float *bias, size_t num_experts, size_t top_k,
                  const float *logits, int64_t *ids, double *weights, double *scratch)
{
    double *keys = scratch, *masked = scratch + num_experts;
    enum moe_score weight = routing->weight == MOE_SCORE_DEFAULT ? MOE_SCORE_SOFTMAX : routing->weight;
    enum moe_score select = routing->select;
    if (select == MOE_SCORE_DEFAULT)
        select = weight == MOE_SCORE_SOFTMAX_TOPK ? MOE_SCORE_LOGIT : weight;
    score(select, logits, num_experts, keys);
    for (size_t e = 0; e < num_experts && bias; e++)
        keys[e] += bias[e];
    if (routing->num_groups > 1)
        mask_groups(routing, num_experts, keys, masked);
    else
        memcpy(masked, keys, num_experts * sizeof *keys);
    choose(masked, num_experts, top_k, ids);
    score(weight, logits, num_experts, keys);
    weigh(routing, weight, logits, top_k, ids, keys, weights);
}

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
    }
    return NAN;
}

static double glu(const struct moe_act *act, bool gated, double g, double u)
{
    if (!gated)
        return activate(act, u);
    if (act->clamp != MOE_CLAMP_NONE)
        u = fmin(fmax(u, -(double)act->limit), act->limit);
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
