// SPDX-License-Identifier: MIT
// Which tensors a converted file gets, in which formats, and how their rows are fetched from the input.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"

/* ---- formats ---- */

static bool divides(enum moe_format format, size_t cols)
{
    return moe_format_row_bytes(format, cols) != 0;
}

/* The wanted format, or the next one whose blocks fit: those of 256 values give way to q8_0, that to f16. */
static enum moe_format choose(struct plan *plan, const char *name, enum moe_format wanted, size_t cols)
{
    if (divides(wanted, cols) || cols == 0)
        return wanted;
    enum moe_format taken = divides(MOE_FORMAT_Q8_0, cols) ? MOE_FORMAT_Q8_0 : MOE_FORMAT_F16;
    const char *kind = name;
    if (strncmp(kind, "blk.", 4) == 0 && strchr(kind + 4, '.'))
        kind = strchr(kind + 4, '.') + 1;
    size_t length = strcspn(kind, ".");
    if (length >= sizeof plan->fallbacks[0].kind)
        length = sizeof plan->fallbacks[0].kind - 1;
    for (size_t i = 0; i < plan->num_fallbacks; i++) {
        struct plan_fallback *f = &plan->fallbacks[i];
        if (strlen(f->kind) == length && strncmp(f->kind, kind, length) == 0 && f->cols == cols &&
            f->wanted == wanted) {
            f->count++;
            return taken;
        }
    }
    if (plan->num_fallbacks < PLAN_FALLBACKS) {
        struct plan_fallback *f = &plan->fallbacks[plan->num_fallbacks++];
        *f = (struct plan_fallback){.wanted = wanted, .taken = taken, .cols = cols, .count = 1};
        memcpy(f->kind, kind, length);
    }
    return taken;
}

bool plan_is_gguf(enum moe_format format)
{
    const struct moe_format_info *info = moe_format_info(format);
    for (size_t i = 0; info && format < 1024 && moe_format_at(i); i++)
        if (moe_format_at(i) == info)
            return format != MOE_FORMAT_I8;
    return false;
}

enum moe_format plan_format(struct plan *plan, const struct convert_options *options, const char *name,
                            enum moe_format usual, bool keep, enum moe_format own, size_t cols)
{
    for (size_t i = 0; i < options->num_rules; i++) {
        struct convert_rule *rule = &options->rules[i];
        if (!names_match(rule->text, (size_t)(strrchr(rule->text, '=') - rule->text), name))
            continue;
        rule->used++;
        usual = rule->format;
        keep = rule->keep;
    }
    if (keep)
        usual = plan_is_gguf(own) ? own : MOE_FORMAT_BF16;
    return choose(plan, name, usual, cols);
}

/* Matrices outside the experts. FP4 is for experts: llama.cpp's own files of that kind have q8_0 elsewhere. */
static enum moe_format other_format(struct plan *plan, const struct convert_options *options, const char *name,
                                    const struct moe_format_info *own, size_t cols)
{
    bool fp4 = options->format == MOE_FORMAT_MXFP4 || options->format == MOE_FORMAT_NVFP4;
    return plan_format(plan, options, name, fp4 ? MOE_FORMAT_Q8_0 : options->format,
                       options->experts_only || options->keep, own ? own->format : MOE_FORMAT_PRIVATE, cols);
}

/* ---- building ---- */

struct plan_tensor *plan_add(struct plan *plan, const char *name)
{
    if (plan->num_tensors == plan->capacity) {
        size_t capacity = plan->capacity ? 2 * plan->capacity : 64;
        struct plan_tensor *grown = realloc(plan->tensors, capacity * sizeof *grown);
        if (!grown) {
            tool_fail(TOOL_INPUT, "out of memory");
            return NULL;
        }
        plan->tensors = grown;
        plan->capacity = capacity;
    }
    char *copy = tool_alloc(strlen(name) + 1, 1);
    if (!copy)
        return NULL;
    strcpy(copy, name);
    struct plan_tensor *tensor = &plan->tensors[plan->num_tensors++];
    *tensor = (struct plan_tensor){.name = copy};
    return tensor;
}

