// SPDX-License-Identifier: MIT
// Layers that round activations to int8 or bf16, on every level that this machine has: a token's bits do not depend on
// the batch, the threads or memory; how far out is from float64; values that are not finite; workspace.
#include <stdio.h>

#include "cpu/cpuid.h"
#include "cpu/kernels.h"
#include "layer_drivers.h"
#include "layer_fixture.h"

/* MANY_TOKENS: from so many on a layer of 3 experts, 2 of them for a token, may take them as many. */
enum { NUM_TOKENS = 512, MANY_TOKENS = 18, EXACT_TOKENS = 16, MOST_THREADS = 16, OTHER_ROWS = 64, NAME_BYTES = 32 };

/* ||out - exact|| / ||exact|| without heavy tails (docs/numerics.md): int8, Gaussian activations and weights; int8,
 * Gaussian activations and any weights, where one value in 32 of h may have all its size; bf16. With heavy tails, what
 * rounding may do to each value at worst is all that holds. */
#define INT8_ERROR 1.25e-2
#define INT8_ANY_WEIGHTS_ERROR 1.5e-2
#define BF16_ERROR 4e-3
#define BF16_WEIGHTS_ERROR 5e-3    /* weights rounded, too */

/* ---- levels ---- */

/* A fixture's layer on one level. */
struct subject {
    char name[NAME_BYTES];
    struct moe_backend *backend;
    struct moe_context *ctx;
    struct test_handle handle;
    bool exact, batch_invariant;
};

static void subject_open(struct subject *s, const struct fixture *f, enum moe_level level, uint32_t flags)
{
    struct moe_layer_info info = {.struct_size = sizeof info};
    snprintf(s->name, sizeof s->name, "cpu:%s", moe_kernels_level_name(level));
    s->backend = test_backend(s->name);
    s->ctx = test_context(s->backend, 2);
    test_handle_open(&s->handle, s->backend, &f->layer, flags);
    test_assert_ok(moe_layer_info(s->handle.layer, &info));
    assert_true(info.batch_invariant || !(flags & MOE_LAYER_BATCH_INVARIANT));
    s->batch_invariant = info.batch_invariant;
    s->exact = info.exact;
}

static void subject_close(struct subject *s)
{
    test_handle_close(&s->handle);
    moe_context_destroy(s->ctx);
    moe_backend_close(s->backend);
}

static struct moe_kernels kernels[MOE_NUM_LEVELS];

/* Does this level have another kernel for the format's products than the level below? */
static bool is_new(int level, enum moe_format_index index)
{
    if (level == MOE_LEVEL_C || !moe_cpuid_has((enum moe_level)level))
        return false;
    const struct moe_kernels *here = &kernels[level], *below = &kernels[level - 1];
    if (here->linear_q8[index] == NULL)
        return here->linear_bf16[index] != below->linear_bf16[index];
    return here->linear_q8[index] != below->linear_q8[index] || here->quantise != below->quantise;
}

/* Whether the best level rounds what a product with the format takes. */
static bool is_rounded(enum moe_format format)
{
    const struct moe_kernels *best = &kernels[moe_cpuid_best()];
    enum moe_format_index index = moe_kernels_index(format);
    return best->linear_q8[index] != NULL || best->linear_bf16[index] != NULL;
}

/* ---- bits ---- */

/* f->other has the whole batch: tokens of smaller ones, wherever they are in it. */
static void compare_batches(struct fixture *f, const struct subject *s, const struct test_call *all)
{
    static const size_t counts[] = {1, 2, 3, 7, 8, 9, 31, 32, 33, 64};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        size_t first = test_below(&f->rng, all->num_tokens - counts[i] + 1);
        struct test_call part = fixture_part(f, all, first, counts[i]);
        test_assert_ok(test_call_run(s->ctx, s->handle.layer, &part));
        test_assert_same(part.out, f->other + first * f->hidden_size, counts[i] * f->hidden_size, s->name);
    }
}

