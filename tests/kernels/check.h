// SPDX-License-Identifier: MIT
// What moe-check asks of the file check_<op>.c of each operation: one test of any kernel of it, and one timing.
#ifndef MOE_TEST_CHECK_H
#define MOE_TEST_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "cpu/kernels.h"
#include "support.h"

/* One kernel under test, and what was found. */
struct check {
    const struct moe_kernel_row *row;
    enum moe_format format;      /* of the row, where the operation has formats */
    struct test_rng rng;
    double worst;                /* largest |error| / bound; above 1 is a failure */
    double error, size;          /* squares: NMSE = error / size */
    unsigned long num_shapes;
    char failure[256];           /* first failure; empty: none */
};

/* Count one result against its definition and its bound. */
void check_value(struct check *check, double value, double ref, double bound);
/* Note a failure, unless there was one. */
void check_fail(struct check *check, const char *text, ...);
/* Whether to leave out the next shape (--sample). */
bool check_leaves_out(struct check *check);
/* Fail unless the bits are equal. */
void check_same(struct check *check, const void *a, const void *b, size_t size, const char *what);

/* A timing: bytes of memory read and operations done by one run. */
struct bench {
    const char *what;
    double bytes, flops;
    void (*run)(const struct check *check, void *data);
    void *data;
};
/* Times the run and prints a line. */
void bench_report(const struct check *check, const struct bench *bench);

struct check_op {
    void (*test)(struct check *check);
    void (*bench)(struct check *check);
};
/* check_<op>.c, or check_rows.c for those that go over plain rows */
#define CHECK_DECLARE(op) extern const struct check_op check_##op;
MOE_FORMAT_OP_MAP(CHECK_DECLARE) MOE_PLAIN_OP_MAP(CHECK_DECLARE)
#undef CHECK_DECLARE

#endif
