// SPDX-License-Identifier: MIT
// A small inference engine around libmoe: it writes text with qwen3_moe and glm4_moe models. Attention, norms and
// sampling are the engine's own; every Mixture-of-Experts layer is one moe_layer_forward. What the library asks of an
// engine is in open_blocks, experts_io, run_experts and reserve: read these first.
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arithmetic.h"
#include "moe/moe.h"
#include "tokenizer.h"

static const char help[] =
    "Usage: generate MODEL [options]        MODEL: a .gguf file or a Hugging Face directory\n"
    "Writes text with a qwen3_moe or glm4_moe model, every Mixture-of-Experts layer through libmoe.\n"
    "  --prompt TEXT       begin with this text (default: ROMEO: and a new line)\n"
    "  --tokens N          tokens to write (default 128)\n"
    "  --temperature T     0, the default: the likeliest token each time; 1: sample as the model says\n"
    "  --seed S            of the samples (default 1)\n"
    "  --threads N         threads of the layers (default: all CPUs)\n"
    "  --primitives        run the layers from the backend's primitives\n"
    "  --exact             never round the layers' activations below f32\n"
    "  --expert-map        then show which experts the text used\n"
    "  --loss FILE         instead of writing: mean next-token loss over `ids` [rows, tokens] of a safetensors file\n"
    "  --greedy-reference FILE   instead of writing: repeat the texts of a reference.json; exit 1 if one differs\n"
    "Exit codes: 0 success, 1 a comparison failed, 2 usage, 3 a file cannot be used.\n";

enum { CODE_DIFFERENT = 1, CODE_USAGE = 2, CODE_INPUT = 3 };

