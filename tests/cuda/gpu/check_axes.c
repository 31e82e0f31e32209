// SPDX-License-Identifier: MIT
// What a layer may have beside plain experts, one thing after another: activations, biases, shared and latent experts,
// zero experts, weights on the input, scales and norms of the sum. Against the definition.
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { NUM_TOKENS = 19, HIDDEN = 128, INNER = 96, NUM_EXPERTS = 8, TOP_K = 2, LATENT = 64 };

/* One case: what differs from a plain layer. */
struct axes {
    const char *name;
    struct moe_act act;
    bool bias, no_gate, shared, shared_gate, latent, zero_experts, on_input, scales, norms, router;
};

static struct moe_act act_of(enum moe_act_kind kind, enum moe_clamp clamp)
{
    struct moe_act act;
    MOE_INIT(&act);
    act.kind = kind;
    act.clamp = clamp;
    act.limit = clamp ? 1.5f : 0;
    act.beta = kind == MOE_ACT_SITU ? 2 : 0;
    act.beta_up = kind == MOE_ACT_SITU ? 3 : 0;
    if (clamp == MOE_CLAMP_BEFORE) {
        act.alpha = kind == MOE_ACT_SWISH ? 1.702f : 0;
        act.up_offset = 1;
    }
    return act;
}

/* All that a case needs beside the experts. */
struct extras {
    struct subject shared, latent;
    struct stack gate, router;
    struct moe_shared shared_params;
    struct moe_norm out_norm, latent_norm;
    struct moe_routing routing;
    struct moe_layer_params params;
    float bias[HIDDEN];
};

static void make_extras(struct gpu *gpu, struct extras *extras, struct rng *rng, const struct axes *axes)
{
    const struct scheme *bf16 = scheme_find("bf16");
    struct moe_layer_params *params = &extras->params;
    *extras = (struct extras){0};
    MOE_INIT(params);
    MOE_INIT(&extras->out_norm);
    MOE_INIT(&extras->routing);
    extras->out_norm.eps = 1e-5f;
    rng_values(rng, extras->bias, HIDDEN, 0.25, MOE_FORMAT_F32);
    if (axes->shared) {
        struct subject_spec spec = {.shape = {HIDDEN, 2 * INNER, 1, 1}, .in = bf16, .down = bf16};
        subject_experts(gpu, &extras->shared, rng, &spec);
        MOE_INIT(&extras->shared_params);
        extras->shared_params.experts = extras->shared.experts;
        params->shared = &extras->shared_params;
    }
    if (axes->shared_gate) {
        stack_init(&extras->gate, rng, bf16, 1, 1, HIDDEN, false);
        extras->shared_params.gate_kind = MOE_SHARED_SIGMOID;
        extras->shared_params.gate = &extras->gate.matrix;
    }
    if (axes->latent) {
        struct subject_spec spec = {.shape = {HIDDEN, LATENT, 1, 1}, .in = bf16, .down = bf16, .no_gate = true};
        subject_experts(gpu, &extras->latent, rng, &spec);
        params->latent = extras->latent.experts;
    }
    if (axes->router) {
        stack_init(&extras->router, rng, bf16, 1, NUM_EXPERTS, HIDDEN, false);
        extras->routing.router = &extras->router.matrix;
    }
    params->num_zero_experts = axes->zero_experts ? 2 : 0;
    params->weight_on_input = axes->on_input;
    if (axes->scales) {
        params->routed_scale = 2.5f;
        params->out_scale = 0.75f;
        params->out_bias = (struct moe_view){extras->bias, 0, sizeof extras->bias, 0, MOE_FORMAT_F32};
    }
    params->out_norm = axes->norms ? &extras->out_norm : NULL;
    params->latent_norm = axes->norms && axes->latent ? &extras->out_norm : NULL;
}

static void free_extras(struct gpu *gpu, struct extras *extras)
{
    subject_free(gpu, &extras->shared);
    subject_free(gpu, &extras->latent);
    stack_free(gpu, &extras->gate);
    stack_free(gpu, &extras->router);
}

static void define(const struct axes *axes, const struct subject *subject, const struct extras *extras, double *out,
                   const float *x, const int32_t *ids, const float *weights)
{
    double *wide = host_alloc(NUM_TOKENS * HIDDEN, sizeof *wide), w[NUM_TOKENS * TOP_K];
    int64_t i64[NUM_TOKENS * TOP_K];
    struct moe_model_block block = {&subject->host_params, axes->shared ? &extras->shared.host_params : NULL,
                                    &subject->layer_params, axes->latent ? &extras->latent.host_params : NULL};
    for (size_t i = 0; i < NUM_TOKENS * HIDDEN; i++)
        wide[i] = x[i];
    for (size_t i = 0; i < NUM_TOKENS * TOP_K; i++) {
        i64[i] = ids[i];
        w[i] = weights[i];
    }
    struct moe_ref_call call = {.num_tokens = NUM_TOKENS, .x = wide, .ids = axes->router ? NULL : i64,
                                .weights = axes->router ? NULL : w, .out = out};
    moe_ref_layer(&block, &call);
    free(wide);
}

