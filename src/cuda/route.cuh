// SPDX-License-Identifier: MIT
// Routing of one token by a team of warps, from logits to ids and weights, as src/route.c does it. The sums have one
// order, whatever the number of warps: lane i of a warp takes the values i, i + 32, ..., then the lanes are added.
#ifndef MOE_CUDA_ROUTE_CUH
#define MOE_CUDA_ROUTE_CUH

#include "cuda/plan.cuh"
#include "cuda/scores.cuh"

enum {
    MOE_ROUTE_WARPS = 16,          /* of a block, at most */
    MOE_ROUTE_CHOOSE_SLOTS = 32,   /* more slots than that are filled by rank */
    MOE_ROUTE_HELD_KEYS = 512      /* so many keys are held in registers while slots are filled */
};

/* What the warps of a team share. */
struct moe_route_notes {
    uint64_t tops[MOE_ROUTE_WARPS];
    uint64_t last_group_key;
    double sum;                    /* of the softmax over all */
    uint32_t last_group;
    uint32_t finite[MOE_ROUTE_WARPS];
};

struct moe_route_team {
    double *logits;                   /* [num_experts], capped */
    uint64_t *keys;                   /* [num_experts]; before that biases, later values[top_k] */
    uint64_t *groups;                 /* [num_groups], keys of groups, before there are ids; the same memory */
    int32_t *ids;                     /* [top_k] */
    struct moe_route_notes *notes;
    uint32_t index, warps;            /* the team in its block; its warps */
    uint32_t part, lane;              /* this thread's warp in the team */
};

static __host__ __device__ inline size_t moe_route_team_bytes(const struct moe_cuda_routing &r)
{
    size_t ids = (size_t)r.top_k * sizeof(int32_t), groups = (size_t)r.router.num_groups * sizeof(uint64_t);
    return (size_t)r.num_experts * 16 + (((ids > groups ? ids : groups) + 15) & ~(size_t)15) +
           ((sizeof(struct moe_route_notes) + 15) & ~(size_t)15);
}

MOE_DEVICE struct moe_route_team moe_route_team_of(const struct moe_cuda_routing &r, unsigned char *memory,
                                                   size_t team_bytes, uint32_t index, uint32_t warps, uint32_t part)
{
    struct moe_route_team team;
    unsigned char *at = memory + index * team_bytes;
    team.logits = (double *)at;
    team.keys = (uint64_t *)(at + (size_t)r.num_experts * 8);
    team.notes = (struct moe_route_notes *)(at + (size_t)r.num_experts * 16);
    team.groups = (uint64_t *)((unsigned char *)team.notes + ((sizeof(struct moe_route_notes) + 15) & ~(size_t)15));
    team.ids = (int32_t *)team.groups;
    team.index = index;
    team.warps = warps;
    team.part = part;
    team.lane = threadIdx.x % 32;
    return team;
}

/* Barriers 1 .. 8: more teams have a warp each. */
MOE_DEVICE void moe_route_sync(const struct moe_route_team &team)
{
    if (team.warps == 1)
        __syncwarp();
    else
        moe_barrier(1 + team.index, 32 * team.warps);
}

/* ---- logits ---- */

/* Logits of token t, softcapped, and biases into shared memory. False: no logit is finite. *max: the largest, if a
 * softmax over all wants it. */