static void die(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("generate: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(code);
}

static void check(enum moe_status status, const struct moe_error *error)
{
    if (status != MOE_OK)
        die(CODE_INPUT, "%s", error ? error->text : moe_status_text(status));
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        die(CODE_INPUT, "out of memory");
    return memory;
}

/* ---- the model ------------------------------------------------------------------------------------------- */

/* A tensor by what it is for, and its name in the files: X(role, Hugging Face, GGUF, GGUF for some families). In full
 * they end in .weight, and those of a block begin with model.layers.N. or blk.N. */
#define ROLE_MAP(X)                                                                                                    \
    X(EMBEDDING, "model.embed_tokens", "token_embd", NULL)                                                             \
    X(OUTPUT_NORM, "model.norm", "output_norm", NULL)                                                                  \
    X(HEAD, "lm_head", "output", NULL)                                                                                 \
    X(ATTENTION_NORM, "input_layernorm", "attn_norm", NULL)                                                            \
    X(Q, "self_attn.q_proj", "attn_q", NULL)                                                                           \
    X(K, "self_attn.k_proj", "attn_k", NULL)                                                                           \
    X(V, "self_attn.v_proj", "attn_v", NULL)                                                                           \
    X(O, "self_attn.o_proj", "attn_output", NULL)                                                                      \
    X(Q_NORM, "self_attn.q_norm", "attn_q_norm", NULL)                                                                 \
    X(K_NORM, "self_attn.k_norm", "attn_k_norm", NULL)                                                                 \
    X(FFN_NORM, "post_attention_layernorm", "ffn_norm", "post_attention_norm")                                         \
    X(GATE, "mlp.gate_proj", "ffn_gate", NULL)                                                                         \
    X(UP, "mlp.up_proj", "ffn_up", NULL)                                                                               \
    X(DOWN, "mlp.down_proj", "ffn_down", NULL)

enum role {
#define ROLE_ENUM(role, hf, gguf, other) role,
    ROLE_MAP(ROLE_ENUM) NUM_ROLES
};
static const char *const role_names[NUM_ROLES][3] = {
#define ROLE_NAMES(role, hf, gguf, other) {hf, gguf, other},
    ROLE_MAP(ROLE_NAMES)
};

struct block {
    struct matrix weights[NUM_ROLES];
    float *keys, *values;       /* [capacity, num_kv_heads * head_dim]: what later tokens look back on */
    struct moe_layer *layer;    /* NULL: a dense block */
    size_t num_experts;
    int64_t *expert_counts;     /* [num_experts]: pairs that each expert has run */
};

struct engine {
    struct moe_model *model;
    struct moe_backend *backend;
    struct moe_context *ctx;
    const char *architecture;
    bool gguf;
    size_t num_blocks, context, hidden_size, vocab_size, num_heads, num_kv_heads, head_dim, rotary_dims;
    size_t q_size, kv_size;     /* values of all heads */
    double norm_eps, rope_theta;
    int32_t end_token;
    struct matrix embedding, output_norm, head;
    struct block *blocks;
    size_t capacity, position;  /* tokens that there is room for, and that the caches hold */
    float *hidden, *normed, *q, *attended, *scores, *gate, *up, *logits;
    struct moe_view workspace;
};

/* A tensor as f32. rows or cols 0: whatever the file has. values is NULL if the file has no such tensor. */
static struct matrix load(struct engine *e, enum role role, size_t block, size_t rows, size_t cols, bool needed)
{
    struct matrix m = {0};
    struct moe_error error;
    for (size_t part = 0; part < 2; part++) {   /* the weight, and its bias if there is one */
        struct moe_tensor tensor;
        char name[96], prefix[32];
        enum moe_status status = MOE_ERR_ARGUMENT;
        snprintf(prefix, sizeof prefix, "%s.%zu.", e->gguf ? "blk" : "model.layers", block);
        for (size_t i = e->gguf; status != MOE_OK && i < (e->gguf ? 3u : 1u) && role_names[role][i]; i++) {
            snprintf(name, sizeof name, "%s%s.%s", role < ATTENTION_NORM ? "" : prefix, role_names[role][i],
                     part ? "bias" : "weight");
            status = moe_model_tensor_find(e->model, name, &tensor);
        }
        if (status != MOE_OK && needed && !part)
            die(CODE_INPUT, "tensor %s is missing", name);
        if (status != MOE_OK)
            break;
        size_t num_rows = tensor.num_dims == 2 ? tensor.shape[0] : 1, n = tensor.shape[tensor.num_dims == 2];
        size_t want_rows = part ? 1 : rows, want_cols = part ? m.rows : cols;
        if (!tensor.format || tensor.num_dims < 1 || tensor.num_dims > 2 || (want_rows && num_rows != want_rows) ||
            (want_cols && n != want_cols))
            die(CODE_INPUT, "%s: expected %zu x %zu values (0: any) of a known format", name, want_rows, want_cols);
        const void *data;
        float *values = allocate(num_rows * n, sizeof *values);
        check(moe_model_tensor_data(e->model, name, &data, &error), &error);
        check(moe_format_dequantise(tensor.format->format, values, data, num_rows, n), NULL);
        m = part ? (struct matrix){m.values, values, m.rows, m.cols} : (struct matrix){values, NULL, num_rows, n};
    }
    return m;
}

/* A number of the configuration, by its key in config.json and in GGUF (there behind the architecture's name). */
static double setting(const struct engine *e, const char *hf, const char *gguf, double otherwise)
{
    char key[128];
    struct moe_value value;
    snprintf(key, sizeof key, "%s%s%s", e->gguf ? e->architecture : "", e->gguf ? "." : "", e->gguf ? gguf : hf);
    if (moe_model_metadata_find(e->model, key, &value) == MOE_OK &&
        (value.kind == MOE_VALUE_INT || value.kind == MOE_VALUE_FLOAT))
        return value.number;
    if (isnan(otherwise))
        die(CODE_INPUT, "the model does not say %s", key);
    return otherwise;
}

static size_t setting_size(const struct engine *e, const char *hf, const char *gguf, double otherwise)
{
    double value = setting(e, hf, gguf, otherwise);
    if (!(value >= 1 && value <= 1 << 24))
        die(CODE_INPUT, "%s is %g, which makes no sense", e->gguf ? gguf : hf, value);
    return (size_t)value;
}

static void read_settings(struct engine *e)
{
    struct moe_model_info info;
    struct moe_value value;
    MOE_INIT(&info);
    check(moe_model_info(e->model, &info), NULL);
    if (!info.family || (strcmp(info.family, "qwen3_moe") && strcmp(info.family, "glm4_moe")))
        die(CODE_INPUT, "this program knows the attention of qwen3_moe and glm4_moe, not of %s",
            info.family ? info.family : "this file");
    e->gguf = strcmp(info.container, "gguf") == 0;
    e->architecture = info.architecture;
    e->num_blocks = info.num_blocks;
    if (moe_model_metadata_find(e->model, "rope_parameters.rope_type", &value) == MOE_OK &&
        (value.kind != MOE_VALUE_STRING || strcmp(value.string, "default")))
        die(CODE_INPUT, "this program knows rope_type default only");
    e->embedding = load(e, EMBEDDING, 0, 0, 0, true);
    e->vocab_size = e->embedding.rows;
    e->hidden_size = e->embedding.cols;
    e->num_heads = setting_size(e, "num_attention_heads", "attention.head_count", NAN);
    e->num_kv_heads = setting_size(e, "num_key_value_heads", "attention.head_count_kv", (double)e->num_heads);
    e->head_dim = setting_size(e, "head_dim", "attention.key_length", (double)(e->hidden_size / e->num_heads));
    e->q_size = e->num_heads * e->head_dim;
    e->kv_size = e->num_kv_heads * e->head_dim;
    e->norm_eps = setting(e, "rms_norm_eps", "attention.layer_norm_rms_epsilon", NAN);
    e->rope_theta = setting(e, "rope_parameters.rope_theta", "rope.freq_base", setting(e, "rope_theta", "-", 10000));
    double part = setting(e, "rope_parameters.partial_rotary_factor", "-", setting(e, "partial_rotary_factor", "-", 1));
    e->rotary_dims = setting_size(e, "-", "rope.dimension_count", part * (double)e->head_dim);
    if (e->num_heads % e->num_kv_heads || e->rotary_dims > e->head_dim || e->rotary_dims % 2)
        die(CODE_INPUT, "%zu heads over %zu, %zu values of a head rotated: not possible", e->num_heads,
            e->num_kv_heads, e->rotary_dims);
    e->context = setting_size(e, "max_position_embeddings", "context_length", 1 << 20);
    const char *end = e->gguf ? "tokenizer.ggml.eos_token_id" : "eos_token_id";
    bool has_end = moe_model_metadata_find(e->model, end, &value) == MOE_OK && value.kind == MOE_VALUE_INT;
    e->end_token = has_end ? (int32_t)value.integer : -1;
}

/* The feed-forward half of a block: a layer of libmoe, or three matrices. */
static void open_experts(struct engine *e, struct block *b, size_t index, uint32_t layer_flags)
{
    const struct moe_model_block *block;
    struct moe_layer_info info;
    struct moe_error error;
    check(moe_model_block(e->model, index, &block, &error), &error);
    if (!block) {
        b->weights[GATE] = load(e, GATE, index, 0, e->hidden_size, true);
        b->weights[UP] = load(e, UP, index, b->weights[GATE].rows, e->hidden_size, true);
        b->weights[DOWN] = load(e, DOWN, index, e->hidden_size, b->weights[GATE].rows, true);
        return;
    }
    check(moe_model_layer(e->model, index, e->backend, layer_flags, &b->layer, &error), &error);
    MOE_INIT(&info);
    check(moe_layer_info(b->layer, &info), NULL);
    if (info.hidden_size != e->hidden_size || !info.has_router)
        die(CODE_INPUT, "block %zu: its experts do not fit the model, or it has no router", index);
    b->num_experts = info.num_experts;
    b->expert_counts = allocate(info.num_experts, sizeof *b->expert_counts);
}

static void open_blocks(struct engine *e, uint32_t layer_flags)
{
    e->blocks = allocate(e->num_blocks, sizeof *e->blocks);
    for (size_t i = 0; i < e->num_blocks; i++) {
        struct matrix *w = e->blocks[i].weights;
        w[ATTENTION_NORM] = load(e, ATTENTION_NORM, i, 1, e->hidden_size, true);
        w[Q] = load(e, Q, i, e->q_size, e->hidden_size, true);
        w[K] = load(e, K, i, e->kv_size, e->hidden_size, true);
        w[V] = load(e, V, i, e->kv_size, e->hidden_size, true);
        w[O] = load(e, O, i, e->hidden_size, e->q_size, true);
        w[Q_NORM] = load(e, Q_NORM, i, 1, e->head_dim, false);
        w[K_NORM] = load(e, K_NORM, i, 1, e->head_dim, false);
        w[FFN_NORM] = load(e, FFN_NORM, i, 1, e->hidden_size, true);
        open_experts(e, &e->blocks[i], i, layer_flags);
    }
    e->output_norm = load(e, OUTPUT_NORM, 0, 1, e->hidden_size, true);
    e->head = load(e, HEAD, 0, e->vocab_size, e->hidden_size, false);
    if (!e->head.values)   /* tied */
        e->head = e->embedding;
}

/* ---- one forward ----------------------------------------------------------------------------------------- */

static struct moe_view view(void *base, size_t count, enum moe_format format)
{
    return (struct moe_view){.base = base, .size = moe_format_info(format)->block_bytes * count, .format = format};
}

/* The call of a block's experts. They read normed and add to hidden: the residual addition is the library's. Without
 * logits and ids, the layer routes the tokens by its own router. */
static struct moe_layer_io experts_io(struct engine *e, struct block *b, size_t num_tokens)
{
    struct moe_layer_io io;
    MOE_INIT(&io);
    io.flags = MOE_ACCUMULATE;
    io.num_tokens = num_tokens;
    io.x = view(e->normed, num_tokens * e->hidden_size, MOE_FORMAT_F32);
    io.out = view(e->hidden, num_tokens * e->hidden_size, MOE_FORMAT_F32);
    io.expert_counts = view(b->expert_counts, b->num_experts, MOE_FORMAT_I64);
    io.workspace = e->workspace;
    return io;
}

static void run_experts(struct engine *e, struct block *b, size_t num_tokens)
{
    struct moe_layer_io io = experts_io(e, b, num_tokens);
    check(moe_layer_forward(e->ctx, b->layer, &io), NULL);
}

static void run_dense(struct engine *e, struct block *b, size_t num_tokens)
{
    multiply(e->gate, e->normed, &b->weights[GATE], num_tokens);
    multiply(e->up, e->normed, &b->weights[UP], num_tokens);
    for (size_t i = 0; i < num_tokens * b->weights[GATE].rows; i++)
        e->gate[i] = e->gate[i] / (1 + expf(-e->gate[i])) * e->up[i];
    multiply(e->normed, e->gate, &b->weights[DOWN], num_tokens);
    add(e->hidden, e->normed, num_tokens * e->hidden_size);
}

/* The norm of each head, where the model has one; then the pairs (i, i + half) of its first rotary_dims values turn by
 * an angle that grows with the position. */
static void place_heads(struct engine *e, float *x, const struct matrix *norm, size_t num_heads, size_t num_tokens)
{
    size_t half = e->rotary_dims / 2;
    if (norm->values)
        rms_norm(x, x, norm, num_tokens * num_heads, e->norm_eps);
    for (size_t t = 0; t < num_tokens; t++) {
        for (size_t i = 0; i < half; i++) {
            double angle = (double)(e->position + t) * pow(e->rope_theta, -(double)i / (double)half);
            float c = (float)cos(angle), s = (float)sin(angle);
            for (size_t h = 0; h < num_heads; h++) {
                float *a = x + (t * num_heads + h) * e->head_dim + i, *b = a + half, old = *a;
                *a = old * c - *b * s;
                *b = *b * c + old * s;
            }
        }
    }
}

/* attended[t] of head h = sum over the positions p up to t's of softmax(q . keys[p] / sqrt(head_dim)) * values[p] */
static void attend(struct engine *e, const struct block *b, size_t t, size_t h)
{
    size_t length = e->position + t + 1, kv_offset = h / (e->num_heads / e->num_kv_heads) * e->head_dim;
    float *q = e->q + t * e->q_size + h * e->head_dim, *out = e->attended + t * e->q_size + h * e->head_dim;
    for (size_t p = 0; p < length; p++) {
        dot(&e->scores[p], 0, q, b->keys + p * e->kv_size + kv_offset, e->head_dim, 1);
        e->scores[p] /= sqrtf((float)e->head_dim);
    }
    softmax(e->scores, length);
    memset(out, 0, e->head_dim * sizeof *out);
    for (size_t p = 0; p < length; p++)
        for (size_t i = 0; i < e->head_dim; i++)
            out[i] += e->scores[p] * b->values[p * e->kv_size + kv_offset + i];
}

static void run_attention(struct engine *e, struct block *b, size_t num_tokens)
{
    float *keys = b->keys + e->position * e->kv_size;
    multiply(e->q, e->normed, &b->weights[Q], num_tokens);
    multiply(keys, e->normed, &b->weights[K], num_tokens);
    multiply(b->values + e->position * e->kv_size, e->normed, &b->weights[V], num_tokens);
    place_heads(e, e->q, &b->weights[Q_NORM], e->num_heads, num_tokens);
    place_heads(e, keys, &b->weights[K_NORM], e->num_kv_heads, num_tokens);
    for (size_t t = 0; t < num_tokens; t++)
        for (size_t h = 0; h < e->num_heads; h++)
            attend(e, b, t, h);
    multiply(e->normed, e->attended, &b->weights[O], num_tokens);
    add(e->hidden, e->normed, num_tokens * e->hidden_size);
}

/* Run num_tokens tokens, which follow those in the caches. logits: of all of them, or of the last one. */
static void forward(struct engine *e, const int32_t *ids, size_t num_tokens, bool all_logits)
{
    size_t hidden = e->hidden_size, first = all_logits ? 0 : num_tokens - 1;
    for (size_t t = 0; t < num_tokens; t++)
        memcpy(e->hidden + t * hidden, e->embedding.values + (size_t)ids[t] * hidden, hidden * sizeof(float));
    for (size_t i = 0; i < e->num_blocks; i++) {
        struct block *b = &e->blocks[i];
        rms_norm(e->normed, e->hidden, &b->weights[ATTENTION_NORM], num_tokens, e->norm_eps);
        run_attention(e, b, num_tokens);
        rms_norm(e->normed, e->hidden, &b->weights[FFN_NORM], num_tokens, e->norm_eps);
        (b->layer ? run_experts : run_dense)(e, b, num_tokens);
    }
    e->position += num_tokens;
    rms_norm(e->normed, e->hidden + first * hidden, &e->output_norm, num_tokens - first, e->norm_eps);
    multiply(e->logits, e->normed, &e->head, num_tokens - first);
}

static void grow(float **buffer, size_t count)
{
    free(*buffer);
    *buffer = allocate(count, sizeof **buffer);
}

/* Room for texts of capacity tokens, num_logits of them with logits: all the memory that forwards need. One workspace,
 * sized for the largest call, serves all layers. */
static void reserve(struct engine *e, size_t capacity, size_t num_logits)
{
    size_t dense = 0, bytes = 0, block_bytes;
    if (capacity <= e->capacity)
        return;
    if (capacity > e->context)
        die(CODE_INPUT, "%zu tokens, but the model's context has %zu", capacity, e->context);
    e->capacity = capacity;
    grow(&e->hidden, capacity * e->hidden_size);
    grow(&e->normed, capacity * e->hidden_size);
    grow(&e->q, capacity * e->q_size);
    grow(&e->attended, capacity * e->q_size);
    grow(&e->scores, capacity);
    grow(&e->logits, num_logits * e->vocab_size);
    for (size_t i = 0; i < e->num_blocks; i++) {
        struct block *b = &e->blocks[i];
        grow(&b->keys, capacity * e->kv_size);
        grow(&b->values, capacity * e->kv_size);
        dense = b->weights[GATE].rows > dense ? b->weights[GATE].rows : dense;
        if (!b->layer)
            continue;
        struct moe_layer_io io = experts_io(e, b, capacity);
        check(moe_layer_workspace_size(e->ctx, b->layer, &io, &block_bytes), NULL);
        bytes = block_bytes > bytes ? block_bytes : bytes;
    }
    grow(&e->gate, capacity * dense);
    grow(&e->up, capacity * dense);
    moe_mem_free(e->backend, &e->workspace);
    check(moe_mem_alloc(e->backend, bytes, &e->workspace), NULL);
}

/* ---- what the program does ------------------------------------------------------------------------------- */

struct options {
    const char *model, *prompt, *loss, *reference;
    double num_tokens, num_threads, temperature, seed;
    bool primitives, exact, expert_map;
};

static void check_ids(const struct engine *e, const int32_t *ids, size_t count, const char *where)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= e->vocab_size)
            die(CODE_INPUT, "%s: token %d is not one of %zu", where, (int)ids[i], e->vocab_size);
    if (count == 0)
        die(CODE_INPUT, "%s: no tokens", where);
}

