// SPDX-License-Identifier: MIT
// Products with weights whose scales lie apart, with plain ones and with any: against sums of exact weights in double,
// and the same bits whatever the grid and however many tokens there are, through the kernels for few and for many.
#include "cuda/order.cuh"
#include "planes_fixture.cuh"

/* ---- tokens, and runs ---- */

struct tokens {
    std::vector<float> values;    /* [pairs, cols], of bf16 */
    uint16_t *rows;               /* on the device, in the order of the weights */
    size_t stride;
};

static uint32_t num_pairs_of(uint32_t most)
{
    uint32_t sum = 0;
    for (int e = 0; e < NUM_MATRICES; e++)
        sum += most_of[e] < most ? most_of[e] : most;
    return sum;
}

static struct tokens make_tokens(struct test_rng *rng, const struct subject &s)
{
    struct tokens x = {};
    size_t pairs = num_pairs_of(MOST_TOKENS);
    x.stride = (s.cols + MOE_SEGMENT - 1) / MOE_SEGMENT * MOE_SEGMENT;
    std::vector<uint16_t> rows(pairs * x.stride, 0);
    for (size_t i = 0; i < pairs; i++)
        for (uint32_t c = 0; c < s.cols; c++) {
            uint16_t half = moe_f32_to_bf16((float)test_gaussian(rng));
            x.values.push_back(moe_bf16_to_f32(half));
            rows[i * x.stride + moe_order_position(c, s.weights->order)] = half;
        }
    x.rows = on_device(rows);
    return x;
}

static const int32_t UNUSED = 1 << 30;    /* the ends of lists that have fewer entries than they may */

/* The pairs of a run with at most so many tokens a matrix: pair i of matrix e is the same token in every run. */
struct run {
    std::vector<int32_t> active, starts, sorted;
    std::vector<int> matrix_of;
};

static struct run choose_pairs(uint32_t most)
{
    struct run run;
    int32_t first = 0;
    for (int e = 0; e < NUM_MATRICES; e++) {
        uint32_t count = most_of[e] < most ? most_of[e] : most;
        if (count > 0) {
            run.active.push_back(e);
            run.starts.push_back((int32_t)run.sorted.size());
        }
        for (uint32_t i = 0; i < count; i++) {
            run.sorted.push_back(first + (int32_t)i);
            run.matrix_of.push_back(e);
        }
        first += (int32_t)most_of[e];
    }
    run.starts.push_back((int32_t)run.sorted.size());
    return run;
}

/* Rows of results by pair; those that the run has not stay empty. Checks that nothing beside the rows is written. */
static std::vector<std::vector<float>> multiply(const struct subject &s, const struct matrix &gate,
                                                const struct matrix &up, const struct tokens &x, uint32_t most,
                                                uint32_t multiprocessors, bool many = false)
{
    struct run run = choose_pairs(most);
    size_t places = run.sorted.size(), stride = s.gated ? (s.rows + 255) / 256 * 256 : s.rows + PAD;
    size_t size = s.gated ? sizeof(uint16_t) : sizeof(float);
    std::vector<unsigned char> poison(places * stride * size, 0xff);
    unsigned char *results = on_device(poison);
    struct moe_cuda_product p = {};
    p.gate = gate.stack;
    p.up = up.stack;
    p.gated = p.activated = s.gated;
    p.act.kind = MOE_ACT_SWISH;
    p.act.alpha = 1.0f;
    p.pairs.num_active = on_device(std::vector<int32_t>(1, (int32_t)run.active.size()));
    run.active.resize(NUM_MATRICES, UNUSED);
    run.starts.resize(NUM_MATRICES + 1, UNUSED);
    p.pairs.active = on_device(run.active);
    p.pairs.starts = on_device(run.starts);
    p.pairs.sorted = on_device(run.sorted);
    p.pairs.num_pairs = (uint32_t)places;
    p.pairs.num_matrices = NUM_MATRICES;
    p.pairs.tokens_of = most;
    p.x = x.rows;
    p.x_stride = x.stride;
    p.x_divisor = 1;
    p.h = (uint16_t *)results;
    p.y = (float *)results;
    p.h_stride = p.y_stride = stride;
    p.h_order = MOE_ORDER_PLAIN;
    p.multiprocessors = multiprocessors;
    p.shared_bytes = 227 * 1024;
    OK(s.weights->load(p.shared_bytes));
    OK((many ? s.weights->large : s.weights->small)(&p, NULL, false));
    OK(cudaMemcpy(poison.data(), results, poison.size(), cudaMemcpyDeviceToHost));

    std::vector<std::vector<float>> out(num_pairs_of(MOST_TOKENS));
    for (size_t i = 0; i < places; i++) {
        std::vector<float> &row = out[(size_t)run.sorted[i]];
        for (size_t r = 0; r < stride; r++) {
            const unsigned char *at = &poison[(i * stride + r) * size];
            uint16_t half;
            float value;
            memcpy(&half, at, sizeof half);
            memcpy(&value, at, s.gated ? sizeof half : sizeof value);
            if (r < s.rows)
                row.push_back(s.gated ? moe_bf16_to_f32(half) : value);
            else
                for (size_t b = 0; b < size; b++)
                    assert_int_equal(at[b], 0xff);
        }
    }
    return out;
}

