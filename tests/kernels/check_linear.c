// SPDX-License-Identifier: MIT
// moe-check of linear and linear_scaled: every format, odd sizes and strides, gathered rows, weights at any address,
// scales of any block; and that a result has the same bits whatever rows and tokens are computed with it.
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The order that kernels.h prescribes, with the fewest lanes that a level may have. Roundings on the longest way of a
 * product into the sum: itself, its lane, the tree over the lanes, the segments. */
enum { FEWEST_LANES = 8, LANE_TREE = 3 };

static size_t roundings(size_t cols)
{
    size_t segment = cols < MOE_LINEAR_SEGMENT ? cols : MOE_LINEAR_SEGMENT;
    return 1 + (segment + FEWEST_LANES - 1) / FEWEST_LANES + LANE_TREE +
           (cols + MOE_LINEAR_SEGMENT - 1) / MOE_LINEAR_SEGMENT;
}

/* Of a scaled value: its difference, its scale times its factor, their product. */
enum { SCALE_ROUNDINGS = 3 };

struct shape {
    size_t rows, cols, num_tokens;
    size_t x_pad, y_pad, w_pad, w_skew;   /* floats, floats, bytes, bytes */
    bool gather;
};

struct data {
    struct shape shape;
    struct moe_linear_args args;
    unsigned char *w_memory;
    float *x, *y;
    int32_t *x_rows;
    size_t w_size, x_size, y_size, x_count;
    bool scaled;
    struct moe_slice_scales scales;   /* for the kernel */
    struct moe_scales definition;     /* for the reference: the same memory */
    struct moe_matrix scale, zero, column_block, factor;
    float factor_value;
    void *memory[3];                  /* of scale, zero, column_block */
};

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
        test_fill_weights(&check->rng, check->format, data->w_memory + s->w_skew + r * data->args.w_stride, s->cols,
                          0.1);
}

/* A plane [rows, cols] with a gap between its rows, absent one time in absent. */
static void make_plane(struct data *data, struct check *check, size_t i, struct moe_matrix *matrix,
                       struct moe_view *view, const struct moe_matrix **part, enum moe_format format, size_t rows,
                       size_t cols, size_t absent)
{
    if (absent > 0 && test_below(&check->rng, absent) == 0)
        return;
    size_t row_bytes = moe_format_row_bytes(format, cols), stride = row_bytes + 4 * test_below(&check->rng, 3);
    size_t size = (rows - 1) * stride + row_bytes;
    unsigned char *memory = data->memory[i] = test_alloc(size);
    for (size_t k = 0; k < rows * cols; k++) {
        unsigned char *at = memory + k / cols * stride + k % cols * (row_bytes / cols);
        float value = (float)ldexp(1 + test_uniform(&check->rng), (int)test_below(&check->rng, 16) - 12);
        if (format == MOE_FORMAT_E4M3)
            *at = (unsigned char)(1 + test_below(&check->rng, 0x7e));
        else if (format == MOE_FORMAT_E8M0)
            *at = (unsigned char)(115 + test_below(&check->rng, 20));
        else if (format == MOE_FORMAT_U8)
            *at = (unsigned char)test_below(&check->rng, 16);
        else if (format == MOE_FORMAT_I32)
            memcpy(at, &(int32_t){(int32_t)test_below(&check->rng, rows)}, 4);
        else
            moe_format_quantise(format, at, &value, 1, 1);
    }
    *view = test_view(memory, size, stride, format);
    MOE_INIT(matrix);
    matrix->data = *view;
    *part = matrix;
}

