// SPDX-License-Identifier: MIT
// Keys of quantization_config, wherever config.json has it.
#include <stdio.h>
#include <string.h>

#include "model_quant_parts.h"

static const char *const config_places[] = {"quantization_config.", "text_config.quantization_config.",
                                            "compression_config.", "text_config.compression_config."};

bool moe_quant_find_key(const struct moe_model *model, const char *name, struct moe_quant_key *out)
{
    for (size_t i = 0; i < MOE_ARRAY_SIZE(config_places); i++) {
        snprintf(out->name, sizeof out->name, "%s%s", config_places[i], name);
        if (moe_archive_metadata_find(model->archive, out->name, &out->value) == MOE_OK &&
            out->value.kind != MOE_VALUE_NULL)
            return true;
    }
    return false;
}

/* Is key "<place>config_groups.<any group>.weights.<name>"? */
static bool is_group_key(const char *key, const char *name)
{
    for (size_t i = 0; i < MOE_ARRAY_SIZE(config_places); i++) {
        size_t place = strlen(config_places[i]);
        if (strncmp(key, config_places[i], place) != 0 || strncmp(key + place, "config_groups.", 14) != 0)
            continue;
        const char *weights = strstr(key + place + 14, ".weights.");
        return weights != NULL && strcmp(weights + 9, name) == 0;
    }
    return false;
}

bool moe_quant_find_weights_key(const struct moe_model *model, const char *name, size_t i, struct moe_quant_key *out)
{
    if (moe_quant_find_key(model, name, out) && i-- == 0)
        return true;
    for (size_t k = 0; k < moe_archive_num_metadata(model->archive); k++) {
        const char *key;
        if (moe_archive_metadata_at(model->archive, k, &key, &out->value) != MOE_OK || !is_group_key(key, name) ||
            out->value.kind == MOE_VALUE_NULL || i-- > 0)
            continue;
        snprintf(out->name, sizeof out->name, "%s", key);
        return true;
    }
    return false;
}

bool moe_quant_find_transform(const struct moe_model *model, const char **key)
{
    static const char start[] = "transform_config.config_groups.";
    struct moe_value value;
    for (size_t k = 0; moe_archive_metadata_at(model->archive, k, key, &value) == MOE_OK; k++)
        for (size_t i = 0; i < MOE_ARRAY_SIZE(config_places); i++) {
            size_t place = strlen(config_places[i]);
            if (strncmp(*key, config_places[i], place) == 0 && strncmp(*key + place, start, sizeof start - 1) == 0)
                return true;
        }
    return false;
}

bool moe_quant_has_rules(const struct moe_model *model)
{
    static const char *const starts[] = {"quantization_config.dynamic.", "quantization_config.extra_config."};
    for (size_t k = 0; k < moe_archive_num_metadata(model->archive); k++) {
        const char *key;
        struct moe_value value;
        for (size_t i = 0; moe_archive_metadata_at(model->archive, k, &key, &value) == MOE_OK &&
                           i < MOE_ARRAY_SIZE(starts); i++)
            if (strncmp(key, starts[i], strlen(starts[i])) == 0)
                return true;
    }
    return false;
}
