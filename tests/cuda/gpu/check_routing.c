// SPDX-License-Identifier: MIT
// Routing on the device, from logits and by the layer's router, against the definition: the same ids, and weights
// within two units in the last place of f32.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { NUM_TOKENS = 33, NUM_EXPERTS = 32, TOP_K = 4, HIDDEN = 64, NUM_ROWS = 3 };

struct routed {
    int32_t ids[NUM_TOKENS * TOP_K];
    float weights[NUM_TOKENS * TOP_K];
};

/* Weights differ by at most this, relative: two units in the last place. By the layer's router logits are f32 sums too,
 * HIDDEN products each off by 2^-24, and a softmax takes their error as relative. */
#define GIVEN_ERROR (4 * MOE_REF_UNIT)
#define ROUTER_ERROR (16 * HIDDEN * MOE_REF_UNIT)

static void compare(struct gpu *gpu, const char *name, const struct moe_routing *routing, const struct routed *out,
                    const double *logits, const int64_t *tokens, bool given)
{
    double worst = 0;
    size_t unlike = 0;
    for (size_t t = 0; t < NUM_TOKENS; t++) {
        int64_t ids[TOP_K];
        double weights[TOP_K];
        moe_ref_route_token(routing, NUM_EXPERTS, TOP_K, TOP_K, tokens[t], logits + t * NUM_EXPERTS, ids, weights);
        for (size_t k = 0; k < TOP_K; k++) {
            size_t i = t * TOP_K + k;
            unlike += out->ids[i] != ids[k];
            double off = fabs(out->weights[i] - weights[k]) / fmax(fabs(weights[k]), 1e-30);
            worst = isnan(off) ? INFINITY : fmax(worst, off);
        }
    }
    check_line(gpu, unlike == 0 && worst <= (given ? GIVEN_ERROR : ROUTER_ERROR),
               "%s, %s: %zu of %d ids unlike, weights off by %.1e (limit %.1e)", name,
               given ? "logits given" : "router inside", unlike, NUM_TOKENS * TOP_K, worst,
               given ? GIVEN_ERROR : ROUTER_ERROR);
}

/* The call's own routing, twice: out_ids and out_weights of a forward, which must be those of moe_layer_route. */
static void run(struct gpu *gpu, struct call *call, const struct moe_view *token_ids, struct routed *out, float *hidden)
{
    struct routed again;
    struct moe_layer_io *io = &call->io;
    struct moe_view ids = gpu_alloc(gpu, sizeof out->ids, MOE_FORMAT_I32);
    struct moe_view weights = gpu_alloc(gpu, sizeof out->weights, MOE_FORMAT_F32);
    io->out_ids = ids;
    io->out_weights = weights;
    io->token_ids = *token_ids;
    call_run(gpu, call, hidden);
    gpu_read(gpu, out->ids, &ids, sizeof out->ids);
    gpu_read(gpu, out->weights, &weights, sizeof out->weights);
    gpu_poison(gpu, &ids);
    gpu_poison(gpu, &weights);
    check_ok(gpu, moe_layer_route(gpu->ctx, call->subject->layer, io), "moe_layer_route");
    gpu_read(gpu, again.ids, &ids, sizeof again.ids);
    gpu_read(gpu, again.weights, &weights, sizeof again.weights);
    if (memcmp(again.ids, out->ids, sizeof again.ids) || memcmp(again.weights, out->weights, sizeof again.weights))
        check_line(gpu, false, "moe_layer_route and moe_layer_forward disagree");
    gpu_free(gpu, &ids);
    gpu_free(gpu, &weights);
}

/* Rows that no model gives, first: all NaN, one NaN, an infinity where its weight is finite; and equal logits. */
static void make_logits(struct rng *rng, float *logits, bool odd, bool infinite)
{
    rng_values(rng, logits, NUM_TOKENS * NUM_EXPERTS, 2, MOE_FORMAT_F32);
    for (size_t e = 0; odd && e < NUM_EXPERTS; e++) {
        logits[e] = NAN;
        logits[3 * NUM_EXPERTS + e] = 1;
    }
    if (odd)
        logits[NUM_EXPERTS + 5] = NAN;
    if (odd && infinite)
        logits[2 * NUM_EXPERTS + 7] = INFINITY;
}

