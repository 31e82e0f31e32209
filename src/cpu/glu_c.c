// SPDX-License-Identifier: MIT
// Activations in plain C: one loop for each kind, over runs of values that stay in the first cache.
#include "cpu/kernels.h"
#include "exp.h"

enum { RUN = 64 };

static float upper_bound(float value, float limit)
{
    return value > limit ? limit : value;
}

/* Both GELUs in double: near g = -5 the factor of g is a small difference of large terms. */
static float gelu_tanh(float g)
{
    double z = 0.79788456080286536 * ((double)g + 0.044715 * (double)g * (double)g * (double)g);
    return (float)((double)g / (1.0 + moe_exp(-2.0 * z)));      /* (1 + tanh z) / 2 = 1 / (1 + e^-2z) */
}

static float gelu_erf(float g)
{
    return (float)(0.5 * (double)g * moe_erfc(-0.70710678118654752 * (double)g));    /* 1 + erf z = erfc(-z) */
}

/* In double: both factors take an exp, and 1 - 2 / (1 + e^x) cancels in f32. */
static float situ(float g, float beta)
{
    return (float)((double)beta * moe_tanh((double)g / (double)beta) / (1.0 + moe_exp(-(double)g)));
}

static float soft_limit(float u, float beta)
{
    return (float)((double)beta * moe_tanh((double)u / (double)beta));
}

static void act_run(float *y, const float *g, size_t n, const struct moe_act *act)
{
    const float alpha = act->alpha;
    switch (act->kind) {
    case MOE_ACT_SWISH:
        for (size_t i = 0; i < n; i++)
            y[i] = g[i] / (1.0f + moe_expf(-(alpha * g[i])));
        break;
    case MOE_ACT_GELU_TANH:
        for (size_t i = 0; i < n; i++)
            y[i] = gelu_tanh(g[i]);
        break;
    case MOE_ACT_GELU_ERF:
        for (size_t i = 0; i < n; i++)
            y[i] = gelu_erf(g[i]);
        break;
    case MOE_ACT_RELU:
        for (size_t i = 0; i < n; i++)
            y[i] = g[i] < 0.0f ? 0.0f : g[i];
        break;
    case MOE_ACT_RELU2:
        for (size_t i = 0; i < n; i++)
            y[i] = g[i] < 0.0f ? 0.0f : g[i] * g[i];
        break;
    case MOE_ACT_SITU:
        for (size_t i = 0; i < n; i++)
            y[i] = situ(g[i], act->beta);
        break;
    }
}

/* y = a * (u + offset) */
static void offset_run(float *y, const float *a, const float *u, size_t n, float offset)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] * (u[i] + offset);
}

/* SITU's u, clamped first if there is a clamp. */
static void soft_limit_run(float *y, const float *u, size_t n, const struct moe_act *act)
{
    for (size_t i = 0; i < n; i++) {
        float value = u[i];
        if (act->clamp != MOE_CLAMP_NONE)
            value = upper_bound(value < -act->limit ? -act->limit : value, act->limit);
        y[i] = soft_limit(value, act->beta_up);
    }
}

static void up_run(float *y, const float *a, const float *u, size_t n, const struct moe_act *act)
{
    const float limit = act->limit, offset = act->up_offset;
    if (act->clamp == MOE_CLAMP_NONE) {
        offset_run(y, a, u, n, offset);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float clamped = u[i] < -limit ? -limit : u[i];
        y[i] = a[i] * (upper_bound(clamped, limit) + offset);
    }
}

moe_glu_fn moe_glu_c;
void moe_glu_c(float *y, const float *g, const float *u, size_t n, const struct moe_act *act, bool gated)
{
    float a[RUN], limited[RUN];
    for (size_t start = 0; start < n; start += RUN) {
        size_t run = n - start < RUN ? n - start : RUN;
        for (size_t i = 0; i < run; i++)
            a[i] = act->clamp == MOE_CLAMP_BEFORE ? upper_bound(g[start + i], act->limit) : g[start + i];
        act_run(a, a, run, act);
        for (size_t i = 0; act->clamp == MOE_CLAMP_AFTER && i < run; i++)
            a[i] = upper_bound(a[i], act->limit);
        if (!gated) {
            for (size_t i = 0; i < run; i++)
                y[start + i] = a[i];
        } else if (act->kind == MOE_ACT_SITU && act->beta_up > 0.0f) {
            soft_limit_run(limited, u + start, run, act);
            offset_run(y + start, a, limited, run, act->up_offset);
        } else {
            up_run(y + start, a, u + start, run, act);
        }
    }
}
