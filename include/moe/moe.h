// SPDX-License-Identifier: MIT
// libmoe: the Mixture-of-Experts layer of a language model. This page, with the model.h and format.h that it includes,
// is the whole stable API and its manual.
//
//     out[t] = sum over slots k of weights[t,k] * down_e( act(gate_e x[t]) * (up_e x[t]) ),   e = ids[t,k]
//
// Words      token t of num_tokens; expert e of num_experts; slot k of top_k, a token's k-th choice;
//            pair = (token, slot). A matrix is [rows, cols]: row r gives output r, a dot product with the input.
//            router [num_experts, hidden_size]; gate, up [intermediate_size, hidden_size]; down [hidden_size,
//            intermediate_size]. Shapes are written outermost first, values of the last one lie side by side.
//
// Rules for every function
//  1. A params struct begins with struct_size. MOE_INIT(&p) clears and stamps it; 0 in any field means its default.
//     The library reads as many bytes as the caller's struct has, so programs built against an older header go on
//     working; of a longer struct, what the library does not know must be 0. Sub-structs are passed by pointer, NULL
//     for absent. Structs without struct_size (moe_view, moe_tensor, moe_value, ...) are frozen for an ABI version.
//     Some names are a struct and a function: in C++ write struct moe_layer_info.
//  2. Functions return enum moe_status, MOE_OK = 0. Everything is validated before anything is written: after an error
//     other than MOE_ERR_DEVICE, outputs are as they were. create and open functions set *out to NULL on an error, and
//     explain it in *error, if given, in one sentence; after MOE_OK what *error holds means nothing.
//  3. Backends, experts, layers and models do not change once made and may be used from any thread. A context serves
//     one call at a time. There are no globals. The library never prints, aborts or exits; it allocates, loads code
//     and starts threads in create, open, alloc and update functions, moe_model_block and moe_model_tensor_data only.
//  4. Views and weights are borrowed: their memory must live as long as the object, or the queued work, that uses them.
//     Objects hold no reference on each other: destroy layers before experts, and both before models and backends;
//     contexts before their backend. destroy and close accept NULL.
//  5. Outputs and workspace of one call overlap nothing else of it, from their first to their last byte. Inputs may
//     overlap each other.
#ifndef MOE_MOE_H
#define MOE_MOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "moe/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the binary interface; the soname follows it. moe_abi_version() is that of the library in use. */
#define MOE_ABI_VERSION 1

/* ---- status --------------------------------------------------------------------------------------------- */

/* X(code, NAME, text) */
#define MOE_STATUS_MAP(X)                                                                  \
    X(0, OK, "ok")                                                                         \
    X(-1, ERR_ARGUMENT, "invalid argument")                                                \
    X(-2, ERR_MEMORY, "out of memory")                                                     \
    X(-3, ERR_UNSUPPORTED, "not supported")                                                \
    X(-4, ERR_WORKSPACE, "workspace too small")                                            \
    X(-5, ERR_RANGE, "expert id out of range")                                             \
    X(-6, ERR_NONFINITE, "no finite value where one is needed")                            \
    X(-7, ERR_IO, "file cannot be read")                                                   \
    X(-8, ERR_FORMAT, "file is malformed")                                                 \
    X(-9, ERR_DEVICE, "device error; the context is dead, destroy it")

enum moe_status {
#define MOE_STATUS_ENUM(code, NAME, text) MOE_##NAME = code,
    MOE_STATUS_MAP(MOE_STATUS_ENUM)
#undef MOE_STATUS_ENUM
};

/* Filled by create and open functions; the caller's memory. text is one NUL-terminated sentence. */
struct moe_error {
    enum moe_status status;
    char text[508];
};

MOE_API const char *moe_status_text(enum moe_status status);   /* never NULL; static storage */
MOE_API const char *moe_version(void);                         /* "0.1.0" */
MOE_API uint32_t moe_abi_version(void);

#define MOE_INIT(p) (memset((p), 0, sizeof *(p)), (void)((p)->struct_size = sizeof *(p)))

/* Where an object takes memory from. NULL, or NULL members: malloc and free. Both functions are set, or neither.
 * Copied when a backend or model is made; contexts, experts and layers use their backend's. Called on the threads that
 * make, update and destroy objects, for a model also on those that ask for its blocks and tensors: thread-safe, if they
 * are several. align is a power of two. JSON is parsed in malloc's own memory. */
