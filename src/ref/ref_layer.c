// SPDX-License-Identifier: MIT
// Definition of a whole layer, and of how far a computation of it in f32 may be off: every value goes along with a
// bound of its error, which each step passes on.
#include "ref/ref.h"

#include <math.h>
#include <stdlib.h>

/* Roundings that an activation may add, relative to |g| (not to act(g), which can be much smaller), and to the
 * product: exp or tanh to 4 units in the last place, and four operations. */
enum { ACT_ROUNDINGS = 8 };

/* Values that share a scale where activations are int8. */
enum { MOE_REF_UNIT_VALUES = 32 };

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

/* err: how far x[n], off by x_err (NULL: by nothing), may be once it is rounded. int8: scale is the largest value of a
 * unit / 127, q is at most half a scale off, and 127 / largest, its product with x, and scale are rounded to f32, each
 * by 2^-24 of a q of up to 127: together less than 2^-15 of a scale. bf16 has 8 bits; values below 2^-126 may count
 * as 0. A weight that is off by 2^-8 of itself makes the product what x does that is off by as much. */
static void round_input(double *err, enum moe_ref_activations kind, const double *x, const double *x_err, size_t n)
{
    for (size_t first = 0; first < n; first += MOE_REF_UNIT_VALUES) {
        size_t end = first + MOE_REF_UNIT_VALUES < n ? first + MOE_REF_UNIT_VALUES : n;
        double largest = 0;
        for (size_t c = first; c < end; c++) {
            err[c] = x_err != NULL ? x_err[c] : 0;
            largest = fmax(largest, fabs(x[c]) + err[c]);
        }
        for (size_t c = first; c < end; c++) {
            double int8 = largest / 127 * (0.5 + 0x1p-15) + 0x1p-140, bf16 = (fabs(x[c]) + err[c]) * 0x1p-8 + 0x1p-126;
            if (kind == MOE_REF_INT8)
                err[c] += int8;
            else if (kind == MOE_REF_BF16)
                err[c] += bf16;
            else if (kind == MOE_REF_CHOICE)
                err[c] += fmax(int8, (2 + 0x1p-8) * bf16);
        }
    }
}

/* |act'| is at most 1.13 for all kinds but RELU2, whose slope is 2 g, and SITU: (beta tanh(g / beta))' <= 1 times a
 * sigmoid, and |beta tanh(g / beta)| <= |g| times sigmoid(g) (1 - sigmoid(g)), together at most 1.1. SITU's limit of u
 * has a slope of at most 1. */
static double glu_error(const struct moe_act *act, double g, double g_err, double u, double u_err, bool gated)
{
    bool square = act != NULL && act->kind == MOE_ACT_RELU2;
    double slope = square ? 2 * (fabs(g) + g_err) : 1.13;
    double factor = gated ? fabs(u) + u_err + (act != NULL ? fabs((double)act->up_offset) : 0) : 1;
    double size = (square ? g * g : fabs(g)) + slope * g_err;
    return slope * g_err * factor + (gated ? size * u_err : 0) + ACT_ROUNDINGS * MOE_REF_UNIT * size * factor;
}

/* y[hidden_size] = expert(x), and its error; x is off by x_err (NULL: by no more than a weight's rounding) before it is
 * rounded. */
static void run_expert(double *y, double *err, const struct expert *expert, const double *x, const double *x_err,
                       enum moe_ref_activations kind)
{
    size_t n = expert->intermediate_size;
    double *memory = moe_ref_alloc(6 * n + expert->hidden_size, sizeof *memory);
    double *g = memory, *g_err = memory + n, *u = memory + 2 * n, *u_err = memory + 3 * n;
    double *h = memory + 4 * n, *h_err = memory + 5 * n, *in_err = memory + 6 * n;
    if (kind != MOE_REF_F32) {
        round_input(in_err, kind, x, x_err, expert->hidden_size);
        x_err = in_err;
    }
    linear(u, u_err, expert->up, expert->up_bias, x, x_err, n, expert->hidden_size);
    if (expert->gated)
        linear(g, g_err, expert->gate, expert->gate_bias, x, x_err, n, expert->hidden_size);
    for (size_t i = 0; i < n; i++) {
        double value = expert->gated ? g[i] : u[i], value_err = expert->gated ? g_err[i] : u_err[i];
        h[i] = moe_ref_glu(expert->act, value, u[i], expert->gated);
        h_err[i] = glu_error(expert->act, value, value_err, u[i], u_err[i], expert->gated);
    }
    round_input(h_err, kind, h, h_err, n);
    linear(y, err, expert->down, expert->down_bias, h, h_err, expert->hidden_size, n);
    free(memory);
}

/* ---- sizes ---- */