MOE_DEVICE bool moe_route_logits(const struct moe_cuda_routing &r, const struct moe_route_team &team, uint32_t t,
                                 double *max)
{
    const struct moe_cuda_router &router = r.router;
    const uint32_t stride = 32 * team.warps, num_experts = r.num_experts;
    const double cap = (double)router.softcap;
    const bool given = r.logits.data != NULL;
    const uint32_t biased = router.selection_bias != NULL ? num_experts - router.num_always : 0;
    const double *computed = r.router_logits + (size_t)t * num_experts;
    const unsigned char *row = given ? moe_values_row(r.logits, t) : NULL;
    uint64_t top = MOE_KEY_NAN;
    bool finite = false;
    for (uint32_t first = 32 * team.part + team.lane; first < num_experts; first += 4 * stride) {
        uint32_t bits[4] = {};
        double z[4] = {};
        float bias[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t e = first + j * stride;
            bias[j] = e < biased ? __ldg(&router.selection_bias[e]) : 0.0f;
            if (given && e < num_experts)
                bits[j] = moe_value_bits(row, e, r.logits.format);
            else if (e < num_experts)
                z[j] = computed[e];
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t e = first + j * stride;
            if (e >= num_experts)
                break;
            if (given)
                z[j] = (double)moe_value_of_bits(bits[j], r.logits.format);
            finite = finite || fabs(z[j]) < MOE_ENDLESS;
            if (cap > 0.0)
                z[j] = moe_score_cap(z[j], cap);
            team.logits[e] = z[j];
            team.keys[e] = (uint64_t)__double_as_longlong((double)bias[j]);
            uint64_t key = moe_key(z[j]);
            top = key > top ? key : top;
        }
    }
    finite = __any_sync(MOE_ALL_LANES, finite);
    if (router.select == MOE_SCORE_SOFTMAX || router.weight == MOE_SCORE_SOFTMAX)
        top = moe_warp_max(top);
    if (team.warps > 1) {
        if (team.lane == 0) {
            team.notes->tops[team.part] = top;
            team.notes->finite[team.part] = finite;
        }
        moe_route_sync(team);
        for (uint32_t w = 0; w < team.warps; w++) {
            uint64_t other = team.notes->tops[w];
            top = other > top ? other : top;
            finite = finite || team.notes->finite[w] != 0;
        }
    } else {
        __syncwarp();
    }
    *max = top > MOE_KEY_NAN ? moe_key_value(top) : -MOE_ENDLESS;
    return finite;
}

/* The sum of a softmax over all logits: from its terms, where they are the keys, or from logits. */
MOE_DEVICE double moe_route_sum(const struct moe_cuda_routing &r, const struct moe_route_team &team, double max,
                                bool of_keys)
{
    double sum = 0.0;
#pragma unroll 1
    for (uint32_t e = team.lane; e < r.num_experts; e += 32) {
        if (!of_keys)
            sum += moe_score_term(team.logits[e], max);
        else if (team.keys[e] > MOE_KEY_NAN)
            sum += moe_key_value(team.keys[e]);
    }
    return moe_warp_sum(sum);
}

/* ---- keys ---- */

/* The keys of all experts, biased. Of a softmax without bias and groups only the terms: its sum changes no order. */
MOE_DEVICE void moe_route_keys(const struct moe_cuda_routing &r, const struct moe_route_team &team,
                               struct moe_score_softmax *softmax)
{
    const struct moe_cuda_router &router = r.router;
    const uint32_t stride = 32 * team.warps, begin = 32 * team.part + team.lane;
    const bool shares = router.select == MOE_SCORE_SOFTMAX, has_bias = router.selection_bias != NULL;
    const bool divided = shares && (has_bias || router.num_groups > 1);
#pragma unroll 1
    for (uint32_t e = begin; e < r.num_experts; e += stride) {
        const double z = team.logits[e], bias = __longlong_as_double((long long)team.keys[e]);
        double key = z;
        if (z == z && shares)
            key = moe_score_term(z, softmax->max);
        else if (z == z && router.select == MOE_SCORE_SIGMOID)
            key = moe_score_sigmoid(z);
        else if (z == z && router.select == MOE_SCORE_SQRT_SOFTPLUS)
            key = moe_score_sqrt_softplus(z);
        team.keys[e] = moe_key(has_bias && !divided ? key + bias : key);
    }
    moe_route_sync(team);
    if (!divided)
        return;
    softmax->sum = moe_route_sum(r, team, softmax->max, true);
    moe_route_sync(team);
    const uint32_t biased = has_bias ? r.num_experts - router.num_always : 0;
#pragma unroll 1
    for (uint32_t e = begin; e < r.num_experts; e += stride) {
        if (team.keys[e] == MOE_KEY_NAN)
            continue;
        const double key = moe_key_value(team.keys[e]) / softmax->sum;
        team.keys[e] = moe_key(e < biased ? key + (double)__ldg(&router.selection_bias[e]) : key);
    }
    moe_route_sync(team);
}

