// SPDX-License-Identifier: MIT
// Every layer of both trained models and of the eight family checkpoints against its float64 reference, by the
// definition, by the fused layer and by the composed one; routed by its own router, by logits, by ids and weights.
#include "support.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ||out - ref|| / ||ref||; f32 sums of a few hundred products stay well below. */
static const double MAX_ERROR = 1e-5;

/* The tensors of one layer in reference.safetensors; NULL: not stored. */
struct reference {
    size_t num_tokens, hidden_size, top_k;
    double *x, *router_x, *router_logits, *ids, *weights, *out;
};

static bool load_reference(struct reference *ref, struct moe_model *file, size_t layer)
{
    memset(ref, 0, sizeof *ref);
    ref->x = test_tensor(file, layer, "x", &ref->num_tokens, &ref->hidden_size);
    if (ref->x == NULL)
        return false;
    ref->router_x = test_tensor(file, layer, "router_x", NULL, NULL);
    ref->router_logits = test_tensor(file, layer, "router_logits", NULL, NULL);
    ref->ids = test_tensor(file, layer, "ids", NULL, &ref->top_k);
    ref->weights = test_tensor(file, layer, "weights", NULL, NULL);
    ref->out = test_tensor(file, layer, "out", NULL, NULL);
    assert_non_null(ref->out);
    return true;
}

static void free_reference(struct reference *ref)
{
    free(ref->x);
    free(ref->router_x);
    free(ref->router_logits);
    free(ref->ids);
    free(ref->weights);
    free(ref->out);
}

/* What the definition gives for the layer: its choice of experts is compared with the reference once, here. */
struct routed {
    int64_t *ids;
    double *weights;
};

/* x is stored in f32: the logits are off by 2^-24 relative to sum |w x|, a weight by the same amount relative to itself
 * (the slopes of softmax and sigmoid are at most that), a few times over for the renormalisation. */
static void compare_routing(const struct reference *ref, const struct routed *routed, size_t top_k)
{
    for (size_t t = 0; ref->ids != NULL && t < ref->num_tokens; t++) {
        for (size_t k = 0; k < top_k; k++) {
            size_t j = 0;
            while (j < top_k && (int64_t)ref->ids[t * top_k + j] != routed->ids[t * top_k + k])
                j++;
            if (j == top_k)
                fail_msg("token %zu: expert %lld is not in the reference", t, (long long)routed->ids[t * top_k + k]);
            double weight = ref->weights[t * top_k + j];
            double error = fabs(routed->weights[t * top_k + k] - weight);
            test_assert_most(error, 2e-6 * fabs(weight), "weight of the definition");
        }
    }
}

static void by_definition(const struct reference *ref, const struct moe_model_block *block, struct routed *routed)
{
    size_t top_k = block->layer->top_k, n = ref->num_tokens * ref->hidden_size;
    double *out = moe_ref_alloc(n, sizeof *out);
    routed->ids = moe_ref_alloc(ref->num_tokens * top_k, sizeof *routed->ids);
    routed->weights = moe_ref_alloc(ref->num_tokens * top_k, sizeof *routed->weights);
    struct moe_ref_call call = {.num_tokens = ref->num_tokens, .x = ref->x, .router_x = ref->router_x, .out = out,
                                .out_ids = routed->ids, .out_weights = routed->weights};
    moe_ref_layer(block, &call);
    float *out32 = test_floats(out, n);
    test_assert_most(test_relative_error(out32, ref->out, n), MAX_ERROR, "relative error of the definition");
    compare_routing(ref, routed, top_k);
    free(out32);
    free(out);
}

enum source { OWN_ROUTER, LOGITS, IDS, NUM_SOURCES };

/* ids and weights that a router in double gives for what the call sees. */
static void expect_routing(const struct reference *ref, const struct moe_model_block *block,
                           const struct routed *routed, enum source source, int64_t *ids, double *weights)
{
    size_t top_k = block->layer->top_k, num_experts = block->experts->num_experts;
    const double *x = ref->router_x != NULL ? ref->router_x : ref->x;
    double *logits = moe_ref_alloc(num_experts, sizeof *logits);
    for (size_t t = 0; t < ref->num_tokens; t++) {
        for (size_t i = t * top_k; source == IDS && i < (t + 1) * top_k; i++) {
            ids[i] = routed->ids[i];
            weights[i] = (float)routed->weights[i];
        }
        if (source == IDS)
            continue;
        if (source == OWN_ROUTER)
            moe_ref_logits(logits, block, x + t * ref->hidden_size);
        for (size_t e = 0; source == LOGITS && e < num_experts; e++)
            logits[e] = ref->router_logits[t * num_experts + e];
        moe_ref_route(block->layer->routing, num_experts, top_k, logits, ids + t * top_k, weights + t * top_k);
    }
    free(logits);
}

/* The layer's output within MAX_ERROR of the reference; its ids those of the definition, its weights within 2 units in
 * the last place of a router in double. */
