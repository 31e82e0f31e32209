// SPDX-License-Identifier: MIT
// The CUDA backend's primitives on the emulated device: every format, activation and size against src/ref, outputs full
// of NaN before, and nothing written beyond them.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda/formats.h"
#include "cuda_fixture.h"
#include "dequantise_probe.h"

static const enum moe_format floats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16};
enum { NUM_FLOATS = 3 };

static size_t bytes_of(enum moe_format format, size_t n)
{
    return moe_format_row_bytes(format, n);
}

/* n values after which one is NaN: it must stay. */
static void assert_nan_behind(enum moe_format format, const unsigned char *memory, size_t n)
{
    if (!isnan(moe_ref_value(format, memory + bytes_of(format, n))))
        fail_msg("writes behind %zu values", n);
}

static void same_or_nan(float value, float expected, const char *what, size_t i)
{
    if (!(isnan(value) && isnan(expected)) && memcmp(&value, &expected, sizeof value) != 0)
        fail_msg("%s: value %zu is %a, expected %a", what, i, (double)value, (double)expected);
}

/* ---- dequantisers ---- */

/* Random blocks have every code, and scales that are infinite, NaN and denormal. */
static void check_dequantise(struct gpu *gpu, struct test_rng *rng, const struct moe_format_info *info)
{
    size_t cols = info->block_values <= 2 ? 32 * 70 + 6 : 256 * 9;
    size_t bytes = bytes_of(info->format, cols);
    unsigned char *row = test_alloc(bytes);
    float *expected = test_alloc(cols * sizeof *expected), *values = test_alloc(cols * sizeof *values);
    for (size_t i = 0; i < bytes; i++)
        row[i] = (unsigned char)test_random(rng);
    test_assert_ok(moe_format_dequantise(info->format, expected, row, 1, cols));
    struct moe_view in = gpu_put(gpu, row, bytes, 1 + test_below(rng, 3), info->format);
    struct moe_view out = gpu_put(gpu, NULL, cols * sizeof *values, 0, MOE_FORMAT_F32);
    const struct dequantise_probe probe = {
        moe_cuda_address(&out), moe_cuda_address(&in), cols, moe_cuda_format_index(info->format)};
    assert_int_equal(dequantise_probe_launch(&probe), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize((cudaStream_t)0), cudaSuccess);
    gpu_get(gpu, values, &out);
    for (size_t c = 0; c < cols; c++)
        same_or_nan(values[c], expected[c], info->name, c);
    gpu_free(gpu, &in);
    gpu_free(gpu, &out);
    test_release(row);
    test_release(expected);
    test_release(values);
}

static void test_dequantise(void **state)
{
    (void)state;
    struct gpu gpu;
    struct test_rng rng = {1};
    const struct moe_format_info *info;
    gpu_open(&gpu);
    for (size_t i = 0; (info = moe_format_at(i)) != NULL; i++)
        for (int round = 0; round < 20; round++)
            check_dequantise(&gpu, &rng, info);
    assert_int_equal(moe_cuda_format_index(MOE_FORMAT_I32), MOE_CUDA_NUM_FORMATS);
    gpu_close(&gpu);
}

/* ---- linear ---- */

/* What primitives.cu says: a product, its partial sum, their tree, the lane, the lanes' tree. */
static size_t roundings(size_t cols)
{
    return 1 + 3 + 3 + (cols + 1023) / 1024 - 1 + 5;
}

/* That of docs/numerics.md, for the fewest lanes and segments of 256. */
static size_t promised_roundings(size_t cols)
{
    size_t segment = cols < 256 ? cols : 256;
    return 1 + (segment + 7) / 8 + 3 + (cols + 255) / 256;
}

struct planes {
    struct moe_slice_scales slice;
    struct moe_scales definition;
    struct moe_matrix scale, zero, column_block, factor;
    float factor_value;
    struct moe_view views[3];   /* on the device */
    void *memory[3];
};

static void random_value(struct test_rng *rng, enum moe_format format, unsigned char *at, size_t below)
{
    float value = (float)ldexp(1 + test_uniform(rng), (int)test_below(rng, 16) - 12);
    int32_t index = (int32_t)test_below(rng, below);
    switch ((int)format) {
    case MOE_FORMAT_E4M3:
        *at = (unsigned char)(1 + test_below(rng, 0x7e));
        break;
    case MOE_FORMAT_E8M0:
        *at = (unsigned char)(115 + test_below(rng, 20));
        break;
    case MOE_FORMAT_U8:
        *at = (unsigned char)test_below(rng, 16);
        break;
    case MOE_FORMAT_I32:
        memcpy(at, &index, sizeof index);
        break;
    default:
        moe_format_quantise(format, at, &value, 1, 1);
    }
}

