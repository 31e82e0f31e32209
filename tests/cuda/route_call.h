// SPDX-License-Identifier: MIT
// One call of src/cuda/route.h on the emulated device, and what it must give: ids and weights by src/ref, the plan by a
// counting sort. For kernel_route*.cu.
#ifndef MOE_TEST_ROUTE_CALL_H
#define MOE_TEST_ROUTE_CALL_H

#include <math.h>
#include <vector>

#include "cuda/route.h"
#include "emulate.h"

extern "C" {
#include "support.h"
}

/* Weights are rounded to f32 once: half a unit, and a little for the double arithmetic before. With the layer's router
 * the sums of logits have another order than here: some 1e-15, of which a softmax makes no more than 100 times that. */
#define MAX_ULPS 0.51

#define OK(call) assert_int_equal(call, cudaSuccess)

enum route_source { FROM_LOGITS, FROM_ROUTER, FROM_IDS };

struct route_case {
    struct moe_routing routing;    /* plain fields; arrays are below */
    size_t num_tokens = 1, top_k = 1, num_experts = 1, num_zero = 0, num_matrices = 0, hidden_size = 0;
    enum route_source source = FROM_LOGITS;
    enum moe_format format = MOE_FORMAT_F32, weights_format = MOE_FORMAT_F32, matrix_format = MOE_FORMAT_F32;
    enum moe_format integers = MOE_FORMAT_I32;
    size_t padding = 0;            /* bytes after each row of the caller's */
    bool bias = false, scale = false, hash = false, matrix_bias = false, map = false, sorts = true, weights = true;
    bool counts = true, outs = true;
    bool has_live = false;
    int32_t live = 0;
    bool one_token = false;        /* all tokens have the same x */
    bool zeros = false;            /* ... which is 0 */
    size_t hash_rows = 5;
    void (*fill)(struct test_rng *rng, double *logits, size_t num_experts) = NULL;
};

/* Device memory of a call, poisoned, and freed at its end. */
struct route_memory {
    std::vector<void *> blocks;
    ~route_memory()
    {
        for (void *block : blocks)
            cudaFree(block);
    }
    void *take(size_t size)
    {
        void *block = NULL;
        OK(cudaMalloc(&block, size > 0 ? size : 1));
        OK(cudaMemset(block, 0xff, size));
        OK(cudaDeviceSynchronize());
        blocks.push_back(block);
        return block;
    }
    template <class T> T *array(size_t count)
    {
        return (T *)take(count * sizeof(T));
    }
    template <class T> T *copy(const std::vector<T> &values)
    {
        T *array = (T *)take(values.size() * sizeof(T));
        for (size_t i = 0; i < values.size(); i++)
            array[i] = values[i];
        return array;
    }
};

struct route_result {
    std::vector<int32_t> ids;
    std::vector<float> weights;
    std::vector<double> logits;    /* of the layer's router */
};

/* ---- the caller's memory ---- */

static void route_store(unsigned char *at, enum moe_format format, double value)
{
    const float single = (float)value;
    const int32_t narrow = format == MOE_FORMAT_I32 ? (int32_t)value : 0;
    const int64_t wide = format == MOE_FORMAT_I64 ? (int64_t)value : 0;
    if (format == MOE_FORMAT_I32)
        memcpy(at, &narrow, sizeof narrow);
    else if (format == MOE_FORMAT_I64)
        memcpy(at, &wide, sizeof wide);
    else
        assert_int_equal(moe_format_quantise(format, at, &single, 1, 1), MOE_OK);
}

/* Rows of a view, a guarded allocation of their own; values become what the format can hold of them. */
static struct moe_cuda_rows route_rows(route_memory &memory, std::vector<double> &values, size_t rows, size_t cols,
                                       enum moe_format format, size_t padding)
{
    const size_t bytes = moe_format_row_bytes(format, 1), stride = cols * bytes + padding;
    struct moe_cuda_rows view = {memory.array<unsigned char>((rows - 1) * stride + cols * bytes), stride,
                                 (int32_t)format};
    for (size_t i = 0; i < rows * cols; i++) {
        unsigned char *at = view.data + i / cols * stride + i % cols * bytes;
        route_store(at, format, values[i]);
        values[i] = moe_ref_value(format, at);
    }
    return view;
}

