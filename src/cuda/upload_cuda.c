// SPDX-License-Identifier: MIT
// What a layer's kernels need beside its weights, in one block of device memory: the router, addresses of experts that
// lie apart, factors, small vectors.
#include <string.h>

#include "check.h"
#include "cuda/layer_cuda.h"
#include "half.h"

enum { UPLOAD_ALIGN = 256, MATRIX_PAD = 4 };

/* Lays pieces out in a block, twice: first only counted, then filled in on the host while their device addresses are
 * handed out. */
struct upload {
    unsigned char *host;          /* NULL: only count */
    unsigned char *device;
    size_t offset;
    bool ok;
};

/* Room for count values; *address is where they will be on the device. Returns where to write them, NULL while
 * counting. */
static void *reserve(struct upload *upload, const void **address, size_t count, size_t size)
{
    size_t bytes, begin = upload->offset;
    upload->ok = upload->ok && moe_mul(&bytes, count, size) && moe_align(&bytes, bytes, UPLOAD_ALIGN) &&
                 moe_add(&upload->offset, begin, bytes);
    *address = NULL;
    if (upload->host == NULL || !upload->ok)
        return NULL;
    *address = upload->device + begin;
    return upload->host + begin;
}

static const void *copy(struct upload *upload, const void *values, size_t count, size_t size)
{
    const void *address;
    if (values == NULL)
        return NULL;
    void *to = reserve(upload, &address, count, size);
    if (to != NULL)
        memcpy(to, values, count * size);
    return address;
}

/* ---- weights ---- */

static struct moe_cuda_plane plane_of(struct upload *upload, const struct moe_view *data, size_t expert_stride,
                                      void *const *bases, size_t num_experts)
{
    struct moe_cuda_plane plane = {.expert_stride = expert_stride, .stride = data->stride, .format = (int)data->format};
    const void *address;
    if (bases == NULL) {
        plane.data = data->base != NULL ? (const unsigned char *)data->base + data->offset : NULL;
        return plane;
    }
    const unsigned char **to = reserve(upload, &address, num_experts, sizeof *to);
    for (size_t e = 0; to != NULL && e < num_experts; e++)
        to[e] = (const unsigned char *)bases[e] + data->offset;
    plane.bases = address;
    return plane;
}

static struct moe_cuda_stack stack_of(struct upload *upload, const struct moe_stack *from)
{
    struct moe_cuda_stack stack = {.rows = (uint32_t)from->rows, .cols = (uint32_t)from->cols};
    const struct moe_stack_scales *scales = from->scales;
    stack.values = plane_of(upload, &from->data, from->expert_stride, from->bases, from->num_experts);
    stack.bias = from->bias.base != NULL ? moe_cuda_address(&from->bias) : NULL;
    if (scales == NULL)
        return stack;
    const struct moe_plane *planes[] = {&scales->scale, &scales->zero, &scales->column_block};
    struct moe_cuda_plane *to[] = {&stack.scale, &stack.zero, &stack.column_block};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(planes); i++)
        *to[i] = plane_of(upload, &planes[i]->data, planes[i]->expert_stride, planes[i]->bases, from->num_experts);
    stack.scaled = true;
    stack.first_row = (uint32_t)scales->first_row;
    stack.block_rows = scales->block_rows < UINT32_MAX ? (uint32_t)scales->block_rows : UINT32_MAX;
    stack.block_cols = scales->block_cols < UINT32_MAX ? (uint32_t)scales->block_cols : UINT32_MAX;
    stack.zero_offset = scales->zero_offset;
    stack.factors = copy(upload, scales->host_factors, from->num_experts, sizeof *stack.factors);
    moe_cuda_stack_measure(&stack);
    return stack;
}

static bool aligned(const struct moe_stack *stack)
{
    const size_t mask = 15;
    if (stack->data.stride & mask)
        return false;
    for (size_t e = 0; stack->bases != NULL && e < stack->num_experts; e++)
        if (((uintptr_t)stack->bases[e] + stack->data.offset) & mask)
            return false;
    return stack->bases != NULL ||
           ((((uintptr_t)stack->data.base + stack->data.offset) | stack->expert_stride) & mask) == 0;
}

