// SPDX-License-Identifier: MIT
// moe-check of router: logits in double, with the same bits whatever experts and tokens are computed together.
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct data {
    struct moe_router_args args;
    float *w, *bias, *x;
    double *logits;
};

static void make_data(struct data *data, struct check *check, size_t rows, size_t cols, size_t num_tokens, size_t pad,
                      bool bias)
{
    struct moe_router_args *a = &data->args;
    memset(data, 0, sizeof *data);
    a->rows = rows;
    a->cols = cols;
    a->num_tokens = num_tokens;
    a->x_stride = cols + pad;
    a->logits_stride = rows + pad;
    a->w = data->w = test_alloc(rows * cols * sizeof(float));
    a->x = data->x = test_alloc(((num_tokens - 1) * a->x_stride + cols) * sizeof(float));
    a->logits = data->logits = test_alloc(((num_tokens - 1) * a->logits_stride + rows) * sizeof(double));
    test_fill_heavy(&check->rng, data->w, rows, cols, 0.1);
    for (size_t t = 0; t < num_tokens; t++)
        test_fill_heavy(&check->rng, data->x + t * a->x_stride, 1, cols, 1);
    if (bias) {
        a->bias = data->bias = test_alloc(rows * sizeof(float));
        test_fill(&check->rng, data->bias, rows, 1);
    }
}

static void free_data(struct data *data)
{
    test_release(data->w);
    test_release(data->bias);
    test_release(data->x);
    test_release(data->logits);
}

static void call(const struct check *check, const struct moe_router_args *args)
{
    ((moe_router_fn *)check->row->fn)(args);
}

/* Products of two floats are exact in double: cols additions and the bias round, each by 2^-53; as often again in the
 * definition itself. */
static void compare(struct check *check, const struct data *data)
{
    const struct moe_router_args *a = &data->args;
    double *w = moe_ref_alloc(a->rows * a->cols, sizeof *w), *x = moe_ref_alloc(a->cols, sizeof *x);
    double *bias = moe_ref_alloc(a->rows, sizeof *bias), *y = moe_ref_alloc(2 * a->rows, sizeof *y);
    for (size_t i = 0; i < a->rows * a->cols; i++)
        w[i] = data->w[i];
    for (size_t r = 0; a->bias != NULL && r < a->rows; r++)
        bias[r] = data->bias[r];
    for (size_t t = 0; t < a->num_tokens; t++) {
        for (size_t c = 0; c < a->cols; c++)
            x[c] = data->x[t * a->x_stride + c];
        moe_ref_linear(y, y + a->rows, w, bias, x, a->rows, a->cols);
        const double *logits = data->logits + t * a->logits_stride;
        for (size_t r = 0; r < a->rows; r++)
            check_value(check, logits[r], y[r], 2 * (double)(a->cols + 1) * 0x1p-53 * y[a->rows + r]);
        for (size_t i = a->rows; t + 1 < a->num_tokens && i < a->logits_stride; i++)
            if (!isnan(logits[i]))
                check_fail(check, "writes between the rows of logits");
    }
    free(w);
    free(x);
    free(bias);
    free(y);
}

static void compare_parts(struct check *check, const struct data *data)
{
    double *logits = test_alloc(sizeof *logits);
    for (size_t t = 0; t < data->args.num_tokens; t++) {
        for (size_t r = 0; r < data->args.rows; r++) {
            struct moe_router_args args = data->args;
            args.rows = 1;
            args.num_tokens = 1;
            args.w += r * args.cols;
            args.x += t * args.x_stride;
            args.bias = args.bias != NULL ? args.bias + r : NULL;
            args.logits = logits;
            call(check, &args);
            check_same(check, logits, data->logits + t * args.logits_stride + r, sizeof *logits,
                       "an expert and a token alone give other bits");
        }
    }
    test_release(logits);
}

static void test_router(struct check *check)
{
    static const size_t rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 60};
    static const size_t cols[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        for (size_t c = 0; c < sizeof cols / sizeof *cols; c++) {
            struct data data;
            make_data(&data, check, rows[r], cols[c], 1 + test_below(&check->rng, 17), test_below(&check->rng, 4),
                      test_below(&check->rng, 2) == 0);
            call(check, &data.args);
            test_guards(data.logits);
            compare(check, &data);
            compare_parts(check, &data);
            free_data(&data);
        }
    }
}

static void run_bench(const struct check *check, void *data)
{
    call(check, &((struct data *)data)->args);
}

static void bench_router(struct check *check)
{
    struct data data;
    make_data(&data, check, 128, 2048, 8, 0, true);
    bench_report(check, &(struct bench){"128x2048, 8 tokens", 128 * 2048 * 4, 2.0 * 128 * 2048 * 8, run_bench, &data});
    free_data(&data);
}

const struct check_op check_router = {test_router, bench_router};
