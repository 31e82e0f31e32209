// SPDX-License-Identifier: MIT
// What the test programs share: random data, guarded memory, comparisons, random layers of any layout and format, and
// calls of a layer through the public API that check what no call may do. Helpers abort through cmocka's asserts.
#ifndef MOE_TEST_SUPPORT_H
#define MOE_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "moe/moe.h"
#include "ref/ref.h"

/* ---- random data (random.c): a seed gives the same data everywhere ---------------------------------------- */

struct test_rng {
    uint64_t state;
};
uint64_t test_random(struct test_rng *rng);
size_t test_below(struct test_rng *rng, size_t n);          /* 0..n-1 */
double test_uniform(struct test_rng *rng);                  /* [0, 1) */
double test_gaussian(struct test_rng *rng);
void test_fill(struct test_rng *rng, float *out, size_t n, double scale);
/* Gaussian with tails as activations have them: one value in 50 is 20 times as large, one row in 4 is scaled by a
 * power of two between 2^-6 and 2^6. */
void test_fill_heavy(struct test_rng *rng, float *out, size_t rows, size_t cols, double scale);
/* A row of weights of about that scale, in any format: such values quantised, or random blocks where the format can
 * only be read (weights.c). */
void test_fill_weights(struct test_rng *rng, enum moe_format format, void *out, size_t cols, double scale);
/* The same of random blocks in any format: codes that quantised values seldom have. */
void test_random_weights(struct test_rng *rng, enum moe_format format, void *out, size_t cols, double scale);

/* ---- memory (memory.c): 64 guard bytes at both ends, filled with 0xff, which is NaN in f32, f16 and bf16 ---- */

void *test_alloc(size_t size);          /* 256-byte aligned; under ASan no byte beyond size may be read */
void test_guards(const void *ptr);      /* fails if a guard byte changed */
void test_release(void *ptr);           /* checks, then frees; NULL is allowed */
void *test_copy(const void *src, size_t size);

/* ---- comparison (compare.c) ------------------------------------------------------------------------------- */

double test_relative_error(const float *out, const double *ref, size_t n);              /* ||out - ref|| / ||ref|| */
double test_nmse(const float *out, const double *ref, size_t n);                        /* its square */
/* The largest |out - ref| / bound; infinity where out is NaN and ref is not; 0 / 0 is 0. */
double test_worst(const float *out, const double *ref, const double *bound, size_t n);
/* |value - ref| in units in the last place of ref rounded to f32; NaN equals NaN, an infinity itself. */
double test_ulps(float value, double ref);
bool test_same_set(const int64_t *a, const int64_t *b, size_t n);
/* Two different arrays with equal bits, or fail naming the first difference. */
#define test_assert_same(a, b, n, what) test_assert_same_(a, b, n, sizeof *(a), what, __FILE__, __LINE__)
void test_assert_same_(const void *a, const void *b, size_t n, size_t size, const char *what, const char *file,
                       int line);
#define test_assert_ok(status) test_assert_status(status, MOE_OK)
#define test_assert_status(status, expected) \
    test_assert_status_((enum moe_status)(status), (enum moe_status)(expected), __FILE__, __LINE__)
void test_assert_status_(enum moe_status status, enum moe_status expected, const char *file, int line);
/* value <= limit, or fail printing both; NaN fails. */
#define test_assert_most(value, limit, what) test_assert_most_(value, limit, what, __FILE__, __LINE__)
void test_assert_most_(double value, double limit, const char *what, const char *file, int line);

/* How far glu may be from moe_ref_glu, as docs/numerics.md promises (bounds.c). */
double test_glu_bound(const struct moe_act *act, double g, double u, bool gated);

/* ---- tensors of a file (tensors.c) ------------------------------------------------------------------------ */

/* Tensor "layerN.what" of an open file as doubles, shape [*rows, *cols] (both may be NULL); NULL if there is none.
 * free() it. */
double *test_tensor(struct moe_model *model, size_t layer, const char *what, size_t *rows, size_t *cols);
struct moe_model *test_open(const char *path, const char *file);   /* file NULL: the directory itself */
float *test_floats(const double *in, size_t n);                     /* free() it */

/* ---- a random layer (layer.c, spec.c) --------------------------------------------------------------------- */

/* How gate and up (and down) lie in memory. */
enum test_layout {
    TEST_DENSE,                  /* three stacks */
    TEST_JOINED,                 /* gate's rows, then up's, in one stack */
    TEST_ALTERNATE,              /* a row of gate, a row of up, ... */
    TEST_BASES,                  /* a block of memory for each expert, rows padded */
    TEST_TRANSPOSED,
    TEST_TRANSPOSED_ALTERNATE,   /* transposed, columns of gate and up alternate, also in the bias */
    TEST_NUM_LAYOUTS
};

struct test_experts_spec {
    size_t num_experts, hidden_size, intermediate_size;
    enum moe_format gate, up, down;      /* one format for gate and up where they share a tensor: up's */
    enum test_layout layout;
    bool no_gate, bias;
    enum moe_format bias_format;
    struct moe_act act;                  /* struct_size 0: none given */
};

struct test_experts {
    struct moe_experts_params params;
    struct moe_matrix gate, up, down;
    struct moe_act act;
    void **memory;                       /* num_memory blocks of test_alloc */
    size_t num_memory;
};
void test_experts_init(struct test_experts *experts, struct test_rng *rng, const struct test_experts_spec *spec);
void test_experts_free(struct test_experts *experts);

