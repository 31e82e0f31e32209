// SPDX-License-Identifier: MIT
// The fused layer of the CUDA backend: what it keeps of a layer, and the functions of its table.
#ifndef MOE_CUDA_LAYER_CUDA_H
#define MOE_CUDA_LAYER_CUDA_H

#include "cuda/cuda.h"
#include "cuda/kernels.h"
#include "cuda/regime.h"
#include "cuda/route.h"

/* A set of experts as products take it. */
struct moe_cuda_set {
    struct moe_cuda_stack gate, up, down;
    const struct moe_cuda_weights *in, *out;    /* kernels of gate and up, and of down */
    struct moe_cuda_act act;
    bool gated;
    uint32_t num_matrices, hidden_size, intermediate_size;
};

struct moe_cuda_layer {
    const struct moe_cuda *device;
    const struct moe_layer_desc *desc;
    struct moe_cuda_set experts, shared, latent;    /* the last two if desc has them */
    struct moe_cuda_router router;
    const float *shared_gate, *out_bias, *out_norm_scale, *latent_norm_scale;    /* device; NULL: none */
    void *memory;                 /* what all these point to, beside weights */
};

/* upload_cuda.c. The device's copy of what a description has in host memory; memory is layer->memory afterwards, also
 * after an error. */
enum moe_status moe_upload_cuda_layer(struct moe_cuda_layer *layer, struct moe_error *error);

/* layer_cuda.c, forward_cuda.c: as in struct moe_backend_ops. */
enum moe_status moe_layer_cuda_open(void *self, const struct moe_layer_desc *desc, void **state,
                                    struct moe_layer_info *info, struct moe_error *error);
void moe_layer_cuda_close(void *state);
enum moe_status moe_layer_cuda_workspace_size(const void *ctx, const void *state, const struct moe_layer_io *io,
                                              size_t *bytes);
enum moe_status moe_layer_cuda_forward(void *ctx, const void *state, const struct moe_layer_io *io,
                                       struct moe_stats *stats);
enum moe_status moe_layer_cuda_route(void *ctx, const void *state, const struct moe_layer_io *io,
                                     struct moe_stats *stats);
enum moe_status moe_layer_cuda_combine(void *ctx, const void *state, const struct moe_layer_io *io,
                                       struct moe_stats *stats);

/* forward_cuda.c. Which kernel makes a product, whose sizes of the device are filled in; large leaves what does not fit
 * it to small. has_wide: whether wide was a choice; NULL: that is not asked. */
enum moe_cuda_way moe_layer_cuda_way(const struct moe_cuda_layer *layer, const struct moe_cuda_weights *weights,
                                     struct moe_cuda_product *product, bool *has_wide);

/* forward_cuda.c. Whether down of the experts and the sum over slots are one launch. */
bool moe_layer_cuda_sums_in_down(const struct moe_cuda_layer *layer, size_t num_tokens, size_t num_pairs);

/* describe_cuda.c */
enum moe_status moe_layer_cuda_describe(const void *state, size_t num_tokens,
                                        void (*line)(void *user, const char *key, const char *value), void *user);

#endif
