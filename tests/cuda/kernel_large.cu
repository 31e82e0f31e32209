// SPDX-License-Identifier: MIT
// The product for many tokens: bit for bit that for few, and near sums in double; nothing but results is written.
// Formats: bf16, and three toys that have what formats may have: blocks at any address, groups of 16, terms, scales
// apart.
#include "cuda/weights.cuh"
#include "cuda/weights_bf16.cuh"
#include "emulated.cuh"
#include <math.h>

/* ---- formats; host functions: a random row, and the value of a column (size: of what it is the sum) ---- */

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) * below >> 31);
}

static uint16_t bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)(bits >> 16);
}

static float f32(const void *bf16_at)
{
    uint16_t half;
    memcpy(&half, bf16_at, 2);
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

struct plain_host : moe_weights_bf16 {
    static size_t row_bytes(size_t cols)
    {
        return 2 * cols;
    }
    static void fill(unsigned char *row, size_t cols)
    {
        for (size_t c = 0; c < cols; c++) {
            uint16_t value = bf16(((int)draw(2001) - 1000) / 500.0f);
            memcpy(row + 2 * c, &value, 2);
        }
    }
    static double value(const unsigned char *row, size_t c, const float *, double *size)
    {
        *size = fabs(f32(row + 2 * c));
        return f32(row + 2 * c);
    }
};

/* Operands of a step from 8 codes of each row, in the order of the format. */
static __device__ __forceinline__ void operands(uint32_t a[8], const int low[8], const int high[8])
{
    for (int i = 0; i < 4; i++) {
        a[2 * i] = moe_bf16x2((float)low[2 * i], (float)low[2 * i + 1]);
        a[2 * i + 1] = moe_bf16x2((float)high[2 * i], (float)high[2 * i + 1]);
    }
}

/* Blocks of 32 columns: `groups` (scale, term) in bf16, or a scale only, and 16 bytes of codes 0 .. 15. Two groups:
 * each is a step of 16 columns. */
template <int groups, bool terms> struct nibbles : moe_no_lines {
    static constexpr uint32_t head = groups * (terms ? 4 : 2), block = head + 16, segment_bytes = 8 * block;
    static constexpr uint32_t pitch = (segment_bytes + 31 + 15) / 16 * 16;
    static constexpr bool aligned = false, offset = terms;
    static constexpr uint32_t centre = 0;
    static constexpr int order = groups == 2 ? MOE_ORDER_HALVES : MOE_ORDER_PLAIN, group = 32 / groups;
    struct side {
    };

    template <int tiles>
    static __device__ __forceinline__ void fetch(struct side *, const struct moe_unit_rows &, uint32_t, int)
    {
    }

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        for (int i = lane; i < 16 * tiles * 8 * groups; i += 32) {
            const uint32_t row = i % (16 * tiles), g = i / (16 * tiles);
            const unsigned char *at = moe_unit_begin<nibbles, tiles>(unit, rows, segment, row) + g / groups * block +
                                      g % groups * (terms ? 4 : 2);
            table[i] = make_float2(value_at(at), terms ? value_at(at + 2) : 0.0f);
        }
    }

    static __device__ __forceinline__ float value_at(const unsigned char *at)
    {
        return __uint_as_float((uint32_t)*(const uint16_t *)at << 16);
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        int l[8], h[8];
        for (int i = 0; i < 8; i++) {
            const uint32_t c = groups == 2 ? 16 * (i / 4) + 4 * t + i % 2 * 2 + i / 2 % 2 : 8 * t + i;
            const uint32_t at = q * block + head + c / 2;
            l[i] = low[at] >> c % 2 * 4 & 15;
            h[i] = high[at] >> c % 2 * 4 & 15;
        }
        operands(a, l, h);
    }

    static size_t row_bytes(size_t cols)
    {
        return (cols + 31) / 32 * block;
    }
    static void fill(unsigned char *row, size_t cols)
    {
        for (size_t i = 0; i < row_bytes(cols); i++)
            row[i] = (unsigned char)draw(256);
        for (size_t i = 0; i < row_bytes(cols) / block; i++)
            for (uint32_t j = 0; j < head / 2; j++) {
                uint16_t value = bf16(((int)draw(201) - 100) / 256.0f);
                memcpy(row + i * block + 2 * j, &value, 2);
            }
    }
    static double value(const unsigned char *row, size_t c, const float *, double *size)
    {
        const unsigned char *at = row + c / 32 * block, *scale = at + c % 32 / group * (terms ? 4 : 2);
        const int code = at[head + c % 32 / 2] >> c % 2 * 4 & 15;
        const double product = (double)f32(scale) * code, term = terms ? (double)f32(scale + 2) : 0;
        *size = fabs(product) + fabs(term);
        return product + term;
    }
};

