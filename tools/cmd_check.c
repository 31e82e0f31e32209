// SPDX-License-Identifier: MIT
// moe check: every layer of a model against recorded inputs and outputs, a line each.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "describe.h"
#include "json_value.h"
#include "matrix.h"
#include "options.h"
#include "oracle.h"
#include "session.h"

#define FLOAT_TOLERANCE 1e-5
#define ULP_TOLERANCE 2.0

static const char about[] =
    "Runs every MoE layer on the inputs in reference.safetensors beside the model and compares. The reference holds,\n"
    "for layer N: layerN.x and layerN.out [tokens, hidden] f32, and, where known, layerN.router_x,\n"
    "layerN.router_logits [tokens, experts], layerN.ids [tokens, k] i32. A line tells:\n"
    "  error    ||out - reference|| / ||reference||; nmse is its square\n"
    "  ids      tokens whose set of experts is that of the reference (or of its logits)\n"
    "  weights  worst distance, in units of the last place of f32, of the library's weights for the reference's\n"
    "           logits from those of a router in double precision; at most 2\n"
    "A layer passes if its error is within the tolerance, all ids agree and the weights hold. Tolerance: 1e-5 where\n"
    "all experts are f32, f16 or bf16 and activations stay f32. References belong to unquantised weights, so others\n"
    "may differ by 6 / 2^b, b the bits per value of the layer's coarsest format: two to four times what rounding\n"
    "to that format costs (q8_0 0.017, q6_k 0.064, q4_k and q4_0 0.27, mxfp4 0.32).";

static const char examples[] =
    "  moe check models/bard\n"
    "  moe check bard-q8_0.gguf --reference models/bard/reference.safetensors\n"
    "  moe check models/bard --primitives            the layer composed of the backend's primitives\n"
    "  moe check models/bard --backend cpu:c --json  portable kernels only; output for programs";

struct check {
    const char *model, *reference, *backend;
    size_t threads;
    double tolerance;               /* < 0: by the formats */
    bool primitives, exact, json;
    struct session session;
    struct moe_model *data;         /* the reference */
    json_t *lines;
    size_t num_checked, num_failed, num_missing;
};

/* One layer's part of the reference, from malloc; NULL: not there. */
struct record {
    size_t num_tokens;
    float *x, *router_x, *out, *logits;
    int64_t *ids;
};

struct verdict {
    double error, nmse, tolerance, ulp;
    size_t ids_agree;
    bool has_ids, has_weights, passed;
    enum moe_format coarsest;
};

/* ---- reading the reference ---- */

static void free_record(struct record *record)
{
    free(record->x);
    free(record->router_x);
    free(record->out);
    free(record->logits);
    free(record->ids);
}

/* layerN.NAME as [*rows, cols] floats into *out; *rows 0: any. Leaves *out NULL where there is no such tensor. */
static int take_floats(struct check *check, size_t layer, const char *name, size_t *rows, size_t cols, float **out)
{
    char key[64];
    snprintf(key, sizeof key, "layer%zu.%s", layer, name);
    struct moe_tensor tensor;
    if (moe_model_tensor_find(check->data, key, &tensor) != MOE_OK)
        return TOOL_OK;
    if (tensor.num_dims != 2 || tensor.shape[0] == 0 || tensor.shape[1] != cols ||
        (*rows && tensor.shape[0] != *rows))
        return tool_fail(TOOL_INPUT, "%s: tensor '%s' is not of %zu values a token, of at least one token, and of as "
                         "many as the layer's other tensors", check->reference, key, cols);
    if (!tensor.format || (tensor.format->format != MOE_FORMAT_F32 && tensor.format->format != MOE_FORMAT_F16 &&
                           tensor.format->format != MOE_FORMAT_BF16))
        return tool_fail(TOOL_INPUT, "%s: tensor '%s' must hold f32, f16 or bf16 values", check->reference, key);
    struct moe_error error = {0};
    const void *data;
    enum moe_status status = moe_model_tensor_data(check->data, key, &data, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, check->reference);
    *rows = tensor.shape[0];
    *out = tool_alloc(*rows * cols, sizeof **out);
    if (!*out)
        return TOOL_INPUT;
    moe_format_dequantise(tensor.format->format, *out, data, *rows, cols);
    return TOOL_OK;
}

