// SPDX-License-Identifier: MIT
// moe info: what a model file holds, or, without one, what this build and machine can do.
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "describe.h"
#include "families.h"
#include "json_value.h"
#include "layer_plan.h"
#include "options.h"
#include "session.h"

static const char about[] =
    "With MODEL: architecture, layers, experts, sizes, weight formats, routing in words, bytes of a layer and bytes\n"
    "that one token reads in it. Only headers are read, whatever the size of the files.\n"
    "With --tokens also how a forward of so many tokens would run on --backend: which kernels, and why. That loads\n"
    "one layer of each kind onto it, and runs nothing.\n"
    "Without MODEL: version, backends, instruction-set level and kernels on this machine, weight formats, and the\n"
    "model families that are known. Formats that can only be read are no target of `moe convert`.";

static const char examples[] =
    "  moe info                         what can this build do on this machine?\n"
    "  moe info models/bard             a Hugging Face directory\n"
    "  moe info model.gguf --tensors    also every tensor with its shape\n"
    "  moe info model.gguf --json       for programs\n"
    "  moe info model.gguf --tokens 64 --backend cuda:0\n"
    "      which kernels would 64 tokens take on this GPU?\n"
    "  moe info model --describe >model.json\n"
    "      all that the library knows of the model, to be edited and read back with --describe model.json";

/* ---- without a model ---- */

static void print_fact(void *user, const char *key, const char *value)
{
    (void)user;
    printf("    %-12s %s\n", key, value);
}

static void add_fact(void *user, const char *key, const char *value)
{
    json_t *list = user;
    json_array_append_new(list, json_pack("{s:s, s:s}", "key", key, "value", value));
}

/* line and user as for moe_backend_describe. false: not on this machine; error says why. */
static bool describe_backend(const char *name, void (*line)(void *, const char *, const char *), void *user,
                             struct moe_error *error)
{
    struct moe_backend *backend;
    if (moe_backend_open(name, NULL, &backend, error) != MOE_OK)
        return false;
    moe_backend_describe(backend, line, user);
    moe_backend_close(backend);
    return true;
}

static json_t *json_of_names(const char *const *names)
{
    json_t *list = json_array();
    for (; *names; names++)
        json_array_append_new(list, json_string(*names));
    return list;
}

static void print_names(const char *title, const char *const *names)
{
    size_t column = 0;
    printf("\n%s", title);
    for (; *names; names++) {
        size_t width = strlen(*names) + 2;
        if (column == 0 || column + width > 110) {
            fputs("\n ", stdout);
            column = 2;
        }
        printf(" %s%s", *names, names[1] ? "," : "\n");
        column += width;
    }
}

static json_t *json_of_build(void)
{
    json_t *backends = json_array(), *formats = json_array();
    const char *name;
    for (size_t i = 0; (name = moe_backend_name(i)) != NULL; i++) {
        json_t *facts = json_array();
        struct moe_error error = {0};
        bool here = describe_backend(name, add_fact, facts, &error);
        json_array_append_new(backends, json_pack("{s:s, s:b, s:s*, s:o}", "name", name, "available", here, "error",
                                                  here ? NULL : error.text, "facts", facts));
    }
    const struct moe_format_info *format;
    for (size_t i = 0; (format = moe_format_at(i)) != NULL; i++)
        json_array_append_new(formats, json_pack("{s:s, s:i, s:i, s:i, s:b}", "name", format->name, "id",
                                                 (int)format->format, "block_values", (int)format->block_values,
                                                 "block_bytes", (int)format->block_bytes, "can_quantise",
                                                 moe_format_can_quantise(format->format)));
    return json_pack("{s:s, s:i, s:o, s:o, s:o, s:o}", "version", moe_version(), "abi", (int)moe_abi_version(),
                     "backends", backends, "formats", formats, "families", json_of_names(families_config),
                     "gguf_architectures", json_of_names(families_gguf));
}

static void print_build(void)
{
    printf("libmoe %s, ABI %u\n\nbackends\n", moe_version(), (unsigned)moe_abi_version());
    const char *name;
    for (size_t i = 0; (name = moe_backend_name(i)) != NULL; i++) {
        struct moe_error error = {0};
        printf("  %s\n", name);
        if (!describe_backend(name, print_fact, NULL, &error))
            printf("    not on this machine: %s\n", error.text);
    }
    puts("\nweight formats\n  name       values/block  bytes/block  bits/value");
    const struct moe_format_info *format;
    for (size_t i = 0; (format = moe_format_at(i)) != NULL; i++)
        printf("  %-10s %12u %12u %11.2f%s\n", format->name, (unsigned)format->block_values,
               (unsigned)format->block_bytes, 8.0 * format->block_bytes / format->block_values,
               moe_format_can_quantise(format->format) ? "" : "  can only be read");
    print_names("model families, model_type in config.json", families_config);
    print_names("model families, general.architecture in GGUF", families_gguf);
}

