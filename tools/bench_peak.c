// SPDX-License-Identifier: MIT
// Times the loops of bench_peak_*.c: all threads start together, each times pieces of its loop and takes the median, so
// that a piece during which another process had the CPU does not count; the rates of all threads are added.
#include "bench_peak.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define PEAK_SECONDS 0.06
#define PIECE_SECONDS 0.0005    /* large against the clock's steps, small against a time slice */
#define MOST_PIECES 512
#define MOST_THREADS 1024

struct crew {
    const struct peak_row *row;
    size_t rounds;              /* of a piece */
    _Atomic size_t missing;     /* threads that have not arrived */
};

struct worker {
    struct crew *crew;
    double rates[MOST_PIECES];
    size_t num_pieces;
    pthread_t thread;
    bool started;
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct crew *crew = worker->crew;
    atomic_fetch_sub(&crew->missing, 1);
    while (atomic_load(&crew->missing) > 0)
        sched_yield();
    double start = tool_seconds(), before = start;
    while (worker->num_pieces < MOST_PIECES && before - start < PEAK_SECONDS) {
        crew->row->run(crew->rounds);
        double after = tool_seconds();
        worker->rates[worker->num_pieces++] = crew->row->operations * (double)crew->rounds / (after - before);
        before = after;
    }
    qsort(worker->rates, worker->num_pieces, sizeof *worker->rates, compare);
    return NULL;
}

/* Turns that last about PIECE_SECONDS. */
static size_t find_rounds(const struct peak_row *row)
{
    for (size_t rounds = 64;; rounds *= 2) {
        double before = tool_seconds();
        row->run(rounds);
        if (tool_seconds() - before >= PIECE_SECONDS || rounds > ((size_t)1 << 40))
            return rounds;
    }
}

static const char *const levels[] = {"c", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx",
                                     "neon", "dotprod", "i8mm"};
enum { NUM_LEVELS = sizeof levels / sizeof levels[0] };

/* NUM_LEVELS: none of the CPU's. */
static size_t rank(const char *level)
{
    size_t i = 0;
    while (*level && i < NUM_LEVELS && strcmp(levels[i], level) != 0)
        i++;
    return i;
}

bool bench_peak_knows(const char *level)
{
    return rank(level) < NUM_LEVELS;
}

static const struct peak_row *find_row(enum peak_kind kind, const char *level)
{
    const struct peak_row *found = NULL;
    for (const struct peak_row *row = peak_rows; row->run; row++)
        if (row->kind == kind && rank(row->level) <= rank(level))
            found = row;
    return found;
}

double bench_peak(enum peak_kind kind, const char *level, size_t threads)
{
    const struct peak_row *row = bench_peak_knows(level) ? find_row(kind, level) : NULL;
    threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    struct worker *workers = row ? calloc(threads, sizeof *workers) : NULL;
    if (!workers)
        return 0;
    struct crew crew = {.row = row, .rounds = find_rounds(row), .missing = threads};
    double rate = 0;
    for (size_t i = 0; i < threads; i++) {
        workers[i].crew = &crew;
        workers[i].started = i > 0 && pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0;
        if (i > 0 && !workers[i].started)
            atomic_fetch_sub(&crew.missing, 1);
    }
    work(&workers[0]);
    for (size_t i = 0; i < threads; i++) {
        if (workers[i].started)
            pthread_join(workers[i].thread, NULL);
        if (workers[i].num_pieces)
            rate += workers[i].rates[workers[i].num_pieces / 2];
    }
    free(workers);
    return rate;
}

const char *bench_peak_name(enum peak_kind kind)
{
    static const char *const names[NUM_PEAKS] = {"f32", "bf16", "int8", "AMX bf16", "AMX int8"};
    return names[kind];
}
