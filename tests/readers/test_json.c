// SPDX-License-Identifier: MIT
// The JSON parser of the readers: values and sentences by hand; and a few hundred thousand texts, whole and damaged,
// against jansson, which has to accept the same ones and find the same values in them.
#include "files.h"

#include <jansson.h>
#include <math.h>

#include "check.h"
#include "readers/json.h"

static const struct moe_env no_env = {0};

static struct moe_json_document parse_good(const char *text, bool numbers)
{
    struct moe_json_document document;
    struct moe_error error = {MOE_OK, ""};
    if (moe_json_parse(&document, &no_env, text, strlen(text), numbers, "file", &error) != MOE_OK)
        fail_msg("%s: %s", text, error.text);
    return document;
}

static void expect_bad_bytes(const char *text, size_t size, const char *sentence)
{
    struct moe_json_document document;
    struct moe_error error = {MOE_OK, ""};
    assert_int_equal(moe_json_parse(&document, &no_env, text, size, false, "file", &error), MOE_ERR_FORMAT);
    if (strstr(error.text, sentence) == NULL)
        fail_msg("%s: \"%s\", not \"%s\"", text, error.text, sentence);
    moe_json_free(&document);
}

/* For literals, which may hold NUL. */
#define EXPECT_BAD(text, sentence) expect_bad_bytes(text, sizeof(text) - 1, sentence)

/* ---- by hand -------------------------------------------------------------------------------------------- */

static void test_values(void **state)
{
    struct moe_json_document d = parse_good(" {\"a\":[1,{\"b\":[]},-0],\"c\":null,\t\"d\":true,\r\n\"e\":false , "
                                            "\"f\":-1.5e1,\"\":{}}\n", false);
    const struct moe_json *root = d.nodes, *a = moe_json_get(root, "a"), *item = moe_json_first(a);
    (void)state;
    assert_int_equal(root->kind, MOE_JSON_OBJECT);
    assert_int_equal(root->length, 6);
    assert_int_equal(root->span, d.count);
    assert_true(moe_json_is(a, MOE_JSON_ARRAY) && a->length == 3);
    assert_true(moe_json_is(item, MOE_JSON_INTEGER) && item->u.integer == 1);
    item = moe_json_next(a, item);
    assert_true(moe_json_is(item, MOE_JSON_OBJECT) && item->length == 1);
    assert_true(moe_json_is(moe_json_get(item, "b"), MOE_JSON_ARRAY) && moe_json_first(item + 2) == NULL);
    item = moe_json_next(a, item);
    assert_true(moe_json_is(item, MOE_JSON_INTEGER) && item->u.integer == 0);
    assert_null(moe_json_next(a, item));
    assert_true(moe_json_is(moe_json_get(root, "c"), MOE_JSON_NULL));
    assert_true(moe_json_is(moe_json_get(root, "d"), MOE_JSON_TRUE));
    assert_true(moe_json_is(moe_json_get(root, "e"), MOE_JSON_FALSE));
    assert_true(moe_json_is(moe_json_get(root, "f"), MOE_JSON_REAL) && moe_json_get(root, "f")->u.number == -15);
    assert_true(moe_json_is(moe_json_get(root, ""), MOE_JSON_OBJECT));
    assert_null(moe_json_get(root, "g"));
    assert_null(moe_json_get(a, "a"));
    assert_null(moe_json_get(NULL, "a"));
    assert_null(moe_json_string(a));
    moe_json_free(&d);
    d = parse_good("{}", false);
    assert_true(d.nodes->length == 0 && moe_json_first(d.nodes) == NULL);
    moe_json_free(&d);
}

static void test_strings(void **state)
{
    struct moe_json_document d = parse_good("{\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":"
                                            "\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00 \xc3\xa9x\","
                                            "\"k\":\"\x7f\"}", false);
    const struct moe_json *key = moe_json_first(d.nodes);
    (void)state;
    assert_string_equal(key->u.string, "\"\\/\b\f\n\r\t");
    assert_int_equal(key->length, 8);
    assert_string_equal(key[1].u.string, "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \xc3\xa9x");
    assert_int_equal(key[1].length, strlen(key[1].u.string));
    assert_string_equal(moe_json_string(moe_json_get(d.nodes, "k")), "\x7f");
    moe_json_free(&d);
}

