// SPDX-License-Identifier: MIT
// Calls whose arrays have more than 2^31 values: the intermediate activations, num_tokens * top_k * 2 *
// intermediate_size, and the pairs' outputs, num_tokens * top_k * hidden_size. A sample of tokens against few at once.
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { DISTINCT = 997, SAMPLES = 24 };

/* Every row is one of DISTINCT. */
static void write_rows(struct gpu *gpu, const struct moe_view *view, const void *rows, size_t row_bytes,
                       size_t num_rows)
{
    struct moe_view at = *view;
    for (size_t done = 0; done < num_rows; done += DISTINCT) {
        size_t now = num_rows - done < DISTINCT ? num_rows - done : DISTINCT;
        at.offset = view->offset + done * row_bytes;
        at.size = now * row_bytes;
        gpu_write(gpu, &at, rows, now * row_bytes);
    }
}

static size_t count_unlike(struct gpu *gpu, const struct call *call, const unsigned char *alone, size_t row,
                           size_t num_tokens, struct rng *rng)
{
    unsigned char *out = host_alloc(row, 1);
    size_t unlike = 0;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t t = i == 0 ? 0 : i < SAMPLES / 2 ? num_tokens - i : rng_below(rng, num_tokens);
        struct moe_view view = call->io.out;
        view.offset += t * row;
        view.size = row;
        gpu_read(gpu, out, &view, row);
        unlike += memcmp(out, alone + t % DISTINCT * row, row) != 0;
    }
    free(out);
    return unlike;
}

static void check_size(struct gpu *gpu, const struct shape *shape, const char *scheme, size_t num_tokens)
{
    size_t row = shape->hidden_size * 2, pairs = shape->top_k;
    struct rng rng = {73};
    struct subject subject;
    struct call few, call;
    struct subject_spec spec = {.shape = *shape, .in = scheme_find(scheme), .down = scheme_find(scheme),
                                .flags = MOE_LAYER_BATCH_INVARIANT};
    subject_init(gpu, &subject, &rng, &spec);
    float *x = host_alloc(DISTINCT * shape->hidden_size, sizeof *x);
    float *weights = host_alloc(DISTINCT * pairs, sizeof *weights);
    int32_t *ids = host_alloc(DISTINCT * pairs, sizeof *ids);
    unsigned char *alone = host_alloc(DISTINCT, row), *rows = host_alloc(DISTINCT, row);
    rng_values(&rng, x, DISTINCT * shape->hidden_size, 1, MOE_FORMAT_BF16);
    rng_routing(&rng, ids, weights, DISTINCT, shape->num_experts, pairs);
    moe_format_quantise(MOE_FORMAT_BF16, rows, x, DISTINCT, shape->hidden_size);
    call_init(gpu, &few, &subject, DISTINCT, MOE_FORMAT_BF16, MOE_FORMAT_BF16, FROM_IDS);
    for (size_t t = 0; t < DISTINCT; t += 7) {
        size_t n = DISTINCT - t < 7 ? DISTINCT - t : 7;
        call_set(gpu, &few, n, x + t * shape->hidden_size, ids + t * pairs, weights + t * pairs, NULL);
        call_run(gpu, &few, alone + t * row);
    }
    call_init(gpu, &call, &subject, num_tokens, MOE_FORMAT_BF16, MOE_FORMAT_BF16, FROM_IDS);
    write_rows(gpu, &call.x, rows, row, num_tokens);
    write_rows(gpu, &call.ids, ids, pairs * sizeof *ids, num_tokens);
    write_rows(gpu, &call.weights, weights, pairs * sizeof *weights, num_tokens);
    call_set(gpu, &call, num_tokens, NULL, NULL, NULL, NULL);
    call_poison(gpu, &call);
    call_forward(gpu, &call);
    gpu_sync(gpu);
    size_t unlike = count_unlike(gpu, &call, alone, row, num_tokens, &rng);
    bool guarded = gpu_guard(gpu, &call.workspace) && gpu_guard(gpu, &call.out);
    check_line(gpu, unlike == 0 && guarded,
               "%s, %zu tokens, %zu x %zu, top %zu, %.2f x 2^31 values of activations, %.2f x 2^31 of outputs: %zu of "
               "%d rows unlike those of 7 tokens%s", scheme, num_tokens, shape->hidden_size, shape->intermediate_size,
               pairs, (double)num_tokens * (double)(2 * pairs * shape->intermediate_size) / 0x1p31,
               (double)num_tokens * (double)(pairs * shape->hidden_size) / 0x1p31, unlike, SAMPLES,
               guarded ? "" : "; bytes behind a buffer changed");
    void *const memory[] = {x, weights, ids, alone, rows};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        free(memory[i]);
    call_free(gpu, &call);
    call_free(gpu, &few);
    subject_free(gpu, &subject);
}

void check_large(struct gpu *gpu)
{
    static const struct shape wide = {64, 1024, 8, 8}, flat = {2048, 64, 8, 8};
    if (gpu->quick || !gpu->cuda) {
        check_size(gpu, &(struct shape){64, 128, 8, 8}, "bf16", 2000);
        return;
    }
    check_size(gpu, &wide, "bf16", 140000);
    check_size(gpu, &flat, "q8_0", 140000);
}
