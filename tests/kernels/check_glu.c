// SPDX-License-Identifier: MIT
// moe-check of glu: every activation, clamp and offset, gated or not, over values of all sizes.
#include "check.h"

#include <math.h>
#include <string.h>

enum { MAX_ROW = 300 };

static void glu_row(struct check *check, const struct moe_act *act, size_t n, bool gated)
{
    moe_glu_fn *fn = (moe_glu_fn *)check->row->fn;
    size_t split = test_below(&check->rng, n + 1);
    float *g = test_alloc(n * sizeof *g), *u = test_alloc(n * sizeof *u), *y = test_alloc(n * sizeof *y);
    test_fill_heavy(&check->rng, g, 1, n, 3);
    if (gated)   /* otherwise u stays NaN: it is not read */
        test_fill_heavy(&check->rng, u, 1, n, 3);
    float *in_place = test_copy(g, n * sizeof *g), *before = test_copy(g, n * sizeof *g);
    fn(y, g, u, n, act, gated);
    check_same(check, g, before, n * sizeof *g, "changes g");
    for (size_t i = 0; i < n; i++)
        check_value(check, y[i], moe_ref_glu(act, g[i], u[i], gated), test_glu_bound(act, g[i], u[i], gated));
    fn(in_place, in_place, u, split, act, gated);
    fn(in_place + split, in_place + split, u + split, n - split, act, gated);
    check_same(check, y, in_place, n * sizeof *y, "in place, or in parts, gives other bits");
    test_release(g);
    test_release(u);
    test_release(y);
    test_release(in_place);
    test_release(before);
}

static void test_glu(struct check *check)
{
    static const float alphas[] = {1, 1.702f}, offsets[] = {0, 1};
    struct moe_act act;
    MOE_INIT(&act);
    for (int kind = MOE_ACT_SWISH; kind <= MOE_ACT_SITU; kind++) {
        for (int way = 0; way < 24; way++) {
            act.kind = (enum moe_act_kind)kind;
            act.clamp = (enum moe_clamp)(way % 3);
            act.limit = act.clamp != MOE_CLAMP_NONE ? 7 : 0;
            act.alpha = alphas[way / 3 % 2];
            act.up_offset = offsets[way / 6 % 2];
            act.beta = kind == MOE_ACT_SITU ? 4 : 0;
            act.beta_up = kind == MOE_ACT_SITU && way / 6 % 2 == 0 ? 25 : 0;
            for (size_t n = 0; n < MAX_ROW; n += 1 + n / 10)
                glu_row(check, &act, n, way / 12 == 0);
        }
    }
}

enum { BENCH_ROW = 2048 };
struct row {
    float *g, *u, *y;
    struct moe_act act;
};

static void run_bench(const struct check *check, void *data)
{
    const struct row *row = data;
    ((moe_glu_fn *)check->row->fn)(row->y, row->g, row->u, BENCH_ROW, &row->act, true);
}

static void bench_glu(struct check *check)
{
    static const char *const names[] = {"2048 values, swish", "2048 values, gelu tanh", "2048 values, gelu erf",
                                        "2048 values, relu", "2048 values, relu squared",
                                        "2048 values, situ"};
    struct row row = {test_alloc(BENCH_ROW * 4), test_alloc(BENCH_ROW * 4), test_alloc(BENCH_ROW * 4), {0}};
    test_fill(&check->rng, row.g, BENCH_ROW, 1);
    test_fill(&check->rng, row.u, BENCH_ROW, 1);
    row.act.alpha = 1;
    row.act.beta = 4;
    row.act.beta_up = 25;
    for (int kind = MOE_ACT_SWISH; kind <= MOE_ACT_SITU; kind++) {
        row.act.kind = (enum moe_act_kind)kind;
        bench_report(check, &(struct bench){names[kind], BENCH_ROW * 12.0, 0, run_bench, &row});
    }
    test_release(row.g);
    test_release(row.u);
    test_release(row.y);
}

const struct check_op check_glu = {test_glu, bench_glu};
