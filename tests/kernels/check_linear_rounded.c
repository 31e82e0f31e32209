// SPDX-License-Identifier: MIT
// moe-check of linear_q8 and linear_bf16: the kernel's own error, activations being rounded already; every format, odd
// sizes and strides, gathered rows, weights at any address; and that a result has the same bits whatever rows and
// tokens are computed with it. linear_q8 has one order of sums: its bits are computed in plain C, too.
#include "rounded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS_OF_SEGMENT = MOE_Q8_SEGMENT / MOE_Q8_GROUP, HALF = 16 };

struct shape {
    size_t rows, cols, num_tokens;
    size_t x_pad, y_pad, w_pad, w_skew;   /* 64 bytes, floats, bytes, bytes */
    bool gather;
};

struct data {
    struct shape shape;
    enum moe_format format;
    bool bf16;                            /* activations */
    struct moe_linear_rounded_args args;
    unsigned char *w_memory, *x;
    float *y;
    int32_t *x_rows;
    size_t w_size, x_size, x_count;
    void *scratch;
};

/* ---- data ---- */

/* Quantised values; random codes; codes that are all the same, for the largest sums that there are. */
static void fill_weights(struct check *check, unsigned char *row, size_t cols)
{
    static const unsigned char codes[] = {0x00, 0xff, 0x80, 0x7f, 0x88, 0x77};
    const struct moe_format_info *info = moe_format_info(check->format);
    const struct weight_kind *kind = weight_kind_of(check->format);
    size_t way = info->block_values > 1 ? test_below(&check->rng, 4) : 0;
    if (way == 0) {
        test_fill_weights(&check->rng, check->format, row, cols, 0.1);
        return;
    }
    test_random_weights(&check->rng, check->format, row, cols, 0.1);
    for (size_t i = 0; kind != NULL && way == 1 && i < cols / info->block_values; i++)
        memset(row + i * info->block_bytes + kind->codes_at, codes[test_below(&check->rng, 6)], kind->codes_bytes);
}

/* The last row of w ends where its memory does: reading past it is seen. */
static void make_weights(struct data *data, struct check *check)
{
    const struct shape *s = &data->shape;
    size_t row_bytes = moe_format_row_bytes(check->format, s->cols);
    data->args.w_stride = row_bytes + s->w_pad;
    data->w_size = s->w_skew + (s->rows - 1) * data->args.w_stride + row_bytes;
    data->w_memory = test_alloc(data->w_size);
    data->args.w = data->w_memory + s->w_skew;
    for (size_t r = 0; r < s->rows; r++)
        fill_weights(check, data->w_memory + s->w_skew + r * data->args.w_stride, s->cols);
}

/* A row of x: one in 8 each of one magnitude throughout, and with a value that is not finite; an eighth of zeros. */
static void fill_values(struct check *check, float *x, size_t cols)
{
    size_t way = test_below(&check->rng, 8);
    test_fill_heavy(&check->rng, x, 1, cols, 1);
    for (size_t i = 0; way == 0 && i < cols; i++)
        x[i] = x[i] < 0 && test_below(&check->rng, 64) == 0 ? -1.0f : 1.0f;
    for (size_t i = 0; way == 1 && i < cols / 8; i++)
        x[i] = 0;
    if (way == 2)
        x[test_below(&check->rng, cols)] = test_below(&check->rng, 2) ? NAN : INFINITY;
}

static void make_x(struct data *data, struct check *check)
{
    size_t cols = data->shape.cols, stride = data->args.x_stride;
    float *values = moe_ref_alloc(cols, sizeof *values);
    for (size_t i = 0; i < data->x_count; i++) {
        fill_values(check, values, cols);
        if (data->bf16)
            test_assert_ok(moe_format_quantise(MOE_FORMAT_BF16, data->x + i * stride, values, 1, cols));
        else
            q8_row_fill(data->x + i * stride, cols, values, &check->rng);
    }
    free(values);
}

