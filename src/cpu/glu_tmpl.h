// SPDX-License-Identifier: MIT
// Body of glu, plain C for the compiler's vectoriser: each level compiles it with its own flags. Parameter: GLU_FN the
// kernel's name. Values are worked on in blocks of a constant size, so that no level needs other code for the rest of a
// row; every operation is one of IEEE, none is fused, so the bits are those of the level c.
#include <string.h>

#include "cpu/kernels.h"
#include "exp.h"

#if !defined(GLU_FN)
#error "glu_tmpl.h needs GLU_FN"
#endif

enum {
    RUN = 64,      /* values that go through all steps while they stay in the first cache */
    BLOCK = 16     /* values that a step takes at once: a vector of the widest level */
};

static inline float upper_bound(float value, float limit)
{
    return value > limit ? limit : value;
}

static inline float lower_bound(float value, float limit)
{
    return value < limit ? limit : value;
}

static inline float swish(float g, float alpha)
{
    return g / (1.0f + moe_expf(-(alpha * g)));
}

/* Both GELUs in double: near g = -5 the factor of g is a small difference of large terms. */
static inline float gelu_tanh(float g)
{
    double z = 0.79788456080286536 * ((double)g + 0.044715 * (double)g * (double)g * (double)g);
    return (float)((double)g / (1.0 + moe_exp(-2.0 * z)));      /* (1 + tanh z) / 2 = 1 / (1 + e^-2z) */
}

static inline float gelu_erf(float g)
{
    return (float)(0.5 * (double)g * moe_erfc(-0.70710678118654752 * (double)g));    /* 1 + erf z = erfc(-z) */
}

/* In double: both factors take an exp, and 1 - 2 / (1 + e^x) cancels in f32. */
static inline float situ(float g, float beta)
{
    return (float)((double)beta * moe_tanh((double)g / (double)beta) / (1.0 + moe_exp(-(double)g)));
}

static inline float soft_limit(float u, float beta)
{
    return (float)((double)beta * moe_tanh((double)u / (double)beta));
}

/* value becomes expression, for each value of whole blocks. */
#define EACH(values, n, value, expression)                   \
    for (size_t start_ = 0; start_ < (n); start_ += BLOCK) { \
        float *block_ = (values) + start_;                   \
        for (size_t i_ = 0; i_ < BLOCK; i_++) {              \
            float value = block_[i_];                        \
            block_[i_] = (expression);                       \
        }                                                    \
    }

static void act_run(float *a, size_t n, const struct moe_act *act)
{
    const float alpha = act->alpha, beta = act->beta;
    switch (act->kind) {
    case MOE_ACT_SWISH:
        EACH(a, n, g, swish(g, alpha))
        break;
    case MOE_ACT_GELU_TANH:
        EACH(a, n, g, gelu_tanh(g))
        break;
    case MOE_ACT_GELU_ERF:
        EACH(a, n, g, gelu_erf(g))
        break;
    case MOE_ACT_RELU:
        EACH(a, n, g, g < 0.0f ? 0.0f : g)
        break;
    case MOE_ACT_RELU2:
        EACH(a, n, g, g < 0.0f ? 0.0f : g * g)
        break;
    case MOE_ACT_SITU:
        EACH(a, n, g, situ(g, beta))
        break;
    }
}

/* a *= what becomes of u. */
static void up_run(float *a, float *u, size_t n, const struct moe_act *act)
{
    const float limit = act->limit, beta = act->beta_up, offset = act->up_offset;
    if (act->clamp != MOE_CLAMP_NONE)
        EACH(u, n, value, upper_bound(lower_bound(value, -limit), limit))
    if (act->kind == MOE_ACT_SITU && beta > 0.0f)
        EACH(u, n, value, soft_limit(value, beta))
    for (size_t i = 0; i < n; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            a[i + j] *= u[i + j] + offset;
}

/* n values, and what is left of the last block. */
static inline void copy_blocks(float *restrict out, const float *restrict in, size_t n)
{
    size_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            out[i + j] = in[i + j];
    if (i < n)
        memcpy(out + i, in + i, (n - i) * sizeof *out);
}

moe_glu_fn GLU_FN;
void GLU_FN(float *y, const float *g, const float *u, size_t n, const struct moe_act *act, bool gated)
{
    _Alignas(64) float a[RUN] = {0}, up[RUN] = {0};
    const float limit = act->limit;
    for (size_t start = 0; start < n; start += RUN) {
        size_t run = n - start < RUN ? n - start : RUN, padded = (run + BLOCK - 1) / BLOCK * BLOCK;
        copy_blocks(a, g + start, run);
        if (act->clamp == MOE_CLAMP_BEFORE)
            EACH(a, padded, value, upper_bound(value, limit))
        act_run(a, padded, act);
        if (act->clamp == MOE_CLAMP_AFTER)
            EACH(a, padded, value, upper_bound(value, limit))
        if (gated) {
            copy_blocks(up, u + start, run);
            up_run(a, up, padded, act);
        }
        copy_blocks(y + start, a, run);
    }
}

#undef EACH
#undef GLU_FN
