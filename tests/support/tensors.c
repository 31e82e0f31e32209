// SPDX-License-Identifier: MIT
// Reading reference tensors through the library's own file API.
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct moe_model *test_open(const char *path, const char *file)
{
    char name[1024];
    struct moe_error error = {0};
    struct moe_model *model = NULL;
    snprintf(name, sizeof name, "%s%s%s", path, file != NULL ? "/" : "", file != NULL ? file : "");
    if (moe_model_open(name, NULL, &model, &error) != MOE_OK)
        fail_msg("%s: %s", name, error.text);
    return model;
}

double *test_tensor(struct moe_model *model, size_t layer, const char *what, size_t *rows, size_t *cols)
{
    char name[128];
    struct moe_tensor tensor;
    const void *data;
    struct moe_error error = {0};
    snprintf(name, sizeof name, "layer%zu.%s", layer, what);
    if (moe_model_tensor_find(model, name, &tensor) != MOE_OK)
        return NULL;
    if (moe_model_tensor_data(model, name, &data, &error) != MOE_OK)
        fail_msg("%s", error.text);
    assert_non_null(tensor.format);
    size_t bytes = tensor.format->block_bytes, n = (size_t)(tensor.size / bytes);
    double *out = moe_ref_alloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = moe_ref_value(tensor.format->format, (const char *)data + i * bytes);
    size_t last = tensor.num_dims > 0 ? tensor.shape[tensor.num_dims - 1] : 1;
    if (cols != NULL)
        *cols = last;
    if (rows != NULL)
        *rows = last > 0 ? n / last : 0;
    return out;
}

float *test_floats(const double *in, size_t n)
{
    float *out = moe_ref_alloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)in[i];
    return out;
}
