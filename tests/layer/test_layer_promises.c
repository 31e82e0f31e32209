// SPDX-License-Identifier: MIT
// Promises of the header that no random layer meets by chance: one size of workspace for every source of routing, views
// that end beyond the last address, counters at their limit, backends that fail without a word.
#include "layer_fixture.h"
#include "moe/backend.h"

enum { NUM_TOKENS = 9, MAX_BYTES = 1 << 22 };

static const struct test_layer_spec spec = {
    .experts = {.num_experts = 200, .hidden_size = 16, .intermediate_size = 8}, .top_k = 2, .router = true};

static struct moe_view view_of(void *base, size_t bytes, enum moe_format format)
{
    return (struct moe_view){.base = base, .size = bytes, .format = format};
}

/* What all calls of a test share: f16 input, and a workspace of exactly the bytes that a query gave. */
struct call {
    struct fixture f;
    struct moe_layer_io io;
    uint16_t *x, *router_x;
    unsigned char *workspace;
};

static void open_call(struct call *call, const struct test_layer_spec *of)
{
    fixture_open(&call->f, of, 7, NUM_TOKENS);
    size_t values = NUM_TOKENS * call->f.hidden_size;
    call->x = calloc(values, sizeof *call->x);
    call->router_x = calloc(values, sizeof *call->router_x);
    call->workspace = aligned_alloc(256, MAX_BYTES);
    assert_true(call->x && call->router_x && call->workspace);
    MOE_INIT(&call->io);
    call->io.num_tokens = NUM_TOKENS;
    call->io.x.format = call->io.router_x.format = MOE_FORMAT_F16;
    call->io.out = view_of(call->f.out, values * sizeof(float), MOE_FORMAT_F32);
}

static void close_call(struct call *call)
{
    free(call->x);
    free(call->router_x);
    free(call->workspace);
    fixture_close(&call->f);
}

static void give_workspace(struct call *call, const struct moe_layer_io *asked)
{
    size_t bytes;
    test_assert_ok(moe_layer_workspace_size(call->f.ctx, call->f.fused.layer, asked, &bytes));
    assert_true(bytes <= MAX_BYTES);
    call->io.workspace = view_of(call->workspace, bytes, MOE_FORMAT_F32);
    call->io.x = view_of(call->x, NUM_TOKENS * call->f.hidden_size * 2, MOE_FORMAT_F16);
}

static void give_ids(struct moe_layer_io *io, const struct fixture *f)
{
    io->ids = view_of(f->ids, NUM_TOKENS * f->top_k * sizeof *f->ids, MOE_FORMAT_I64);
    io->weights = view_of(f->weights, NUM_TOKENS * f->top_k * sizeof *f->weights, MOE_FORMAT_F32);
}

static void one_size_for_every_source(void **state)
{
    (void)state;
    struct call call;
    open_call(&call, &spec);
    const struct fixture *f = &call.f;
    give_workspace(&call, &call.io); /* no view has a base when it is asked for */
    struct moe_layer_io io = call.io;
    test_assert_ok(moe_layer_forward(f->ctx, f->fused.layer, &io));
    io.router_x = view_of(call.router_x, NUM_TOKENS * f->hidden_size * 2, MOE_FORMAT_F16);
    test_assert_ok(moe_layer_forward(f->ctx, f->fused.layer, &io));
    io.logits = view_of(f->logits, NUM_TOKENS * f->num_experts * sizeof(float), MOE_FORMAT_F32);
    test_assert_ok(moe_layer_forward(f->ctx, f->fused.layer, &io));
    give_ids(&io, f);
    test_assert_ok(moe_layer_forward(f->ctx, f->fused.layer, &io));
    close_call(&call);
}

