// SPDX-License-Identifier: MIT
// Tensors of a block as matrices and vectors over the file's memory, checked.
#ifndef MOE_MODEL_MATRIX_H
#define MOE_MODEL_MATRIX_H

#include "model.h"

enum { MOE_TENSOR_NAME_SIZE = 160 };

/* A block under construction. */
struct moe_build {
    struct moe_model *model;
    size_t block;
    struct moe_error *error;
    struct moe_model_entry *entry;   /* whose memory keeps what matrices point to */
};

/* num_experts matrices [rows, cols] that are wanted from the tensor, or tensors, called name. A fused tensor has two
 * such parts. */
struct moe_request {
    const char *name;                /* pattern: "{e}" is the expert, "{b}" the block, '|' parts alternatives */
    uint32_t layout;                 /* enum moe_mlp_layout */
    size_t num_parts, part;
    size_t num_experts, rows, cols;
    bool plain;                      /* only f32, f16, bf16 will do */
};

/* The first of name's alternatives that is there, behind the block's prefix, as it is called or as a quantiser calls
 * its values. full: its name; where none is there, the first alternative's. */
const struct moe_archive_tensor *moe_matrix_find(const struct moe_build *b, const char *name, size_t expert,
                                                 char full[MOE_TENSOR_NAME_SIZE]);
enum moe_status moe_matrix_fail_missing(const struct moe_build *b, const char *full);
/* Is it a pattern with one tensor for each expert? */
bool moe_matrix_is_each(const char *name);

/* bases: [num_experts], filled where the experts have a tensor each. */
enum moe_status moe_matrix_load(const struct moe_build *b, const struct moe_request *request, struct moe_matrix *out,
                                void **bases);
/* A vector [num_experts, rows] of plain values, of a fused tensor the part that is wanted; absent unless required. */
enum moe_status moe_matrix_load_vectors(const struct moe_build *b, const struct moe_request *request, bool required,
                                        struct moe_view *out, size_t *element_stride);

/* ---- for model_quant.c ---- */

/* The name of the first alternative that is there for an expert, and the one that a plain tensor would have. */
struct moe_matrix_name {
    char plain[MOE_TENSOR_NAME_SIZE], full[MOE_TENSOR_NAME_SIZE];
    const struct moe_archive_tensor *tensor;   /* NULL: none; both names are then the first alternative's */
};
void moe_matrix_find_name(const struct moe_build *b, const char *name, size_t expert, struct moe_matrix_name *out);

enum { MOE_SHAPE_SIZE = 112 };
void moe_matrix_describe_shape(char out[MOE_SHAPE_SIZE], const size_t *shape, size_t num_dims);
/* Name of what a tensor holds, known or not. */
void moe_matrix_describe_type(char out[32], const struct moe_tensor *info);

#endif