/* ---- the reference ---- */

/* Of a sum over all columns, with its bound. Codes and x are exact, sums have f32: each of cols / 16 steps of a chain
 * and two additions for each group round once, to at worst 2^-23, and a few more the scales, the terms and the addition
 * of the accumulators. Kernels that round weights to bf16 do so by at most 2^-8 of each. */
struct sum {
    double value, bound;
};

static bool rounds_weights(const struct subject &s)
{
    return s.weights == &moe_cuda_weights_any || s.format == MOE_FORMAT_F16 || s.format == MOE_FORMAT_F32;
}

static struct sum exact(const struct subject &s, const struct matrix &m, int e, size_t r, const float *x)
{
    struct sum sum = {};
    double size = 0, weights = 0;
    for (size_t c = 0; c < s.cols; c++) {
        double product = m.values[e][r * s.cols + c] * (double)x[c];
        sum.value += product;
        weights += fabs(product);
        size += m.sizes[e][r * s.cols + c] * fabs((double)x[c]);
    }
    double roundings = s.cols / 16.0 + 2.0 * s.cols / s.weights->group + 16;
    sum.bound = roundings * ldexp(rounds_weights(s) ? weights : size, -23) +
                (rounds_weights(s) ? ldexp(weights, -8) : 0) + 1e-30;
    return sum;
}

/* silu(g) u, whose slopes are at most 1.1 |u| and |silu(g)|, rounded to bf16, with 2^-20 for expf and the division. */
static struct sum activated(struct sum g, struct sum u)
{
    double value = g.value / (1 + exp(-g.value)), error = 1.1 * g.bound + ldexp(fabs(value), -20);
    struct sum h = {value * u.value, 0};
    h.bound = error * (fabs(u.value) + u.bound) + fabs(value) * u.bound;
    h.bound += ldexp(fabs(h.value) + h.bound, -8) + ldexp(1, -133);
    return h;
}

static double check_results(const struct subject &s, const struct matrix &gate, const struct matrix &up,
                            const struct tokens &x, const std::vector<std::vector<float>> &results, uint32_t most)
{
    struct run run = choose_pairs(most);
    double worst = 0;
    for (size_t i = 0; i < run.sorted.size(); i++) {
        size_t pair = (size_t)run.sorted[i];
        for (size_t r = 0; r < s.rows; r++) {
            const float *row = &x.values[pair * s.cols];
            struct sum sum = exact(s, up, run.matrix_of[i], r, row);
            if (s.gated)
                sum = activated(exact(s, gate, run.matrix_of[i], r, row), sum);
            double used = fabs((double)results[pair][r] - sum.value) / sum.bound;
            if (!(used <= 1))
                print_message("matrix %d, row %zu, pair %zu: %g, expected %g within %g\n", run.matrix_of[i], r, pair,
                              (double)results[pair][r], sum.value, sum.bound);
            assert_true(used <= 1);
            worst = used > worst ? used : worst;
        }
    }
    return worst;
}