static void compare_threads(struct fixture *f, const struct subject *s, const struct test_call *all)
{
    for (size_t threads = 1; threads <= MOST_THREADS; threads++) {
        size_t count = 1 + test_below(&f->rng, 40), first = test_below(&f->rng, all->num_tokens - count + 1);
        struct moe_context *ctx = test_context(s->backend, threads);
        struct test_call part = fixture_part(f, all, first, count);
        test_assert_ok(test_call_run(ctx, s->handle.layer, &part));
        test_assert_same(part.out, f->other + first * f->hidden_size, count * f->hidden_size, s->name);
        moe_context_destroy(ctx);
    }
}

static void compare_memory(const struct fixture *f, const struct subject *s, const struct test_call *all)
{
    static const unsigned char dirt[] = {0x01, 0x7f, 0x80};
    struct test_call part = fixture_part(f, all, 5, 40);
    for (size_t i = 0; i < sizeof dirt; i++) {
        part.dirt = dirt[i];
        test_assert_ok(test_call_run(s->ctx, s->handle.layer, &part));
        test_assert_same(part.out, f->other + 5 * f->hidden_size, 40 * f->hidden_size, "other memory");
    }
}

/* The whole batch goes to f->other. */
static struct test_call run_all(struct fixture *f, const struct subject *s)
{
    struct test_call all = fixture_call_ids(f);
    all.out = f->other;
    test_assert_ok(test_call_run(s->ctx, s->handle.layer, &all));
    all.out = f->out;
    return all;
}

static void compare_bits(struct fixture *f, const struct subject *s)
{
    struct test_call all = run_all(f, s);
    compare_batches(f, s, &all);
    compare_threads(f, s, &all);
    compare_memory(f, s, &all);
}

/* ---- error ---- */

static double row_size(enum moe_format format, const unsigned char *row, size_t cols)
{
    double sum = 0;
    float *values = moe_ref_alloc(cols, sizeof *values);
    test_assert_ok(moe_format_dequantise(format, values, row, 1, cols));
    for (size_t c = 0; c < cols; c++)
        sum += (double)values[c] * (double)values[c];
    free(values);
    return sqrt(sum);
}

/* Rows of size 1: Gaussian where the format can be made, otherwise those of the random codes there that are about it.
 * A few rows again and again, for making them takes long. */
static void fill_gaussian(struct fixture *f, const struct moe_matrix *matrix, size_t rows, size_t cols)
{
    enum moe_format format = matrix->data.format;
    size_t row_bytes = moe_format_row_bytes(format, cols), count = 0;
    unsigned char *out = (unsigned char *)matrix->data.base + matrix->data.offset;
    float *row = moe_ref_alloc(cols, sizeof *row);
    for (size_t r = 0; r < rows; r++) {
        unsigned char *at = out + r * row_bytes;
        if (count == OTHER_ROWS) {
            memcpy(at, out + test_below(&f->rng, count) * row_bytes, row_bytes);
        } else if (moe_format_can_quantise(format)) {
            test_fill(&f->rng, row, cols, 1 / sqrt((double)cols));
            test_assert_ok(moe_format_quantise(format, at, row, 1, cols));
            count = r + 1;
        } else if (fabs(log2(row_size(format, at, cols))) < 0.5) {
            memmove(out + count++ * row_bytes, at, row_bytes);
        }
    }
    assert_true(count > 0);
    for (size_t r = count; r < rows && count < OTHER_ROWS; r++)
        memcpy(out + r * row_bytes, out + test_below(&f->rng, count) * row_bytes, row_bytes);
    free(row);
}

static void fill_experts(struct fixture *f, const struct test_experts *experts)
{
    const struct moe_experts_params *p = &experts->params;
    if (p->gate != NULL)
        fill_gaussian(f, p->gate, p->num_experts * p->intermediate_size, p->hidden_size);
    fill_gaussian(f, p->up, p->num_experts * p->intermediate_size, p->hidden_size);
    fill_gaussian(f, p->down, p->num_experts * p->hidden_size, p->intermediate_size);
}

