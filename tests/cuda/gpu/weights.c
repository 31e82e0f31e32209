// SPDX-License-Identifier: MIT
// Random weights in every format and scheme of scales. A few rows are quantised, or made of random blocks, and every
// row of a matrix is a copy of one of them; scales differ everywhere.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* name, format, scale, scaled, block rows, block columns, zero offset, zeros, factor, rounded */
static const struct scheme scaled_schemes[] = {
    {"fp8_128x128", MOE_FORMAT_E4M3, MOE_FORMAT_F32, true, 128, 128, 0, false, false, false},
    {"fp8_128x128_bf16", MOE_FORMAT_E4M3, MOE_FORMAT_BF16, true, 128, 128, 0, false, false, false},
    {"fp8_channel", MOE_FORMAT_E4M3, MOE_FORMAT_F32, true, 1, 0, 0, false, false, false},
    {"fp8_tensor", MOE_FORMAT_E4M3, MOE_FORMAT_F32, true, 0, 0, 0, false, false, false},
    {"int4_g128", MOE_FORMAT_U4, MOE_FORMAT_F16, true, 1, 128, 8, false, false, false},
    {"int4_g32", MOE_FORMAT_U4, MOE_FORMAT_BF16, true, 1, 32, 8, false, false, false},
    {"int4_g128_zeros", MOE_FORMAT_U4, MOE_FORMAT_F16, true, 1, 128, 1, true, false, false},
    {"int8_channel", MOE_FORMAT_I8, MOE_FORMAT_F32, true, 1, 0, 0, false, false, false},
    {"int8_g128", MOE_FORMAT_U8, MOE_FORMAT_F16, true, 1, 128, 128, false, false, false},
    {"mxfp4_planes", MOE_FORMAT_E2M1, MOE_FORMAT_E8M0, true, 1, 32, 0, false, false, false},
    {"nvfp4_planes", MOE_FORMAT_E2M1, MOE_FORMAT_E4M3, true, 1, 16, 0, false, true, false},
};
enum { NUM_SCALED = sizeof scaled_schemes / sizeof scaled_schemes[0], NUM_ROWS = 61, MOST_BLOCK = 256 };

/* Formats whose codes and scales bf16 and f32 hold apart; values of the others are rounded to bf16 as a whole. */
static bool is_rounded(enum moe_format format)
{
    switch ((int)format) {
    case MOE_FORMAT_BF16:
    case MOE_FORMAT_Q8_0:
    case MOE_FORMAT_Q4_0:
    case MOE_FORMAT_Q4_K:
    case MOE_FORMAT_Q5_K:
    case MOE_FORMAT_Q6_K:
    case MOE_FORMAT_IQ4_XS:
    case MOE_FORMAT_MXFP4:
    case MOE_FORMAT_I8:
    case MOE_FORMAT_U8:
    case MOE_FORMAT_U4:
    case MOE_FORMAT_E4M3:
    case MOE_FORMAT_E2M1:
    case MOE_FORMAT_E8M0:
        return false;
    default:
        return true;
    }
}

const struct scheme *scheme_at(size_t i)
{
    static struct scheme plain[64];
    size_t num_plain = 0;
    while (moe_format_at(num_plain) != NULL && num_plain < sizeof plain / sizeof plain[0]) {
        const struct moe_format_info *info = moe_format_at(num_plain);
        plain[num_plain++] = (struct scheme){.name = info->name, .format = info->format,
                                             .rounded = is_rounded(info->format)};
    }
    if (i < num_plain)
        return &plain[i];
    return i - num_plain < NUM_SCALED ? &scaled_schemes[i - num_plain] : NULL;
}

const struct scheme *scheme_find(const char *name)
{
    const struct scheme *scheme = NULL;
    for (size_t i = 0; (scheme = scheme_at(i)) != NULL; i++)
        if (strcmp(scheme->name, name) == 0)
            break;
    return scheme;
}

bool scheme_fits(const struct scheme *scheme, size_t cols)
{
    return moe_format_row_bytes(scheme->format, cols) > 0 &&
           (!scheme->scaled || scheme->block_cols == 0 || cols % scheme->block_cols == 0 || scheme->block_cols == 128);
}

/* ---- values ---- */

