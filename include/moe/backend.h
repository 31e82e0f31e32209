// SPDX-License-Identifier: MIT
// For authors of a backend: one table of functions. Not stable before 1.0: a backend is built against one
// MOE_BACKEND_ABI. docs/add-a-backend.md walks through it, examples/own_backend.c is a whole one. ABI 4 has
// layer_describe.
//
// Fill the required functions and every call of moe.h works, run from primitives by the core. Then write layer_* for
// speed. The core has checked what arrives here: sizes agree, views are large enough and do not overlap. A view's base
// is yours: the core moves offsets and never looks behind base, unless the table says MOE_BACKEND_HOST_MEMORY.
// Functions on one ctx come one at a time; those on self may come from any thread.
#ifndef MOE_BACKEND_H
#define MOE_BACKEND_H

#include "moe/moe.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_BACKEND_ABI 4

/* Scales of a matrix in backend memory: the value at (r, c) is (q - zero - zero_offset) * scale * factor, of block row
 * i = (first_row + r) / block_rows and block column j = column_block ? column_block[c] : c / block_cols. */
struct moe_slice_scales {
    size_t first_row, block_rows, block_cols;   /* blocks never 0 */
    struct moe_view scale;        /* [.., ..] f32, f16, bf16, e4m3, e8m0, stride set; absent: 1 */
    struct moe_view zero;         /* [.., ..] u8, stride set; absent: 0 */
    struct moe_view column_block; /* i32 [cols]; absent: none */
    float zero_offset, factor;
};

/* One matrix in backend memory, [rows, cols], cut out of its stack: data.offset is its first row, data.stride is set,
 * data.size covers it, data.format is a format of weights. */
struct moe_slice {
    struct moe_view data;
    size_t rows, cols;
    bool scaled;                  /* scales count; never without MOE_BACKEND_SCALES */
    struct moe_slice_scales scales;
};

/* A part of a stack's scales: a matrix for each expert, found as its values are. data.base and bases NULL: absent. */
struct moe_plane {
    struct moe_view data;         /* stride always set */
    size_t expert_stride;
    void *const *bases;
};
struct moe_stack_scales {
    size_t first_row, block_rows, block_cols;
    struct moe_plane scale, zero, column_block;
    const float *host_factors;    /* host, [num_experts]; NULL: 1 */
    float zero_offset;
};

/* num_experts matrices of one shape and format, as the core made them ready for this backend: in place, or copied. */
struct moe_stack {
    struct moe_view data;         /* stride always set */
    size_t expert_stride;         /* bytes */
    void *const *bases;           /* one base for each expert, or NULL: data.base and expert_stride */
    size_t num_experts, rows, cols;
    struct moe_view bias;         /* f32 [num_experts, rows], dense, backend memory; absent: none */
    const float *host_bias;       /* the same in host memory; NULL: none */
    const struct moe_stack_scales *scales;   /* NULL: none */
};

/* A set of experts, ready for this backend. */
struct moe_expert_set {
    size_t num_experts, hidden_size, intermediate_size;
    bool gated;                   /* gate is set */
    struct moe_stack gate, up, down;
    struct moe_act act;           /* alpha filled in */
};

/* Expert e of a stack; e < num_experts. */
MOE_API struct moe_slice moe_stack_slice(const struct moe_stack *stack, size_t e);

/* Routing with its defaults filled in (scores never DEFAULT, scale never 0, groups 0 for none). */
struct moe_router {
    size_t num_experts;
    enum moe_score select, weight;
    const float *selection_bias;      /* host, [num_experts]; NULL: none */
    size_t num_groups, top_groups;
    enum moe_group_score group_score;
    bool group_mask_zero;
    enum moe_renorm renorm;
    float renorm_eps, scale;
    const float *host_matrix;         /* host, [num_experts, hidden_size], dense, times norm's scale; NULL: logits come
                                         with the call */
    const float *host_bias;           /* host, [num_experts], added to the matrix' logits; NULL: none */
    bool norm, norm_unit;             /* the matrix' logits, before the bias, are divided by sqrt(mean of x^2 +
                                         norm_eps), and by sqrt(hidden_size) if unit */
    float norm_eps;
    float softcap;                    /* 0: none */
    float renorm_p, sparsemixer_eps;
    const float *expert_scale;        /* host, [num_experts]; NULL: none */
    const int32_t *hash_table;        /* host, [hash_rows, hash_cols]; NULL: none */
    size_t hash_rows, hash_cols;
    size_t num_always;
};

/* struct moe_norm, ready: scale is host memory, NULL for 1. */
struct moe_norm_desc {
    const float *scale;
    float eps;
    bool unit;
};

/* A layer, ready for this backend; lives as long as the layer. */
struct moe_layer_desc {
    uint32_t flags;                       /* enum moe_layer_flags */
    size_t num_experts, top_k;
    const struct moe_expert_set *experts;
    const struct moe_expert_set *shared;  /* NULL: none */
    const float *host_shared_gate;        /* host, [hidden_size]; NULL: the shared expert is added as it is */
    float shared_gate_bias;               /* added before the sigmoid */
    const struct moe_router *router;      /* NULL: ids and weights come with the call */
    bool weight_on_input;
    size_t hidden_size;                   /* of x, router, shared expert and out; experts->hidden_size unless latent */
    size_t num_zero_experts;              /* the last of num_experts ids */
    const struct moe_expert_set *latent;  /* up and down of 1 expert; NULL: none */
    const struct moe_norm_desc *latent_norm, *out_norm;   /* NULL: none */
    float routed_scale, out_scale;        /* never 0 */
    const float *host_out_bias;           /* host, [hidden_size]; NULL: none */
};