static void test_numbers(void **state)
{
    struct moe_json_document d = parse_good("{\"a\":9223372036854775807,\"b\":-9223372036854775808,\"c\":1E2,"
                                            "\"d\":NaN,\"e\":-Infinity,\"f\":Infinity,\"g\":\"NaN\"}", true);
    (void)state;
    assert_true(moe_json_get(d.nodes, "a")->u.integer == INT64_MAX);
    assert_true(moe_json_get(d.nodes, "b")->u.integer == INT64_MIN);
    assert_true(moe_json_get(d.nodes, "c")->u.number == 100);
    for (const char *name = "d\0e\0f\0"; *name != '\0'; name += 2)
        assert_true(moe_json_is(moe_json_get(d.nodes, name), MOE_JSON_NULL));
    assert_string_equal(moe_json_string(moe_json_get(d.nodes, "g")), "NaN");
    moe_json_free(&d);
    EXPECT_BAD("{\"a\":NaN}", "line 1: invalid token");
    EXPECT_BAD("{\"a\":9223372036854775808}", "line 1: too big integer");
    EXPECT_BAD("{\"a\":-9223372036854775809}", "line 1: too big negative integer");
    EXPECT_BAD("{\"a\":1e999}", "line 1: real number overflow");
}

/* Lines count in the text as it was, whatever its strings meant. */
static void test_sentences(void **state)
{
    (void)state;
    EXPECT_BAD("{\"a\\n\\n\\n\":1,\n\n  \"b\" 2}", "file: line 3: ':' expected");
    EXPECT_BAD("{\"a\":1,\n\"b\":2,\n\"a\":3,\n\"c\":4}", "line 3: duplicate object key");
    EXPECT_BAD("[1]", "file: is not a JSON object");
    EXPECT_BAD("{\"a\":\"", "ends inside a string");
    EXPECT_BAD("{\"a\":", "the text ends early");
    EXPECT_BAD("{\"a\":\"\n\"}", "line 1: a control character");
    EXPECT_BAD("{\"a\":\"\x1f\"}", "line 1: a control character");
    EXPECT_BAD("{\"a\":\"\\u0000\"}", "\\u0000 in a string");
    EXPECT_BAD("{\"a\":\"\\ud800\"}", "half of a surrogate pair");
    EXPECT_BAD("{}\0", "end of file expected");
    EXPECT_BAD("{\"a\0\":1}", "a control character");
    char many[2000] = "{", *end = many + 1;
    for (int i = 0; i < 100; i++)
        end += sprintf(end, "\"k%d\":%d,\n", i, i);
    sprintf(end, "\"k57\":1}");
    expect_bad_bytes(many, strlen(many), "line 101: duplicate object key");
}

static void test_depth(void **state)
{
    char text[1200] = "{\"a\":";
    (void)state;
    memset(text + 5, '[', 255);
    memset(text + 260, ']', 255);
    strcpy(text + 515, "}");
    struct moe_json_document d = parse_good(text, false);
    assert_int_equal(d.count, 257);
    moe_json_free(&d);
    memset(text + 5, '[', 256);
    memset(text + 261, ']', 256);
    strcpy(text + 517, "}");
    expect_bad_bytes(text, strlen(text), "maximum depth");
}

/* ---- against jansson ------------------------------------------------------------------------------------ */

static uint64_t random_state = 1;

static size_t below(size_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(random_state >> 33) % n;
}

static void put_random_string(struct bytes *out)
{
    static const char *const pieces[] = {"a", "b", "key", "\\n", "\\\"", "\\u0041", "\\ud83d\\ude00", "\xc3\xa9",
                                         "\xe2\x82\xac", " ", "\\/", "\\u00e9", "\xf0\x9f\x98\x80", "x"};
    put(out, "\"", 1);
    for (size_t n = below(4); n > 0; n--) {
        const char *piece = pieces[below(MOE_ARRAY_SIZE(pieces))];
        put(out, piece, strlen(piece));
    }
    put(out, "\"", 1);
}

static void put_random_value(struct bytes *out, int depth)
{
    static const char *const plain[] = {"0", "-1", "12345678901", "1.5", "-2e3", "1E+2", "0.0625", "null", "true",
                                        "false", "9223372036854775807", "[]", "{}", " 7 "};
    size_t kind = below(depth > 0 ? 4 : 2);
    if (kind == 0) {
        put_random_string(out);
    } else if (kind == 1) {
        const char *text = plain[below(MOE_ARRAY_SIZE(plain))];
        put(out, text, strlen(text));
    } else {
        bool object = kind == 2;
        size_t count = below(20) == 0 ? 12 : below(4);
        put(out, object ? "{" : "[", 1);
        for (size_t i = 0; i < count; i++) {
            put(out, ", ", i == 0 ? 0 : 1 + below(2));
            if (object) {
                put_random_string(out);
                put(out, ":", 1);
            }
            put_random_value(out, depth - 1);
        }
        put(out, object ? "}" : "]", 1);
    }
}

