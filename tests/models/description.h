// SPDX-License-Identifier: MIT
// A model and the same file opened by what moe_model_describe says of it: are their blocks the same, bit for bit? For
// the tests of descriptions and for models_table.c.
#ifndef MOE_TEST_DESCRIPTION_H
#define MOE_TEST_DESCRIPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/moe.h"

/* From malloc; NULL: *error says why not. */
static inline char *description_of(struct moe_model *model, struct moe_error *error)
{
    size_t needed = 0, again = 0;
    if (moe_model_describe(model, NULL, 0, &needed, error) != MOE_OK)
        return NULL;
    char *text = malloc(needed);
    if (text == NULL || moe_model_describe(model, text, needed, &again, error) != MOE_OK || again != needed ||
        strlen(text) + 1 != needed) {
        free(text);
        return NULL;
    }
    return text;
}

static inline enum moe_status description_open(const char *path, const char *text, struct moe_model **out,
                                               struct moe_error *error)
{
    struct moe_model_params params;
    MOE_INIT(&params);
    params.description = text;
    return moe_model_open(path, &params, out, error);
}

/* ---- the same params ----------------------------------------------------------------------------------------- */

/* Two models map a file at two addresses: values are compared, and all else but addresses. */
static inline bool same_view(const struct moe_view *a, const struct moe_view *b)
{
    if ((a->base == NULL) != (b->base == NULL) || a->size != b->size || a->stride != b->stride ||
        a->format != b->format)
        return false;
    return a->base == NULL ||
           memcmp((const char *)a->base + a->offset, (const char *)b->base + b->offset, a->size) == 0;
}

static inline bool same_matrix(const struct moe_matrix *a, const struct moe_matrix *b, size_t num_experts);

static inline bool same_scales(const struct moe_scales *a, const struct moe_scales *b, size_t num_experts)
{
    if (a == NULL || b == NULL)
        return a == b;
    return a->block_rows == b->block_rows && a->block_cols == b->block_cols && a->first_row == b->first_row &&
           a->zero_offset == b->zero_offset && a->factor_divides == b->factor_divides &&
           same_matrix(a->scale, b->scale, num_experts) && same_matrix(a->zero, b->zero, num_experts) &&
           same_matrix(a->factor, b->factor, num_experts) && same_matrix(a->column_block, b->column_block, num_experts);
}

static inline bool same_matrix(const struct moe_matrix *a, const struct moe_matrix *b, size_t num_experts)
{
    if (a == NULL || b == NULL)
        return a == b;
    if ((a->bases == NULL) != (b->bases == NULL) || a->expert_stride != b->expert_stride ||
        a->transposed != b->transposed || a->element_stride != b->element_stride || a->packing != b->packing ||
        a->bias_element_stride != b->bias_element_stride || !same_view(&a->bias, &b->bias) ||
        !same_scales(a->scales, b->scales, num_experts))
        return false;
    if (a->bases == NULL)
        return same_view(&a->data, &b->data);
    for (size_t e = 0; e < num_experts; e++) {
        struct moe_view one = a->data, other = b->data;
        one.base = a->bases[e];
        other.base = b->bases[e];
        if (!same_view(&one, &other))
            return false;
    }
    return true;
}

static inline bool same_norm(const struct moe_norm *a, const struct moe_norm *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return a->eps == b->eps && a->unit == b->unit && same_view(&a->scale, &b->scale);
}

static inline bool same_act(const struct moe_act *a, const struct moe_act *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return a->kind == b->kind && a->clamp == b->clamp && a->limit == b->limit && a->alpha == b->alpha &&
           a->up_offset == b->up_offset && a->beta == b->beta && a->beta_up == b->beta_up;
}

static inline bool same_experts(const struct moe_experts_params *a, const struct moe_experts_params *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return a->num_experts == b->num_experts && a->hidden_size == b->hidden_size &&
           a->intermediate_size == b->intermediate_size && a->location == b->location && same_act(a->act, b->act) &&
           same_matrix(a->gate, b->gate, a->num_experts) && same_matrix(a->up, b->up, a->num_experts) &&
           same_matrix(a->down, b->down, a->num_experts);
}

static inline bool same_routing(const struct moe_routing *a, const struct moe_routing *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return same_matrix(a->router, b->router, 1) && a->select == b->select && a->weight == b->weight &&
           same_view(&a->selection_bias, &b->selection_bias) && a->num_groups == b->num_groups &&
           a->top_groups == b->top_groups && a->group_score == b->group_score &&
           a->group_mask_zero == b->group_mask_zero && a->renorm == b->renorm && a->renorm_eps == b->renorm_eps &&
           a->scale == b->scale && same_norm(a->norm, b->norm) && a->softcap == b->softcap &&
           a->renorm_p == b->renorm_p && a->sparsemixer_eps == b->sparsemixer_eps &&
           same_view(&a->expert_scale, &b->expert_scale) && same_view(&a->hash_table, &b->hash_table) &&
           a->hash_rows == b->hash_rows && a->num_always == b->num_always;
}

static inline bool same_layer(const struct moe_layer_params *a, const struct moe_layer_params *b)
{
    if ((a->shared == NULL) != (b->shared == NULL))
        return false;
    if (a->shared != NULL &&
        (a->shared->gate_kind != b->shared->gate_kind || !same_matrix(a->shared->gate, b->shared->gate, 1)))
        return false;
    return a->flags == b->flags && a->num_experts == b->num_experts && a->top_k == b->top_k &&
           same_routing(a->routing, b->routing) && a->weight_on_input == b->weight_on_input &&
           a->routed_scale == b->routed_scale && a->out_scale == b->out_scale &&
           same_view(&a->out_bias, &b->out_bias) && same_norm(a->out_norm, b->out_norm) &&
           a->num_zero_experts == b->num_zero_experts && same_norm(a->latent_norm, b->latent_norm);
}

static inline bool same_block(const struct moe_model_block *a, const struct moe_model_block *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return same_experts(a->experts, b->experts) && same_experts(a->shared, b->shared) &&
           same_experts(a->latent, b->latent) && same_layer(a->layer, b->layer);
}

/* ---- a round trip -------------------------------------------------------------------------------------------- */

/* The file's own blocks, those of its description, and the description's description. 0 layers: error says what
 * differs. */
static inline size_t description_round_trip(const char *path, struct moe_error *error)
{
    struct moe_model *own = NULL, *described = NULL;
    char *text = NULL, *again = NULL;
    size_t layers = 0, blocks = 0;
    error->text[0] = '\0';
    struct moe_model_info info;
    MOE_INIT(&info);
    if (moe_model_open(path, NULL, &own, error) == MOE_OK && moe_model_info(own, &info) == MOE_OK &&
        (text = description_of(own, error)) != NULL && description_open(path, text, &described, error) == MOE_OK) {
        again = description_of(described, error);
        blocks = info.num_blocks;
    }
    if (blocks > 0 && (again == NULL || strcmp(text, again) != 0)) {
        snprintf(error->text, sizeof error->text, "the description of a described model is another one");
        blocks = 0;
    }
    for (size_t b = 0; b < blocks; b++) {
        const struct moe_model_block *one, *other;
        if (moe_model_block(own, b, &one, error) != MOE_OK || moe_model_block(described, b, &other, error) != MOE_OK)
            blocks = layers = 0;
        else if (!same_block(one, other)) {
            snprintf(error->text, sizeof error->text, "block %zu differs", b);
            blocks = layers = 0;
        } else
            layers += one != NULL;
    }
    free(text);
    free(again);
    moe_model_close(described);
    moe_model_close(own);
    return layers;
}

#endif