/* A plane [rows, cols] with a gap between its rows; indices are below `below`. */
static void make_plane(struct gpu *gpu, struct test_rng *rng, struct planes *planes, size_t i, enum moe_format format,
                       size_t rows, size_t cols, size_t below)
{
    struct moe_matrix *matrices[] = {&planes->scale, &planes->zero, &planes->column_block};
    struct moe_view *views[] = {&planes->slice.scale, &planes->slice.zero, &planes->slice.column_block};
    const struct moe_matrix **parts[] = {&planes->definition.scale, &planes->definition.zero,
                                         &planes->definition.column_block};
    size_t value = bytes_of(format, 1), stride = cols * value + 4 * test_below(rng, 3);
    size_t size = (rows - 1) * stride + cols * value;
    unsigned char *memory = planes->memory[i] = test_alloc(size);
    for (size_t k = 0; k < rows * cols; k++)
        random_value(rng, format, memory + k / cols * stride + k % cols * value, below);
    planes->views[i] = gpu_put(gpu, memory, size, test_below(rng, 4), format);
    planes->views[i].stride = stride;
    *views[i] = planes->views[i];
    MOE_INIT(matrices[i]);
    matrices[i]->data = test_view(memory, size, stride, format);
    *parts[i] = matrices[i];
}

static void make_planes(struct gpu *gpu, struct test_rng *rng, struct planes *planes, size_t num_rows, size_t num_cols)
{
    static const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16, MOE_FORMAT_E4M3,
                                              MOE_FORMAT_E8M0};
    static const size_t sizes[] = {1, 2, 3, 7, 16, 32, 100, 128, 300, 1000};
    struct moe_slice_scales *slice = &planes->slice;
    struct moe_scales *definition = &planes->definition;
    memset(planes, 0, sizeof *planes);
    MOE_INIT(definition);
    slice->block_rows = definition->block_rows = sizes[test_below(rng, 10)];
    slice->block_cols = definition->block_cols = sizes[test_below(rng, 10)];
    slice->first_row = definition->first_row = test_below(rng, slice->block_rows);
    slice->zero_offset = definition->zero_offset = test_below(rng, 2) == 0 ? 0 : 8;
    planes->factor_value = slice->factor = test_below(rng, 2) == 0 ? 1 : (float)(0.5 + test_uniform(rng));
    MOE_INIT(&planes->factor);
    planes->factor.data = test_view(&planes->factor_value, sizeof(float), 0, MOE_FORMAT_F32);
    definition->factor = &planes->factor;
    size_t rows = (slice->first_row + num_rows - 1) / slice->block_rows + 1;
    size_t cols = (num_cols - 1) / slice->block_cols + 1;
    if (test_below(rng, 8) > 0)
        make_plane(gpu, rng, planes, 0, formats[test_below(rng, 5)], rows, cols, 1);
    if (test_below(rng, 2) > 0)
        make_plane(gpu, rng, planes, 1, MOE_FORMAT_U8, rows, cols, 1);
    if (test_below(rng, 3) == 0)
        make_plane(gpu, rng, planes, 2, MOE_FORMAT_I32, 1, num_cols, cols);
}

static void free_planes(struct gpu *gpu, struct planes *planes)
{
    for (size_t i = 0; i < 3; i++) {
        gpu_free(gpu, &planes->views[i]);
        test_release(planes->memory[i]);
    }
}

