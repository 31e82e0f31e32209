// SPDX-License-Identifier: MIT
// The definition of everything that libmoe computes, in double precision: what kernels and layers are tested against.
// Written for reading, not for speed; shares no code with src/cpu and src/route.c. For tests only: it allocates, and
// aborts when there is no memory. Params and views hold host memory here.
#ifndef MOE_REF_H
#define MOE_REF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"

/* 2^-24: half a unit in the last place of f32, the largest relative error of one rounding to it. */
#define MOE_REF_UNIT 5.9604644775390625e-8

/* n * unit / (1 - n * unit): the relative error of n roundings to f32, one after the other. A sum of n products in
 * f32, in any order, fused or not, is off by at most moe_ref_gamma(n) * sum |w x|. */
double moe_ref_gamma(size_t n);

/* count values of size bytes, zeroed. */
void *moe_ref_alloc(size_t count, size_t size);

/* The value at an address, any alignment: f32, f16, bf16, e4m3, e8m0, i8, u8, i32, i64. */
double moe_ref_value(enum moe_format format, const void *at);

/* Rounded to f32, f16 or bf16: to nearest, ties to even. */
double moe_ref_round(enum moe_format format, double value);

/* Row i of view [.., cols], values of one block, as doubles. */
void moe_ref_read(double *out, const struct moe_view *view, size_t i, size_t cols);

/* ---- linear ---- */

/* Matrix e of the stack, [rows, cols], as doubles; whatever its strides, bases, transposition, packing and scales. */
void moe_ref_matrix(double *out, const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e);
/* Its bias, [rows]; zeros if it has none. */
void moe_ref_bias(double *out, const struct moe_matrix *matrix, size_t rows, size_t e);

/* y[r] = sum over c of w[r,c] * x[c], + bias[r] (NULL: none); magnitude[r] (NULL: not wanted) the same sum of absolute
 * values, which bounds of rounding errors are multiples of. */
void moe_ref_linear(double *y, double *magnitude, const double *w, const double *bias, const double *x, size_t rows,
                    size_t cols);

/* ---- glu ---- */

/* act(g), without clamps; a swish with alpha 0 is SiLU. */
double moe_ref_act(const struct moe_act *act, double g);
/* act(g) * (u + up_offset), clamped as act says; not gated: act(g), u ignored. act NULL: SiLU. */
double moe_ref_glu(const struct moe_act *act, double g, double u, bool gated);

/* ---- routing ---- */

/* struct moe_routing, word by word: ids[top_k] and weights[top_k]. False for a row without one finite logit. Not for
 * routing with a hash_table. */
bool moe_ref_route(const struct moe_routing *routing, size_t num_experts, size_t top_k, const double *logits,
                   int64_t *ids, double *weights);
/* The same for a token of that id, where there may be a hash_table [hash_rows, hash_cols]; hash_cols is the layer's
 * top_k. Ids -1 and weights 0 for a token id outside the table. */
bool moe_ref_route_token(const struct moe_routing *routing, size_t num_experts, size_t hash_cols, size_t top_k,
                         int64_t token_id, const double *logits, int64_t *ids, double *weights);

/* x / sqrt(mean of x^2 + eps) * scale, and divided by sqrt(size) if unit. norm NULL: x. out may be x. */
void moe_ref_norm(double *out, const struct moe_norm *norm, const double *x, size_t size);

/* ---- layer ---- */

/* What gate, up and down of experts, shared ones too, take activations as, at worst: as they are, rounded to bf16, or
 * to int8 in units of 32 columns, which is coarser still; CHOICE: to int8, or to bf16 with weights rounded to it, too.
 * Only the bound is another one: out has no rounding at all. */
enum moe_ref_activations { MOE_REF_F32, MOE_REF_BF16, MOE_REF_INT8, MOE_REF_CHOICE };

/* One call of a layer. out is [num_tokens, hidden_size], or [num_tokens * top_k, width of the experts] with pairs.
 * Routing comes from ids and weights, else logits, else the layer's router, as in struct moe_layer_io. */
struct moe_ref_call {
    size_t num_tokens, top_k;       /* top_k 0: the layer's */
    const double *x, *router_x;     /* router_x NULL: x */
    const double *logits;
    const int64_t *ids;
    const double *weights;
    const int32_t *expert_map;      /* NULL: identity */
    const int64_t *token_ids;       /* for a hash_table */
    bool pairs;                     /* MOE_OUT_PAIRS */
    bool combine;                   /* moe_layer_combine: x is [num_tokens * top_k, width of the experts] */
    bool no_shared;                 /* leave the shared expert out */
    enum moe_ref_activations activations;
    double *out;
    double *bound;                  /* how far a computation in f32 may be from out; NULL: not wanted */
    int64_t *out_ids;               /* NULL: not wanted */
    double *out_weights;
};

/* block as moe_model_block gives it, host memory; the pointers to struct moe_experts inside are not looked at. */
void moe_ref_layer(const struct moe_model_block *block, const struct moe_ref_call *call);

/* logits of one token: the layer's router, with its bias. */
void moe_ref_logits(double *logits, const struct moe_model_block *block, const double *x);

#endif
