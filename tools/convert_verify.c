// SPDX-License-Identifier: MIT
// What the layers of a file that is being written will compute, read back from its header, against what the layers of
// the input compute: whatever llama.cpp's keys cannot say shows here, before any value is written.
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "convert.h"
#include "describe.h"

struct difference {
    const char *what;             /* NULL: none found */
    bool is_presence;             /* found and read are "with" or "without", not values */
    char found[DESCRIBE_TEXT], read[DESCRIBE_TEXT];
};

static void compare(struct difference *d, const char *what, double found, double read)
{
    if (d->what || found == read)
        return;
    d->what = what;
    snprintf(d->found, sizeof d->found, "%g", found);
    snprintf(d->read, sizeof d->read, "%g", read);
}

static void compare_there(struct difference *d, const char *what, bool found, bool read)
{
    if (d->what || found == read)
        return;
    d->what = what;
    snprintf(d->found, sizeof d->found, "%s", found ? "with" : "without");
    snprintf(d->read, sizeof d->read, "%s", read ? "with" : "without");
    d->is_presence = true;
}

static void compare_norm(struct difference *d, const char *what, const struct moe_norm *a, const struct moe_norm *b)
{
    compare_there(d, what, a != NULL, b != NULL);
    if (!a || !b)
        return;
    compare_there(d, what, a->scale.base != NULL, b->scale.base != NULL);
    compare(d, what, (double)a->eps, (double)b->eps);
    compare(d, what, a->unit, b->unit);
}

static void compare_act(struct difference *d, const char *what, const struct moe_experts_params *a,
                        const struct moe_experts_params *b)
{
    char found[DESCRIBE_TEXT], read[DESCRIBE_TEXT];
    struct moe_act usual;
    MOE_INIT(&usual);
    const struct moe_act *x = a->act ? a->act : &usual, *y = b->act ? b->act : &usual;
    describe_act(found, sizeof found, x, a->gate != NULL);
    describe_act(read, sizeof read, y, b->gate != NULL);
    bool same = x->kind == y->kind && x->clamp == y->clamp && x->up_offset == y->up_offset &&
                (x->clamp == MOE_CLAMP_NONE || x->limit == y->limit) &&
                (x->kind != MOE_ACT_SWISH || (x->alpha != 0 ? x->alpha : 1) == (y->alpha != 0 ? y->alpha : 1)) &&
                (x->kind != MOE_ACT_SITU || (x->beta == y->beta && x->beta_up == y->beta_up)) &&
                (a->gate != NULL) == (b->gate != NULL);
    if (d->what || same)
        return;
    d->what = what;
    snprintf(d->found, sizeof d->found, "%s", found);
    snprintf(d->read, sizeof d->read, "%s", read);
}

static enum moe_score weight_of(const struct moe_routing *r)
{
    return r->weight == MOE_SCORE_DEFAULT ? MOE_SCORE_SOFTMAX : r->weight;
}

static enum moe_score select_of(const struct moe_routing *r)
{
    enum moe_score weight = weight_of(r);
    if (r->select != MOE_SCORE_DEFAULT)
        return r->select;
    return weight == MOE_SCORE_SOFTMAX_TOPK || weight == MOE_SCORE_SPARSEMIXER ? MOE_SCORE_LOGIT : weight;
}

static void compare_groups(struct difference *d, const struct moe_routing *a, const struct moe_routing *b)
{
    size_t groups = a->num_groups > 1 ? a->num_groups : 1;
    compare(d, "a number of expert groups of", (double)groups, b->num_groups > 1 ? (double)b->num_groups : 1.0);
    if (groups == 1)
        return;
    compare(d, "a number of groups used of", (double)a->top_groups, (double)b->top_groups);
    compare(d, "a group score (0: sum of the best two, 1: the best) of", a->group_score, b->group_score);
    compare(d, "keys of dropped groups (1: 0, 0: minus infinity) of kind", a->group_mask_zero, b->group_mask_zero);
}

