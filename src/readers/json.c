// SPDX-License-Identifier: MIT
// The JSON parser: recursive descent over a copy of the text, in which strings are unescaped where they stand.
#include "readers/json.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "readers/table.h"

enum {
    DEPTH_LARGEST = 256,
    TEXT_LARGEST = 1 << 27,    /* bytes: a node takes two of them at least, and counts of nodes have 28 bits */
    FEW_MEMBERS = 8,           /* up to so many, comparing each with each is faster than a table */
    REAL_LARGEST = 1024,       /* bytes of a number with a fraction or an exponent */
    NODE_BYTES = 16            /* of text for each node, in headers and indices; room for more is made as needed */
};

struct parser {
    struct moe_json_document *document;
    char *at, *end;            /* in the copy; *end is NUL */
    const char *reason;        /* of a failure, at at; NULL: no memory */
    uint64_t key[2];           /* of hashes */
    bool numbers;
};

static bool parse_value(struct parser *parser, int depth);

static bool fail(struct parser *parser, const char *reason)
{
    parser->reason = reason;
    return false;
}

static void skip_space(struct parser *parser)
{
    while (*parser->at == ' ' || *parser->at == '\n' || *parser->at == '\t' || *parser->at == '\r')
        parser->at++;
}

/* The new node's number; *ok is false where memory has run out. */
static size_t add_node(struct parser *parser, enum moe_json_kind kind, bool *ok)
{
    struct moe_json_document *document = parser->document;
    void *nodes = document->nodes;
    *ok = moe_table_grow(document->env, &nodes, &document->capacity, document->count, sizeof *document->nodes) ==
          MOE_OK;
    document->nodes = nodes;
    if (!*ok) {
        parser->reason = NULL;
        return 0;
    }
    struct moe_json node = {.kind = (unsigned)kind & 15u, .span = 1};
    document->nodes[document->count] = node;
    return document->count++;
}

/* ---- strings -------------------------------------------------------------------------------------------- */

static bool read_hex(const char *at, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return false;
        *code = *code << 4 | (uint32_t)digit;
    }
    return true;
}

static char *put_utf8(char *out, uint32_t code)
{
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char leads[4] = {0, 0xc0, 0xe0, 0xf0};
    *out++ = (char)(unsigned char)(leads[more] | code >> 6 * more);
    while (more-- > 0)
        *out++ = (char)(unsigned char)(0x80 | (code >> 6 * more & 0x3f));
    return out;
}

/* parser->at is behind "\u". The text ends with a NUL, which is no digit. */
static char *read_unicode(struct parser *parser, char *out)
{
    uint32_t code, low;
    if (!read_hex(parser->at, &code)) {
        fail(parser, "invalid escape");
        return NULL;
    }
    parser->at += 4;
    if (code >= 0xd800 && code < 0xdc00 && parser->at[0] == '\\' && parser->at[1] == 'u' &&
        read_hex(parser->at + 2, &low) && low >= 0xdc00 && low < 0xe000) {
        parser->at += 6;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code == 0 || (code >= 0xd800 && code < 0xe000)) {
        fail(parser, code == 0 ? "\\u0000 in a string" : "half of a surrogate pair");
        return NULL;
    }
    return put_utf8(out, code);   /* at most 4 bytes, which took 6 or 12 */
}

/* parser->at is behind the backslash. */
static char *read_escape(struct parser *parser, char *out)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    char letter = *parser->at;
    if (letter == 'u') {
        parser->at++;
        return read_unicode(parser, out);
    }
    const char *found = letter != '\0' ? strchr(letters, letter) : NULL;
    if (found == NULL) {
        fail(parser, "invalid escape");
        return NULL;
    }
    parser->at++;
    *out++ = meanings[found - letters];
    return out;
}

