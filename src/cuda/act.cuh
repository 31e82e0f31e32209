// SPDX-License-Identifier: MIT
// struct moe_act on the device: h = act(g) * (u + up_offset), clamped as it says. Results are rounded to bf16, or
// bounded as docs/numerics.md says for glu: CUDA's expf, tanhf and erff are within 2 ulp.
#ifndef MOE_CUDA_ACT_CUH
#define MOE_CUDA_ACT_CUH

#include "cuda/call.h"
#include "cuda/ptx.cuh"
#include "moe/moe.h"

MOE_DEVICE float moe_act_value(const struct moe_cuda_act &act, float g)
{
    switch (act.kind) {
    case MOE_ACT_GELU_TANH:
        return 0.5f * g * (1.0f + tanhf(0.7978845608028654f * (g + 0.044715f * g * g * g)));
    case MOE_ACT_GELU_ERF:
        return 0.5f * g * (1.0f + erff(g * 0.7071067811865476f));
    case MOE_ACT_RELU:
        return g > 0.0f || g != g ? g : 0.0f;
    case MOE_ACT_RELU2:
        return g > 0.0f || g != g ? g * g : 0.0f;
    case MOE_ACT_SITU:
        return act.beta * tanhf(g / act.beta) / (1.0f + expf(-g));
    default:
        return g / (1.0f + expf(-act.alpha * g));
    }
}

/* NaN stays NaN, as on the CPU. */
MOE_DEVICE float moe_act_clamp(float value, float low, float high)
{
    return value < low ? low : value > high ? high : value;
}

/* Everything but the common case, out of line. */
static __device__ __noinline__ float moe_act_any(const struct moe_cuda_act &act, float g, float u, bool gated)
{
    if (act.clamp == MOE_CLAMP_BEFORE)
        g = g > act.limit ? act.limit : g;
    float value = moe_act_value(act, g);
    if (act.clamp == MOE_CLAMP_AFTER)
        value = value > act.limit ? act.limit : value;
    if (!gated)
        return value;
    if (act.clamp != MOE_CLAMP_NONE)
        u = moe_act_clamp(u, -act.limit, act.limit);
    if (act.kind == MOE_ACT_SITU && act.beta_up > 0.0f)
        u = act.beta_up * tanhf(u / act.beta_up);
    return value * (u + act.up_offset);
}

/* moe_act_glu of SWISH without a clamp, gated, bit for bit where `sure` stays true, without a branch, so that several
 * are under way at once: numbers whose quotient a Newton step and a remainder round correctly. */
MOE_DEVICE float moe_act_swish_glu(const struct moe_cuda_act &act, float g, float u, bool *sure)
{
    const float d = 1.0f + expf(-act.alpha * g);
    float r = moe_reciprocal_near(d);
    r = fmaf(r, fmaf(-d, r, 1.0f), r);
    const float q = g * r;
    *sure = *sure && fabsf(g) > 0x1p-60f && fabsf(g) < 0x1p60f && d < 0x1p60f;
    return fmaf(r, fmaf(-d, q, g), q) * (u + act.up_offset);
}

MOE_DEVICE float moe_act_glu(const struct moe_cuda_act &act, float g, float u, bool gated)
{
    if (act.kind == MOE_ACT_SWISH && act.clamp == MOE_CLAMP_NONE && gated)
        return g / (1.0f + expf(-act.alpha * g)) * (u + act.up_offset);
    return moe_act_any(act, g, u, gated);
}

#endif