/* One byte a value, aligned; scales f32 apart, one for `group` columns. With terms, a value is scale * (code + 2). */
template <int group_, bool terms> struct bytes_of : moe_no_lines {
    static constexpr uint32_t segment_bytes = 256, pitch = 288;
    static constexpr bool aligned = true, offset = terms;
    static constexpr uint32_t centre = 0;
    static constexpr int order = MOE_ORDER_PLAIN, group = group_, of_lane = 128 / group;    /* scales of a tile */
    struct side {
        float scales[3 * of_lane];
    };

    static __device__ __forceinline__ float one(const struct moe_unit_rows &rows, uint32_t segment, uint32_t row,
                                                uint32_t g)
    {
        const bool high = row % 16 >= 8;
        const uint32_t r = row / 16 * 8 + row % 8;
        const struct moe_cuda_stack &stack = high || !rows.product->gated ? rows.product->up : rows.product->gate;
        if (r >= (high ? rows.high_left : rows.low_left) || 256 * segment + group * g >= stack.cols)
            return 0.0f;
        return ((const float *)moe_plane_row(stack.scale, rows.expert,
                                             (high ? rows.high_row : rows.low_row) + r))[segment * (256 / group) + g];
    }

    template <int tiles>
    static __device__ __forceinline__ void fetch(struct side *side, const struct moe_unit_rows &rows, uint32_t segment,
                                                 int lane)
    {
        for (int i = 0; i < of_lane * tiles; i++)
            side->scales[i] = one(rows, segment, (32 * i + lane) % (16 * tiles), (32 * i + lane) / (16 * tiles));
    }

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *, const struct side &side,
                                                  const struct moe_unit_rows &, uint32_t, int lane)
    {
        for (int i = 0; i < of_lane * tiles; i++)
            table[32 * i + lane] = make_float2(side.scales[i], terms ? 2 * side.scales[i] : 0.0f);
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        int l[8], h[8];
        for (int i = 0; i < 8; i++) {
            l[i] = (int8_t)low[32 * q + 8 * t + i];
            h[i] = (int8_t)high[32 * q + 8 * t + i];
        }
        operands(a, l, h);
    }

    static size_t row_bytes(size_t cols)
    {
        return (cols + 15) / 16 * 16;
    }
    static void fill(unsigned char *row, size_t cols)
    {
        for (size_t i = 0; i < row_bytes(cols); i++)
            row[i] = (unsigned char)draw(256);
    }
    static double value(const unsigned char *row, size_t c, const float *scales, double *size)
    {
        const double scale = scales[c / group];
        *size = (fabs((int8_t)row[c]) + 2 * terms) * fabs(scale);
        return ((int8_t)row[c] + 2 * terms) * scale;
    }
};

/* ---- one product ---- */

struct shape {
    uint32_t rows, cols;
    std::vector<uint32_t> tokens;    /* of each matrix */
    bool gated, activated;
    uint32_t x_divisor;
    bool bias, bases;
    uint32_t y_pad;                  /* y_stride beyond rows */
    int32_t h_order;
    uint32_t shared_bytes;
    uint32_t multiprocessors;
};

static const shape usual = {96, 256, {40}, true, true, 0, true, false, 4, MOE_ORDER_PLAIN, 232448, 3};

struct matrices {
    std::vector<unsigned char> values;
    std::vector<float> scales, bias;
    size_t row_bytes, expert_bytes, scale_cols;
    moe_cuda_stack stack;
};