/* What the first tokens should be, and how far they may be from it. */
struct expected {
    double *out, *bound;
};

static struct expected expect(const struct fixture *f, enum moe_ref_activations activations)
{
    size_t n = EXACT_TOKENS * f->hidden_size;
    struct expected e = {moe_ref_alloc(n, sizeof(double)), moe_ref_alloc(n, sizeof(double))};
    struct test_call all = fixture_call_ids(f), call = fixture_part(f, &all, 0, EXACT_TOKENS);
    call.activations = activations;
    test_call_ref(&f->layer.block, &call, e.out, e.bound, NULL, NULL);
    for (size_t i = 0; i < n; i++)
        e.bound[i] += MOE_REF_UNIT * fabs(e.out[i]) + 0x1p-140;
    return e;
}

static void forget(struct expected *e)
{
    free(e->out);
    free(e->bound);
}

/* Each value within its bound; gives back the error as a whole. */
static double compare_exact(const struct fixture *f, const struct subject *s, const struct expected *e)
{
    size_t n = EXACT_TOKENS * f->hidden_size;
    struct test_call all = fixture_call_ids(f), call = fixture_part(f, &all, 0, EXACT_TOKENS);
    test_assert_ok(test_call_run(s->ctx, s->handle.layer, &call));
    test_assert_most(test_worst(f->out, e->out, e->bound, n), 1, s->name);
    return test_relative_error(f->out, e->out, n);
}

/* ---- every format on every level ---- */

/* Worst errors; [0] with heavy tails, [1] without. */
struct results {
    double int8[2], bf16[2];
    size_t num_subjects;
};

/* The fixture's layer as it is on each level that has a kernel of its own for the format. */
static void test_levels(struct fixture *f, enum moe_format_index index, int plain, struct results *results)
{
    const struct moe_format_info *info = moe_format_at(index);
    bool bf16 = info->block_values == 1, gaussian = moe_format_can_quantise(info->format);
    struct expected expected = expect(f, bf16 ? MOE_REF_BF16 : MOE_REF_INT8);
    for (int level = 0; level < MOE_NUM_LEVELS; level++) {
        struct subject s;
        if (!is_new(level, index))
            continue;
        subject_open(&s, f, (enum moe_level)level, MOE_LAYER_BATCH_INVARIANT);
        assert_false(s.exact);
        double *worst = bf16 ? &results->bf16[plain] : &results->int8[plain], error = compare_exact(f, &s, &expected);
        *worst = fmax(*worst, error);
        if (plain)
            test_assert_most(error, bf16 ? BF16_ERROR : gaussian ? INT8_ERROR : INT8_ANY_WEIGHTS_ERROR, s.name);
        else
            compare_bits(f, &s);
        results->num_subjects++;
        subject_close(&s);
    }
    forget(&expected);
}

/* Heavy tails in activations and weights; then neither. */
static void test_format(const struct moe_format_info *info, enum moe_format_index index, struct results *results)
{
    struct test_layer_spec spec = {.top_k = 2, .shared_size = 256};
    spec.experts = (struct test_experts_spec){.num_experts = 3, .hidden_size = 256, .intermediate_size = 256,
                                              .gate = info->format, .up = info->format, .down = info->format};
    struct fixture f;
    fixture_open(&f, &spec, (uint64_t)index, NUM_TOKENS);
    test_levels(&f, index, 0, results);
    f.rng.state = 1000 + (uint64_t)index;    /* whatever levels there were */
    fill_experts(&f, &f.layer.experts);
    fill_experts(&f, &f.layer.shared_experts);
    test_fill(&f.rng, f.x, NUM_TOKENS * f.hidden_size, 1);
    test_levels(&f, index, 1, results);
    fixture_close(&f);
}