/* Where the weights after these begin is a hint: it may be anything. */
static const unsigned char *any_next(struct check *check, const struct data *data)
{
    switch (test_below(&check->rng, 4)) {
    case 0:
        return data->args.w;
    case 1:
        return data->w_memory + data->w_size;
    case 2:
        return (const unsigned char *)(uintptr_t)4095;
    default:
        return NULL;
    }
}

/* What is between the rows of x, and y and the scratch at first, is NaN. */
static void make_data(struct data *data, struct check *check, const struct shape *shape)
{
    memset(data, 0, sizeof *data);
    data->shape = *shape;
    data->format = check->format;
    data->bf16 = check->row->op == MOE_OP_linear_bf16;
    make_weights(data, check);
    struct moe_linear_rounded_args *a = &data->args;
    size_t bf16_bytes = (shape->cols * sizeof(uint16_t) + MOE_Q8_ALIGN - 1) / MOE_Q8_ALIGN * MOE_Q8_ALIGN;
    size_t row_bytes = data->bf16 ? bf16_bytes : moe_q8_row_bytes(shape->cols);
    a->rows = shape->rows;
    a->cols = shape->cols;
    a->num_tokens = shape->num_tokens;
    a->x_stride = row_bytes + shape->x_pad * MOE_Q8_ALIGN;
    a->y_stride = shape->rows + shape->y_pad;
    data->x_count = shape->gather ? shape->num_tokens + 3 : shape->num_tokens;
    data->x_size = (data->x_count - 1) * a->x_stride + row_bytes;
    data->x = test_alloc(data->x_size);
    data->y = test_alloc(((shape->num_tokens - 1) * a->y_stride + shape->rows) * sizeof(float));
    data->scratch = test_alloc(MOE_ROUNDED_SCRATCH);
    make_x(data, check);
    if (shape->gather) {
        data->x_rows = test_alloc(shape->num_tokens * sizeof *data->x_rows);
        for (size_t t = 0; t < shape->num_tokens; t++)
            data->x_rows[t] = (int32_t)test_below(&check->rng, data->x_count);
    }
    a->x = data->x;
    a->y = data->y;
    a->x_rows = data->x_rows;
    a->scratch = data->scratch;
    a->next = any_next(check, data);
}

static void free_data(struct data *data)
{
    test_release(data->w_memory);
    test_release(data->x);
    test_release(data->y);
    test_release(data->x_rows);
    test_release(data->scratch);
}

static void call(const struct check *check, const struct moe_linear_rounded_args *args)
{
    if (check->row->op == MOE_OP_linear_bf16)
        ((moe_linear_bf16_fn *)check->row->fn)(args);
    else
        ((moe_linear_q8_fn *)check->row->fn)(args);
}

static const unsigned char *x_row(const struct data *data, size_t t)
{
    return data->x + (data->x_rows != NULL ? (size_t)data->x_rows[t] : t) * data->args.x_stride;
}

/* ---- the bound ---- */

/* One token's values as the kernel sees them, NaN where a unit is. */
static void read_x(const struct data *data, double *x, size_t t)
{
    const unsigned char *row = x_row(data, t);
    for (size_t c = 0; c < data->shape.cols; c++) {
        if (data->bf16) {
            x[c] = moe_ref_value(MOE_FORMAT_BF16, row + 2 * c);
            continue;
        }
        struct q8_unit unit = q8_unit_at(row, data->shape.cols, c / MOE_Q8_UNIT);
        x[c] = (double)unit.scale * unit.q[c % MOE_Q8_UNIT];
    }
}

/* Roundings on the longest way of a unit's sum into y: its scale, or x's scaled sum; its lane, of up to 8 units with up
 * to 2 halves and 2 sums each; 8 lanes of each segment. */