struct moe_env {
    size_t struct_size;
    void *user;
    void *(*alloc)(void *user, size_t size, size_t align);   /* NULL: out of memory */
    void (*free)(void *user, void *ptr, size_t size);
};

/* ---- memory --------------------------------------------------------------------------------------------- */

/* A run of rows in a backend's memory: a value, built per call at no cost.
 *   base    what the backend calls memory. cpu: an address. Others: their handle or device address. NULL: absent
 *   offset  bytes from base to the first value
 *   size    bytes that may be touched from there on; every access is checked against it
 *   stride  bytes from one row to the next; 0: rows are dense
 *   format  of the values
 * Address backends need values aligned to their own size (f32: 4, f16: 2, i64: 8); weights may lie at any address. */
struct moe_view {
    void *base;
    size_t offset;
    size_t size;
    size_t stride;
    enum moe_format format;
};

/* ---- backend and context -------------------------------------------------------------------------------- */

struct moe_backend;   /* an opened device */
struct moe_context;   /* threads or a stream, and counters; one call at a time */

/* Names that moe_backend_open knows, i = 0, 1, ...; NULL past the last: backends built into this library, then those
 * that are libraries of their own, installed or not. Opening one tells whether this machine has it. */
MOE_API const char *moe_backend_name(size_t i);

/* Open "cpu", or "cpu:LEVEL" to use no kernels above an instruction-set level ("cpu:c", "cpu:avx2"; tests, bug
 * reports); "cuda", or "cuda:N" for the N-th GPU that CUDA shows to the process, from 0 (no N: 0). "cuda" is a library
 * of its own, found as the loader finds libraries: beside libmoe.so, where it is installed, or where the program's
 * RUNPATH or LD_LIBRARY_PATH says; once loaded it stays. ERR_UNSUPPORTED: no backend of that name, its library is not
 * found, or this machine lacks it. ERR_ARGUMENT: what follows ":" means nothing. ERR_MEMORY, ERR_DEVICE. */
MOE_API enum moe_status moe_backend_open(const char *name, const struct moe_env *env, struct moe_backend **out,
                                         struct moe_error *error);
MOE_API void moe_backend_close(struct moe_backend *backend);

/* What the backend is made of, one call of line per fact, on this thread: ("level", "avx2"), ("kernel", "linear bf16
 * avx2"), ... Strings last until line returns. */
MOE_API enum moe_status moe_backend_describe(const struct moe_backend *backend,
                                             void (*line)(void *user, const char *key, const char *value), void *user);

/* Memory of the backend, 256-byte aligned, contents undefined; format and stride of the view are left 0. */
MOE_API enum moe_status moe_mem_alloc(struct moe_backend *backend, size_t size, struct moe_view *out);
MOE_API void moe_mem_free(struct moe_backend *backend, const struct moe_view *mem);

struct moe_context_params {
    size_t struct_size;
    /* cpu: threads that work on a call, the caller among them; 0: the CPUs that this process may use.
     * With parallel_for, or for moe_layer_forward_team: the most that the host will bring. */
    size_t num_threads;
    /* cpu: the host's pool. Run task(arg, i) once for each i = 0..count-1 and return when all have returned, in any
     * order, on any threads, even one after another: a task never waits for another. NULL: the context has threads. */
    void (*parallel_for)(void *user, size_t count, void (*task)(void *arg, size_t i), void *arg);
    void *parallel_user;
    /* The host brings its threads to moe_layer_forward_team: start none. Other calls run on the caller's alone. */
    bool team;
};

/* params NULL: defaults. ERR_ARGUMENT, ERR_MEMORY, ERR_UNSUPPORTED (threads cannot be started), ERR_DEVICE. */
MOE_API enum moe_status moe_context_create(struct moe_backend *backend, const struct moe_context_params *params,
                                           struct moe_context **out, struct moe_error *error);
MOE_API void moe_context_destroy(struct moe_context *ctx);

/* The stream that following calls queue their work on. cuda: a cudaStream_t of the backend's GPU, NULL the default
 * stream; a new context has one of its own. The stream may be capturing: what would wait for the device then gives
 * ERR_UNSUPPORTED (sync, mem_read, mem_write, stats, composed layers, moe_forward), and the capture goes on.
 * ERR_UNSUPPORTED on backends without streams (cpu). ERR_ARGUMENT: a stream of another GPU. */
MOE_API enum moe_status moe_context_set_stream(struct moe_context *ctx, void *stream);
/* Wait for the work queued on the context's stream. ERR_DEVICE if any of it failed. */
MOE_API enum moe_status moe_context_sync(struct moe_context *ctx);