static void test_formats(void **state)
{
    (void)state;
    const struct moe_format_info *info;
    struct results results = {0};
    for (size_t i = 0; (info = moe_format_at(i)) != NULL; i++) {
        bool any = false;
        for (int level = 0; level < MOE_NUM_LEVELS; level++)
            any = any || is_new(level, (enum moe_format_index)i);
        if (any)
            test_format(info, (enum moe_format_index)i, &results);
    }
    print_message("%zu layers; worst errors: int8 %.2e, with heavy tails %.2e; bf16 %.2e, with heavy tails %.2e\n",
                  results.num_subjects, results.int8[1], results.int8[0], results.bf16[1], results.bf16[0]);
}

/* ---- few and many tokens ---- */

/* Calls of count tokens: any threads, other places in the batch, other tokens there, other memory. */
static void compare_calls(struct fixture *f, const struct subject *s, size_t count)
{
    struct test_call all = fixture_call_ids(f);
    size_t n = f->hidden_size, first = 100;
    struct test_call call = fixture_part(f, &all, first, count);
    test_assert_ok(test_call_run(s->ctx, s->handle.layer, &call));
    memcpy(f->other, f->out + first * n, count * n * sizeof *f->out);
    for (size_t threads = 1; threads <= MOST_THREADS; threads++) {
        struct moe_context *ctx = test_context(s->backend, threads);
        size_t back = test_below(&f->rng, 2) ? test_below(&f->rng, count) : 0;
        struct test_call moved = fixture_part(f, &all, first - back, count);
        moved.dirt = (unsigned char)threads;
        test_assert_ok(test_call_run(ctx, s->handle.layer, &moved));
        test_assert_same(f->out + first * n, f->other, (count - back) * n, s->name);
        moe_context_destroy(ctx);
    }
}

/* The first tokens of a batch of many. */
static double error_of_many(const struct fixture *f, const struct subject *s, const struct expected *e)
{
    struct test_call all = fixture_call_ids(f);
    size_t n = EXACT_TOKENS * f->hidden_size;
    test_assert_ok(test_call_run(s->ctx, s->handle.layer, &all));
    test_assert_most(test_worst(f->out, e->out, e->bound, n), 1, s->name);
    return test_relative_error(f->out, e->out, n);
}

/* Where a level has two kernels for a format the number of tokens decides: a layer says so, unless it must not. Weights
 * that are not Gaussian have no bound of their own here: each value's must do. */
static void test_choice(const struct moe_format_info *info, enum moe_format_index index, int level, double *worst)
{
    const size_t counts[] = {1, 8, MANY_TOKENS - 1, MANY_TOKENS, 3 * MANY_TOKENS};
    struct test_layer_spec spec = {.top_k = 2, .shared_size = 256};
    spec.experts = (struct test_experts_spec){.num_experts = 3, .hidden_size = 512, .intermediate_size = 256,
                                              .gate = info->format, .up = info->format, .down = info->format};
    struct fixture f;
    struct subject s;
    fixture_open(&f, &spec, 50 + (uint64_t)index, NUM_TOKENS);
    subject_open(&s, &f, (enum moe_level)level, 0);
    assert_false(s.batch_invariant || s.exact);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        compare_calls(&f, &s, counts[i]);
    fill_experts(&f, &f.layer.experts);
    fill_experts(&f, &f.layer.shared_experts);
    test_fill(&f.rng, f.x, NUM_TOKENS * f.hidden_size, 1);
    struct expected expected = expect(&f, MOE_REF_CHOICE);
    double error = error_of_many(&f, &s, &expected);
    *worst = fmax(*worst, error);
    test_assert_most(error, BF16_WEIGHTS_ERROR, s.name);
    compare_exact(&f, &s, &expected);
    forget(&expected);
    subject_close(&s);
    fixture_close(&f);
}