static size_t ids_of(const struct moe_model_block *block)
{
    size_t num_experts = block->layer->num_experts;
    return num_experts != 0 ? num_experts : block->experts->num_experts + block->layer->num_zero_experts;
}

/* Of x, router, shared expert and out. */
static size_t hidden_size_of(const struct moe_model_block *block)
{
    return block->latent != NULL ? block->latent->hidden_size : block->experts->hidden_size;
}

/* ---- routing ---- */

void moe_ref_logits(double *logits, const struct moe_model_block *block, const double *x)
{
    size_t hidden_size = hidden_size_of(block), num_experts = ids_of(block);
    double *bias, *w = load_matrix(&bias, block->layer->routing->router, num_experts, hidden_size, 0);
    double *normed = moe_ref_alloc(hidden_size, sizeof *normed);
    moe_ref_norm(normed, block->layer->routing->norm, x, hidden_size);
    moe_ref_linear(logits, NULL, w, bias, normed, num_experts, hidden_size);
    free(normed);
    free(w);
    free(bias);
}

/* ids and weights of all tokens, from wherever the call has them. */
static void route(int64_t *ids, double *weights, const struct moe_model_block *block, const struct moe_ref_call *call,
                  size_t num_experts, size_t top_k)
{
    size_t hidden_size = hidden_size_of(block);
    const double *x = call->router_x != NULL ? call->router_x : call->x;
    double *logits = moe_ref_alloc(num_experts, sizeof *logits), *bias = NULL, *w = NULL;
    double *normed = moe_ref_alloc(hidden_size, sizeof *normed);
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
        if (w != NULL) {
            moe_ref_norm(normed, block->layer->routing->norm, x + t * hidden_size, hidden_size);
            moe_ref_linear(logits, NULL, w, bias, normed, num_experts, hidden_size);
        }
        moe_ref_route_token(block->layer->routing, num_experts, block->layer->top_k, top_k,
                            call->token_ids != NULL ? call->token_ids[t] : -1,
                            w != NULL ? logits : call->logits + t * num_experts, ids + t * top_k, weights + t * top_k);
    }
    free(normed);
    free(w);
    free(bias);
    free(logits);
}

/* ---- experts ---- */

enum { SKIPPED = -1, IDENTITY = -2 };

/* The matrix that an id stands for, SKIPPED for an empty slot, IDENTITY for a zero expert. */
static int64_t find_matrix(const struct moe_model_block *block, const struct moe_ref_call *call, int64_t id,
                           size_t num_experts)
{
    if (id < 0 || (uint64_t)id >= num_experts)
        return SKIPPED;
    int64_t e = call->expert_map != NULL ? call->expert_map[id] : id;
    if ((uint64_t)id >= num_experts - block->layer->num_zero_experts)
        return call->expert_map != NULL && e == -1 ? SKIPPED : IDENTITY;
    return e >= 0 && (uint64_t)e < block->experts->num_experts ? e : SKIPPED;
}

/* What experts see of every token, [num_tokens, width], and how far it may be off: latent->up x, or x. */
static void expert_input(double *in, double *in_err, const struct moe_model_block *block,
                         const struct moe_ref_call *call)
{
    size_t width = block->experts->hidden_size, hidden_size = hidden_size_of(block);
    struct expert latent = {0};
    if (block->latent != NULL)
        latent = load_expert(block->latent, 0);
    for (size_t t = 0; t < call->num_tokens; t++) {
        const double *x = call->x + t * hidden_size;
        if (block->latent != NULL)
            linear(in + t * width, in_err + t * width, latent.up, latent.up_bias, x, NULL, width, hidden_size);
        for (size_t c = 0; block->latent == NULL && c < width; c++)
            in[t * width + c] = x[c];
    }
    free_expert(&latent);
}

/* y[pair, width] of every pair, without its weight (but of the weighted input where the layer wants that); rows of
 * empty slots stay 0. */