/* Continue the prompt by `more` tokens, or to the end of the text. ids has room for them and for a token a byte of the
 * prompt; returns how many there are. out shows them as they come; NULL: silently. */
static size_t write_text(struct engine *e, const struct tokenizer *tokenizer, const char *prompt, int32_t *ids,
                         size_t more, const struct options *options, FILE *out)
{
    uint64_t state = (uint64_t)options->seed;
    size_t count = tokenizer_encode(tokenizer, prompt, ids), end = count + more;
    check_ids(e, ids, count, "the prompt");
    reserve(e, end, 1);
    e->position = 0;
    if (out)
        fputs(prompt, out);
    while (count < end && (e->position == 0 || ids[count - 1] != e->end_token)) {
        forward(e, ids + e->position, count - e->position, false);
        ids[count++] = choose(e->logits, e->vocab_size, options->temperature, &state);
        if (out)
            tokenizer_print(tokenizer, ids[count - 1], out);
    }
    return count;
}

static void print_expert_map(const struct engine *e)
{
    static const char shades[] = " .:-=+*#%@";
    printf("\nWork of each expert, a column each: ' ' none, '=' about an even share, '@' two and a half and more\n");
    for (size_t i = 0; i < e->num_blocks; i++) {
        const struct block *b = &e->blocks[i];
        int64_t total = 0;
        size_t most = 0;
        if (!b->layer || e->position == 0)
            continue;
        for (size_t k = 0; k < b->num_experts; k++) {
            total += b->expert_counts[k];
            most = b->expert_counts[k] > b->expert_counts[most] ? k : most;
        }
        printf("layer %2zu |", i);
        for (size_t k = 0; k < b->num_experts; k++) {
            double shade = ceil(3.5 * (double)b->expert_counts[k] / (double)total * (double)b->num_experts);
            putchar(shades[shade < 9 ? (int)shade : 9]);
        }
        printf("| most: expert %zu, %.0f %%\n", most, 100.0 * (double)b->expert_counts[most] / (double)total);
    }
}