/* What may stand in a string as it is; most of all text. */
static bool is_plain(char c)
{
    unsigned char byte = (unsigned char)c;
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

/* From the opening quote on; unescaping never makes longer. */
static bool parse_string(struct parser *parser)
{
    bool ok;
    size_t number = add_node(parser, MOE_JSON_STRING, &ok);
    char *start = ++parser->at, *out;
    while (is_plain(*parser->at))
        parser->at++;
    out = parser->at;
    while (ok && *parser->at != '"') {
        unsigned char byte = (unsigned char)*parser->at;
        if (byte == '\\') {
            parser->at++;
            out = read_escape(parser, out);
            if (out == NULL)
                return false;
        } else if (byte < 0x20) {
            return fail(parser, parser->at == parser->end ? "the text ends inside a string"
                                                          : "a control character in a string");
        } else {
            size_t length = moe_table_utf8(parser->at, (size_t)(parser->end - parser->at));
            if (length == 0)
                return fail(parser, "invalid UTF-8");
            memmove(out, parser->at, length);
            out += length;
            parser->at += length;
        }
    }
    if (!ok)
        return false;
    parser->at++;
    *out = '\0';
    parser->document->nodes[number].u.string = start;
    parser->document->nodes[number].length = (uint32_t)(out - start);
    return true;
}

/* ---- numbers and words ---------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char *skip_digits(char *at)
{
    while (is_digit(*at))
        at++;
    return at;
}

/* jansson's conversion does not depend on the locale, as strtod does. */
static bool set_real(struct parser *parser, struct moe_json *node, const char *start)
{
    size_t size = (size_t)(parser->at - start);
    json_error_t reason;
    if (size > REAL_LARGEST)
        return fail(parser, "too long number");
    json_t *value = json_loadb(start, size, JSON_DECODE_ANY, &reason);
    /* the reason is empty where jansson could not even allocate what holds it */
    if (value == NULL)
        return fail(parser, json_error_code(&reason) == json_error_out_of_memory || reason.text[0] == '\0'
                                ? NULL : "real number overflow");
    node->u.number = json_real_value(value);
    json_decref(value);
    return true;
}

static bool set_integer(struct parser *parser, struct moe_json *node, const char *start)
{
    bool negative = *start == '-';
    uint64_t magnitude = 0, limit = (uint64_t)INT64_MAX + negative;
    for (const char *at = start + negative; at < parser->at; at++) {
        unsigned digit = (unsigned)(*at - '0');
        if (magnitude > (limit - digit) / 10)
            return fail(parser, negative ? "too big negative integer" : "too big integer");
        magnitude = 10 * magnitude + digit;
    }
    node->u.integer = negative && magnitude > 0 ? -(int64_t)(magnitude - 1) - 1 : (int64_t)magnitude;
    return true;
}

static bool parse_number(struct parser *parser)
{
    bool ok;
    char *start = parser->at, *digits = start + (*start == '-'), *at = digits;
    at = *at == '0' ? at + 1 : skip_digits(at);
    if (at == digits)
        return fail(parser, "invalid token");
    enum moe_json_kind kind = MOE_JSON_INTEGER;
    if (*at == '.' || *at == 'e' || *at == 'E')
        kind = MOE_JSON_REAL;
    if (*at == '.') {
        if (!is_digit(at[1]))
            return fail(parser, "invalid token");
        at = skip_digits(at + 1);
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        at += *at == '+' || *at == '-';
        if (!is_digit(*at))
            return fail(parser, "invalid token");
        at = skip_digits(at);
    }
    size_t number = add_node(parser, kind, &ok);
    if (!ok)
        return false;
    parser->at = at;
    struct moe_json *node = &parser->document->nodes[number];
    return kind == MOE_JSON_REAL ? set_real(parser, node, start) : set_integer(parser, node, start);
}

static bool parse_word(struct parser *parser)
{
    static const struct {
        const char *word;
        enum moe_json_kind kind;
        bool number;
    } words[] = {
        {"null", MOE_JSON_NULL, false}, {"true", MOE_JSON_TRUE, false},    {"false", MOE_JSON_FALSE, false},
        {"NaN", MOE_JSON_NULL, true},   {"Infinity", MOE_JSON_NULL, true}, {"-Infinity", MOE_JSON_NULL, true},
    };
    for (size_t i = 0; i < MOE_ARRAY_SIZE(words); i++) {
        size_t length = strlen(words[i].word);
        bool ok;
        if (strncmp(parser->at, words[i].word, length) != 0 || (words[i].number && !parser->numbers))
            continue;
        parser->at += length;
        add_node(parser, words[i].kind, &ok);
        return ok;
    }
    return fail(parser, parser->at == parser->end ? "the text ends early" : "invalid token");
}

/* ---- arrays and objects --------------------------------------------------------------------------------- */

static bool same_key(const struct moe_json *a, const struct moe_json *b)
{
    return a->length == b->length && memcmp(a->u.string, b->u.string, a->length) == 0;
}

static bool fail_twice(struct parser *parser, const struct moe_json *key)
{
    parser->at = parser->document->text + (key->u.string - parser->document->text);
    return fail(parser, "duplicate object key");
}

/* A place in a table of keys, as in table.c: the hash spares most looks at the key itself. */
struct slot {
    uint32_t hash;
    uint32_t number;           /* of the key's node in the object, from 1; 0: free */
};

/* num_slots: a power of two, and at least twice as many as members. */
static bool check_table(struct parser *parser, const struct moe_json *object, struct slot *slots, size_t num_slots)
{
    for (const struct moe_json *key = moe_json_first(object); key != NULL; key = moe_json_next(object, key)) {
        uint32_t hash = (uint32_t)moe_table_hash(parser->key, key->u.string, key->length);
        size_t place = hash & (num_slots - 1);
        for (; slots[place].number != 0; place = (place + 1) & (num_slots - 1))
            if (slots[place].hash == hash && same_key(key, object + slots[place].number))
                return fail_twice(parser, key);
        slots[place] = (struct slot){hash, (uint32_t)(key - object)};
    }
    return true;
}

static bool check_keys(struct parser *parser, const struct moe_json *object)
{
    if (object->length <= FEW_MEMBERS) {
        for (const struct moe_json *key = moe_json_first(object); key != NULL; key = moe_json_next(object, key))
            for (const struct moe_json *other = object + 1; other < key; other = moe_json_next(object, other))
                if (same_key(key, other))
                    return fail_twice(parser, key);
        return true;
    }
    const struct moe_env *env = parser->document->env;
    size_t num_slots = 16;
    while (num_slots < 2 * (size_t)object->length)
        num_slots *= 2;
    struct slot *slots = moe_alloc_array(env, num_slots, sizeof *slots);
    if (slots == NULL)
        return fail(parser, NULL);
    bool good = check_table(parser, object, slots, num_slots);
    moe_free(env, slots, num_slots * sizeof *slots);
    return good;
}

static bool parse_key(struct parser *parser)
{
    if (*parser->at != '"')
        return fail(parser, "a string as key expected");
    if (!parse_string(parser))
        return false;
    skip_space(parser);
    if (*parser->at != ':')
        return fail(parser, "':' expected");
    parser->at++;
    return true;
}

/* From the opening bracket on. */
static bool parse_container(struct parser *parser, int depth)
{
    bool ok, object = *parser->at == '{';
    char close = object ? '}' : ']';
    size_t number = add_node(parser, object ? MOE_JSON_OBJECT : MOE_JSON_ARRAY, &ok);
    uint32_t length = 0;
    if (!ok)
        return false;
    if (depth == DEPTH_LARGEST)
        return fail(parser, "maximum depth reached");
    parser->at++;
    skip_space(parser);
    for (bool more = *parser->at != close; more; length++) {
        skip_space(parser);
        if ((object && !parse_key(parser)) || !parse_value(parser, depth + 1))
            return false;
        skip_space(parser);
        more = *parser->at == ',';
        if (!more && *parser->at != close)
            return fail(parser, object ? "',' or '}' expected" : "',' or ']' expected");
        parser->at += more;
    }
    parser->at++;
    struct moe_json *node = &parser->document->nodes[number];
    node->length = length;
    node->span = (unsigned)(parser->document->count - number) & 0xfffffffu;
    return !object || check_keys(parser, node);
}

static bool parse_value(struct parser *parser, int depth)
{
    skip_space(parser);
    switch (*parser->at) {
    case '{':
    case '[':
        return parse_container(parser, depth);
    case '"':
        return parse_string(parser);
    case '-':
        if (parser->at[1] == 'I')
            return parse_word(parser);
        return parse_number(parser);
    default:
        return is_digit(*parser->at) ? parse_number(parser) : parse_word(parser);
    }
}

/* ---- documents ------------------------------------------------------------------------------------------ */

static bool parse_document(struct parser *parser)
{
    skip_space(parser);
    if (*parser->at != '{' && *parser->at != '[')
        return fail(parser, "'[' or '{' expected");
    if (!parse_value(parser, 0))
        return false;
    skip_space(parser);
    return parser->at == parser->end || fail(parser, "end of file expected");
}

/* In the text as it was: unescaping has moved lines in the copy. */
static enum moe_status fail_parse(const struct parser *parser, const char *text, const char *path,
                                  struct moe_error *error)
{
    size_t line = 1, place = (size_t)(parser->at - parser->document->text);
    if (parser->reason == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to parse it", path);
    for (size_t i = 0; i < place; i++)
        line += text[i] == '\n';
    return moe_fail(error, MOE_ERR_FORMAT, "%s: line %zu: %s", path, line, parser->reason);
}

enum moe_status moe_json_parse(struct moe_json_document *out, const struct moe_env *env, const char *text, size_t size,
                               bool numbers, const char *path, struct moe_error *error)
{
    memset(out, 0, sizeof *out);
    out->env = env;
    if (size > TEXT_LARGEST)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s: %zu bytes of JSON; at most %d are read", path, size,
                        TEXT_LARGEST);
    out->text = moe_alloc(env, size + 1);
    out->size = size + 1;
    out->nodes = moe_alloc_array(env, size / NODE_BYTES + 1, sizeof *out->nodes);
    out->capacity = size / NODE_BYTES + 1;
    if (out->text == NULL || out->nodes == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to parse it", path);
    if (size > 0)
        memcpy(out->text, text, size);
    out->text[size] = '\0';
    struct parser parser = {.document = out, .at = out->text, .end = out->text + size, .numbers = numbers};
    moe_table_random_key(parser.key);
    if (!parse_document(&parser))
        return fail_parse(&parser, text, path, error);
    if (out->nodes[0].kind != MOE_JSON_OBJECT)
        return moe_fail(error, MOE_ERR_FORMAT, "%s: is not a JSON object", path);
    return MOE_OK;
}

void moe_json_free(struct moe_json_document *document)
{
    if (document->env == NULL)
        return;
    moe_free(document->env, document->nodes, document->capacity * sizeof *document->nodes);
    moe_free(document->env, document->text, document->size);
    memset(document, 0, sizeof *document);
}

const struct moe_json *moe_json_get(const struct moe_json *object, const char *key)
{
    if (!moe_json_is(object, MOE_JSON_OBJECT))
        return NULL;
    size_t length = strlen(key);
    for (const struct moe_json *at = moe_json_first(object); at != NULL; at = moe_json_next(object, at))
        if (at->length == length && memcmp(at->u.string, key, length) == 0)
            return at + 1;
    return NULL;
}
