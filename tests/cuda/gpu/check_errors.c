// SPDX-License-Identifier: MIT
// Errors that a host may meet: memory that is not there, devices that do not exist, and every allowed order of giving
// things back, with work queued. After each of them the backend goes on working.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const struct shape shape = {128, 64, 4, 2};
enum { NUM_TOKENS = 3 };

static void check_names(struct gpu *gpu)
{
    static const struct {
        const char *name;
        enum moe_status status;
    } cases[] = {{"cuda:4000", MOE_ERR_UNSUPPORTED}, {"cuda:x", MOE_ERR_ARGUMENT}, {"cuda:0x", MOE_ERR_ARGUMENT},
                 {"cuda:-1", MOE_ERR_ARGUMENT}, {"cudb", MOE_ERR_UNSUPPORTED}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moe_backend *backend = gpu->backend;
        struct moe_error error = {0};
        enum moe_status status = gpu_backend_open(cases[i].name, &backend, &error);
        check_line(gpu, status == cases[i].status && backend == NULL && error.text[0] != '\0', "open \"%s\": %s: %s",
                   cases[i].name, moe_status_text(status), error.text);
        moe_backend_close(backend);
    }
}

/* The layer's result, also on a fresh context. */
static bool works(struct gpu *gpu, struct call *call, const unsigned char *expected)
{
    unsigned char *out = host_alloc(call_out_bytes(call), 1);
    call_run(gpu, call, out);
    bool same = memcmp(out, expected, call_out_bytes(call)) == 0;
    free(out);
    return same;
}

static void check_memory(struct gpu *gpu, struct call *call, const unsigned char *expected)
{
    static const size_t sizes[] = {(size_t)1 << 50, SIZE_MAX / 2, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct moe_view view = call->x;
        enum moe_status status = moe_mem_alloc(gpu->backend, sizes[i], &view);
        if (status == MOE_OK)
            moe_mem_free(gpu->backend, &view);
        check_line(gpu, status == MOE_ERR_MEMORY && works(gpu, call, expected), "%zu bytes: %s, then a forward",
                   sizes[i], moe_status_text(status));
    }
    call->io.workspace.size -= 1;
    enum moe_status status = moe_layer_forward(gpu->ctx, call->subject->layer, &call->io);
    call->io.workspace.size += 1;
    check_line(gpu, status == MOE_ERR_WORKSPACE || call->io.workspace.size == 0, "a workspace too small by a byte: %s",
               moe_status_text(status));
}

/* The caller's device stays what it is, and calls work whatever it is. */
static void check_device(struct gpu *gpu, struct call *call, const unsigned char *expected)
{
    int count = 0, before = -1, after = -1;
    check_cuda(gpu, cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    for (int device = 0; device < count && device < 2; device++) {
        check_cuda(gpu, cudaSetDevice(device), "cudaSetDevice");
        check_cuda(gpu, cudaGetDevice(&before), "cudaGetDevice");
        bool same = works(gpu, call, expected);
        check_cuda(gpu, cudaGetDevice(&after), "cudaGetDevice");
        check_line(gpu, same && before == after, "device %d current: it still is, and the forward's bits are the same",
                   device);
    }
    cudaSetDevice(0);
    if (count < 2)
        check_skip(gpu, "there is one device: none can be wrong");
}

/* The context, the layer and its experts go in any order that rule 4 allows; the context with a forward under way, the
 * others once nothing uses them. */
static void check_orders(struct gpu *gpu)
{
    static const char *const orders[] = {"xle", "lxe", "lex"};    /* context, layer, experts */
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        struct gpu own = *gpu;
        struct rng rng = {79};
        struct moe_error error = {0};
        struct subject subject;
        struct call call;
        float x[NUM_TOKENS * 128], weights[NUM_TOKENS * 2];
        int32_t ids[NUM_TOKENS * 2];
        struct subject_spec spec = {.shape = shape, .in = scheme_find("bf16"), .down = scheme_find("bf16")};
        check_ok(gpu, gpu_backend_open(gpu->name, &own.backend, &error), "a second backend");
        check_ok(gpu, moe_context_create(own.backend, NULL, &own.ctx, &error), "its context");
        if (own.cuda)
            check_ok(gpu, moe_context_set_stream(own.ctx, own.stream), "moe_context_set_stream");
        subject_init(&own, &subject, &rng, &spec);
        call_init(&own, &call, &subject, NUM_TOKENS, MOE_FORMAT_F32, MOE_FORMAT_F32, FROM_IDS);
        rng_values(&rng, x, NUM_TOKENS * 128, 1, MOE_FORMAT_F32);
        rng_routing(&rng, ids, weights, NUM_TOKENS, shape.num_experts, shape.top_k);
        call_set(&own, &call, NUM_TOKENS, x, ids, weights, NULL);
        call_forward(&own, &call);
        for (const char *at = orders[i]; *at != '\0'; at++) {
            if (own.cuda && *at != 'x')
                check_cuda(gpu, cudaStreamSynchronize(own.stream), "cudaStreamSynchronize");
            if (*at == 'x') {
                moe_context_destroy(own.ctx);
            } else if (*at == 'l') {
                moe_layer_destroy(subject.layer);
                subject.layer = NULL;
            } else {
                moe_experts_destroy(subject.experts);
                subject.experts = NULL;
            }
        }
        call_free(&own, &call);
        subject_free(&own, &subject);
        moe_backend_close(own.backend);
        check_line(gpu, true, "destroyed in the order %s, then its backend", orders[i]);
    }
}

void check_errors(struct gpu *gpu)
{
    struct rng rng = {83};
    struct subject subject;
    struct call call;
    float x[NUM_TOKENS * 128], weights[NUM_TOKENS * 2];
    int32_t ids[NUM_TOKENS * 2];
    struct subject_spec spec = {.shape = shape, .in = scheme_find("bf16"), .down = scheme_find("bf16")};
    subject_init(gpu, &subject, &rng, &spec);
    call_init(gpu, &call, &subject, NUM_TOKENS, MOE_FORMAT_F32, MOE_FORMAT_F32, FROM_IDS);
    rng_values(&rng, x, NUM_TOKENS * 128, 1, MOE_FORMAT_F32);
    rng_routing(&rng, ids, weights, NUM_TOKENS, shape.num_experts, shape.top_k);
    call_set(gpu, &call, NUM_TOKENS, x, ids, weights, NULL);
    unsigned char *expected = host_alloc(call_out_bytes(&call), 1);
    call_run(gpu, &call, expected);
    if (gpu->cuda) {
        check_names(gpu);
        check_device(gpu, &call, expected);
    }
    check_memory(gpu, &call, expected);
    check_orders(gpu);
    check_line(gpu, works(gpu, &call, expected), "after all of it: the forward's bits");
    free(expected);
    call_free(gpu, &call);
    subject_free(gpu, &subject);
}