static void by_layer(const struct reference *ref, const struct moe_model_block *block, const struct routed *routed,
                     struct moe_context *ctx, const struct moe_layer *layer, enum source source, double *worst)
{
    size_t num_tokens = ref->num_tokens, n = num_tokens * ref->hidden_size, top_k = block->layer->top_k;
    size_t pairs = num_tokens * top_k, num_experts = block->experts->num_experts;
    float *x = test_floats(ref->x, n), *out = moe_ref_alloc(n, sizeof *out);
    float *weights = test_floats(routed->weights, pairs), *out_weights = moe_ref_alloc(pairs, sizeof *out_weights);
    float *logits = ref->router_logits != NULL ? test_floats(ref->router_logits, num_tokens * num_experts) : NULL;
    float *router_x = ref->router_x != NULL ? test_floats(ref->router_x, n) : NULL;
    int32_t *out_ids = moe_ref_alloc(pairs, sizeof *out_ids);
    double *expected = moe_ref_alloc(pairs, sizeof *expected);
    int64_t *ids = moe_ref_alloc(pairs, sizeof *ids);
    struct test_call call = {.num_tokens = num_tokens, .x = x, .out = out, .out_ids = out_ids,
                             .out_weights = out_weights};
    call.logits = source == LOGITS ? logits : NULL;
    call.router_x = source == OWN_ROUTER ? router_x : NULL;
    call.ids = source == IDS ? routed->ids : NULL;
    call.weights = source == IDS ? weights : NULL;
    test_assert_ok(test_call_run(ctx, layer, &call));
    double error = test_relative_error(out, ref->out, n);
    *worst = error > *worst ? error : *worst;
    test_assert_most(error, MAX_ERROR, "relative error");
    expect_routing(ref, block, routed, source, ids, expected);
    for (size_t i = 0; i < pairs; i++) {
        assert_int_equal(out_ids[i], ids[i]);
        test_assert_most(test_ulps(out_weights[i], expected[i]), 2, "weight in units in the last place");
    }
    for (size_t t = 0; t < num_tokens; t++)
        assert_true(test_same_set(ids + t * top_k, routed->ids + t * top_k, top_k));
    free(x);
    free(out);
    free(weights);
    free(out_weights);
    free(logits);
    free(router_x);
    free(out_ids);
    free(expected);
    free(ids);
}

static void test_layer(struct moe_model *model, size_t b, const struct reference *ref, struct moe_backend *backend,
                       struct moe_context *ctx)
{
    const struct moe_model_block *block;
    struct moe_error error = {0};
    struct routed routed;
    if (moe_model_block(model, b, &block, &error) != MOE_OK)
        fail_msg("block %zu: %s", b, error.text);
    assert_non_null(block);
    by_definition(ref, block, &routed);
    const uint32_t flags[] = {0, MOE_LAYER_FORCE_COMPOSED};
    for (size_t i = 0; i < 2; i++) {
        struct moe_layer *layer = NULL;
        struct moe_layer_info info = {.struct_size = sizeof info};
        double worst = 0;
        if (moe_model_layer(model, b, backend, flags[i], &layer, &error) != MOE_OK)
            fail_msg("layer %zu: %s", b, error.text);
        test_assert_ok(moe_layer_info(layer, &info));
        assert_true(info.composed == (i == 1));
        assert_true(info.has_router);
        for (int source = OWN_ROUTER; source < NUM_SOURCES; source++)
            if (source != LOGITS || ref->router_logits != NULL)
                by_layer(ref, block, &routed, ctx, layer, (enum source)source, &worst);
        print_message("  layer %zu, %s: relative error %.2g\n", b, i == 0 ? "fused" : "composed", worst);
        moe_layer_destroy(layer);
    }
    free(routed.ids);
    free(routed.weights);
}

static void test_model(const char *path, size_t num_layers)
{
    struct moe_backend *backend = test_backend("cpu");
    struct moe_context *ctx = test_context(backend, 2);
    struct moe_model *model = test_open(path, NULL), *file = test_open(path, "reference.safetensors");
    struct moe_model_info info = {.struct_size = sizeof info};
    size_t tested = 0;
    test_assert_ok(moe_model_info(model, &info));
    for (size_t b = 0; b < info.num_blocks; b++) {
        struct reference ref;
        if (!load_reference(&ref, file, b))
            continue;
        test_layer(model, b, &ref, backend, ctx);
        free_reference(&ref);
        tested++;
    }
    assert_int_equal(tested, num_layers);
    moe_model_close(file);
    moe_model_close(model);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
}

static void test_bard(void **state)
{
    (void)state;
    test_model(MOE_SOURCE_DIR "/models/bard", 4);
}

static void test_scribe(void **state)
{
    (void)state;
    test_model(MOE_TEST_MODELS "/scribe", 3);
}

/* Every checkpoint of the zoo has two blocks, both with experts. */
static void test_family(void **state)
{
    test_model(*state, 2);
}

/* ---- the folders of the zoo ---- */

enum { MAX_FAMILIES = 128, MAX_PATH = 512 };

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Paths of the families, sorted; how many. */
static size_t find_families(char (*paths)[MAX_PATH])
{
    const char *zoo = MOE_SOURCE_DIR "/tests/data/zoo";
    size_t count = 0;
    DIR *folder = opendir(zoo);
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL && count < MAX_FAMILIES)
        if (entry->d_name[0] != '.')
            snprintf(paths[count++], MAX_PATH, "%s/%s", zoo, entry->d_name);
    if (folder != NULL)
        closedir(folder);
    qsort(paths, count, MAX_PATH, compare_names);
    return count;
}

int main(void)
{
    static char paths[MAX_FAMILIES][MAX_PATH];
    struct CMUnitTest tests[MAX_FAMILIES + 2] = {cmocka_unit_test(test_bard), cmocka_unit_test(test_scribe)};
    size_t count = find_families(paths);
    if (count < 8) {
        fprintf(stderr, "the zoo has %zu families, expected at least 8\n", count);
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        tests[i + 2] = (struct CMUnitTest){strrchr(paths[i], '/') + 1, test_family, NULL, NULL, paths[i]};
    return _cmocka_run_group_tests("zoo", tests, count + 2, NULL, NULL);
}
