// SPDX-License-Identifier: MIT
// moe check: every layer of a model against recorded inputs and outputs, a line each.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "check_layer.h"
#include "describe.h"
#include "json_value.h"
#include "options.h"

#define FLOAT_TOLERANCE 1e-5

static const char about[] =
    "Runs every MoE layer on the inputs in reference.safetensors beside the model and compares. The reference holds,\n"
    "for layer N: layerN.x and layerN.out [tokens, hidden] f32, and, where known, layerN.router_x,\n"
    "layerN.router_logits [tokens, experts], layerN.ids [tokens, k] i32, layerN.weights, layerN.expert_x and\n"
    "layerN.expert_out of the experts alone, and input_ids [tokens] for layers that route by token id. A line tells:\n"
    "  error    ||out - reference|| / ||reference||; nmse is its square\n"
    "  ids      tokens whose set of experts is that of a router in double precision, and of the reference\n"
    "  weights  worst distance, in units of the last place of f32, of the library's weights from those of a router in\n"
    "           double precision, by the layer's own router and from the reference's logits; at most 2\n"
    "  experts' error    likewise of expert_out, where it is more than out: weighted inputs, latent experts\n"
    "  excluded          tokens whose choice hangs on less than f32 can tell, which are not compared\n"
    "A layer passes if its errors are within the tolerance, all ids agree, the weights hold, the reference's logits\n"
    "and weights are those of the layer's router, and no more than a quarter of the tokens are excluded. Tolerance:\n"
    "1e-5 where all experts are f32, f16 or bf16 and activations stay f32. References belong to unquantised weights,\n"
    "so others may differ by 6 / 2^b, b the bits per value of the layer's coarsest format: two to four times what\n"
    "rounding to that format costs (q8_0 0.017, q6_k 0.064, q4_k and q4_0 0.27, mxfp4 0.32).";

static const char examples[] =
    "  moe check models/bard\n"
    "  moe check bard-q8_0.gguf --reference models/bard/reference.safetensors\n"
    "  moe check models/bard --primitives            the layer composed of the backend's primitives\n"
    "  moe check models/bard --backend cpu:c --json  portable kernels only; output for programs";

struct check {
    const char *model, *reference, *backend, *describe;
    size_t threads;
    double tolerance;               /* < 0: by the formats */
    bool primitives, exact, json;
    struct session session;
    struct moe_model *data;         /* the reference */
    json_t *lines;
    size_t num_checked, num_failed, num_missing;
};

struct verdict {
    struct check_result result;
    double tolerance;
    bool passed;
    enum moe_format coarsest;
};

/* ---- tolerances ---- */

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
    if (block->latent)
        coarser(&verdict->coarsest, block->latent);
    if (check->tolerance >= 0)
        verdict->tolerance = check->tolerance;
    else if (!is_float(verdict->coarsest))
        verdict->tolerance = 6 * exp2(-bits(verdict->coarsest));
    else
        verdict->tolerance = exact ? FLOAT_TOLERANCE : 6 * exp2(-8.5);   /* activations rounded, at worst to 8 bits */
}

/* ---- reporting ---- */

static void report_json(struct check *check, size_t layer, size_t num_tokens, const struct verdict *verdict)
{
    const struct check_result *result = &verdict->result;
    json_array_append_new(check->lines,
        json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:I, s:o, s:s, s:b}", "layer", (json_int_t)layer, "tokens",
                  (json_int_t)num_tokens, "excluded", (json_int_t)result->excluded, "error",
                  json_value_number(result->error), "nmse", json_value_number(result->error * result->error),
                  "experts_error", result->experts_error >= 0 ? json_value_number(result->experts_error) : json_null(),
                  "tolerance", json_value_number(verdict->tolerance), "ids_agree", (json_int_t)result->ids_agree,
                  "weights_ulp", result->ulp >= 0 ? json_value_number(result->ulp) : json_null(), "format",
                  describe_format(verdict->coarsest), "passed", verdict->passed));
}