int plan_shape(struct plan_tensor *tensor, enum moe_format format, size_t num_dims, size_t count, size_t rows,
               size_t cols)
{
    size_t row_bytes = moe_format_row_bytes(format, num_dims == 1 ? rows * cols : cols), bytes = 0;
    size_t num_rows = num_dims == 1 ? 1 : rows;
    if (!row_bytes || !tool_mul(&bytes, row_bytes, num_rows) || !tool_mul(&bytes, bytes, count))
        return tool_fail(TOOL_INPUT, "tensor '%s': [%zu, %zu, %zu] has no size in %s", tensor->name, count, rows, cols,
                         moe_format_info(format)->name);
    const size_t all[3] = {count, rows, num_dims == 1 ? rows * cols : cols};
    memcpy(tensor->shape, all + 3 - num_dims, num_dims * sizeof *all);
    tensor->num_dims = num_dims;
    tensor->type = (uint32_t)format;
    tensor->count = count;
    tensor->rows = rows;
    tensor->cols = cols;
    tensor->bytes = bytes;
    return TOOL_OK;
}

void plan_free(struct plan *plan)
{
    for (size_t i = 0; i < plan->num_tensors; i++) {
        free(plan->tensors[i].name);
        free(plan->tensors[i].scaled);
    }
    free(plan->tensors);
    *plan = (struct plan){0};
}

/* ---- the other tensors of a Hugging Face model ---- */

/* Formats that values outside MoE layers may have: those of weights, without another tensor beside them but scales of
 * FP8. */
static bool is_readable(const struct moe_format_info *format)
{
    return format && (plan_is_gguf(format->format) || format->format == MOE_FORMAT_E4M3);
}

static int add_kv_b(struct plan *plan, struct session *session, const char *prefix, const struct moe_tensor *input,
                    const struct convert_options *options)
{
    uint32_t heads, nope, value;
    if (!convert_config_u32(session, "num_attention_heads", &heads) ||
        !convert_config_u32(session, "qk_nope_head_dim", &nope) || !convert_config_u32(session, "v_head_dim", &value) ||
        input->num_dims != 2 || input->shape[0] != (size_t)heads * ((size_t)nope + value))
        return tool_fail(TOOL_INPUT, "tensor '%s' does not have heads x (qk_nope_head_dim + v_head_dim) rows",
                         input->name);
    int code = TOOL_OK;
    for (int part = 0; part < 2 && code == TOOL_OK; part++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s.weight", prefix, part ? "attn_v_b" : "attn_k_b");
        struct plan_tensor *tensor = plan_add(plan, name);
        if (!tensor)
            return TOOL_INPUT;
        tensor->source = part ? PLAN_V_B : PLAN_K_B;
        tensor->input = input->name;
        tensor->head_rows = (size_t)nope + value;
        size_t rows = part ? value : input->shape[1], cols = part ? input->shape[1] : nope;
        code = plan_shape(tensor, other_format(plan, options, name, input->format, cols), 3, heads, rows, cols);
        if (code == TOOL_OK)
            code = plan_find_scales(session, input, &tensor->scaled);
    }
    return code;
}

/* The MLP that some families have beside the experts in the same layer: gate rows, then up's. It belongs to the layer
 * where the family says so; then it is written from the layer's description. */
