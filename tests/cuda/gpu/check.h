// SPDX-License-Identifier: MIT
// What the checks of moe-test-cuda share: the backend under test, lines of results, memory with guards, graphs, random
// weights and layers, and their definition in double precision.
#ifndef CHECK_H
#define CHECK_H

#include <cuda_runtime_api.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"
#include "ref/ref.h"

#if defined(__GNUC__)
#define CHECK_PRINTF(at, first) __attribute__((format(printf, at, first)))
#else
#define CHECK_PRINTF(at, first)
#endif

/* ||out - ref|| / ||ref|| allowed to a layer that rounds activations to bf16 (docs/numerics.md), where the values of
 * its weights times their scales are exact; and where values that bf16 does not hold are rounded too: two relative
 * errors of the same size more, sqrt(2) of the first at worst. */
#define CHECK_ERROR 4e-3
#define CHECK_ROUNDED_ERROR 5.5e-3
/* Other backends may round activations to int8: 1.25e-2, and twice that where sums are short. */
#define CHECK_OTHER_ERROR 2.5e-2

struct gpu {
    const char *name;               /* of the backend */
    struct moe_backend *backend;
    struct moe_context *ctx;
    cudaStream_t stream;            /* of ctx, if cuda */
    bool cuda;                      /* it has streams and graphs */
    bool quick;                     /* small sizes, few repetitions */
    size_t threads;                 /* of the host, for references */
    const char *current;            /* the check that runs */
    size_t passed, failed, skipped;
    jmp_buf stop;
};

/* ---- results (main.c) ---- */

/* One line on stdout; counts. */
CHECK_PRINTF(3, 4) void check_line(struct gpu *gpu, bool passed, const char *text, ...);
CHECK_PRINTF(2, 3) void check_skip(struct gpu *gpu, const char *text, ...);
/* A failed line, and out of the check, or of the part of it that check_part runs; what it holds is left behind. */
CHECK_PRINTF(2, 3) _Noreturn void check_stop(struct gpu *gpu, const char *text, ...);
/* part(gpu, arg); where it stops, the check goes on behind it, on a new context. */
void check_part(struct gpu *gpu, void (*part)(struct gpu *gpu, const void *arg), const void *arg);
void check_ok(struct gpu *gpu, enum moe_status status, const char *what);
void check_cuda(struct gpu *gpu, cudaError_t error, const char *what);

static inline double check_limit(const struct gpu *gpu, bool rounded)
{
    return !gpu->cuda ? CHECK_OTHER_ERROR : rounded ? CHECK_ROUNDED_ERROR : CHECK_ERROR;
}

/* ---- the checks ---- */

/* X(name, needs streams, what it shows) */
#define CHECKS(X)                                                                                             \
    X(formats, false, "layers of every format and odd sizes against double precision")                        \
    X(tokens, false, "every number of tokens from 0 to 300: the bits of each token alone")                     \
    X(routing, false, "scores, groups, tables, NaN logits: ids and weights of a router in double precision")   \
    X(slots, false, "ids out of range, expert_map, live_tokens, counts, returned ids, MOE_OUT_PAIRS")          \
    X(axes, false, "activations, biases, shared and latent experts, norms against double precision")           \
    X(graphs, true, "replays with other inputs and routing, layers and batch sizes in graphs, two streams")    \
    X(capture, true, "what must not run under capture says so, and the capture goes on")                       \
    X(trace, true, "no allocation and no synchronisation in 10^4 forwards")                                    \
    X(large, false, "sizes beyond 2^31 values")                                                                \
    X(errors, false, "memory that is not there, wrong names, orders of destruction")
#define CHECK_DECLARE(name, streams, what) void check_##name(struct gpu *gpu);
CHECKS(CHECK_DECLARE)
#undef CHECK_DECLARE

/* ---- the backend's memory and graphs (gpu.c) ---- */

bool gpu_open(struct gpu *gpu);      /* false: said why on stderr */
void gpu_close(struct gpu *gpu);
enum moe_status gpu_backend_open(const char *name, struct moe_backend **out, struct moe_error *error);

/* Filled with 0xff, NaN in every float, and followed by bytes that gpu_guard looks at. */
struct moe_view gpu_alloc(struct gpu *gpu, size_t size, enum moe_format format);
void gpu_free(struct gpu *gpu, struct moe_view *view);
bool gpu_guard(struct gpu *gpu, const struct moe_view *view);
void gpu_poison(struct gpu *gpu, const struct moe_view *view);
void gpu_write(struct gpu *gpu, const struct moe_view *view, const void *src, size_t size);
void gpu_read(struct gpu *gpu, void *dst, const struct moe_view *view, size_t size);
void gpu_sync(struct gpu *gpu);

struct gpu_graph {
    cudaGraphExec_t exec;
    size_t num_nodes, num_memory;    /* num_memory: of them, nodes that allocate or free */
};
void gpu_capture_begin(struct gpu *gpu);
void gpu_capture_end(struct gpu *gpu, struct gpu_graph *graph);
/* End a capture that a check has left behind, and begin with a new context. */
void gpu_recover(struct gpu *gpu);
void gpu_graph_launch(struct gpu *gpu, const struct gpu_graph *graph);
void gpu_graph_free(struct gpu_graph *graph);

