// SPDX-License-Identifier: MIT
// Byte-level BPE as GPT-2 does it, for generate.c: text to tokens and back, out of tokenizer.json or of GGUF metadata.
// A text is cut into pieces (words with the space before them), and a piece is merged pair by pair, best rank first.
#ifndef MOE_EXAMPLES_TOKENIZER_H
#define MOE_EXAMPLES_TOKENIZER_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/moe.h"

/* Vocabularies write each byte as one printable character: the 188 printable ones of Latin-1 as themselves, the others
 * as U+0100 and on. */
struct tokenizer {
    json_t *ids;              /* token, written so -> its id */
    json_t *ranks;            /* "left right" -> rank of the merge; 0 is the best */
    const char **texts;       /* id -> token, written so; NULL for a hole */
    size_t num_texts;
    char written[256][3];     /* byte -> its character in UTF-8 */
    unsigned char bytes[512]; /* character -> its byte */
};

static inline void tokenizer_close(struct tokenizer *t)
{
    json_decref(t->ids);
    json_decref(t->ranks);
    free(t->texts);
    memset(t, 0, sizeof *t);
}

static inline void tokenizer_make_bytes(struct tokenizer *t)
{
    unsigned next = 256;
    for (unsigned b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        unsigned c = printable ? b : next++;
        t->bytes[c] = (unsigned char)b;
        if (c < 128)
            snprintf(t->written[b], 3, "%c", (int)c);
        else
            snprintf(t->written[b], 3, "%c%c", (int)(0xC0 | c >> 6), (int)(0x80 | (c & 63)));
    }
}

/* A merge is "left right", or ["left", "right"] in newer files. */
static inline bool tokenizer_add_merge(struct tokenizer *t, const char *left, const char *right)
{
    char key[1024];
    int length = right ? snprintf(key, sizeof key, "%s %s", left, right) : snprintf(key, sizeof key, "%s", left);
    if (length < 0 || (size_t)length >= sizeof key)
        return false;
    return json_object_set_new(t->ranks, key, json_integer((json_int_t)json_object_size(t->ranks))) == 0;
}

static inline const char *tokenizer_read_json(struct tokenizer *t, const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error), *vocab, *merges, *item;
    const char *problem = "is no tokenizer.json of byte-level BPE", *type = NULL;
    if (!root)
        return "cannot be read as JSON";
    size_t i;
    json_unpack(root, "{s:{s:s}}", "pre_tokenizer", "type", &type);
    if (!type || strcmp(type, "ByteLevel"))
        problem = "cuts texts by another rule than GPT-2's (pre_tokenizer)";
    else if (json_unpack(root, "{s:{s:o, s:o}}", "model", "vocab", &vocab, "merges", &merges) == 0) {
        t->ids = json_incref(vocab);
        problem = NULL;
        json_array_foreach(merges, i, item) {
            const char *left = json_string_value(item), *right = NULL;
            if (!left && json_unpack(item, "[s, s]", &left, &right) != 0)
                left = "";
            if (!tokenizer_add_merge(t, left, right))
                problem = "has a merge that cannot be used";
        }
    }
    json_decref(root);
    return problem;
}

static inline const char *tokenizer_read_gguf(struct tokenizer *t, struct moe_model *model)
{
    struct moe_value kind, rule, tokens, merges, item;
    if (moe_model_metadata_find(model, "tokenizer.ggml.model", &kind) != MOE_OK ||
        moe_model_metadata_find(model, "tokenizer.ggml.tokens", &tokens) != MOE_OK ||
        moe_model_metadata_find(model, "tokenizer.ggml.merges", &merges) != MOE_OK ||
        kind.kind != MOE_VALUE_STRING || tokens.kind != MOE_VALUE_ARRAY || merges.kind != MOE_VALUE_ARRAY ||
        strcmp(kind.string, "gpt2"))
        return "has no byte-level BPE tokenizer (tokenizer.ggml.model, .tokens, .merges)";
    if (moe_model_metadata_find(model, "tokenizer.ggml.pre", &rule) == MOE_OK &&
        (rule.kind != MOE_VALUE_STRING || strcmp(rule.string, "gpt-2")))
        return "cuts texts by another rule than GPT-2's (tokenizer.ggml.pre)";
    for (size_t i = 0; i < tokens.length; i++)
        if (moe_model_metadata_item(model, &tokens, i, &item) != MOE_OK || item.kind != MOE_VALUE_STRING ||
            json_object_set_new(t->ids, item.string, json_integer((json_int_t)i)) != 0)
            return "has a token that cannot be used";
    for (size_t i = 0; i < merges.length; i++)
        if (moe_model_metadata_item(model, &merges, i, &item) != MOE_OK || item.kind != MOE_VALUE_STRING ||
            !tokenizer_add_merge(t, item.string, NULL))
            return "has a merge that cannot be used";
    return NULL;
}

/* From json_path, or from the metadata of a GGUF file if that is NULL. Returns what is wrong with it, or NULL. */
static inline const char *tokenizer_open(struct tokenizer *t, struct moe_model *model, const char *json_path)
{
    memset(t, 0, sizeof *t);
    tokenizer_make_bytes(t);
    t->ranks = json_object();
    t->ids = json_path ? NULL : json_object();
    const char *problem = json_path ? tokenizer_read_json(t, json_path) : tokenizer_read_gguf(t, model), *text;
    if (problem)
        return problem;
    json_t *id;
    json_object_foreach(t->ids, text, id)
        if (json_integer_value(id) >= 0 && json_integer_value(id) < 1 << 24 &&
            (size_t)json_integer_value(id) >= t->num_texts)
            t->num_texts = (size_t)json_integer_value(id) + 1;
    t->texts = calloc(t->num_texts + 1, sizeof *t->texts);
    if (!t->texts)
        return "is too large for the memory";
    json_object_foreach(t->ids, text, id)
        if (json_integer_value(id) >= 0 && (size_t)json_integer_value(id) < t->num_texts)
            t->texts[json_integer_value(id)] = text;
    return NULL;
}

