// SPDX-License-Identifier: MIT
// moe-instructions: how many instructions each product kernel takes for a weight, counted exactly by running them one
// at a time: the processor's trap flag raises a signal after each. So it counts what no simulator knows (AVX-512, AMX),
// and where a virtual machine has no counters. The counts depend on the compiler, and on nothing else that runs.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/kernels.h"
#include "cpu/q8.h"
#include "support.h"

enum {
    ROWS = 32,              /* of kernels that unpack strips of rows */
    PLAIN_ROWS = 4,         /* of linear, where rows are independent */
    PORTABLE_ROWS = 1,      /* of level c, which takes the most instructions */
    COLS = 2048,
    NUM_BATCHES = 3
};
/* A step takes 10 to 50 us in a virtual machine: sizes are as small as lets a kernel reach its steady state. */
static const size_t batches[NUM_BATCHES] = {1, 8, 32};

static size_t rows_of(const struct moe_kernel_row *row)
{
    return row->level == MOE_LEVEL_C ? PORTABLE_ROWS : row->op == MOE_OP_linear ? PLAIN_ROWS : ROWS;
}

static const char help[] =
    "usage: moe-instructions [--function NAME] [--tokens N] [--once]\n"
    "Count the instructions of each product kernel that this machine can run, on some rows of 2048 columns: for a\n"
    "weight at 1 token, for a weight and token at 8 and 32 tokens (level c: not at 32). All kernels: some 20 minutes.\n"
    "\n"
    "  --function NAME    only the kernels with NAME in their name: q8_0, linear_bf16, avx2\n"
    "  --tokens N         only for N tokens\n"
    "  --once             run each kernel once and count nothing: for use under valgrind or a debugger\n"
    "  --help             this text\n"
    "Exit status: 0; 2 wrong usage, or no such kernel; 3 not a processor that this can count on (x86-64).\n";

struct work {
    const struct moe_kernel_row *row;
    struct moe_linear_args plain;
    struct moe_linear_rounded_args rounded;
    size_t rows;
};

static bool wanted_op(enum moe_op op)
{
    return op == MOE_OP_linear || op == MOE_OP_linear_q8 || op == MOE_OP_linear_bf16;
}

static void call(const struct work *work)
{
    if (work->row == NULL)
        return;
    if (work->row->op == MOE_OP_linear)
        ((moe_linear_fn *)work->row->fn)(&work->plain);
    else if (work->row->op == MOE_OP_linear_q8)
        ((moe_linear_q8_fn *)work->row->fn)(&work->rounded);
    else
        ((moe_linear_bf16_fn *)work->row->fn)(&work->rounded);
}

/* ---- counting ---- */

static volatile uint64_t num_steps;

static void count_step(int signal)
{
    (void)signal;
    num_steps++;
}

/* Sets or clears the trap flag. The stack pointer is kept off the 128 bytes that a function may use below it. */
static inline void set_trap(bool on)
{
#if defined(__x86_64__)
    if (on)
        __asm__ volatile("lea -128(%%rsp), %%rsp\n pushfq\n orq $0x100, (%%rsp)\n popfq\n lea 128(%%rsp), %%rsp"
                         ::: "cc", "memory");
    else
        __asm__ volatile("lea -128(%%rsp), %%rsp\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n lea 128(%%rsp), %%rsp"
                         ::: "cc", "memory");
#else
    (void)on;
#endif
}

/* Of a call that has been made once before, so that nothing is left to be bound. */
static double count_steps(const struct work *work)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = count_step;
    sigaction(SIGTRAP, &action, NULL);
    call(work);
    num_steps = 0;
    set_trap(true);
    call(work);
    set_trap(false);
    return (double)num_steps;
}

static bool can_count(void)
{
#if defined(__x86_64__)
    return true;
#else
    return false;
#endif
}

/* ---- one kernel ---- */

static void *round_rows(const struct moe_kernels *kernels, enum moe_op op, const float *x, size_t tokens,
                        size_t *stride)
{
    *stride = op == MOE_OP_linear_q8 ? moe_q8_row_bytes(COLS) : COLS * sizeof(uint16_t);
    unsigned char *rows = test_alloc(tokens * *stride);
    memset(rows, 0, tokens * *stride);
    for (size_t t = 0; t < tokens; t++) {
        if (op == MOE_OP_linear_q8)
            kernels->quantise(rows + t * *stride, COLS, 0, x + t * COLS, COLS);
        else
            kernels->store[MOE_INDEX_BF16](rows + t * *stride, x + t * COLS, COLS);
    }
    return rows;
}

