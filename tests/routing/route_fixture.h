// SPDX-License-Identifier: MIT
// One row through src/route.c and through src/ref, compared, and results worked out by hand beside them: for the test
// programs of this folder.
#ifndef MOE_TEST_ROUTE_FIXTURE_H
#define MOE_TEST_ROUTE_FIXTURE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "route.h"
#include "support.h"

enum { MAX_EXPERTS = 896 };
#define NO_NUMBER ((double)NAN)
#define ENDLESS ((double)INFINITY)

/* Weights are rounded to f32 once: half a unit, and a little for the double arithmetic before. */
#define MAX_ULPS 0.51

struct result {
    int64_t ids[MAX_EXPERTS];
    float weights[MAX_EXPERTS];
    bool finite;
};

/* The defaults that the core fills in before it routes. */
static inline struct moe_router router_of(const struct moe_routing *routing, const float *bias, size_t num_experts)
{
    struct moe_router router = {.num_experts = num_experts, .select = routing->select, .weight = routing->weight};
    if (router.weight == MOE_SCORE_DEFAULT)
        router.weight = MOE_SCORE_SOFTMAX;
    if (router.select == MOE_SCORE_DEFAULT)
        router.select = router.weight == MOE_SCORE_SOFTMAX_TOPK || router.weight == MOE_SCORE_SPARSEMIXER
                            ? MOE_SCORE_LOGIT
                            : router.weight;
    router.selection_bias = bias;
    router.num_groups = routing->num_groups;
    router.top_groups = routing->top_groups;
    router.group_score = routing->group_score;
    router.group_mask_zero = routing->group_mask_zero;
    router.renorm = routing->renorm;
    router.renorm_eps = routing->renorm_eps;
    router.scale = routing->scale != 0 ? routing->scale : 1;
    router.softcap = routing->softcap;
    router.renorm_p = routing->renorm_p;
    router.sparsemixer_eps = routing->sparsemixer_eps;
    router.expert_scale = routing->expert_scale.base;
    router.num_always = routing->num_always;
    return router;
}

static inline void explain(const struct moe_routing *r, const float *bias, size_t num_experts, size_t top_k)
{
    print_error("select %d weight %d bias %d groups %zu/%zu score %d mask0 %d renorm %d eps %g p %g scale %g "
                "cap %g always %zu, %zu of %zu\n",
                (int)r->select, (int)r->weight, bias != NULL, r->top_groups, r->num_groups, (int)r->group_score,
                r->group_mask_zero, (int)r->renorm, (double)r->renorm_eps, (double)r->renorm_p,
                (double)r->scale, (double)r->softcap, r->num_always, top_k, num_experts);
}

/* Route by both (bias of the experts that compete, expert_scale as dense f32), compare, and give back what src/route.c
 * found. */
static inline void route_both(struct result *out, const struct moe_routing *routing, const float *bias,
                              const double *logits, size_t num_experts, size_t top_k)
{
    struct moe_routing ref_routing = *routing;
    if (bias != NULL)
        ref_routing.selection_bias =
            test_view(bias, (num_experts - routing->num_always) * sizeof *bias, 0, MOE_FORMAT_F32);
    int64_t ids[MAX_EXPERTS];
    double weights[MAX_EXPERTS];
    bool finite = moe_ref_route(&ref_routing, num_experts, top_k, logits, ids, weights);

    struct moe_router router = router_of(routing, bias, num_experts);
    int32_t *out_ids = test_alloc(top_k * sizeof *out_ids);
    float *out_weights = test_alloc(top_k * sizeof *out_weights);
    double *scratch = test_alloc(moe_route_scratch(num_experts) * sizeof *scratch);
    out->finite = moe_route_row(&router, logits, NULL, top_k, out_ids, out_weights, scratch);
    bool same = out->finite == finite;
    for (size_t k = 0; k < top_k; k++) {
        out->ids[k] = out_ids[k];
        out->weights[k] = out_weights[k];
        same = same && out_ids[k] == ids[k] && test_ulps(out_weights[k], weights[k]) <= MAX_ULPS;
    }
    for (size_t k = 0; !same && k < top_k; k++)
        print_error("slot %zu: id %lld weight %.9g, definition %lld %.17g\n", k, (long long)out->ids[k],
                    (double)out->weights[k], (long long)ids[k], weights[k]);
    if (!same)
        explain(routing, bias, num_experts, top_k);
    assert_true(same);
    test_release(out_ids);
    test_release(out_weights);
    test_release(scratch);
}

/* ---- results worked out by hand ---- */

static inline void expect(const struct moe_routing *routing, const float *bias, const double *logits,
                          size_t num_experts, size_t top_k, const int64_t *ids, const double *weights)
{
    struct result result;
    route_both(&result, routing, bias, logits, num_experts, top_k);
    for (size_t k = 0; k < top_k; k++) {
        assert_int_equal(result.ids[k], ids[k]);
        test_assert_most(test_ulps(result.weights[k], weights[k]), 1, "weight");
    }
}
#define EXPECT(routing, bias, logits, ids, weights) \
    expect(routing, bias, logits, sizeof(logits) / sizeof *(logits), sizeof(ids) / sizeof *(ids), ids, weights)

/* ---- a layer, open in both ways ---- */

enum { HIDDEN_SIZE = 40 };

struct pair {
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct test_layer layer;
    struct test_handle handles[2];    /* fused, composed */
};

static inline void make_layer(struct test_layer *layer, struct test_rng *rng, size_t num_experts, size_t top_k,
                              size_t hidden_size, bool router, bool router_bias)
{
    struct test_layer_spec spec = {
        .experts = {.num_experts = num_experts, .hidden_size = hidden_size, .intermediate_size = 8,
                    .gate = MOE_FORMAT_F32, .up = MOE_FORMAT_F32, .down = MOE_FORMAT_F32},
        .top_k = top_k, .router = router, .router_bias = router_bias, .router_format = MOE_FORMAT_BF16};
    test_layer_init(layer, rng, &spec);
}

/* layer.routing is complete. */
static inline void open_pair(struct pair *pair)
{
    pair->backend = test_backend("cpu");
    pair->ctx = test_context(pair->backend, 2);
    test_handle_open(&pair->handles[0], pair->backend, &pair->layer, 0);
    test_handle_open(&pair->handles[1], pair->backend, &pair->layer, MOE_LAYER_FORCE_COMPOSED);
}

static inline void close_pair(struct pair *pair)
{
    for (size_t i = 0; i < 2; i++)
        test_handle_close(&pair->handles[i]);
    moe_context_destroy(pair->ctx);
    moe_backend_close(pair->backend);
    test_layer_free(&pair->layer);
}

#endif
