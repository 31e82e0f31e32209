// SPDX-License-Identifier: MIT
// The CPU backend: its table of functions, memory, and the primitives on host memory.
#include "cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpuid.h"

enum {
    MEM_ALIGN = 256,
    LINEAR_BLOCK = 32,              /* rows of an item */
    LINEAR_PARALLEL = 1 << 16       /* values of a matrix from which more than one lane pays */
};

/* ---- device ---- */

static enum moe_status read_level(const char *device, enum moe_level *level, struct moe_error *error)
{
    *level = moe_cpuid_best();
    if (device == NULL || device[0] == '\0')
        return MOE_OK;
    if (!moe_kernels_level_find(device, level)) {
        char names[128] = "";
        for (int i = 0; i < MOE_NUM_LEVELS; i++) {
            size_t used = strlen(names);
            snprintf(names + used, sizeof names - used, "%s%s", i > 0 ? ", " : "",
                     moe_kernels_level_name((enum moe_level)i));
        }
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "cpu: no level '%.64s'; there are: %s", device, names);
    }
    if (!moe_cpuid_has(*level))
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "cpu: this machine lacks the level '%s'; the best it has is '%s'",
                        moe_kernels_level_name(*level), moe_kernels_level_name(moe_cpuid_best()));
    return MOE_OK;
}

static enum moe_status cpu_open(const char *device, const struct moe_env *env, void **self, struct moe_error *error)
{
    *self = NULL;
    enum moe_level level;
    MOE_TRY(read_level(device, &level, error));
    struct moe_cpu *cpu = moe_alloc(env, sizeof *cpu);
    if (cpu == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "cpu: no memory for the backend");
    if (env != NULL)
        cpu->env = *env;
    cpu->level = level;
    moe_kernels_init(&cpu->kernels, level);
    *self = cpu;
    return MOE_OK;
}

static void cpu_close(void *self)
{
    if (self == NULL)
        return;
    struct moe_cpu *cpu = self;
    struct moe_env env = cpu->env;
    moe_free(&env, cpu, sizeof *cpu);
}

static void cpu_describe(const void *self, void (*line)(void *user, const char *key, const char *value), void *user)
{
    const struct moe_cpu *cpu = self;
    line(user, "level", moe_kernels_level_name(cpu->level));
    for (size_t op = 0; op < MOE_NUM_OPS; op++) {
        for (size_t i = 0; i < MOE_NUM_FORMATS; i++) {
            const struct moe_kernel_row *row = cpu->kernels.rows[op][i];
            if (row == NULL)
                continue;
            const struct moe_format_info *format = row->index != MOE_INDEX_NONE ? moe_format_at(row->index) : NULL;
            char text[64];
            snprintf(text, sizeof text, "%s%s%s %s", moe_kernels_op_name(row->op), format != NULL ? " " : "",
                     format != NULL ? format->name : "", moe_kernels_level_name(row->level));
            line(user, "kernel", text);
        }
    }
}

/* ---- context ---- */

static enum moe_status cpu_context_open(void *self, const struct moe_context_params *params, void **out,
                                        struct moe_error *error)
{
    *out = NULL;
    const struct moe_cpu *cpu = self;
    struct moe_cpu_context *ctx = moe_alloc(&cpu->env, sizeof *ctx);
    if (ctx == NULL)
        return moe_fail(error, MOE_ERR_MEMORY, "cpu: no memory for a context");
    ctx->cpu = cpu;
    enum moe_status status = moe_threads_open(&ctx->threads, &cpu->env, params, error);
    if (status != MOE_OK) {
        moe_free(&cpu->env, ctx, sizeof *ctx);
        return status;
    }
    *out = ctx;
    return MOE_OK;
}

static void cpu_context_close(void *arg)
{
    if (arg == NULL)
        return;
    struct moe_cpu_context *ctx = arg;
    moe_threads_close(ctx->threads);
    moe_free(&ctx->cpu->env, ctx, sizeof *ctx);
}

static enum moe_status cpu_sync(void *ctx)
{
    (void)ctx;
    return MOE_OK;
}

/* ---- memory ---- */

static enum moe_status cpu_mem_alloc(void *self, size_t size, struct moe_view *out)
{
    const struct moe_cpu *cpu = self;
    memset(out, 0, sizeof *out);
    size_t bytes;
    if (!moe_align(&bytes, size > 0 ? size : 1, MEM_ALIGN))
        return MOE_ERR_MEMORY;
    void *base = cpu->env.alloc != NULL ? cpu->env.alloc(cpu->env.user, bytes, MEM_ALIGN)
                                        : aligned_alloc(MEM_ALIGN, bytes);
    if (base == NULL)
        return MOE_ERR_MEMORY;
    out->base = base;
    out->size = size;
    return MOE_OK;
}

static void cpu_mem_free(void *self, const struct moe_view *mem)
{
    const struct moe_cpu *cpu = self;
    if (mem == NULL || mem->base == NULL)
        return;
    if (cpu->env.free != NULL) {
        size_t bytes = 0;
        (void)moe_align(&bytes, mem->size > 0 ? mem->size : 1, MEM_ALIGN);
        cpu->env.free(cpu->env.user, mem->base, bytes);
    } else {
        free(mem->base);
    }
}

static enum moe_status cpu_mem_write(void *self, void *ctx, const struct moe_view *dst, const void *src, size_t size)
{
    (void)self;
    (void)ctx;
    if (size > 0)
        memcpy(moe_cpu_address(dst), src, size);
    return MOE_OK;
}

static enum moe_status cpu_mem_read(void *self, void *ctx, void *dst, const struct moe_view *src, size_t size)
{
    (void)self;
    (void)ctx;
    if (size > 0)
        memcpy(dst, moe_cpu_address(src), size);
    return MOE_OK;
}