/* The key of a group's score; NaN counts as -inf in it. One warp. */
MOE_DEVICE uint64_t moe_route_group(const struct moe_cuda_router &router, const uint64_t *keys, uint32_t size,
                                    uint32_t lane)
{
    const uint64_t lowest = moe_key(-MOE_ENDLESS);
    uint64_t best = lowest, second = lowest;
    for (uint32_t i = lane; i < size; i += 32) {
        if (keys[i] > best) {
            second = best;
            best = keys[i];
        } else if (keys[i] > second) {
            second = keys[i];
        }
    }
    const uint64_t top = moe_warp_max(best);
    if (router.group_score == MOE_GROUP_MAX || size == 1)
        return top;
    const uint32_t first = __ffs((int)__ballot_sync(MOE_ALL_LANES, best == top)) - 1;
    const uint64_t other = moe_warp_max(lane == first ? second : best);
    return other == lowest ? lowest : moe_key(moe_key_value(top) + moe_key_value(other));
}

/* Keep the keys of the top_groups best groups: those that do not rank behind the last of them. */
MOE_DEVICE void moe_route_groups(const struct moe_cuda_routing &r, const struct moe_route_team &team)
{
    const struct moe_cuda_router &router = r.router;
    const uint32_t num_groups = router.num_groups, stride = 32 * team.warps, begin = 32 * team.part + team.lane;
    const uint32_t competing = r.num_experts - router.num_always, size = competing / num_groups;
    for (uint32_t g = team.part; g < num_groups; g += team.warps) {
        uint64_t key = moe_route_group(router, team.keys + (size_t)g * size, size, team.lane);
        if (team.lane == 0)
            team.groups[g] = key;
    }
    moe_route_sync(team);
    for (uint32_t g = begin; g < num_groups; g += stride) {
        const uint64_t key = team.groups[g];
        uint32_t before = 0;
        for (uint32_t other = 0; other < num_groups; other++)
            before += team.groups[other] > key || (team.groups[other] == key && other < g);
        if (before == router.top_groups - 1) {
            team.notes->last_group_key = key;
            team.notes->last_group = g;
        }
    }
    moe_route_sync(team);
    const uint64_t last_key = team.notes->last_group_key;
    const uint64_t dropped = moe_key(router.group_mask_zero ? 0.0 : -MOE_ENDLESS);
    const uint32_t last = team.notes->last_group;
    for (uint32_t e = begin; e < competing; e += stride) {
        const uint32_t g = e / size;
        const uint64_t key = team.groups[g];
        if ((key < last_key || (key == last_key && g > last)) && team.keys[e] != MOE_KEY_NAN)
            team.keys[e] = dropped;
    }
    moe_route_sync(team);
}

/* ---- choice ---- */

/* ids of the best keys, best first, one after another: one warp. Each lane holds `per` keys, lane, lane + 32, ...; per
 * is a power of two. */
