// SPDX-License-Identifier: MIT
// The composer: the layer written in a backend's primitives, one token at a time, routed on the host. It defines what a
// backend's fused layer must give, serves backends without one, and is what moe_forward runs.
#ifndef MOE_COMPOSE_H
#define MOE_COMPOSE_H

#include "objects.h"

/* One token's buffers in backend memory; all f32, none overlaps another. */
struct moe_compose_buffers {
    struct moe_view x;       /* [hidden_size] */
    struct moe_view latent;  /* [expert_width], with latent experts: their x */
    struct moe_view scaled;  /* [expert_width], with weight_on_input: the experts' x times a weight */
    struct moe_view acc;     /* [the wider of hidden_size and expert_width] */
    struct moe_view step;    /* likewise: acc and step take turns where the sum is scaled or projected */
    struct moe_view gate_up; /* [2 * intermediate_size], of the wider of experts and shared expert */
    struct moe_view h;       /* [intermediate_size], likewise */
    struct moe_view down;    /* as acc */
    struct moe_view zero;    /* as acc, zeros, only read */
    struct moe_view added;   /* [hidden_size] out_bias, only read */
};

/* A call. io is checked, its strides are set, its top_k is the call's. */
struct moe_compose_call {
    struct moe_context *ctx;
    const struct moe_layer_desc *desc;
    size_t experts_present; /* matrices that expert_map may name */
    const struct moe_layer_io *io;
    struct moe_compose_buffers buffers;
};

enum moe_status moe_compose_forward(const struct moe_compose_call *call);
enum moe_status moe_compose_route(const struct moe_compose_call *call);
enum moe_status moe_compose_combine(const struct moe_compose_call *call);

/* Bytes of workspace that moe_compose_place cuts buffers (all but zero and added) from; false if they overflow. */
bool moe_compose_workspace(const struct moe_layer_desc *desc, size_t *bytes);
void moe_compose_place(const struct moe_layer_desc *desc, const struct moe_view *workspace,
                       struct moe_compose_buffers *buffers);

#endif