static void check_one(struct gpu *gpu, const char *name, const struct moe_routing *plain, bool with_router)
{
    struct rng rng = {23};
    struct moe_routing routing = *plain;
    struct stack router;
    struct subject subject;
    struct call call;
    struct moe_stats stats = {.struct_size = sizeof stats};
    stack_init(&router, &rng, scheme_find("bf16"), 1, NUM_EXPERTS, HIDDEN, false);
    if (with_router)
        routing.router = &router.matrix;
    struct subject_spec spec = {.shape = {HIDDEN, HIDDEN, NUM_EXPERTS, TOP_K}, .in = scheme_find("bf16"),
                                .down = scheme_find("bf16"), .routing = &routing};
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &call, &subject, NUM_TOKENS, MOE_FORMAT_F32, MOE_FORMAT_F32,
              with_router ? FROM_ROUTER : FROM_LOGITS);
    float *x = host_alloc(NUM_TOKENS * HIDDEN, sizeof *x);
    float *logits = host_alloc(NUM_TOKENS * NUM_EXPERTS, sizeof *logits);
    float *out = host_alloc(NUM_TOKENS * HIDDEN, sizeof *out);
    double *exact = host_alloc(NUM_TOKENS * NUM_EXPERTS, sizeof *exact);
    int64_t tokens[NUM_TOKENS];
    struct moe_view token_ids = {0};
    for (size_t t = 0; t < NUM_TOKENS; t++)
        tokens[t] = (int64_t)rng_below(&rng, NUM_ROWS);
    tokens[9] = NUM_ROWS;
    tokens[10] = -1;
    if (routing.hash_table.base != NULL) {
        token_ids = gpu_alloc(gpu, sizeof tokens, MOE_FORMAT_I64);
        gpu_write(gpu, &token_ids, tokens, sizeof tokens);
    }
    rng_values(&rng, x, NUM_TOKENS * HIDDEN, 1, MOE_FORMAT_F32);
    make_logits(&rng, logits, routing.weight != MOE_SCORE_SPARSEMIXER && routing.hash_table.base == NULL,
                routing.weight != MOE_SCORE_SQRT_SOFTPLUS && routing.weight != MOE_SCORE_LOGIT);
    struct moe_model_block block = {&subject.host_params, NULL, &subject.layer_params, NULL};
    for (size_t t = 0; t < NUM_TOKENS; t++) {
        double row[HIDDEN];
        for (size_t c = 0; c < HIDDEN; c++)
            row[c] = x[t * HIDDEN + c];
        for (size_t e = 0; e < NUM_EXPERTS; e++)
            exact[t * NUM_EXPERTS + e] = logits[t * NUM_EXPERTS + e];
        if (with_router)
            moe_ref_logits(exact + t * NUM_EXPERTS, &block, row);
    }
    struct routed routed;
    call_set(gpu, &call, NUM_TOKENS, x, NULL, NULL, with_router ? NULL : logits);
    check_ok(gpu, moe_context_stats(gpu->ctx, &stats, true), "moe_context_stats");
    run(gpu, &call, &token_ids, &routed, out);
    compare(gpu, name, &routing, &routed, exact, tokens, !with_router);
    check_ok(gpu, moe_context_stats(gpu->ctx, &stats, true), "moe_context_stats");
    size_t bad = 0, rows = !with_router && isnan(logits[0]) ? 1 : 0;
    for (size_t i = 0; i < NUM_TOKENS * HIDDEN; i++)
        bad += i < rows * HIDDEN ? out[i] != 0 : !isfinite(out[i]);
    if (bad > 0 || stats.nonfinite_rows != 2 * rows)
        check_line(gpu, false, "%s: %zu values that should be 0 or finite are not; %llu rows counted without a finite "
                   "logit, %zu expected", name, bad, (unsigned long long)stats.nonfinite_rows, 2 * rows);
    void *const memory[] = {x, logits, out, exact};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        free(memory[i]);
    gpu_free(gpu, &token_ids);
    call_free(gpu, &call);
    subject_free(gpu, &subject);
    stack_free(gpu, &router);
}