static bool is_there(const struct moe_cuda_plane *plane)
{
    return plane->data != NULL || plane->bases != NULL;
}

/* Kernels other than moe_cuda_weights_any take gate and up whose scales have the same shapes. */
static bool same_scales(const struct moe_cuda_stack *low, const struct moe_cuda_stack *high)
{
    if (!low->scaled || !high->scaled)
        return low->scaled == high->scaled;
    return is_there(&low->scale) == is_there(&high->scale) && low->scale.format == high->scale.format &&
           is_there(&low->zero) == is_there(&high->zero) && low->zero_offset == high->zero_offset &&
           low->block_rows == high->block_rows && low->block_cols == high->block_cols;
}

/* The first row of kernels that takes these matrices; high may be NULL. */
static const struct moe_cuda_weights *choose(const struct moe_stack *low_from, const struct moe_cuda_stack *low,
                                             const struct moe_stack *high_from, const struct moe_cuda_stack *high)
{
    static const struct moe_cuda_weights *const rows[] = {
#define X(name, NAME, scaled) &moe_cuda_weights_##name,
#include "cuda/weights.def"
#undef X
    };
    bool all_aligned = aligned(low_from) && (high == NULL || aligned(high_from));
    if (high != NULL && !same_scales(low, high))
        return &moe_cuda_weights_any;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(rows); i++)
        if ((all_aligned || !rows[i]->aligned) && moe_cuda_weights_take(rows[i], low) &&
            (high == NULL || moe_cuda_weights_take(rows[i], high)))
            return rows[i];
    return &moe_cuda_weights_any;
}

static void upload_set(struct upload *upload, struct moe_cuda_set *set, const struct moe_expert_set *from)
{
    set->gated = from->gated;
    set->num_matrices = (uint32_t)from->num_experts;
    set->hidden_size = (uint32_t)from->hidden_size;
    set->intermediate_size = (uint32_t)from->intermediate_size;
    set->act = (struct moe_cuda_act){(int)from->act.kind,  (int)from->act.clamp,  from->act.limit,  from->act.alpha,
                                     from->act.up_offset, from->act.beta, from->act.beta_up};
    set->up = stack_of(upload, &from->up);
    set->down = stack_of(upload, &from->down);
    if (set->gated)
        set->gate = stack_of(upload, &from->gate);
    set->in = set->gated ? choose(&from->up, &set->up, &from->gate, &set->gate)
                         : choose(&from->up, &set->up, NULL, NULL);
    set->out = choose(&from->down, &set->down, NULL, NULL);
}

/* ---- the router ---- */

/* Rows padded with zeros; as bf16 where no value loses by it. */
static void upload_matrix(struct upload *upload, struct moe_cuda_router *to, const struct moe_router *from,
                          size_t hidden_size)
{
    size_t stride = (hidden_size + MATRIX_PAD - 1) / MATRIX_PAD * MATRIX_PAD, count = 0;
    bool halves = true;
    if (from->host_matrix == NULL)
        return;
    for (size_t i = 0; i < from->num_experts * hidden_size && halves; i++)
        halves = (moe_f32_bits(from->host_matrix[i]) & 0xffffu) == 0;
    upload->ok = upload->ok && moe_mul(&count, from->num_experts, stride);
    size_t value = halves ? sizeof(uint16_t) : sizeof(float);
    unsigned char *rows = reserve(upload, &to->matrix, count, value);
    to->matrix_stride = (uint32_t)stride;
    to->matrix_format = halves ? MOE_FORMAT_BF16 : MOE_FORMAT_F32;
    if (rows == NULL)
        return;
    memset(rows, 0, count * value);
    for (size_t e = 0; e < from->num_experts; e++)
        for (size_t c = 0; c < hidden_size; c++) {
            uint32_t bits = moe_f32_bits(from->host_matrix[e * hidden_size + c]);
            uint16_t half = (uint16_t)(bits >> 16);
            unsigned char *at = rows + (e * stride + c) * value;
            if (halves)
                memcpy(at, &half, sizeof half);
            else
                memcpy(at, &bits, sizeof bits);
        }
}

