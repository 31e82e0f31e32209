// SPDX-License-Identifier: MIT
// One call of the fused layer: its workspace, and the launches, whose number depends on shapes only.
//
//     route           ids, weights, pairs sorted by matrix; for few tokens along with prepare
//     (latent in)     latent experts: x to their width
//     prepare         x as bf16
//     up, down        the experts', and the shared expert's
//     combine         the sum of a token, out
//     (latent out)    latent experts: norm, back to the layer's width
//     (norm)          out's norm
#include <string.h>

#include "check.h"
#include "cuda/combine.h"
#include "cuda/finish.h"
#include "cuda/layer_cuda.h"
#include "cuda/prepare.h"

enum { CARVE_ALIGN = 256 };

enum mode { FORWARD, ROUTE, COMBINE };

/* Activations of a set between its products. */
struct acts {
    uint16_t *x, *h;              /* bf16 rows in the order of gate and up, of down */
    float *y;                     /* f32 rows */
    size_t x_stride, h_stride;    /* values */
    size_t x_rows, rows;          /* of x; of h and y */
};

struct call {
    const struct moe_cuda_layer *layer;
    const struct moe_layer_desc *desc;
    const struct moe_layer_io *io;
    struct moe_cuda_context *ctx;
    enum mode mode;
    size_t num_tokens, num_pairs;
    bool has_shared, computes_logits;
    bool fronted;                 /* no launch for ids and x: the products do that for themselves */
    bool begun;                   /* something was launched: the next may overlap with it */
    cudaError_t error;            /* the first */

    /* in the workspace */
    struct moe_cuda_routing routing;
    struct acts experts, shared, latent;
    float *shared_weights;        /* [num_tokens] */
    float *expert_x;              /* latent: [num_tokens, width], x of the experts */
    float *sums;                  /* latent: [num_tokens, width], sums over slots */
    float *normed;                /* with out_norm: [num_tokens, hidden_size] */

    struct moe_cuda_product down; /* the experts' */
};

/* ---- workspace ---- */

/* Cuts pieces off the workspace; without base it only counts. */
struct carver {
    unsigned char *base;
    size_t offset;
    bool ok;
};
static void *carve(struct carver *carver, size_t rows, size_t cols, size_t size)
{
    size_t bytes, begin = carver->offset;
    carver->ok = carver->ok && moe_mul(&bytes, rows, cols) && moe_mul(&bytes, bytes, size) &&
                 moe_align(&bytes, bytes, CARVE_ALIGN) && moe_add(&carver->offset, begin, bytes);
    return carver->base != NULL && carver->ok ? carver->base + begin : NULL;
}

static size_t padded(size_t cols)
{
    return (cols + MOE_SEGMENT - 1) / MOE_SEGMENT * MOE_SEGMENT;    /* cols are below 2^30 */
}

static void carve_acts(struct acts *acts, struct carver *carver, const struct moe_cuda_set *set, size_t x_rows,
                       size_t rows)
{
    acts->x_rows = x_rows;
    acts->rows = rows;
    acts->x_stride = padded(set->hidden_size);
    acts->h_stride = padded(set->intermediate_size);
    acts->x = carve(carver, x_rows, acts->x_stride, sizeof *acts->x);
    acts->h = carve(carver, rows, acts->h_stride, sizeof *acts->h);
    acts->y = carve(carver, rows, set->hidden_size, sizeof *acts->y);
}

static void carve_routing(struct call *call, struct carver *carver)
{
    struct moe_cuda_routing *r = &call->routing;
    size_t logits = 0, histogram = 0, matrices = call->layer->experts.num_matrices;
    carver->ok = carver->ok && moe_cuda_route_scratch(r, &logits, &histogram);
    r->pair_ids = carve(carver, call->num_pairs, 1, sizeof *r->pair_ids);
    r->pair_weights = carve(carver, call->num_pairs, 1, sizeof *r->pair_weights);
    r->places = carve(carver, call->num_pairs, 1, sizeof *r->places);
    r->sorted = carve(carver, call->num_pairs, 1, sizeof *r->sorted);
    r->num_active = carve(carver, 1, 1, sizeof *r->num_active);
    r->active = carve(carver, matrices, 1, sizeof *r->active);
    r->starts = carve(carver, matrices + 1, 1, sizeof *r->starts);
    r->router_logits = carve(carver, call->computes_logits ? logits : 0, 1, sizeof *r->router_logits);
    r->histogram = carve(carver, histogram, 1, sizeof *r->histogram);
}

