// SPDX-License-Identifier: MIT
// Which tensors a converted file gets, in which formats, and how their rows are fetched from the input.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "matrix.h"

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

/* Matrices outside the experts. MXFP4 is for experts: llama.cpp's own files of that kind have q8_0 elsewhere. */
static enum moe_format other_format(const struct convert_options *options, const struct moe_format_info *own)
{
    if (options->experts_only && own)
        return own->format;
    return options->format == MOE_FORMAT_MXFP4 ? MOE_FORMAT_Q8_0 : options->format;
}

static bool is_weights(const struct moe_format_info *format)
{
    return format && format->format != MOE_FORMAT_I32 && format->format != MOE_FORMAT_I64;
}

/* ---- building ---- */

static struct plan_tensor *add(struct plan *plan, const char *name)
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

/* Set shape, sizes and type. num_dims 3: [count, rows, cols]; 2: [rows, cols]; 1: [rows * cols]. */
static int shape(struct plan_tensor *tensor, enum moe_format format, size_t num_dims, size_t count, size_t rows,
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
    for (size_t i = 0; i < plan->num_tensors; i++)
        free(plan->tensors[i].name);
    free(plan->tensors);
    *plan = (struct plan){0};
}

/* ---- MoE layers ---- */

static int add_view(struct plan *plan, const char *name, const struct moe_view *view, size_t count)
{
    struct plan_tensor *tensor = add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = PLAN_VIEW;
    tensor->view = *view;
    return shape(tensor, MOE_FORMAT_F32, 1, 1, 1, count);
}

/* ffn_gate_exps.weight and .bias and the like; num_dims 2 for one matrix, 1 for a vector. */
static int add_matrix(struct plan *plan, size_t block, const char *kind, const struct moe_matrix *matrix,
                      size_t num_dims, size_t count, size_t rows, size_t cols, enum moe_format wanted)
{
    if (!matrix)
        return TOOL_OK;
    char name[96];
    snprintf(name, sizeof name, "blk.%zu.%s.weight", block, kind);
    struct plan_tensor *tensor = add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = PLAN_MATRIX;
    tensor->matrix = matrix;
    int code = shape(tensor, choose(plan, name, wanted, cols), num_dims, count, rows, cols);
    if (code != TOOL_OK || !matrix->bias.base)
        return code;
    snprintf(name, sizeof name, "blk.%zu.%s.bias", block, kind);
    tensor = add(plan, name);
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = PLAN_BIAS;
    tensor->matrix = matrix;
    code = shape(tensor, MOE_FORMAT_F32, num_dims == 3 ? 2 : 1, 1, count, rows);
    tensor->count = count;    /* matrix e is the one row of expert e */
    tensor->rows = 1;
    return code;
}

static int add_shared(struct plan *plan, size_t block, const struct moe_model_block *part,
                      const struct convert_options *options)
{
    const struct moe_experts_params *p = part->shared;
    size_t h = p->hidden_size, f = p->intermediate_size;
    int code = add_matrix(plan, block, "ffn_gate_shexp", p->gate, 2, 1, f, h, options->format);
    if (code == TOOL_OK)
        code = add_matrix(plan, block, "ffn_up_shexp", p->up, 2, 1, f, h, options->format);
    if (code == TOOL_OK)
        code = add_matrix(plan, block, "ffn_down_shexp", p->down, 2, 1, h, f, options->down);
    if (code == TOOL_OK && part->layer->shared)
        code = add_matrix(plan, block, "ffn_gate_inp_shexp", part->layer->shared->gate, 1, 1, 1, h, MOE_FORMAT_F32);
    return code;
}

