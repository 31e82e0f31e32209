// SPDX-License-Identifier: MIT
// The vocabulary of a converted file: tokens, their kinds and merges from a byte-level BPE tokenizer.json.
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert.h"

enum token_kind { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

#define MOST_TOKENS 16777216    /* larger ids are taken for a mistake in the file */

struct vocab {
    const char **tokens;        /* borrowed from the JSON; NULL: no token of that id */
    int32_t *kinds;
    size_t count;
};

/* path/name as JSON; NULL with *code TOOL_OK where there is no such file. flags of jansson's decoder. */
static json_t *load(const char *path, const char *name, size_t flags, int *code)
{
    char *file = tool_alloc(strlen(path) + strlen(name) + 2, 1);
    *code = file ? TOOL_OK : TOOL_INPUT;
    if (!file)
        return NULL;
    sprintf(file, "%s/%s", path, name);
    json_t *json = NULL;
    if (access(file, F_OK) == 0) {
        json_error_t error;
        json = json_load_file(file, JSON_REJECT_DUPLICATES | flags, &error);
        if (!json)
            *code = tool_fail(TOOL_INPUT, "%s: line %d: %s", file, error.line, error.text);
    }
    free(file);
    return json;
}

static bool note_id(const json_t *id, size_t *count)
{
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= MOST_TOKENS)
        return false;
    if ((size_t)value >= *count)
        *count = (size_t)value + 1;
    return true;
}

/* Number of tokens: the largest id, or what config.json says if that is more (rows of padding in the embedding). */
static int count_tokens(struct session *session, json_t *vocab, json_t *added, size_t *count)
{
    uint32_t padded;
    const char *token;
    json_t *value;
    size_t i;
    *count = 0;
    json_object_foreach(vocab, token, value)
        if (!note_id(value, count))
            return tool_fail(TOOL_INPUT, "tokenizer.json: token '%s' has no valid id", token);
    json_array_foreach(added, i, value)
        if (!note_id(json_object_get(value, "id"), count) || !json_is_string(json_object_get(value, "content")))
            return tool_fail(TOOL_INPUT, "tokenizer.json: added token %zu has no valid id and content", i);
    if (convert_config_u32(session, "vocab_size", &padded) && padded > *count && padded <= MOST_TOKENS)
        *count = padded;
    return TOOL_OK;
}

static void fill(struct vocab *v, json_t *vocab, json_t *added)
{
    const char *token;
    json_t *value;
    size_t i;
    for (i = 0; i < v->count; i++) {
        v->tokens[i] = NULL;
        v->kinds[i] = TOKEN_UNUSED;
    }
    json_object_foreach(vocab, token, value) {
        v->tokens[json_integer_value(value)] = token;
        v->kinds[json_integer_value(value)] = TOKEN_NORMAL;
    }
    json_array_foreach(added, i, value) {
        size_t id = (size_t)json_integer_value(json_object_get(value, "id"));
        v->tokens[id] = json_string_value(json_object_get(value, "content"));
        v->kinds[id] = json_is_true(json_object_get(value, "special")) ? TOKEN_CONTROL : TOKEN_USER;
    }
}

static void write_tokens(struct gguf_header *header, const struct vocab *v)
{
    gguf_begin_array(header, "tokenizer.ggml.tokens", GGUF_STRING, v->count);
    for (size_t i = 0; i < v->count; i++) {
        char padding[32];
        snprintf(padding, sizeof padding, "[PAD%zu]", i);
        const char *token = v->tokens[i] ? v->tokens[i] : padding;
        gguf_put_string(header, token, strlen(token));
    }
    gguf_begin_array(header, "tokenizer.ggml.token_type", GGUF_I32, v->count);
    for (size_t i = 0; i < v->count; i++)
        gguf_put_number(header, GGUF_I32, v->kinds[i], 0);
}

/* A merge is "a b", or ["a", "b"]. */
static int write_merges(struct gguf_header *header, json_t *merges)
{
    size_t i;
    json_t *merge;
    gguf_begin_array(header, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(merges));
    json_array_foreach(merges, i, merge) {
        const char *whole = json_string_value(merge);
        if (whole) {
            gguf_put_string(header, whole, strlen(whole));
            continue;
        }
        const char *left = json_string_value(json_array_get(merge, 0));
        const char *right = json_string_value(json_array_get(merge, 1));
        if (!left || !right)
            return tool_fail(TOOL_INPUT, "tokenizer.json: merge %zu is not a pair of tokens", i);
        size_t length = strlen(left) + strlen(right) + 1;
        char *pair = tool_alloc(length + 1, 1);
        if (!pair)
            return TOOL_INPUT;
        sprintf(pair, "%s %s", left, right);
        gguf_put_string(header, pair, length);
        free(pair);
    }
    return TOOL_OK;
}