/* ---- the definition ---- */

struct route_expected {
    std::vector<int64_t> ids;
    std::vector<double> weights;
    unsigned long long nonfinite = 0, skipped = 0;
};

struct route_data {
    std::vector<double> logits, x, ids, weights, token_ids;
    std::vector<float> matrix, matrix_bias, bias, scale;
    std::vector<int32_t> hash, map;
    struct moe_routing routing;
    size_t live;
};

/* The layer's router, as moe.h defines it. */
static void route_logits(const route_case &c, route_data &d, size_t t)
{
    double mean = 0;
    for (size_t i = 0; i < c.hidden_size; i++)
        mean += d.x[t * c.hidden_size + i] * d.x[t * c.hidden_size + i] / (double)c.hidden_size;
    for (size_t e = 0; e < c.num_experts; e++) {
        double sum = 0;
        for (size_t i = 0; i < c.hidden_size; i++)
            sum += d.x[t * c.hidden_size + i] * (double)d.matrix[e * c.hidden_size + i];
        if (c.routing.norm != NULL && sum != 0) {
            sum /= sqrt(mean + (double)c.routing.norm->eps);
            sum = c.routing.norm->unit ? sum / sqrt((double)c.hidden_size) : sum;
        }
        d.logits[t * c.num_experts + e] = sum + (c.matrix_bias ? (double)d.matrix_bias[e] : 0);
    }
}

static route_expected route_define(const route_case &c, route_data &d)
{
    route_expected out;
    out.ids.assign(c.num_tokens * c.top_k, -1);
    out.weights.assign(c.num_tokens * c.top_k, 0);
    for (size_t t = 0; t < d.live; t++) {
        int64_t *ids = &out.ids[t * c.top_k];
        double *weights = &out.weights[t * c.top_k];
        if (c.source == FROM_IDS) {
            for (size_t k = 0; k < c.top_k; k++) {
                const double id = d.ids[t * c.top_k + k];
                ids[k] = id >= 0 && id < (double)c.num_experts ? (int64_t)id : -1;
                weights[k] = c.weights ? d.weights[t * c.top_k + k] : 0;
            }
            continue;
        }
        if (c.source == FROM_ROUTER)
            route_logits(c, d, t);
        out.nonfinite += !moe_ref_route_token(&d.routing, c.num_experts, c.top_k, c.top_k,
                                              c.hash ? (int64_t)d.token_ids[t] : 0, &d.logits[t * c.num_experts], ids,
                                              weights);
    }
    return out;
}

static int32_t route_matrix(const route_case &c, const route_data &d, int64_t id)
{
    if (id < 0 || (c.map && d.map[(size_t)id] == -1))
        return MOE_CUDA_SKIPPED;
    if ((size_t)id >= c.num_experts - c.num_zero)
        return MOE_CUDA_ZERO;
    const int64_t matrix = c.map ? d.map[(size_t)id] : id;
    return matrix >= 0 && (size_t)matrix < c.num_matrices ? (int32_t)matrix : MOE_CUDA_SKIPPED;
}

/* ---- data ---- */

