// SPDX-License-Identifier: MIT
// Products of every format of weights.def whose blocks hold their own scales, against double sums of the dequantised
// weights: ragged rows and columns, many and few tokens; and that bits depend neither on the grid nor on other tokens.
#include "cuda/kernels.h"
#include "cuda/order.cuh"
#include "emulate.h"

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "half.h"
#include "moe/moe.h"
}
#include <math.h>
#include <string.h>

#include <algorithm>
#include <vector>

#define OK(call) assert_int_equal(call, cudaSuccess)

static const struct moe_cuda_weights *const all_weights[] = {
#define X(name, NAME, scaled) &moe_cuda_weights_##name,
#include "cuda/weights.def"
#undef X
};

static uint64_t state;

static uint32_t random_bits(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* -1 .. 1 */
static float random_value(void)
{
    return (float)random_bits() / 1073741824.0f - 1.0f;
}

/* Where a block has f16 scales; a byte of E8M0 instead. */
struct scale_fields {
    enum moe_format format;
    int num, at[2];
    bool e8m0;
};
static const struct scale_fields scale_fields[] = {
    {MOE_FORMAT_Q8_0, 1, {0, 0}, false}, {MOE_FORMAT_Q4_0, 1, {0, 0}, false},   {MOE_FORMAT_Q4_1, 2, {0, 2}, false},
    {MOE_FORMAT_Q5_0, 1, {0, 0}, false}, {MOE_FORMAT_Q5_1, 2, {0, 2}, false},   {MOE_FORMAT_Q4_K, 2, {0, 2}, false},
    {MOE_FORMAT_Q5_K, 2, {0, 2}, false}, {MOE_FORMAT_Q6_K, 1, {208, 0}, false}, {MOE_FORMAT_IQ4_XS, 1, {0, 0}, false},
    {MOE_FORMAT_IQ4_NL, 1, {0, 0}, false}, {MOE_FORMAT_MXFP4, 1, {0, 0}, true}};

/* A row of blocks: values quantised, or, where the fields are known, every other block of random bytes, which have all
 * codes and scales of either sign. What cannot be quantised is E4M3: bytes other than NaN. */
static void fill_row(unsigned char *row, const struct moe_format_info *info, size_t cols)
{
    std::vector<float> values(cols);
    for (float &value : values)
        value = random_value() * random_value();
    if (moe_format_quantise(info->format, row, values.data(), 1, cols) != MOE_OK) {
        assert_int_equal(info->format, MOE_FORMAT_E4M3);
        for (size_t i = 0; i < cols; i++)
            row[i] = (unsigned char)(random_bits() % 127 + random_bits() % 2 * 128);
    }
    for (const struct scale_fields &fields : scale_fields) {
        if (fields.format != info->format)
            continue;
        for (size_t block = random_bits() % 2; block < cols / info->block_values; block += 2) {
            unsigned char *bytes = row + block * info->block_bytes;
            for (size_t i = 0; i < info->block_bytes; i++)
                bytes[i] = (unsigned char)random_bits();
            for (int i = 0; i < fields.num; i++) {
                uint16_t scale = moe_f32_to_f16(random_value() * 0.01f);
                if (fields.e8m0)
                    bytes[fields.at[i]] = (unsigned char)(118 + random_bits() % 8);
                else
                    memcpy(bytes + fields.at[i], &scale, 2);
            }
        }
    }
}

/* The matrices of one stack, one after another, and what they stand for. */
struct stack {
    uint32_t num, rows, cols;
    std::vector<float> values;
    std::vector<float> bias;
    unsigned char *memory;
    float *device_bias;
    struct moe_cuda_stack cuda;

    const float *row(uint32_t matrix, uint32_t r) const
    {
        return values.data() + ((size_t)matrix * rows + r) * cols;
    }
};

/* Values without blocks are rounded to bf16. Rows are at multiples of 16 bytes if the kernels ask for it, otherwise
 * dense, from an odd address. */
static void make_stack(struct stack *stack, const struct moe_cuda_weights *weights, uint32_t num, uint32_t rows,
                       uint32_t cols, bool bias)
{
    const struct moe_format_info *info = moe_format_info((enum moe_format)weights->format);
    size_t row_bytes = cols / info->block_values * info->block_bytes;
    size_t stride = weights->aligned ? (row_bytes + 15) / 16 * 16 : row_bytes, first = weights->aligned ? 0 : 3;
    size_t bytes = first + (size_t)num * rows * stride;
    std::vector<unsigned char> host(bytes, 0xff);
    stack->num = num, stack->rows = rows, stack->cols = cols;
    stack->values.resize((size_t)num * rows * cols);
    for (size_t r = 0; r < (size_t)num * rows; r++) {
        unsigned char *row = host.data() + first + r * stride;
        fill_row(row, info, cols);
        float *values = stack->values.data() + r * cols;
        assert_int_equal(moe_format_dequantise(info->format, values, row, 1, cols), MOE_OK);
        for (uint32_t c = 0; c < cols && info->block_values == 1; c++)
            values[c] = moe_bf16_to_f32(moe_f32_to_bf16(values[c]));
    }
    OK(cudaMalloc((void **)&stack->memory, bytes));
    OK(cudaMemcpy(stack->memory, host.data(), bytes, cudaMemcpyHostToDevice));
    stack->cuda = {};
    stack->cuda.values.data = stack->memory + first;
    stack->cuda.values.stride = stride;
    stack->cuda.values.expert_stride = rows * stride;
    stack->cuda.values.format = weights->format;
    stack->cuda.rows = rows, stack->cuda.cols = cols;
    stack->bias.assign((size_t)num * rows, 0.0f);
    stack->device_bias = NULL;
    if (bias) {
        for (float &value : stack->bias)
            value = random_value();
        OK(cudaMalloc((void **)&stack->device_bias, stack->bias.size() * sizeof(float)));
        OK(cudaMemcpy(stack->device_bias, stack->bias.data(), stack->bias.size() * sizeof(float),
                      cudaMemcpyHostToDevice));
        stack->cuda.bias = stack->device_bias;
    }
}

static void free_stack(struct stack *stack)
{
    OK(cudaFree(stack->memory));
    OK(cudaFree(stack->device_bias));
}

/* The most that a sum may be off. Of every 16 columns, M = sum of |x| times the largest intermediate, (128 + 64) scales
 * and the value itself, where a scale is at most a sixth of what the values span (random codes span more). Three
 * matrix instructions and two multiplications round at M or at what has been summed, the accumulators are added. */
static double sum_bound(const float *w, const float *x, uint32_t cols)
{
    double all = 0, groups = 0;
    for (uint32_t c = 0; c < cols; c += 16) {
        float low = w[c], high = w[c];
        double magnitude = 0;
        for (uint32_t i = c; i < c + 16 && i < cols; i++) {
            low = std::min(low, w[i]), high = std::max(high, w[i]);
            magnitude += fabs((double)x[i]);
            all += fabs((double)w[i] * x[i]);
        }
        groups += magnitude * (192.0 / 6 * (high - low) + std::max(fabs(low), fabs(high)));
    }
    uint32_t chain = (cols + 2047) / 2048 * 16;
    return ldexp(6 * groups + (2 * chain + 8) * all, -24);
}

static double sum_of(const float *w, const float *x, uint32_t cols)
{
    double sum = 0;
    for (uint32_t c = 0; c < cols; c++)
        sum += (double)w[c] * x[c];
    return sum;
}

static const int32_t UNUSED = 1 << 30;    /* the ends of lists that have fewer entries than they may */

/* A call: tokens[i] rows of x for matrix active[i] of num; results by place. */
struct run {
    std::vector<int32_t> active, starts, sorted;
    uint32_t num_places, num_x, x_divisor;
    std::vector<float> x;          /* [num_x, cols], rounded to bf16 */
    uint16_t *device_x;
    size_t x_stride;

    uint32_t x_row(uint32_t place) const
    {
        return x_divisor > 0 ? (uint32_t)sorted[place] / x_divisor : place;
    }
};

/* Every third matrix is left out. x_divisor 0: rows by place; otherwise pairs in an order of their own. */
static uint32_t make_run(struct run *run, const struct moe_cuda_weights *weights, const std::vector<int> &tokens,
                         uint32_t cols, uint32_t x_divisor)
{
    uint32_t matrix = 0;
    run->active.clear(), run->starts.assign(1, 0);
    for (int count : tokens) {
        matrix += matrix % 3 == 1;
        run->active.push_back((int32_t)matrix++);
        run->starts.push_back(run->starts.back() + count);
    }
    run->num_places = (uint32_t)run->starts.back();
    run->x_divisor = x_divisor;
    run->num_x = x_divisor > 0 ? (run->num_places + x_divisor - 1) / x_divisor : run->num_places;
    run->sorted.clear();
    for (uint32_t i = 0; i < run->num_places; i++)
        run->sorted.push_back((int32_t)(run->num_places - 1 - i));
    run->x_stride = (cols + MOE_SEGMENT - 1) / MOE_SEGMENT * MOE_SEGMENT;
    run->x.resize((size_t)run->num_x * cols);
    std::vector<uint16_t> bf16(run->num_x * run->x_stride, 0);
    for (uint32_t row = 0; row < run->num_x; row++)
        for (uint32_t c = 0; c < cols; c++) {
            uint16_t value = moe_f32_to_bf16(random_value());
            run->x[(size_t)row * cols + c] = moe_bf16_to_f32(value);
            bf16[row * run->x_stride + moe_order_position(c, weights->order)] = value;
        }
    OK(cudaMalloc((void **)&run->device_x, bf16.size() * 2));
    OK(cudaMemcpy(run->device_x, bf16.data(), bf16.size() * 2, cudaMemcpyHostToDevice));
    return matrix;
}

template <class T> static T *to_device(const std::vector<T> &values)
{
    T *memory;
    OK(cudaMalloc((void **)&memory, values.size() * sizeof(T)));
    OK(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
}

/* One launch; results: f32 rows, or the bits of bf16 rows in `order`, by place, poisoned before. */
static std::vector<uint32_t> launch(const struct moe_cuda_weights *weights, const struct run &run,
                                    const struct stack *gate, const struct stack &up, bool activated, int order,
                                    uint32_t multiprocessors, bool large = false)
{
    int shared;
    OK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    OK(weights->load((size_t)shared));
    struct moe_cuda_product p = {};
    int32_t num_active = (int32_t)run.active.size(), *device_num = to_device(std::vector<int32_t>(1, num_active));
    std::vector<int32_t> all_active = run.active, all_starts = run.starts;
    all_active.resize(up.num, UNUSED), all_starts.resize(up.num + 1, UNUSED);
    int32_t *active = to_device(all_active), *starts = to_device(all_starts), *sorted = to_device(run.sorted);
    uint32_t most = 0;
    for (size_t i = 0; i < run.active.size(); i++)
        most = std::max(most, (uint32_t)(run.starts[i + 1] - run.starts[i]));
    if (gate != NULL)
        p.gate = gate->cuda;
    p.up = up.cuda;
    p.gated = gate != NULL, p.activated = activated;
    p.act.kind = MOE_ACT_SWISH, p.act.alpha = 1.0f;
    p.pairs.num_active = device_num, p.pairs.active = active, p.pairs.starts = starts, p.pairs.sorted = sorted;
    p.pairs.num_pairs = run.num_places, p.pairs.num_matrices = up.num, p.pairs.tokens_of = most;
    p.x = run.device_x, p.x_stride = run.x_stride, p.x_divisor = run.x_divisor;
    size_t stride = (up.rows + MOE_SEGMENT - 1) / MOE_SEGMENT * MOE_SEGMENT, values = run.num_places * stride;
    std::vector<uint16_t> h(activated ? values : 1, 0xffff);
    std::vector<uint32_t> y(activated ? 1 : values, 0xffffffffu);
    uint16_t *device_h = to_device(h);
    uint32_t *device_y = to_device(y);
    p.h = device_h, p.h_stride = stride, p.h_order = order;
    p.y = (float *)device_y, p.y_stride = stride;
    p.multiprocessors = multiprocessors, p.shared_bytes = (uint32_t)shared;
    OK((large ? weights->large : weights->small)(&p, 0, false));
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(h.data(), device_h, h.size() * 2, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(y.data(), device_y, y.size() * 4, cudaMemcpyDeviceToHost));
    for (void *memory : {(void *)device_num, (void *)active, (void *)starts, (void *)sorted, (void *)device_h,
                         (void *)device_y})
        OK(cudaFree(memory));
    std::vector<uint32_t> results(run.num_places * (size_t)up.rows);
    for (size_t place = 0; place < run.num_places; place++)
        for (uint32_t c = 0; c < stride; c++) {
            uint32_t bits = activated ? h[place * stride + moe_order_position(c, order)] : y[place * stride + c];
            if (c < up.rows)
                results[place * up.rows + c] = bits;
            else
                assert_int_equal(bits, activated ? 0xffff : 0xffffffffu);
        }
    return results;
}

static double silu(double g)
{
    return g / (1.0 + exp(-g));
}

/* Against double. The slope of silu is below 1.1, the device's silu good to 2^-20, bf16 to 2^-8. */
static void check(const char *name, const std::vector<uint32_t> &results, const struct run &run,
                  const struct stack *gate, const struct stack &up, bool activated)
{
    for (size_t a = 0; a < run.active.size(); a++)
        for (uint32_t place = (uint32_t)run.starts[a]; place < (uint32_t)run.starts[a + 1]; place++)
            for (uint32_t r = 0; r < up.rows; r++) {
                uint32_t matrix = (uint32_t)run.active[a], bits = results[(size_t)place * up.rows + r];
                const float *x = run.x.data() + (size_t)run.x_row(place) * up.cols;
                const float *w = up.row(matrix, r);
                double u = sum_of(w, x, up.cols) + up.bias[(size_t)matrix * up.rows + r];
                double off = sum_bound(w, x, up.cols) + ldexp(fabs(u), -23), wanted = u;
                double got = moe_f32_from_bits(activated ? bits << 16 : bits);
                if (gate != NULL) {
                    const float *v = gate->row(matrix, r);
                    double g = sum_of(v, x, up.cols) + gate->bias[(size_t)matrix * up.rows + r];
                    double g_off = sum_bound(v, x, up.cols) + ldexp(fabs(g), -23);
                    wanted = silu(g) * u;
                    off = 1.1 * g_off * (fabs(u) + off) + fabs(silu(g)) * off;
                } else if (activated) {
                    wanted = silu(u);
                    off *= 1.1;
                }
                if (activated)
                    off += fabs(wanted) * (ldexp(1, -8) + ldexp(1, -20)) + off * ldexp(1, -8);
                if (!(fabs(got - wanted) <= off))
                    fail_msg("%s matrix %u row %u of %u, %u columns, place %u of %u: %g, not %g (+- %g)", name, matrix,
                             r, up.rows, up.cols, place, run.num_places, got, wanted, off);
            }
}

struct example {
    uint32_t rows, cols;
    std::vector<int> tokens;
    bool gated, activated, bias;
    uint32_t x_divisor, multiprocessors;
};

static const struct example examples[] = {
    {1, 32, {1}, false, false, false, 0, 1},
    {7, 32, {2, 1}, true, true, false, 2, 2},
    {40, 32, {9}, false, false, true, 1, 3},
    {16, 256, {1}, false, false, false, 0, 1},
    {17, 256, {5, 8, 1}, true, true, true, 2, 4},
    {40, 256, {17}, false, true, false, 1, 2},
    {1, 288, {8, 2}, true, true, false, 1, 1},
    {17, 288, {33, 1}, false, false, true, 2, 3},
    {40, 288, {1, 1, 1}, true, true, false, 3, 2},
    {7, 768, {70}, false, false, false, 1, 2},
    {40, 768, {2, 5}, true, true, true, 2, 4},
    {16, 768, {32}, true, true, false, 4, 1},
    {40, 2048, {1, 2}, false, false, false, 0, 4},
    {17, 2048, {9, 1}, true, true, false, 2, 2},
    {40, 2304, {5}, false, true, true, 1, 3},
    {16, 2304, {33, 8}, true, true, false, 1, 2},
    {9, 2880, {3}, true, true, false, 1, 2},
};

static bool takes(const struct moe_cuda_weights *weights, uint32_t cols)
{
    const struct moe_format_info *info = moe_format_info((enum moe_format)weights->format);
    return !weights->scaled && cols % info->block_values == 0;
}

static void test_products(void **)
{
    for (const struct moe_cuda_weights *weights : all_weights)
        for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
            const struct example &example = examples[i];
            struct stack gate = {}, up = {};
            struct run run;
            if (!takes(weights, example.cols))
                continue;
            state = i + 1;
            moe_emulate_schedule(i % 3 == 0 ? MOE_EMULATE_IN_ORDER : i % 3 == 1 ? MOE_EMULATE_REVERSED
                                                                               : MOE_EMULATE_RANDOM, i);
            uint32_t num = make_run(&run, weights, example.tokens, example.cols, example.x_divisor);
            make_stack(&up, weights, num, example.rows, example.cols, example.bias);
            if (example.gated)
                make_stack(&gate, weights, num, example.rows, example.cols, example.bias);
            const struct stack *gate_or_none = example.gated ? &gate : NULL;
            std::vector<uint32_t> results = launch(weights, run, gate_or_none, up, example.activated,
                                                   MOE_ORDER_PLAIN + (int)i % 4, example.multiprocessors);
            check(weights->name, results, run, gate_or_none, up, example.activated);
            free_stack(&up);
            if (example.gated)
                free_stack(&gate);
            OK(cudaFree(run.device_x));
        }
}

/* 20 tokens of one matrix on 1, 3 and 132 multiprocessors; the first 1, 8 and 9 of them alone; the kernel for many. */
static void test_bits(void **)
{
    for (const struct moe_cuda_weights *weights : all_weights) {
        struct stack up = {};
        struct run run;
        if (weights->scaled)
            continue;
        state = 99;
        make_run(&run, weights, {20}, 2304, 0);
        make_stack(&up, weights, 1, 40, 2304, false);
        std::vector<uint32_t> all = launch(weights, run, NULL, up, false, MOE_ORDER_PLAIN, 1);
        for (uint32_t multiprocessors : {3u, 132u}) {
            std::vector<uint32_t> other = launch(weights, run, NULL, up, false, MOE_ORDER_PLAIN, multiprocessors);
            assert_memory_equal(other.data(), all.data(), all.size() * 4);
        }
        if (weights->large != NULL) {
            std::vector<uint32_t> other = launch(weights, run, NULL, up, false, MOE_ORDER_PLAIN, 2, true);
            assert_memory_equal(other.data(), all.data(), all.size() * 4);
        }
        for (int few : {1, 8, 9}) {
            run.starts[1] = few;
            run.num_places = (uint32_t)few;
            std::vector<uint32_t> other = launch(weights, run, NULL, up, false, MOE_ORDER_PLAIN, 2);
            assert_memory_equal(other.data(), all.data(), other.size() * 4);
        }
        free_stack(&up);
        OK(cudaFree(run.device_x));
    }
}

static int set_up(void **)
{
    moe_emulate_reset();
    return 0;
}

static int tear_down(void **)
{
    return moe_emulate_reset() != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_products, set_up, tear_down),
                                       cmocka_unit_test_setup_teardown(test_bits, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