static int take_ids(struct check *check, size_t layer, size_t rows, size_t cols, int64_t **out)
{
    char key[64];
    snprintf(key, sizeof key, "layer%zu.ids", layer);
    struct moe_tensor tensor;
    if (moe_model_tensor_find(check->data, key, &tensor) != MOE_OK)
        return TOOL_OK;
    if (tensor.num_dims != 2 || tensor.shape[0] != rows || tensor.shape[1] != cols || tensor.type != MOE_FORMAT_I32 ||
        !tensor.format)
        return tool_fail(TOOL_INPUT, "%s: tensor '%s' must be [%zu, %zu] i32", check->reference, key, rows, cols);
    struct moe_error error = {0};
    const void *data;
    enum moe_status status = moe_model_tensor_data(check->data, key, &data, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, check->reference);
    *out = tool_alloc(rows * cols, sizeof **out);
    if (!*out)
        return TOOL_INPUT;
    for (size_t i = 0; i < rows * cols; i++) {
        int32_t id;
        memcpy(&id, (const char *)data + i * sizeof id, sizeof id);
        (*out)[i] = id;
    }
    return TOOL_OK;
}

static int read_record(struct check *check, size_t layer, const struct moe_layer_info *info, struct record *record)
{
    size_t *rows = &record->num_tokens;
    int code = take_floats(check, layer, "x", rows, info->hidden_size, &record->x);
    if (code != TOOL_OK || !record->x)
        return code;
    code = take_floats(check, layer, "out", rows, info->hidden_size, &record->out);
    if (code == TOOL_OK)
        code = take_floats(check, layer, "router_x", rows, info->hidden_size, &record->router_x);
    if (code == TOOL_OK)
        code = take_floats(check, layer, "router_logits", rows, info->num_experts, &record->logits);
    if (code == TOOL_OK)
        code = take_ids(check, layer, *rows, info->top_k, &record->ids);
    return code;
}

/* ---- comparing ---- */

static bool is_float(enum moe_format format)
{
    return format == MOE_FORMAT_F32 || format == MOE_FORMAT_F16 || format == MOE_FORMAT_BF16;
}

static double bits(enum moe_format format)
{
    const struct moe_format_info *info = moe_format_info(format);
    return info ? 8.0 * info->block_bytes / info->block_values : 0;
}

static void coarser(enum moe_format *worst, const struct moe_experts_params *experts)
{
    const struct moe_matrix *matrices[] = {experts->gate, experts->up, experts->down};
    for (size_t i = 0; i < 3; i++)
        if (matrices[i] && bits(matrices[i]->data.format) < bits(*worst))
            *worst = matrices[i]->data.format;
}

static void set_tolerance(const struct check *check, const struct moe_model_block *block, bool exact,
                          struct verdict *verdict)
{
    verdict->coarsest = MOE_FORMAT_F32;
    coarser(&verdict->coarsest, block->experts);
    if (block->shared)
        coarser(&verdict->coarsest, block->shared);
    if (check->tolerance >= 0)
        verdict->tolerance = check->tolerance;
    else if (!is_float(verdict->coarsest))
        verdict->tolerance = 6 * exp2(-bits(verdict->coarsest));
    else
        verdict->tolerance = exact ? FLOAT_TOLERANCE : 6 * exp2(-8.5);   /* activations rounded, at worst to 8 bits */
}

static bool contains(const int64_t *ids, size_t count, int64_t id)
{
    for (size_t k = 0; k < count; k++)
        if (ids[k] == id)
            return true;
    return false;
}