/* Plain ByteLevel splits words as GPT-2 does; any other splitter is the family's own. */
static const char *pre_tokenizer(json_t *tokenizer, const struct names_family *family)
{
    json_t *pre = json_object_get(tokenizer, "pre_tokenizer");
    const char *type = json_string_value(json_object_get(pre, "type"));
    bool plain = type && strcmp(type, "ByteLevel") == 0 && !json_is_false(json_object_get(pre, "use_regex"));
    return plain ? "gpt-2" : family->pre_tokenizer;
}

static bool is_byte_level(json_t *tokenizer)
{
    const char *type = json_string_value(json_object_get(json_object_get(tokenizer, "decoder"), "type"));
    return type && strcmp(type, "ByteLevel") == 0;
}

/* bos and eos of config.json: a number, or a list whose first is meant. */
static void write_special(struct gguf_header *header, struct session *session, const char *config, const char *key)
{
    struct moe_value value, item;
    if (moe_model_metadata_find(session->model, config, &value) != MOE_OK)
        return;
    if (value.kind == MOE_VALUE_ARRAY && moe_model_metadata_item(session->model, &value, 0, &item) == MOE_OK)
        value = item;
    if (value.kind == MOE_VALUE_INT && value.integer >= 0 && value.integer <= UINT32_MAX)
        gguf_add_u32(header, key, (uint32_t)value.integer);
}

static int write_settings(struct gguf_header *header, struct session *session, const char *path)
{
    int code;
    /* model_max_length is often 10^30, no integer of any kind. */
    json_t *config = load(path, "tokenizer_config.json", JSON_DECODE_INT_AS_REAL, &code);
    static const char *const flags[][2] = {{"add_bos_token", "tokenizer.ggml.add_bos_token"},
                                           {"add_eos_token", "tokenizer.ggml.add_eos_token"}};
    for (size_t i = 0; i < 2; i++)
        if (json_is_boolean(json_object_get(config, flags[i][0])))
            gguf_add_bool(header, flags[i][1], json_is_true(json_object_get(config, flags[i][0])));
    const char *template = json_string_value(json_object_get(config, "chat_template"));
    if (template)
        gguf_add_string(header, "tokenizer.chat_template", template);
    json_decref(config);
    write_special(header, session, "bos_token_id", "tokenizer.ggml.bos_token_id");
    write_special(header, session, "eos_token_id", "tokenizer.ggml.eos_token_id");
    return code;
}

static int write_vocab(struct gguf_header *header, struct session *session, const struct names_family *family,
                       json_t *tokenizer)
{
    json_t *model = json_object_get(tokenizer, "model"), *vocab = json_object_get(model, "vocab");
    json_t *added = json_object_get(tokenizer, "added_tokens");
    struct vocab v = {0};
    int code = count_tokens(session, vocab, added, &v.count);
    if (code != TOOL_OK)
        return code;
    v.tokens = tool_alloc(v.count, sizeof *v.tokens);
    v.kinds = tool_alloc(v.count, sizeof *v.kinds);
    code = v.tokens && v.kinds ? TOOL_OK : TOOL_INPUT;
    if (code == TOOL_OK) {
        fill(&v, vocab, added);
        gguf_add_string(header, "tokenizer.ggml.model", "gpt2");
        gguf_add_string(header, "tokenizer.ggml.pre", pre_tokenizer(tokenizer, family));
        write_tokens(header, &v);
        code = write_merges(header, json_object_get(model, "merges"));
    }
    free(v.tokens);
    free(v.kinds);
    return code;
}

int convert_tokenizer(struct gguf_header *header, struct session *session, const struct names_family *family,
                      const char *path)
{
    int code;
    json_t *tokenizer = load(path, "tokenizer.json", 0, &code);
    if (!tokenizer)
        return code;
    const char *type = json_string_value(json_object_get(json_object_get(tokenizer, "model"), "type"));
    if (!type || strcmp(type, "BPE") != 0 || !is_byte_level(tokenizer)) {
        tool_note("tokenizer.json holds no byte-level BPE; the file gets no vocabulary");
    } else {
        code = write_vocab(header, session, family, tokenizer);
        if (code == TOOL_OK)
            code = write_settings(header, session, path);
    }
    json_decref(tokenizer);
    return code;
}