/* Copy between host memory and the backend's. Done on return, ordered after the work queued before. */
MOE_API enum moe_status moe_mem_write(struct moe_context *ctx, const struct moe_view *dst, const void *src,
                                      size_t size);
MOE_API enum moe_status moe_mem_read(struct moe_context *ctx, void *dst, const struct moe_view *src, size_t size);

struct moe_stats {
    size_t struct_size;
    uint64_t calls;            /* moe_forward, moe_layer_forward, _route, _combine that returned MOE_OK */
    uint64_t nonfinite_rows;   /* router rows without a finite logit: all their weights were 0 */
    uint64_t skipped_pairs;    /* pairs whose id was outside 0..num_experts-1, or mapped to -1 */
    uint64_t dispatches;       /* backend primitives issued (copy, linear, glu, scaled_add) */
};
/* out->struct_size set by the caller. reset: count from 0 again. Waits for queued work, whose counts it has. */
MOE_API enum moe_status moe_context_stats(struct moe_context *ctx, struct moe_stats *out, bool reset);

/* ---- expert weights ------------------------------------------------------------------------------------- */

struct moe_scales;

/* Values in 32-bit little-endian words, as quantisers of safetensors files pack them; formats U4 (8 values a word, the
 * first in the lowest bits) and U8 (4). The matrix is then one of words, and strides are those of words. Such matrices
 * are copied at creation. Words along the columns of a matrix that is not transposed need no packing: that is plain U4
 * and U8. */
enum moe_packing {
    MOE_PACKING_NONE,
    MOE_PACKING_COLS,        /* a word holds neighbours of a row (GPTQ: transposed, words [cols / 8, rows]) */
    MOE_PACKING_ROWS,        /* ... of a column (zeros of GPTQ: transposed, words [cols, rows / 8]) */
    MOE_PACKING_ROWS_AWQ     /* likewise, U4, values 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits up (AWQ) */
};

/* num_experts matrices [rows, cols] of one format (or one matrix: a router). Strides express the layouts that files
 * have: gate and up in one tensor, one after the other (offset) or row by row (a stride of two rows).
 * data: the first row of expert 0; data.stride from row to row; data.size covers the whole stack. */
struct moe_matrix {
    size_t struct_size;
    struct moe_view data;
    size_t expert_stride;           /* bytes from expert to expert; 0: dense */
    void *const *bases;             /* or one base for each expert: data.base is not used, data.offset and data.size
                                       hold for each of them */
    bool transposed;                /* stored [cols, rows], data.stride from stored row to stored row; formats of one
                                       value a block, or of one byte (e2m1, u4). Copied at creation */
    size_t element_stride;          /* transposed only: bytes between neighbours of a stored row; 0: dense. Two values
                                       when the columns of gate and up alternate */
    struct moe_view bias;           /* [num_experts, rows] f32, f16 or bf16, stride from expert to expert; absent: none.
                                       Added to the product. Always host memory; copied at creation */
    size_t bias_element_stride;     /* bytes between neighbours of a bias; 0: dense */
    enum moe_packing packing;
    const struct moe_scales *scales;   /* NULL: values are what the format says */
};

/* Scales that lie apart from the values. The value at row r and column c is (q - zero - zero_offset) * scale * factor,
 * scale and zero of block row (first_row + r) / block_rows and of block column c / block_cols; blocks at the edges may
 * be partial. Matrices in here have no bias and no scales of their own, and may have bases, strides, transposition. */
struct moe_scales {
    size_t struct_size;
    size_t block_rows, block_cols;      /* 0: all rows, all columns */
    size_t first_row;                   /* rows of the first block that belong to a matrix before this one */
    const struct moe_matrix *scale;     /* [block rows, block columns] f32, f16, bf16, e4m3, e8m0; NULL: 1 */
    const struct moe_matrix *zero;      /* likewise, u4, u8 or i8; copied; NULL: 0 */
    float zero_offset;                  /* 8 where int4 is stored with 8 added; 1 where zeros are stored less 1 */
    const struct moe_matrix *factor;    /* [1, 1] f32, f16, bf16: NVFP4's second level of an expert; copied; NULL: 1 */
    bool factor_divides;                /* the factor is 1 / *factor, rounded to f32 (compressed-tensors) */
    const struct moe_matrix *column_block;   /* [1, cols] i32: the block column of each column, instead of
                                           c / block_cols (GPTQ's g_idx); copied; NULL: as above */
};