/* Lay the workspace out from base on; NULL: only count. False: the sizes overflow. */
static bool lay_out(struct call *call, unsigned char *base, size_t *bytes)
{
    const struct moe_cuda_layer *layer = call->layer;
    const struct moe_layer_desc *desc = call->desc;
    struct carver carver = {.base = base, .ok = true};
    size_t width = layer->experts.hidden_size;
    carve_routing(call, &carver);
    if (call->mode == FORWARD) {
        carve_acts(&call->experts, &carver, &layer->experts, desc->weight_on_input ? call->num_pairs : call->num_tokens,
                   call->num_pairs);
        if (call->has_shared) {
            carve_acts(&call->shared, &carver, &layer->shared, call->num_tokens, call->num_tokens);
            call->shared_weights = carve(&carver, call->num_tokens, 1, sizeof *call->shared_weights);
        }
    }
    if (desc->latent != NULL && call->mode != ROUTE) {
        carve_acts(&call->latent, &carver, &layer->latent, call->num_tokens, call->num_tokens);
        call->expert_x = carve(&carver, call->num_tokens, width, sizeof *call->expert_x);
        call->sums = carve(&carver, call->num_tokens, width, sizeof *call->sums);
    }
    if (desc->out_norm != NULL && call->mode != ROUTE)
        call->normed = carve(&carver, call->num_tokens, desc->hidden_size, sizeof *call->normed);
    *bytes = carver.offset;
    return carver.ok;
}

/* Where a view's values are; NULL: it is absent. */
static void *values_of(const struct moe_view *view)
{
    return view->base != NULL ? moe_cuda_address(view) : NULL;
}

/* A view of the call as kernels take it. */
static struct moe_cuda_rows rows_of(const struct moe_view *view)
{
    return (struct moe_cuda_rows){values_of(view), view->stride, (int)view->format};
}

static struct moe_cuda_rows f32_rows(float *values, size_t cols)
{
    return (struct moe_cuda_rows){(unsigned char *)values, cols * sizeof *values, MOE_FORMAT_F32};
}

/* The sizes of a call, from shapes alone; false: one overflows. */
static bool set_sizes(struct call *call, const struct moe_cuda_layer *layer, const struct moe_layer_io *io,
                      enum mode mode)
{
    memset(call, 0, sizeof *call);
    call->layer = layer;
    call->desc = layer->desc;
    call->io = io;
    call->mode = mode;
    call->num_tokens = io->num_tokens;
    call->has_shared = mode == FORWARD && call->desc->shared != NULL && !(io->flags & MOE_OUT_PAIRS);
    call->computes_logits = io->ids.base == NULL && io->logits.base == NULL && call->desc->router != NULL &&
                            call->desc->router->host_matrix != NULL && mode != COMBINE;
    call->routing.num_tokens = (uint32_t)io->num_tokens;
    call->routing.top_k = (uint32_t)io->top_k;
    call->routing.num_experts = (uint32_t)call->desc->num_experts;
    call->routing.num_matrices = layer->experts.num_matrices;
    call->routing.sorts = mode == FORWARD;
    return moe_mul(&call->num_pairs, io->num_tokens, io->top_k) && call->num_pairs <= INT32_MAX;
}

enum moe_status moe_layer_cuda_workspace_size(const void *ctx, const void *state, const struct moe_layer_io *io,
                                              size_t *bytes)
{
    struct call call;
    (void)ctx;
    *bytes = 0;
    return set_sizes(&call, state, io, FORWARD) && lay_out(&call, NULL, bytes) ? MOE_OK : MOE_ERR_ARGUMENT;
}

/* ---- launches ---- */

