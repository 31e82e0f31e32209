// SPDX-License-Identifier: MIT
// Routing of one token: keys, groups, the top_k best, weights. All in double, so that a choice depends on the logits
// and not on how their scores were rounded.
#include "route.h"

#include <math.h>
#include <string.h>

#include "route_score.h"

size_t moe_route_scratch(size_t num_experts)
{
    return 4 * num_experts; /* keys, group scores, keys of the chosen, capped logits */
}

/* NaN ranks below everything, also below -inf; equal keys keep their order. */
static bool ranks_before(double a, double b)
{
    return a > b || (isnan(b) && !isnan(a));
}

static void add_bias(const struct moe_router *router, double *keys)
{
    if (router->selection_bias == NULL)
        return;
    for (size_t e = 0; e < router->num_experts - router->num_always; e++)
        keys[e] += (double)router->selection_bias[e];
}

static double group_score(const struct moe_router *router, const double *keys, size_t size)
{
    double best = -INFINITY, second = -INFINITY;
    for (size_t i = 0; i < size; i++) {
        if (keys[i] > best) {
            second = best;
            best = keys[i];
        } else if (keys[i] > second) {
            second = keys[i];
        }
    }
    if (router->group_score == MOE_GROUP_MAX || size == 1)
        return best;
    return second == -INFINITY ? -INFINITY : best + second;
}

/* Keep the keys of the top_groups best groups. A group is dropped if top_groups others rank before it. */
static void mask_groups(const struct moe_router *router, double *keys, double *scores)
{
    size_t size = (router->num_experts - router->num_always) / router->num_groups;
    for (size_t g = 0; g < router->num_groups; g++)
        scores[g] = group_score(router, keys + g * size, size);
    for (size_t g = 0; g < router->num_groups; g++) {
        size_t before = 0;
        for (size_t other = 0; other < router->num_groups; other++)
            before += scores[other] > scores[g] || (scores[other] == scores[g] && other < g);
        if (before < router->top_groups)
            continue;
        for (size_t e = g * size; e < (g + 1) * size; e++)
            if (!isnan(keys[e]))
                keys[e] = router->group_mask_zero ? 0.0 : -INFINITY;
    }
}

/* ids of the top_k best keys, best first. An expert enters behind those of equal key, so the lower id wins. */
static void choose(const double *keys, size_t num_experts, size_t top_k, int32_t *ids, double *best)
{
    size_t count = 0;
    for (size_t e = 0; e < num_experts; e++) {
        if (count == top_k && !ranks_before(keys[e], best[count - 1]))
            continue;
        size_t slot = count < top_k ? count++ : count - 1;
        for (; slot > 0 && ranks_before(keys[e], best[slot - 1]); slot--) {
            best[slot] = best[slot - 1];
            ids[slot] = ids[slot - 1];
        }
        best[slot] = keys[e];
        ids[slot] = (int32_t)e;
    }
}

/* The last num_always ids in the last slots, the best of the others before them. */
static void choose_all(const struct moe_router *router, const double *keys, size_t top_k, int32_t *ids, double *best)
{
    size_t always = router->num_always < top_k ? router->num_always : top_k;
    size_t others = router->num_experts - router->num_always;
    if (top_k > always)
        choose(keys, others, top_k - always, ids, best);
    for (size_t i = 0; i < always; i++)
        ids[top_k - always + i] = (int32_t)(others + i);
}

bool moe_route_row(const struct moe_router *router, const double *logits, const int32_t *chosen, size_t top_k,
                   int32_t *ids, float *weights, double *scratch)
{
    size_t num_experts = router->num_experts;
    bool finite = false;
    for (size_t e = 0; e < num_experts && !finite; e++)
        finite = isfinite(logits[e]);
    if (!finite) {
        for (size_t k = 0; k < top_k; k++) {
            ids[k] = (int32_t)k;
            weights[k] = 0.0f;
        }
        return false;
    }
    double *keys = scratch, *group_scores = keys + num_experts, *best = group_scores + num_experts;
    double *capped = best + num_experts;
    struct moe_route_softmax all;
    if (router->softcap > 0.0f) {
        moe_route_score_cap(capped, logits, num_experts, (double)router->softcap);
        logits = capped;
    }
    moe_route_score_keys(router, keys, &all, logits);
    if (chosen != NULL) {
        memcpy(ids, chosen, top_k * sizeof *ids);
    } else {
        add_bias(router, keys);
        if (router->num_groups > 1)
            mask_groups(router, keys, group_scores);
        choose_all(router, keys, top_k, ids, best);
    }
    moe_route_score_weigh(router, weights, &all, logits, ids, top_k, best, keys);
    return true;
}

const int32_t *moe_route_hash(const struct moe_router *router, int64_t token_id)
{
    if (token_id < 0 || (uint64_t)token_id >= router->hash_rows)
        return NULL;
    return router->hash_table + (size_t)token_id * router->hash_cols;
}

/* ---- the norm of the router's input ---- */

void moe_route_squares(double *lanes, const float *x, size_t count)
{
    size_t c = 0;
    for (; c + MOE_ROUTE_LANES <= count; c += MOE_ROUTE_LANES)
        for (size_t i = 0; i < MOE_ROUTE_LANES; i++)
            lanes[i] += (double)x[c + i] * (double)x[c + i];
    for (size_t i = 0; c + i < count; i++)
        lanes[i] += (double)x[c + i] * (double)x[c + i];
}

void moe_route_norm(const struct moe_router *router, double *logits, const double *lanes, size_t hidden_size)
{
    double sum = 0.0, size = (double)hidden_size;
    for (size_t i = 0; i < MOE_ROUTE_LANES; i++)
        sum += lanes[i];
    double divisor = sqrt(sum / size + (double)router->norm_eps);
    if (router->norm_unit)
        divisor *= sqrt(size);
    if (divisor == 0.0)    /* of zeros: zeros */
        divisor = 1.0;
    for (size_t e = 0; e < router->num_experts; e++) {
        logits[e] /= divisor;
        if (router->host_bias != NULL)
            logits[e] += (double)router->host_bias[e];
    }
}
