// SPDX-License-Identifier: MIT
// Quantised tensors of safetensors files: which scheme one is of, and its values and scales as a struct moe_matrix.
#ifndef MOE_MODEL_QUANT_H
#define MOE_MODEL_QUANT_H

#include "model_matrix.h"

/* The values of the tensor that would be called plain: itself, or what a quantiser has in its place. NULL: none. */
const struct moe_archive_tensor *moe_quant_find(const struct moe_build *b, const char *plain,
                                                char full[MOE_TENSOR_NAME_SIZE]);

/* Do these values need scales? tensor as moe_quant_find gave it, for a name that would be plain. */
bool moe_quant_is_quantised(const struct moe_build *b, const struct moe_archive_tensor *tensor, const char *plain);

/* moe_matrix_load for values that do. name: of expert 0, or of the stack. */
enum moe_status moe_quant_load(const struct moe_build *b, const struct moe_request *request,
                               const struct moe_matrix_name *name, struct moe_matrix *out, void **bases);

/* The same of one matrix, as a copy in f32. */
enum moe_status moe_quant_load_plain(const struct moe_build *b, const struct moe_request *request,
                                     const struct moe_matrix_name *name, struct moe_matrix *out);

/* Where nothing was found: is it because of a method that this library does not know? MOE_OK: it is not. */
enum moe_status moe_quant_check_method(const struct moe_build *b, const char *full);

#endif
