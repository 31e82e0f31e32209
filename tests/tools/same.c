// SPDX-License-Identifier: MIT
// Whether two models compute the same: every layer of both on the same random input, with the router on another one.
// Usage: moe_tools_same A B TOLERANCE. Prints the worst relative error and how many tokens got other experts.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/moe.h"
#include "support.h"

enum { TOKENS = 24 };

/* What a layer gave. */
struct result {
    struct moe_layer_info info;
    float *out, *weights;
    int32_t *ids;
};

struct input {
    float *x, *router_x;
    int32_t token_ids[TOKENS];
};

static struct moe_view view_of(void *base, size_t bytes, enum moe_format format)
{
    struct moe_view view = {.base = base, .size = bytes, .format = format};
    return view;
}

static int failed(const char *what, enum moe_status status, const struct moe_error *error)
{
    printf("%s: %s %s\n", what, moe_status_text(status), error != NULL ? error->text : "");
    return 1;
}

static void fill(float *values, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        values[i] = (float)((double)(seed >> 33) / 2147483648.0 * 4 - 2);
    }
}

static int run_layer(struct moe_backend *backend, struct moe_context *ctx, const struct moe_layer *layer,
                     const struct input *in, struct result *out)
{
    out->info.struct_size = sizeof out->info;
    moe_layer_info(layer, &out->info);
    size_t width = TOKENS * out->info.hidden_size, pairs = TOKENS * out->info.top_k, bytes = 0;
    out->out = calloc(width, sizeof *out->out);
    out->weights = calloc(pairs, sizeof *out->weights);
    out->ids = calloc(pairs, sizeof *out->ids);
    struct moe_layer_io io;
    MOE_INIT(&io);
    io.num_tokens = TOKENS;
    io.x = view_of(in->x, width * sizeof(float), MOE_FORMAT_F32);
    io.router_x = view_of(in->router_x, width * sizeof(float), MOE_FORMAT_F32);
    io.token_ids = view_of((void *)(uintptr_t)in->token_ids, sizeof in->token_ids, MOE_FORMAT_I32);
    io.out = view_of(out->out, width * sizeof(float), MOE_FORMAT_F32);
    io.out_ids = view_of(out->ids, pairs * sizeof(int32_t), MOE_FORMAT_I32);
    io.out_weights = view_of(out->weights, pairs * sizeof(float), MOE_FORMAT_F32);
    if (!out->info.needs_token_ids)
        memset(&io.token_ids, 0, sizeof io.token_ids);
    enum moe_status status = moe_layer_workspace_size(ctx, layer, &io, &bytes);
    if (status == MOE_OK)
        status = moe_mem_alloc(backend, bytes > 0 ? bytes : 1, &io.workspace);
    if (status == MOE_OK)
        status = moe_layer_forward(ctx, layer, &io);
    if (io.workspace.base != NULL)
        moe_mem_free(backend, &io.workspace);
    return status == MOE_OK ? 0 : failed("a layer cannot be run", status, NULL);
}

static int run_block(struct moe_backend *backend, struct moe_context *ctx, struct moe_model *model, size_t block,
                     const struct input *in, struct result *out)
{
    struct moe_error error = {0};
    struct moe_layer *layer = NULL;
    enum moe_status status =
        moe_model_layer(model, block, backend, MOE_LAYER_EXACT | MOE_LAYER_ALLOW_COMPOSED, &layer, &error);
    if (status != MOE_OK)
        return failed("a layer cannot be made", status, &error);
    int code = run_layer(backend, ctx, layer, in, out);
    moe_layer_destroy(layer);
    return code;
}