static void route_fill(const route_case &c, route_data &d, struct test_rng *rng)
{
    const size_t pairs = c.num_tokens * c.top_k, competing = c.num_experts - c.routing.num_always;
    struct test_rng own = {test_random(rng)};    /* x and matrix do not depend on the number of tokens */
    d.live = c.num_tokens;
    if (c.has_live)
        d.live = c.live < 0 ? 0 : (size_t)c.live < c.num_tokens ? (size_t)c.live : c.num_tokens;
    d.logits.resize(c.num_tokens * c.num_experts);
    for (size_t t = 0; t < c.num_tokens; t++) {
        std::vector<float> row(c.num_experts);
        test_fill_heavy(rng, row.data(), 1, c.num_experts, 1.5);
        if (c.fill != NULL)
            c.fill(rng, &d.logits[t * c.num_experts], c.num_experts);
        for (size_t e = 0; c.fill == NULL && e < c.num_experts; e++)
            d.logits[t * c.num_experts + e] = (double)row[e];
    }
    for (size_t e = 0; e < c.num_experts; e++) {
        d.bias.push_back(0.25f * (float)((int)test_below(rng, 9) - 4));
        d.scale.push_back(0.5f + (float)test_below(rng, 7));
        d.matrix_bias.push_back((float)test_gaussian(rng));
        d.map.push_back(test_below(rng, 4) == 0 ? -1 : (int32_t)test_below(rng, c.num_matrices + 2));
    }
    for (size_t i = 0; i < pairs; i++) {
        const bool wild = test_below(rng, 8) == 0;
        d.ids.push_back(wild ? (double)((int64_t)test_below(rng, 3 * c.num_experts + 2) - (int64_t)c.num_experts)
                             : (double)test_below(rng, c.num_experts));
        d.weights.push_back(test_gaussian(rng));
    }
    for (size_t i = 0; i < c.num_tokens; i++)
        d.token_ids.push_back((double)test_below(rng, c.hash_rows + 2) - 1);
    for (size_t i = 0; i < c.hash_rows * c.top_k; i++)
        d.hash.push_back((int32_t)test_below(rng, c.num_experts));
    d.x.resize(c.num_tokens * c.hidden_size);
    for (size_t i = 0; i < d.x.size(); i++)
        d.x[i] = c.zeros ? 0 : c.one_token && i >= c.hidden_size ? d.x[i - c.hidden_size] : test_gaussian(&own);
    d.matrix.resize(c.num_experts * c.hidden_size);
    for (float &w : d.matrix)
        w = (float)moe_ref_round(c.matrix_format, 0.2 * test_gaussian(&own));
    d.routing = c.routing;
    if (c.bias)
        d.routing.selection_bias = test_view(d.bias.data(), competing * sizeof(float), 0, MOE_FORMAT_F32);
    if (c.scale)
        d.routing.expert_scale = test_view(d.scale.data(), c.num_experts * sizeof(float), 0, MOE_FORMAT_F32);
    if (c.hash) {
        d.routing.hash_table = test_view(d.hash.data(), d.hash.size() * sizeof(int32_t), 0, MOE_FORMAT_I32);
        d.routing.hash_rows = c.hash_rows;
    }
}

/* The defaults that the core fills in, and device copies. */
static struct moe_cuda_router route_router(const route_case &c, const route_data &d, route_memory &memory)
{
    const struct moe_routing &routing = c.routing;
    struct moe_cuda_router router = {};
    router.weight = routing.weight != MOE_SCORE_DEFAULT ? routing.weight : MOE_SCORE_SOFTMAX;
    const bool of_logits = router.weight == MOE_SCORE_SOFTMAX_TOPK || router.weight == MOE_SCORE_SPARSEMIXER;
    router.select = routing.select != MOE_SCORE_DEFAULT ? routing.select
                    : of_logits                         ? (int32_t)MOE_SCORE_LOGIT
                                                        : router.weight;
    router.group_score = routing.group_score;
    router.renorm = routing.renorm;
    router.num_groups = (uint32_t)routing.num_groups;
    router.top_groups = (uint32_t)routing.top_groups;
    router.num_always = (uint32_t)routing.num_always;
    router.group_mask_zero = routing.group_mask_zero;
    router.norm = routing.norm != NULL;
    router.norm_unit = routing.norm != NULL && routing.norm->unit;
    router.norm_eps = routing.norm != NULL ? routing.norm->eps : 0;
    router.softcap = routing.softcap;
    router.renorm_eps = routing.renorm_eps;
    router.renorm_p = routing.renorm_p;
    router.sparsemixer_eps = routing.sparsemixer_eps;
    router.scale = routing.scale != 0 ? routing.scale : 1;
    router.selection_bias = c.bias ? memory.copy(d.bias) : NULL;
    router.expert_scale = c.scale ? memory.copy(d.scale) : NULL;
    router.bias = c.matrix_bias ? memory.copy(d.matrix_bias) : NULL;
    router.hash_table = c.hash ? memory.copy(d.hash) : NULL;
    router.hash_rows = c.hash_rows;
    router.hash_cols = c.top_k;
    if (c.source != FROM_ROUTER)
        return router;
    const size_t padded = (c.hidden_size + 3) / 4 * 4, bytes = moe_format_row_bytes(c.matrix_format, 1);
    router.matrix_stride = (uint32_t)padded + 8;
    router.matrix_format = c.matrix_format;
    unsigned char *matrix = memory.array<unsigned char>((c.num_experts * router.matrix_stride - 8) * bytes);
    for (size_t e = 0; e < c.num_experts; e++)
        for (size_t i = 0; i < padded; i++)
            route_store(matrix + (e * router.matrix_stride + i) * bytes, c.matrix_format,
                        i < c.hidden_size ? (double)d.matrix[e * c.hidden_size + i] : 0);
    router.matrix = matrix;
    return router;
}

