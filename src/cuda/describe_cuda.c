// SPDX-License-Identifier: MIT
// Which kernels a forward of so many tokens takes, and why, in words: the decisions of regime.c on the layer's shapes.
#include <stdio.h>

#include "cuda/layer_cuda.h"

struct telling {
    const struct moe_cuda_layer *layer;
    void (*line)(void *user, const char *key, const char *value);
    void *user;
};

/* product: as far as regime.c looks at it. Where its counts do not fit large, that leaves it to small. */
static void tell_product(const struct telling *telling, const char *key, const struct moe_cuda_weights *weights,
                         struct moe_cuda_product product)
{
    static const char *const names[] = {
        [MOE_CUDA_SMALL] = "small", [MOE_CUDA_LARGE] = "large", [MOE_CUDA_WIDE] = "wide"};
    bool has_wide;
    const enum moe_cuda_way way = moe_layer_cuda_way(telling->layer, weights, &product, &has_wide);
    const enum moe_cuda_way other = way != MOE_CUDA_SMALL ? MOE_CUDA_SMALL : has_wide ? MOE_CUDA_WIDE : MOE_CUDA_LARGE;
    const struct moe_cuda_regime regime = moe_cuda_regime(&product);
    char text[240];
    if (weights->large == NULL)
        snprintf(text, sizeof text, "small (%s): weights are dequantised on the way, which large does not do",
                 weights->name);
    else
        snprintf(text, sizeof text,
                 "%s (%s): as long as %.0f rows of bf16 through each of %u multiprocessors; %s: %.0f", names[way],
                 weights->name, regime.rows[way], (unsigned)product.multiprocessors, names[other], regime.rows[other]);
    telling->line(telling->user, key, text);
}

static void tell_in(const struct telling *telling, const char *key, const struct moe_cuda_set *set,
                    const struct moe_cuda_pairs *pairs)
{
    tell_product(telling, key, set->in, (struct moe_cuda_product){.gate = set->gate, .up = set->up,
                                                                  .gated = set->gated, .activated = true,
                                                                  .pairs = *pairs});
}

static void tell_out(const struct telling *telling, const char *key, const struct moe_cuda_set *set,
                     const struct moe_cuda_pairs *pairs)
{
    tell_product(telling, key, set->out, (struct moe_cuda_product){.up = set->down, .pairs = *pairs});
}

static void tell_small_down(const struct telling *telling)
{
    char text[160];
    snprintf(text, sizeof text, "small_down (%s): one launch with the sum over slots, up to %d tokens and %d pairs",
             telling->layer->experts.out->name, (int)MOE_DOWN_TOKENS, (int)MOE_DOWN_PAIRS);
    telling->line(telling->user, "down", text);
}

enum moe_status moe_layer_cuda_describe(const void *state, size_t num_tokens,
                                        void (*line)(void *user, const char *key, const char *value), void *user)
{
    const struct moe_cuda_layer *layer = state;
    const struct moe_layer_desc *desc = layer->desc;
    const struct telling telling = {layer, line, user};
    const size_t num_pairs = num_tokens * desc->top_k;
    if (num_pairs > INT32_MAX)
        return MOE_ERR_ARGUMENT;
    const struct moe_cuda_pairs pairs = {.num_pairs = (uint32_t)num_pairs, .num_matrices = layer->experts.num_matrices,
                                         .tokens_of = (uint32_t)num_tokens};
    const struct moe_cuda_pairs every = {.num_pairs = (uint32_t)num_tokens, .num_matrices = 1,
                                         .tokens_of = (uint32_t)num_tokens};
    if (desc->latent != NULL)
        tell_product(&telling, "latent in", layer->latent.in,
                     (struct moe_cuda_product){.up = layer->latent.up, .pairs = every});
    tell_in(&telling, layer->experts.gated ? "gate, up" : "up", &layer->experts, &pairs);
    if (moe_layer_cuda_sums_in_down(layer, num_tokens, num_pairs))
        tell_small_down(&telling);
    else
        tell_out(&telling, "down", &layer->experts, &pairs);
    if (desc->latent != NULL)
        tell_out(&telling, "latent out", &layer->latent, &every);
    if (desc->shared != NULL) {
        tell_in(&telling, layer->shared.gated ? "shared gate, up" : "shared up", &layer->shared, &every);
        tell_out(&telling, "shared down", &layer->shared, &every);
    }
    return MOE_OK;
}
