// SPDX-License-Identifier: MIT
// What the schemes of model_quant.c are made of: keys of quantization_config, tensors that belong to a matrix, and
// their places in struct moe_scales.
#ifndef MOE_MODEL_QUANT_PARTS_H
#define MOE_MODEL_QUANT_PARTS_H

#include "model_matrix.h"

/* The scales of a matrix, in the block's memory. */
struct moe_quant_memory {
    struct moe_scales scales;
    struct moe_matrix scale, zero, factor, column_block;
};

/* One matrix, or one part of a fused tensor, being loaded. */
struct moe_quant {
    const struct moe_build *b;
    const struct moe_request *request;
    bool each;                  /* experts have a tensor each */
    struct moe_quant_memory *memory;
};

/* A tensor of the matrix: of the stack, or of all experts. */
struct moe_quant_part {
    const struct moe_archive_tensor *tensor;   /* of expert 0, or of the stack; NULL: absent */
    const void *data;                          /* of the stack */
    void **bases;                              /* [num_experts], for experts that have a tensor each, or share one */
    size_t num_dims, shape[MOE_MAX_DIMS];      /* of one expert, without dimensions of 1 */
    size_t num_experts;                        /* of a stack; 1: a tensor each, or one for all */
};

/* Blocks of scales over a tensor [rows x parts, cols], and which of them are the part's. */
struct moe_quant_grid {
    size_t block_rows, block_cols;    /* 0: all of them */
    size_t rows, cols;                /* blocks in the tensor */
    bool transposed;                  /* stored [cols, rows] */
    bool own;                         /* each part begins a block */
    size_t start, step, first_row;    /* block row where the part begins, from row to row, rows before the part */
};

/* ---- quantization_config ---- */

struct moe_quant_key {
    char name[192];             /* in full */
    struct moe_value value;
};
bool moe_quant_find_key(const struct moe_model *model, const char *name, struct moe_quant_key *out);
/* The i-th value of a key of weights: of quantization_config itself, or of each group of config_groups. */
bool moe_quant_find_weights_key(const struct moe_model *model, const char *name, size_t i, struct moe_quant_key *out);
/* Does it transform what goes into matrices (compressed-tensors' transform_config)? *key: one that says so. */
bool moe_quant_find_transform(const struct moe_model *model, const char **key);
/* Does it have rules that give some tensors other sizes? GPTQModel's "dynamic", auto-round's "extra_config". */
bool moe_quant_has_rules(const struct moe_model *model);

/* ---- tensors ---- */

/* The tensor beside the one called plain, with one of the suffixes, parted by '|', in place of ".weight". Names without
 * ".weight" get them with '_'. NULL: none; full is then the first that was looked for. */
const struct moe_archive_tensor *moe_quant_find_part(const struct moe_archive *archive, const char *plain,
                                                     const char *suffixes, char full[MOE_TENSOR_NAME_SIZE]);

/* All experts' tensors of that suffix, of one shape and type. bases: [num_experts]; NULL: from the block's memory. */
enum moe_status moe_quant_load_part(const struct moe_quant *q, struct moe_quant_part *out, const char *suffixes,
                                    bool required, void **bases);
/* Is an expert's shape [a, b, c], leaving out dimensions of 1? */
bool moe_quant_part_has(const struct moe_quant *q, const struct moe_quant_part *part, size_t a, size_t b, size_t c);
enum moe_status moe_quant_fail_shape(const struct moe_quant *q, const struct moe_quant_part *part, size_t a, size_t b,
                                     size_t c);
enum moe_status moe_quant_fail_groups(const struct moe_quant *q, const struct moe_quant_part *part, size_t group);
enum moe_status moe_quant_fail_layout(const struct moe_quant *q, const struct moe_quant_part *part, const char *what);
enum moe_status moe_quant_fail_memory(const struct moe_quant *q);
enum moe_status moe_quant_check_type(const struct moe_quant *q, const struct moe_quant_part *part, const char *expected,
                                     enum moe_format one, enum moe_format other);

/* n / block, rounded up */
size_t moe_quant_blocks(size_t n, size_t block);

/* ---- matrices ---- */

/* out over the part, lines of stride bytes, from offset on. */
void moe_quant_describe(const struct moe_quant_part *part, enum moe_format format, size_t offset, size_t stride,
                        struct moe_matrix *out);
/* Rows of row_bytes; of a fused tensor those of the request's part. */
enum moe_status moe_quant_place_rows(const struct moe_quant *q, const struct moe_quant_part *part,
                                     enum moe_format format, size_t row_bytes, struct moe_matrix *out);
/* The same after checking the shape [rows, stored_cols], or transposed. */
enum moe_status moe_quant_rows(const struct moe_quant *q, const struct moe_quant_part *part, enum moe_format format,
                               size_t stored_cols, bool transposed, struct moe_matrix *out);

/* What a scale's values are: u8 is e8m0. */
enum moe_format moe_quant_scale_format(const struct moe_quant_part *part);
/* The blocks that a scale's shape, the request and quantization_config come to. transposed: values are stored so. */
enum moe_status moe_quant_find_grid(const struct moe_quant *q, const struct moe_quant_part *scale, bool transposed,
                                    struct moe_quant_grid *out);
/* Blocks are known: which are the part's. */
enum moe_status moe_quant_settle_grid(const struct moe_quant *q, const struct moe_quant_part *scale,
                                      struct moe_quant_grid *grid);
/* Scales [groups, rows] of columns in groups. */
enum moe_status moe_quant_find_groups(const struct moe_quant *q, const struct moe_quant_part *scale,
                                      struct moe_quant_grid *out);
/* Describe the plane in *matrix, point *place to it, and set the blocks of the scales. */
enum moe_status moe_quant_add_plane(const struct moe_quant *q, const struct moe_quant_part *part,
                                    const struct moe_quant_grid *grid, enum moe_format format,
                                    struct moe_matrix *matrix, const struct moe_matrix **place);
enum moe_status moe_quant_add_factor(const struct moe_quant *q, const struct moe_quant_part *part);
/* The block column of each column; left out where the file says that it is not set. */
enum moe_status moe_quant_add_columns(const struct moe_quant *q, const struct moe_quant_part *part);
/* Zeros that were stored less 1. */
enum moe_status moe_quant_add_one(const struct moe_quant *q, struct moe_quant_part *zero, size_t bits);

#endif
