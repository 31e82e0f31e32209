// SPDX-License-Identifier: MIT
// What most commands open first: a backend, a context with threads, a model; and one call of a layer on host arrays.
#ifndef SESSION_H
#define SESSION_H

#include "tool.h"

struct session {
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct moe_model *model;
    struct moe_model_info info;
    char level[64];              /* what the backend calls its instruction-set level; "" if it has none */
};

/* Open what is not NULL; threads 0: the backend's default. describe: a description file that says what the model is;
 * NULL: its metadata do. TOOL_OK, or an exit code with the error printed. */
int session_open(struct session *session, const char *backend, size_t threads, const char *model, const char *describe);
/* Only the model, which must have an architecture if want_model. */
int session_open_model(struct session *session, const char *path, const char *describe, bool want_model);
void session_close(struct session *session);

/* One call, host arrays in and out; NULL for what is not there. */
struct layer_call {
    const struct moe_layer *layer;
    bool route_only;              /* moe_layer_route: out is not computed */
    bool pairs;                   /* MOE_OUT_PAIRS: out is [num_tokens * top_k, expert_width] */
    size_t num_tokens, hidden_size, num_experts, top_k;
    size_t expert_width;          /* with pairs */
    const float *x;               /* [num_tokens, hidden_size] */
    const float *router_x;        /* likewise */
    const int64_t *token_ids;     /* [num_tokens] */
    const float *logits;          /* [num_tokens, num_experts] */
    const int64_t *ids;           /* [num_tokens, top_k] */
    const float *weights;         /* [num_tokens, top_k] */
    float *out;                   /* [num_tokens, hidden_size], NaN before the call */
    int32_t *out_ids;             /* [num_tokens, top_k] */
    float *out_weights;           /* [num_tokens, top_k] */
};
/* TOOL_OK, or TOOL_INPUT with the error printed; what names the call in it. */
int session_call(struct session *session, const struct layer_call *call, const char *what);

#endif