/* Note what a launch gave; later ones are left out after an error. */
static bool go_on(struct call *call, cudaError_t error)
{
    if (call->error == cudaSuccess)
        call->error = error;
    call->begun = true;
    return call->error == cudaSuccess;
}

/* What routing is told of the call; its launches come later. */
static void set_routing(struct call *call)
{
    const struct moe_layer_io *io = call->io;
    struct moe_cuda_routing *r = &call->routing;
    r->num_zero_experts = (uint32_t)call->desc->num_zero_experts;
    r->hidden_size = (uint32_t)call->desc->hidden_size;
    r->router = call->layer->router;
    r->logits = rows_of(&io->logits);
    r->router_x = rows_of(io->router_x.base != NULL ? &io->router_x : &io->x);
    r->ids = rows_of(&io->ids);
    r->weights = rows_of(&io->weights);
    r->token_ids = rows_of(&io->token_ids);
    r->out_ids = rows_of(&io->out_ids);
    r->out_weights = rows_of(&io->out_weights);
    r->expert_map = values_of(&io->expert_map);
    r->live_tokens = values_of(&io->live_tokens);
    r->expert_counts = values_of(&io->expert_counts);
    r->counters = call->ctx->counters;
}

static void route(struct call *call)
{
    if (call->error == cudaSuccess)
        go_on(call, moe_cuda_route(&call->routing, call->ctx->stream, call->begun));
}

enum moe_cuda_way moe_layer_cuda_way(const struct moe_cuda_layer *layer, const struct moe_cuda_weights *weights,
                                     struct moe_cuda_product *product, bool *has_wide)
{
    const struct moe_cuda *device = layer->device;
    product->multiprocessors = (uint32_t)device->num_sms;
    product->shared_bytes = (uint32_t)device->shared_per_block;
    const bool wide = device->capability == 90 && weights->wide != NULL &&
                      product->pairs.num_pairs > MOE_DOWN_PAIRS && weights->wide_takes(product);
    if (has_wide != NULL)
        *has_wide = wide;
    return moe_cuda_choose(product, weights->large != NULL, wide);
}

/* The order of a product's x. */
static int32_t order_of(const struct call *call, const struct moe_cuda_weights *weights,
                        const struct moe_cuda_product *product)
{
    struct moe_cuda_product asked = *product;
    const bool wide = moe_layer_cuda_way(call->layer, weights, &asked, NULL) == MOE_CUDA_WIDE;
    return weights->order | (wide ? MOE_ORDER_STEPS : 0);
}

/* One product of a set, for pairs or for all tokens. */
static void multiply(struct call *call, const struct moe_cuda_weights *weights, struct moe_cuda_product *product)
{
    const enum moe_cuda_way way = moe_layer_cuda_way(call->layer, weights, product, NULL);
    moe_cuda_product_fn *run = way == MOE_CUDA_WIDE    ? weights->wide
                               : way == MOE_CUDA_LARGE ? weights->large
                                                       : weights->small;
    if (call->error == cudaSuccess)
        go_on(call, run(product, call->ctx->stream, call->begun));
}

/* y = stack * rows, rows by place */
static struct moe_cuda_product plain_product(const struct moe_cuda_stack *stack, const struct moe_cuda_pairs *pairs,
                                             const uint16_t *x, size_t x_stride, float *y)
{
    return (struct moe_cuda_product){.up = *stack, .pairs = *pairs, .x = x, .x_stride = x_stride, .y = y,
                                     .y_stride = stack->rows};
}

/* h = act(gate x) * (up x) */
static struct moe_cuda_product up_product(const struct call *call, const struct moe_cuda_set *set,
                                          const struct acts *acts, const struct moe_cuda_pairs *pairs,
                                          uint32_t x_divisor)
{
    struct moe_cuda_product down = plain_product(&set->down, pairs, acts->h, acts->h_stride, acts->y);
    return (struct moe_cuda_product){.gate = set->gate, .up = set->up, .gated = set->gated, .activated = true,
                                     .act = set->act, .pairs = *pairs, .x = acts->x, .x_stride = acts->x_stride,
                                     .x_divisor = x_divisor, .h = acts->h, .h_stride = acts->h_stride,
                                     .h_order = order_of(call, set->out, &down)};
}

