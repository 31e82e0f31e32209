// SPDX-License-Identifier: MIT
// moe-check: every kernel of every level that this machine can run, against its definition in double precision. The
// list of kernels is that of the .def files. Prints how near the bound each came, its NMSE, and, asked to, its speed.
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpuid.h"

struct options {
    const char *test, *function, *level;   /* NULL: all */
    uint64_t seed;
    long repeat, sample;
    bool list, bench, json;
};

static struct options options = {.seed = 1, .repeat = 1, .sample = 1};

static const char help[] =
    "usage: moe-check [options]\n"
    "Test every kernel of the CPU backend against its definition.\n"
    "\n"
    "  --test OP          only the kernels of an operation: linear, linear_scaled, linear_q8,\n"
    "                     linear_bf16, load, store, scaled_add, glu, router, quantise\n"
    "  --function NAME    only the kernels with NAME in their name: q8_0, linear_q8_q4_k, glu_c\n"
    "  --level LEVEL      only the kernels of a level: c, avx2, avx512, avx512vnni, avx512bf16,\n"
    "                     amx, neon, dotprod, i8mm\n"
    "  --list             print the kernels and stop\n"
    "  --seed N           seed of the random data (1)\n"
    "  --sample N         of the shapes of matrices only every Nth, other ones for each format (1)\n"
    "  --repeat N         run N times, with seed, seed + 1, ... (1)\n"
    "  --bench            time the kernels as well\n"
    "  --json             one JSON object a line\n"
    "  --help             this text\n"
    "\n"
    "error/bound is the largest error over the bound that the definition allows; above 1 the test fails. NMSE is\n"
    "the sum of squared errors over the sum of squares.\n"
    "Exit status: 0 all passed, 1 a kernel failed, 2 wrong usage.\n";

static const struct check_op *const ops[MOE_NUM_OPS] = {
#define CHECK_ROW(op) [MOE_OP_##op] = &check_##op,
    MOE_FORMAT_OP_MAP(CHECK_ROW) MOE_PLAIN_OP_MAP(CHECK_ROW)
#undef CHECK_ROW
};

void check_fail(struct check *check, const char *text, ...)
{
    if (check->failure[0] != '\0')
        return;
    va_list args;
    va_start(args, text);
    vsnprintf(check->failure, sizeof check->failure, text, args);
    va_end(args);
}

bool check_leaves_out(struct check *check)
{
    return (check->num_shapes++ + (unsigned long)check->row->index) % (unsigned long)options.sample != 0;
}

void check_value(struct check *check, double value, double ref, double bound)
{
    double error = fabs(value - ref);
    if (isnan(ref) && isnan(value))
        return;
    if (error > 0 || isnan(error)) {
        double ratio = value == ref ? 0 : error / bound;
        if (isnan(ratio))
            ratio = (double)INFINITY;
        check->worst = ratio > check->worst ? ratio : check->worst;
    }
    if (isfinite(error)) {
        check->error += error * error;
        check->size += ref * ref;
    }
}

void check_same(struct check *check, const void *a, const void *b, size_t size, const char *what)
{
    if (size > 0 && memcmp(a, b, size) != 0)
        check_fail(check, "%s", what);
}