static void upload_router(struct upload *upload, struct moe_cuda_router *to, const struct moe_router *from,
                          size_t hidden_size)
{
    size_t hash_values = 0;
    *to = (struct moe_cuda_router){
        .select = (int)from->select,
        .weight = (int)from->weight,
        .group_score = (int)from->group_score,
        .renorm = (int)from->renorm,
        .num_groups = (uint32_t)from->num_groups,
        .top_groups = (uint32_t)from->top_groups,
        .num_always = (uint32_t)from->num_always,
        .group_mask_zero = from->group_mask_zero,
        .norm = from->norm,
        .norm_unit = from->norm_unit,
        .norm_eps = from->norm_eps,
        .softcap = from->softcap,
        .renorm_eps = from->renorm_eps,
        .renorm_p = from->renorm_p,
        .sparsemixer_eps = from->sparsemixer_eps,
        .scale = from->scale,
        .hash_rows = from->hash_rows,
        .hash_cols = from->hash_cols,
    };
    if (from->hash_table != NULL)
        upload->ok = upload->ok && moe_mul(&hash_values, from->hash_rows, from->hash_cols);
    to->selection_bias = copy(upload, from->selection_bias, from->num_experts - from->num_always, sizeof(float));
    to->expert_scale = copy(upload, from->expert_scale, from->num_experts, sizeof(float));
    to->bias = copy(upload, from->host_bias, from->num_experts, sizeof(float));
    to->hash_table = copy(upload, from->hash_table, hash_values, sizeof(int32_t));
    upload_matrix(upload, to, from, hidden_size);
}

/* ---- all of it ---- */

static void upload_all(struct upload *upload, struct moe_cuda_layer *layer)
{
    const struct moe_layer_desc *desc = layer->desc;
    upload_set(upload, &layer->experts, desc->experts);
    if (desc->shared != NULL)
        upload_set(upload, &layer->shared, desc->shared);
    if (desc->latent != NULL)
        upload_set(upload, &layer->latent, desc->latent);
    if (desc->router != NULL)
        upload_router(upload, &layer->router, desc->router, desc->hidden_size);
    layer->shared_gate = copy(upload, desc->host_shared_gate, desc->hidden_size, sizeof(float));
    layer->out_bias = copy(upload, desc->host_out_bias, desc->hidden_size, sizeof(float));
    if (desc->out_norm != NULL)
        layer->out_norm_scale = copy(upload, desc->out_norm->scale, desc->hidden_size, sizeof(float));
    if (desc->latent_norm != NULL)
        layer->latent_norm_scale =
            copy(upload, desc->latent_norm->scale, desc->experts->hidden_size, sizeof(float));
}

/* With the device current. */
static cudaError_t fill(struct moe_cuda_layer *layer, unsigned char *host, size_t bytes)
{
    struct upload upload = {.host = host, .ok = true};
    cudaError_t error = cudaMalloc(&layer->memory, bytes);
    if (error != cudaSuccess)
        return error;
    upload.device = layer->memory;
    upload_all(&upload, layer);
    error = cudaMemcpyAsync(layer->memory, host, bytes, cudaMemcpyHostToDevice, layer->device->transfers);
    return error == cudaSuccess ? cudaStreamSynchronize(layer->device->transfers) : error;
}

enum moe_status moe_upload_cuda_layer(struct moe_cuda_layer *layer, struct moe_error *error)
{
    const struct moe_env *env = &layer->device->env;
    struct moe_cuda_scope scope;
    struct upload count = {.ok = true};
    upload_all(&count, layer);
    if (!count.ok)
        return moe_fail(error, MOE_ERR_ARGUMENT, "the layer's router is too large for memory");
    if (count.offset == 0)
        return MOE_OK;
    unsigned char *host = moe_alloc(env, count.offset);
    if (host == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "no memory for a copy of the layer's router");
    cudaError_t result = moe_cuda_enter(layer->device, &scope);
    if (result == cudaSuccess) {
        result = fill(layer, host, count.offset);
        moe_cuda_leave(layer->device, &scope);
    }
    moe_free(env, host, count.offset);
    if (result == cudaSuccess)
        return MOE_OK;
    enum moe_status status = moe_cuda_status(result);
    return moe_fail(error, status, "GPU %d does not take the layer's %zu bytes beside the weights: %s",
                    layer->device->index, count.offset, cudaGetErrorString(result));
}
