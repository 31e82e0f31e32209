// SPDX-License-Identifier: MIT
// A config.json without weights, and the axes of its blocks as a line of words.
#ifndef MOE_TEST_AXES_TEXT_H
#define MOE_TEST_AXES_TEXT_H

#include "model.h"
#include "model_files.h"

/* Common keys of small models; a patch, JSON, goes over them. Its nulls stay nulls. */
static inline void config_save(const char *family, const char *patch)
{
    json_t *config = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "model_type", family, "num_hidden_layers", 4,
                               "hidden_size", 64, "intermediate_size", 48, "num_experts", 8, "num_experts_per_tok", 2,
                               "vocab_size", 128);
    json_error_t where;
    json_t *more = json_loads(patch, 0, &where);
    if (more == NULL)
        fail_msg("%s: %s in the test's %s", family, where.text, patch);
    assert_int_equal(json_object_update(config, more), 0);
    json_decref(more);
    assert_int_equal(json_dump_file(config, temp_path("config.json"), 0), 0);
    json_decref(config);
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}  ";
    struct bytes file = {NULL, 0};
    append_u64(&file, sizeof header - 1);
    append(&file, header, sizeof header - 1);
    append_u32(&file, 0);
    write_file(temp_path("model.safetensors"), &file);
    free(file.data);
}

enum { AXES_TEXT_SIZE = 1024 };

/* " word=value word=value ... ", so that " word=value " can be looked for; axes that are not used are there too. */
static inline void axes_text(char out[AXES_TEXT_SIZE], const struct moe_model_axes *a)
{
    static const char *const scores[] = {"default", "softmax", "sigmoid", "logit", "chosen", "softplus", "mixer"};
    static const char *const renorms[] = {"none", "add", "clamp", "p"};
    static const char *const acts[] = {"swish", "gelu_tanh", "gelu_erf", "relu", "relu2", "situ"};
    static const char *const clamps[] = {"none", "before", "after"};
    const struct moe_routing *r = &a->routing;
    if (!a->has_experts) {
        snprintf(out, AXES_TEXT_SIZE, " dense ");
        return;
    }
    snprintf(out, AXES_TEXT_SIZE,
             " experts=%zu zero=%zu top_k=%zu hidden=%zu ff=%zu latent=%zu shared=%zu hash=%zu select=%s weight=%s "
             "groups=%zu/%zu best=%d zeroed=%d renorm=%s eps=%g p=%g scale=%g sum_scale=%g out_scale=%g "
             "softcap=%g mixer=%g always=%zu unit=%d norm_eps=%g on_input=%d act=%s clamp=%s limit=%g alpha=%g up=%g "
             "shared_act=%s shared_clamp=%s shared_limit=%g shared_alpha=%g gated=%d biases=%d shared_biases=%d "
             "bias=%d/%d hashed=%d latent_biases=%d shared_kind=%d ",
             a->num_experts, a->num_zero_experts, a->top_k, a->hidden_size, a->intermediate_size, a->latent_size,
             a->shared_size, a->hash_rows, scores[r->select], scores[r->weight], r->num_groups, r->top_groups,
             r->group_score == MOE_GROUP_MAX, r->group_mask_zero, renorms[r->renorm], r->renorm_eps, r->renorm_p,
             r->scale, a->routed_scale, a->out_scale, r->softcap, r->sparsemixer_eps, r->num_always,
             a->router_norm_unit, a->out_norm_eps, a->weight_on_input, acts[a->act.kind], clamps[a->act.clamp],
             a->act.limit, a->act.alpha, a->act.up_offset, acts[a->shared_act.kind], clamps[a->shared_act.clamp],
             a->shared_act.limit, a->shared_act.alpha, a->gated, a->biases, a->shared_biases,
             (a->needs & MOE_ROLE_BIT(SELECTION_BIAS)) != 0, (a->takes & MOE_ROLE_BIT(SELECTION_BIAS)) != 0,
             (a->needs & MOE_ROLE_BIT(HASH_TABLE)) != 0, (a->needs & MOE_ROLE_BIT(LATENT_OUT_BIAS)) != 0, a->shared);
}

#endif