static size_t roundings_q8(const struct weight_kind *kind, size_t cols)
{
    size_t groups = (cols + MOE_Q8_GROUP - 1) / MOE_Q8_GROUP, segments = (cols + MOE_Q8_SEGMENT - 1) / MOE_Q8_SEGMENT;
    size_t steps = kind == NULL ? 4 : (kind->halves ? 2 : 1) * (kind->minimum_at != 0 ? 2 : 1);
    return 1 + (groups < GROUPS_OF_SEGMENT ? groups : GROUPS_OF_SEGMENT) * steps + MOE_Q8_LANES * segments;
}

/* How far y may be from the sum of exact products.
 *
 * linear_q8: sums of int8 products are exact, so rounding is relative to |sum of 16 columns| and |minimum * their sum
 * of x|, where a format is taken apart; otherwise to 3 sum |w x|, which a split into an integer and an eighth of the
 * scale (IQ1) stays below. The definition's own values were rounded to f32: twice, and where there is a minimum the
 * difference too. linear_bf16: products are exact in f32; their sum in any order. Some instructions take denormals, of
 * either side and of results, for 0. Weights that are not bf16 are rounded to it, 2^-8 |w| at most, after the same
 * roundings to f32; the sum is that of the rounded ones, so much larger at most. */
static double bound_of(const struct data *data, const struct weight_kind *kind, const struct weight_unit *units,
                       const double *w, const double *x)
{
    size_t cols = data->shape.cols;
    double sum = 0, all = 0, tiny = 0;
    for (size_t c = 0; c < cols; c++) {
        all += fabs(w[c] * x[c]);
        tiny += 0x1p-126 * (1 + fabs(w[c]) + fabs(x[c]));
    }
    if (data->bf16 && moe_format_info(data->format)->block_values == 1)
        return moe_ref_gamma(cols) * all + tiny;
    double products = all;
    for (size_t c = 0; kind != NULL && c < cols; c += HALF) {
        const struct weight_unit *unit = &units[c / MOE_Q8_UNIT];
        double minimum = unit->minimum[c % MOE_Q8_UNIT / HALF], part = 0, x_sum = 0;
        for (size_t i = c; i < c + HALF; i++) {
            part += (w[i] - minimum) * x[i];
            all += fabs(minimum * x[i]);
            x_sum += x[i];
        }
        sum += fabs(part) + fabs(minimum * x_sum);
    }
    if (data->bf16)
        return (moe_ref_gamma(cols) * (1 + 0x1p-8) + 0x1p-8) * products + 3 * MOE_REF_UNIT * all + tiny;
    return moe_ref_gamma(roundings_q8(kind, cols)) * (kind != NULL ? sum : 3 * all) + 2 * MOE_REF_UNIT * all +
           (double)cols * 0x1p-149;
}

/* ---- linear_q8 step by step (kernels.h) ---- */

/* Half h of a unit; without halves all of it, h being 0. */
static float add_part(float acc, const struct weight_unit *w, const struct q8_unit *x, size_t h,
                      const struct weight_kind *kind)
{
    size_t first = h * HALF, end = kind->halves ? first + HALF : MOE_Q8_UNIT;
    float sum = 0, scale = w->scale[h] * x->scale;
    for (size_t i = first; i < end; i++)
        sum += w->q[i] * (float)x->q[i];    /* integers below 2^24 */
    acc = fmaf(sum, scale, acc);
    if (kind->minimum_at == 0)
        return acc;
    return fmaf(w->minimum[h], kind->halves ? (float)x->half_start[h] / -128 * x->scale : x->sum, acc);
}

static float step_by_step(const struct weight_unit *w, const unsigned char *x, size_t cols,
                          const struct weight_kind *kind)
{
    size_t num_units = cols / MOE_Q8_UNIT, segment_units = MOE_Q8_SEGMENT / MOE_Q8_UNIT;
    float y = 0;
    for (size_t first = 0; first < num_units; first += segment_units) {
        size_t end = first + segment_units < num_units ? first + segment_units : num_units;
        for (size_t lane = 0; lane < MOE_Q8_LANES; lane++) {
            float acc = 0;
            for (size_t u = first + lane; u < end; u += MOE_Q8_LANES) {
                struct q8_unit unit = q8_unit_at(x, cols, u);
                for (size_t h = 0; h < (kind->halves ? 2 : 1); h++)
                    acc = add_part(acc, &w[u], &unit, h, kind);
            }
            y += acc;
        }
    }
    return y;
}