/* Mean of -log p(next token) over the rows of `ids`; each row is a text of its own. */
static void run_loss(struct engine *e, const char *path)
{
    struct moe_model *file;
    struct moe_tensor tensor;
    struct moe_error error;
    const void *data;
    check(moe_model_open(path, NULL, &file, &error), &error);
    if (moe_model_tensor_find(file, "ids", &tensor) != MOE_OK || tensor.type != MOE_FORMAT_I32 ||
        tensor.num_dims != 2 || tensor.shape[0] == 0 || tensor.shape[1] < 2)
        die(CODE_INPUT, "%s: no tensor ids of type i32, [rows, tokens]", path);
    check(moe_model_tensor_data(file, "ids", &data, &error), &error);
    size_t rows = tensor.shape[0], n = tensor.shape[1];
    int32_t *ids = allocate(n, sizeof *ids);
    double loss = 0;
    reserve(e, n - 1, n - 1);
    for (size_t r = 0; r < rows; r++) {
        memcpy(ids, (const char *)data + r * n * sizeof *ids, n * sizeof *ids);
        check_ids(e, ids, n, path);
        e->position = 0;
        forward(e, ids, n - 1, true);
        for (size_t t = 0; t + 1 < n; t++)
            loss -= log_softmax(e->logits + t * e->vocab_size, e->vocab_size, (size_t)ids[t + 1]);
    }
    loss /= (double)(rows * (n - 1));
    printf("loss %.9f perplexity %.6f tokens %zu\n", loss, exp(loss), rows * (n - 1));
    free(ids);
    moe_model_close(file);
}

