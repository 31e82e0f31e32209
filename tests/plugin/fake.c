// SPDX-License-Identifier: MIT
// A library that stands where the CUDA backend's would: opens, and can do nothing. FAKE_ABI: what its table says.
// FAKE_WITHOUT_TABLE: there is none.
#include "moe/backend.h"

#ifdef FAKE_WITHOUT_TABLE
MOE_API int moe_cuda_nothing(void);
int moe_cuda_nothing(void)
{
    return 0;
}
#else
static enum moe_status fake_open(const char *device, const struct moe_env *env, void **self, struct moe_error *error)
{
    static int opened;
    (void)env;
    (void)error;
    *self = &opened;
    return device != NULL && device[0] == '1' ? MOE_ERR_DEVICE : MOE_OK;
}

static void fake_close(void *self)
{
    (void)self;
}

static enum moe_status fake_context_open(void *self, const struct moe_context_params *params, void **ctx,
                                         struct moe_error *error)
{
    (void)params;
    (void)error;
    *ctx = self;
    return MOE_OK;
}

static enum moe_status fake_mem_alloc(void *self, size_t size, struct moe_view *out)
{
    (void)self;
    (void)size;
    (void)out;
    return MOE_ERR_MEMORY;
}

static void fake_mem_free(void *self, const struct moe_view *mem)
{
    (void)self;
    (void)mem;
}

static enum moe_status fake_mem_write(void *self, void *ctx, const struct moe_view *dst, const void *src, size_t size)
{
    (void)self;
    (void)ctx;
    (void)dst;
    (void)src;
    (void)size;
    return MOE_OK;
}

static enum moe_status fake_mem_read(void *self, void *ctx, void *dst, const struct moe_view *src, size_t size)
{
    (void)self;
    (void)ctx;
    (void)dst;
    (void)src;
    (void)size;
    return MOE_OK;
}

static enum moe_status fake_sync(void *ctx)
{
    (void)ctx;
    return MOE_OK;
}

static enum moe_status fake_copy(void *ctx, const struct moe_view *dst, const struct moe_view *src, size_t n)
{
    (void)ctx;
    (void)dst;
    (void)src;
    (void)n;
    return MOE_OK;
}

static enum moe_status fake_linear(void *ctx, const struct moe_view *y, const struct moe_slice *w,
                                   const struct moe_view *x)
{
    (void)ctx;
    (void)y;
    (void)w;
    (void)x;
    return MOE_OK;
}

static enum moe_status fake_glu(void *ctx, const struct moe_view *y, const struct moe_view *g, size_t n,
                                const struct moe_act *act, bool gated)
{
    (void)act;
    (void)gated;
    return fake_copy(ctx, y, g, n);
}

static enum moe_status fake_scaled_add(void *ctx, const struct moe_view *y, const struct moe_view *x, float a,
                                       size_t n, bool accumulate)
{
    (void)a;
    (void)accumulate;
    return fake_copy(ctx, y, x, n);
}

/* 3 pairs skipped, until reset. */
static enum moe_status fake_context_stats(void *ctx, struct moe_stats *stats, bool reset)
{
    int *was_reset = ctx;
    stats->skipped_pairs += *was_reset ? 0 : 3;
    *was_reset = reset;
    return MOE_OK;
}

extern MOE_API const struct moe_backend_ops moe_cuda_ops;
const struct moe_backend_ops moe_cuda_ops = {
    .abi = FAKE_ABI, .name = "cuda", .open = fake_open, .close = fake_close,
    .context_open = fake_context_open, .context_close = fake_close,
    .mem_alloc = fake_mem_alloc, .mem_free = fake_mem_free, .mem_write = fake_mem_write, .mem_read = fake_mem_read,
    .sync = fake_sync, .copy = fake_copy, .linear = fake_linear, .glu = fake_glu, .scaled_add = fake_scaled_add,
    .context_stats = fake_context_stats,
};
#endif
