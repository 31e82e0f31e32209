// SPDX-License-Identifier: MIT
// The emulated device itself: what kernels compute with collectives, barriers, copies and the matrix instruction.
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "emulate.h"

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
}
#include <math.h>
#include <vector>

#define OK(call) assert_int_equal(call, cudaSuccess)

/* Run a test under each order, and several seeds. */
template <class Body> static void in_every_order(Body body)
{
    for (int i = 0; i < 8; i++) {
        moe_emulate_schedule(i == 0 ? MOE_EMULATE_IN_ORDER : i == 1 ? MOE_EMULATE_REVERSED : MOE_EMULATE_RANDOM,
                             (uint64_t)i);
        body();
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

template <class T> static T *device_array(const std::vector<T> &values)
{
    T *memory = NULL;
    OK(cudaMalloc(&memory, values.size() * sizeof(T)));
    OK(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
}

template <class T> static std::vector<T> host_array(const T *memory, size_t count)
{
    std::vector<T> values(count);
    OK(cudaMemcpy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
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
        value += __shfl_down_sync(0xffffffffu, value, (unsigned)step);
    if (threadIdx.x % 32 == 0)
        of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        value = threadIdx.x < 8 ? of_warps[threadIdx.x] : 0;
        value = __reduce_add_sync(0xffffffffu, value);
        if (threadIdx.x == 0) {
            p.out[blockIdx.x] = value;
            atomicAdd(p.total, value);
        }
    }
}

static void test_sum(void **)
{
    const int blocks = 300, n = 1000;
    std::vector<int> in((size_t)blocks * n);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = (int)(i * 7919 % 1000) - 300;
    int *d_in = device_array(in), *d_out = device_array(std::vector<int>(blocks, -1));
    in_every_order([&]() {
        int *total = device_array(std::vector<int>(1, 0));
        sum_params p = {d_in, d_out, total, n};
        OK(moe_launch(sum_kernel, blocks, 256, 0, NULL, false, p));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sum, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
