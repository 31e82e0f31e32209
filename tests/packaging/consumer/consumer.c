// SPDX-License-Identifier: MIT
// A program outside of libmoe: two experts whose weights are easily followed by hand, one token, one expert chosen.
#include <moe/moe.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXPERTS = 2, HIDDEN = 2, INTERMEDIATE = 1 };

static void require(enum moe_status status, const char *what, const struct moe_error *error)
{
    if (status == MOE_OK)
        return;
    fprintf(stderr, "%s: %s %s\n", what, moe_status_text(status), error ? error->text : "");
    exit(1);
}

static struct moe_view view(void *base, size_t size, enum moe_format format)
{
    struct moe_view v = { base, 0, size, 0, format };
    return v;
}

static struct moe_matrix matrix(float *data, size_t size)
{
    struct moe_matrix m;
    MOE_INIT(&m);
    m.data = view(data, size, MOE_FORMAT_F32);
    return m;
}

/* Expert 1 has gate (1, 0), up (0, 1), down (10, 20): for x = (2, 3), h = silu(2) * 3. */
static struct moe_experts *make_experts(struct moe_backend *backend)
{
    static float gate[EXPERTS * HIDDEN] = { 0, 0, 1, 0 };
    static float up[EXPERTS * HIDDEN] = { 0, 0, 0, 1 };
    static float down[EXPERTS * HIDDEN] = { 0, 0, 10, 20 };
    struct moe_matrix gates = matrix(gate, sizeof gate), ups = matrix(up, sizeof up), downs = matrix(down, sizeof down);
    struct moe_experts_params params;
    struct moe_experts *experts;
    struct moe_error error;

    MOE_INIT(&params);
    params.num_experts = EXPERTS;
    params.hidden_size = HIDDEN;
    params.intermediate_size = INTERMEDIATE;
    params.gate = &gates;
    params.up = &ups;
    params.down = &downs;
    require(moe_experts_create(backend, &params, &experts, &error), "experts", &error);
    return experts;
}

static struct moe_layer *make_layer(struct moe_backend *backend, const struct moe_experts *experts)
{
    struct moe_routing routing;
    struct moe_layer_params params;
    struct moe_layer *layer;
    struct moe_error error;

    MOE_INIT(&routing);
    routing.renorm = MOE_RENORM_ADD_EPS;
    MOE_INIT(&params);
    params.experts = experts;
    params.top_k = 1;
    params.routing = &routing;
    require(moe_layer_create(backend, &params, &layer, &error), "layer", &error);
    return layer;
}

static void run(struct moe_backend *backend, struct moe_context *ctx, const struct moe_layer *layer, float *out)
{
    float x[HIDDEN] = { 2, 3 }, logits[EXPERTS] = { -1, 1 };
    struct moe_layer_io io;
    size_t bytes;

    MOE_INIT(&io);
    io.num_tokens = 1;
    io.x = view(x, sizeof x, MOE_FORMAT_F32);
    io.logits = view(logits, sizeof logits, MOE_FORMAT_F32);
    io.out = view(out, HIDDEN * sizeof *out, MOE_FORMAT_F32);
    require(moe_layer_workspace_size(ctx, layer, &io, &bytes), "workspace size", NULL);
    require(moe_mem_alloc(backend, bytes ? bytes : 1, &io.workspace), "workspace", NULL);
    require(moe_layer_forward(ctx, layer, &io), "forward", NULL);
    moe_mem_free(backend, &io.workspace);
}

int main(void)
{
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct moe_error error;
    float out[HIDDEN] = { NAN, NAN };
    double h = 2 / (1 + exp(-2.0)) * 3;

    if (moe_abi_version() != MOE_ABI_VERSION || !*moe_version())
        return 1;
    require(moe_backend_open("cpu", NULL, &backend, &error), "backend", &error);
    require(moe_context_create(backend, NULL, &ctx, &error), "context", &error);
    struct moe_experts *experts = make_experts(backend);
    struct moe_layer *layer = make_layer(backend, experts);
    run(backend, ctx, layer, out);
    moe_layer_destroy(layer);
    moe_experts_destroy(experts);
    moe_context_destroy(ctx);
    moe_backend_close(backend);

    /* Readers too: a static link needs what they need. */
    struct moe_model *model;
    if (moe_model_open("no such file", NULL, &model, &error) != MOE_ERR_IO || model != NULL)
        return 1;

    printf("libmoe %s: %g %g\n", moe_version(), out[0], out[1]);
    return fabs(out[0] - 10 * h) <= 1e-5 * 10 * h && fabs(out[1] - 20 * h) <= 1e-5 * 20 * h ? 0 : 1;
}
