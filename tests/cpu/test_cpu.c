// SPDX-License-Identifier: MIT
// The CPU backend's own promises: levels and what they say, memory, and kernels whose bits do not depend on how many
// rows and tokens a call has. Their accuracy is moe-check's, the layer's results are tests/layer's.
#include <stdlib.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/kernels.h"
#include "support.h"

/* ---- levels ---- */

struct lines {
    char level[32];
    size_t kernels;              /* but those of rounded activations */
    bool has_linear_bf16_c, has_linear_mxfp4_c;
};

static void take_line(void *user, const char *key, const char *value)
{
    struct lines *lines = user;
    if (strcmp(key, "level") == 0)
        strncpy(lines->level, value, sizeof lines->level - 1);
    lines->kernels += strcmp(key, "kernel") == 0 && strncmp(value, "linear_q8 ", 10) != 0 &&
                      strncmp(value, "linear_bf16 ", 12) != 0 && strncmp(value, "quantise ", 9) != 0;
    lines->has_linear_bf16_c |= strcmp(value, "linear bf16 c") == 0;
    lines->has_linear_mxfp4_c |= strcmp(value, "linear mxfp4 c") == 0;
}

static struct lines describe(const char *name)
{
    struct lines lines = {.kernels = 0};
    struct moe_backend *backend = test_backend(name);
    test_assert_ok(moe_backend_describe(backend, take_line, &lines));
    moe_backend_close(backend);
    return lines;
}

static void test_levels(void **state)
{
    (void)state;
    struct lines lines = describe("cpu:c");
    assert_string_equal(lines.level, "c");
    assert_true(lines.has_linear_bf16_c && lines.has_linear_mxfp4_c);
    size_t kernels = lines.kernels;
    lines = describe("cpu");
    assert_string_equal(lines.level, moe_kernels_level_name(moe_cpuid_best()));
    assert_int_equal(lines.kernels, kernels);             /* the level c has one for each of those slots */
    if (moe_cpuid_has(MOE_LEVEL_AVX2))
        assert_false(lines.has_linear_bf16_c);
}

/* What a layer takes for granted: activations for any linear_q8 can be made, and all products can be had in f32. */
static void test_levels_are_whole(void **state)
{
    (void)state;
    for (int level = 0; level < MOE_NUM_LEVELS; level++) {
        struct moe_kernels kernels;
        moe_kernels_init(&kernels, (enum moe_level)level);
        for (size_t i = 0; i < MOE_NUM_FORMATS; i++) {
            assert_true(kernels.linear_q8[i] == NULL || kernels.quantise != NULL);
            assert_true(kernels.linear_q8[i] == NULL || moe_format_at(i)->block_values % MOE_Q8_UNIT == 0);
            assert_true((kernels.linear_q8[i] == NULL && kernels.linear_bf16[i] == NULL) || kernels.linear[i] != NULL);
        }
    }
}

static void test_unknown_level(void **state)
{
    (void)state;
    struct moe_backend *backend;
    struct moe_error error;
    test_assert_status(moe_backend_open("cpu:sse9", NULL, &backend, &error), MOE_ERR_UNSUPPORTED);
    assert_null(backend);
    assert_non_null(strstr(error.text, "sse9"));
    assert_non_null(strstr(error.text, "c, avx2"));
}

/* ---- memory ---- */

struct ledger {
    size_t blocks, bytes;
};

