// SPDX-License-Identifier: MIT
// The emulated device itself: what kernels compute with collectives, barriers, copies and the matrix instruction.
#include "emulated.cuh"

#include <math.h>

static uint32_t mix(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* ---- a sum over a block ---- */

struct sum_params {
    const int *in;
    int *out, *total;
    int n;
};

__global__ void __launch_bounds__(256) sum_kernel(const __grid_constant__ sum_params p)
{
    __shared__ int of_warps[8];
    int value = 0;
    for (int i = (int)threadIdx.x; i < p.n; i += (int)blockDim.x)
        value += p.in[(int)blockIdx.x * p.n + i];
    for (int step = 16; step; step /= 2)
        value += __shfl_down_sync(FULL, value, (unsigned)step);
    if (threadIdx.x % 32 == 0)
        of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        value = threadIdx.x < 8 ? of_warps[threadIdx.x] : 0;
        value = __reduce_add_sync(FULL, value);
        if (threadIdx.x == 0) {
            p.out[blockIdx.x] = value;
            atomicAdd(p.total, value);
        }
    }
}

static void test_sum(void **)
{
    const int blocks = 100, n = 1000;
    std::vector<int> in((size_t)blocks * n);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = (int)(mix((uint32_t)i) % 1000) - 300;
    int *d_in = device_array(in), *d_out = device_array(std::vector<int>(blocks, -1));
    in_every_order([&]() {
        int *total = device_array(std::vector<int>(1, 0));
        OK(moe_launch(sum_kernel, blocks, 256, 0, NULL, false, sum_params{d_in, d_out, total, n}));
        std::vector<int> out = host_array(d_out, blocks);
        int all = 0;
        for (int b = 0; b < blocks; b++) {
            int sum = 0;
            for (int i = 0; i < n; i++)
                sum += in[(size_t)b * n + i];
            assert_int_equal(out[b], sum);
            all += sum;
        }
        assert_int_equal(host_array(total, 1)[0], all);
        OK(cudaFree(total));
    });
    OK(cudaFree(d_in));
    OK(cudaFree(d_out));
}

/* ---- every collective of a warp, against its definition ---- */

struct warp_params {
    uint32_t *faults;   /* of each warp, counted */
};

static uint32_t value_of(unsigned lane)
{
    return mix(lane + 100 * (threadIdx.x / 32) + 10000 * blockIdx.x);
}

static uint32_t shuffles(unsigned lane)
{
    uint32_t faults = 0;
    for (int width = 1; width <= 32; width *= 2) {
        unsigned first = lane & ~(unsigned)(width - 1), own = lane - first;
        for (int step = 0; step < 32; step++) {
            uint32_t by_index = __shfl_sync(FULL, value_of(lane), (int)lane + step, width);
            faults += by_index != value_of(first + (lane + (unsigned)step) % (unsigned)width);
            uint32_t up = __shfl_up_sync(FULL, value_of(lane), (unsigned)step, width);
            faults += up != value_of(own >= (unsigned)step ? lane - (unsigned)step : lane);
            uint32_t down = __shfl_down_sync(FULL, value_of(lane), (unsigned)step, width);
            faults += down != value_of(own + (unsigned)step < (unsigned)width ? lane + (unsigned)step : lane);
            uint32_t other = __shfl_xor_sync(FULL, value_of(lane), step, width);
            unsigned source = lane ^ (unsigned)step;
            faults += other != value_of(source < first + (unsigned)width ? source : lane);
        }
    }
    faults += __shfl_sync(FULL, (double)lane + 0.25, 3) != 3.25;
    faults += __shfl_sync(FULL, (float)lane - 0.5f, 31) != 30.5f;
    faults += __shfl_sync(FULL, (long long)lane << 40, 9) != 9ll << 40;
    faults += __shfl_xor_sync(FULL, -(int)lane, 1) != -(int)(lane ^ 1u);
    return faults;
}