static void report(struct check *check, size_t layer, size_t num_tokens, const struct verdict *verdict)
{
    const struct check_result *result = &verdict->result;
    char more[256] = "";
    if (check->json) {
        report_json(check, layer, num_tokens, verdict);
        return;
    }
    if (result->ulp >= 0)
        tool_append(more, sizeof more, "  weights %.2f ulp", result->ulp);
    if (result->experts_error >= 0)
        tool_append(more, sizeof more, "  experts' error %.2e", result->experts_error);
    if (result->excluded)
        tool_append(more, sizeof more, "  %zu of %zu tokens excluded", result->excluded, num_tokens);
    if (!(result->logits_off <= 1))
        tool_append(more, sizeof more, "  the reference's logits are others");
    if (!(result->weights_off <= 1))
        tool_append(more, sizeof more, "  the reference's weights are others");
    printf("layer %2zu  %-5s error %.2e (<= %.1e, %s)  nmse %.1e  ids %zu/%zu%s\n", layer,
           verdict->passed ? "ok" : "FAIL", result->error, verdict->tolerance, describe_format(verdict->coarsest),
           result->error * result->error, result->ids_agree, num_tokens - result->excluded, more);
    fflush(stdout);
}

/* ---- layers ---- */

/* A layer, and what it was made of where the model's own has more than the reference. */
struct handle {
    struct moe_experts *experts, *latent;
    struct moe_layer *layer;
};

static void close_handle(struct handle *handle)
{
    moe_layer_destroy(handle->layer);
    moe_experts_destroy(handle->experts);
    moe_experts_destroy(handle->latent);
    *handle = (struct handle){0};
}

/* The layer again, without its shared expert. */
static int open_without_shared(struct check *check, const struct moe_model_block *block, uint32_t flags,
                               struct handle *handle)
{
    struct moe_error error = {0};
    struct moe_layer_params params = *block->layer;
    close_handle(handle);
    enum moe_status status = moe_experts_create(check->session.backend, block->experts, &handle->experts, &error);
    if (status == MOE_OK && block->latent)
        status = moe_experts_create(check->session.backend, block->latent, &handle->latent, &error);
    params.experts = handle->experts;
    params.latent = handle->latent;
    params.shared = NULL;
    params.flags = flags;
    if (status == MOE_OK)
        status = moe_layer_create(check->session.backend, &params, &handle->layer, &error);
    return status == MOE_OK ? TOOL_OK : tool_fail_moe(status, &error, check->model);
}

static int check_record(struct check *check, size_t index, const struct check_subject *subject)
{
    struct verdict verdict = {0};
    const struct check_result *result = &verdict.result;
    set_tolerance(check, subject->block, subject->info->exact, &verdict);
    int code = check_layer(&verdict.result, subject);
    if (code != TOOL_OK)
        return code;
    verdict.passed = result->error <= verdict.tolerance && result->experts_error <= verdict.tolerance &&
                     check_routing_holds(result, subject->reference->num_tokens);
    check->num_checked++;
    check->num_failed += !verdict.passed;
    report(check, index, subject->reference->num_tokens, &verdict);
    return TOOL_OK;
}

static int check_block(struct check *check, size_t index)
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
    struct handle handle = {0};
    struct moe_layer_info info = {.struct_size = sizeof info};
    struct reference reference = {0};
    status = moe_model_layer(check->session.model, index, check->session.backend, flags, &handle.layer, &error);
    if (status == MOE_OK)
        status = moe_layer_info(handle.layer, &info);
    int code = status == MOE_OK ? TOOL_OK : tool_fail_moe(status, &error, check->model);
    if (code == TOOL_OK)
        code = reference_read(&reference, check->data, check->reference, index, &info, block);
    if (code == TOOL_OK && reference.no_shared)
        code = open_without_shared(check, block, flags, &handle);
    if (code == TOOL_OK && reference.x && reference.out) {
        const struct check_subject subject = {&check->session, block, handle.layer, &info, &reference};
        code = check_record(check, index, &subject);
    } else if (code == TOOL_OK) {
        check->num_missing++;
    }
    reference_free(&reference);
    close_handle(&handle);
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
    int code = session_open(&check->session, check->backend, check->threads, check->model,
                            check->describe);
    if (code == TOOL_OK) {
        struct moe_error error = {0};
        enum moe_status status = moe_model_open(check->reference, NULL, &check->data, &error);
        if (status != MOE_OK)
            code = tool_fail_moe(status, &error, check->reference);
    }
    for (size_t i = 0; code == TOOL_OK && i < check->session.info.num_blocks; i++)
        code = check_block(check, i);
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
        {"describe", OPTION_STRING, &check.describe, "FILE", "what MODEL is (docs/describe.md), not its metadata"},
        {"backend", OPTION_STRING, &check.backend, "B", "cpu (default), cpu:LEVEL, cuda:N; `moe info` lists them"},
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