template <class Weights> static void make(matrices *m, const shape &s)
{
    const size_t n = s.tokens.size(), skew = Weights::aligned ? 0 : 6;
    m->row_bytes = Weights::row_bytes(s.cols) + (Weights::aligned ? 16 - Weights::row_bytes(s.cols) % 16 : 2);
    m->expert_bytes = m->row_bytes * s.rows + (Weights::aligned ? 0 : 2);
    m->values.assign(skew + n * m->expert_bytes + 16, 0xff);
    m->scale_cols = (s.cols + 31) / 32;
    for (size_t a = 0; a < n; a++)
        for (size_t r = 0; r < s.rows; r++)
            Weights::fill(&m->values[skew + a * m->expert_bytes + r * m->row_bytes], s.cols);
    for (size_t i = 0; i < n * s.rows * m->scale_cols; i++)
        m->scales.push_back(((int)draw(201) - 100) / 4096.0f);
    for (size_t i = 0; i < n * s.rows; i++)
        m->bias.push_back(((int)draw(2001) - 1000) / 300.0f);
    memset(&m->stack, 0, sizeof m->stack);
    m->stack.rows = s.rows;
    m->stack.cols = s.cols;
    const unsigned char *data = device_array(m->values) + skew;
    m->stack.values = {data, NULL, m->expert_bytes, m->row_bytes, 0};
    if (s.bases) {
        std::vector<const unsigned char *> bases;
        for (size_t a = 0; a < n; a++)
            bases.push_back(data + a * m->expert_bytes);
        m->stack.values.bases = device_array(bases);
        m->stack.values.data = NULL;
    }
    m->stack.scale = {(const unsigned char *)device_array(m->scales), NULL, s.rows * m->scale_cols * 4,
                      m->scale_cols * 4, 0};
    m->stack.bias = s.bias ? device_array(m->bias) : NULL;
    for (size_t i = 0; i < skew; i++)
        m->values.erase(m->values.begin());
}

/* Sum of a row and a token, with the bias; *size: sum of the absolute values of all that is added. */
template <class Weights>
static double sum(const matrices &m, const shape &s, size_t a, size_t r, const uint16_t *x, double *size)
{
    double total = 0;
    *size = 0;
    const unsigned char *row = &m.values[a * m.expert_bytes + r * m.row_bytes];
    for (size_t c = 0; c < s.cols; c++) {
        const uint32_t at = moe_order_position((uint32_t)c, Weights::order);
        double magnitude;
        total += Weights::value(row, c, &m.scales[(a * s.rows + r) * m.scale_cols], &magnitude) * f32(&x[at]);
        *size += magnitude * fabs(f32(&x[at]));
    }
    return total + (s.bias ? m.bias[a * s.rows + r] : 0);
}