/* ---- tests ---- */

/* Row r for all tokens. */
static void compare_row(struct check *check, const struct data *data, size_t r, const double *w, const double *x,
                        const struct weight_kind *kind, struct weight_unit *units)
{
    size_t cols = data->shape.cols;
    if (kind != NULL)
        weights_take_apart(units, kind, data->args.w + r * data->args.w_stride, cols);
    for (size_t t = 0; t < data->shape.num_tokens; t++) {
        float y = data->y[t * data->args.y_stride + r];
        double exact = 0;
        for (size_t c = 0; c < cols; c++)
            exact += w[c] * x[t * cols + c];
        check_value(check, y, exact, bound_of(data, kind, units, w, x + t * cols));
        if (kind == NULL || data->bf16)
            continue;
        float expected = step_by_step(units, x_row(data, t), cols, kind);
        if (y != expected && !(isnan(y) && isnan(expected)))
            check_fail(check, "row %zu of %zu, token %zu of %zu, cols %zu: %a, in the order of kernels.h %a", r,
                       data->shape.rows, t, data->shape.num_tokens, cols, (double)y, (double)expected);
    }
}

static void compare(struct check *check, const struct data *data)
{
    const struct shape *s = &data->shape;
    const struct weight_kind *kind = weight_kind_of(check->format);
    struct weight_unit *units = moe_ref_alloc(s->cols / MOE_Q8_UNIT + 1, sizeof *units);
    double *w = moe_ref_alloc(s->rows * s->cols, sizeof *w), *x = moe_ref_alloc(s->num_tokens * s->cols, sizeof *x);
    struct moe_matrix matrix;
    MOE_INIT(&matrix);
    matrix.data = test_view(data->args.w, data->w_size - s->w_skew, data->args.w_stride, check->format);
    moe_ref_matrix(w, &matrix, s->rows, s->cols, 0);
    for (size_t t = 0; t < s->num_tokens; t++) {
        const float *pad = data->y + t * data->args.y_stride + s->rows;
        read_x(data, x + t * s->cols, t);
        for (size_t i = 0; t + 1 < s->num_tokens && i < s->y_pad; i++)
            if (!isnan(pad[i]))
                check_fail(check, "writes between the rows of y");
    }
    for (size_t r = 0; r < s->rows; r++)
        compare_row(check, data, r, w + r * s->cols, x, kind, units);
    free(units);
    free(w);
    free(x);
}

/* One token at a time, the rows in two parts, the parts of w at another address; scratch as other calls left it. */
static void compare_parts(struct check *check, const struct data *data)
{
    const struct shape *s = &data->shape;
    struct moe_linear_rounded_args args = data->args;
    size_t skew = test_below(&check->rng, 64), split = test_below(&check->rng, s->rows + 1);
    unsigned char *w = test_alloc(skew + data->w_size - s->w_skew);
    memcpy(w + skew, data->args.w, data->w_size - s->w_skew);
    float *y = test_alloc(s->rows * sizeof *y);
    args.num_tokens = 1;
    args.x_rows = NULL;
    args.next = NULL;
    for (size_t t = 0; t < s->num_tokens; t++) {
        args.x = x_row(data, t);
        args.w = w + skew;
        args.y = y;
        args.rows = split;
        call(check, &args);
        args.w += split * args.w_stride;
        args.y += split;
        args.rows = s->rows - split;
        call(check, &args);
        check_same(check, y, data->y + t * data->args.y_stride, s->rows * sizeof *y,
                   "a token alone, or rows in parts, gives other bits");
    }
    test_release(y);
    test_release(w);
}