static void multiply_plain(struct call *call, const struct moe_cuda_stack *stack,
                           const struct moe_cuda_weights *weights, const struct moe_cuda_pairs *pairs,
                           const uint16_t *x, size_t x_stride, float *y)
{
    struct moe_cuda_product product = plain_product(stack, pairs, x, x_stride, y);
    multiply(call, weights, &product);
}

/* All tokens through the only matrix of a set. */
static struct moe_cuda_pairs every_token(const struct call *call)
{
    return (struct moe_cuda_pairs){.num_pairs = (uint32_t)call->num_tokens, .num_matrices = 1,
                                   .tokens_of = (uint32_t)call->num_tokens};
}

/* The experts' pairs. */
static struct moe_cuda_pairs routed_pairs(const struct call *call)
{
    const struct moe_cuda_routing *r = &call->routing;
    return (struct moe_cuda_pairs){r->num_active, r->active, r->starts, r->sorted, (uint32_t)call->num_pairs,
                                   r->num_matrices, (uint32_t)call->num_tokens};
}

/* x of a set's gate and up; of the experts, or for all tokens. */
static struct moe_cuda_prepared prepared_routed(const struct call *call)
{
    const struct moe_cuda_set *set = &call->layer->experts;
    const struct acts *acts = &call->experts;
    const bool weighted = call->desc->weight_on_input;
    const struct moe_cuda_pairs pairs = routed_pairs(call);
    const struct moe_cuda_product up =
        up_product(call, set, acts, &pairs, weighted ? 1 : (uint32_t)call->io->top_k);
    return (struct moe_cuda_prepared){acts->x, acts->x_stride, order_of(call, set->in, &up), weighted};
}

static struct moe_cuda_prepared prepared_shared(const struct call *call)
{
    const struct moe_cuda_set *set = &call->layer->shared;
    const struct acts *acts = &call->shared;
    const struct moe_cuda_pairs all = every_token(call);
    const struct moe_cuda_product up = up_product(call, set, acts, &all, 0);
    return (struct moe_cuda_prepared){acts->x, acts->x_stride, order_of(call, set->in, &up), false};
}

/* x of the product to the latent width (up), or of that from it (down), in `rows`. */
static struct moe_cuda_prepared prepared_latent(const struct call *call, const struct moe_cuda_stack *stack,
                                                const struct moe_cuda_weights *weights, uint16_t *rows, size_t stride)
{
    const struct moe_cuda_pairs all = every_token(call);
    const struct moe_cuda_product product = plain_product(stack, &all, rows, stride, NULL);
    return (struct moe_cuda_prepared){rows, stride, order_of(call, weights, &product), false};
}

/* Behind the last column of h, where the next product reads. */
static struct moe_cuda_padding padding(const struct acts *acts, const struct moe_cuda_set *set)
{
    return (struct moe_cuda_padding){acts->h, acts->rows, acts->h_stride, set->intermediate_size};
}

static struct moe_cuda_prepare prepare_of(const struct call *call, struct moe_cuda_rows x, size_t cols)
{
    return (struct moe_cuda_prepare){.x = x, .cols = (uint32_t)cols, .num_tokens = (uint32_t)call->num_tokens,
                                     .top_k = (uint32_t)call->io->top_k, .live_tokens = call->routing.live_tokens,
                                     .weights = call->routing.pair_weights};
}

static void prepare(struct call *call, const struct moe_cuda_prepare *what)
{
    if (call->error == cudaSuccess)
        go_on(call, moe_cuda_prepare(what, call->ctx->stream, call->begun));
}

bool moe_layer_cuda_sums_in_down(const struct moe_cuda_layer *layer, size_t num_tokens, size_t num_pairs)
{
    const struct moe_cuda_product down = {.up = layer->experts.down, .pairs.num_pairs = (uint32_t)num_pairs,
                                          .multiprocessors = (uint32_t)layer->device->num_sms};
    return layer->experts.out->down != NULL && num_pairs <= MOE_DOWN_PAIRS && num_tokens <= MOE_DOWN_TOKENS &&
           moe_cuda_prefers_sum(&down);
}