static void size_of_a_forward_does_for_route(void **state)
{
    (void)state;
    struct call call;
    open_call(&call, &spec);
    const struct fixture *f = &call.f;
    struct moe_layer_io asked = call.io;
    give_ids(&asked, f);
    give_workspace(&call, &asked);
    struct moe_layer_io io = call.io;
    io.out_ids = view_of(f->out_ids, NUM_TOKENS * f->top_k * sizeof *f->out_ids, MOE_FORMAT_I32);
    io.out_weights = view_of(f->out_weights, NUM_TOKENS * f->top_k * sizeof *f->out_weights, MOE_FORMAT_F32);
    test_assert_ok(moe_layer_route(f->ctx, f->fused.layer, &io));
    close_call(&call);
}

/* A workspace for pairs does for putting them together again, whatever their format; and for the routing before. */
static void size_of_pairs_does_for_combine(void **state)
{
    (void)state;
    struct call call;
    struct test_layer_spec with_shared = spec;
    with_shared.shared_size = 40;
    with_shared.shared_gate = true;
    open_call(&call, &with_shared);
    const struct fixture *f = &call.f;
    size_t pairs = NUM_TOKENS * f->top_k;
    uint16_t *values = calloc(pairs * f->hidden_size, sizeof *values);
    assert_non_null(values);
    call.io.flags = MOE_OUT_PAIRS;
    call.io.x.format = call.io.router_x.format = MOE_FORMAT_F32;
    size_t bytes;
    test_assert_ok(moe_layer_workspace_size(f->ctx, f->fused.layer, &call.io, &bytes));
    assert_true(bytes <= MAX_BYTES);
    call.io.flags = 0;
    call.io.workspace = view_of(call.workspace, bytes, MOE_FORMAT_F32);
    struct moe_layer_io io = call.io;
    give_ids(&io, f);
    memset(f->ids, 0, pairs * sizeof *f->ids);
    memset(f->weights, 0, pairs * sizeof *f->weights);
    io.x = view_of(values, pairs * f->hidden_size * 2, MOE_FORMAT_F16);
    test_assert_ok(moe_layer_combine(f->ctx, f->fused.layer, &io));
    io = call.io;
    io.x = view_of(f->x, NUM_TOKENS * f->hidden_size * sizeof *f->x, MOE_FORMAT_F32);
    io.out_ids = view_of(f->out_ids, pairs * sizeof *f->out_ids, MOE_FORMAT_I32);
    io.out_weights = view_of(f->out_weights, pairs * sizeof *f->out_weights, MOE_FORMAT_F32);
    test_assert_ok(moe_layer_route(f->ctx, f->fused.layer, &io));
    free(values);
    close_call(&call);
}

/* Views that a call does not use may hold anything: weights where there are no ids, x where a route has logits. */
static void unused_views_are_not_read(void **state)
{
    (void)state;
    struct call call;
    open_call(&call, &spec);
    const struct fixture *f = &call.f;
    const struct moe_view junk = {.base = call.workspace, .offset = SIZE_MAX - 7, .format = (enum moe_format)999};
    struct moe_layer *layers[] = {f->fused.layer, f->composed.layer};
    for (size_t i = 0; i < 2; i++) {
        give_workspace(&call, &call.io);
        struct moe_layer_io io = call.io;
        size_t bytes;
        io.x.offset = SIZE_MAX - 3;    /* sizes are counted without a look at memory */
        io.x.format = MOE_FORMAT_F32;
        test_assert_ok(moe_layer_workspace_size(f->ctx, layers[i], &io, &bytes));
        io.x = call.io.x;
        io.weights = io.token_ids = junk;
        io.logits = view_of(f->logits, NUM_TOKENS * f->num_experts * sizeof(float), MOE_FORMAT_F32);
        test_assert_ok(moe_layer_forward(f->ctx, layers[i], &io));
        io.x = junk;
        io.x.format = MOE_FORMAT_F32;
        io.out_ids = view_of(f->out_ids, NUM_TOKENS * f->top_k * sizeof *f->out_ids, MOE_FORMAT_I32);
        io.out_weights = view_of(f->out_weights, NUM_TOKENS * f->top_k * sizeof *f->out_weights, MOE_FORMAT_F32);
        test_assert_ok(moe_layer_route(f->ctx, layers[i], &io));
    }
    close_call(&call);
}

