// SPDX-License-Identifier: MIT
// What becomes of slots: ids out of range, expert_map, live_tokens, counts, returned ids and weights, MOE_OUT_PAIRS
// with moe_layer_combine, MOE_ACCUMULATE, ids of 64 bits; against the definition.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { NUM_TOKENS = 21, NUM_EXPERTS = 8, TOP_K = 3, HIDDEN = 96, PAIRS = NUM_TOKENS * TOP_K, LIVE = 13,
       ROUNDED = 1 /* Q8_0 rows of 96 columns, which do not begin at multiples of 16 bytes */ };

struct data {
    float x[NUM_TOKENS * HIDDEN], out[NUM_TOKENS * HIDDEN], weights[PAIRS];
    int32_t ids[PAIRS];
    double exact[NUM_TOKENS * HIDDEN];
};

static const int32_t map[NUM_EXPERTS] = {3, -1, 0, 7, 1, -1, 2, 4};

/* Ids that name no expert among others; one expert twice in a token; a token without any. */
static void make_data(struct data *data)
{
    static const int32_t wrong[] = {-1, NUM_EXPERTS, INT_MAX, INT_MIN, 1 << 20};
    struct rng rng = {31};
    rng_values(&rng, data->x, NUM_TOKENS * HIDDEN, 1, MOE_FORMAT_F32);
    rng_routing(&rng, data->ids, data->weights, NUM_TOKENS, NUM_EXPERTS, TOP_K);
    for (size_t i = 0; i < PAIRS; i += 5)
        data->ids[i] = wrong[i / 5 % 5];
    for (size_t k = 0; k < TOP_K; k++)
        data->ids[4 * TOP_K + k] = wrong[k];
    data->ids[7 * TOP_K] = data->ids[7 * TOP_K + 1] = 6;
}

static bool in_range(int32_t id)
{
    return id >= 0 && id < NUM_EXPERTS;
}

static void define(struct data *data, const struct subject *subject, bool mapped, size_t num_live)
{
    double *x = host_alloc(NUM_TOKENS * HIDDEN, sizeof *x), weights[PAIRS];
    int64_t ids[PAIRS];
    struct moe_model_block block = {&subject->host_params, NULL, &subject->layer_params, NULL};
    for (size_t i = 0; i < NUM_TOKENS * HIDDEN; i++)
        x[i] = data->x[i];
    for (size_t i = 0; i < PAIRS; i++) {
        ids[i] = data->ids[i];
        weights[i] = data->weights[i];
    }
    struct moe_ref_call call = {.num_tokens = num_live, .x = x, .ids = ids, .weights = weights,
                                .expert_map = mapped ? map : NULL, .out = data->exact};
    memset(data->exact, 0, sizeof data->exact);
    moe_ref_layer(&block, &call);
    free(x);
}

/* expert_map and live_tokens or not; all the outputs there are. */
static void check_call(struct gpu *gpu, const struct subject *subject, struct call *call, struct data *data,
                       bool mapped, bool live)
{
    int32_t out_ids[PAIRS], num_live = LIVE;
    float out_weights[PAIRS];
    int64_t counts[NUM_EXPERTS], expected[NUM_EXPERTS];
    size_t bad = 0, skipped = 0, tokens = live ? LIVE : NUM_TOKENS;
    struct moe_stats stats = {.struct_size = sizeof stats};
    struct moe_layer_io *io = &call->io;
    call_set(gpu, call, NUM_TOKENS, data->x, data->ids, data->weights, NULL);
    struct moe_view views[] = {gpu_alloc(gpu, sizeof map, MOE_FORMAT_I32),
                               gpu_alloc(gpu, sizeof num_live, MOE_FORMAT_I32),
                               gpu_alloc(gpu, sizeof out_ids, MOE_FORMAT_I32),
                               gpu_alloc(gpu, sizeof out_weights, MOE_FORMAT_F32),
                               gpu_alloc(gpu, sizeof counts, MOE_FORMAT_I64)};
    for (size_t e = 0; e < NUM_EXPERTS; e++)
        counts[e] = expected[e] = (int64_t)(100 * e);
    gpu_write(gpu, &views[0], map, sizeof map);
    gpu_write(gpu, &views[1], &num_live, sizeof num_live);
    gpu_write(gpu, &views[4], counts, sizeof counts);
    io->expert_map = mapped ? views[0] : (struct moe_view){0};
    io->live_tokens = live ? views[1] : (struct moe_view){0};
    io->out_ids = views[2];
    io->out_weights = views[3];
    io->expert_counts = views[4];
    check_ok(gpu, moe_context_stats(gpu->ctx, &stats, true), "moe_context_stats");
    call_run(gpu, call, data->out);
    check_ok(gpu, moe_context_stats(gpu->ctx, &stats, true), "moe_context_stats");
    gpu_read(gpu, out_ids, &views[2], sizeof out_ids);
    gpu_read(gpu, out_weights, &views[3], sizeof out_weights);
    gpu_read(gpu, counts, &views[4], sizeof counts);
    for (size_t i = 0; i < PAIRS; i++) {
        bool alive = i / TOP_K < tokens, there = alive && in_range(data->ids[i]);
        bad += out_ids[i] != (there ? data->ids[i] : -1);
        bad += out_weights[i] != (alive ? data->weights[i] : 0);
        skipped += alive && (!there || (mapped && map[data->ids[i]] < 0));
        if (there)
            expected[data->ids[i]]++;
    }
    bad += memcmp(counts, expected, sizeof counts) != 0;
    for (size_t i = tokens * HIDDEN; i < NUM_TOKENS * HIDDEN; i++)
        bad += data->out[i] != 0;
    define(data, subject, mapped, tokens);
    double error = relative_error(data->out, data->exact, tokens * HIDDEN);
    check_line(gpu, bad == 0 && error <= check_limit(gpu, ROUNDED) && stats.skipped_pairs == skipped,
               "ids out of range%s%s: error %.2e (limit %.1e), %zu ids, weights, counts or padded values wrong, %llu "
               "pairs skipped of %zu", mapped ? ", expert_map" : "", live ? ", live_tokens" : "", error,
               check_limit(gpu, ROUNDED), bad, (unsigned long long)stats.skipped_pairs, skipped);
    io->expert_map = io->live_tokens = io->out_ids = io->out_weights = io->expert_counts = (struct moe_view){0};
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++)
        gpu_free(gpu, &views[i]);
}

