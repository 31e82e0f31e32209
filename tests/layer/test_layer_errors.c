// SPDX-License-Identifier: MIT
// Mistakes in the arguments of a layer's calls: each has its status, and nothing is written. Sizes of workspace.
#include "layer_fixture.h"

enum { NUM_TOKENS = 5 };
enum view { X, LOGITS, ROUTER_X, IDS, WEIGHTS, MAP, LIVE, OUT, OUT_IDS, OUT_WEIGHTS, COUNTS, WORKSPACE, NUM_VIEWS };

static const struct test_layer_spec base_spec = {
    .experts = {.num_experts = 6, .hidden_size = 16, .intermediate_size = 24}, .top_k = 2, .router = true};

/* A call by ids and weights with every optional view, whose memory is remembered. */
struct call {
    struct fixture f;
    struct moe_layer_io io;
    unsigned char *data[NUM_VIEWS], *before[NUM_VIEWS];
    size_t size[NUM_VIEWS];
};

static struct moe_view *view_of(struct moe_layer_io *io, size_t i)
{
    struct moe_view *views[NUM_VIEWS] = {&io->x, &io->logits, &io->router_x, &io->ids, &io->weights, &io->expert_map,
                                         &io->live_tokens, &io->out, &io->out_ids, &io->out_weights, &io->expert_counts,
                                         &io->workspace};
    return views[i];
}

static void add_view(struct call *call, enum view i, enum moe_format format, size_t rows, size_t cols)
{
    size_t bytes = moe_format_row_bytes(format, cols);
    call->size[i] = rows * bytes;
    call->data[i] = test_alloc(call->size[i]);
    memset(call->data[i], 0, call->size[i]);
    *view_of(&call->io, i) = test_view(call->data[i], call->size[i], bytes, format);
}

static void open_call(struct call *call, const struct test_layer_spec *spec, bool by_ids)
{
    memset(call, 0, sizeof *call);
    fixture_open(&call->f, spec, 1, NUM_TOKENS);
    MOE_INIT(&call->io);
    call->io.num_tokens = NUM_TOKENS;
    add_view(call, X, MOE_FORMAT_F32, NUM_TOKENS, call->f.hidden_size);
    add_view(call, OUT, MOE_FORMAT_F32, NUM_TOKENS, call->f.hidden_size);
    if (by_ids) {
        add_view(call, IDS, MOE_FORMAT_I64, NUM_TOKENS, call->f.top_k);
        add_view(call, WEIGHTS, MOE_FORMAT_F32, NUM_TOKENS, call->f.top_k);
    } else {
        add_view(call, LOGITS, MOE_FORMAT_F32, NUM_TOKENS, call->f.num_experts);
    }
    add_view(call, MAP, MOE_FORMAT_I32, 1, call->f.num_experts);
    add_view(call, LIVE, MOE_FORMAT_I32, 1, 1);
    add_view(call, OUT_IDS, MOE_FORMAT_I32, NUM_TOKENS, call->f.top_k);
    add_view(call, OUT_WEIGHTS, MOE_FORMAT_F32, NUM_TOKENS, call->f.top_k);
    add_view(call, COUNTS, MOE_FORMAT_I64, 1, call->f.num_experts);
    memset(call->data[LIVE], 1, 2);
    /* Room for the larger of the two layers. */
    size_t fused, composed;
    test_assert_ok(moe_layer_workspace_size(call->f.ctx, call->f.fused.layer, &call->io, &fused));
    test_assert_ok(moe_layer_workspace_size(call->f.ctx, call->f.composed.layer, &call->io, &composed));
    add_view(call, WORKSPACE, MOE_FORMAT_F32, 1, ((fused > composed ? fused : composed) + 3) / 4);
    for (size_t i = 0; i < NUM_VIEWS; i++)
        call->before[i] = call->data[i] != NULL ? test_copy(call->data[i], call->size[i]) : NULL;
}

static void close_call(struct call *call)
{
    for (size_t i = 0; i < NUM_VIEWS; i++) {
        test_release(call->data[i]);
        test_release(call->before[i]);
    }
    fixture_close(&call->f);
}

