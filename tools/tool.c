// SPDX-License-Identifier: MIT
// Small services of the command: errors, sizes in words, memory, time, random numbers.
#include "tool.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void print(const char *prefix, const char *text, va_list args)
{
    fflush(stdout);
    fputs(prefix, stderr);
    vfprintf(stderr, text, args);
    fputc('\n', stderr);
}

int tool_fail(int code, const char *text, ...)
{
    va_list args;
    va_start(args, text);
    print("moe: ", text, args);
    va_end(args);
    return code;
}

void tool_note(const char *text, ...)
{
    va_list args;
    va_start(args, text);
    print("moe: note: ", text, args);
    va_end(args);
}

int tool_fail_moe(enum moe_status status, const struct moe_error *error, const char *what)
{
    if (error && error->status == status && error->text[0])
        return tool_fail(TOOL_INPUT, "%s", error->text);
    return tool_fail(TOOL_INPUT, "%s: %s", what, moe_status_text(status));
}

int tool_flush(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    return tool_fail(TOOL_INPUT, "standard output cannot be written: %s", strerror(errno));
}

void tool_append(char *buf, size_t size, const char *text, ...)
{
    size_t used = strlen(buf);
    if (used + 1 >= size)
        return;
    va_list args;
    va_start(args, text);
    vsnprintf(buf + used, size - used, text, args);
    va_end(args);
}

const char *tool_bytes(char buf[32], uint64_t bytes)
{
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1000;
        unit++;
    }
    snprintf(buf, 32, unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buf;
}

void *tool_alloc(size_t count, size_t size)
{
    void *memory = NULL;
    if (size == 0 || count <= (SIZE_MAX - 1) / size)
        memory = malloc(count * size + 1);   /* never of 0 bytes, which may give NULL */
    if (!memory)
        tool_fail(TOOL_INPUT, "out of memory: %zu x %zu bytes are not to be had", count, size);
    return memory;
}

bool tool_mul(size_t *out, size_t a, size_t b)
{
    if (b != 0 && a > SIZE_MAX / b)
        return false;
    *out = a * b;
    return true;
}

double tool_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

uint64_t tool_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double tool_normal(uint64_t *state)
{
    double u = ((double)(tool_random(state) >> 11) + 0.5) / 9007199254740992.0;
    double v = (double)(tool_random(state) >> 11) / 9007199254740992.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}
