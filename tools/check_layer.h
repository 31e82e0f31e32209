// SPDX-License-Identifier: MIT
// One layer against its reference: the library's routing and outputs, with the router in double precision between them.
#ifndef CHECK_LAYER_H
#define CHECK_LAYER_H

#include "reference.h"
#include "session.h"

struct check_subject {
    struct session *session;
    const struct moe_model_block *block;
    const struct moe_layer *layer;
    const struct moe_layer_info *info;
    const struct reference *reference;
};

struct check_result {
    double error;              /* ||out - reference|| / ||reference|| */
    double experts_error;      /* the same of expert_out, where it is a record of its own; < 0: it is not */
    double ulp;                /* of the library's weights, see CHECK_MOST_ULP; < 0: the reference has them alone */
    double logits_off, weights_off;   /* of the reference from double precision, in multiples of what f32 explains */
    size_t excluded;           /* tokens whose choice of experts hangs on less than f32 can tell; not compared */
    size_t ids_agree;          /* of the others, those whose experts are the right ones */
};

#define CHECK_MOST_ULP 2.0

/* TOOL_OK with *result, or an exit code with the error printed. */
int check_layer(struct check_result *result, const struct check_subject *subject);
/* Whether routing holds; errors are for the caller to judge. */
bool check_routing_holds(const struct check_result *result, size_t num_tokens);

#endif