static void run_pairs(double *y, double *err, const struct moe_model_block *block, const struct moe_ref_call *call,
                      const int64_t *matrices, const double *weights, size_t top_k)
{
    size_t width = block->experts->hidden_size, num_pairs = call->num_tokens * top_k;
    double *in = moe_ref_alloc(2 * call->num_tokens * width, sizeof *in), *in_err = in + call->num_tokens * width;
    double *x = moe_ref_alloc(2 * width, sizeof *x), *x_err = x + width;
    expert_input(in, in_err, block, call);
    for (int64_t e = IDENTITY; e < (int64_t)block->experts->num_experts; e++) {
        struct expert expert = {0};
        for (size_t i = 0; e != SKIPPED && i < num_pairs; i++) {
            if (matrices[i] != e)
                continue;
            double weight = block->layer->weight_on_input ? weights[i] : 1;
            for (size_t c = 0; c < width; c++) {
                x[c] = in[i / top_k * width + c] * weight;
                x_err[c] = in_err[i / top_k * width + c] * fabs(weight);
                if (e == IDENTITY)
                    y[i * width + c] = x[c];
                if (e == IDENTITY && block->layer->weight_on_input)
                    err[i * width + c] = MOE_REF_UNIT * fabs(x[c]);
            }
            if (e == IDENTITY)
                continue;
            if (expert.up == NULL)
                expert = load_expert(block->experts, (size_t)e);
            run_expert(y + i * width, err + i * width, &expert, x, block->latent != NULL ? x_err : NULL,
                       call->activations);
        }
        free_expert(&expert);
    }
    free(x);
    free(in);
}

/* ---- the sum ---- */

/* out[t] = sum over slots of weight * y, each step rounded. */
static void combine(double *out, double *bound, const struct moe_ref_call *call, const double *y, const double *err,
                    const int64_t *matrices, const double *weights, size_t width, size_t top_k, bool weighted)
{
    for (size_t t = 0; t < call->num_tokens; t++) {
        for (size_t c = 0; c < width; c++) {
            double sum = 0, sum_err = 0;
            for (size_t i = t * top_k; i < (t + 1) * top_k; i++) {
                double w = weighted ? weights[i] : 1, value = y[i * width + c], e = err[i * width + c];
                if (matrices[i] == SKIPPED)
                    continue;
                sum += w * value;
                sum_err += fabs(w) * (e + moe_ref_gamma(top_k + 4) * (fabs(value) + e));
            }
            out[t * width + c] = sum;
            bound[t * width + c] = sum_err;
        }
    }
}

/* x[n] *= factor, 0 meaning 1, and one rounding. */
static void scale(double *x, double *err, double factor, size_t n)
{
    for (size_t i = 0; factor != 0 && factor != 1 && i < n; i++) {
        x[i] *= factor;
        err[i] = fabs(factor) * err[i] * (1 + MOE_REF_UNIT) + MOE_REF_UNIT * fabs(x[i]);
    }
}

/* The root r of mean x^2 + eps moves by at most the root d of mean err^2, so that x / r moves by at most
 * err / (r - d) + |x| d / (r (r - d)), and no norm is larger than sqrt(size). Then it is scaled and rounded once. A row
 * of zeros stays zeros, whatever eps is. */
static void norm_rows(double *x, double *err, const struct moe_norm *norm, size_t num_rows, size_t size)
{
    double *y = moe_ref_alloc(2 * size, sizeof *y), *factor = y + size, most = 2 * sqrt((double)size);
    for (size_t c = 0; c < size; c++)
        factor[c] = 1;
    if (norm != NULL && norm->scale.base != NULL)
        moe_ref_read(factor, &norm->scale, 0, size);
    for (size_t t = 0; norm != NULL && t < num_rows; t++, x += size, err += size) {
        double squares = 0, err_squares = 0;
        for (size_t c = 0; c < size; c++) {
            squares += x[c] * x[c] / (double)size;
            err_squares += err[c] * err[c] / (double)size;
        }
        if (squares + norm->eps == 0) {
            for (size_t c = 0; err_squares > 0 && c < size; c++)
                err[c] = most * fabs(factor[c]);
            continue;
        }
        moe_ref_norm(y, norm, x, size);
        double r = sqrt(squares + norm->eps), d = sqrt(err_squares);
        for (size_t c = 0; c < size; c++) {
            double moved = r > d ? err[c] / (r - d) + fabs(x[c]) * d / (r * (r - d)) : most;
            moved = (moved < most ? moved : most) * fabs(factor[c]) / (norm->unit ? sqrt((double)size) : 1);
            x[c] = y[c];
            err[c] = moved * (1 + MOE_REF_UNIT) + MOE_REF_UNIT * fabs(y[c]);
        }
    }
    free(y);
}

/* out[t] = latent->down of the sum, its norm in between. */
static void leave_latent(double *out, double *bound, double *sum, double *sum_err, const struct moe_model_block *block,
                         size_t num_tokens)
{
    size_t width = block->experts->hidden_size, hidden_size = hidden_size_of(block);
    struct expert latent = load_expert(block->latent, 0);
    norm_rows(sum, sum_err, block->layer->latent_norm, num_tokens, width);
    for (size_t t = 0; t < num_tokens; t++)
        linear(out + t * hidden_size, bound + t * hidden_size, latent.down, latent.down_bias, sum + t * width,
               sum_err + t * width, hidden_size, width);
    free_expert(&latent);
}

