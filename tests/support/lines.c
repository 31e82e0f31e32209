// SPDX-License-Identifier: MIT
// What a layer says of itself, kept to be looked at.
#include <stdio.h>
#include <string.h>

#include "support.h"

static void take(void *user, const char *key, const char *value)
{
    struct test_lines *lines = user;
    assert_true(lines->count < sizeof lines->line / sizeof *lines->line);
    assert_true(strlen(key) < sizeof lines->line->key && strlen(value) < sizeof lines->line->value);
    strcpy(lines->line[lines->count].key, key);
    strcpy(lines->line[lines->count].value, value);
    lines->count++;
}

struct test_lines test_lines_of(const struct moe_layer *layer, size_t num_tokens)
{
    struct test_lines lines = {0};
    test_assert_ok(moe_layer_describe(layer, num_tokens, take, &lines));
    return lines;
}

const char *test_line(const struct test_lines *lines, const char *key)
{
    const char *value = "";
    for (size_t i = 0; i < lines->count; i++)
        if (strcmp(lines->line[i].key, key) == 0) {
            assert_string_equal(value, "");
            value = lines->line[i].value;
        }
    return value;
}

void test_assert_keys(const struct test_lines *lines, const char *keys)
{
    char all[sizeof lines->line] = "";
    for (size_t i = 0; i < lines->count; i++) {
        if (i > 0)
            strcat(all, "|");
        strcat(all, lines->line[i].key);
    }
    assert_string_equal(all, keys);
}
