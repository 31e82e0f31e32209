// SPDX-License-Identifier: MIT
// moe run: the MoE block of one layer on activations from a .npy file.
#include <stdio.h>
#include <stdlib.h>

#include "guard.h"
#include "npy.h"
#include "options.h"
#include "session.h"

struct run {
    size_t layer, threads;
    const char *input, *output, *router_input, *token_ids, *ids, *weights, *ids_out, *weights_out, *backend, *describe;
    bool primitives, exact;
    struct npy x, router_x, tokens, given_ids, given_weights;
    struct moe_layer_info info;
    float *out, *used_weights;
    int32_t *used_ids;
};

static const char about[] =
    "Runs the whole MoE block of one layer (routing, experts, shared experts; no residual, no norm) on an array of\n"
    "activations. Arrays are NumPy .npy files with two dimensions, one row a token: X, R, Y [tokens, hidden], I and W\n"
    "[tokens, k], T [tokens, 1], for layers that route by token id. Floats are read as <f4 (<f2 and <f8 are\n"
    "converted) and written as <f4; ids are read as <i4 or <i8 and written as <i4. An id outside 0..experts-1 is an\n"
    "empty slot.";

static const char examples[] =
    "  moe run models/bard --layer 0 --input x.npy --output y.npy\n"
    "  moe run bard.gguf --layer 2 --input x.npy --output y.npy --ids-out ids.npy --weights-out w.npy\n"
    "      also which experts the router chose, and their weights\n"
    "  moe run bard.gguf --layer 2 --input x.npy --output y.npy --ids ids.npy --weights w.npy\n"
    "      routing given from outside";

/* Check the arrays against the layer and each other. */
static int check_shapes(const struct run *run)
{
    const struct npy *x = &run->x;
    if (x->cols != run->info.hidden_size)
        return tool_fail(TOOL_INPUT, "%s: rows have %zu values, but layer %zu takes hidden size %zu", run->input,
                         x->cols, run->layer, run->info.hidden_size);
    if (run->router_input && (run->router_x.rows != x->rows || run->router_x.cols != x->cols))
        return tool_fail(TOOL_INPUT, "%s: shape [%zu, %zu] is not that of the input, [%zu, %zu]", run->router_input,
                         run->router_x.rows, run->router_x.cols, x->rows, x->cols);
    if (run->token_ids && (run->tokens.rows != x->rows || run->tokens.cols != 1))
        return tool_fail(TOOL_INPUT, "%s: shape [%zu, %zu], expected [%zu, 1]: one id for each token", run->token_ids,
                         run->tokens.rows, run->tokens.cols, x->rows);
    if (run->info.needs_token_ids && !run->token_ids && !run->ids)
        return tool_fail(TOOL_INPUT, "layer %zu routes by token id: give --token-ids", run->layer);
    if (!run->ids)
        return run->info.has_router
                   ? TOOL_OK
                   : tool_fail(TOOL_INPUT, "layer %zu has no router of its own: give --ids and --weights", run->layer);
    const struct npy *ids = &run->given_ids, *weights = &run->given_weights;
    if (ids->rows != x->rows || ids->cols < 1 || ids->cols > run->info.num_experts)
        return tool_fail(TOOL_INPUT, "%s: shape [%zu, %zu], expected [%zu, 1 to %zu]: a row a token, a column a slot",
                         run->ids, ids->rows, ids->cols, x->rows, run->info.num_experts);
    if (weights->rows != ids->rows || weights->cols != ids->cols)
        return tool_fail(TOOL_INPUT, "%s: shape [%zu, %zu] is not that of %s, [%zu, %zu]", run->weights, weights->rows,
                         weights->cols, run->ids, ids->rows, ids->cols);
    return TOOL_OK;
}

static int read_arrays(struct run *run)
{
    if (!npy_read_floats(run->input, &run->x))
        return TOOL_INPUT;
    if (run->router_input && !npy_read_floats(run->router_input, &run->router_x))
        return TOOL_INPUT;
    if (run->token_ids && !npy_read_integers(run->token_ids, &run->tokens))
        return TOOL_INPUT;
    if (run->ids &&
        (!npy_read_integers(run->ids, &run->given_ids) || !npy_read_floats(run->weights, &run->given_weights)))
        return TOOL_INPUT;
    return TOOL_OK;
}

static int compute(struct run *run, struct session *session, struct moe_layer *layer)
{
    run->info.struct_size = sizeof run->info;
    enum moe_status status = moe_layer_info(layer, &run->info);
    if (status != MOE_OK)
        return tool_fail_moe(status, NULL, "the layer cannot be described");
    int code = check_shapes(run);
    if (code != TOOL_OK)
        return code;
    size_t tokens = run->x.rows, top_k = run->ids ? run->given_ids.cols : run->info.top_k;
    run->out = tool_alloc(tokens * run->info.hidden_size, sizeof *run->out);
    run->used_ids = tool_alloc(tokens * top_k, sizeof *run->used_ids);
    run->used_weights = tool_alloc(tokens * top_k, sizeof *run->used_weights);
    if (!run->out || !run->used_ids || !run->used_weights)
        return TOOL_INPUT;
    struct layer_call call = {
        .layer = layer, .num_tokens = tokens, .hidden_size = run->info.hidden_size, .top_k = top_k,
        .num_experts = run->info.num_experts, .x = run->x.floats, .router_x = run->router_x.floats,
        .token_ids = run->info.needs_token_ids ? run->tokens.integers : NULL, .ids = run->given_ids.integers,
        .weights = run->given_weights.floats, .out = run->out, .out_ids = run->used_ids,
        .out_weights = run->used_weights,
    };
    code = session_call(session, &call, "the layer did not run");
    if (code != TOOL_OK)
        return code;
    if (!npy_write_floats(run->output, run->out, tokens, run->info.hidden_size) ||
        (run->ids_out && !npy_write_integers(run->ids_out, run->used_ids, tokens, top_k)) ||
        (run->weights_out && !npy_write_floats(run->weights_out, run->used_weights, tokens, top_k)))
        return TOOL_INPUT;
    return TOOL_OK;
}

