// SPDX-License-Identifier: MIT
// Command lines from one table: parsing, errors that name the option, and the --help page.
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define LONGEST_WORD 31
#define MOST_OPTIONS 32

/* Insertions, deletions and changes from a to b; words longer than LONGEST_WORD count as far away. */
static size_t distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b), row[LONGEST_WORD + 1];
    if (na > LONGEST_WORD || nb > LONGEST_WORD)
        return LONGEST_WORD;
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = corner + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            corner = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}

const char *options_nearest(const char *word, const char *const *names)
{
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 2;
    for (; *names; names++) {
        size_t d = distance(word, *names);
        if (d < least) {
            least = d;
            best = *names;
        }
    }
    return best;
}

static void print_help(const struct option_page *page)
{
    printf("Usage: %s %s%s[options]\n\n%s\n\nOptions:\n", page->command, page->operands, *page->operands ? " " : "",
           page->about);
    for (const struct option_row *row = page->rows; row->name; row++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", row->name, row->value ? " " : "", row->value ? row->value : "");
        printf("  %-26s ", left);
        for (const char *c = row->help; *c; c++)
            if (*c == '\n')
                printf("\n%29s", "");
            else
                putchar(*c);
        putchar('\n');
    }
    printf("  %-26s %s\n", "--help", "this page");
    printf("\nExamples:\n%s\n", page->examples);
}

static enum option_result unknown_option(const struct option_page *page, const char *name)
{
    const char *names[MOST_OPTIONS + 1];
    size_t count = 0;
    for (const struct option_row *row = page->rows; row->name && count < MOST_OPTIONS; row++)
        names[count++] = row->name;
    names[count] = NULL;
    const char *near = options_nearest(name, names);
    if (near)
        tool_fail(TOOL_USAGE, "%s has no option --%s; did you mean --%s?", page->command, name, near);
    else
        tool_fail(TOOL_USAGE, "%s has no option --%s; `%s --help` lists them", page->command, name, page->command);
    return OPTIONS_ERROR;
}

static bool parse_size(const char *text, size_t *out)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || value > SIZE_MAX)
        return false;
    *out = (size_t)value;
    return true;
}

static bool parse_number(const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < 0)
        return false;
    *out = value;
    return true;
}

static enum option_result set_option(const struct option_page *page, const struct option_row *row, const char *value)
{
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)row->target = true;
        return OPTIONS_OK;
    case OPTION_STRING:
        if (*value) {
            *(const char **)row->target = value;
            return OPTIONS_OK;
        }
        break;
    case OPTION_OPTIONAL:
        *(const char **)row->target = value;
        return OPTIONS_OK;
    case OPTION_STRINGS: {
        struct option_strings *strings = row->target;
        if (*value && strings->count < strings->capacity) {
            strings->items[strings->count++] = value;
            return OPTIONS_OK;
        }
        if (*value) {
            tool_fail(TOOL_USAGE, "%s: --%s is given more than %zu times", page->command, row->name,
                      strings->capacity);
            return OPTIONS_ERROR;
        }
        break;
    }
    case OPTION_SIZE:
        if (parse_size(value, row->target))
            return OPTIONS_OK;
        break;
    case OPTION_NUMBER:
        if (parse_number(value, row->target))
            return OPTIONS_OK;
        break;
    }
    tool_fail(TOOL_USAGE, "%s: --%s takes %s, not '%s'", page->command, row->name,
              row->kind == OPTION_SIZE ? "a whole number" : row->kind == OPTION_NUMBER ? "a number" : "a value", value);
    return OPTIONS_ERROR;
}

/* argv[*i] starts with dashes; *i is left at the last argument used. */
static enum option_result take_option(const struct option_page *page, int argc, char **argv, int *i)
{
    const char *word = argv[*i][1] == '-' ? argv[*i] + 2 : argv[*i] + 1;
    const char *equals = strchr(word, '=');
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(equals ? equals - word : (long)strlen(word)), word);
    if (strcmp(name, "help") == 0 || strcmp(argv[*i], "-h") == 0) {
        print_help(page);
        return OPTIONS_HELP;
    }
    const struct option_row *row = page->rows;
    while (row->name && strcmp(row->name, name) != 0)
        row++;
    if (!row->name || argv[*i][1] != '-')
        return unknown_option(page, name);
    if (row->kind == OPTION_FLAG && equals) {
        tool_fail(TOOL_USAGE, "%s: --%s takes no value", page->command, name);
        return OPTIONS_ERROR;
    }
    const char *value = equals ? equals + 1 : NULL;
    if (row->kind == OPTION_OPTIONAL && !value) {
        bool follows = *i + 1 < argc && (argv[*i + 1][0] != '-' || !argv[*i + 1][1]);
        value = follows ? argv[++*i] : "";
    }
    if (row->kind != OPTION_FLAG && !value) {
        if (*i + 1 >= argc) {
            tool_fail(TOOL_USAGE, "%s: --%s needs a value: --%s %s", page->command, name, name, row->value);
            return OPTIONS_ERROR;
        }
        value = argv[++*i];
    }
    return set_option(page, row, value);
}

enum option_result options_parse(const struct option_page *page, int argc, char **argv, const char **operands)
{
    size_t count = 0;
    bool only_operands = false;
    for (size_t i = 0; i < page->max_operands; i++)
        operands[i] = NULL;
    for (int i = 1; i < argc; i++) {
        if (!only_operands && strcmp(argv[i], "--") == 0) {
            only_operands = true;
        } else if (!only_operands && argv[i][0] == '-' && argv[i][1]) {
            enum option_result result = take_option(page, argc, argv, &i);
            if (result != OPTIONS_OK)
                return result;
        } else if (count == page->max_operands) {
            tool_fail(TOOL_USAGE, "%s: '%s' is one argument too many; usage: %s %s [options]", page->command, argv[i],
                      page->command, page->operands);
            return OPTIONS_ERROR;
        } else {
            operands[count++] = argv[i];
        }
    }
    if (count < page->min_operands) {
        tool_fail(TOOL_USAGE, "an argument is missing; usage: %s %s [options] (%s --help explains)", page->command,
                  page->operands, page->command);
        return OPTIONS_ERROR;
    }
    return OPTIONS_OK;
}

size_t options_sizes(const char *text, size_t *values, size_t max)
{
    size_t count = 0;
    for (;;) {
        char word[24];
        size_t length = strcspn(text, ",");
        if (count == max || length == 0 || length >= sizeof word)
            return 0;
        memcpy(word, text, length);
        word[length] = '\0';
        if (!parse_size(word, &values[count]) || values[count] == 0)
            return 0;
        count++;
        text += length;
        if (!*text++)
            return count;
    }
}