/* ---- comparison ---- */

static void route_explain(const route_case &c, const char *what, size_t pair)
{
    const struct moe_routing &r = c.routing;
    print_error("%s of pair %zu: source %d, %zu tokens, %zu of %zu (%zu zero), %zu matrices, live %d (%d), map %d, "
                "hash %d; "
                "select %d weight %d bias %d groups %zu/%zu score %d mask0 %d renorm %d eps %g p %g scale %g cap %g "
                "always %zu\n",
                what, pair, (int)c.source, c.num_tokens, c.top_k, c.num_experts, c.num_zero, c.num_matrices,
                c.live, c.has_live, c.map, c.hash, (int)r.select, (int)r.weight, c.bias, r.top_groups, r.num_groups,
                (int)r.group_score, r.group_mask_zero, (int)r.renorm, (double)r.renorm_eps, (double)r.renorm_p,
                (double)r.scale, (double)r.softcap, r.num_always);
    fail();
}
#define SAME(condition, what, pair)            \
    do {                                       \
        if (!(condition))                      \
            route_explain(c, what, (pair));    \
    } while (0)

/* A counting sort of the expected pairs. */
static void route_compare_plan(const route_case &c, const route_data &d, const struct moe_cuda_routing &r,
                               route_expected &expected)
{
    const size_t pairs = c.num_tokens * c.top_k;
    std::vector<std::vector<size_t>> of_matrix(c.num_matrices);
    for (size_t p = 0; p < pairs; p++) {
        const int32_t matrix = route_matrix(c, d, expected.ids[p]);
        expected.skipped += matrix == MOE_CUDA_SKIPPED && p < d.live * c.top_k;
        if (matrix >= 0 && c.sorts)
            of_matrix[(size_t)matrix].push_back(p);
        else
            SAME(r.places[p] == matrix, "place", p);
    }
    if (!c.sorts)
        return;
    size_t place = 0, active = 0;
    for (size_t m = 0; m < c.num_matrices; m++) {
        if (of_matrix[m].empty())
            continue;
        SAME(r.active[active] == (int32_t)m && r.starts[active] == (int32_t)place, "matrix", of_matrix[m][0]);
        active++;
        for (size_t p : of_matrix[m]) {
            SAME(r.sorted[place] == (int32_t)p && r.places[p] == (int32_t)place, "place", p);
            place++;
        }
    }
    SAME(*r.num_active == (int32_t)active && r.starts[active] == (int32_t)place, "end", pairs);
}

static void route_compare(const route_case &c, const route_data &d, const struct moe_cuda_routing &r,
                          const std::vector<int64_t> &counts_before, route_expected &expected)
{
    std::vector<int64_t> counts = counts_before;
    for (size_t p = 0; p < c.num_tokens * c.top_k; p++) {
        const size_t t = p / c.top_k, k = p % c.top_k;
        SAME(r.pair_ids[p] == expected.ids[p], "id", p);
        SAME(test_ulps(r.pair_weights[p], expected.weights[p]) <= MAX_ULPS, "weight", p);
        if (c.outs) {
            const int32_t id = ((const int32_t *)(r.out_ids.data + t * r.out_ids.stride))[k];
            const float weight = ((const float *)(r.out_weights.data + t * r.out_weights.stride))[k];
            SAME(id == r.pair_ids[p], "out_ids", p);
            SAME(memcmp(&weight, &r.pair_weights[p], sizeof weight) == 0, "out_weights", p);
        }
        if (expected.ids[p] >= 0)
            counts[(size_t)expected.ids[p]]++;
    }
    route_compare_plan(c, d, r, expected);
    for (size_t e = 0; c.counts && e < c.num_experts; e++)
        SAME(r.expert_counts[e] == counts[e], "count", e);
    SAME(r.counters->nonfinite_rows == 7 + expected.nonfinite, "nonfinite_rows", 0);
    SAME(r.counters->skipped_pairs == 9 + expected.skipped, "skipped_pairs", 0);
}