static void expect_from(struct call *call, const struct moe_layer *layer, const struct moe_layer_io *io,
                        enum moe_status expected)
{
    test_assert_status(moe_layer_forward(call->f.ctx, layer, io), expected);
    for (size_t i = 0; i < NUM_VIEWS; i++) {
        if (call->data[i] == NULL)
            continue;
        test_guards(call->data[i]);
        test_assert_same(call->data[i], call->before[i], call->size[i], "memory after an error");
    }
}

static void expect(struct call *call, const struct moe_layer_io *io, enum moe_status expected)
{
    expect_from(call, call->f.fused.layer, io, expected);
    expect_from(call, call->f.composed.layer, io, expected);
}

static void check_view(struct call *call, size_t i)
{
    struct moe_layer_io io = call->io;
    struct moe_view *view = view_of(&io, i), good = *view;
    size_t bytes = moe_format_info(good.format)->block_bytes;
    view->size = good.size - 1;
    expect(call, &io, MOE_ERR_ARGUMENT);
    *view = good;
    view->offset = SIZE_MAX - 7;
    expect(call, &io, MOE_ERR_ARGUMENT);
    *view = good;
    view->base = (char *)good.base - 8;   /* the same memory and a bit: misaligned by half a value */
    view->offset = bytes / 2;
    view->size = good.size + 8;
    expect(call, &io, MOE_ERR_ARGUMENT);
    *view = good;
    const enum moe_format wrong[] = {MOE_FORMAT_Q8_0, (enum moe_format)77, MOE_FORMAT_PRIVATE,
                                     good.format == MOE_FORMAT_F32 ? MOE_FORMAT_I32 : MOE_FORMAT_F32};
    for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
        view->format = wrong[j];
        expect(call, &io, MOE_ERR_ARGUMENT);
    }
    if (i == MAP || i == LIVE || i == COUNTS)
        return;
    *view = good;
    view->stride = good.stride - bytes;
    expect(call, &io, MOE_ERR_ARGUMENT);
    view->stride = SIZE_MAX / bytes * bytes;
    expect(call, &io, MOE_ERR_ARGUMENT);
    view->stride = good.stride + bytes / 2;
    view->size = good.size * 2;
    expect(call, &io, MOE_ERR_ARGUMENT);
    if (i == OUT_IDS || i == OUT_WEIGHTS)   /* may be absent */
        return;
    *view = good;
    view->base = NULL;
    struct moe_layer_io without = io;
    if (i == IDS || i == LOGITS)   /* then the router serves */
        return;
    expect(call, &without, MOE_ERR_ARGUMENT);
}

static void test_views(void **state)
{
    (void)state;
    for (int by_ids = 0; by_ids < 2; by_ids++) {
        struct call call;
        open_call(&call, &base_spec, by_ids);
        for (size_t i = 0; i < WORKSPACE; i++)
            if (call.data[i] != NULL)
                check_view(&call, i);
        /* And the call that all of these were one step away from. */
        test_assert_ok(moe_layer_forward(call.f.ctx, call.f.fused.layer, &call.io));
        test_assert_ok(moe_layer_forward(call.f.ctx, call.f.composed.layer, &call.io));
        close_call(&call);
    }
}

/* Each output over the end of each other view. */
static void test_overlaps(void **state)
{
    (void)state;
    const enum view outputs[] = {OUT, OUT_IDS, OUT_WEIGHTS, COUNTS, WORKSPACE};
    struct call call;
    open_call(&call, &base_spec, true);
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        for (size_t j = 0; j < NUM_VIEWS; j++) {
            struct moe_layer_io io = call.io;
            struct moe_view *moved = view_of(&io, outputs[i]);
            const struct moe_view *other = view_of(&io, j);
            if (j == outputs[i] || other->base == NULL || j == WORKSPACE)
                continue;
            moved->base = other->base;   /* both are 256-byte aligned */
            expect(&call, &io, MOE_ERR_ARGUMENT);
        }
    }
    struct moe_layer_io io = call.io;
    io.workspace.base = (char *)call.io.out.base + 256;   /* past out: apart again, but too short */
    io.workspace.size = 0;
    expect(&call, &io, MOE_ERR_WORKSPACE);
    close_call(&call);
}