enum moe_act_kind {
    MOE_ACT_SWISH,       /* g * sigmoid(alpha * g); alpha 1 is SiLU */
    MOE_ACT_GELU_TANH,   /* 0.5 g (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))) */
    MOE_ACT_GELU_ERF,    /* 0.5 g (1 + erf(g / sqrt(2))) */
    MOE_ACT_RELU,        /* max(g, 0) */
    MOE_ACT_RELU2,       /* max(g, 0)^2 */
    MOE_ACT_SITU         /* beta tanh(g / beta) sigmoid(g), and u becomes beta_up tanh(u / beta_up) if beta_up > 0 */
};
enum moe_clamp {
    MOE_CLAMP_NONE,
    MOE_CLAMP_BEFORE,    /* act(min(g, limit)), clamp(u, -limit, limit) */
    MOE_CLAMP_AFTER      /* min(act(g), limit), clamp(u, -limit, limit) */
};
/* h = act(g) * (u + up_offset), u clamped first. Where experts have no gate h = act(u), clamped like g, without
 * up_offset. gpt-oss: SWISH, BEFORE, limit 7, alpha 1.702, up_offset 1. All zero: SiLU. */
struct moe_act {
    size_t struct_size;
    enum moe_act_kind kind;
    enum moe_clamp clamp;
    float limit;         /* > 0 with a clamp */
    float alpha;         /* SWISH; 0 means 1 */
    float up_offset;
    float beta;          /* SITU; > 0 */
    float beta_up;       /* SITU; 0: u stays */
};

enum moe_location {
    MOE_LOCATION_HOST,      /* weights are at host addresses */
    MOE_LOCATION_BACKEND    /* weights are in this backend's memory */
};

struct moe_experts_params {
    size_t struct_size;
    size_t num_experts;             /* matrices present (a rank's share, a cache's slots) */
    size_t hidden_size, intermediate_size;
    const struct moe_matrix *gate;  /* NULL: not gated, h = act(u) */
    const struct moe_matrix *up, *down;
    const struct moe_act *act;      /* NULL: SiLU */
    enum moe_location location;
    struct moe_view packed;         /* home of the copies, backend memory of moe_experts_packed_size bytes, 256-byte
                                       aligned; absent: the library allocates it */
};

struct moe_experts;

/* Bytes of backend memory that this backend needs beside the weights as they stand. 0: it reads them in place, as the
 * CPU does unless a matrix is transposed. Errors as moe_experts_create. */
MOE_API enum moe_status moe_experts_packed_size(struct moe_backend *backend, const struct moe_experts_params *params,
                                                size_t *bytes, struct moe_error *error);
/* Check every shape, stride and size; copy or upload what this backend cannot read in place. params and its structs
 * may go after return; weights that are read in place must stay. ERR_ARGUMENT or ERR_UNSUPPORTED name the matrix and
 * the reason; ERR_MEMORY; ERR_DEVICE. */
MOE_API enum moe_status moe_experts_create(struct moe_backend *backend, const struct moe_experts_params *params,
                                           struct moe_experts **out, struct moe_error *error);
/* The weights behind the views have changed: redo the copies (biases too) in the same memory, so that layers stay
 * valid. The views given at creation must still be good. Not while a forward uses them. Weights that are read in place
 * need no update. */
MOE_API enum moe_status moe_experts_update(struct moe_context *ctx, struct moe_experts *experts);
MOE_API void moe_experts_destroy(struct moe_experts *experts);

/* ---- 1. the portable call ------------------------------------------------------------------------------- */

enum moe_io_flags {
    MOE_ACCUMULATE = 1,   /* out += result, added in f32 and rounded once; otherwise out is assigned */
    MOE_OUT_PAIRS = 2,    /* forward, without MOE_ACCUMULATE: out is [num_tokens * top_k, hidden_size], row t * top_k
                             + k what the pair's expert gave, before its weight (with weight_on_input it is in there);
                             skipped pairs 0; no shared expert */
    MOE_STRICT = 4        /* ERR_RANGE for an id out of range, -1 too (not for one that expert_map skips), ERR_NONFINITE
                             for a router row without a finite logit; before anything is written. Backends that route on
                             a device: ERR_UNSUPPORTED */
};

