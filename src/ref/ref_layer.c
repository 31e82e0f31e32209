// SPDX-License-Identifier: MIT
// Definition of a whole layer, and of how far a computation of it in f32 may be off: every value goes along with a
// bound of its error, which each step passes on.
#include "ref/ref.h"

#include <math.h>
#include <stdlib.h>

/* Roundings that an activation may add, relative to |g| (not to act(g), which can be much smaller), and to the
 * product: exp or tanh to 4 units in the last place, and four operations. */
enum { ACT_ROUNDINGS = 8 };

/* One expert's matrices as doubles. */
struct expert {
    size_t hidden_size, intermediate_size;
    bool gated;
    const struct moe_act *act;
    double *gate, *up, *down;                  /* gate unused if not gated */
    double *gate_bias, *up_bias, *down_bias;
};

static double *load_matrix(double **bias, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e)
{
    double *w = moe_ref_alloc(rows * cols, sizeof *w);
    *bias = moe_ref_alloc(rows, sizeof **bias);
    moe_ref_matrix(w, matrix, rows, cols, e);
    moe_ref_bias(*bias, matrix, rows, e);
    return w;
}

static struct expert load_expert(const struct moe_experts_params *params, size_t e)
{
    size_t hidden_size = params->hidden_size, intermediate_size = params->intermediate_size;
    struct expert expert = {.hidden_size = hidden_size, .intermediate_size = intermediate_size};
    expert.gated = params->gate != NULL;
    expert.act = params->act;
    if (expert.gated)
        expert.gate = load_matrix(&expert.gate_bias, params->gate, intermediate_size, hidden_size, e);
    expert.up = load_matrix(&expert.up_bias, params->up, intermediate_size, hidden_size, e);
    expert.down = load_matrix(&expert.down_bias, params->down, hidden_size, intermediate_size, e);
    return expert;
}

static void free_expert(struct expert *expert)
{
    free(expert->gate);
    free(expert->up);
    free(expert->down);
    free(expert->gate_bias);
    free(expert->up_bias);
    free(expert->down_bias);
}

/* err[r]: cols products, cols sums with the bias and, on its way into the product, a weight and the weighted input, all
 * of them rounded to f32; inputs off by x_err as well (NULL: by nothing else). */
static void linear(double *y, double *err, const double *w, const double *bias, const double *x, const double *x_err,
                   size_t rows, size_t cols)
{
    double gamma = moe_ref_gamma(cols + 4);
    moe_ref_linear(y, err, w, bias, x, rows, cols);
    for (size_t r = 0; r < rows; r++) {
        err[r] *= gamma;
        for (size_t c = 0; x_err != NULL && c < cols; c++)
            err[r] += fabs(w[r * cols + c]) * x_err[c] * (1 + gamma);
    }
}

/* |act'| is at most 1.13 for all kinds but RELU2, whose slope is 2 g. */
static double glu_error(const struct moe_act *act, double g, double g_err, double u, double u_err, bool gated)
{
    bool square = act != NULL && act->kind == MOE_ACT_RELU2;
    double slope = square ? 2 * (fabs(g) + g_err) : 1.13;
    double factor = gated ? fabs(u) + u_err + (act != NULL ? fabs((double)act->up_offset) : 0) : 1;
    double size = (square ? g * g : fabs(g)) + slope * g_err;
    return slope * g_err * factor + (gated ? size * u_err : 0) + ACT_ROUNDINGS * MOE_REF_UNIT * size * factor;
}

/* y[hidden_size] = expert(x), and its error. */
static void run_expert(double *y, double *err, const struct expert *expert, const double *x)
{
    size_t n = expert->intermediate_size;
    double *memory = moe_ref_alloc(6 * n, sizeof *memory);
    double *g = memory, *g_err = memory + n, *u = memory + 2 * n, *u_err = memory + 3 * n;
    double *h = memory + 4 * n, *h_err = memory + 5 * n;
    linear(u, u_err, expert->up, expert->up_bias, x, NULL, n, expert->hidden_size);
    if (expert->gated)
        linear(g, g_err, expert->gate, expert->gate_bias, x, NULL, n, expert->hidden_size);
    for (size_t i = 0; i < n; i++) {
        double value = expert->gated ? g[i] : u[i], value_err = expert->gated ? g_err[i] : u_err[i];
        h[i] = moe_ref_glu(expert->act, value, u[i], expert->gated);
        h_err[i] = glu_error(expert->act, value, value_err, u[i], u_err[i], expert->gated);
    }
    linear(y, err, expert->down, expert->down_bias, h, h_err, expert->hidden_size, n);
    free(memory);
}

