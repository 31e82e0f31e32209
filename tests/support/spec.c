// SPDX-License-Identifier: MIT
// Random descriptions of layers over all axes of the public params, within what they allow.
#include "support.h"

#include <string.h>

static bool one_in(struct test_rng *rng, size_t n)
{
    return test_below(rng, n) == 0;
}

static size_t block_values(enum moe_format format)
{
    return moe_format_info(format)->block_values;
}

static enum moe_format plain_format(struct test_rng *rng)
{
    const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16};
    return formats[test_below(rng, 3)];
}

/* k-quants, whose rows are long, less often. */
static enum moe_format any_format(struct test_rng *rng)
{
    size_t count = 0;
    while (moe_format_at(count) != NULL)
        count++;
    enum moe_format format = moe_format_at(test_below(rng, count))->format;
    return block_values(format) > 32 && !one_in(rng, 3) ? MOE_FORMAT_Q8_0 : format;
}

/* A size that is a whole number of blocks of both formats. */
static size_t any_size(struct test_rng *rng, enum moe_format a, enum moe_format b)
{
    size_t block = block_values(a) > block_values(b) ? block_values(a) : block_values(b);
    if (block == 1)
        return 1 + test_below(rng, 90);
    return block * (block > 32 ? 1 : 1 + test_below(rng, 3));
}

static void random_act(struct moe_act *act, struct test_rng *rng)
{
    MOE_INIT(act);
    act->kind = (enum moe_act_kind)test_below(rng, 6);
    act->clamp = (enum moe_clamp)test_below(rng, 3);
    act->limit = act->clamp != MOE_CLAMP_NONE ? (one_in(rng, 2) ? 7.0f : 0.75f) : 0.0f;
    act->alpha = one_in(rng, 2) ? 1.702f : 0.0f;
    act->up_offset = one_in(rng, 2) ? 1.0f : 0.0f;
    act->beta = act->kind == MOE_ACT_SITU ? 4.0f : 0.0f;
    act->beta_up = act->kind == MOE_ACT_SITU && one_in(rng, 2) ? 3.0f : 0.0f;
}

static void random_experts(struct test_experts_spec *spec, struct test_rng *rng)
{
    spec->num_experts = one_in(rng, 8) ? 60 : 1 + test_below(rng, 12);
    spec->layout = (enum test_layout)test_below(rng, TEST_NUM_LAYOUTS);
    spec->no_gate = one_in(rng, 6);
    spec->bias = one_in(rng, 3);
    spec->bias_format = plain_format(rng);
    bool transposed = spec->layout == TEST_TRANSPOSED || spec->layout == TEST_TRANSPOSED_ALTERNATE;
    spec->up = transposed ? plain_format(rng) : any_format(rng);
    spec->gate = transposed ? plain_format(rng) : any_format(rng);
    spec->down = transposed ? plain_format(rng) : any_format(rng);
    if (spec->layout != TEST_DENSE && spec->layout != TEST_BASES && spec->layout != TEST_TRANSPOSED)
        spec->gate = spec->up;
    spec->hidden_size = any_size(rng, spec->gate, spec->up);
    spec->intermediate_size = any_size(rng, spec->down, spec->down);
    if (one_in(rng, 2))
        random_act(&spec->act, rng);
}

/* What few families have, where the rest allows it. The cap is so high that tanh leaves no logits equal. */
static void random_rare_routing(struct test_layer_spec *spec, struct test_rng *rng)
{
    struct moe_routing *routing = &spec->routing;
    if (one_in(rng, 6))
        routing->select = routing->weight = MOE_SCORE_SQRT_SOFTPLUS;
    if (one_in(rng, 10)) {
        routing->select = MOE_SCORE_LOGIT;
        routing->weight = MOE_SCORE_SPARSEMIXER;
        routing->sparsemixer_eps = one_in(rng, 2) ? 0.01f : 0.3f;
    }
    if (one_in(rng, 6)) {
        routing->renorm = MOE_RENORM_P_NORM;
        routing->renorm_p = one_in(rng, 2) ? 2.0f : 1.5f;
    }
    if (one_in(rng, 5))
        routing->softcap = 200.0f;
    if (one_in(rng, 5) && routing->num_groups == 0 && spec->top_k > 1)
        routing->num_always = 1 + test_below(rng, spec->top_k - 1);
}

static void random_routing(struct test_layer_spec *spec, struct test_rng *rng)
{
    struct moe_routing *routing = &spec->routing;
    size_t num_experts = spec->experts.num_experts;
    routing->weight = (enum moe_score)test_below(rng, 5);
    routing->select = (enum moe_score)test_below(rng, 4);
    routing->renorm = (enum moe_renorm)test_below(rng, 3);
    routing->renorm_eps = one_in(rng, 2) ? 1e-20f : 0.0f;
    if (routing->weight == MOE_SCORE_LOGIT)   /* logits of both signs may add up to almost 0 */
        routing->renorm = MOE_RENORM_NONE;
    routing->scale = one_in(rng, 2) ? 2.5f : 0.0f;
    spec->selection_bias = one_in(rng, 2);
    spec->router = one_in(rng, 2);
    spec->router_bias = one_in(rng, 2);
    spec->router_format = plain_format(rng);
    for (size_t groups = 4; groups > 1; groups--) {
        if (num_experts % groups != 0 || one_in(rng, 2))
            continue;
        routing->num_groups = groups;
        routing->top_groups = 1 + test_below(rng, groups);
        routing->group_score = (enum moe_group_score)test_below(rng, 2);
        routing->group_mask_zero = one_in(rng, 3);
        if (spec->top_k > routing->top_groups * (num_experts / groups))
            spec->top_k = routing->top_groups * (num_experts / groups);
        break;
    }
    random_rare_routing(spec, rng);
}

void test_spec_axes(struct test_layer_spec *spec, struct test_rng *rng)
{
    struct test_experts_spec *experts = &spec->experts;
    if (one_in(rng, 3)) {
        spec->latent_format = plain_format(rng);
        spec->hidden_size = any_size(rng, experts->gate, experts->up);
        spec->latent_bias = one_in(rng, 2);
        spec->latent_norm = one_in(rng, 2);
    } else if (one_in(rng, 2) && spec->routing.num_groups == 0) {
        spec->num_zero_experts = 1 + test_below(rng, 4);
    }
    spec->routed_scale = one_in(rng, 3) ? 2.5f : 0.0f;
    spec->out_scale = one_in(rng, 3) ? 0.375f : 0.0f;
    spec->out_bias = one_in(rng, 4);
    spec->out_norm = one_in(rng, 4);
    spec->norm_unit = one_in(rng, 4);
    spec->norm_eps = one_in(rng, 2) ? 1e-6f : 1e-3f;
    if (spec->shared_size != 0 && one_in(rng, 3))
        random_act(&spec->shared_act, rng);
}

void test_spec_random(struct test_layer_spec *spec, struct test_rng *rng)
{
    memset(spec, 0, sizeof *spec);
    random_experts(&spec->experts, rng);
    size_t num_experts = spec->experts.num_experts, most = num_experts < 6 ? num_experts : 6;
    spec->top_k = one_in(rng, 6) && num_experts < 20 ? num_experts : 1 + test_below(rng, most);
    random_routing(spec, rng);
    if (one_in(rng, 2)) {
        spec->shared_size = any_size(rng, spec->experts.down, spec->experts.down);
        spec->shared_gate = one_in(rng, 2);
    }
    spec->weight_on_input = one_in(rng, 5);
    if (one_in(rng, 2))
        test_spec_axes(spec, rng);
}