static bool chosen(const int32_t *ids, size_t count, int32_t id)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static int compare(const struct result *a, const struct result *b, double *worst, size_t *others)
{
    size_t hidden = a->info.hidden_size, top_k = a->info.top_k;
    if (hidden != b->info.hidden_size || top_k != b->info.top_k) {
        printf("sizes differ\n");
        return 1;
    }
    double error = 0, norm = 0;
    for (size_t i = 0; i < TOKENS * hidden; i++) {
        error += pow((double)a->out[i] - (double)b->out[i], 2);
        norm += pow((double)a->out[i], 2);
    }
    double relative = norm > 0 ? sqrt(error / norm) : INFINITY;
    if (!(relative <= *worst))
        *worst = relative;
    for (size_t t = 0; t < TOKENS; t++) {
        bool same = true;
        for (size_t k = 0; k < top_k; k++)
            same = same && chosen(b->ids + t * top_k, top_k, a->ids[t * top_k + k]);
        *others += !same;
    }
    return 0;
}

static void release(struct result *result)
{
    free(result->out);
    free(result->weights);
    free(result->ids);
}

static int compare_blocks(struct moe_backend *backend, struct moe_context *ctx, struct moe_model *const models[2],
                          size_t num_blocks, double *worst, size_t *others)
{
    int code = 0;
    size_t count = 0;
    for (size_t i = 0; i < num_blocks && code == 0; i++) {
        const struct moe_model_block *blocks[2];
        struct moe_error error = {0};
        for (size_t m = 0; m < 2; m++) {
            enum moe_status status = moe_model_block(models[m], i, &blocks[m], &error);
            if (status != MOE_OK)
                return failed("a block cannot be read", status, &error);
        }
        if ((blocks[0] == NULL) != (blocks[1] == NULL)) {
            printf("block %zu has experts in one of them\n", i);
            return 1;
        }
        if (blocks[0] == NULL)
            continue;
        count++;
        const struct moe_experts_params *wide = blocks[0]->latent != NULL ? blocks[0]->latent : blocks[0]->experts;
        size_t width = TOKENS * wide->hidden_size;
        struct input in = {calloc(width, sizeof(float)), calloc(width, sizeof(float)), {0}};
        struct result results[2] = {{{0}, NULL, NULL, NULL}, {{0}, NULL, NULL, NULL}};
        fill(in.x, width, 2 * i);
        fill(in.router_x, width, 2 * i + 1);
        for (size_t t = 0; t < TOKENS; t++)
            in.token_ids[t] = (int32_t)(t * 5);
        for (size_t m = 0; m < 2 && code == 0; m++)
            code = run_block(backend, ctx, models[m], i, &in, &results[m]);
        if (code == 0)
            code = compare(&results[0], &results[1], worst, others);
        release(&results[0]);
        release(&results[1]);
        free(in.x);
        free(in.router_x);
    }
    if (count == 0)
        printf("no layer has experts\n");
    return code != 0 || count == 0;
}

int main(int argc, char **argv)
{
    struct moe_backend *backend = NULL;
    struct moe_context *ctx = NULL;
    struct moe_model *models[2] = {NULL, NULL};
    struct moe_model_info info[2];
    struct moe_error error = {0};
    double worst = 0;
    size_t others = 0;
    if (argc != 4 || moe_backend_open("cpu", NULL, &backend, &error) != MOE_OK ||
        moe_context_create(backend, NULL, &ctx, &error) != MOE_OK)
        return failed("usage, or the backend", MOE_ERR_ARGUMENT, &error);
    for (size_t m = 0; m < 2; m++) {
        enum moe_status status = moe_model_open(argv[1 + m], NULL, &models[m], &error);
        if (status != MOE_OK)
            return failed(argv[1 + m], status, &error);
        info[m].struct_size = sizeof info[m];
        moe_model_info(models[m], &info[m]);
    }
    int code = info[0].num_blocks != info[1].num_blocks;
    if (code != 0)
        printf("%zu and %zu blocks\n", info[0].num_blocks, info[1].num_blocks);
    else
        code = compare_blocks(backend, ctx, models, info[0].num_blocks, &worst, &others);
    if (code == 0)
        printf("error %.2g, other experts for %zu tokens, %s\n", worst, others, info[1].architecture);
    if (code == 0 && !(worst <= strtod(argv[3], NULL) && others == 0))
        code = 1;
    moe_model_close(models[0]);
    moe_model_close(models[1]);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
    return code;
}