static int add_halves(struct plan *plan, struct session *session, const char *prefix, const struct moe_tensor *input,
                      const struct convert_options *options)
{
    const struct moe_model_block *part = NULL;
    unsigned long block = strtoul(prefix + strlen("blk."), NULL, 10);
    if (moe_model_block(session->model, block, &part, NULL) == MOE_OK && part && part->shared)
        return TOOL_OK;
    if (input->num_dims != 2 || input->shape[0] % 2)
        return tool_fail(TOOL_INPUT, "tensor '%s' does not have the rows of a gate and an up matrix", input->name);
    int code = TOOL_OK;
    for (size_t half = 0; half < 2 && code == TOOL_OK; half++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s.weight", prefix, half ? "ffn_up_shexp" : "ffn_gate_shexp");
        struct plan_tensor *tensor = plan_add(plan, name);
        if (!tensor)
            return TOOL_INPUT;
        size_t rows = input->shape[0] / 2, cols = input->shape[1];
        tensor->source = PLAN_TENSOR;
        tensor->input = input->name;
        tensor->first_row = half * rows;
        code = plan_shape(tensor, other_format(plan, options, name, input->format, cols), 2, 1, rows, cols);
        if (code == TOOL_OK)
            code = plan_find_scales(session, input, &tensor->scaled);
    }
    return code;
}

/* Rows of a head, where rows of q and k are to be reordered; 0 for all other tensors. */
static int rope_rows(struct session *session, const struct names_family *family, const char *name, size_t rows,
                     size_t *head_rows)
{
    *head_rows = 0;
    bool query = strstr(name, ".attn_q.") != NULL, key = strstr(name, ".attn_k.") != NULL;
    if (!family->interleaved_rope || (!query && !key))
        return TOOL_OK;
    uint32_t heads = 0;
    if ((!key || !convert_config_u32(session, "num_key_value_heads", &heads)) &&
        !convert_config_u32(session, "num_attention_heads", &heads))
        heads = 0;
    if (!heads || rows % heads || rows / heads % 2)
        return tool_fail(TOOL_INPUT, "tensor '%s': %zu rows do not divide into %u heads of even size", name, rows,
                         (unsigned)heads);
    *head_rows = rows / heads;
    return TOOL_OK;
}

static int add_renamed(struct plan *plan, struct session *session, const struct names_family *family, const char *name,
                       const struct moe_tensor *input, const struct convert_options *options)
{
    if (input->num_dims < 1 || input->num_dims > 2)
        return tool_fail(TOOL_INPUT, "tensor '%s' has %zu dimensions, expected 1 or 2", input->name, input->num_dims);
    size_t rows = input->num_dims == 2 ? input->shape[0] : 1, cols = input->shape[input->num_dims - 1], head_rows;
    int code = rope_rows(session, family, name, input->num_dims == 2 ? rows : cols, &head_rows);
    struct plan_tensor *tensor = code == TOOL_OK ? plan_add(plan, name) : NULL;
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = head_rows ? PLAN_ROPE : PLAN_TENSOR;
    tensor->input = input->name;
    tensor->head_rows = head_rows;
    if (input->num_dims == 1 || names_is_small(name))
        code = plan_shape(tensor, MOE_FORMAT_F32, input->num_dims, 1, rows, cols);
    else
        code = plan_shape(tensor, other_format(plan, options, name, input->format, cols), 2, 1, rows, cols);
    if (head_rows && input->num_dims == 1) {    /* a bias is reordered value by value */
        tensor->rows = cols;
        tensor->cols = 1;
    }
    return code == TOOL_OK ? plan_find_scales(session, input, &tensor->scaled) : code;
}

static bool has_name(const struct plan *plan, const char *name)
{
    for (size_t i = 0; i < plan->num_tensors; i++)
        if (strcmp(plan->tensors[i].name, name) == 0)
            return true;
    return false;
}

/* Scales of FP8, which are read with the values that they belong to. */
static bool is_scale(struct session *session, const char *name)
{
    const char *suffix = strstr(name, ".weight_scale");
    char values[256];
    struct moe_tensor tensor;
    if (!suffix || snprintf(values, sizeof values, "%.*s.weight", (int)(suffix - name), name) >= (int)sizeof values)
        return false;
    return moe_model_tensor_find(session->model, values, &tensor) == MOE_OK && tensor.format &&
           tensor.format->format == MOE_FORMAT_E4M3;
}

