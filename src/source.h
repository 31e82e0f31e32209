// SPDX-License-Identifier: MIT
// Matrices as a caller describes them: checked once, then read in rows, whatever their strides, transposition, packing.
#ifndef MOE_SOURCE_H
#define MOE_SOURCE_H

#include "check.h"
#include "moe/backend.h"

/* num_experts matrices [rows, cols]. */
struct moe_source {
    struct moe_matrix matrix; /* strides filled in; bases point to our copy once creation is done */
    size_t num_experts, rows, cols;
    size_t expert_bytes;      /* from the first to the last byte of an expert */
    bool copied;              /* values were copied to packed; otherwise they are read in place */
    size_t packed_offset;     /* in packed, if copied */
    void **bases;             /* [num_experts]; NULL: none */
};

/* Values in a word of a packed matrix; 0: it is not packed. */
size_t moe_source_word_values(const struct moe_matrix *matrix);

/* Read the caller's struct and check it: name is for sentences, allow tells the formats that it may have. */
typedef bool moe_source_allow_fn(enum moe_format format);
enum moe_status moe_source_check(struct moe_source *source, const struct moe_matrix *given, const char *name,
                                 moe_source_allow_fn *allow, size_t num_experts, size_t rows, size_t cols,
                                 struct moe_error *error);

/* Keep a copy of the bases, which are the caller's only until creation returns. */
enum moe_status moe_source_keep(struct moe_source *source, const struct moe_env *env);
void moe_source_free(struct moe_source *source, const struct moe_env *env);

/* Matrix e of host memory, dense rows in its format. */
void moe_source_read(const struct moe_source *source, size_t e, unsigned char *out);

/* The same of U4, U8 or I8, a byte a value; I8 with 128 added. */
void moe_source_read_bytes(const struct moe_source *source, size_t e, uint8_t *out);

#endif
