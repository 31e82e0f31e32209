// SPDX-License-Identifier: MIT
// Every number of tokens from 0 to 300 on one small layer: each token's bits are those that it has alone.
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const struct shape shape = {256, 320, 8, 2};

struct part {
    const char *name;
    enum moe_format out_format;
    bool quick;
};

static void check_scheme(struct gpu *gpu, const void *arg)
{
    const struct part *part = arg;
    const char *name = part->name;
    enum moe_format out_format = part->out_format;
    size_t most = gpu->quick ? 20 : 300, hidden_size = shape.hidden_size, top_k = shape.top_k, unlike = 0, first = 0;
    struct rng rng = {11};
    struct subject subject;
    struct call call;
    struct subject_spec spec = {.shape = shape, .in = scheme_find(name), .down = scheme_find(name),
                                .flags = MOE_LAYER_BATCH_INVARIANT};
    if (!scheme_fits(spec.down, shape.intermediate_size))
        spec.down = scheme_find("q8_0");
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &call, &subject, most, MOE_FORMAT_BF16, out_format, FROM_IDS);
    size_t row = hidden_size * moe_format_info(out_format)->block_bytes;
    float *x = host_alloc(most * hidden_size, sizeof *x), *weights = host_alloc(most * top_k, sizeof *weights);
    int32_t *ids = host_alloc(most * top_k, sizeof *ids);
    unsigned char *alone = host_alloc(most, row), *out = host_alloc(most, row);
    rng_values(&rng, x, most * hidden_size, 1, MOE_FORMAT_BF16);
    rng_routing(&rng, ids, weights, most, shape.num_experts, top_k);
    for (size_t t = 0; t < most; t++) {
        call_set(gpu, &call, 1, x + t * hidden_size, ids + t * top_k, weights + t * top_k, NULL);
        call_run(gpu, &call, alone + t * row);
    }
    for (size_t n = 0; n <= most; n++) {
        call_set(gpu, &call, n, x, ids, weights, NULL);
        call_run(gpu, &call, out);
        for (size_t t = 0; t < n; t++)
            if (memcmp(out + t * row, alone + t * row, row) != 0 && unlike++ == 0)
                first = n;
    }
    check_line(gpu, unlike == 0, "%s, out %s, 0 to %zu tokens: %zu rows unlike the same token alone%s (first with %zu)",
               name, moe_format_info(out_format)->name, most, unlike, subject.info.composed ? ", composed" : "", first);
    void *const memory[] = {x, weights, ids, alone, out};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        free(memory[i]);
    call_free(gpu, &call);
    subject_free(gpu, &subject);
}

void check_tokens(struct gpu *gpu)
{
    static const struct part parts[] = {
        {"bf16", MOE_FORMAT_BF16, true},         {"q4_k", MOE_FORMAT_F32, true},
        {"q8_0", MOE_FORMAT_F16, false},         {"mxfp4", MOE_FORMAT_F32, false},
        {"fp8_128x128", MOE_FORMAT_F32, false},  {"int4_g128", MOE_FORMAT_F32, false},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!gpu->quick || parts[i].quick)
            check_part(gpu, check_scheme, &parts[i]);
}
