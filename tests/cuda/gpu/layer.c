// SPDX-License-Identifier: MIT
// Random layers, calls of them on the backend, and what they should give.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* ---- layers ---- */

static void make_stacks(struct gpu *gpu, struct subject *subject, struct rng *rng, const struct subject_spec *spec)
{
    const struct shape *s = &spec->shape;
    const struct scheme *schemes[3] = {spec->in, spec->in, spec->down};
    for (int i = spec->no_gate; i < 3; i++) {
        stack_init(&subject->host[i], rng, schemes[i], s->num_experts, i < 2 ? s->intermediate_size : s->hidden_size,
                   i < 2 ? s->hidden_size : s->intermediate_size, spec->bias);
        if (spec->on_device)
            stack_upload(gpu, &subject->device[i], &subject->host[i]);
    }
}

static void describe(struct subject *subject, struct moe_experts_params *params, struct stack stacks[3], bool gated)
{
    MOE_INIT(params);
    params->num_experts = subject->shape.num_experts;
    params->hidden_size = subject->shape.hidden_size;
    params->intermediate_size = subject->shape.intermediate_size;
    params->gate = gated ? &stacks[0].matrix : NULL;
    params->up = &stacks[1].matrix;
    params->down = &stacks[2].matrix;
    params->act = subject->act.struct_size ? &subject->act : NULL;
}

void subject_experts(struct gpu *gpu, struct subject *subject, struct rng *rng, const struct subject_spec *spec)
{
    struct moe_error error = {0};
    struct moe_experts_params params;
    *subject = (struct subject){.shape = spec->shape};
    if (spec->act != NULL)
        subject->act = *spec->act;
    make_stacks(gpu, subject, rng, spec);
    describe(subject, &subject->host_params, subject->host, !spec->no_gate);
    describe(subject, &params, spec->on_device ? subject->device : subject->host, !spec->no_gate);
    params.location = spec->on_device ? MOE_LOCATION_BACKEND : MOE_LOCATION_HOST;
    if (moe_experts_create(gpu->backend, &params, &subject->experts, &error) != MOE_OK)
        check_stop(gpu, "%s: experts: %s", spec->in->name, error.text);
}

void subject_init(struct gpu *gpu, struct subject *subject, struct rng *rng, const struct subject_spec *spec)
{
    struct moe_error error = {0};
    subject_experts(gpu, subject, rng, spec);
    struct moe_layer_params *params = &subject->layer_params;
    if (spec->params != NULL)
        *params = *spec->params;
    else
        MOE_INIT(params);
    params->flags |= spec->flags | MOE_LAYER_ALLOW_COMPOSED;
    params->experts = subject->experts;
    params->top_k = spec->shape.top_k;
    params->routing = spec->routing;
    if (moe_layer_create(gpu->backend, params, &subject->layer, &error) != MOE_OK)
        check_stop(gpu, "%s: layer: %s", spec->in->name, error.text);
    subject->info.struct_size = sizeof subject->info;
    check_ok(gpu, moe_layer_info(subject->layer, &subject->info), "moe_layer_info");
}

void subject_free(struct gpu *gpu, struct subject *subject)
{
    moe_layer_destroy(subject->layer);
    moe_experts_destroy(subject->experts);
    for (int i = 0; i < 3; i++) {
        stack_free(gpu, &subject->host[i]);
        stack_free(gpu, &subject->device[i]);
    }
    *subject = (struct subject){0};
}

/* ---- calls ---- */

static size_t bytes_of(enum moe_format format)
{
    return moe_format_info(format)->block_bytes;
}