/* y and the reference of a matrix that ends where its memory does. */
static void check_linear(struct gpu *gpu, struct test_rng *rng, enum moe_format format, size_t rows, size_t cols,
                         bool scaled)
{
    struct planes planes = {.views = {{0}}};
    struct moe_matrix matrix;
    size_t row_bytes = bytes_of(format, cols), stride = row_bytes + test_below(rng, 3);
    size_t size = (rows - 1) * stride + row_bytes;
    unsigned char *weights = test_alloc(size);
    float *x = test_alloc(cols * sizeof *x), *y = test_alloc((rows + 1) * sizeof *y);
    for (size_t r = 0; r < rows; r++)
        test_fill_weights(rng, format, weights + r * stride, cols, 0.1);
    test_fill_heavy(rng, x, 1, cols, 1);
    struct moe_slice slice = {.rows = rows, .cols = cols, .scaled = scaled};
    if (scaled)
        make_planes(gpu, rng, &planes, rows, cols);
    slice.scales = planes.slice;
    slice.data = gpu_put(gpu, weights, size, test_below(rng, 4), format);
    slice.data.stride = stride;
    struct moe_view in = gpu_put(gpu, x, cols * sizeof *x, 4 * test_below(rng, 4), MOE_FORMAT_F32);
    struct moe_view out = gpu_put(gpu, NULL, (rows + 1) * sizeof *y, 0, MOE_FORMAT_F32);
    test_assert_ok(moe_cuda_ops.linear(gpu->ctx, &out, &slice, &in));
    gpu_get(gpu, y, &out);
    assert_nan_behind(MOE_FORMAT_F32, (const unsigned char *)y, rows);

    MOE_INIT(&matrix);
    matrix.data = test_view(weights, size, stride, format);
    matrix.scales = scaled ? &planes.definition : NULL;
    double *w = moe_ref_alloc(rows * cols, sizeof *w), *exact_x = moe_ref_alloc(cols, sizeof *exact_x);
    double *exact = moe_ref_alloc(2 * rows, sizeof *exact), *bound = exact + rows;
    for (size_t c = 0; c < cols; c++)
        exact_x[c] = x[c];
    moe_ref_matrix(w, &matrix, rows, cols, 0);
    moe_ref_linear(exact, bound, w, NULL, exact_x, rows, cols);
    size_t limit = roundings(cols) < promised_roundings(cols) ? roundings(cols) : promised_roundings(cols);
    for (size_t r = 0; r < rows; r++)   /* scales: a difference, a product of scale and factor, their product */
        bound[r] = moe_ref_gamma(limit + (scaled ? 3 : 0)) * bound[r] + (double)cols * 0x1p-149;
    if (!(test_worst(y, exact, bound, rows) <= 1))
        fail_msg("linear %s, %zu x %zu%s: %g of the bound", moe_format_info(format)->name, rows, cols,
                 scaled ? ", scaled" : "", test_worst(y, exact, bound, rows));
    free(w);
    free(exact_x);
    free(exact);
    free_planes(gpu, &planes);
    gpu_free(gpu, &slice.data);
    gpu_free(gpu, &in);
    gpu_free(gpu, &out);
    test_release(weights);
    test_release(x);
    test_release(y);
}

static void each_linear(bool scaled)
{
    static const size_t whole[] = {1, 2, 8, 31, 32, 33, 63, 100, 129, 1024, 1031, 2080, 3000};
    struct gpu gpu;
    struct test_rng rng = {scaled ? 3 : 2};
    const struct moe_format_info *info;
    gpu_open(&gpu);
    for (size_t i = 0; (info = moe_format_at(i)) != NULL; i++)
        for (size_t k = 0; k < 13; k++) {
            size_t n = info->block_values, blocks = n <= 2 ? (whole[k] + n - 1) / n : 1 + k % 9;
            check_linear(&gpu, &rng, info->format, 1 + test_below(&rng, 19), blocks * n, scaled);
        }
    gpu_close(&gpu);
}

static void test_linear(void **state)
{
    (void)state;
    each_linear(false);
}

static void test_linear_scaled(void **state)
{
    (void)state;
    each_linear(true);
}

/* One multiprocessor gets 32 blocks of 8 warps at most, so some have a second row. A row's bits do not depend on the
 * rows beside it. */