template <int per>
MOE_DEVICE void moe_route_choose(int32_t *ids, const uint64_t *keys, uint32_t count, uint32_t slots, uint32_t lane)
{
    uint64_t held[per];
#pragma unroll
    for (int i = 0; i < per; i++)
        held[i] = lane + 32 * i < count ? keys[lane + 32 * i] : 0;
#pragma unroll 1
    for (uint32_t slot = 0; slot < slots; slot++) {
        uint64_t best[per];
        uint32_t index[per];
#pragma unroll
        for (int i = 0; i < per; i++) {
            best[i] = held[i];
            index[i] = i;
        }
        /* Neighbours meet, so that the left of two equal keys is the lower. */
#pragma unroll
        for (int step = 1; step < per; step *= 2)
#pragma unroll
            for (int i = 0; i < per; i += 2 * step) {
                const bool better = best[i + step] > best[i];
                best[i] = better ? best[i + step] : best[i];
                index[i] = better ? index[i + step] : index[i];
            }
        const uint32_t e = lane + 32 * index[0], high = (uint32_t)(best[0] >> 32), low = (uint32_t)best[0];
        bool wins = high == __reduce_max_sync(MOE_ALL_LANES, high);
        const uint32_t tied = __ballot_sync(MOE_ALL_LANES, wins);
        if ((tied & (tied - 1)) != 0) {
            const uint32_t top_low = __reduce_max_sync(MOE_ALL_LANES, wins ? low : 0);
            wins = wins && low == top_low;
            const uint32_t first = __reduce_min_sync(MOE_ALL_LANES, wins ? e : 0xffffffffu);
            wins = wins && e == first;
        }
        if (wins)
            ids[slot] = (int32_t)e;
#pragma unroll
        for (int i = 0; i < per; i++)
            held[i] = wins && i == (int)index[0] ? 0 : held[i];
    }
}

/* The same for any count: keys that have been chosen become 0 in shared memory. */
MOE_DEVICE void moe_route_choose_any(int32_t *ids, uint64_t *keys, uint32_t count, uint32_t slots, uint32_t lane)
{
    uint64_t best = 0;
    uint32_t e = lane;
    bool stale = true;
    for (uint32_t slot = 0; slot < slots; slot++) {
        if (stale) {
            best = 0;
#pragma unroll 4
            for (uint32_t i = lane; i < count; i += 32) {
                e = keys[i] > best ? i : e;
                best = keys[i] > best ? keys[i] : best;
            }
            stale = false;
        }
        const bool equal = best == moe_warp_max(best);
        const uint32_t first = __reduce_min_sync(MOE_ALL_LANES, equal ? e : 0xffffffffu);
        if (equal && e == first) {
            ids[slot] = (int32_t)e;
            keys[e] = 0;
            stale = true;
        }
    }
}

/* An expert's slot is the number of those that rank before it: all warps. */
MOE_DEVICE void moe_route_choose_by_rank(const struct moe_route_team &team, uint32_t count, uint32_t slots)
{
    for (uint32_t e = 32 * team.part + team.lane; e < count; e += 32 * team.warps) {
        const uint64_t key = team.keys[e];
        uint32_t rank = 0;
        for (uint32_t other = 0; other < e; other++)
            rank += team.keys[other] >= key;
        for (uint32_t other = e; other < count; other++)
            rank += team.keys[other] > key;
        if (rank < slots)
            team.ids[rank] = (int32_t)e;
    }
    moe_route_sync(team);
}

/* The last num_always ids in the last slots, the best of the others before them. The first warp sees the ids. */
MOE_DEVICE void moe_route_choose_all(const struct moe_cuda_routing &r, const struct moe_route_team &team)
{
    const uint32_t count = r.num_experts - r.router.num_always, slots = r.top_k - r.router.num_always;
    if (slots > MOE_ROUTE_CHOOSE_SLOTS)
        moe_route_choose_by_rank(team, count, slots);
    if (team.part != 0)
        return;
    if (slots <= MOE_ROUTE_CHOOSE_SLOTS) {
        if (count <= 128)
            moe_route_choose<4>(team.ids, team.keys, count, slots, team.lane);
        else if (count <= 256)
            moe_route_choose<8>(team.ids, team.keys, count, slots, team.lane);
        else if (count <= MOE_ROUTE_HELD_KEYS)
            moe_route_choose<16>(team.ids, team.keys, count, slots, team.lane);
        else
            moe_route_choose_any(team.ids, team.keys, count, slots, team.lane);
    }
    for (uint32_t i = team.lane; i < r.router.num_always; i += 32)
        team.ids[slots + i] = (int32_t)(count + i);
    __syncwarp();
}