static void test_shape(struct check *check, const struct shape *shape)
{
    struct data data;
    if (check_leaves_out(check))
        return;
    make_data(&data, check, shape);
    void *w = test_copy(data.w_memory, data.w_size), *x = test_copy(data.x, data.x_size);
    call(check, &data.args);
    test_guards(data.y);
    test_guards(data.scratch);
    check_same(check, w, data.w_memory, data.w_size, "changes w");
    check_same(check, x, data.x, data.x_size, "changes x");
    compare(check, &data);
    compare_parts(check, &data);
    if (check->failure[0] == '\0' && check->worst > 1)
        check_fail(check, "rows %zu, cols %zu, num_tokens %zu: error above the bound", shape->rows, shape->cols,
                   shape->num_tokens);
    test_release(w);
    test_release(x);
    free_data(&data);
}

static void random_shape(struct check *check, size_t rows, size_t cols, size_t num_tokens)
{
    struct test_rng *rng = &check->rng;
    test_shape(check, &(struct shape){rows, cols, num_tokens, test_below(rng, 3), test_below(rng, 5),
                                      test_below(rng, 40), test_below(rng, 64), test_below(rng, 2) == 0});
}

/* cols, with some of the numbers of rows and of tokens, fewer where there are many columns; with all cols, any. */
static void test_cols(struct check *check, size_t cols)
{
    static const size_t rows[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 48, 65, 100};
    static const size_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 33, 64};
    size_t step = cols > 600 ? 4 : 2, skip = test_below(&check->rng, step), most_rows = cols > 600 ? 8 : 13;
    for (size_t i = skip; i < sizeof rows / sizeof *rows; i += step)
        random_shape(check, rows[i], cols, 1 + test_below(&check->rng, 6));
    for (size_t i = skip; i < sizeof tokens / sizeof *tokens; i += step)
        random_shape(check, rows[test_below(&check->rng, most_rows)], cols, tokens[i]);
}

/* Up to three segments, the last ones whole, of whole groups, and of less than one. */
static void test_linear_q8(struct check *check)
{
    static const size_t cols[] = {32,  64,  96,   128,  192,  224,  256,  288,  480,  512,
                                  544, 768, 1024, 1792, 2048, 2080, 2112, 2304, 4096, 4256};
    size_t block = moe_format_info(check->format)->block_values;
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        if (cols[i] % block == 0)
            test_cols(check, cols[i]);
}

static void test_linear_bf16(struct check *check)
{
    static const size_t cols[] = {1,  2,  3,  7,  8,   15,  16,  17,  30,  31,  32,  33,   34,   62,
                                  63, 64, 65, 97, 127, 128, 129, 255, 256, 257, 513, 1000, 2080, 4099};
    size_t block = moe_format_info(check->format)->block_values;
    if (block > 1)
        test_linear_q8(check);
    for (size_t i = 0; i < sizeof cols / sizeof *cols && block == 1; i++)
        test_cols(check, cols[i]);
}

static void run_bench(const struct check *check, void *data)
{
    call(check, &((struct data *)data)->args);
}

static void bench(struct check *check)
{
    static const struct {
        size_t num_tokens;
        const char *what;
    } cells[] = {{1, "1024x2048, 1 token"},  {2, "1024x2048, 2 tokens"},   {4, "1024x2048, 4 tokens"},
                 {8, "1024x2048, 8 tokens"}, {32, "1024x2048, 32 tokens"}, {128, "1024x2048, 128 tokens"}};
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        struct data data;
        make_data(&data, check, &(struct shape){.rows = 1024, .cols = 2048, .num_tokens = cells[i].num_tokens});
        double flops = 2.0 * 1024 * 2048 * (double)cells[i].num_tokens;
        bench_report(check, &(struct bench){cells[i].what, (double)data.w_size, flops, run_bench, &data});
        free_data(&data);
    }
}

const struct check_op check_linear_q8 = {test_linear_q8, bench};
const struct check_op check_linear_bf16 = {test_linear_bf16, bench};