static void test_linear_rows(void **state)
{
    (void)state;
    enum { ROWS = 300, COLS = 96 };
    struct gpu gpu;
    struct test_rng rng = {4};
    float *w = test_alloc(ROWS * COLS * sizeof *w), *x = test_alloc(COLS * sizeof *x);
    float *all = test_alloc(ROWS * sizeof *all), *one = test_alloc(sizeof *one);
    gpu_open(&gpu);
    ((struct moe_cuda_context *)gpu.ctx)->device->num_sms = 1;
    test_fill(&rng, w, ROWS * COLS, 1);
    test_fill(&rng, x, COLS, 1);
    struct moe_slice slice = {.data = gpu_put(&gpu, w, ROWS * COLS * sizeof *w, 0, MOE_FORMAT_F32), .cols = COLS};
    struct moe_view in = gpu_put(&gpu, x, COLS * sizeof *x, 0, MOE_FORMAT_F32);
    struct moe_view out = gpu_put(&gpu, NULL, ROWS * sizeof *all, 0, MOE_FORMAT_F32);
    slice.data.stride = COLS * sizeof *w;
    slice.rows = ROWS;
    test_assert_ok(moe_cuda_ops.linear(gpu.ctx, &out, &slice, &in));
    gpu_get(&gpu, all, &out);
    slice.rows = 1;
    for (size_t r = 0; r < ROWS; r += 7) {
        struct moe_slice row = slice;
        row.data.offset += r * slice.data.stride;
        test_assert_ok(moe_cuda_ops.linear(gpu.ctx, &out, &row, &in));
        test_assert_ok(moe_cuda_ops.mem_read(gpu.self, gpu.ctx, one, &out, sizeof *one));
        test_assert_same(one, all + r, 1, "a row alone");
    }
    gpu_free(&gpu, &slice.data);
    gpu_free(&gpu, &in);
    gpu_free(&gpu, &out);
    gpu_close(&gpu);
    test_release(w);
    test_release(x);
    test_release(all);
    test_release(one);
}

/* ---- copy and scaled_add ---- */

static void check_copy(struct gpu *gpu, struct test_rng *rng, enum moe_format to, enum moe_format from, size_t n)
{
    size_t in_bytes = bytes_of(from, n), out_bytes = bytes_of(to, n + 1);
    float *values = test_alloc(n * sizeof *values);
    unsigned char *in = test_alloc(in_bytes), *out = test_alloc(out_bytes);
    test_fill_heavy(rng, values, 1, n, 1);
    test_assert_ok(moe_format_quantise(from, in, values, 1, n));
    struct moe_view src = gpu_put(gpu, in, in_bytes, bytes_of(from, 1), from);
    struct moe_view dst = gpu_put(gpu, NULL, out_bytes, bytes_of(to, 1), to);
    test_assert_ok(moe_cuda_ops.copy(gpu->ctx, &dst, &src, n));
    gpu_get(gpu, out, &dst);
    for (size_t i = 0; i < n; i++)
        same_or_nan((float)moe_ref_value(to, out + bytes_of(to, i)),
                    (float)moe_ref_round(to, moe_ref_value(from, in + bytes_of(from, i))), "copy", i);
    assert_nan_behind(to, out, n);
    gpu_free(gpu, &src);
    gpu_free(gpu, &dst);
    test_release(values);
    test_release(in);
    test_release(out);
}

static void test_copy_formats(void **state)
{
    (void)state;
    struct gpu gpu;
    struct test_rng rng = {5};
    struct moe_view view = {.format = MOE_FORMAT_Q4_0}, other = {.format = MOE_FORMAT_F32};
    gpu_open(&gpu);
    for (size_t to = 0; to < NUM_FLOATS; to++)
        for (size_t from = 0; from < NUM_FLOATS; from++)
            for (size_t n = 0; n < 1200; n = 2 * n + 1)
                check_copy(&gpu, &rng, floats[to], floats[from], n);
    test_assert_status(moe_cuda_ops.copy(gpu.ctx, &view, &other, 32), MOE_ERR_UNSUPPORTED);
    test_assert_status(moe_cuda_ops.copy(gpu.ctx, &other, &view, 32), MOE_ERR_UNSUPPORTED);
    gpu_close(&gpu);
}