static void check_same(const std::vector<std::vector<float>> &a, const std::vector<std::vector<float>> &b)
{
    for (size_t i = 0; i < a.size(); i++)
        if (!a[i].empty() && !b[i].empty())
            assert_memory_equal(a[i].data(), b[i].data(), a[i].size() * sizeof(float));
}

static std::string name_of(const struct subject &s)
{
    char text[256];
    snprintf(text, sizeof text, "%s: %s %u x %u%s, scales %d, first %u, blocks %u x %u%s%s%s", s.weights->name,
             moe_format_info(s.format)->name, s.rows, s.cols, s.gated ? ", gated" : "",
             s.scaling.scaled ? s.scaling.format : -2, s.scaling.first_row, s.scaling.block_rows, s.scaling.block_cols,
             s.scaling.zeros ? ", zeros" : "", s.scaling.factors ? ", factors" : "",
             s.scaling.columns ? ", columns" : "");
    return text;
}

/* Against the reference with `most` tokens; in full: each number of tokens and several grids too, with equal bits. */
static void check(const struct subject &s, uint32_t most, bool in_full)
{
    static const uint32_t numbers[] = {1, 2, 8, 9, 33, MOST_TOKENS}, grids[] = {1, 13};
    struct test_rng rng = {s.rows * 1000003u + s.cols};
    struct matrix gate = {}, up = {};
    if (s.gated)
        make_matrix(&rng, &gate, s);
    make_matrix(&rng, &up, s);
    assert_true(s.weights == &moe_cuda_weights_any || moe_cuda_weights_take(s.weights, &up.stack));
    struct tokens x = make_tokens(&rng, s);
    auto results = multiply(s, gate, up, x, most, 4);
    double worst = check_results(s, gate, up, x, results, most);
    for (size_t i = 0; in_full && i < sizeof numbers / sizeof *numbers; i++)
        check_same(results, multiply(s, gate, up, x, numbers[i], 4));
    for (size_t i = 0; in_full && i < sizeof grids / sizeof *grids; i++)
        check_same(results, multiply(s, gate, up, x, most, grids[i]));
    if (in_full && s.weights->large != NULL)
        check_same(results, multiply(s, gate, up, x, most, 4, true));
    print_message("%s, %u tokens: %.2f of the bound\n", name_of(s).c_str(), most, worst);
    free_all();
}

/* ---- the tests ---- */

static const uint32_t all_rows[] = {1, 7, 17, 40}, all_cols[] = {32, 256, 288, 704, 768, 2048, 2880};
static const uint32_t all_numbers[] = {1, 2, 8, 9, 33, MOST_TOKENS};

template <class T, size_t n> static T pick(const T (&list)[n], size_t i)
{
    return list[i % n];
}

/* Every number of columns, and with them in turn rows, numbers of tokens, ways of scaling, gated and not. */
static void check_shapes(const struct moe_cuda_weights *weights, const std::vector<struct scaling> &ways)
{
    size_t i = 0;
    for (uint32_t cols : all_cols)
        for (const struct scaling &way : ways) {
            struct subject s = {weights, (enum moe_format)weights->format, way, 0, 0, false, false};
            s.rows = pick(all_rows, i);
            s.cols = cols;
            s.gated = i % 3 == 1;
            if (cols * s.rows <= 60000)
                check(s, pick(all_numbers, i / 2), false);
            i++;
        }
    struct subject s = {weights, (enum moe_format)weights->format, ways[0], 17, 704, false, false};
    check(s, MOST_TOKENS, true);
    s.gated = true;
    s.cols = 2880;
    check(s, MOST_TOKENS, true);
}