void moe_ref_logits(double *logits, const struct moe_model_block *block, const double *x)
{
    size_t hidden_size = block->experts->hidden_size;
    size_t num_experts = block->layer->num_experts != 0 ? block->layer->num_experts : block->experts->num_experts;
    double *bias, *w = load_matrix(&bias, block->layer->routing->router, num_experts, hidden_size, 0);
    moe_ref_linear(logits, NULL, w, bias, x, num_experts, hidden_size);
    free(w);
    free(bias);
}

/* ids and weights of all tokens, from wherever the call has them. */
static void route(int64_t *ids, double *weights, const struct moe_model_block *block, const struct moe_ref_call *call,
                  size_t num_experts, size_t top_k)
{
    size_t hidden_size = block->experts->hidden_size;
    const double *x = call->router_x != NULL ? call->router_x : call->x;
    double *logits = moe_ref_alloc(num_experts, sizeof *logits), *bias = NULL, *w = NULL;
    if (call->ids == NULL && call->logits == NULL)
        w = load_matrix(&bias, block->layer->routing->router, num_experts, hidden_size, 0);
    for (size_t t = 0; t < call->num_tokens; t++) {
        if (call->ids != NULL) {
            for (size_t i = t * top_k; i < (t + 1) * top_k; i++) {
                ids[i] = call->ids[i];
                weights[i] = call->weights[i];
            }
            continue;
        }
        if (w != NULL)
            moe_ref_linear(logits, NULL, w, bias, x + t * hidden_size, num_experts, hidden_size);
        moe_ref_route(block->layer->routing, num_experts, top_k, w != NULL ? logits : call->logits + t * num_experts,
                      ids + t * top_k, weights + t * top_k);
    }
    free(w);
    free(bias);
    free(logits);
}

/* The matrix that an id stands for, or -1 for an empty slot. */
static int64_t find_matrix(const struct moe_model_block *block, const struct moe_ref_call *call, int64_t id,
                           size_t num_experts)
{
    if (id < 0 || (uint64_t)id >= num_experts)
        return -1;
    int64_t e = call->expert_map != NULL ? call->expert_map[id] : id;
    return e >= 0 && (uint64_t)e < block->experts->num_experts ? e : -1;
}

/* y[pair, hidden_size] of every pair, without its weight (but of the weighted input where the layer wants that); rows
 * of empty slots stay 0. */
static void run_pairs(double *y, double *err, const struct moe_model_block *block, const struct moe_ref_call *call,
                      const int64_t *matrices, const double *weights, size_t top_k)
{
    size_t hidden_size = block->experts->hidden_size, num_pairs = call->num_tokens * top_k;
    double *x = moe_ref_alloc(hidden_size, sizeof *x);
    for (size_t e = 0; e < block->experts->num_experts; e++) {
        struct expert expert = {0};
        for (size_t i = 0; i < num_pairs; i++) {
            if (matrices[i] != (int64_t)e)
                continue;
            if (expert.up == NULL)
                expert = load_expert(block->experts, e);
            for (size_t c = 0; c < hidden_size; c++)
                x[c] = call->x[i / top_k * hidden_size + c] * (block->layer->weight_on_input ? weights[i] : 1);
            run_expert(y + i * hidden_size, err + i * hidden_size, &expert, x);
        }
        free_expert(&expert);
    }
    free(x);
}

