// SPDX-License-Identifier: MIT
// prepare.cu, combine.cu and finish.cu against plain loops, bit for bit: random calls of odd sizes, every format,
// strides and addresses that are aligned to no more than a value. Outputs are compared as whole memories, so that what
// must not be written is seen, too.
#include "cuda/combine.h"
#include "cuda/finish.h"
#include "cuda/launch.cuh"
#include "cuda/prepare.cuh"
#include "emulate.h"

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "exp.h"
#include "half.h"
#include "norm.h"
}
#include <math.h>
#include <string.h>

#include <vector>

#define OK(call) assert_int_equal(call, cudaSuccess)

static const uint32_t sizes[] = {1, 7, 64, 100, 256, 704, 2880};
static const int formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16};

/* ---- random numbers ---- */

static uint64_t state;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

static bool one_in(uint32_t n)
{
    return below(n) == 0;
}

static float number(void)
{
    if (one_in(32))
        return one_in(2) ? 0.0f : -0.0f;
    float unit = (float)below(1u << 24) / (float)(1 << 23) - 1.0f;
    return ldexpf(unit, (int)below(8) - 4);
}

/* ---- memory that both sides have ---- */

static size_t value_bytes(int format)
{
    return format == MOE_FORMAT_F32 ? 4 : 2;
}

static float to_f32(int format, const void *at)
{
    if (format == MOE_FORMAT_F32)
        return *(const float *)at;
    return format == MOE_FORMAT_F16 ? moe_f16_to_f32(*(const uint16_t *)at) : moe_bf16_to_f32(*(const uint16_t *)at);
}

static void from_f32(int format, void *at, float value)
{
    if (format == MOE_FORMAT_F32)
        *(float *)at = value;
    else
        *(uint16_t *)at = format == MOE_FORMAT_F16 ? moe_f32_to_f16(value) : moe_f32_to_bf16(value);
}