void call_init(struct gpu *gpu, struct call *call, const struct subject *subject, size_t most_tokens,
               enum moe_format format, enum moe_format out_format, enum source source)
{
    const struct moe_layer_info *info = &subject->info;
    *call = (struct call){.most_tokens = most_tokens, .subject = subject};
    call->shape = (struct shape){info->hidden_size, info->intermediate_size, info->num_experts, info->top_k};
    MOE_INIT(&call->io);
    size_t width = most_tokens * info->hidden_size, pairs = most_tokens * info->top_k;
    call->x = gpu_alloc(gpu, width * bytes_of(format), format);
    call->out = gpu_alloc(gpu, width * bytes_of(out_format), out_format);
    if (source == FROM_LOGITS)
        call->logits = gpu_alloc(gpu, most_tokens * info->num_experts * sizeof(float), MOE_FORMAT_F32);
    if (source == FROM_IDS) {
        call->ids = gpu_alloc(gpu, pairs * sizeof(int32_t), MOE_FORMAT_I32);
        call->weights = gpu_alloc(gpu, pairs * sizeof(float), MOE_FORMAT_F32);
    }
}

void call_free(struct gpu *gpu, struct call *call)
{
    struct moe_view *const views[] = {&call->x, &call->ids, &call->weights, &call->logits, &call->out,
                                      &call->workspace};
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++)
        gpu_free(gpu, views[i]);
}

/* The first rows of a buffer, as a view that no more than they may be touched of. */
static struct moe_view first_rows(const struct moe_view *view, size_t rows, size_t cols)
{
    struct moe_view out = *view;
    out.size = rows * cols * bytes_of(view->format);
    return view->base != NULL ? out : (struct moe_view){0};
}

static void write_values(struct gpu *gpu, const struct moe_view *view, const float *values, size_t n)
{
    size_t bytes = n * bytes_of(view->format);
    void *memory = host_alloc(bytes, 1);
    moe_format_quantise(view->format, memory, values, 1, n);
    gpu_write(gpu, view, memory, bytes);
    free(memory);
}

/* The workspace has exactly the size asked for, so that its guard shows what is too much. */
static void size_workspace(struct gpu *gpu, struct call *call)
{
    size_t bytes = 0;
    check_ok(gpu, moe_layer_workspace_size(gpu->ctx, call->subject->layer, &call->io, &bytes), "workspace size");
    if (call->workspace.base != NULL && call->workspace.size == bytes)
        return;
    gpu_free(gpu, &call->workspace);
    call->workspace = gpu_alloc(gpu, bytes, MOE_FORMAT_F32);
    call->workspace.format = (enum moe_format)0;
}

void call_set(struct gpu *gpu, struct call *call, size_t num_tokens, const float *x, const int32_t *ids,
              const float *weights, const float *logits)
{
    const struct shape *s = &call->shape;
    struct moe_layer_io *io = &call->io;
    io->num_tokens = num_tokens;
    io->x = first_rows(&call->x, num_tokens, s->hidden_size);
    io->out = first_rows(&call->out, num_tokens, s->hidden_size);
    io->ids = first_rows(&call->ids, num_tokens, s->top_k);
    io->weights = first_rows(&call->weights, num_tokens, s->top_k);
    io->logits = first_rows(&call->logits, num_tokens, s->num_experts);
    if (x != NULL)
        write_values(gpu, &io->x, x, num_tokens * s->hidden_size);
    if (ids != NULL)
        gpu_write(gpu, &io->ids, ids, num_tokens * s->top_k * sizeof *ids);
    if (weights != NULL)
        gpu_write(gpu, &io->weights, weights, num_tokens * s->top_k * sizeof *weights);
    if (logits != NULL)
        gpu_write(gpu, &io->logits, logits, num_tokens * s->num_experts * sizeof *logits);
    size_workspace(gpu, call);
    io->workspace = call->workspace;
}

void call_poison(struct gpu *gpu, struct call *call)
{
    gpu_poison(gpu, &call->io.workspace);
    gpu_poison(gpu, &call->io.out);
}

void call_forward(struct gpu *gpu, struct call *call)
{
    check_ok(gpu, moe_layer_forward(gpu->ctx, call->subject->layer, &call->io), "moe_layer_forward");
}