/* out[t] = sum over slots of weight * y, each step rounded. */
static void combine(const struct moe_ref_call *call, double *bound, const double *y, const double *err,
                    const int64_t *matrices, const double *weights, size_t hidden_size, size_t top_k, bool weighted)
{
    for (size_t t = 0; t < call->num_tokens; t++) {
        for (size_t c = 0; c < hidden_size; c++) {
            double sum = 0, sum_err = 0;
            for (size_t i = t * top_k; i < (t + 1) * top_k; i++) {
                double w = weighted ? weights[i] : 1, value = y[i * hidden_size + c], e = err[i * hidden_size + c];
                if (matrices[i] < 0)
                    continue;
                sum += w * value;
                sum_err += fabs(w) * (e + moe_ref_gamma(top_k + 4) * (fabs(value) + e));
            }
            call->out[t * hidden_size + c] = sum;
            bound[t * hidden_size + c] = sum_err;
        }
    }
}

static void add_shared(const struct moe_model_block *block, const struct moe_ref_call *call, double *bound)
{
    size_t hidden_size = block->experts->hidden_size;
    const struct moe_shared *shared = block->layer->shared;
    struct expert expert = load_expert(block->shared, 0);
    double *y = moe_ref_alloc(2 * hidden_size, sizeof *y), *err = y + hidden_size, *gate = NULL, *bias = NULL;
    if (shared != NULL && shared->gate_kind == MOE_SHARED_SIGMOID)
        gate = load_matrix(&bias, shared->gate, 1, hidden_size, 0);
    for (size_t t = 0; t < call->num_tokens; t++) {
        const double *x = call->x + t * hidden_size;
        double scale = 1, scale_err = 0;
        run_expert(y, err, &expert, x);
        if (gate != NULL) {
            double logit, logit_err;
            linear(&logit, &logit_err, gate, bias, x, NULL, 1, hidden_size);
            scale = 1 / (1 + exp(-logit));
            scale_err = 0.25 * logit_err + ACT_ROUNDINGS * MOE_REF_UNIT;
        }
        for (size_t c = 0; c < hidden_size; c++) {
            double *out = &call->out[t * hidden_size + c];
            *out += scale * y[c];
            bound[t * hidden_size + c] += (scale + scale_err) * err[c] + scale_err * fabs(y[c]) +
                                          2 * MOE_REF_UNIT * (fabs(*out) + fabs(scale * y[c]));
        }
    }
    free(gate);
    free(bias);
    free(y);
    free_expert(&expert);
}

void moe_ref_layer(const struct moe_model_block *block, const struct moe_ref_call *call)
{
    size_t hidden_size = block->experts->hidden_size, top_k = call->top_k != 0 ? call->top_k : block->layer->top_k;
    size_t num_experts = block->layer->num_experts != 0 ? block->layer->num_experts : block->experts->num_experts;
    size_t num_pairs = call->num_tokens * top_k;
    size_t num_out = (call->pairs ? num_pairs : call->num_tokens) * hidden_size;
    int64_t *ids = moe_ref_alloc(num_pairs, sizeof *ids), *matrices = moe_ref_alloc(num_pairs, sizeof *matrices);
    double *weights = moe_ref_alloc(num_pairs, sizeof *weights);
    double *y = moe_ref_alloc(num_pairs * hidden_size, sizeof *y);
    double *err = moe_ref_alloc(num_pairs * hidden_size, sizeof *err);
    double *bound = moe_ref_alloc(num_out, sizeof *bound);

    route(ids, weights, block, call, num_experts, top_k);
    for (size_t i = 0; i < num_pairs; i++) {
        matrices[i] = find_matrix(block, call, ids[i], num_experts);
        if (call->out_ids != NULL)
            call->out_ids[i] = ids[i];
        if (call->out_weights != NULL)
            call->out_weights[i] = weights[i];
    }
    run_pairs(y, err, block, call, matrices, weights, top_k);
    if (call->pairs) {
        for (size_t i = 0; i < num_out; i++) {
            call->out[i] = y[i];
            bound[i] = err[i] + MOE_REF_UNIT * fabs(y[i]);
        }
    } else {
        combine(call, bound, y, err, matrices, weights, hidden_size, top_k, !block->layer->weight_on_input);
        if (block->shared != NULL && !call->no_shared)
            add_shared(block, call, bound);
    }
    for (size_t i = 0; call->bound != NULL && i < num_out; i++)
        call->bound[i] = bound[i];
    free(bound);
    free(err);
    free(y);
    free(weights);
    free(matrices);
    free(ids);
}