/* Route on the host (softmax over all experts, the top_k best, optional renormalisation of their weights), then for
 * each pair gate and up products, SiLU * up, down product, scaled add, out of the backend's primitives alone: it runs
 * on every backend, also your own. It reads the logits back, so it synchronises and cannot be captured in a graph.
 * At most 5 dispatches a pair and 2 a token. Allocates nothing: all buffers are the caller's, in backend memory.
 * Slots are summed in descending order of weight. Errors: ERR_ARGUMENT, ERR_UNSUPPORTED (experts without a gate, or
 * with biases), ERR_NONFINITE (MOE_STRICT), ERR_DEVICE. */
struct moe_forward_params {
    size_t struct_size;
    struct moe_context *ctx;
    struct moe_view x;               /* [batch, hidden_size] f32, f16, bf16 */
    struct moe_view router_logits;   /* [batch, num_experts] f32, f16, bf16 */
    struct moe_view out;             /* [batch, hidden_size] f32, f16, bf16; need not be what x is */
    size_t batch;                    /* 0: nothing is done, views may be absent */
    size_t hidden_size;
    size_t expert_intermediate;
    size_t num_experts;
    size_t top_k;                    /* 1..num_experts */
    bool norm_topk_prob;             /* divide the weights of the chosen by their sum */
    const struct moe_experts *experts;
    struct moe_view x_single;        /* [hidden_size] f32 scratch: the token's input */
    struct moe_view acc_buf;         /* [hidden_size] f32 scratch: its weighted sum, copied to out */
    struct moe_view gate_up_buf;     /* [2 * expert_intermediate] f32 scratch: gate, then up */
    struct moe_view silu_buf;        /* [expert_intermediate] f32 scratch */
    struct moe_view down_buf;        /* [hidden_size] f32 scratch */
    struct moe_view zero_hidden;     /* [hidden_size] f32, the caller's zeros, only read: the result of a token without
                                        any expert */
    uint32_t flags;                  /* 0, MOE_ACCUMULATE, MOE_STRICT */
};
MOE_API enum moe_status moe_forward(const struct moe_forward_params *params);

/* ---- 2. the fast call ----------------------------------------------------------------------------------- */

enum moe_score {
    MOE_SCORE_DEFAULT,        /* weight: softmax. select: the same as weight */
    MOE_SCORE_SOFTMAX,        /* over all experts */
    MOE_SCORE_SIGMOID,
    MOE_SCORE_LOGIT,          /* the logit itself */
    MOE_SCORE_SOFTMAX_TOPK,   /* weight only: softmax over the logits of the chosen; select defaults to LOGIT */
    MOE_SCORE_SQRT_SOFTPLUS,  /* sqrt(log(1 + exp(z))) */
    MOE_SCORE_SPARSEMIXER     /* weight only, select is LOGIT: the weight of slot k is its share of the softmax over
                                 the experts that slots before it have not taken and whose logit z is close to the
                                 slot's own m: (m - z) / max(|z|, m) <= 2 sparsemixer_eps (arXiv 2409.12136) */
};
enum moe_renorm {
    MOE_RENORM_NONE,
    MOE_RENORM_ADD_EPS,       /* w / (S + eps), S the sum over the chosen */
    MOE_RENORM_CLAMP_EPS,     /* w / max(S, eps) */
    MOE_RENORM_P_NORM         /* w / (sum of |w|^p)^(1/p) */
};
enum moe_group_score {
    MOE_GROUP_TOP2_SUM,       /* a group's score is the sum of its two best keys */
    MOE_GROUP_MAX             /* ... its best key */
};

/* x / sqrt(mean of x^2 + eps) * scale; of zeros: zeros */
struct moe_norm {
    size_t struct_size;
    struct moe_view scale;              /* [size of x] f32, f16, bf16; host memory, copied; absent: 1 */
    float eps;                          /* >= 0 */
    bool unit;                          /* divided by sqrt(size of x) as well: x / sqrt(sum of x^2 + size * eps) */
};

/* How logits become ids and weights:
 *     logit  = router x, x normed by norm if there is one; then softcap tanh(logit / softcap)
 *     key    = select(logit) + selection_bias
 *     groups : num_groups runs of num_experts / num_groups experts; those outside the top_groups best get key -inf
 *     ids    = the top_k largest keys, descending; ties: the lower id; NaN ranks below -inf
 *              With num_always, the last num_always ids fill the last slots, and the others compete for the rest.
 *              With hash_table, the first ids of the token's row instead, in its order; keys do not count.
 *     weight = weight(logit) of the chosen, without the bias; then renorm; then times scale; then times expert_scale
 * A row without one finite logit gets ids 0..top_k-1 and weights 0, and is counted. A single NaN logit is an expert
 * that is never chosen before a number (its group sees it as -inf), and weighs 0. +inf: that expert takes all of a
 * softmax (several share it). A divisor of 0, or one that is not finite, leaves the weights as they are in renorm.
 * Computed in double from the logits, weights rounded to f32 once (within 1 ulp of an exact router). */