static int run_layer(struct run *run, const char *model)
{
    struct session session;
    struct moe_layer *layer = NULL;
    int code = read_arrays(run);
    if (code != TOOL_OK)
        return code;
    code = session_open(&session, run->backend, run->threads, model, run->describe);
    if (code == TOOL_OK && run->layer >= session.info.num_blocks)
        code = tool_fail(TOOL_INPUT, "%s: there is no layer %zu; the model has layers 0 to %zu", model, run->layer,
                         session.info.num_blocks - 1);
    if (code == TOOL_OK) {
        uint32_t flags = MOE_LAYER_ALLOW_COMPOSED | (run->primitives ? (uint32_t)MOE_LAYER_FORCE_COMPOSED : 0) |
                         (run->exact ? (uint32_t)MOE_LAYER_EXACT : 0);
        struct moe_error error = {0};
        enum moe_status status = moe_model_layer(session.model, run->layer, session.backend, flags, &layer, &error);
        code = status == MOE_OK ? compute(run, &session, layer) : tool_fail_moe(status, &error, model);
    }
    moe_layer_destroy(layer);
    session_close(&session);
    return code;
}

/* Outputs that are one file, or files of the model. */
static int check_outputs(const struct run *run, const char *model)
{
    const char *const names[] = {"--output", "--ids-out", "--weights-out"};
    const char *const paths[] = {run->output, run->ids_out, run->weights_out};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < i; j++)
            if (guard_same(paths[i], paths[j]))
                return tool_fail(TOOL_USAGE, "moe run: %s and %s are one file, %s", names[j], names[i], paths[i]);
        if (paths[i] && guard_of_model(model, paths[i]))
            return tool_fail(TOOL_USAGE, "moe run: %s: %s would be a file of the model", names[i], paths[i]);
    }
    return TOOL_OK;
}

int cmd_run(int argc, char **argv)
{
    struct run run = {.layer = SIZE_MAX, .backend = "cpu"};
    const struct option_row rows[] = {
        {"layer", OPTION_SIZE, &run.layer, "N", "which decoder layer, counted from 0"},
        {"input", OPTION_STRING, &run.input, "X.npy", "input of the block, [tokens, hidden]"},
        {"output", OPTION_STRING, &run.output, "Y.npy", "where its output goes"},
        {"router-input", OPTION_STRING, &run.router_input, "R.npy", "input of the router, if it is not X"},
        {"token-ids", OPTION_STRING, &run.token_ids, "T.npy", "ids of the tokens, for layers that route by them"},
        {"ids", OPTION_STRING, &run.ids, "I.npy", "experts to use instead of the router's; with --weights"},
        {"weights", OPTION_STRING, &run.weights, "W.npy", "their weights"},
        {"ids-out", OPTION_STRING, &run.ids_out, "I.npy", "where the ids that were used go"},
        {"weights-out", OPTION_STRING, &run.weights_out, "W.npy", "where the weights that were used go"},
        {"describe", OPTION_STRING, &run.describe, "FILE", "what the model is (docs/describe.md), not its metadata"},
        {"backend", OPTION_STRING, &run.backend, "B", "cpu (default), cpu:LEVEL, cuda:N; `moe info` lists them"},
        {"threads", OPTION_SIZE, &run.threads, "N", "default: all CPUs that the process may use"},
        {"primitives", OPTION_FLAG, &run.primitives, NULL, "compose the layer of the backend's primitives"},
        {"exact", OPTION_FLAG, &run.exact, NULL, "never round activations below f32"},
        {NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct option_page page = {"moe run", "MODEL", 1, 1, about, rows, examples};
    const char *model;
    enum option_result parsed = options_parse(&page, argc, argv, &model);
    if (parsed != OPTIONS_OK)
        return parsed == OPTIONS_HELP ? TOOL_OK : TOOL_USAGE;
    const char *missing = run.layer == SIZE_MAX ? "--layer" : !run.input ? "--input" : !run.output ? "--output" : NULL;
    if (missing)
        return tool_fail(TOOL_USAGE, "moe run needs %s; `moe run --help` explains", missing);
    if (!run.ids != !run.weights)
        return tool_fail(TOOL_USAGE, "moe run: --ids and --weights go together");
    int code = check_outputs(&run, model);
    if (code == TOOL_OK)
        code = run_layer(&run, model);
    npy_free(&run.x);
    npy_free(&run.router_x);
    npy_free(&run.tokens);
    npy_free(&run.given_ids);
    npy_free(&run.given_weights);
    free(run.out);
    free(run.used_ids);
    free(run.used_weights);
    return code;
}