static struct moe_view host_view(const void *data, size_t size, enum moe_format format)
{
    return (struct moe_view){(void *)(uintptr_t)data, 0, size, 0, format};
}

void check_routing(struct gpu *gpu)
{
    struct rng rng = {29};
    float bias[NUM_EXPERTS], scales[NUM_EXPERTS];
    int32_t table[NUM_ROWS * TOP_K];
    rng_values(&rng, bias, NUM_EXPERTS, 0.2, MOE_FORMAT_F32);
    for (size_t e = 0; e < NUM_EXPERTS; e++)
        scales[e] = 0.5f + 0.03125f * (float)e;
    for (size_t i = 0; i < NUM_ROWS * TOP_K; i++)
        table[i] = (int32_t)(i * 5 % NUM_EXPERTS);
    struct moe_routing base;
    MOE_INIT(&base);
    struct {
        const char *name;
        struct moe_routing routing;
        bool router;
    } cases[] = {{"softmax", base, true}, {"softmax, renormalised", base, true}, {"softmax of the chosen", base, true},
                 {"sigmoid, bias, 4 groups of the two best", base, true},
                 {"sigmoid, 8 groups of the best", base, false},
                 {"sqrt of softplus, p-norm", base, false}, {"logit, softcap", base, false},
                 {"sparsemixer", base, false}, {"always chosen", base, false}, {"scales of experts", base, false},
                 {"hash table", base, false}, {"norm of the router's input", base, true}};
    enum { NUM_CASES = sizeof cases / sizeof cases[0] };
    struct moe_norm norm;
    MOE_INIT(&norm);
    norm.eps = 1e-6f;
    cases[1].routing.renorm = MOE_RENORM_ADD_EPS;
    cases[2].routing.weight = MOE_SCORE_SOFTMAX_TOPK;
    for (size_t i = 3; i < 6; i++) {
        cases[i].routing.weight = i < 5 ? MOE_SCORE_SIGMOID : MOE_SCORE_SQRT_SOFTPLUS;
        cases[i].routing.selection_bias = host_view(bias, sizeof bias, MOE_FORMAT_F32);
        cases[i].routing.renorm = i < 5 ? MOE_RENORM_ADD_EPS : MOE_RENORM_P_NORM;
        cases[i].routing.renorm_eps = i < 5 ? 1e-20f : 0;
        cases[i].routing.renorm_p = 2;
        cases[i].routing.scale = 2.5f;
    }
    cases[3].routing.num_groups = 4;
    cases[3].routing.top_groups = 2;
    cases[4].routing.num_groups = 8;
    cases[4].routing.top_groups = 4;
    cases[4].routing.group_score = MOE_GROUP_MAX;
    cases[6].routing.weight = MOE_SCORE_LOGIT;
    cases[6].routing.softcap = 3;
    cases[7].routing.weight = MOE_SCORE_SPARSEMIXER;
    cases[7].routing.sparsemixer_eps = 0.01f;
    cases[8].routing.num_always = 2;
    cases[9].routing.expert_scale = host_view(scales, sizeof scales, MOE_FORMAT_F32);
    cases[10].routing.hash_table = host_view(table, sizeof table, MOE_FORMAT_I32);
    cases[10].routing.hash_rows = NUM_ROWS;
    cases[11].routing.norm = &norm;
    for (size_t i = 0; i < NUM_CASES; i++) {
        if (cases[i].routing.norm == NULL)
            check_one(gpu, cases[i].name, &cases[i].routing, false);
        if (cases[i].router)
            check_one(gpu, cases[i].name, &cases[i].routing, true);
    }
}