static void compare_routing(struct difference *d, const struct moe_routing *a, const struct moe_routing *b)
{
    compare_there(d, "a router", a != NULL, b != NULL);
    if (!a || !b)
        return;
    compare(d, "a score to choose by (enum moe_score) of", select_of(a), select_of(b));
    compare(d, "a score to weigh by (enum moe_score) of", weight_of(a), weight_of(b));
    compare_there(d, "a selection bias", a->selection_bias.base != NULL, b->selection_bias.base != NULL);
    compare_there(d, "a per-expert scale", a->expert_scale.base != NULL, b->expert_scale.base != NULL);
    compare_there(d, "a router bias", a->router && a->router->bias.base, b->router && b->router->bias.base);
    compare_groups(d, a, b);
    compare(d, "a kind of renormalisation (enum moe_renorm) of", a->renorm, b->renorm);
    if (a->renorm == MOE_RENORM_ADD_EPS || a->renorm == MOE_RENORM_CLAMP_EPS)
        compare(d, "an epsilon of renormalisation of", (double)a->renorm_eps, (double)b->renorm_eps);
    if (a->renorm == MOE_RENORM_P_NORM)
        compare(d, "a p-norm of", (double)a->renorm_p, (double)b->renorm_p);
    compare(d, "a soft-cap of the router's logits of", (double)a->softcap, (double)b->softcap);
    if (weight_of(a) == MOE_SCORE_SPARSEMIXER)
        compare(d, "an epsilon of the sparse mixer of", (double)a->sparsemixer_eps, (double)b->sparsemixer_eps);
    compare_norm(d, "a norm of the router's input", a->norm, b->norm);
    compare(d, "a table of experts by token id with rows:", (double)a->hash_rows, (double)b->hash_rows);
    compare(d, "a number of experts that are always chosen of", (double)a->num_always, (double)b->num_always);
}

static double scale_of(const struct moe_layer_params *layer)
{
    double weights = layer->routing && layer->routing->scale != 0 ? (double)layer->routing->scale : 1;
    return weights * (layer->routed_scale != 0 ? (double)layer->routed_scale : 1);
}

static bool has_bias(const struct moe_matrix *matrix)
{
    return matrix && matrix->bias.base;
}

/* what: of which matrices. */
static void compare_biases(struct difference *d, const char *const what[3], const struct moe_experts_params *a,
                           const struct moe_experts_params *b)
{
    compare_there(d, what[0], has_bias(a->gate), has_bias(b->gate));
    compare_there(d, what[1], has_bias(a->up), has_bias(b->up));
    compare_there(d, what[2], has_bias(a->down), has_bias(b->down));
}

static void compare_sizes(struct difference *d, const struct moe_experts_params *a, const struct moe_experts_params *b)
{
    compare(d, "a number of experts of", (double)a->num_experts, (double)b->num_experts);
    compare(d, "a width of", (double)a->hidden_size, (double)b->hidden_size);
    compare(d, "an intermediate size of", (double)a->intermediate_size, (double)b->intermediate_size);
}