/* Instructions for a weight and a token, without those of an empty call. */
static double count(const struct moe_kernels *kernels, const struct moe_kernel_row *row, size_t tokens, bool once)
{
    struct test_rng rng = {1};
    struct work work = {.row = row, .rows = rows_of(row)};
    enum moe_format format = moe_format_at(row->index)->format;
    size_t w_stride = moe_format_row_bytes(format, COLS), x_stride = 0;
    unsigned char *w = test_alloc(work.rows * w_stride), *scratch = test_alloc(MOE_ROUNDED_SCRATCH);
    float *x = test_alloc(tokens * COLS * sizeof *x), *y = test_alloc(tokens * work.rows * sizeof *y);
    for (size_t r = 0; r < work.rows; r++)
        test_fill_weights(&rng, format, w + r * w_stride, COLS, 0.1);
    test_fill(&rng, x, tokens * COLS, 1);
    void *rounded = row->op == MOE_OP_linear ? NULL : round_rows(kernels, row->op, x, tokens, &x_stride);
    work.plain = (struct moe_linear_args){.y = y, .y_stride = work.rows, .w = w, .w_stride = w_stride, .x = x,
                                          .x_stride = COLS, .rows = work.rows, .cols = COLS, .num_tokens = tokens};
    work.rounded = (struct moe_linear_rounded_args){.y = y, .y_stride = work.rows, .w = w, .w_stride = w_stride,
                                                    .x = rounded, .x_stride = x_stride, .rows = work.rows,
                                                    .cols = COLS, .num_tokens = tokens, .scratch = scratch, .next = w};
    double steps = 0, empty = 0;
    if (once) {
        call(&work);
    } else {
        empty = count_steps(&(struct work){.row = NULL});
        steps = count_steps(&work);
    }
    test_release(w);
    test_release(scratch);
    test_release(x);
    test_release(y);
    test_release(rounded);
    return (steps - empty) / ((double)work.rows * COLS * (double)tokens);
}

/* A line of the table, in Markdown. */
static void print_row(const struct moe_kernels *kernels, const struct moe_kernel_row *row, const char *name,
                      size_t tokens, bool once)
{
    char line[128] = "";
    size_t num = tokens > 0 ? 1 : row->level == MOE_LEVEL_C ? NUM_BATCHES - 1 : NUM_BATCHES;
    for (size_t i = 0; i < num; i++) {
        double each = count(kernels, row, tokens > 0 ? tokens : batches[i], once);
        snprintf(line + strlen(line), sizeof line - strlen(line), each < 0.1 ? " %.4f |" : " %.3f |", each);
    }
    printf("| %s |%s%s\n", name, once ? "" : line, num < NUM_BATCHES && !tokens && !once ? " |" : "");
    fflush(stdout);
}

static bool parse(int argc, char **argv, const char **function, size_t *tokens, bool *once)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--once") == 0)
            *once = true;
        else if (strcmp(argv[i], "--function") == 0 && i + 1 < argc)
            *function = argv[++i];
        else if (strcmp(argv[i], "--tokens") == 0 && i + 1 < argc)
            *tokens = (size_t)strtoul(argv[++i], NULL, 10);
        else
            return false;
    }
    return *tokens <= 4096;
}

int main(int argc, char **argv)
{
    const char *function = "";
    size_t tokens = 0, found = 0;
    bool once = false;
    if (!parse(argc, argv, &function, &tokens, &once)) {
        bool asked = argc == 2 && strcmp(argv[1], "--help") == 0;
        fputs(help, asked ? stdout : stderr);
        return asked ? 0 : 2;
    }
    if (!once && !can_count()) {
        fputs("moe-instructions: counting needs an x86-64 processor; --once does not\n", stderr);
        return 3;
    }
    struct moe_kernels kernels;
    moe_kernels_init(&kernels, (enum moe_level)(MOE_NUM_LEVELS - 1));
    const struct moe_kernel_row *row;
    for (size_t i = 0; (row = moe_kernels_row(i)) != NULL; i++) {
        char name[96];
        if (!wanted_op(row->op) || !moe_cpuid_has(row->level) ||
            (row->op == MOE_OP_linear_q8 && kernels.quantise == NULL))
            continue;
        snprintf(name, sizeof name, "%s_%s_%s", moe_kernels_op_name(row->op), moe_format_at(row->index)->name,
                 moe_kernels_level_name(row->level));
        if (strstr(name, function) == NULL)
            continue;
        found++;
        print_row(&kernels, row, name, tokens, once);
    }
    return found > 0 ? 0 : 2;
}