static bool sums_in_down(const struct call *call)
{
    return call->mode == FORWARD && !(call->io->flags & MOE_OUT_PAIRS) &&
           moe_layer_cuda_sums_in_down(call->layer, call->num_tokens, call->num_pairs);
}

/* Whether the experts' products route and prepare x for themselves (front.cuh). */
static bool can_front(const struct call *call)
{
    const struct moe_layer_desc *desc = call->desc;
    const size_t x_bytes = call->num_tokens * call->experts.x_stride * sizeof *call->experts.x;
    return call->mode == FORWARD && call->io->ids.base != NULL && call->num_pairs <= MOE_FRONT_PAIRS &&
           x_bytes <= MOE_FRONT_BYTES && desc->latent == NULL && !call->has_shared && !desc->weight_on_input &&
           sums_in_down(call);
}

/* Routing; and x of the experts, the shared one, and where there is a latent width, of the way to it. */
static void route_and_prepare(struct call *call)
{
    const struct moe_cuda_layer *layer = call->layer;
    const struct moe_layer_desc *desc = call->desc;
    struct moe_cuda_prepare of_x = prepare_of(call, rows_of(&call->io->x), desc->hidden_size), of_latent;
    size_t outputs = 0, paddings = 0;
    if (desc->latent != NULL)
        of_x.outputs[outputs++] = prepared_latent(call, &layer->latent.up, layer->latent.in, call->latent.x,
                                                  call->latent.x_stride);
    else
        of_x.outputs[outputs++] = prepared_routed(call);
    if (call->has_shared) {
        of_x.outputs[outputs++] = prepared_shared(call);
        of_x.paddings[paddings++] = padding(&call->shared, &layer->shared);
    }
    if (desc->latent == NULL)
        of_x.paddings[paddings++] = padding(&call->experts, &layer->experts);
    call->fronted = can_front(call);
    if (call->fronted) {
        call->routing.beside = of_x;
    } else if (moe_cuda_route_takes(&call->routing) && !desc->weight_on_input) {
        call->routing.beside = of_x;
        route(call);
    } else {
        route(call);
        prepare(call, &of_x);
    }
    if (desc->latent == NULL)
        return;
    struct moe_cuda_pairs all = every_token(call);
    multiply_plain(call, &layer->latent.up, layer->latent.in, &all, call->latent.x, call->latent.x_stride,
                   call->expert_x);
    of_latent = prepare_of(call, f32_rows(call->expert_x, layer->experts.hidden_size), layer->experts.hidden_size);
    of_latent.outputs[0] = prepared_routed(call);
    of_latent.paddings[0] = padding(&call->experts, &layer->experts);
    prepare(call, &of_latent);
}

static void run_experts(struct call *call)
{
    const struct moe_cuda_layer *layer = call->layer;
    const struct moe_cuda_pairs pairs = routed_pairs(call);
    struct moe_cuda_product up = up_product(call, &layer->experts, &call->experts, &pairs,
                                            call->desc->weight_on_input ? 1 : (uint32_t)call->io->top_k);
    up.front = call->fronted ? &call->routing : NULL;
    multiply(call, layer->experts.in, &up);
    call->down = plain_product(&layer->experts.down, &pairs, call->experts.h, call->experts.h_stride, call->experts.y);
    call->down.planned = true;
    call->down.front = up.front;
    if (!sums_in_down(call))
        multiply(call, layer->experts.out, &call->down);
}

static void run_shared(struct call *call)
{
    const struct moe_cuda_layer *layer = call->layer;
    struct moe_cuda_pairs all = every_token(call);
    struct moe_cuda_product up = up_product(call, &layer->shared, &call->shared, &all, 0);
    multiply(call, layer->shared.in, &up);
    multiply_plain(call, &layer->shared.down, layer->shared.out, &all, call->shared.h, call->shared.h_stride,
                   call->shared.y);
    struct moe_cuda_shared_gate gate = {call->shared_weights, rows_of(&call->io->x), layer->shared_gate,
                                        call->desc->shared_gate_bias, (uint32_t)call->num_tokens,
                                        (uint32_t)call->desc->hidden_size, call->routing.live_tokens};
    if (layer->shared_gate != NULL && call->error == cudaSuccess)
        go_on(call, moe_cuda_shared_weights(&gate, call->ctx->stream, call->begun));
}

