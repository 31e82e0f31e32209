// SPDX-License-Identifier: MIT
// small_down.cuh against small.cuh and combine.cu, bit for bit: random plans, sizes that divide nothing, machines of
// any number of multiprocessors and little shared memory.
#include "cuda/combine.h"
#include "cuda/kernels.h"
#include "cuda/prepare.h"
#include "emulate.h"
#include "moe/moe.h"

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "half.h"
}
#include <math.h>
#include <string.h>

#include <vector>

#define OK(call) assert_int_equal(call, cudaSuccess)

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
    return ((float)below(1u << 24) / (float)(1 << 23) - 1.0f) * (one_in(8) ? 8.0f : 1.0f);
}

/* Memory that both sides have; the device's begins as the host's, 0xff where nothing was put. */
template <class T> struct array {
    std::vector<T> host;
    T *device = NULL;

    explicit array(size_t count) : host(count)
    {
        memset((void *)host.data(), 0xff, count * sizeof(T));
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
    std::vector<T> found() const
    {
        std::vector<T> values(host.size());
        OK(cudaMemcpy(values.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return values;
    }
};

static void fill(array<float> &values)
{
    for (float &value : values.host)
        value = number();
}

struct sizes {
    uint32_t num_tokens, top_k, num_matrices, rows, cols;
};

/* Each token goes to top_k matrices, all different, or in some plans to a few, again and again; some pairs are skipped,
 * some go to a zero expert. */
struct plan {
    array<int32_t> num_active, active, starts, sorted, places;

    plan(const struct sizes &s, bool zero_experts)
        : num_active(1), active(s.num_matrices), starts(s.num_matrices + 1), sorted(s.num_tokens * s.top_k),
          places(s.num_tokens * s.top_k)
    {
        std::vector<int32_t> matrix(places.host.size());
        const uint32_t again = one_in(4) ? 1 + below(s.num_matrices < 3 ? s.num_matrices : 3) : s.num_matrices;
        for (uint32_t t = 0; t < s.num_tokens; t++)
            for (uint32_t k = 0, m = below(s.num_matrices); k < s.top_k; k++, m = (m + 1) % again)
                matrix[t * s.top_k + k] = one_in(8) ? (int32_t)MOE_CUDA_SKIPPED
                                          : zero_experts && one_in(4) ? (int32_t)MOE_CUDA_ZERO : (int32_t)m;
        int32_t place = 0, count = 0;
        for (int32_t m = 0; m < (int32_t)s.num_matrices; m++) {
            int32_t before = place;
            for (size_t p = 0; p < matrix.size(); p++)
                if (matrix[p] == m) {
                    sorted.host[place] = (int32_t)p;
                    places.host[p] = place++;
                }
            if (place > before) {
                active.host[count] = m;
                starts.host[count++] = before;
            }
        }
        for (size_t p = 0; p < matrix.size(); p++)
            if (matrix[p] < 0)
                places.host[p] = matrix[p];
        num_active.host[0] = count;
        starts.host[count] = place;
    }
    struct moe_cuda_pairs view(const struct sizes &s)
    {
        struct moe_cuda_pairs pairs = {};
        pairs.num_active = num_active.send(), pairs.active = active.send(), pairs.starts = starts.send();
        pairs.sorted = sorted.send();
        pairs.num_pairs = s.num_tokens * s.top_k, pairs.num_matrices = s.num_matrices, pairs.tokens_of = s.num_tokens;
        return pairs;
    }
};

/* One of each kind: no scales, scales of blocks, scales and zeros of groups. */
static const struct moe_cuda_weights *const formats[] = {&moe_cuda_weights_bf16, &moe_cuda_weights_e4m3_128,
                                                         &moe_cuda_weights_u4_32};

static struct sizes random_sizes(void)
{
    static const uint32_t cols[] = {32, 64, 288, 704, 768, 2048, 2880}, rows[] = {1, 7, 16, 22, 64, 100, 200};
    struct sizes s;
    s.num_tokens = 1 + below(8);
    s.top_k = 1 + below(64 / s.num_tokens < 10 ? 64 / s.num_tokens : 10);
    s.num_matrices = s.top_k + below(60);
    s.cols = cols[below(7)], s.rows = rows[below(7)];
    return s;
}

static size_t row_bytes(const struct moe_cuda_weights &format, const struct sizes &s)
{
    return format.format == MOE_FORMAT_BF16 ? 2 * s.cols : format.format == MOE_FORMAT_E4M3 ? s.cols : s.cols / 2;
}

/* The matrices of a format, with random codes that are numbers. */
struct matrices {
    array<uint8_t> codes, zeros;
    array<float> scales;
    struct moe_cuda_stack stack = {};

    matrices(const struct moe_cuda_weights &format, const struct sizes &s)
        : codes((size_t)s.num_matrices * s.rows * row_bytes(format, s)),
          zeros((size_t)s.num_matrices * (s.rows + 128) * 128), scales(zeros.host.size())
    {
        for (size_t i = 0; i < codes.host.size(); i++) {
            codes.host[i] = (uint8_t)below(256);
            if (format.format == MOE_FORMAT_E4M3 && (codes.host[i] & 0x7f) == 0x7f)
                codes.host[i] = 1;
        }
        for (size_t i = 0; format.format == MOE_FORMAT_BF16 && i < codes.host.size(); i += 2) {
            uint16_t value = moe_f32_to_bf16(number());
            memcpy(&codes.host[i], &value, 2);
        }
        for (size_t i = 0; i < zeros.host.size(); i++) {
            zeros.host[i] = (uint8_t)below(16);
            scales.host[i] = number();
        }
        stack.values.data = codes.send();
        stack.values.stride = row_bytes(format, s);
        stack.values.expert_stride = stack.values.stride * s.rows;
        stack.values.format = format.format;
        stack.rows = s.rows, stack.cols = s.cols;
        stack.scaled = format.scaled;
        if (!format.scaled)
            return;
        stack.block_rows = one_in(3) ? 1 : one_in(2) ? 3 : 128;
        stack.block_cols = (uint32_t)format.group;
        stack.first_row = below(stack.block_rows);
        stack.scale = {(const unsigned char *)scales.send(), NULL, (s.rows + 128) * 512, 512, MOE_FORMAT_F32};
        if (format.zeros)
            stack.zero = {zeros.send(), NULL, (s.rows + 128) * 128, 128, MOE_FORMAT_U8};
        stack.zero_offset = format.zeros ? 0.5f : 0.0f;
        moe_cuda_stack_measure(&stack);
    }
};

static void run(unsigned round)
{
    const struct moe_cuda_weights &format = *formats[round % 3];
    struct sizes s = random_sizes();
    struct matrices down(format, s);
    size_t num_pairs = s.num_tokens * s.top_k, h_stride = (s.cols + 255) / 256 * 256;
    plan routes(s, one_in(3));
    array<uint16_t> h(num_pairs * h_stride);
    array<float> x_of_h(num_pairs * s.cols);
    array<float> bias(s.num_matrices * s.rows), y(num_pairs * s.rows), x(s.num_tokens * s.rows), weights(num_pairs);
    array<float> shared(s.num_tokens * s.rows), gates(s.num_tokens), out(s.num_tokens * s.rows), both(out.host.size());
    array<int32_t> live(1);
    fill(bias), fill(x_of_h), fill(x), fill(weights), fill(shared), fill(gates), fill(out);
    both.host = out.host;
    live.host[0] = one_in(4) ? (int32_t)below(s.num_tokens) : (int32_t)s.num_tokens;

    struct moe_cuda_product p = {};
    p.up = down.stack;
    p.up.bias = one_in(2) ? bias.send() : NULL;
    p.pairs = routes.view(s);
    p.x = h.send(), p.x_stride = h_stride;
    p.y = y.send(), p.y_stride = s.rows;
    p.multiprocessors = 1 + below(20), p.shared_bytes = one_in(4) ? 160 * 1024 : 227 * 1024;
    struct moe_cuda_combine c = {};
    c.num_tokens = s.num_tokens, c.top_k = s.top_k, c.cols = s.rows;
    c.live_tokens = live.send(), c.places = routes.places.send();
    c.weights = one_in(8) ? NULL : weights.send(), c.weight_on_input = one_in(4);
    c.y = {(unsigned char *)p.y, s.rows * sizeof(float), MOE_FORMAT_F32};
    c.x = {(unsigned char *)x.send(), s.rows * sizeof(float), MOE_FORMAT_F32};
    c.routed_scale = one_in(3) ? 2.5f : 1.0f, c.out_scale = 1.0f;
    c.shared = one_in(2) ? shared.send() : NULL, c.shared_stride = s.rows, c.shared_weights = gates.send();
    c.accumulate = one_in(3);
    c.out = {(unsigned char *)both.send(), s.rows * sizeof(float), MOE_FORMAT_F32};
    struct moe_cuda_prepare prepare = {};
    prepare.x = {(unsigned char *)x_of_h.send(), s.cols * sizeof(float), MOE_FORMAT_F32};
    prepare.cols = s.cols, prepare.num_tokens = (uint32_t)num_pairs, prepare.top_k = 1;
    prepare.outputs[0] = {h.device, h_stride, format.order, false};
    OK(moe_cuda_prepare(&prepare, NULL, false));
    OK(format.small(&p, NULL, true));
    OK(moe_cuda_combine(&c, NULL, true));
    h.send();
    c.out.data = (unsigned char *)out.send();
    p.y = NULL, c.y.data = NULL;
    assert_true(moe_cuda_down_takes(&p, &c));
    OK(moe_cuda_prepare(&prepare, NULL, false));    /* what comes right before is not there until it is waited for */
    OK(format.down(&p, &c, NULL, true));
    std::vector<float> expected = both.found(), found = out.found();
    for (size_t i = 0; i < found.size(); i++)
        if (memcmp(&found[i], &expected[i], sizeof(float)) != 0)
            fail_msg("round %u: %zu of %zu: %a, not %a (%s, %u tokens, %u slots, %u rows, %u cols)", round, i,
                     found.size(), (double)found[i], (double)expected[i], format.name, s.num_tokens, s.top_k, s.rows,
                     s.cols);
}

static void test_same_bits(void **)
{
    for (unsigned round = 0; round < 100; round++) {
        state = round;
        moe_emulate_schedule(round % 4 == 0   ? MOE_EMULATE_IN_ORDER
                             : round % 4 == 1 ? MOE_EMULATE_REVERSED
                                              : MOE_EMULATE_RANDOM,
                             round);
        run(round);
    }
}

static int set_up(void **)
{
    moe_emulate_reset();
    for (const struct moe_cuda_weights *format : formats)
        OK(format->load(227 * 1024));
    return 0;
}

static int tear_down(void **)
{
    return moe_emulate_reset() != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_bits, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