static void damage(struct bytes *text)
{
    static const char signs[] = "{}[]\",:\\u0e.-+1a \n\x80\xc3\xff\x01";
    for (size_t n = 1 + below(2); n > 0; n--) {
        size_t at = below(text->size);
        switch (below(3)) {
        case 0:
            text->data[at] = (unsigned char)signs[below(sizeof signs - 1)];
            break;
        case 1:
            memmove(text->data + at, text->data + at + 1, text->size - at - 1);
            text->size -= text->size > 1;
            break;
        default:
            text->data[at] ^= (unsigned char)(1 << below(8));
        }
        if (text->data[at] == 0)   /* jansson lets one pass behind a number */
            text->data[at] = '?';
    }
}

static void compare(const struct moe_json *ours, const json_t *theirs)
{
    static const enum moe_json_kind kinds[] = {
        [JSON_OBJECT] = MOE_JSON_OBJECT, [JSON_ARRAY] = MOE_JSON_ARRAY, [JSON_STRING] = MOE_JSON_STRING,
        [JSON_INTEGER] = MOE_JSON_INTEGER, [JSON_REAL] = MOE_JSON_REAL, [JSON_TRUE] = MOE_JSON_TRUE,
        [JSON_FALSE] = MOE_JSON_FALSE, [JSON_NULL] = MOE_JSON_NULL};
    assert_int_equal(ours->kind, kinds[json_typeof(theirs)]);
    if (json_is_object(theirs)) {
        const char *name;
        json_t *value;
        assert_int_equal(ours->length, json_object_size(theirs));
        json_object_foreach((json_t *)theirs, name, value) {
            assert_non_null(moe_json_get(ours, name));
            compare(moe_json_get(ours, name), value);
        }
    } else if (json_is_array(theirs)) {
        const struct moe_json *item = moe_json_first(ours);
        assert_int_equal(ours->length, json_array_size(theirs));
        for (size_t i = 0; i < json_array_size(theirs); i++, item = moe_json_next(ours, item))
            compare(item, json_array_get(theirs, i));
        assert_null(item);
    } else if (json_is_string(theirs)) {
        assert_int_equal(ours->length, json_string_length(theirs));
        assert_string_equal(ours->u.string, json_string_value(theirs));
    } else if (json_is_integer(theirs)) {
        assert_true(ours->u.integer == json_integer_value(theirs));
    } else if (json_is_real(theirs)) {
        assert_true(ours->u.number == json_real_value(theirs));
    }
}

static void test_like_jansson(void **state)
{
    size_t accepted = 0, rejected = 0;
    struct bytes text = {0};
    (void)state;
    for (int round = 0; round < 200000; round++) {
        struct moe_json_document document;
        struct moe_error error = {MOE_OK, ""};
        json_error_t reason;
        text.size = 0;
        put(&text, "{\"a\":", 5);
        put_random_value(&text, 4);
        put(&text, "}", 1);
        if (round % 2 == 1)
            damage(&text);
        char *exact = malloc(text.size);   /* its end is watched where memory is */
        memcpy(exact, text.data, text.size);
        enum moe_status status = moe_json_parse(&document, &no_env, exact, text.size, false, "", &error);
        json_t *theirs = json_loadb(exact, text.size, JSON_REJECT_DUPLICATES, &reason);
        bool expected = json_is_object(theirs);
        if ((status == MOE_OK) != expected)
            fail_msg("%.*s: %s; jansson: %s", (int)text.size, exact, error.text, reason.text);
        if (expected)
            compare(document.nodes, theirs);
        accepted += expected;
        rejected += !expected;
        json_decref(theirs);
        moe_json_free(&document);
        free(exact);
    }
    print_message("%zu texts accepted, %zu rejected, as by jansson\n", accepted, rejected);
    assert_true(accepted > 50000 && rejected > 50000);
    drop(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),    cmocka_unit_test(test_strings), cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_sentences), cmocka_unit_test(test_depth),   cmocka_unit_test(test_like_jansson),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