static uint32_t votes(unsigned lane)
{
    uint32_t odd = 0, sum = 0, low = UINT32_MAX, high = 0, both = UINT32_MAX, either = 0, differ = 0, same = 0;
    for (unsigned i = 0; i < 32; i++) {
        uint32_t v = value_of(i);
        odd |= (v & 1u) << i;
        sum += v;
        low = v < low ? v : low;
        high = v > high ? v : high;
        both &= v | 0xff;
        either |= v;
        differ ^= v;
        same |= (uint32_t)(v % 3 == value_of(lane) % 3) << i;
    }
    uint32_t v = value_of(lane), faults = 0;
    faults += __ballot_sync(FULL, v & 1u) != odd;
    faults += __any_sync(FULL, lane == 7) != 1 || __any_sync(FULL, lane == 32) != 0;
    faults += __all_sync(FULL, lane < 32) != 1 || __all_sync(FULL, lane != 31) != 0;
    faults += __reduce_add_sync(FULL, v) != sum || __reduce_min_sync(FULL, v) != low;
    faults += __reduce_max_sync(FULL, v) != high || __reduce_and_sync(FULL, v | 0xff) != both;
    faults += __reduce_or_sync(FULL, v) != either || __reduce_xor_sync(FULL, v) != differ;
    faults += __reduce_min_sync(FULL, (int)lane - 9) != -9 || __reduce_max_sync(FULL, (int)lane - 40) != -9;
    faults += __match_any_sync(FULL, v % 3) != same;
    return faults;
}

/* Two halves of a warp go their own ways, and lanes pass values by shared memory. */
static uint32_t halves(unsigned lane, unsigned *row)
{
    uint32_t got;
    if (lane < 16)
        got = __reduce_add_sync(0x0000ffffu, lane);
    else
        got = __reduce_max_sync(0xffff0000u, lane);
    uint32_t faults = got != (lane < 16 ? 120u : 31u);
    row[lane] = lane;
    __syncwarp();
    faults += row[31 - lane] != 31 - lane;
    return faults;
}

__global__ void warp_kernel(const warp_params p)
{
    __shared__ unsigned rows[4][32];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t faults = shuffles(lane) + votes(lane) + halves(lane, rows[warp]);
    faults = __reduce_add_sync(FULL, faults);
    if (lane == 0)
        p.faults[4 * blockIdx.x + warp] = faults;
}

static void test_collectives(void **)
{
    uint32_t *faults = NULL;
    OK(cudaMalloc(&faults, 12 * sizeof *faults));
    in_every_order([&]() {
        OK(cudaMemset(faults, 0xff, 12 * sizeof *faults));
        OK(moe_launch(warp_kernel, 3, 128, 0, NULL, false, warp_params{faults}));
        for (uint32_t count : host_array(faults, 12))
            assert_int_equal(count, 0);
    });
    OK(cudaFree(faults));
}

/* ---- barriers ---- */

struct barrier_params {
    int *out;
    bool without;   /* leave the barriers out */
};

/* Rounds of a rotation through shared memory by the whole block, with votes in between; then warps 0, 1 make what warps
 * 2, 3 use, by barriers of those four. */
__global__ void barrier_kernel(const barrier_params p)
{
    __shared__ int ring[160], handed[64];
    int i = (int)threadIdx.x, value = i, n = (int)blockDim.x, faults = 0;
    for (int round = 0; round < 5; round++) {
        ring[i] = value;
        if (!p.without)
            __syncthreads();
        value = ring[(i + 1) % n];
        if (!p.without)
            __syncthreads();
    }
    faults += value != (i + 5) % n;
    faults += __syncthreads_count(i % 3 == 0) != (n + 2) / 3;
    faults += __syncthreads_or(i == n - 1) != 1 || __syncthreads_or(0) != 0;
    faults += __syncthreads_and(1) != 1 || __syncthreads_and(i != 5) != 0;
    if (i < 128) {
        for (int round = 0; round < 3; round++) {
            if (i < 64)
                handed[i] = 100 * round + i;
            moe_barrier(1, 128);
            if (i >= 64)
                faults += handed[i - 64] != 100 * round + i - 64;
            moe_barrier(2, 128);
        }
    }
    if (faults)
        atomicAdd(p.out, 1);
}