static int add_block(struct plan *plan, size_t block, const struct moe_model_block *part,
                     const struct convert_options *options)
{
    const struct moe_experts_params *p = part->experts;
    const struct moe_routing *routing = part->layer->routing;
    size_t n = p->num_experts, h = p->hidden_size, f = p->intermediate_size;
    int code = TOOL_OK;
    if (routing)
        code = add_matrix(plan, block, "ffn_gate_inp", routing->router, 2, 1, n, h, MOE_FORMAT_F32);
    if (code == TOOL_OK && routing && routing->selection_bias.base) {
        char name[96];
        snprintf(name, sizeof name, "blk.%zu.exp_probs_b.bias", block);
        code = add_view(plan, name, &routing->selection_bias, n);
    }
    if (code == TOOL_OK)
        code = add_matrix(plan, block, "ffn_gate_exps", p->gate, 3, n, f, h, options->format);
    if (code == TOOL_OK)
        code = add_matrix(plan, block, "ffn_up_exps", p->up, 3, n, f, h, options->format);
    if (code == TOOL_OK)
        code = add_matrix(plan, block, "ffn_down_exps", p->down, 3, n, h, f, options->down);
    if (code == TOOL_OK && part->shared)
        code = add_shared(plan, block, part, options);
    return code;
}

/* ---- the other tensors of a Hugging Face model ---- */

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
        struct plan_tensor *tensor = add(plan, name);
        if (!tensor)
            return TOOL_INPUT;
        tensor->source = part ? PLAN_V_B : PLAN_K_B;
        tensor->input = input->name;
        tensor->head_rows = (size_t)nope + value;
        size_t rows = part ? value : input->shape[1], cols = part ? input->shape[1] : nope;
        code = shape(tensor, choose(plan, name, other_format(options, input->format), cols), 3, heads, rows, cols);
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
    if (!is_weights(input->format))
        return tool_fail(TOOL_INPUT, "tensor '%s' has a type that cannot be converted", input->name);
    if (input->num_dims < 1 || input->num_dims > 2)
        return tool_fail(TOOL_INPUT, "tensor '%s' has %zu dimensions, expected 1 or 2", input->name, input->num_dims);
    size_t rows = input->num_dims == 2 ? input->shape[0] : 1, cols = input->shape[input->num_dims - 1], head_rows;
    int code = rope_rows(session, family, name, input->num_dims == 2 ? rows : cols, &head_rows);
    struct plan_tensor *tensor = code == TOOL_OK ? add(plan, name) : NULL;
    if (!tensor)
        return TOOL_INPUT;
    tensor->source = head_rows ? PLAN_ROPE : PLAN_TENSOR;
    tensor->input = input->name;
    tensor->head_rows = head_rows;
    if (input->num_dims == 1 || names_is_small(name))
        code = shape(tensor, MOE_FORMAT_F32, input->num_dims, 1, rows, cols);
    else
        code = shape(tensor, choose(plan, name, other_format(options, input->format), cols), 2, 1, rows, cols);
    if (head_rows && input->num_dims == 1) {    /* a bias is reordered value by value */
        tensor->rows = cols;
        tensor->cols = 1;
    }
    return code;
}

int plan_huggingface(struct plan *plan, struct session *session, const struct names_family *family,
                     const struct convert_options *options)
{
    struct moe_tensor input;
    int code = TOOL_OK;
    for (size_t i = 0; code == TOOL_OK && moe_model_tensor_at(session->model, i, &input) == MOE_OK; i++) {
        char name[96];
        switch (names_map(family, input.name, session->info.num_blocks, name)) {
        case NAMES_TENSOR:
            code = add_renamed(plan, session, family, name, &input, options);
            break;
        case NAMES_KV_B:
            code = add_kv_b(plan, session, name, &input, options);
            break;
        case NAMES_EXTRA:
            plan->num_extra++;
            break;
        case NAMES_UNKNOWN:
            if (plan->num_unknown++ == 0)
                plan->first_unknown = input.name;
            break;
        case NAMES_EXPERTS:
            break;
        }
    }
    for (size_t i = 0; code == TOOL_OK && i < session->info.num_blocks; i++) {
        const struct moe_model_block *block = NULL;
        struct moe_error error = {0};
        enum moe_status status = moe_model_block(session->model, i, &block, &error);
        if (status != MOE_OK)
            code = tool_fail_moe(status, &error, "a layer cannot be read");
        else if (block)
            code = add_block(plan, i, block, options);
    }
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
    if (names_is_expert(input->name))
        return choose(plan, input->name, names_is_down(input->name) ? options->down : options->format, cols);
    return choose(plan, input->name, other_format(options, input->format), cols);
}

