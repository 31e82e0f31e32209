// SPDX-License-Identifier: MIT
// The objects behind the opaque types of moe.h. The core's own; backends see include/moe/backend.h only.
#ifndef MOE_OBJECTS_H
#define MOE_OBJECTS_H

#include "check.h"
#include "moe/backend.h"
#include "scales.h"
#include "split.h"

struct moe_backend {
    struct moe_env env;
    const struct moe_backend_ops *ops;
    void *self;
    void *library; /* that ops is in; NULL: not of one that moe_backend_open loaded */
};

/* Host memory of a context for the composer, which may not allocate: read-back windows and one token's routing. */
struct moe_host_scratch {
    unsigned char *window; /* MOE_WINDOW_BYTES for each of MOE_WINDOWS */
    double *logits;        /* [MOE_MAX_EXPERTS] */
    double *route;         /* moe_route_scratch(MOE_MAX_EXPERTS) */
    float *weights;        /* [MOE_MAX_EXPERTS], indexed by slot */
    int32_t *ids;          /* [MOE_MAX_EXPERTS], by slot: as routed, -1 for an empty slot */
    int32_t *map;          /* [MOE_MAX_EXPERTS]: expert_map of the call */
    int64_t *counts;       /* [MOE_MAX_EXPERTS] */
};
enum { MOE_WINDOWS = 4, MOE_WINDOW_BYTES = 128 * 1024 };

struct moe_context {
    struct moe_backend *backend;
    void *ctx;
    struct moe_stats stats;
    struct moe_host_scratch scratch;
};

/* A matrix of moe_experts as the caller described it, for copying it, now and in moe_experts_update. */
struct moe_expert_source {
    struct moe_source values;
    struct moe_scales_source scales;
    bool expanded;            /* values are copied as f32, with the scales in them */
    const struct moe_split *split;    /* blocks are copied as planes of codes and of scales; NULL: as they are */
    size_t split_offset;              /* of the scales, in packed */
    size_t bias_offset;       /* in packed, if the backend cannot read host memory and there is a bias */
    float *host_bias;         /* [num_experts, rows]; NULL: none */
};

enum { MOE_GATE, MOE_UP, MOE_DOWN, MOE_MATRICES };

struct moe_experts {
    struct moe_backend *backend;
    struct moe_expert_set set;
    struct moe_expert_source sources[MOE_MATRICES];
    struct moe_view packed; /* all copies and biases; base NULL: none */
    bool owns_packed;
};

/* What a router's pointers point to. */
struct moe_router_memory {
    float *matrix, *bias, *selection_bias, *expert_scale;
    int32_t *hash_table;
};

struct moe_layer {
    struct moe_backend *backend;
    struct moe_layer_desc desc;
    struct moe_layer_info info;
    struct moe_router router;
    size_t experts_present; /* matrices, where num_experts counts ids */
    struct moe_router_memory router_memory;
    float *shared_gate, *out_bias, *out_norm_scale, *latent_norm_scale;
    struct moe_norm_desc out_norm, latent_norm;
    void *state;           /* the backend's; NULL: composed */
    struct moe_view zero;  /* composed, in backend memory: a row of zeros, hidden_size or what experts give if wider */
    struct moe_view added; /* composed, in backend memory: out_bias; base NULL: none */
    struct moe_experts *owned, *owned_shared, *owned_latent;
};

/* The layer destroys these with itself. Each may be NULL. */
void moe_layer_own(struct moe_layer *layer, struct moe_experts *experts, struct moe_experts *shared,
                   struct moe_experts *latent);

#endif