/* ---- weights: the first warp ---- */

/* Shares of softmaxes over the logits that no slot before has taken and that are close to the slot's own: they become
 * NaN when they are taken. */
MOE_DEVICE void moe_route_sparsemixer(const struct moe_cuda_routing &r, const struct moe_route_team &team,
                                      double *values)
{
    const double limit = 2.0 * (double)r.router.sparsemixer_eps;
    for (uint32_t k = 0; k < r.top_k; k++) {
        const double m = team.logits[team.ids[k]];
        struct moe_score_softmax softmax = {-MOE_ENDLESS, 0.0};
        for (int pass = 0; pass < 2; pass++) {
            uint64_t top = moe_key(-MOE_ENDLESS);
            for (uint32_t e = team.lane; e < r.num_experts; e += 32) {
                const double z = team.logits[e], size = fabs(z) > m ? fabs(z) : m;
                if (z != z || (z < m && (m - z) / size > limit))
                    continue;
                if (pass > 0)
                    softmax.sum += moe_score_term(z, softmax.max);
                else
                    top = moe_key(z) > top ? moe_key(z) : top;
            }
            if (pass == 0)
                softmax.max = moe_key_value(moe_warp_max(top));
        }
        softmax.sum = moe_warp_sum(softmax.sum);
        if (team.lane == 0) {
            values[k] = m == m ? moe_score_share(softmax, m) : 0.0;
            team.logits[team.ids[k]] = (double)NAN;
        }
        __syncwarp();
    }
}

MOE_DEVICE struct moe_score_softmax moe_route_softmax_of_chosen(const struct moe_cuda_routing &r,
                                                                const struct moe_route_team &team)
{
    struct moe_score_softmax softmax = {-MOE_ENDLESS, 0.0};
    uint64_t top = moe_key(-MOE_ENDLESS);
    for (uint32_t k = team.lane; k < r.top_k; k += 32) {
        const uint64_t key = moe_key(team.logits[team.ids[k]]);
        top = key > top ? key : top;
    }
    softmax.max = moe_key_value(moe_warp_max(top));
    for (uint32_t k = team.lane; k < r.top_k; k += 32)
        softmax.sum += moe_score_term(team.logits[team.ids[k]], softmax.max);
    softmax.sum = moe_warp_sum(softmax.sum);
    return softmax;
}

/* values[top_k], before scales; returns their divisor. */
MOE_DEVICE double moe_route_weigh(const struct moe_cuda_routing &r, const struct moe_route_team &team,
                                  struct moe_score_softmax softmax, double *values)
{
    const int kind = r.router.weight;
    if (kind == MOE_SCORE_SPARSEMIXER) {
        moe_route_sparsemixer(r, team, values);
    } else {
        if (kind == MOE_SCORE_SOFTMAX_TOPK)
            softmax = moe_route_softmax_of_chosen(r, team);
        for (uint32_t k = team.lane; k < r.top_k; k += 32)
            values[k] = moe_score_weight(kind, softmax, team.logits[team.ids[k]]);
        __syncwarp();
    }
    return moe_score_divisor(r.router, values, r.top_k, team.lane);
}

/* ---- a token ---- */

enum moe_route_row { MOE_ROUTE_EMPTY, MOE_ROUTE_NONFINITE, MOE_ROUTE_FINITE };

struct moe_route_chosen {
    enum moe_route_row row;
    struct moe_score_softmax softmax;
};

/* The sum of a softmax over all, if weights want it and keys did not: by a warp that chooses nothing, if there is one
 * and keys stay. */
MOE_DEVICE void moe_route_note_sum(const struct moe_cuda_routing &r, const struct moe_route_team &team,
                                   const struct moe_score_softmax &softmax, bool of_keys)
{
    const bool stay = r.num_experts - r.router.num_always <= MOE_ROUTE_HELD_KEYS;
    if (r.router.weight != MOE_SCORE_SOFTMAX || team.part != (stay && team.warps > 1 ? 1u : 0u))
        return;
    const double sum = softmax.sum > 0.0 ? softmax.sum : moe_route_sum(r, team, softmax.max, of_keys);
    if (team.lane == 0)
        team.notes->sum = sum;
}