static void test_barriers(void **)
{
    int *out = NULL, wrong = 0;
    OK(cudaMalloc(&out, sizeof *out));
    for (bool without : {false, true})
        in_every_order([&]() {
            OK(cudaMemset(out, 0, sizeof *out));
            OK(moe_launch(barrier_kernel, 2, 160, 0, NULL, false, barrier_params{out, without}));
            int faults = host_array(out, 1)[0];
            if (without)
                wrong += faults != 0;
            else
                assert_int_equal(faults, 0);
        });
    assert_int_equal(wrong, 8);   /* a missing barrier shows in every order */
    OK(cudaFree(out));
}

/* ---- copies to shared memory ---- */

struct copy_params {
    const float *in;
    float *out;
    int stages, pending_is_right;
};

/* A ring of 4 stages of a warp; each lane copies 16 bytes a stage, of the last stage only 8. */
__global__ void copy_kernel(const copy_params p)
{
    float *ring = (float *)moe_dynamic_shared();
    int lane = (int)threadIdx.x;
    for (int s = 0; s < 3; s++) {
        moe_copy_async_16(ring + s * 128 + 4 * lane, p.in + s * 128 + 4 * lane, 16);
        moe_copy_async_commit();
    }
    for (int s = 0; s < p.stages; s++) {
        if (p.pending_is_right)
            moe_copy_async_wait<2>();
        else
            moe_copy_async_wait<3>();
        __syncwarp();
        for (int i = 0; i < 4; i++)
            p.out[s * 128 + 32 * i + lane] = ring[s % 4 * 128 + 32 * i + lane];
        __syncwarp();
        if (s + 3 < p.stages)
            moe_copy_async_16(ring + (s + 3) % 4 * 128 + 4 * lane, p.in + (s + 3) * 128 + 4 * lane,
                              s + 4 == p.stages ? 8 : 16);
        moe_copy_async_commit();
    }
}

static void test_copies(void **)
{
    const int stages = 11;
    std::vector<float> in(stages * 128);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = (float)i;
    float *d_in = device_array(in), *d_out = device_array(std::vector<float>(in.size(), -1));
    in_every_order([&]() {
        for (int right = 0; right < 2; right++) {
            OK(moe_launch(copy_kernel, 1, 32, 4 * 512, NULL, false, copy_params{d_in, d_out, stages, right}));
            std::vector<float> out = host_array(d_out, in.size());
            for (size_t i = 0; i < in.size(); i++)
                if (!right)
                    assert_true(isnan(out[i]) || i >= (stages - 3) * 128);
                else
                    assert_true(out[i] == (i >= (stages - 1) * 128 && i % 4 >= 2 ? 0 : in[i]));
        }
    });
    OK(cudaFree(d_in));
    OK(cudaFree(d_out));
}

/* ---- the matrix instruction, against three loops over matrices with their layouts written out ---- */

struct mma_params {
    const uint16_t *a, *b;   /* [16, 16] and [8, 16] (columns of b): bf16 */
    float *d;                /* [16, 8] */
};