struct moe_routing {
    size_t struct_size;
    const struct moe_matrix *router;    /* [num_experts, hidden_size] f32, f16, bf16, .bias allowed; host memory;
                                           copied. NULL: the caller brings logits, or ids and weights */
    enum moe_score select, weight;
    struct moe_view selection_bias;     /* [num_experts] f32, f16, bf16; host memory, copied; absent: none */
    size_t num_groups, top_groups;      /* 0 or 1 groups: none. num_groups divides num_experts */
    enum moe_group_score group_score;
    bool group_mask_zero;               /* experts of dropped groups get key 0 instead of -inf: they may be chosen,
                                           and weigh what their logits say; top_k may be more than groups hold */
    enum moe_renorm renorm;
    float renorm_eps;                   /* >= 0 */
    float scale;                        /* 0 means 1 */
    const struct moe_norm *norm;        /* of the layer's router's input, NULL: none */
    float softcap;                      /* 0: none */
    float renorm_p;                     /* P_NORM; >= 1 */
    float sparsemixer_eps;              /* SPARSEMIXER; >= 0 */
    struct moe_view expert_scale;       /* [num_experts] f32, f16, bf16; host memory, copied; absent: 1 */
    struct moe_view hash_table;         /* [hash_rows, top_k of the layer] i32 or i64, ids in range; host memory,
                                           copied; absent: none. Calls must bring token_ids, and no larger top_k. A
                                           token id outside the table gives a row of empty slots, whatever the logits,
                                           and is not counted as one without a finite logit. Not with num_always or
                                           SPARSEMIXER */
    size_t hash_rows;                   /* the vocabulary */
    size_t num_always;                  /* < top_k, also of each call that routes; 0: none. Neither selection_bias nor
                                           groups count them */
};

enum moe_shared_gate {
    MOE_SHARED_PLAIN,                   /* out += shared(x) */
    MOE_SHARED_SIGMOID                  /* out += sigmoid(gate x) * shared(x) */
};
struct moe_shared {
    size_t struct_size;
    const struct moe_experts *experts;  /* num_experts 1; runs for every token; intermediate_size of its own */
    enum moe_shared_gate gate_kind;
    const struct moe_matrix *gate;      /* SIGMOID: [1, hidden_size] f32, f16, bf16, .bias allowed; host, copied */
};

enum moe_layer_flags {
    MOE_LAYER_ALLOW_COMPOSED = 1,       /* where the backend has no fused path: run from primitives (synchronises) */
    MOE_LAYER_FORCE_COMPOSED = 2,       /* run from primitives even where it has one */
    /* A token's bits do not depend on num_tokens. Without this flag a layer may take other kernels for many tokens than
     * for few, where that is much faster: moe_layer_info says so. Creation fails where a backend cannot hold it. */
    MOE_LAYER_BATCH_INVARIANT = 4,
    /* Activations stay f32, from x to the last sum. Without this flag a layer may round what gate and up take (x) and
     * what down takes, where that is faster: to int8 in units of 32 columns, with an f32 scale each (most quantised
     * formats: ||out - exact|| / ||exact|| <= 1.25e-2 for activations without heavy tails), or to bf16 (bf16 weights:
     * 4e-3), for many tokens along with the weights of quantised formats (5e-3). Routing, activation functions, sums
     * and scales are the same. docs/numerics.md has the bounds; moe_layer_info says what became of the layer. Creation
     * fails where a backend cannot do without rounding. */
    MOE_LAYER_EXACT = 8
};
struct moe_layer_params {
    size_t struct_size;
    uint32_t flags;                     /* enum moe_layer_flags */
    const struct moe_experts *experts;
    size_t num_experts;                 /* ids that routing may give; 0: as many as experts and zero experts. Otherwise
                                           expert_map tells which id is which matrix; without it ids beyond the last
                                           matrix are skipped */
    size_t top_k;                       /* 1..num_experts */
    const struct moe_routing *routing;  /* NULL: the caller brings ids and weights */
    const struct moe_shared *shared;    /* NULL: none */
    bool weight_on_input;               /* the weight multiplies the expert's input, not its output (Llama 4) */
    /* out = norm((routed_scale * sum over slots + shared) * out_scale + out_bias); each step if it is there */
    float routed_scale, out_scale;      /* 0 means 1 */
    struct moe_view out_bias;           /* [hidden_size] f32, f16, bf16; host memory, copied; absent: none */
    const struct moe_norm *out_norm;    /* NULL: none */
    size_t num_zero_experts;            /* the last so many of num_experts ids have no matrix and give their input:
                                           out += weight * x (LongCat). Where expert_map maps one to -1 it is skipped,
                                           other entries do not matter. Not with latent */
    /* Experts of a width of their own: they see latent->up x, and latent->down takes the sum over slots back. A
     * moe_experts of 1 expert without a gate, up [latent, hidden_size], down [hidden_size, latent]; its activation does
     * not count. experts then has hidden_size latent; router, shared expert and out are of the layer's hidden_size.
     * MOE_OUT_PAIRS rows, and x of a combine, are latent. */
    const struct moe_experts *latent;
    const struct moe_norm *latent_norm; /* of routed_scale * the sum, before latent->down; NULL: none */
};