/* Write the texts of reference.json again, `greedy`: [{prompt, prompt_ids, ids}]. Returns the program's exit code. */
static int run_reference(struct engine *e, const struct tokenizer *tokenizer, const struct options *options)
{
    json_t *root = json_load_file(options->reference, 0, NULL), *texts = json_object_get(root, "greedy"), *text;
    size_t i, wrong = 0;
    if (json_array_size(texts) == 0)
        die(CODE_INPUT, "%s: no list `greedy` of texts", options->reference);
    json_array_foreach(texts, i, text) {
        const char *prompt = json_string_value(json_object_get(text, "prompt"));
        json_t *expected = json_object_get(text, "ids");
        size_t length = json_array_size(expected), given = json_array_size(json_object_get(text, "prompt_ids"));
        if (!prompt || length < given)
            die(CODE_INPUT, "%s: text %zu has no prompt, or no ids", options->reference, i);
        int32_t *ids = allocate(strlen(prompt) + length - given, sizeof *ids);
        size_t count = write_text(e, tokenizer, prompt, ids, length - given, options, NULL), same = 0;
        while (same < count && same < length && ids[same] == json_integer_value(json_array_get(expected, same)))
            same++;
        printf("text %zu: %zu of %zu tokens equal\n", i, same, length);
        wrong += same != length || count != length;
        free(ids);
    }
    json_decref(root);
    return wrong ? CODE_DIFFERENT : 0;
}