/* ---- random numbers, threads, comparison (random.c) ---- */

struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *rng);
size_t rng_below(struct rng *rng, size_t n);
double rng_normal(struct rng *rng);
/* top_k different ids for each token, and weights that add up to 1. */
void rng_routing(struct rng *rng, int32_t *ids, float *weights, size_t num_tokens, size_t num_experts, size_t top_k);
/* Values that the format holds. */
void rng_values(struct rng *rng, float *out, size_t n, double scale, enum moe_format format);

/* task(arg, 0 .. count - 1) on the host's threads. */
void run_parallel(size_t num_threads, size_t count, void (*task)(void *arg, size_t i), void *arg);
void *host_alloc(size_t count, size_t size);     /* zeroed; ends the program if there is none */
double relative_error(const float *out, const double *ref, size_t n);
double seconds(void);

/* ---- weights (weights.c) ---- */

/* How a file keeps matrices: format alone, or with a plane of scales. */
struct scheme {
    const char *name;
    enum moe_format format, scale;
    bool scaled;
    size_t block_rows, block_cols;   /* 0: all */
    float zero_offset;
    bool zeros, factor;              /* a plane of u8 zeros too; a second level of scales */
    bool rounded;                    /* bf16 does not hold the values, see CHECK_ROUNDED_ERROR */
};
/* All formats of the library, then schemes with scales; NULL past the last. Static storage. */
const struct scheme *scheme_at(size_t i);
const struct scheme *scheme_find(const char *name);
/* Whether rows of cols values can be made. */
bool scheme_fits(const struct scheme *scheme, size_t cols);

enum { PART_VALUES, PART_SCALE, PART_ZERO, PART_FACTOR, PART_BIAS, NUM_PARTS };
struct stack {
    struct moe_matrix matrix, planes[NUM_PARTS];   /* planes: scale, zero, factor */
    struct moe_scales scales;
    void *memory[NUM_PARTS];         /* host */
    size_t sizes[NUM_PARTS];
    struct moe_view views[NUM_PARTS];    /* backend, all but the bias */
};
/* Values of about 1 / sqrt(cols), in host memory. bias: f32 [num_experts, rows]. */
void stack_init(struct stack *stack, struct rng *rng, const struct scheme *scheme, size_t num_experts, size_t rows,
                size_t cols, bool bias);
/* The same matrices in the backend's memory. */
void stack_upload(struct gpu *gpu, struct stack *device, const struct stack *host);
void stack_free(struct gpu *gpu, struct stack *stack);

/* ---- layers and calls (layer.c) ---- */

struct shape {
    size_t hidden_size, intermediate_size, num_experts, top_k;
};
struct subject_spec {
    struct shape shape;
    const struct scheme *in, *down;      /* of gate and up; of down */
    bool on_device;                      /* the caller puts the weights into the backend's memory */
    bool bias, no_gate;
    const struct moe_act *act;
    const struct moe_routing *routing;
    const struct moe_layer_params *params;   /* its fields beside experts, top_k and routing; NULL: none */
    uint32_t flags;
};
struct subject {
    struct shape shape;
    struct moe_act act;
    struct stack host[3], device[3];     /* gate, up, down */
    struct moe_experts_params host_params;
    struct moe_layer_params layer_params;
    struct moe_experts *experts;
    struct moe_layer *layer;             /* NULL: experts only */
    struct moe_layer_info info;
};
void subject_init(struct gpu *gpu, struct subject *subject, struct rng *rng, const struct subject_spec *spec);
void subject_experts(struct gpu *gpu, struct subject *subject, struct rng *rng, const struct subject_spec *spec);
void subject_free(struct gpu *gpu, struct subject *subject);

/* Where a call's routing comes from. */
enum source { FROM_IDS, FROM_LOGITS, FROM_ROUTER };

/* Buffers of a call, and the call. Views in io are those of the tokens set last. */
struct call {
    struct moe_layer_io io;
    struct moe_view x, ids, weights, logits, out, workspace;
    size_t most_tokens;
    struct shape shape;
    const struct subject *subject;
};
void call_init(struct gpu *gpu, struct call *call, const struct subject *subject, size_t most_tokens,
               enum moe_format format, enum moe_format out_format, enum source source);
void call_free(struct gpu *gpu, struct call *call);
/* Views and workspace for num_tokens; NULL arrays are left as they are. Values in the formats of the views. */
void call_set(struct gpu *gpu, struct call *call, size_t num_tokens, const float *x, const int32_t *ids,
              const float *weights, const float *logits);
void call_poison(struct gpu *gpu, struct call *call);     /* out and workspace */
void call_forward(struct gpu *gpu, struct call *call);
/* call_poison, call_forward, and out as it lies in memory: call_out_bytes. Looks at the guards. */
void call_run(struct gpu *gpu, struct call *call, void *out);
size_t call_out_bytes(const struct call *call);
void call_out(struct gpu *gpu, const struct call *call, void *out);

/* out[i] of tokens rows[i], by the definition; rounded: what gate and up take, and what down takes, rounded to bf16.
 * ids and weights as for the call. */
void reference_rows(struct gpu *gpu, const struct subject *subject, double *out, const float *x, const int32_t *ids,
                    const float *weights, const size_t *rows, size_t num_rows, bool rounded);

#endif
