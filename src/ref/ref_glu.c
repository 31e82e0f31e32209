// SPDX-License-Identifier: MIT
// Definition of the activations and of the gated product, with the C library's functions in double.
#include "ref/ref.h"

#include <math.h>

static double sigmoid(double v)
{
    return 1 / (1 + exp(-v));
}

/* 0.5 (1 + erf(g / sqrt 2)) by erfc: the sum would cancel for negative g. */
static double gelu_erf(double g)
{
    return 0.5 * g * erfc(-g / sqrt(2));
}

/* 0.5 (1 + tanh v) = sigmoid(2 v): the sum would cancel for negative v. */
static double gelu_tanh(double g)
{
    const double pi = 3.14159265358979323846;
    return g * sigmoid(2 * sqrt(2 / pi) * (g + 0.044715 * g * g * g));
}

double moe_ref_act(const struct moe_act *act, double g)
{
    double alpha = act->alpha != 0 ? act->alpha : 1;
    switch (act->kind) {
    case MOE_ACT_SWISH:
        return g * sigmoid(alpha * g);
    case MOE_ACT_GELU_TANH:
        return gelu_tanh(g);
    case MOE_ACT_GELU_ERF:
        return gelu_erf(g);
    case MOE_ACT_RELU:
        return g < 0 ? 0 : g;
    case MOE_ACT_RELU2:
        return g < 0 ? 0 : g * g;
    case MOE_ACT_SITU:
        return (double)act->beta * tanh(g / act->beta) * sigmoid(g);
    }
    return (double)NAN;
}

/* NaN stays NaN. */
static double at_most(double v, double limit)
{
    return v > limit ? limit : v;
}

static double within(double v, double limit)
{
    return v < -limit ? -limit : at_most(v, limit);
}

double moe_ref_glu(const struct moe_act *act, double g, double u, bool gated)
{
    static const struct moe_act silu = {.kind = MOE_ACT_SWISH};
    if (act == NULL)
        act = &silu;
    double limit = act->limit, value;
    if (act->clamp == MOE_CLAMP_BEFORE)
        value = moe_ref_act(act, at_most(g, limit));
    else if (act->clamp == MOE_CLAMP_AFTER)
        value = at_most(moe_ref_act(act, g), limit);
    else
        value = moe_ref_act(act, g);
    if (!gated)
        return value;
    if (act->clamp != MOE_CLAMP_NONE)
        u = within(u, limit);
    if (act->kind == MOE_ACT_SITU && act->beta_up > 0)
        u = act->beta_up * tanh(u / act->beta_up);
    return value * (u + act->up_offset);
}