template <class Weights> static void check(const shape &s)
{
    state = s.rows * 7919 + s.cols;
    const size_t n = s.tokens.size();
    matrices gate, up;
    make<Weights>(&up, s);
    if (s.gated)
        make<Weights>(&gate, s);

    std::vector<int32_t> active, starts, sorted, num_active;
    uint32_t num_pairs = 0;
    for (size_t a = 0; a < n; a++)
        if (s.tokens[a] > 0) {
            active.push_back((int32_t)a);
            starts.push_back((int32_t)num_pairs);
            num_pairs += s.tokens[a];
        }
    starts.push_back((int32_t)num_pairs);
    num_active.push_back((int32_t)active.size());
    active.resize(n, 1 << 30);
    starts.resize(n + 1, 1 << 30);
    for (uint32_t i = 0; i < num_pairs; i++)
        sorted.push_back((int32_t)i);
    for (uint32_t i = num_pairs; i > 1; i--)
        std::swap(sorted[i - 1], sorted[draw(i)]);
    const uint32_t capacity = num_pairs + 5;
    sorted.resize(capacity, 1 << 30);

    const size_t x_stride = (s.cols + 255) / 256 * 256;
    const uint32_t x_rows = s.x_divisor > 0 ? num_pairs / s.x_divisor + 1 : num_pairs + 1;
    std::vector<uint16_t> x(x_rows * x_stride, 0);
    for (size_t r = 0; r < x_rows; r++)
        for (size_t c = 0; c < s.cols; c++)
            x[r * x_stride + moe_order_position((uint32_t)c, Weights::order)] = bf16(((int)draw(2001) - 1000) / 700.0f);

    moe_cuda_product p;
    memset(&p, 0, sizeof p);
    p.up = up.stack;
    if (s.gated)
        p.gate = gate.stack;
    p.gated = s.gated;
    p.activated = s.activated;
    p.act.kind = s.gated ? MOE_ACT_SWISH : MOE_ACT_RELU2;
    p.act.alpha = 1.0f;
    p.pairs = {device_array(num_active), device_array(active), device_array(starts), device_array(sorted), capacity,
               (uint32_t)n, capacity};
    p.x = device_array(x);
    p.x_stride = x_stride;
    p.x_divisor = s.x_divisor;
    p.h_stride = (s.rows + 255) / 256 * 256;
    p.h_order = s.h_order;
    p.y_stride = s.rows + s.y_pad;
    p.multiprocessors = s.multiprocessors;
    p.shared_bytes = s.shared_bytes;
    const size_t h_size = capacity * p.h_stride, y_size = capacity * p.y_stride;
    const std::vector<uint16_t> h_poison(h_size, 0xffff);
    const std::vector<uint32_t> y_poison(y_size, 0xffffffffu);
    std::vector<uint16_t> h[2];
    std::vector<uint32_t> y[2];
    for (int large = 0; large < 2; large++) {
        p.h = device_array(h_poison);
        p.y = (float *)device_array(y_poison);
        OK(moe_weights_kernels<Weights>::load(s.shared_bytes));
        OK((large ? moe_weights_kernels<Weights>::large : moe_weights_kernels<Weights>::small)(&p, NULL, false));
        OK(cudaDeviceSynchronize());
        h[large] = host_array(p.h, h_size);
        y[large] = host_array((const uint32_t *)p.y, y_size);
    }
    assert_memory_equal(h[1].data(), h[0].data(), h_size * 2);
    assert_memory_equal(y[1].data(), y[0].data(), y_size * 4);

    /* Each chain of 16 columns is rounded once here, and twice at most on a device, to which come scales and terms, and
     * the sums of accumulators: 3 roundings of 2^-23 for each 16 columns are more than there are. */
    const double epsilon = (3.0 * ((double)s.cols / 16 + 1) + 16) * ldexp(1, -23);
    std::vector<bool> of_h(h_size, false), of_y(y_size, false);
    for (int32_t i = 0; i < num_active[0]; i++)
        for (int32_t place = starts[i]; place < starts[i + 1]; place++) {
            const uint16_t *row = &x[(s.x_divisor > 0 ? (uint32_t)sorted[place] / s.x_divisor : place) * x_stride];
            for (uint32_t r = 0; r < s.rows; r += place % 7 == 0 ? 1 : 1 + draw(9)) {
                double size, size_of_gate, value = sum<Weights>(up, s, active[i], r, row, &size);
                if (!s.activated) {
                    float result;
                    memcpy(&result, &y[1][place * p.y_stride + r], 4);
                    assert_true(fabs(result - value) <= epsilon * (size + fabs(value)) + 1e-30);
                    continue;
                }
                double bound = epsilon * (size + fabs(value));
                if (s.gated) {
                    const double gate_value = sum<Weights>(gate, s, active[i], r, row, &size_of_gate);
                    const double act = gate_value / (1 + exp(-gate_value));
                    bound = (bound + epsilon * fabs(value)) * (fabs(act) + epsilon * size_of_gate) +
                            fabs(value) * 1.1 * epsilon * (size_of_gate + fabs(gate_value));
                    value *= act;
                } else {
                    bound = 2 * bound * (fabs(value) + bound);
                    value = value > 0 ? value * value : 0;
                }
                const float result = f32(&h[1][place * p.h_stride + moe_order_position(r, s.h_order)]);
                assert_true(fabs(result - value) <= 1.01 * bound + fabs(value) * ldexp(1, -8) + 1e-30);
            }
            for (uint32_t r = 0; r < s.rows; r++) {
                of_h[place * p.h_stride + moe_order_position(r, s.h_order)] = s.activated;
                of_y[place * p.y_stride + r] = !s.activated;
            }
        }
    for (size_t i = 0; i < h_size; i++)
        assert_true(of_h[i] == (h[1][i] != 0xffff));
    for (size_t i = 0; i < y_size; i++)
        assert_true(of_y[i] == (y[1][i] != 0xffffffffu));
    moe_emulate_reset();
}

/* ---- cases ---- */

/* Units that are made, not copied, are none that large could copy. */
struct made : moe_weights_bf16 {
};
template <> struct moe_unit_source<made> {
    static constexpr bool copies = false;

    template <int tiles>
    static __device__ __forceinline__ void copy(unsigned char *, const struct moe_unit_rows &, uint32_t, uint32_t, int)
    {
    }
};

static void made_units_go_to_small(void **)
{
    assert_null(moe_weights_kernels<made>::large_if_served());
    assert_ptr_equal(moe_weights_kernels<plain_host>::large_if_served(), moe_weights_kernels<plain_host>::large);
}