/* The most experts, and ids, of a layer. */
#define MOE_MAX_EXPERTS 4096

struct moe_layer;
/* Everything that can fail, allocate or load happens here. ERR_ARGUMENT, ERR_UNSUPPORTED (names the axis),
 * ERR_MEMORY, ERR_DEVICE. Structs may go after return; experts must stay. */
MOE_API enum moe_status moe_layer_create(struct moe_backend *backend, const struct moe_layer_params *params,
                                         struct moe_layer **out, struct moe_error *error);
MOE_API void moe_layer_destroy(struct moe_layer *layer);

struct moe_layer_info {
    size_t struct_size;
    size_t hidden_size, intermediate_size, num_experts, top_k;
    bool has_router;                    /* the layer can compute logits itself */
    bool composed;                      /* runs from primitives */
    bool capturable;                    /* may be called while a stream captures */
    bool batch_invariant;               /* a token's bits do not depend on num_tokens; on other tokens they never do */
    bool exact;                         /* activations stay f32; false: some are rounded (MOE_LAYER_EXACT) */
    size_t num_zero_experts;            /* of num_experts */
    size_t expert_width;                /* what experts take and give: hidden_size, or latent */
    bool needs_token_ids;               /* routes by hash_table */
};
/* out->struct_size set by the caller. */
MOE_API enum moe_status moe_layer_info(const struct moe_layer *layer, struct moe_layer_info *out);

/* How a forward of num_tokens tokens, routed by the layer, would run and why, for people: one call of line per fact, on
 * this thread: ("path", "fused"), ("gate, up", "linear bf16 avx2, activations in f32"), ... Strings last until line
 * returns. Nothing is run. ERR_ARGUMENT, perhaps after some lines: num_tokens is 0, or more than the backend counts. */
MOE_API enum moe_status moe_layer_describe(const struct moe_layer *layer, size_t num_tokens,
                                           void (*line)(void *user, const char *key, const char *value), void *user);

/* One call. Routing comes from ids and weights, if ids is there; else from logits, if there; else from the layer's
 * router. All views are in the backend's memory. An id outside 0..num_experts-1 is an empty slot: it is skipped,
 * contributes nothing and is counted. The same id twice in a token counts twice.
 *
 *                      forward                        route                        combine
 *     x                needed                         for the router, if there     needed: what MOE_OUT_PAIRS gave,
 *                                                     is no router_x               [num_tokens * top_k, hidden_size]
 *     out              needed                         ignored                      needed
 *     ids, weights     one source of routing; with    ignored                      needed
 *                      MOE_OUT_PAIRS weights may be
 *                      absent (not if on the input)
 *     logits, router_x                 sources of routing                          ignored
 *     token_ids        needed where routing is by hash_table, unless ids come    ignored
 *     expert_map       may be there                   ignored                      may be there
 *     live_tokens      may be there                   may be there                 may be there
 *     out_ids,         may be there                   needed                       ignored
 *       out_weights
 *     expert_counts    may be there                   may be there                 ignored
 *     workspace        needed                         needed                       needed
 */