static void test_choices(void **state)
{
    (void)state;
    const struct moe_format_info *info;
    size_t count = 0;
    double worst = 0;
    for (size_t i = 0; (info = moe_format_at(i)) != NULL; i++) {
        for (int level = 0; level < MOE_NUM_LEVELS; level++) {
            const struct moe_kernels *k = &kernels[level];
            bool both = k->linear_q8[i] != NULL && k->linear_bf16[i] != NULL && moe_cpuid_has((enum moe_level)level);
            if (!both || (level > 0 && kernels[level - 1].linear_bf16[i] == k->linear_bf16[i]))
                continue;
            test_choice(info, (enum moe_format_index)i, level, &worst);
            count++;
        }
    }
    print_message("%zu layers with a choice; worst error with many tokens %.2e\n", count, worst);
}

/* A workspace for more tokens is not smaller, whatever choice they make. */
static void test_workspace_grows(void **state)
{
    (void)state;
    static const struct test_layer_spec mixed = {
        .top_k = 1, .shared_size = 256, .shared_plain = true, .shared_format = MOE_FORMAT_Q8_0,
        .experts = {.num_experts = 3, .hidden_size = 32, .intermediate_size = 32, .gate = MOE_FORMAT_BF16,
                    .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_Q4_0}};
    for (size_t i = 0; i < 2; i++) {
        struct test_layer_spec spec = mixed;
        struct fixture f;
        spec.experts.gate = i == 0 ? MOE_FORMAT_BF16 : MOE_FORMAT_Q8_0;
        fixture_open(&f, &spec, i, 1);
        size_t before = 0, bytes;
        for (size_t num_tokens = 1; num_tokens <= 64; num_tokens++, before = bytes) {
            struct moe_layer_io io;
            MOE_INIT(&io);
            io.num_tokens = num_tokens;
            test_assert_ok(moe_layer_workspace_size(f.ctx, f.fused.layer, &io, &bytes));
            assert_true(bytes >= before);
        }
        fixture_close(&f);
    }
}

/* ---- other layers ---- */

/* Long rows, which are more than one segment of int8; what is rounded at other places: pairs, latent values, a shared
 * expert of its own; products of several formats, of which some take f32. */
static const struct test_layer_spec specs[] = {
    {.top_k = 1, .shared_size = 0,
     .experts = {.num_experts = 2, .hidden_size = 2304, .intermediate_size = 96, .gate = MOE_FORMAT_Q8_0,
                 .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_Q8_0}},
    {.top_k = 2, .shared_size = 96, .shared_gate = true,
     .experts = {.num_experts = 2, .hidden_size = 64, .intermediate_size = 2272, .gate = MOE_FORMAT_Q4_0,
                 .up = MOE_FORMAT_Q4_0, .down = MOE_FORMAT_Q4_0}},
    {.top_k = 2, .shared_size = 256, .shared_gate = true, .shared_plain = true, .shared_format = MOE_FORMAT_Q8_0,
     .experts = {.num_experts = 5, .hidden_size = 512, .intermediate_size = 256, .gate = MOE_FORMAT_Q4_K,
                 .up = MOE_FORMAT_Q4_K, .down = MOE_FORMAT_Q6_K}},
    {.top_k = 3, .shared_size = 160, .shared_plain = true, .shared_format = MOE_FORMAT_BF16,
     .experts = {.num_experts = 5, .hidden_size = 256, .intermediate_size = 224, .gate = MOE_FORMAT_Q8_0,
                 .up = MOE_FORMAT_Q4_K, .down = MOE_FORMAT_F32, .bias = true}},
    {.top_k = 2, .shared_size = 64, .shared_plain = true, .shared_format = MOE_FORMAT_F32,
     .experts = {.num_experts = 4, .hidden_size = 128, .intermediate_size = 320, .gate = MOE_FORMAT_BF16,
                 .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_Q4_0}},
    {.top_k = 2, .weight_on_input = true, .shared_size = 96, .shared_plain = true, .shared_format = MOE_FORMAT_Q4_0,
     .experts = {.num_experts = 6, .hidden_size = 160, .intermediate_size = 96, .gate = MOE_FORMAT_Q8_0,
                 .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_Q4_0, .layout = TEST_ALTERNATE}},
    {.top_k = 3, .hidden_size = 288, .latent_norm = true, .latent_format = MOE_FORMAT_BF16, .norm_eps = 1e-6f,
     .shared_size = 128, .out_norm = true,
     .experts = {.num_experts = 6, .hidden_size = 96, .intermediate_size = 128, .gate = MOE_FORMAT_Q8_0,
                 .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_Q8_0, .layout = TEST_JOINED}},
    {.top_k = 4, .num_zero_experts = 2,
     .experts = {.num_experts = 9, .hidden_size = 37, .intermediate_size = 61, .gate = MOE_FORMAT_BF16,
                 .up = MOE_FORMAT_BF16, .down = MOE_FORMAT_BF16, .layout = TEST_BASES, .bias = true}},
    {.top_k = 2,
     .experts = {.num_experts = 3, .hidden_size = 64, .intermediate_size = 96, .no_gate = true,
                 .up = MOE_FORMAT_Q8_0, .down = MOE_FORMAT_Q8_0, .act = {.struct_size = sizeof(struct moe_act),
                 .kind = MOE_ACT_RELU2}}},
};