/* ---- the end of a forward or a combine ---- */

/* out, or the sums of latent experts. Takes the experts' down with it where that is one launch. */
static void combine(struct call *call, const struct moe_cuda_combine *what, bool of_experts)
{
    if (call->error != cudaSuccess)
        return;
    if (of_experts && sums_in_down(call)) {
        moe_layer_cuda_way(call->layer, call->layer->experts.out, &call->down, NULL);    /* for the device's sizes */
        go_on(call, call->layer->experts.out->down(&call->down, what, call->ctx->stream, call->begun));
    } else {
        go_on(call, moe_cuda_combine(what, call->ctx->stream, call->begun));
    }
}

/* The sum over slots of what the experts, or the caller, gave. */
static struct moe_cuda_combine sum_of_slots(const struct call *call)
{
    const struct moe_layer_desc *desc = call->desc;
    size_t width = call->layer->experts.hidden_size;
    struct moe_cuda_combine sum = {.num_tokens = (uint32_t)call->num_tokens, .top_k = (uint32_t)call->io->top_k,
                                   .cols = (uint32_t)width, .live_tokens = call->routing.live_tokens,
                                   .places = call->routing.places, .weights = call->routing.pair_weights,
                                   .weight_on_input = desc->weight_on_input, .by_pair = call->mode == COMBINE,
                                   .routed_scale = desc->routed_scale, .out_scale = 1.0f};
    sum.y = call->mode == COMBINE ? rows_of(&call->io->x) : f32_rows(call->experts.y, width);
    if (desc->num_zero_experts > 0 && call->mode == FORWARD)
        sum.x = rows_of(&call->io->x);
    return sum;
}

/* What follows the sum, up to out's norm. */
static void add_rest(const struct call *call, struct moe_cuda_combine *sum)
{
    const struct moe_layer_desc *desc = call->desc;
    if (call->has_shared) {
        sum->shared = call->shared.y;
        sum->shared_stride = desc->hidden_size;
        sum->shared_weights = call->layer->shared_gate != NULL ? call->shared_weights : NULL;
    }
    sum->out_scale = desc->out_scale;
    sum->out_bias = call->layer->out_bias;
    sum->accumulate = (call->io->flags & MOE_ACCUMULATE) != 0 && desc->out_norm == NULL;
    sum->out = desc->out_norm != NULL ? f32_rows(call->normed, desc->hidden_size) : rows_of(&call->io->out);
}

/* Latent experts: the sum's norm, and its way back to the layer's width; then it is combined as one slot. */
static struct moe_cuda_combine leave_latent(struct call *call)
{
    const struct moe_cuda_layer *layer = call->layer;
    const struct moe_layer_desc *desc = call->desc;
    size_t width = layer->experts.hidden_size;
    struct moe_cuda_combine sum = sum_of_slots(call);
    sum.out = f32_rows(call->sums, width);
    combine(call, &sum, true);
    struct moe_cuda_pairs all = every_token(call);
    struct moe_cuda_prepare of_sums = prepare_of(call, f32_rows(call->sums, width), width);
    of_sums.outputs[0] = prepared_latent(call, &layer->latent.down, layer->latent.out, call->latent.h,
                                         call->latent.h_stride);
    struct moe_cuda_norm norm = {.x = call->sums, .x_stride = width, .num_tokens = (uint32_t)call->num_tokens,
                                 .cols = (uint32_t)width, .live_tokens = call->routing.live_tokens,
                                 .scale = layer->latent_norm_scale, .rows = call->latent.h,
                                 .rows_stride = call->latent.h_stride, .order = of_sums.outputs[0].order};
    if (desc->latent_norm != NULL) {
        norm.eps = desc->latent_norm->eps;
        norm.unit = desc->latent_norm->unit;
        if (call->error == cudaSuccess)
            go_on(call, moe_cuda_finish_norm(&norm, call->ctx->stream, call->begun));
    } else {
        prepare(call, &of_sums);
    }
    multiply_plain(call, &layer->latent.down, layer->latent.out, &all, call->latent.h, call->latent.h_stride,
                   call->latent.y);
    return (struct moe_cuda_combine){.num_tokens = (uint32_t)call->num_tokens, .top_k = 1,
                                     .cols = (uint32_t)desc->hidden_size, .live_tokens = call->routing.live_tokens,
                                     .by_pair = true, .y = f32_rows(call->latent.y, desc->hidden_size),
                                     .routed_scale = 1.0f, .out_scale = 1.0f};
}

