// SPDX-License-Identifier: MIT
// What the parts of `moe bench` share: a run, its weights and limits (cmd_bench.c), one measurement (bench_cell.c), and
// what is said of it (bench_report.c).
#ifndef BENCH_H
#define BENCH_H

#include "bench_noise.h"
#include "bench_peak.h"
#include "bench_weights.h"
#include "outfile.h"
#include "plot_svg.h"
#include "progress.h"

#define BENCH_MOST_CELLS 32     /* formats, and numbers of tokens */
#define BENCH_COLD_TOKENS 32    /* up to here, calls rotate over all layers; above, over BENCH_WARM_BYTES */
#define BENCH_WARM_BYTES (128e6)

/* Formats of one series of cells, and what the user called them. */
struct bench_formats {
    enum moe_format format, down;
    char name[32];
};

struct bench {
    const char *backend, *describe;
    size_t threads, retries, tokens[BENCH_MOST_CELLS], num_tokens;
    struct bench_formats formats[BENCH_MOST_CELLS];
    size_t num_formats;
    double cold_bytes, seconds;
    bool error, exact, json, headed;
    const char *plot;               /* file of the drawing; NULL: none */
    struct plot_cell *plot_cells;   /* [BENCH_MOST_CELLS * BENCH_MOST_CELLS] */
    size_t num_plot_cells;
    struct progress progress;       /* BENCH_PROGRESS for each cell */
    struct bench_shape shape;
    struct session session;
    char name[32];                  /* of the weights at hand */
    struct bench_weights weights;
    struct moe_experts **experts;
    struct moe_layer **layers;
    enum peak_kind in, down;        /* which peak bounds gate and up, and down, at the layers' kernels */
    double peaks[NUM_PEAKS];        /* operations a second, the best seen in the run; 0: there is none */
    bool used[NUM_PEAKS];           /* by a cell that is drawn */
};
enum { BENCH_PROGRESS = 1000 };

struct bench_cell {
    size_t tokens, num_layers, calls;
    double median, least, spread;   /* seconds; quartile to quartile over the median */
    double unique_bytes, flops;     /* of a call */
    double read;                    /* bytes a second, the median of the passes; 0: not known */
    double f32;                     /* operations a second, the lower of before and after */
    double memory, compute, tiles;  /* seconds that the bytes need, the operations, and these in tiles; 0: not known */
    double error;                   /* NAN: not measured */
    struct bench_noise noise;
};

/* bench_cell.c. TOOL_OK, or an exit code with the error printed. */
int bench_cell_measure(struct bench *bench, struct bench_cell *cell, size_t tokens);
static inline double bench_cell_ideal(const struct bench_cell *cell)
{
    return cell->memory > cell->compute ? cell->memory : cell->compute;
}

/* bench_limits.c. The peaks of the run; which of them bound the layers in bench. */
void bench_limits_measure(struct bench *bench);
int bench_limits_choose(struct bench *bench);
/* Seconds that the operations of a cell need at the peaks of the layers' kernels; with tiles at those of AMX. */
double bench_limits_compute(const struct bench *bench, double flops, bool tiles);
/* Whether the level in use multiplies in tiles. */
bool bench_limits_tiles(const struct bench *bench);

/* bench_report.c */
void bench_report_cell(struct bench *bench, const struct bench_cell *cell);
void bench_report_keep(struct bench *bench, const struct bench_cell *cell, size_t series);    /* for the plot */
bool bench_report_plot(struct bench *bench, struct outfile *out);

#endif