static void test_workspace(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct fixture f;
        fixture_open_random(&f, 13 * seed, 1 + seed % 20);
        const struct moe_layer *layers[] = {f.fused.layer, f.composed.layer};
        for (size_t i = 0; i < 2; i++) {
            struct test_call call = fixture_call(&f);
            call.out_ids = f.out_ids;
            call.out_weights = f.out_weights;
            call.workspace_missing = 1;
            test_assert_status(test_call_run(f.ctx, layers[i], &call), MOE_ERR_WORKSPACE);
        }
        fixture_close(&f);
    }
    struct call call;
    open_call(&call, &base_spec, false);
    struct moe_layer_io io = call.io;
    io.workspace.base = NULL;
    expect(&call, &io, MOE_ERR_WORKSPACE);
    io = call.io;
    io.workspace.size = 0;
    expect(&call, &io, MOE_ERR_WORKSPACE);
    io = call.io;
    io.workspace.base = (char *)call.io.workspace.base - 64;
    io.workspace.size += 64;
    expect(&call, &io, MOE_ERR_ARGUMENT);
    close_call(&call);
}

/* It never falls as num_tokens or top_k grows, whichever views are there. */
static void test_workspace_is_monotone(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct fixture f;
        fixture_open_random(&f, 17 * seed + 1, 2);
        struct moe_view here = test_view(f.x, 8, 0, MOE_FORMAT_F32);
        for (unsigned views = 0; views < 16; views++) {
            size_t last_row[64] = {0};
            for (size_t num_tokens = 0; num_tokens < 150; num_tokens += 1 + num_tokens / 10) {
                size_t last = 0;
                for (size_t top_k = 1; top_k <= f.num_experts && top_k < 64; top_k++) {
                    struct moe_layer_io io;
                    size_t bytes = 1;
                    MOE_INIT(&io);
                    io.num_tokens = num_tokens;
                    io.top_k = top_k;
                    io.x = io.out = here;
                    io.ids = io.weights = views & 1 ? here : (struct moe_view){0};
                    io.logits = views & 2 ? here : (struct moe_view){0};
                    io.out_ids = io.out_weights = views & 4 ? here : (struct moe_view){0};
                    io.flags = views & 8 ? MOE_OUT_PAIRS : 0;
                    test_assert_ok(moe_layer_workspace_size(f.ctx, f.fused.layer, &io, &bytes));
                    assert_true(bytes >= last && bytes >= last_row[top_k]);
                    last = last_row[top_k] = bytes;
                }
            }
        }
        fixture_close(&f);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    const size_t many[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 16 + 2, (size_t)1 << 62, (size_t)1 << 60,
                           (size_t)1 << 40, (size_t)INT32_MAX + 1};
    struct call call;
    open_call(&call, &base_spec, true);
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        struct moe_layer_io io = call.io;
        size_t bytes = 77;
        io.num_tokens = many[i];
        expect(&call, &io, MOE_ERR_ARGUMENT);
        test_assert_status(moe_layer_workspace_size(call.f.ctx, call.f.fused.layer, &io, &bytes), MOE_ERR_ARGUMENT);
        io = call.io;
        io.top_k = many[i];
        expect(&call, &io, MOE_ERR_ARGUMENT);
    }
    struct moe_layer_io io = call.io;
    io.num_tokens = NUM_TOKENS + 1;
    io.workspace.size = SIZE_MAX / 2;
    expect(&call, &io, MOE_ERR_ARGUMENT);
    io = call.io;
    io.top_k = call.f.num_experts + 1;
    expect(&call, &io, MOE_ERR_ARGUMENT);
    io.top_k = call.f.top_k + 1;   /* allowed, but the views are too small */
    expect(&call, &io, MOE_ERR_ARGUMENT);
    close_call(&call);
}

static void test_objects_and_flags(void **state)
{
    (void)state;
    struct call call;
    open_call(&call, &base_spec, true);
    struct moe_backend *other = test_backend("cpu");
    struct moe_context *other_ctx = test_context(other, 1);
    const struct moe_layer *layer = call.f.fused.layer;
    size_t bytes;
    test_assert_status(moe_layer_forward(NULL, layer, &call.io), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_forward(call.f.ctx, NULL, &call.io), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_forward(call.f.ctx, layer, NULL), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_forward(other_ctx, layer, &call.io), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_workspace_size(other_ctx, layer, &call.io, &bytes), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_workspace_size(call.f.ctx, layer, &call.io, NULL), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_info(NULL, NULL), MOE_ERR_ARGUMENT);
    struct moe_layer_io io = call.io;
    io.struct_size = 0;
    expect(&call, &io, MOE_ERR_ARGUMENT);
    const uint32_t flags[] = {8, 0x80000000u, MOE_OUT_PAIRS | MOE_ACCUMULATE};
    for (size_t i = 0; i < 3; i++) {
        io = call.io;
        io.flags = flags[i];
        expect(&call, &io, MOE_ERR_ARGUMENT);
    }
    io = call.io;
    io.flags = MOE_OUT_PAIRS;   /* out holds a row a token */
    expect(&call, &io, MOE_ERR_ARGUMENT);
    moe_context_destroy(other_ctx);
    moe_backend_close(other);
    close_call(&call);
}