/* Scales of any format and block; the columns' blocks may be given one by one. */
static void make_scales(struct data *data, struct check *check)
{
    static const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16, MOE_FORMAT_E4M3,
                                              MOE_FORMAT_E8M0};
    static const size_t sizes[] = {1, 2, 3, 7, 16, 32, 100, 128, 300, 1000};
    const struct shape *s = &data->shape;
    struct test_rng *rng = &check->rng;
    struct moe_slice_scales *scales = &data->scales;
    MOE_INIT(&data->definition);
    data->scaled = true;
    scales->block_rows = data->definition.block_rows = sizes[test_below(rng, 10)];
    scales->block_cols = data->definition.block_cols = sizes[test_below(rng, 10)];
    scales->first_row = data->definition.first_row = test_below(rng, scales->block_rows);
    scales->zero_offset = data->definition.zero_offset = test_below(rng, 2) == 0 ? 0 : 8;
    data->factor_value = scales->factor = test_below(rng, 2) == 0 ? 1 : (float)(0.5 + test_uniform(rng));
    size_t rows = (scales->first_row + s->rows - 1) / scales->block_rows + 1;
    size_t cols = (s->cols - 1) / scales->block_cols + 1;
    make_plane(data, check, 0, &data->scale, &scales->scale, &data->definition.scale, formats[test_below(rng, 5)], rows,
               cols, 8);
    make_plane(data, check, 1, &data->zero, &scales->zero, &data->definition.zero, MOE_FORMAT_U8, rows, cols, 2);
    if (test_below(rng, 3) > 0)
        return;
    make_plane(data, check, 2, &data->column_block, &scales->column_block, &data->definition.column_block,
               MOE_FORMAT_I32, 1, s->cols, 0);
    for (size_t c = 0; c < s->cols; c++)
        ((int32_t *)data->memory[2])[c] = (int32_t)test_below(rng, cols);
}

static void make_data(struct data *data, struct check *check, const struct shape *shape)
{
    memset(data, 0, sizeof *data);
    data->shape = *shape;
    make_weights(data, check);
    struct moe_linear_args *a = &data->args;
    a->rows = shape->rows;
    a->cols = shape->cols;
    a->num_tokens = shape->num_tokens;
    a->x_stride = shape->cols + shape->x_pad;
    a->y_stride = shape->rows + shape->y_pad;
    data->x_count = shape->gather ? shape->num_tokens + 3 : shape->num_tokens;
    data->x_size = ((data->x_count - 1) * a->x_stride + shape->cols) * sizeof(float);
    data->y_size = ((shape->num_tokens - 1) * a->y_stride + shape->rows) * sizeof(float);
    data->x = test_alloc(data->x_size);   /* NaN between the rows */
    data->y = test_alloc(data->y_size);
    for (size_t i = 0; i < data->x_count; i++)
        test_fill_heavy(&check->rng, data->x + i * a->x_stride, 1, shape->cols, 1);
    if (shape->gather) {
        data->x_rows = test_alloc(shape->num_tokens * sizeof *data->x_rows);
        for (size_t t = 0; t < shape->num_tokens; t++)
            data->x_rows[t] = (int32_t)test_below(&check->rng, data->x_count);
    }
    a->x = data->x;
    a->y = data->y;
    a->x_rows = data->x_rows;
    if (check->row->op == MOE_OP_linear_scaled)
        make_scales(data, check);
}

static void free_data(struct data *data)
{
    test_release(data->w_memory);
    test_release(data->x);
    test_release(data->y);
    test_release(data->x_rows);
    for (size_t i = 0; i < 3; i++)
        test_release(data->memory[i]);
}

/* first: the row of the matrix that args begin with. */
static void call(const struct check *check, const struct data *data, const struct moe_linear_args *args, size_t first)
{
    if (data->scaled)
        ((moe_linear_scaled_fn *)check->row->fn)(&(struct moe_linear_scaled_args){*args, &data->scales, first});
    else
        ((moe_linear_fn *)check->row->fn)(args);
}

