// SPDX-License-Identifier: MIT
// What bounds a cell: the arithmetic peaks of the machine at the backend's level, and which of them the kernels of a
// layer could reach at best.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "describe.h"

void bench_limits_measure(struct bench *bench)
{
    for (size_t kind = 0; kind < NUM_PEAKS; kind++)
        bench->peaks[kind] = bench_peak((enum peak_kind)kind, bench->session.level, bench->threads);
}

bool bench_limits_tiles(const struct bench *bench)
{
    return bench->peaks[PEAK_AMX_INT8] > 0;
}

/* What the backend says of its kernels, such as "linear_q8 q4_k avx512vnni". */
struct search {
    const char *format;
    bool int8, bf16;
};

static void look_at(void *user, const char *key, const char *value)
{
    struct search *search = user;
    char op[32], format[32];
    if (strcmp(key, "kernel") != 0 || sscanf(value, "%31s %31s", op, format) != 2 || strcmp(format, search->format))
        return;
    search->int8 = search->int8 || strcmp(op, "linear_q8") == 0;
    search->bf16 = search->bf16 || strcmp(op, "linear_bf16") == 0;
}

static enum peak_kind kind_of(const struct bench *bench, enum moe_format format, bool exact)
{
    struct search search = {.format = describe_format(format)};
    moe_backend_describe(bench->session.backend, look_at, &search);
    return exact ? PEAK_F32 : search.int8 ? PEAK_INT8 : search.bf16 ? PEAK_BF16 : PEAK_F32;
}

int bench_limits_choose(struct bench *bench)
{
    struct moe_layer_info info = {.struct_size = sizeof info};
    enum moe_status status = moe_layer_info(bench->layers[0], &info);
    if (status != MOE_OK)
        return tool_fail_moe(status, NULL, "the layer cannot be described");
    bench->in = kind_of(bench, bench->weights.format, info.exact);
    bench->down = kind_of(bench, bench->weights.down, info.exact);
    return TOOL_OK;
}

/* The peak of a kind; that of f32 where it is higher, for any product can be made of f32 values. */
static double peak_of(const struct bench *bench, enum peak_kind kind, bool tiles)
{
    double peak = fmax(bench->peaks[kind], bench->peaks[PEAK_F32]);
    if (tiles && kind == PEAK_INT8)
        peak = fmax(peak, bench->peaks[PEAK_AMX_INT8]);
    else if (tiles && kind == PEAK_BF16)
        peak = fmax(peak, bench->peaks[PEAK_AMX_BF16]);
    return peak;
}

double bench_limits_compute(const struct bench *bench, double flops, bool tiles)
{
    double in = peak_of(bench, bench->in, tiles), down = peak_of(bench, bench->down, tiles);
    double down_share = 1.0 / (double)bench->weights.matrices_each;
    return in > 0 && down > 0 ? flops * ((1 - down_share) / in + down_share / down) : 0;
}
