// SPDX-License-Identifier: MIT
// What every command of `moe` shares: exit codes, one-sentence errors, and the list of commands.
#ifndef TOOL_H
#define TOOL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"

enum tool_exit {
    TOOL_OK = 0,
    TOOL_FAILED = 1,    /* a check failed */
    TOOL_USAGE = 2,
    TOOL_INPUT = 3      /* files, models or shapes that cannot be used */
};

#if defined(__GNUC__)
#define TOOL_PRINTF(at, first) __attribute__((format(printf, at, first)))
#else
#define TOOL_PRINTF(at, first)
#endif

/* Print "moe: " and one sentence on stderr; return code. */
TOOL_PRINTF(2, 3) int tool_fail(int code, const char *text, ...);
/* The same for a failed call of the library: the error's sentence, or the status' text after what. */
int tool_fail_moe(enum moe_status status, const struct moe_error *error, const char *what);
/* Print "moe: note: " and one sentence on stderr. */
TOOL_PRINTF(1, 2) void tool_note(const char *text, ...);

/* Print what the library wrote to stdout before a return: TOOL_INPUT, with an error, if stdout cannot take it. */
int tool_flush(int code);

/* snprintf behind what buf holds; cuts at size. */
TOOL_PRINTF(3, 4) void tool_append(char *buf, size_t size, const char *text, ...);

/* "1.5 GB", "12.3 KB"; buf of 32 bytes, returned. Powers of 1000. */
const char *tool_bytes(char buf[32], uint64_t bytes);

/* malloc of count * size that cannot overflow; NULL, with an error on stderr, when there is none. */
void *tool_alloc(size_t count, size_t size);

/* *out = a * b; false if it does not fit. */
bool tool_mul(size_t *out, size_t a, size_t b);

double tool_seconds(void);   /* monotonic clock */

/* Deterministic pseudo-random numbers (splitmix64). */
uint64_t tool_random(uint64_t *state);
double tool_normal(uint64_t *state);

int cmd_info(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_convert(int argc, char **argv);

#endif