static void test_plain(void **)
{
    check_shapes(&moe_cuda_weights_bf16, {plain});
    check_shapes(&moe_cuda_weights_f16, {plain});
    check_shapes(&moe_cuda_weights_f32, {plain});
    check_shapes(&moe_cuda_weights_e4m3, {plain});
}

/* scaled, format, first row, block rows, block cols, zeros, factors, columns, zero offset */
static void test_e4m3(void **)
{
    check_shapes(&moe_cuda_weights_e4m3_128, {{true, MOE_FORMAT_F32, 0, 128, 128, false, false, false, 0},
                                              {true, MOE_FORMAT_BF16, 117, 128, 128, false, false, false, 0},
                                              {true, MOE_FORMAT_F16, 0, 1, 0, false, true, false, 0},
                                              {true, MOE_FORMAT_E8M0, 3, 5, 128, false, true, false, 0},
                                              {true, -1, 0, 0, 0, false, true, false, 0},
                                              {true, MOE_FORMAT_E4M3, 0, 0, 256, false, false, false, 0},
                                              {true, MOE_FORMAT_F32, 0, 0, 0, false, true, false, 0}});
}

static void test_u4(void **)
{
    check_shapes(&moe_cuda_weights_u4_128, {{true, MOE_FORMAT_F16, 0, 1, 128, true, false, false, 1},
                                            {true, MOE_FORMAT_BF16, 0, 1, 128, false, false, false, 8},
                                            {true, MOE_FORMAT_F32, 0, 1, 0, true, true, false, 0}});
    check_shapes(&moe_cuda_weights_u4_32, {{true, MOE_FORMAT_F16, 0, 1, 32, true, false, false, 1},
                                           {true, MOE_FORMAT_BF16, 0, 1, 64, true, true, false, -2},
                                           {true, MOE_FORMAT_F32, 0, 1, 96, false, false, false, 8},
                                           {true, MOE_FORMAT_F16, 2, 3, 160, true, false, false, 0}});
}

static void test_bytes(void **)
{
    check_shapes(&moe_cuda_weights_u8_128, {{true, MOE_FORMAT_F16, 0, 1, 128, true, false, false, 1},
                                            {true, MOE_FORMAT_F32, 0, 1, 0, false, true, false, 128}});
    check_shapes(&moe_cuda_weights_i8_128, {{true, MOE_FORMAT_BF16, 0, 1, 0, false, false, false, 0},
                                            {true, MOE_FORMAT_F16, 0, 1, 128, true, true, false, 0}});
    check_shapes(&moe_cuda_weights_i8_32, {{true, MOE_FORMAT_F16, 0, 1, 32, false, false, false, 0},
                                           {true, MOE_FORMAT_F32, 0, 1, 64, false, true, false, 0}});
}

static void test_e2m1(void **)
{
    check_shapes(&moe_cuda_weights_e2m1_32, {{true, MOE_FORMAT_E8M0, 0, 1, 32, false, false, false, 0},
                                             {true, MOE_FORMAT_F32, 0, 1, 64, false, true, false, 0}});
    check_shapes(&moe_cuda_weights_e2m1_16, {{true, MOE_FORMAT_E4M3, 0, 1, 16, false, true, false, 0},
                                             {true, MOE_FORMAT_F16, 0, 2, 48, false, false, false, 0}});
}

/* Every format at any address. */
static void test_any_format(void **)
{
    for (size_t i = 0; moe_format_at(i) != NULL; i++) {
        const struct moe_format_info *info = moe_format_at(i);
        struct subject s = {&moe_cuda_weights_any, info->format, plain, pick(all_rows, i), 0, i % 2 == 1, true};
        s.cols = info->block_values > 32 ? 512 : 288;
        check(s, pick(all_numbers, i), i == 0);
        for (uint32_t odd : {7, 33, 300})
            if (info->block_values <= 2) {
                s.cols = odd + odd % info->block_values;
                check(s, pick(all_numbers, i + odd), false);
            }
    }
}