static void test_specs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct fixture f;
        fixture_open(&f, &specs[i], i, 150);
        struct expected expected = expect(&f, test_rounding(f.invariant.layer, &f.layer.block));
        for (int level = 0; level < MOE_NUM_LEVELS; level++) {
            struct subject s;
            if (!moe_cpuid_has((enum moe_level)level))
                continue;
            subject_open(&s, &f, (enum moe_level)level, MOE_LAYER_BATCH_INVARIANT);
            if (!s.exact) {
                compare_bits(&f, &s);
                compare_exact(&f, &s, &expected);
            }
            subject_close(&s);
        }
        forget(&expected);
        fixture_close(&f);
    }
}

/* On threads of a host. */
static void test_drivers(void **state)
{
    (void)state;
    for (size_t i = 2; i < sizeof specs / sizeof *specs; i++) {
        struct fixture f;
        fixture_open(&f, &specs[i], i, 70);
        struct test_call call = fixture_call_ids(&f);
        size_t n = f.num_tokens * f.hidden_size;
        call.out = f.other;
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        call.out = f.out;
        drivers_compare(&f, f.fused.layer, &call, n);
        drivers_compare_teams(&f, f.fused.layer, &call, n);
        fixture_close(&f);
    }
}

/* With MOE_LAYER_EXACT no kind of kernel is chosen that rounds, and the bits are those of a level's f32 kernels: an f32
 * bound holds (tests/layer/test_layer.c); here, that the two are different layers. */
static void test_exact_is_a_choice(void **state)
{
    (void)state;
    struct fixture f;
    struct moe_layer_info info = {.struct_size = sizeof info};
    fixture_open(&f, &specs[2], 1, 9);
    test_assert_ok(moe_layer_info(f.exact.layer, &info));
    assert_true(info.exact);
    test_assert_ok(moe_layer_info(f.composed.layer, &info));
    assert_true(info.exact);
    test_assert_ok(moe_layer_info(f.fused.layer, &info));
    assert_int_equal(info.exact, !is_rounded(MOE_FORMAT_Q4_K) && !is_rounded(MOE_FORMAT_Q6_K) &&
                                     !is_rounded(MOE_FORMAT_Q8_0));
    struct test_call call = fixture_call_ids(&f), other = call;
    other.out = f.other;
    test_assert_ok(test_call_run(f.ctx, f.exact.layer, &call));
    test_assert_ok(test_call_run(f.ctx, f.fused.layer, &other));
    bool same = memcmp(f.out, f.other, f.num_tokens * f.hidden_size * sizeof *f.out) == 0;
    assert_int_equal(same, info.exact);
    fixture_close(&f);
}