struct test_layer_spec {
    struct test_experts_spec experts;
    size_t num_experts;                  /* 0: as many as there are matrices */
    size_t top_k;
    bool no_routing, router, router_bias, selection_bias;
    enum moe_format router_format;
    struct moe_routing routing;          /* its plain fields */
    size_t shared_size;                  /* intermediate_size of the shared expert, 0: none */
    bool shared_plain;                   /* all of it in shared_format; otherwise formats of experts */
    enum moe_format shared_format;
    bool shared_gate;
    struct moe_act shared_act;           /* struct_size 0: that of experts */
    bool weight_on_input;
    size_t hidden_size;                  /* of a layer whose experts are latent; 0: they are not */
    bool latent_bias, latent_norm;
    enum moe_format latent_format;
    size_t num_zero_experts;             /* of num_experts; if that is 0, as well as the matrices */
    float routed_scale, out_scale;
    bool out_bias, out_norm, norm_unit;  /* norm_unit: both norms; they have a scale if out_bias */
    float norm_eps;
};

struct test_layer {
    struct test_experts experts, shared_experts, latent;
    struct moe_norm out_norm, latent_norm;
    struct moe_routing routing;
    struct moe_matrix router, shared_gate;
    struct moe_shared shared;
    struct moe_layer_params params;
    struct moe_model_block block;        /* for moe_ref_layer */
    size_t num_experts, top_k, hidden_size, expert_width;
    void *memory[7];
};
void test_layer_init(struct test_layer *layer, struct test_rng *rng, const struct test_layer_spec *spec);
void test_layer_free(struct test_layer *layer);

/* Any mix of axes that a layer may have: formats, layouts, biases, activations, routing, shared expert, and those of
 * test_spec_axes. Small. */
void test_spec_random(struct test_layer_spec *spec, struct test_rng *rng);

/* Any mix of latent experts, zero experts, scales, bias and norm of the sum, a shared expert's own activation, for a
 * spec that has the rest. */
void test_spec_axes(struct test_layer_spec *spec, struct test_rng *rng);

struct test_handle {
    struct moe_experts *experts, *shared, *latent;
    struct moe_layer *layer;
};
/* The layer and its experts made by the library; flags of enum moe_layer_flags. */
void test_handle_open(struct test_handle *handle, struct moe_backend *backend, const struct test_layer *layer,
                      uint32_t flags);
void test_handle_close(struct test_handle *handle);

struct moe_backend *test_backend(const char *name);
struct moe_context *test_context(struct moe_backend *backend, size_t num_threads);

/* ---- one call of a layer (call.c) ------------------------------------------------------------------------- */

enum test_entry { TEST_FORWARD, TEST_ROUTE, TEST_COMBINE, TEST_TEAM };

/* Values come and go as f32 and lie dense here; the call sees them in the formats and with the padding given. */
struct test_call {
    enum test_entry entry;
    size_t team;                         /* threads of TEST_TEAM */
    uint32_t flags;
    size_t num_tokens, top_k;            /* top_k 0: the layer's */
    const float *x, *router_x, *logits, *weights;
    const int64_t *ids;
    const int64_t *token_ids;            /* in the format of ids */
    const int32_t *expert_map, *live_tokens;
    const float *start;                  /* what is in out before; NULL: NaN */
    enum moe_format x_format, out_format, logits_format, weights_format;
    enum moe_format ids_format;          /* 0: i32 */
    size_t padding;                      /* values between the rows of every view */
    unsigned char dirt;                  /* what workspace and out (without start) are full of; 0: 0xff, NaN */
    size_t workspace_missing;            /* bytes by which the workspace is too short */
    float *out;                          /* NULL, here and below: not wanted */
    int32_t *out_ids;
    float *out_weights;
    int64_t *counts;                     /* added to */
    enum moe_ref_activations activations;    /* what the bound of test_call_ref is to allow */
};

/* Run it with a workspace of exactly the size asked for, full of NaN. Fails if a guard, an input or the padding of an
 * output changed, or if anything was written in spite of an error. */
enum moe_status test_call_run(struct moe_context *ctx, const struct moe_layer *layer, const struct test_call *call);

/* The same by src/ref; out_ids, out_weights and bound may be NULL. */
void test_call_ref(const struct moe_model_block *block, const struct test_call *call, double *out, double *bound,
                   int64_t *out_ids, double *out_weights);

/* What the layer rounds activations to, at worst: nothing where it says so, bf16 where no matrix has blocks, else
 * int8, or where its bits depend on the number of tokens a choice. */
enum moe_ref_activations test_rounding(const struct moe_layer *layer, const struct moe_model_block *block);

/* What moe_layer_describe says (lines.c). */
struct test_lines {
    size_t count;
    struct {
        char key[24], value[200];
    } line[16];
};
struct test_lines test_lines_of(const struct moe_layer *layer, size_t num_tokens);
/* The value of a key that is there once; "" if it is not there. */
const char *test_line(const struct test_lines *lines, const char *key);
/* The keys in their order, "|" between them. */
void test_assert_keys(const struct test_lines *lines, const char *keys);

/* Round values to a format and back. */
void test_round(float *values, size_t n, enum moe_format format);

struct moe_view test_view(const void *base, size_t size, size_t stride, enum moe_format format);

#endif