/* What the kernels for scales leave: groups that are no multiple of theirs, columns with a block each, odd sizes. */
static void test_any_scales(void **)
{
    const struct moe_cuda_weights *any = &moe_cuda_weights_any;
    const struct scaling ways[] = {{true, MOE_FORMAT_F16, 0, 1, 48, true, false, false, 1},
                                   {true, MOE_FORMAT_BF16, 0, 1, 32, true, false, true, 8},
                                   {true, MOE_FORMAT_E4M3, 2, 3, 7, false, true, false, 0},
                                   {true, MOE_FORMAT_E8M0, 0, 1, 32, false, false, false, 0}};
    const enum moe_format formats[] = {MOE_FORMAT_U4, MOE_FORMAT_U8, MOE_FORMAT_E2M1, MOE_FORMAT_E4M3, MOE_FORMAT_I8};
    const uint32_t cols[] = {34, 300, 514};
    for (size_t i = 0; i < 20; i++) {
        struct subject s = {any, pick(formats, i), pick(ways, i), pick(all_rows, i / 2), pick(cols, i), false, false};
        s.gated = i % 2 == 1;
        s.unaligned = i % 3 == 0;
        check(s, pick(all_numbers, i), i == 1);
    }
}

/* A NaN code of E4M3 makes its row NaN, for every token, and no other. */
static void test_nan(void **)
{
    const unsigned char codes[] = {0x7f, 0xff};
    for (uint32_t col = 0; col < 288; col += 7) {
        struct subject s = {&moe_cuda_weights_e4m3, MOE_FORMAT_E4M3, plain, 17, 288, false, false};
        struct test_rng rng = {col};
        struct matrix none = {}, up = {};
        make_matrix(&rng, &up, s);
        struct tokens x = make_tokens(&rng, s);
        uint32_t row = col % s.rows;
        OK(cudaMemcpy((void *)(up.stack.values.data + row * up.stack.values.stride + col), &codes[col % 2], 1,
                      cudaMemcpyHostToDevice));
        auto results = multiply(s, none, up, x, 9, 2);
        for (size_t i = 0; i < results.size(); i++)
            for (size_t r = 0; r < results[i].size(); r++)
                assert_int_equal(isnan(results[i][r]) != 0, r == row && i < most_of[0]);
        free_all();
    }
}

/* What goes to which kernels. */
static void test_choice(void **)
{
    static const unsigned char some = 0;
    struct moe_cuda_stack stack = {};
    stack.values.format = MOE_FORMAT_U4;
    stack.cols = 2880;
    assert_false(moe_cuda_weights_take(&moe_cuda_weights_u4_128, &stack));
    stack.scaled = true;
    stack.block_cols = 64;
    assert_false(moe_cuda_weights_take(&moe_cuda_weights_u4_128, &stack));
    assert_true(moe_cuda_weights_take(&moe_cuda_weights_u4_32, &stack));
    stack.block_cols = 48;
    assert_false(moe_cuda_weights_take(&moe_cuda_weights_u4_32, &stack));
    stack.block_cols = 2880;
    assert_true(moe_cuda_weights_take(&moe_cuda_weights_u4_128, &stack));
    stack.column_block.data = &some;
    assert_false(moe_cuda_weights_take(&moe_cuda_weights_u4_128, &stack));
    stack.column_block.data = NULL;
    stack.values.format = MOE_FORMAT_E2M1;
    stack.block_cols = 32;
    assert_true(moe_cuda_weights_take(&moe_cuda_weights_e2m1_32, &stack));
    stack.zero_offset = 1;
    assert_false(moe_cuda_weights_take(&moe_cuda_weights_e2m1_32, &stack));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_choice, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_plain, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_e4m3, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_nan, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_u4, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_bytes, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_e2m1, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_any_format, begin, tear_down),
        cmocka_unit_test_setup_teardown(test_any_scales, begin, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