/* ---- values that are not finite ---- */

/* The token is NaN, all others have the bits that they had. */
static void test_not_finite(void **state)
{
    (void)state;
    static const float values[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        struct fixture f;
        fixture_open(&f, &specs[0], i, 20);
        size_t n = f.hidden_size, token = 3 + i;
        struct test_call call = fixture_call_ids(&f);
        struct moe_layer_info info = {.struct_size = sizeof info};
        test_assert_ok(moe_layer_info(f.fused.layer, &info));
        call.out = f.other;
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        f.x[token * n + test_below(&f.rng, n)] = values[i];
        call.out = f.out;
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        for (size_t c = 0; c < n; c++)
            assert_true(isnan(f.out[token * n + c]) || (info.exact && !isfinite(f.out[token * n + c])));
        test_assert_same(f.out, f.other, token * n, "tokens before one that is not finite");
        test_assert_same(f.out + (token + 1) * n, f.other + (token + 1) * n, (f.num_tokens - token - 1) * n,
                         "tokens after one that is not finite");
        fixture_close(&f);
    }
}

/* ---- workspace ---- */

/* A byte less is refused. test_call_run watches that no byte more is used. */
static void test_workspace_is_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct fixture f;
        fixture_open(&f, &specs[i], i, 33);
        struct test_call call = fixture_call_ids(&f);
        call.workspace_missing = 1;
        test_assert_status(test_call_run(f.ctx, f.fused.layer, &call), MOE_ERR_WORKSPACE);
        call.workspace_missing = 0;
        test_assert_ok(test_call_run(f.ctx, f.fused.layer, &call));
        fixture_close(&f);
    }
}

/* At most twice x, h and out in f32, and three quarters of a megabyte for each lane, which the second cache of today's
 * machines holds. */
static void test_workspace_is_small(void **state)
{
    (void)state;
    const size_t lanes[] = {1, 2, 8}, lane_bytes = 768 << 10;
    const enum moe_format formats[] = {MOE_FORMAT_Q8_0, MOE_FORMAT_BF16};
    struct test_layer_spec spec = {.top_k = 4};
    for (size_t way = 0; way < 6; way++) {
        enum moe_format format = formats[way % 2];
        spec.experts = (struct test_experts_spec){.num_experts = 4, .hidden_size = 256, .intermediate_size = 96,
                                                  .gate = format, .up = format, .down = format};
        struct fixture f;
        fixture_open(&f, &spec, way, 1);
        struct moe_context *ctx = test_context(f.backend, lanes[way / 2]);
        for (size_t num_tokens = 1; num_tokens <= 16384; num_tokens *= 4) {
            size_t bytes, values = num_tokens * (2 * 256 + spec.top_k * 96);
            struct moe_layer_io io;
            MOE_INIT(&io);
            io.num_tokens = num_tokens;
            test_assert_ok(moe_layer_workspace_size(ctx, f.fused.layer, &io, &bytes));
            test_assert_most((double)bytes, (double)(2 * values * sizeof(float) + lanes[way / 2] * lane_bytes),
                             "bytes of workspace");
        }
        moe_context_destroy(ctx);
        fixture_close(&f);
    }
}

int main(void)
{
    for (int level = 0; level < MOE_NUM_LEVELS; level++)
        moe_kernels_init(&kernels[level], (enum moe_level)level);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),           cmocka_unit_test(test_specs),
        cmocka_unit_test(test_choices),           cmocka_unit_test(test_workspace_grows),
        cmocka_unit_test(test_drivers),           cmocka_unit_test(test_exact_is_a_choice),
        cmocka_unit_test(test_not_finite),        cmocka_unit_test(test_workspace_is_exact),
        cmocka_unit_test(test_workspace_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