enum tokenizer_class { TOKENIZER_END, TOKENIZER_SPACE, TOKENIZER_LETTER, TOKENIZER_DIGIT, TOKENIZER_OTHER };

/* The class of the character at p, and its bytes. Exact for ASCII; of the rest of Unicode, U+0080..00BF (but for the
 * letters ª µ º) and U+2000..2BFF count as spaces or punctuation, everything else as letters. */
static inline enum tokenizer_class tokenizer_classify(const char *p, size_t *length)
{
    unsigned c = (unsigned char)*p;
    *length = 1;
    if (c < 128) {
        if ((c | 32) >= 'a' && (c | 32) <= 'z')
            return TOKENIZER_LETTER;
        if (c >= '0' && c <= '9')
            return TOKENIZER_DIGIT;
        return c == 0 ? TOKENIZER_END : c == ' ' || (c >= 9 && c <= 13) ? TOKENIZER_SPACE : TOKENIZER_OTHER;
    }
    while (((unsigned char)p[*length] & 0xC0) == 0x80 && *length < 4)
        c = c << 6 | ((unsigned char)p[(*length)++] & 63);
    c &= *length == 2 ? 0x7FF : *length == 3 ? 0xFFFF : 0x1FFFFF;
    if (c == 0x85 || c == 0xA0 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x3000)
        return TOKENIZER_SPACE;
    if (c == 0xAA || c == 0xB5 || c == 0xBA)
        return TOKENIZER_LETTER;
    return c < 0xC0 || (c >= 0x2000 && c < 0x2C00) || (c >= 0x3001 && c < 0x3040) ? TOKENIZER_OTHER : TOKENIZER_LETTER;
}

/* Bytes of the first piece of a text:  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+  */
static inline size_t tokenizer_piece(const char *text)
{
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (strncmp(text, endings[i], strlen(endings[i])) == 0)
            return strlen(endings[i]);
    size_t length, end = 0, last = 0, characters = 0;
    enum tokenizer_class class = tokenizer_classify(text, &length);
    if (*text == ' ') {
        class = tokenizer_classify(text + 1, &length);
        end = class == TOKENIZER_END || class == TOKENIZER_SPACE ? 0 : 1;
        class = end ? class : TOKENIZER_SPACE;
    }
    for (; tokenizer_classify(text + end, &length) == class; end += length, characters++)
        last = end;
    /* Of several spaces before a word, the last one belongs to the word. */
    return class == TOKENIZER_SPACE && text[end] && characters > 1 ? last : end;
}

/* Merge one piece; ids has room for length tokens. Returns their number. */
static inline size_t tokenizer_merge(const struct tokenizer *t, const char *piece, size_t length, int32_t *ids)
{
    char *text = calloc(length + 1, 2), *key = calloc(length + 1, 4);
    size_t *start = calloc(length + 1, sizeof *start), n = length;   /* symbol i: text from start[i] to start[i + 1] */
    if (!text || !key || !start)
        n = length = 0;
    for (size_t i = 0; i < length; i++)
        start[i + 1] = start[i] + (size_t)sprintf(text + start[i], "%s", t->written[(unsigned char)piece[i]]);
    while (n > 1) {
        size_t best = n;
        json_int_t best_rank = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            sprintf(key, "%.*s %.*s", (int)(start[i + 1] - start[i]), text + start[i],
                    (int)(start[i + 2] - start[i + 1]), text + start[i + 1]);
            json_t *rank = json_object_get(t->ranks, key);
            if (rank && (best == n || json_integer_value(rank) < best_rank)) {
                best = i;
                best_rank = json_integer_value(rank);
            }
        }
        if (best == n)
            break;
        memmove(start + best + 1, start + best + 2, (n - best - 1) * sizeof *start);
        n--;
    }
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        sprintf(key, "%.*s", (int)(start[i + 1] - start[i]), text + start[i]);
        json_t *id = json_object_get(t->ids, key);
        if (id)
            ids[count++] = (int32_t)json_integer_value(id);
    }
    free(text);
    free(key);
    free(start);
    return count;
}

/* ids has room for a token a byte. Returns their number. */
static inline size_t tokenizer_encode(const struct tokenizer *t, const char *text, int32_t *ids)
{
    size_t count = 0;
    for (size_t length; *text; text += length) {
        length = tokenizer_piece(text);
        count += tokenizer_merge(t, text, length, ids + count);
    }
    return count;
}

/* The bytes of one token; they may end inside a character. */
static inline void tokenizer_print(const struct tokenizer *t, int32_t id, FILE *out)
{
    const char *p = id >= 0 && (size_t)id < t->num_texts ? t->texts[id] : NULL;
    while (p && *p) {
        unsigned c = (unsigned char)*p++;
        if (c >= 0xC0 && *p)
            c = (c & 31) << 6 | ((unsigned char)*p++ & 63);
        fputc(t->bytes[c & 511], out);
    }
    fflush(out);
}

#endif