static void open_engine(struct engine *e, const struct options *options)
{
    struct moe_error error;
    struct moe_context_params params;
    MOE_INIT(&params);
    params.num_threads = (size_t)options->num_threads;
    check(moe_backend_open("cpu", NULL, &e->backend, &error), &error);
    check(moe_context_create(e->backend, &params, &e->ctx, &error), &error);
    check(moe_model_open(options->model, NULL, &e->model, &error), &error);
    read_settings(e);
    open_blocks(e, (options->primitives ? MOE_LAYER_FORCE_COMPOSED : 0u) | (options->exact ? MOE_LAYER_EXACT : 0u));
}

/* What the library made, the last first; the rest goes with the process. */
static void close_engine(struct engine *e)
{
    moe_mem_free(e->backend, &e->workspace);
    for (size_t i = 0; i < e->num_blocks; i++)
        moe_layer_destroy(e->blocks[i].layer);
    moe_model_close(e->model);
    moe_context_destroy(e->ctx);
    moe_backend_close(e->backend);
}

static struct options read_options(int argc, char **argv)
{
    struct options o = {.prompt = "ROMEO:\n", .num_tokens = 128, .seed = 1};
    const struct {
        const char *name;
        bool *flag;
        const char **text;
        double *number;
    } known[] = {
        {"--primitives", .flag = &o.primitives}, {"--expert-map", .flag = &o.expert_map},
        {"--prompt", .text = &o.prompt},         {"--loss", .text = &o.loss},
        {"--tokens", .number = &o.num_tokens},   {"--greedy-reference", .text = &o.reference},
        {"--seed", .number = &o.seed},           {"--temperature", .number = &o.temperature},
        {"--threads", .number = &o.num_threads}, {"--exact", .flag = &o.exact}, {.name = NULL},
    };
    for (int i = 1; i < argc; i++) {
        size_t k = 0;
        int used = 0;
        if (strcmp(argv[i], "--help") == 0)
            exit(fputs(help, stdout) < 0);
        while (known[k].name && strcmp(argv[i], known[k].name))
            k++;
        if (!known[k].name && (argv[i][0] == '-' || o.model))
            die(CODE_USAGE, "%s is not known; see --help", argv[i]);
        else if (!known[k].name)
            o.model = argv[i];
        else if (known[k].flag)
            *known[k].flag = true;
        else if (++i == argc)
            die(CODE_USAGE, "%s takes a value; see --help", known[k].name);
        else if (known[k].text)
            *known[k].text = argv[i];
        else if (sscanf(argv[i], "%lf%n", known[k].number, &used) != 1 || argv[i][used] ||
                 !(*known[k].number >= 0 && *known[k].number <= 1e9))
            die(CODE_USAGE, "%s takes a number from 0 to 10^9, not %s", known[k].name, argv[i]);
    }
    if (!o.model)
        die(CODE_USAGE, "which model? See --help");
    return o;
}

int main(int argc, char **argv)
{
    struct options options = read_options(argc, argv);
    static struct engine engine;
    struct tokenizer tokenizer;
    char path[4096];
    int code = 0;
    open_engine(&engine, &options);
    snprintf(path, sizeof path, "%s/tokenizer.json", options.model);
    const char *problem = tokenizer_open(&tokenizer, engine.model, engine.gguf ? NULL : path);
    if (problem)
        die(CODE_INPUT, "%s %s", engine.gguf ? options.model : path, problem);
    if (options.loss)
        run_loss(&engine, options.loss);
    else if (options.reference)
        code = run_reference(&engine, &tokenizer, &options);
    else {
        int32_t *ids = allocate(strlen(options.prompt) + (size_t)options.num_tokens, sizeof *ids);
        write_text(&engine, &tokenizer, options.prompt, ids, (size_t)options.num_tokens, &options, stdout);
        putchar('\n');
        free(ids);
    }
    if (options.expert_map)
        print_expert_map(&engine);
    tokenizer_close(&tokenizer);
    close_engine(&engine);
    return code;
}