static void print_name(const struct check *check)
{
    const char *op = moe_kernels_op_name(check->row->op), *level = moe_kernels_level_name(check->row->level);
    const char *format = check->row->index != MOE_INDEX_NONE ? moe_format_at(check->row->index)->name : "";
    if (options.json)
        printf("{\"op\": \"%s\", \"format\": \"%s\", \"level\": \"%s\"", op, format, level);
    else
        printf("%-13s %-7s %-10s", op, format, level);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The fastest of 7 runs of at least 3 ms each. */
void bench_report(const struct check *check, const struct bench *bench)
{
    double best = (double)INFINITY;
    size_t count = 1;
    for (int run = 0; run < 7;) {
        double start = now();
        for (size_t i = 0; i < count; i++)
            bench->run(check, bench->data);
        double seconds = now() - start;
        if (seconds < 0.003) {
            count *= 2;
            continue;
        }
        best = fmin(best, seconds / (double)count);
        run++;
    }
    print_name(check);
    if (options.json)
        printf(", \"bench\": \"%s\", \"us\": %.4g, \"GB_s\": %.4g, \"GFLOP_s\": %.4g}\n", bench->what, best * 1e6,
               bench->bytes / best * 1e-9, bench->flops / best * 1e-9);
    else
        printf("  %-26s %10.2f us %8.2f GB/s %8.2f GFLOP/s\n", bench->what, best * 1e6, bench->bytes / best * 1e-9,
               bench->flops / best * 1e-9);
}

static void report(const struct check *check)
{
    double nmse = check->size > 0 ? check->error / check->size : 0;
    double worst = isfinite(check->worst) ? check->worst : 1e300;   /* JSON has no infinity */
    bool failed = check->failure[0] != '\0';
    print_name(check);
    if (options.json)
        printf(", \"seed\": %llu, \"passed\": %s, \"error_over_bound\": %.4g, \"nmse\": %.4g, \"failure\": \"%s\"}\n",
               (unsigned long long)options.seed, failed ? "false" : "true", worst, nmse, check->failure);
    else
        printf("  %-6s error/bound %8.3g  NMSE %8.3g  %s\n", failed ? "FAILED" : "ok", check->worst, nmse,
               check->failure);
}

static bool wanted(const struct moe_kernel_row *row)
{
    char name[128];
    const char *op = moe_kernels_op_name(row->op), *level = moe_kernels_level_name(row->level);
    bool plain = row->index == MOE_INDEX_NONE;
    snprintf(name, sizeof name, "%s%s%s_%s", op, plain ? "" : "_", plain ? "" : moe_format_at(row->index)->name, level);
    return (options.test == NULL || strcmp(options.test, op) == 0) &&
           (options.level == NULL || strcmp(options.level, level) == 0) &&
           (options.function == NULL || strstr(name, options.function) != NULL);
}

/* True unless the kernel failed. */
static bool run_row(const struct moe_kernel_row *row)
{
    struct check check = {.row = row, .rng = {options.seed}};
    if (row->index != MOE_INDEX_NONE)
        check.format = moe_format_at(row->index)->format;
    bool runs_here = moe_cpuid_has(row->level);
    if (options.list || !runs_here) {
        print_name(&check);
        if (options.json)
            printf(", \"runs_here\": %s}\n", runs_here ? "true" : "false");
        else
            printf("  %s\n", runs_here ? "" : "not on this machine");
        return true;
    }
    ops[row->op]->test(&check);
    if (check.worst > 1)
        check_fail(&check, "error above the bound");
    report(&check);
    if (options.bench)
        ops[row->op]->bench(&check);
    return check.failure[0] == '\0';
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0';
}

static bool parse_value(const char *name, const char *value)
{
    uint64_t number = 0;
    if (strcmp(name, "--test") == 0)
        options.test = value;
    else if (strcmp(name, "--function") == 0)
        options.function = value;
    else if (strcmp(name, "--level") == 0)
        options.level = value;
    else if (strcmp(name, "--seed") == 0 && parse_number(value, &number))
        options.seed = number;
    else if (strcmp(name, "--repeat") == 0 && parse_number(value, &number) && number > 0)
        options.repeat = (long)number;
    else if (strcmp(name, "--sample") == 0 && parse_number(value, &number) && number > 0)
        options.sample = (long)number;
    else
        return false;
    return true;
}

static bool parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0)
            options.list = true;
        else if (strcmp(argv[i], "--bench") == 0)
            options.bench = true;
        else if (strcmp(argv[i], "--json") == 0)
            options.json = true;
        else if (i + 1 < argc && parse_value(argv[i], argv[i + 1]))
            i++;
        else
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(help, stdout);
            return 0;
        }
    }
    if (!parse(argc, argv)) {
        fputs(help, stderr);
        return 2;
    }
    bool passed = true;
    size_t count = 0;
    for (long repeat = 0; repeat < options.repeat; repeat++, options.seed++) {
        const struct moe_kernel_row *row;
        for (size_t i = 0; (row = moe_kernels_row(i)) != NULL; i++) {
            if (!wanted(row))
                continue;
            count++;
            passed = run_row(row) && passed;
            fflush(stdout);
        }
    }
    if (count == 0) {
        fputs("moe-check: no kernel of that name; --list shows them all\n", stderr);
        return 2;
    }
    return passed ? 0 : 1;
}
