// SPDX-License-Identifier: MIT
// Pieces of layer creation, each in a file of its own: host copies of small matrices and vectors (layer_copy.c),
// routing (layer_routing.c), the axes around the experts (layer_axes.c).
#ifndef MOE_LAYER_PARTS_H
#define MOE_LAYER_PARTS_H

#include "objects.h"

/* A dense f32 copy of rows x cols values of a host view of f32, f16 or bf16; NULL in *out if the view is absent.
 * name is for the error's sentence. */
enum moe_status moe_layer_copy_view(const struct moe_env *env, float **out, const struct moe_view *view, size_t rows,
                                    size_t cols, const char *name, struct moe_error *error);

/* A float matrix of one "expert", [rows, cols], and its bias [rows], NULL if it has none. */
enum moe_status moe_layer_copy_matrix(const struct moe_env *env, float **matrix, float **bias,
                                      const struct moe_matrix *given, size_t rows, size_t cols, const char *name,
                                      struct moe_error *error);

/* A norm of vectors of size values: *scale is a copy for the caller to free, NULL for 1, and desc->scale points to it.
 * given is not NULL. */
enum moe_status moe_layer_copy_norm(const struct moe_env *env, float **scale, struct moe_norm_desc *desc,
                                    const struct moe_norm *given, size_t size, const char *name,
                                    struct moe_error *error);

/* layer->router, and desc.router if given is not NULL. desc has num_experts, top_k and hidden_size. What was made stays
 * with the layer on an error too, for destroy. */
enum moe_status moe_layer_routing_create(struct moe_layer *layer, const struct moe_routing *given,
                                         struct moe_error *error);
void moe_layer_routing_destroy(struct moe_layer *layer);

/* The axes of desc around the experts: latent, zero experts, shared expert, scales, bias and norm of the sum. desc has
 * experts; of the two, sizes fills in hidden_size, num_experts and num_zero_experts, axes all the rest. What was made
 * stays with the layer on an error too, for destroy. */
enum moe_status moe_layer_axes_sizes(struct moe_layer *layer, const struct moe_layer_params *params,
                                     struct moe_error *error);
enum moe_status moe_layer_axes_create(struct moe_layer *layer, const struct moe_layer_params *params,
                                      struct moe_error *error);
void moe_layer_axes_destroy(struct moe_layer *layer);

#endif