__global__ void mma_kernel(const mma_params p)
{
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    const uint32_t *a = (const uint32_t *)p.a, *b = (const uint32_t *)p.b;   /* pairs along k */
    uint32_t fragment[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    float d[4] = {1, 2, 3, 4};
    moe_mma_bf16(d, fragment, b[g * 8 + t], b[g * 8 + t + 4]);
    p.d[g * 8 + 2 * t] = d[0];
    p.d[g * 8 + 2 * t + 1] = d[1];
    p.d[(g + 8) * 8 + 2 * t] = d[2];
    p.d[(g + 8) * 8 + 2 * t + 1] = d[3];
}

static double bf16(uint16_t bits)
{
    return (double)__uint_as_float((uint32_t)bits << 16);
}

static void test_mma(void **)
{
    std::vector<uint16_t> a(256), b(128);
    for (size_t i = 0; i < a.size(); i++)
        a[i] = (uint16_t)(moe_bf16x2((float)(mix((uint32_t)i) % 2000) / 100 - 10, 0) & 0xffffu);
    for (size_t i = 0; i < b.size(); i++)
        b[i] = (uint16_t)(moe_bf16x2((float)(mix((uint32_t)i + 999) % 2000) / 100 - 10, 0) & 0xffffu);
    uint16_t *d_a = device_array(a), *d_b = device_array(b);
    float *d_d = device_array(std::vector<float>(128, NAN));
    in_every_order([&]() {
        OK(moe_launch(mma_kernel, 1, 32, 0, NULL, false, mma_params{d_a, d_b, d_d}));
        std::vector<float> d = host_array(d_d, 128);
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) {
                double sum = 1 + column % 2 + 2 * (row / 8);
                for (int k = 0; k < 16; k++)
                    sum += bf16(a[(size_t)(row * 16 + k)]) * bf16(b[(size_t)(column * 16 + k)]);
                assert_true(fabs((double)d[(size_t)(row * 8 + column)] - sum) <= 1e-6 * (1 + fabs(sum)));
            }
    });
    OK(cudaFree(d_a));
    OK(cudaFree(d_b));
    OK(cudaFree(d_d));
}

/* ---- bits and roundings, on the host: these functions need no device ---- */

/* The bf16 nearest to x, an even one of two: by trying neighbours, in long double, which holds the sums exactly. */
static uint32_t nearest_bf16(long double x)
{
    uint32_t word;
    float near = (float)x;
    memcpy(&word, &near, sizeof word);
    uint32_t best = 0;
    long double best_distance = INFINITY;
    for (int step = -1; step <= 1; step++) {
        uint32_t bits = (word >> 16) + (uint32_t)step;
        if ((bits & 0x7f80u) == 0x7f80u || bits > 0xffffu || ((bits ^ word >> 16) & 0x8000u))
            continue;
        long double distance = fabsl(x - (long double)bf16((uint16_t)bits));
        if (distance < best_distance || (distance == best_distance && !(bits & 1u))) {
            best = bits;
            best_distance = distance;
        }
    }
    return best;
}

static void test_roundings(void **)
{
    for (uint32_t i = 0; i < 300000; i++) {
        /* exponents within 30 of 1: a long double (64 bits) holds any product plus addend that matters exactly */
        uint32_t r = mix(i), s = mix(i + 1000000);
        uint32_t a = (r & 0x807fu) | (112u + (r >> 16) % 30u) << 7, b = (s & 0x807fu) | (112u + (s >> 16) % 30u) << 7;
        uint32_t c = (mix(i + 77) & 0x807fu) | (105u + mix(i + 78) % 44u) << 7;
        long double exact = (long double)bf16((uint16_t)a) * bf16((uint16_t)b) + bf16((uint16_t)c);
        uint32_t got = moe_bf16x2_fma(a | b << 16, b | a << 16, c | c << 16);
        assert_int_equal(got >> 16, got & 0xffffu);
        if (exact != 0)
            assert_int_equal(got & 0xffffu, nearest_bf16(exact));
        float x = __uint_as_float((r & 0x807fffffu) | (100u + s % 60u) << 23);
        assert_int_equal(moe_bf16x2(x, 0) & 0xffffu, nearest_bf16((long double)x));
    }
    /* 7 * 37 / 256 lies between two bf16, and 2^-60 decides */
    assert_int_equal(moe_bf16x2_fma(0x40e040e0u, 0x3e143e14u, 0x2180a180u), 0x3f823f81u);
    assert_int_equal(moe_bf16x2(INFINITY, -INFINITY), 0xff807f80u);
    assert_int_equal(moe_bf16x2(NAN, 3.4028235e38f), 0x7f807fffu);
    assert_int_equal(moe_bf16x2(-0.0f, 1e-45f), 0x00008000u);
    assert_int_equal(moe_bf16x2_mul(0x80003f80u, 0x3f800000u), 0x80000000u);
    assert_int_equal(moe_bf16x2_add(0x40003f80u, 0x3f803f80u), 0x40404000u);
}