/* Tokens whose two sets of ids are equal. Ids of a set are distinct. */
static size_t count_equal(const int32_t *ids, const int64_t *expected, size_t num_tokens, size_t top_k)
{
    size_t equal = 0;
    for (size_t t = 0; t < num_tokens; t++) {
        bool same = true;
        for (size_t k = 0; k < top_k; k++)
            same = same && contains(expected + t * top_k, top_k, ids[t * top_k + k]);
        equal += same;
    }
    return equal;
}

static double ulps(float weight, double expected)
{
    if (isnan(weight))
        return INFINITY;
    int exponent;
    frexp(fmax(fabs(expected), 1.17549435e-38), &exponent);
    return fabs(weight - expected) / ldexp(1, exponent - 24);
}

/* The library's routing of the reference's logits, against the oracle's. Fills record->ids if the file has none. */
static int check_weights(struct check *check, const struct moe_layer *layer, const struct moe_model_block *block,
                         const struct moe_layer_info *info, struct record *record, struct verdict *verdict)
{
    const struct moe_routing *routing = block->layer->routing;
    size_t pairs = record->num_tokens * info->top_k, n = info->num_experts, k = info->top_k;
    int32_t *ids = tool_alloc(pairs, sizeof *ids);
    float *weights = tool_alloc(pairs, sizeof *weights), *bias = NULL;
    int64_t *expected_ids = tool_alloc(pairs, sizeof *expected_ids);
    double *expected = tool_alloc(pairs + 2 * n, sizeof *expected);
    int code = ids && weights && expected_ids && expected ? TOOL_OK : TOOL_INPUT;
    if (code == TOOL_OK && routing->selection_bias.base) {
        bias = tool_alloc(n, sizeof *bias);
        code = bias && matrix_view(&routing->selection_bias, n, bias) ? TOOL_OK : TOOL_INPUT;
    }
    if (code == TOOL_OK) {
        struct layer_call call = {.layer = layer, .route_only = true, .num_tokens = record->num_tokens,
                                  .hidden_size = info->hidden_size, .num_experts = n, .top_k = k,
                                  .logits = record->logits, .out_ids = ids, .out_weights = weights};
        code = session_call(&check->session, &call, "the routing did not run");
    }
    verdict->has_weights = code == TOOL_OK;
    for (size_t t = 0; code == TOOL_OK && t < record->num_tokens; t++)
        oracle_route(routing, bias, n, k, record->logits + t * n, expected_ids + t * k, expected + t * k,
                     expected + pairs);
    for (size_t i = 0; code == TOOL_OK && i < pairs; i++)
        verdict->ulp = fmax(verdict->ulp, ids[i] == expected_ids[i] ? ulps(weights[i], expected[i]) : INFINITY);
    if (code == TOOL_OK && !record->ids) {
        record->ids = expected_ids;
        expected_ids = NULL;
    }
    free(ids);
    free(weights);
    free(bias);
    free(expected_ids);
    free(expected);
    return code;
}

static int check_forward(struct check *check, const struct moe_layer *layer, const struct moe_layer_info *info,
                         const struct record *record, struct verdict *verdict)
{
    size_t values = record->num_tokens * info->hidden_size, pairs = record->num_tokens * info->top_k;
    float *out = tool_alloc(values, sizeof *out);
    double *expected = tool_alloc(values, sizeof *expected);
    int32_t *ids = tool_alloc(pairs, sizeof *ids);
    int code = out && expected && ids ? TOOL_OK : TOOL_INPUT;
    if (code == TOOL_OK) {
        struct layer_call call = {.layer = layer, .num_tokens = record->num_tokens, .hidden_size = info->hidden_size,
                                  .num_experts = info->num_experts, .top_k = info->top_k, .x = record->x,
                                  .router_x = record->router_x, .out = out, .out_ids = ids};
        if (!info->has_router)
            call.logits = record->logits;
        code = session_call(&check->session, &call, "the layer did not run");
    }
    if (code == TOOL_OK) {
        for (size_t i = 0; i < values; i++)
            expected[i] = record->out[i];
        verdict->error = oracle_error(out, expected, values);
        verdict->nmse = verdict->error * verdict->error;
        verdict->has_ids = record->ids != NULL;
        if (record->ids)
            verdict->ids_agree = count_equal(ids, record->ids, record->num_tokens, info->top_k);
    }
    free(out);
    free(expected);
    free(ids);
    return code;
}