static void compare_blocks(struct difference *d, const struct moe_model_block *a, const struct moe_model_block *b)
{
    static const char *const of_experts[] = {"a bias of gate matrices", "a bias of up matrices",
                                             "a bias of down matrices"};
    static const char *const of_shared[] = {"a bias of the shared expert's gate", "a bias of the shared expert's up",
                                            "a bias of the shared expert's down"};
    static const char *const of_latent[] = {"", "a bias of the projection before the experts",
                                            "a bias of the projection behind the experts"};
    const struct moe_layer_params *x = a->layer, *y = b->layer;
    compare_sizes(d, a->experts, b->experts);
    compare_act(d, "an activation:", a->experts, b->experts);
    compare_biases(d, of_experts, a->experts, b->experts);
    compare(d, "a top-k of", (double)x->top_k, (double)y->top_k);
    compare(d, "zero experts, in number:", (double)x->num_zero_experts, (double)y->num_zero_experts);
    compare_there(d, "a weight on the experts' input", x->weight_on_input, y->weight_on_input);
    compare_routing(d, x->routing, y->routing);
    compare(d, "a scale of the experts' sum of", scale_of(x), scale_of(y));
    compare(d, "a scale of the layer's sum of", x->out_scale != 0 ? (double)x->out_scale : 1,
            y->out_scale != 0 ? (double)y->out_scale : 1);
    compare_there(d, "a bias of the layer's sum", x->out_bias.base != NULL, y->out_bias.base != NULL);
    compare_norm(d, "a norm of the layer's sum", x->out_norm, y->out_norm);
    compare_norm(d, "a norm of the latent sum", x->latent_norm, y->latent_norm);
    compare_there(d, "latent experts", a->latent != NULL, b->latent != NULL);
    if (a->latent && b->latent)
        compare_biases(d, of_latent, a->latent, b->latent);
    compare_there(d, "a shared expert", a->shared != NULL, b->shared != NULL);
    if (!a->shared || !b->shared)
        return;
    compare_sizes(d, a->shared, b->shared);
    compare_act(d, "an activation of the shared expert:", a->shared, b->shared);
    compare_biases(d, of_shared, a->shared, b->shared);
    bool gate_a = x->shared && x->shared->gate_kind == MOE_SHARED_SIGMOID;
    bool gate_b = y->shared && y->shared->gate_kind == MOE_SHARED_SIGMOID;
    compare_there(d, "a gate of the shared expert", gate_a, gate_b);
}

/* The sentence without the name that the file has while it is written. */
static int fail_reading(const struct names_family *family, size_t i, const struct moe_error *error)
{
    const char *sentence = strstr(error->text, ": ");
    return tool_fail(TOOL_INPUT, "layer %zu is not one that a GGUF file of architecture '%s' can have: %s", i,
                     family->architecture, sentence ? sentence + 2 : error->text);
}

static int compare_models(struct session *session, const struct names_family *family, struct moe_model *written)
{
    for (size_t i = 0; i < session->info.num_blocks; i++) {
        const struct moe_model_block *a = NULL, *b = NULL;
        struct moe_error error = {0};
        enum moe_status status = moe_model_block(session->model, i, &a, &error);
        if (status != MOE_OK)
            return tool_fail_moe(status, &error, "a layer cannot be read");
        if (moe_model_block(written, i, &b, &error) != MOE_OK)
            return fail_reading(family, i, &error);
        struct difference d = {0};
        compare_there(&d, "experts", a != NULL, b != NULL);
        if (a && b)
            compare_blocks(&d, a, b);
        if (d.what && d.is_presence)
            return tool_fail(TOOL_INPUT,
                             "layer %zu comes %s %s; the keys and tensors of a GGUF file of architecture '%s' cannot "
                             "say that, it would be read %s",
                             i, d.found, d.what, family->architecture, d.read);
        if (d.what)
            return tool_fail(TOOL_INPUT,
                             "layer %zu has %s %s; the keys of a GGUF file of architecture '%s' cannot say that, it "
                             "would be read as %s",
                             i, d.what, d.found, family->architecture, d.read);
    }
    return TOOL_OK;
}

int convert_verify(struct session *session, const struct names_family *family, struct outfile *file, uint64_t size)
{
    if (!file->temporary)    /* a pipe, a device */
        return TOOL_OK;
    if (fflush(file->file) != 0 || size > INT64_MAX || ftruncate(fileno(file->file), (off_t)size) != 0)
        return tool_fail(TOOL_INPUT, "%s: its %llu bytes cannot be had", file->path, (unsigned long long)size);
    struct moe_model *written = NULL;
    struct moe_error error = {0};
    enum moe_status status = moe_model_open(file->temporary, NULL, &written, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, "what was written cannot be read back");
    int code = compare_models(session, family, written);
    moe_model_close(written);
    return code;
}