/* A block of random bytes that are finite, and that lie about at scale where the format can be so small. */
static void random_block(struct rng *rng, const struct moe_format_info *info, unsigned char *block, double scale)
{
    enum { MOST_TRIES = 1000 };
    float values[MOST_BLOCK];
    for (int tries = 0;; tries++) {
        double sum = 0;
        for (size_t i = 0; i < info->block_bytes; i++)
            block[i] = (unsigned char)rng_next(rng);
        moe_format_dequantise(info->format, values, block, 1, info->block_values);
        for (size_t i = 0; i < info->block_values; i++)
            sum += (double)values[i] * values[i];
        double rms = sqrt(sum / info->block_values);
        if (isfinite(rms) && ((rms >= 0.25 * scale && rms <= 4 * scale) || tries >= MOST_TRIES))
            return;
    }
}

/* Codes of integers and of scaled schemes: any that are finite. */
static bool any_code(const struct scheme *scheme)
{
    enum moe_format f = scheme->format;
    return scheme->scaled || f == MOE_FORMAT_I8 || f == MOE_FORMAT_U8 || f == MOE_FORMAT_U4 || f == MOE_FORMAT_E2M1;
}

static void random_row(struct rng *rng, const struct scheme *scheme, unsigned char *row, size_t cols)
{
    enum { POOL = 64 };
    const struct moe_format_info *info = moe_format_info(scheme->format);
    double scale = any_code(scheme) ? 1 : 1 / sqrt((double)cols);
    if (moe_format_can_quantise(scheme->format) && !any_code(scheme)) {
        float *values = host_alloc(cols, sizeof *values);
        for (size_t c = 0; c < cols; c++)
            values[c] = (float)(scale * rng_normal(rng));
        moe_format_quantise(scheme->format, row, values, 1, cols);
        free(values);
        return;
    }
    for (size_t i = 0; i < cols / info->block_values; i++) {
        unsigned char *block = row + i * info->block_bytes;
        if (any_code(scheme))
            do
                *block = (unsigned char)rng_next(rng);
            while (scheme->format == MOE_FORMAT_E4M3 && (*block & 127) == 127);
        else if (i < POOL)
            random_block(rng, info, block, scale);
        else
            memcpy(block, row + rng_below(rng, POOL) * info->block_bytes, info->block_bytes);
    }
}

static void make_values(struct stack *stack, struct rng *rng, const struct scheme *scheme, size_t rows, size_t cols)
{
    size_t row_bytes = moe_format_row_bytes(scheme->format, cols);
    size_t num_rows = rows < NUM_ROWS ? rows : NUM_ROWS;
    unsigned char *pool = host_alloc(num_rows, row_bytes), *out = host_alloc(rows, row_bytes);
    for (size_t r = 0; r < num_rows; r++)
        random_row(rng, scheme, pool + r * row_bytes, cols);
    for (size_t r = 0; r < rows; r++)
        memcpy(out + r * row_bytes, pool + (r < num_rows ? r : rng_below(rng, num_rows)) * row_bytes, row_bytes);
    free(pool);
    stack->memory[PART_VALUES] = out;
    stack->sizes[PART_VALUES] = rows * row_bytes;
}

/* ---- planes ---- */

static double code_size(enum moe_format format)
{
    switch ((int)format) {
    case MOE_FORMAT_E4M3: return 100;
    case MOE_FORMAT_U4: return 5;
    case MOE_FORMAT_E2M1: return 3;
    default: return 74;
    }
}

static void put_scale(unsigned char *out, enum moe_format format, double value)
{
    float number = (float)value;
    if (format == MOE_FORMAT_E8M0)
        *out = (unsigned char)(127 + lround(log2(value)));
    else if (format == MOE_FORMAT_E4M3)
        *out = (unsigned char)(8 * 7 + lround(8 * log2(value)));    /* its exponent, and a mantissa near enough */
    else
        moe_format_quantise(format, out, &number, 1, 1);
}

static void set_plane(struct stack *stack, int part, enum moe_format format, size_t rows, size_t cols)
{
    stack->sizes[part] = rows * moe_format_row_bytes(format, cols);
    stack->memory[part] = host_alloc(stack->sizes[part], 1);
    MOE_INIT(&stack->planes[part]);
    stack->planes[part].data = (struct moe_view){stack->memory[part], 0, stack->sizes[part], 0, format};
}