template <class T> struct array {
    T *device = NULL;
    std::vector<T> host;

    explicit array(size_t count, T value = T()) : host(count, value)
    {
    }
    array(const array &) = delete;
    ~array()
    {
        OK(cudaFree(device));
    }
    T *send()
    {
        if (device == NULL && !host.empty())
            OK(cudaMalloc((void **)&device, host.size() * sizeof(T)));
        OK(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
        return device;
    }
    /* What the device has now is what the host expects. */
    void same(const char *what, unsigned round)
    {
        std::vector<T> found(host.size());
        OK(cudaMemcpy(found.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
        for (size_t i = 0; i < host.size(); i++)
            if (memcmp(&found[i], &host[i], sizeof(T)) != 0)
                fail_msg("round %u: %s differs at %zu of %zu", round, what, i, host.size());
    }
};

/* Rows of any format among bytes of 0xff, NaN in all of them. */
struct rows : array<unsigned char> {
    int format;
    size_t num_rows, cols, stride, offset;

    rows(size_t num_rows, size_t cols, int format, bool odd) : array(0), format(format), num_rows(num_rows), cols(cols)
    {
        size_t bytes = value_bytes(format);
        stride = odd ? cols * bytes + bytes * below(4) : (cols * bytes + 15) / 16 * 16;
        offset = odd ? bytes * below(8) : 0;
        host.assign(offset + (num_rows > 0 ? (num_rows - 1) * stride + cols * bytes : 0), 0xff);
    }
    void *at(size_t r, size_t c)
    {
        return &host[offset + r * stride + c * value_bytes(format)];
    }
    float get(size_t r, size_t c)
    {
        return to_f32(format, at(r, c));
    }
    void put(size_t r, size_t c, float value)
    {
        from_f32(format, at(r, c), value);
    }
    void fill()
    {
        for (size_t r = 0; r < num_rows; r++)
            for (size_t c = 0; c < cols; c++)
                put(r, c, number());
    }
    struct moe_cuda_rows view()
    {
        return {send() + offset, stride, format};
    }
};

static uint32_t live_of(const array<int32_t> &live, uint32_t num_tokens)
{
    int32_t n = live.host[0];
    return n < 0 ? 0 : (uint32_t)n < num_tokens ? (uint32_t)n : num_tokens;
}

static int random_format(void)
{
    return formats[below(3)];
}

static uint32_t random_size(void)
{
    return sizes[below(sizeof sizes / sizeof *sizes)];
}

/* The device's fibers in an order of their own for each round. */
static void shuffle(unsigned round)
{
    moe_emulate_schedule(round % 4 == 0   ? MOE_EMULATE_IN_ORDER
                         : round % 4 == 1 ? MOE_EMULATE_REVERSED
                                          : MOE_EMULATE_RANDOM,
                         round);
}

/* ---- prepare ---- */

/* bf16 rows: poison, then what is expected. */
static void expect_prepared(array<uint16_t> &out, const struct moe_cuda_prepare &p, int i, rows &x,
                            const array<float> &weights, uint32_t live)
{
    const struct moe_cuda_prepared &o = p.outputs[i];
    size_t num_rows = (size_t)p.num_tokens * (o.weighted ? p.top_k : 1);
    for (size_t r = 0; r < num_rows; r++) {
        size_t t = o.weighted ? r / p.top_k : r;
        for (uint32_t c = 0; c < o.stride; c++) {
            float value = c < p.cols && t < live ? x.get(t, c) : 0.0f;
            if (o.weighted && c < p.cols && t < live)
                value = weights.host[r] * value;
            uint16_t bits = isnan(value) ? 0x7fff : moe_f32_to_bf16(value);
            out.host[r * o.stride + moe_order_position(c, o.order)] = bits;
        }
    }
}

static size_t padded(uint32_t cols)
{
    return (cols + MOE_SEGMENT - 1) / MOE_SEGMENT * MOE_SEGMENT;
}

static void test_prepare(void **)
{
    for (unsigned round = 0; round < 200; round++) {
        state = round;
        shuffle(round);
        uint32_t num_tokens = round % 16 == 0 ? 0 : 1 + below(9), top_k = 1 + below(5);
        rows x(num_tokens, random_size(), random_format(), one_in(2));
        x.fill();
        array<float> weights(num_tokens * top_k);
        for (float &w : weights.host)
            w = one_in(8) ? INFINITY : number();
        array<int32_t> live(1, one_in(4) ? (int32_t)below(12) - 2 : (int32_t)num_tokens);
        struct moe_cuda_prepare p = {};
        p.x = x.view();
        p.cols = (uint32_t)x.cols, p.num_tokens = num_tokens, p.top_k = top_k;
        p.live_tokens = one_in(3) && live.host[0] == (int32_t)num_tokens ? NULL : live.send();
        p.weights = weights.send();
        size_t most = (num_tokens * top_k + 1) * (padded(p.cols) + 256);
        array<uint16_t> first(most, 0xffff), second(most, 0xffff);
        array<uint16_t> *memories[2] = {&first, &second};
        array<uint16_t> padding(num_tokens * top_k * padded(p.cols) + 256, 0xffff);
        for (int i = 0; i < 2; i++) {
            if (i == 1 && one_in(3))
                continue;
            p.outputs[i].stride = padded(p.cols) + (one_in(4) ? 256 : 0);
            p.outputs[i].order = (int32_t)below(8);
            p.outputs[i].weighted = one_in(3);
            p.outputs[i].rows = memories[i]->send();
            expect_prepared(*memories[i], p, i, x, weights, live_of(live, num_tokens));
        }
        struct moe_cuda_padding *pad = &p.paddings[round % 2];
        *pad = {padding.send(), num_tokens * top_k, padded(p.cols), p.cols};
        for (size_t r = 0; r < pad->num_rows; r++)
            for (uint32_t c = p.cols & ~31u; c < pad->stride && p.cols < pad->stride; c++)
                padding.host[r * pad->stride + c] = 0;
        OK(moe_cuda_prepare(&p, NULL, false));
        first.same("the first output", round);
        if (p.outputs[1].rows != NULL)
            second.same("the second output", round);
        padding.same("the padding of h", round);
    }
}

/* What is no number, and ties: x as it is in f32, so every rounding is prepare's. */
static void test_special_values(void **)
{
    const uint32_t bits[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x80000000, 0x00000001, 0x00008000,
                             0x00018000, 0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0x7f7f7fff, 0x807fffff};
    const size_t n = sizeof bits / sizeof *bits;
    rows x(1, n, MOE_FORMAT_F32, false);
    array<uint16_t> out(256, 0xffff);
    for (size_t i = 0; i < n; i++)
        memcpy(x.at(0, i), &bits[i], 4);
    struct moe_cuda_prepare p = {};
    p.x = x.view();
    p.cols = n, p.num_tokens = p.top_k = 1;
    p.outputs[0].rows = out.send();
    p.outputs[0].stride = 256;
    OK(moe_cuda_prepare(&p, NULL, false));
    std::vector<uint16_t> found(256);
    OK(cudaMemcpy(found.data(), out.device, 512, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++) {
        uint16_t expected = moe_f32_to_bf16(moe_f32_from_bits(bits[i]));
        if ((bits[i] & 0x7fffffffu) > 0x7f800000u)
            assert_true(isnan(moe_bf16_to_f32(found[i])));
        else
            assert_int_equal(found[i], expected);
    }
}

/* Few warps that take many pieces each, as within another kernel. */
static __global__ void few_warps_kernel(const __grid_constant__ struct moe_cuda_prepare params)
{
    moe_wait_for_previous();
    moe_prepare_run(params, blockIdx.x * 3 + threadIdx.x / 32, gridDim.x * 3, (int)threadIdx.x % 32);
}

static void test_few_warps(void **)
{
    for (unsigned blocks = 1; blocks <= 30; blocks++) {
        rows x(7, 700, MOE_FORMAT_BF16, false);
        x.fill();
        array<float> weights(14, 0.5f);
        array<uint16_t> first(7 * 768), second(14 * 768), padding(5 * 768, 0xffff);
        struct moe_cuda_prepare p = {};
        p.x = x.view();
        p.cols = 700, p.num_tokens = 7, p.top_k = 2, p.weights = weights.send();
        p.outputs[0] = {first.send(), 768, MOE_ORDER_HALVES, false};
        p.outputs[1] = {second.send(), 768, MOE_ORDER_NIBBLES, true};
        p.paddings[1] = {padding.send(), 5, 768, 512};
        expect_prepared(first, p, 0, x, weights, 7);
        expect_prepared(second, p, 1, x, weights, 7);
        for (size_t i = 0; i < padding.host.size(); i++)
            padding.host[i] = i % 768 < 512 ? 0xffff : 0;
        OK(moe_launch(few_warps_kernel, blocks, 96, 0, NULL, false, p));
        first.same("the first output", blocks);
        second.same("the second output", blocks);
        padding.same("the padding", blocks);
    }
}

/* ---- combine ---- */

struct combine_case {
    struct moe_cuda_combine c = {};
    uint32_t live;
    rows *y, *x, *out;
    array<int32_t> *places;
    array<float> *weights, *shared, *shared_weights, *bias;
};

static void add(float &sum, bool &any, float weight, float y)
{
    float term = weight * y;
    sum = any ? sum + term : term;
    any = true;
}

/* A value of out as src/cpu's combine_cpu.c and finish_cpu.c compute it. */
static void sum_value(combine_case &k, uint32_t t, uint32_t col)
{
    const struct moe_cuda_combine &c = k.c;
    float sum = 0.0f;
    bool any = false;
    for (size_t p = (size_t)t * c.top_k; t < k.live && p < (size_t)(t + 1) * c.top_k; p++) {
        int32_t place = c.places != NULL ? k.places->host[p] : 0;
        float weight = c.weights != NULL ? k.weights->host[p] : 1.0f;
        if (place == MOE_CUDA_SKIPPED)
            continue;
        if (place == MOE_CUDA_ZERO && !c.by_pair)
            add(sum, any, weight, k.x->get(t, col));
        else
            add(sum, any, c.weight_on_input ? 1.0f : weight, k.y->get(c.by_pair ? p : (size_t)place, col));
    }
    if (any)
        sum = sum * c.routed_scale;
    if (t < k.live) {
        if (c.shared != NULL)
            add(sum, any, c.shared_weights != NULL ? k.shared_weights->host[t] : 1.0f,
                k.shared->host[t * c.shared_stride + col]);
        if (any)
            sum = sum * c.out_scale;
        if (c.out_bias != NULL)
            sum = any ? sum + k.bias->host[col] : k.bias->host[col];
        any = any || c.out_bias != NULL;
    }
    if (c.accumulate && any)
        k.out->put(t, col, k.out->get(t, col) + sum);
    else if (!c.accumulate)
        k.out->put(t, col, any ? sum : 0.0f);
}

static void pair_value(combine_case &k, size_t p, uint32_t col)
{
    int32_t place = p / k.c.top_k < k.live ? k.places->host[p] : (int32_t)MOE_CUDA_SKIPPED;
    float value = place >= 0 ? k.y->get((size_t)place, col) : 0.0f;
    if (place == MOE_CUDA_ZERO)
        value = k.c.weight_on_input ? k.weights->host[p] * k.x->get(p / k.c.top_k, col) : k.x->get(p / k.c.top_k, col);
    k.out->put(p, col, value);
}

/* Places of pairs in a random order; -1 and -2 among them. Rows that no pair has stay NaN. */
static void fill_places(array<int32_t> &places, bool zero_experts, bool skip_all)
{
    uint32_t n = (uint32_t)places.host.size();
    for (uint32_t i = 0; i < n; i++)
        places.host[i] = (int32_t)i;
    for (uint32_t i = n; i > 1; i--)
        std::swap(places.host[i - 1], places.host[below(i)]);
    for (int32_t &place : places.host)
        if (skip_all || one_in(6))
            place = MOE_CUDA_SKIPPED;
        else if (zero_experts && one_in(4))
            place = MOE_CUDA_ZERO;
}

static void fill(array<float> &values)
{
    for (float &value : values.host)
        value = number();
}

static void run_combine(unsigned round)
{
    uint32_t num_tokens = round % 16 == 0 ? 0 : one_in(8) ? 40 : 1 + below(9);
    uint32_t top_k = one_in(3) ? 8 : 1 + below(19), cols = random_size();
    bool out_pairs = one_in(5), by_pair = !out_pairs && one_in(3), odd = one_in(2), weighted_input = one_in(4);
    size_t pairs = (size_t)num_tokens * top_k;
    rows y(pairs, cols, by_pair ? random_format() : (int)MOE_FORMAT_F32, by_pair && odd);
    rows x(num_tokens, cols, random_format(), one_in(2));
    rows out(out_pairs ? pairs : num_tokens, cols, random_format(), one_in(2));
    array<int32_t> places(pairs), live(1, one_in(4) ? (int32_t)below(12) - 2 : (int32_t)num_tokens);
    array<float> weights(pairs), shared((size_t)num_tokens * (cols + 5)), shared_weights(num_tokens), bias(cols);
    y.fill(), x.fill(), out.fill();
    fill(weights), fill(shared), fill(shared_weights), fill(bias);
    fill_places(places, one_in(3), one_in(16));
    combine_case k;
    k.live = live_of(live, num_tokens);
    k.y = &y, k.x = &x, k.out = &out, k.places = &places, k.weights = &weights;
    k.shared = &shared, k.shared_weights = &shared_weights, k.bias = &bias;
    k.c.num_tokens = num_tokens, k.c.top_k = top_k, k.c.cols = cols;
    k.c.live_tokens = k.live == num_tokens && one_in(2) ? NULL : live.send();
    k.c.places = by_pair && one_in(3) ? NULL : places.send();
    k.c.weights = !weighted_input && one_in(6) ? NULL : weights.send();
    k.c.weight_on_input = weighted_input, k.c.by_pair = by_pair, k.c.out_pairs = out_pairs;
    k.c.y = y.view(), k.c.x = x.view(), k.c.out = out.view();
    k.c.routed_scale = one_in(3) ? 2.5f : 1.0f, k.c.out_scale = one_in(3) ? 0.3f : 1.0f;
    k.c.shared = one_in(2) ? shared.send() : NULL, k.c.shared_stride = cols + (odd ? 5 : 0);
    k.c.shared_weights = one_in(2) ? shared_weights.send() : NULL;
    k.c.out_bias = one_in(3) ? bias.send() : NULL;
    k.c.accumulate = !out_pairs && one_in(2);
    for (uint32_t col = 0; col < cols; col++) {
        for (uint32_t t = 0; !out_pairs && t < num_tokens; t++)
            sum_value(k, t, col);
        for (size_t p = 0; out_pairs && p < pairs; p++)
            pair_value(k, p, col);
    }
    OK(moe_cuda_combine(&k.c, NULL, false));
    out.same("out", round);
}

static void test_combine(void **)
{
    for (unsigned round = 0; round < 600; round++) {
        state = round;
        shuffle(round);
        run_combine(round);
    }
}

/* A NaN or an infinity of y reaches its own value of out, and no other. */
static void test_combine_nan(void **)
{
    rows y(2, 8, MOE_FORMAT_F32, false), out(1, 8, MOE_FORMAT_BF16, false);
    array<int32_t> places(2);
    y.fill();
    y.put(0, 3, NAN), y.put(1, 5, INFINITY);
    places.host = {1, 0};
    struct moe_cuda_combine c = {};
    c.num_tokens = 1, c.top_k = 2, c.cols = 8, c.routed_scale = c.out_scale = 1.0f;
    c.places = places.send(), c.y = y.view(), c.out = out.view();
    OK(moe_cuda_combine(&c, NULL, false));
    OK(cudaMemcpy(out.host.data(), out.device, out.host.size(), cudaMemcpyDeviceToHost));
    for (size_t col = 0; col < 8; col++) {
        float value = out.get(0, col);
        assert_true(col == 3 ? isnan(value) : col == 5 ? isinf(value) : isfinite(value));
    }
}

/* ---- finish ---- */

/* The order of finish.cuh: 256 parts, pairs of parts 8 apart, pairs of these 16 apart, warps ascending. */
static void expect_lanes(double lanes[8], const std::vector<double> &a, const std::vector<double> &b)
{
    double parts[256] = {0};
    for (size_t c = 0; c < a.size(); c++)
        parts[c % 256] += a[c] * b[c];
    for (int i = 0; i < 8; i++)
        for (int warp = 0; warp < 8; warp++) {
            const double *p = parts + 32 * warp + i;
            double sum = (p[0] + p[8]) + (p[16] + p[24]);
            lanes[i] = warp == 0 ? sum : lanes[i] + sum;
        }
}

static float next_to(float a, float b)
{
    return a == b ? a : nextafterf(a, b);
}

static void run_norm(unsigned round)
{
    uint32_t num_tokens = round % 16 == 0 ? 0 : 1 + below(5), cols = random_size();
    bool to_rows = one_in(3), zeros = one_in(6);
    rows x(num_tokens, cols, MOE_FORMAT_F32, one_in(2)), out(num_tokens, cols, random_format(), one_in(2));
    x.fill(), out.fill();
    for (uint32_t c = 0; zeros && num_tokens > 0 && c < cols; c++)
        x.put(0, c, 0.0f);
    array<float> scale(cols);
    fill(scale);
    array<int32_t> live(1, one_in(4) ? (int32_t)below(7) - 1 : (int32_t)num_tokens);
    array<uint16_t> bf16((size_t)num_tokens * padded(cols), 0xffff);
    struct moe_cuda_norm n = {};
    n.x = (const float *)(const void *)x.view().data, n.x_stride = x.stride / 4;
    n.num_tokens = num_tokens, n.cols = cols, n.live_tokens = live.send();
    n.scale = one_in(2) ? scale.send() : NULL;
    n.eps = one_in(3) ? 0.0f : 1e-5f, n.unit = one_in(3);
    n.accumulate = !to_rows && one_in(2), n.order = (int32_t)below(8);
    if (to_rows)
        n.rows = bf16.send(), n.rows_stride = padded(cols);
    else
        n.out = out.view();
    struct moe_norm_desc desc = {NULL, n.eps, n.unit};
    for (uint32_t t = 0; t < num_tokens; t++) {
        std::vector<double> values(cols);
        std::vector<float> row(cols);
        double lanes[8], plain[8] = {0};
        for (uint32_t c = 0; c < cols; c++)
            values[c] = row[c] = x.get(t, c);
        expect_lanes(lanes, values, values);
        double factor = moe_norm_factor(&desc, lanes, cols);
        moe_route_squares(plain, row.data(), cols);
        double other = moe_norm_factor(&desc, plain, cols);
        assert_true(fabs(factor - other) <= 1e-14 * fabs(other));    /* the CPU's order, sums of at most 2880 */
        bool is_live = t < live_of(live, num_tokens);
        for (uint32_t c = 0; c < (to_rows ? padded(cols) : cols); c++) {
            float value = 0.0f;
            if (is_live && c < cols)
                value = (float)(n.scale != NULL ? values[c] * factor * (double)scale.host[c] : values[c] * factor);
            if (to_rows)
                bf16.host[t * n.rows_stride + moe_order_position(c, n.order)] = moe_f32_to_bf16(value);
            else if (is_live || !n.accumulate)
                out.put(t, c, n.accumulate ? out.get(t, c) + value : value);
        }
    }
    OK(moe_cuda_finish_norm(&n, NULL, false));
    if (to_rows)
        bf16.same("the rows", round);
    else
        out.same("out", round);
}

static void test_norm(void **)
{
    for (unsigned round = 0; round < 150; round++) {
        state = round;
        shuffle(round);
        run_norm(round);
    }
}

static void test_shared_weights(void **)
{
    for (unsigned round = 0; round < 100; round++) {
        state = round;
        shuffle(round);
        uint32_t num_tokens = 1 + below(4), cols = random_size();
        rows x(num_tokens, cols, random_format(), one_in(2));
        x.fill();
        array<float> gate(cols), weights(num_tokens, NAN);
        for (float &value : gate.host)
            value = number() / sqrtf((float)cols);
        array<int32_t> live(1, one_in(4) ? (int32_t)below(5) : (int32_t)num_tokens);
        struct moe_cuda_shared_gate g = {};
        g.weights = weights.send(), g.x = x.view(), g.gate = gate.send(), g.bias = number();
        g.num_tokens = num_tokens, g.cols = cols, g.live_tokens = live.send();
        OK(moe_cuda_shared_weights(&g, NULL, false));
        std::vector<float> found(num_tokens);
        OK(cudaMemcpy(found.data(), weights.device, num_tokens * sizeof(float), cudaMemcpyDeviceToHost));
        for (uint32_t t = 0; t < num_tokens; t++) {
            std::vector<double> a(cols), b(cols);
            for (uint32_t c = 0; c < cols; c++)
                a[c] = gate.host[c], b[c] = x.get(t, c);
            double l[8];
            expect_lanes(l, a, b);
            double z = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])) + (double)g.bias;
            float expected = t < live_of(live, num_tokens) ? (float)(1.0 / (1.0 + moe_exp(-z))) : 0.0f;
            /* exp is CUDA's: in double, so the rounding to f32 is the same or the next. */
            assert_true(next_to(found[t], expected) == expected);
        }
    }
}

static void test_misaligned(void **)
{
    rows x(2, 8, MOE_FORMAT_F32, false), out(2, 8, MOE_FORMAT_F32, false);
    struct moe_cuda_combine c = {};
    c.num_tokens = 2, c.top_k = 1, c.cols = 8, c.by_pair = true, c.routed_scale = c.out_scale = 1.0f;
    c.y = x.view(), c.out = out.view();
    OK(moe_cuda_combine(&c, NULL, false));
    c.out.stride += 2;
    assert_int_equal(moe_cuda_combine(&c, NULL, false), cudaErrorInvalidValue);
    struct moe_cuda_prepare p = {};
    p.x = x.view(), p.cols = 8, p.num_tokens = 2, p.top_k = 1;
    OK(moe_cuda_prepare(&p, NULL, false));
    p.x.data += 1;
    assert_int_equal(moe_cuda_prepare(&p, NULL, false), cudaErrorInvalidValue);
}

static int set_up(void **)
{
    moe_emulate_reset();
    OK(moe_cuda_prepare_load());
    OK(moe_cuda_combine_load());
    OK(moe_cuda_finish_load());
    return 0;
}

static int tear_down(void **)
{
    return moe_emulate_reset() != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_prepare, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_few_warps, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_special_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_combine, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_combine_nan, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_norm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shared_weights, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_misaligned, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
