// SPDX-License-Identifier: MIT
// What the files of the CPU backend share: the opened device, a context, addresses of views.
#ifndef MOE_CPU_CPU_H
#define MOE_CPU_CPU_H

#include "check.h"
#include "cpu/call_cpu.h"
#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "moe/backend.h"

struct moe_cpu {
    struct moe_env env;               /* without functions: malloc and free */
    enum moe_level level;             /* the highest that is used */
    struct moe_kernels kernels;
};

struct moe_cpu_context {
    const struct moe_cpu *cpu;
    struct moe_threads *threads;
    struct moe_cpu_call call;         /* of a layer; one at a time */
};

static inline void *moe_cpu_address(const struct moe_view *view)
{
    return (unsigned char *)view->base + view->offset;
}

/* Row r of a view with rows. */
static inline void *moe_cpu_row(const struct moe_view *view, size_t r)
{
    return (unsigned char *)view->base + view->offset + r * view->stride;
}

/* layer_cpu.c: the fused layer, as in struct moe_backend_ops. */
enum moe_status moe_layer_cpu_open(void *self, const struct moe_layer_desc *desc, void **state,
                                   struct moe_layer_info *info, struct moe_error *error);
void moe_layer_cpu_close(void *state);
enum moe_status moe_layer_cpu_workspace_size(const void *ctx, const void *state, const struct moe_layer_io *io,
                                             size_t *bytes);
enum moe_status moe_layer_cpu_forward(void *ctx, const void *state, const struct moe_layer_io *io,
                                      struct moe_stats *stats);
enum moe_status moe_layer_cpu_route(void *ctx, const void *state, const struct moe_layer_io *io,
                                    struct moe_stats *stats);
enum moe_status moe_layer_cpu_combine(void *ctx, const void *state, const struct moe_layer_io *io,
                                      struct moe_stats *stats);
enum moe_status moe_layer_cpu_forward_team(void *ctx, const void *state, const struct moe_layer_io *io,
                                           struct moe_stats *stats, size_t ith, size_t nth);
enum moe_status moe_layer_cpu_describe(const void *state, size_t num_tokens,
                                       void (*line)(void *user, const char *key, const char *value), void *user);

#endif