typedef nibbles<1, false> small_blocks;    /* all tokens to each warp */
typedef nibbles<2, true> large_blocks;
typedef bytes_of<32, false> bytes;
typedef bytes_of<64, true> groups_of_64;
typedef bytes_of<128, true> groups_of_128;

template <class Weights> static void sizes(void **)
{
    for (uint32_t rows : {1u, 24u, 200u}) {
        shape s = usual;
        s.rows = rows;
        s.cols = rows == 24 ? 64 : 320;
        for (bool gated : {false, true})
            for (bool activated : {false, true}) {
                s.gated = gated;
                s.activated = gated || activated;
                s.h_order = (int32_t)(rows % 4);
                check<Weights>(s);
            }
    }
}

template <class Weights> static void columns(void **)
{
    shape s = usual;
    s.rows = 16;
    s.gated = s.activated = false;
    s.tokens = {9};
    for (uint32_t cols : {32u, 64u, 96u, 256u, 704u, 2048u, 2304u}) {
        s.cols = cols;
        check<Weights>(s);
    }
}

template <class Weights> static void counts(void **)
{
    shape s = usual;
    s.rows = 40;
    s.cols = 96;
    s.multiprocessors = 2;
    s.gated = s.activated = false;
    s.tokens = {1, 0, 31, 127, 0, 128, 129, 8, 9, 300, 0};
    check<Weights>(s);
    s.tokens = {0, 0, 0, 65, 0};
    s.x_divisor = 4;
    check<Weights>(s);
    s.tokens = {0, 0};
    check<Weights>(s);
    s.tokens = std::vector<uint32_t>(300, 1);
    s.rows = 8;
    s.x_divisor = 1;
    s.multiprocessors = 5;
    check<Weights>(s);
}

/* More tokens than a band of tiles has, and more rows than a tile. */
static void bands(void **)
{
    shape s = usual;
    s.tokens = {1200, 3};
    s.rows = 200;
    s.cols = 32;
    s.gated = s.activated = false;
    s.x_divisor = 2;
    check<plain_host>(s);
    check<small_blocks>(s);
}

static void ways(void **)
{
    shape s = usual;
    s.rows = 100;
    s.cols = 544;
    s.tokens = {70, 0, 3};
    s.x_divisor = 3;
    s.bases = true;
    for (int32_t order = 0; order < 4; order++) {
        s.h_order = order;
        s.y_pad = (uint32_t)order;    /* rows of y that do not begin at 16 bytes */
        s.gated = order % 2;
        s.activated = order != 2;
        check<plain_host>(s);
        check<small_blocks>(s);
        check<large_blocks>(s);
        s.bias = !s.bias;
    }
}

/* Rings of four, three and two stages, and none at all. */
static void memory(void **)
{
    shape s = usual;
    s.rows = 30;
    s.cols = 700;
    check<plain_host>(s);
    s.cols = 704;
    for (uint32_t kilobytes : {227u, 163u, 99u, 48u}) {
        s.shared_bytes = kilobytes * 1024;
        check<plain_host>(s);
        check<bytes>(s);
        check<small_blocks>(s);
    }
}

static void schedules(void **)
{
    shape s = usual;
    s.rows = 104;
    s.cols = 288;
    s.tokens = {70, 0, 3, 20, 131};
    for (int i = 0; i < 6; i++) {
        moe_emulate_schedule(i == 0 ? MOE_EMULATE_REVERSED : MOE_EMULATE_RANDOM, (uint64_t)i);
        s.gated = s.activated = i % 2;
        check<plain_host>(s);
        moe_emulate_schedule(i == 0 ? MOE_EMULATE_REVERSED : MOE_EMULATE_RANDOM, (uint64_t)i);
        check<large_blocks>(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sizes<plain_host>),      TEST(sizes<small_blocks>),      TEST(sizes<large_blocks>),
        TEST(sizes<bytes>),           TEST(columns<plain_host>),      TEST(columns<small_blocks>),
        TEST(columns<large_blocks>),  TEST(columns<bytes>),           TEST(counts<plain_host>),
        TEST(counts<small_blocks>),   TEST(bands),                    TEST(ways),
        TEST(memory),                 TEST(schedules),
        TEST(made_units_go_to_small),
        TEST(sizes<groups_of_64>),    TEST(columns<groups_of_64>),    TEST(sizes<groups_of_128>),
        TEST(columns<groups_of_128>), TEST(counts<groups_of_128>),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