/* ---- primitives ---- */

static enum moe_status cpu_copy(void *arg, const struct moe_view *dst, const struct moe_view *src, size_t n)
{
    const struct moe_kernels *kernels = &((struct moe_cpu_context *)arg)->cpu->kernels;
    enum moe_format_index to = moe_kernels_index(dst->format), from = moe_kernels_index(src->format);
    if (to == MOE_INDEX_NONE || from == MOE_INDEX_NONE || kernels->store[to] == NULL || kernels->load[from] == NULL)
        return MOE_ERR_UNSUPPORTED;
    unsigned char *out = moe_cpu_address(dst);
    const unsigned char *in = moe_cpu_address(src);
    size_t out_bytes = moe_format_at(to)->block_bytes, in_bytes = moe_format_at(from)->block_bytes;
    if (to == from) {
        memcpy(out, in, n * in_bytes);
        return MOE_OK;
    }
    float values[256];
    for (size_t i = 0; i < n; i += MOE_ARRAY_SIZE(values)) {
        size_t run = moe_cpu_smaller(n - i, MOE_ARRAY_SIZE(values));
        kernels->load[from](values, in + i * in_bytes, run);
        kernels->store[to](out + i * out_bytes, values, run);
    }
    return MOE_OK;
}

struct linear_job {
    struct moe_linear_args args;
    const struct moe_slice_scales *scales;    /* NULL: none */
    moe_linear_fn *kernel;
    moe_linear_scaled_fn *scaled_kernel;
    _Atomic size_t next;
};

static void linear_phase(void *arg, size_t lane)
{
    (void)lane;
    struct linear_job *job = arg;
    size_t item;
    while ((item = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed)) <
           moe_cpu_blocks(job->args.rows, LINEAR_BLOCK)) {
        struct moe_linear_args args = job->args;
        size_t first = item * LINEAR_BLOCK;
        args.y += first;
        args.w += first * args.w_stride;
        args.rows = moe_cpu_smaller(LINEAR_BLOCK, args.rows - first);
        if (job->scales != NULL)
            job->scaled_kernel(&(struct moe_linear_scaled_args){args, job->scales, first});
        else
            job->kernel(&args);
    }
}

static enum moe_status cpu_linear(void *arg, const struct moe_view *y, const struct moe_slice *w,
                                  const struct moe_view *x)
{
    struct moe_cpu_context *ctx = arg;
    enum moe_format_index index = moe_kernels_index(w->data.format);
    if (index == MOE_INDEX_NONE)
        return MOE_ERR_UNSUPPORTED;
    struct linear_job job = {
        .args = {.y = moe_cpu_address(y), .y_stride = w->rows, .w = moe_cpu_address(&w->data),
                 .w_stride = w->data.stride, .x = moe_cpu_address(x), .x_stride = w->cols, .rows = w->rows,
                 .cols = w->cols, .num_tokens = 1},
        .scales = w->scaled ? &w->scales : NULL,
        .kernel = ctx->cpu->kernels.linear[index],
        .scaled_kernel = ctx->cpu->kernels.linear_scaled[index],
    };
    bool parallel = w->cols > 0 && w->rows >= LINEAR_PARALLEL / w->cols;
    moe_threads_run(ctx->threads, parallel ? moe_cpu_blocks(w->rows, LINEAR_BLOCK) : 1, linear_phase, &job);
    return MOE_OK;
}

static enum moe_status cpu_glu(void *arg, const struct moe_view *y, const struct moe_view *g, size_t n,
                               const struct moe_act *act, bool gated)
{
    struct moe_cpu_context *ctx = arg;
    const float *gate = moe_cpu_address(g);
    ctx->cpu->kernels.glu(moe_cpu_address(y), gate, gated ? gate + n : NULL, n, act, gated);
    return MOE_OK;
}

static enum moe_status cpu_scaled_add(void *arg, const struct moe_view *y, const struct moe_view *x, float a, size_t n,
                                      bool accumulate)
{
    struct moe_cpu_context *ctx = arg;
    enum moe_format_index index = moe_kernels_index(y->format);
    if (index == MOE_INDEX_NONE || ctx->cpu->kernels.scaled_add[index] == NULL)
        return MOE_ERR_UNSUPPORTED;
    ctx->cpu->kernels.scaled_add[index](moe_cpu_address(y), moe_cpu_address(x), a, n, accumulate);
    return MOE_OK;
}

extern const struct moe_backend_ops moe_cpu_ops;
const struct moe_backend_ops moe_cpu_ops = {
    .abi = MOE_BACKEND_ABI,
    .flags = MOE_BACKEND_HOST_MEMORY | MOE_BACKEND_SCALES,
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .context_open = cpu_context_open,
    .context_close = cpu_context_close,
    .mem_alloc = cpu_mem_alloc,
    .mem_free = cpu_mem_free,
    .mem_write = cpu_mem_write,
    .mem_read = cpu_mem_read,
    .sync = cpu_sync,
    .copy = cpu_copy,
    .linear = cpu_linear,
    .glu = cpu_glu,
    .scaled_add = cpu_scaled_add,
    .describe = cpu_describe,
    .layer_open = moe_layer_cpu_open,
    .layer_close = moe_layer_cpu_close,
    .layer_workspace_size = moe_layer_cpu_workspace_size,
    .layer_forward = moe_layer_cpu_forward,
    .layer_route = moe_layer_cpu_route,
    .layer_combine = moe_layer_cpu_combine,
    .layer_forward_team = moe_layer_cpu_forward_team,
    .layer_describe = moe_layer_cpu_describe,
};