struct part {
    const struct axes *axes;
    const char *scheme;
};

static void check_one(struct gpu *gpu, const void *arg)
{
    const struct axes *axes = ((const struct part *)arg)->axes;
    const char *scheme = ((const struct part *)arg)->scheme;
    struct rng rng = {41};
    struct extras extras;
    struct subject subject;
    struct call call;
    size_t num_ids = NUM_EXPERTS + (axes->zero_experts ? 2 : 0);
    float x[NUM_TOKENS * HIDDEN], out[NUM_TOKENS * HIDDEN], weights[NUM_TOKENS * TOP_K];
    int32_t ids[NUM_TOKENS * TOP_K];
    double *exact = host_alloc(NUM_TOKENS * HIDDEN, sizeof *exact);
    make_extras(gpu, &extras, &rng, axes);
    struct subject_spec spec = {.shape = {axes->latent ? LATENT : HIDDEN, INNER, NUM_EXPERTS, TOP_K},
                                .in = scheme_find(scheme), .down = scheme_find(scheme), .bias = axes->bias,
                                .no_gate = axes->no_gate, .act = &axes->act, .params = &extras.params,
                                .routing = axes->router ? &extras.routing : NULL};
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &call, &subject, NUM_TOKENS, MOE_FORMAT_F32, MOE_FORMAT_F32,
              axes->router ? FROM_ROUTER : FROM_IDS);
    rng_values(&rng, x, NUM_TOKENS * HIDDEN, 1, MOE_FORMAT_F32);
    rng_routing(&rng, ids, weights, NUM_TOKENS, num_ids, TOP_K);
    call_set(gpu, &call, NUM_TOKENS, x, axes->router ? NULL : ids, axes->router ? NULL : weights, NULL);
    call_run(gpu, &call, out);
    define(axes, &subject, &extras, exact, x, ids, weights);
    double error = relative_error(out, exact, NUM_TOKENS * HIDDEN);
    check_line(gpu, error <= check_limit(gpu, true), "%s, %s: error %.2e (limit %.1e)%s", axes->name, scheme, error,
               check_limit(gpu, true), subject.info.composed ? ", composed" : "");
    free(exact);
    call_free(gpu, &call);
    subject_free(gpu, &subject);
    free_extras(gpu, &extras);
}

/* The limit is that of weights that are rounded too: a shared, or a latent, expert rounds once more. */
void check_axes(struct gpu *gpu)
{
    const struct axes cases[] = {
        {.name = "GELU (tanh)", .act = act_of(MOE_ACT_GELU_TANH, MOE_CLAMP_NONE)},
        {.name = "GELU (erf)", .act = act_of(MOE_ACT_GELU_ERF, MOE_CLAMP_NONE)},
        {.name = "ReLU", .act = act_of(MOE_ACT_RELU, MOE_CLAMP_NONE)},
        {.name = "squared ReLU without gate", .act = act_of(MOE_ACT_RELU2, MOE_CLAMP_NONE), .no_gate = true},
        {.name = "SiTU", .act = act_of(MOE_ACT_SITU, MOE_CLAMP_NONE)},
        {.name = "SiLU clamped after", .act = act_of(MOE_ACT_SWISH, MOE_CLAMP_AFTER)},
        {.name = "swish clamped before, up + 1, biases", .act = act_of(MOE_ACT_SWISH, MOE_CLAMP_BEFORE), .bias = true},
        {.name = "shared expert", .shared = true},
        {.name = "shared expert with gate, router inside", .shared = true, .shared_gate = true, .router = true},
        {.name = "weight on the input", .on_input = true},
        {.name = "zero experts", .zero_experts = true},
        {.name = "scales and bias of the sum, its norm", .scales = true, .norms = true},
        {.name = "latent experts, shared expert", .latent = true, .shared = true},
        {.name = "latent experts, both norms, scales", .latent = true, .norms = true, .scales = true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_part(gpu, check_one, &(struct part){&cases[i], "bf16"});
        if (!gpu->quick)
            check_part(gpu, check_one, &(struct part){&cases[i], "q8_0"});
    }
}
