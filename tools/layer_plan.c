// SPDX-License-Identifier: MIT
// Creates a layer only to hear how it would run.
#include "layer_plan.h"

#include <stdio.h>

static void add_fact(void *user, const char *key, const char *value)
{
    json_t *facts = user;
    json_array_append_new(facts, json_pack("{s:s, s:s}", "key", key, "value", value));
}

int layer_plan_make(struct session *session, const struct layer_plan *plan, size_t block, json_t **out)
{
    struct moe_error error = {0};
    struct moe_layer *layer;
    enum moe_status status =
        moe_model_layer(session->model, block, session->backend, MOE_LAYER_ALLOW_COMPOSED, &layer, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, "a layer cannot be created");
    json_t *facts = json_array();
    status = moe_layer_describe(layer, plan->num_tokens, add_fact, facts);
    moe_layer_destroy(layer);
    if (status != MOE_OK) {
        json_decref(facts);
        return tool_fail(TOOL_USAGE, "moe info: --tokens: %zu is more than a call on %s may have", plan->num_tokens,
                         plan->backend);
    }
    *out = json_pack("{s:s, s:s, s:I, s:o}", "backend", plan->backend, "level", session->level, "num_tokens",
                     (json_int_t)plan->num_tokens, "facts", facts);
    return TOOL_OK;
}

void layer_plan_print(const json_t *plan)
{
    const char *level = json_string_value(json_object_get(plan, "level"));
    json_int_t num_tokens = json_integer_value(json_object_get(plan, "num_tokens"));
    size_t i;
    const json_t *fact;
    printf("  %" JSON_INTEGER_FORMAT " token%s on %s", num_tokens, num_tokens == 1 ? "" : "s",
           json_string_value(json_object_get(plan, "backend")));
    if (*level)
        printf(", level %s", level);
    putchar('\n');
    json_array_foreach(json_object_get(plan, "facts"), i, fact)
        printf("    %-15s  %s\n", json_string_value(json_object_get(fact, "key")),
               json_string_value(json_object_get(fact, "value")));
}