/* ---- reporting ---- */

static void report(struct check *check, size_t layer, const struct record *record, const struct verdict *verdict)
{
    if (check->json) {
        json_array_append_new(check->lines,
            json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:s, s:b}", "layer", (json_int_t)layer, "tokens",
                      (json_int_t)record->num_tokens, "error", json_value_number(verdict->error), "nmse",
                      json_value_number(verdict->nmse), "tolerance", json_value_number(verdict->tolerance), "ids_agree",
                      verdict->has_ids ? json_integer((json_int_t)verdict->ids_agree) : json_null(), "weights_ulp",
                      verdict->has_weights ? json_value_number(verdict->ulp) : json_null(), "format",
                      describe_format(verdict->coarsest), "passed", verdict->passed));
        return;
    }
    char ids[64] = "ids unknown", weights[64] = "";
    if (verdict->has_ids)
        snprintf(ids, sizeof ids, "ids %zu/%zu", verdict->ids_agree, record->num_tokens);
    if (verdict->has_weights)
        snprintf(weights, sizeof weights, "  weights %.2f ulp", verdict->ulp);
    printf("layer %2zu  %-5s error %.2e (<= %.1e, %s)  nmse %.1e  %s%s\n", layer, verdict->passed ? "ok" : "FAIL",
           verdict->error, verdict->tolerance, describe_format(verdict->coarsest), verdict->nmse, ids, weights);
    fflush(stdout);
}

static int check_record(struct check *check, size_t index, const struct moe_model_block *block,
                        const struct moe_layer *layer, const struct moe_layer_info *info)
{
    struct record record = {0};
    struct verdict verdict = {0};
    int code = read_record(check, index, info, &record);
    bool there = record.x && record.out;
    if (code == TOOL_OK && there) {
        set_tolerance(check, block, info->exact, &verdict);
        if (record.logits && block->layer->routing)
            code = check_weights(check, layer, block, info, &record, &verdict);
        if (code == TOOL_OK)
            code = check_forward(check, layer, info, &record, &verdict);
    }
    if (code == TOOL_OK && there) {
        verdict.passed = verdict.error <= verdict.tolerance && (!verdict.has_weights || verdict.ulp <= ULP_TOLERANCE) &&
                         (!verdict.has_ids || verdict.ids_agree == record.num_tokens);
        check->num_checked++;
        check->num_failed += !verdict.passed;
        report(check, index, &record, &verdict);
    } else if (code == TOOL_OK) {
        check->num_missing++;
    }
    free_record(&record);
    return code;
}

static int check_layer(struct check *check, size_t index)
{
    const struct moe_model_block *block = NULL;
    struct moe_error error = {0};
    enum moe_status status = moe_model_block(check->session.model, index, &block, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, check->model);
    if (!block)
        return TOOL_OK;
    uint32_t flags = MOE_LAYER_ALLOW_COMPOSED | (check->primitives ? (uint32_t)MOE_LAYER_FORCE_COMPOSED : 0) |
                     (check->exact ? (uint32_t)MOE_LAYER_EXACT : 0);
    struct moe_layer *layer;
    status = moe_model_layer(check->session.model, index, check->session.backend, flags, &layer, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, check->model);
    struct moe_layer_info info = {.struct_size = sizeof info};
    status = moe_layer_info(layer, &info);
    int code = status == MOE_OK ? check_record(check, index, block, layer, &info)
                                : tool_fail_moe(status, NULL, "the layer cannot be described");
    moe_layer_destroy(layer);
    return code;
}