/* ---- with a model ---- */

static bool same_facts(const struct block_facts *a, const struct block_facts *b)
{
    return a->moe == b->moe && a->num_experts == b->num_experts && a->top_k == b->top_k &&
           a->hidden_size == b->hidden_size && a->intermediate_size == b->intermediate_size &&
           a->shared_size == b->shared_size && a->num_zero_experts == b->num_zero_experts &&
           a->expert_width == b->expert_width && strcmp(a->scales, b->scales) == 0 &&
           a->layer_bytes == b->layer_bytes && strcmp(a->gate, b->gate) == 0 &&
           strcmp(a->up, b->up) == 0 && strcmp(a->down, b->down) == 0 && strcmp(a->shared_up, b->shared_up) == 0 &&
           strcmp(a->routing, b->routing) == 0 && strcmp(a->activation, b->activation) == 0;
}

static void print_blocks(size_t first, size_t last, const struct block_facts *facts)
{
    char name[64], layer[32], token[32], expert[32];
    if (first == last)
        snprintf(name, sizeof name, "layer %zu", first);
    else
        snprintf(name, sizeof name, "layers %zu-%zu", first, last);
    if (!facts->moe) {
        printf("\n%s: dense\n", name);
        return;
    }
    printf("\n%s: %zu experts of %zu x %zu, top %zu", name, facts->num_experts, facts->expert_width,
           facts->intermediate_size, facts->top_k);
    if (facts->num_zero_experts)
        printf(", %zu zero experts", facts->num_zero_experts);
    if (facts->expert_width != facts->hidden_size)
        printf(", hidden size %zu", facts->hidden_size);
    if (facts->shared_size)
        printf(", shared expert of %zu x %zu (%s)", facts->hidden_size, facts->shared_size, facts->shared_up);
    printf("\n  formats     ");
    if (*facts->gate)
        printf("gate %s, ", facts->gate);
    printf("up %s, down %s\n", facts->up, facts->down);
    if (*facts->scales)
        printf("  scales      %s\n", facts->scales);
    printf("  routing     %s\n", facts->routing);
    printf("  activation  %s\n", facts->activation);
    printf("  bytes       %s a layer, %s an expert; a token reads %s (%.1f %%)\n",
           tool_bytes(layer, facts->layer_bytes), tool_bytes(expert, facts->expert_bytes),
           tool_bytes(token, facts->token_bytes), 100.0 * (double)facts->token_bytes / (double)facts->layer_bytes);
}

static json_t *json_of_block(size_t index, const struct block_facts *facts)
{
    if (!facts->moe)
        return json_pack("{s:I, s:b}", "layer", (json_int_t)index, "moe", 0);
    return json_pack("{s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s?, s:s, s:s, s:s?, s:s, s:s, s:I, s:I, s:I}",
                     "layer", (json_int_t)index, "moe", 1, "num_experts", (json_int_t)facts->num_experts,
                     "num_zero_experts", (json_int_t)facts->num_zero_experts,
                     "expert_width", (json_int_t)facts->expert_width,
                     "top_k", (json_int_t)facts->top_k, "hidden_size", (json_int_t)facts->hidden_size,
                     "intermediate_size", (json_int_t)facts->intermediate_size,
                     "shared_intermediate_size", (json_int_t)facts->shared_size,
                     "gate", *facts->gate ? facts->gate : NULL, "up", facts->up, "down", facts->down,
                     "scales", *facts->scales ? facts->scales : NULL,
                     "routing", facts->routing, "activation", facts->activation,
                     "expert_bytes", (json_int_t)facts->expert_bytes, "layer_bytes", (json_int_t)facts->layer_bytes,
                     "token_bytes", (json_int_t)facts->token_bytes);
}

static json_t *json_of_tensors(const struct session *session)
{
    json_t *list = json_array();
    struct moe_tensor tensor;
    for (size_t i = 0; moe_model_tensor_at(session->model, i, &tensor) == MOE_OK; i++) {
        json_t *shape = json_array();
        for (size_t d = 0; d < tensor.num_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)tensor.shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:s?, s:I, s:o, s:I}", "name", tensor.name, "format",
                                              tensor.format ? tensor.format->name : NULL, "type",
                                              (json_int_t)tensor.type, "shape", shape, "bytes",
                                              (json_int_t)tensor.size));
    }
    return list;
}

static void print_tensors(const struct session *session)
{
    struct moe_tensor tensor;
    puts("\ntensors");
    for (size_t i = 0; moe_model_tensor_at(session->model, i, &tensor) == MOE_OK; i++) {
        char shape[128] = "", type[16];
        for (size_t d = 0; d < tensor.num_dims; d++)
            tool_append(shape, sizeof shape, "%s%zu", d ? ", " : "", tensor.shape[d]);
        snprintf(type, sizeof type, "type %u", (unsigned)tensor.type);
        printf("  %-60s %-7s [%s]\n", tensor.name, tensor.format ? tensor.format->name : type, shape);
    }
}