static void views_end_before_the_last_address(void **state)
{
    (void)state;
    struct call call;
    open_call(&call, &spec);
    give_workspace(&call, &call.io);
    call.io.workspace.size = SIZE_MAX;
    test_assert_status(moe_layer_forward(call.f.ctx, call.f.fused.layer, &call.io), MOE_ERR_ARGUMENT);
    close_call(&call);
}

static void counters_wrap(void **state)
{
    (void)state;
    struct call call;
    open_call(&call, &spec);
    const struct fixture *f = &call.f;
    int64_t *counts = calloc(f->num_experts, sizeof *counts);
    assert_non_null(counts);
    give_ids(&call.io, f);
    give_workspace(&call, &call.io);
    for (size_t i = 0; i < NUM_TOKENS * f->top_k; i++)
        f->ids[i] = 3;
    call.io.expert_counts = view_of(counts, f->num_experts * sizeof *counts, MOE_FORMAT_I64);
    const struct moe_layer *layers[] = {f->fused.layer, f->composed.layer};
    for (size_t i = 0; i < 2; i++) {
        counts[3] = INT64_MAX;
        test_assert_ok(moe_layer_forward(f->ctx, layers[i], &call.io));
        assert_true(counts[3] == INT64_MIN + (int64_t)(NUM_TOKENS * f->top_k) - 1);
    }
    free(counts);
    close_call(&call);
}

static void router_must_lie_in_memory(void **state)
{
    (void)state;
    struct call call;
    struct moe_matrix router;
    struct moe_routing routing;
    struct moe_error error;
    struct moe_layer *layer;
    open_call(&call, &spec);
    struct moe_layer_params params = *call.f.layer.block.layer;
    params.experts = call.f.fused.experts;
    routing = *params.routing;
    router = *routing.router;
    router.data.offset = SIZE_MAX - 3;
    routing.router = &router;
    params.routing = &routing;
    test_assert_status(moe_layer_create(call.f.backend, &params, &layer, &error), MOE_ERR_ARGUMENT);
    assert_non_null(strstr(error.text, "router"));
    close_call(&call);
}

/* ---- a backend that fails without filling in its error ---- */

extern const struct moe_backend_ops moe_cpu_ops;

static enum moe_status silent_open(const char *device, const struct moe_env *env, void **self, struct moe_error *error)
{
    (void)device, (void)env, (void)self, (void)error;
    return MOE_ERR_DEVICE;
}

static enum moe_status silent_context(void *self, const struct moe_context_params *params, void **ctx,
                                      struct moe_error *error)
{
    (void)self, (void)params, (void)ctx, (void)error;
    return MOE_ERR_MEMORY;
}

static void silence_is_explained(void **state)
{
    (void)state;
    struct moe_backend_ops ops = moe_cpu_ops;
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct moe_error error = {.status = MOE_OK, .text = "of the call before"};
    ops.name = "mute";
    ops.open = silent_open;
    test_assert_status(moe_backend_open_ops(&ops, NULL, NULL, &backend, &error), MOE_ERR_DEVICE);
    assert_int_equal(error.status, MOE_ERR_DEVICE);
    assert_non_null(strstr(error.text, "mute"));
    assert_null(backend);
    ops.open = moe_cpu_ops.open;
    ops.context_open = silent_context;
    test_assert_ok(moe_backend_open_ops(&ops, NULL, NULL, &backend, &error));
    test_assert_status(moe_context_create(backend, NULL, &ctx, &error), MOE_ERR_MEMORY);
    assert_int_equal(error.status, MOE_ERR_MEMORY);
    assert_non_null(strstr(error.text, "out of memory"));
    moe_backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_size_for_every_source),         cmocka_unit_test(size_of_a_forward_does_for_route),
        cmocka_unit_test(size_of_pairs_does_for_combine),    cmocka_unit_test(unused_views_are_not_read),
        cmocka_unit_test(views_end_before_the_last_address), cmocka_unit_test(counters_wrap),
        cmocka_unit_test(router_must_lie_in_memory),         cmocka_unit_test(silence_is_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