struct moe_layer_io {
    size_t struct_size;
    uint32_t flags;                /* enum moe_io_flags */
    size_t num_tokens;             /* 0 is allowed: nothing is done */
    size_t top_k;                  /* 0: the layer's. 1..num_experts, may differ from call to call */
    struct moe_view x;             /* [num_tokens, hidden_size] f32, f16, bf16 */
    struct moe_view out;           /* [num_tokens, hidden_size] f32, f16, bf16; need not be what x is */
    struct moe_view logits;        /* [num_tokens, num_experts] f32, f16, bf16 */
    struct moe_view ids;           /* [num_tokens, top_k] i32 or i64 */
    struct moe_view weights;       /* [num_tokens, top_k] f32, f16, bf16 */
    struct moe_view router_x;      /* input of the layer's router, [num_tokens, hidden_size]; absent: x */
    struct moe_view expert_map;    /* i32 [num_experts]: id -> matrix in experts, or -1: skipped. Absent: identity.
                                      May change between calls. An id that names no matrix is skipped */
    struct moe_view live_tokens;   /* i32 [1], read when the call runs, clamped to 0..num_tokens: tokens from there on
                                      are padding, not counted; their out is assigned 0 (left with
                                      MOE_ACCUMULATE), their ids -1, their weights 0 */
    struct moe_view out_ids;       /* i32 [num_tokens, top_k]: the ids used, -1 for one that was out of range */
    struct moe_view out_weights;   /* f32 [num_tokens, top_k]: the weights, as routed or given */
    struct moe_view expert_counts; /* i64 [num_experts], added to: pairs for each id in range, also skipped ones */
    struct moe_view workspace;     /* moe_layer_workspace_size bytes, 256-byte aligned; contents do not matter */
    struct moe_view token_ids;     /* [num_tokens, 1] i32 or i64, for hash_table */
};

/* Bytes of workspace for such a forward; enough for route and combine of the same sizes too. Reads num_tokens, top_k,
 * flags, formats, and which views are there (none has a base yet: for any source of routing), no data. Never falls as
 * num_tokens or top_k grows: size it once for the largest call of each format, share it between the layers of a
 * context. ERR_ARGUMENT also when sizes overflow; num_tokens * top_k must be below 2^31. */
MOE_API enum moe_status moe_layer_workspace_size(const struct moe_context *ctx, const struct moe_layer *layer,
                                                 const struct moe_layer_io *io, size_t *bytes);

/* Run the layer. No allocation; no lock, but for a short one where the context's own threads sleep and must be woken; a
 * composed layer synchronises, others do not. For a residual, give x and an out of its own with MOE_ACCUMULATE. Errors:
 * ERR_ARGUMENT (a view is missing, too small, misaligned, of a wrong format, or overlaps an output), ERR_WORKSPACE,
 * ERR_RANGE and ERR_NONFINITE (MOE_STRICT), ERR_UNSUPPORTED, ERR_DEVICE. */
MOE_API enum moe_status moe_layer_forward(struct moe_context *ctx, const struct moe_layer *layer,
                                          const struct moe_layer_io *io);

/* The same from inside the host's own team of threads: all nth of them call it at the same time with equal arguments
 * and ith = 0..nth-1; nth <= the context's num_threads, the same throughout a call. All of them get the status and may
 * start the next call at once. Threads wait for each other by spinning, so they must really run at the same time. Any
 * context will do; one made with team has no idle threads. ERR_UNSUPPORTED for a composed layer, and on backends
 * without host threads. */
MOE_API enum moe_status moe_layer_forward_team(struct moe_context *ctx, const struct moe_layer *layer,
                                               const struct moe_layer_io *io, size_t ith, size_t nth);

/* The halves of a forward, for hosts that move the tokens themselves (expert parallelism, caches).
 * route:   logits, or router_x or x through the layer's router -> out_ids and out_weights, both needed, and
 *          expert_counts if it is there.
 * combine: out[t] = sum over slots k in order of weights[t,k] * x[t * top_k + k]: x is what MOE_OUT_PAIRS gave,
 *          ids and weights as for the forward; slots whose id is out of range, or mapped to no matrix, are skipped and
 *          their x not used. With weight_on_input weights count as 1. No shared expert. */
MOE_API enum moe_status moe_layer_route(struct moe_context *ctx, const struct moe_layer *layer,
                                        const struct moe_layer_io *io);
MOE_API enum moe_status moe_layer_combine(struct moe_context *ctx, const struct moe_layer *layer,
                                          const struct moe_layer_io *io);

#ifdef __cplusplus
}
#endif

#include "moe/model.h"   /* 3. model files */

#endif
