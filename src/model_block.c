// SPDX-License-Identifier: MIT
// From the axes of a block and its tensors to the params of a block. Everything that is decided is in the axes; its
// experts are in model_block_experts.c, all else is in model_block_roles.c.
#include "model_block.h"

#include <ctype.h>
#include <string.h>

static enum moe_status fill(const struct moe_build *b, const struct moe_model_axes *axes)
{
    struct moe_model_entry *entry = b->entry;
    entry->act = axes->act;
    entry->shared_act = axes->shared_act;
    MOE_INIT(&entry->experts);
    entry->experts.num_experts = axes->num_experts;
    entry->experts.hidden_size = axes->latent_size != 0 ? axes->latent_size : axes->hidden_size;
    entry->experts.intermediate_size = axes->intermediate_size;
    MOE_INIT(&entry->layer);
    entry->layer.num_experts = axes->num_experts + axes->num_zero_experts;
    entry->layer.num_zero_experts = axes->num_zero_experts;
    entry->layer.top_k = axes->top_k;
    entry->layer.routing = &entry->routing;
    entry->layer.weight_on_input = axes->weight_on_input;
    entry->layer.routed_scale = axes->routed_scale;
    entry->layer.out_scale = axes->out_scale;
    MOE_TRY(moe_block_load_routing(b, axes));
    MOE_TRY(moe_block_load_experts(b, axes));
    MOE_TRY(moe_block_load_shared(b, axes));
    MOE_TRY(moe_block_load_output(b, axes));
    entry->block.experts = &entry->experts;
    entry->block.layer = &entry->layer;
    return MOE_OK;
}

enum moe_status moe_model_block_build(struct moe_model *model, size_t block, const struct moe_model_axes *axes,
                                      struct moe_model_entry **out, struct moe_error *error)
{
    struct moe_model_entry *entry = moe_alloc(&model->env, sizeof *entry);
    if (entry == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "%s: no memory for block %zu", moe_archive_path(model->archive), block);
    const struct moe_build b = {model, block, error, entry};
    enum moe_status status = fill(&b, axes);
    if (status != MOE_OK) {
        moe_model_block_free(model, entry);
        return status;
    }
    *out = entry;
    return MOE_OK;
}

void *moe_model_block_alloc(struct moe_model *model, struct moe_model_entry *entry, size_t count, size_t size)
{
    size_t bytes;
    if (!moe_mul(&bytes, count, size) || !moe_add(&bytes, bytes, 64))
        return NULL;
    struct moe_model_memory *memory = moe_alloc(&model->env, bytes);
    if (memory == NULL)
        return NULL;
    memory->next = entry->memory;
    memory->size = bytes;
    entry->memory = memory;
    return (unsigned char *)memory + 64;
}

void moe_model_block_free(struct moe_model *model, struct moe_model_entry *entry)
{
    if (entry == NULL)
        return;
    for (struct moe_model_memory *memory = entry->memory; memory != NULL;) {
        struct moe_model_memory *next = memory->next;
        moe_free(&model->env, memory, memory->size);
        memory = next;
    }
    moe_free(&model->env, entry, sizeof *entry);
}

const char *moe_model_block_prefix(const struct moe_archive *archive, enum moe_vocabulary vocabulary)
{
    const char *const *prefixes = moe_preset_prefixes[vocabulary];
    for (size_t p = 0; prefixes[p] != NULL; p++) {
        size_t length = strcspn(prefixes[p], "{");
        for (size_t i = 0; i < moe_archive_num_tensors(archive); i++) {
            const char *name = moe_archive_tensor_at(archive, i)->info.name;
            if (strncmp(name, prefixes[p], length) == 0 && isdigit((unsigned char)name[length]))
                return prefixes[p];
        }
    }
    return prefixes[0];
}