/* ---- a call ---- */

/* Run and compare everything; seed decides all data. launches, if wanted: how many there were. */
static route_result route_run(const route_case &given, uint64_t seed, size_t *launches = NULL)
{
    route_case c = given;
    c.num_matrices = c.num_matrices > 0 ? c.num_matrices : c.num_experts - c.num_zero;
    struct test_rng rng = {seed};
    route_memory memory;
    route_data d;
    route_fill(c, d, &rng);
    const size_t pairs = c.num_tokens * c.top_k;
    struct moe_cuda_routing r = {};
    r.num_tokens = (uint32_t)c.num_tokens;
    r.top_k = (uint32_t)c.top_k;
    r.num_experts = (uint32_t)c.num_experts;
    r.num_zero_experts = (uint32_t)c.num_zero;
    r.num_matrices = (uint32_t)c.num_matrices;
    r.hidden_size = (uint32_t)c.hidden_size;
    r.sorts = c.sorts;
    if (c.source != FROM_IDS)
        r.router = route_router(c, d, memory);
    if (c.source == FROM_LOGITS)
        r.logits = route_rows(memory, d.logits, c.num_tokens, c.num_experts, c.format, c.padding);
    if (c.source == FROM_ROUTER)
        r.router_x = route_rows(memory, d.x, c.num_tokens, c.hidden_size, c.format, c.padding);
    if (c.source == FROM_IDS)
        r.ids = route_rows(memory, d.ids, c.num_tokens, c.top_k, c.integers, 2 * c.padding);
    if (c.source == FROM_IDS && c.weights)
        r.weights = route_rows(memory, d.weights, c.num_tokens, c.top_k, c.weights_format, c.padding);
    if (c.hash)
        r.token_ids = route_rows(memory, d.token_ids, c.num_tokens, 1, c.integers, 2 * c.padding);
    if (c.outs) {
        r.out_ids = {memory.array<unsigned char>(pairs * 4 + c.num_tokens * 8), c.top_k * 4 + 8, MOE_FORMAT_I32};
        r.out_weights = {memory.array<unsigned char>(pairs * 4 + c.num_tokens * 12), c.top_k * 4 + 12, MOE_FORMAT_F32};
    }
    r.expert_map = c.map ? memory.copy(d.map) : NULL;
    r.live_tokens = c.has_live ? memory.copy(std::vector<int32_t>(1, c.live)) : NULL;
    const std::vector<int64_t> counts(c.num_experts, 1000);
    r.expert_counts = c.counts ? memory.copy(counts) : NULL;
    r.counters = memory.copy(std::vector<struct moe_cuda_counters>(1, {7, 9}));
    r.pair_ids = memory.array<int32_t>(pairs);
    r.pair_weights = memory.array<float>(pairs);
    r.places = memory.array<int32_t>(pairs);
    if (c.sorts) {
        r.num_active = memory.array<int32_t>(1);
        r.active = memory.array<int32_t>(c.num_matrices);
        r.starts = memory.array<int32_t>(c.num_matrices + 1);
        r.sorted = memory.array<int32_t>(pairs);
    }
    size_t logits, histogram;
    assert_true(moe_cuda_route_scratch(&r, &logits, &histogram));
    r.router_logits = c.source == FROM_ROUTER ? memory.array<double>(logits) : NULL;
    r.histogram = histogram > 0 ? memory.array<uint32_t>(histogram) : NULL;
    const size_t before = moe_emulate_count().launches;
    OK(moe_cuda_route(&r, NULL, true));
    OK(cudaDeviceSynchronize());
    moe_emulate_check();
    if (launches != NULL)
        *launches = moe_emulate_count().launches - before;
    route_expected expected = route_define(c, d);
    route_compare(c, d, r, counts, expected);
    route_result result;
    result.ids.assign(r.pair_ids, r.pair_ids + pairs);
    result.weights.assign(r.pair_weights, r.pair_weights + pairs);
    if (r.router_logits != NULL)
        result.logits.assign(r.router_logits, r.router_logits + d.live * c.num_experts);
    return result;
}

#endif
