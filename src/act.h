// SPDX-License-Identifier: MIT
// The activation functions of struct moe_act for one value, for kernels of any processor. Every operation is one of
// IEEE and none is fused, so that all of them give the same bits.
#ifndef MOE_ACT_H
#define MOE_ACT_H

#include "exp.h"
#include "moe/moe.h"

MOE_INLINE float moe_act_upper_bound(float value, float limit)
{
    return value > limit ? limit : value;
}

MOE_INLINE float moe_act_lower_bound(float value, float limit)
{
    return value < limit ? limit : value;
}

MOE_INLINE float moe_act_swish(float g, float alpha)
{
    return g / (1.0f + moe_expf(-(alpha * g)));
}

/* Both GELUs in double: near g = -5 the factor of g is a small difference of large terms. */
MOE_INLINE float moe_act_gelu_tanh(float g)
{
    double z = 0.79788456080286536 * ((double)g + 0.044715 * (double)g * (double)g * (double)g);
    return (float)((double)g / (1.0 + moe_exp(-2.0 * z)));      /* (1 + tanh z) / 2 = 1 / (1 + e^-2z) */
}

MOE_INLINE float moe_act_gelu_erf(float g)
{
    return (float)(0.5 * (double)g * moe_erfc(-0.70710678118654752 * (double)g));    /* 1 + erf z = erfc(-z) */
}

/* In double: both factors take an exp, and 1 - 2 / (1 + e^x) cancels in f32. */
MOE_INLINE float moe_act_situ(float g, float beta)
{
    return (float)((double)beta * moe_tanh((double)g / (double)beta) / (1.0 + moe_exp(-(double)g)));
}

MOE_INLINE float moe_act_soft_limit(float u, float beta)
{
    return (float)((double)beta * moe_tanh((double)u / (double)beta));
}

/* What becomes of g, with its clamp. */
MOE_INLINE float moe_act_gate(const struct moe_act *act, float g)
{
    float value = act->clamp == MOE_CLAMP_BEFORE ? moe_act_upper_bound(g, act->limit) : g;
    switch (act->kind) {
    case MOE_ACT_SWISH:
        value = moe_act_swish(value, act->alpha);
        break;
    case MOE_ACT_GELU_TANH:
        value = moe_act_gelu_tanh(value);
        break;
    case MOE_ACT_GELU_ERF:
        value = moe_act_gelu_erf(value);
        break;
    case MOE_ACT_RELU:
        value = value < 0.0f ? 0.0f : value;
        break;
    case MOE_ACT_RELU2:
        value = value < 0.0f ? 0.0f : value * value;
        break;
    case MOE_ACT_SITU:
        value = moe_act_situ(value, act->beta);
        break;
    }
    return act->clamp == MOE_CLAMP_AFTER ? moe_act_upper_bound(value, act->limit) : value;
}

/* What that is multiplied with. */
MOE_INLINE float moe_act_up(const struct moe_act *act, float u)
{
    if (act->clamp != MOE_CLAMP_NONE)
        u = moe_act_upper_bound(moe_act_lower_bound(u, -act->limit), act->limit);
    if (act->kind == MOE_ACT_SITU && act->beta_up > 0.0f)
        u = moe_act_soft_limit(u, act->beta_up);
    return u + act->up_offset;
}

#endif
