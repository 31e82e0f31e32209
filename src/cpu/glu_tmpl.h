// SPDX-License-Identifier: MIT
// Body of glu, plain C for the compiler's vectoriser: each level compiles it with its own flags. Parameter: GLU_FN the
// kernel's name. Values are worked on in blocks of a constant size, so that no level needs other code for the rest of a
// row; every operation is one of IEEE, none is fused, so the bits are those of the level c.
#include <string.h>

#include "act.h"
#include "cpu/kernels.h"

#if !defined(GLU_FN)
#error "glu_tmpl.h needs GLU_FN"
#endif

enum {
    RUN = 64,      /* values that go through all steps while they stay in the first cache */
    BLOCK = 16     /* values that a step takes at once: a vector of the widest level */
};

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
        EACH(a, n, g, moe_act_swish(g, alpha))
        break;
    case MOE_ACT_GELU_TANH:
        EACH(a, n, g, moe_act_gelu_tanh(g))
        break;
    case MOE_ACT_GELU_ERF:
        EACH(a, n, g, moe_act_gelu_erf(g))
        break;
    case MOE_ACT_RELU:
        EACH(a, n, g, g < 0.0f ? 0.0f : g)
        break;
    case MOE_ACT_RELU2:
        EACH(a, n, g, g < 0.0f ? 0.0f : g * g)
        break;
    case MOE_ACT_SITU:
        EACH(a, n, g, moe_act_situ(g, beta))
        break;
    }
}

/* a *= what becomes of u. */
static void up_run(float *a, float *u, size_t n, const struct moe_act *act)
{
    const float limit = act->limit, beta = act->beta_up, offset = act->up_offset;
    if (act->clamp != MOE_CLAMP_NONE)
        EACH(u, n, value, moe_act_upper_bound(moe_act_lower_bound(value, -limit), limit))
    if (act->kind == MOE_ACT_SITU && beta > 0.0f)
        EACH(u, n, value, moe_act_soft_limit(value, beta))
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
            EACH(a, padded, value, moe_act_upper_bound(value, limit))
        act_run(a, padded, act);
        if (act->clamp == MOE_CLAMP_AFTER)
            EACH(a, padded, value, moe_act_upper_bound(value, limit))
        if (gated) {
            copy_blocks(up, u + start, run);
            up_run(a, up, padded, act);
        }
        copy_blocks(y + start, a, run);
    }
}

#undef EACH
#undef GLU_FN