static void make_planes(struct stack *stack, struct rng *rng, const struct scheme *scheme, size_t num_experts,
                        size_t rows, size_t cols)
{
    size_t block_rows = scheme->block_rows ? scheme->block_rows : rows;
    size_t block_cols = scheme->block_cols ? scheme->block_cols : cols;
    size_t down = (rows + block_rows - 1) / block_rows * num_experts, across = (cols + block_cols - 1) / block_cols;
    double scale = 1 / sqrt((double)cols) / code_size(scheme->format), level = scheme->factor ? 0x1p-10 : 1;
    size_t bytes = moe_format_info(scheme->scale)->block_bytes;
    set_plane(stack, PART_SCALE, scheme->scale, down, across);
    for (size_t i = 0; i < down * across; i++)
        put_scale((unsigned char *)stack->memory[PART_SCALE] + i * bytes, scheme->scale,
                  scale / level * exp2(2.0 * (double)rng_below(rng, 1000) / 1000 - 1));
    MOE_INIT(&stack->scales);
    stack->scales.block_rows = scheme->block_rows;
    stack->scales.block_cols = scheme->block_cols;
    stack->scales.zero_offset = scheme->zero_offset;
    stack->scales.scale = &stack->planes[PART_SCALE];
    if (scheme->zeros) {
        set_plane(stack, PART_ZERO, MOE_FORMAT_U8, down, across);
        for (size_t i = 0; i < down * across; i++)
            ((unsigned char *)stack->memory[PART_ZERO])[i] = (unsigned char)rng_below(rng, 15);
        stack->scales.zero = &stack->planes[PART_ZERO];
    }
    if (scheme->factor) {
        set_plane(stack, PART_FACTOR, MOE_FORMAT_F32, num_experts, 1);
        for (size_t e = 0; e < num_experts; e++)
            ((float *)stack->memory[PART_FACTOR])[e] = (float)(level * (1 + 0.1 * (double)e));
        stack->scales.factor = &stack->planes[PART_FACTOR];
    }
    stack->matrix.scales = &stack->scales;
}

void stack_init(struct stack *stack, struct rng *rng, const struct scheme *scheme, size_t num_experts, size_t rows,
                size_t cols, bool bias)
{
    *stack = (struct stack){0};
    make_values(stack, rng, scheme, num_experts * rows, cols);
    MOE_INIT(&stack->matrix);
    stack->matrix.data = (struct moe_view){stack->memory[PART_VALUES], 0, stack->sizes[PART_VALUES], 0, scheme->format};
    if (scheme->scaled)
        make_planes(stack, rng, scheme, num_experts, rows, cols);
    if (bias) {
        stack->sizes[PART_BIAS] = num_experts * rows * sizeof(float);
        stack->memory[PART_BIAS] = host_alloc(num_experts * rows, sizeof(float));
        rng_values(rng, stack->memory[PART_BIAS], num_experts * rows, 0.5, MOE_FORMAT_F32);
        stack->matrix.bias = (struct moe_view){stack->memory[PART_BIAS], 0, stack->sizes[PART_BIAS], 0, MOE_FORMAT_F32};
    }
}

/* ---- in the backend's memory ---- */

void stack_upload(struct gpu *gpu, struct stack *device, const struct stack *host)
{
    *device = (struct stack){.matrix = host->matrix, .scales = host->scales};
    for (int part = 0; part < PART_BIAS; part++) {
        if (host->memory[part] == NULL)
            continue;
        device->planes[part] = host->planes[part];
        struct moe_view *data = part == PART_VALUES ? &device->matrix.data : &device->planes[part].data;
        device->views[part] = gpu_alloc(gpu, host->sizes[part], data->format);
        gpu_write(gpu, &device->views[part], host->memory[part], host->sizes[part]);
        *data = device->views[part];
    }
    if (host->matrix.scales == NULL)
        return;
    device->matrix.scales = &device->scales;
    device->scales.scale = &device->planes[PART_SCALE];
    if (host->scales.zero != NULL)
        device->scales.zero = &device->planes[PART_ZERO];
    if (host->scales.factor != NULL)
        device->scales.factor = &device->planes[PART_FACTOR];
}

void stack_free(struct gpu *gpu, struct stack *stack)
{
    for (int part = 0; part < NUM_PARTS; part++) {
        free(stack->memory[part]);
        gpu_free(gpu, &stack->views[part]);
    }
    *stack = (struct stack){0};
}