/* Facts of every block, from malloc; NULL with the error printed. */
static struct block_facts *collect(struct session *session, size_t *num_moe)
{
    size_t count = session->info.num_blocks;
    struct block_facts *facts = tool_alloc(count, sizeof *facts);
    *num_moe = 0;
    for (size_t i = 0; facts && i < count; i++) {
        const struct moe_model_block *block = NULL;
        struct moe_error error = {0};
        enum moe_status status = moe_model_block(session->model, i, &block, &error);
        if (status != MOE_OK) {
            tool_fail_moe(status, &error, "a layer cannot be described");
            free(facts);
            return NULL;
        }
        describe_block(&facts[i], block);
        *num_moe += facts[i].moe;
    }
    return facts;
}

/* A plan for each block, null for dense ones; blocks of one kind share theirs. NULL: none is asked for, or, with *code
 * set and the error printed, one failed. */
static json_t *make_plans(struct session *session, const struct layer_plan *plan, const struct block_facts *facts,
                          int *code)
{
    json_t *plans = plan->num_tokens > 0 ? json_array() : NULL;
    for (size_t i = 0; plans && i < session->info.num_blocks; i++) {
        json_t *made = NULL;
        if (i > 0 && same_facts(&facts[i - 1], &facts[i]))
            made = json_incref(json_array_get(plans, i - 1));
        else if (facts[i].moe)
            *code = layer_plan_make(session, plan, i, &made);
        if (*code != TOOL_OK) {
            json_decref(plans);
            return NULL;
        }
        json_array_append_new(plans, made ? made : json_null());
    }
    return plans;
}

static void print_model(const struct session *session, const char *path, const struct block_facts *facts,
                        size_t num_moe, const json_t *plans)
{
    const struct moe_model_info *info = &session->info;
    char bytes[32], experts[32], token[32];
    uint64_t all = 0, read = 0;
    printf("%s\n", path);
    if (info->architecture) {
        printf("  architecture %s", info->architecture);
        if (info->family && strcmp(info->family, info->architecture) != 0)
            printf(" (family %s)", info->family);
        putchar('\n');
    }
    printf("  container    %s, %zu tensors, %s\n", info->container, info->num_tensors,
           tool_bytes(bytes, info->tensor_bytes));
    if (!info->architecture) {
        puts("  no model: tensors only");
        return;
    }
    for (size_t i = 0; i < info->num_blocks; i++) {
        all += facts[i].layer_bytes;
        read += facts[i].token_bytes;
    }
    printf("  layers       %zu: %zu MoE, %zu dense\n", info->num_blocks, num_moe, info->num_blocks - num_moe);
    printf("  MoE weights  %s; a token reads %s of them\n", tool_bytes(experts, all), tool_bytes(token, read));
    for (size_t first = 0, last; first < info->num_blocks; first = last + 1) {
        for (last = first; last + 1 < info->num_blocks && same_facts(&facts[first], &facts[last + 1]);)
            last++;
        print_blocks(first, last, &facts[first]);
        if (plans && facts[first].moe)
            layer_plan_print(json_array_get(plans, first));
    }
}

static json_t *json_of_model(const struct session *session, const char *path, const struct block_facts *facts,
                             const json_t *plans)
{
    const struct moe_model_info *info = &session->info;
    json_t *layers = json_array();
    for (size_t i = 0; i < info->num_blocks; i++) {
        json_t *layer = json_of_block(i, &facts[i]);
        if (plans)
            json_object_set(layer, "plan", json_array_get(plans, i));
        json_array_append_new(layers, layer);
    }
    return json_pack("{s:o, s:o, s:s?, s:s, s:I, s:I, s:I, s:o}", "model", json_value_text(path), "architecture",
                     info->architecture ? json_value_text(info->architecture) : json_null(), "family", info->family,
                     "container", info->container, "num_layers", (json_int_t)info->num_blocks,
                     "num_tensors", (json_int_t)info->num_tensors, "tensor_bytes", (json_int_t)info->tensor_bytes,
                     "layers", layers);
}

static int print_json(json_t *json)
{
    if (!json || json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0) {
        json_decref(json);
        return tool_fail(TOOL_INPUT, "out of memory, or standard output cannot be written");
    }
    putchar('\n');
    json_decref(json);
    return TOOL_OK;
}