/* Where routing can come from. */
static void test_missing_routing(void **state)
{
    (void)state;
    struct call call;
    struct test_layer_spec spec = base_spec;
    spec.router = false;
    open_call(&call, &spec, true);
    struct moe_layer_io io = call.io;
    io.ids.base = NULL;   /* no logits either, and no router */
    expect(&call, &io, MOE_ERR_ARGUMENT);
    io = call.io;
    io.weights.base = NULL;
    expect(&call, &io, MOE_ERR_ARGUMENT);
    close_call(&call);
    spec.no_routing = true;
    open_call(&call, &spec, false);
    expect(&call, &call.io, MOE_ERR_ARGUMENT);   /* logits, but no rules for them */
    const struct moe_layer *layers[] = {call.f.fused.layer, call.f.composed.layer};
    for (size_t i = 0; i < 2; i++) {
        test_assert_status(moe_layer_route(call.f.ctx, layers[i], &call.io), MOE_ERR_ARGUMENT);
        test_assert_status(moe_layer_combine(call.f.ctx, layers[i], &call.io), MOE_ERR_ARGUMENT);
    }
    close_call(&call);
    open_call(&call, &base_spec, false);   /* route gives nothing without a place for both */
    for (int i = OUT_IDS; i <= OUT_WEIGHTS; i++) {
        io = call.io;
        view_of(&io, (size_t)i)->base = NULL;
        test_assert_status(moe_layer_route(call.f.ctx, call.f.fused.layer, &io), MOE_ERR_ARGUMENT);
        test_assert_status(moe_layer_route(call.f.ctx, call.f.composed.layer, &io), MOE_ERR_ARGUMENT);
    }
    close_call(&call);
}

static void test_teams(void **state)
{
    (void)state;
    struct call call;
    struct moe_context_params params;
    struct moe_context *ctx = NULL;
    open_call(&call, &base_spec, true);
    MOE_INIT(&params);
    params.num_threads = 2;
    params.team = true;
    test_assert_ok(moe_context_create(call.f.backend, &params, &ctx, NULL));
    const struct moe_layer *layer = call.f.fused.layer;
    test_assert_ok(moe_layer_forward(ctx, layer, &call.io));   /* on this thread alone */
    test_assert_status(moe_layer_forward_team(ctx, layer, &call.io, 0, 0), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_forward_team(ctx, layer, &call.io, 1, 1), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_forward_team(ctx, layer, &call.io, 0, 3), MOE_ERR_ARGUMENT);
    test_assert_status(moe_layer_forward_team(ctx, call.f.composed.layer, &call.io, 0, 1), MOE_ERR_UNSUPPORTED);
    struct test_call team = fixture_call(&call.f);
    team.entry = TEST_TEAM;
    for (size_t nth = 1; nth <= 2; nth++) {   /* all members get the status, and the next call works */
        team.team = nth;
        team.workspace_missing = 1;
        test_assert_status(test_call_run(ctx, layer, &team), MOE_ERR_WORKSPACE);
        team.workspace_missing = 0;
        team.flags = MOE_STRICT;
        call.f.logits[0] = NAN;
        for (size_t e = 0; e < call.f.num_experts; e++)
            call.f.logits[2 * call.f.num_experts + e] = NAN;
        test_assert_status(test_call_run(ctx, layer, &team), MOE_ERR_NONFINITE);
        team.flags = 0;
        test_assert_ok(test_call_run(ctx, layer, &team));
    }
    moe_context_destroy(ctx);
    close_call(&call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),           cmocka_unit_test(test_overlaps),
        cmocka_unit_test(test_workspace),       cmocka_unit_test(test_workspace_is_monotone),
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_objects_and_flags),
        cmocka_unit_test(test_missing_routing), cmocka_unit_test(test_teams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
