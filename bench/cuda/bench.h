// SPDX-License-Identifier: MIT
// What the parts of moe-bench-cuda share: shapes and types of weights, a run and its calibration, one measured cell.
#ifndef BENCH_CUDA_H
#define BENCH_CUDA_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "moe/moe.h"

struct shape {
    const char *name;
    size_t hidden_size, intermediate_size, num_experts, top_k;
};

/* How a matrix is kept: blocks, or values with a plane of scales. */
struct scheme {
    enum moe_format format, scale;
    bool scaled;
    size_t block_rows, block_cols;    /* 0: all */
    float zero_offset;
};
struct type {
    const char *name;
    struct scheme in, down;           /* of gate and up; of down */
};

enum variant { PLAIN, LOGITS, ROUTER, SHARED, ROUTER_SHARED, NUM_VARIANTS };

enum { MOST_SETS = 16, MOST_LAYERS = 48 };

/* Rates that floors are made of, as the tables of other implementations take them. */
#define FLOOR_BYTES 4.3e12
#define FLOOR_BF16 790e12
#define FLOOR_FP8 1580e12

struct bench {
    struct moe_backend *backend;
    struct moe_context *ctx;
    cudaStream_t stream;
    const char *device;               /* name of the GPU */
    size_t l2_bytes, memory;          /* memory: for weights */
    int multiprocessors;
    double copy, read, mma;           /* measured: bytes a second, operations a second; 0: not */
    FILE *json;
    bool headed;
};

/* Layers that are alike, with weights of their own. */
struct layers {
    const struct shape *shape;
    const struct type *type;
    enum variant variant;
    size_t num_sets;
    struct moe_view memory[6];        /* values of gate, up, down; their scales */
    struct moe_experts *experts[MOST_SETS], *shared[MOST_SETS];
    struct moe_layer *sets[MOST_SETS];
    size_t expert_bytes, shared_bytes;
};

struct cell {
    const struct shape *shape;
    const struct type *type;
    enum variant variant;
    size_t tokens, num_sets, num_layers, replays;
    double median, least;             /* seconds a layer */
    double bytes, flops;              /* of a layer: of the experts in use, each once */
    double nodes;                     /* of the graph, a layer */
    bool finite;
    const char *failure;              /* NULL: measured */
};

/* types.c */
const struct shape *shape_at(size_t i);
const struct type *type_find(const char *name);       /* of the table, or of any format's name; NULL: unknown */
bool type_fits(const struct type *type, const struct shape *shape);
const char *variant_name(enum variant variant);       /* "" for PLAIN */
double cell_floor(const struct cell *cell);           /* seconds */
/* Microseconds of the best other implementation; 0: not known. */
double peer_find(const struct cell *cell, const char **whose);

/* layers.c: NULL, or what failed. */
/* size bytes of the backend's memory that begin with those of the host and repeat them. */
const char *memory_repeat(struct bench *bench, struct moe_view *view, const void *host, size_t host_bytes, size_t size);
const char *layers_make(struct bench *bench, struct layers *layers, const struct shape *shape, const struct type *type,
                        enum variant variant);
void layers_free(struct bench *bench, struct layers *layers);

/* measure.c. Fills cell->failure where it cannot be measured. */
void cell_measure(struct bench *bench, const struct layers *layers, struct cell *cell, size_t tokens);

/* calibrate.c: NULL, or what failed. */
const char *bench_calibrate(struct bench *bench);

/* report.c */
void report_calibration(struct bench *bench);
void report_cell(struct bench *bench, const struct cell *cell);
/* One drawing for each shape into the folder. */
bool report_plot(const struct bench *bench, const struct cell *cells, size_t num_cells, const char *folder);

double seconds(void);

#endif