enum moe_backend_flags {
    MOE_BACKEND_HOST_MEMORY = 1,  /* base is a host address: host weights are read in place, views are checked for
                                     alignment and overlap */
    MOE_BACKEND_SCALES = 2,       /* linear takes slices with scales; otherwise such weights are copied as f32 */
    MOE_BACKEND_ADDRESSES = 4,    /* base is an address, though not the host's: views are checked as with HOST_MEMORY */
    MOE_BACKEND_PLANES = 8        /* with SCALES: MXFP4 arrives, where it is copied, as codes (E2M1) with a plane of
                                     scales, and so do Q8_0 and Q4_0 (I8, U4) whose rows are no multiple of 16 bytes:
                                     the same values in as many bytes */
};

struct moe_backend_ops {
    uint32_t abi;                 /* MOE_BACKEND_ABI */
    uint32_t flags;               /* enum moe_backend_flags */
    const char *name;             /* "cpu" */

    /* -- required: device. open: device is what follows "name:", or NULL; env may be NULL ------------------------- */
    enum moe_status (*open)(const char *device, const struct moe_env *env, void **self, struct moe_error *error);
    void (*close)(void *self);
    enum moe_status (*context_open)(void *self, const struct moe_context_params *params, void **ctx,
                                    struct moe_error *error);
    void (*context_close)(void *ctx);
    enum moe_status (*mem_alloc)(void *self, size_t size, struct moe_view *out);
    void (*mem_free)(void *self, const struct moe_view *mem);
    /* Done on return, in order with the work queued before. ctx NULL (from create functions): no work is queued. */
    enum moe_status (*mem_write)(void *self, void *ctx, const struct moe_view *dst, const void *src, size_t size);
    enum moe_status (*mem_read)(void *self, void *ctx, void *dst, const struct moe_view *src, size_t size);
    enum moe_status (*sync)(void *ctx);

    /* -- required: arithmetic, queued in order, one dispatch each. Vectors are dense; f32 unless said ----------- */
    /* dst[i] = src[i], i < n; each of f32, f16, bf16 */
    enum moe_status (*copy)(void *ctx, const struct moe_view *dst, const struct moe_view *src, size_t n);
    /* y[r] = sum over c of w[r,c] * x[c]; every format of MOE_FORMAT_MAP; slices with scales if flags say so */
    enum moe_status (*linear)(void *ctx, const struct moe_view *y, const struct moe_slice *w, const struct moe_view *x);
    /* y[i] = act(g[i]) * (g[n + i] + up_offset), clamped as act says; not gated: y[i] = act(g[i]). i < n */
    enum moe_status (*glu)(void *ctx, const struct moe_view *y, const struct moe_view *g, size_t n,
                           const struct moe_act *act, bool gated);
    /* y[i] = a * x[i], or y[i] += a * x[i]; y is f32, f16 or bf16, added in f32 and rounded once */
    enum moe_status (*scaled_add)(void *ctx, const struct moe_view *y, const struct moe_view *x, float a, size_t n,
                                  bool accumulate);

    /* -- optional (NULL) ------------------------------------------------------------------------------------------ */
    enum moe_status (*set_stream)(void *ctx, void *stream);
    void (*describe)(const void *self, void (*line)(void *user, const char *key, const char *value), void *user);
    /* Add what the device has counted of skipped pairs and rows without a finite logit, where layer_* leave that to it;
     * waits for the work queued before. reset: it counts from 0 again. */
    enum moe_status (*context_stats)(void *ctx, struct moe_stats *stats, bool reset);

    /* -- optional: a layer fused as the backend likes; all of them (the last two may be NULL), or none ----- */
    /* Everything that can fail, allocate or load happens here; sets the last four fields of info. ERR_UNSUPPORTED:
     * error says which axis, and the core composes the layer if the caller allows it. */
    enum moe_status (*layer_open)(void *self, const struct moe_layer_desc *desc, void **state,
                                  struct moe_layer_info *info, struct moe_error *error);
    void (*layer_close)(void *state);
    /* io: defaults filled in, top_k set. Status ERR_ARGUMENT on overflow. */
    enum moe_status (*layer_workspace_size)(const void *ctx, const void *state, const struct moe_layer_io *io,
                                            size_t *bytes);
    /* io: checked, workspace large enough; strides set. stats: what the call skipped is added. */
    enum moe_status (*layer_forward)(void *ctx, const void *state, const struct moe_layer_io *io,
                                     struct moe_stats *stats);
    enum moe_status (*layer_route)(void *ctx, const void *state, const struct moe_layer_io *io,
                                   struct moe_stats *stats);
    enum moe_status (*layer_combine)(void *ctx, const void *state, const struct moe_layer_io *io,
                                     struct moe_stats *stats);
    enum moe_status (*layer_forward_team)(void *ctx, const void *state, const struct moe_layer_io *io,
                                          struct moe_stats *stats, size_t ith, size_t nth);
    /* What moe_layer_describe says of the fused layer's products. num_tokens is not 0, num_tokens * top_k no overflow;
     * ERR_ARGUMENT: more than a call may have. */
    enum moe_status (*layer_describe)(const void *state, size_t num_tokens,
                                      void (*line)(void *user, const char *key, const char *value), void *user);
};

/* Open a backend from its table, which must outlive it. Otherwise as moe_backend_open. ERR_ARGUMENT: a table of
 * another MOE_BACKEND_ABI, or with a required function missing. */
MOE_API enum moe_status moe_backend_open_ops(const struct moe_backend_ops *ops, const char *device,
                                             const struct moe_env *env, struct moe_backend **out,
                                             struct moe_error *error);

#ifdef __cplusplus
}
#endif
#endif
