// SPDX-License-Identifier: MIT
// Launches that may begin early, on the emulated device: what they must not read or write shows.
#include "emulated.cuh"

struct step_params {
    const int *in;
    int *out;
    bool read_early, write_early, start_next_early, start_next_late;
};

/* out[i] = in[i] + 1, with the given fault. */
__global__ void step_kernel(const step_params p)
{
    __shared__ int kept[64];
    int i = (int)(blockIdx.x * 64 + threadIdx.x);
    if (p.start_next_early)
        moe_let_next_start();
    if (p.read_early)
        kept[threadIdx.x] = p.in[i];
    if (p.write_early && i == 70)
        p.out[i] = 5;
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        moe_wait_for_previous();
    __syncthreads();
    if (p.start_next_late)
        moe_let_next_start();
    if (!p.read_early)
        kept[threadIdx.x] = p.in[i];
    p.out[i] = kept[threadIdx.x] + 1;
}

struct fixture {
    int *arrays[4];
    cudaStream_t stream;

    fixture()
    {
        for (int *&array : arrays)
            array = device_array(std::vector<int>(128, 10));
        OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    ~fixture()
    {
        for (int *array : arrays)
            OK(cudaFree(array));
        OK(cudaStreamDestroy(stream));
    }
    /* From array `from` to array `to`. */
    cudaError_t step(int from, int to, bool overlap, step_params faults)
    {
        faults.in = arrays[from];
        faults.out = arrays[to];
        return moe_launch(step_kernel, 2, 64, 0, stream, overlap, faults);
    }
    bool right(int array, int value)
    {
        OK(cudaStreamSynchronize(stream));
        return host_array(arrays[array], 128) == std::vector<int>(128, value);
    }
};

static const step_params GOOD = {NULL, NULL, false, false, true, false};
static const step_params LATE = {NULL, NULL, false, false, false, true};
static const step_params READS_EARLY = {NULL, NULL, true, false, true, false};
static const step_params WRITES_EARLY = {NULL, NULL, false, true, true, false};

static void test_waiting(void **)
{
    in_every_order([]() {
        fixture f;
        moe_emulate_count_from_here();
        OK(f.step(0, 1, true, GOOD));
        OK(f.step(1, 2, true, GOOD));
        OK(f.step(2, 3, true, GOOD));
        OK(f.step(3, 2, true, GOOD));
        OK(f.step(2, 2, true, GOOD));
        assert_true(f.right(1, 11) && f.right(2, 15) && f.right(3, 13));
        assert_int_equal(moe_emulate_count().overlapping, 5);
        assert_int_equal(moe_emulate_count().waited, 5);
    });
}

static void test_reading_early(void **)
{
    in_every_order([]() {
        fixture f;
        OK(f.step(0, 1, false, GOOD));
        OK(f.step(1, 2, true, READS_EARLY));
        assert_false(f.right(2, 12));
        /* in a stream of launches that do not overlap it is no fault */
        OK(f.step(0, 1, false, GOOD));
        OK(f.step(1, 2, false, READS_EARLY));
        assert_true(f.right(2, 12));
        /* and what no kernel has changed may be read early */
        OK(f.step(0, 1, false, GOOD));
        OK(f.step(3, 2, true, READS_EARLY));
        assert_true(f.right(2, 11));
        moe_emulate_overlap(false);
        OK(f.step(0, 1, false, GOOD));
        OK(f.step(1, 3, true, READS_EARLY));
        assert_true(f.right(3, 12));
        moe_emulate_overlap(true);
    });
}

/* The last but one may still be under way, unless the one between let the next start only after its wait. */
static void test_chain(void **)
{
    in_every_order([]() {
        fixture f;
        OK(f.step(0, 1, false, GOOD));
        OK(f.step(0, 2, true, GOOD));
        OK(f.step(1, 3, true, READS_EARLY));
        assert_false(f.right(3, 12));
    });
    in_every_order([]() {
        fixture f;
        OK(f.step(0, 1, false, GOOD));
        OK(f.step(0, 2, true, LATE));
        OK(f.step(1, 3, true, READS_EARLY));
        assert_true(f.right(3, 12));
    });
}

static void test_writing_early(void **)
{
    for (int to : {1, 2})
        in_every_order([&]() {
            dies("writes before moe_wait_for_previous", [&]() {
                fixture f;
                OK(f.step(0, 1, false, GOOD));
                OK(f.step(3, to, true, WRITES_EARLY));
                f.right(to, 12);
            });
        });
}

static void test_in_a_graph(void **)
{
    for (bool early : {false, true}) {
        fixture f;
        cudaGraph_t graph = NULL;
        cudaGraphExec_t exec = NULL;
        OK(cudaStreamBeginCapture(f.stream, cudaStreamCaptureModeGlobal));
        OK(f.step(0, 1, false, GOOD));
        OK(f.step(1, 2, true, early ? READS_EARLY : GOOD));
        OK(cudaStreamEndCapture(f.stream, &graph));
        OK(cudaGraphInstantiate(&exec, graph, 0));
        for (int i = 0; i < 3; i++) {
            OK(cudaMemsetAsync(f.arrays[1], 0, 128 * sizeof(int), f.stream));
            OK(cudaGraphLaunch(exec, f.stream));
            assert_true(f.right(2, 12) == !early);
        }
        OK(cudaGraphExecDestroy(exec));
        OK(cudaGraphDestroy(graph));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_waiting), TEST(test_reading_early), TEST(test_chain),
                                       TEST(test_writing_early), TEST(test_in_a_graph)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