/* f32 at every step, then one rounding: exactly that. */
static void check_scaled_add(struct gpu *gpu, struct test_rng *rng, enum moe_format format, size_t n, bool accumulate)
{
    float a = (float)test_gaussian(rng), *x = test_alloc(n * sizeof *x), *start = test_alloc(n * sizeof *start);
    unsigned char *y = test_alloc(bytes_of(format, n + 1)), *before = test_copy(y, bytes_of(format, n + 1));
    test_fill_heavy(rng, x, 1, n, 1);
    test_fill_heavy(rng, start, 1, n, 1);
    if (accumulate)
        test_assert_ok(moe_format_quantise(format, before, start, 1, n));
    struct moe_view in = gpu_put(gpu, x, n * sizeof *x, 4, MOE_FORMAT_F32);
    struct moe_view out = gpu_put(gpu, before, bytes_of(format, n + 1), 0, format);
    test_assert_ok(moe_cuda_ops.scaled_add(gpu->ctx, &out, &in, a, n, accumulate));
    gpu_get(gpu, y, &out);
    for (size_t i = 0; i < n; i++) {
        float product = a * x[i], sum = product;
        if (accumulate)
            sum = (float)moe_ref_value(format, before + bytes_of(format, i)) + product;
        same_or_nan((float)moe_ref_value(format, y + bytes_of(format, i)), (float)moe_ref_round(format, (double)sum),
                    "scaled_add", i);
    }
    assert_nan_behind(format, y, n);
    gpu_free(gpu, &in);
    gpu_free(gpu, &out);
    test_release(x);
    test_release(start);
    test_release(y);
    test_release(before);
}

static void test_scaled_add(void **state)
{
    (void)state;
    struct gpu gpu;
    struct test_rng rng = {6};
    gpu_open(&gpu);
    for (size_t f = 0; f < NUM_FLOATS; f++)
        for (size_t n = 0; n < 1200; n = 2 * n + 1) {
            check_scaled_add(&gpu, &rng, floats[f], n, false);
            check_scaled_add(&gpu, &rng, floats[f], n, true);
        }
    gpu_close(&gpu);
}

/* ---- glu ---- */

static void check_glu(struct gpu *gpu, struct test_rng *rng, const struct moe_act *act, size_t n, bool gated)
{
    float *g = test_alloc(2 * n * sizeof *g), *y = test_alloc((n + 1) * sizeof *y);
    test_fill_heavy(rng, g, 1, n, 3);
    if (gated)   /* otherwise u stays NaN: it is not read */
        test_fill_heavy(rng, g + n, 1, n, 3);
    struct moe_view in = gpu_put(gpu, g, 2 * n * sizeof *g, 0, MOE_FORMAT_F32);
    struct moe_view out = gpu_put(gpu, NULL, (n + 1) * sizeof *y, 8, MOE_FORMAT_F32);
    test_assert_ok(moe_cuda_ops.glu(gpu->ctx, &out, &in, n, act, gated));
    gpu_get(gpu, y, &out);
    for (size_t i = 0; i < n; i++) {
        double exact = moe_ref_glu(act, g[i], gated ? g[n + i] : 0, gated);
        double bound = test_glu_bound(act, g[i], gated ? g[n + i] : 0, gated);
        if (!(fabs(y[i] - exact) <= bound))
            fail_msg("glu kind %d clamp %d of %g, %g: %a, expected %a", (int)act->kind, (int)act->clamp, (double)g[i],
                     gated ? (double)g[n + i] : 0, (double)y[i], exact);
    }
    assert_nan_behind(MOE_FORMAT_F32, (const unsigned char *)y, n);
    gpu_free(gpu, &in);
    gpu_free(gpu, &out);
    test_release(g);
    test_release(y);
}

static void test_glu(void **state)
{
    (void)state;
    static const float alphas[] = {1, 1.702f}, offsets[] = {0, 1};
    struct gpu gpu;
    struct test_rng rng = {7};
    struct moe_act act;
    MOE_INIT(&act);
    gpu_open(&gpu);
    for (int kind = MOE_ACT_SWISH; kind <= MOE_ACT_SITU; kind++)
        for (int way = 0; way < 24; way++) {
            act.kind = (enum moe_act_kind)kind;
            act.clamp = (enum moe_clamp)(way % 3);
            act.limit = act.clamp != MOE_CLAMP_NONE ? 7 : 0;
            act.alpha = alphas[way / 3 % 2];
            act.up_offset = offsets[way / 6 % 2];
            act.beta = kind == MOE_ACT_SITU ? 4 : 0;
            act.beta_up = kind == MOE_ACT_SITU && way / 6 % 2 == 0 ? 25 : 0;
            for (size_t n = 0; n < 600; n = 3 * n + 1)
                check_glu(&gpu, &rng, &act, n, way / 12 == 0);
        }
    gpu_close(&gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dequantise),   cmocka_unit_test(test_linear),     cmocka_unit_test(test_linear_scaled),
        cmocka_unit_test(test_linear_rows),  cmocka_unit_test(test_copy_formats), cmocka_unit_test(test_scaled_add),
        cmocka_unit_test(test_glu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
