// SPDX-License-Identifier: MIT
// How a layer of a model would run on a backend: which kernels for so many tokens, and why.
#ifndef LAYER_PLAN_H
#define LAYER_PLAN_H

#include <jansson.h>

#include "session.h"

/* What the user asked for. */
struct layer_plan {
    const char *backend;       /* as for moe_backend_open; the session's */
    size_t num_tokens;         /* 0: no plan is asked for */
};

/* {"backend", "level", "num_tokens", "facts": [{"key", "value"}, ...]} of a block that has experts. Its weights are on
 * the backend for as long as the call takes. TOOL_OK, or an exit code with the error printed. */
int layer_plan_make(struct session *session, const struct layer_plan *plan, size_t block, json_t **out);

void layer_plan_print(const json_t *plan);

#endif