static int add_other(struct plan *plan, struct session *session, const struct names_family *family,
                     const struct moe_tensor *input, const struct convert_options *options)
{
    char name[96];
    enum names_kind kind = names_map(family, input->name, session->info.num_blocks, name);
    if (kind == NAMES_EXPERTS)
        return TOOL_OK;
    if (kind == NAMES_EXTRA) {
        plan->num_extra++;
        return TOOL_OK;
    }
    if (kind == NAMES_UNKNOWN && is_scale(session, input->name))
        return TOOL_OK;
    if (kind == NAMES_UNKNOWN || !is_readable(input->format)) {
        if (plan->num_unknown++ == 0)
            plan->first_unknown = input->name;
        return TOOL_OK;
    }
    if (kind == NAMES_KV_B)
        return add_kv_b(plan, session, name, input, options);
    if (kind == NAMES_HALVES)
        return add_halves(plan, session, name, input, options);
    if (strstr(name, "_shexp.") && has_name(plan, name))
        return TOOL_OK;
    return add_renamed(plan, session, family, name, input, options);
}

int plan_huggingface(struct plan *plan, struct session *session, const struct names_family *family,
                     const struct convert_options *options)
{
    struct moe_tensor input;
    int code = TOOL_OK;
    for (size_t i = 0; code == TOOL_OK && i < session->info.num_blocks; i++) {
        const struct moe_model_block *block = NULL;
        struct moe_error error = {0};
        enum moe_status status = moe_model_block(session->model, i, &block, &error);
        if (status != MOE_OK)
            code = tool_fail_moe(status, &error, "a layer cannot be read");
        else if (block)
            code = plan_moe_block(plan, family, i, block, options);
    }
    for (size_t i = 0; code == TOOL_OK && moe_model_tensor_at(session->model, i, &input) == MOE_OK; i++)
        code = add_other(plan, session, family, &input, options);
    return code;
}

/* ---- a GGUF file ---- */

static enum moe_format gguf_format(struct plan *plan, const struct moe_tensor *input,
                                   const struct convert_options *options)
{
    enum moe_format own = input->format->format;
    if (input->num_dims < 2 || names_is_small(input->name))
        return own;
    size_t cols = input->shape[input->num_dims - 1];
    bool down = names_is_down(input->name);
    if (names_is_expert(input->name))
        return plan_format(plan, options, input->name, down ? options->down : options->format,
                           down ? options->keep_down : options->keep, own, cols);
    return other_format(plan, options, input->name, input->format, cols);
}

int plan_gguf(struct plan *plan, struct session *session, const struct convert_options *options)
{
    struct moe_tensor input;
    for (size_t i = 0; moe_model_tensor_at(session->model, i, &input) == MOE_OK; i++) {
        struct plan_tensor *tensor = plan_add(plan, input.name);
        if (!tensor)
            return TOOL_INPUT;
        tensor->input = input.name;
        bool weights = input.format && plan_is_gguf(input.format->format);
        enum moe_format own = weights ? input.format->format : MOE_FORMAT_F32;
        enum moe_format format = weights ? gguf_format(plan, &input, options) : own;
        if (format == own) {
            tensor->source = PLAN_COPY;
            tensor->type = input.type;
            tensor->num_dims = input.num_dims;
            memcpy(tensor->shape, input.shape, sizeof tensor->shape);
            tensor->bytes = input.size;
            continue;
        }
        if (input.format->block_values > 1)
            plan->requantised = own;
        tensor->source = PLAN_TENSOR;
        size_t count = 1, n = input.num_dims;
        for (size_t d = 0; d + 2 < n; d++)
            count *= input.shape[d];
        int code = plan_shape(tensor, format, n < 3 ? n : 3, count, input.shape[n - 2], input.shape[n - 1]);
        if (code != TOOL_OK)
            return code;
        memcpy(tensor->shape, input.shape, sizeof tensor->shape);
        tensor->num_dims = n;
    }
    return TOOL_OK;
}
