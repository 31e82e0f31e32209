// SPDX-License-Identifier: MIT
// How far a kernel may be from the definition, where more than one test asks.
#include <math.h>

#include "support.h"

/* act(g): 4 roundings to f32 (exp within 2, a sum, a quotient). A swish rounds its argument z too, which moves e^-z by
 * z roundings, of which 1 - sigmoid(z) reach the result. */
static double act_roundings(const struct moe_act *act, double g)
{
    double z = act->kind == MOE_ACT_SWISH ? act->alpha * g : 0;
    return 4 + fabs(z) / (1 + exp(z));
}

/* What u becomes before the offset is added. */
static double up_of(const struct moe_act *act, double u)
{
    if (act->clamp != MOE_CLAMP_NONE)
        u = fmax(fmin(u, act->limit), -act->limit);
    return act->kind == MOE_ACT_SITU && act->beta_up > 0 ? act->beta_up * tanh(u / act->beta_up) : u;
}

/* Where act(g) is below 2^-120 a kernel may give 0. Then SITU's limit of u, the offset's sum and the product
 * round. */
double test_glu_bound(const struct moe_act *act, double g, double u, bool gated)
{
    double act_g = moe_ref_glu(act, g, 0, false);
    double clamped = act->clamp == MOE_CLAMP_BEFORE && g > act->limit ? act->limit : g;
    double error = act_roundings(act, clamped) * MOE_REF_UNIT * fabs(act_g) + 0x1p-120;
    if (!gated)
        return error;
    double up = up_of(act, u), factor = fabs(up + act->up_offset), soft = act->kind == MOE_ACT_SITU ? fabs(up) : 0;
    return error * factor + MOE_REF_UNIT * fabs(act_g) * (2 * factor + soft) + 0x1p-149;
}