static void finish(struct call *call)
{
    const struct moe_layer_desc *desc = call->desc;
    struct moe_cuda_combine sum;
    if (call->io->flags & MOE_OUT_PAIRS) {
        sum = sum_of_slots(call);
        sum.out = rows_of(&call->io->out);
        sum.out_pairs = true;
        combine(call, &sum, true);
        return;
    }
    sum = desc->latent != NULL ? leave_latent(call) : sum_of_slots(call);
    add_rest(call, &sum);
    combine(call, &sum, desc->latent == NULL);
    if (desc->out_norm == NULL)
        return;
    struct moe_cuda_norm norm = {.x = call->normed, .x_stride = desc->hidden_size,
                                 .num_tokens = (uint32_t)call->num_tokens, .cols = (uint32_t)desc->hidden_size,
                                 .live_tokens = call->routing.live_tokens, .scale = call->layer->out_norm_scale,
                                 .eps = desc->out_norm->eps, .unit = desc->out_norm->unit,
                                 .out = rows_of(&call->io->out),
                                 .accumulate = (call->io->flags & MOE_ACCUMULATE) != 0};
    if (call->error == cudaSuccess)
        go_on(call, moe_cuda_finish_norm(&norm, call->ctx->stream, call->begun));
}

/* ---- calls ---- */

static void launch(struct call *call)
{
    set_routing(call);
    if (call->mode == FORWARD) {
        route_and_prepare(call);
        run_experts(call);
        if (call->has_shared)
            run_shared(call);
    } else {
        route(call);
    }
    if (call->mode != ROUTE)
        finish(call);
}

static enum moe_status run(struct moe_cuda_context *ctx, const struct moe_cuda_layer *layer,
                           const struct moe_layer_io *io, enum mode mode)
{
    struct call call;
    struct moe_cuda_scope scope;
    size_t bytes;
    if (io->flags & MOE_STRICT)    /* what it asks for is known on the device only */
        return MOE_ERR_UNSUPPORTED;
    if (io->num_tokens == 0)
        return MOE_OK;
    if (!set_sizes(&call, layer, io, mode) || !lay_out(&call, moe_cuda_address(&io->workspace), &bytes))
        return MOE_ERR_ARGUMENT;
    if (bytes > io->workspace.size)
        return MOE_ERR_WORKSPACE;
    call.ctx = ctx;
    call.error = moe_cuda_enter(layer->device, &scope);
    if (call.error == cudaSuccess) {
        launch(&call);
        moe_cuda_leave(layer->device, &scope);
    }
    return moe_cuda_status(call.error);
}

enum moe_status moe_layer_cuda_forward(void *ctx, const void *state, const struct moe_layer_io *io,
                                       struct moe_stats *stats)
{
    (void)stats;    /* the device counts, moe_cuda_counters */
    return run(ctx, state, io, FORWARD);
}

enum moe_status moe_layer_cuda_route(void *ctx, const void *state, const struct moe_layer_io *io,
                                     struct moe_stats *stats)
{
    (void)stats;
    return run(ctx, state, io, ROUTE);
}

enum moe_status moe_layer_cuda_combine(void *ctx, const void *state, const struct moe_layer_io *io,
                                       struct moe_stats *stats)
{
    (void)stats;
    return run(ctx, state, io, COMBINE);
}