static void *ledger_alloc(void *user, size_t size, size_t align)
{
    struct ledger *ledger = user;
    ledger->blocks++;
    ledger->bytes += size;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void ledger_free(void *user, void *ptr, size_t size)
{
    struct ledger *ledger = user;
    ledger->blocks--;
    ledger->bytes -= size;
    free(ptr);
}

/* What comes from an env goes back to it, with its size. */
static void test_memory(void **state)
{
    (void)state;
    struct ledger ledger = {0};
    struct moe_env env;
    MOE_INIT(&env);
    env.user = &ledger;
    env.alloc = ledger_alloc;
    env.free = ledger_free;
    struct moe_backend *backend;
    test_assert_ok(moe_backend_open("cpu", &env, &backend, NULL));
    struct moe_context *ctx = test_context(backend, 3);
    static const size_t sizes[] = {1, 255, 256, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct moe_view mem;
        test_assert_ok(moe_mem_alloc(backend, sizes[i], &mem));
        assert_int_equal((uintptr_t)mem.base % 256, 0);
        assert_int_equal(mem.size, sizes[i]);
        unsigned char *bytes = calloc(sizes[i], 1);
        bytes[sizes[i] - 1] = 7;
        test_assert_ok(moe_mem_write(ctx, &mem, bytes, sizes[i]));
        bytes[sizes[i] - 1] = 0;
        test_assert_ok(moe_mem_read(ctx, bytes, &mem, sizes[i]));
        assert_int_equal(bytes[sizes[i] - 1], 7);
        free(bytes);
        moe_mem_free(backend, &mem);
    }
    moe_context_destroy(ctx);
    moe_backend_close(backend);
    assert_int_equal(ledger.blocks, 0);
    assert_int_equal(ledger.bytes, 0);
}

/* ---- bits of kernels ---- */

enum { ROWS = 37, TOKENS = 9, MAX_COLS = 1024 };

struct problem {
    struct moe_linear_args args;
    size_t row_bytes;
    int32_t x_rows[TOKENS];
    float y[TOKENS * ROWS], other[TOKENS * ROWS];
};

/* One row and one token at a time must give what the whole call gives; as must the tokens in another order. */
static void check_linear(moe_linear_fn *linear, struct problem *p)
{
    linear(&p->args);
    struct moe_linear_args one = p->args;
    one.rows = one.num_tokens = 1;
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t r = 0; r < ROWS; r++) {
            one.y = p->other + t * ROWS + r;
            one.w = p->args.w + r * p->row_bytes;
            one.x = p->args.x + t * p->args.x_stride;
            linear(&one);
        }
    }
    test_assert_same(p->y, p->other, TOKENS * ROWS, "one row and one token at a time");
    struct moe_linear_args part = p->args;
    part.y = p->other;
    for (size_t n = 2; n <= TOKENS; n++) {
        for (size_t t = 0; t < n; t++)
            p->x_rows[t] = (int32_t)(n - 1 - t);
        part.num_tokens = n;
        part.x_rows = p->x_rows;
        linear(&part);
        for (size_t t = 0; t < n; t++)
            assert_memory_equal(p->other + t * ROWS, p->y + (n - 1 - t) * ROWS, ROWS * sizeof(float));
    }
}

static void check_linear_row(const struct moe_kernel_row *row, struct test_rng *rng, size_t cols)
{
    const struct moe_format_info *format = moe_format_at(row->index);
    if (cols % format->block_values != 0)
        return;
    struct problem p = {.row_bytes = moe_format_row_bytes(format->format, cols)};
    float *x = test_alloc(TOKENS * cols * sizeof *x);
    unsigned char *w = test_alloc(ROWS * p.row_bytes);
    for (size_t r = 0; r < ROWS; r++)
        test_fill_weights(rng, format->format, w + r * p.row_bytes, cols, 1.0);
    test_fill_heavy(rng, x, TOKENS, cols, 1.0);
    p.args = (struct moe_linear_args){.y = p.y, .y_stride = ROWS, .w = w, .w_stride = p.row_bytes, .x = x,
                                      .x_stride = cols, .rows = ROWS, .cols = cols, .num_tokens = TOKENS};
    check_linear((moe_linear_fn *)row->fn, &p);
    test_release(x);
    test_release(w);
}

static void test_linear_bits(void **state)
{
    (void)state;
    static const size_t cols[] = {1, 7, 8, 31, 48, 160, 256, 257, 480, 512, 768, MAX_COLS};
    struct test_rng rng = {17};
    const struct moe_kernel_row *row;
    for (size_t i = 0; (row = moe_kernels_row(i)) != NULL; i++) {
        if (row->op != MOE_OP_linear || !moe_cpuid_has(row->level))
            continue;
        for (size_t j = 0; j < sizeof cols / sizeof *cols; j++)
            check_linear_row(row, &rng, cols[j]);
    }
}

/* All levels of the router have the bits of the level c. */
static void test_router_bits(void **state)
{
    (void)state;
    static const size_t cols[] = {1, 7, 8, 64, 257};
    struct test_rng rng = {5};
    float w[ROWS * 257], x[TOKENS * 257], bias[ROWS];
    double logits[TOKENS * ROWS], first[TOKENS * ROWS];
    struct moe_kernels kernels;
    moe_kernels_init(&kernels, MOE_LEVEL_C);
    const struct moe_kernel_row *row;
    for (size_t j = 0; j < sizeof cols / sizeof *cols; j++) {
        test_fill_heavy(&rng, w, ROWS, cols[j], 1.0);
        test_fill_heavy(&rng, x, TOKENS, cols[j], 1.0);
        test_fill(&rng, bias, ROWS, 1.0);
        struct moe_router_args args = {.logits = first, .logits_stride = ROWS, .w = w, .bias = bias, .x = x,
                                       .x_stride = cols[j], .rows = ROWS, .cols = cols[j], .num_tokens = TOKENS};
        kernels.router(&args);
        for (size_t i = 0; (row = moe_kernels_row(i)) != NULL; i++) {
            if (row->op != MOE_OP_router || !moe_cpuid_has(row->level))
                continue;
            args.logits = logits;
            ((moe_router_fn *)row->fn)(&args);
            test_assert_same(first, logits, TOKENS * ROWS, "router logits of another level");
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels), cmocka_unit_test(test_levels_are_whole), cmocka_unit_test(test_unknown_level),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_linear_bits),      cmocka_unit_test(test_router_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