static void add_bias(double *out, double *bound, const struct moe_view *view, size_t num_tokens, size_t hidden_size)
{
    double *bias = moe_ref_alloc(hidden_size, sizeof *bias);
    if (view->base != NULL)
        moe_ref_read(bias, view, 0, hidden_size);
    for (size_t i = 0; view->base != NULL && i < num_tokens * hidden_size; i++) {
        out[i] += bias[i % hidden_size];
        bound[i] += MOE_REF_UNIT * (fabs(out[i]) + bound[i]);
    }
    free(bias);
}

static void add_shared(const struct moe_model_block *block, const struct moe_ref_call *call, double *bound)
{
    size_t hidden_size = hidden_size_of(block);
    const struct moe_shared *shared = block->layer->shared;
    struct expert expert = load_expert(block->shared, 0);
    double *y = moe_ref_alloc(2 * hidden_size, sizeof *y), *err = y + hidden_size, *gate = NULL, *bias = NULL;
    if (shared != NULL && shared->gate_kind == MOE_SHARED_SIGMOID)
        gate = load_matrix(&bias, shared->gate, 1, hidden_size, 0);
    for (size_t t = 0; t < call->num_tokens; t++) {
        const double *x = call->x + t * hidden_size;
        double scale = 1, scale_err = 0;
        run_expert(y, err, &expert, x, NULL, call->activations);
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

/* From pairs to out: out = norm((routed_scale * sum + shared) * out_scale + out_bias). */
static void finish(const struct moe_model_block *block, const struct moe_ref_call *call, double *bound,
                   const double *y, const double *err, const int64_t *matrices, const double *weights, size_t top_k)
{
    const struct moe_layer_params *layer = block->layer;
    size_t width = block->experts->hidden_size, hidden_size = hidden_size_of(block), num_tokens = call->num_tokens;
    double *sum = moe_ref_alloc(2 * num_tokens * width, sizeof *sum), *sum_err = sum + num_tokens * width;
    combine(sum, sum_err, call, y, err, matrices, weights, width, top_k, !layer->weight_on_input);
    scale(sum, sum_err, layer->routed_scale, num_tokens * width);
    for (size_t i = 0; block->latent == NULL && i < num_tokens * width; i++) {
        call->out[i] = sum[i];
        bound[i] = sum_err[i];
    }
    if (block->latent != NULL)
        leave_latent(call->out, bound, sum, sum_err, block, num_tokens);
    if (block->shared != NULL && !call->no_shared && !call->combine)
        add_shared(block, call, bound);
    scale(call->out, bound, layer->out_scale, num_tokens * hidden_size);
    add_bias(call->out, bound, &layer->out_bias, num_tokens, hidden_size);
    norm_rows(call->out, bound, layer->out_norm, num_tokens, hidden_size);
    free(sum);
}

void moe_ref_layer(const struct moe_model_block *block, const struct moe_ref_call *call)
{
    size_t width = block->experts->hidden_size, top_k = call->top_k != 0 ? call->top_k : block->layer->top_k;
    size_t num_experts = ids_of(block), num_pairs = call->num_tokens * top_k;
    size_t num_out = call->pairs ? num_pairs * width : call->num_tokens * hidden_size_of(block);
    int64_t *ids = moe_ref_alloc(num_pairs, sizeof *ids), *matrices = moe_ref_alloc(num_pairs, sizeof *matrices);
    double *weights = moe_ref_alloc(num_pairs, sizeof *weights);
    double *y = moe_ref_alloc(num_pairs * width, sizeof *y);
    double *err = moe_ref_alloc(num_pairs * width, sizeof *err);
    double *bound = moe_ref_alloc(num_out, sizeof *bound);

    route(ids, weights, block, call, num_experts, top_k);
    for (size_t i = 0; i < num_pairs; i++) {
        matrices[i] = find_matrix(block, call, ids[i], num_experts);
        if (call->out_ids != NULL)
            call->out_ids[i] = ids[i];
        if (call->out_weights != NULL)
            call->out_weights[i] = weights[i];
    }
    if (!call->combine)
        run_pairs(y, err, block, call, matrices, weights, top_k);
    for (size_t i = 0; call->combine && i < num_pairs * width; i++)
        y[i] = call->x[i];
    for (size_t i = 0; call->pairs && i < num_out; i++) {
        call->out[i] = y[i];
        bound[i] = err[i] + MOE_REF_UNIT * fabs(y[i]);
    }
    if (!call->pairs)
        finish(block, call, bound, y, err, matrices, weights, top_k);
    for (size_t i = 0; call->bound != NULL && i < num_out; i++)
        call->bound[i] = bound[i];
    free(bound);
    free(err);
    free(y);
    free(weights);
    free(matrices);
    free(ids);
}
