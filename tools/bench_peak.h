// SPDX-License-Identifier: MIT
// How fast this machine computes at all: multiply-adds of each kind, in registers, on as many threads as a benchmark
// uses, with the instructions of an instruction-set level.
#ifndef BENCH_PEAK_H
#define BENCH_PEAK_H

#include <stdbool.h>
#include <stddef.h>

enum peak_kind {
    PEAK_F32,          /* f32 multiply-add */
    PEAK_BF16,         /* dot products of bf16 pairs, summed in f32 */
    PEAK_INT8,         /* dot products of int8, summed in i32 */
    PEAK_AMX_BF16,     /* the same in tiles */
    PEAK_AMX_INT8,
    NUM_PEAKS
};

/* Runs rounds turns of one loop. */
typedef void peak_fn(size_t rounds);

struct peak_row {
    enum peak_kind kind;
    const char *level;     /* the first that has the instructions */
    double operations;     /* of a turn; a multiply-add is two */
    peak_fn *run;
};

/* Of this processor's architecture, ascending by level; ends with a row without a function. One of bench_peak_*.c. */
extern const struct peak_row peak_rows[];

/* Operations a second of all threads together, over about 60 ms; 0 where level has no instruction of that kind, or it
 * is not known. level: as the cpu backend names it; "": that of any machine. */
double bench_peak(enum peak_kind kind, const char *level, size_t threads);

/* Whether level is one of a CPU; limits of other processors are not known here. */
bool bench_peak_knows(const char *level);

const char *bench_peak_name(enum peak_kind kind);

#endif
