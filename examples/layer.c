// SPDX-License-Identifier: MIT
// The shortest whole program: open a model, make the layer of one of its blocks, run it on random tokens.
//     layer [MODEL [BLOCK]]    a .gguf file or a Hugging Face directory; by default models/bard, block 0
#include <stdio.h>
#include <stdlib.h>

#include "moe/moe.h"

#define NUM_TOKENS 8

/* Functions that create or open explain a failure in *error, the others by their status alone. */
static void check(enum moe_status status, const struct moe_error *error)
{
    if (status == MOE_OK)
        return;
    fprintf(stderr, "layer: %s\n", error ? error->text : moe_status_text(status));
    exit(1);
}

static float *allocate_floats(size_t count)
{
    float *values = calloc(count, sizeof *values);
    if (!values)
        check(MOE_ERR_MEMORY, NULL);
    return values;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "models/bard";
    size_t block = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    struct moe_error error;
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct moe_model *model;
    struct moe_layer *layer;
    check(moe_backend_open("cpu", NULL, &backend, &error), &error);
    check(moe_context_create(backend, NULL, &ctx, &error), &error);
    check(moe_model_open(path, NULL, &model, &error), &error);
    check(moe_model_layer(model, block, backend, 0, &layer, &error), &error);

    struct moe_layer_info info;
    MOE_INIT(&info);
    check(moe_layer_info(layer, &info), NULL);
    printf("%s, block %zu: %zu experts, %zu a token, %zu values\n", path, block, info.num_experts, info.top_k,
           info.hidden_size);

    size_t count = NUM_TOKENS * info.hidden_size;
    float *x = allocate_floats(count), *out = allocate_floats(count);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)rand() / (float)RAND_MAX * 2 - 1;

    /* No logits and no ids: the layer routes the tokens by its own router. */
    struct moe_layer_io io;
    MOE_INIT(&io);
    io.num_tokens = NUM_TOKENS;
    io.x = (struct moe_view){.base = x, .size = count * sizeof *x, .format = MOE_FORMAT_F32};
    io.out = (struct moe_view){.base = out, .size = count * sizeof *out, .format = MOE_FORMAT_F32};
    size_t bytes;
    check(moe_layer_workspace_size(ctx, layer, &io, &bytes), NULL);
    check(moe_mem_alloc(backend, bytes, &io.workspace), NULL);
    check(moe_layer_forward(ctx, layer, &io), NULL);

    for (size_t t = 0; t < NUM_TOKENS; t++)
        printf("token %zu: %9.5f %9.5f %9.5f ...\n", t, out[t * info.hidden_size], out[t * info.hidden_size + 1],
               out[t * info.hidden_size + 2]);

    /* What is made last goes first. */
    moe_mem_free(backend, &io.workspace);
    moe_layer_destroy(layer);
    moe_model_close(model);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
    free(x);
    free(out);
    return 0;
}
