// SPDX-License-Identifier: MIT
// Reading reference.safetensors by the rules in zoo.h.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "zoo.h"

static int64_t *integers(double *values, size_t n)
{
    if (values == NULL)
        return NULL;
    int64_t *out = moe_ref_alloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = (int64_t)values[i];
    free(values);
    return out;
}

/* input_ids has no layer in its name. */
static int64_t *read_token_ids(struct moe_model *file, size_t num_tokens)
{
    struct moe_tensor tensor;
    const void *data;
    struct moe_error error = {0};
    if (moe_model_tensor_find(file, "input_ids", &tensor) != MOE_OK || tensor.size != 4 * num_tokens)
        return NULL;
    test_assert_ok(moe_model_tensor_data(file, "input_ids", &data, &error));
    int64_t *out = moe_ref_alloc(num_tokens, sizeof *out);
    for (size_t t = 0; t < num_tokens; t++)
        out[t] = (int64_t)moe_ref_value(MOE_FORMAT_I32, (const char *)data + 4 * t);
    return out;
}

/* ids and weights from a matrix [num_tokens, num_experts] with 0 for experts that are not chosen. */
static void take_scores(struct zoo_reference *ref, const double *scores, size_t top_k)
{
    ref->ids = moe_ref_alloc(ref->num_tokens * top_k, sizeof *ref->ids);
    ref->weights = moe_ref_alloc(ref->num_tokens * top_k, sizeof *ref->weights);
    for (size_t t = 0; t < ref->num_tokens; t++) {
        size_t k = 0;
        for (size_t e = 0; e < ref->num_experts; e++) {
            double score = scores[t * ref->num_experts + e];
            if (score == 0)
                continue;
            assert_true(k < top_k);
            ref->ids[t * top_k + k] = (int64_t)e;
            ref->weights[t * top_k + k++] = score;
        }
        assert_int_equal(k, top_k);
    }
    ref->top_k = top_k;
}

/* expert_x says what expert_out is; both are taken over, or freed. */
static void take_experts(struct zoo_reference *ref, size_t rows, size_t cols, double *expert_x, double *expert_out)
{
    size_t n = ref->num_tokens * ref->hidden_size;
    if (expert_x == NULL) {
        free(expert_out);
        return;
    }
    assert_non_null(expert_out);
    if (rows == ref->num_tokens && cols == ref->hidden_size) {
        assert_non_null(ref->router_x);
        memcpy(ref->x, expert_x, n * sizeof *ref->x);
        memcpy(ref->out, expert_out, n * sizeof *ref->out);
        free(expert_out);
    } else if (rows == ref->num_tokens) {
        ref->sums = expert_out;
        ref->expert_width = cols;
    } else {
        assert_int_equal(rows, ref->num_tokens * ref->num_experts);
        assert_int_equal(cols, ref->hidden_size);
        ref->pairs = expert_out;
    }
    free(expert_x);
}

/* Some routers tell only the ids, or nothing of the experts that are always chosen. */
static void drop_partial(struct zoo_reference *ref, const struct moe_layer_params *params)
{
    size_t always = params->routing->num_always;
    if (ref->weights != NULL && (always == 0 || ref->top_k != params->top_k - always))
        return;
    free(ref->weights);
    free(ref->ids);
    ref->weights = NULL;
    ref->ids = NULL;
}

bool zoo_reference_load(struct zoo_reference *ref, struct moe_model *file, size_t layer,
                        const struct moe_model_block *block)
{
    size_t rows = 0, cols = 0;
    memset(ref, 0, sizeof *ref);
    ref->x = test_tensor(file, layer, "x", &ref->num_tokens, &ref->hidden_size);
    if (ref->x == NULL)
        return false;
    if (block == NULL)
        fail_msg("the reference has layer %zu, but the model's block has no experts", layer);
    const struct moe_layer_params *params = block->layer;
    ref->num_experts = params->num_experts != 0 ? params->num_experts
                                                : block->experts->num_experts + params->num_zero_experts;
    ref->router_x = test_tensor(file, layer, "router_x", NULL, NULL);
    ref->logits = test_tensor(file, layer, "router_logits", NULL, NULL);
    ref->weights = test_tensor(file, layer, "weights", NULL, &ref->top_k);
    ref->ids = integers(test_tensor(file, layer, "ids", NULL, NULL), ref->num_tokens * ref->top_k);
    ref->token_ids = read_token_ids(file, ref->num_tokens);
    ref->out = test_tensor(file, layer, "out", NULL, NULL);
    assert_non_null(ref->out);
    double *expert_x = test_tensor(file, layer, "expert_x", &rows, &cols);
    double *expert_out = test_tensor(file, layer, "expert_out", NULL, NULL);
    double *scores = test_tensor(file, layer, "router_res0", NULL, NULL);
    ref->no_shared = block->shared != NULL && expert_x == NULL && expert_out != NULL &&
                     memcmp(expert_out, ref->out, ref->num_tokens * ref->hidden_size * sizeof *ref->out) == 0;
    take_experts(ref, rows, cols, expert_x, expert_out);
    if (ref->ids == NULL && scores != NULL)
        take_scores(ref, scores, params->top_k);
    free(scores);
    drop_partial(ref, params);
    if (ref->ids != NULL)
        assert_int_equal(ref->top_k, params->top_k);
    return true;
}

void zoo_reference_free(struct zoo_reference *ref)
{
    double *values[] = {ref->x, ref->router_x, ref->logits, ref->weights, ref->out, ref->pairs, ref->sums};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        free(values[i]);
    free(ref->ids);
    free(ref->token_ids);
}
