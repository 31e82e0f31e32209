// SPDX-License-Identifier: MIT
// The fused layer: what is kept of a layer, and loading every kernel that its calls may launch.
#include "cuda/layer_cuda.h"

#include <string.h>

#include "check.h"
#include "cuda/combine.h"
#include "cuda/finish.h"
#include "cuda/prepare.h"

static cudaError_t load_set(const struct moe_cuda_set *set, size_t shared_bytes)
{
    cudaError_t error = set->in != NULL ? set->in->load(shared_bytes) : cudaSuccess;
    return error == cudaSuccess && set->out != NULL ? set->out->load(shared_bytes) : error;
}

/* With the device current. */
static cudaError_t load_kernels(const struct moe_cuda_layer *layer)
{
    cudaError_t (*const loads[])(void) = {moe_cuda_route_load, moe_cuda_prepare_load, moe_cuda_combine_load,
                                          moe_cuda_finish_load};
    const struct moe_cuda_set *sets[] = {&layer->experts, &layer->shared, &layer->latent};
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(loads) && error == cudaSuccess; i++)
        error = loads[i]();
    for (size_t i = 0; i < MOE_ARRAY_SIZE(sets) && error == cudaSuccess; i++)
        error = load_set(sets[i], layer->device->shared_per_block);
    return error;
}

static enum moe_status load(const struct moe_cuda_layer *layer, struct moe_error *error)
{
    struct moe_cuda_scope scope;
    cudaError_t result = moe_cuda_enter(layer->device, &scope);
    if (result == cudaSuccess) {
        result = load_kernels(layer);
        moe_cuda_leave(layer->device, &scope);
    }
    if (result == cudaSuccess)
        return MOE_OK;
    enum moe_status status = moe_cuda_status(result);
    return moe_fail(error, status, "GPU %d does not load the layer's kernels: %s", layer->device->index,
                    cudaGetErrorString(result));
}

/* Sizes, and rows of all matrices together, that kernels count in 32 bits. */
static bool small_enough(const struct moe_layer_desc *desc)
{
    const size_t most = INT32_MAX / 2;
    const struct moe_expert_set *sets[] = {desc->experts, desc->shared, desc->latent};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(sets); i++) {
        size_t rows, others;
        if (sets[i] != NULL && (!moe_mul(&rows, sets[i]->hidden_size, sets[i]->num_experts) || rows > most ||
                                !moe_mul(&others, sets[i]->intermediate_size, sets[i]->num_experts) || others > most))
            return false;
    }
    return true;
}

enum moe_status moe_layer_cuda_open(void *self, const struct moe_layer_desc *desc, void **state,
                                    struct moe_layer_info *info, struct moe_error *error)
{
    const struct moe_cuda *device = self;
    if (desc->flags & MOE_LAYER_EXACT)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "the fused layer rounds activations to bf16, which "
                        "MOE_LAYER_EXACT forbids");
    if (!small_enough(desc))
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "the fused layer takes up to 2^30 rows of all experts together");
    struct moe_cuda_layer *layer = moe_alloc(&device->env, sizeof *layer);
    if (layer == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a layer");
    layer->device = device;
    layer->desc = desc;
    enum moe_status status = moe_upload_cuda_layer(layer, error);
    if (status == MOE_OK)
        status = load(layer, error);
    if (status != MOE_OK) {
        moe_layer_cuda_close(layer);
        return status;
    }
    info->composed = false;
    info->capturable = true;
    info->batch_invariant = true;    /* every kernel keeps the order of sums of call.h */
    info->exact = false;
    *state = layer;
    return MOE_OK;
}

void moe_layer_cuda_close(void *state)
{
    struct moe_cuda_layer *layer = state;
    struct moe_cuda_scope scope;
    if (layer == NULL)
        return;
    if (layer->memory != NULL && moe_cuda_enter(layer->device, &scope) == cudaSuccess) {
        (void)moe_cuda_status(cudaFree(layer->memory));
        moe_cuda_leave(layer->device, &scope);
    }
    moe_free(&layer->device->env, layer, sizeof *layer);
}