/* reference.safetensors in the model's directory; from malloc. */
static char *path_beside(const char *model)
{
    static const char name[] = "reference.safetensors";
    struct stat info;
    size_t length = strlen(model);
    if (stat(model, &info) != 0 || !S_ISDIR(info.st_mode)) {
        const char *slash = strrchr(model, '/');
        length = slash ? (size_t)(slash - model) : 0;
    }
    char *path = tool_alloc(length + sizeof name + 1, 1);
    if (path)
        sprintf(path, "%.*s%s%s", (int)length, model, length ? "/" : "", name);
    return path;
}

static int finish(struct check *check)
{
    if (check->num_checked == 0)
        return tool_fail(TOOL_INPUT, "%s: holds no layerN.x with layerN.out for an MoE layer of %s", check->reference,
                         check->model);
    if (check->json) {
        json_t *all = json_pack("{s:o, s:o, s:s, s:s, s:O, s:I, s:I, s:I, s:b}", "model", json_value_text(check->model),
                                "reference", json_value_text(check->reference), "backend", check->backend,
                                "level", check->session.level, "layers", check->lines, "checked",
                                (json_int_t)check->num_checked, "failed",
                                (json_int_t)check->num_failed, "without_reference", (json_int_t)check->num_missing,
                                "passed", check->num_failed == 0);
        bool printed = all && json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0;
        json_decref(all);
        if (!printed)
            return tool_fail(TOOL_INPUT, "out of memory, or standard output cannot be written");
        putchar('\n');
        return check->num_failed ? TOOL_FAILED : TOOL_OK;
    }
    if (check->num_missing)
        printf("%zu layers have no reference\n", check->num_missing);
    if (check->num_failed) {
        printf("%zu of %zu layers FAIL\n", check->num_failed, check->num_checked);
    } else {
        printf("all %zu layers agree with %s\n", check->num_checked, check->reference);
    }
    return check->num_failed ? TOOL_FAILED : TOOL_OK;
}

static int check_model(struct check *check)
{
    int code = session_open(&check->session, check->backend, check->threads, check->model);
    if (code == TOOL_OK) {
        struct moe_error error = {0};
        enum moe_status status = moe_model_open(check->reference, NULL, &check->data, &error);
        if (status != MOE_OK)
            code = tool_fail_moe(status, &error, check->reference);
    }
    for (size_t i = 0; code == TOOL_OK && i < check->session.info.num_blocks; i++)
        code = check_layer(check, i);
    if (code == TOOL_OK)
        code = finish(check);
    moe_model_close(check->data);
    session_close(&check->session);
    return code;
}

int cmd_check(int argc, char **argv)
{
    struct check check = {.backend = "cpu", .tolerance = -1};
    const struct option_row rows[] = {
        {"reference", OPTION_STRING, &check.reference, "FILE", "another reference than the one beside the model"},
        {"tolerance", OPTION_NUMBER, &check.tolerance, "E", "largest error that passes, in place of the rule above"},
        {"backend", OPTION_STRING, &check.backend, "B", "cpu (default), or cpu:LEVEL; `moe info` lists them"},
        {"threads", OPTION_SIZE, &check.threads, "N", "default: all CPUs that the process may use"},
        {"primitives", OPTION_FLAG, &check.primitives, NULL, "compose the layers of the backend's primitives"},
        {"exact", OPTION_FLAG, &check.exact, NULL, "never round activations below f32"},
        {"json", OPTION_FLAG, &check.json, NULL, "print one JSON object"},
        {NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct option_page page = {"moe check", "MODEL", 1, 1, about, rows, examples};
    enum option_result parsed = options_parse(&page, argc, argv, &check.model);
    if (parsed != OPTIONS_OK)
        return parsed == OPTIONS_HELP ? TOOL_OK : TOOL_USAGE;
    char *beside = NULL;
    if (!check.reference)
        check.reference = beside = path_beside(check.model);
    check.lines = json_array();
    int code = check.reference && check.lines ? check_model(&check) : TOOL_INPUT;
    json_decref(check.lines);
    free(beside);
    return code;
}