/* The model as a description file. */
static int print_description(struct session *session, const char *path)
{
    struct moe_error error = {0};
    size_t needed = 0;
    if (!session->info.architecture)
        return tool_fail(TOOL_INPUT, "%s: holds tensors but no model: there is nothing to describe", path);
    enum moe_status status = moe_model_describe(session->model, NULL, 0, &needed, &error);
    char *text = status == MOE_OK ? tool_alloc(needed, 1) : NULL;
    if (status == MOE_OK && !text)
        return TOOL_INPUT;
    if (status == MOE_OK)
        status = moe_model_describe(session->model, text, needed, &needed, &error);
    if (status == MOE_OK)
        fputs(text, stdout);
    free(text);
    return status == MOE_OK ? TOOL_OK : tool_fail_moe(status, &error, path);
}

struct wishes {
    bool as_json, tensors, describe;
    const char *description;
    struct layer_plan plan;
};

/* What is printed of an open model; nothing is before all is known. */
static int print_facts(struct session *session, const char *path, const struct wishes *wishes)
{
    size_t num_moe = 0;
    int code = TOOL_OK;
    struct block_facts *facts = collect(session, &num_moe);
    if (!facts)
        return TOOL_INPUT;
    json_t *plans = make_plans(session, &wishes->plan, facts, &code);
    if (code == TOOL_OK && wishes->as_json) {
        json_t *json = json_of_model(session, path, facts, plans);
        if (wishes->tensors)
            json_object_set_new(json, "tensors", json_of_tensors(session));
        code = print_json(json);
    } else if (code == TOOL_OK) {
        print_model(session, path, facts, num_moe, plans);
        if (wishes->tensors)
            print_tensors(session);
    }
    json_decref(plans);
    free(facts);
    return code;
}

static int info_of_model(const char *path, const struct wishes *wishes)
{
    struct session session;
    bool planned = wishes->plan.num_tokens > 0;
    int code = session_open(&session, planned ? wishes->plan.backend : NULL, 1, NULL, NULL);
    if (code == TOOL_OK)
        code = session_open_model(&session, path, wishes->description, planned);
    if (code == TOOL_OK)
        code = wishes->describe ? print_description(&session, path) : print_facts(&session, path, wishes);
    session_close(&session);
    return code;
}

/* Whether what was asked of a plan makes sense; tokens is what stands behind --tokens. */
static int plan_usage(struct layer_plan *plan, const char *tokens, const char *model)
{
    if (plan->backend && !tokens)
        return tool_fail(TOOL_USAGE, "moe info: --backend says where --tokens N would run: give both");
    if (!tokens)
        return TOOL_OK;
    if (options_sizes(tokens, &plan->num_tokens, 1) == 0)
        return tool_fail(TOOL_USAGE, "moe info: --tokens takes a whole number from 1 on, not '%s'", tokens);
    if (!model)
        return tool_fail(TOOL_USAGE, "moe info: --tokens needs a MODEL");
    plan->backend = plan->backend ? plan->backend : "cpu";
    return TOOL_OK;
}

int cmd_info(int argc, char **argv)
{
    struct wishes wishes = {0};
    const char *model, *describe = NULL, *tokens = NULL;
    const struct option_row rows[] = {
        {"json", OPTION_FLAG, &wishes.as_json, NULL, "print one JSON object"},
        {"tensors", OPTION_FLAG, &wishes.tensors, NULL, "list the model's tensors too"},
        {"tokens", OPTION_STRING, &tokens, "N", "how a forward of N tokens would run: which kernels, and why"},
        {"backend", OPTION_STRING, &wishes.plan.backend, "B", "with --tokens: cpu (default), cpu:LEVEL, cuda:N"},
        {"describe", OPTION_OPTIONAL, &describe, "[FILE]",
         "without FILE: print the model as a description file;\n"
         "with FILE: what MODEL is (docs/describe.md), not its metadata"},
        {NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct option_page page = {"moe info", "[MODEL]", 0, 1, about, rows, examples};
    enum option_result parsed = options_parse(&page, argc, argv, &model);
    if (parsed != OPTIONS_OK)
        return parsed == OPTIONS_HELP ? TOOL_OK : TOOL_USAGE;
    if (describe && *describe && !model) {   /* moe info --describe MODEL */
        model = describe;
        describe = "";
    }
    wishes.describe = describe && !*describe;
    wishes.description = wishes.describe ? NULL : describe;
    if (plan_usage(&wishes.plan, tokens, model) != TOOL_OK)
        return TOOL_USAGE;
    if (model && wishes.describe && (wishes.tensors || wishes.as_json || tokens))
        return tool_fail(TOOL_USAGE, "moe info: --describe prints a description, without --json, --tensors, --tokens");
    if (model)
        return info_of_model(model, &wishes);
    if (wishes.tensors || describe)
        return tool_fail(TOOL_USAGE, "moe info: --%s needs a MODEL", wishes.tensors ? "tensors" : "describe");
    if (wishes.as_json)
        return print_json(json_of_build());
    print_build();
    return TOOL_OK;
}
