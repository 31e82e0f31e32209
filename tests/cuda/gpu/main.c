// SPDX-License-Identifier: MIT
// moe-test-cuda: runs the checks on a backend, a line for each thing that was looked at. Exit status: 0 all passed, 1
// something failed, 2 wrong use, 3 there is no such backend.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static const char usage[] =
    "usage: moe-test-cuda [--backend NAME] [--only CHECK,...] [--quick] [--list]\n"
    "\n"
    "Runs layers of every kind on a GPU through libmoe's public API and compares them with double precision, with\n"
    "themselves alone, and with replays of CUDA graphs. One line for each thing: ok or FAIL, and its figures.\n"
    "\n"
    "  --backend NAME    what to test: cuda:0 by default; with cpu, checks of streams and graphs are skipped\n"
    "  --only A,B        these checks only\n"
    "  --quick           small sizes and few repetitions: seconds; for sanitizers and emulators\n"
    "  --threads N       of the host, for the references (all that there are, up to 16)\n"
    "  --list            the checks, and what each shows\n";

struct check {
    const char *name;
    bool streams;
    const char *what;
    void (*run)(struct gpu *gpu);
};
#define CHECK_ROW(name, streams, what) {#name, streams, what, check_##name},
static const struct check checks[] = {CHECKS(CHECK_ROW)};
enum { NUM_CHECKS = sizeof checks / sizeof checks[0] };

/* ---- results ---- */

static void print(const struct gpu *gpu, const char *mark, const char *text, va_list args)
{
    printf("%-5s %s: ", mark, gpu->current);
    vprintf(text, args);
    putchar('\n');
    fflush(stdout);
}

void check_line(struct gpu *gpu, bool passed, const char *text, ...)
{
    va_list args;
    va_start(args, text);
    print(gpu, passed ? "ok" : "FAIL", text, args);
    va_end(args);
    *(passed ? &gpu->passed : &gpu->failed) += 1;
}

void check_skip(struct gpu *gpu, const char *text, ...)
{
    va_list args;
    va_start(args, text);
    print(gpu, "skip", text, args);
    va_end(args);
    gpu->skipped++;
}

void check_stop(struct gpu *gpu, const char *text, ...)
{
    va_list args;
    va_start(args, text);
    print(gpu, "FAIL", text, args);
    va_end(args);
    gpu->failed++;
    longjmp(gpu->stop, 1);
}

void check_part(struct gpu *gpu, void (*part)(struct gpu *gpu, const void *arg), const void *arg)
{
    jmp_buf outer;
    memcpy(&outer, &gpu->stop, sizeof outer);
    if (setjmp(gpu->stop) == 0)
        part(gpu, arg);
    else
        gpu_recover(gpu);
    memcpy(&gpu->stop, &outer, sizeof outer);
}

void check_ok(struct gpu *gpu, enum moe_status status, const char *what)
{
    if (status != MOE_OK)
        check_stop(gpu, "%s: %s", what, moe_status_text(status));
}

void check_cuda(struct gpu *gpu, cudaError_t error, const char *what)
{
    if (error != cudaSuccess)
        check_stop(gpu, "%s: %s", what, cudaGetErrorString(error));
}

/* ---- options ---- */

static bool is_chosen(const char *only, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = only; at != NULL; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    return only == NULL;
}

/* Every name in the list is one of the checks. */
static bool all_known(const char *only)
{
    size_t commas = 0, known = 0;
    for (const char *at = only; at != NULL && *at != '\0'; at++)
        commas += *at == ',';
    for (size_t i = 0; only != NULL && i < NUM_CHECKS; i++)
        known += is_chosen(only, checks[i].name);
    return only == NULL || known == commas + 1;
}

static int parse(struct gpu *gpu, const char **only, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strcmp(option, "--list") == 0) {
            for (size_t c = 0; c < NUM_CHECKS; c++)
                printf("%-8s %s\n", checks[c].name, checks[c].what);
            return 0;
        }
        if (strcmp(option, "--quick") == 0) {
            gpu->quick = true;
            continue;
        }
        i++;
        if (strcmp(option, "--backend") == 0 && value != NULL)
            gpu->name = value;
        else if (strcmp(option, "--only") == 0 && value != NULL)
            *only = value;
        else if (strcmp(option, "--threads") == 0 && value != NULL && atoi(value) > 0)
            gpu->threads = (size_t)atoi(value);
        else {
            fputs(usage, stderr);
            return 2;
        }
    }
    if (!all_known(*only)) {
        fprintf(stderr, "moe-test-cuda: --only %s: not all of these are checks; see --list\n", *only);
        return 2;
    }
    return -1;
}

/* ---- the run ---- */

static void run(struct gpu *gpu, const struct check *check)
{
    gpu->current = check->name;
    double begin = seconds();
    if (check->streams && !gpu->cuda)
        check_skip(gpu, "%s has no streams", gpu->name);
    else if (setjmp(gpu->stop) == 0)
        check->run(gpu);
    else
        gpu_recover(gpu);
    printf("      %s: %.1f s\n", check->name, seconds() - begin);
}

int main(int argc, char **argv)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct gpu gpu = {.name = "cuda:0", .threads = cpus < 1 ? 1 : cpus > 16 ? 16 : (size_t)cpus, .current = "open"};
    const char *only = NULL;
    int code = parse(&gpu, &only, argc, argv);
    if (code >= 0)
        return code;
    if (!gpu_open(&gpu))
        return 3;
    for (size_t i = 0; i < NUM_CHECKS; i++)
        if (is_chosen(only, checks[i].name))
            run(&gpu, &checks[i]);
    gpu.current = "close";
    gpu_close(&gpu);
    printf("%zu passed, %zu failed, %zu skipped\n", gpu.passed, gpu.failed, gpu.skipped);
    return gpu.failed > 0;
}
