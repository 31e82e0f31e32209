// SPDX-License-Identifier: MIT
// The composer's routing: what the call brings (ids and weights, logits, or nothing) read back to the host row by row
// and made into ids and weights, without allocating.
#ifndef MOE_COMPOSE_ROUTE_H
#define MOE_COMPOSE_ROUTE_H

#include "compose.h"

/* Rows of a view, read back many at a time into a fixed piece of host memory. */
struct moe_window {
    const struct moe_view *view;
    size_t row_bytes, num_rows;
    unsigned char *buffer;
    size_t first, count; /* rows in the buffer */
};

struct moe_routing_reader {
    const struct moe_compose_call *call;
    struct moe_window logits, ids, weights, token_ids;
    size_t live_tokens;
};

/* Routing of one token: ids[top_k], -1 for an empty slot, and weights[top_k]; the context's memory. */
struct moe_routed {
    const int32_t *ids;
    const float *weights;
    bool finite;  /* false: a row of logits without a finite one */
    size_t empty; /* slots whose id was out of range */
};

enum moe_status moe_compose_open_routing(struct moe_routing_reader *reader, const struct moe_compose_call *call);
/* Padding tokens get ids -1 and weights 0. */
enum moe_status moe_compose_read_routing(struct moe_routing_reader *reader, size_t t, struct moe_routed *routed);
/* ERR_RANGE, ERR_NONFINITE if any live token has such a slot or row. */
enum moe_status moe_compose_check_strict(struct moe_routing_reader *reader);
/* Write out_ids and out_weights of token t, and count it. */
enum moe_status moe_compose_publish(struct moe_routing_reader *reader, size_t t, const struct moe_routed *routed);
/* Add up expert_counts. */
enum moe_status moe_compose_close_routing(struct moe_routing_reader *reader);

/* The matrix of an id under the call's expert_map; -1: skipped; experts_present: a zero expert, which gives its x. */
int32_t moe_compose_matrix(const struct moe_compose_call *call, int32_t id);

/* y[r] += sum over c of matrix[r,c] * x[c] on the host, in double; matrix is dense f32, x a row in backend memory. */
enum moe_status moe_compose_host_dots(struct moe_context *ctx, const struct moe_view *x, const float *matrix,
                                      size_t rows, size_t cols, double *y);

#endif
