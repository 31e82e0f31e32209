// SPDX-License-Identifier: MIT
// Command lines from one table: parsing, errors that name the option, and the --help page. Options may stand anywhere
// among the operands, as --name VALUE or --name=VALUE; after -- all is operands.
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

enum option_kind {
    OPTION_FLAG,       /* bool: set to true */
    OPTION_STRING,     /* const char * */
    OPTION_OPTIONAL,   /* const char *: the next word, or "" where an option or nothing follows */
    OPTION_STRINGS,    /* struct option_strings: may be given several times */
    OPTION_SIZE,       /* size_t, decimal */
    OPTION_NUMBER      /* double, finite, not negative */
};

struct option_strings {
    const char **items;
    size_t count, capacity;
};

struct option_row {
    const char *name;     /* without the dashes; NULL ends the table */
    enum option_kind kind;
    void *target;
    const char *value;    /* what the value is called in --help: "N", "FILE"; NULL for flags */
    const char *help;
};

struct option_page {
    const char *command;              /* "moe run" */
    const char *operands;             /* "MODEL", "[MODEL]" */
    size_t min_operands, max_operands;
    const char *about;                /* what the command does, lines of text */
    const struct option_row *rows;
    const char *examples;             /* lines, each an example or its explanation */
};

enum option_result {
    OPTIONS_OK,
    OPTIONS_HELP,      /* --help was asked for and has been printed on stdout */
    OPTIONS_ERROR      /* a sentence is on stderr */
};

/* argv[0] is the command's name. operands[] gets up to max_operands strings, the rest stays NULL. */
enum option_result options_parse(const struct option_page *page, int argc, char **argv, const char **operands);

/* A comma-separated list of at most max sizes, none of them 0: their number, or 0 if text is anything else. */
size_t options_sizes(const char *text, size_t *values, size_t max);

/* Which of names (NULL-terminated) is nearest to word, or NULL if none is near. */
const char *options_nearest(const char *word, const char *const *names);

#endif