/* The halves of a forward give what it gives in one. */
static void check_pairs(struct gpu *gpu, struct call *call, struct data *data)
{
    struct moe_layer_io *io = &call->io, halves;
    float out[NUM_TOKENS * HIDDEN];
    call_set(gpu, call, NUM_TOKENS, data->x, data->ids, data->weights, NULL);
    call_run(gpu, call, data->out);
    struct moe_view pairs = gpu_alloc(gpu, PAIRS * HIDDEN * sizeof(float), MOE_FORMAT_F32);
    halves = *io;
    halves.flags = MOE_OUT_PAIRS;
    halves.out = pairs;
    check_ok(gpu, moe_layer_forward(gpu->ctx, call->subject->layer, &halves), "forward, MOE_OUT_PAIRS");
    halves.flags = 0;
    halves.x = pairs;
    halves.out = io->out;
    gpu_poison(gpu, &io->out);
    check_ok(gpu, moe_layer_combine(gpu->ctx, call->subject->layer, &halves), "moe_layer_combine");
    call_out(gpu, call, out);
    check_line(gpu, memcmp(out, data->out, sizeof out) == 0, "MOE_OUT_PAIRS, then combine: the bits of the forward");
    float start[NUM_TOKENS * HIDDEN];
    size_t bad = 0;
    for (size_t i = 0; i < NUM_TOKENS * HIDDEN; i++)
        start[i] = (float)(i % 17) - 8;
    gpu_write(gpu, &io->out, start, sizeof start);
    io->flags = MOE_ACCUMULATE;
    call_forward(gpu, call);
    io->flags = 0;
    call_out(gpu, call, out);
    for (size_t i = 0; i < NUM_TOKENS * HIDDEN; i++)
        bad += out[i] != start[i] + data->out[i];
    check_line(gpu, bad == 0, "MOE_ACCUMULATE: %zu values are not the sum, rounded once", bad);
    gpu_free(gpu, &pairs);
}

static void check_wide_ids(struct gpu *gpu, struct call *call, struct data *data)
{
    float out[NUM_TOKENS * HIDDEN];
    int64_t ids[PAIRS];
    call_set(gpu, call, NUM_TOKENS, data->x, data->ids, data->weights, NULL);
    call_run(gpu, call, data->out);
    for (size_t i = 0; i < PAIRS; i++)      /* what is out of range in 64 bits and not in the lower 32, too */
        ids[i] = in_range(data->ids[i]) ? data->ids[i] : ((int64_t)1 << 32) + (int64_t)(i % NUM_EXPERTS);
    struct moe_view wide = gpu_alloc(gpu, sizeof ids, MOE_FORMAT_I64);
    gpu_write(gpu, &wide, ids, sizeof ids);
    call->io.ids = wide;
    call_run(gpu, call, out);
    check_line(gpu, memcmp(out, data->out, sizeof out) == 0, "ids of 64 bits: the bits of those of 32");
    gpu_free(gpu, &wide);
}

void check_slots(struct gpu *gpu)
{
    struct rng rng = {37};
    struct subject subject;
    struct call call;
    struct data *data = host_alloc(1, sizeof *data);
    struct subject_spec spec = {.shape = {HIDDEN, 64, NUM_EXPERTS, TOP_K}, .in = scheme_find("q8_0"),
                                .down = scheme_find("bf16")};
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &call, &subject, NUM_TOKENS, MOE_FORMAT_F32, MOE_FORMAT_F32, FROM_IDS);
    make_data(data);
    for (int i = 0; i < 4; i++)
        check_call(gpu, &subject, &call, data, i & 1, i & 2);
    check_pairs(gpu, &call, data);
    check_wide_ids(gpu, &call, data);
    call_free(gpu, &call);
    subject_free(gpu, &subject);
    free(data);
}
