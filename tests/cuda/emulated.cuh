// SPDX-License-Identifier: MIT
// What tests of kernels on the emulated device share: cmocka for C++, arrays, orders, and programs that must die.
#ifndef MOE_TESTS_EMULATED_CUH
#define MOE_TESTS_EMULATED_CUH

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "emulate.h"

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
}
#include <stdio.h>
#include <string.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#define OK(call) assert_int_equal(call, cudaSuccess)
#define FULL     0xffffffffu

/* A whole machine before each test; after it nothing may be left. */
static inline int set_up(void **)
{
    moe_emulate_reset();
    return 0;
}
static inline int tear_down(void **)
{
    return moe_emulate_reset() != 0;
}
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

/* body(i) under each order, and several seeds. */
template <class Body> static inline void in_every_order(Body body)
{
    for (int i = 0; i < 8; i++) {
        moe_emulate_order order = i == 0   ? MOE_EMULATE_IN_ORDER
                                  : i == 1 ? MOE_EMULATE_REVERSED
                                           : MOE_EMULATE_RANDOM;
        moe_emulate_schedule(order, (uint64_t)i);
        body();
    }
}

/* Device memory with a copy of the values. */
template <class T> static inline T *device_array(const std::vector<T> &values)
{
    T *memory = NULL;
    OK(cudaMalloc(&memory, values.size() * sizeof(T)));
    OK(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
}
template <class T> static inline std::vector<T> host_array(const T *memory, size_t count)
{
    std::vector<T> values(count);
    OK(cudaMemcpy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
}

/* Runs body in a child process, which must be ended by a signal, saying `message`. */
template <class Body> static inline void dies(const char *message, Body body)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        for (int number : {SIGSEGV, SIGILL, SIGBUS, SIGFPE, SIGABRT})
            signal(number, SIG_DFL);
        body();
        _exit(0);
    }
    close(ends[1]);
    std::string said;
    char text[512];
    for (ssize_t size; (size = read(ends[0], text, sizeof text)) > 0;)
        said.append(text, (size_t)size);
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if ((WIFEXITED(status) && WEXITSTATUS(status) == 0) || said.find(message) == std::string::npos)
        fail_msg("status %d instead of a death by \"%s\": %s", status, message, said.c_str());
}

#endif