int plan_gguf(struct plan *plan, struct session *session, const struct convert_options *options)
{
    struct moe_tensor input;
    for (size_t i = 0; moe_model_tensor_at(session->model, i, &input) == MOE_OK; i++) {
        struct plan_tensor *tensor = add(plan, input.name);
        if (!tensor)
            return TOOL_INPUT;
        tensor->input = input.name;
        enum moe_format own = is_weights(input.format) ? input.format->format : MOE_FORMAT_F32;
        enum moe_format format = is_weights(input.format) ? gguf_format(plan, &input, options) : own;
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
        int code = shape(tensor, format, n < 3 ? n : 3, count, input.shape[n - 2], input.shape[n - 1]);
        if (code != TOOL_OK)
            return code;
        memcpy(tensor->shape, input.shape, sizeof tensor->shape);
        tensor->num_dims = n;
    }
    return TOOL_OK;
}

/* ---- values ---- */

/* Rows of the input tensor taken as one matrix with `cols` columns. */
static int input_rows(struct session *session, const char *name, size_t cols, size_t row, size_t num_rows, float *out)
{
    struct moe_tensor tensor;
    const void *data;
    struct moe_error error = {0};
    enum moe_status status = moe_model_tensor_find(session->model, name, &tensor);
    if (status == MOE_OK)
        status = moe_model_tensor_data(session->model, name, &data, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, name);
    size_t row_bytes = moe_format_row_bytes(tensor.format->format, cols);
    int result =
        moe_format_dequantise(tensor.format->format, out, (const char *)data + row * row_bytes, num_rows, cols);
    return result == MOE_OK ? TOOL_OK : tool_fail_moe((enum moe_status)result, NULL, name);
}

/* Row r of a head of d rows comes from r/2 of its first half, or, for odd r, of its second. */
static size_t rope_source(size_t row, size_t head_rows)
{
    size_t head = row / head_rows, r = row % head_rows;
    return head * head_rows + r % 2 * (head_rows / 2) + r / 2;
}

int plan_rows(const struct plan_tensor *tensor, struct session *session, size_t e, size_t row, size_t num_rows,
              float *out)
{
    size_t cols = tensor->cols, d = tensor->head_rows;
    int code = TOOL_OK;
    switch (tensor->source) {
    case PLAN_MATRIX:
        return matrix_rows(tensor->matrix, tensor->rows, cols, e, row, num_rows, out) ? TOOL_OK : TOOL_INPUT;
    case PLAN_BIAS:
        return matrix_bias(tensor->matrix, e, cols, out) ? TOOL_OK : TOOL_INPUT;
    case PLAN_VIEW:
        return matrix_view(&tensor->view, cols, out) ? TOOL_OK : TOOL_INPUT;
    case PLAN_ROPE:
        for (size_t r = 0; code == TOOL_OK && r < num_rows; r++)
            code = input_rows(session, tensor->input, cols, rope_source(row + r, d), 1, out + r * cols);
        return code;
    case PLAN_V_B:
        return input_rows(session, tensor->input, cols, e * d + (d - tensor->rows) + row, num_rows, out);
    case PLAN_K_B: {
        float *line = tool_alloc(tensor->rows, sizeof *line);
        code = line ? TOOL_OK : TOOL_INPUT;
        for (size_t c = 0; code == TOOL_OK && c < cols; c++) {
            code = input_rows(session, tensor->input, tensor->rows, e * d + c, 1, line);
            for (size_t r = 0; code == TOOL_OK && r < num_rows; r++)
                out[r * cols + c] = line[row + r];
        }
        free(line);
        return code;
    }
    case PLAN_TENSOR:
    case PLAN_COPY:
        break;
    }
    return input_rows(session, tensor->input, cols, e * tensor->rows + row, num_rows, out);
}
