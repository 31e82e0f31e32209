// SPDX-License-Identifier: MIT
// The scales of a caller's matrix: checked, and made ready for a backend, in place or copied.
#ifndef MOE_SCALES_H
#define MOE_SCALES_H

#include "source.h"

/* struct moe_scales as the caller described it. Of the four matrices those count whose num_experts is not 0. */
struct moe_scales_source {
    bool there;
    struct moe_scales scales;       /* blocks never 0 */
    size_t rows, cols;              /* of the matrix */
    size_t num_blocks[2];           /* block rows, block columns */
    struct moe_source scale, zero, factor, column_block;
    float *host_factors;            /* [num_experts]; NULL: all 1 */
    struct moe_stack_scales stack;  /* what the backend sees */
};

/* Check the scales of a matrix [rows, cols] called name. */
enum moe_status moe_scales_check(struct moe_scales_source *out, const struct moe_scales *given, const char *name,
                                 size_t num_experts, size_t rows, size_t cols, struct moe_error *error);

/* Decide what is copied, and reserve its place from *total on. readable: the backend can use the memory that the scales
 * are in. */
enum moe_status moe_scales_plan(struct moe_scales_source *scales, bool readable, size_t *total);

/* Is there anything that only a copy serves? */
bool moe_scales_need_copies(const struct moe_scales_source *scales);

enum moe_status moe_scales_keep(struct moe_scales_source *scales, const struct moe_env *env);
void moe_scales_free(struct moe_scales_source *scales, const struct moe_env *env);

/* Point the stack's scales at what was planned; packed: where copies are. */
void moe_scales_place(struct moe_scales_source *scales, const struct moe_view *packed);

/* (Re)do the copies in the backend's memory. ERR_ARGUMENT: column_block names a block that is none. */
enum moe_status moe_scales_copy(struct moe_scales_source *scales, const struct moe_backend_ops *ops, void *self,
                                void *ctx, const struct moe_env *env, struct moe_error *error);

/* A matrix as f32: host memory for one expert's scales, and the values made of codes. */
struct moe_scales_expansion {
    unsigned char *memory;
    size_t bytes;
    struct moe_slice_scales slice;
};
enum moe_status moe_scales_expand_begin(struct moe_scales_expansion *expansion, const struct moe_scales_source *scales,
                                        const struct moe_env *env);
/* values: [rows, cols], codes of expert e as f32, in and out. */
enum moe_status moe_scales_expand(struct moe_scales_expansion *expansion, const struct moe_scales_source *scales,
                                  size_t e, float *values, struct moe_error *error);
void moe_scales_expand_end(struct moe_scales_expansion *expansion, const struct moe_env *env);

#endif