static void compare(struct check *check, struct data *data)
{
    const struct shape *s = &data->shape;
    size_t extra = data->scaled ? SCALE_ROUNDINGS : 0;
    struct moe_matrix matrix;
    MOE_INIT(&matrix);
    if (data->scaled) {
        MOE_INIT(&data->factor);
        data->factor.data = test_view(&data->factor_value, sizeof(float), 0, MOE_FORMAT_F32);
        data->definition.factor = &data->factor;
        matrix.scales = &data->definition;
    }
    matrix.data = test_view(data->args.w, data->w_size - s->w_skew, data->args.w_stride, check->format);
    double *w = moe_ref_alloc(s->rows * s->cols, sizeof *w), *x = moe_ref_alloc(s->cols, sizeof *x);
    double *y = moe_ref_alloc(2 * s->rows, sizeof *y), *magnitude = y + s->rows;
    moe_ref_matrix(w, &matrix, s->rows, s->cols, 0);
    for (size_t t = 0; t < s->num_tokens; t++) {
        size_t from = data->x_rows != NULL ? (size_t)data->x_rows[t] : t;
        for (size_t c = 0; c < s->cols; c++)
            x[c] = data->x[from * data->args.x_stride + c];
        moe_ref_linear(y, magnitude, w, NULL, x, s->rows, s->cols);
        for (size_t r = 0; r < s->rows; r++)
            check_value(check, data->y[t * data->args.y_stride + r], y[r],
                        moe_ref_gamma(roundings(s->cols) + extra) * magnitude[r] + (double)s->cols * 0x1p-149);
        const float *pad = data->y + t * data->args.y_stride + s->rows;
        for (size_t i = 0; t + 1 < s->num_tokens && i < s->y_pad; i++)
            if (!isnan(pad[i]))
                check_fail(check, "writes between the rows of y");
    }
    free(w);
    free(x);
    free(y);
}

/* One token at a time, the rows in two parts, the parts of w at another address. */
static void compare_parts(struct check *check, const struct data *data)
{
    const struct shape *s = &data->shape;
    struct moe_linear_args args = data->args;
    size_t skew = test_below(&check->rng, 64), split = test_below(&check->rng, s->rows + 1);
    unsigned char *w = test_alloc(skew + data->w_size - s->w_skew);
    memcpy(w + skew, data->args.w, data->w_size - s->w_skew);
    float *y = test_alloc(s->rows * sizeof *y);
    args.num_tokens = 1;
    args.x_rows = NULL;
    for (size_t t = 0; t < s->num_tokens; t++) {
        size_t from = data->x_rows != NULL ? (size_t)data->x_rows[t] : t;
        args.x = data->x + from * args.x_stride;
        args.w = w + skew;
        args.y = y;
        args.rows = split;
        call(check, data, &args, 0);
        args.w += split * args.w_stride;
        args.y += split;
        args.rows = s->rows - split;
        call(check, data, &args, split);
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
    call(check, &data, &data.args, 0);
    test_guards(data.y);
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
    test_shape(check, &(struct shape){rows, cols, num_tokens, test_below(rng, 5), test_below(rng, 5),
                                      test_below(rng, 40), test_below(rng, 64), test_below(rng, 2) == 0});
}

static void test_linear(struct check *check)
{
    static const size_t rows[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 100};
    static const size_t values[] = {1,  2,  3,  5,  7,  8,  9,   15,  16,  17,  31,  33,
                                    63, 64, 65, 97, 100, 255, 256, 257, 300, 511, 513, 768};
    static const size_t blocks[] = {1, 2, 3, 4, 5, 7, 8, 9, 11, 17};
    size_t block = moe_format_info(check->format)->block_values, max_tokens = 17;
    size_t num_cols = block == 1 ? sizeof values / sizeof *values : block < 256 ? 10 : 5;
    for (size_t i = 0; i < num_cols; i++) {
        size_t cols = block == 1 ? values[i] : blocks[i] * block;
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            random_shape(check, rows[r], cols, 1 + test_below(&check->rng, 6));
        for (size_t n = 1; n <= max_tokens + 1; n++)
            random_shape(check, rows[test_below(&check->rng, 10)], cols, n <= max_tokens ? n : 33);
    }
}

static void run_bench(const struct check *check, void *data)
{
    call(check, data, &((struct data *)data)->args, 0);
}

static void bench_linear(struct check *check)
{
    static const struct {
        size_t num_tokens;
        const char *what;
    } cells[] = {{1, "1024x1024, 1 token"}, {8, "1024x1024, 8 tokens"}, {64, "1024x1024, 64 tokens"}};
    for (size_t i = 0; i < 3; i++) {
        struct data data;
        make_data(&data, check, &(struct shape){.rows = 1024, .cols = 1024, .num_tokens = cells[i].num_tokens});
        double flops = 2.0 * 1024 * 1024 * (double)cells[i].num_tokens;
        bench_report(check, &(struct bench){cells[i].what, (double)data.w_size, flops, run_bench, &data});
        free_data(&data);
    }
}

const struct check_op check_linear = {test_linear, bench_linear};
const struct check_op check_linear_scaled = {test_linear, bench_linear};