size_t call_out_bytes(const struct call *call)
{
    return call->io.out.size;
}

void call_out(struct gpu *gpu, const struct call *call, void *out)
{
    gpu_read(gpu, out, &call->io.out, call->io.out.size);
}

void call_run(struct gpu *gpu, struct call *call, void *out)
{
    call_poison(gpu, call);
    call_forward(gpu, call);
    call_out(gpu, call, out);
    if (!gpu_guard(gpu, &call->workspace) || !gpu_guard(gpu, &call->out))
        check_stop(gpu, "%zu tokens: bytes behind the workspace or the output have changed", call->io.num_tokens);
}

/* ---- what they should give ---- */

struct reference {
    const struct subject *subject;
    const float *x, *weights;
    const int32_t *ids;
    const size_t *rows;
    size_t num_rows;
    bool rounded;
    double *pairs;          /* [num_rows, top_k, hidden_size] */
};

static double round_if(bool rounded, double value)
{
    return rounded ? moe_ref_round(MOE_FORMAT_BF16, value) : value;
}

/* All pairs of expert e. */
static void run_expert(void *arg, size_t e)
{
    const struct reference *ref = arg;
    const struct moe_experts_params *p = &ref->subject->host_params;
    size_t hidden_size = p->hidden_size, n = p->intermediate_size, top_k = ref->subject->shape.top_k;
    double *gate = NULL, *up = NULL, *down = NULL, *memory = NULL, *x = NULL, *g = NULL, *u = NULL;
    for (size_t i = 0; i < ref->num_rows * top_k; i++) {
        size_t row = ref->rows[i / top_k];
        if (ref->ids[row * top_k + i % top_k] != (int32_t)e)
            continue;
        if (memory == NULL) {
            memory = host_alloc(3 * n * hidden_size + hidden_size + 2 * n, sizeof *memory);
            gate = memory, up = gate + n * hidden_size, down = up + n * hidden_size, x = down + n * hidden_size;
            g = x + hidden_size, u = g + n;
            moe_ref_matrix(gate, p->gate, n, hidden_size, e);
            moe_ref_matrix(up, p->up, n, hidden_size, e);
            moe_ref_matrix(down, p->down, hidden_size, n, e);
        }
        for (size_t c = 0; c < hidden_size; c++)
            x[c] = round_if(ref->rounded, ref->x[row * hidden_size + c]);
        moe_ref_linear(g, NULL, gate, NULL, x, n, hidden_size);
        moe_ref_linear(u, NULL, up, NULL, x, n, hidden_size);
        for (size_t c = 0; c < n; c++)
            g[c] = round_if(ref->rounded, moe_ref_glu(p->act, g[c], u[c], true));
        moe_ref_linear(ref->pairs + i * hidden_size, NULL, down, NULL, g, hidden_size, n);
    }
    free(memory);
}

void reference_rows(struct gpu *gpu, const struct subject *subject, double *out, const float *x, const int32_t *ids,
                    const float *weights, const size_t *rows, size_t num_rows, bool rounded)
{
    size_t hidden_size = subject->shape.hidden_size, top_k = subject->shape.top_k;
    struct reference ref = {subject, x, weights, ids, rows, num_rows, rounded, NULL};
    ref.pairs = host_alloc(num_rows * top_k * hidden_size, sizeof *ref.pairs);
    run_parallel(gpu->threads, subject->shape.num_experts, run_expert, &ref);
    memset(out, 0, num_rows * hidden_size * sizeof *out);
    for (size_t i = 0; i < num_rows * top_k; i++)
        for (size_t c = 0; c < hidden_size; c++)
            out[i / top_k * hidden_size + c] +=
                weights[rows[i / top_k] * top_k + i % top_k] * ref.pairs[i * hidden_size + c];
    free(ref.pairs);
}