static void test_bits(void **)
{
    assert_int_equal(__byte_perm(0x33221100u, 0x77665544u, 0x7250u), 0x77225500u);
    assert_int_equal(__byte_perm(0x00008000u, 0, 0x999au), 0xffffff00u);
    assert_int_equal(__funnelshift_r(0x12345678u, 0x9abcdef0u, 8), 0xf0123456u);
    assert_int_equal(__funnelshift_l(0x12345678u, 0x9abcdef0u, 8), 0xbcdef012u);
    assert_int_equal(__funnelshift_r(0x12345678u, 0x9abcdef0u, 32), 0x12345678u);
    assert_int_equal(__clz(0), 32);
    assert_int_equal(__clz(1), 31);
    assert_int_equal(__ffs(0), 0);
    assert_int_equal(__ffs(8), 4);
    assert_int_equal(__popc(0xf0f0u), 8);
    assert_int_equal(__brev(1u), 0x80000000u);
    assert_int_equal(__float2int_rn(2.5f), 2);
    assert_int_equal(__float2int_rz(-2.7f), -2);
    assert_int_equal(__float2int_rn(NAN), 0);
    assert_int_equal(__float2int_rn(1e20f), 2147483647);
    assert_int_equal(__dp4a((int)0xff010203u, 0x02030405, 100), 100 - 2 + 3 + 8 + 15);
    assert_true(max(NAN, 1.0f) == 1.0f && min(1.0f, NAN) == 1.0f && max(-1, 5) == 5);
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t a = mix(i), b = mix(i + 5000), c = mix(i + 9000);
        assert_int_equal((moe_lop3<(0xf0 & 0xcc) | 0xaa>(a, b, c)), (a & b) | c);
        assert_int_equal((moe_lop3<0xf0 ^ 0xcc ^ 0xaa>(a, b, c)), a ^ b ^ c);
        assert_int_equal((moe_lop3<(0xf0 & 0xcc) | (~0xf0 & 0xaa)>(a, b, c)), (a & b) | (~a & c));
        assert_int_equal(moe_mask_or(a, b, c), (a & b) | c);
    }
}

/* ---- atomics, odd sizes, three dimensions ---- */

struct atomic_params {
    int *i;
    unsigned *u;
    unsigned long long *l;
};

__global__ void atomic_kernel(const atomic_params p)
{
    int n = (int)(threadIdx.x + blockDim.x * blockIdx.x);
    atomicAdd(p.i, -1);
    atomicMax(p.i + 1, n);
    atomicMin(p.i + 2, n);
    atomicOr(p.u, 1u << n % 32);
    atomicAdd(p.l, 1ull << 33);
    unsigned seen = p.u[1], before;
    do {
        before = seen;
        seen = atomicCAS(p.u + 1, before, before + 2);
    } while (seen != before);
    if (atomicExch(p.u + 2, 5u) != 5u)
        atomicAdd(p.u + 3, 1);
    __threadfence();
}

static void test_atomics(void **)
{
    int *i = device_array(std::vector<int>{0, 0, 1000});
    unsigned *u = device_array(std::vector<unsigned>{0, 0, 0, 0});
    unsigned long long *l = device_array(std::vector<unsigned long long>{0});
    OK(moe_launch(atomic_kernel, 7, 45, 0, NULL, false, atomic_params{i, u, l}));
    assert_true((host_array(i, 3) == std::vector<int>{-315, 314, 0}));
    assert_true((host_array(u, 4) == std::vector<unsigned>{FULL, 630, 5, 1}));
    assert_true(host_array(l, 1)[0] == 315ull << 33);
    OK(cudaFree(i));
    OK(cudaFree(u));
    OK(cudaFree(l));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sum),       TEST(test_collectives), TEST(test_barriers), TEST(test_copies),
        TEST(test_mma),       TEST(test_roundings),   TEST(test_bits),     TEST(test_atomics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