/* Token t < num_tokens, from live on padding: its ids, into shared memory. A barrier of the team is to follow. */
MOE_DEVICE struct moe_route_chosen moe_route_token(const struct moe_cuda_routing &r, const struct moe_route_team &team,
                                                   uint32_t t, uint32_t live)
{
    const struct moe_cuda_router &router = r.router;
    struct moe_route_chosen result = {MOE_ROUTE_FINITE, {0.0, 0.0}};
    const int32_t *chosen = NULL;
    bool outside = false;
    if (router.hash_table != NULL) {
        const int format = r.token_ids.format;
        const int64_t id =
            moe_value_of_integer_bits(moe_value_integer_bits(moe_values_row(r.token_ids, t), 0, format), format);
        outside = (uint64_t)id >= router.hash_rows;
        chosen = router.hash_table + (outside ? 0 : (uint64_t)id * router.hash_cols);
    }
    /* live comes from memory, too: all loads begin before it is looked at. Logits of padding can be read. */
    const bool finite = moe_route_logits(r, team, t, &result.softmax.max);
    if (t >= live || outside)
        result.row = MOE_ROUTE_EMPTY;
    else if (!finite)
        result.row = MOE_ROUTE_NONFINITE;
    if (result.row == MOE_ROUTE_FINITE && chosen == NULL) {
        moe_route_keys(r, team, &result.softmax);
        if (router.num_groups > 1)
            moe_route_groups(r, team);
    }
    if (result.row == MOE_ROUTE_FINITE)
        moe_route_note_sum(r, team, result.softmax, chosen == NULL && router.select == MOE_SCORE_SOFTMAX);
    if (result.row == MOE_ROUTE_FINITE && chosen == NULL)
        moe_route_choose_all(r, team);
    else if (team.part == 0)
        for (uint32_t k = team.lane; k < r.top_k; k += 32)
            team.ids[k] = result.row == MOE_ROUTE_EMPTY       ? -1
                          : result.row == MOE_ROUTE_NONFINITE ? (int32_t)k
                                                              : chosen[k];
    return result;
}

/* Publish the slots of token t: the first warp of its team, after the barrier. places gets matrices if `matrices`. */
MOE_DEVICE void moe_route_publish(const struct moe_cuda_routing &r, const struct moe_route_team &team, uint32_t t,
                                  uint32_t live, struct moe_route_chosen chosen, bool matrices)
{
    const bool weighs = chosen.row == MOE_ROUTE_FINITE;
    double *values = (double *)team.keys, divisor = 1.0;
    if (weighs && r.router.weight == MOE_SCORE_SOFTMAX)
        chosen.softmax.sum = team.notes->sum;
    if (weighs)
        divisor = moe_route_weigh(r, team, chosen.softmax, values);
    for (uint32_t first = 0; first < r.top_k; first += 32) {
        const uint32_t k = first + team.lane;
        bool skipped = false;
        if (k < r.top_k) {
            const int32_t id = team.ids[k];
            const uint32_t pair = t * r.top_k + k;
            double weight = weighs ? values[k] / divisor * (double)r.router.scale : 0.0;
            if (weighs && r.router.expert_scale != NULL)
                weight *= (double)r.router.expert_scale[id];
            moe_plan_publish(r, pair, id, (float)weight);
            if (matrices) {
                const int32_t matrix = moe_plan_matrix(r, id);
                skipped = t < live && matrix == MOE_CUDA_SKIPPED;
                r.places[pair] = matrix;
            }
        }
        if (matrices)
            moe_plan_count_skipped(r, skipped);
    }
    if (chosen.row == MOE_ROUTE_NONFINITE && team.lane == 0)
        atomicAdd(&r.counters->nonfinite_rows, 1ull);
}

#endif
